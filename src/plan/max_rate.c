/* max_rate.c: the planned rate: how much of a workload a policy claims for the devices there are. */
#include <stddef.h>
#include <stdio.h>

#include "plan/plan.h"

/* Multiples outside 2^-40 to 2^40 are no answer to a question of rates. */
enum { DOUBLINGS = 40 };

typedef struct search {
  const let_policy *policy;
  let_plan_input in;
  const let_workload *wanted;
  let_workload scaled;
  const let_mem *mem;
  char why[400]; /* why the first one did not fit */
} search;

/* Is there a plan for |multiple| times the workload? */
static let_err try(search *s, double multiple, bool *ret, let_error *e) {
  let_plan p;
  for (uint32_t i = 0; i < s->wanted->n; i++) s->scaled.demand[i].rate = s->wanted->demand[i].rate * multiple;
  let_arena trial;
  let_arena_init(&trial, s->mem);
  let_err r = s->policy->make(&s->in, &trial, &p, e);
  *ret = !r && p.feasible;
  if (!r && !p.feasible && !s->why[0])
    snprintf(s->why, sizeof s->why, "%s", p.n_reasons ? p.reason[p.n_reasons - 1] : "it gives no reason");
  let_arena_fini(&trial);
  return r;
}

let_err let_plan_max_rate(const let_policy *policy, const let_plan_input *in, let_arena *arena, double *ret_multiple,
                          let_plan *ret, let_error *e) {
  search s = {.policy = policy, .in = *in, .wanted = in->workload, .mem = arena->mem};
  double sum = 0;
  for (uint32_t i = 0; i < in->workload->n; i++) sum += in->workload->demand[i].rate;
  if (!(sum > 0))
    return let_fail(e, LET_ERR_INVALID, "every rate of the workload is 0: no multiple of it is the largest");
  s.scaled.n = in->workload->n;
  s.scaled.demand = let_arena_array(arena, s.scaled.n, sizeof *s.scaled.demand);
  if (!s.scaled.demand) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < s.scaled.n; i++) s.scaled.demand[i] = in->workload->demand[i];
  s.in.workload = &s.scaled;
  bool fits;
  double low = 1;
  let_err r = try(&s, low, &fits, e);
  bool grows = fits;
  for (int i = 0; !r && fits == grows; i++) {
    if (i == DOUBLINGS && grows)
      return let_fail(e, LET_ERR_INVALID, "no multiple of the workload is too much for these devices");
    if (i == DOUBLINGS)
      return let_fail(e, LET_ERR_INVALID, "no multiple of the workload fits these devices: %s", s.why);
    low = grows ? low * 2 : low / 2;
    r = try(&s, low, &fits, e);
  }
  if (grows) low /= 2; /* now |low| fits and twice as much does not */
  double high = low * 2;
  while (!r && high > low * 1.01) {
    double middle = (low + high) / 2;
    r = try(&s, middle, &fits, e);
    if (fits) low = middle;
    else high = middle;
  }
  for (uint32_t i = 0; i < s.scaled.n; i++) s.scaled.demand[i].rate = s.wanted->demand[i].rate * low;
  if (!r) r = policy->make(&s.in, arena, ret, e);
  if (!r) *ret_multiple = low;
  return r;
}
