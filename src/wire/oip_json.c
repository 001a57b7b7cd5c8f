#include "wire/oip_json.h"

#include <stdio.h>

#include "oip_int.h"

enum { ALIGN = 64 };

typedef struct parse {
  let__json j;
  const let_oip_body *b;
  const let_model *m;
  let_record *rec;
  let_oip_infer *ret;
  let_error *e;
  uint64_t raw_at, room_at;
  bool any_json, in_room[LET_TENSORS_MAX], named, binary_default, has_binary_default;
  bool out_said[LET_TENSORS_MAX];
} parse;

uint64_t let_oip_room(const let_model *m, uint64_t json_bytes, uint64_t raw_bytes) {
  uint64_t widest = 1, n, most = 0;
  bool strings = false, open = false;
  for (unsigned i = 0; i < m->n_inputs; i++) {
    uint64_t size = let_dtype_size(m->input[i].dtype), row = let_tensor_row_bytes(&m->input[i]);
    if (size > widest) widest = size;
    strings |= size == 0;
    open |= row == 0 || row == UINT64_MAX ||
            __builtin_mul_overflow(row, (uint64_t)(m->max_batch ? m->max_batch : 1), &row) ||
            __builtin_add_overflow(most, row, &most);
  }
  if (strings && widest < 4) widest = 4;
  if (__builtin_mul_overflow(json_bytes / 2 + 1, widest, &n)) return UINT64_MAX; /* "1," is the shortest element */
  if (strings && __builtin_add_overflow(n, json_bytes, &n)) return UINT64_MAX;
  if (!open && most < n) n = most;
  if (__builtin_add_overflow(n, raw_bytes, &n)) return UINT64_MAX;
  return __builtin_add_overflow(n, (uint64_t)ALIGN * (LET_TENSORS_MAX + 1), &n) ? UINT64_MAX : n;
}

/* "IN, MASK": for errors about names. */
static const char *names(const let_tensor_spec *t, unsigned n, char out[256]) {
  size_t at = 0;
  out[0] = 0;
  for (unsigned i = 0; i < n && at < 255; i++) {
    int k = snprintf(out + at, 256 - at, "%s%s", i ? ", " : "", t[i].name);
    at += k > 0 ? (size_t)k : 0;
  }
  return out;
}

static int find(const let_tensor_spec *t, unsigned n, let_str name) {
  for (unsigned i = 0; i < n; i++)
    if (let_str_is(name, t[i].name)) return (int)i;
  return -1;
}

/* "[-1, 3, 224, 224]" as the model declares it. */
static const char *shape_text(const let_model *m, const let_tensor_spec *s, char out[200]) {
  size_t at = (size_t)snprintf(out, 200, "[%s", m->max_batch ? "-1" : "");
  for (unsigned i = 0; i < s->rank && at < 170; i++)
    at += (size_t)snprintf(out + at, 200 - at, "%s%lld", i || m->max_batch ? ", " : "", (long long)s->dims[i]);
  snprintf(out + at, 200 - at, "]");
  return out;
}

/* ---- one input ------------------------------------------------------------------------------------------ */

static let_err check_shape(parse *p, const let_tensor_spec *s, const let_tensor *t) {
  const let_model *m = p->m;
  unsigned batch = m->max_batch > 0;
  char text[200];
  bool ok = t->rank == s->rank + batch;
  for (unsigned i = 0; ok && i < s->rank; i++) ok = s->dims[i] < 0 || s->dims[i] == t->shape[i + batch];
  if (!ok)
    return let_fail(p->e, LET_ERR_INVALID, "its shape does not fit the model's %s%s", shape_text(m, s, text),
                    batch ? " (the first dimension is the batch)" : "");
  for (unsigned i = 0; i < t->rank; i++)
    if (t->shape[i] < 1) return let_fail(p->e, LET_ERR_INVALID, "its shape has a dimension below 1");
  uint64_t rows = batch ? (uint64_t)t->shape[0] : 1;
  if (batch && rows > m->max_batch)
    return let_fail(p->e, LET_ERR_INVALID, "%llu rows are more than the model's max_batch_size %u",
                    (unsigned long long)rows, m->max_batch);
  if (p->rec->rows && p->rec->rows != rows)
    return let_fail(p->e, LET_ERR_INVALID, "it has %llu rows where the inputs before it have %u",
                    (unsigned long long)rows, p->rec->rows);
  p->rec->rows = (uint32_t)rows;
  return LET_OK;
}

/* Binary BYTES: 4-byte little-endian length and the bytes, |count| times, filling the tensor exactly. */
static bool bytes_valid(const char *p, uint64_t n, uint64_t count) {
  while (count--) {
    uint32_t len;
    if (n < 4) return false;
    memcpy(&len, p, 4);
    if (n - 4 < len) return false;
    p += 4 + (uint64_t)len, n -= 4 + (uint64_t)len;
  }
  return n == 0;
}

static let_err raw_tensor(parse *p, let_tensor *t, uint64_t count, uint64_t size) {
  uint64_t want;
  uint32_t one = let_dtype_size(t->dtype);
  if (p->b->raw_bytes - p->raw_at < size)
    return let_fail(p->e, LET_ERR_INVALID,
                    "binary_data_size is %llu but only %llu bytes of binary data are left (is "
                    "Inference-Header-Content-Length right?)",
                    (unsigned long long)size, (unsigned long long)(p->b->raw_bytes - p->raw_at));
  if (one && (__builtin_mul_overflow(count, (uint64_t)one, &want) || want != size))
    return let_fail(p->e, LET_ERR_INVALID, "binary_data_size is %llu but its shape and datatype make %llu bytes",
                    (unsigned long long)size, (unsigned long long)(count * one));
  if (!one && !bytes_valid(p->b->raw + p->raw_at, size, count))
    return let_fail(p->e, LET_ERR_INVALID, "its binary data is not %llu strings of 4-byte length and bytes",
                    (unsigned long long)count);
  t->offset = p->b->raw_offset + p->raw_at;
  t->bytes = size;
  p->raw_at += size;
  return LET_OK;
}

static let_err json_tensor(parse *p, let_tensor *t, uint64_t count, const char *data) {
  if (!p->b->room) return LET_ERR_AGAIN;
  let__json j = p->j;
  j.p = data;
  uint64_t at = (p->room_at + ALIGN - 1) / ALIGN * ALIGN;
  if (at > p->b->room_bytes) return let_fail(p->e, LET_ERR_TOO_LARGE, "the data does not fit the request's buffer");
  let_err r = let__oip_data(&j, t, count, p->b->room + at, p->b->room_bytes - at, &t->bytes);
  if (r) return r;
  t->offset = p->b->room_offset + at;
  p->room_at = at + t->bytes;
  return LET_OK;
}

/* What an input object said; data is where its value starts, read once everything about it is known. */
typedef struct said {
  let_str name, datatype;
  char name_text[LET_NAME_MAX], datatype_text[16];
  let_tensor t;
  const char *data;
  uint64_t raw;
  bool has_raw, has_shape;
} said;

static let_err parse_shape(parse *p, let_tensor *t) {
  bool first = true, more;
  let_err r;
  t->rank = 0;
  while (!(r = let__json_element(&p->j, &first, &more)) && more) {
    if (t->rank == LET_RANK_MAX) return let__json_fail(&p->j, "a shape has too many dimensions (8 at most)");
    if ((r = let__json_i64(&p->j, &t->shape[t->rank]))) break;
    t->rank++;
  }
  return r ? let_fail_prefix(p->e, "'shape' must be an array of integers"), r : LET_OK;
}

static let_err input_parameters(parse *p, said *s) {
  char scratch[LET_NAME_MAX];
  let_str key;
  bool first = true, more;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "binary_data_size")) s->has_raw = true, r = let__json_u64(&p->j, &s->raw);
    else if (let_str_is(key, "shared_memory_region"))
      r = let_fail(p->e, LET_ERR_UNSUPPORTED,
                   "shared memory regions are not supported: send the tensor as binary data");
    else r = let__json_skip(&p->j, 3);
    if (r) return r;
  }
  return r;
}

static let_err input_members(parse *p, said *s) {
  char scratch[LET_NAME_MAX];
  let_str key;
  bool first = true, more, b = false;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "name")) b = s->name.p, r = let__json_text(&p->j, s->name_text, sizeof s->name_text, &s->name);
    else if (let_str_is(key, "datatype"))
      b = s->datatype.p, r = let__json_text(&p->j, s->datatype_text, sizeof s->datatype_text, &s->datatype);
    else if (let_str_is(key, "shape")) b = s->has_shape, s->has_shape = true, r = parse_shape(p, &s->t);
    else if (let_str_is(key, "data"))
      b = s->data, let__json_space(&p->j), s->data = p->j.p, r = let__json_skip(&p->j, 2);
    else if (let_str_is(key, "parameters")) r = input_parameters(p, s);
    else r = let__json_skip(&p->j, 2);
    if (r) return r;
    if (b) return let__json_fail(&p->j, "an input says the same thing twice");
  }
  return r;
}

static let_err check_input(parse *p, said *s, int i) {
  const let_tensor_spec *spec = &p->m->input[i];
  let_tensor *t = &p->rec->in[i];
  if (t->present) return let_fail(p->e, LET_ERR_INVALID, "it is given twice");
  if (!s->datatype.p)
    return let_fail(p->e, LET_ERR_INVALID, "'datatype' is missing: the model takes %s", let_dtype_name(spec->dtype));
  if (!let_str_is(s->datatype, let_dtype_name(spec->dtype)))
    return let_fail(p->e, LET_ERR_INVALID, "its datatype is '%.*s' where the model takes %s",
                    s->datatype.n > 32 ? 32 : (int)s->datatype.n, s->datatype.p, let_dtype_name(spec->dtype));
  if (!s->has_shape) return let_fail(p->e, LET_ERR_INVALID, "'shape' is missing");
  if (s->data && s->has_raw)
    return let_fail(p->e, LET_ERR_INVALID, "it has both 'data' and binary_data_size: send one of them");
  if (!s->data && !s->has_raw) return let_fail(p->e, LET_ERR_INVALID, "it has neither 'data' nor binary_data_size");
  s->t.dtype = (uint8_t)spec->dtype;
  let_err r = check_shape(p, spec, &s->t);
  if (r) return r;
  uint64_t count = let__oip_count(&s->t);
  if (count == UINT64_MAX) return let_fail(p->e, LET_ERR_INVALID, "its shape is too large");
  r = s->has_raw ? raw_tensor(p, &s->t, count, s->raw) : json_tensor(p, &s->t, count, s->data);
  if (r) return r;
  p->in_room[i] = s->data != NULL;
  p->any_json |= p->in_room[i];
  s->t.present = 1;
  *t = s->t;
  return LET_OK;
}

static let_err parse_input(parse *p) {
  said s = {0};
  char text[256];
  let_err r = input_members(p, &s);
  if (r)
    return s.name.p && r != LET_ERR_AGAIN
           ? let_fail_prefix(p->e, "input '%.*s'", s.name.n > 64 ? 64 : (int)s.name.n, s.name.p),
           r : r;
  if (!s.name.p) return let__json_fail(&p->j, "an input has no 'name'");
  int i = find(p->m->input, p->m->n_inputs, s.name);
  if (i < 0)
    return let_fail(p->e, LET_ERR_INVALID, "model '%s' has no input '%.*s': its inputs are %s", p->m->name,
                    s.name.n > 64 ? 64 : (int)s.name.n, s.name.p, names(p->m->input, p->m->n_inputs, text));
  r = check_input(p, &s, i);
  if (r && r != LET_ERR_AGAIN) let_fail_prefix(p->e, "input '%s'", p->m->input[i].name);
  return r;
}

/* ---- outputs and parameters ----------------------------------------------------------------------------- */

static let_err output_parameters(parse *p, bool *binary, bool *has) {
  char scratch[LET_NAME_MAX];
  let_str key;
  bool first = true, more;
  uint64_t classes = 0;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "binary_data")) *has = true, r = let__json_bool(&p->j, binary);
    else if (let_str_is(key, "classification")) {
      if (!(r = let__json_u64(&p->j, &classes)) && classes)
        r = let_fail(p->e, LET_ERR_UNSUPPORTED,
                     "the classification extension is not supported: ask for the output itself and sort it");
    } else if (let_str_is(key, "shared_memory_region"))
      r = let_fail(p->e, LET_ERR_UNSUPPORTED, "shared memory regions are not supported: ask for binary_data");
    else r = let__json_skip(&p->j, 3);
    if (r) return r;
  }
  return r;
}

static let_err parse_output(parse *p) {
  char scratch[LET_NAME_MAX], name_text[LET_NAME_MAX], text[256];
  let_str key, name = {0};
  bool first = true, more, binary = false, has = false;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "name")) r = let__json_text(&p->j, name_text, sizeof name_text, &name);
    else if (let_str_is(key, "parameters")) r = output_parameters(p, &binary, &has);
    else r = let__json_skip(&p->j, 2);
    if (r) return r;
  }
  if (r) return r;
  if (!name.p) return let__json_fail(&p->j, "an output has no 'name'");
  int i = find(p->m->output, p->m->n_outputs, name);
  int shown = name.n > 64 ? 64 : (int)name.n;
  if (i < 0)
    return let_fail(p->e, LET_ERR_INVALID, "model '%s' has no output '%.*s': its outputs are %s", p->m->name, shown,
                    name.p, names(p->m->output, p->m->n_outputs, text));
  for (unsigned k = 0; k < p->ret->n_out; k++)
    if (p->ret->out[k] == i)
      return let_fail(p->e, LET_ERR_INVALID, "output '%s' is asked for twice", p->m->output[i].name);
  p->out_said[p->ret->n_out] = has;
  p->ret->out_binary[p->ret->n_out] = binary;
  p->ret->out[p->ret->n_out++] = (uint8_t)i;
  return LET_OK;
}

static let_err parse_parameters(parse *p) {
  char scratch[LET_NAME_MAX];
  let_str key;
  bool first = true, more;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "timeout")) r = let__json_u64(&p->j, &p->ret->timeout_us);
    else if (let_str_is(key, "priority")) r = let__json_u64(&p->j, &p->ret->priority);
    else if (let_str_is(key, "binary_data_output"))
      p->has_binary_default = true, r = let__json_bool(&p->j, &p->binary_default);
    else {
      r = let__json_skip(&p->j, 2);
      if (r) return r;
      continue;
    }
    if (r) return let_fail_prefix(p->e, "parameter '%.*s'", (int)key.n, key.p), r;
  }
  return r;
}

static let_err check_parameters(parse *p) {
  if (p->ret->timeout_us > (uint64_t)INT64_MAX / 1000 / 2)
    return let_fail(p->e, LET_ERR_INVALID, "parameter 'timeout' is too large: it is in microseconds");
  if (p->m->priority_levels && p->ret->priority > p->m->priority_levels)
    return let_fail(p->e, LET_ERR_INVALID,
                    "parameter 'priority' is above the model's %u priority_levels (1 is the highest, 0 the default)",
                    p->m->priority_levels);
  return LET_OK;
}

static let_err check_outputs(parse *p) {
  if (!p->named) {
    p->ret->n_out = p->m->n_outputs;
    for (unsigned i = 0; i < p->ret->n_out; i++) p->ret->out[i] = (uint8_t)i, p->out_said[i] = false;
  }
  for (unsigned k = 0; k < p->ret->n_out; k++) {
    if (!p->out_said[k]) p->ret->out_binary[k] = p->binary_default;
    const let_tensor_spec *s = &p->m->output[p->ret->out[k]];
    if (!p->ret->out_binary[k] && (s->dtype == LET_DTYPE_FP16 || s->dtype == LET_DTYPE_BF16))
      return let_fail(
          p->e, LET_ERR_INVALID,
          "output '%s' is %s, which has no JSON form: set the request's parameter binary_data_output to true", s->name,
          let_dtype_name(s->dtype));
  }
  return LET_OK;
}

static let_err check_inputs(parse *p) {
  char text[256];
  for (unsigned i = 0; i < p->m->n_inputs; i++)
    if (!p->rec->in[i].present && !p->m->input[i].optional)
      return let_fail(p->e, LET_ERR_INVALID, "input '%s' is missing: model '%s' takes %s", p->m->input[i].name,
                      p->m->name, names(p->m->input, p->m->n_inputs, text));
  if (!p->rec->rows) p->rec->rows = 1; /* every input is optional and none came */
  if (p->raw_at != p->b->raw_bytes)
    return let_fail(p->e, LET_ERR_INVALID,
                    "%llu bytes of binary data are left after the last input: each binary input needs its "
                    "binary_data_size, and they must add up",
                    (unsigned long long)(p->b->raw_bytes - p->raw_at));
  return LET_OK;
}

/* One slot goes with a request, so raw tensors join the decoded ones. */
static let_err gather(parse *p) {
  for (unsigned i = 0; i < p->m->n_inputs; i++) {
    let_tensor *t = &p->rec->in[i];
    if (!t->present || p->in_room[i]) continue;
    uint64_t at = (p->room_at + ALIGN - 1) / ALIGN * ALIGN;
    if (at > p->b->room_bytes || p->b->room_bytes - at < t->bytes)
      return let_fail(p->e, LET_ERR_TOO_LARGE, "the data does not fit the request's buffer");
    if (t->bytes) memcpy(p->b->room + at, p->b->raw + (t->offset - p->b->raw_offset), t->bytes);
    t->offset = p->b->room_offset + at;
    p->room_at = at + t->bytes;
  }
  return LET_OK;
}

/* ---- the document --------------------------------------------------------------------------------------- */

static let_err parse_list(parse *p, let_err (*one)(parse *p)) {
  bool first = true, more;
  let_err r;
  while (!(r = let__json_element(&p->j, &first, &more)) && more)
    if ((r = one(p))) return r;
  return r;
}

static let_err parse_id(parse *p) {
  let_str s;
  let_err r = let__json_string(&p->j, &s, NULL);
  if (r) return let_fail_prefix(p->e, "'id' must be a string"), r;
  if (s.n > LET_OIP_ID_MAX) return let_fail(p->e, LET_ERR_INVALID, "'id' is longer than %d bytes", LET_OIP_ID_MAX);
  if (!let__utf8(s)) return let_fail(p->e, LET_ERR_INVALID, "'id' is not UTF-8");
  memcpy(p->ret->id, s.p, s.n);
  p->ret->id_n = (uint16_t)s.n;
  p->ret->has_id = true;
  return LET_OK;
}

static let_err document(parse *p) {
  char scratch[LET_NAME_MAX];
  let_str key;
  bool first = true, more, inputs = false, twice = false;
  let_err r;
  while (!(r = let__json_member(&p->j, &first, scratch, sizeof scratch, &key, &more)) && more) {
    if (let_str_is(key, "inputs")) twice = inputs, inputs = true, r = parse_list(p, parse_input);
    else if (let_str_is(key, "outputs"))
      twice = p->named, r = parse_list(p, parse_output), p->named = p->ret->n_out > 0;
    else if (let_str_is(key, "parameters")) r = parse_parameters(p);
    else if (let_str_is(key, "id")) r = parse_id(p);
    else r = let__json_skip(&p->j, 1);
    if (r) return r;
    if (twice) return let__json_fail(&p->j, "'inputs' or 'outputs' is given twice");
  }
  if (r) return r;
  let__json_space(&p->j);
  if (p->j.p != p->j.end)
    return let__json_fail(&p->j,
                          "something follows the end of the document (is Inference-Header-Content-Length right?)");
  return inputs ? LET_OK : let_fail(p->e, LET_ERR_INVALID, "'inputs' is missing from the request");
}

let_err let_oip_infer_parse(const let_oip_body *b, const let_model *m, let_record *rec, let_oip_infer *ret,
                            let_error *e) {
  let_error own = {0};
  parse p = {.b = b, .m = m, .rec = rec, .ret = ret, .e = e ? e : &own};
  p.j = (let__json){.p = b->json, .end = b->json + b->json_bytes, .start = b->json, .e = p.e};
  ret->id_n = 0, ret->has_id = false, ret->n_out = 0, ret->timeout_us = ret->priority = 0;
  rec->rows = 0;
  rec->n_in = m->n_inputs;
  memset(rec->in, 0, sizeof rec->in[0] * m->n_inputs);
  if (!b->json_bytes)
    return let_fail(p.e, LET_ERR_INVALID, "the request has no body: send a JSON object with 'inputs'");
  let_err r = document(&p);
  if (r || (r = check_inputs(&p)) || (r = check_parameters(&p)) || (r = check_outputs(&p))) return r;
  return p.any_json && b->raw_bytes ? gather(&p) : LET_OK;
}

let_err let_oip_infer_raw(const let_oip_body *b, const let_model *m, let_record *rec, let_oip_infer *ret,
                          let_error *e) {
  let_error own = {0};
  parse p = {.b = b, .m = m, .rec = rec, .ret = ret, .e = e ? e : &own, .binary_default = true};
  const let_tensor_spec *s = &m->input[0];
  ret->id_n = 0, ret->has_id = false, ret->n_out = 0, ret->timeout_us = ret->priority = 0;
  rec->rows = 0;
  rec->n_in = m->n_inputs;
  memset(rec->in, 0, sizeof rec->in[0] * m->n_inputs);
  if (m->n_inputs != 1)
    return let_fail(
        p.e, LET_ERR_INVALID,
        "Inference-Header-Content-Length is 0, a raw binary request, but model '%s' has %u inputs: it works with one",
        m->name, m->n_inputs);
  unsigned batch = m->max_batch > 0;
  int open = -1;
  uint64_t row = let_dtype_size(s->dtype);
  let_tensor t = {.rank = (uint8_t)(s->rank + batch), .dtype = (uint8_t)s->dtype, .present = 1};
  if (s->dtype == LET_DTYPE_BYTES || t.rank > LET_RANK_MAX)
    return let_fail(p.e, LET_ERR_INVALID, "input '%s' cannot be sent as a raw binary request: send a JSON header",
                    s->name);
  if (batch) t.shape[0] = 1;
  for (unsigned i = 0; i < s->rank; i++) {
    t.shape[i + batch] = s->dims[i];
    if (s->dims[i] < 0 && open >= 0)
      return let_fail(
          p.e, LET_ERR_INVALID,
          "input '%s' has several open dimensions: a raw binary request cannot tell them: send a JSON header", s->name);
    if (s->dims[i] < 0) open = (int)(i + batch);
    else if (__builtin_mul_overflow(row, (uint64_t)s->dims[i], &row))
      return let_fail(p.e, LET_ERR_INVALID, "input '%s' is too large", s->name);
  }
  if (open < 0 && batch) open = 0; /* nothing else varies, so the size tells the rows */
  if (row && open >= 0) t.shape[open] = (int64_t)(b->raw_bytes / row);
  if (!row || b->raw_bytes % row || (open < 0 && b->raw_bytes != row) || !b->raw_bytes)
    return let_fail(p.e, LET_ERR_INVALID, "input '%s': the body has %llu bytes where a row of the model's has %llu",
                    s->name, (unsigned long long)b->raw_bytes, (unsigned long long)row);
  let_err r = check_shape(&p, s, &t);
  if (r) return let_fail_prefix(p.e, "input '%s'", s->name), r;
  t.offset = b->raw_offset;
  t.bytes = b->raw_bytes;
  rec->in[0] = t;
  return check_outputs(&p);
}
