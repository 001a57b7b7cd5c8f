/* oip_data.c: the numbers of a JSON tensor, straight into its slot. */
#include <float.h>
#include <stdio.h>

#include "oip_int.h"

typedef struct cursor {
  let__json *j;
  const let_tensor *t;
  char *out, *end;
} cursor;

uint64_t let__oip_count(const let_tensor *t) {
  uint64_t n = 1;
  for (unsigned i = 0; i < t->rank; i++)
    if (t->shape[i] < 0 || __builtin_mul_overflow(n, (uint64_t)t->shape[i], &n)) return UINT64_MAX;
  return n;
}

static let_err too_few(const let__json *j, uint64_t got, uint64_t want) {
  char what[128];
  snprintf(what, sizeof what, "the data has %llu elements here where the shape says %llu", (unsigned long long)got,
           (unsigned long long)want);
  return let__json_fail(j, what);
}

static let_err between(let__json *j, uint64_t i, uint64_t want) {
  if (i == 0) return LET_OK;
  char c = let__json_peek(j);
  if (c == ']') return too_few(j, i, want);
  if (c != ',') return let__json_fail(j, "expected ',' or ']'");
  j->p++;
  return LET_OK;
}

static let_err range(const let__json *j, const char *type) {
  char what[64];
  snprintf(what, sizeof what, "the number is out of range for %s", type);
  return let__json_fail(j, what);
}

/* One loop per type: the type is looked at once per row of numbers, not once per number. */
#define RUN(name, type, wide, read, fits)                         \
  static let_err run_##name(cursor *c, uint64_t want) {           \
    let__json *j = c->j;                                          \
    for (uint64_t i = 0; i < want; i++, c->out += sizeof(type)) { \
      wide w;                                                     \
      let_err r = between(j, i, want);                            \
      if (r || (r = read(j, &w))) return r;                       \
      if (!(fits)) return range(j, let_dtype_name(c->t->dtype));  \
      type v = (type)w;                                           \
      memcpy(c->out, &v, sizeof v);                               \
    }                                                             \
    return LET_OK;                                                \
  }
RUN(bool, uint8_t, bool, let__json_bool, true)
RUN(u8, uint8_t, uint64_t, let__json_u64, w <= UINT8_MAX)
RUN(u16, uint16_t, uint64_t, let__json_u64, w <= UINT16_MAX)
RUN(u32, uint32_t, uint64_t, let__json_u64, w <= UINT32_MAX)
RUN(u64, uint64_t, uint64_t, let__json_u64, true)
RUN(i8, int8_t, int64_t, let__json_i64, w >= INT8_MIN && w <= INT8_MAX)
RUN(i16, int16_t, int64_t, let__json_i64, w >= INT16_MIN && w <= INT16_MAX)
RUN(i32, int32_t, int64_t, let__json_i64, w >= INT32_MIN && w <= INT32_MAX)
RUN(i64, int64_t, int64_t, let__json_i64, true)
/* 0x1.ffffffp127 is where rounding to float becomes infinity. */
RUN(f32, float, double, let__json_f64, w<0x1.ffffffp127 && w> - 0x1.ffffffp127)
RUN(f64, double, double, let__json_f64, w <= DBL_MAX && w >= -DBL_MAX)
#undef RUN

static let_err run_bytes(cursor *c, uint64_t want) {
  for (uint64_t i = 0; i < want; i++) {
    let_str s;
    bool escaped;
    let_err r = between(c->j, i, want);
    if (r || (r = let__json_string(c->j, &s, &escaped))) return r;
    if (!let__utf8(s)) return let__json_fail(c->j, "the string before this is not UTF-8 (send bytes as binary data)");
    if (s.n > UINT32_MAX || (uint64_t)(c->end - c->out) < 4 + (uint64_t)s.n)
      return let__json_fail(c->j, "the strings are too long");
    uint32_t n = (uint32_t)s.n;
    if (escaped) n = (uint32_t)let__json_unescape(s, c->out + 4);
    else if (n) memcpy(c->out + 4, s.p, n);
    memcpy(c->out, &n, 4);
    c->out += 4 + n;
  }
  return LET_OK;
}

static let_err run(cursor *c, uint64_t want) {
  switch ((let_dtype)c->t->dtype) {
  case LET_DTYPE_BOOL: return run_bool(c, want);
  case LET_DTYPE_UINT8: return run_u8(c, want);
  case LET_DTYPE_UINT16: return run_u16(c, want);
  case LET_DTYPE_UINT32: return run_u32(c, want);
  case LET_DTYPE_UINT64: return run_u64(c, want);
  case LET_DTYPE_INT8: return run_i8(c, want);
  case LET_DTYPE_INT16: return run_i16(c, want);
  case LET_DTYPE_INT32: return run_i32(c, want);
  case LET_DTYPE_INT64: return run_i64(c, want);
  case LET_DTYPE_FP32: return run_f32(c, want);
  case LET_DTYPE_FP64: return run_f64(c, want);
  case LET_DTYPE_BYTES: return run_bytes(c, want);
  default:
    return let_fail(c->j->e, LET_ERR_INVALID, "%s has no JSON form: send it as binary data",
                    let_dtype_name(c->t->dtype));
  }
}

/* The array that holds everything from dimension |depth| on: nested arrays, or all its elements in a row. */
static let_err level(cursor *c, unsigned depth) {
  let__json *j = c->j;
  let_err r = let__json_expect(j, '[');
  if (r) return r;
  uint64_t want = 1;
  if (depth < c->t->rank && let__json_peek(j) == '[') {
    if (depth + 1 == c->t->rank) return let__json_fail(j, "the data is nested more deeply than the shape");
    want = (uint64_t)c->t->shape[depth];
    for (uint64_t i = 0; i < want; i++)
      if ((r = between(j, i, want)) || (r = level(c, depth + 1))) return r;
  } else {
    for (unsigned i = depth; i < c->t->rank; i++) want *= (uint64_t)c->t->shape[i];
    if (let__json_peek(j) == ']') return too_few(j, 0, want);
    if ((r = run(c, want))) return r;
  }
  if (let__json_peek(j) == ',') {
    char what[96];
    snprintf(what, sizeof what, "the data has more elements here than the shape's %llu", (unsigned long long)want);
    return let__json_fail(j, what);
  }
  return let__json_expect(j, ']');
}

let_err let__oip_data(let__json *j, const let_tensor *t, uint64_t count, char *out, uint64_t cap, uint64_t *ret_bytes) {
  cursor c = {.j = j, .t = t, .out = out, .end = out + cap};
  uint32_t size = let_dtype_size(t->dtype);
  /* Every element takes a byte and a separator in the document; what cannot be there is not worth looking for, and
   * what is there fits the room (let_oip_room). */
  if (count > (uint64_t)(j->end - j->p) / 2 + 1)
    return let_fail(j->e, LET_ERR_INVALID, "the data has fewer elements than the shape's %llu",
                    (unsigned long long)count);
  if (count > cap / (size ? size : 4))
    return let_fail(j->e, LET_ERR_TOO_LARGE, "the data does not fit the request's buffer");
  let_err r = level(&c, 0);
  if (!r) *ret_bytes = (uint64_t)(c.out - out);
  return r;
}
