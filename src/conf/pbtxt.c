#include "conf/pbtxt.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct parser {
  const char *p, *end, *line_start, *file;
  uint32_t line;
  let_arena *arena;
  let_error *e;
  let_err failed;
} parser;

static uint32_t column(const parser *s) { return (uint32_t)(s->p - s->line_start) + 1; }

static bool fail(parser *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(parser *s, const char *fmt, ...) {
  char text[sizeof s->e->text];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  s->failed = let_fail(s->e, LET_ERR_INVALID, "%s:%u:%u: %s", s->file, s->line, column(s), text);
  return false;
}

static bool no_memory(parser *s) {
  s->failed = let_fail(s->e, LET_ERR_NOMEM, "%s: out of memory", s->file);
  return false;
}

static void skip(parser *s) {
  for (; s->p < s->end; s->p++) {
    if (*s->p == '\n') {
      s->line++;
      s->line_start = s->p + 1;
    } else if (*s->p == '#') {
      while (s->p + 1 < s->end && s->p[1] != '\n') s->p++;
    } else if (*s->p != ' ' && *s->p != '\t' && *s->p != '\r' && *s->p != '\v' && *s->p != '\f') {
      return;
    }
  }
}

static int peek(parser *s) {
  skip(s);
  return s->p < s->end ? (unsigned char)*s->p : -1;
}

static bool take(parser *s, char c) {
  if (peek(s) != (unsigned char)c) return false;
  s->p++;
  return true;
}

static bool is_letter(int c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_digit(int c) { return c >= '0' && c <= '9'; }
static int hex(int c) {
  return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* What stands here, for "but found ...". */
static const char *found(parser *s, char out[40]) {
  int c = peek(s);
  if (c < 0) snprintf(out, 40, "the end of the file");
  else if (c < 32 || c > 126) snprintf(out, 40, "byte 0x%02x", (unsigned)c);
  else if (is_letter(c) || is_digit(c)) {
    int n = 0;
    while (n < 24 && s->p + n < s->end && (is_letter((unsigned char)s->p[n]) || is_digit((unsigned char)s->p[n]))) n++;
    snprintf(out, 40, "'%.*s'", n, s->p);
  } else snprintf(out, 40, "'%c'", c);
  return out;
}

static let_str word(parser *s) {
  const char *from = s->p;
  while (s->p < s->end && (is_letter((unsigned char)*s->p) || is_digit((unsigned char)*s->p))) s->p++;
  return (let_str){from, (size_t)(s->p - from)};
}

/* ---- strings */

static bool put_utf8(parser *s, char *out, size_t *n, uint32_t c) {
  if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return fail(s, "\\u%04x is no character", c);
  if (c < 0x80) {
    out[(*n)++] = (char)c;
  } else if (c < 0x800) {
    out[(*n)++] = (char)(0xc0 | c >> 6), out[(*n)++] = (char)(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out[(*n)++] = (char)(0xe0 | c >> 12), out[(*n)++] = (char)(0x80 | (c >> 6 & 63)),
    out[(*n)++] = (char)(0x80 | (c & 63));
  } else {
    out[(*n)++] = (char)(0xf0 | c >> 18), out[(*n)++] = (char)(0x80 | (c >> 12 & 63));
    out[(*n)++] = (char)(0x80 | (c >> 6 & 63)), out[(*n)++] = (char)(0x80 | (c & 63));
  }
  return true;
}

/* Digits of base 1 << |bits|, at most |max| of them. */
static uint32_t digits(parser *s, int bits, int max, int *ret_n) {
  uint32_t v = 0;
  int n = 0;
  for (; n < max && s->p < s->end; n++, s->p++) {
    int d = hex((unsigned char)*s->p);
    if (d < 0 || d >= 1 << bits) break;
    v = v << bits | (uint32_t)d;
  }
  *ret_n = n;
  return v;
}

/* Behind a backslash. An escape is never shorter than what it stands for, so |out| (as large as the text) holds it. */
static bool escape(parser *s, char *out, size_t *n) {
  static const char from[] = "abfnrtv\\'\"?", to[] = "\a\b\f\n\r\t\v\\'\"?";
  if (s->p == s->end) return fail(s, "the string has no end");
  char c = *s->p;
  const char *at = c ? strchr(from, c) : NULL;
  int k;
  if (at) {
    s->p++;
    out[(*n)++] = to[at - from];
    return true;
  }
  if (c >= '0' && c <= '7') {
    uint32_t v = digits(s, 3, 3, &k);
    if (v > 255) return fail(s, "octal escape above \\377");
    out[(*n)++] = (char)v;
    return true;
  }
  if (c == 'x' || c == 'X') {
    s->p++;
    uint32_t v = digits(s, 4, 2, &k);
    if (k == 0) return fail(s, "\\x needs hexadecimal digits");
    out[(*n)++] = (char)v;
    return true;
  }
  if (c == 'u' || c == 'U') {
    int want = c == 'u' ? 4 : 8;
    s->p++;
    uint32_t v = digits(s, 4, want, &k);
    if (k != want) return fail(s, "\\%c needs %d hexadecimal digits", c, want);
    return put_utf8(s, out, n, v);
  }
  return fail(s, "unknown escape '\\%c' in a string", c >= 32 && c < 127 ? c : '?');
}

static bool piece(parser *s, char *out, size_t *n) {
  char quote = *s->p++;
  while (s->p < s->end) {
    char c = *s->p++;
    if (c == quote) return true;
    if (c == '\n') return s->p--, fail(s, "the string has no end on its line (missing %c)", quote);
    if (c != '\\') out[(*n)++] = c;
    else if (!escape(s, out, n)) return false;
  }
  return fail(s, "the string has no end (missing %c)", quote);
}

/* Bytes from here to the end of the last adjacent piece: a bound on the decoded length. */
static size_t extent(const parser *from) {
  parser s = *from;
  for (;;) {
    int c = peek(&s);
    if (c != '"' && c != '\'') return (size_t)(s.p - from->p);
    s.p++;
    while (s.p < s.end && *s.p != c && *s.p != '\n') s.p += *s.p == '\\' && s.p + 1 < s.end ? 2 : 1;
    if (s.p < s.end) s.p++;
  }
}

static bool string(parser *s, let_str *ret) {
  char *out = let_arena_alloc(s->arena, extent(s) + 1);
  if (!out) return no_memory(s);
  size_t n = 0;
  for (int c = peek(s); c == '"' || c == '\''; c = peek(s))
    if (!piece(s, out, &n)) return false;
  *ret = (let_str){out, n};
  return true;
}

/* ---- numbers and words */

static bool number(parser *s, const char *from, let_str *ret) {
  const char *p = s->p;
  bool prefixed = p + 1 < s->end && *p == '0' && (p[1] == 'x' || p[1] == 'X');
  if (prefixed) {
    for (p += 2; p < s->end && hex((unsigned char)*p) >= 0;) p++;
    if (p == s->p + 2) return fail(s, "0x needs hexadecimal digits");
  } else {
    while (p < s->end && is_digit((unsigned char)*p)) p++;
    if (p < s->end && *p == '.')
      for (p++; p < s->end && is_digit((unsigned char)*p);) p++;
    if (p < s->end && (*p == 'e' || *p == 'E')) {
      const char *exponent = p++;
      if (p < s->end && (*p == '+' || *p == '-')) p++;
      if (p == s->end || !is_digit((unsigned char)*p)) return s->p = exponent, fail(s, "the exponent has no digits");
      while (p < s->end && is_digit((unsigned char)*p)) p++;
    }
    if (p < s->end && (*p == 'f' || *p == 'F')) p++;
  }
  if (p < s->end && (is_letter((unsigned char)*p) || is_digit((unsigned char)*p) || *p == '.'))
    return s->p = p, fail(s, "unexpected '%c' in a number", *p);
  s->p = p;
  size_t n = (size_t)(p - from);
  if (*from != '-') return *ret = (let_str){from, n}, true;
  /* Blanks and comments may stand between the sign and the number: join them. */
  const char *begin = from + 1;
  while (begin < p && !is_digit((unsigned char)*begin) && *begin != '.') {
    if (*begin == '#')
      while (*begin != '\n') begin++;
    begin++;
  }
  char *joined = let_arena_alloc(s->arena, (size_t)(p - begin) + 2);
  if (!joined) return no_memory(s);
  joined[0] = '-';
  memcpy(joined + 1, begin, (size_t)(p - begin));
  return *ret = (let_str){joined, (size_t)(p - begin) + 1}, true;
}

static bool scalar(parser *s, let_pb_field *f) {
  char what[40];
  int c = peek(s);
  const char *from = s->p;
  if (c == '"' || c == '\'') return f->kind = LET_PB_STRING, string(s, &f->text);
  bool minus = take(s, '-');
  c = peek(s);
  if (is_digit(c) || (c == '.' && s->p + 1 < s->end && is_digit((unsigned char)s->p[1])))
    return f->kind = LET_PB_NUMBER, number(s, minus ? from : s->p, &f->text);
  if (!is_letter(c))
    return fail(s, "'" LET_STR_FMT "' needs a value, but found %s", LET_STR_ARG(f->name), found(s, what));
  f->text = word(s);
  f->kind = LET_PB_WORD;
  if (!minus) return true;
  if (!let_str_ieq(f->text, "inf") && !let_str_ieq(f->text, "infinity") && !let_str_ieq(f->text, "nan"))
    return fail(s, "'-' before '" LET_STR_FMT "', which is no number", LET_STR_ARG(f->text));
  f->kind = LET_PB_NUMBER;
  f->text = let_str_ieq(f->text, "nan") ? LET_STR("nan") : LET_STR("-inf");
  return true;
}

/* ---- fields */

static bool fields(parser *s, let_pb_field **head, char close, int depth);

static bool message(parser *s, let_pb_field *f, int depth) {
  uint32_t line = s->line, at = column(s);
  char open = *s->p++, close = open == '{' ? '}' : '>';
  f->kind = LET_PB_MESSAGE;
  if (depth >= LET_PB_DEPTH) return fail(s, "messages are nested deeper than %d", LET_PB_DEPTH);
  if (!fields(s, &f->child, close, depth + 1)) return false;
  if (take(s, close)) return true;
  char what[40];
  return fail(s, "expected '%c' for the '%c' of line %u, column %u, but found %s", close, open, line, at,
              found(s, what));
}

static let_pb_field *add(parser *s, let_str name, let_pb_field ***tail) {
  let_pb_field *f = let_arena_alloc(s->arena, sizeof *f);
  if (!f) return no_memory(s), NULL;
  *f = (let_pb_field){.name = name, .line = s->line, .column = column(s)};
  **tail = f;
  *tail = &f->next;
  return f;
}

static bool element(parser *s, let_pb_field *f, bool colon, int depth) {
  int c = peek(s);
  if (c == '{' || c == '<') return message(s, f, depth);
  if (!colon) return fail(s, "'" LET_STR_FMT "' needs a ':' before its value", LET_STR_ARG(f->name));
  return scalar(s, f);
}

static bool list(parser *s, let_str name, bool colon, let_pb_field ***tail, int depth) {
  uint32_t line = s->line;
  s->p++;
  if (take(s, ']')) return true;
  for (;;) {
    if (peek(s) == '[') return fail(s, "'" LET_STR_FMT "': a list within a list", LET_STR_ARG(name));
    let_pb_field *f = add(s, name, tail);
    if (!f || !element(s, f, colon, depth)) return false;
    if (take(s, ']')) return true;
    char what[40];
    if (!take(s, ','))
      return fail(s, "expected ',' or ']' in the list '" LET_STR_FMT "' of line %u, but found %s", LET_STR_ARG(name),
                  line, found(s, what));
  }
}

/* "[domain/pkg.Type]" or a plain name. */
static bool name(parser *s, let_str *ret) {
  const char *from = s->p;
  char what[40];
  if (*s->p == '[') {
    while (s->p < s->end && *s->p != ']' && *s->p != '\n') s->p++;
    if (s->p == s->end || *s->p != ']') return fail(s, "expected ']' behind an extension's name");
    s->p++;
  } else if (is_letter((unsigned char)*s->p)) {
    (void)word(s);
  } else {
    return fail(s, "expected a field's name, but found %s", found(s, what));
  }
  *ret = (let_str){from, (size_t)(s->p - from)};
  return true;
}

static bool fields(parser *s, let_pb_field **head, char close, int depth) {
  let_pb_field **tail = head;
  for (int c = peek(s); c >= 0 && c != close; c = peek(s)) {
    parser at = *s;
    let_str id;
    if (!name(s, &id)) return false;
    bool colon = take(s, ':');
    if (peek(s) == '[') {
      if (!list(s, id, colon, &tail, depth)) return false;
    } else {
      let_pb_field *f = add(s, id, &tail);
      if (!f) return false;
      f->line = at.line;
      f->column = column(&at);
      if (!element(s, f, colon, depth)) return false;
    }
    if (!take(s, ',')) (void)take(s, ';');
  }
  return true;
}

let_err let_pb_parse(let_str text, const char *file, let_arena *a, let_pb_field **ret, let_error *e) {
  let_error local = {0};
  parser s = {.p = text.p,
              .end = text.p + text.n,
              .line_start = text.p,
              .file = file,
              .line = 1,
              .arena = a,
              .e = e ? e : &local};
  if (text.n >= 3 && memcmp(text.p, "\xef\xbb\xbf", 3) == 0) s.p += 3;
  let_pb_field *root = NULL;
  if (!fields(&s, &root, 0, 0)) return s.failed;
  if (s.p < s.end) {
    char what[40];
    fail(&s, "expected a field's name, but found %s", found(&s, what));
    return s.failed;
  }
  *ret = root;
  return LET_OK;
}

/* ---- values */

const let_pb_field *let_pb_find(const let_pb_field *f, const char *id) {
  while (f && !let_str_is(f->name, id)) f = f->next;
  return f;
}

let_err let_pb_fail(const char *file, const let_pb_field *f, let_error *e, const char *fmt, ...) {
  char text[sizeof e->text];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  return let_fail(e, LET_ERR_INVALID, "%s:%u:%u: " LET_STR_FMT ": %s", file, f->line, f->column, LET_STR_ARG(f->name),
                  text);
}

let_err let_pb_i64(const let_pb_field *f, const char *file, int64_t min, int64_t max, int64_t *ret, let_error *e) {
  char tmp[40], *end = tmp;
  long long v = 0;
  if (f->kind == LET_PB_NUMBER && f->text.n < sizeof tmp) {
    memcpy(tmp, f->text.p, f->text.n);
    tmp[f->text.n] = 0;
    errno = 0;
    v = strtoll(tmp, &end, 0);
  }
  if (end == tmp || *end) return let_pb_fail(file, f, e, "must be a whole number");
  if (errno == ERANGE || v < min || v > max)
    return let_pb_fail(file, f, e, "%s is out of range (%lld to %lld)", tmp, (long long)min, (long long)max);
  *ret = v;
  return LET_OK;
}

let_err let_pb_f64(const let_pb_field *f, const char *file, double *ret, let_error *e) {
  char tmp[64], *end = tmp;
  double v = 0;
  if ((f->kind == LET_PB_NUMBER || f->kind == LET_PB_WORD) && f->text.n < sizeof tmp) {
    memcpy(tmp, f->text.p, f->text.n);
    tmp[f->text.n] = 0;
    v = strtod(tmp, &end);
    if (end != tmp && (*end == 'f' || *end == 'F') && !end[1] && isfinite(v)) end++;
  }
  if (end == tmp || *end) return let_pb_fail(file, f, e, "must be a number");
  *ret = v;
  return LET_OK;
}

let_err let_pb_bool(const let_pb_field *f, const char *file, bool *ret, let_error *e) {
  static const char *const yes[] = {"true", "True", "t", "1"}, *const no[] = {"false", "False", "f", "0"};
  for (int i = 0; i < 4 && (f->kind == LET_PB_WORD || f->kind == LET_PB_NUMBER); i++) {
    if (let_str_is(f->text, yes[i])) return *ret = true, LET_OK;
    if (let_str_is(f->text, no[i])) return *ret = false, LET_OK;
  }
  return let_pb_fail(file, f, e, "must be true or false");
}

let_err let_pb_string(const let_pb_field *f, const char *file, char *out, size_t cap, let_error *e) {
  if (f->kind != LET_PB_STRING) return let_pb_fail(file, f, e, "must be a string in quotes");
  if (f->text.n >= cap)
    return let_pb_fail(file, f, e, "is %zu bytes long, at most %zu are allowed", f->text.n, cap - 1);
  if (memchr(f->text.p, 0, f->text.n)) return let_pb_fail(file, f, e, "contains a NUL byte");
  if (f->text.n) memcpy(out, f->text.p, f->text.n);
  out[f->text.n] = 0;
  return LET_OK;
}
