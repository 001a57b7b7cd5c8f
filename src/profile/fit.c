#include "profile/fit.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

/* With a few dozen samples a model is seen a handful of times: pull each one's factors towards the common ones. */
#define RIDGE       5e-3
#define RIDGE_SHAPE 3e-3
#define RIDGE_DELAY 1e-4
#define OUTLIER     0.05 /* relative errors beyond count by their size */
/* What all models have in common: level of sensitivity x pressure, exponents of one's own share, of a neighbour's share
 * and of its batch, level of the delay. Then per model: sensitivity, pressure, delay. All but the exponents as
 * logarithms. */
enum { LEVEL, SELF_SHARE, OTHER_SHARE, OTHER_BATCH, DELAY, COMMON, ROUNDS = 60, MODELS_MAX = 100 };

typedef struct fitter {
  const let_profile *p;
  const let_samples *s;
  let_interference_kind kind;
  uint32_t n_models, dim;
  uint32_t *slot;                  /* per model of the profile: its number among those sampled, or UINT32_MAX */
  double *w, *trial, *A, *g, *row; /* dim, dim, dim * dim, dim, dim */
} fitter;

static double share(const let_profile *p, const let_tenant *t) { return (double)t->granules / p->device.granules; }
static double measured(const let_sample *s) { return s->together_ms / s->solo_ms; }

/* Planners count on predicted times that never fall with a larger batch or fewer granules, whatever a few noisy samples
 * say: no exponent may take a slowdown that way. */
static double self_share(const double *w) { return w[SELF_SHARE] < 0 ? w[SELF_SHARE] : 0; }
static double other_share(const double *w) {
  return w[OTHER_SHARE] > LET_SHARE_OTHER_MIN ? w[OTHER_SHARE] : LET_SHARE_OTHER_MIN;
}
static double other_batch(const double *w) { return w[OTHER_BATCH] > 0 ? w[OTHER_BATCH] : 0; }

/* Prediction under |w|, and its derivatives in f->row: 1 + (e^s share^a + e^d / solo) U^q, U = sum of share_k e^(t_k /
 * q), q the exponent of the neighbours' share. */
static double pressure_at(fitter *f, const double *w, const let_sample *s) {
  const uint32_t self = COMMON + f->slot[s->self.model], other = COMMON + f->n_models,
                 delay = other + f->n_models + f->slot[s->self.model];
  double ls = log(share(f->p, &s->self)), q = other_share(w), U = 0, tu = 0;
  memset(f->row, 0, f->dim * sizeof *f->row);
  for (uint32_t k = 0; k < s->n; k++) {
    const let_tenant *o = &s->other[k];
    double bo = log2(o->batch), t = other_batch(w) * bo + w[other + f->slot[o->model]];
    double u = share(f->p, o) * exp(fmin(t / q, 200));
    U += u, tu += u * t;
    f->row[OTHER_BATCH] += u * bo, f->row[other + f->slot[o->model]] += u;
  }
  double x = exp(fmin(q * log(U), 20)), felt = exp(fmin(w[LEVEL] + self_share(w) * ls + w[self], 20)) * x;
  double late = exp(fmin(w[LEVEL] + w[DELAY] + w[delay], 20)) / s->solo_ms * x, all = felt + late;
  f->row[OTHER_BATCH] *= w[OTHER_BATCH] > 0 ? all / U : 0;
  for (uint32_t i = other; i < other + f->n_models; i++) f->row[i] *= all / U;
  f->row[LEVEL] = all, f->row[self] = felt, f->row[DELAY] = f->row[delay] = late,
  f->row[SELF_SHARE] = w[SELF_SHARE] < 0 ? felt * ls : 0;
  if (w[OTHER_SHARE] > LET_SHARE_OTHER_MIN) f->row[OTHER_SHARE] = all * (log(U) - tu / U / q);
  return 1 + all;
}

static let_pressure util_of(const let_profile *p, const let_tenant *t) {
  const let_profile_model *m = &p->model[t->model];
  let_pressure none = {0};
  for (uint32_t i = m->n_pressure; i-- > 0;)
    if (m->pressure[i].batch <= t->batch || i == 0) return m->pressure[i].p;
  return none;
}

static double linear_at(fitter *f, const double *w, const let_sample *s) {
  let_pressure me = util_of(f->p, &s->self);
  memset(f->row, 0, f->dim * sizeof *f->row);
  f->row[LET_COEF_L2_SELF] = me.l2_util * share(f->p, &s->self);
  f->row[LET_COEF_DRAM_SELF] = me.dram_util * share(f->p, &s->self);
  for (uint32_t k = 0; k < s->n; k++) {
    let_pressure o = util_of(f->p, &s->other[k]);
    f->row[LET_COEF_L2_OTHER] += o.l2_util * share(f->p, &s->other[k]);
    f->row[LET_COEF_DRAM_OTHER] += o.dram_util * share(f->p, &s->other[k]);
  }
  f->row[LET_COEF_CONSTANT] = 1;
  double y = 0;
  for (uint32_t i = 0; i < f->dim; i++) y += w[i] * f->row[i];
  return y;
}

static double predict(fitter *f, const double *w, const let_sample *s) {
  return f->kind == LET_INTERFERENCE_LINEAR ? linear_at(f, w, s) : pressure_at(f, w, s);
}

static double ridge(const fitter *f, uint32_t i) {
  if (f->kind == LET_INTERFERENCE_LINEAR || i == LEVEL) return 1e-9;
  return i == DELAY ? RIDGE_DELAY : i < COMMON ? RIDGE_SHAPE : RIDGE;
}

/* What a relative error costs: its square while it is small, 2 OUTLIER |r| when it is large. LINEAR: the prototype's
 * squares. */
static double loss(const fitter *f, double r) {
  if (f->kind == LET_INTERFERENCE_LINEAR) return r * r;
  return 2 * OUTLIER * OUTLIER * (sqrt(1 + r * r / (OUTLIER * OUTLIER)) - 1);
}
static double loss_weight(const fitter *f, double r) {
  return f->kind == LET_INTERFERENCE_LINEAR ? 1 : 1 / sqrt(1 + r * r / (OUTLIER * OUTLIER));
}

static double cost(fitter *f, const double *w, const bool *out) {
  double c = 0;
  for (uint32_t i = 0; i < f->s->n; i++) {
    if (out && out[i]) continue;
    c += loss(f, predict(f, w, &f->s->sample[i]) / measured(&f->s->sample[i]) - 1);
  }
  for (uint32_t i = 0; i < f->dim; i++) c += ridge(f, i) * w[i] * w[i];
  return c;
}

/* Solves A x = g in place by Cholesky; A is symmetric and, with what was added to its diagonal, positive definite. */
static bool cholesky(double *A, double *g, uint32_t n) {
  for (uint32_t j = 0; j < n; j++) {
    for (uint32_t i = j; i < n; i++) {
      double x = A[i * n + j];
      for (uint32_t k = 0; k < j; k++) x -= A[i * n + k] * A[j * n + k];
      if (i == j && !(x > 0)) return false;
      A[i * n + j] = i == j ? sqrt(x) : x / A[j * n + j];
    }
  }
  for (uint32_t i = 0; i < n; i++) {
    for (uint32_t k = 0; k < i; k++) g[i] -= A[i * n + k] * g[k];
    g[i] /= A[i * n + i];
  }
  for (uint32_t i = n; i-- > 0;) {
    for (uint32_t k = i + 1; k < n; k++) g[i] -= A[k * n + i] * g[k];
    g[i] /= A[i * n + i];
  }
  return true;
}

/* Levenberg-Marquardt on the relative error; samples marked in |out| are held out. */
static void train(fitter *f, const bool *out) {
  memset(f->w, 0, f->dim * sizeof *f->w);
  if (f->kind == LET_INTERFERENCE_PRESSURE)
    f->w[LEVEL] = log(0.1), f->w[SELF_SHARE] = -0.01, f->w[OTHER_SHARE] = 0.3, f->w[OTHER_BATCH] = 0.01,
    f->w[DELAY] = -1;
  double damp = 1e-3, now = cost(f, f->w, out);
  for (int round = 0; round < ROUNDS && damp < 1e12; round++) {
    memset(f->A, 0, (size_t)f->dim * f->dim * sizeof *f->A);
    memset(f->g, 0, f->dim * sizeof *f->g);
    for (uint32_t i = 0; i < f->s->n; i++) {
      if (out && out[i]) continue;
      double y = measured(&f->s->sample[i]), r = predict(f, f->w, &f->s->sample[i]) / y - 1, v = loss_weight(f, r) / y;
      for (uint32_t a = 0; a < f->dim; a++) {
        if (f->row[a] == 0) continue;
        f->g[a] -= f->row[a] * v * r;
        for (uint32_t b = 0; b < f->dim; b++) f->A[a * f->dim + b] += f->row[a] * f->row[b] * v / y;
      }
    }
    for (uint32_t a = 0; a < f->dim; a++) {
      f->g[a] -= ridge(f, a) * f->w[a];
      f->A[a * f->dim + a] += ridge(f, a) + damp * (f->A[a * f->dim + a] + 1e-6);
    }
    if (!cholesky(f->A, f->g, f->dim)) {
      damp *= 10;
      continue;
    }
    for (uint32_t a = 0; a < f->dim; a++) f->trial[a] = f->w[a] + f->g[a];
    double next = cost(f, f->trial, out);
    if (next <= now) {
      memcpy(f->w, f->trial, f->dim * sizeof *f->w);
      if (now - next < 1e-12 * now) return;
      now = next, damp *= 0.3;
    } else damp *= 10;
  }
}

static int by_double(const void *x, const void *y) {
  double a = *(const double *)x, b = *(const double *)y;
  return (a > b) - (a < b);
}

static double quantile(const double *v, uint32_t n, double q) {
  double at = q * (n - 1);
  uint32_t i = (uint32_t)at;
  return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * (at - i) : v[n - 1];
}

static let_fit_error summary(double *v, uint32_t n) {
  qsort(v, n, sizeof *v, by_double);
  return (let_fit_error){quantile(v, n, 0.5), quantile(v, n, 0.9), quantile(v, n, 0.95), v[n - 1]};
}

static double error_of(fitter *f, const let_sample *s) {
  double y = predict(f, f->w, s);
  return fabs((y > 1 ? y : 1) / measured(s) - 1);
}

typedef struct company { /* who was measured together: models in order */
  uint32_t n, model[LET_NEIGHBOURS_MAX + 1], sample;
} company;

static int by_u32(const void *x, const void *y) {
  return (*(const uint32_t *)x > *(const uint32_t *)y) - (*(const uint32_t *)x < *(const uint32_t *)y);
}

static int by_company(const void *x, const void *y) {
  const company *a = x, *b = y;
  if (a->n != b->n) return a->n < b->n ? -1 : 1;
  int c = memcmp(a->model, b->model, a->n * sizeof *a->model);
  return c ? c : a->sample < b->sample ? -1 : a->sample > b->sample;
}

/* Numbers the sets of models that were measured together; how many there are, 0: out of memory. */
static uint32_t companies(const let_samples *s, uint32_t *ret_of, let_arena *a) {
  company *c = let_arena_array(a, s->n, sizeof *c);
  if (!c) return 0;
  for (uint32_t i = 0; i < s->n; i++) {
    c[i].sample = i, c[i].n = s->sample[i].n + 1, c[i].model[0] = s->sample[i].self.model;
    for (uint32_t k = 1; k < c[i].n; k++) c[i].model[k] = s->sample[i].other[k - 1].model;
    qsort(c[i].model, c[i].n, sizeof *c[i].model, by_u32);
  }
  qsort(c, s->n, sizeof *c, by_company);
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->n; i++) {
    n += i == 0 || c[i].n != c[i - 1].n || memcmp(c[i].model, c[i - 1].model, c[i].n * sizeof *c[i].model) != 0;
    ret_of[c[i].sample] = n - 1;
  }
  return n;
}

/* Every sample is predicted once by a fit that has seen none of its group; |n| groups, dealt into folds. */
static let_fit_error cross(fitter *f, const uint32_t *group, uint32_t n, uint32_t folds, uint64_t seed, uint32_t *order,
                           bool *out, double *err) {
  let_rng r;
  let_rng_seed(&r, seed);
  uint32_t k = 0;
  for (uint32_t i = 0; i < n; i++) order[i] = i;
  for (uint32_t i = n; i > 1; i--) {
    uint32_t j = (uint32_t)let_rng_below(&r, i), t = order[j];
    order[j] = order[i - 1], order[i - 1] = t;
  }
  for (uint32_t fold = 0; fold < folds; fold++) {
    for (uint32_t i = 0; i < f->s->n; i++) out[i] = order[group ? group[i] : i] % folds == fold;
    train(f, out);
    for (uint32_t i = 0; i < f->s->n; i++)
      if (out[i]) err[k++] = error_of(f, &f->s->sample[i]);
  }
  return summary(err, k);
}

typedef struct alone {
  let_tenant t;
  double ms;
  uint32_t sample;
} alone;

static int by_tenant(const void *x, const void *y) {
  const alone *a = x, *b = y;
  const uint32_t v[4] = {a->t.model, a->t.batch, a->t.granules, a->sample},
                 w[4] = {b->t.model, b->t.batch, b->t.granules, b->sample};
  for (int i = 0; i < 4; i++)
    if (v[i] != w[i]) return v[i] < w[i] ? -1 : 1;
  return 0;
}

/* Each measurement of a batch alone beside the next one of the same. */
static bool repeats(const let_samples *s, let_fit_report *rep, double *diff, let_arena *a) {
  alone *x = let_arena_array(a, s->n, sizeof *x);
  if (!x) return false;
  for (uint32_t i = 0; i < s->n; i++) x[i] = (alone){s->sample[i].self, s->sample[i].solo_ms, i};
  qsort(x, s->n, sizeof *x, by_tenant);
  for (uint32_t i = 1; i < s->n; i++)
    if (x[i].t.model == x[i - 1].t.model && x[i].t.batch == x[i - 1].t.batch && x[i].t.granules == x[i - 1].t.granules)
      diff[rep->n_repeats++] = fabs(log(x[i].ms / x[i - 1].ms));
  if (rep->n_repeats) rep->repeats = summary(diff, rep->n_repeats);
  return true;
}

static let_err fitter_init(fitter *f, let_arena *a, let_error *e) {
  f->slot = let_arena_array(a, f->p->n_models, sizeof *f->slot);
  if (!f->slot) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  memset(f->slot, 0xff, f->p->n_models * sizeof *f->slot);
  for (uint32_t i = 0; i < f->s->n; i++)
    for (uint32_t k = 0; k <= f->s->sample[i].n; k++) {
      uint32_t m = k ? f->s->sample[i].other[k - 1].model : f->s->sample[i].self.model;
      if (f->slot[m] == UINT32_MAX) f->slot[m] = f->n_models++;
    }
  if (f->n_models > MODELS_MAX)
    return let_fail(e, LET_ERR_INVALID, "samples of %u models: at most %d are fitted together", f->n_models,
                    MODELS_MAX);
  f->dim = f->kind == LET_INTERFERENCE_LINEAR ? LET_COEF_CONSTANT + 1 : COMMON + 3 * f->n_models;
  f->w = let_arena_array(a, f->dim, sizeof(double)), f->trial = let_arena_array(a, f->dim, sizeof(double));
  f->A = let_arena_array(a, (size_t)f->dim * f->dim, sizeof(double));
  f->g = let_arena_array(a, f->dim, sizeof(double)), f->row = let_arena_array(a, f->dim, sizeof(double));
  return f->w && f->trial && f->A && f->g && f->row ? LET_OK : let_fail(e, LET_ERR_NOMEM, "out of memory");
}

/* The fitted logarithms become rows: one per model, or one per power of two of the batch. A model that no sample has
 * gets the profile's defaults: the worst that was seen. */
static let_err store_pressure(const fitter *f, let_profile *p, let_arena *a, let_error *e) {
  const double *w = f->w;
  memset(p->coef, 0, sizeof p->coef);
  p->coef[LET_COEF_SHARE_SELF] = self_share(w), p->coef[LET_COEF_SHARE_OTHER] = other_share(w);
  for (uint32_t i = 0; i < p->n_models; i++) {
    let_profile_model *m = &p->model[i];
    uint32_t slot = f->slot[i], rows = 0, most = m->n_batches ? m->batch[m->n_batches - 1] : 1;
    if (slot == UINT32_MAX) {
      m->n_pressure = 0;
      continue;
    }
    for (uint32_t b = 1; b <= most; b *= 2) rows++;
    if (other_batch(w) < 1e-3) rows = 1;
    let_pressure util = m->n_pressure ? m->pressure[0].p : (let_pressure){0};
    m->pressure = let_arena_array(a, rows, sizeof *m->pressure);
    if (!m->pressure) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    m->n_pressure = rows;
    for (uint32_t k = 0; k < rows; k++) {
      let_pressure x = {.l2_util = util.l2_util, .dram_util = util.dram_util};
      x.sensitivity = exp(w[LEVEL] / 2 + w[COMMON + slot]);
      x.pressure = exp(w[LEVEL] / 2 + w[COMMON + f->n_models + slot] + other_batch(w) * k);
      x.delay_ms = exp(w[LEVEL] / 2 + w[DELAY] + w[COMMON + 2 * f->n_models + slot]);
      m->pressure[k].batch = 1u << k, m->pressure[k].p = x;
      if (x.pressure > p->coef[LET_COEF_DEFAULT_PRESSURE]) p->coef[LET_COEF_DEFAULT_PRESSURE] = x.pressure;
      if (x.sensitivity > p->coef[LET_COEF_DEFAULT_SENSITIVITY]) p->coef[LET_COEF_DEFAULT_SENSITIVITY] = x.sensitivity;
      if (x.delay_ms > p->coef[LET_COEF_DEFAULT_DELAY]) p->coef[LET_COEF_DEFAULT_DELAY] = x.delay_ms;
    }
  }
  return LET_OK;
}

static void store_linear(const fitter *f, let_profile *p) {
  memset(p->coef, 0, sizeof p->coef);
  memcpy(p->coef, f->w, (LET_COEF_CONSTANT + 1) * sizeof *p->coef);
  for (uint32_t i = 0; i < p->n_models; i++)
    for (uint32_t k = 0; k < p->model[i].n_pressure; k++) {
      const let_pressure *x = &p->model[i].pressure[k].p;
      if (x->l2_util > p->coef[LET_COEF_DEFAULT_L2]) p->coef[LET_COEF_DEFAULT_L2] = x->l2_util;
      if (x->dram_util > p->coef[LET_COEF_DEFAULT_DRAM]) p->coef[LET_COEF_DEFAULT_DRAM] = x->dram_util;
    }
}

let_err let_fit(let_profile *p, const let_samples *s, let_interference_kind kind, uint32_t folds, uint64_t seed,
                let_arena *a, let_fit_report *ret, let_error *e) {
  if (kind != LET_INTERFERENCE_LINEAR && kind != LET_INTERFERENCE_PRESSURE)
    return let_fail(e, LET_ERR_INVALID, "no interference model to fit");
  if (folds < 2 || s->n < 2 * folds)
    return let_fail(e, LET_ERR_INVALID, "%u samples are too few for %u folds: measure at least %u", s->n, folds,
                    2 * folds);
  fitter f = {.p = p, .s = s, .kind = kind};
  let_err r = fitter_init(&f, a, e);
  if (r) return r;
  uint32_t *order = let_arena_array(a, s->n, sizeof *order), *set = let_arena_array(a, s->n, sizeof *set);
  bool *out = let_arena_array(a, s->n, sizeof *out);
  double *err = let_arena_array(a, s->n, sizeof *err);
  if (!order || !set || !out || !err) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  let_fit_report rep = {.n = s->n, .folds = folds, .sets = companies(s, set, a)};
  if (!rep.sets || !repeats(s, &rep, err, a)) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  rep.held_out = cross(&f, NULL, s->n, folds, seed, order, out, err);
  if (rep.sets >= 2 * folds) rep.strangers = cross(&f, set, rep.sets, folds, seed, order, out, err);
  train(&f, NULL);
  for (uint32_t i = 0; i < s->n; i++) err[i] = error_of(&f, &s->sample[i]);
  rep.seen = summary(err, s->n);
  if (kind == LET_INTERFERENCE_PRESSURE) r = store_pressure(&f, p, a, e);
  else store_linear(&f, p);
  if (r) return r;
  for (uint32_t i = 0; i < p->n_models; i++)
    for (uint32_t k = 0; k < p->model[i].n_pressure; k++)
      rep.utilisations |= p->model[i].pressure[k].p.l2_util > 0 || p->model[i].pressure[k].p.dram_util > 0;
  p->interference = kind;
  p->interference_error_p95 = rep.held_out.p95;
  *ret = rep;
  return LET_OK;
}
