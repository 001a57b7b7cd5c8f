/* sampler.h: which cell (batch, granules) of one model to measure next. Pure: state in, cell out.
 *
 * It keeps the estimate that a reader of the profile would make (linear in the batch, linear in 1/granules) and
 * asks for the cell where that estimate is expected to be most wrong, weighed by how much the planner cares: a cell
 * whose batch could not meet the SLO anyway matters little. Expected error of a gap: half of how wrong the estimate
 * was at its ends when they were measured; before anything is known, a share of how much latency changes over it. */
#ifndef LET_MEASURE_SAMPLER_H
#define LET_MEASURE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model.h"

enum { LET_SAMPLER_GRANULES_MAX = 256 };

typedef struct let_sampler {
  uint32_t n_batches, n_granules;
  const uint32_t *batch, *granules; /* ascending, borrowed: every cell that may be asked for */
  double slo_ms;                    /* 0: none */
  double *ms;                       /* n_batches x n_granules, NAN where not measured */
  double *surprise;                 /* relative error of the estimate when the cell was measured; NAN: there was none */
  uint32_t measured;
} let_sampler;

LET_CHECKED let_err let_sampler_init(let_sampler *s, const uint32_t *batch, uint32_t n_batches,
                                     const uint32_t *granules, uint32_t n_granules, double slo_ms, let_error *e);
void let_sampler_fini(let_sampler *s);

/* The most wanted cell, as indices; *ret_error is the relative error expected there (above 1e6: the coarse grid is not
 * complete). False when every cell is measured. */
bool let_sampler_next(const let_sampler *s, uint32_t *ret_batch, uint32_t *ret_granules, double *ret_error);

/* Takes a measurement; |ms| > 0. */
void let_sampler_add(let_sampler *s, uint32_t batch, uint32_t granules, double ms);

/* The estimate of any cell; NAN until the corners are measured. */
double let_sampler_estimate(const let_sampler *s, uint32_t batch, uint32_t granules);

#endif
