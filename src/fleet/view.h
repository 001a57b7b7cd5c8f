/* view.h: the fleet's state, read only. */
#ifndef LET_FLEET_VIEW_H
#define LET_FLEET_VIEW_H

#include "fleet/fleet.h"

/* One model on one gpu-let. */
typedef struct let_fleet_entry {
  uint32_t model;             /* server's index */
  uint32_t batch, next_batch; /* rows to aim for, now and after the change under way */
  double rate, next_rate;
  uint32_t n_sizes; /* wanted; those that are ready take batches */
  uint32_t size[LET_SIZES_MAX];
  bool ready[LET_SIZES_MAX], failed[LET_SIZES_MAX];
  bool beside[LET_SIZES_MAX]; /* predict[] was measured beside traffic */
  let_dur predict[LET_SIZES_MAX];
  let_dur slo;     /* the plan's; 0: it names none */
  let_dur planned; /* predicted by the plan for |batch|; 0: take what the worker measures */
  uint64_t memory_bytes;
  bool eager;    /* it runs without a graph */
  char why[200]; /* of the last size that failed */
} let_fleet_entry;

typedef struct let_fleet_gpulet {
  let_gpulet_id id; /* the core's number */
  uint32_t first, granules;
  bool shared;
  bool up;          /* the worker has its lane ready */
  bool quarantined; /* its worker is killed: nothing may go there until it is replaced */
  bool declared;    /* the core knows it */
  bool told_up;     /* what the core was told last */
  uint32_t n_entries;
  let_fleet_entry *entry;
} let_fleet_gpulet;

/* States; the diagrams are in fleet.h. */
#define LET_FLEET_GROUP_MAP(X) \
  X(NONE, "none")              \
  X(WAITING, "waiting")        \
  X(PREPARING, "preparing")    \
  X(PREPARED, "prepared")      \
  X(SERVING, "serving")        \
  X(DRAINING, "draining")      \
  X(DRAINED, "drained")        \
  X(RETIRING, "retiring")      \
  X(RELEASING, "releasing")
#define LET_FLEET_WORKER_MAP(X) \
  X(NONE, "none")               \
  X(BACKOFF, "backoff")         \
  X(HELD, "held")               \
  X(STARTING, "starting")       \
  X(READY, "ready")             \
  X(STOPPING, "stopping")       \
  X(KILLED, "killed")
#define LET_FLEET_SPARE_MAP(X) \
  X(NONE, "none")              \
  X(STARTING, "starting")      \
  X(IDLE, "idle")              \
  X(OPENING, "opening")        \
  X(PREPARING, "preparing")    \
  X(WARM, "warm")              \
  X(REFUSED, "refused")
#define LET_FLEET_CHANGE_MAP(X) \
  X(IDLE, "idle")               \
  X(BUILDING, "building")       \
  X(SWITCHING, "switching")     \
  X(DRAINING, "draining")       \
  X(ROLLBACK, "rollback")

#define X(name, text) LET_GROUP_##name,
typedef enum let_fleet_group_state { LET_FLEET_GROUP_MAP(X) LET_GROUP_STATES } let_fleet_group_state;
#undef X
#define X(name, text) LET_WORKER_##name,
typedef enum let_fleet_worker_state { LET_FLEET_WORKER_MAP(X) LET_WORKER_STATES } let_fleet_worker_state;
#undef X
#define X(name, text) LET_SPARE_##name,
typedef enum let_fleet_spare_state { LET_FLEET_SPARE_MAP(X) LET_SPARE_STATES } let_fleet_spare_state;
#undef X
#define X(name, text) LET_CHANGE_##name,
typedef enum let_fleet_change_state { LET_FLEET_CHANGE_MAP(X) LET_CHANGE_STATES } let_fleet_change_state;
#undef X

const char *let_fleet_group_state_name(let_fleet_group_state s); /* "serving" */
const char *let_fleet_worker_state_name(let_fleet_worker_state s);
const char *let_fleet_spare_state_name(let_fleet_spare_state s);
const char *let_fleet_change_state_name(let_fleet_change_state s);

typedef struct let_fleet_group {
  let_fleet_group_state state;
  let_plan_generation generation; /* that made it */
  let_worker_id worker;
  let_lane_set_id set; /* 0: its worker was told nothing of it */
  uint32_t device;
  bool routed;    /* routing names it: it serves, or will again once its worker is replaced */
  bool wanted;    /* it belongs to the newest plan */
  bool warming;   /* some of its sizes are on their way */
  let_time since; /* serving since; 0: never */
  uint32_t n_gpulets;
  const let_fleet_gpulet *gpulet;
} let_fleet_group;

typedef struct let_fleet_worker {
  let_fleet_worker_state state;
  bool spare;
  bool alive; /* it has a process */
  uint32_t device;
  uint64_t starts; /* of processes in this slot */
} let_fleet_worker;

/* Slots, used and unused: 0 to below these. False: that one is unused, or there is none. */
uint32_t let_fleet_groups(const let_fleet *f);
uint32_t let_fleet_workers(const let_fleet *f);
bool let_fleet_group_at(const let_fleet *f, let_group_id id, let_fleet_group *ret);
bool let_fleet_worker_at(const let_fleet *f, let_worker_id id, let_fleet_worker *ret);

/* The gpu-let with that number, NULL: there is none. */
const let_fleet_gpulet *let_fleet_gpulet_at(const let_fleet *f, let_gpulet_id id);
uint32_t let_fleet_entry_of(const let_fleet_gpulet *l, uint32_t model); /* its position; LET_ID_NONE: not there */
bool let_fleet_model_up(const let_fleet *f, uint32_t model);            /* some gpu-let of the plan can run it */

typedef struct let_fleet_sizes {
  uint32_t wanted, ready, failed;
} let_fleet_sizes;
let_fleet_sizes let_fleet_group_sizes(const let_fleet *f, let_group_id id);
let_fleet_sizes let_fleet_routed_sizes(const let_fleet *f);

/* A sentence about batch sizes that could not be prepared, into |out|, when |rows| rows fit the model but none that is
 * ready or on its way. */
bool let_fleet_why_too_wide(const let_fleet *f, uint32_t model, uint32_t rows, char *out, size_t cap);

let_fleet_change_state let_fleet_change(const let_fleet *f);
bool let_fleet_serving(const let_fleet *f);                     /* a first plan is up */
bool let_fleet_idle(const let_fleet *f);                        /* no worker is left: after STOP_ALL */
let_plan_generation let_fleet_generation(const let_fleet *f);   /* newest accepted */
let_dur let_fleet_slo(const let_fleet *f, uint32_t model);      /* what the plan was made to keep; 0: none */
uint64_t let_fleet_restarts(const let_fleet *f);                /* workers lost and replaced */
uint64_t let_fleet_memory(const let_fleet *f, uint32_t device); /* that workers said their models take there */
bool let_fleet_spare_warm(const let_fleet *f, uint32_t device); /* prepared for what serves there now */

#endif
