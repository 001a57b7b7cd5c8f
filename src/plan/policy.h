/* policy.h: inside plan/: the policies of the registry, and what a plan's numbers mean. */
#ifndef LET_PLAN_POLICY_H
#define LET_PLAN_POLICY_H

#include "plan/plan.h"

extern const let_policy let__policy_optimal, let__policy_temporal, let__policy_selftune, let__policy_elastic,
    let__policy_elastic_int, let__policy_static, let__policy_shared;

/* Rates within this of each other are equal: plans are made of sums and quotients of doubles. */
#define LET__PLAN_EPS 1e-9

/* p99 of one batch of entry |k| of gpu-let |l| on |g|, times the slowdown by what runs on the device's other
 * gpu-lets: of each neighbour the entry that alone slows this one most, because a promise has to hold while
 * that one runs. Errors: INVALID (unknown model), NOT_FOUND (outside what the profile measured). */
LET_CHECKED let_err let__plan_latency(const let_profile *p, const let_plan_gpu *g, uint32_t l, uint32_t k, let_dur *ret,
                                      let_error *e);

/* |alone| slowed down; rounded up, so that a sum of batches never comes out shorter than its parts. */
static inline let_dur let__plan_slow(let_dur alone, double slowdown) {
  double d = (double)alone * (slowdown > 1 ? slowdown : 1);
  let_dur r = (let_dur)d;
  return r + ((double)r < d);
}

/* Does a gpu-let whose batches take |cycle| in all serve |rate| of a model with this batch? */
static inline bool let__plan_covers(uint32_t batch, let_dur cycle, double rate) {
  return rate * (double)cycle <= (double)batch * 1e9 * (1 + LET__PLAN_EPS);
}

#endif
