/* sender.c: the generator's loop: what is due when, and the thread around it.
 *
 * A job is one request with the time it was due. Due jobs wait in a ring (|waiting|) for a free connection; the clock
 * of each runs all the while. A timerfd wakes the loop for the next one, because the loop's own timers know only
 * milliseconds. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "client/sender_int.h"
#include "os/clock.h"

enum { TICK_MS = 50 };

static void stop(sender *s);

/* ---- time ------------------------------------------------------------------------------------------------- */

static void arm(sender *s, let_time at) {
  struct itimerspec t = {.it_value = {.tv_sec = at / LET_S, .tv_nsec = at % LET_S}};
  int r = timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
  LET_ASSERT(r == 0);
}

/* How long the calling thread has been ready to run while no core was free; 0 where the kernel does not count it. */
static let_dur thread_deprived(void) {
  char text[128];
  int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
  if (fd >= 0) close(fd);
  text[n > 0 ? n : 0] = 0;
  long long ran, waited;
  return sscanf(text, "%lld %lld", &ran, &waited) == 2 && waited > 0 ? (let_dur)waited : 0;
}

/* The thread's CPU time is taken at the first turn of the loop in the counted time and at the first after it. */
static void take_cpu(sender *s, let_time now, bool end) {
  if (!s->cpu_since && now >= s->run->from) {
    s->cpu_since = now;
    s->cpu = -let_thread_cpu();
    s->deprived = -thread_deprived();
  }
  if (s->cpu_since && !s->cpu_until && (end || now >= s->run->until)) {
    s->cpu_until = now;
    s->cpu += let_thread_cpu();
    s->deprived += thread_deprived();
  }
}

/* Everything that is due goes; then the timer is set for the next. */
static void pump(sender *s) {
  const let_sender_run *run = s->run;
  let_time now = let_now();
  let_arrival a;
  bool more = !s->closed && let_arrivals_peek(&s->arrivals, &a);
  take_cpu(s, now, false);
  for (; s->n_begun < s->closed && now >= run->start; s->n_begun++)
    let__sender_put(s, (job){.intended = now, .model = let_arrivals_pick(&s->arrivals)});
  while (more && run->start + a.at <= now && run->start + a.at < run->until) {
    let_arrivals_pop(&s->arrivals);
    job j = {.intended = run->start + a.at, .model = a.model};
    j.waited = !s->idle && s->open >= s->n_conn;
    if (s->n_waiting + s->busy >= s->max_inflight) {
      let__sender_example(s, &j, "not sent: %u requests were in flight already (--max-inflight)", s->o->max_inflight);
      let__sender_count(s, &j, LET_LOAD_NOT_SENT, now);
    } else let__sender_put(s, j);
    more = let_arrivals_peek(&s->arrivals, &a);
  }
  let__sender_dispatch(s);
  let_time next = more ? run->start + a.at : run->until;
  if (s->n_begun < s->closed) next = run->start;
  if (next > run->until) next = run->until;
  if (!s->closed && !more && s->n_waiting + s->busy == 0) stop(s); /* the trace is over */
  else if (now < run->until) arm(s, next > now ? next : now + 1);
  else if (s->n_waiting + s->busy == 0) stop(s);
}

static void due(uv_poll_t *p, int status, int events) {
  sender *s = p->data;
  (void)status;
  (void)events;
  uint64_t times;
  (void)!read(s->timer_fd, &times, sizeof times);
  pump(s);
}

static void publish(sender *s) {
  uint64_t good = 0, sent = 0;
  for (uint32_t i = 0; i < s->run->w->n; i++) {
    good += s->tally[i].good;
    sent += s->tally[i].sent;
  }
  atomic_store_explicit(&s->seen_done, s->done, memory_order_relaxed);
  atomic_store_explicit(&s->seen_sent, sent, memory_order_relaxed);
  atomic_store_explicit(&s->seen_good, good, memory_order_relaxed);
  atomic_store_explicit(&s->seen_inflight, s->busy + s->n_waiting, memory_order_relaxed);
  atomic_store_explicit(&s->seen_open, s->open, memory_order_relaxed);
}

static void tick(uv_timer_t *t) {
  sender *s = t->data;
  let_time now = let_now();
  take_cpu(s, now, false);
  for (uint32_t i = 0; i < s->n_used; i++) {
    conn *c = &s->conn[i];
    if (c->state == CONN_CONNECTING && now - c->since > s->o->timeout) let__sender_lost(c, UV_ETIMEDOUT);
    if (c->state == CONN_BUSY && now - c->since > s->o->timeout) let__sender_expire(c);
  }
  while (s->n_waiting && now - s->waiting[s->head].intended > s->o->timeout) {
    job j = let__sender_take(s);
    let__sender_example(s, &j, "waited for a connection for %.3g s", (double)s->o->timeout / 1e9);
    let__sender_count(s, &j, LET_LOAD_TIMEOUT, now);
  }
  let__sender_dispatch(s);
  publish(s);
  if (atomic_load_explicit(&s->quit, memory_order_relaxed)) stop(s);
  else if (now >= s->run->until && s->n_waiting + s->busy == 0) stop(s);
}

static void stop(sender *s) {
  if (s->over) return;
  s->over = true;
  let_time now = let_now(), end = now < s->run->until ? now : s->run->until;
  take_cpu(s, now, true);
  s->figures.seconds = end > s->run->from ? (double)(end - s->run->from) / 1e9 : 0;
  s->figures.unfinished = s->n_waiting + s->busy;
  s->figures.cpu_seconds = s->cpu_until ? (double)s->cpu / 1e9 : 0;
  double span = (double)(s->cpu_until - s->cpu_since);
  if (s->cpu_until && span > 0) {
    s->figures.busy = (double)s->cpu / span;
    s->figures.deprived = (double)s->deprived / span;
  }
  publish(s);
  for (uint32_t i = 0; i < s->n_used; i++) let__sender_drop(&s->conn[i]);
  uv_close((uv_handle_t *)&s->timer, NULL);
  uv_close((uv_handle_t *)&s->tick, NULL);
}

/* ---- the thread ------------------------------------------------------------------------------------------- */

/* |total| dealt to |parts|: the first ones get one more. */
static uint32_t share(uint32_t total, uint32_t part, uint32_t parts) { return total / parts + (part < total % parts); }

let_err let_sender_create(const let_sender_run *run, uint32_t index, let_arrivals *arrivals, let_sender **ret,
                          let_error *e) {
  const let_load_options *o = run->o;
  sender *s = calloc(1, sizeof *s);
  if (!s) {
    let_arrivals_fini(arrivals);
    return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  s->run = run;
  s->o = o;
  s->index = index;
  s->arrivals = *arrivals;
  *arrivals = (let_arrivals){0};
  s->timer_fd = -1;
  s->closed = share(o->closed, index, run->senders);
  s->n_conn = share(o->connections, index, run->senders);
  s->max_inflight = share(o->max_inflight, index, run->senders);
  if (s->max_inflight < 1) s->max_inflight = 1;
  s->cap =
      (s->max_inflight > s->closed ? s->max_inflight : s->closed) + s->n_conn + 1; /* those sent again come on top */
  s->tally = calloc(run->w->n, sizeof *s->tally);
  s->conn = calloc(s->n_conn, sizeof *s->conn);
  s->waiting = calloc(s->cap, sizeof *s->waiting);
  let_err err = LET_OK;
  if (!s->tally || !s->conn || !s->waiting)
    err = let_fail(e, LET_ERR_NOMEM, "out of memory for %u connections", s->n_conn);
  for (uint32_t i = 0; !err && i < run->w->n; i++) {
    s->tally[i].name = run->model[i].name;
    s->tally[i].slo = run->model[i].slo;
  }
  for (uint32_t i = s->n_conn; !err && i > 0; i--) {
    s->conn[i - 1].next = s->spare;
    s->spare = &s->conn[i - 1];
  }
  if (!err) {
    s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (s->timer_fd < 0) err = let_fail(e, LET_ERR_IO, "timerfd: %s", strerror(errno));
  }
  int r = err ? 0 : uv_loop_init(&s->loop);
  if (r) err = let_fail(e, LET_ERR_IO, "event loop: %s", uv_strerror(r));
  s->has_loop = !err;
  if (err) let_sender_destroy(s);
  else *ret = s;
  return err;
}

static void run_loop(void *arg) {
  sender *s = arg;
  char name[16];
  snprintf(name, sizeof name, "load-%u", s->index);
  (void)pthread_setname_np(pthread_self(), name);
  s->timer.data = s->tick.data = s;
  int r = uv_poll_init(&s->loop, &s->timer, s->timer_fd);
  LET_ASSERT(r == 0);
  r = uv_timer_init(&s->loop, &s->tick);
  LET_ASSERT(r == 0);
  r = uv_poll_start(&s->timer, UV_READABLE, due);
  LET_ASSERT(r == 0);
  r = uv_timer_start(&s->tick, tick, TICK_MS, TICK_MS);
  LET_ASSERT(r == 0);
  pump(s);
  uv_run(&s->loop, UV_RUN_DEFAULT);
  s->run->on_end(s->run->ctx);
}

let_err let_sender_start(let_sender *s, let_error *e) {
  int r = uv_thread_create(&s->thread, run_loop, s);
  if (r) return let_fail(e, LET_ERR_IO, "thread: %s", uv_strerror(r));
  s->started = true;
  return LET_OK;
}

void let_sender_stop(let_sender *s) { atomic_store_explicit(&s->quit, true, memory_order_relaxed); }

void let_sender_join(let_sender *s) {
  if (!s->started) return;
  int r = uv_thread_join(&s->thread);
  LET_ASSERT(r == 0);
  s->started = false;
}

void let_sender_destroy(let_sender *s) {
  LET_ASSERT(!s->started);
  if (s->has_loop) {
    int r = uv_loop_close(&s->loop);
    LET_ASSERT(r == 0);
  }
  if (s->timer_fd >= 0) close(s->timer_fd);
  if (s->arrivals.mem) let_arrivals_fini(&s->arrivals);
  free(s->tally);
  free(s->conn);
  free(s->waiting);
  free(s);
}

let_sender_progress let_sender_look(let_sender *s) {
  return (let_sender_progress){.done = atomic_load_explicit(&s->seen_done, memory_order_relaxed),
                               .sent = atomic_load_explicit(&s->seen_sent, memory_order_relaxed),
                               .good = atomic_load_explicit(&s->seen_good, memory_order_relaxed),
                               .inflight = atomic_load_explicit(&s->seen_inflight, memory_order_relaxed),
                               .open = atomic_load_explicit(&s->seen_open, memory_order_relaxed)};
}

const let_tally *let_sender_tally(const let_sender *s) { return s->tally; }
const let_sender_figures *let_sender_result(const let_sender *s) { return &s->figures; }
