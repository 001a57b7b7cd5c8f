/* plan.h: the planner: (profiles, workload, devices, running plan) -> plan. Pure: no clock (a deadline callback is
 * an argument), no files. One policy per file behind let_policy; plan/check judges every plan without knowing how
 * it was made. design.md section 5. */
#ifndef LET_PLAN_PLAN_H
#define LET_PLAN_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/time.h"
#include "model/plan.h"
#include "model/profile.h"

/* Devices of one type that may be used. */
typedef struct let_plan_pool {
  const let_profile *profile; /* of this type */
  uint32_t count;
  uint32_t first_id; /* inventory number of the first: ids are first_id .. first_id + count - 1 */
} let_plan_pool;

typedef struct let_plan_input {
  const let_workload *workload;
  const let_plan_pool *pool;
  uint32_t n_pools;
  const let_plan *running; /* the current plan, or NULL: `optimal` changes as little of it as it must */
  uint32_t max_batch;      /* 0: as profiled */
  double headroom;         /* planned rate = rate * (1 + headroom); 0 plans exactly */
  uint32_t effort; /* 0: what a server can wait for; every step up lets `optimal` seek a smaller plan and a better bound
                      four times as long */
  /* The time limit: called now and then; true: stop improving and return what there is. May be NULL. */
  bool (*expired)(void *ctx);
  void *expired_ctx;
  double (*now_ms)(void *ctx); /* for let_plan.time_ms; NULL: 0 */
} let_plan_input;

typedef struct let_policy {
  const char *name;    /* "optimal" */
  const char *summary; /* one line for --help */
  /* Fills |ret| from |arena|. An infeasible workload is not an error: feasible = false and reasons. Errors: INVALID
   * (unknown model, no profile cell), NOMEM. */
  let_err (*make)(const let_plan_input *in, let_arena *arena, let_plan *ret, let_error *e);
  bool promises; /* false for `shared`: its plans promise no latency */
} let_policy;

const let_policy *const *let_policies(uint32_t *ret_n);
const let_policy *let_policy_find(const char *name); /* NULL: unknown */

/* The planned rate: the largest multiple of the workload's rates that |policy| has a plan for on these devices, by
 * bisection to 1 %, and that plan. Where feasibility has islands above the first gap, what the bisection meets counts.
 * Errors: INVALID (all rates are 0; nothing fits, or everything), and what the policy says. */
LET_CHECKED let_err let_plan_max_rate(const let_policy *policy, const let_plan_input *in, let_arena *arena,
                                      double *ret_multiple, let_plan *ret, let_error *e);

/* The independent judge: SLO feasibility of every (gpu-let, model), rate coverage, SM budget, memory, bandwidth.
 * OK, or INVALID with the first violation in a sentence. */
LET_CHECKED let_err let_plan_check(const let_plan *p, const let_plan_input *in, let_error *e);

#endif
