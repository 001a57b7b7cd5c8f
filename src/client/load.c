/* load.c: the generator's loop.
 *
 * A job is one request with the time it was due. Due jobs wait in a ring (|waiting|) for a free connection; the clock
 * of each runs all the while. A timerfd wakes the loop for the next one, because the loop's own timers know only
 * milliseconds. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <uv.h>

#include "client/arrival.h"
#include "client/client.h"
#include "client/reply.h"
#include "client/tally.h"
#include "client/target.h"
#include "conf/file.h"
#include "conf/plan_json.h"
#include "os/clock.h"

typedef struct job {
  let_time intended;
  uint32_t model;
  uint32_t tries;
  bool waited; /* found no free connection */
} job;

typedef enum conn_state { CONN_FREE, CONN_CONNECTING, CONN_IDLE, CONN_BUSY, CONN_CLOSING } conn_state;

typedef struct load load;
typedef struct conn {
  load *l;
  uv_tcp_t tcp;
  uv_connect_t connect;
  uv_write_t write;
  bool writing; /* the rest of a request is with the loop */
  bool used;    /* has answered before */
  conn_state state;
  job job;
  let_time since; /* sent, or began to connect */
  let_reply reply;
  struct conn *next;
} conn;

struct load {
  const let_load_options *o;
  const let_workload *w;
  let_target target;
  let_buf *request; /* one per model */
  let_tally *tally;
  let_load_report report;
  let_arena plan_arena;
  let_plan plan;
  let_arrivals arrivals;
  bool arrivals_ready;
  uv_loop_t loop;
  uv_poll_t timer;
  uv_timer_t tick;
  uv_signal_t interrupt;
  int timer_fd;
  conn *conn, *idle, *spare;
  uint32_t open, connecting, busy;
  job *waiting;
  uint32_t cap, head, n_waiting;
  let_time start, from, until; /* counted: [from, until) */
  bool over, interrupted;
  uint64_t done, done_before;
  let_time last_progress;
  char in[64 * 1024];
};

static void dispatch(load *l);
static void stop(load *l);

static void count(load *l, const job *j, let_load_kind kind, let_time now) {
  if (j->intended >= l->from && j->intended < l->until) let_tally_add(&l->tally[j->model], kind, j->intended, now);
  l->done++;
}

static void put(load *l, job j) { l->waiting[(l->head + l->n_waiting++) % l->cap] = j; }
static job take(load *l) {
  job j = l->waiting[l->head];
  l->head = (l->head + 1) % l->cap, l->n_waiting--;
  return j;
}

static void example(load *l, const job *j, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void example(load *l, const job *j, const char *fmt, ...) {
  let_tally *t = &l->tally[j->model];
  if (t->example[0]) return;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(t->example, sizeof t->example, fmt, ap);
  va_end(ap);
}

/* ---- connections ----------------------------------------------------------------------------------------- */

static void closed(uv_handle_t *h) {
  conn *c = h->data;
  c->state = CONN_FREE;
  c->next = c->l->spare, c->l->spare = c;
  if (!c->l->over) dispatch(c->l);
}

static void drop(conn *c) {
  if (c->state == CONN_CLOSING || c->state == CONN_FREE) return;
  load *l = c->l;
  if (c->state == CONN_CONNECTING) l->connecting--;
  if (c->state == CONN_BUSY) l->busy--;
  if (c->state == CONN_IDLE) {
    conn **at = &l->idle;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
  }
  l->open--;
  c->state = CONN_CLOSING;
  uv_close((uv_handle_t *)&c->tcp, closed);
}

/* The request on |c| has come to |kind|. In the closed loop the next one follows at once. */
static void over(conn *c, let_load_kind kind) {
  load *l = c->l;
  let_time now = let_now();
  count(l, &c->job, kind, now);
  if (l->o->closed && now < l->until && !l->over)
    put(l, (job){.intended = now, .model = let_arrivals_pick(&l->arrivals)});
}

static void lost(conn *c, int why) {
  load *l = c->l;
  if (c->state == CONN_BUSY) {
    /* A server may close a kept-alive connection just as we use it: the request was not taken, and goes again once. */
    if (c->used && !c->reply.started && c->job.tries == 0) {
      c->job.tries = 1;
      put(l, c->job);
    } else {
      example(l, &c->job, "connection: %s",
              why ? uv_strerror(why) : "closed by the server before the answer was complete");
      over(c, LET_LOAD_CONNECTION);
    }
  } else if (c->state == CONN_CONNECTING && l->n_waiting > l->connecting - 1) {
    /* Nobody answers: the request that this connection was for fails with it. */
    c->job = take(l);
    example(l, &c->job, "cannot connect: %s", uv_strerror(why));
    over(c, LET_LOAD_CONNECTION);
  }
  drop(c);
}

static let_load_kind kind_of(int status) {
  if (status == 200) return LET_LOAD_OK;
  if (status == 503) return LET_LOAD_REFUSED;
  return status >= 400 && status < 500 ? LET_LOAD_CLIENT_ERROR
         : status >= 500               ? LET_LOAD_SERVER_ERROR
                                       : LET_LOAD_CONNECTION;
}

static void answered(conn *c) {
  load *l = c->l;
  let_load_kind kind = kind_of(c->reply.status);
  if (kind != LET_LOAD_OK) example(l, &c->job, "status %d: %.*s", c->reply.status, (int)c->reply.body_n, c->reply.body);
  over(c, kind);
  c->used = true;
  if (c->reply.close || c->writing) { /* answered before it had all of the request: what follows would be misread */
    drop(c);
  } else {
    l->busy--;
    c->state = CONN_IDLE;
    c->next = l->idle, l->idle = c;
  }
  if (!l->over) dispatch(l);
}

static void lend(uv_handle_t *h, size_t want, uv_buf_t *ret) {
  (void)want;
  conn *c = h->data;
  *ret = uv_buf_init(c->l->in, sizeof c->l->in); /* consumed before the next read */
}

static void received(uv_stream_t *s, ssize_t n, const uv_buf_t *b) {
  conn *c = s->data;
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
    lost(c, n == UV_EOF ? 0 : (int)n);
    if (!c->l->over) dispatch(c->l);
    return;
  }
  if (c->state != CONN_BUSY) {
    drop(c); /* bytes that nobody asked for */
    return;
  }
  size_t used = let_reply_feed(&c->reply, b->base, (size_t)n);
  if (c->reply.state == LET_REPLY_BROKEN || (c->reply.state == LET_REPLY_DONE && used < (size_t)n)) {
    c->reply.started = true;
    lost(c, UV_EPROTO);
    if (!c->l->over) dispatch(c->l);
  } else if (c->reply.state == LET_REPLY_DONE) answered(c);
}

static void written(uv_write_t *w, int status) {
  conn *c = w->data;
  c->writing = false;
  if (status < 0 && c->state == CONN_BUSY) {
    lost(c, status);
    if (!c->l->over) dispatch(c->l);
  }
}

static void send_on(conn *c, job j) {
  load *l = c->l;
  c->job = j, c->state = CONN_BUSY, c->since = let_now();
  l->busy++;
  if (j.tries == 0 && !l->o->closed && j.intended >= l->from && j.intended < l->until) {
    let_hist_add(&l->report.lateness, c->since - j.intended);
    l->report.waited += j.waited;
  }
  let_reply_reset(&c->reply, NULL);
  let_buf *r = &l->request[j.model];
  uv_buf_t b = uv_buf_init(r->p, (unsigned)r->n);
  int n = uv_try_write((uv_stream_t *)&c->tcp, &b, 1);
  if (n == UV_EAGAIN) n = 0;
  if (n >= 0 && (size_t)n < r->n) {
    b = uv_buf_init(r->p + n, (unsigned)(r->n - (size_t)n));
    c->write.data = c, c->writing = true;
    n = uv_write(&c->write, (uv_stream_t *)&c->tcp, &b, 1, written);
    if (n < 0) c->writing = false;
  }
  if (n < 0) lost(c, n); /* closed() looks at the queue again */
}

static void connected(uv_connect_t *r, int status) {
  conn *c = r->data;
  load *l = c->l;
  if (c->state != CONN_CONNECTING) return;
  if (status < 0 || (status = uv_read_start((uv_stream_t *)&c->tcp, lend, received)) < 0) {
    lost(c, status);
    return;
  }
  l->connecting--;
  if (l->open > l->report.connections) l->report.connections = l->open;
  c->state = CONN_IDLE;
  c->next = l->idle, l->idle = c;
  if (!l->over) dispatch(l);
}

static void connect_one(load *l) {
  conn *c = l->spare;
  l->spare = c->next;
  c->l = l, c->used = c->writing = false;
  c->tcp.data = c, c->connect.data = c;
  c->state = CONN_CONNECTING, c->since = let_now();
  l->open++, l->connecting++;
  int r = uv_tcp_init(&l->loop, &c->tcp);
  LET_ASSERT(r == 0);
  r = uv_tcp_connect(&c->connect, &c->tcp, (const struct sockaddr *)&l->target.address, connected);
  if (r == 0) (void)uv_tcp_nodelay(&c->tcp, 1);
  else lost(c, r);
}

static void dispatch(load *l) {
  while (l->n_waiting && l->idle) {
    conn *c = l->idle;
    l->idle = c->next;
    send_on(c, take(l));
  }
  while (l->n_waiting > l->connecting && l->open < l->o->connections && l->spare) connect_one(l);
}

/* ---- time ------------------------------------------------------------------------------------------------- */

static void arm(load *l, let_time at) {
  struct itimerspec t = {.it_value = {.tv_sec = at / LET_S, .tv_nsec = at % LET_S}};
  int r = timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
  LET_ASSERT(r == 0);
}

/* Everything that is due goes; then the timer is set for the next. */
static void pump(load *l) {
  let_time now = let_now();
  let_arrival a;
  bool more = false;
  while (!l->o->closed && (more = let_arrivals_peek(&l->arrivals, &a)) && l->start + a.at <= now &&
         l->start + a.at < l->until) {
    let_arrivals_pop(&l->arrivals);
    job j = {.intended = l->start + a.at, .model = a.model};
    j.waited = !l->idle && l->open >= l->o->connections;
    if (l->n_waiting + l->busy >= l->o->max_inflight) {
      example(l, &j, "not sent: %u requests were in flight already (--max-inflight)", l->o->max_inflight);
      count(l, &j, LET_LOAD_NOT_SENT, now);
    } else put(l, j);
  }
  dispatch(l);
  let_time next = more ? l->start + a.at : l->until;
  if (next > l->until) next = l->until;
  if (!l->o->closed && !more && l->n_waiting + l->busy == 0) stop(l); /* the trace is over */
  else if (now < l->until) arm(l, next > now ? next : now + 1);
  else if (l->n_waiting + l->busy == 0) stop(l);
}

static void due(uv_poll_t *p, int status, int events) {
  load *l = p->data;
  (void)status, (void)events;
  uint64_t times;
  (void)!read(l->timer_fd, &times, sizeof times);
  pump(l);
}

static void progress(load *l, let_time now) {
  FILE *f = l->o->progress;
  let_dur every = l->o->tty ? LET_S : 5 * LET_S;
  if (!f || now - l->last_progress < every) return;
  uint64_t good = 0, sent = 0;
  for (uint32_t i = 0; i < l->w->n; i++) good += l->tally[i].good, sent += l->tally[i].sent;
  double rate = (double)(l->done - l->done_before) / ((double)(now - l->last_progress) / 1e9);
  fprintf(f, "%s%s%5.1f s of %.1f s: %.0f answers/s, %u in flight on %u connections, %.2f %% within SLO%s",
          l->o->tty ? "\r" : "", now < l->from ? "warming up: " : "", (double)(now - l->start) / 1e9,
          (double)(l->until - l->start) / 1e9, rate, l->busy + l->n_waiting, l->open,
          sent ? 100.0 * (double)good / (double)sent : 0, l->o->tty ? "   " : "\n");
  fflush(f);
  l->last_progress = now, l->done_before = l->done;
}

static void tick(uv_timer_t *t) {
  load *l = t->data;
  let_time now = let_now();
  for (uint32_t i = 0; i < l->o->connections; i++) {
    conn *c = &l->conn[i];
    if (c->state == CONN_CONNECTING && now - c->since > l->o->timeout) lost(c, UV_ETIMEDOUT);
    if (c->state != CONN_BUSY || now - c->since <= l->o->timeout) continue;
    example(l, &c->job, "no answer within %.3g s", (double)l->o->timeout / 1e9);
    over(c, LET_LOAD_TIMEOUT);
    drop(c);
  }
  while (l->n_waiting && now - l->waiting[l->head].intended > l->o->timeout) {
    job j = take(l);
    example(l, &j, "waited for a connection for %.3g s", (double)l->o->timeout / 1e9);
    count(l, &j, LET_LOAD_TIMEOUT, now);
  }
  progress(l, now);
  dispatch(l);
  if (now >= l->until && l->n_waiting + l->busy == 0) stop(l);
}

static void interrupt(uv_signal_t *s, int number) {
  (void)number;
  load *l = s->data;
  l->interrupted = true;
  stop(l);
}

static void stop(load *l) {
  if (l->over) return;
  l->over = true;
  let_time now = let_now(), end = now < l->until ? now : l->until;
  l->report.seconds = end > l->from ? (double)(end - l->from) / 1e9 : 0;
  l->report.unfinished = l->n_waiting + l->busy;
  for (uint32_t i = 0; i < l->o->connections; i++) drop(&l->conn[i]);
  uv_close((uv_handle_t *)&l->timer, NULL);
  uv_close((uv_handle_t *)&l->tick, NULL);
  uv_close((uv_handle_t *)&l->interrupt, NULL);
}

/* ---- a run ------------------------------------------------------------------------------------------------ */

static let_err check(const let_load_options *o, const let_workload *w, let_error *e) {
  if (w->n == 0) return let_fail(e, LET_ERR_INVALID, "the workload names no model");
  if (o->duration <= 0) return let_fail(e, LET_ERR_INVALID, "--duration must be longer than 0");
  if (!(o->rate_scale > 0)) return let_fail(e, LET_ERR_INVALID, "--rate-scale must be above 0");
  if (o->connections < 1 || o->connections > 65536)
    return let_fail(e, LET_ERR_INVALID, "--connections must be within 1..65536");
  if (o->rows < 1 || o->variable_dim < 1)
    return let_fail(e, LET_ERR_INVALID, "--rows and --variable-dim must be at least 1");
  double sum = 0;
  for (uint32_t i = 0; i < w->n; i++) sum += w->demand[i].rate;
  if (!(sum > 0) && !o->closed && strncmp(o->arrival, "trace:", 6))
    return let_fail(e, LET_ERR_INVALID, "every rate of the workload is 0: nothing would be sent");
  return LET_OK;
}

static let_err arrivals(load *l, let_error *e) {
  const let_load_options *o = l->o;
  let_err err;
  if (!strcmp(o->arrival, "poisson") || !strcmp(o->arrival, "uniform")) {
    err = let_arrivals_init(&l->arrivals, l->w, o->arrival[0] == 'u', o->rate_scale, o->seed, &let_mem_libc, e);
  } else if (!strncmp(o->arrival, "trace:", 6)) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_str text;
    err = let_file_read(o->arrival + 6, &a, &text, e);
    if (!err)
      err = let_arrivals_trace(&l->arrivals, l->w, text, o->arrival + 6, o->rate_scale, o->seed, &let_mem_libc, e);
    let_arena_fini(&a);
  } else {
    return let_fail(e, LET_ERR_INVALID, "--arrival '%s': poisson, uniform or trace:FILE", o->arrival);
  }
  l->arrivals_ready = !err;
  return err;
}

static bool get(load *l, const char *path, let_buf *body) {
  let_error e;
  let_dur patience = l->o->timeout < 2 * LET_S ? l->o->timeout : 2 * LET_S;
  return let_target_get(&l->target, path, patience, body, &e) == LET_OK;
}

/* What runs where, and for which SLO: only a gpulet server knows. */
static void ask_plan(load *l) {
  let_buf body;
  let_error e;
  let_buf_init(&body, &let_mem_libc);
  if (get(l, "/v2/gpulet/plan", &body) &&
      let_plan_parse(body.p, body.n, "plan", &l->plan_arena, &l->plan, &e) == LET_OK)
    l->report.plan = &l->plan;
  let_buf_fini(&body);
}

/* What the server has run: |before| the load in all, and after it since then. A difference needs both ends. */
static void ask_batches(load *l, bool before) {
  let_buf body;
  let_buf_init(&body, &let_mem_libc);
  bool ok = get(l, "/v2/models/stats", &body);
  for (uint32_t i = 0; i < l->w->n; i++) {
    let_tally *t = &l->tally[i];
    uint64_t rows, batches;
    bool known =
        ok && (before || t->counted) && let_target_batches((let_str){body.p, body.n}, t->name, &rows, &batches);
    t->counted = known && (before || (rows >= t->rows && batches >= t->batches));
    if (!t->counted) rows = batches = t->rows = t->batches = 0;
    t->rows = before ? rows : rows - t->rows, t->batches = before ? batches : batches - t->batches;
  }
  let_buf_fini(&body);
}

/* A workload without an SLO means the plan's or the model's own. A server that tells none leaves it open: "-". */
static let_dur slo_of(load *l, const char *name) {
  for (uint32_t i = 0; l->report.plan && i < l->plan.n_gpus; i++)
    for (uint32_t k = 0; k < l->plan.gpu[i].n_gpulets; k++)
      for (uint32_t j = 0; j < l->plan.gpu[i].gpulet[k].n_entries; j++) {
        const let_plan_entry *x = &l->plan.gpu[i].gpulet[k].entry[j];
        if (x->slo > 0 && strcmp(x->name, name) == 0) return x->slo;
      }
  let_buf path, body;
  let_buf_init(&path, &let_mem_libc), let_buf_init(&body, &let_mem_libc);
  let_target_path(name, "/config", &path);
  let_dur slo = !path.failed && get(l, path.p, &body) ? let_target_slo((let_str){body.p, body.n}) : 0;
  let_buf_fini(&path), let_buf_fini(&body);
  return slo;
}

static let_err requests(load *l, let_error *e) {
  let_body_options b = {.rows = l->o->rows, .variable_dim = l->o->variable_dim, .data = l->o->data};
  let_rng rng;
  let_rng_seed(&rng, l->o->seed + 1);
  let_buf meta, path;
  let_buf_init(&meta, &let_mem_libc);
  let_buf_init(&path, &let_mem_libc);
  let_err err = LET_OK;
  for (uint32_t i = 0; i < l->w->n && !err; i++) {
    const char *name = l->w->demand[i].name;
    l->tally[i].name = name, l->tally[i].slo = l->w->demand[i].slo;
    let_buf_init(&l->request[i], &let_mem_libc);
    if (l->o->get) {
      let_buf_fmt(&l->request[i], "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", l->o->get, l->target.host, l->target.port);
      if (l->request[i].failed) err = let_fail(e, LET_ERR_NOMEM, "out of memory");
      continue;
    }
    let_buf_clear(&meta), let_buf_clear(&path);
    let_target_path(name, "", &path);
    err = path.failed ? let_fail(e, LET_ERR_NOMEM, "out of memory")
                      : let_target_get(&l->target, path.p, l->o->timeout, &meta, e);
    if (!err) err = let_target_request(&l->target, name, (let_str){meta.p, meta.n}, &b, &rng, &l->request[i], e);
    if (!err && !l->tally[i].slo) l->tally[i].slo = slo_of(l, name);
  }
  let_buf_fini(&meta), let_buf_fini(&path);
  return err;
}

static let_err allocate(load *l, let_error *e) {
  const let_load_options *o = l->o;
  l->cap = (o->max_inflight > o->closed ? o->max_inflight : o->closed) + o->connections +
           1; /* those sent again come on top */
  l->request = calloc(l->w->n, sizeof *l->request);
  l->tally = calloc(l->w->n, sizeof *l->tally);
  l->conn = calloc(o->connections, sizeof *l->conn);
  l->waiting = calloc(l->cap, sizeof *l->waiting);
  if (!l->request || !l->tally || !l->conn || !l->waiting)
    return let_fail(e, LET_ERR_NOMEM, "out of memory for %u connections", o->connections);
  for (uint32_t i = o->connections; i > 0; i--) l->conn[i - 1].next = l->spare, l->spare = &l->conn[i - 1];
  return LET_OK;
}

static let_err go(load *l, let_error *e) {
  l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (l->timer_fd < 0) return let_fail(e, LET_ERR_IO, "timerfd: %s", strerror(errno));
  int r = uv_loop_init(&l->loop);
  if (r) {
    close(l->timer_fd);
    return let_fail(e, LET_ERR_IO, "event loop: %s", uv_strerror(r));
  }
  l->timer.data = l->tick.data = l->interrupt.data = l;
  r = uv_poll_init(&l->loop, &l->timer, l->timer_fd);
  LET_ASSERT(r == 0);
  r = uv_timer_init(&l->loop, &l->tick) + uv_signal_init(&l->loop, &l->interrupt);
  LET_ASSERT(r == 0);
  r = uv_poll_start(&l->timer, UV_READABLE, due) + uv_timer_start(&l->tick, tick, 50, 50) +
      uv_signal_start(&l->interrupt, interrupt, SIGINT);
  LET_ASSERT(r == 0);
  l->start = let_now();
  l->from = l->start + l->o->warmup, l->until = l->from + l->o->duration;
  l->last_progress = l->start;
  for (uint32_t i = 0; i < l->o->closed; i++)
    put(l, (job){.intended = l->start, .model = let_arrivals_pick(&l->arrivals)});
  pump(l);
  uv_run(&l->loop, UV_RUN_DEFAULT);
  r = uv_loop_close(&l->loop);
  LET_ASSERT(r == 0);
  close(l->timer_fd);
  if (l->o->progress && l->o->tty) fprintf(l->o->progress, "\r\033[K");
  return LET_OK;
}

let_err let_load_run(const let_load_options *o, const let_workload *w, let_buf *out, let_error *e) {
  let_load_options own = *o;
  if (own.closed) own.connections = own.closed;
  if (own.max_inflight < 1) own.max_inflight = 1;
  let_err err = check(&own, w, e);
  if (err) return err;
  load *l = calloc(1, sizeof *l);
  if (!l) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  l->o = &own, l->w = w;
  l->report.closed = own.closed > 0, l->report.wide = own.wide;
  let_arena_init(&l->plan_arena, &let_mem_libc);
  err = let_target_init(&l->target, own.url, e);
  if (!err) err = allocate(l, e);
  if (!err) err = arrivals(l, e);
  if (!err && !own.get) ask_plan(l);
  if (!err) err = requests(l, e);
  if (!err && !own.get) ask_batches(l, true);
  if (!err) err = go(l, e);
  if (!err && !own.get) ask_batches(l, false);
  if (!err && l->report.seconds <= 0)
    err = let_fail(e, LET_ERR_CANCELLED, "stopped before the warm-up was over: nothing was counted");
  if (!err && own.json) err = let_tally_json(l->tally, w->n, &l->report, out, e);
  else if (!err) let_tally_print(l->tally, w->n, &l->report, out);
  if (!err && out->failed) err = let_fail(e, LET_ERR_NOMEM, "out of memory for the report");
  uint64_t sent = 0, ok = 0;
  for (uint32_t i = 0; !err && i < w->n; i++) sent += l->tally[i].sent, ok += l->tally[i].kind[LET_LOAD_OK];
  if (!err && sent && !ok)
    err = let_fail(e, LET_ERR_UNAVAILABLE, "none of %llu requests was answered with 200", (unsigned long long)sent);
  if (l->arrivals_ready) let_arrivals_fini(&l->arrivals);
  for (uint32_t i = 0; l->request && i < w->n; i++)
    if (l->request[i].mem) let_buf_fini(&l->request[i]);
  let_arena_fini(&l->plan_arena);
  free(l->request), free(l->tally), free(l->conn), free(l->waiting), free(l);
  return err;
}
