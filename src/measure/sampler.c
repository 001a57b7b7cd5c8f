#include "measure/sampler.h"

#include <math.h>
#include <stdlib.h>

#define COARSE         1e9 /* expected error of a cell of the coarse grid */
#define PRIOR_GRANULES 0.2 /* of the log of the latency ratio over a gap: half of what a wave too many costs */
#define PRIOR_BATCH    0.15
#define INFEASIBLE     0.1 /* weight of a cell whose batch misses the SLO by far */

static double *at(const let_sampler *s, uint32_t b, uint32_t g) { return &s->ms[b * s->n_granules + g]; }
static double surprise(const let_sampler *s, uint32_t b, uint32_t g) { return s->surprise[b * s->n_granules + g]; }
static bool known(const let_sampler *s, uint32_t b, uint32_t g) { return !isnan(*at(s, b, g)); }
static bool active(const let_sampler *s, uint32_t b) { return known(s, b, 0) && known(s, b, s->n_granules - 1); }

let_err let_sampler_init(let_sampler *s, const uint32_t *batch, uint32_t n_batches, const uint32_t *granules,
                         uint32_t n_granules, double slo_ms, let_error *e) {
  if (!n_batches || !n_granules) return let_fail(e, LET_ERR_INVALID, "no batch sizes or no granules to measure");
  size_t n = (size_t)n_batches * n_granules;
  *s = (let_sampler){
      .n_batches = n_batches, .n_granules = n_granules, .batch = batch, .granules = granules, .slo_ms = slo_ms};
  s->ms = malloc(2 * n * sizeof *s->ms);
  if (!s->ms) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->surprise = s->ms + n;
  for (size_t i = 0; i < 2 * n; i++) s->ms[i] = NAN;
  return LET_OK;
}

void let_sampler_fini(let_sampler *s) {
  free(s->ms);
  s->ms = s->surprise = NULL;
}

static double along_row(const let_sampler *s, uint32_t b, uint32_t g) { /* of an active row */
  if (known(s, b, g)) return *at(s, b, g);
  uint32_t lo = g, hi = g;
  while (!known(s, b, lo)) lo--;
  while (!known(s, b, hi)) hi++;
  double x = 1.0 / s->granules[g], x0 = 1.0 / s->granules[lo], x1 = 1.0 / s->granules[hi];
  return *at(s, b, lo) + (*at(s, b, hi) - *at(s, b, lo)) * (x - x0) / (x1 - x0);
}

double let_sampler_estimate(const let_sampler *s, uint32_t b, uint32_t g) {
  if (known(s, b, g)) return *at(s, b, g);
  if (active(s, b)) return along_row(s, b, g);
  uint32_t lo = b, hi = b;
  while (lo > 0 && !active(s, lo)) lo--;
  while (hi + 1 < s->n_batches && !active(s, hi)) hi++;
  if (!active(s, lo) || !active(s, hi)) return NAN;
  double y0 = along_row(s, lo, g), y1 = along_row(s, hi, g);
  return y0 + (y1 - y0) * (double)(s->batch[b] - s->batch[lo]) / (double)(s->batch[hi] - s->batch[lo]);
}

void let_sampler_add(let_sampler *s, uint32_t b, uint32_t g, double ms) {
  double guess = known(s, b, g) ? NAN : let_sampler_estimate(s, b, g);
  s->surprise[b * s->n_granules + g] = isnan(guess) ? NAN : fabs(guess - ms) / ms;
  if (!known(s, b, g)) s->measured++;
  *at(s, b, g) = ms;
}

static double weight(const let_sampler *s, uint32_t b, uint32_t g) {
  double guess = let_sampler_estimate(s, b, g);
  return s->slo_ms > 0 && guess > 0.75 * s->slo_ms ? INFEASIBLE : 1; /* the planner needs 2 L <= SLO */
}

/* Expected error in a gap between two measured values whose surprises were |s0| and |s1|. */
static double gap_error(double y0, double y1, double s0, double s1, double prior) {
  double bend = prior * fabs(log(y1 / y0));
  if (isnan(s0) && isnan(s1)) return bend;
  double seen = isnan(s0) ? s1 : isnan(s1) ? s0 : fmax(s0, s1);
  return fmin(seen / 2, 2 * bend + 0.01);
}

typedef struct pick {
  uint32_t b, g;
  double error;
} pick;
static void offer(pick *p, uint32_t b, uint32_t g, double error) {
  if (error > p->error) *p = (pick){b, g, error};
}

static void offer_row(const let_sampler *s, uint32_t b, pick *p) {
  for (uint32_t lo = 0, hi; lo + 1 < s->n_granules; lo = hi) {
    for (hi = lo + 1; !known(s, b, hi); hi++) {}
    if (hi == lo + 1) continue;
    uint32_t mid = lo + 1; /* nearest to the geometric mean: half-way on the axis where latency is straight */
    double want = sqrt((double)s->granules[lo] * s->granules[hi]);
    for (uint32_t g = lo + 1; g < hi; g++)
      if (fabs(s->granules[g] - want) < fabs(s->granules[mid] - want)) mid = g;
    offer(p, b, mid,
          weight(s, b, mid) *
              gap_error(*at(s, b, lo), *at(s, b, hi), surprise(s, b, lo), surprise(s, b, hi), PRIOR_GRANULES));
  }
}

static void offer_between_rows(const let_sampler *s, uint32_t lo, uint32_t hi, pick *p) {
  uint32_t mid = lo + 1;
  double want = sqrt((double)s->batch[lo] * s->batch[hi]);
  for (uint32_t b = lo + 1; b < hi; b++)
    if (fabs(s->batch[b] - want) < fabs(s->batch[mid] - want)) mid = b;
  for (int end = 0; end < 2; end++) {
    uint32_t g = end ? s->n_granules - 1 : 0;
    offer(p, mid, g,
          weight(s, mid, g) *
              gap_error(*at(s, lo, g), *at(s, hi, g), surprise(s, lo, g), surprise(s, hi, g), PRIOR_BATCH));
  }
}

bool let_sampler_next(const let_sampler *s, uint32_t *ret_batch, uint32_t *ret_granules, double *ret_error) {
  if (s->measured == s->n_batches * s->n_granules) return false;
  pick p = {0, 0, -1};
  uint32_t last_b = s->n_batches - 1, last_g = s->n_granules - 1;
  const uint32_t rows[3] = {0, last_b, last_b / 2}, columns[2] = {last_g, 0};
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 2; k++)
      if (!known(s, rows[i], columns[k])) offer(&p, rows[i], columns[k], COARSE * (1 - 0.1 * i - 0.01 * k));
  for (uint32_t b = 0; b < s->n_batches; b++) { /* a row that was begun */
    if (known(s, b, 0) != known(s, b, last_g)) offer(&p, b, known(s, b, 0) ? last_g : 0, COARSE * 0.5);
  }
  if (p.error < 0) {
    for (uint32_t b = 0; b < s->n_batches; b++)
      if (active(s, b)) offer_row(s, b, &p);
    for (uint32_t lo = 0, hi; lo < last_b; lo = hi) {
      for (hi = lo + 1; !active(s, hi); hi++) {}
      if (hi > lo + 1) offer_between_rows(s, lo, hi, &p);
    }
  }
  *ret_batch = p.b;
  *ret_granules = p.g;
  *ret_error = p.error;
  return p.error >= 0;
}
