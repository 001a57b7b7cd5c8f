/* planning.h: plans come from the planner (at start and on SIGHUP) or a client's PUT; their outcomes are reported. */
#ifndef LET_SERVE_PLANNING_H
#define LET_SERVE_PLANNING_H

#include <uv.h>

#include "fleet/view.h"
#include "serve/serve.h"

typedef struct plan_outcome {
  void *call; /* the client's call that waits for the outcome; NULL: none does */
  bool ok;
  char why[LET_FLEET_WHY_MAX];
} plan_outcome;

typedef struct planning {
  uv_loop_t *loop;
  let_fleet *fleet;
  const let_serve_planner *planner;
  let_time (*now)(void);

  let_arena arena;
  let_plan *plan; /* that serves; NULL: none yet */

  bool under_way; /* another one was offered */
  let_arena next_arena;
  let_plan *next;
  bool ended; /* and its outcome is known */
  plan_outcome outcome;

  uv_work_t work; /* plans are made beside the loop */
  let_arena made_arena;
  let_plan *made;
  let_err result;
  let_error error;
  bool busy, again; /* again: asked for once more meanwhile */
  bool leaving;     /* a plan that is still being made comes too late */
} planning;

void serve_planning_open(planning *p); /* the first four fields are set */
void serve_planning_close(planning *p);

/* Offers a plan to the fleet. Takes |arena|, in which it lies, and |call| on success. Errors: let_fleet_offer's. */
LET_CHECKED let_err serve_plan_offer(planning *p, let_arena *arena, let_plan *plan, void *call, let_error *e);
LET_CHECKED let_err serve_plan_first(planning *p, let_error *e);
void serve_plan_again(planning *p); /* on SIGHUP; a failure is logged and changes nothing */

void serve_plan_serves(planning *p, let_dur prepared, let_dur switched); /* LET_FLEET_PLAN_SERVES */
void serve_plan_ended(planning *p, bool ok, const char *why);            /* LET_FLEET_PLAN_ENDED */
bool serve_plan_outcome(planning *p, plan_outcome *ret); /* once for each plan; false: there is none now */
void serve_plan_outcome_text(const planning *p, const plan_outcome *o, let_buf *out); /* JSON */

#endif
