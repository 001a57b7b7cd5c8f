/* The policy `optimal`: a certified bound and its prices (bound.c), devices filled at those prices (fill.c), then
 * ruin and recreate until the bound is met or the effort is spent. Effort is counted, not timed: the same input
 * gives the same plan on every machine unless the caller's time limit cuts in. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "plan/search.h"

static let_err say(let_arena *a, let_plan *plan, uint32_t cap, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static let_err say(let_arena *a, let_plan *plan, uint32_t cap, const char *fmt, ...) {
  if (plan->n_reasons == cap) return LET_OK;
  char text[512];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (n < 0) n = 0;
  char *copy = let_arena_strdup(a, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
  if (!copy) return LET_ERR_NOMEM;
  plan->reason[plan->n_reasons++] = copy;
  return LET_OK;
}

enum { REASONS = 32 };

/* A model that no device type can serve: says how fast it could be at best, and what would help. */
static let_err explain_model(let__problem *p, let_plan *plan, uint32_t m) {
  char a[LET_UNITS_MAX], b[LET_UNITS_MAX];
  let_dur least = LET_NEVER;
  const char *type = "";
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    if (!p->kind[k].lat[m]) continue;
    for (uint32_t g = 1; g <= p->kind[k].granules; g++)
      if (let__lat(&p->kind[k], m, 1, g) < least)
        least = let__lat(&p->kind[k], m, 1, g), type = p->kind[k].profile->device.name;
  }
  if (least == LET_NEVER)
    return say(p->arena, plan, REASONS,
               "model '%s': no device type has both its memory and a measured latency at batch 1: profile batch 1, "
               "or add a larger device",
               p->model[m].name);
  return say(
      p->arena, plan, REASONS,
      "model '%s': its SLO of %s cannot be met: one batch of 1 takes %s at best (a whole '%s', nothing beside it) and "
      "a request "
      "may wait for one batch before its own; an SLO of %s, a faster device, or a smaller input would make it fit",
      p->model[m].name, let_print_dur(p->model[m].slo, a), let_print_dur(least, b), type,
      let_print_dur(2 * least, (char[LET_UNITS_MAX]){0}));
}

static bool servable(const let__problem *p, uint32_t m) {
  for (uint32_t k = 0; k < p->n_kinds; k++)
    for (uint32_t g = 1; g <= p->kind[k].granules; g++)
      if (let__best(&p->kind[k], m, g) > 0) return true;
  return false;
}

static let_err explain(let__problem *p, let_plan *plan, bool *ret_hopeless) {
  *ret_hopeless = false;
  for (uint32_t m = 0; m < p->n; m++) {
    if (servable(p, m)) continue;
    *ret_hopeless = true;
    if (explain_model(p, plan, m)) return LET_ERR_NOMEM;
  }
  return LET_OK;
}

static let_err notes(let__problem *p, let_plan *plan) {
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    const let_profile *f = p->kind[k].profile;
    if (f->interference == LET_INTERFERENCE_NONE &&
        say(p->arena, plan, REASONS, "device type '%s': no interference was measured, none is predicted",
            f->device.name))
      return LET_ERR_NOMEM;
    uint32_t unknown = 0;
    for (uint32_t m = 0; m < p->n && f->device.memory_bytes; m++)
      unknown += p->kind[k].at[m] != UINT32_MAX && !f->model[p->kind[k].at[m]].n_memory;
    if (unknown &&
        say(p->arena, plan, REASONS, "device type '%s': the memory of %u models was not measured and counts as 0",
            f->device.name, unknown))
      return LET_ERR_NOMEM;
  }
  return LET_OK;
}

/* --- the plan from patterns --- */

static let_err emit_gpu(const let__problem *p, const let__pattern *x, const double *share, let_plan_gpu *g,
                        uint32_t id) {
  const let__kind *k = &p->kind[x->kind];
  *g = (let_plan_gpu){.id = id, .granules = k->granules, .n_gpulets = x->n ? x->item[x->n - 1].slot + 1u : 0};
  memcpy(g->type, k->profile->device.name, sizeof g->type);
  g->gpulet = let_arena_array(p->arena, g->n_gpulets, sizeof *g->gpulet);
  let_plan_entry *entry = let_arena_array(p->arena, x->n, sizeof *entry);
  if (!g->gpulet || !entry) return LET_ERR_NOMEM;
  for (uint32_t i = 0; i < x->n; i++) {
    const let__item *y = &x->item[i];
    let_plan_gpulet *l = &g->gpulet[y->slot];
    if (!l->n_entries) *l = (let_plan_gpulet){.first = UINT32_MAX, .granules = y->granules, .entry = &entry[i]};
    l->n_entries++;
    entry[i] = (let_plan_entry){
        .batch = y->batch, .rate = y->cap * share[y->model], .latency = y->lat, .slo = p->model[y->model].slo};
    size_t len = strlen(p->model[y->model].name);
    memcpy(entry[i].name, p->model[y->model].name, len < LET_NAME_MAX ? len : LET_NAME_MAX - 1);
  }
  return LET_OK;
}

static bool same_slot(const let__pattern *a, uint32_t i, const let__pattern *b, uint32_t j) {
  uint32_t x = a->item[i].slot, y = b->item[j].slot;
  for (; i < a->n && j < b->n && a->item[i].slot == x && b->item[j].slot == y; i++, j++)
    if (a->item[i].model != b->item[j].model || a->item[i].batch != b->item[j].batch ||
        a->item[i].granules != b->item[j].granules)
      return false;
  return (i == a->n || a->item[i].slot != x) && (j == b->n || b->item[j].slot != y);
}

/* What turning |old| into |x| costs in changes. */
static uint32_t change_price(const let__pattern *x, const let__pattern *old) {
  uint64_t kept = 0;
  uint32_t price = 0;
  for (uint32_t i = 0, end; i < x->n; i = end) {
    for (end = i + 1; end < x->n && x->item[end].slot == x->item[i].slot;) end++;
    uint32_t j = 0;
    while (j < old->n && ((j && old->item[j].slot == old->item[j - 1].slot) || (kept >> old->item[j].slot % 64 & 1) ||
                          !same_slot(x, i, old, j)))
      j++;
    if (j < old->n) kept |= 1ull << old->item[j].slot % 64;
    for (uint32_t k = i; j == old->n && k < end; k++) {
      uint32_t at = 0;
      while (at < old->n && old->item[at].model != x->item[k].model) at++;
      price += at < old->n ? LET__PRICE_SHARE : LET__PRICE_MOVE;
    }
  }
  return price;
}

/* Where each running device that is still free goes on with the pattern that changes it least; each device once. */
static let_err emit_changed(let__problem *p, const let__set *s, const let__running *run, const double *share,
                            bool *taken, uint32_t *left, let_plan *plan) {
  for (uint32_t r = 0; r < run->n; r++) {
    const let__device *d = &run->device[r];
    uint32_t at = UINT32_MAX, least = UINT32_MAX;
    for (uint32_t i = 0; !taken[d->index] && i < s->n; i++) {
      if (!left[i] || s->p[i].kind != d->pattern.kind) continue;
      uint32_t c = change_price(&s->p[i], &d->pattern);
      if (c < least && c < LET__PRICE_MOVE * s->p[i].n) least = c, at = i; /* nothing in common: any device will do */
    }
    if (at == UINT32_MAX) continue;
    if (emit_gpu(p, &s->p[at], share, &plan->gpu[plan->n_gpus++], d->id)) return LET_ERR_NOMEM;
    left[at]--, taken[d->index] = true;
  }
  return LET_OK;
}

/* Ids: a running device that already has a pattern's content keeps it; then those that change least; the rest in order.
 */
static let_err emit(let__problem *p, const let__set *s, const let__running *run, let_plan *plan) {
  double *share = let_arena_array(p->scratch, p->n + 1u, sizeof *share);
  uint32_t n = 0, total = 0;
  for (uint32_t k = 0; k < p->n_kinds; k++) total += p->kind[k].count;
  for (uint32_t i = 0; i < s->n; i++) n += s->p[i].count;
  plan->gpu = let_arena_array(p->arena, n + 1u, sizeof *plan->gpu);
  bool *taken = let_arena_array(p->scratch, total + 1u, sizeof *taken);
  uint32_t *left = let_arena_array(p->scratch, s->n + 1u, sizeof *left);
  if (!share || !plan->gpu || !taken || !left) return LET_ERR_NOMEM;
  let__shares(p, s, share);
  for (uint32_t i = 0; i < s->n; i++) left[i] = s->p[i].count;
  for (uint32_t r = 0; r < run->n; r++) /* unchanged devices first */
    for (uint32_t i = 0; i < s->n; i++) {
      if (!left[i] || taken[run->device[r].index] || !let__same(&s->p[i], &run->device[r].pattern)) continue;
      if (emit_gpu(p, &s->p[i], share, &plan->gpu[plan->n_gpus++], run->device[r].id)) return LET_ERR_NOMEM;
      left[i]--, taken[run->device[r].index] = true;
      break;
    }
  if (emit_changed(p, s, run, share, taken, left, plan)) return LET_ERR_NOMEM;
  uint32_t base = 0;
  for (uint32_t k = 0; k < p->n_kinds; base += p->kind[k++].count) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < s->n; i++) {
      if (s->p[i].kind != k) continue;
      for (; left[i]; left[i]--) {
        while (at < p->kind[k].count && taken[base + at]) at++;
        if (at == p->kind[k].count) return LET_ERR_INTERNAL; /* the caller checked the counts */
        taken[base + at] = true;
        if (emit_gpu(p, &s->p[i], share, &plan->gpu[plan->n_gpus++], p->kind[k].first_id + at)) return LET_ERR_NOMEM;
      }
    }
  }
  plan->gpus_used = plan->n_gpus;
  plan->cost = 0;
  for (uint32_t i = 0; i < s->n; i++) {
    double c = p->kind[s->p[i].kind].profile->device.cost;
    plan->cost += (c > 0 ? c : 1) * s->p[i].count;
  }
  let_error none;
  return let_plan_place(plan, &none); /* a pattern fits its device */
}

static int by_id(const void *a, const void *b) {
  uint32_t x = ((const let_plan_gpu *)a)->id, y = ((const let_plan_gpu *)b)->id;
  return (x > y) - (x < y);
}

/* Too few devices: how many more. */
static let_err short_of(let__problem *p, let_plan *plan, const let__set *s) {
  uint32_t have = 0, need = 0;
  for (uint32_t k = 0; k < p->n_kinds; k++) have += p->kind[k].count;
  for (uint32_t i = 0; i < s->n; i++) need += s->p[i].count;
  if (need <= have) need = have + 1;
  if (p->one_type)
    return say(
        p->arena, plan, REASONS,
        "the workload needs %u devices and there are %u: %u more would do (at least %.0f are needed for certain)", need,
        have, need - have, ceil(p->bound - 1e-6));
  return say(p->arena, plan, REASONS, "the %u devices cannot serve the rates: %u more would do", have, need - have);
}

/* Policies that may still win: `optimal` never needs more than any of them. Skipped where nothing can be won, and at
 * sizes where they would take longer than the search itself. */
static let_err rivals(const let_plan_input *in, let__problem *p, double cost, let_plan *best, bool *ret_better) {
  uint32_t n = 0, gpus = 0;
  const let_policy *const *policy = let_policies(&n);
  for (uint32_t k = 0; k < p->n_kinds; k++) gpus += p->kind[k].count;
  *ret_better = false;
  if (p->n > 64 || gpus > 256) return LET_OK;
  for (uint32_t i = 0; i < n && !let__expired(p); i++) {
    if (policy[i] == &let__policy_optimal || !policy[i]->promises) continue;
    let_plan other = {0};
    let_error e = {0};
    let_err r = policy[i]->make(in, p->arena, &other, &e);
    if (r == LET_ERR_NOMEM) return r;
    if (r || !other.feasible || let_plan_check(&other, in, &e)) continue;
    double c = p->one_type ? other.gpus_used : other.cost;
    if (c < cost * (1 - 1e-9)) cost = c, *best = other, *ret_better = true;
  }
  return LET_OK;
}

static let_err finish(let__problem *p, let_plan *plan, const let__set *s, const let__running *run) {
  let_err r = emit(p, s, run, plan);
  if (r) return r;
  if (plan->n_gpus > 1) qsort(plan->gpu, plan->n_gpus, sizeof *plan->gpu, by_id);
  plan->feasible = true;
  if (p->in->running) {
    uint32_t all = 0, changed = let__changes(plan, p->in->running, &all);
    return say(p->arena, plan, REASONS, "%u of %u gpu-lets differ from the running plan", changed, all);
  }
  return LET_OK;
}

static let_err plan_it(let__problem *p, const let_plan_input *in, let_plan *plan) {
  bool hopeless = false;
  let_err r = notes(p, plan);
  if (!r) r = explain(p, plan, &hopeless);
  if (r || hopeless) return r;
  r = let__bound(p);
  if (r) return r;
  let__running run = {0};
  let__set best = {0};
  uint32_t over = 0;
  r = let__running_read(p, &run);
  if (!r) r = let__search(p, &run, &best, &over);
  if (r) return r;
  plan->lower_bound = p->one_type ? ceil(p->bound - 1e-6) : p->bound;
  let_plan other = {0};
  bool better = false;
  if (over || best.cost > plan->lower_bound * (1 + 1e-9)) {
    r = rivals(in, p, over ? INFINITY : best.cost, &other, &better);
    if (r) return r;
  }
  if (better) {
    plan->gpu = other.gpu, plan->n_gpus = other.n_gpus, plan->gpus_used = other.gpus_used, plan->cost = other.cost;
    plan->feasible = true;
    return say(p->arena, plan, REASONS, "the layout of policy '%s' was the smallest found", other.policy);
  }
  return over ? short_of(p, plan, &best) : finish(p, plan, &best, &run);
}

static let_err make(const let_plan_input *in, let_arena *arena, let_plan *ret, let_error *e) {
  let_plan plan = {.policy = "optimal"};
  double start = in->now_ms ? in->now_ms(in->expired_ctx) : 0;
  let__problem p;
  let_arena scratch; /* what the search needs and the plan does not */
  let_arena_init(&scratch, arena->mem);
  let_err r = let__problem_make(&p, in, &scratch, e);
  plan.reason = r ? NULL : let_arena_array(arena, REASONS, sizeof *plan.reason);
  if (!r && !plan.reason) r = LET_ERR_NOMEM;
  if (!r) {
    p.scratch = &scratch;
    p.arena = arena;
    r = plan_it(&p, in, &plan);
  }
  let_arena_fini(&scratch);
  if (r == LET_ERR_NOMEM) return let_fail(e, r, "out of memory while planning");
  if (r) return e && e->code == r ? r : let_fail(e, r, "planning failed");
  plan.time_ms = in->now_ms ? in->now_ms(in->expired_ctx) - start : 0;
  *ret = plan;
  return LET_OK;
}

const let_policy let__policy_optimal = {
    .name = "optimal",
    .summary = "patterns of whole devices by linear programming, with a certified bound on the number of devices",
    .make = make,
    .promises = true,
};
