#include "model/profile.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

double let_share_percent(const let_device_type *d, uint32_t granules) {
  return d->granules ? 100.0 * granules / d->granules : 0;
}

uint32_t let_share_sms(const let_device_type *d, uint32_t granules) {
  if (granules == 0) return 0;
  if (granules < d->granules) return granules * d->granule_sms;
  return (d->granules - 1) * d->granule_sms + (d->last_granule_sms ? d->last_granule_sms : d->granule_sms);
}

uint32_t let_profile_find(const let_profile *p, const char *name) {
  uint32_t lo = 0, hi = p->n_models;
  while (lo < hi) {
    uint32_t mid = lo + (hi - lo) / 2;
    int c = strcmp(p->model[mid].name, name);
    if (c == 0) return mid;
    if (c < 0) lo = mid + 1;
    else hi = mid;
  }
  return UINT32_MAX;
}

void let_profile_envelope(let_profile_model *m) {
  LET_ASSERT(m->n_cells == m->n_batches * m->n_granules);
  for (uint32_t b = 0; b < m->n_batches; b++)
    for (uint32_t g = m->n_granules; g-- > 0;) {
      let_cell *c = &m->cell[b * m->n_granules + g];
      if (c->p99_ms < c->p50_ms) c->p99_ms = c->p50_ms;
      const let_cell *smaller = b ? c - m->n_granules : NULL, *wider = g + 1 < m->n_granules ? c + 1 : NULL;
      for (int k = 0; k < 2; k++) {
        const let_cell *o = k ? wider : smaller;
        if (!o) continue;
        if (c->p50_ms < o->p50_ms) c->p50_ms = o->p50_ms;
        if (c->p99_ms < o->p99_ms) c->p99_ms = o->p99_ms;
      }
    }
}

/* Position of the last axis value <= v; the caller has checked that there is one. */
static uint32_t floor_of(const uint32_t *axis, uint32_t n, uint32_t v) {
  uint32_t lo = 0, hi = n;
  while (hi - lo > 1) {
    uint32_t mid = lo + (hi - lo) / 2;
    if (axis[mid] <= v) lo = mid;
    else hi = mid;
  }
  return lo;
}

static let_err outside(const let_profile *p, const let_profile_model *m, uint32_t batch, uint32_t granules,
                       let_error *e) {
  if (!e) return LET_ERR_NOT_FOUND;
  if (m->n_cells == 0)
    return let_fail(e, LET_ERR_NOT_FOUND, "model '%s' has no latency cells on '%s'", m->name, p->device.name);
  return let_fail(e, LET_ERR_NOT_FOUND,
                  "model '%s' on '%s' is not profiled at batch %u on %u granules: measured are batches %u to %u on %u "
                  "to %u granules",
                  m->name, p->device.name, batch, granules, m->batch[0], m->batch[m->n_batches - 1], m->granule[0],
                  m->granule[m->n_granules - 1]);
}

/* A row of measured cells on |granules|, of which axis value |gi| is the last that is no larger. */
static double on_granules(const let_profile_model *m, uint32_t bi, uint32_t gi, uint32_t granules, unsigned flags) {
  const let_cell *c = &m->cell[bi * m->n_granules + gi];
  double a = flags & LET_PROFILE_P50 ? c->p50_ms : c->p99_ms;
  if (m->granule[gi] == granules) return a;
  double z = flags & LET_PROFILE_P50 ? c[1].p50_ms : c[1].p99_ms;
  double g0 = 1.0 / m->granule[gi], g1 = 1.0 / m->granule[gi + 1];
  return a + (z - a) * (g0 - 1.0 / granules) / (g0 - g1);
}

static double on_batch(const let_profile_model *m, uint32_t bi, uint32_t batch, double a, double z) {
  return a + (z - a) * (batch - m->batch[bi]) / (m->batch[bi + 1] - m->batch[bi]);
}

let_err let_profile_latency(const let_profile *p, uint32_t model, uint32_t batch, uint32_t granules, unsigned flags,
                            let_dur *ret, let_error *e) {
  if (model >= p->n_models)
    return let_fail(e, LET_ERR_NOT_FOUND, "model number %u is not in the profile of '%s'", model, p->device.name);
  const let_profile_model *m = &p->model[model];
  if (m->n_cells == 0 || batch == 0 || granules == 0 || granules > p->device.granules)
    return outside(p, m, batch, granules, e);
  uint32_t b_min = m->batch[0], b_max = m->batch[m->n_batches - 1], g_min = m->granule[0],
           g_max = m->granule[m->n_granules - 1];
  double scale = 1;
  if (batch < b_min || batch > b_max || granules < g_min || granules > g_max) {
    if (!(flags & LET_PROFILE_EXTRAPOLATE)) return outside(p, m, batch, granules, e);
    /* Proportional growth beyond the grid, no gain beyond its cheap end: both err on the slow side. */
    if (batch > b_max) scale *= (double)batch / b_max, batch = b_max;
    if (granules < g_min) scale *= (double)g_min / granules, granules = g_min;
    if (batch < b_min) batch = b_min;
    if (granules > g_max) granules = g_max;
  }
  uint32_t bi = floor_of(m->batch, m->n_batches, batch), gi = floor_of(m->granule, m->n_granules, granules);
  double ms = on_granules(m, bi, gi, granules, flags);
  if (m->batch[bi] != batch) ms = on_batch(m, bi, batch, ms, on_granules(m, bi + 1, gi, granules, flags));
  ms *= scale;
  if (!(ms >= 0 && ms < 1e9))
    return let_fail(e, LET_ERR_NOT_FOUND, "model '%s' on '%s' has no usable latency at batch %u on %u granules",
                    m->name, p->device.name, batch, granules);
  *ret = (let_dur)(ms * 1e6 + 0.5);
  return LET_OK;
}

void let_profile_latencies(const let_profile *p, uint32_t model, uint32_t granules, uint32_t most, let_dur *ret) {
  const let_profile_model *m = &p->model[model];
  for (uint32_t b = 1; b <= most; b++) ret[b - 1] = LET_NEVER;
  if (!m->n_cells || granules > p->device.granules || granules < m->granule[0] ||
      granules > m->granule[m->n_granules - 1])
    return;
  uint32_t gi = floor_of(m->granule, m->n_granules, granules);
  double a = 0, z = on_granules(m, 0, gi, granules, LET_PROFILE_P99);
  for (uint32_t bi = 0; bi < m->n_batches; bi++) {
    a = z;
    bool last = bi + 1 == m->n_batches;
    if (!last) z = on_granules(m, bi + 1, gi, granules, LET_PROFILE_P99);
    for (uint32_t b = m->batch[bi]; b <= most && (last ? b == m->batch[bi] : b < m->batch[bi + 1]); b++) {
      double ms = b == m->batch[bi] ? a : on_batch(m, bi, b, a, z);
      if (b && ms >= 0 && ms < 1e9) ret[b - 1] = (let_dur)(ms * 1e6 + 0.5);
    }
  }
}

/* Linear between measured batches, constant beyond them. Without any, the profile's default for unknown models. */
static let_pressure pressure_of(const let_profile *p, uint32_t model, uint32_t batch) {
  const let_profile_model *m = &p->model[model];
  if (m->n_pressure == 0)
    return (let_pressure){p->coef[LET_COEF_DEFAULT_L2], p->coef[LET_COEF_DEFAULT_DRAM],
                          p->coef[LET_COEF_DEFAULT_PRESSURE], p->coef[LET_COEF_DEFAULT_SENSITIVITY],
                          p->coef[LET_COEF_DEFAULT_DELAY]};
  uint32_t i = 0;
  while (i + 1 < m->n_pressure && m->pressure[i + 1].batch <= batch) i++;
  let_pressure a = m->pressure[i].p;
  if (i + 1 < m->n_pressure && batch > m->pressure[i].batch) {
    let_pressure z = m->pressure[i + 1].p;
    double t = (double)(batch - m->pressure[i].batch) / (m->pressure[i + 1].batch - m->pressure[i].batch);
    a.l2_util += (z.l2_util - a.l2_util) * t;
    a.dram_util += (z.dram_util - a.dram_util) * t;
    a.pressure += (z.pressure - a.pressure) * t;
    a.sensitivity += (z.sensitivity - a.sensitivity) * t;
    a.delay_ms += (z.delay_ms - a.delay_ms) * t;
  }
  return a;
}

static double share_of(const let_profile *p, const let_tenant *t) {
  double s = p->device.granules ? (double)t->granules / p->device.granules : 1;
  return s < 1 ? s : 1;
}

static double slowdown_linear(const let_profile *p, const let_tenant *self, const let_tenant *others, uint32_t n) {
  let_pressure me = pressure_of(p, self->model, self->batch);
  double mine = share_of(p, self), l2 = 0, dram = 0;
  for (uint32_t i = 0; i < n; i++) {
    let_pressure o = pressure_of(p, others[i].model, others[i].batch);
    double w = share_of(p, &others[i]) * others[i].busy;
    l2 += o.l2_util * w, dram += o.dram_util * w;
  }
  return p->coef[LET_COEF_L2_SELF] * me.l2_util * mine + p->coef[LET_COEF_L2_OTHER] * l2 +
         p->coef[LET_COEF_DRAM_SELF] * me.dram_util * mine + p->coef[LET_COEF_DRAM_OTHER] * dram +
         p->coef[LET_COEF_CONSTANT];
}

/* 1 + (sensitivity share_self^a + delay / latency) x / (1 + c x), x = (sum over neighbours of pressure^(1/q) share
 * busy)^q: one neighbour weighs pressure share^q, and weighs the same when it is cut in pieces; one more neighbour
 * never makes it less. A cell that is not measured has no delay. */
static double slowdown_pressure(const let_profile *p, const let_tenant *self, const let_tenant *others, uint32_t n) {
  const double *c = p->coef;
  double q = c[LET_COEF_SHARE_OTHER] > LET_SHARE_OTHER_MIN ? c[LET_COEF_SHARE_OTHER] : LET_SHARE_OTHER_MIN, most = 0,
         sum = 0;
  for (uint32_t i = 0; i < n; i++) { /* relative to the largest: the power of a small exponent overflows otherwise */
    double w = pressure_of(p, others[i].model, others[i].batch).pressure;
    if (w > most) sum *= most > 0 ? pow(most / w, 1 / q) : 0, most = w;
    if (w > 0) sum += (w == most ? 1 : pow(w / most, 1 / q)) * share_of(p, &others[i]) * others[i].busy;
  }
  let_pressure me = pressure_of(p, self->model, self->batch);
  double x = most * pow(sum, q), s = me.sensitivity;
  if (c[LET_COEF_SHARE_SELF] != 0) s *= pow(share_of(p, self), c[LET_COEF_SHARE_SELF]);
  let_dur alone;
  if (me.delay_ms > 0 &&
      let_profile_latency(p, self->model, self->batch, self->granules, LET_PROFILE_P99 | LET_PROFILE_EXTRAPOLATE,
                          &alone, NULL) == LET_OK &&
      alone > 0)
    s += me.delay_ms * 1e6 / (double)alone;
  return 1 + s * x / (1 + c[LET_COEF_SATURATION] * x);
}

double let_profile_slowdown(const let_profile *p, const let_tenant *self, const let_tenant *others, uint32_t n) {
  if (n == 0 || p->interference == LET_INTERFERENCE_NONE || self->model >= p->n_models) return 1;
  for (uint32_t i = 0; i < n; i++)
    if (others[i].model >= p->n_models) return 1;
  double a = p->interference == LET_INTERFERENCE_LINEAR ? slowdown_linear(p, self, others, n)
                                                        : slowdown_pressure(p, self, others, n);
  return a > 1 ? a : 1; /* NaN too: a fit is checked when it is loaded, this is the last line */
}

uint64_t let_profile_memory(const let_profile *p, uint32_t model, uint32_t batch) {
  if (model >= p->n_models || p->model[model].n_memory == 0) return 0;
  const let_profile_model *m = &p->model[model];
  uint32_t last = m->n_memory - 1;
  if (batch > m->memory[last].batch) { /* proportional: weights counted again, so never too little */
    double f = (double)batch / m->memory[last].batch;
    return (uint64_t)((double)m->memory[last].bytes * f);
  }
  uint32_t i = 0;
  while (m->memory[i].batch < batch) i++;
  if (i == 0 || m->memory[i].batch == batch || m->memory[i].bytes < m->memory[i - 1].bytes) return m->memory[i].bytes;
  double t = (double)(batch - m->memory[i - 1].batch) / (m->memory[i].batch - m->memory[i - 1].batch);
  return m->memory[i - 1].bytes + (uint64_t)((double)(m->memory[i].bytes - m->memory[i - 1].bytes) * t);
}
