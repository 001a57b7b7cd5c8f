/* oip_reader.c: JSON read in place, one pass, no tree. jansson would build a node per number; a 224x224 image has
 * 150,528. */
#include <stdlib.h>

#include "oip_int.h"

let_err let__json_fail(const let__json *j, const char *what) {
  return let_fail(j->e, LET_ERR_INVALID, "JSON, byte %zu: %s", (size_t)(j->p - j->start),
                  j->p < j->end ? what : "the document ends too early");
}

let_err let__json_expect(let__json *j, char c) {
  if (let__json_peek(j) != c) {
    char what[] = "expected '?'";
    what[10] = c;
    return let__json_fail(j, what);
  }
  j->p++;
  return LET_OK;
}

static int hex4(const char *p, const char *end) {
  int v = 0;
  if (end - p < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char c = p[i];
    int d = c >= '0' && c <= '9'   ? c - '0'
            : c >= 'a' && c <= 'f' ? c - 'a' + 10
            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                   : -1;
    if (d < 0) return -1;
    v = v * 16 + d;
  }
  return v;
}

let_err let__json_string(let__json *j, let_str *ret, bool *ret_escaped) {
  if (let__json_peek(j) != '"') return let__json_fail(j, "expected a string");
  const char *from = ++j->p;
  bool escaped = false;
  for (;; j->p++) {
    if (j->p == j->end) return let__json_fail(j, "");
    unsigned char c = (unsigned char)*j->p;
    if (c == '"') break;
    if (c < 0x20) return let__json_fail(j, "a control character in a string must be escaped");
    if (c != '\\') continue;
    escaped = true;
    if (++j->p == j->end) return let__json_fail(j, "");
    if (*j->p == 'u') {
      int u = hex4(j->p + 1, j->end);
      if (u < 0) return let__json_fail(j, "\\u needs four hexadecimal digits");
      j->p += 4;
      if (u >= 0xdc00 && u <= 0xdfff) return let__json_fail(j, "a low surrogate without its high one");
      if (u >= 0xd800 && u <= 0xdbff) {
        int low = j->end - j->p > 6 && j->p[1] == '\\' && j->p[2] == 'u' ? hex4(j->p + 3, j->end) : -1;
        if (low < 0xdc00 || low > 0xdfff) return let__json_fail(j, "a high surrogate without its low one");
        j->p += 6;
      }
    } else if (!*j->p || !strchr("\"\\/bfnrt", *j->p)) {
      return let__json_fail(j, "an unknown escape in a string");
    }
  }
  *ret = (let_str){from, (size_t)(j->p - from)};
  if (ret_escaped) *ret_escaped = escaped;
  j->p++;
  return LET_OK;
}

static char *put_utf8(char *o, unsigned u) {
  if (u < 0x80) *o++ = (char)u;
  else if (u < 0x800) {
    *o++ = (char)(0xc0 | u >> 6);
    *o++ = (char)(0x80 | (u & 63));
  } else if (u < 0x10000)
    *o++ = (char)(0xe0 | u >> 12), *o++ = (char)(0x80 | (u >> 6 & 63)), *o++ = (char)(0x80 | (u & 63));
  else
    *o++ = (char)(0xf0 | u >> 18), *o++ = (char)(0x80 | (u >> 12 & 63)), *o++ = (char)(0x80 | (u >> 6 & 63)),
    *o++ = (char)(0x80 | (u & 63));
  return o;
}

size_t let__json_unescape(let_str s, char *out) {
  char *o = out;
  const char *end = s.p + s.n;
  for (const char *p = s.p; p < end; p++) {
    if (*p != '\\') {
      *o++ = *p;
      continue;
    }
    switch (*++p) {
    case 'b': *o++ = '\b'; break;
    case 'f': *o++ = '\f'; break;
    case 'n': *o++ = '\n'; break;
    case 'r': *o++ = '\r'; break;
    case 't': *o++ = '\t'; break;
    case 'u': {
      unsigned u = (unsigned)hex4(p + 1, end);
      p += 4;
      if (u >= 0xd800 && u <= 0xdbff) {
        u = 0x10000 + ((u - 0xd800) << 10) + ((unsigned)hex4(p + 3, end) - 0xdc00);
        p += 6;
      }
      o = put_utf8(o, u);
      break;
    }
    default: *o++ = *p; break;
    }
  }
  return (size_t)(o - out);
}

let_err let__json_text(let__json *j, char *out, size_t cap, let_str *ret) {
  bool escaped;
  let_str s;
  let_err r = let__json_string(j, &s, &escaped);
  if (r) return r;
  if (escaped) {
    if (s.n > cap) return let__json_fail(j, "a string with escapes is too long here");
    s = (let_str){out, let__json_unescape(s, out)};
  }
  *ret = s;
  return LET_OK;
}

/* ---- numbers -------------------------------------------------------------------------------------------- */

typedef struct num {
  const char *from;
  uint64_t digits; /* the first 19 significant ones */
  int exp10;       /* value = digits * 10^exp10, when exact */
  bool negative, integer, exact;
} num;

static inline bool digit(const let__json *j) { return j->p < j->end && *j->p >= '0' && *j->p <= '9'; }

static let_err scan_number(let__json *j, num *n) {
  let__json_space(j);
  *n = (num){.from = j->p, .integer = true, .exact = true};
  if (j->p < j->end && *j->p == '-') {
    n->negative = true;
    j->p++;
  }
  if (!digit(j)) {
    j->p = n->from;
    return let__json_fail(j, "expected a number (NaN and infinity have no JSON form: use binary data)");
  }
  bool zero = *j->p == '0';
  const char *whole = j->p;
  int used = 0;
  for (; digit(j); j->p++) {
    if (used < 19) {
      n->digits = n->digits * 10 + (uint64_t)(*j->p - '0');
      used += n->digits != 0;
    } else n->exact = false;
  }
  if (zero && j->p - whole > 1) return let__json_fail(j, "a number must not start with 0");
  if (j->p < j->end && *j->p == '.') {
    j->p++;
    n->integer = false;
    if (!digit(j)) return let__json_fail(j, "a digit must follow the decimal point");
    for (; digit(j); j->p++) {
      if (used < 19 && n->exp10 > -400) {
        n->digits = n->digits * 10 + (uint64_t)(*j->p - '0');
        n->exp10--;
        used += n->digits != 0;
      } else if (*j->p != '0') n->exact = false;
    }
  }
  if (j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
    j->p++;
    n->integer = false;
    bool down = j->p < j->end && *j->p == '-';
    if (down || (j->p < j->end && *j->p == '+')) j->p++;
    if (!digit(j)) return let__json_fail(j, "a digit must follow the exponent's 'e'");
    int x = 0;
    for (; digit(j); j->p++) x = x < 100000 ? x * 10 + (*j->p - '0') : x;
    n->exp10 += down ? -x : x;
  }
  /* Whatever comes next ends the number, and lets strtod stop inside the document. */
  if (j->p == j->end) return let__json_fail(j, "");
  return LET_OK;
}

static const double ten[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

let_err let__json_f64(let__json *j, double *ret) {
  num n;
  let_err r = scan_number(j, &n);
  if (r) return r;
  double v;
  /* Both factors are exact doubles, so one rounding is left (Clinger 1990). */
  if (n.exact && n.digits < (1ull << 53) && n.exp10 >= -22 && n.exp10 <= 22) {
    v = n.exp10 < 0 ? (double)n.digits / ten[-n.exp10] : (double)n.digits * ten[n.exp10];
    if (n.negative) v = -v;
  } else {
    v = strtod(n.from, NULL);
  }
  *ret = v;
  return LET_OK;
}

static let_err integer(let__json *j, num *n) {
  let_err r = scan_number(j, n);
  if (r) return r;
  if (!n->integer) return let__json_fail(j, "expected an integer");
  if (!n->exact) { /* 20 digits or more: only 2^64-1 and below has a chance */
    uint64_t v = 0;
    for (const char *p = n->from + n->negative; p < j->p; p++)
      if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
        return let__json_fail(j, "the integer is out of range");
    n->digits = v;
  }
  return LET_OK;
}

let_err let__json_u64(let__json *j, uint64_t *ret) {
  num n;
  let_err r = integer(j, &n);
  if (r) return r;
  if (n.negative && n.digits) return let__json_fail(j, "the integer is out of range: it must not be negative");
  *ret = n.digits;
  return LET_OK;
}

let_err let__json_i64(let__json *j, int64_t *ret) {
  num n;
  let_err r = integer(j, &n);
  if (r) return r;
  if (n.digits > (uint64_t)INT64_MAX + n.negative) return let__json_fail(j, "the integer is out of range");
  *ret = n.negative ? (int64_t)(0 - n.digits) : (int64_t)n.digits;
  return LET_OK;
}

static bool word(let__json *j, const char *w) {
  size_t n = strlen(w);
  if ((size_t)(j->end - j->p) < n || memcmp(j->p, w, n) != 0) return false;
  j->p += n;
  return true;
}

let_err let__json_bool(let__json *j, bool *ret) {
  let__json_space(j);
  if (word(j, "true")) {
    *ret = true;
    return LET_OK;
  }
  if (word(j, "false")) {
    *ret = false;
    return LET_OK;
  }
  return let__json_fail(j, "expected true or false");
}

/* ---- structure ------------------------------------------------------------------------------------------ */

let_err let__json_element(let__json *j, bool *first, bool *ret_more) {
  let_err r = LET_OK;
  if (*first) {
    if ((r = let__json_expect(j, '['))) return r;
    *first = false;
    if (let__json_peek(j) == ']') {
      j->p++;
      *ret_more = false;
      return LET_OK;
    }
  } else {
    char c = let__json_peek(j);
    if (c == ']') {
      j->p++;
      *ret_more = false;
      return LET_OK;
    }
    if (c != ',') return let__json_fail(j, "expected ',' or ']'");
    j->p++;
  }
  *ret_more = true;
  return LET_OK;
}

let_err let__json_member(let__json *j, bool *first, char *out, size_t cap, let_str *ret_key, bool *ret_more) {
  let_err r = LET_OK;
  if (*first) {
    if ((r = let__json_expect(j, '{'))) return r;
    *first = false;
    if (let__json_peek(j) == '}') {
      j->p++;
      *ret_more = false;
      return LET_OK;
    }
  } else {
    char c = let__json_peek(j);
    if (c == '}') {
      j->p++;
      *ret_more = false;
      return LET_OK;
    }
    if (c != ',') return let__json_fail(j, "expected ',' or '}'");
    j->p++;
  }
  if ((r = let__json_text(j, out, cap, ret_key))) return r;
  *ret_more = true;
  return let__json_expect(j, ':');
}

let_err let__json_skip(let__json *j, unsigned depth) {
  char scratch[LET_NAME_MAX], c = let__json_peek(j);
  let_str key;
  bool first = true, more, b;
  let_err r;
  if (depth > LET__JSON_DEPTH) return let__json_fail(j, "nested too deeply");
  switch (c) {
  case '{':
    while (!(r = let__json_member(j, &first, scratch, sizeof scratch, &key, &more)) && more)
      if ((r = let__json_skip(j, depth + 1))) return r;
    return r;
  case '[':
    while (!(r = let__json_element(j, &first, &more)) && more)
      if ((r = let__json_skip(j, depth + 1))) return r;
    return r;
  case '"': return let__json_string(j, &key, NULL);
  case 't':
  case 'f': return let__json_bool(j, &b);
  case 'n': return word(j, "null") ? LET_OK : let__json_fail(j, "expected a value");
  default: {
    num n;
    return scan_number(j, &n);
  }
  }
}

/* Length of the UTF-8 sequence at p; 0: not one. No overlong forms, no surrogates. */
static size_t sequence(const unsigned char *p, size_t n) {
  if (p[0] < 0x80) return 1;
  size_t len = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
  if (!len || len > n) return 0;
  for (size_t i = 1; i < len; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
      (p[0] == 0xf4 && p[1] > 0x8f))
    return 0;
  return len;
}

bool let__utf8(let_str s) {
  for (size_t i = 0, len; i < s.n; i += len)
    if (!(len = sequence((const unsigned char *)s.p + i, s.n - i))) return false;
  return true;
}

void let_oip_string(let_buf *out, let_str s) {
  let_buf_add(out, "\"", 1);
  size_t from = 0, len;
  for (size_t i = 0; i < s.n; i += len) {
    unsigned char c = (unsigned char)s.p[i];
    len = sequence((const unsigned char *)s.p + i, s.n - i);
    if (len && c >= 0x20 && c != '"' && c != '\\') continue;
    if (i > from) let_buf_add(out, s.p + from, i - from);
    if (!len) {
      let_buf_str(out, "\xef\xbf\xbd");
      len = 1;
    } else if (c == '"') let_buf_str(out, "\\\"");
    else if (c == '\\') let_buf_str(out, "\\\\");
    else if (c == '\n') let_buf_str(out, "\\n");
    else let_buf_fmt(out, "\\u%04x", c);
    from = i + len;
  }
  if (s.n > from) let_buf_add(out, s.p + from, s.n - from);
  let_buf_add(out, "\"", 1);
}
