/* cuda_gpulet.c: a gpu-let's streams, copies, launches and marks.
 *
 * Three streams per gpu-let, so that the next batch's inputs and the last batch's outputs move while this batch
 * computes: |in| -> |compute| -> |out|, joined by events only where one really needs the other. What leaves by a kernel
 * (cuda_scatter.c) leaves on |compute|, what leaves by a copy engine on |out|: the next launch waits for it, whatever
 * it launches. Graphs of one gpu-let share memory: what one captured later answers may lie where one captured earlier
 * keeps what lies between its input and its output. All three belong to the gpu-let's context; the threads keep the
 * primary context current, since a green context may be current in one thread only and streams carry their own.
 *
 * Completion: cuda_watch.c sees it and writes an eventfd, and wait() polls that fd. Unlike cuEventSynchronize that
 * takes a timeout (the watchdog) and spins nowhere. Nothing is seen once the context is in error: for that case, and
 * only then, wait() looks at the stream every QUERY_EVERY. */
#ifdef LET_HAVE_CUDA
#  include <errno.h>
#  include <poll.h>
#  include <sched.h>
#  include <stdio.h>
#  include <stdlib.h>
#  include <string.h>
#  include <sys/eventfd.h>
#  include <time.h>
#  include <unistd.h>

#  include "base/units.h"
#  include "cuda_int.h"
#  include "os/clock.h"

#  define QUERY_EVERY (20 * LET_MS)
#  define DRAIN_FOR   (2 * LET_S) /* how long close() waits for work that is still running */

#  define CHECK(call)                                             \
    do {                                                          \
      let_err err_ = let_cuda_check(g->d->api, (call), #call, e); \
      if (err_) return err_;                                      \
    } while (0)

/* The context of that range; one that the cache lacks is made. */
static let_err cached_context(let_cuda *d, uint32_t first, uint32_t n, let_cuda_context **ret, let_error *e) {
  const let_cuda_api *a = d->api;
  for (let_cuda_context *r = d->contexts; r; r = r->next)
    if (r->first == first && r->n == n) {
      *ret = r;
      return LET_OK;
    }
  let_cuda_context *r = calloc(1, sizeof *r);
  if (!r) return let_fail(e, LET_ERR_NOMEM, "out of memory for a gpu-let");
  r->first = first;
  r->n = n;
  uint32_t from = d->begin[first], to = d->begin[first + n];
  CUdevResourceDesc desc;
  const char *what = "cuDevResourceGenerateDesc";
  CUresult err = a->cuDevResourceGenerateDesc(&desc, d->resource + from, to - from);
  if (!err) {
    what = "cuGreenCtxCreate";
    err = a->cuGreenCtxCreate(&r->green, desc, d->dev, CU_GREEN_CTX_DEFAULT_STREAM);
  }
  if (!err) {
    what = "cuCtxFromGreenCtx";
    err = a->cuCtxFromGreenCtx(&r->context, r->green);
    if (err) (void)a->cuGreenCtxDestroy(r->green);
  }
  if (err) {
    free(r);
    return let_cuda_check(a, err, what, e);
  }
  r->next = d->contexts;
  d->contexts = r;
  *ret = r;
  return LET_OK;
}

/* All contexts that a plan may ask for. On an H200 135 of them took 222 ms and 710 MiB; one may take 3.5 ms, a
 * long time for the gpu-lets that serve meanwhile. Where memory runs out, the others are made when needed. */
let_err let_cuda__prewarm(let_device *base, let_error *e) {
  let_cuda *d = (let_cuda *)base;
  let_err err = let_cuda_check(d->api, d->api->cuCtxSetCurrent(d->primary), "cuCtxSetCurrent", e);
  pthread_mutex_lock(&d->lock);
  for (uint32_t n = 1; !err && n < d->type.granules; n++)
    for (uint32_t first = 0; !err && first + n <= d->type.granules; first++) {
      let_cuda_context *r;
      err = cached_context(d, first, n, &r, e);
    }
  pthread_mutex_unlock(&d->lock);
  return err == LET_ERR_NOMEM ? LET_OK : err;
}

static void destroy(let_cuda_gpulet *g) {
  const let_cuda_api *a = g->d->api;
  let_cuda__unwatch(g);
  for (int i = 0; i < 2; i++) {
    if (g->mark[i].fd >= 0) close(g->mark[i].fd);
    if (g->mark[i].begin) (void)a->cuEventDestroy(g->mark[i].begin);
    if (g->mark[i].end) (void)a->cuEventDestroy(g->mark[i].end);
  }
  if (g->begin) (void)a->cuEventDestroy(g->begin);
  if (g->in_done) (void)a->cuEventDestroy(g->in_done);
  if (g->compute_done) (void)a->cuEventDestroy(g->compute_done);
  if (g->out_done) (void)a->cuEventDestroy(g->out_done);
  if (g->in) (void)a->cuStreamDestroy(g->in);
  if (g->compute) (void)a->cuStreamDestroy(g->compute);
  if (g->out) (void)a->cuStreamDestroy(g->out);
  if (g->workspace && g->d->n_spare < LET__CUDA_SPARE) g->d->spare[g->d->n_spare++] = g->workspace;
  else if (g->workspace) (void)a->cuMemFree(g->workspace);
  free(g);
}

static let_err stream(let_cuda_gpulet *g, CUstream *ret, let_error *e) {
  const let_cuda_api *a = g->d->api;
  if (g->cached) CHECK(a->cuGreenCtxStreamCreate(ret, g->cached->green, CU_STREAM_NON_BLOCKING, 0));
  else CHECK(a->cuStreamCreate(ret, CU_STREAM_NON_BLOCKING));
  return LET_OK;
}

static let_err build(let_cuda_gpulet *g, let_error *e) {
  const let_cuda_api *a = g->d->api;
  let_err err = stream(g, &g->compute, e);
  if (!err) err = stream(g, &g->in, e);
  if (!err) err = stream(g, &g->out, e);
  if (err) return err;
  CUevent *order[] = {&g->in_done, &g->compute_done, &g->out_done};
  for (size_t i = 0; i < sizeof order / sizeof *order; i++) CHECK(a->cuEventCreate(order[i], CU_EVENT_DISABLE_TIMING));
  for (int i = 0; i < 2; i++) {
    g->mark[i].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (g->mark[i].fd < 0) return let_fail(e, LET_ERR_IO, "eventfd: %m");
  }
  pthread_mutex_lock(&g->d->lock);
  if (g->d->n_spare) g->workspace = g->d->spare[--g->d->n_spare];
  pthread_mutex_unlock(&g->d->lock);
  if (!g->workspace) CHECK(a->cuMemAlloc(&g->workspace, LET__CUDA_WORKSPACE));
  return let_cuda__watch(g, e);
}

let_err let_cuda__open(let_device *base, uint32_t number, uint32_t first, uint32_t granules, bool shared,
                       let_gpulet **ret, let_error *e) {
  let_cuda *d = (let_cuda *)base;
  if (granules < 1 || first >= d->type.granules || granules > d->type.granules - first) {
    return let_fail(e, LET_ERR_INVALID, "gpu-let %u: granules %u..%llu of cuda:%d, which has %u", number, first,
                    (unsigned long long)first + granules, d->ordinal, d->type.granules);
  }
  let_cuda_gpulet *g = calloc(1, sizeof *g);
  if (!g) return let_fail(e, LET_ERR_NOMEM, "out of memory for gpu-let %u", number);
  g->base.device = base;
  g->d = d;
  g->number = number;
  g->slot = -1;
  g->mark[0].fd = g->mark[1].fd = -1;
  let_err err = let_cuda_check(d->api, d->api->cuCtxSetCurrent(d->primary), "cuCtxSetCurrent", e);
  bool whole = shared || granules == d->type.granules;
  g->context = d->primary;
  pthread_mutex_lock(&d->lock);
  if (!err && !whole) err = cached_context(d, first, granules, &g->cached, e);
  pthread_mutex_unlock(&d->lock);
  if (g->cached) g->context = g->cached->context;
  if (!err) err = build(g, e);
  if (err) {
    pthread_mutex_lock(&d->lock);
    destroy(g);
    pthread_mutex_unlock(&d->lock);
    let_fail_prefix(e, "gpu-let %u on cuda:%d", number, d->ordinal);
    return err;
  }
  *ret = &g->base;
  return LET_OK;
}

/* A context in error will never run anything again, and so is drained. */
static bool drained(const let_cuda_gpulet *g) {
  const let_cuda_api *a = g->d->api;
  return a->cuStreamQuery(g->in) != CUDA_ERROR_NOT_READY && a->cuStreamQuery(g->compute) != CUDA_ERROR_NOT_READY &&
         a->cuStreamQuery(g->out) != CUDA_ERROR_NOT_READY;
}

void let_cuda__close(let_gpulet *base) {
  if (!base) return;
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  let_cuda *d = g->d;
  (void)d->api->cuCtxSetCurrent(d->primary);
  let_time until = let_now() + DRAIN_FOR;
  bool idle;
  for (long nap = 20 * LET_US; !(idle = drained(g)) && let_now() < until; nap = nap < 10 * LET_MS ? nap * 2 : nap) {
    struct timespec t = {0, nap};
    nanosleep(&t, NULL);
  }
  pthread_mutex_lock(&d->lock);
  if (idle) destroy(g);
  else {
    g->next = d->stuck;
    d->stuck = g; /* its callback and its context are still in use */
  }
  pthread_mutex_unlock(&d->lock);
}

bool let_cuda__reap(let_cuda *d) {
  pthread_mutex_lock(&d->lock);
  for (let_cuda_gpulet **at = &d->stuck; *at;) {
    let_cuda_gpulet *g = *at;
    if (!drained(g)) {
      at = &g->next;
      continue;
    }
    *at = g->next;
    destroy(g);
  }
  bool none = !d->stuck;
  pthread_mutex_unlock(&d->lock);
  return none;
}

void let_cuda__target(const let_gpulet *base, let_engine_target *ret) {
  const let_cuda_gpulet *g = (const let_cuda_gpulet *)base;
  *ret = (let_engine_target){.cuda = g->d->ordinal,
                             .context = g->context,
                             .stream = g->compute,
                             .threads = 1,
                             .gpulet = g->number,
                             .workspace = (void *)(uintptr_t)g->workspace,
                             .workspace_bytes = LET__CUDA_WORKSPACE};
}

let_err let_cuda__enter(let_gpulet *base, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  CHECK(g->d->api->cuCtxSetCurrent(g->d->primary));
  return LET_OK;
}

/* May work |w|, not known to be done, still read |p|? Exact for one graph, "yes" for anything else. */
static bool reads(const let_cuda_work *w, const void *p) {
  if (w->launches > 1 || w->eager) return true;
  for (uint32_t i = 0; i < w->n; i++)
    if ((uintptr_t)p - w->in[i].at < w->in[i].bytes) return true;
  return false;
}

let_err let_cuda__copy_in(let_gpulet *base, void *dst, const void *src, uint64_t bytes, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  const let_cuda_api *a = g->d->api;
  if (!bytes) return LET_OK;
  /* Overwriting what a launched batch may still be reading must wait for it; with one instance per batch in
   * flight this never happens. */
  bool busy = reads(&g->work, dst);
  for (int i = 0; i < 2; i++) busy |= g->mark[i].pending && reads(&g->mark[i].work, dst);
  if (busy) {
    CHECK(a->cuEventRecord(g->compute_done, g->compute));
    CHECK(a->cuStreamWaitEvent(g->in, g->compute_done, 0));
  }
  g->in_dirty = true;
  CHECK(a->cuMemcpyHtoDAsync((CUdeviceptr)(uintptr_t)dst, src, bytes, g->in));
  return LET_OK;
}

static let_err join_in(let_cuda_gpulet *g, let_error *e) {
  const let_cuda_api *a = g->d->api;
  if (!g->in_dirty) return LET_OK;
  CHECK(a->cuEventRecord(g->in_done, g->in));
  CHECK(a->cuStreamWaitEvent(g->compute, g->in_done, 0));
  g->in_dirty = false;
  g->compute_dirty = true;
  return LET_OK;
}

let_err let_cuda__join_compute(let_cuda_gpulet *g, let_error *e) {
  const let_cuda_api *a = g->d->api;
  if (!g->compute_dirty) return LET_OK;
  CHECK(a->cuEventRecord(g->compute_done, g->compute));
  CHECK(a->cuStreamWaitEvent(g->out, g->compute_done, 0));
  g->compute_dirty = false;
  return LET_OK;
}

/* What was asked for goes before anything that is asked for later. */
static let_err flush(let_cuda_gpulet *g, let_error *e) {
  if (!g->n_scatter) return LET_OK;
  let_err err = join_in(g, e);
  g->compute_dirty = true;
  return err ? err : let_cuda__scatter(g, g->compute, e);
}

let_err let_cuda__launch(let_gpulet *base, let_exec *x, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  const let_cuda_api *a = g->d->api;
  let_err err = flush(g, e);
  if (!err) err = join_in(g, e);
  if (err) return err;
  if (g->out_dirty) {
    CHECK(a->cuEventRecord(g->out_done, g->out));
    CHECK(a->cuStreamWaitEvent(g->compute, g->out_done, 0));
    g->out_dirty = false;
  }
  let_cuda_work *w = &g->work;
  if (!w->launches) w->launched = let_now();
  if (!w->launches && g->timing_exact) CHECK(a->cuEventRecord(g->begin, g->compute));
  for (uint32_t i = 0; i < x->n_graphs; i++) CHECK(a->cuGraphLaunch((CUgraphExec)x->graphs[i], g->compute));
  if (!x->n_graphs) err = x->run(x, g->compute, e);
  g->compute_dirty = true; /* a run that failed half way may have enqueued something */
  w->launches++;
  w->eager |= !x->n_graphs;
  w->n = x->n_in;
  for (uint32_t i = 0; i < w->n; i++) {
    w->in[i].at = (uintptr_t)x->in[i].data;
    w->in[i].bytes = x->in[i].row_bytes * (x->size ? x->size : 1);
  }
  return err;
}

let_err let_cuda__copy_out(let_gpulet *base, void *dst, const void *src, uint64_t bytes, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  const let_cuda_api *a = g->d->api;
  if (!bytes) return LET_OK;
  if (let_cuda__scatters(g->d, dst, bytes)) {
    g->scatter[g->n_scatter++] = (let_cuda_copy){(uintptr_t)dst, (uintptr_t)src, bytes};
    return g->n_scatter == LET__CUDA_SCATTER_MAX ? flush(g, e) : LET_OK;
  }
  /* Outputs of an eager run belong to an allocator that reuses them in the order of the compute stream. */
  bool eager = g->work.eager;
  let_err err = join_in(g, e);
  if (!err && !eager) err = let_cuda__join_compute(g, e);
  if (err) return err;
  if (eager) g->compute_dirty = true;
  else g->out_dirty = true;
  CHECK(a->cuMemcpyDtoHAsync(dst, (CUdeviceptr)(uintptr_t)src, bytes, eager ? g->compute : g->out));
  return LET_OK;
}

let_err let_cuda__mark(let_gpulet *base, int instance, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  let_cuda_mark *m = &g->mark[instance & 1];
  if (m->pending)
    return let_fail(e, LET_ERR_INVALID, "gpu-let %u: instance %d was marked and not waited for", g->number, instance);
  let_err err = flush(g, e);
  if (!err) err = join_in(g, e);
  if (!err && g->out_dirty) err = let_cuda__join_compute(g, e);
  if (err) return err;
  if (g->timing_exact) {
    CUevent begin = m->begin;
    m->begin = g->begin;
    g->begin = begin;
    CHECK(g->d->api->cuEventRecord(m->end, g->out_dirty ? g->out : g->compute));
  }
  uint64_t old;
  while (read(m->fd, &old, sizeof old) > 0) {}
  err = let_cuda__ends(g, instance & 1, e);
  m->pending = !err;
  return err;
}

int let_cuda__done_fd(const let_gpulet *base, int instance) {
  return ((const let_cuda_gpulet *)base)->mark[instance & 1].fd;
}

let_err let_cuda__timing_exact(let_gpulet *base, let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  CUevent *all[] = {&g->begin, &g->mark[0].begin, &g->mark[0].end, &g->mark[1].begin, &g->mark[1].end};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!*all[i]) CHECK(g->d->api->cuEventCreate(all[i], CU_EVENT_DEFAULT));
  g->timing_exact = true;
  return LET_OK;
}

/* The end as soon as it can be seen, and the times of the device. */
static let_err spin(let_cuda_gpulet *g, let_cuda_mark *m, let_dur timeout, let_time *ret_started,
                    let_time *ret_finished, let_error *e) {
  let_time begin = let_now(), now = begin, look = begin + QUERY_EVERY;
  while (atomic_load_explicit(m->flag, memory_order_acquire) != m->told) {
    if ((now = let_now()) - begin >= timeout)
      return let_fail(e, LET_ERR_DEADLINE, "gpu-let %u: a batch did not finish in time", g->number);
    sched_yield();
    if (now < look) continue;
    CUresult r = g->d->api->cuStreamQuery(g->out);
    if (r && r != CUDA_ERROR_NOT_READY) {
      let_cuda__forget(g, m);
      m->pending = false;
      return let_cuda_check(g->d->api, r, "a batch failed", e);
    }
    look = now + QUERY_EVERY;
  }
  *ret_finished = let_now();
  let_cuda__forget(g, m);
  m->pending = false;
  float ms = 0;
  if (m->work.launches) CHECK(g->d->api->cuEventElapsedTime(&ms, m->begin, m->end));
  *ret_started = *ret_finished - (let_dur)((double)ms * (double)LET_MS);
  return LET_OK;
}

let_err let_cuda__wait(let_gpulet *base, int instance, let_dur timeout, let_time *ret_started, let_time *ret_finished,
                       let_error *e) {
  let_cuda_gpulet *g = (let_cuda_gpulet *)base;
  const let_cuda_api *a = g->d->api;
  let_cuda_mark *m = &g->mark[instance & 1];
  if (!m->pending)
    return let_fail(e, LET_ERR_INVALID, "gpu-let %u: nothing is marked on instance %d", g->number, instance);
  if (g->timing_exact) return spin(g, m, timeout, ret_started, ret_finished, e);
  let_time begin = let_now(), finished;
  while (!(finished = atomic_load_explicit(&m->finished, memory_order_acquire))) {
    let_dur waited = let_now() - begin;
    if (waited >= timeout) {
      char after[LET_UNITS_MAX];
      return let_fail(e, LET_ERR_DEADLINE, "gpu-let %u: a batch did not finish within %s", g->number,
                      let_print_dur(timeout, after));
    }
    let_dur left = timeout - waited < QUERY_EVERY ? timeout - waited : QUERY_EVERY;
    struct timespec t = {left / LET_S, left % LET_S};
    struct pollfd p = {.fd = m->fd, .events = POLLIN};
    if (ppoll(&p, 1, &t, NULL) != 0) continue;
    CUresult r = a->cuStreamQuery(g->out);
    if (r && r != CUDA_ERROR_NOT_READY) {
      let_cuda__forget(g, m);
      m->pending = false;
      return let_cuda_check(a, r, "a batch failed", e);
    }
  }
  m->pending = false;
  *ret_started = m->started;
  *ret_finished = finished;
  return LET_OK;
}
#else
typedef int let_cuda_gpulet_is_not_built;
#endif
