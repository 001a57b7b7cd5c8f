/* cuda_int.h: what the files of the CUDA device share. */
#ifndef LET_DEVICE_CUDA_INT_H
#define LET_DEVICE_CUDA_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "cuda_api.h"
#include "device/device.h"

enum {
  LET__CUDA_GROUPS_MAX = 256,
  LET__CUDA_WORKSPACE = 32 << 20, /* bytes for library workspaces (cuBLAS asks for 32 MiB on Hopper) */
  LET__CUDA_SPARE = 64,
  LET__CUDA_SLOTS = 128,              /* gpu-lets that are open at once, stuck ones too */
  LET__CUDA_PINNED = 128,             /* ranges that are known to be pinned; further ones only go by the copy engine */
  LET__CUDA_SCATTER_MAX = 64,         /* copies of one launch */
  LET__CUDA_SCATTER_BYTES = 256 << 10 /* a larger copy goes by the copy engine */
};

/* A cached context: the union of granules [first, first + n). It is never current in any thread (streams carry
 * it), so any number of gpu-lets of that range use the same one. */
typedef struct let_cuda_context {
  struct let_cuda_context *next;
  uint32_t first, n;
  CUgreenCtx green;
  CUcontext context;
} let_cuda_context;

typedef struct let_cuda_gpulet let_cuda_gpulet;

/* What the kernel reads: cuda_scatter.c. */
typedef struct let_cuda_copy {
  uint64_t to, from, bytes;
} let_cuda_copy;

typedef struct let_cuda_range {
  uintptr_t at;
  uint64_t bytes;
} let_cuda_range;

/* What streams write and a thread reads (cuda_watch.c): tickets. Pinned. */
typedef struct let_cuda_flags {
  _Atomic uint32_t finished[2];
} let_cuda_flags;

typedef struct let_cuda_watch {
  pthread_mutex_t lock; /* list, used, stop */
  pthread_cond_t wake;
  pthread_t thread;
  bool stop;
  _Atomic bool writes;   /* false: the driver has no cuStreamWriteValue32 */
  let_cuda_flags *flags; /* NULL: the thread does not run yet */
  CUdeviceptr seen;      /* where the device has them */
  bool used[LET__CUDA_SLOTS];
  let_cuda_gpulet *list;
  _Atomic uint32_t n_awaited, tickets;
} let_cuda_watch;

typedef struct let_cuda {
  let_device base;
  const let_cuda_api *api;
  CUdevice dev;
  int ordinal;
  CUcontext primary;
  let_device_type type;
  char uuid[64];
  void *nvml; /* NULL: no telemetry */
  /* The one split: granule k is resource[begin[k] .. begin[k + 1]). */
  uint32_t n_resources;
  CUdevResource resource[LET__CUDA_GROUPS_MAX + 1];
  uint32_t begin[LET__CUDA_GROUPS_MAX + 2];
  CUfunction scatter;   /* NULL: there is none here */
  pthread_mutex_t lock; /* what follows */
  let_cuda_context *contexts;
  let_cuda_gpulet *stuck; /* closed while a kernel ran on: kept until it ends */
  /* Workspaces of closed gpu-lets: freeing device memory waits for everything that runs on the device. */
  CUdeviceptr spare[LET__CUDA_SPARE];
  uint32_t n_spare;
  pthread_mutex_t
      pins; /* what follows: lanes look at it for every copy, and |lock| is held while streams are destroyed */
  let_cuda_range pinned[LET__CUDA_PINNED];
  uint32_t n_pinned;
  let_cuda_watch watch;
} let_cuda;

/* What was launched between two marks: says which copies must wait for it. Addresses only: execs may be gone. */
typedef struct let_cuda_work {
  uint32_t launches;
  bool eager;        /* one of them was no graph */
  let_time launched; /* the first of them */
  uint32_t n;
  struct {
    uintptr_t at, bytes;
  } in[LET_TENSORS_MAX]; /* inputs of the last one */
} let_cuda_work;

/* A batch that was marked. */
typedef struct let_cuda_mark {
  bool pending;
  let_cuda_work work;
  uint32_t told;             /* the ticket that says it is done */
  _Atomic uint32_t *flag;    /* where */
  _Atomic uint32_t awaited;  /* the same ticket while the thread looks for it, else 0 */
  CUevent begin, end;        /* NULL unless timing_exact */
  int fd;                    /* eventfd, written once it is done */
  let_time started;          /* of the thread's until |finished| */
  _Atomic let_time finished; /* 0 until it was seen */
} let_cuda_mark;

struct let_cuda_gpulet {
  let_gpulet base;
  let_cuda *d;
  let_cuda_gpulet *next; /* in |stuck| */
  uint32_t number;
  let_cuda_context *cached; /* NULL: whole device, no partition */
  CUcontext context;
  CUstream compute, in, out;
  CUdeviceptr workspace;
  CUevent in_done, compute_done, out_done;
  bool in_dirty;      /* copies on |in| that |compute| has not been told to wait for */
  bool compute_dirty; /* work on |compute| that |out| has not been told to wait for */
  bool out_dirty;     /* copies on |out| that |compute| has not been told to wait for */
  let_cuda_work work; /* since the last mark */
  let_cuda_mark mark[2];
  let_cuda_copy scatter[LET__CUDA_SCATTER_MAX]; /* small copies out that have not been launched yet */
  uint32_t n_scatter;
  bool timing_exact;
  CUevent begin; /* of the batch that is not marked yet */
  int slot;      /* -1: not watched */
  let_cuda_flags *flags;
  let_cuda_gpulet *watched; /* the next one */
  let_time free;            /* the last batch had not ended before; of the thread's */
};

let_err let_cuda__open(let_device *base, uint32_t number, uint32_t first, uint32_t granules, bool shared,
                       let_gpulet **ret, let_error *e);
void let_cuda__close(let_gpulet *base);
let_err let_cuda__prewarm(let_device *base, let_error *e);
void let_cuda__target(const let_gpulet *base, let_engine_target *ret);
let_err let_cuda__enter(let_gpulet *base, let_error *e);
let_err let_cuda__copy_in(let_gpulet *base, void *dst, const void *src, uint64_t bytes, let_error *e);
let_err let_cuda__launch(let_gpulet *base, let_exec *x, let_error *e);
let_err let_cuda__copy_out(let_gpulet *base, void *dst, const void *src, uint64_t bytes, let_error *e);
let_err let_cuda__mark(let_gpulet *base, int instance, let_error *e);
let_err let_cuda__timing_exact(let_gpulet *base, let_error *e);
int let_cuda__done_fd(const let_gpulet *base, int instance);
let_err let_cuda__wait(let_gpulet *base, int instance, let_dur timeout, let_time *ret_started, let_time *ret_finished,
                       let_error *e);

let_err let_cuda__join_compute(let_cuda_gpulet *g, let_error *e); /* |out| waits for |compute| */
void let_cuda__scatter_load(let_cuda *d);                         /* primary context current */
let_err let_cuda__pin(let_device *base, void *p, uint64_t bytes, let_error *e);
void let_cuda__unpin(let_device *base, void *p);
bool let_cuda__scatters(let_cuda *d, const void *to, uint64_t bytes);     /* may a copy out go that way? */
let_err let_cuda__scatter(let_cuda_gpulet *g, CUstream on, let_error *e); /* launches what is in g->scatter */

/* cuda_watch.c. A gpu-let is watched from open to its destruction; nothing of it runs any more then. */
void let_cuda__watch_init(let_cuda_watch *w);
void let_cuda__watch_end(let_cuda *d); /* no gpu-let is left */
let_err let_cuda__watch(let_cuda_gpulet *g, let_error *e);
void let_cuda__unwatch(let_cuda_gpulet *g);
let_err let_cuda__ends(let_cuda_gpulet *g, int instance,
                       let_error *e); /* after all that was enqueued; |out| told to wait if it has copies */
void let_cuda__forget(let_cuda_gpulet *g, let_cuda_mark *m); /* it will never be done */

/* Destroys the stuck gpu-lets whose kernels have ended meanwhile; true when none is left. */
bool let_cuda__reap(let_cuda *d);

#endif
