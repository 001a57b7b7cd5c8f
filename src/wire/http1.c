#include "wire/http1.h"

#include <strings.h>

/* What a byte may be part of: 1 = token (RFC 9110), 2 = request target, 4 = field value. */
enum { TOKEN = 1, TARGET = 2, VALUE = 4 };
#define T7 (TOKEN | TARGET | VALUE)
#define T6 (TARGET | VALUE)
#define T5 (TOKEN | VALUE)
static const uint8_t kind[256] = {
    ['\t'] = VALUE,     [' '] = VALUE,
    ['!'] = T7,         ['"'] = VALUE,
    ['#'] = T5,         ['$'] = T7,
    ['%'] = T7,         ['&'] = T7,
    ['\''] = T7,        ['('] = T6,
    [')'] = T6,         ['*'] = T7,
    ['+'] = T7,         [','] = T6,
    ['-'] = T7,         ['.'] = T7,
    ['/'] = T6,         ['0' ... '9'] = T7,
    [':'] = T6,         [';'] = T6,
    ['<'] = VALUE,      ['='] = T6,
    ['>'] = VALUE,      ['?'] = T6,
    ['@'] = T6,         ['A' ... 'Z'] = T7,
    ['['] = T6,         ['\\'] = VALUE,
    [']'] = T6,         ['^'] = T5,
    ['_'] = T7,         ['`'] = T5,
    ['a' ... 'z'] = T7, ['{'] = VALUE,
    ['|'] = T5,         ['}'] = VALUE,
    ['~'] = T7,         [0x80 ... 0xff] = VALUE,
};

static bool all(let_str s, unsigned what) {
  unsigned ok = what;
  for (size_t i = 0; i < s.n; i++) ok &= kind[(unsigned char)s.p[i]];
  return ok == what;
}

static let_str trim(let_str s) {
  while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) {
    s.p++;
    s.n--;
  }
  while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
  return s;
}

static bool number(let_str s, uint64_t *ret) {
  uint64_t v = 0;
  if (s.n == 0 || s.n > 18) return false;
  for (size_t i = 0; i < s.n; i++) {
    if (s.p[i] < '0' || s.p[i] > '9') return false;
    v = v * 10 + (uint64_t)(s.p[i] - '0');
  }
  *ret = v;
  return true;
}

/* The next element of a comma-separated list. */
static bool element(let_str *list, let_str *ret) {
  while (list->n) {
    const char *comma = memchr(list->p, ',', list->n);
    size_t n = comma ? (size_t)(comma - list->p) : list->n;
    *ret = trim((let_str){list->p, n});
    size_t step = comma ? n + 1 : n;
    list->p += step;
    list->n -= step;
    if (ret->n) return true;
  }
  return false;
}

/* ---- the request line ----------------------------------------------------------------------------------- */

static let_err target(let_str s, let_http1_head *h, let_error *e) {
  if (!s.n || !all(s, TARGET))
    return let_fail(e, LET_ERR_INVALID, "the request target has a character that must be percent-encoded, or is empty");
  if (s.p[0] != '/' && !let_str_is(s, "*")) { /* absolute form, as sent to proxies */
    size_t skip = 0;
    if (s.n > 7 && strncasecmp(s.p, "http://", 7) == 0) skip = 7;
    else if (s.n > 8 && strncasecmp(s.p, "https://", 8) == 0) skip = 8;
    else return let_fail(e, LET_ERR_INVALID, "the request target must start with '/'");
    s.p += skip;
    s.n -= skip;
    const char *slash = memchr(s.p, '/', s.n);
    s = slash ? (let_str){slash, s.n - (size_t)(slash - s.p)} : LET_STR("/");
  }
  const char *q = memchr(s.p, '?', s.n);
  h->path = (let_str){s.p, q ? (size_t)(q - s.p) : s.n};
  h->query = q ? (let_str){q + 1, s.n - h->path.n - 1} : (let_str){0};
  return LET_OK;
}

static let_err request_line(let_str line, let_http1_head *h, let_error *e) {
  const char *a = memchr(line.p, ' ', line.n);
  const char *b = a ? memchr(a + 1, ' ', line.n - (size_t)(a + 1 - line.p)) : NULL;
  if (!b) return let_fail(e, LET_ERR_INVALID, "the request line must be METHOD SP TARGET SP HTTP/1.1");
  h->method_name = (let_str){line.p, (size_t)(a - line.p)};
  if (!h->method_name.n || !all(h->method_name, TOKEN))
    return let_fail(e, LET_ERR_INVALID, "the method has a character that is not allowed there");
  h->method = let_str_is(h->method_name, "GET")    ? LET_HTTP1_GET
              : let_str_is(h->method_name, "POST") ? LET_HTTP1_POST
              : let_str_is(h->method_name, "HEAD") ? LET_HTTP1_HEAD
                                                   : LET_HTTP1_OTHER;
  let_str version = {b + 1, line.n - (size_t)(b + 1 - line.p)};
  if (version.n != 8 || memcmp(version.p, "HTTP/1.", 7) != 0 || (version.p[7] != '0' && version.p[7] != '1'))
    return let_fail(e, LET_ERR_INVALID,
                    "the request line must end in HTTP/1.1 or HTTP/1.0: other versions are not spoken here");
  h->minor = (uint8_t)(version.p[7] - '0');
  return target((let_str){a + 1, (size_t)(b - a - 1)}, h, e);
}

/* ---- fields --------------------------------------------------------------------------------------------- */

typedef struct seen {
  bool close, keep, te, host;
} seen;

static let_err content_length(let_str v, let_http1_head *h, let_error *e) {
  uint64_t n;
  let_str item;
  bool any = false;
  while (element(&v, &item)) { /* "5, 5" is what a proxy makes of two equal lines */
    if (!number(item, &n)) return let_fail(e, LET_ERR_INVALID, "Content-Length must be a decimal number of bytes");
    if (h->has_length && n != h->length)
      return let_fail(e, LET_ERR_INVALID, "Content-Length is given twice with different values");
    h->has_length = any = true;
    h->length = n;
  }
  return any ? LET_OK : let_fail(e, LET_ERR_INVALID, "Content-Length is empty");
}

static let_err transfer_encoding(let_str v, let_http1_head *h, seen *s, let_error *e) {
  if (s->te) return let_fail(e, LET_ERR_INVALID, "Transfer-Encoding is given twice");
  s->te = true;
  if (h->minor == 0) return let_fail(e, LET_ERR_INVALID, "Transfer-Encoding does not exist in HTTP/1.0");
  if (!let_str_ieq(v, "chunked"))
    return let_fail(e, LET_ERR_UNSUPPORTED, "the only Transfer-Encoding spoken here is chunked");
  h->chunked = true;
  return LET_OK;
}

static bool is(let_str name, const char *lower) {
  for (size_t i = 0; i < name.n; i++) {
    char c = name.p[i];
    if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
    if (c != lower[i]) return false;
  }
  return true;
}

static let_err field(let_str name, let_str v, let_http1_head *h, seen *s, let_error *e) {
  let_str item;
  switch (name.n) { /* the length tells nearly all of them apart */
  case 4:
    if (!is(name, "host")) break;
    if (s->host) return let_fail(e, LET_ERR_INVALID, "Host is given twice");
    s->host = true;
    h->host = v;
    break;
  case 6:
    if (!is(name, "expect") || !v.n) break; /* some clients send it empty to keep their library from using it */
    if (!let_str_ieq(v, "100-continue"))
      return let_fail(e, LET_ERR_INVALID, "the only Expect known here is 100-continue");
    h->expect_continue = h->minor > 0;
    break;
  case 10:
    if (!is(name, "connection")) break;
    while (element(&v, &item)) {
      if (let_str_ieq(item, "close")) s->close = true;
      else if (let_str_ieq(item, "keep-alive")) s->keep = true;
    }
    break;
  case 12:
    if (is(name, "content-type")) h->content_type = v;
    break;
  case 14:
    if (is(name, "content-length")) return content_length(v, h, e);
    break;
  case 15:
    if (is(name, "accept-encoding")) h->accept_encoding = v;
    break;
  case 16:
    if (is(name, "content-encoding")) h->content_encoding = v;
    break;
  case 17:
    if (is(name, "transfer-encoding")) return transfer_encoding(v, h, s, e);
    break;
  case 31:
    if (!is(name, "inference-header-content-length")) break;
    if (h->has_header_length) return let_fail(e, LET_ERR_INVALID, "Inference-Header-Content-Length is given twice");
    if (!number(v, &h->header_length))
      return let_fail(e, LET_ERR_INVALID, "Inference-Header-Content-Length must be a decimal number of bytes");
    h->has_header_length = true;
    break;
  default: break;
  }
  return LET_OK;
}

static let_err fields(let_str rest, let_http1_head *h, let_error *e) {
  seen s = {0};
  for (unsigned count = 0; rest.n; count++) {
    const char *nl = memchr(rest.p, '\n', rest.n);
    LET_ASSERT(nl); /* the caller passes whole lines */
    let_str line = {rest.p, (size_t)(nl - rest.p) - 1};
    rest.n -= line.n + 2;
    rest.p = nl + 1;
    if (count == LET_HTTP1_FIELDS_MAX)
      return let_fail(e, LET_ERR_HEADER_TOO_LARGE, "more than %d header fields", LET_HTTP1_FIELDS_MAX);
    if (line.p[0] == ' ' || line.p[0] == '\t')
      return let_fail(e, LET_ERR_INVALID, "a header line starts with white space: folded lines are not allowed");
    const char *colon = memchr(line.p, ':', line.n);
    let_str name = {line.p, colon ? (size_t)(colon - line.p) : 0};
    if (!name.n || !all(name, TOKEN))
      return let_fail(e, LET_ERR_INVALID, "header line %u has no valid 'name:' at its start", count + 1);
    let_str value = {colon + 1, line.n - name.n - 1};
    if (!all(value, VALUE))
      return let_fail(e, LET_ERR_INVALID, "header '%.*s' has a control character in its value",
                      name.n > 64 ? 64 : (int)name.n, name.p);
    let_err r = field(name, trim(value), h, &s, e);
    if (r) return r;
  }
  if (h->chunked && h->has_length)
    return let_fail(e, LET_ERR_INVALID, "both Content-Length and Transfer-Encoding are given: send one of them");
  if (h->minor > 0 && !s.host) return let_fail(e, LET_ERR_INVALID, "the Host header is missing: HTTP/1.1 requires one");
  h->keep_alive = h->minor > 0 ? !s.close : s.keep && !s.close;
  return LET_OK;
}

let_err let_http1_parse(const char *buf, size_t n, size_t *scanned, let_http1_head *ret, size_t *ret_bytes,
                        let_error *e) {
  size_t start = 0, at = *scanned, end = 0;
  while (start + 1 < n && start < 4 && buf[start] == '\r' && buf[start + 1] == '\n')
    start += 2; /* left over from a sloppy client's last body */
  if (at < start) at = start;
  size_t limit = n < LET_HTTP1_HEAD_MAX ? n : LET_HTTP1_HEAD_MAX;
  const char *nl;
  while (!end && at < limit && (nl = memchr(buf + at, '\n', limit - at)) != NULL) {
    size_t i = (size_t)(nl - buf);
    if (i == start || buf[i - 1] != '\r')
      return let_fail(e, LET_ERR_INVALID, "a line of the request head ends in LF alone: CR LF is required");
    if (i >= start + 3 && buf[i - 2] == '\n') end = i + 1;
    else if (i == start + 1) return let_fail(e, LET_ERR_INVALID, "the request starts with empty lines");
    at = i + 1;
  }
  if (!end) {
    *scanned = limit;
    if (n >= LET_HTTP1_HEAD_MAX)
      return let_fail(e, LET_ERR_HEADER_TOO_LARGE, "the request head is longer than %d bytes", LET_HTTP1_HEAD_MAX);
    return LET_ERR_AGAIN;
  }
  let_http1_head h = {0};
  nl = memchr(buf + start, '\n', end - start);
  let_err r = request_line((let_str){buf + start, (size_t)(nl - buf) - start - 1}, &h, e);
  size_t first = (size_t)(nl - buf) + 1;
  if (!r) r = fields((let_str){buf + first, end - 2 - first}, &h, e);
  if (r) return r;
  *ret = h;
  *ret_bytes = end;
  return LET_OK;
}

/* ---- paths ---------------------------------------------------------------------------------------------- */

bool let_http1_segment(let_str *path, let_str *ret) {
  if (path->n == 0 || path->p[0] != '/') return false;
  let_str s = {path->p + 1, path->n - 1};
  const char *slash = s.n ? memchr(s.p, '/', s.n) : NULL;
  size_t n = slash ? (size_t)(slash - s.p) : s.n;
  *ret = (let_str){s.p, n};
  *path = (let_str){s.p + n, s.n - n};
  return true;
}

static int hex(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

bool let_http1_decode(let_str s, char *out, size_t cap, let_str *ret) {
  size_t n = 0;
  for (size_t i = 0; i < s.n; i++) {
    char c = s.p[i];
    if (c == '%') {
      if (s.n - i < 3 || hex(s.p[i + 1]) < 0 || hex(s.p[i + 2]) < 0) return false;
      c = (char)(hex(s.p[i + 1]) * 16 + hex(s.p[i + 2]));
      if (!c) return false;
      i += 2;
    }
    if (n == cap) return false;
    out[n++] = c;
  }
  *ret = (let_str){out, n};
  return true;
}

/* ---- chunked bodies ------------------------------------------------------------------------------------- */

enum { SIZE, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LINE, TRAILER_LF, LAST_LF, END };

/* One byte of framing. False: it cannot stand here. */
static bool frame(let_http1_chunked *c, char b) {
  int d;
  switch (c->state) {
  case SIZE:
    if ((d = hex(b)) >= 0) {
      if (c->digits == 15) return false; /* 2^60 is past every limit; more would overflow */
      c->digits++;
      c->left = c->left * 16 + (uint64_t)d;
      return true;
    }
    if (!c->digits) return false;
    if (b == '\r') c->state = SIZE_LF;
    else if (b == ';' || b == ' ' || b == '\t') c->state = EXTENSION;
    else return false;
    return true;
  case EXTENSION:
    if (b == '\r') c->state = SIZE_LF;
    else if (!(kind[(unsigned char)b] & VALUE)) return false;
    return true;
  case SIZE_LF:
    c->state = c->left ? DATA : TRAILER;
    c->line = 0;
    return b == '\n';
  case DATA_CR: return c->state = DATA_LF, b == '\r';
  case DATA_LF:
    c->state = SIZE;
    c->digits = 0;
    c->line = 0;
    return b == '\n';
  case TRAILER:
    if (b == '\r') {
      c->state = LAST_LF;
      return true;
    }
    c->state = TRAILER_LINE;
    return (kind[(unsigned char)b] & TOKEN) != 0;
  case TRAILER_LINE:
    if (b == '\r') {
      c->state = TRAILER_LF;
      return true;
    }
    return (kind[(unsigned char)b] & VALUE) != 0;
  case TRAILER_LF: return c->state = TRAILER, b == '\n';
  case LAST_LF: return c->state = END, b == '\n';
  default: return false;
  }
}

let_err let_http1_chunked_step(let_http1_chunked *c, const char *in, size_t n, size_t *ret_used, let_str *ret_data,
                               bool *ret_end, let_error *e) {
  *ret_used = 0;
  *ret_data = (let_str){in, 0};
  *ret_end = c->state == END;
  size_t i = 0;
  while (i < n && c->state != DATA && c->state != END) {
    bool trailers = c->state >= TRAILER;
    if (++c->line > (trailers ? (uint32_t)LET_HTTP1_HEAD_MAX : (uint32_t)LET_HTTP1_LINE_MAX))
      return let_fail(e, LET_ERR_INVALID, "chunked body: a %s is too long", trailers ? "trailer" : "chunk's size line");
    if (!frame(c, in[i++]))
      return let_fail(e, LET_ERR_INVALID,
                      "chunked body: the framing is broken (a chunk is: size in hex, CR LF, data, CR LF)");
  }
  if (c->state == DATA && i < n) {
    size_t take = c->left < n - i ? (size_t)c->left : n - i;
    *ret_data = (let_str){in + i, take};
    c->left -= take;
    i += take;
    if (!c->left) c->state = DATA_CR;
  }
  *ret_used = i;
  *ret_end = c->state == END;
  return LET_OK;
}
