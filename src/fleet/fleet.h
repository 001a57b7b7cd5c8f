/* fleet.h: which worker processes run, what each of them prepares, and where requests go. Pure: events in, actions
 * out; no clock, no socket, no process. serve/ carries the actions out and reports their outcomes.
 *
 * A *group* is what one worker serves through one set of lanes: a device's whole content, or one gpu-let where a device
 * has a worker for each (`worker_per_gpulet`). A plan becomes a set of groups; a group of the new plan whose content
 * serves already is kept as it is. A worker is told of a group by a *lane set*, a number that is never used again.
 *
 * Plan change: a transaction. Workers are started and the new groups are prepared beside the old ones; when the last
 * one is prepared, SET_ROUTES moves all traffic in one step; then the old groups are drained and retired. A failure
 * before the switch releases the new groups and leaves the old plan serving.
 *
 *     IDLE -offer-> BUILDING -all prepared-> SWITCHING -ROUTES_SET-> DRAINING -nothing leaves any more-> IDLE (applied)
 *                      |                        | ROUTES_REFUSED
 *                      +----- a failure --------+--> ROLLBACK -nothing leaves any more-> IDLE (rolled back)
 *
 * Group:
 *
 *     WAITING -SEND_PREPARE-> PREPARING -PREPARED-> PREPARED -the switch; at once if it was routed to before-> SERVING
 *     SERVING -the switch to a plan without it-> DRAINING -GROUP_DRAINED-> DRAINED -SEND_RETIRE-> RETIRING
 *     RETIRING -RETIRED-> RELEASING -its lanes are closed, its gpu-lets removed-> NONE
 *   and otherwise:
 *     WAITING, PREPARING, PREPARED, SERVING -its worker exits-> WAITING
 *     PREPARING -FAILED-> WAITING if it is routed to; else RELEASING, and the change is rolled back
 *     a change is rolled back: WAITING -> RELEASING; PREPARING, PREPARED -> DRAINED
 *     DRAINING, DRAINED, RETIRING -its worker exits, or FAILED-> RELEASING
 *
 * Worker:
 *
 *     BACKOFF -SPAWN-> STARTING -READY-> READY -SEND_STOP, no group needs it-> STOPPING -EXITED-> NONE
 *   and otherwise:
 *     BACKOFF -the helper is away-> HELD -HELPER_BACK, SPAWN-> STARTING
 *     STARTING, READY -EXITED-> BACKOFF
 *     STARTING, READY, STOPPING -broken, late or silent: KILL-> KILLED -EXITED-> BACKOFF, or NONE if it was to go
 *
 * Batch size of a model on a gpu-let: wanted -> ready, or failed; wanted again when its worker is lost. A gpu-let is up
 * once the planned batch size of each of its models is ready; a group whose other sizes are to come is *warming*.
 *
 * Spare (one for a device whose gpu-lets share a worker, with |spare|): a second worker that has prepared what serves
 * there, on lanes that carry no batch. When the first is lost, the spare takes over.
 *
 *     NONE -SPAWN-> STARTING -READY-> IDLE -OPEN_LANES-> OPENING -SEND_PREPARE-> PREPARING -PREPARED-> WARM
 *   and otherwise:
 *     OPENING -LANES_FAILED-> REFUSED; PREPARING -FAILED-> REFUSED
 *     PREPARING, WARM, REFUSED -other content serves: OPEN_LANES-> OPENING
 *     WARM -the worker is lost: it takes over-> NONE; any -EXITED-> NONE, again after a while */
#ifndef LET_FLEET_FLEET_H
#define LET_FLEET_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "model/ids.h"
#include "model/model.h"
#include "model/plan.h"
#include "model/profile.h"

enum { LET_FLEET_WHY_MAX = 320 }; /* bytes of a sentence for a person, terminator included */

typedef struct let_fleet let_fleet;

/* A device that plans may use. */
typedef struct let_fleet_device {
  const char *name;
  const let_device_type *type;
  uint32_t depth;         /* batches in flight per gpu-let */
  bool worker_per_gpulet; /* a worker for each gpu-let, or one for the device */
  bool own_share; /* a worker's share comes with its process (MPS): it opens the whole of what it sees, and cannot
                             run while the helper is away */
} let_fleet_device;

typedef struct let_fleet_options {
  const let_model *model; /* borrowed, as the devices are */
  uint32_t n_models;
  const let_fleet_device *device;
  uint32_t n_devices;
  uint32_t groups, gpulets; /* at most, old and new plan together */
  let_dur watchdog;         /* what workers allow a batch at least; they report more often than that */
  let_dur prepare_timeout;  /* to start, to prepare a group, to retire one; 0: no limit */
  let_dur default_slo;      /* of models without one, in plans that name none */
  bool spare;
} let_fleet_options;

LET_CHECKED let_err let_fleet_new(const let_fleet_options *o, const let_mem *mem, let_fleet **ret, let_error *e);
void let_fleet_free(let_fleet *f); /* NULL is fine */

/* ---- events: what happened --------------------------------------------------------------------------------------- */

typedef enum let_fleet_event_kind {
  LET_FLEET_WORKER_STARTED,  /* worker: its process runs; the answer to SPAWN */
  LET_FLEET_WORKER_EXITED,   /* worker, text, pid: its process is gone, or could not be started (pid 0) */
  LET_FLEET_WORKER_BROKEN,   /* worker, text: it cannot be talked to, or talks nonsense */
  LET_FLEET_WORKER_READY,    /* worker */
  LET_FLEET_WORKER_LANE,     /* worker, set, lane, models: a lane serves */
  LET_FLEET_WORKER_PREPARED, /* worker, set */
  LET_FLEET_WORKER_SIZE,     /* worker, set, lane, model, size, memory_bytes, text: why it failed; NULL: it is ready */
  LET_FLEET_WORKER_FAILED,   /* worker, set, text */
  LET_FLEET_WORKER_RETIRED,  /* worker, set */
  LET_FLEET_WORKER_HEALTH,   /* worker: it is alive, and no more */
  LET_FLEET_WORKER_ERROR,    /* worker, text: often its last words */
  LET_FLEET_LANES_FAILED,    /* set, text: OPEN_LANES could not be carried out */
  LET_FLEET_ROUTES_SET,      /* the answer to SET_ROUTES */
  LET_FLEET_ROUTES_REFUSED,  /* text: the other one */
  LET_FLEET_GPULET_BROKEN,   /* gpulet, text: its worker cannot be used after a batch's end */
  LET_FLEET_GROUP_DRAINED,   /* group: nothing of it is on a lane any more */
  LET_FLEET_ROWS_SEEN,       /* model, rows: clients send requests of as many rows */
  LET_FLEET_HELPER_AWAY,     /* text: its name. What |own_share| workers depend on has ended */
  LET_FLEET_HELPER_BACK,
  LET_FLEET_TICK,     /* everything that workers had said before |now| was told */
  LET_FLEET_DRAIN,    /* no more plans and no more spares: the server is to leave */
  LET_FLEET_STOP_ALL, /* every worker stops; nothing is started again */
  LET_FLEET_ABANDON   /* every process is killed at once */
} let_fleet_event_kind;

typedef struct let_fleet_size_time {
  uint32_t size;
  let_dur p99; /* 0: not measured */
  bool beside; /* measured beside traffic: the least of a few runs */
} let_fleet_size_time;

typedef struct let_fleet_model_report {
  uint64_t memory_bytes, output_row_bytes; /* 0: unknown */
  bool eager;                              /* it runs without a graph */
  let_dur took;                            /* to prepare it; 0: unknown */
  uint32_t n_sizes;
  const let_fleet_size_time *size;
} let_fleet_model_report;

typedef struct let_fleet_event {
  let_fleet_event_kind kind;
  let_worker_id worker;
  let_lane_set_id set;
  let_group_id group;
  let_gpulet_id gpulet;
  int pid;
  uint32_t lane;  /* position in PREPARE */
  uint32_t model; /* SIZE: position in the lane; ROWS_SEEN: of the server */
  uint32_t rows;
  uint32_t n_models;
  const let_fleet_model_report *models;
  let_fleet_size_time size;
  uint64_t memory_bytes;
  const char *text;
} let_fleet_event;

/* Nothing in |ev| is believed: a worker or set that is not there, or that may not say this now, changes nothing. */
void let_fleet_handle(let_fleet *f, const let_fleet_event *ev, let_time now);

/* A plan is offered: the one event that is answered at once. |p| is checked against the devices and models, its free
 * gpu-lets are placed and its generation is set; it is not kept. OK: exactly one PLAN_ENDED follows (before it, if the
 * plan comes to serve, one PLAN_SERVES). Errors: AGAIN (a change is under way), INVALID, NOT_FOUND, UNSUPPORTED, NOMEM,
 * UNAVAILABLE, with a sentence; nothing was changed then. */
LET_CHECKED let_err let_fleet_offer(let_fleet *f, let_plan *p, let_time now, let_error *e);

/* ---- actions: what is to be done --------------------------------------------------------------------------------- */

typedef enum let_fleet_action_kind {
  LET_FLEET_SPAWN,        /* start a process for |worker| on |device| with |percent| of it, and send it INIT; answer at
                             once with WORKER_STARTED or WORKER_EXITED */
  LET_FLEET_SEND_PREPARE, /* worker, prepare */
  LET_FLEET_SEND_RETIRE,  /* worker, set */
  LET_FLEET_SEND_STOP,    /* worker */
  LET_FLEET_KILL,         /* worker: WORKER_EXITED must follow */
  LET_FLEET_OPEN_LANES,   /* set, n_lanes, group (none: nothing is submitted to them); LANES_FAILED when it fails */
  LET_FLEET_RECLAIM,      /* set, group: its worker is gone. Take what is finished from its lanes, give back the rest */
  LET_FLEET_CLOSE_LANES,  /* set */
  LET_FLEET_SET_ROUTES,   /* routes; answer at once with ROUTES_SET or ROUTES_REFUSED */
  LET_FLEET_GPULET_DOWN,  /* gpulet: no batch may go there */
  LET_FLEET_GPULET_UP,    /* gpulet */
  LET_FLEET_GPULET_REMOVE, /* gpulet: it is routed to by nothing, runs nothing and is gone for ever */
  LET_FLEET_OUTPUT_ROW,    /* model, bytes: of one row of its outputs */
  LET_FLEET_PLAN_SERVES,   /* generation, took: the routes are set */
  LET_FLEET_PLAN_ENDED,    /* generation, ok: it serves and what it replaced is gone, or: it was rolled back (text) */
  LET_FLEET_REPORT         /* report: for the log */
} let_fleet_action_kind;

/* One model of a lane, with the batch sizes to prepare, in this order. */
typedef struct let_fleet_variant {
  uint32_t model, n_sizes;
  uint32_t size[LET_SIZES_MAX];
  uint32_t needed; /* the lane serves once so many are prepared */
  let_dur slo;     /* above 0: and the second one too, where the first cannot keep this */
  bool planned;    /* the plan says how long the first takes */
} let_fleet_variant;

typedef struct let_fleet_lane {
  let_gpulet_id gpulet;
  uint32_t first, granules;
  bool shared;
  let_dur cost; /* how long it took before; 0: unknown */
  uint32_t n_models;
  const let_fleet_variant *model;
} let_fleet_lane;

typedef struct let_fleet_prepare {
  let_lane_set_id set;
  bool beside; /* other workers serve on this device, or prepare to */
  uint32_t n_lanes;
  const let_fleet_lane *lane;
} let_fleet_prepare;

/* A row of the routing table. */
typedef struct let_fleet_route {
  uint32_t model;
  let_gpulet_id gpulet;
  uint32_t batch, n_sizes;
  uint32_t size[LET_SIZES_MAX];
  let_dur predict[LET_SIZES_MAX];
  double rate;
} let_fleet_route;

typedef struct let_fleet_routed {
  let_gpulet_id gpulet;
  uint32_t depth;
} let_fleet_routed;

typedef struct let_fleet_routes {
  bool change; /* to the plan that was offered; else the same plan with what is ready by now */
  uint32_t n_gpulets, n_routes;
  const let_fleet_routed *gpulet;
  const let_fleet_route *route;
} let_fleet_routes;

typedef enum let_fleet_report_kind {
  LET_FLEET_REPORT_EXITED,        /* worker, pid, device, text; expected */
  LET_FLEET_REPORT_LATE,          /* worker, device, text: killed for --prepare-timeout */
  LET_FLEET_REPORT_FAILED,        /* worker, text: it cannot prepare a group */
  LET_FLEET_REPORT_SIZE_FAILED,   /* gpulet, model, number: size, text */
  LET_FLEET_REPORT_SIZES_READY,   /* device, number of |of| */
  LET_FLEET_REPORT_GPULET_BACK,   /* gpulet, device */
  LET_FLEET_REPORT_GROUP_BACK,    /* device, number of gpu-lets */
  LET_FLEET_REPORT_ROUTES_STAY,   /* text */
  LET_FLEET_REPORT_PLAN_BEGINS,   /* generation, number of groups to prepare, of: kept */
  LET_FLEET_REPORT_SPARE_READY,   /* worker, device */
  LET_FLEET_REPORT_SPARE_REFUSED, /* device, text: it cannot prepare the plan */
  LET_FLEET_REPORT_SPARE_MISSING, /* device, text: it could not be started, or has no lanes */
  LET_FLEET_REPORT_SPARE_TAKES    /* worker, device: it takes over */
} let_fleet_report_kind;

typedef struct let_fleet_report {
  let_fleet_report_kind kind;
  let_worker_id worker;
  let_gpulet_id gpulet;
  let_plan_generation generation;
  int pid;
  uint32_t device, model, number, of;
  bool expected;
  char text[LET_FLEET_WHY_MAX];
} let_fleet_report;

/* Pointers are good until the next call of any function that changes the fleet. */
typedef struct let_fleet_action {
  let_fleet_action_kind kind;
  let_worker_id worker;
  let_lane_set_id set;
  let_group_id group;
  let_gpulet_id gpulet;
  uint32_t device, n_lanes, model;
  double percent;
  uint64_t bytes;
  let_plan_generation generation;
  let_dur took;
  bool ok;
  const char *text;
  const let_fleet_prepare *prepare;
  const let_fleet_routes *routes;
  const let_fleet_report *report;
} let_fleet_action;

/* The next action; false: none before let_fleet_wake(). Call until false after every event. */
bool let_fleet_next(let_fleet *f, let_time now, let_fleet_action *ret);
let_time let_fleet_wake(const let_fleet *f);

/* ---- state, for routing and for people: fleet/view.h ------------------------------------------------------------- */

bool let_fleet_validate(const let_fleet *f, let_error *e); /* every invariant; O(everything), for tests */
void let_fleet_dump(const let_fleet *f, let_buf *out);     /* JSON */

#endif
