/* oip_int.h: what the OIP decoder and encoder share: a JSON reader that works in place. */
#ifndef LET_WIRE_OIP_INT_H
#define LET_WIRE_OIP_INT_H

#include "wire/oip_json.h"

enum { LET__JSON_DEPTH = 32 };

typedef struct let__json {
  const char *p, *end, *start;
  let_error *e;
} let__json;

let_err let__json_fail(const let__json *j, const char *what); /* INVALID, with the position */
static inline void let__json_space(let__json *j) {
  while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t')) j->p++;
}
/* The next byte after white space; 0 at the end. */
static inline char let__json_peek(let__json *j) {
  let__json_space(j);
  return j->p < j->end ? *j->p : 0;
}
let_err let__json_expect(let__json *j, char c);
/* A string: *ret is a view of what stands between the quotes, escapes and all; its escapes are checked. */
let_err let__json_string(let__json *j, let_str *ret, bool *ret_escaped);
/* A string decoded into |out| unless it has no escapes. */
let_err let__json_text(let__json *j, char *out, size_t cap, let_str *ret);
size_t let__json_unescape(let_str s, char *out);      /* s as let__json_string returned it; out holds s.n bytes */
let_err let__json_skip(let__json *j, unsigned depth); /* any value */
/* Steps through {"key": value, ...} and [value, ...]: *ret_more is false after the last; |first| starts true. */
let_err let__json_member(let__json *j, bool *first, char *out, size_t cap, let_str *ret_key, bool *ret_more);
let_err let__json_element(let__json *j, bool *first, bool *ret_more);
let_err let__json_i64(let__json *j, int64_t *ret);
let_err let__json_u64(let__json *j, uint64_t *ret);
let_err let__json_f64(let__json *j, double *ret);
let_err let__json_bool(let__json *j, bool *ret);
bool let__utf8(let_str s);

/* "data" of one tensor: |count| elements of |t| with this shape, flat or nested in row-major order, into |out|. BYTES
 * elements have no fixed size: *ret_bytes of at most |cap|. */
let_err let__oip_data(let__json *j, const let_tensor *t, uint64_t count, char *out, uint64_t cap, uint64_t *ret_bytes);

/* Elements of |t|'s shape; UINT64_MAX on overflow. */
uint64_t let__oip_count(const let_tensor *t);

#endif
