#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/optimal.h"

static int by_name(const void *a, const void *b) {
  return strcmp(((const let__want *)a)->name, ((const let__want *)b)->name);
}

static let_err wants(let__problem *p, let_error *e) {
  const let_workload *w = p->in->workload;
  p->model = let_arena_array(p->scratch, w->n + 1u, sizeof *p->model);
  if (!p->model) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  uint32_t n = 0;
  for (uint32_t i = 0; i < w->n; i++) {
    const let_demand *d = &w->demand[i];
    double rate = d->rate * (1 + p->in->headroom);
    if (!(rate >= 0) || isinf(rate))
      return let_fail(e, LET_ERR_INVALID, "model '%s': its rate must be a number from 0", d->name);
    if (rate > 0 && d->slo <= 0) return let_fail(e, LET_ERR_INVALID, "model '%s': it has no SLO", d->name);
    if (rate > 0) p->model[n++] = (let__want){d->name, rate, d->slo};
  }
  if (n > 1) qsort(p->model, n, sizeof *p->model, by_name);
  for (uint32_t i = 0; i < n; i++) { /* a model that is listed twice: both rates, the tighter SLO */
    let__want *last = p->n ? &p->model[p->n - 1] : NULL;
    if (last && strcmp(last->name, p->model[i].name) == 0) {
      last->rate += p->model[i].rate;
      if (p->model[i].slo < last->slo) last->slo = p->model[i].slo;
    } else {
      p->model[p->n++] = p->model[i];
    }
  }
  return LET_OK;
}

/* Latencies of one model on one kind. */
static let_err table(let__problem *p, let__kind *k, uint32_t m) {
  uint32_t G = k->granules, at = k->at[m];
  const let_profile_model *pm = &k->profile->model[at];
  uint32_t most = pm->n_batches ? pm->batch[pm->n_batches - 1] : 0;
  if (p->in->max_batch && p->in->max_batch < most) most = p->in->max_batch;
  k->most[m] = most = most > LET_BATCH_MAX ? LET_BATCH_MAX : most;
  if (!most) return LET_OK;
  k->low[m] = k->lat[m] = let_arena_array(p->scratch, (size_t)most * G, sizeof(let_dur));
  if (!k->lat[m]) return LET_ERR_NOMEM;
  for (uint32_t g = 1; g <= G; g++) let_profile_latencies(k->profile, at, g, most, k->lat[m] + (size_t)(g - 1) * most);
  for (uint32_t b = 1; b <= most; b++) {
    bool fits =
        !k->profile->device.memory_bytes || let_profile_memory(k->profile, at, b) <= k->profile->device.memory_bytes;
    for (uint32_t g = 1; g <= G; g++) {
      let_dur *d = &k->lat[m][(size_t)(g - 1) * most + b - 1];
      if (!fits || *d <= 0) *d = LET_NEVER;
    }
  }
  return LET_OK;
}

/* The neighbour that slows others least, per room of h granules or fewer. Which one it is does not depend on whom it
 * slows: both forms of interference take neighbours as one weight and grow with it. So one probe that is far more
 * sensitive than any model finds it. False: the fit has signs that do not allow that; then nothing is assumed. */
static bool gentlest(let__problem *p, let__kind *k, let_tenant *ret, let_err *ret_err) {
  let_profile probed = *k->profile;
  *ret_err = LET_OK;
  const double *c = probed.coef;
  bool linear = probed.interference == LET_INTERFERENCE_LINEAR;
  if (linear ? !(c[LET_COEF_L2_OTHER] >= 0 && c[LET_COEF_DRAM_OTHER] >= 0) : !(c[LET_COEF_SATURATION] >= 0))
    return false;
  probed.model = let_arena_array(p->scratch, probed.n_models + 1u, sizeof *probed.model);
  let_profile_model *probe = probed.model + probed.n_models;
  if (probed.model) probe->pressure = let_arena_array(p->scratch, 1, sizeof *probe->pressure);
  if (!probed.model || !probe->pressure) return *ret_err = LET_ERR_NOMEM, false;
  memcpy(probed.model, k->profile->model, probed.n_models * sizeof *probed.model);
  probe->n_pressure = 1, probe->pressure[0].batch = 1, probe->pressure[0].p.sensitivity = 1e6;
  if (linear)
    probed.coef[LET_COEF_CONSTANT] = 1, probed.coef[LET_COEF_L2_OTHER] *= 1e6, probed.coef[LET_COEF_DRAM_OTHER] *= 1e6;
  let_tenant self = {.model = probed.n_models++, .batch = 1, .granules = k->granules, .busy = 1};
  double *weight = let_arena_array(p->scratch, k->granules, sizeof *weight), least = INFINITY;
  let_tenant *who = let_arena_array(p->scratch, k->granules, sizeof *who);
  if (!weight || !who) return *ret_err = LET_ERR_NOMEM, false;
  for (uint32_t h = 0; h < k->granules; h++) weight[h] = INFINITY;
  for (uint32_t m = 0; m < p->n; m++) /* whose weight is less does not depend on the room either */
    for (uint32_t b = 1; b <= k->most[m]; b++) {
      let_tenant t = {.model = k->at[m], .batch = b, .granules = k->granules, .busy = 1};
      double w = -1;
      for (uint32_t h = k->granules - 1; h && let__lat(k, m, b, h) <= p->model[m].slo / 2; h--) {
        if (w < 0) w = let_profile_slowdown(&probed, &self, &t, 1);
        if (w < weight[h]) weight[h] = w, who[h] = t;
      }
    }
  for (uint32_t h = 1; h < k->granules; h++) {
    if (h > 1) ret[h] = ret[h - 1];
    if (isinf(weight[h])) continue;
    who[h].granules = h;
    double s = let_profile_slowdown(&probed, &self, &who[h], 1);
    if (s < least) least = s, ret[h] = who[h];
  }
  return true;
}

static let_err lows(let__problem *p, let__kind *k) {
  if (k->alone || !p->n) return LET_OK;
  let_tenant *gentle = let_arena_array(p->scratch, k->granules + 1u, sizeof *gentle);
  if (!gentle) return LET_ERR_NOMEM;
  for (uint32_t h = 0; h <= k->granules; h++) gentle[h].model = UINT32_MAX;
  let_err r;
  if (!gentlest(p, k, gentle, &r)) return r;
  for (uint32_t m = 0; m < p->n; m++) {
    uint32_t G = k->granules, most = k->most[m];
    if (!most) continue;
    let_dur *low = let_arena_array(p->scratch, (size_t)most * G, sizeof *low);
    if (!low) return LET_ERR_NOMEM;
    for (uint32_t b = 1; b <= most; b++)
      for (uint32_t g = 1; g <= G; g++) {
        size_t i = (size_t)(g - 1) * most + b - 1;
        low[i] = k->lat[m][i];
        if (g == G || low[i] > p->model[m].slo / 2) continue; /* too long as it is */
        let_tenant self = {.model = k->at[m], .batch = b, .granules = g, .busy = 1};
        if (gentle[G - g].model == UINT32_MAX)
          low[i] = LET_NEVER; /* nobody fits beside it: the whole device's row covers it */
        else
          low[i] = (let_dur)((double)low[i] * let_profile_slowdown(k->profile, &self, &gentle[G - g], 1) * (1 - 1e-12));
      }
    k->low[m] = low;
  }
  return LET_OK;
}

/* What each size serves at best: the batch with the most requests/s among those with 2 L <= SLO. */
static void throughputs(let__problem *p, let__kind *k, uint32_t m) {
  for (uint32_t b = 1; b <= k->most[m]; b++)
    for (uint32_t g = 1; g <= k->granules; g++) {
      let_dur d = let__low(k, m, b, g);
      if (d > p->model[m].slo / 2) continue;
      double t = (double)b / (double)d * 1e9;
      size_t i = (size_t)m * (k->granules + 1) + g;
      if (t > k->best[i]) k->best[i] = t, k->best_batch[i] = b;
    }
}

/* Can batch |b| of |m| take turns with anybody on |g| granules? The other needs a batch of 1 at least; its turn and
 * ours make the cycle that both wait for. */
static bool takes_turns(const let__problem *p, const let__kind *k, uint32_t m, uint32_t b, uint32_t g) {
  let_dur own = let__low(k, m, b, g), slo = p->model[m].slo;
  if (own > slo / 2) return false;
  for (uint32_t j = 0; j < p->n; j++) {
    if (j == m || !k->most[j]) continue;
    let_dur other = let__low(k, j, 1, g);
    if (other <= slo - 2 * own && other <= p->model[j].slo / 2 && own <= p->model[j].slo - 2 * other) return true;
  }
  return false;
}

enum { TURNS_MODELS = 1500 }; /* quadratic: beyond, every model counts as sharing, which only weakens the bound */

static void turns(let__problem *p, let__kind *k, uint32_t m) {
  for (uint32_t g = 1; g <= k->granules && k->most[m]; g++) {
    size_t i = (size_t)m * (k->granules + 1) + g;
    uint32_t lo = 0, hi = k->most[m];
    while (lo < hi &&
           p->n <= TURNS_MODELS) { /* monotone as far as latencies are; a hole in them only weakens the bound */
      uint32_t mid = (lo + hi + 1) / 2;
      if (takes_turns(p, k, m, mid, g)) lo = mid;
      else hi = mid - 1;
    }
    k->turns[i] = p->n <= TURNS_MODELS ? lo : hi;
    if (!(k->best[i] > 0)) continue;
    k->once[i] = let__once(p, k, m, g, p->model[m].rate);
    k->least[i] =
        k->turns[i] ? fmin(1, (double)let__low(k, m, 1, g) / (double)(p->model[m].slo - let__low(k, m, 1, g))) : 1;
  }
}

double let__once(const let__problem *p, const let__kind *k, uint32_t m, uint32_t g, double rate) {
  size_t i = (size_t)m * (k->granules + 1) + g;
  double part = k->best[i] >= rate ? 1 : INFINITY, slo = (double)p->model[m].slo;
  for (uint32_t b = 1; b <= k->turns[i]; b++) {
    double d = (double)let__low(k, m, b, g), w = d / fmin((double)b / rate * 1e9, slo - d);
    if (w < part) part = w;
    if ((double)b / rate * 1e9 > slo) break; /* longer cycles only help smaller batches now */
  }
  return part;
}

static let_err kind_make(let__problem *p, let__kind *k, const let_plan_pool *pool) {
  const let_device_type *d = &pool->profile->device;
  *k = (let__kind){.profile = pool->profile, .count = pool->count, .first_id = pool->first_id, .granules = d->granules};
  k->cost = p->one_type ? 1 : d->cost > 0 ? d->cost : 1;
  k->alone = pool->profile->interference == LET_INTERFERENCE_NONE;
  size_t cells = (size_t)p->n * (k->granules + 1u);
  k->at = let_arena_array(p->scratch, p->n + 1u, sizeof *k->at);
  k->most = let_arena_array(p->scratch, p->n + 1u, sizeof *k->most);
  k->lat = let_arena_array(p->scratch, p->n + 1u, sizeof *k->lat);
  k->low = let_arena_array(p->scratch, p->n + 1u, sizeof *k->low);
  k->feel = let_arena_array(p->scratch, p->n + 1u, sizeof *k->feel);
  k->best = let_arena_array(p->scratch, cells + 1, sizeof *k->best);
  k->best_batch = let_arena_array(p->scratch, cells + 1, sizeof *k->best_batch);
  k->size_price = let_arena_array(p->scratch, k->granules + 1u, sizeof *k->size_price);
  k->room = let_arena_array(p->scratch, k->granules + 1u, sizeof *k->room);
  k->turns = let_arena_array(p->scratch, cells + 1, sizeof *k->turns);
  k->once = let_arena_array(p->scratch, cells + 1, sizeof *k->once);
  k->least = let_arena_array(p->scratch, cells + 1, sizeof *k->least);
  if (!k->at || !k->most || !k->lat || !k->low || !k->feel || !k->best || !k->best_batch || !k->size_price ||
      !k->room || !k->turns || !k->once || !k->least)
    return LET_ERR_NOMEM;
  for (size_t i = 0; i < cells; i++) k->once[i] = k->least[i] = INFINITY;
  for (uint32_t m = 0; m < p->n; m++) {
    k->at[m] = let_profile_find(pool->profile, p->model[m].name);
    if (k->at[m] == UINT32_MAX) continue;
    let_err r = table(p, k, m);
    if (r) return r;
  }
  let_err r = lows(p, k);
  if (r) return r;
  for (uint32_t m = 0; m < p->n; m++) throughputs(p, k, m);
  for (uint32_t m = 0; m < p->n; m++)
    if (k->at[m] != UINT32_MAX) turns(p, k, m);
  return LET_OK;
}

let_err let__problem_make(let__problem *p, const let_plan_input *in, let_arena *a, let_error *e) {
  *p = (let__problem){.in = in, .scratch = a, .n_kinds = in->n_pools, .one_type = true};
  if (!in->n_pools) return let_fail(e, LET_ERR_INVALID, "there are no devices to plan for");
  if (!(in->headroom >= 0) || isinf(in->headroom))
    return let_fail(e, LET_ERR_INVALID, "headroom must be a number from 0");
  for (uint32_t i = 0; i < in->n_pools; i++) {
    const let_device_type *d = &in->pool[i].profile->device;
    if (d->granules < 1 || d->granules > UINT16_MAX)
      return let_fail(e, LET_ERR_INVALID, "device type '%s': granules is %u, must be 1 to %d", d->name, d->granules,
                      UINT16_MAX);
    if (strcmp(d->name, in->pool[0].profile->device.name) != 0 || d->cost != in->pool[0].profile->device.cost)
      p->one_type = false;
  }
  let_err r = wants(p, e);
  if (r) return r;
  p->kind = let_arena_array(a, in->n_pools, sizeof *p->kind);
  p->price = let_arena_array(a, p->n + 1u, sizeof *p->price);
  if (!p->kind || !p->price) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < in->n_pools; i++)
    if (kind_make(p, &p->kind[i], &in->pool[i])) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t m = 0; m < p->n; m++) {
    bool known = false;
    for (uint32_t i = 0; i < p->n_kinds; i++) known = known || p->kind[i].at[m] != UINT32_MAX;
    if (!known)
      return let_fail(e, LET_ERR_INVALID, "model '%s' is in the workload and in no profile: profile it first",
                      p->model[m].name);
  }
  return LET_OK;
}
