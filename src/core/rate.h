/* rate.h: the request rate of a model, an exponentially weighted average. Pure. */
#ifndef LET_CORE_RATE_H
#define LET_CORE_RATE_H

#include "base/time.h"

typedef struct let_rate {
  let_dur window; /* time constant */
  let_time since; /* start of the current bucket */
  double count;   /* arrivals in it */
  double rate;    /* per second, smoothed over the past buckets */
  int buckets;    /* full buckets seen, for the start-up */
} let_rate;

void let_rate_init(let_rate *r, let_dur window, let_time now);
void let_rate_add(let_rate *r, let_time now, double n);
double let_rate_get(let_rate *r, let_time now); /* per second */

#endif
