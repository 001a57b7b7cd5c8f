#include "conf/model_config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/units.h"
#include "conf/model_schema.h"
#include "conf/pbtxt.h"
#include "conf/suggest.h"

typedef struct context {
  const char *file;
  let_arena *arena;
  let_notes *notes;
  let_error *e;
} context;

typedef const let_pb_field field;

void let_note_add(let_notes *notes, let_arena *a, const char *fmt, ...) {
  if (!notes) return;
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  let_note *n = let_arena_alloc(a, sizeof *n);
  char *copy = let_arena_strdup(a, text, strlen(text));
  if (!n || !copy) return; /* a note is not worth failing for */
  n->text = copy;
  if (!notes->tail) notes->tail = &notes->first;
  *notes->tail = n;
  notes->tail = &n->next;
  notes->n++;
}

static void ignored(const context *c, field *f) {
  let_note_add(c->notes, c->arena, "%s:%u: " LET_STR_FMT " is ignored", c->file, f->line, LET_STR_ARG(f->name));
}

static let_err unsupported(const context *c, field *f, const char *why) {
  (void)let_pb_fail(c->file, f, c->e, "%s", why);
  c->e->code = LET_ERR_UNSUPPORTED;
  return LET_ERR_UNSUPPORTED;
}

static let_err integer(const context *c, field *f, int64_t min, int64_t max, int64_t *v) {
  return let_pb_i64(f, c->file, min, max, v, c->e);
}

static let_err flag(const context *c, field *message, const char *name, bool *v) {
  field *f = let_pb_find(message, name);
  return f ? let_pb_bool(f, c->file, v, c->e) : LET_OK;
}

static let_err refuse_flag(const context *c, field *message, const char *name, const char *why) {
  bool on = false;
  let_err r = flag(c, message, name, &on);
  if (r) return r;
  return on ? unsupported(c, let_pb_find(message, name), why) : LET_OK;
}

/* ---- tensors */

static let_err dims(const context *c, field *tensor, bool batches, let_tensor_spec *t) {
  unsigned max = LET_RANK_MAX - (batches ? 1 : 0);
  field *f = let_pb_find(tensor->child, "dims");
  if (!f)
    return let_pb_fail(c->file, tensor, c->e, "'%s' has no dims: write dims: [ 3, 224, 224 ]%s", t->name,
                       batches ? ", the batch dimension left out" : "");
  for (; f; f = let_pb_find(f->next, "dims")) {
    int64_t v = 0;
    if (t->rank == max) return let_pb_fail(c->file, f, c->e, "'%s' has more than %u dimensions", t->name, max);
    let_err r = integer(c, f, INT64_MIN, INT64_MAX, &v);
    if (r) return r;
    if (v != -1 && v < 1)
      return let_pb_fail(c->file, f, c->e, "%lld is no size: it must be at least 1, or -1 where it varies",
                         (long long)v);
    t->dims[t->rank++] = v;
  }
  if (let_tensor_row_bytes(t) >= UINT64_C(1) << 40)
    return let_pb_fail(c->file, tensor, c->e, "'%s' has dims of more than 1 TiB", t->name);
  return LET_OK;
}

static let_err tensor(const context *c, field *f, bool batches, let_tensor_spec *t) {
  *t = (let_tensor_spec){0};
  field *name = let_pb_find(f->child, "name"), *type = let_pb_find(f->child, "data_type"),
        *label = let_pb_find(f->child, "label_filename");
  if (!name) return let_pb_fail(c->file, f, c->e, "has no name");
  let_err r = let_pb_string(name, c->file, t->name, sizeof t->name, c->e);
  if (r) return r;
  if (!t->name[0]) return let_pb_fail(c->file, name, c->e, "is empty");
  if (!type) return let_pb_fail(c->file, f, c->e, "'%s' has no data_type: write data_type: TYPE_FP32", t->name);
  t->dtype = let_dtype_of_pb(type->text);
  if (t->dtype == LET_DTYPE_INVALID)
    return let_pb_fail(c->file, type, c->e, "'" LET_STR_FMT "' is not a type of data", LET_STR_ARG(type->text));
  field *reshape = let_pb_find(f->child, "reshape"), *format = let_pb_find(f->child, "format");
  if (reshape) return unsupported(c, reshape, "is not supported: give the model and its callers the same shape");
  if (label && (r = let_pb_string(label, c->file, t->label_file, sizeof t->label_file, c->e))) return r;
  if (format) ignored(c, format);
  if ((r = flag(c, f->child, "optional", &t->optional)) ||
      (r = refuse_flag(c, f->child, "is_shape_tensor", "shape tensors are TensorRT's and not supported")) ||
      (r = refuse_flag(c, f->child, "is_non_linear_format_io",
                       "non-linear formats are TensorRT's and not supported")) ||
      (r = refuse_flag(c, f->child, "allow_ragged_batch", "ragged batches are not supported")))
    return r;
  return dims(c, f, batches, t);
}

static let_err tensors(const context *c, field *root, const char *what, bool batches, let_tensor_spec *ret,
                       uint8_t *ret_n) {
  for (field *f = let_pb_find(root, what); f; f = let_pb_find(f->next, what)) {
    if (*ret_n == LET_TENSORS_MAX)
      return let_pb_fail(c->file, f, c->e, "a model may have at most %d of them", LET_TENSORS_MAX);
    let_err r = tensor(c, f, batches, &ret[*ret_n]);
    if (r) return r;
    for (unsigned i = 0; i < *ret_n; i++)
      if (strcmp(ret[i].name, ret[*ret_n].name) == 0)
        return let_pb_fail(c->file, f, c->e, "the name '%s' is given twice", ret[i].name);
    (*ret_n)++;
  }
  if (*ret_n == 0)
    return let_fail(c->e, LET_ERR_INVALID,
                    "%s: the model has no %s: write %s [ { name: \"...\" data_type: TYPE_FP32 dims: [ ... ] } ]",
                    c->file, what, what);
  return LET_OK;
}

/* ---- batching */

static let_err sizes(const context *c, field *batching, let_model *m) {
  for (field *f = let_pb_find(batching, "preferred_batch_size"); f; f = let_pb_find(f->next, "preferred_batch_size")) {
    int64_t v = 0;
    let_err r = integer(c, f, 1, m->max_batch ? m->max_batch : 1, &v);
    if (r) return r;
    unsigned at = 0;
    while (at < m->n_sizes && m->size[at] < v) at++;
    if (at < m->n_sizes && m->size[at] == v) continue;
    if (m->n_sizes == LET_SIZES_MAX) return let_pb_fail(c->file, f, c->e, "more than %d sizes", LET_SIZES_MAX);
    memmove(&m->size[at + 1], &m->size[at], (m->n_sizes - at) * sizeof m->size[0]);
    m->size[at] = (uint32_t)v;
    m->n_sizes++;
  }
  return LET_OK;
}

static let_err microseconds(const context *c, field *message, const char *name, let_dur *ret) {
  field *f = let_pb_find(message, name);
  int64_t v = 0;
  if (!f) return LET_OK;
  let_err r = integer(c, f, 0, INT64_MAX / 1000 - 1, &v);
  if (!r) *ret = v * LET_US;
  return r;
}

static let_err queue_policy(const context *c, field *policy, let_model *m) {
  field *action = let_pb_find(policy, "timeout_action"), *max = let_pb_find(policy, "max_queue_size");
  int64_t v = 0;
  let_err r;
  if ((r = microseconds(c, policy, "default_timeout_microseconds", &m->default_timeout)) ||
      (r = flag(c, policy, "allow_timeout_override", &m->allow_timeout_override)) ||
      (max && (r = integer(c, max, 0, UINT32_MAX, &v))))
    return r;
  m->max_queue = (uint32_t)v;
  if (action && let_str_is(action->text, "DELAY"))
    let_note_add(c->notes, c->arena,
                 "%s:%u: timeout_action DELAY is ignored: a request that cannot make its deadline is answered at once",
                 c->file, action->line);
  return LET_OK;
}

static let_err dynamic_batching(const context *c, field *root, let_model *m) {
  m->max_queue_delay = LET_NEVER;
  m->allow_timeout_override = true;
  field *f = let_pb_find(root, "dynamic_batching");
  if (!f) return LET_OK;
  field *in = f->child, *levels = let_pb_find(in, "priority_levels"),
        *level = let_pb_find(in, "default_priority_level"), *policy = let_pb_find(in, "default_queue_policy"),
        *by_level = let_pb_find(in, "priority_queue_policy"), *order = let_pb_find(in, "preserve_ordering");
  int64_t v = 0;
  let_err r = sizes(c, in, m);
  if (r || (r = microseconds(c, in, "max_queue_delay_microseconds", &m->max_queue_delay))) return r;
  if (levels) {
    if ((r = integer(c, levels, 0, UINT8_MAX, &v))) return r;
    m->priority_levels = (uint8_t)v;
  }
  if (m->priority_levels && !level)
    return let_pb_fail(c->file, levels, c->e, "needs default_priority_level (1 to %u)", m->priority_levels);
  if (level) {
    if ((r = integer(c, level, m->priority_levels ? 1 : 0, m->priority_levels, &v))) return r;
    m->default_priority = (uint8_t)v;
  }
  if (policy && (r = queue_policy(c, policy->child, m))) return r;
  if (by_level) ignored(c, by_level);
  if (order) ignored(c, order);
  return LET_OK;
}

/* ---- parameters */

static let_err positive(const context *c, field *value, const char *key, const char *text, double max, double *ret) {
  let_error why = {0};
  if (let_parse_f64(let_str_c(text), 0, max, ret, &why))
    return let_pb_fail(c->file, value, c->e, "%s: %s", key, why.text);
  if (*ret <= 0) return let_pb_fail(c->file, value, c->e, "%s: must be more than 0", key);
  return LET_OK;
}

typedef enum parameter_id { SLO_MS, PRECISION, MEMORY_FORMAT, MAX_OUTPUT_BYTES, NULL_US, PARAMETERS } parameter_id;
static const char *const parameter_names[PARAMETERS] = {"slo_ms", "precision", "memory_format", "max_output_bytes",
                                                        "null_us"};

static let_err set_parameter(const context *c, field *value, parameter_id id, const char *text, let_model *m) {
  static const char *const precisions[] = {"fp32", "fp16", "bf16"};
  const char *key = parameter_names[id];
  double v = 0;
  int64_t i = 0;
  let_err r = LET_OK;
  let_error why = {0};
  switch (id) {
  case SLO_MS:
    r = positive(c, value, key, text, 1e9, &v);
    if (!r) m->slo = (let_dur)llround(v * 1e6);
    return r;
  case PRECISION:
    for (int k = 0; k < 3; k++)
      if (let_str_ieq(let_str_c(text), precisions[k])) return m->precision = (let_precision)k, LET_OK;
    return let_pb_fail(c->file, value, c->e, "%s: '%s' is not fp32, fp16 or bf16", key, text);
  case MEMORY_FORMAT:
    if (strcmp(text, "channels_last") == 0) return m->channels_last = true, LET_OK;
    if (strcmp(text, "contiguous") == 0) return LET_OK;
    return let_pb_fail(c->file, value, c->e, "%s: '%s' is not contiguous or channels_last", key, text);
  case MAX_OUTPUT_BYTES:
  case NULL_US:
    if (let_parse_i64(let_str_c(text), 0, id == NULL_US ? 600000000 : INT64_C(1) << 40, &i, &why))
      return let_pb_fail(c->file, value, c->e, "%s: %s", key, why.text);
    if (id == NULL_US) m->null_us = (uint32_t)i;
    else m->output_bytes_hint = (uint64_t)i;
    return LET_OK;
  case PARAMETERS: break;
  }
  return LET_OK;
}

/* Parameters of other backends pass with a note; one letter away from ours is a slip, not another backend's. */
static let_err foreign(const context *c, field *key) {
  let_suggest s = {.word = key->text};
  for (int i = 0; i < PARAMETERS; i++) let_suggest_offer(&s, parameter_names[i]);
  if (s.best && s.distance <= 2)
    return let_pb_fail(c->file, key, c->e, "unknown parameter '" LET_STR_FMT "' (did you mean %s?)",
                       LET_STR_ARG(key->text), s.best);
  let_note_add(c->notes, c->arena, "%s:%u: parameter " LET_STR_FMT " is ignored", c->file, key->line,
               LET_STR_ARG(key->text));
  return LET_OK;
}

static let_err parameters(const context *c, field *root, let_model *m) {
  field *seen[PARAMETERS] = {0};
  for (field *f = let_pb_find(root, "parameters"); f; f = let_pb_find(f->next, "parameters")) {
    field *key = let_pb_find(f->child, "key"), *value = let_pb_find(f->child, "value");
    if (!key)
      return let_pb_fail(c->file, f, c->e,
                         "has no key: write parameters { key: \"slo_ms\" value { string_value: \"20\" } }");
    int id = 0;
    while (id < PARAMETERS && !let_str_is(key->text, parameter_names[id])) id++;
    let_err r;
    if (id == PARAMETERS) {
      if ((r = foreign(c, key))) return r;
      continue;
    }
    if (seen[id])
      return let_pb_fail(c->file, key, c->e, "parameter '%s' is given twice (first on line %u)", parameter_names[id],
                         seen[id]->line);
    seen[id] = key;
    field *s = value ? let_pb_find(value->child, "string_value") : NULL;
    char text[64];
    if (!s)
      return let_pb_fail(c->file, value ? value : f, c->e, "parameter '%s' has no string_value", parameter_names[id]);
    if ((r = let_pb_string(s, c->file, text, sizeof text, c->e)) ||
        (r = set_parameter(c, s, (parameter_id)id, text, m)))
      return r;
  }
  return LET_OK;
}

/* ---- the model */

static let_err word(const context *c, field *root, const char *name, char *out) {
  field *f = let_pb_find(root, name);
  return f ? let_pb_string(f, c->file, out, LET_NAME_MAX, c->e) : LET_OK;
}

static let_err naming(const context *c, field *root, const char *dir_name, let_model *m) {
  let_err r = word(c, root, "name", m->name);
  if (r) return r;
  field *f = let_pb_find(root, "name");
  if (m->name[0] && strcmp(m->name, dir_name) != 0)
    return let_pb_fail(c->file, f, c->e, "'%s' is not the name of its directory, '%s'", m->name, dir_name);
  if (!m->name[0]) {
    if (strlen(dir_name) >= sizeof m->name)
      return let_fail(c->e, LET_ERR_INVALID, "%s: the directory's name is longer than %zu bytes", c->file,
                      sizeof m->name - 1);
    snprintf(m->name, sizeof m->name, "%s", dir_name);
  }
  for (const char *p = m->name; *p; p++)
    if ((unsigned char)*p <= ' ' || *p == '/' || *p == 127)
      return let_fail(c->e, LET_ERR_INVALID,
                      "%s:%u: the model's name must not contain blanks, '/' or control characters", c->file,
                      f ? f->line : 1);
  return LET_OK;
}

static let_err backend(const context *c, field *root, let_model *m) {
  static const struct {
    const char *platform, *backend;
  } pairs[] = {{"pytorch_libtorch", "pytorch"}, {"gpulet_null", "null"}};
  field *p = let_pb_find(root, "platform"), *b = let_pb_find(root, "backend");
  let_err r;
  if ((r = word(c, root, "platform", m->platform)) || (r = word(c, root, "backend", m->backend))) return r;
  int by_platform = -1, by_backend = -1;
  for (int i = 0; i < 2; i++) {
    if (strcmp(m->platform, pairs[i].platform) == 0) by_platform = i;
    if (strcmp(m->backend, pairs[i].backend) == 0) by_backend = i;
  }
  if (!m->platform[0] && !m->backend[0]) by_backend = 0; /* as Triton does for a directory with a model.pt */
  if (m->platform[0] && by_platform < 0)
    return unsupported(c, p, "is not supported: gpulet serves pytorch_libtorch (TorchScript) and gpulet_null");
  if (m->backend[0] && by_backend < 0)
    return unsupported(c, b, "is not supported: gpulet serves pytorch (TorchScript) and null");
  if (by_platform >= 0 && by_backend >= 0 && by_platform != by_backend)
    return let_pb_fail(c->file, b, c->e, "'%s' does not go with platform '%s'", m->backend, m->platform);
  int at = by_backend >= 0 ? by_backend : by_platform;
  snprintf(m->platform, sizeof m->platform, "%s", pairs[at].platform);
  snprintf(m->backend, sizeof m->backend, "%s", pairs[at].backend);
  return LET_OK;
}

static let_err file_name(const context *c, field *root, let_model *m) {
  let_err r = word(c, root, "default_model_filename", m->file);
  if (r) return r;
  if (!m->file[0]) snprintf(m->file, sizeof m->file, "model.pt");
  if (strchr(m->file, '/') || strcmp(m->file, "..") == 0)
    return let_pb_fail(c->file, let_pb_find(root, "default_model_filename"), c->e, "must be a file's name, not a path");
  return LET_OK;
}

static let_err max_batch(const context *c, field *root, let_model *m) {
  field *f = let_pb_find(root, "max_batch_size");
  int64_t v = 0;
  let_err r = f ? integer(c, f, 0, LET_BATCH_MAX, &v) : LET_OK;
  m->max_batch = (uint32_t)v;
  return r;
}

static let_err versions(const context *c, field *root, let_model_config *ret) {
  field *policy = let_pb_find(root, "version_policy");
  if (!policy) return LET_OK;
  ret->versions_line = policy->line;
  field *latest = let_pb_find(policy->child, "latest"), *all = let_pb_find(policy->child, "all"),
        *specific = let_pb_find(policy->child, "specific");
  if (!!latest + !!all + !!specific > 1)
    return let_pb_fail(c->file, policy, c->e, "latest, all and specific exclude each other");
  field *many = latest ? let_pb_find(latest->child, "num_versions") : NULL;
  int64_t v = 1;
  let_err r;
  if (many && (r = integer(c, many, 1, UINT32_MAX, &v))) return r;
  if (all || v > 1)
    let_note_add(c->notes, c->arena, "%s:%u: version_policy: only the latest version is served", c->file, policy->line);
  if (!specific) return LET_OK;
  for (field *f = let_pb_find(specific->child, "versions"); f; f = let_pb_find(f->next, "versions")) {
    if (ret->n_versions == LET_VERSIONS_MAX)
      return let_pb_fail(c->file, f, c->e, "more than %d versions", LET_VERSIONS_MAX);
    if ((r = integer(c, f, 1, INT64_MAX, &ret->versions[ret->n_versions]))) return r;
    ret->n_versions++;
  }
  if (ret->n_versions == 0)
    return let_pb_fail(c->file, specific, c->e, "names no version: write specific { versions: [ 1 ] }");
  if (ret->n_versions > 1)
    let_note_add(c->notes, c->arena, "%s:%u: version_policy: only the largest of the versions is served", c->file,
                 policy->line);
  return LET_OK;
}

/* Refuses what would change answers, notes what does not. */
static let_err uses(const context *c, field *root) {
  for (const let_schema_field *s = let_schema_model; s->name; s++) {
    field *f = s->use == LET_SCHEMA_USED ? NULL : let_pb_find(root, s->name);
    if (f && s->use == LET_SCHEMA_REFUSED) return unsupported(c, f, "is not supported");
    if (f) ignored(c, f);
  }
  field *transaction = let_pb_find(root, "model_transaction_policy");
  return transaction ? refuse_flag(c, transaction->child, "decoupled",
                                   "decoupled models are not supported: one request has one answer")
                     : LET_OK;
}

let_err let_model_config_parse(let_str text, const char *file, const char *dir_name, let_arena *a,
                               let_model_config *ret, let_notes *notes, let_error *e) {
  let_error local = {0};
  context c = {file, a, notes, e ? e : &local};
  let_pb_field *root = NULL;
  let_model_config *out = let_arena_alloc(a, sizeof *out);
  if (!out) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", file);
  let_model *m = &out->model;
  let_err r;
  if ((r = let_pb_parse(text, file, a, &root, c.e)) ||
      (r = let_schema_check(root, let_schema_model, "the model's configuration", file, c.e)) ||
      (r = naming(&c, root, dir_name, m)) || (r = backend(&c, root, m)) || (r = uses(&c, root)) ||
      (r = file_name(&c, root, m)) || (r = max_batch(&c, root, m)) ||
      (r = tensors(&c, root, "input", m->max_batch > 0, m->input, &m->n_inputs)) ||
      (r = tensors(&c, root, "output", m->max_batch > 0, m->output, &m->n_outputs)) ||
      (r = dynamic_batching(&c, root, m)) || (r = parameters(&c, root, m)) || (r = versions(&c, root, out)))
    return r;
  *ret = *out;
  return LET_OK;
}
