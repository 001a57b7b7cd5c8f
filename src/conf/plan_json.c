#include "conf/plan_json.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "conf/file.h"
#include "conf/suggest.h"

enum { GPUS = 100000, GPULETS = 4096, ENTRIES = 4096, REASONS = 10000, GRANULES = 1 << 16 };

/* Where in the document: "gpus[0].gpulets[1].models[2]". */
typedef struct place {
  const char *file;
  let_arena *arena;
  let_error *e;
  long gpu, gpulet, entry; /* -1: not inside one */
} place;

static let_err fail(const place *at, const char *field, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static let_err fail(const place *at, const char *field, const char *fmt, ...) {
  char text[400], path[96] = "";
  int n = 0;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (at->gpu >= 0) n += snprintf(path + n, sizeof path - (size_t)n, "gpus[%ld].", at->gpu);
  if (at->gpulet >= 0) n += snprintf(path + n, sizeof path - (size_t)n, "gpulets[%ld].", at->gpulet);
  if (at->entry >= 0) n += snprintf(path + n, sizeof path - (size_t)n, "models[%ld].", at->entry);
  if (!*field && n > 0) path[n - 1] = 0;
  return let_fail(at->e, LET_ERR_INVALID, "%s: %s%s%s%s", at->file, path, field, *path || *field ? ": " : "", text);
}

static let_err no_memory(const place *at) { return let_fail(at->e, LET_ERR_NOMEM, "%s: out of memory", at->file); }

/* ---- fields */

/* |lenient|: a key that resembles none of ours passes, so that tools may add their own. */
static let_err known_keys(const place *at, json_t *o, const char *const *known, bool lenient) {
  const char *key;
  json_t *v;
  json_object_foreach(o, key, v) {
    let_suggest s = {.word = let_str_c(key)};
    const char *const *k = known;
    for (; *k && strcmp(*k, key) != 0; k++) let_suggest_offer(&s, *k);
    char hint[LET_SUGGEST_TEXT];
    if (!*k && !(lenient && !s.best)) return fail(at, "", "unknown key '%.64s'%s", key, let_suggest_text(&s, "", hint));
  }
  return LET_OK;
}

static let_err get_number(const place *at, json_t *o, const char *key, double max, double *ret) {
  json_t *v = json_object_get(o, key);
  if (!v) return LET_OK;
  if (!json_is_number(v)) return fail(at, key, "must be a number");
  double d = json_number_value(v);
  if (!(d >= 0 && d <= max)) return fail(at, key, "%g is out of range (0 to %g)", d, max);
  *ret = d;
  return LET_OK;
}

static let_err get_whole(const place *at, json_t *o, const char *key, uint64_t min, uint64_t max, uint64_t *ret) {
  json_t *v = json_object_get(o, key);
  if (!v) return LET_OK;
  if (!json_is_integer(v)) return fail(at, key, "must be a whole number");
  json_int_t i = json_integer_value(v);
  if (i < 0 || (uint64_t)i < min || (uint64_t)i > max)
    return fail(at, key, "%lld is out of range (%llu to %llu)", (long long)i, (unsigned long long)min,
                (unsigned long long)max);
  *ret = (uint64_t)i;
  return LET_OK;
}

static let_err get_bool(const place *at, json_t *o, const char *key, bool *ret) {
  json_t *v = json_object_get(o, key);
  if (v && !json_is_boolean(v)) return fail(at, key, "must be true or false");
  if (v) *ret = json_is_true(v);
  return LET_OK;
}

static let_err get_text(const place *at, json_t *o, const char *key, char *out, size_t cap) {
  json_t *v = json_object_get(o, key);
  if (!v) return LET_OK;
  if (!json_is_string(v)) return fail(at, key, "must be a string");
  size_t n = json_string_length(v);
  if (n >= cap) return fail(at, key, "is longer than %zu bytes", cap - 1);
  memcpy(out, json_string_value(v), n + 1);
  return LET_OK;
}

static let_err get_list(const place *at, json_t *o, const char *key, size_t max, json_t **ret) {
  json_t *v = json_object_get(o, key);
  if (!v) return fail(at, key, "is missing");
  if (!json_is_array(v)) return fail(at, key, "must be a list");
  if (json_array_size(v) > max) return fail(at, key, "has more than %zu entries", max);
  *ret = v;
  return LET_OK;
}

/* ---- the document */

static let_err read_entry(const place *at, json_t *o, let_plan_entry *ret) {
  static const char *const known[] = {"name", "batch", "rate", "latency_ms", "slo_ms", NULL};
  if (!json_is_object(o)) return fail(at, "", "must be an object");
  uint64_t batch = 0;
  double latency = 0, slo = 0;
  let_err r;
  if ((r = known_keys(at, o, known, false)) || (r = get_text(at, o, "name", ret->name, sizeof ret->name)) ||
      (r = get_whole(at, o, "batch", 1, LET_BATCH_MAX, &batch)) || (r = get_number(at, o, "rate", 1e12, &ret->rate)) ||
      (r = get_number(at, o, "latency_ms", 1e9, &latency)) || (r = get_number(at, o, "slo_ms", 1e9, &slo)))
    return r;
  if (!ret->name[0]) return fail(at, "name", "is missing");
  if (batch == 0) return fail(at, "batch", "is missing for '%s'", ret->name);
  ret->batch = (uint32_t)batch;
  ret->latency = (let_dur)llround(latency * 1e6);
  ret->slo = (let_dur)llround(slo * 1e6);
  return LET_OK;
}

static double share_of(json_t *o) { return json_number_value(json_object_get(o, "share")); }

/* The granules that a share without granules means: a whole number of them, up to how people round percentages. */
static let_err from_share(const place *at, double share, uint32_t device, uint32_t *ret) {
  if (device == 0)
    return fail(at, "granules",
                "is missing, and share needs the device's granules to mean something: write gpus[%ld].granules",
                at->gpu);
  double g = share * device / 100, whole = round(g);
  if (whole < 1) whole = 1;
  if (fabs(g - whole) > 0.05)
    return fail(at, "share", "%g %% is %.2f of %u granules: write granules, such as %.0f (%g %%)", share, g, device,
                whole, 100 * whole / device);
  *ret = (uint32_t)whole;
  return LET_OK;
}

static let_err read_gpulet(place *at, json_t *o, uint32_t device, let_plan_gpulet *ret) {
  static const char *const known[] = {"first", "granules", "share", "shared", "models", NULL};
  if (!json_is_object(o)) return fail(at, "", "must be an object");
  uint64_t first = UINT32_MAX, granules = 0;
  double share = 0;
  json_t *list;
  let_err r;
  if ((r = known_keys(at, o, known, false)) || (r = get_whole(at, o, "first", 0, GRANULES, &first)) ||
      (r = get_whole(at, o, "granules", 1, GRANULES, &granules)) || (r = get_number(at, o, "share", 100, &share)) ||
      (r = get_bool(at, o, "shared", &ret->shared)) || (r = get_list(at, o, "models", ENTRIES, &list)))
    return r;
  ret->first = (uint32_t)first;
  ret->granules = (uint32_t)granules;
  if (!granules && ret->shared && share <= 0 && device) ret->granules = device;
  else if (!granules && share <= 0) return fail(at, "granules", "is missing");
  else if (!granules && (r = from_share(at, share, device, &ret->granules))) return r;
  ret->n_entries = (uint32_t)json_array_size(list);
  ret->entry = let_arena_array(at->arena, ret->n_entries, sizeof *ret->entry);
  if (!ret->entry) return no_memory(at);
  for (uint32_t i = 0; i < ret->n_entries; i++) {
    at->entry = i;
    if ((r = read_entry(at, json_array_get(list, i), &ret->entry[i]))) return r;
  }
  at->entry = -1;
  return LET_OK;
}

/* granules and share of the largest gpu-let that has both tell the device's granules; the others must agree. */
static let_err work_out(const place *at, json_t *list, uint64_t *ret) {
  double granules = 0, share = 0;
  size_t i;
  json_t *o;
  json_array_foreach(list, i, o) {
    double g = json_number_value(json_object_get(o, "granules")), s = share_of(o);
    if (g > granules && s > 0 && s <= 100) granules = g, share = s;
  }
  if (granules <= 0 || granules > GRANULES || granules * 100 / share > GRANULES) return LET_OK;
  double device = round(granules * 100 / share);
  json_array_foreach(list, i, o) {
    double g = json_number_value(json_object_get(o, "granules")), s = share_of(o);
    if (g > 0 && s > 0 && fabs(100 * g / device - s) > 1)
      return fail(at, "gpulets", "granules and share of its gpu-lets do not fit one device: write gpus[%ld].granules",
                  at->gpu);
  }
  *ret = (uint64_t)device;
  return LET_OK;
}

static let_err read_gpu(place *at, json_t *o, let_plan_gpu *ret) {
  static const char *const known[] = {"id", "type", "granules", "gpulets", NULL};
  if (!json_is_object(o)) return fail(at, "", "must be an object");
  uint64_t id = UINT64_MAX, granules = 0;
  json_t *list;
  let_err r;
  if ((r = known_keys(at, o, known, false)) || (r = get_whole(at, o, "id", 0, UINT32_MAX - 1, &id)) ||
      (r = get_text(at, o, "type", ret->type, sizeof ret->type)) ||
      (r = get_whole(at, o, "granules", 1, GRANULES, &granules)) || (r = get_list(at, o, "gpulets", GPULETS, &list)))
    return r;
  if (id == UINT64_MAX) return fail(at, "id", "is missing");
  if (!granules && (r = work_out(at, list, &granules))) return r;
  ret->id = (uint32_t)id;
  ret->granules = (uint32_t)granules;
  ret->n_gpulets = (uint32_t)json_array_size(list);
  ret->gpulet = let_arena_array(at->arena, ret->n_gpulets, sizeof *ret->gpulet);
  if (!ret->gpulet) return no_memory(at);
  for (uint32_t i = 0; i < ret->n_gpulets; i++) {
    at->gpulet = i;
    if ((r = read_gpulet(at, json_array_get(list, i), ret->granules, &ret->gpulet[i]))) return r;
  }
  at->gpulet = -1;
  return LET_OK; /* granules may stay 0: who serves the plan knows the device */
}

static let_err read_reasons(const place *at, json_t *root, let_plan *ret) {
  json_t *list;
  if (!json_object_get(root, "reasons")) return LET_OK;
  let_err r = get_list(at, root, "reasons", REASONS, &list);
  if (r) return r;
  ret->n_reasons = (uint32_t)json_array_size(list);
  ret->reason = let_arena_array(at->arena, ret->n_reasons, sizeof *ret->reason);
  if (!ret->reason) return no_memory(at);
  for (uint32_t i = 0; i < ret->n_reasons; i++) {
    json_t *s = json_array_get(list, i);
    if (!json_is_string(s)) return fail(at, "reasons", "entry %u must be a string", i);
    ret->reason[i] = let_arena_strdup(at->arena, json_string_value(s), json_string_length(s));
    if (!ret->reason[i]) return no_memory(at);
  }
  return LET_OK;
}

static let_err read_plan(place *at, json_t *root, let_plan *ret) {
  static const char *const known[] = {"policy",  "feasible", "gpus_used", "lower_bound_gpus", "cost",
                                      "time_ms", "reasons",  "gpus",      "generation",       NULL};
  if (!json_is_object(root)) return fail(at, "", "a plan is an object {\"gpus\": [...]}");
  uint64_t used = UINT64_MAX;
  json_t *list;
  let_err r;
  ret->feasible = true;
  if ((r = known_keys(at, root, known, true)) || (r = get_text(at, root, "policy", ret->policy, sizeof ret->policy)) ||
      (r = get_bool(at, root, "feasible", &ret->feasible)) || (r = get_whole(at, root, "gpus_used", 0, GPUS, &used)) ||
      (r = get_number(at, root, "lower_bound_gpus", 1e12, &ret->lower_bound)) ||
      (r = get_number(at, root, "cost", 1e18, &ret->cost)) ||
      (r = get_number(at, root, "time_ms", 1e12, &ret->time_ms)) ||
      (r = get_whole(at, root, "generation", 0, INT64_MAX, &ret->generation)) || (r = read_reasons(at, root, ret)) ||
      (r = get_list(at, root, "gpus", GPUS, &list)))
    return r;
  ret->n_gpus = (uint32_t)json_array_size(list);
  ret->gpu = let_arena_array(at->arena, ret->n_gpus, sizeof *ret->gpu);
  if (!ret->gpu) return no_memory(at);
  uint32_t in_use = 0;
  for (uint32_t i = 0; i < ret->n_gpus; i++) {
    at->gpu = i;
    if ((r = read_gpu(at, json_array_get(list, i), &ret->gpu[i]))) return r;
    in_use += ret->gpu[i].n_gpulets > 0;
  }
  at->gpu = -1;
  ret->gpus_used = used == UINT64_MAX ? in_use : (uint32_t)used;
  if (let_plan_validate(ret, at->e)) return let_fail_prefix(at->e, "%s", at->file);
  return LET_OK;
}

let_err let_plan_parse(const char *text, size_t len, const char *file, let_arena *a, let_plan *ret, let_error *e) {
  let_error local = {0};
  json_error_t why;
  place at = {file, a, e ? e : &local, -1, -1, -1};
  json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
  if (!root) {
    if (json_error_code(&why) == json_error_out_of_memory) return no_memory(&at);
    return let_fail(e, LET_ERR_INVALID, "%s:%d:%d: %s", file, why.line > 0 ? why.line : 1,
                    why.column > 0 ? why.column : 1, why.text);
  }
  let_plan *p = let_arena_alloc(a, sizeof *p);
  let_err r = p ? read_plan(&at, root, p) : no_memory(&at);
  json_decref(root);
  if (!r) *ret = *p;
  return r;
}

let_err let_plan_load(const char *path, let_arena *a, let_plan *ret, let_error *e) {
  let_str text;
  let_err r = let_file_read(path, a, &text, e);
  return r ? r : let_plan_parse(text.p, text.n, path, a, ret, e);
}

/* ---- writing */

static void put_text(let_buf *b, const char *s) {
  let_buf_str(b, "\"");
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\') let_buf_fmt(b, "\\%c", c);
    else if (c < 32) let_buf_fmt(b, "\\u%04x", c);
    else let_buf_add(b, s, 1);
  }
  let_buf_str(b, "\"");
}

/* The shortest of the usual precisions that reads back equal. JSON has no infinity: 0, "not known". */
static void put_number(let_buf *b, double v) {
  char t[40];
  if (!isfinite(v)) v = 0;
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(t, sizeof t, "%.*g", digits, v);
    double back = 0;
    if (sscanf(t, "%lf", &back) == 1 && !(back < v) && !(back > v)) break;
  }
  let_buf_str(b, t);
}

static void put_entry(let_buf *b, const let_plan_entry *m) {
  let_buf_str(b, "{\"name\": ");
  put_text(b, m->name);
  let_buf_fmt(b, ", \"batch\": %u, \"rate\": ", m->batch);
  put_number(b, m->rate);
  let_buf_str(b, ", \"latency_ms\": ");
  put_number(b, (double)m->latency / 1e6);
  let_buf_str(b, ", \"slo_ms\": ");
  put_number(b, (double)m->slo / 1e6);
  let_buf_str(b, "}");
}

static void put_gpulet(let_buf *b, const let_plan_gpu *g, const let_plan_gpulet *l) {
  let_buf_str(b, "      {");
  if (l->first != UINT32_MAX) let_buf_fmt(b, "\"first\": %u, ", l->first);
  let_buf_fmt(b, "\"granules\": %u, \"share\": %.6g, ", l->granules,
              g->granules ? 100.0 * l->granules / g->granules : 0);
  if (l->shared) let_buf_str(b, "\"shared\": true, ");
  let_buf_str(b, "\"models\": [");
  for (uint32_t k = 0; k < l->n_entries; k++) {
    if (k) let_buf_str(b, ",");
    if (l->n_entries > 1) let_buf_str(b, "\n        ");
    put_entry(b, &l->entry[k]);
  }
  let_buf_str(b, "]}");
}

static void put_gpu(let_buf *b, const let_plan_gpu *g) {
  let_buf_fmt(b, "    {\"id\": %u, \"type\": ", g->id);
  put_text(b, g->type);
  if (g->granules) let_buf_fmt(b, ", \"granules\": %u", g->granules);
  let_buf_str(b, ", \"gpulets\": [");
  for (uint32_t i = 0; i < g->n_gpulets; i++) {
    let_buf_str(b, i ? ",\n" : "\n");
    put_gpulet(b, g, &g->gpulet[i]);
  }
  let_buf_str(b, "]}");
}

void let_plan_to_json(const let_plan *p, let_buf *b) {
  let_buf_str(b, "{\n  \"policy\": ");
  put_text(b, p->policy);
  let_buf_fmt(b,
              ",\n  \"feasible\": %s,\n  \"gpus_used\": %u,\n  \"lower_bound_gpus\": ", p->feasible ? "true" : "false",
              p->gpus_used);
  put_number(b, p->lower_bound);
  let_buf_str(b, ",\n  \"cost\": ");
  put_number(b, p->cost);
  let_buf_str(b, ",\n  \"time_ms\": ");
  put_number(b, p->time_ms);
  if (p->generation) let_buf_fmt(b, ",\n  \"generation\": %llu", (unsigned long long)p->generation);
  let_buf_str(b, ",\n  \"reasons\": [");
  for (uint32_t i = 0; i < p->n_reasons; i++) {
    let_buf_str(b, i ? ",\n    " : "\n    ");
    put_text(b, p->reason[i]);
  }
  let_buf_str(b, "],\n  \"gpus\": [");
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    let_buf_str(b, i ? ",\n" : "\n");
    put_gpu(b, &p->gpu[i]);
  }
  let_buf_str(b, "]\n}\n");
}
