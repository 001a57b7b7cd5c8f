/* lane.h: one gpu-let being served: its thread, its models, its prepared batch sizes. Private to worker/. */
#ifndef LET_WORKER_LANE_H
#define LET_WORKER_LANE_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/device.h"
#include "ring/ring.h"

/* A model prepared for one batch size; two execs with separate buffers where the device overlaps batches. */
typedef struct let__cell {
  uint32_t size;
  let_exec *x[2];
  uint32_t dirty[2]; /* rows of x[i] that may be other than zero */
  let_dur p50, p99;  /* measured before serving */
} let__cell;

typedef struct let__loaded let__loaded; /* worker.c: a model's weights */

typedef struct let__lane_model {
  let__loaded *loaded;
  const let_model *m;
  const let_engine *engine;
  const char *note; /* why it runs eagerly, or NULL */
  uint32_t n_cells;
  let__cell cell[LET_SIZES_MAX];
} let__lane_model;

typedef struct let__worker_view { /* what lanes need of the worker; constant while they run */
  let_device *device;
  let_ring_arena *arena;
  int control_fd;
  let_dur spin, watchdog; /* watchdog: least time that a batch may take */
  void *zeros; /* LET__ZEROS bytes, pinned */
} let__worker_view;

enum { LET__ZEROS = 1 << 20 };

typedef enum let__lane_state { LET__LANE_NEW, LET__LANE_MEASURED, LET__LANE_FAILED, LET__LANE_SERVING } let__lane_state;

typedef struct let__lane {
  const let__worker_view *w;
  let_lanes *lanes;
  uint32_t index;      /* in |lanes| */
  uint32_t gpulet;     /* the server's number */
  uint32_t number;     /* of the device's gpu-let, < 64 */
  let_gpulet *g;
  uint32_t n_models;
  let__lane_model *model;
  int stop_fd;         /* readable: drain and leave */
  bool gentle;         /* another generation serves on this device: measure little */
  _Atomic uint64_t busy_ns, batches;
  _Atomic let_time due; /* the call that the thread is in should be back by then; LET_NEVER: it is in none */

  pthread_t thread;
  bool started;
  pthread_mutex_t lock; /* of state and error */
  pthread_cond_t turn;
  let__lane_state state;
  let_error error;

  /* The lane's thread only. */
  let_batch_msg msg[2];
  let_done_msg done;
  void *stage;          /* inputs of varying shape, brought together; pinned */
  uint64_t stage_bytes;
  let_time last_finished;
} let__lane;

/* Starts the thread, which measures every cell, then waits. Blocks until that is done. */
let_err let__lane_start(let__lane *l, let_error *e);
void let__lane_serve(let__lane *l); /* lets a measured lane serve */
void let__lane_join(let__lane *l);  /* after stop_fd became readable: returns when its ring is empty. Any state. */

/* Sends an error event and ends the process. */
_Noreturn void let__worker_die(const let__worker_view *w, const let_error *e);

/* Raises SIGKILL when GPULET_FAULT says so. */
typedef enum let__stage {
  LET__STAGE_INIT, LET__STAGE_PREPARE, LET__STAGE_TAKE, LET__STAGE_COPIED, LET__STAGE_LAUNCHED, LET__STAGE_BEFORE_DONE, LET__STAGE_AFTER_DONE
} let__stage;
void let__fault_init(void);
void let__fault_raise(let__stage s);
extern int let__fault_stage; /* -1: none */
static inline void let__fault(let__stage s) {
  if (__builtin_expect(let__fault_stage == (int)s, 0)) let__fault_raise(s);
}

#endif
