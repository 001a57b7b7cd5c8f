/* serve_int.h: the server's insides, shared by the files of serve/. Everything runs on the loop's thread. */
#ifndef LET_SERVE_INT_H
#define LET_SERVE_INT_H

#include <jansson.h>
#include <uv.h>

#include "apply/apply.h"
#include "core/core.h"
#include "front/front.h"
#include "ipc/conversation.h"
#include "obs/metrics.h"
#include "obs/stages.h"
#include "ring/ring.h"
#include "serve/serve.h"

enum {
  SERVE_GROUPS = 128,
  SERVE_GPULETS = 1024,
  SERVE_ENV_MAX = 8,
  SERVE_SPARES = 64,
  SERVE_WORKERS = SERVE_GROUPS + SERVE_SPARES
};

/* One model in one gpu-let. */
typedef struct place {
  uint32_t model;             /* server's index */
  uint32_t batch, next_batch; /* rows to aim for, now and after the switch under way */
  double rate, next_rate;
  uint32_t n_sizes; /* wanted; ready ones take batches */
  uint32_t size[LET_SIZES_MAX];
  bool ready[LET_SIZES_MAX], failed[LET_SIZES_MAX];
  bool beside[LET_SIZES_MAX]; /* predict[] was measured beside traffic */
  char why[200];              /* of the last that failed */
  let_dur slo;                /* the plan's; 0: it names none */
  let_dur planned;            /* predicted by the plan for |batch|; 0: take what the worker measures */
  let_dur predict[LET_SIZES_MAX];
  uint64_t memory_bytes;
  bool eager; /* could not be captured, runs without a graph */
} place;

typedef struct gpulet {
  uint32_t number; /* in the core */
  uint32_t first, granules;
  bool shared, declared; /* declared: the core knows it */
  bool up;               /* the worker has its lane ready */
  uint32_t n_places;
  place *place;
  let_dur busy; /* time spent in batches since the group began to serve */
  uint64_t batches;
} gpulet;

/* What one worker serves through one set of lanes; slots are apply's. */
typedef struct group {
  bool used;
  uint64_t generation; /* that made it */
  let_lane_set_id set; /* its lanes, for its worker; 0: not asked for yet */
  uint32_t device, n_gpulets;
  gpulet *gpulet;
  let_lanes *lanes; /* NULL while its worker is away */
  bool armed;       /* its workers signal what has ended: the server may sleep */
  uint32_t batches; /* on its lanes */
  uv_poll_t *poll;
  let_time since; /* serving since, for busy fractions */
  bool grows;     /* some of its sizes are on their way */
  struct server *server;
} group;

typedef struct worker {
  uint32_t device;
  uint64_t starts; /* processes started in this slot so far */
  bool alive, ready;
  bool waits; /* to be started once the helper is back */
  uv_process_t *process;
  uv_poll_t *poll;
  int control;      /* -1: closed */
  let_time stop_by; /* after STOP: killed when still there */
  let_time heard;   /* when it last said something */
  bool killed;      /* its exit is on the way */
  char why[200];    /* last words */
  bool distrusted;  /* it said what it may not say: nothing that it says is believed any more */
  let_ipc_conversation *conversation;
  let_ipc_health health; /* the last; in |health_arena| */
  let_arena health_arena;
  bool has_health;
  let_lane_set_id leftover; /* what it had prepared as a spare; 0: nothing, or told to retire it */
  struct server *server;
} worker;

typedef struct spare { /* spare.c; its process has the slot SERVE_GROUPS + device */
  uint32_t group;      /* that it was asked to prepare, and which one of that slot */
  uint64_t generation;
  let_lane_set_id set, old; /* what it prepares, and what it is to retire then; 0: none */
  let_lanes *lanes, *old_lanes;
  bool warm;
  unsigned failures;
  let_time retry_at;
} spare;

typedef struct change { /* the plan being applied */
  bool under_way;
  let_arena arena;
  let_plan *plan;
  void *call; /* front's, waiting for the outcome of PUT /v2/gpulet/plan; or NULL */
  let_time began;
} change;

typedef struct server {
  const let_serve_options *o;
  const let_model *given; /* as the repository has them */
  let_model *model;       /* copies; slo is the one in force: the plan's, else |given|'s, else --default-slo; 0: none */
  uint32_t n_models;
  const let_serve_device *device;
  uint32_t n_devices;
  const let_serve_planner *planner;
  uv_loop_t loop;
  uv_prepare_t prepare;
  uv_check_t check;
  uv_signal_t signal[4];
  uv_poll_t timer;
  int timer_fd;
  let_time timer_at;
  let_front *front;
  let_ring_arena *arena;
  let_core *core;
  let_apply *apply;

  let_request *request;       /* the pool */
  uint32_t n_requests, fresh; /* those from |fresh| on were never used */
  let_request *idle;
  uint32_t in_flight;
  uint64_t next_id;

  struct {                     /* turn.c */
    uint32_t events;           /* since the last decision */
    let_time since;            /* the last decision, or when the loop woke up after it; 0: it may have slept */
    bool stale;                /* the core was told something since */
    bool answering;            /* further down the stack */
    let_request *first, *last; /* ended, in this order; not answered yet */
    let_hist gap;              /* time between decisions, less sleep */
    let_hist lag;              /* from the end of a batch on the device to when it was noticed here */
  } turn;

  let_model_metrics *metrics;
  let_stages *stages;
  uint64_t *out_bytes; /* per model: bytes of an output slot per row; grows when a worker says so */
  uint32_t *rows;      /* per model: most rows seen in a request */
  let_dur *took;       /* per model: to prepare it, last time; 0: not known */

  group group[SERVE_GROUPS];
  worker worker[SERVE_WORKERS];
  spare spare[SERVE_SPARES]; /* by device */
  let_lane_set_id newest_set;
  struct { /* by the core's gpu-let number */
    bool used;
    uint32_t group, lane;
  } where[SERVE_GPULETS];

  uint64_t generation; /* newest asked for */
  let_arena plan_arena;
  let_plan *plan; /* being served */
  let_time plan_since;
  let_dur plan_took; /* from asking to the switch */
  change change;
  uv_work_t replan; /* SIGHUP: plans are made beside the loop */
  let_arena replan_arena;
  let_plan *replan_plan;
  let_err replan_result;
  let_error replan_error;
  bool replanning, replan_again; /* again: another SIGHUP came meanwhile */
  bool serving;                  /* a first plan is up */
  bool draining, stopping;       /* draining: no new requests; stopping: workers are told to go */
  let_time exit_by, began;
  bool failed;
  let_error error; /* why, when the server has to give up */
  uint64_t worker_restarts;
  let_time watched;  /* when the workers' silence was last looked at */
  let_dur watchdog;  /* what the workers allow a batch at least */
  struct {           /* helper.c */
    uv_poll_t *poll; /* NULL: away */
    uv_timer_t *retry;
    uv_work_t work;
    bool busy; /* restart() runs */
    unsigned failures;
    let_error error;
  } helper;
} server;

let_time serve_now(void);

/* infer.c: the road of a request */
void serve_front_interface(server *s, let_front_i *ret);
void serve_submit(server *s, const let_action *a, let_time now);
void serve_refuse(server *s, let_request *r, let_err why,
                  const char *text);               /* |text| NULL: r->why has it, or nothing */
void serve_take_done(server *s);                   /* whatever batches have ended by now */
bool serve_arm_lanes(server *s);                   /* before sleep; true: more has ended, decide first */
void serve_group_done_events(server *s, group *g); /* completions of one group's lanes, and what follows from them */
void serve_group_lost(server *s, group *g);        /* nothing of it runs any more: give its batches back to the core */
void serve_worker_doomed(server *s, uint32_t worker); /* route nothing more to it */

/* turn.c: when the core decides, and when answers are written */
void serve_turn(void *server);                      /* let_front_i.turn */
void serve_pump(server *s);                         /* decide and answer, until neither leads to the other */
void serve_answer_later(server *s, let_request *r); /* it has ended; once for each request */
void serve_before_sleep(uv_prepare_t *prepare);

/* fleet.c: workers */
void serve_fleet_step(server *s);                /* carry out what apply decides */
void serve_fleet_tick(server *s, let_time now);  /* kill what did not obey, forget what is gone */
void serve_fleet_watch(server *s, let_time now); /* kill what hangs; only after all that they said was read */
let_time serve_fleet_wake(const server *s);
void serve_fleet_kill(server *s, uint32_t worker, const char *why);
void serve_worker_control(uv_poll_t *poll, int status, int events);

void serve_fleet_start_waiting(server *s); /* the helper is back */

let_err serve_worker_start(server *s, uint32_t worker, let_error *e); /* the process, and `init` */
void serve_worker_say(server *s, uint32_t worker, const let_ipc_command *m, const int *fds, uint32_t n_fds);
void serve_worker_retire(server *s, uint32_t worker, let_lane_set_id set); /* if it has it */
let_err serve_worker_prepare(server *s, uint32_t worker, const let_ipc_command *m, const let_lanes *lanes,
                             let_error *e); /* an error: it cannot be said; |worker| was not told */

/* spare.c */
void serve_spare_step(server *s, let_time now);
let_time serve_spare_wake(const server *s);
void serve_spare_heard(server *s, uint32_t worker, const let_ipc_event *m);
void serve_spare_lost(server *s, uint32_t worker, let_time now);
bool serve_spare_take(server *s, uint32_t worker,
                      uint32_t group); /* the spare, prepared for |group|, is |worker| now; false: there is none */
void serve_spare_settled(server *s, uint32_t worker);        /* its group serves: what it had as a spare can go */
bool serve_spare_prepared(const server *s, uint32_t device); /* for what serves there now */
void serve_spare_close(server *s);

/* helper.c: the process that some workers depend on */
let_err serve_helper_open(server *s, let_error *e);
bool serve_helper_away(const server *s);
void serve_helper_close(server *s); /* the loop runs once more afterwards */

/* routes.c: the routing table of the generation that serves, or with |next| of the one that takes over */
let_err serve_routes_set(server *s, bool next, let_time now, let_error *e);

/* grow.c: what is prepared so far */
void serve_choose_sizes(const let_model *m, uint32_t batch, place *p);
let_err serve_prepare_message(const server *s, uint32_t group, let_arena *a, let_ipc_command *ret,
                              let_error *e); /* without the set; in |a| */
void serve_lane_ready(server *s, uint32_t group, const let_ipc_lane_up *m);
void serve_size_ready(server *s, uint32_t group, const let_ipc_size *m);
void serve_group_up(server *s, uint32_t group);   /* all of it takes batches */
void serve_group_down(server *s, uint32_t group); /* none of it does, nothing of it is ready */
typedef struct sizes_count {
  uint32_t wanted, ready, failed;
} sizes_count;
sizes_count serve_group_sizes(const server *s, uint32_t group);
bool serve_worker_grows(const server *s, uint32_t worker);
/* A sentence about batch sizes that could not be prepared, into |out|, when |rows| rows fit the model but none that is
 * ready. */
bool serve_why_too_wide(const server *s, uint32_t model, uint32_t rows, char *out, size_t cap);

/* plan.c: generations */
let_dur serve_slo_configured(const server *s, uint32_t model); /* where no plan names one; 0: none */
let_err serve_plan_begin(server *s, let_arena *arena, let_plan *plan, void *call,
                         let_error *e); /* takes arena on success */
let_err serve_plan_first(server *s, let_error *e);
void serve_plan_reload(server *s); /* beside the loop; a failure is logged and changes nothing */
void serve_plan_switch(server *s);
void serve_plan_ended(server *s, bool ok, const char *why);
void serve_group_free(server *s, uint32_t group);
uint32_t serve_device_of(const server *s, const let_plan_gpu *gpu);

/* admin.c: everything that is not inference */
int serve_extra(void *ctx, let_str method, let_str path, let_str body, let_buf *out, const char **type, void *call);

#endif
