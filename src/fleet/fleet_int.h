/* fleet_int.h: the fleet's insides. Files call only those that come before them here: no circle (cmake/circles). */
#ifndef LET_FLEET_INT_H
#define LET_FLEET_INT_H

#include "fleet/fleet.h"
#include "fleet/view.h"

#define LET__STOP_PATIENCE (5 * LET_S) /* from STOP to SIGKILL */

typedef struct let__group {
  let_fleet_group_state state;
  bool routed, wanted, warming;
  let_group_id id;
  let_worker_id worker;
  uint64_t key;    /* hash of the content: equal keys are interchangeable */
  uint64_t serial; /* never used again: names it to a spare */
  let_plan_generation generation;
  let_lane_set_id set; /* its lanes are open, its worker may have been told; 0: neither */
  uint32_t device, n_gpulets, cap_gpulets;
  let_fleet_gpulet *gpulet;
  let_time asked; /* PREPARE or RETIRE was handed out */
  let_time since;
} let__group;

typedef struct let__worker {
  let_fleet_worker_state state;
  let_worker_id id;
  bool spare;
  bool alive;     /* STARTED came, EXITED did not */
  bool leaving;   /* it was to go: its exit is no loss */
  bool announced; /* the action that its state stands for was handed out: SPAWN, SEND_STOP or KILL */
  uint64_t key;   /* of the device; 0: belongs to one group alone */
  uint32_t device;
  unsigned losses;
  unsigned building; /* losses under the change under way, with a group of it inside */
  let_time at;    /* BACKOFF: start then; STOPPING: kill then; READY: ask it to prepare no earlier; else: since when */
  let_time heard; /* when it last said something */
  let_lane_set_id stale; /* what it had prepared as a spare; 0: nothing, or told to retire it */
  uint64_t starts;
  char why[200]; /* last words */
} let__worker;

typedef struct let__spare {
  let_fleet_spare_state state;
  let_worker_id worker; /* LET_ID_NONE: none */
  uint64_t target;      /* serial of the group that it was asked to prepare */
  let_lane_set_id set, old, opening;
  unsigned failures;
  let_time retry_at;
} let__spare;

typedef struct let__change {
  let_fleet_change_state state;
  let_plan_generation generation;
  let_time began;
  bool announce;           /* PLAN_SERVES is due */
  bool cut_short, applied; /* PLAN_ENDED is due although the change had not come to its end */
  let_dur took;
  char why[LET_FLEET_WHY_MAX];
} let__change;

/* Actions on a lane set that were decided and not yet handed out. */
typedef struct let__todo {
  let_fleet_action_kind kind; /* SEND_RETIRE, RECLAIM, CLOSE_LANES, OUTPUT_ROW */
  let_worker_id worker;
  let_group_id group;
  let_lane_set_id set;
} let__todo;

enum { LET__REPORTS = 256 };

struct let_fleet {
  const let_mem *mem;
  size_t bytes;
  let_fleet_options o;
  uint32_t n_workers;
  let__group *group;
  let__worker *worker;
  let__spare *spare; /* by device */
  struct {
    bool used;
    let_group_id group;
    uint32_t lane;
  } * where; /* by gpu-let number */

  let__change change;
  let_plan_generation generation; /* newest accepted */
  let_lane_set_id sets;           /* newest given out */
  uint64_t serials;
  bool serving, draining, stopping, helper_away;
  uint64_t restarts;
  char helper[96];

  let_dur *slo, *next_slo; /* by model */
  uint32_t *rows;          /* by model: most rows seen in a request */
  let_dur *took;           /* by model: to prepare it, last time */
  uint64_t *row_bytes;     /* by model: of its outputs, as a worker said; 0: told, or unknown */
  bool rows_due;           /* some of them are to be told */

  let__todo *todo; /* a ring */
  uint32_t todo_cap, todo_first, todo_n;
  let_fleet_report *report; /* a ring; the oldest is dropped when it is full */
  uint32_t report_first, report_n;
  let_fleet_report reported; /* being handed out */
  char late[128];

  bool routes_due;   /* something is ready that routing does not name */
  let_arena scratch; /* of the last action */
  let_fleet_prepare prepare;
  let_fleet_routes routes;

  let_time watched;    /* when the workers' silence was last looked at */
  bool again;          /* something changed without an action: decide once more */
  bool settled;        /* nothing to do before |wake| unless an event comes */
  let_time wake;       /* valid while settled */
  let_time look_at;    /* when it is to be looked at again at the latest */
  let_time silence_at; /* no worker's silence ends earlier; valid while settled */
};

/* tables.c */
static inline let__worker *let__worker_at(const let_fleet *f, let_worker_id id) {
  return id.n < f->n_workers ? &f->worker[id.n] : NULL;
}

/* A model's SLO where no plan names one; 0: none. */
static inline let_dur let__slo_configured(const let_fleet *f, uint32_t model) {
  return f->o.model[model].slo ? f->o.model[model].slo : f->o.default_slo;
}

let__group *let__group_of(const let_fleet *f, let_worker_id w, const let__group *after); /* next one in that worker */
let__group *let__group_named(const let_fleet *f, let_worker_id w, let_lane_set_id set);
let__group *let__group_free_slot(let_fleet *f);
let__worker *let__worker_slot(let_fleet *f); /* an unused one; NULL: none */
let_dur let__restart_wait(unsigned losses);  /* how long to wait after so many */

/* outbox.c */
void let__later(let_fleet *f, let_fleet_action_kind kind, let_worker_id w, let_group_id g, let_lane_set_id set);
let_fleet_report *let__report(let_fleet *f, let_fleet_report_kind kind); /* zeroed, to be filled in */
let_fleet_action let__action(let_fleet_action_kind kind);

/* sizes.c */
void let__choose_sizes(const let_model *m, uint32_t batch, let_fleet_entry *x);
bool let__prepare(let_fleet *f, const let__group *g, let_lane_set_id set, bool beside); /* into f->prepare */
bool let__beside_others(const let_fleet *f, const let__group *g);
void let__lane_ready(let_fleet *f, let__group *g, const let_fleet_event *ev);
void let__size_ready(let_fleet *f, let__group *g, const let_fleet_event *ev);
void let__gpulet_bring_up(let_fleet *f, let__group *g, let_fleet_gpulet *l);
bool let__gpulet_whole(const let_fleet_gpulet *l); /* the planned size of each of its models is ready */
void let__sizes_forget(let__group *g);

/* group.c */
void let__group_lost(let_fleet *f, let__group *g);   /* nothing of it runs any more; its lanes go */
void let__group_forget(let_fleet *f, let__group *g); /* its memory and numbers; the slot is free */

/* plan_change.c */
void let__wanted_restore(let_fleet *f); /* to what is routed */
void let__roll_back(let_fleet *f, const char *why);
void let__switched(let_fleet *f, let_time now);
void let__change_cut_short(let_fleet *f);                                   /* the server leaves */
bool let__change_step(let_fleet *f, let_time now, let_fleet_action *a);     /* the switch */
bool let__change_end_step(let_fleet *f, let_time now, let_fleet_action *a); /* its outcome */

/* group_step.c */
void let__group_failed(let_fleet *f, let__group *g, const char *why, let_time now);
bool let__group_step(let_fleet *f, let__group *g, let_time now, let_fleet_action *a);

/* deploy.c */
typedef struct let__part { /* of a plan: what becomes one group */
  const let_plan_gpu *gpu;
  uint32_t device, from, n;
  uint64_t key, worker;
} let__part;
let_err let__plan_parts(let_fleet *f, let_plan *p, let_arena *a, let__part **ret, uint32_t *ret_n, let_error *e);
let_err let__group_fill(let_fleet *f, let__group *g, const let__part *x, let_error *e);
void let__group_renew(let__group *g, const let__part *x);
uint32_t let__model_named(const let_fleet *f, const char *name);

/* spare.c */
bool let__spare_wanted(const let_fleet *f, uint32_t device);
void let__spare_heard(let_fleet *f, let__worker *w, const let_fleet_event *ev);
void let__spare_lost(let_fleet *f, let__worker *w, let_time now);
bool let__spare_lanes_failed(let_fleet *f, let_lane_set_id set, const char *why);
bool let__spare_take(let_fleet *f, let__worker *w, const let__group *g, let_time now);
void let__spare_settled(let_fleet *f, let__worker *w);
bool let__spare_step(let_fleet *f, uint32_t device, let_time now, let_fleet_action *a);
let_time let__spare_wake(const let_fleet *f);
const let__group *let__spare_target(const let_fleet *f, uint32_t device); /* what serves there; NULL: nothing does */

/* worker.c */
let__worker *let__worker_for(let_fleet *f, uint64_t key, uint32_t device); /* the owner with |key|, or a new one */
void let__worker_kill(let_fleet *f, let__worker *w, const char *why, let_time now);
void let__worker_lost(let_fleet *f, let__worker *w, const char *why, let_time now); /* it has no process any more */
void let__worker_exited(let_fleet *f, let__worker *w, const char *how, int pid, let_time now);
void let__worker_stop_all(let_fleet *f, bool at_once, let_time now);
bool let__worker_step(let_fleet *f, let__worker *w, let_time now, let_fleet_action *a);

/* routes.c */
bool let__routes(let_fleet *f, bool change); /* into f->routes; false: out of memory */

/* watch.c */
bool let__late_step(let_fleet *f, let__worker *w, let_time now); /* true: something changed */
void let__watch(let_fleet *f, let_time now);
void let__settle(let_fleet *f);

#endif
