/* crowd.h: inside the bounds of `optimal`: neighbours as one weight. */
#ifndef LET_PLAN_CROWD_H
#define LET_PLAN_CROWD_H

#include "plan/optimal.h"

/* A profile with two more models: a probe that feels everything, a wall that weighs what we say. */
typedef struct let__scale {
  let_profile fake;
  let_profile_model *probe, *wall;
  uint32_t granules;
} let__scale;

/* False: out of memory (|ret_err|), or the fit has signs under which a sum of neighbours is no bound (OK). */
bool let__scale_make(let__scale *s, const let__problem *p, const let__kind *k, let_err *ret_err);
double let__weight(const let__scale *s, const let_tenant *t, uint32_t n); /* of |n| neighbours together; never too much */
double let__slowed(const let__scale *s, let_tenant self, double weight);  /* how many times longer |self| takes beside that */

#endif
