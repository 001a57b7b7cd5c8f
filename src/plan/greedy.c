#include "plan/greedy.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static int by_name(const void *a, const void *b) {
  return strcmp(((const let__job *)a)->name, ((const let__job *)b)->name);
}

static let_err jobs_of(let__greedy *g, let_error *e) {
  const let_workload *w = g->in->workload;
  uint32_t n = 0, k = 0;
  g->job = let_arena_array(g->arena, w->n + 1u, sizeof *g->job);
  if (!g->job) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < w->n; i++) {
    const let_demand *d = &w->demand[i];
    double rate = d->rate * (1 + g->in->headroom);
    if (!(rate >= 0) || isinf(rate))
      return let_fail(e, LET_ERR_INVALID, "model '%s': its rate must be a number from 0", d->name);
    if (rate > 0 && d->slo <= 0) return let_fail(e, LET_ERR_INVALID, "model '%s': it has no SLO", d->name);
    if (rate > 0) g->job[n++] = (let__job){d->name, rate, d->slo};
  }
  if (n > 1) qsort(g->job, n, sizeof *g->job, by_name);
  for (uint32_t i = 0; i < n; i++)
    if (k && strcmp(g->job[k - 1].name, g->job[i].name) == 0) {
      g->job[k - 1].rate += g->job[i].rate;
      if (g->job[i].slo < g->job[k - 1].slo) g->job[k - 1].slo = g->job[i].slo;
    } else g->job[k++] = g->job[i];
  g->n_jobs = k;
  return LET_OK;
}

let_err let__greedy_init(let__greedy *g, const let_plan_input *in, let_arena *a, bool interference, let_error *e) {
  *g = (let__greedy){.in = in, .arena = a, .interference = interference};
  if (!in->n_pools) return let_fail(e, LET_ERR_INVALID, "there are no devices to plan for");
  if (!(in->headroom >= 0) || isinf(in->headroom))
    return let_fail(e, LET_ERR_INVALID, "headroom must be a number from 0");
  let_err r = jobs_of(g, e);
  if (r) return r;
  uint64_t total = 0;
  for (uint32_t p = 0; p < in->n_pools; p++) total += in->pool[p].count;
  if (total > 1u << 24)
    return let_fail(e, LET_ERR_INVALID, "%llu devices: at most %u", (unsigned long long)total, 1u << 24);
  g->total = (uint32_t)total;
  g->gpu = let_arena_array(a, total + 1, sizeof *g->gpu);
  g->at = let_arena_array(a, (size_t)in->n_pools * g->n_jobs + 1, sizeof *g->at);
  g->opened = let_arena_array(a, in->n_pools, sizeof *g->opened);
  g->capacity = let_arena_array(a, in->n_pools, sizeof *g->capacity);
  if (!g->gpu || !g->at || !g->opened || !g->capacity) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t p = 0; p < in->n_pools; p++) {
    const let_profile *prof = in->pool[p].profile;
    size_t cells = (size_t)g->n_jobs * (prof->device.granules + 1u);
    g->capacity[p] = let_arena_array(a, cells + 1, sizeof **g->capacity);
    if (!g->capacity[p]) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < cells; i++) g->capacity[p][i] = -1;
    for (uint32_t j = 0; j < g->n_jobs; j++) g->at[(size_t)p * g->n_jobs + j] = let_profile_find(prof, g->job[j].name);
  }
  for (uint32_t j = 0; j < g->n_jobs; j++) {
    bool known = false;
    for (uint32_t p = 0; p < in->n_pools; p++) known |= g->at[(size_t)p * g->n_jobs + j] != UINT32_MAX;
    if (!known)
      return let_fail(e, LET_ERR_INVALID, "model '%s' is in the workload and in no profile: profile it first",
                      g->job[j].name);
  }
  return LET_OK;
}

static uint32_t model_at(const let__greedy *g, uint32_t pool, uint32_t job) {
  return g->at[(size_t)pool * g->n_jobs + job];
}

let_dur let__greedy_latency(const let__greedy *g, uint32_t pool, uint32_t job, uint32_t batch, uint32_t granules) {
  let_dur d;
  uint32_t m = model_at(g, pool, job);
  if (m == UINT32_MAX ||
      let_profile_latency(let__greedy_profile(g, pool), m, batch, granules, LET_PROFILE_P99, &d, NULL) || d <= 0)
    return LET_NEVER;
  return d;
}

uint32_t let__greedy_most(const let__greedy *g, uint32_t pool, uint32_t job) {
  uint32_t at = model_at(g, pool, job);
  if (at == UINT32_MAX) return 0;
  const let_profile_model *m = &let__greedy_profile(g, pool)->model[at];
  uint32_t most = m->n_batches ? m->batch[m->n_batches - 1] : 0;
  if (most > LET_BATCH_MAX) most = LET_BATCH_MAX;
  return g->in->max_batch && g->in->max_batch < most ? g->in->max_batch : most;
}

uint32_t let__greedy_least(const let__greedy *g, uint32_t pool, uint32_t job) {
  uint32_t at = model_at(g, pool, job);
  const let_profile *p = let__greedy_profile(g, pool);
  return at == UINT32_MAX || p->model[at].n_batches == 0 ? 1 : p->model[at].batch[0];
}

double let__greedy_capacity(let__greedy *g, uint32_t pool, uint32_t job, uint32_t granules) {
  const let_profile *p = let__greedy_profile(g, pool);
  double *c = &g->capacity[pool][(size_t)job * (p->device.granules + 1u) + granules];
  if (*c >= 0) return *c;
  *c = 0;
  uint32_t most = let__greedy_most(g, pool, job);
  for (uint32_t b = let__greedy_least(g, pool, job); b <= most; b++) {
    let_dur d = let__greedy_latency(g, pool, job, b, granules);
    if (d > g->job[job].slo / 2) {
      if (d != LET_NEVER) break; /* latency never falls with the batch */
      continue;
    }
    if (p->device.memory_bytes && let_profile_memory(p, model_at(g, pool, job), b) > p->device.memory_bytes) break;
    if ((double)b / (double)d * 1e9 > *c) *c = (double)b / (double)d * 1e9;
  }
  return *c;
}

static let_tenant tenant_of(const let__greedy *g, uint32_t pool, const let__part *p, const let__work *w) {
  return (let_tenant){.model = model_at(g, pool, w->job), .batch = w->batch, .granules = p->granules, .busy = 1};
}

/* As the judge sees it: beside the entry of each neighbour that alone slows this one most. */
static double slowdown(const let__greedy *g, uint32_t pool, const let__part *part, uint32_t n, uint32_t self,
                       const let__work *w) {
  const let_profile *p = let__greedy_profile(g, pool);
  let_tenant me = tenant_of(g, pool, &part[self], w), other[LET__PARTS_MAX];
  uint32_t k = 0;
  for (uint32_t o = 0; o < n && k < LET__PARTS_MAX; o++) {
    if (o == self || part[o].n == 0) continue;
    double worst = -1;
    for (uint32_t i = 0; i < part[o].n; i++) {
      let_tenant t = tenant_of(g, pool, &part[o], &part[o].work[i]);
      double s = part[o].n > 1 ? let_profile_slowdown(p, &me, &t, 1) : 0;
      if (s > worst) worst = s, other[k] = t;
    }
    k++;
  }
  return k ? let_profile_slowdown(p, &me, other, k) : 1;
}

/* The fixed point for one part under given slowdowns, upwards from the batches it has. */
static bool solve(const let__greedy *g, uint32_t pool, let__part *p, const double *slow) {
  for (;;) {
    let_dur cycle = 0;
    for (uint32_t i = 0; i < p->n; i++) {
      let__work *w = &p->work[i];
      let_dur alone = let__greedy_latency(g, pool, w->job, w->batch, p->granules);
      if (alone == LET_NEVER) return false;
      w->latency = let__plan_slow(alone, slow[i]);
      cycle += w->latency;
    }
    bool stable = true;
    for (uint32_t i = 0; i < p->n; i++) {
      let__work *w = &p->work[i];
      if (cycle + w->latency > g->job[w->job].slo) return false;
      if (let__plan_covers(w->batch, cycle, w->rate)) continue;
      double want = ceil(w->rate * (double)cycle * 1e-9 * (1 - LET__PLAN_EPS));
      uint32_t most = let__greedy_most(g, pool, w->job);
      if (want > most) return false;
      w->batch = want > w->batch ? (uint32_t)want : w->batch + 1;
      if (w->batch > most) return false;
      stable = false;
    }
    if (stable) return true;
  }
}

static bool resources(const let__greedy *g, uint32_t pool, const let__part *part, uint32_t n) {
  const let_profile *p = let__greedy_profile(g, pool);
  uint64_t memory = 0;
  double bytes = 0;
  for (uint32_t l = 0; l < n; l++)
    for (uint32_t i = 0; i < part[l].n; i++) {
      uint32_t m = model_at(g, pool, part[l].work[i].job);
      memory += let_profile_memory(p, m, part[l].work[i].batch);
      bytes += part[l].work[i].rate * (double)p->model[m].input_bytes;
    }
  return (!p->device.memory_bytes || memory <= p->device.memory_bytes) &&
         (!(p->device.bandwidth > 0) || bytes <= p->device.bandwidth);
}

bool let__greedy_holds(const let__greedy *g, uint32_t pool, let__part *part, uint32_t n) {
  double slow[LET__WORKS_MAX];
  for (uint32_t l = 0; l < n; l++)
    for (uint32_t i = 0; i < part[l].n; i++) part[l].work[i].batch = let__greedy_least(g, pool, part[l].work[i].job);
  /* Batches move slowdowns, slowdowns move batches: only upwards, so this ends; the last round changes nothing. */
  for (int round = 0; round < 64; round++) {
    bool moved = false;
    for (uint32_t l = 0; l < n; l++) {
      uint32_t before = 0, after = 0;
      for (uint32_t i = 0; i < part[l].n; i++) {
        slow[i] = g->interference && !part[l].shared ? slowdown(g, pool, part, n, l, &part[l].work[i]) : 1;
        before += part[l].work[i].batch;
      }
      if (!solve(g, pool, &part[l], slow)) return false;
      for (uint32_t i = 0; i < part[l].n; i++) after += part[l].work[i].batch;
      moved |= after != before;
    }
    if (!moved) return resources(g, pool, part, n);
    if (!g->interference && round == 0) return resources(g, pool, part, n);
  }
  return false;
}

bool let__greedy_add(let__greedy *g, let__gpu *gpu, uint32_t at, uint32_t granules, bool shared, uint32_t job,
                     double rate, bool *oom) {
  if (at > gpu->n || at >= LET__PARTS_MAX || model_at(g, gpu->pool, job) == UINT32_MAX) return false;
  if (at == gpu->n && !shared && granules > gpu->free) return false;
  let__part part[LET__PARTS_MAX];
  let__work work[LET__PARTS_MAX][LET__WORKS_MAX];
  uint32_t n = at == gpu->n ? gpu->n + 1 : gpu->n, twin = UINT32_MAX;
  for (uint32_t l = 0; l < n; l++) {
    part[l] = l < gpu->n ? gpu->part[l] : (let__part){.granules = granules, .shared = shared};
    if (part[l].n) memcpy(work[l], part[l].work, part[l].n * sizeof **work);
    part[l].work = work[l];
  }
  for (uint32_t i = 0; i < part[at].n; i++)
    if (work[at][i].job == job) twin = i;
  if (twin != UINT32_MAX) work[at][twin].rate += rate;
  else if (part[at].n == LET__WORKS_MAX) return false;
  else work[at][part[at].n++] = (let__work){.job = job, .rate = rate};
  if (!let__greedy_holds(g, gpu->pool, part, n)) return false;
  if (at == gpu->n && (!gpu->part || (gpu->n & (gpu->n - 1)) == 0)) { /* full at every power of two */
    let__part *more = let_arena_array(g->arena, gpu->n ? gpu->n * 2u : 1, sizeof *more);
    if (!more) return *oom = true, false;
    if (gpu->n) memcpy(more, gpu->part, gpu->n * sizeof *more);
    gpu->part = more;
  }
  for (uint32_t l = 0; l < n; l++) {
    let__work *w = l < gpu->n && l != at ? gpu->part[l].work : let_arena_array(g->arena, part[l].n, sizeof *w);
    if (!w) return *oom = true, false;
    memcpy(w, work[l], part[l].n * sizeof *w);
    part[l].work = w;
  }
  memcpy(gpu->part, part, n * sizeof *part);
  if (at == gpu->n) {
    gpu->n++;
    if (!shared) gpu->free -= granules;
  }
  return true;
}

let__gpu *let__greedy_open(let__greedy *g, uint32_t pool) {
  const let_plan_pool *p = &g->in->pool[pool];
  if (g->opened[pool] == p->count) return NULL;
  let__gpu *x = &g->gpu[g->n_gpus++];
  *x = (let__gpu){.pool = pool, .id = p->first_id + g->opened[pool]++, .free = p->profile->device.granules};
  return x;
}

void let__greedy_close(let__greedy *g) {
  LET_ASSERT(g->n_gpus && g->gpu[g->n_gpus - 1].n == 0);
  g->opened[g->gpu[--g->n_gpus].pool]--;
}

uint32_t let__greedy_whole(let__greedy *g, uint32_t pool, uint32_t job, double rate) {
  (void)job, (void)rate;
  return let__greedy_profile(g, pool)->device.granules;
}

double let__greedy_open_for(let__greedy *g, let__greedy_size *size, bool shared, uint32_t job, double rate, bool *oom) {
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    uint32_t granules = size(g, p, job, rate);
    double most = let__greedy_capacity(g, p, job, granules), give = rate < most ? rate : most;
    let__gpu *x = most > 0 ? let__greedy_open(g, p) : NULL;
    if (!x) continue;
    if (let__greedy_add(g, x, 0, granules, shared, job, give, oom)) return give;
    if (*oom) return 0;
    let__greedy_close(g);
  }
  return 0;
}

uint32_t *let__greedy_order(let__greedy *g, const double *key) {
  uint32_t *o = let_arena_array(g->arena, g->n_jobs + 1u, sizeof *o);
  for (uint32_t i = 0; o && i < g->n_jobs; i++) { /* insertion: jobs are already by name, and ties keep that order */
    uint32_t k = i;
    for (; k && key[o[k - 1]] < key[i]; k--) o[k] = o[k - 1];
    o[k] = i;
  }
  return o;
}

void let__greedy_reason(let__greedy *g, const char *fmt, ...) {
  if (g->n_reasons == sizeof g->reason / sizeof *g->reason) return;
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  char *s = let_arena_strdup(g->arena, text, strlen(text));
  if (s) g->reason[g->n_reasons++] = s;
}

void let__greedy_refuse(let__greedy *g, uint32_t job, double rate) {
  const let__job *j = &g->job[job];
  let_dur best = LET_NEVER;
  const char *type = "";
  char a[LET_UNITS_MAX], b[LET_UNITS_MAX], c[LET_UNITS_MAX];
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    const let_device_type *d = &let__greedy_profile(g, p)->device;
    let_dur l = let__greedy_latency(g, p, job, let__greedy_least(g, p, job), d->granules);
    if (l < best) best = l, type = d->name;
  }
  if (best == LET_NEVER)
    let__greedy_reason(
        g, "model '%s': no device's profile covers it whole: profile its smallest batch on the whole device", j->name);
  else if (2 * best > j->slo)
    let__greedy_reason(g,
                       "model '%s': at best 2 x %s = %s on a whole '%s', its SLO is %s: a larger SLO, a faster device "
                       "or a smaller input would make it fit",
                       j->name, let_print_dur(best, a), let_print_dur(2 * best, b), type, let_print_dur(j->slo, c));
  else
    let__greedy_reason(g,
                       "model '%s': no place for %.6g of its %.6g requests/s on %u devices: more devices, lower rates "
                       "or a larger SLO would make it fit",
                       j->name, rate, j->rate, g->total);
}

static let_err emit_gpu(const let__greedy *g, const let__gpu *x, let_plan_gpu *o, let_error *e) {
  const let_device_type *d = &let__greedy_profile(g, x->pool)->device;
  *o = (let_plan_gpu){.id = x->id, .granules = d->granules, .n_gpulets = x->n};
  snprintf(o->type, sizeof o->type, "%s", d->name);
  o->gpulet = let_arena_array(g->arena, x->n, sizeof *o->gpulet);
  if (!o->gpulet) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t l = 0; l < x->n; l++) {
    const let__part *p = &x->part[l];
    let_plan_gpulet *t = &o->gpulet[l];
    *t = (let_plan_gpulet){.first = UINT32_MAX, .granules = p->granules, .shared = p->shared, .n_entries = p->n};
    t->entry = let_arena_array(g->arena, p->n, sizeof *t->entry);
    if (!t->entry) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < p->n; i++) {
      const let__work *w = &p->work[i];
      t->entry[i] =
          (let_plan_entry){.batch = w->batch, .rate = w->rate, .latency = w->latency, .slo = g->job[w->job].slo};
      snprintf(t->entry[i].name, sizeof t->entry[i].name, "%s", g->job[w->job].name);
    }
  }
  return LET_OK;
}

let_err let__greedy_finish(let__greedy *g, const let_policy *policy, double started, bool feasible, let_plan *ret,
                           let_error *e) {
  let_plan p = {.feasible = feasible, .gpus_used = g->n_gpus, .n_gpus = g->n_gpus};
  snprintf(p.policy, sizeof p.policy, "%s", policy->name);
  p.gpu = let_arena_array(g->arena, g->n_gpus + 1u, sizeof *p.gpu);
  if (!p.gpu) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    double cost = let__greedy_profile(g, g->gpu[i].pool)->device.cost;
    p.cost += cost > 0 ? cost : 1;
    let_err r = emit_gpu(g, &g->gpu[i], &p.gpu[i], e);
    if (r) return r;
  }
  let_err r = let_plan_place(&p, e);
  if (r) return r;
  p.time_ms = let__greedy_now(g->in) - started;
  bool known = false;
  for (uint32_t i = 0; i < g->in->n_pools; i++)
    known |= let__greedy_profile(g, i)->interference != LET_INTERFERENCE_NONE;
  if (!known) let__greedy_reason(g, "no interference is predicted: the profile has no fitted model");
  let_error why = {0};
  if (feasible && policy->promises && let_plan_check(&p, g->in, &why)) {
    if (why.code == LET_ERR_NOMEM) return let_fail(e, LET_ERR_NOMEM, "%s", why.text);
    let__greedy_reason(g, "policy '%s' ignores interference; judged with it: %s", policy->name, why.text);
  }
  if (!policy->promises)
    let__greedy_reason(g, "policy '%s' promises no latency: the models of a device share all of it", policy->name);
  p.reason = let_arena_array(g->arena, g->n_reasons + 1u, sizeof *p.reason);
  if (!p.reason) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  memcpy(p.reason, g->reason, g->n_reasons * sizeof *p.reason);
  p.n_reasons = g->n_reasons;
  *ret = p;
  return LET_OK;
}

static let_err place_all(let__greedy *g, const double *key, let__greedy_place *place, bool *ret_feasible,
                         let_error *e) {
  bool oom = false, feasible = true;
  uint32_t *order = let__greedy_order(g, key);
  if (!order) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < g->n_jobs && !oom; i++) {
    uint32_t j = order[i];
    double left = g->job[j].rate;
    while (left > g->job[j].rate * LET__PLAN_EPS && !oom) {
      double got = place(g, j, left, &oom);
      left -= got;
      if (got > 0 || oom) continue;
      let__greedy_refuse(g, j, left);
      feasible = false;
      break;
    }
  }
  if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  *ret_feasible = feasible;
  return LET_OK;
}

let_err let__greedy_make(const let_plan_input *in, let_arena *a, const let_policy *policy, let__greedy_key *key,
                         let__greedy_place *place, let_plan *ret, let_error *e) {
  double started = let__greedy_now(in);
  let__greedy g;
  let_err r = let__greedy_init(&g, in, a, false, e);
  if (r) return r;
  bool feasible = false;
  double *keys = let_arena_array(a, g.n_jobs + 1u, sizeof *keys);
  if (!keys) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t j = 0; j < g.n_jobs; j++) keys[j] = key(&g, j, g.job[j].rate);
  if ((r = place_all(&g, keys, place, &feasible, e)) != LET_OK) return r;
  return let__greedy_finish(&g, policy, started, feasible, ret, e);
}
