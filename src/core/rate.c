/* rate.c: an exponentially weighted average over buckets of arrivals. */
#include "core/rate.h"

#include <math.h>

/* Buckets of a quarter window keep the figure smooth without remembering single arrivals. */
static double bucket(const let_rate *r) { return (double)r->window / 4; }

void let_rate_init(let_rate *r, let_dur window, let_time now) {
  *r = (let_rate){.window = window < 4 ? 4 : window, .since = now};
}

/* Closes the buckets that have passed: one with arrivals, the rest empty. */
static void roll(let_rate *r, let_time now) {
  double passed = (double)(now - r->since) / bucket(r);
  if (passed < 1) return;
  double whole = floor(passed), a = 1 - exp(-0.25), seen = r->count / (bucket(r) / 1e9);
  /* The first bucket is all that is known: averaging it with an imagined zero would halve the rate. */
  r->rate = r->buckets ? r->rate + a * (seen - r->rate) : seen;
  if (whole > 1) r->rate *= exp(-0.25 * (whole - 1));
  r->buckets = whole > 1e6 || r->buckets > 1000000 ? 1000000 : r->buckets + (int)whole;
  r->count = 0;
  r->since += (let_time)(whole * bucket(r));
}

void let_rate_add(let_rate *r, let_time now, double n) {
  roll(r, now);
  r->count += n;
}

double let_rate_get(let_rate *r, let_time now) {
  roll(r, now);
  if (r->buckets) return r->rate;
  /* Less than a bucket of history: what was counted over what has passed, but at least a tenth of a bucket. */
  double passed = (double)(now - r->since), least = bucket(r) / 10;
  return r->count / ((passed > least ? passed : least) / 1e9);
}
