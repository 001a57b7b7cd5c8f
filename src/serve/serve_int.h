/* serve_int.h: the server's insides. Everything runs on the loop's thread. The file that sees an event tells the fleet
 * (let_fleet_handle); perform.c takes the fleet's actions (let_fleet_next). So no file needs a file that needs it
 * (cmake/circles). Lowest first:
 *   lanes, control, planning, mps_watch, process    see let_fleet and not the server
 *   infer, report                                   the way of a request; log lines
 *   perform                                         the fleet's actions
 *   turn, admin, server                             when the core decides; operators' pages; start, loop, end */
#ifndef LET_SERVE_INT_H
#define LET_SERVE_INT_H

#include <jansson.h>
#include <uv.h>

#include "core/core.h"
#include "fleet/view.h"
#include "front/front.h"
#include "lanes.h"
#include "mps_watch.h"
#include "obs/metrics.h"
#include "obs/stages.h"
#include "planning.h"
#include "process.h"
#include "ring/ring.h"
#include "serve/serve.h"

enum { SERVE_GROUPS = 128 };

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
  let_fleet *fleet;
  let_fleet_device *fleet_device; /* the devices in the fleet's words */
  process_table processes;
  lane_table lanes;

  let_request *request;       /* the pool */
  uint32_t n_requests, fresh; /* those from |fresh| on were never used */
  let_request *idle;
  uint32_t in_flight;
  uint64_t next_id;
  let_request *first_ended, *last_ended; /* in this order; not answered yet */

  struct {           /* turn.c */
    uint32_t events; /* since the last decision */
    let_time since;  /* the last decision, or when the loop woke up after it; 0: it may have slept */
    bool stale;      /* the core was told something since */
    bool answering;  /* further down the stack */
    let_hist gap;    /* time between decisions, less sleep */
    let_hist lag;    /* from the end of a batch on the device to when it was noticed here */
  } turn;

  let_model_metrics *metrics;
  let_stages *stages;
  uint64_t *out_bytes; /* per model: bytes of an output slot per row; grows when a worker says so */
  uint32_t *rows;      /* per model: most rows seen in a request */

  planning planning;
  mps_watch mps_watch;
  let_dur switch_took;     /* the last SET_ROUTES for another plan */
  bool draining, stopping; /* draining: no new requests; stopping: workers are told to go */
  let_time exit_by, began;
  bool failed;
  let_error error; /* why the server gives up */
} server;

static inline let_time serve_now(void) { return (let_time)uv_hrtime(); } /* CLOCK_MONOTONIC, the workers' clock too */

static inline void serve_tell(server *s, let_fleet_event ev) { let_fleet_handle(s->fleet, &ev, serve_now()); }

/* infer.c: the way of a request */
void serve_front_interface(server *s, let_front_i *ret); /* all but turn() and control() */
void serve_submit(server *s, const let_action *a, let_time now);
void serve_refuse(server *s, let_request *r, let_err why,
                  const char *text);                      /* |text| NULL: r->why has it, or nothing */
void serve_take_done(server *s);                          /* whatever batches have ended by now */
void serve_take_done_of(server *s, lane_set *x);          /* the same, of one set, which may sleep again */
bool serve_arm_lanes(server *s);                          /* before sleep; true: more has ended, decide first */
void serve_reclaim(server *s, const let_fleet_action *a); /* LET_FLEET_RECLAIM */

/* perform.c: the fleet's actions. Never calls the front. */
void serve_perform(server *s);
/* What only looking tells the fleet: groups that have drained, workers that are silent. */
void serve_look(server *s);

/* turn.c: when the core decides, and when answers are written */
void serve_turn(void *server); /* let_front_i.turn */
void serve_pump(server *s);    /* decide and answer, until neither leads to the other */
void serve_lanes_done(void *server, lane_set *x);
void serve_before_sleep(uv_prepare_t *prepare);

/* report.c */
void serve_report(const server *s, const let_fleet_report *r);

/* admin.c: everything that is not inference */
int serve_admin(void *ctx, let_str method, let_str path, let_str body, let_buf *out, const char **type, void *call);

#endif
