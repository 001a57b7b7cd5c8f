/* ids.h: numbers that name different things have different types, so that a mix-up does not compile. Each is a struct
 * of one field; compare the field, pass the struct. */
#ifndef LET_MODEL_IDS_H
#define LET_MODEL_IDS_H

#include <stdbool.h>
#include <stdint.h>

/* A group's slot in the fleet. Slots are used again. */
typedef struct let_group_id {
  uint32_t n;
} let_group_id;

/* The core's number of a gpu-let. Numbers are used again once the core has forgotten the gpu-let. */
typedef struct let_gpulet_id {
  uint32_t n;
} let_gpulet_id;

/* A batch that the core has submitted and that has not come back. Never used again; 0 names none. */
typedef struct let_batch_id {
  uint64_t n;
} let_batch_id;

/* A worker's slot in the fleet; a process that is started again keeps it. */
typedef struct let_worker_id {
  uint32_t n;
} let_worker_id;

/* What a worker prepares, serves and retires in one piece: the lanes of one group. Counted from 1, never used again
 * within one worker's conversation; 0 names none. */
typedef struct let_lane_set_id {
  uint64_t n;
} let_lane_set_id;

/* The version of the plan, and nothing else. 0: no plan. */
typedef struct let_plan_generation {
  uint64_t n;
} let_plan_generation;

#define LET_ID_NONE UINT32_MAX /* of a group, gpu-let or worker */

static inline bool let_group_id_eq(let_group_id a, let_group_id b) { return a.n == b.n; }
static inline bool let_gpulet_id_eq(let_gpulet_id a, let_gpulet_id b) { return a.n == b.n; }
static inline bool let_batch_id_eq(let_batch_id a, let_batch_id b) { return a.n == b.n; }
static inline bool let_worker_id_eq(let_worker_id a, let_worker_id b) { return a.n == b.n; }
static inline bool let_lane_set_id_eq(let_lane_set_id a, let_lane_set_id b) { return a.n == b.n; }
static inline bool let_plan_generation_eq(let_plan_generation a, let_plan_generation b) { return a.n == b.n; }

#endif
