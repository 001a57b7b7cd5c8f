/* control_model.c: let_model <-> JSON, both directions from one table. */
#include <stddef.h>
#include <string.h>

#include "ring/control.h"

typedef enum kind { TEXT, U8, U32, U64, I64, BOOL, ENUM } kind;

typedef struct field {
  const char *name;
  kind kind;
  size_t offset, cap; /* cap: TEXT: bytes; numbers: largest value */
} field;

#define F(type, member, kind, cap) \
  { #member, kind, offsetof(type, member), cap }

static const field model_fields[] = {
    F(let_model, name, TEXT, LET_NAME_MAX),
    F(let_model, platform, TEXT, LET_NAME_MAX),
    F(let_model, backend, TEXT, LET_NAME_MAX),
    F(let_model, file, TEXT, LET_NAME_MAX),
    F(let_model, dir, TEXT, sizeof((let_model *)0)->dir),
    F(let_model, version, I64, 0),
    F(let_model, max_batch, U32, LET_BATCH_MAX),
    F(let_model, slo, I64, 0),
    F(let_model, max_queue_delay, I64, 0),
    F(let_model, max_queue, U32, UINT32_MAX),
    F(let_model, priority_levels, U8, UINT8_MAX),
    F(let_model, default_priority, U8, UINT8_MAX),
    F(let_model, default_timeout, I64, 0),
    F(let_model, allow_timeout_override, BOOL, 1),
    F(let_model, precision, ENUM, LET_PRECISION_BF16),
    F(let_model, channels_last, BOOL, 1),
    F(let_model, output_bytes_hint, U64, INT64_MAX),
    F(let_model, null_us, U32, UINT32_MAX),
};

static const field tensor_fields[] = {
    F(let_tensor_spec, name, TEXT, LET_NAME_MAX),
    F(let_tensor_spec, dtype, ENUM, LET_DTYPE_COUNT - 1),
    F(let_tensor_spec, optional, BOOL, 1),
    F(let_tensor_spec, label_file, TEXT, LET_NAME_MAX),
};

enum { N_MODEL = sizeof model_fields / sizeof *model_fields, N_TENSOR = sizeof tensor_fields / sizeof *tensor_fields };
_Static_assert(sizeof(let_precision) == sizeof(uint32_t) && sizeof(let_dtype) == sizeof(uint32_t),
               "enums are read as uint32_t");

static bool put(json_t *to, const void *from, const field *f, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char *p = (const char *)from + f[i].offset;
    json_t *v = NULL;
    switch (f[i].kind) {
    case TEXT: v = json_string(p); break;
    case U8: v = json_integer(*(const uint8_t *)p); break;
    case U32:
    case ENUM: v = json_integer(*(const uint32_t *)(const void *)p); break;
    case U64:
    case I64: v = json_integer(*(const int64_t *)(const void *)p); break;
    case BOOL: v = json_boolean(*(const bool *)p); break;
    }
    if (json_object_set_new(to, f[i].name, v) < 0) return false;
  }
  return true;
}

static let_err get(const json_t *from, void *to, const field *f, size_t n, let_error *e) {
  for (size_t i = 0; i < n; i++) {
    char *p = (char *)to + f[i].offset;
    const json_t *v = json_object_get(from, f[i].name);
    json_int_t k = json_integer_value(v);
    bool ok;
    if (f[i].kind == TEXT) {
      ok = json_is_string(v) && json_string_length(v) < f[i].cap &&
           strlen(json_string_value(v)) == json_string_length(v);
      if (ok) memcpy(p, json_string_value(v), json_string_length(v) + 1);
    } else if (f[i].kind == BOOL) {
      ok = json_is_boolean(v);
      *(bool *)p = json_is_true(v);
    } else {
      ok = json_is_integer(v) && (f[i].kind == I64 || (k >= 0 && (uint64_t)k <= f[i].cap));
      if (ok && f[i].kind == U8) *(uint8_t *)p = (uint8_t)k;
      else if (ok && (f[i].kind == U32 || f[i].kind == ENUM)) *(uint32_t *)(void *)p = (uint32_t)k;
      else if (ok) *(int64_t *)(void *)p = k;
    }
    if (!ok) return let_fail(e, LET_ERR_INVALID, "field '%s' is missing or out of range", f[i].name);
  }
  return LET_OK;
}

static bool put_tensors(json_t *to, const char *key, const let_tensor_spec *t, uint8_t n) {
  json_t *list = json_array();
  bool ok = list != NULL;
  for (unsigned i = 0; ok && i < n; i++) {
    json_t *one = json_object(), *dims = json_array();
    ok = put(one, &t[i], tensor_fields, N_TENSOR);
    for (unsigned k = 0; ok && k < t[i].rank; k++) ok = json_array_append_new(dims, json_integer(t[i].dims[k])) == 0;
    ok = json_object_set_new(one, "dims", dims) == 0 && ok;
    ok = json_array_append_new(list, one) == 0 && ok;
  }
  return json_object_set_new(to, key, list) == 0 && ok;
}

static let_err get_tensors(const json_t *from, const char *key, let_tensor_spec *t, uint8_t *ret_n, let_error *e) {
  const json_t *list = json_object_get(from, key);
  size_t n = json_array_size(list);
  if (!json_is_array(list) || n > LET_TENSORS_MAX)
    return let_fail(e, LET_ERR_INVALID, "field '%s' is not a list of at most %d tensors", key, LET_TENSORS_MAX);
  for (size_t i = 0; i < n; i++) {
    const json_t *one = json_array_get(list, i), *dims = json_object_get(one, "dims");
    size_t rank = json_array_size(dims);
    if (get(one, &t[i], tensor_fields, N_TENSOR, e)) return let_fail_prefix(e, "%s[%zu]", key, i);
    if (!json_is_array(dims) || rank > LET_RANK_MAX)
      return let_fail(e, LET_ERR_INVALID, "%s[%zu]: dims is not a list of at most %d numbers", key, i, LET_RANK_MAX);
    for (size_t k = 0; k < rank; k++) {
      const json_t *d = json_array_get(dims, k);
      if (!json_is_integer(d) || json_integer_value(d) < -1)
        return let_fail(e, LET_ERR_INVALID, "%s[%zu]: dims[%zu] is not a size or -1", key, i, k);
      t[i].dims[k] = json_integer_value(d);
    }
    t[i].rank = (uint8_t)rank;
  }
  *ret_n = (uint8_t)n;
  return LET_OK;
}

json_t *let_control_model_put(const let_model *m) {
  json_t *doc = json_object(), *sizes = json_array();
  bool ok = put(doc, m, model_fields, N_MODEL);
  for (unsigned i = 0; ok && i < m->n_sizes; i++) ok = json_array_append_new(sizes, json_integer(m->size[i])) == 0;
  ok = json_object_set_new(doc, "sizes", sizes) == 0 && ok;
  ok = ok && put_tensors(doc, "input", m->input, m->n_inputs) && put_tensors(doc, "output", m->output, m->n_outputs);
  if (ok) return doc;
  json_decref(doc);
  return NULL;
}

let_err let_control_model_get(const json_t *doc, let_model *ret, let_error *e) {
  let_model m;
  memset(&m, 0, sizeof m); /* padding too: models are compared byte by byte */
  const json_t *sizes = json_object_get(doc, "sizes");
  let_err r = get(doc, &m, model_fields, N_MODEL, e);
  if (!r) r = get_tensors(doc, "input", m.input, &m.n_inputs, e);
  if (!r) r = get_tensors(doc, "output", m.output, &m.n_outputs, e);
  if (!r && (!json_is_array(sizes) || json_array_size(sizes) > LET_SIZES_MAX))
    r = let_fail(e, LET_ERR_INVALID, "field 'sizes' is not a list of at most %d numbers", LET_SIZES_MAX);
  for (size_t i = 0; !r && i < json_array_size(sizes); i++) {
    json_int_t k = json_integer_value(json_array_get(sizes, i));
    if (k < 1 || k > LET_BATCH_MAX)
      r = let_fail(e, LET_ERR_INVALID, "sizes[%zu] is not a batch size of 1 to %d", i, LET_BATCH_MAX);
    else m.size[m.n_sizes++] = (uint32_t)k;
  }
  if (r) {
    const char *name = json_string_value(json_object_get(doc, "name"));
    (void)let_fail_prefix(e, "model '%.100s'", name ? name : "?");
    return r;
  }
  *ret = m;
  return LET_OK;
}
