/* crowd.h: inside the bounds of `optimal`: neighbours as one weight. */
#ifndef LET_PLAN_CROWD_H
#define LET_PLAN_CROWD_H

#include "plan/optimal.h"

/* A profile with two more models: a probe that feels everything, a wall that weighs what we say. */
typedef struct let__scale {
  let_profile fake, bare; /* bare: where the probe's slowdown says nothing but the weight of its neighbours */
  let_profile_model *probe, *wall;
  uint32_t granules;
  double power; /* weights to 1 / power add up */
  double unit;  /* what a weight of 1 does */
  bool linear;
} let__scale;

/* False: out of memory (|ret_err|), or the fit has signs under which a sum of neighbours is no bound (OK). */
bool let__scale_make(let__scale *s, const let__problem *p, const let__kind *k, let_err *ret_err);
double let__weight(const let__scale *s, const let_tenant *t,
                   uint32_t n); /* of |n| neighbours together; never too much */

/* How many times longer |self| takes beside a weight x is let__slowed(s, let__feel(s, self), let__press(s, x)), and
 * never more than that: what it feels and what presses it, each looked up once. */
double let__feel(const let__scale *s, let_tenant self);
double let__press(const let__scale *s, double weight);
/* What model |m| feels, [(g - 1) * most + batch - 1]; INFINITY: too slow even alone; 0 where it has no neighbours.
 * NULL: out of memory. */
const double *let__feels(const let__scale *s, let__problem *p, let__kind *k, uint32_t m);
static inline double let__slowed(const let__scale *s, double feel, double press) {
  if (!s->linear) return (1 + feel * press) * (1 - 1e-9);
  return feel + press > 1 ? (feel + press) * (1 - 1e-9) : 1;
}

#endif
