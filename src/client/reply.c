#include "client/reply.h"

#include <string.h>

static bool number(let_str s, int base, uint64_t *ret) {
  uint64_t v = 0;
  size_t i = 0;
  for (; i < s.n; i++) {
    char c = s.p[i];
    int d = c >= '0' && c <= '9'   ? c - '0'
            : c >= 'a' && c <= 'f' ? c - 'a' + 10
            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                   : 99;
    if (d >= base) break;
    if (v > (UINT64_MAX >> 5)) return false;
    v = v * (uint64_t)base + (uint64_t)d;
  }
  *ret = v;
  return i > 0 && (i == s.n || s.p[i] == ';' || s.p[i] == ' ' || s.p[i] == '\t');
}

static void status_line(let_reply *r, let_str l) {
  uint64_t code;
  bool ok = l.n >= 12 && memcmp(l.p, "HTTP/1.", 7) == 0 && l.p[8] == ' ' && number((let_str){l.p + 9, 3}, 10, &code);
  if (!ok || code < 100 || code > 599) {
    r->state = LET_REPLY_BROKEN;
    return;
  }
  r->close = l.p[7] == '0';
  r->status = (int)code;
  r->state = LET_REPLY_HEADER;
}

static void header(let_reply *r, let_str l) {
  const char *colon = memchr(l.p, ':', l.n);
  if (!colon) {
    r->state = LET_REPLY_BROKEN;
    return;
  }
  let_str name = {l.p, (size_t)(colon - l.p)}, value = {colon + 1, l.n - name.n - 1};
  while (value.n && (value.p[0] == ' ' || value.p[0] == '\t')) value.p++, value.n--;
  if (let_str_ieq(name, "content-length")) {
    if (number(value, 10, &r->left)) r->has_length = true;
    else r->state = LET_REPLY_BROKEN;
  } else if (let_str_ieq(name, "transfer-encoding")) r->chunked = let_str_ieq(value, "chunked");
  else if (let_str_ieq(name, "connection"))
    r->close = let_str_ieq(value, "close") || (r->close && !let_str_ieq(value, "keep-alive"));
}

static void end_of_head(let_reply *r) {
  if (r->status < 200) { /* 100 Continue: the real one follows */
    bool started = r->started;
    let_reply_reset(r, r->keep);
    r->started = started;
  } else if (r->status == 204 || r->status == 304) r->state = LET_REPLY_DONE;
  else if (r->chunked) r->state = LET_REPLY_CHUNK_SIZE;
  else if (r->has_length) r->state = r->left ? LET_REPLY_BODY : LET_REPLY_DONE;
  else r->state = LET_REPLY_TO_EOF, r->close = true;
}

static void line(let_reply *r) {
  let_str l = {r->line, r->line_n};
  if (l.n && l.p[l.n - 1] == '\r') l.n--;
  r->line_n = 0;
  switch (r->state) {
  case LET_REPLY_STATUS: status_line(r, l); break;
  case LET_REPLY_HEADER:
    if (l.n) header(r, l);
    else end_of_head(r);
    break;
  case LET_REPLY_CHUNK_SIZE:
    if (!number(l, 16, &r->left)) r->state = LET_REPLY_BROKEN;
    else r->state = r->left ? LET_REPLY_CHUNK : LET_REPLY_TRAILER;
    break;
  case LET_REPLY_CHUNK_END: r->state = l.n ? LET_REPLY_BROKEN : LET_REPLY_CHUNK_SIZE; break;
  default: /* trailer */
    if (!l.n) r->state = LET_REPLY_DONE;
  }
}

static void body(let_reply *r, const char *p, size_t n) {
  size_t room = sizeof r->body - r->body_n, k = n < room ? n : room;
  memcpy(r->body + r->body_n, p, k);
  r->body_n += k;
  if (r->keep) let_buf_add(r->keep, p, n);
}

size_t let_reply_feed(let_reply *r, const char *p, size_t n) {
  size_t at = 0;
  while (at < n && r->state != LET_REPLY_DONE && r->state != LET_REPLY_BROKEN) {
    r->started = true;
    if (r->state == LET_REPLY_BODY || r->state == LET_REPLY_CHUNK || r->state == LET_REPLY_TO_EOF) {
      size_t k = r->state != LET_REPLY_TO_EOF && r->left < n - at ? (size_t)r->left : n - at;
      body(r, p + at, k);
      at += k;
      if (r->state == LET_REPLY_TO_EOF) continue;
      r->left -= k;
      if (r->left == 0) r->state = r->state == LET_REPLY_BODY ? LET_REPLY_DONE : LET_REPLY_CHUNK_END;
      continue;
    }
    const char *nl = memchr(p + at, '\n', n - at);
    size_t k = nl ? (size_t)(nl - (p + at)) : n - at, room = sizeof r->line - r->line_n;
    memcpy(r->line + r->line_n, p + at, k < room ? k : room);
    r->line_n += k < room ? k : room;
    at += nl ? k + 1 : k;
    if (nl) line(r);
  }
  return at;
}

void let_reply_eof(let_reply *r) {
  r->state = r->state == LET_REPLY_TO_EOF ? LET_REPLY_DONE : r->state == LET_REPLY_DONE ? r->state : LET_REPLY_BROKEN;
}
