/* The independent judge. It reads the plan, the workload and the profiles, and nothing that a policy computed:
 * latencies and slowdowns are looked up again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "plan/policy.h"

/* Demands by name: a model that is listed twice has the sum of its rates and the tighter SLO. */
typedef struct need {
  const char *name;
  double rate, got;
  let_dur slo;
} need;

typedef struct judge {
  const let_plan *plan;
  const let_plan_input *in;
  bool promises;
  need *need;
  uint32_t n_needs;
  uint64_t *seen; /* (pool, device) pairs as pool << 32 | index, to find duplicates */
} judge;

static int by_name(const void *a, const void *b) { return strcmp(((const need *)a)->name, ((const need *)b)->name); }
static int by_u64(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static need *need_of(const judge *j, const char *name) {
  need key = {.name = name};
  return bsearch(&key, j->need, j->n_needs, sizeof key, by_name);
}

static const let_plan_pool *pool_of(const let_plan_input *in, const let_plan_gpu *g) {
  for (uint32_t i = 0; i < in->n_pools; i++)
    if (g->id >= in->pool[i].first_id && g->id - in->pool[i].first_id < in->pool[i].count) return &in->pool[i];
  return NULL;
}

static let_tenant tenant_of(const let_profile *p, const let_plan_gpulet *l, const let_plan_entry *m) {
  return (let_tenant){.model = let_profile_find(p, m->name), .batch = m->batch, .granules = l->granules, .busy = 1};
}

enum { NEIGHBOURS = 256 };

let_err let__plan_latency(const let_profile *p, const let_plan_gpu *g, uint32_t l, uint32_t k, let_dur *ret,
                          let_error *e) {
  const let_plan_gpulet *own = &g->gpulet[l];
  let_tenant self = tenant_of(p, own, &own->entry[k]), other[NEIGHBOURS];
  if (self.model == UINT32_MAX)
    return let_fail(e, LET_ERR_INVALID, "the profile of '%s' does not know model '%s'", p->device.name,
                    own->entry[k].name);
  let_dur alone = 0;
  let_err r = let_profile_latency(p, self.model, self.batch, self.granules, LET_PROFILE_P99, &alone, e);
  if (r) return r;
  uint32_t n = 0;
  for (uint32_t o = 0; o < g->n_gpulets && n < NEIGHBOURS; o++) {
    if (o == l) continue;
    double worst = -1;
    for (uint32_t i = 0; i < g->gpulet[o].n_entries; i++) {
      let_tenant t = tenant_of(p, &g->gpulet[o], &g->gpulet[o].entry[i]);
      if (t.model == UINT32_MAX) continue; /* judged where it is looked at itself */
      double s = g->gpulet[o].n_entries > 1 ? let_profile_slowdown(p, &self, &t, 1) : 0;
      if (s > worst) worst = s, other[n] = t;
    }
    if (worst >= 0) n++;
  }
  *ret = let__plan_slow(alone, n ? let_profile_slowdown(p, &self, other, n) : 1);
  return LET_OK;
}

static let_err entry_check(judge *j, const let_profile *p, const let_plan_gpu *g, uint32_t l, uint32_t k,
                           let_dur *ret_latency, let_error *e) {
  const let_plan_entry *m = &g->gpulet[l].entry[k];
  need *d = need_of(j, m->name);
  if (!d)
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: model '%s' is not in the workload", g->id, l, m->name);
  uint32_t at = let_profile_find(p, m->name);
  if (at == UINT32_MAX)
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: the profile of '%s' does not know model '%s'", g->id, l,
                    p->device.name, m->name);
  const let_profile_model *pm = &p->model[at];
  uint32_t most = pm->n_batches ? pm->batch[pm->n_batches - 1] : 0;
  if (j->in->max_batch && j->in->max_batch < most) most = j->in->max_batch;
  if (m->batch < 1 || m->batch > most || m->batch > LET_BATCH_MAX)
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u, model '%s': batch %u is outside 1 to %u", g->id, l,
                    m->name, m->batch, most);
  let_error why = {0};
  let_err r = let__plan_latency(p, g, l, k, ret_latency, &why);
  if (r) return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u, model '%s': %s", g->id, l, m->name, why.text);
  d->got += m->rate;
  return LET_OK;
}

/* Several models take turns: one cycle runs one batch of each, so a request waits for at most one cycle and then
 * runs: D + L <= SLO with D the sum of all their L; and a cycle brings batch/D requests/s. One model alone is the
 * same rule: 2 L <= SLO, rate <= batch/L. A longer cycle than the sum only loses, so the sum is the one to judge. */
static let_err gpulet_check(judge *j, const let_profile *p, const let_plan_gpu *g, uint32_t l, let_error *e) {
  const let_plan_gpulet *t = &g->gpulet[l];
  if (t->shared && j->promises)
    return let_fail(e, LET_ERR_INVALID,
                    "gpu %u, gpu-let %u: overlaps its neighbours, so policy '%s' cannot promise its latency", g->id, l,
                    j->plan->policy);
  let_dur cycle = 0, lat;
  for (uint32_t k = 0; k < t->n_entries; k++) {
    let_err r = entry_check(j, p, g, l, k, &lat, e);
    if (r) return r;
    cycle += lat;
  }
  if (!j->promises) return LET_OK;
  for (uint32_t k = 0; k < t->n_entries; k++) {
    const let_plan_entry *m = &t->entry[k];
    const need *d = need_of(j, m->name);
    char a[LET_UNITS_MAX], b[LET_UNITS_MAX], c[LET_UNITS_MAX];
    let_err r = let__plan_latency(p, g, l, k, &lat, e);
    if (r) return r;
    if (cycle + lat > d->slo)
      return let_fail(
          e, LET_ERR_INVALID,
          "gpu %u, gpu-let %u, model '%s': waits up to %s and runs %s at batch %u, longer than its SLO of %s", g->id, l,
          m->name, let_print_dur(cycle, a), let_print_dur(lat, b), m->batch, let_print_dur(d->slo, c));
    if (!let__plan_covers(m->batch, cycle, m->rate))
      return let_fail(e, LET_ERR_INVALID,
                      "gpu %u, gpu-let %u, model '%s': %.6g/s are planned, batch %u every %s serves %.6g/s", g->id, l,
                      m->name, m->rate, m->batch, let_print_dur(cycle, a), (double)m->batch / (double)cycle * 1e9);
  }
  return LET_OK;
}

static let_err gpu_check(judge *j, const let_plan_gpu *g, let_error *e) {
  const let_plan_pool *pool = pool_of(j->in, g);
  if (!pool) return let_fail(e, LET_ERR_INVALID, "gpu %u is not in the inventory", g->id);
  const let_profile *p = pool->profile;
  if (strcmp(g->type, p->device.name) != 0)
    return let_fail(e, LET_ERR_INVALID, "gpu %u is a '%s' in the plan and a '%s' in the inventory", g->id, g->type,
                    p->device.name);
  if (g->granules != p->device.granules)
    return let_fail(e, LET_ERR_INVALID, "gpu %u has %u granules in the plan, a '%s' has %u", g->id, g->granules,
                    g->type, p->device.granules);
  uint64_t memory = 0, granules = 0;
  double bytes = 0;
  for (uint32_t l = 0; l < g->n_gpulets; l++) {
    const let_plan_gpulet *t = &g->gpulet[l];
    if (t->granules < 1) return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u has no granules", g->id, l);
    if (!t->shared) granules += t->granules;
    let_err r = gpulet_check(j, p, g, l, e);
    if (r) return r;
    for (uint32_t k = 0; k < t->n_entries; k++) {
      uint32_t at = let_profile_find(p, t->entry[k].name);
      memory += let_profile_memory(p, at, t->entry[k].batch);
      bytes += t->entry[k].rate * (double)p->model[at].input_bytes;
    }
  }
  if (granules > g->granules)
    return let_fail(e, LET_ERR_INVALID, "gpu %u: its gpu-lets take %llu granules, the device has %u", g->id,
                    (unsigned long long)granules, g->granules);
  char a[LET_UNITS_MAX], b[LET_UNITS_MAX];
  if (p->device.memory_bytes && memory > p->device.memory_bytes)
    return let_fail(e, LET_ERR_INVALID, "gpu %u: its models take %s, the device has %s", g->id,
                    let_print_size(memory, a), let_print_size(p->device.memory_bytes, b));
  if (p->device.bandwidth > 0 && bytes > p->device.bandwidth * (1 + LET__PLAN_EPS))
    return let_fail(e, LET_ERR_INVALID, "gpu %u: inputs of %.4g bytes/s, the device can take %.4g", g->id, bytes,
                    p->device.bandwidth);
  return LET_OK;
}

static let_err devices_check(judge *j, let_error *e) {
  for (uint32_t i = 0; i < j->plan->n_gpus; i++) j->seen[i] = j->plan->gpu[i].id;
  if (j->plan->n_gpus > 1) qsort(j->seen, j->plan->n_gpus, sizeof *j->seen, by_u64);
  for (uint32_t i = 1; i < j->plan->n_gpus; i++)
    if (j->seen[i] == j->seen[i - 1])
      return let_fail(e, LET_ERR_INVALID, "gpu %u is listed twice", (unsigned)j->seen[i]);
  uint32_t used = 0;
  for (uint32_t i = 0; i < j->plan->n_gpus; i++) {
    used += j->plan->gpu[i].n_gpulets > 0;
    let_err r = gpu_check(j, &j->plan->gpu[i], e);
    if (r) return r;
  }
  if (used != j->plan->gpus_used)
    return let_fail(e, LET_ERR_INVALID, "the plan says that it uses %u gpus and uses %u", j->plan->gpus_used, used);
  return LET_OK;
}

static void needs_of(judge *j) {
  const let_workload *w = j->in->workload;
  for (uint32_t i = 0; i < w->n; i++)
    j->need[i] =
        (need){.name = w->demand[i].name, .rate = w->demand[i].rate * (1 + j->in->headroom), .slo = w->demand[i].slo};
  if (w->n > 1) qsort(j->need, w->n, sizeof *j->need, by_name);
  for (uint32_t i = 0; i < w->n; i++) {
    need *last = j->n_needs ? &j->need[j->n_needs - 1] : NULL;
    if (last && strcmp(last->name, j->need[i].name) == 0) {
      last->rate += j->need[i].rate;
      if (j->need[i].slo < last->slo) last->slo = j->need[i].slo;
    } else {
      j->need[j->n_needs++] = j->need[i];
    }
  }
}

let_err let_plan_check(const let_plan *p, const let_plan_input *in, let_error *e) {
  if (!p->feasible)
    return let_fail(e, LET_ERR_INVALID, "the plan is not feasible: %s",
                    p->n_reasons ? p->reason[0] : "no reason given");
  const let_policy *policy = let_policy_find(p->policy);
  judge j = {.plan = p, .in = in, .promises = !policy || policy->promises};
  j.need = calloc(in->workload->n + 1u, sizeof *j.need);
  j.seen = calloc(p->n_gpus + 1u, sizeof *j.seen);
  let_err r = LET_ERR_NOMEM;
  if (j.need && j.seen) {
    needs_of(&j);
    r = let_plan_validate(p, e);
    if (!r) r = devices_check(&j, e);
    for (uint32_t i = 0; !r && i < j.n_needs; i++)
      if (!(j.need[i].got >= j.need[i].rate * (1 - LET__PLAN_EPS)))
        r = let_fail(e, LET_ERR_INVALID, "model '%s' gets %.6g of %.6g requests/s", j.need[i].name, j.need[i].got,
                     j.need[i].rate);
  } else {
    (void)let_fail(e, LET_ERR_NOMEM, "out of memory while checking the plan");
  }
  free(j.need), free(j.seen);
  return r;
}
