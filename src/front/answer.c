/* answer.c: bytes out. Sockets are written directly: an output goes from its arena slot to the socket, and no write
 * needs a request object. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>

#include "front_int.h"

static let_time now_of(const let_front *f) { return f->i.now(f->i.ctx); }

static const struct {
  int code;
  const char *text;
} reasons[] = {{200, "OK"},
               {202, "Accepted"},
               {204, "No Content"},
               {400, "Bad Request"},
               {404, "Not Found"},
               {405, "Method Not Allowed"},
               {408, "Request Timeout"},
               {409, "Conflict"},
               {413, "Content Too Large"},
               {431, "Request Header Fields Too Large"},
               {499, "Client Closed Request"},
               {500, "Internal Server Error"},
               {501, "Not Implemented"},
               {503, "Service Unavailable"}};

static const char *reason(int code) {
  for (unsigned i = 0; i < sizeof reasons / sizeof *reasons; i++)
    if (reasons[i].code == code) return reasons[i].text;
  return code < 400 ? "OK" : "Error";
}

static void next_request(conn *c) {
  c->at = c->after;
  c->scanned = 0;
  c->first_byte = 0;
  c->state = CONN_HEAD;
  c->deadline = now_of(c->f) + c->f->o.idle_timeout;
  if (c->at == c->n) c->at = c->n = 0;
  conn_set_events(c, c->eof ? 0 : UV_READABLE);
}

/* What the client still sends would make close() send a reset, and that can overtake our answer. */
static void linger(conn *c) {
  if (c->eof || shutdown(c->fd, SHUT_WR)) {
    conn_close(c);
    return;
  }
  c->state = CONN_LINGER;
  c->deadline = now_of(c->f) + LET_S;
  conn_set_events(c, UV_READABLE);
}

static void answered(conn *c) {
  if (c->r) {
    c->r->stamp[LET_STAGE_ANSWERED] = now_of(c->f);
    c->f->i.request_release(c->f->i.ctx, c->r);
  }
  c->r = NULL;
  if (c->keep && !c->f->draining) next_request(c);
  else if (c->unread || c->n > c->after) linger(c);
  else conn_close(c);
}

/* Hands at most |room| bytes of what is left to the kernel. */
static ssize_t send_some(conn *c, size_t room) {
  struct iovec *v = c->iov + c->iov_at;
  size_t all = 0;
  unsigned n = 0;
  while (c->iov_at + n < c->iov_n && all < room) all += v[n++].iov_len;
  size_t over = all > room ? all - room : 0;
  struct msghdr m = {.msg_iov = v, .msg_iovlen = n};
  v[n - 1].iov_len -= over;
  ssize_t sent = sendmsg(c->fd, &m, MSG_NOSIGNAL);
  v[n - 1].iov_len += over;
  return sent;
}

/* The rest goes when the socket's next turn comes, and only if it has room then. */
static void write_later(conn *c) {
  c->state = CONN_WRITE;
  conn_set_events(c, UV_WRITABLE);
}

void conn_flush(conn *c) {
  size_t room = FRONT_TURN_BYTES;
  while (c->iov_at < c->iov_n) {
    if (room == 0) {
      write_later(c);
      return;
    }
    ssize_t n = send_some(c, room);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      write_later(c);
      return;
    }
    if (n < 0) {
      conn_close(c);
      return;
    }
    c->f->stats.bytes_out += (uint64_t)n;
    room -= (size_t)n;
    if (c->state == CONN_WRITE) c->deadline = now_of(c->f) + c->f->o.body_timeout;
    while (c->iov_at < c->iov_n && (size_t)n >= c->iov[c->iov_at].iov_len) n -= (ssize_t)c->iov[c->iov_at++].iov_len;
    if (c->iov_at < c->iov_n) {
      c->iov[c->iov_at].iov_base = (char *)c->iov[c->iov_at].iov_base + n;
      c->iov[c->iov_at].iov_len -= (size_t)n;
    }
  }
  answered(c);
}

static size_t put(char *out, size_t at, const char *s, size_t n) {
  memcpy(out + at, s, n);
  return at + n;
}
#define PUT(lit) (at = put(c->top, at, lit, sizeof(lit) - 1))

static size_t put_u64(char *out, size_t at, uint64_t v) {
  char b[20];
  size_t n = 0;
  do b[n++] = (char)('0' + v % 10);
  while (v /= 10);
  while (n) out[at++] = b[--n];
  return at;
}

void conn_send(conn *c, int status, const char *type, uint64_t json, uint64_t raw) {
  size_t at = 0;
  if (status == 200) PUT("HTTP/1.1 200 OK");
  else at += (size_t)snprintf(c->top, 64, "HTTP/1.1 %03d %s", status % 1000, reason(status));
  if (type) {
    size_t n = strlen(type);
    PUT("\r\nContent-Type: ");
    at = put(c->top, at, type, n < 100 ? n : 100);
  }
  PUT("\r\nContent-Length: ");
  at = put_u64(c->top, at, c->out.n + raw);
  if (json != UINT64_MAX) {
    PUT("\r\nInference-Header-Content-Length: ");
    at = put_u64(c->top, at, json);
  }
  if (status == 405) {
    if (c->route == ROUTE_INFER || c->route == ROUTE_INDEX) PUT("\r\nAllow: POST");
    else PUT("\r\nAllow: GET, HEAD");
  }
  if (!c->keep || c->f->draining) PUT("\r\nConnection: close");
  else if (c->head.minor == 0) PUT("\r\nConnection: keep-alive");
  PUT("\r\n\r\n");
  bool body = c->head.method != LET_HTTP1_HEAD;
  c->iov[0] = (struct iovec){c->top, at};
  c->iov[1] = (struct iovec){c->out.p, body ? c->out.n : 0};
  if (!raw || !body) c->iov_n = 2;
  c->iov_at = 0;
  c->deadline = now_of(c->f) + c->f->o.body_timeout;
  conn_flush(c);
}

void conn_fail(conn *c, int status, const char *text) {
  let_buf_clear(&c->out);
  let_oip_error(&c->out, text);
  if (c->out.failed) let_buf_clear(&c->out); /* the status alone must do */
  if (status == 400 || status == 404 || status == 405 || status == 413 || status == 431 || status == 501)
    c->f->stats.bad_requests++;
  conn_send(c, status, "application/json", UINT64_MAX, 0);
}
