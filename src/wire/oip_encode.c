/* oip_encode.c: answers and metadata. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "oip_int.h"

static size_t put_u64(char *out, uint64_t v) {
  char b[20];
  size_t n = 0;
  do b[n++] = (char)('0' + v % 10);
  while (v /= 10);
  for (size_t i = 0; i < n; i++) out[i] = b[n - 1 - i];
  return n;
}

static size_t put_i64(char *out, int64_t v) {
  if (v >= 0) return put_u64(out, (uint64_t)v);
  *out = '-';
  return 1 + put_u64(out + 1, 0 - (uint64_t)v);
}

static const double ten[] = {1e0, 1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7, 1e8,
                             1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16};

/* m / 10^k in decimal, without trailing zeros after the first decimal. */
static size_t put_scaled(char *out, uint64_t m, int k) {
  char b[24];
  while (k > 1 && m % 10 == 0) {
    m /= 10;
    k--;
  }
  size_t n = put_u64(b, m), at = 0;
  if (k == 0) {
    memcpy(out, b, n);
    memcpy(out + n, ".0", 2);
    return n + 2;
  }
  size_t d = (size_t)k;
  if (n <= d) {
    out[at++] = '0';
    out[at++] = '.';
    for (size_t i = n; i < d; i++) out[at++] = '0';
    memcpy(out + at, b, n);
    return at + n;
  }
  memcpy(out, b, n - d);
  out[n - d] = '.';
  memcpy(out + n - d + 1, b + n - d, d);
  return n + 1;
}

/* The shortest of 6 to 9 significant digits that reads back as the same float. The division below rounds once, exactly
 * as a reader of the decimal does, so the test is the reader's. */
static size_t put_f32(char *out, float f) {
  size_t at = 0;
  if (signbit(f)) {
    out[at++] = '-';
    f = -f;
  }
  double x = (double)f;
  if (f == 0) {
    memcpy(out + at, "0.0", 3);
    return at + 3;
  }
  if (x >= 1e-4 && x < 1e6) {
    int whole = 0;
    while (x >= ten[whole]) whole++; /* digits before the point; 0 below 1 */
    int lead = whole;
    for (double y = x; y < 0.1 && lead > -4; y *= 10) lead--;
    for (int digits = 6; digits <= 9; digits++) {
      int k = digits - lead;
      double m = nearbyint(x * ten[k]);
      if ((float)(m / ten[k]) == f) return at + put_scaled(out + at, (uint64_t)m, k);
    }
  }
  int n = 0;
  for (int digits = 6; digits <= 9; digits++) {
    n = snprintf(out + at, 24, "%.*g", digits, x);
    if ((float)strtod(out + at, NULL) == f) break;
  }
  return at + (size_t)n;
}

static size_t put_f64(char *out, double x) {
  size_t at = 0;
  if (x == 0) {
    if (signbit(x)) out[at++] = '-';
    memcpy(out + at, "0.0", 3);
    return at + 3;
  }
  if (fabs(x) < 1e15 && x == (double)(int64_t)x) {
    at = put_i64(out, (int64_t)x);
    memcpy(out + at, ".0", 2);
    return at + 2;
  }
  int n = 0;
  for (int digits = 15; digits <= 17; digits++) {
    n = snprintf(out, 32, "%.*g", digits, x);
    if (strtod(out, NULL) == x) break;
  }
  return (size_t)n;
}

/* ---- tensors -------------------------------------------------------------------------------------------- */

enum { ELEMENT_MAX = 32 };

#define PUT(type, expr)                     \
  {                                         \
    type v;                                 \
    memcpy(&v, p + i * sizeof v, sizeof v); \
    at += expr;                             \
    break;                                  \
  }

/* False: the value has no JSON form. */
static bool numbers(let_dtype t, const char *p, uint64_t count, let_buf *out) {
  for (uint64_t i = 0; i < count; i++) {
    if (out->cap - out->n <= ELEMENT_MAX + 1 && !let_buf_reserve(out, ELEMENT_MAX + 1))
      return true; /* out->failed says it */
    char *at = out->p + out->n;
    if (i) *at++ = ',';
    switch (t) {
    case LET_DTYPE_BOOL: {
      const char *w = p[i] ? "true" : "false";
      size_t n = strlen(w);
      memcpy(at, w, n);
      at += n;
      break;
    }
    case LET_DTYPE_UINT8: PUT(uint8_t, put_u64(at, v))
    case LET_DTYPE_UINT16: PUT(uint16_t, put_u64(at, v))
    case LET_DTYPE_UINT32: PUT(uint32_t, put_u64(at, v))
    case LET_DTYPE_UINT64: PUT(uint64_t, put_u64(at, v))
    case LET_DTYPE_INT8: PUT(int8_t, put_i64(at, v))
    case LET_DTYPE_INT16: PUT(int16_t, put_i64(at, v))
    case LET_DTYPE_INT32: PUT(int32_t, put_i64(at, v))
    case LET_DTYPE_INT64: PUT(int64_t, put_i64(at, v))
    case LET_DTYPE_FP32: {
      float v;
      memcpy(&v, p + i * sizeof v, sizeof v);
      if (!isfinite(v)) return false;
      at += put_f32(at, v);
      break;
    }
    case LET_DTYPE_FP64: {
      double v;
      memcpy(&v, p + i * sizeof v, sizeof v);
      if (!isfinite(v)) return false;
      at += put_f64(at, v);
      break;
    }
    default: return false;
    }
    out->n = (size_t)(at - out->p);
  }
  return true;
}
#undef PUT

/* BYTES. 0: ok, -1: framing broken, 1: not UTF-8. */
static int strings(const char *p, uint64_t n, uint64_t count, let_buf *out) {
  for (uint64_t i = 0; i < count; i++) {
    uint32_t len;
    if (n < 4) return -1;
    memcpy(&len, p, 4);
    if (n - 4 < len) return -1;
    let_str s = {p + 4, len};
    if (out) {
      if (!let__utf8(s)) return 1;
      if (i) let_buf_add(out, ",", 1);
      let_oip_string(out, s);
    }
    p += 4 + (uint64_t)len;
    n -= 4 + (uint64_t)len;
  }
  return n == 0 ? 0 : -1;
}

static let_err tensor(const let_tensor_spec *s, const let_oip_output *o, bool binary, let_buf *out, let_error *e) {
  const let_tensor *t = &o->t;
  uint64_t count = t->rank <= LET_RANK_MAX ? let__oip_count(t) : UINT64_MAX, bytes = 0;
  uint32_t size = let_dtype_size(t->dtype);
  bool sane = t->dtype == s->dtype && count != UINT64_MAX;
  if (sane && size) sane = !__builtin_mul_overflow(count, (uint64_t)size, &bytes) && bytes == t->bytes;
  else if (sane) sane = t->dtype == LET_DTYPE_BYTES && strings(o->data, t->bytes, count, NULL) == 0;
  if (!sane)
    return let_fail(
        e, LET_ERR_INTERNAL,
        "output '%s': the worker returned %s of %llu bytes that its shape does not explain; the configuration says %s",
        s->name, let_dtype_name(t->dtype), (unsigned long long)t->bytes, let_dtype_name(s->dtype));
  let_buf_str(out, "{\"name\":");
  let_oip_string(out, let_str_c(s->name));
  let_buf_fmt(out, ",\"datatype\":\"%s\",\"shape\":[", let_dtype_name(t->dtype));
  for (unsigned i = 0; i < t->rank; i++) let_buf_fmt(out, i ? ",%lld" : "%lld", (long long)t->shape[i]);
  if (binary) {
    let_buf_fmt(out, "],\"parameters\":{\"binary_data_size\":%llu}}", (unsigned long long)t->bytes);
    return LET_OK;
  }
  let_buf_str(out, "],\"data\":[");
  if (size ? !numbers(t->dtype, o->data, count, out) : strings(o->data, t->bytes, count, out) != 0)
    return let_fail(e, LET_ERR_INVALID,
                    "output '%s' has a value without a JSON form (NaN, infinity, or not UTF-8): set the request's "
                    "parameter binary_data_output to true",
                    s->name);
  let_buf_str(out, "]}");
  return LET_OK;
}

let_err let_oip_infer_answer(const let_model *m, const let_oip_infer *i, const let_oip_output *o, let_buf *out,
                             uint64_t *ret_raw, let_error *e) {
  uint64_t raw = 0;
  let_buf_str(out, "{\"model_name\":");
  let_oip_string(out, let_str_c(m->name));
  let_buf_fmt(out, ",\"model_version\":\"%lld\"", (long long)m->version);
  if (i->has_id) {
    let_buf_str(out, ",\"id\":\"");
    let_buf_add(out, i->id, i->id_n);
    let_buf_str(out, "\"");
  }
  let_buf_str(out, ",\"outputs\":[");
  for (unsigned k = 0; k < i->n_out; k++) {
    unsigned at = i->out[k];
    if (k) let_buf_add(out, ",", 1);
    let_err r = tensor(&m->output[at], &o[at], i->out_binary[k], out, e);
    if (r) return r;
    if (i->out_binary[k]) raw += o[at].t.bytes;
  }
  let_buf_str(out, "]}");
  if (out->failed) return let_fail(e, LET_ERR_NOMEM, "out of memory for the answer");
  *ret_raw = raw;
  return LET_OK;
}

/* ---- metadata ------------------------------------------------------------------------------------------- */

void let_oip_error(let_buf *out, const char *text) {
  let_buf_str(out, "{\"error\":");
  let_oip_string(out, let_str_c(text));
  let_buf_str(out, "}");
}

void let_oip_server(let_buf *out, const char *name, const char *version) {
  let_buf_str(out, "{\"name\":");
  let_oip_string(out, let_str_c(name));
  let_buf_str(out, ",\"version\":");
  let_oip_string(out, let_str_c(version));
  /* perf_analyzer believes this list: what stands here must be whole. */
  let_buf_str(out, ",\"extensions\":[\"binary_tensor_data\",\"parameters\",\"schedule_policy\",\"model_configuration\","
                   "\"statistics\"]}");
}

static void specs(let_buf *out, const let_model *m, const let_tensor_spec *t, unsigned n) {
  for (unsigned i = 0; i < n; i++) {
    let_buf_str(out, i ? ",{\"name\":" : "{\"name\":");
    let_oip_string(out, let_str_c(t[i].name));
    let_buf_fmt(out, ",\"datatype\":\"%s\",\"shape\":[%s", let_dtype_name(t[i].dtype), m->max_batch ? "-1" : "");
    for (unsigned d = 0; d < t[i].rank; d++)
      let_buf_fmt(out, d || m->max_batch ? ",%lld" : "%lld", (long long)t[i].dims[d]);
    let_buf_str(out, "]}");
  }
}

void let_oip_model(let_buf *out, const let_model *m) {
  let_buf_str(out, "{\"name\":");
  let_oip_string(out, let_str_c(m->name));
  let_buf_fmt(out, ",\"versions\":[\"%lld\"],\"platform\":", (long long)m->version);
  let_oip_string(out, let_str_c(m->platform));
  let_buf_str(out, ",\"inputs\":[");
  specs(out, m, m->input, m->n_inputs);
  let_buf_str(out, "],\"outputs\":[");
  specs(out, m, m->output, m->n_outputs);
  let_buf_str(out, "]}");
}

void let_oip_index_entry(let_buf *out, const let_model *m, bool ready) {
  let_buf_str(out, "{\"name\":");
  let_oip_string(out, let_str_c(m->name));
  let_buf_fmt(out, ",\"version\":\"%lld\",\"state\":\"%s\",\"reason\":\"%s\"}", (long long)m->version,
              ready ? "READY" : "UNAVAILABLE", ready ? "" : "no gpu-let serves it yet");
}
