/* conn.c: bytes in, and when to give up. Sockets are read directly: a body goes from the socket into its arena slot. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front_int.h"

static let_time now_of(const let_front *f) { return f->i.now(f->i.ctx); }

/* ---- life ----------------------------------------------------------------------------------------------- */

static void on_poll(uv_poll_t *h, int status, int events);

void conn_set_events(conn *c, int events) {
  if (c->dead || c->events == events) return;
  int rc = events ? uv_poll_start(&c->poll, events, on_poll) : uv_poll_stop(&c->poll);
  if (rc) conn_close(c);
  else c->events = events;
}

static void refuse(int fd) {
  static const char text[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: "
                             "43\r\nConnection: close\r\n\r\n{\"error\":\"too many connections, try again\"}\n";
  (void)!send(fd, text, sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  close(fd);
}

void conn_open(let_front *f, int fd, bool metrics) {
  conn *c = NULL;
  if (f->stats.open < f->o.connections) {
    c = f->free;
    if (c) f->free = c->next;
    else if ((c = let_mem_alloc(f->mem, sizeof *c))) let_buf_init(&c->out, f->mem);
  }
  if (c && uv_poll_init(f->loop, &c->poll, fd) != 0) {
    c->next = f->free;
    f->free = c;
    c = NULL;
  }
  if (!c) {
    f->stats.refused++;
    refuse(fd);
    return;
  }
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  c->f = f;
  c->fd = fd;
  c->events = 0;
  c->metrics = metrics;
  c->poll.data = c;
  c->state = CONN_HEAD;
  c->model = 0;
  c->r = NULL;
  c->slot = FRONT_SLOT_NONE;
  c->body = NULL;
  c->dead = c->closed = c->eof = c->keep = c->unread = c->advancing = c->inflight = c->late = false;
  c->at = c->n = c->after = c->scanned = 0;
  c->deadline = now_of(f) + f->o.idle_timeout;
  c->first_byte = 0;
  c->prev = NULL;
  c->next = f->open;
  if (f->open) f->open->prev = c;
  f->open = c;
  f->stats.accepted++;
  f->stats.open++;
  conn_set_events(c, UV_READABLE);
}

void conn_slot_free(conn *c) {
  if (c->slot != FRONT_SLOT_NONE) c->f->i.slot_free(c->f->i.ctx, c->slot);
  c->slot = FRONT_SLOT_NONE;
}

static void unlink_from(conn **list, conn *c) {
  if (c->prev) c->prev->next = c->next;
  else *list = c->next;
  if (c->next) c->next->prev = c->prev;
}

void conn_settle(conn *c) {
  let_front *f = c->f;
  if (!c->closed || c->inflight || c->late) return;
  unlink_from(&f->zombie, c);
  f->stats.open--;
  c->next = f->free;
  f->free = c;
  if (f->drained && !f->stats.open && !f->closing)
    uv_timer_start(&f->sweep, front_on_sweep, 0, f->sweep_ms); /* it says so */
}

static void on_closed(uv_handle_t *h) {
  conn *c = h->data;
  c->closed = true;
  conn_settle(c);
}

void conn_close(conn *c) {
  let_front *f = c->f;
  if (c->dead) return;
  c->dead = true;
  unlink_from(&f->open, c);
  c->prev = NULL; /* until its handle is closed and the server has let go of it */
  c->next = f->zombie;
  if (f->zombie) f->zombie->prev = c;
  f->zombie = c;
  conn_slot_free(c);
  uv_poll_stop(&c->poll);
  close(c->fd);
  uv_close((uv_handle_t *)&c->poll, on_closed);
  if (c->inflight) {
    if (!f->closing) f->i.cancel(f->i.ctx, c->r);
  } else if (c->r) {
    f->i.request_release(f->i.ctx, c->r);
    c->r = NULL;
  }
}

/* Gives up on this connection's input: answers and closes. */
static void fail_close(conn *c, let_err why, const char *text) {
  c->keep = false;
  c->unread = true;
  conn_slot_free(c);
  conn_fail(c, let_err_http(why), text);
}

/* ---- bodies --------------------------------------------------------------------------------------------- */

static bool slot_for(conn *c, uint64_t bytes) {
  const let_front_i *i = &c->f->i;
  uint64_t slot = i->slot_alloc(i->ctx, bytes);
  if (slot == FRONT_SLOT_NONE) {
    fail_close(c, LET_ERR_NOMEM,
               "the arena is full: send fewer requests at once, or start the server with a larger --arena-size");
    return false;
  }
  if (c->slot != FRONT_SLOT_NONE) memcpy(i->at(i->ctx, slot), i->at(i->ctx, c->slot), c->got);
  conn_slot_free(c);
  c->slot = slot;
  c->slot_bytes = i->slot_bytes(i->ctx, slot);
  c->body = i->at(i->ctx, slot);
  return true;
}

static void too_large(conn *c) {
  char text[128];
  snprintf(text, sizeof text, "the body is longer than the server's limit of %llu bytes",
           (unsigned long long)c->f->o.body_max);
  fail_close(c, LET_ERR_TOO_LARGE, text);
}

/* The head is here: where does the body go? False: answered. */
static bool start_body(conn *c) {
  const let_http1_head *h = &c->head;
  size_t here = c->n - c->after;
  c->got = 0;
  c->body = NULL;
  c->body_bytes = h->has_length ? h->length : 0;
  c->chunked = (let_http1_chunked){0};
  if (c->body_bytes > c->f->o.body_max) {
    too_large(c);
    return false;
  }
  c->state = CONN_BODY;
  c->deadline = now_of(c->f) + c->f->o.body_timeout;
  if (!h->chunked && here >= c->body_bytes) {
    bool raw = c->route == ROUTE_INFER && h->has_header_length && c->body_bytes; /* the tensors must lie in the arena */
    if (raw && !slot_for(c, c->body_bytes)) return false;
    if (raw) memcpy((char *)c->f->i.at(c->f->i.ctx, c->slot), c->in + c->after, c->body_bytes);
    else c->body = c->in + c->after;
    c->got = c->body_bytes;
    c->after += c->body_bytes;
    return true;
  }
  if (h->chunked && c->at) { /* chunks are read behind the head: make room, and let its views follow it */
    memmove(c->in, c->in + c->at, c->n - c->at);
    c->n -= c->at;
    c->after -= c->at;
    c->at = 0;
    c->scanned = 0;
    size_t used;
    if (let_http1_parse(c->in, c->n, &c->scanned, &c->head, &used, NULL)) {
      conn_close(c);
      return false;
    }
  }
  if (!slot_for(c, h->chunked ? FRONT_CHUNKED_FIRST : c->body_bytes)) return false;
  if (!h->chunked && here) {
    memcpy(c->f->i.at(c->f->i.ctx, c->slot), c->in + c->after, here);
    c->got = here;
    c->n = c->after;
  }
  if (h->expect_continue && !here) {
    static const char go[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (send(c->fd, go, sizeof go - 1, MSG_NOSIGNAL) != (ssize_t)sizeof go - 1) {
      conn_close(c);
      return false;
    }
  }
  return true;
}

/* Decodes what has come of a chunked body. Returns whether it ended; an error is answered. */
static bool take_chunks(conn *c) {
  let_error e = {0};
  size_t at = c->after;
  bool end = false;
  while (at < c->n && !end) {
    size_t used;
    let_str data;
    let_err r = let_http1_chunked_step(&c->chunked, c->in + at, c->n - at, &used, &data, &end, &e);
    if (r) {
      fail_close(c, r, e.text);
      return false;
    }
    at += used;
    if (!data.n) continue;
    if (data.n > c->f->o.body_max - c->got) {
      too_large(c);
      return false;
    }
    if (c->got + data.n > c->slot_bytes) {
      uint64_t want = c->slot_bytes * 4;
      if (want < c->got + data.n) want = c->got + data.n;
      if (!slot_for(c, want)) return false;
    }
    memcpy((char *)c->f->i.at(c->f->i.ctx, c->slot) + c->got, data.p, data.n);
    c->got += data.n;
  }
  if (end) {
    c->body_bytes = c->got;
    c->after = at; /* what follows is the next request */
  } else {
    c->n = c->after;
  }
  return end;
}

/* ---- the machine ---------------------------------------------------------------------------------------- */

static void head_complete(conn *c) {
  c->f->stats.requests++;
  c->keep = c->head.keep_alive;
  /* An error found now is answered before the body has come: unless it is here already, the connection ends with it. */
  uint64_t body = c->head.has_length ? c->head.length : 0;
  bool here = !c->head.chunked && body <= c->n - c->after;
  size_t after = c->after;
  bool keep = c->keep;
  if (!here) {
    c->keep = false;
    c->unread = true;
  } else c->after += body;
  if (!route_head(c)) return;
  c->after = after;
  c->keep = keep;
  c->unread = false;
  start_body(c);
}

/* One step forward; false: it needs bytes, the server, or nothing any more. */
static bool step(conn *c) {
  let_error e = {0};
  size_t used = 0;
  if (c->dead) return false;
  switch (c->state) {
  case CONN_HEAD: {
    if (c->at == c->n) {
      if (c->eof) conn_close(c);
      return false;
    }
    if (!c->first_byte) {
      c->first_byte = now_of(c->f);
      c->deadline = c->first_byte + c->f->o.head_timeout;
    }
    let_err r = let_http1_parse(c->in + c->at, c->n - c->at, &c->scanned, &c->head, &used, &e);
    if (r == LET_ERR_AGAIN) {
      if (c->eof) conn_close(c);
      else if (c->at) { /* room for the rest of it */ memmove(c->in, c->in + c->at, c->n - c->at);
        c->n -= c->at;
        c->at = 0;
      }
      return false;
    }
    if (r) {
      c->head = (let_http1_head){.minor = 1};
      c->route = ROUTE_EXTRA;
      c->after = c->n;
      fail_close(c, r, e.text);
      return false;
    }
    c->after = c->at + used;
    head_complete(c);
    return !c->dead && (c->state == CONN_HEAD || c->state == CONN_BODY);
  }
  case CONN_BODY: {
    bool whole = c->head.chunked ? take_chunks(c) : c->got == c->body_bytes;
    if (c->dead || c->state != CONN_BODY) return false;
    if (!whole) {
      if (c->eof) conn_close(c);
      return false;
    }
    c->received = now_of(c->f);
    c->state = CONN_BUSY;
    c->deadline = LET_NEVER;
    route_body(c);
    return !c->dead && c->state == CONN_HEAD;
  }
  default: return false;
  }
}

void conn_advance(conn *c) {
  if (c->advancing) return;
  c->advancing = true;
  while (step(c))
    if (c->state == CONN_HEAD && c->at < c->n) c->f->i.turn(c->f->i.ctx);
  c->advancing = false;
}

/* The client sends no more. A closed socket looks the same, so the request in flight is cancelled, as in nginx; the
 * answer that it gets is still sent. */
static void on_eof(conn *c) {
  c->eof = true;
  conn_set_events(c, c->events & ~UV_READABLE);
  if (c->dead) return;
  if (c->state == CONN_LINGER) conn_close(c);
  else if (c->inflight) c->f->i.cancel(c->f->i.ctx, c->r);
}

/* True: the read filled all the room it had, so more may be there at once. */
static bool read_some(conn *c, size_t *budget) {
  bool body = c->state == CONN_BODY && !c->head.chunked;
  char *to = body ? (char *)c->f->i.at(c->f->i.ctx, c->slot) + c->got : c->in + c->n;
  size_t room = body ? (size_t)(c->body_bytes - c->got) : sizeof c->in - c->n;
  if (c->state == CONN_LINGER) {
    to = c->in;
    room = sizeof c->in;
  }
  if (room > *budget) room = *budget;
  if (!room) { /* pipelined requests fill the buffer while one is being worked on: TCP holds the rest */
    if (*budget) conn_set_events(c, c->events & ~UV_READABLE);
    return false;
  }
  ssize_t n = read(c->fd, to, room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n < 0) {
    conn_close(c);
    return false;
  }
  c->f->stats.bytes_in += (uint64_t)n;
  *budget -= (size_t)n;
  if (n == 0) on_eof(c);
  else if (c->state == CONN_LINGER) return false;
  else if (body) c->got += (size_t)n;
  else c->n += (size_t)n;
  if (c->state == CONN_BODY) c->deadline = now_of(c->f) + c->f->o.body_timeout;
  conn_advance(c);
  return (size_t)n == room;
}

/* A head is followed by its body in the same turn: a round of the loop may be long, and would be another wait. */
static void on_readable(conn *c) {
  size_t budget = FRONT_TURN_BYTES;
  while (read_some(c, &budget) && !c->dead && c->state == CONN_BODY) {}
}

static void on_poll(uv_poll_t *h, int status, int events) {
  conn *c = h->data;
  c->f->i.turn(c->f->i.ctx); /* which may answer this very connection's request, and close it */
  if (c->dead) return;
  if (status < 0) {
    conn_close(c);
    return;
  }
  if (events & UV_WRITABLE && c->state == CONN_WRITE) {
    c->advancing = true;
    conn_flush(c);
    c->advancing = false;
    conn_advance(c);
  }
  if (events & UV_READABLE && !c->dead && !c->eof && c->state != CONN_WRITE) on_readable(c);
}

void conn_sweep(let_front *f, let_time now) {
  for (conn *c = f->open, *next; c; c = next) {
    next = c->next;
    if (now < c->deadline) continue;
    bool silent = c->state == CONN_LINGER || c->state == CONN_WRITE || (c->state == CONN_HEAD && !c->first_byte);
    if (c->state != CONN_LINGER && !(c->state == CONN_HEAD && !c->first_byte)) f->stats.timeouts++;
    if (silent) {
      conn_close(c);
      continue;
    }
    bool head = c->state == CONN_HEAD;
    if (head) {
      c->head = (let_http1_head){.minor = 1};
      c->route = ROUTE_EXTRA;
      c->after = c->n;
    }
    fail_close(c, LET_ERR_READ_TIMEOUT,
               head ? "the request's head did not arrive in time" : "the request's body stopped arriving");
  }
  if (f->draining && f->drained && !f->stats.open) {
    void (*drained)(void *) = f->drained;
    f->drained = NULL;
    drained(f->drained_ctx);
  }
}

/* A request that is already on its way here is still answered; without one an idle connection closes. */
void conn_drain(conn *c) {
  if (c->state == CONN_HEAD && c->at == c->n && !c->eof) on_readable(c);
  if (!c->dead && c->state == CONN_HEAD && c->at == c->n) conn_close(c);
}
