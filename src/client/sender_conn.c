/* sender_conn.c: the connections of a sender: a job goes out on an idle one, and its answer makes it idle again. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client/sender_int.h"
#include "os/clock.h"

bool let__sender_counted(const sender *s, let_time intended) {
  return intended >= s->run->from && intended < s->run->until;
}

void let__sender_count(sender *s, const job *j, let_load_kind kind, let_time now) {
  if (let__sender_counted(s, j->intended)) let_tally_add(&s->tally[j->model], kind, j->intended, now);
  s->done++;
}

void let__sender_put(sender *s, job j) {
  s->waiting[(s->head + s->n_waiting) % s->cap] = j;
  s->n_waiting++;
  uint64_t inflight = s->n_waiting + s->busy;
  if (inflight > s->figures.inflight_max && let__sender_counted(s, j.intended)) s->figures.inflight_max = inflight;
}

job let__sender_take(sender *s) {
  job j = s->waiting[s->head];
  s->head = (s->head + 1) % s->cap;
  s->n_waiting--;
  return j;
}

void let__sender_example(sender *s, const job *j, const char *fmt, ...) {
  let_tally *t = &s->tally[j->model];
  if (t->example[0]) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(t->example, sizeof t->example, fmt, ap);
  va_end(ap);
}

/* ---- connections ----------------------------------------------------------------------------------------- */

static void make_idle(conn *c) {
  c->state = CONN_IDLE;
  c->next = c->s->idle;
  c->s->idle = c;
}

static void closed(uv_handle_t *h) {
  conn *c = h->data;
  c->state = CONN_FREE;
  c->next = c->s->spare;
  c->s->spare = c;
  if (!c->s->over) let__sender_dispatch(c->s);
}

void let__sender_drop(conn *c) {
  if (c->state == CONN_CLOSING || c->state == CONN_FREE) return;
  sender *s = c->s;
  if (c->state == CONN_CONNECTING) s->connecting--;
  if (c->state == CONN_BUSY) s->busy--;
  if (c->state == CONN_IDLE) {
    conn **at = &s->idle;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
  }
  s->open--;
  c->state = CONN_CLOSING;
  uv_close((uv_handle_t *)&c->tcp, closed);
}

/* The request on |c| has come to |kind|. In the closed loop the next one follows at once. */
static void over(conn *c, let_load_kind kind) {
  sender *s = c->s;
  let_time now = let_now();
  let__sender_count(s, &c->job, kind, now);
  if (s->closed && now < s->run->until && !s->over)
    let__sender_put(s, (job){.intended = now, .model = let_arrivals_pick(&s->arrivals)});
}

void let__sender_lost(conn *c, int why) {
  sender *s = c->s;
  if (c->state == CONN_BUSY) {
    /* A server may close a kept-alive connection just as we use it: the request was not taken, and goes again once. */
    if (c->used && !c->reply.started && c->job.tries == 0) {
      c->job.tries = 1;
      let__sender_put(s, c->job);
    } else {
      let__sender_example(s, &c->job, "connection: %s",
                          why ? uv_strerror(why) : "closed by the server before the answer was complete");
      over(c, LET_LOAD_CONNECTION);
    }
  } else if (c->state == CONN_CONNECTING && s->n_waiting > s->connecting - 1) {
    /* No server answers: the request that this connection was for fails with it. */
    c->job = let__sender_take(s);
    let__sender_example(s, &c->job, "cannot connect: %s", uv_strerror(why));
    over(c, LET_LOAD_CONNECTION);
  }
  let__sender_drop(c);
}

void let__sender_expire(conn *c) {
  let__sender_example(c->s, &c->job, "no answer within %.3g s", (double)c->s->o->timeout / 1e9);
  over(c, LET_LOAD_TIMEOUT);
  let__sender_drop(c);
}

static let_load_kind kind_of(int status) {
  if (status == 200) return LET_LOAD_OK;
  if (status == 503) return LET_LOAD_REFUSED;
  return status >= 400 && status < 500 ? LET_LOAD_CLIENT_ERROR
         : status >= 500               ? LET_LOAD_SERVER_ERROR
                                       : LET_LOAD_CONNECTION;
}

static void answered(conn *c) {
  sender *s = c->s;
  let_load_kind kind = kind_of(c->reply.status);
  if (kind != LET_LOAD_OK)
    let__sender_example(s, &c->job, "status %d: %.*s", c->reply.status, (int)c->reply.body_n, c->reply.body);
  over(c, kind);
  c->used = true;
  if (c->reply.close || c->writing) { /* answered before it had all of the request: what follows would be misread */
    let__sender_drop(c);
  } else {
    s->busy--;
    make_idle(c);
  }
  if (!s->over) let__sender_dispatch(s);
}

static void lend(uv_handle_t *h, size_t want, uv_buf_t *ret) {
  (void)want;
  conn *c = h->data;
  *ret = uv_buf_init(c->s->in, sizeof c->s->in); /* consumed before the next read */
}

static void received(uv_stream_t *stream, ssize_t n, const uv_buf_t *b) {
  conn *c = stream->data;
  if (n == 0 || c->state == CONN_CLOSING) return;
  if (n < 0) {
    if (n == UV_EOF && c->state == CONN_BUSY) {
      let_reply_eof(&c->reply);
      if (c->reply.state == LET_REPLY_DONE) {
        c->reply.close = true;
        answered(c);
        return;
      }
    }
    let__sender_lost(c, n == UV_EOF ? 0 : (int)n);
    if (!c->s->over) let__sender_dispatch(c->s);
    return;
  }
  if (c->state != CONN_BUSY) {
    let__sender_drop(c); /* bytes that answer no request */
    return;
  }
  size_t used = let_reply_feed(&c->reply, b->base, (size_t)n);
  if (c->reply.state == LET_REPLY_BROKEN || (c->reply.state == LET_REPLY_DONE && used < (size_t)n)) {
    c->reply.started = true;
    let__sender_lost(c, UV_EPROTO);
    if (!c->s->over) let__sender_dispatch(c->s);
  } else if (c->reply.state == LET_REPLY_DONE) answered(c);
}

static void written(uv_write_t *w, int status) {
  conn *c = w->data;
  c->writing = false;
  if (status < 0 && c->state == CONN_BUSY) {
    let__sender_lost(c, status);
    if (!c->s->over) let__sender_dispatch(c->s);
  }
}

static void send_on(conn *c, job j) {
  sender *s = c->s;
  c->job = j;
  c->state = CONN_BUSY;
  c->since = let_now();
  s->busy++;
  if (j.tries == 0 && !s->closed && let__sender_counted(s, j.intended)) {
    let_hist_add(&s->figures.lateness, c->since - j.intended);
    s->figures.waited += j.waited;
  }
  let_reply_reset(&c->reply, NULL);
  const let_buf *r = &s->run->request[j.model];
  uv_buf_t b = uv_buf_init(r->p, (unsigned)r->n);
  int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
  if (n == UV_EAGAIN) n = 0;
  if (n >= 0 && (size_t)n < r->n) {
    b = uv_buf_init(r->p + n, (unsigned)(r->n - (size_t)n));
    c->write.data = c;
    c->writing = true;
    n = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, written);
    if (n < 0) c->writing = false;
  }
  if (n < 0) let__sender_lost(c, n); /* closed() looks at the queue again */
}

static void connected(uv_connect_t *r, int status) {
  conn *c = r->data;
  sender *s = c->s;
  if (c->state != CONN_CONNECTING) return;
  if (status == 0) status = uv_read_start((uv_stream_t *)&c->tcp, lend, received);
  if (status < 0) {
    let__sender_lost(c, status);
    return;
  }
  s->connecting--;
  if (s->open > s->figures.connections) s->figures.connections = s->open;
  make_idle(c);
  if (!s->over) let__sender_dispatch(s);
}

static void connect_one(sender *s) {
  conn *c = s->spare;
  s->spare = c->next;
  uint32_t used = (uint32_t)(c - s->conn) + 1;
  if (used > s->n_used) s->n_used = used;
  c->s = s;
  c->used = c->writing = false;
  c->tcp.data = c->connect.data = c;
  c->state = CONN_CONNECTING;
  c->since = let_now();
  s->open++;
  s->connecting++;
  int r = uv_tcp_init(&s->loop, &c->tcp);
  LET_ASSERT(r == 0);
  r = uv_tcp_connect(&c->connect, &c->tcp, (const struct sockaddr *)&s->run->target->address, connected);
  if (r == 0) (void)uv_tcp_nodelay(&c->tcp, 1);
  else let__sender_lost(c, r);
}

void let__sender_dispatch(sender *s) {
  while (s->n_waiting && s->idle) {
    conn *c = s->idle;
    s->idle = c->next;
    send_on(c, let__sender_take(s));
  }
  while (s->n_waiting > s->connecting && s->open < s->n_conn && s->spare) connect_one(s);
}
