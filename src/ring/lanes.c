/* lanes.c: a pair of single-producer single-consumer rings per gpu-let, in one piece of shared memory.
 *
 * Every shared word has one writer. Indices run freely and are masked on use. What a side
 * needs for its own safety it keeps in private memory: the server counts what it submitted and took, so a worker that
 * scribbles over the rings can make its own batches fail and nothing else.
 *
 * Wake-up. A consumer about to sleep publishes a nonzero ticket in its `armed` word and then looks at the ring once
 * more; a producer publishes its index and then looks at `armed`. Both use sequentially consistent stores and loads,
 * so at least one of the two sees the other (Dekker). A producer writes the eventfd once per ticket: a consumer
 * that is awake costs it no system call. */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/cpu.h"
#include "os/shm.h"
#include "ring/ring.h"

#define MAGIC UINT64_C(0x3173656e616c6c67) /* "gllanes1" */
enum { LINE = 64, MASK = LET_RING_ENTRIES - 1, LANES_MAX = 64 };
_Static_assert((LET_RING_ENTRIES & MASK) == 0, "ring sizes are powers of two");

typedef struct word {
  _Alignas(LINE) _Atomic uint32_t v;
  char pad[LINE - sizeof(uint32_t)];
} word;

typedef struct shared_lane {
  word submit_tail;  /* server */
  word submit_armed; /* worker's lane thread */
  word done_tail;    /* worker's lane thread */
  let_batch_msg submit[LET_RING_ENTRIES];
  let_done_msg done[LET_RING_ENTRIES];
} shared_lane;

typedef struct shared {
  uint64_t magic;
  uint32_t n, lane_bytes;
  _Alignas(LINE) word done_armed; /* server: one word for all lanes */
  word done_signals;              /* worker: how often it wrote the eventfd; a hint to the server */
  _Alignas(4096) shared_lane lane[];
} shared;

/* One side's private view of a lane; a line of its own, because lanes belong to different threads. */
typedef struct lane {
  _Alignas(LINE) uint32_t submit_tail, submit_head, done_tail, done_head;
  uint32_t woken;  /* server: the last submit_armed it wrote the eventfd for */
  uint32_t ticket; /* worker: the last submit_armed it published */
  int submit_event;
} lane;

struct let_lanes {
  shared *s;
  uint64_t bytes;
  uint32_t n;
  int fd, done_event;         /* fd -1: the worker's side */
  uint32_t ticket, drained;   /* server: of done_armed */
  _Atomic uint32_t signalled; /* worker: last done ticket, shared by its lanes' threads */
  lane lane[];
};

static let_lanes *make(uint32_t n) {
  let_lanes *l = aligned_alloc(LINE, sizeof *l + n * sizeof *l->lane);
  if (!l) return NULL;
  memset(l, 0, sizeof *l + n * sizeof *l->lane);
  l->n = n;
  l->fd = l->done_event = -1;
  for (uint32_t i = 0; i < n; i++) l->lane[i].submit_event = -1;
  return l;
}

let_err let_lanes_new(uint32_t n, let_lanes **ret, let_error *e) {
  if (n < 1 || n > LANES_MAX)
    return let_fail(e, LET_ERR_INVALID, "%u gpu-lets on one device: 1 to %d are possible", n, LANES_MAX);
  let_lanes *l = make(n);
  if (!l) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u lanes", n);
  void *p = NULL;
  let_err r = let_shm_create("gpulet-lanes", sizeof(shared) + n * sizeof(shared_lane), &l->fd, e);
  if (!r) r = let_shm_map(l->fd, &p, &l->bytes, e);
  l->s = p;
  for (uint32_t i = 0; !r && i <= n; i++) {
    int *fd = i < n ? &l->lane[i].submit_event : &l->done_event;
    if ((*fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
      r = let_fail(e, LET_ERR_IO, "cannot create an eventfd: %s", strerror(errno));
  }
  if (r) {
    let_lanes_free(l);
    return r;
  }
  l->s->magic = MAGIC;
  l->s->n = n;
  l->s->lane_bytes = sizeof(shared_lane);
  *ret = l;
  return LET_OK;
}

let_err let_lanes_map(int fd, uint32_t n, const int *submit_events, int done_event, let_lanes **ret, let_error *e) {
  void *p;
  uint64_t bytes;
  if (n < 1 || n > LANES_MAX) return let_fail(e, LET_ERR_INVALID, "%u lanes: 1 to %d are possible", n, LANES_MAX);
  let_err r = let_shm_map(fd, &p, &bytes, e);
  if (r) return r;
  shared *s = p;
  if (bytes != sizeof(shared) + n * sizeof(shared_lane) || s->magic != MAGIC || s->n != n ||
      s->lane_bytes != sizeof(shared_lane)) {
    let_shm_unmap(p, bytes);
    return let_fail(e, LET_ERR_INVALID, "the shared memory does not hold %u lanes of this version of gpulet", n);
  }
  let_lanes *l = make(n);
  if (!l) {
    let_shm_unmap(p, bytes);
    return let_fail(e, LET_ERR_NOMEM, "out of memory for %u lanes", n);
  }
  l->s = s;
  l->bytes = bytes;
  l->done_event = done_event;
  for (uint32_t i = 0; i < n; i++) l->lane[i].submit_event = submit_events[i];
  *ret = l;
  return LET_OK;
}

void let_lanes_free(let_lanes *l) {
  if (!l) return;
  let_shm_unmap(l->s, l->bytes);
  if (l->fd >= 0) close(l->fd);
  if (l->done_event >= 0) close(l->done_event);
  for (uint32_t i = 0; i < l->n; i++)
    if (l->lane[i].submit_event >= 0) close(l->lane[i].submit_event);
  free(l);
}

uint32_t let_lanes_count(const let_lanes *l) { return l->n; }
int let_lanes_fd(const let_lanes *l) { return l->fd; }
int let_lanes_done_event(const let_lanes *l) { return l->done_event; }

int let_lanes_submit_event(const let_lanes *l, uint32_t i) {
  LET_ASSERT(i < l->n);
  return l->lane[i].submit_event;
}

static void signal_event(int fd) {
  uint64_t one = 1;
  (void)!write(fd, &one, sizeof one); /* EAGAIN: it is readable anyway */
}

/* ---- server ---------------------------------------------------------------------------------------------- */

bool let_lane_submit(let_lanes *l, uint32_t i, const let_batch_msg *m) {
  LET_ASSERT(i < l->n && l->fd >= 0 && m->n <= LET_BATCH_MAX);
  lane *p = &l->lane[i];
  shared_lane *s = &l->s->lane[i];
  /* The limit counts what was taken back, not the worker's head: completions always find room, and nothing that the
   * worker writes matters here. */
  if (p->submit_tail - p->done_head >= LET_RING_ENTRIES) return false;
  memcpy(&s->submit[p->submit_tail & MASK], m, offsetof(let_batch_msg, record) + m->n * sizeof *m->record);
  atomic_store(&s->submit_tail.v, ++p->submit_tail);
  uint32_t armed = atomic_load(&s->submit_armed.v);
  if (armed && armed != p->woken) {
    p->woken = armed;
    signal_event(p->submit_event);
  }
  return true;
}

bool let_lane_take_done(let_lanes *l, uint32_t i, let_done_msg *ret, bool *corrupt) {
  LET_ASSERT(i < l->n && l->fd >= 0);
  lane *p = &l->lane[i];
  shared_lane *s = &l->s->lane[i];
  uint32_t tail = atomic_load(&s->done_tail.v);
  if (tail == p->done_head) return false;
  if (tail - p->done_head > p->submit_tail - p->done_head) { /* more completions than submissions */
    *corrupt = true;
    return false;
  }
  *ret = s->done[p->done_head & MASK];
  ret->text[sizeof ret->text - 1] = 0;
  p->done_head++;
  return true;
}

void let_lanes_arm_done(let_lanes *l) {
  uint64_t n;
  uint32_t signals = atomic_load(&l->s->done_signals.v);
  /* The count saves a system call when no worker signalled. It follows the write, so what is counted can be read. */
  if (signals != l->drained) {
    (void)!read(l->done_event, &n, sizeof n);
    l->drained = signals;
  }
  if (++l->ticket == 0) ++l->ticket;
  atomic_store(&l->s->done_armed.v, l->ticket);
}

void let_lanes_disarm_done(let_lanes *l) { atomic_store_explicit(&l->s->done_armed.v, 0, memory_order_relaxed); }

/* ---- worker ---------------------------------------------------------------------------------------------- */

bool let_lane_take(let_lanes *l, uint32_t i, let_batch_msg *ret) {
  LET_ASSERT(i < l->n);
  lane *p = &l->lane[i];
  shared_lane *s = &l->s->lane[i];
  if (atomic_load(&s->submit_tail.v) == p->submit_head) return false;
  const let_batch_msg *m = &s->submit[p->submit_head & MASK];
  memcpy(ret, m, offsetof(let_batch_msg, record));
  if (ret->n <= LET_BATCH_MAX) memcpy(ret->record, m->record, ret->n * sizeof *ret->record);
  p->submit_head++;
  return true;
}

bool let_lane_waiting(const let_lanes *l, uint32_t i) {
  LET_ASSERT(i < l->n);
  return atomic_load(&l->s->lane[i].submit_tail.v) != l->lane[i].submit_head;
}

void let_lane_wait(let_lanes *l, uint32_t i, int stop_fd, let_dur spin, let_dur timeout) {
  LET_ASSERT(i < l->n);
  lane *p = &l->lane[i];
  shared_lane *s = &l->s->lane[i];
  if (spin > 0)
    for (let_time end = let_now() + spin; let_now() < end;)
      for (int k = 0; k < 64; k++) {
        if (atomic_load_explicit(&s->submit_tail.v, memory_order_acquire) != p->submit_head) return;
        let_cpu_relax();
      }
  if (++p->ticket == 0) ++p->ticket;
  atomic_store(&s->submit_armed.v, p->ticket);
  if (atomic_load(&s->submit_tail.v) == p->submit_head) {
    struct pollfd f[2] = {{.fd = p->submit_event, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
    struct timespec t = {.tv_sec = timeout / LET_S, .tv_nsec = timeout % LET_S};
    uint64_t n;
    if (ppoll(f, 2, timeout == LET_NEVER ? NULL : &t, NULL) > 0 && (f[0].revents & POLLIN))
      (void)!read(p->submit_event, &n, sizeof n);
  }
  atomic_store_explicit(&s->submit_armed.v, 0, memory_order_relaxed);
}

void let_lane_done(let_lanes *l, uint32_t i, const let_done_msg *m) {
  LET_ASSERT(i < l->n);
  lane *p = &l->lane[i];
  shared_lane *s = &l->s->lane[i];
  s->done[p->done_tail & MASK] = *m;
  atomic_store(&s->done_tail.v, ++p->done_tail);
  uint32_t armed = atomic_load(&l->s->done_armed.v);
  if (armed && atomic_exchange(&l->signalled, armed) != armed) {
    signal_event(l->done_event);
    atomic_fetch_add(&l->s->done_signals.v, 1);
  }
}
