/* codec.c: numbers, texts and lists, and the header of every message. */
#include "ipc/codec.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ------------------------------------------------------------------------------------------------------ */

void let__ipc_refuse(let__ipc_codec *c, const char *name, const char *fmt, ...) {
  char path[160] = "", what[200];
  size_t n = 0;
  if (c->result) return;
  for (uint32_t i = 0; i < c->depth && n < sizeof path; i++)
    n += (size_t)snprintf(path + n, sizeof path - n, "%s[%u].", c->path[i].list, c->path[i].index);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  c->result = let_fail(c->e, LET_ERR_INVALID, "malformed %s message: field '%s%s' %s", c->message, path, name, what);
}

bool let__ipc_decodes(const let__ipc_codec *c) { return !c->encodes; }

void *let__ipc_alloc(let__ipc_codec *c, size_t n) {
  if (c->result) return NULL;
  void *p = let_arena_alloc(c->arena, n);
  if (!p) c->result = let_fail(c->e, LET_ERR_NOMEM, "out of memory for a %s message", c->message);
  return p;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static void add(let__ipc_codec *c, const void *p, size_t n) {
  c->at += n;
  if (c->out) let_buf_add(c->out, p, n);
}

static void put(let__ipc_codec *c, uint64_t v, unsigned bytes) {
  unsigned char b[8];
  for (unsigned i = 0; i < bytes; i++) b[i] = (unsigned char)(v >> (8 * i));
  add(c, b, bytes);
}

static uint64_t little_endian(const unsigned char *p, unsigned bytes) {
  uint64_t v = 0;
  for (unsigned i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
  return v;
}

static bool get(let__ipc_codec *c, const char *name, uint64_t *ret, unsigned bytes) {
  if (c->result) return false;
  if (c->n - c->at < bytes) {
    let__ipc_refuse(c, name, "is cut off");
    return false;
  }
  *ret = little_endian(c->in + c->at, bytes);
  c->at += bytes;
  return true;
}

/* Reads |bytes| bytes into *v when decoding; writes *v when encoding. False: an error, or there was one before. */
static bool number(let__ipc_codec *c, const char *name, uint64_t *v, unsigned bytes, uint64_t min, uint64_t max) {
  if (c->result) return false;
  if (let__ipc_decodes(c) && !get(c, name, v, bytes)) return false;
  if (*v < min || *v > max) {
    let__ipc_refuse(c, name, "is %llu, not %llu to %llu", (unsigned long long)*v, (unsigned long long)min,
                    (unsigned long long)max);
    return false;
  }
  if (!let__ipc_decodes(c)) put(c, *v, bytes);
  return true;
}

void let__ipc_bool(let__ipc_codec *c, const char *name, bool *v) {
  uint64_t x = let__ipc_decodes(c) ? 0 : *v;
  if (number(c, name, &x, 1, 0, 1) && let__ipc_decodes(c)) *v = x != 0;
}

void let__ipc_u8(let__ipc_codec *c, const char *name, uint8_t *v, uint8_t min, uint8_t max) {
  uint64_t x = let__ipc_decodes(c) ? 0 : *v;
  if (number(c, name, &x, 1, min, max) && let__ipc_decodes(c)) *v = (uint8_t)x;
}

void let__ipc_u32(let__ipc_codec *c, const char *name, uint32_t *v, uint32_t min, uint32_t max) {
  uint64_t x = let__ipc_decodes(c) ? 0 : *v;
  if (number(c, name, &x, 4, min, max) && let__ipc_decodes(c)) *v = (uint32_t)x;
}

void let__ipc_u64(let__ipc_codec *c, const char *name, uint64_t *v, uint64_t min, uint64_t max) {
  uint64_t x = let__ipc_decodes(c) ? 0 : *v;
  if (number(c, name, &x, 8, min, max) && let__ipc_decodes(c)) *v = x;
}

void let__ipc_i64(let__ipc_codec *c, const char *name, int64_t *v, int64_t min, int64_t max) {
  uint64_t bits = let__ipc_decodes(c) ? 0 : (uint64_t)*v;
  if (c->result || (let__ipc_decodes(c) && !get(c, name, &bits, 8))) return;
  int64_t x = (int64_t)bits;
  if (x < min || x > max)
    let__ipc_refuse(c, name, "is %lld, not %lld to %lld", (long long)x, (long long)min, (long long)max);
  else if (let__ipc_decodes(c)) *v = x;
  else put(c, bits, 8);
}

void let__ipc_f64(let__ipc_codec *c, const char *name, double *v, double min, double max) {
  uint64_t bits = 0;
  double x = 0;
  _Static_assert(sizeof x == sizeof bits, "a double is IEEE 754 binary64");
  if (c->result || (let__ipc_decodes(c) && !get(c, name, &bits, 8))) return;
  if (let__ipc_decodes(c)) memcpy(&x, &bits, sizeof x);
  else x = *v;
  if (!isfinite(x) || x < min || x > max) {
    let__ipc_refuse(c, name, "is %g, not %g to %g", x, min, max);
  } else if (let__ipc_decodes(c)) {
    *v = x;
  } else {
    memcpy(&bits, &x, sizeof x);
    put(c, bits, 8);
  }
}

void let__ipc_set(let__ipc_codec *c, let_lane_set_id *v) { let__ipc_u64(c, "set", &v->n, 1, INT64_MAX); }

/* ---- texts ------------------------------------------------------------------------------------------------------- */

/* Bytes of the character at |p| that a sentence may have; 0: none. */
static unsigned character(const char *text, size_t n) {
  const unsigned char *p = (const unsigned char *)text;
  if (p[0] < 0x80) return (p[0] >= 0x20 && p[0] != 0x7f) || p[0] == '\n' || p[0] == '\t';
  unsigned len = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
  if (!len || len > n) return 0;
  for (unsigned i = 1; i < len; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
  bool surrogate = p[0] == 0xed && p[1] >= 0xa0, beyond = p[0] == 0xf4 && p[1] >= 0x90;
  return overlong || surrogate || beyond ? 0 : len;
}

static bool sentence(const char *p, size_t n) {
  for (size_t at = 0; at < n;) {
    unsigned k = character(p + at, n - at);
    if (!k) return false;
    at += k;
  }
  return true;
}

/* |text| as a sentence of less than |cap| bytes: what cannot be part of one becomes '?'. Returns its length. */
static size_t make_sentence(const char *text, char *out, size_t cap) {
  size_t len = strlen(text), n = 0;
  for (size_t at = 0; at < len;) {
    unsigned k = character(text + at, len - at);
    if (n + (k ? k : 1) >= cap) break;
    if (k) memcpy(out + n, text + at, k);
    else out[n] = '?';
    n += k ? k : 1;
    at += k ? k : 1;
  }
  return n;
}

static bool put_text(let__ipc_codec *c, const char *name, const char *text, uint32_t cap, let__ipc_text_kind kind) {
  char made[LET_IPC_TEXT_MAX];
  const char *p = text ? text : "";
  size_t n = 0;
  if (kind == LET__IPC_SENTENCE) {
    n = make_sentence(p, made, cap < sizeof made ? cap : sizeof made);
    p = made;
  } else {
    n = strnlen(p, cap);
  }
  if (n >= cap) {
    let__ipc_refuse(c, name, "has more than %u bytes", cap - 1);
    return false;
  }
  put(c, n, 2);
  add(c, p, n);
  return true;
}

static bool get_text(let__ipc_codec *c, const char *name, const char **ret, size_t *ret_n, uint32_t cap,
                     let__ipc_text_kind kind) {
  uint64_t n = 0;
  if (!get(c, name, &n, 2)) return false;
  const char *p = (const char *)c->in + c->at;
  if (n >= cap) let__ipc_refuse(c, name, "has %llu bytes, more than %u", (unsigned long long)n, cap - 1);
  else if (n > c->n - c->at) let__ipc_refuse(c, name, "is cut off");
  else if (n && memchr(p, 0, n)) let__ipc_refuse(c, name, "has a zero byte in it");
  else if (kind == LET__IPC_SENTENCE && !sentence(p, n)) let__ipc_refuse(c, name, "is not a sentence in UTF-8");
  if (c->result) return false;
  c->at += n;
  *ret = p;
  *ret_n = n;
  return true;
}

void let__ipc_text(let__ipc_codec *c, const char *name, const char **v, uint32_t cap, let__ipc_text_kind kind) {
  const char *p;
  size_t n;
  if (c->result) return;
  if (!let__ipc_decodes(c)) {
    put_text(c, name, *v, cap, kind);
  } else if (get_text(c, name, &p, &n, cap, kind)) {
    char *copy = let__ipc_alloc(c, n + 1);
    if (copy && n) memcpy(copy, p, n);
    *v = copy;
  }
}

void let__ipc_chars(let__ipc_codec *c, const char *name, char *v, uint32_t cap) {
  const char *p;
  size_t n;
  if (c->result) return;
  if (!let__ipc_decodes(c)) {
    put_text(c, name, v, cap, LET__IPC_EXACT);
  } else if (get_text(c, name, &p, &n, cap, LET__IPC_EXACT)) {
    memset(v, 0, cap);
    memcpy(v, p, n);
  }
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

void let__ipc_list(let__ipc_codec *c, const char *name, uint32_t *n, uint32_t min, uint32_t max, const void **v,
                   size_t item, size_t least) {
  let__ipc_u32(c, name, n, min, max);
  if (c->result || !let__ipc_decodes(c)) return;
  if (*n > (c->n - c->at) / least) {
    let__ipc_refuse(c, name, "is a list of %u, more than the message can hold", *n);
    return;
  }
  *v = let__ipc_alloc(c, *n * item);
}

void let__ipc_enter(let__ipc_codec *c, const char *list, uint32_t index) {
  LET_ASSERT(c->depth < LET__IPC_DEPTH);
  c->path[c->depth].list = list;
  c->path[c->depth].index = index;
  c->depth++;
}

void let__ipc_leave(let__ipc_codec *c) { c->depth--; }

/* ---- header ------------------------------------------------------------------------------------------------------ */

enum { HEADER_MAGIC = 0, HEADER_VERSION = 4, HEADER_TYPE = 6, HEADER_LENGTH = 8 };

static let_err run(let__ipc_codec *c, let__ipc_fields *fields, const void *m) {
  fields(c, (void *)(uintptr_t)m); /* not written to while encoding */
  if (!c->result && c->at > LET_IPC_BYTES_MAX)
    c->result = let_fail(c->e, LET_ERR_TOO_LARGE, "a %s message of %zu bytes: at most %d are possible", c->message,
                         c->at, LET_IPC_BYTES_MAX);
  return c->result;
}

let_err let__ipc_check(const char *name, let__ipc_fields *fields, const void *m, let_error *e) {
  let__ipc_codec c = {.message = name, .encodes = true, .at = LET_IPC_HEADER, .e = e};
  return run(&c, fields, m);
}

let_err let__ipc_encode(uint16_t type, const char *name, let__ipc_fields *fields, const void *m, let_buf *out,
                        let_error *e) {
  let__ipc_codec c = {.message = name, .encodes = true, .out = out, .e = e};
  size_t before = out->n;
  put(&c, LET_IPC_MAGIC, 4);
  put(&c, LET_IPC_VERSION, 2);
  put(&c, type, 2);
  put(&c, 0, 4);
  let_err r = run(&c, fields, m);
  if (!r && out->failed) r = let_fail(e, LET_ERR_NOMEM, "out of memory for a %s message", name);
  if (r) {
    out->n = before;
    return r;
  }
  for (unsigned i = 0; i < 4; i++) out->p[before + HEADER_LENGTH + i] = (char)((c.at - LET_IPC_HEADER) >> (8 * i));
  return LET_OK;
}

let_err let_ipc_length(const unsigned char header[LET_IPC_HEADER], uint32_t *ret, let_error *e) {
  uint64_t magic = little_endian(header + HEADER_MAGIC, 4), version = little_endian(header + HEADER_VERSION, 2);
  uint64_t length = little_endian(header + HEADER_LENGTH, 4);
  if (magic != LET_IPC_MAGIC) return let_fail(e, LET_ERR_INVALID, "malformed message: it does not begin with a header");
  if (version != LET_IPC_VERSION)
    return let_fail(e, LET_ERR_INVALID,
                    "malformed message: protocol version %llu, not %d: the server and the worker are different builds",
                    (unsigned long long)version, LET_IPC_VERSION);
  if (length > LET_IPC_BYTES_MAX - LET_IPC_HEADER)
    return let_fail(e, LET_ERR_INVALID, "malformed message: a length of %llu, more than %d", (unsigned long long)length,
                    LET_IPC_BYTES_MAX - LET_IPC_HEADER);
  *ret = (uint32_t)length + LET_IPC_HEADER;
  return LET_OK;
}

let_err let__ipc_open(let__ipc_codec *c, let_str bytes, let_arena *a, uint16_t *ret_type, let_error *e) {
  const unsigned char *p = (const unsigned char *)bytes.p;
  uint32_t length = 0;
  if (bytes.n < LET_IPC_HEADER)
    return let_fail(e, LET_ERR_INVALID, "malformed message: %zu bytes are less than a header", bytes.n);
  let_err r = let_ipc_length(p, &length, e);
  if (r) return r;
  if (length != bytes.n)
    return let_fail(e, LET_ERR_INVALID, "malformed message: its header says %u bytes, %zu came", length, bytes.n);
  *ret_type = (uint16_t)little_endian(p + HEADER_TYPE, 2);
  *c = (let__ipc_codec){.message = "?", .in = p, .n = bytes.n, .at = LET_IPC_HEADER, .arena = a, .e = e};
  return LET_OK;
}

let_err let__ipc_close(let__ipc_codec *c) {
  if (!c->result && c->at != c->n)
    c->result = let_fail(c->e, LET_ERR_INVALID, "malformed %s message: %zu bytes too many", c->message, c->n - c->at);
  return c->result;
}
