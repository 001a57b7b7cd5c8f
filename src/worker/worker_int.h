/* worker_int.h: what the control thread's files share: worker.c listens, say.c speaks, schedule.c decides what to do
 * next, models.c keeps weights and measurements, bring_up.c does the steps. Everything here runs on the control thread.
 */
#ifndef LET_WORKER_INT_H
#define LET_WORKER_INT_H

#include "ipc/ipc.h"
#include "worker/lane.h"
#include "worker/backoff.h"

enum { LET__GPULETS_MAX = 64, LET__LATENCY_CACHE_MAX = 128 };

/* What a variant took, for lane sets to come. */
typedef struct let__cached_latency {
  uint32_t size, granules;
  bool shared, beside;
  let_dur p50, p99;
} let__cached_latency;

/* A model's weights, shared by every gpu-let and lane set that serves exactly this configuration. Without users they
 * are unloaded; what was measured stays. */
struct let__loaded {
  let_model m;
  const let_engine *engine;
  let_engine_model *em; /* NULL: not loaded */
  uint32_t refs;
  uint32_t n_cached; /* ever noted: the oldest are overwritten */
  let__cached_latency latency_cache[LET__LATENCY_CACHE_MAX];
  let__loaded *next;
};

typedef struct let__lane_set {
  let_lane_set_id id;
  let_lanes *lanes;
  int stop_fd;
  uint32_t n;
  let__lane *lane;
  let_arena arena;                  /* of |asked| */
  const let_ipc_prepare *asked;     /* NULL: halted */
  uint32_t order[LET__GPULETS_MAX]; /* of bringing up: cheap ones first */
  uint32_t up;                      /* how many of |order| serve; n: prepared */
  bool beside;                      /* the server says that other workers' gpu-lets serve on this device */
  char model[LET_NAME_MAX];         /* being loaded or prepared; "": another step */
  let_time began;                   /* of the model that is being brought up */
  let_dur rested;                   /* let__backoff's */
  uint32_t done, total;             /* sizes that it needs to serve, for `progress` */
  let_time free_at;                 /* retired: not freed before */
  struct let__lane_set *next;
} let__lane_set;

typedef struct let__worker {
  let__worker_view view;
  char plugin_dir[LET_IPC_PATH_MAX], device_name[LET_NAME_MAX];
  let__lane_set *lane_sets; /* newest first */
  let__lane_set *retired;   /* nothing of them runs; freed step by step */
  let__loaded *loaded;
  uint64_t numbers;       /* bit per device's gpu-let number in use */
  let__job_thread prober; /* measures what is added to lanes that serve */
  _Atomic let_time prober_due;
  uint64_t batches;  /* run by all lanes, when last looked */
  let_time quiet_at; /* from when on the device counts as idle */
  let_time next_step, next_health;
} let__worker;

/* say.c: each sends one event. Errors: the server is gone. */
let_err let__say_ready(let__worker *w);
let_err let__say_health(let__worker *w);
let_err let__say_error(let__worker *w, const let_error *e);
let_err let__say_progress(let__worker *w, const let__lane_set *set);
let_err let__say_lane_up(let__worker *w, const let__lane_set *set, const let__lane *l);
let_err let__say_prepared(let__worker *w, const let__lane_set *set);
let_err let__say_failed(let__worker *w, let_lane_set_id set, uint32_t lane, const char *model, const let_error *e,
                        let_err code);
/* |failed|: why there is no |size|; NULL: it is the newest of |model|. */
let_err let__say_size(let__worker *w, const let__lane_set *set, const let__lane *l, uint32_t model, uint32_t size,
                      const let_error *failed);
let_err let__say_retired(let__worker *w, let_lane_set_id set);

/* models.c */
bool let__simulated(const let__worker *w);
let_err let__model_load(let__worker *w, const let_model *m, let__loaded **ret, let_error *e);
void let__model_drop(let__loaded *l); /* NULL is fine */
const let__cached_latency *let__model_latency(const let__loaded *l, uint32_t size, uint32_t granules,
                                              bool shared); /* NULL: never measured */
void let__model_note(let__loaded *l, uint32_t granules, bool shared,
                     const let__batch_variant *v); /* a figure taken alone is not replaced by one taken beside others */

/* bring_up.c: the steps. One is never more than one call of the engine that takes long. */
let_err let__lane_set_new(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds, let__lane_set **ret,
                          let_error *e); /* takes |fds|; on success also |a|, in which |asked| lies */
/* One step towards serving; *ret_lane: the lane that serves from now on, or NULL. Fails: *ret_lane was being worked on.
 */
let_err let__bring_up(let__worker *w, let__lane_set *set, let__lane **ret_lane, let_error *e);
/* One step towards the sizes that lanes which serve do not have yet. *ret_model: of *ret_lane, has a new variant, or
 * has failed to get one for *ret_size (0: nothing of the kind yet). Errors: AGAIN: not while there are other lane sets.
 */
bool let__warming(const let__lane_set *set);
let_err let__add_size(let__worker *w, let__lane_set *set, let__lane **ret_lane, uint32_t *ret_model, uint32_t *ret_size,
                      let_error *e);
void let__lane_set_halt(let__lane_set *set); /* drains its lanes and stops their threads; NULL is fine */
bool let__lane_set_free_step(let__worker *w, let__lane_set *set); /* of a halted one; false: all is freed, |set| too */
void let__lane_set_free(let__worker *w, let__lane_set *set);      /* halts, and all steps at once */
bool let__busy(let__worker *w);                                   /* gpu-lets of this worker have traffic */

/* schedule.c: what is to be done next */
let_err let__on_prepare(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds); /* as lane_set_new */
let_err let__on_retire(let__worker *w, let_lane_set_id id);
let_time let__work_due(const let__worker *w); /* LET_NEVER: nothing to do */
let_err let__work_step(let__worker *w);       /* one step */

#endif
