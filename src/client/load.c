/* load.c: one run of the generator: asks the server what it has, starts the senders, supervises them, and reports.
 *
 * The calling thread sends nothing: it prints progress, hears Ctrl-C, and reads the server's counters when the warm-up
 * is over, so that none of this delays a request. */
#include <math.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <uv.h>

#include "client/arrival.h"
#include "client/capacity.h"
#include "client/client.h"
#include "client/sender.h"
#include "client/stage_times.h"
#include "client/tally.h"
#include "client/target.h"
#include "conf/file.h"
#include "conf/plan_json.h"
#include "os/clock.h"

enum {
  FILES_OF_A_THREAD = 8,
  FILES_BESIDE = 64
};                                            /* loop and timer; the standard ones, questions to the server, slack */
static const let_dur patience = 2 * LET_S;    /* for an answer about the server itself */
static const let_dur head_start = 5 * LET_MS; /* so that every thread runs when the first request is due */

typedef struct batches {
  bool known;
  uint64_t rows, batches;
} batches;

typedef struct load {
  const let_load_options *o;
  const let_workload *w;
  let_target target;
  let_buf *request; /* one per model */
  let_tally *tally; /* of all senders */
  batches *before;
  let_stage_times *stages, *stages_before;
  let_load_report report;
  let_arena arena; /* the plan, the trace's text */
  let_plan plan;
  let_str trace;
  let_sender_run run;
  let_sender **sender;
  uv_loop_t loop;
  uv_async_t ended;
  uv_signal_t interrupt;
  uv_timer_t every, warm;
  _Atomic uint32_t n_ended;
  bool supervised; /* the handles are open */
  uint64_t done_before;
  let_time last_progress;
} load;

/* ---- the server's own figures -------------------------------------------------------------------------------- */

static bool get(load *l, const char *path, let_buf *body) {
  let_error e;
  return let_target_get(&l->target, path, l->o->timeout < patience ? l->o->timeout : patience, body, &e) == LET_OK;
}

/* What runs where, and for which SLO: only a gpulet server knows. */
static void ask_plan(load *l) {
  let_buf body;
  let_error e;
  let_buf_init(&body, &let_mem_libc);
  if (get(l, "/v2/gpulet/plan", &body) && let_plan_parse(body.p, body.n, "plan", &l->arena, &l->plan, &e) == LET_OK)
    l->report.plan = &l->plan;
  let_buf_fini(&body);
}

/* False, |ret| as it was: no answer. */
static bool ask_batches(load *l, batches *ret) {
  let_buf body;
  let_buf_init(&body, &let_mem_libc);
  bool ok = get(l, "/v2/models/stats", &body);
  for (uint32_t i = 0; ok && i < l->w->n; i++)
    ret[i].known = let_target_batches((let_str){body.p, body.n}, l->w->demand[i].name, &ret[i].rows, &ret[i].batches);
  let_buf_fini(&body);
  return ok;
}

static void ask_stages(load *l, let_stage_times *ret) {
  let_buf body;
  let_buf_init(&body, &let_mem_libc);
  if (get(l, "/v2/gpulet/stages", &body)) let_stage_times_read((let_str){body.p, body.n}, l->w, ret);
  let_buf_fini(&body);
}

static void ask_before(load *l) {
  if (l->o->get) return;
  (void)ask_batches(l, l->before);
  ask_stages(l, l->stages_before);
}

/* What it has run since then. A difference needs both ends. */
static void ask_after(load *l, batches *now) {
  bool ok = ask_batches(l, now);
  for (uint32_t i = 0; i < l->w->n; i++) {
    const batches *a = &l->before[i], *b = &now[i];
    let_tally *t = &l->tally[i];
    t->counted = ok && a->known && b->known && b->rows >= a->rows && b->batches >= a->batches;
    t->rows = t->counted ? b->rows - a->rows : 0;
    t->batches = t->counted ? b->batches - a->batches : 0;
  }
  ask_stages(l, l->stages);
  for (uint32_t i = 0; i < l->w->n; i++) let_stage_times_subtract(&l->stages[i], &l->stages_before[i]);
  l->report.stages = l->stages;
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
  let_buf_init(&path, &let_mem_libc);
  let_buf_init(&body, &let_mem_libc);
  let_target_path(name, "/config", &path);
  let_dur slo = !path.failed && get(l, path.p, &body) ? let_target_slo((let_str){body.p, body.n}) : 0;
  let_buf_fini(&path);
  let_buf_fini(&body);
  return slo;
}

/* ---- before the run ------------------------------------------------------------------------------------------- */

static let_err check(const let_load_options *o, const let_workload *w, let_error *e) {
  if (w->n == 0) return let_fail(e, LET_ERR_INVALID, "the workload names no model");
  if (o->duration <= 0) return let_fail(e, LET_ERR_INVALID, "--duration must be longer than 0");
  if (!(o->rate_scale > 0)) return let_fail(e, LET_ERR_INVALID, "--rate-scale must be above 0");
  if (o->connections < 1 || o->connections > LET_CONNECTIONS_MAX)
    return let_fail(e, LET_ERR_INVALID, "--connections must be within 1..%d", LET_CONNECTIONS_MAX);
  if (o->threads > LET_THREADS_MAX)
    return let_fail(e, LET_ERR_INVALID, "--threads must be within 0..%d", LET_THREADS_MAX);
  if (o->threads > o->connections)
    return let_fail(e, LET_ERR_INVALID, "--threads %u: each needs a connection of its own, and there are %u (--%s)",
                    o->threads, o->connections, o->closed ? "closed" : "connections");
  if (o->rows < 1 || o->variable_dim < 1)
    return let_fail(e, LET_ERR_INVALID, "--rows and --variable-dim must be at least 1");
  double sum = 0;
  for (uint32_t i = 0; i < w->n; i++) sum += w->demand[i].rate;
  if (!(sum > 0) && !o->closed && strncmp(o->arrival, "trace:", 6))
    return let_fail(e, LET_ERR_INVALID, "every rate of the workload is 0: nothing would be sent");
  return LET_OK;
}

static let_err allocate(load *l, let_error *e) {
  uint32_t n = l->w->n;
  l->request = calloc(n, sizeof *l->request);
  l->tally = calloc(n, sizeof *l->tally);
  l->before = calloc(n, sizeof *l->before);
  l->stages = calloc(n, sizeof *l->stages);
  l->stages_before = calloc(n, sizeof *l->stages_before);
  bool ok = l->request && l->tally && l->before && l->stages && l->stages_before;
  return ok ? LET_OK : let_fail(e, LET_ERR_NOMEM, "out of memory for %u models", n);
}

static let_err read_trace(load *l, let_error *e) {
  const char *kind = l->o->arrival;
  if (!strncmp(kind, "trace:", 6)) return let_file_read(kind + 6, &l->arena, &l->trace, e);
  if (strcmp(kind, "poisson") && strcmp(kind, "uniform"))
    return let_fail(e, LET_ERR_INVALID, "--arrival '%s': poisson, uniform or trace:FILE", kind);
  return LET_OK;
}

static let_err arrivals_of(load *l, let_arrivals *ret, let_error *e) {
  const let_load_options *o = l->o;
  if (!strncmp(o->arrival, "trace:", 6))
    return let_arrivals_trace(ret, l->w, l->trace, o->arrival + 6, o->rate_scale, o->seed, &let_mem_libc, e);
  return let_arrivals_init(ret, l->w, o->arrival[0] == 'u', o->rate_scale, o->seed, &let_mem_libc, e);
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
    l->tally[i].name = name;
    l->tally[i].slo = l->w->demand[i].slo;
    let_buf_init(&l->request[i], &let_mem_libc);
    if (l->o->get) {
      let_buf_fmt(&l->request[i], "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", l->o->get, l->target.host, l->target.port);
      if (l->request[i].failed) err = let_fail(e, LET_ERR_NOMEM, "out of memory");
      continue;
    }
    let_buf_clear(&meta);
    let_buf_clear(&path);
    let_target_path(name, "", &path);
    err = path.failed ? let_fail(e, LET_ERR_NOMEM, "out of memory")
                      : let_target_get(&l->target, path.p, l->o->timeout, &meta, e);
    if (!err) err = let_target_request(&l->target, name, (let_str){meta.p, meta.n}, &b, &rng, &l->request[i], e);
    if (!err && !l->tally[i].slo) l->tally[i].slo = slo_of(l, name);
  }
  let_buf_fini(&meta);
  let_buf_fini(&path);
  return err;
}

/* Of one request, weighed by the models' rates. */
static double mean_bytes(const load *l) {
  double bytes = 0, weight = 0;
  for (uint32_t i = 0; i < l->w->n; i++) {
    bytes += l->w->demand[i].rate * (double)l->request[i].n;
    weight += l->w->demand[i].rate;
  }
  return weight > 0 ? bytes / weight : (double)l->request[0].n;
}

/* A connection is an open file. The soft limit is often 1024 by habit; the hard one is what the system can do. */
static uint32_t files_allow(uint32_t connections, uint32_t threads) {
  struct rlimit r;
  rlim_t beside = FILES_BESIDE + (rlim_t)FILES_OF_A_THREAD * threads, want = connections + beside;
  if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= want) return connections;
  r.rlim_cur = r.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &r) || getrlimit(RLIMIT_NOFILE, &r)) return connections;
  if (r.rlim_cur == RLIM_INFINITY || r.rlim_cur >= want) return connections;
  return r.rlim_cur > beside + threads ? (uint32_t)(r.rlim_cur - beside) : threads;
}

/* Decides how many threads and connections, and makes the senders. */
static let_err make_senders(load *l, let_load_options *own, void (*on_end)(void *), let_error *e) {
  let_arrivals a;
  let_err err = arrivals_of(l, &a, e);
  if (err) return err;
  let_load_report *r = &l->report;
  double rate = let_arrivals_rate(&a);
  let_arrivals_fini(&a);
  r->cores = uv_available_parallelism();
  r->threads = own->threads ? own->threads
                            : let_capacity_threads(rate, rate * mean_bytes(l), own->closed, own->connections, r->cores);
  uint32_t allowed = files_allow(own->connections, r->threads);
  r->files_limited = allowed < own->connections;
  if (r->files_limited && own->closed)
    return let_fail(e, LET_ERR_INVALID, "--closed %u: this process may open %u connections: raise it with ulimit -n",
                    own->closed, allowed);
  own->connections = allowed;
  r->connection_limit = allowed;
  l->run = (let_sender_run){.o = own,
                            .w = l->w,
                            .target = &l->target,
                            .request = l->request,
                            .model = l->tally,
                            .senders = r->threads,
                            .on_end = on_end,
                            .ctx = l};
  l->sender = calloc(r->threads, sizeof(let_sender *));
  if (!l->sender) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u threads", r->threads);
  for (uint32_t i = 0; i < r->threads && !err; i++) {
    err = arrivals_of(l, &a, e);
    if (err) break;
    let_arrivals_part(&a, i, r->threads);
    err = let_sender_create(&l->run, i, &a, &l->sender[i], e);
  }
  return err;
}

/* ---- the run --------------------------------------------------------------------------------------------------- */

static void close_all(load *l) {
  uv_close((uv_handle_t *)&l->ended, NULL);
  uv_close((uv_handle_t *)&l->interrupt, NULL);
  uv_close((uv_handle_t *)&l->every, NULL);
  uv_close((uv_handle_t *)&l->warm, NULL);
}

static void on_end(void *ctx) { /* on the sender's thread */
  load *l = ctx;
  atomic_fetch_add(&l->n_ended, 1);
  (void)uv_async_send(&l->ended);
}

static void ended(uv_async_t *a) {
  load *l = a->data;
  if (atomic_load(&l->n_ended) < l->report.threads || !l->supervised) return;
  l->supervised = false;
  for (uint32_t i = 0; i < l->report.threads; i++) let_sender_join(l->sender[i]);
  close_all(l);
}

static void interrupt(uv_signal_t *s, int number) {
  (void)number;
  load *l = s->data;
  for (uint32_t i = 0; i < l->report.threads; i++) let_sender_stop(l->sender[i]);
}

static void progress(uv_timer_t *t) {
  load *l = t->data;
  FILE *f = l->o->progress;
  let_time now = let_now();
  let_sender_progress sum = {0};
  for (uint32_t i = 0; i < l->report.threads; i++) {
    let_sender_progress p = let_sender_look(l->sender[i]);
    sum.done += p.done;
    sum.sent += p.sent;
    sum.good += p.good;
    sum.inflight += p.inflight;
    sum.open += p.open;
  }
  double rate = (double)(sum.done - l->done_before) / ((double)(now - l->last_progress) / 1e9);
  fprintf(f, "%s%s%5.1f s of %.1f s: %.0f answers/s, %llu in flight on %llu connections, %.2f %% within SLO%s",
          l->o->tty ? "\r" : "", now < l->run.from ? "warming up: " : "", (double)(now - l->run.start) / 1e9,
          (double)(l->run.until - l->run.start) / 1e9, rate, (unsigned long long)sum.inflight,
          (unsigned long long)sum.open, sum.sent ? 100.0 * (double)sum.good / (double)sum.sent : 0,
          l->o->tty ? "   " : "\n");
  fflush(f);
  l->last_progress = now;
  l->done_before = sum.done;
}

static void warmed_up(uv_timer_t *t) { ask_before(t->data); }

static let_err go(load *l, let_error *e) {
  int r = uv_loop_init(&l->loop);
  if (r) return let_fail(e, LET_ERR_IO, "event loop: %s", uv_strerror(r));
  l->ended.data = l->interrupt.data = l->every.data = l->warm.data = l;
  r = uv_async_init(&l->loop, &l->ended, ended);
  LET_ASSERT(r == 0);
  r = uv_signal_init(&l->loop, &l->interrupt) + uv_timer_init(&l->loop, &l->every) + uv_timer_init(&l->loop, &l->warm);
  LET_ASSERT(r == 0);
  r = uv_signal_start(&l->interrupt, interrupt, SIGINT);
  LET_ASSERT(r == 0);
  l->supervised = true;
  l->run.start = let_now() + head_start;
  l->run.from = l->run.start + l->o->warmup;
  l->run.until = l->run.from + l->o->duration;
  l->last_progress = l->run.start;
  uint64_t every = l->o->tty ? 1000 : 5000;
  if (l->o->progress) r = uv_timer_start(&l->every, progress, every, every);
  if (l->o->warmup) r += uv_timer_start(&l->warm, warmed_up, (uint64_t)((head_start + l->o->warmup) / LET_MS), 0);
  LET_ASSERT(r == 0);
  let_err err = LET_OK;
  for (uint32_t i = 0; i < l->report.threads && !err; i++) {
    err = let_sender_start(l->sender[i], e);
    if (!err) continue;
    for (uint32_t k = 0; k < i; k++) let_sender_stop(l->sender[k]);
    l->report.threads = i; /* these end and are joined; the others were never started */
    if (i == 0) close_all(l);
  }
  uv_run(&l->loop, UV_RUN_DEFAULT);
  r = uv_loop_close(&l->loop);
  LET_ASSERT(r == 0);
  if (l->o->progress && l->o->tty) fprintf(l->o->progress, "\r\033[K");
  return err;
}

static void merge(load *l) {
  let_load_report *r = &l->report;
  for (uint32_t i = 0; i < r->threads; i++) {
    const let_sender_figures *f = let_sender_result(l->sender[i]);
    const let_tally *t = let_sender_tally(l->sender[i]);
    r->seconds = fmax(r->seconds, f->seconds);
    r->connections += f->connections;
    r->inflight_max += f->inflight_max;
    r->unfinished += f->unfinished;
    r->waited += f->waited;
    r->cpu_seconds += f->cpu_seconds;
    r->busiest = fmax(r->busiest, f->busy);
    if (f->busy + f->deprived > r->wanted) {
      r->wanted = f->busy + f->deprived;
      r->deprived = f->deprived;
    }
    let_hist_merge(&r->lateness, &f->lateness);
    for (uint32_t k = 0; k < l->w->n; k++) {
      let_tally_merge(&l->tally[k], &t[k]);
      if (!l->tally[k].example[0]) memcpy(l->tally[k].example, t[k].example, sizeof t[k].example);
    }
  }
  let_dur slo_min = 0;
  for (uint32_t k = 0; k < l->w->n; k++) {
    const let_tally *t = &l->tally[k];
    if (t->sent && t->slo && (!slo_min || t->slo < slo_min)) slo_min = t->slo;
  }
  r->outcome = let_capacity_judge(r, slo_min);
}

static let_err report(load *l, let_buf *out, let_error *e) {
  uint32_t n = l->w->n;
  if (l->report.seconds <= 0)
    return let_fail(e, LET_ERR_CANCELLED, "stopped before the warm-up was over: nothing was counted");
  if (l->o->json) {
    let_err err = let_tally_json(l->tally, n, &l->report, out, e);
    if (err) return err;
  } else let_tally_print(l->tally, n, &l->report, out);
  if (out->failed) return let_fail(e, LET_ERR_NOMEM, "out of memory for the report");
  uint64_t sent = 0, ok = 0;
  for (uint32_t i = 0; i < n; i++) {
    sent += l->tally[i].sent;
    ok += l->tally[i].kind[LET_LOAD_OK];
  }
  if (sent && !ok)
    return let_fail(e, LET_ERR_UNAVAILABLE, "none of %llu requests was answered with 200", (unsigned long long)sent);
  return LET_OK;
}

static void destroy(load *l, uint32_t senders) {
  for (uint32_t i = 0; l->sender && i < senders; i++)
    if (l->sender[i]) let_sender_destroy(l->sender[i]);
  for (uint32_t i = 0; l->request && i < l->w->n; i++)
    if (l->request[i].mem) let_buf_fini(&l->request[i]);
  let_arena_fini(&l->arena);
  free(l->sender);
  free(l->request);
  free(l->tally);
  free(l->before);
  free(l->stages);
  free(l->stages_before);
  free(l);
}

let_err let_load_run(const let_load_options *o, const let_workload *w, let_buf *out, let_load_outcome *ret,
                     let_error *e) {
  let_load_options own = *o;
  if (own.closed) own.connections = own.closed;
  if (own.max_inflight < 1) own.max_inflight = 1;
  let_err err = check(&own, w, e);
  if (err) return err;
  load *l = calloc(1, sizeof *l);
  batches *after = calloc(w->n, sizeof *after);
  if (!l || !after) {
    free(l);
    free(after);
    return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  l->o = &own;
  l->w = w;
  l->report.closed = own.closed > 0;
  l->report.wide = own.wide;
  let_arena_init(&l->arena, &let_mem_libc);
  err = let_target_init(&l->target, own.url, e);
  if (!err) err = allocate(l, e);
  if (!err) err = read_trace(l, e);
  if (!err && !own.get) ask_plan(l);
  if (!err) err = requests(l, e);
  if (!err) err = make_senders(l, &own, on_end, e);
  uint32_t senders = l->report.threads;
  if (!err) ask_before(l);
  if (!err) err = go(l, e);
  if (!err) merge(l);
  if (!err && !own.get) ask_after(l, after);
  if (!err) {
    err = report(l, out, e);
    if (ret) *ret = l->report.outcome;
  }
  free(after);
  destroy(l, senders);
  return err;
}
