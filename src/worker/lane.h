/* lane.h: one gpu-let being served: its thread, its models, its prepared batch sizes. Private to worker/. */
#ifndef LET_WORKER_LANE_H
#define LET_WORKER_LANE_H

#include <stdatomic.h>

#include "device/device.h"
#include "model/ids.h"
#include "ring/ring.h"
#include "worker/job_thread.h"

/* A model prepared for one batch size; two execs with separate buffers where the device overlaps batches. */
typedef struct let__batch_variant {
  uint32_t size;
  let_exec *x[2];
  uint32_t dirty[2]; /* rows of x[i] that may be other than zero */
  let_dur p50, p99;  /* measured before serving */
  bool beside;       /* measured beside traffic: see let__measure */
} let__batch_variant;

typedef struct let__loaded let__loaded; /* worker_int.h: a model's weights */

/* The control thread fills variant[n_variants] and then counts it; the lane's thread looks at counted ones only, and
 * writes their |dirty|. So variants can be added while the lane serves. */
typedef struct let__lane_model {
  let__loaded *loaded;
  const let_model *m;
  const let_engine *engine;
  const char *note;       /* why it runs eagerly, or NULL */
  uint32_t n_sizes, next; /* control thread: sizes wanted, in the order of preparing, and how many were tried */
  uint32_t size[LET_SIZES_MAX];
  uint32_t needed; /* the lane serves once that many are ready */
  let_dur slo;     /* 0: none */
  bool planned;    /* the server knows from the plan how long the first size takes */
  bool measured;   /* control thread: the variant that is being added */
  let_dur took;    /* to load it and to prepare what was needed */
  _Atomic uint32_t n_variants;
  let__batch_variant variant[LET_SIZES_MAX];
} let__lane_model;

static inline uint32_t let__variants(const let__lane_model *m) {
  return atomic_load_explicit(&m->n_variants, memory_order_acquire);
}

typedef struct let__worker_view { /* what lanes need of the worker; constant while they run */
  let_device *device;
  let_ring_arena *arena;
  int control_fd;
  let_dur spin, watchdog; /* watchdog: least time that a batch may take */
  void *zeros;            /* LET__ZEROS bytes, pinned */
} let__worker_view;

enum { LET__ZEROS = 1 << 20 };

typedef struct let__lane {
  const let__worker_view *w;
  let_lanes *lanes;
  uint32_t index;       /* in |lanes| */
  let_gpulet_id gpulet; /* for sentences */
  uint32_t first, granules;
  bool shared;
  let_gpulet *g;
  /* The same granules once more, opened when sizes are added while the lane serves: they are warmed up, captured and
   * measured here. Graphs of one gpu-let share their memory, so two of them must not run side by side: a graph of this
   * gpu-let never serves, and is captured once more for |g|. */
  let_gpulet *scratch_gpulet;
  let_exec *scratch_graph; /* its last graph, which keeps the memory for the next one. NULL: none */
  const let_engine *scratch_engine;
  uint32_t number, scratch_number; /* of the device's gpu-lets, < 64 */
  let_dur cost;                    /* how long bringing it up took before; 0: unknown */
  uint32_t n_models;
  let__lane_model *model;
  int stop_fd; /* readable: drain and leave */
  bool serves; /* control thread: it was told to */
  _Atomic uint64_t busy_ns, batches;
  _Atomic let_time due;   /* the call that the thread is in should be back by then; LET_NEVER: it is in none */
  let__job_thread thread; /* the lane's thread: measures, then serves */

  /* The lane's thread only. */
  let_batch_msg msg[2];
  let_done_msg done;
  let_pinned stage; /* inputs of varying shape, brought together */
  let_time last_finished;
} let__lane;

/* The lane's thread begins to take batches. */
void let__lane_serve(let__lane *l);
void let__lane_join(let__lane *l); /* after stop_fd became readable: returns when its ring is empty. Any state. */

/* What lane.c and measure.c share. |due|: where the call's end is announced, see let__lane. */
let_err let__zero(const let__worker_view *w, let_gpulet *g, char *to, uint64_t bytes, let_error *e);
let_err let__wait_for(const let__worker_view *w, let_gpulet *g, _Atomic let_time *due, const let__batch_variant *v,
                      int instance, let_time *started, let_time *finished, let_error *e);

/* How a variant is measured. On the calling thread, which must have entered |g|. */
typedef enum let__effort {
  LET__ONCE,   /* how long it takes is known: run it once, unmeasured, where a first run in this thread is a slow one */
  LET__BESIDE, /* gpu-lets of this device serve: few runs, and the least of them counts */
  LET__ALONE   /* 20 runs: median and worst */
} let__effort;
/* |v|->p99: what to expect, for the watchdog; 0: nothing is known. */
let_err let__measure(const let__worker_view *w, let_gpulet *g, _Atomic let_time *due, let__batch_variant *v,
                     let__effort effort, let_error *e);

/* Sends an error event and ends the process. */
_Noreturn void let__worker_die(const let__worker_view *w, const let_error *e);

/* What GPULET_FAULT says: raises SIGKILL; at LIE, the caller does what it should not. */
typedef enum let__stage {
  LET__STAGE_INIT,
  LET__STAGE_PREPARE,
  LET__STAGE_TAKE,
  LET__STAGE_COPIED,
  LET__STAGE_LAUNCHED,
  LET__STAGE_BEFORE_DONE,
  LET__STAGE_AFTER_DONE,
  LET__STAGE_LIE
} let__stage;
void let__fault_init(void);
void let__fault_raise(void);
bool let__fault_hits(void);
extern int let__fault_stage; /* -1: none */
static inline void let__fault(let__stage s) {
  if (__builtin_expect(let__fault_stage == (int)s, 0)) let__fault_raise();
}
static inline bool let__fault_lies(void) { return let__fault_stage == LET__STAGE_LIE && let__fault_hits(); }

#endif
