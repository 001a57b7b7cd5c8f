/* serve_plan.h: where `gpulet serve` takes its plans from: --plan, or --workload with --profile, or neither. */
#ifndef LET_CMD_SERVE_PLAN_H
#define LET_CMD_SERVE_PLAN_H

#include "plan/plan.h"
#include "serve/serve.h"

typedef struct let_serve_planning {
  const char *plan;       /* a file; wins when given */
  const char *workload;   /* NULL: the default plan */
  const char *profiles;   /* "DIR[,DIR...]" */
  const char *repository; /* for messages */
  const let_policy *policy;
  let_dur time_limit;
  const let_model *models;
  uint32_t n_models;
  const let_serve_device *devices;
  uint32_t n_devices;
  let_dur default_slo;
  let_buf last; /* the last plan made, as JSON: the next one changes as little of it as it must */
} let_serve_planning;

/* let_serve_planner.make: reads its files anew at each call. Called by one thread at a time. Errors: whatever is wrong
 * with a file; INVALID with the planner's reasons when the workload does not fit the devices. */
LET_CHECKED let_err let_serve_planning_make(void *planning, let_arena *a, let_plan *ret, let_error *e);

#endif
