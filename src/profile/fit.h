/* fit.h: interference models fitted to measured samples (interference.csv), with their error on cases held out. */
#ifndef LET_PROFILE_FIT_H
#define LET_PROFILE_FIT_H

#include "profile/profile.h"

typedef struct let_fit_error { /* relative error of the predicted slowdown, absolute value */
  double p50, p90, p95, max;
} let_fit_error;

typedef struct let_fit_report {
  uint32_t n, folds, sets;      /* sets: different sets of models that were measured together */
  let_fit_error held_out, seen; /* held_out: single samples, those of the same models among the others */
  let_fit_error strangers; /* held out: everything measured of the same set of models; 0 where there are too few sets */
  uint32_t n_repeats;
  let_fit_error repeats; /* how far two measurements of one batch alone lie apart: what no model can know */
  bool utilisations;     /* LINEAR: the profile has them; without, only the constant is fitted */
} let_fit_report;

/* Fits |kind| to |s| and puts coefficients and pressure rows into |p|, memory from |a|. PRESSURE: slowdown = 1 +
 * (sensitivity x share_self^a + delay / latency alone) x (sum over neighbours of pressure^(1/q) x share)^q, pressure
 * growing with a power of the batch: never below 1, any number of neighbours, and a neighbour cut in pieces weighs what
 * it weighed whole. Large errors count by their size, not its square: a few measurements that follow no rule do not
 * spoil the rest. LINEAR: the prototype's, least squares; clipped at 1 where it is used. |seed| deals the samples into
 * |folds|. Errors: INVALID (fewer than 2 samples a fold, or kind NONE), NOMEM. */
LET_CHECKED let_err let_fit(let_profile *p, const let_samples *s, let_interference_kind kind, uint32_t folds,
                            uint64_t seed, let_arena *a, let_fit_report *ret, let_error *e);

#endif
