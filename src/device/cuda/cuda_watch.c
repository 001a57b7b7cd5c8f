/* Sees batches end: the stream writes a word into pinned memory (cuStreamWriteValue32), and a thread looks at the
 * words, seldom while a batch is young compared to what it takes, and not at all while none is out. Why not ask the
 * driver: cuLaunchHostFunc runs on a thread of the driver's that gets a lock of the driver's last while another thread
 * captures graphs or copies. On an H200 batches of 0.1 ms were seen to end 5 ms late beside a plan change, and the
 * stream stands still until the function has run. cuEventElapsedTime, for when they began, took up to 5 ms as well: a
 * batch begins when it is launched or when the one ahead of it ends. The price: launch to wait of nothing takes 110 us
 * instead of 28 where a sleep takes 60 us (virtual machines), and 6 % of a core instead of 1 while batches are out. */
#ifdef LET_HAVE_CUDA
#  include <errno.h>
#  include <stdio.h>
#  include <stdlib.h>
#  include <string.h>
#  include <sys/mman.h>
#  include <sys/prctl.h>
#  include <time.h>
#  include <unistd.h>

#  include "cuda_int.h"
#  include "os/clock.h"

/* A thirty-second of what a batch has taken so far is late enough. */
static const let_dur soonest = 15 * LET_US, latest = 100 * LET_US;
enum { AGE = 32, SLACK_NS = 5000, BYTES = 4096 };
_Static_assert(sizeof(let_cuda_flags) * LET__CUDA_SLOTS <= BYTES, "flags");

/* The batch is done. |before|: it was not when this thread looked before, so whatever is behind it began after that. */
static void tell(let_cuda_gpulet *g, let_cuda_mark *m, let_time before, let_time now) {
  m->started = !m->work.launches ? now : m->work.launched > g->free ? m->work.launched : g->free;
  g->free = before > m->started ? before : m->started;
  atomic_store_explicit(&m->awaited, 0, memory_order_relaxed);
  atomic_fetch_sub_explicit(&g->d->watch.n_awaited, 1, memory_order_relaxed);
  /* Before |finished|, so that no write comes after the batch was taken for done and the next one marked. */
  uint64_t one = 1;
  while (write(m->fd, &one, sizeof one) < 0 && errno == EINTR) {}
  atomic_store_explicit(&m->finished, now, memory_order_release);
}

static bool is(const _Atomic uint32_t *flag, uint32_t ticket) {
  return ticket && atomic_load_explicit(flag, memory_order_acquire) == ticket;
}

/* How soon to look again. */
static let_dur look(let_cuda_gpulet *g, let_time before, let_time now) {
  uint32_t ticket[2];
  bool done[2];
  for (int i = 0; i < 2; i++) ticket[i] = atomic_load_explicit(&g->mark[i].awaited, memory_order_acquire);
  for (int i = 0; i < 2; i++) done[i] = is(&g->flags->finished[i], ticket[i]);
  if (done[1] && !done[0]) done[0] = is(&g->flags->finished[0], ticket[0]); /* it may have been ahead of the other */
  let_time seen = done[0] || done[1] ? let_now() : now; /* after looking: this thread may have slept since |now| */
  int first =
      ticket[0] && ticket[1] && ticket[1] - ticket[0] > UINT32_MAX / 2; /* they end in the order of their tickets */
  for (int k = 0; k < 2; k++) {
    int i = k ^ first;
    let_cuda_mark *m = &g->mark[i];
    if (!ticket[i]) continue;
    if (!done[i]) {
      let_dur age = now - (m->work.launched > g->free ? m->work.launched : g->free);
      return age < soonest * AGE ? soonest : age < latest * AGE ? age / AGE : latest;
    }
    tell(g, m, before, seen);
  }
  return latest;
}

static void *watch(void *arg) {
  let_cuda_watch *w = arg;
  let_time before = 0;
  prctl(PR_SET_NAME, "cuda-watch");
  prctl(PR_SET_TIMERSLACK, SLACK_NS);
  pthread_mutex_lock(&w->lock);
  while (!w->stop) {
    if (!atomic_load(&w->n_awaited)) {
      pthread_cond_wait(&w->wake, &w->lock);
      continue;
    }
    let_time now = let_now();
    let_dur next = latest;
    for (let_cuda_gpulet *g = w->list; g; g = g->watched) {
      let_dur d = look(g, before, now);
      if (d < next) next = d;
    }
    before = now;
    pthread_mutex_unlock(&w->lock);
    struct timespec t = {0, next};
    nanosleep(&t, NULL);
    pthread_mutex_lock(&w->lock);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

/* With the lock held. */
static let_err start(let_cuda *d, let_error *e) {
  let_cuda_watch *w = &d->watch;
  if (w->flags) return LET_OK;
  void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return let_fail(e, LET_ERR_NOMEM, "out of memory for %d bytes", BYTES);
  let_err err = let_cuda_check(
      d->api, d->api->cuMemHostRegister(p, BYTES, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
      "cuMemHostRegister", e);
  if (!err) {
    err = let_cuda_check(d->api, d->api->cuMemHostGetDevicePointer(&w->seen, p, 0), "cuMemHostGetDevicePointer", e);
    int why = err ? 0 : pthread_create(&w->thread, NULL, watch, w);
    if (why) err = let_fail(e, LET_ERR_NOMEM, "no thread to watch batches with: %s", strerror(why));
    if (err) (void)d->api->cuMemHostUnregister(p);
  }
  if (err) {
    munmap(p, BYTES);
    return err;
  }
  w->flags = p;
  w->writes = true;
  return LET_OK;
}

let_err let_cuda__watch(let_cuda_gpulet *g, let_error *e) {
  let_cuda_watch *w = &g->d->watch;
  pthread_mutex_lock(&w->lock);
  let_err err = start(g->d, e);
  uint32_t slot = 0;
  while (slot < LET__CUDA_SLOTS && w->used[slot]) slot++;
  if (!err && slot == LET__CUDA_SLOTS)
    err = let_fail(e, LET_ERR_OVERLOADED, "%d gpu-lets are open on this device, as many as there can be",
                   LET__CUDA_SLOTS);
  if (!err) {
    w->used[slot] = true;
    g->slot = (int)slot;
    g->flags = &w->flags[slot];
    g->watched = w->list;
    w->list = g;
  }
  pthread_mutex_unlock(&w->lock);
  return err;
}

void let_cuda__forget(let_cuda_gpulet *g, let_cuda_mark *m) {
  let_cuda_watch *w = &g->d->watch;
  pthread_mutex_lock(&w->lock);
  if (atomic_exchange(&m->awaited, 0)) atomic_fetch_sub(&w->n_awaited, 1);
  pthread_mutex_unlock(&w->lock);
}

void let_cuda__unwatch(let_cuda_gpulet *g) {
  let_cuda_watch *w = &g->d->watch;
  if (g->slot < 0) return;
  for (int i = 0; i < 2; i++) let_cuda__forget(g, &g->mark[i]);
  pthread_mutex_lock(&w->lock);
  for (let_cuda_gpulet **at = &w->list; *at; at = &(*at)->watched)
    if (*at == g) {
      *at = g->watched;
      break;
    }
  w->used[g->slot] = false;
  pthread_mutex_unlock(&w->lock);
}

void let_cuda__watch_init(let_cuda_watch *w) {
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->wake, NULL);
}

void let_cuda__watch_end(let_cuda *d) {
  let_cuda_watch *w = &d->watch;
  if (w->flags) {
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    (void)d->api->cuMemHostUnregister(w->flags);
    munmap(w->flags, BYTES);
  }
  pthread_mutex_destroy(&w->lock);
  pthread_cond_destroy(&w->wake);
}

static CUdeviceptr seen_at(const let_cuda_watch *w, const _Atomic uint32_t *flag) {
  return w->seen + (CUdeviceptr)((const char *)flag - (const char *)w->flags);
}

static uint32_t ticket(let_cuda_watch *w) {
  uint32_t t = 1 + atomic_fetch_add_explicit(&w->tickets, 1, memory_order_relaxed);
  return t ? t : ticket(w);
}

static void CUDA_CB called(void *user) {
  let_cuda_mark *m = user;
  atomic_store_explicit(m->flag, m->told, memory_order_release);
}

let_err let_cuda__ends(let_cuda_gpulet *g, int instance, let_error *e) {
  let_cuda_watch *w = &g->d->watch;
  const let_cuda_api *a = g->d->api;
  let_cuda_mark *m = &g->mark[instance];
  m->told = ticket(w);
  m->flag = &g->flags->finished[instance];
  atomic_store_explicit(&m->finished, 0, memory_order_relaxed);
  CUresult r = CUDA_ERROR_NOT_SUPPORTED;
  if (w->writes)
    r = a->cuStreamWriteValue32(g->out_dirty ? g->out : g->compute, seen_at(w, m->flag), m->told,
                                CU_STREAM_WRITE_VALUE_DEFAULT);
  if (r == CUDA_ERROR_NOT_SUPPORTED) {
    if (w->writes)
      fprintf(stderr,
              "gpulet: cuda:%d: this driver writes no values from streams: its callbacks tell when batches end, and "
              "other work can hold those up\n",
              g->d->ordinal);
    w->writes = false;
    let_err err = let_cuda__join_compute(g, e); /* on |compute| the next batch would wait for it */
    if (err) return err;
    r = a->cuLaunchHostFunc(g->out, called, m);
  }
  if (r) return let_cuda_check(a, r, w->writes ? "cuStreamWriteValue32" : "cuLaunchHostFunc", e);
  m->work = g->work;
  memset(&g->work, 0, sizeof g->work);
  bool first = atomic_fetch_add(&w->n_awaited, 1) == 0;
  atomic_store_explicit(&m->awaited, m->told, memory_order_release);
  if (first) {
    pthread_mutex_lock(&w->lock); /* it sleeps by now, or has not looked yet */
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
  }
  return LET_OK;
}
#else
typedef int let_cuda_watch_is_not_built;
#endif
