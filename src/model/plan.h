/* plan.h: devices -> gpu-lets -> (model, batch, rate). The only thing the decision flow hands to the request
 * flow. All arrays live in the arena that made the plan. */
#ifndef LET_MODEL_PLAN_H
#define LET_MODEL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/time.h"
#include "model/model.h"

/* One model in one gpu-let. */
typedef struct let_plan_entry {
  char name[LET_NAME_MAX];
  uint32_t batch;  /* the batch size to aim for */
  double rate;     /* requests/s it is meant to take here; 0: not known */
  let_dur latency; /* predicted time of one batch, interference included; 0: not known, measured at load */
  let_dur slo;
} let_plan_entry;

typedef struct let_plan_gpulet {
  uint32_t first;    /* first granule; UINT32_MAX: not placed yet, let_plan_place chooses */
  uint32_t granules; /* how many; all of the device's with |shared| */
  bool shared;       /* overlaps its neighbours: plain streams, no partition (policy `shared`) */
  uint32_t n_entries;
  let_plan_entry *entry;
} let_plan_gpulet;

typedef struct let_plan_gpu {
  uint32_t id;       /* device number of the inventory */
  char type[64];     /* device type */
  uint32_t granules; /* of the whole device; 0: a file that does not say */
  uint32_t n_gpulets;
  let_plan_gpulet *gpulet;
} let_plan_gpu;

typedef struct let_plan {
  char policy[32];
  bool feasible;
  uint32_t gpus_used;
  double lower_bound; /* certified least number of GPUs (of cost, where types differ); 0: none computed */
  double cost;        /* of the devices used */
  double time_ms;     /* spent planning */
  uint32_t n_reasons;
  char **reason; /* sentences: why infeasible, what would help, what was assumed */
  uint32_t n_gpus;
  let_plan_gpu *gpu;
  uint64_t generation; /* given by serve when it takes the plan; 0 before */
} let_plan;

/* Structural sanity only (shares fit the device, names and batches present, no overlap unless shared), so that
 * serve can trust a plan from a file. Errors: INVALID naming gpu, gpu-let and field. */
LET_CHECKED let_err let_plan_validate(const let_plan *p, let_error *e);

/* Gives every gpu-let without a place a contiguous run of granules. The devices' granules must be known. Errors:
 * INVALID when they do not fit. */
LET_CHECKED let_err let_plan_place(let_plan *p, let_error *e);

/* What to plan for. */
typedef struct let_demand {
  char name[LET_NAME_MAX];
  double rate; /* requests/s; 0 is legal: the model must be loaded nowhere */
  let_dur slo;
} let_demand;

typedef struct let_workload {
  uint32_t n;
  let_demand *demand;
} let_workload;

#endif
