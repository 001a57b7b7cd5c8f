#include "plan/search.h"

#include <math.h>
#include <string.h>

enum {
  SEARCH_STEPS = 1000000,
  FILL_STEPS = 1500000,
  AGAIN_STEPS = 5000,
  BOUND_STEPS = 50000,
  BOUND_STEPS_MANY = 8000,
  FEW_MODELS = 8,
  EFFORT_MAX = 8
}; /* milliseconds, measured by bench/plan_scale */

typedef struct search {
  let__problem *p;
  let__fill *fill;
  double *rest, *price, *cap;
  double *factor; /* per model: times its price, to look elsewhere */
  uint32_t *used; /* per kind */
  let_rng rng;
  double worth;  /* of all rates at the bound's prices */
  uint64_t work; /* stop when the problem's work passes this */
  let__item item[LET__ITEMS], keep[LET__ITEMS];
} search;

let_err let__set_add(let_arena *a, let__set *s, const let__pattern *x) {
  if (s->n == s->cap) {
    uint32_t cap = s->cap ? 2 * s->cap : 16;
    let__pattern *p = let_arena_array(a, cap, sizeof *p);
    if (!p) return LET_ERR_NOMEM;
    if (s->n) memcpy(p, s->p, s->n * sizeof *p);
    s->p = p, s->cap = cap;
  }
  let__item *item = let_arena_array(a, x->n, sizeof *item);
  if (!item) return LET_ERR_NOMEM;
  memcpy(item, x->item, x->n * sizeof *item);
  s->p[s->n] = *x, s->p[s->n++].item = item;
  return LET_OK;
}

static let_err set_copy(let_arena *a, let__set *to, const let__set *from) {
  *to = (let__set){.cost = from->cost};
  for (uint32_t i = 0; i < from->n; i++)
    if (let__set_add(a, to, &from->p[i])) return LET_ERR_NOMEM;
  return LET_OK;
}

bool let__same(const let__pattern *a, const let__pattern *b) {
  if (a->kind != b->kind || a->n != b->n) return false;
  for (uint32_t i = 0; i < a->n; i++) {
    const let__item *x = &a->item[i], *y = &b->item[i];
    if (x->model != y->model || x->batch != y->batch || x->slot != y->slot || x->granules != y->granules) return false;
  }
  return true;
}

static void capacities(const let__problem *p, const let__set *s, double *cap) {
  for (uint32_t m = 0; m < p->n; m++) cap[m] = 0;
  for (uint32_t i = 0; i < s->n; i++)
    for (uint32_t j = 0; j < s->p[i].n; j++) cap[s->p[i].item[j].model] += s->p[i].item[j].cap * s->p[i].count;
}

void let__shares(const let__problem *p, const let__set *s, double *ret_share) {
  capacities(p, s, ret_share);
  for (uint32_t m = 0; m < p->n; m++) ret_share[m] = ret_share[m] > 0 ? fmin(1, p->model[m].rate / ret_share[m]) : 0;
}

/* What |s| leaves unserved. */
static void rests(const let__problem *p, const let__set *s, double *rest) {
  capacities(p, s, rest);
  for (uint32_t m = 0; m < p->n; m++) {
    rest[m] = p->model[m].rate - rest[m];
    if (rest[m] < 1e-10 * p->model[m].rate) rest[m] = 0;
  }
}

static double value_of(const search *s, const let__item *item, uint32_t n) {
  double v = 0; /* an item's model may come twice: its rest counts once */
  for (uint32_t i = 0; i < n; i++) s->cap[item[i].model] = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t m = item[i].model;
    double more = fmin(item[i].cap, s->rest[m] - s->cap[m]);
    if (more > 0) v += more * s->price[m] / s->factor[m], s->cap[m] += more;
  }
  return v;
}

/* Takes what |n| items serve |count| times off the rest. */
static void serve(search *s, const let__item *item, uint32_t n, uint32_t count) {
  for (uint32_t i = 0; i < n; i++) {
    double *r = &s->rest[item[i].model];
    *r -= item[i].cap * count;
    if (*r < 1e-10 * s->p->model[item[i].model].rate) *r = 0;
  }
}

/* How many devices of this content are busy to the brim. */
static uint32_t copies(const search *s, const let__item *item, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) s->cap[item[i].model] = 0;
  for (uint32_t i = 0; i < n; i++) s->cap[item[i].model] += item[i].cap;
  double c = 1e9;
  for (uint32_t i = 0; i < n; i++) c = fmin(c, s->rest[item[i].model] / s->cap[item[i].model]);
  return c < 1 ? 1 : (uint32_t)c;
}

/* What is left of a model is dearer per request than all of it: its last piece takes a gpu-let's turn of its own. */
static void reprice(search *s, uint32_t m) {
  double unit = s->rest[m] > 0 ? let__unit(s->p, m, s->rest[m]) : 0;
  s->price[m] = s->factor[m] * (unit > 0 && !isinf(unit) ? fmax(unit / s->rest[m], s->p->price[m]) : s->p->price[m]);
}

/* Fills devices until nothing rests. Devices beyond the inventory are counted in |over|. */
static let_err construct(search *s, let_arena *a, let__set *ret, double greed, uint32_t *over, double limit,
                         bool *ret_done) {
  let__problem *p = s->p;
  *ret_done = false;
  s->worth = 0;
  for (uint32_t m = 0; m < p->n; m++) reprice(s, m), s->worth += p->model[m].rate * p->price[m];
  for (;;) {
    double open = 0; /* what the rest takes at least, as far as the bound knows */
    bool any = false;
    for (uint32_t m = 0; m < p->n; m++) any = any || s->rest[m] > 0, open += s->rest[m] * p->price[m];
    if (!any) break;
    if (s->worth > 0) open *= p->bound / s->worth;
    if (ret->cost + (p->one_type ? ceil(open - 1e-6) : open) >= limit * (1 - 1e-9)) return LET_OK;
    uint32_t n_keep = 0, kind = 0;
    double most = 0, value = 0;
    for (int spare = 0; spare < 2 && !n_keep; spare++)
      for (uint32_t k = 0; k < p->n_kinds; k++) {
        if (!spare && p->n_kinds > 1 && s->used[k] >= p->kind[k].count) continue;
        double v;
        uint32_t n = let__fill_one(s->fill, k, s->rest, s->price, greed, s->item, &v);
        if (!n || v / p->kind[k].cost <= most * (1 + 1e-9)) continue;
        most = v / p->kind[k].cost, n_keep = n, kind = k;
        memcpy(s->keep, s->item, n * sizeof *s->item);
      }
    if (!n_keep) return LET_OK; /* cannot serve the rest at all: bandwidth or memory */
    value = value_of(s, s->keep, n_keep);
    uint32_t count = copies(s, s->keep, n_keep), free = UINT32_MAX;
    if (p->n_kinds > 1) free = p->kind[kind].count > s->used[kind] ? p->kind[kind].count - s->used[kind] : 0;
    if (free && count > free) count = free;
    if (!free) *over += count;
    s->used[kind] += count;
    serve(s, s->keep, n_keep, count);
    for (uint32_t i = 0; i < n_keep; i++) reprice(s, s->keep[i].model);
    ret->cost += p->kind[kind].cost * count;
    if (let__set_add(a, ret,
                     &(let__pattern){.kind = kind, .n = n_keep, .count = count, .value = value, .item = s->keep}))
      return LET_ERR_NOMEM;
  }
  *ret_done = true;
  return LET_OK;
}

static void use(search *s, const let__set *set, uint32_t *ret_over) {
  *ret_over = 0;
  for (uint32_t k = 0; k < s->p->n_kinds; k++) s->used[k] = 0;
  for (uint32_t i = 0; i < set->n; i++) s->used[set->p[i].kind] += set->p[i].count;
  for (uint32_t k = 0; k < s->p->n_kinds && s->p->n_kinds > 1;
       k++) /* of one kind the fewest is all that counts; see the end */
    if (s->used[k] > s->p->kind[k].count) *ret_over += s->used[k] - s->p->kind[k].count;
}

/* Removes devices that nobody needs, least worth first. */
static void trim(search *s, let__set *set) {
  let__problem *p = s->p;
  capacities(p, set, s->rest); /* here: what is served */
  for (;;) {
    uint32_t at = UINT32_MAX;
    for (uint32_t i = 0; i < set->n; i++) {
      const let__pattern *x = &set->p[i];
      if (!x->count) continue;
      for (uint32_t j = 0; j < x->n; j++) s->cap[x->item[j].model] = 0;
      for (uint32_t j = 0; j < x->n; j++) s->cap[x->item[j].model] += x->item[j].cap;
      bool spare = true;
      for (uint32_t j = 0; j < x->n && spare; j++)
        spare = s->rest[x->item[j].model] - s->cap[x->item[j].model] >= p->model[x->item[j].model].rate;
      if (spare && (at == UINT32_MAX || p->kind[x->kind].cost > p->kind[set->p[at].kind].cost)) at = i;
    }
    if (at == UINT32_MAX) break;
    for (uint32_t j = 0; j < set->p[at].n; j++) s->rest[set->p[at].item[j].model] -= set->p[at].item[j].cap;
    set->p[at].count--, set->cost -= p->kind[set->p[at].kind].cost;
  }
  uint32_t n = 0;
  for (uint32_t i = 0; i < set->n; i++)
    if (set->p[i].count) set->p[n++] = set->p[i];
  set->n = n;
}

/* Fewer devices first; then the more uneven filling, because that is what leaves a device to remove. */
static double uneven(const let__set *s) {
  double v = 0;
  for (uint32_t i = 0; i < s->n; i++) v += s->p[i].value * s->p[i].value * s->p[i].count;
  return v;
}

static double target(const let__problem *p) { return p->one_type ? ceil(p->bound - 1e-6) : p->bound; }
static bool above(const let__problem *p, const let__set *best) {
  return best->cost > target(p) * (1 + 1e-9) && !let__expired(p);
}
static bool done(const search *s, const let__set *best, uint32_t over) {
  return (best->n && !over && best->cost <= target(s->p) * (1 + 1e-9)) || s->p->work > s->work || let__expired(s->p);
}

static void perturb(search *s, double by) {
  for (uint32_t m = 0; m < s->p->n; m++) s->factor[m] = exp(by * (let_rng_unit(&s->rng) - 0.5));
}

static uint32_t devices(const let__set *s) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->n; i++) n += s->p[i].count;
  return n;
}

/* Takes |q| devices out of |from|, at random but the emptier ones more often; |to| is the rest. */
static let_err ruin(search *s, let_arena *a, const let__set *from, let__set *to, uint32_t q) {
  if (set_copy(a, to, from)) return LET_ERR_NOMEM;
  for (; q; q--) {
    double sum = 0, at;
    for (uint32_t i = 0; i < to->n; i++)
      sum += to->p[i].count * (1.1 - fmin(1, to->p[i].value / s->p->kind[to->p[i].kind].cost));
    at = let_rng_unit(&s->rng) * sum;
    uint32_t i = 0, last = 0;
    for (; i < to->n; i++) {
      if (!to->p[i].count) continue;
      last = i;
      at -= to->p[i].count * (1.1 - fmin(1, to->p[i].value / s->p->kind[to->p[i].kind].cost));
      if (at < 0) break;
    }
    if (!to->p[last].count) break;
    to->p[last].count--, to->cost -= s->p->kind[to->p[last].kind].cost;
  }
  return LET_OK;
}

static let_err improve(search *s, let__set *best, uint32_t *over) {
  let_arena tmp;
  let_err r = LET_OK;
  let__set now = *best;
  uint32_t now_over = *over, idle = 0;
  while (!r && !done(s, best, *over) && idle < 400) {
    let_arena_init(&tmp, s->p->scratch->mem);
    let__set part = {0};
    uint32_t n = devices(&now), q = n <= 2 ? n : 2 + (uint32_t)let_rng_below(&s->rng, n < 8 ? n - 1 : 6), o = 0;
    bool complete = false;
    s->p->work += 50 + n;
    r = ruin(s, &tmp, &now, &part, q);
    if (!r) {
      rests(s->p, &part, s->rest);
      use(s, &part, &o);
      perturb(s, 0.2 + let_rng_unit(&s->rng));
      let__fill_trust(s->fill, (double)let_rng_below(&s->rng, 4) / 3);
      r = construct(s, &tmp, &part, 0.5 + 0.55 * let_rng_unit(&s->rng), &o, now.cost * (1 + 4e-9), &complete);
    }
    if (!r && complete) {
      trim(s, &part);
      use(s, &part, &o);
      bool less = o < now_over || (o == now_over && part.cost < now.cost * (1 - 1e-9));
      if (less || (o == now_over && part.cost <= now.cost * (1 + 1e-9) && uneven(&part) >= uneven(&now))) {
        r = set_copy(s->p->scratch, &now, &part);
        now_over = o;
        if (!r && less) *best = now, *over = o, idle = 0;
      }
    }
    idle++;
    let_arena_fini(&tmp);
  }
  return r;
}

static let_err fresh(search *s, let__set *best, uint32_t *over) {
  static const double greed[] = {1, 0.9, 0.75, 1.02, 0.5, 0};
  for (uint32_t i = 0; i < sizeof greed / sizeof *greed; i++) {
    if (best->n && done(s, best, *over)) break;
    let__set set = {0};
    uint32_t o = 0;
    bool complete = false;
    rests(s->p, &set, s->rest);
    use(s, &set, &o);
    perturb(s, i < 2 ? 0 : 0.3);
    let__fill_trust(s->fill, i % 2 ? 0.3 : 1);
    let_err r = construct(s, s->p->scratch, &set, greed[i], &o, best->n && !*over ? best->cost : INFINITY, &complete);
    if (r) return r;
    if (!complete) continue;
    trim(s, &set);
    use(s, &set, &o);
    if (!best->n || o < *over || (o == *over && set.cost < best->cost * (1 - 1e-9))) *best = set, *over = o;
    if (s->p->n > 200) break;
  }
  return LET_OK;
}

/* The running plan, what it lacks added, what it no longer needs removed. */
static let_err warm(search *s, const let__running *run, let__set *best, uint32_t *over) {
  let__set set = {0};
  bool complete = false;
  for (uint32_t i = 0; i < run->n; i++) {
    uint32_t j = 0;
    while (j < set.n && !let__same(&set.p[j], &run->device[i].pattern)) j++;
    if (j < set.n) set.p[j].count++;
    else if (let__set_add(s->p->scratch, &set, &run->device[i].pattern)) return LET_ERR_NOMEM;
    set.cost += s->p->kind[run->device[i].pattern.kind].cost;
  }
  perturb(s, 0);
  for (uint32_t m = 0; m < s->p->n; m++) s->rest[m] = s->p->model[m].rate, reprice(s, m);
  for (uint32_t i = 0; i < set.n; i++) {
    set.p[i].value = value_of(s, set.p[i].item, set.p[i].n);
    serve(s, set.p[i].item, set.p[i].n, set.p[i].count);
  }
  trim(s, &set);
  rests(s->p, &set, s->rest);
  use(s, &set, over);
  let_err r = construct(s, s->p->scratch, &set, 1, over, INFINITY, &complete);
  if (r || !complete) return r;
  trim(s, &set);
  use(s, &set, over);
  *best = set;
  return LET_OK;
}

/* A device less, or the proof that there is none: what both may take is four times as much with every step of effort.
 */
static let_err deepen(search *s, let__set *best, bool again) {
  let__problem *p = s->p;
  let_err r = LET_OK;
  for (uint32_t i = 0; i <= p->in->effort && i < EFFORT_MAX; i++) {
    if (!r && above(p, best))
      r = let__grain(p, s->fill, (uint64_t)(again ? AGAIN_STEPS : SEARCH_STEPS / p->n) << 2 * i, i + 1, best);
    if (again && !p->in->effort) break; /* who re-plans cannot wait for more */
    if (!r && above(p, best) && !i) r = let__joint(p, best->cost);
    if (!r && above(p, best))
      r = let__classes(p, best->cost,
                       ((uint64_t)(i || p->n <= FEW_MODELS ? BOUND_STEPS : BOUND_STEPS_MANY) << 2 * i) / p->n);
    if (r || !above(p, best)) break;
  }
  return r;
}

let_err let__search(let__problem *p, const let__running *run, let__set *ret, uint32_t *ret_over) {
  search s = {.p = p, .fill = let__fill_new(p)};
  s.rest = let_arena_array(p->scratch, p->n + 1u, sizeof *s.rest);
  s.price = let_arena_array(p->scratch, p->n + 1u, sizeof *s.price);
  s.factor = let_arena_array(p->scratch, p->n + 1u, sizeof *s.factor);
  s.cap = let_arena_array(p->scratch, p->n + 1u, sizeof *s.cap);
  s.used = let_arena_array(p->scratch, p->n_kinds, sizeof *s.used);
  if (!s.fill || !s.rest || !s.price || !s.cap || !s.factor || !s.used) return LET_ERR_NOMEM;
  let_rng_seed(&s.rng, 1);
  s.work = run->n                                 ? 16000
           : p->n > 32 && p->n <= 200             ? 25000 * (uint64_t)p->n
           : p->n_kinds == 1 && p->n > FEW_MODELS ? FILL_STEPS / p->n
                                                  : 250000; /* milliseconds, measured by bench/plan_scale */
  s.work += p->work;
  let__set best = {0}, hot = {0};
  uint32_t over = 0, hot_over = 0;
  let_err r = LET_OK;
  if (run->n) {
    r = warm(&s, run, &hot, &hot_over);
    if (r) return r;
    best = hot, over = hot_over;
  }
  if (!best.n || !done(&s, &best, over)) r = fresh(&s, &best, &over);
  if (!r && (over || best.cost > target(p) * (1 + 1e-9)) && !let__expired(p))
    r = let__exact(p, run->n ? 10000 : 40000, &best, &over);
  if (!r && best.n && !over) r = deepen(&s, &best, run->n > 0);
  if (!r && best.n) r = improve(&s, &best, &over);
  if (r) return r;
  uint32_t n = devices(&best);
  if (p->n_kinds == 1) over = n > p->kind[0].count ? n - p->kind[0].count : 0;
  *ret = best, *ret_over = p->n && !n ? 1 : over;
  return LET_OK;
}

/* --- the running plan --- */

static let_err read_device(let__problem *p, const let_plan_gpu *g, uint32_t kind, let__pattern *ret) {
  let__kind *k = &p->kind[kind];
  let__item item[LET__ITEMS];
  uint32_t n = 0, slot = 0, granules = 0;
  *ret = (let__pattern){.kind = kind, .count = 1};
  for (uint32_t l = 0; l < g->n_gpulets; l++) {
    const let_plan_gpulet *t = &g->gpulet[l];
    uint32_t before = n;
    granules += t->granules;
    if (t->shared || t->granules < 1 || granules > k->granules) return LET_OK;
    for (uint32_t j = 0; j < t->n_entries && n < LET__ITEMS; j++) {
      uint32_t lo = 0, hi = p->n;
      while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (strcmp(p->model[mid].name, t->entry[j].name) < 0) lo = mid + 1;
        else hi = mid;
      }
      if (lo == p->n || strcmp(p->model[lo].name, t->entry[j].name) != 0) continue; /* nobody wants it any more */
      uint32_t b = t->entry[j].batch;
      if (b < 1 || b > k->most[lo] || let__lat(k, lo, b, t->granules) == LET_NEVER) continue;
      item[n++] = (let__item){.model = lo, .batch = b, .slot = (uint16_t)slot, .granules = (uint16_t)t->granules};
    }
    slot += n > before;
  }
  n = let__mend(p, kind, item, n);
  if (!n) return LET_OK;
  ret->item = let_arena_array(p->scratch, n, sizeof *item);
  if (!ret->item) return LET_ERR_NOMEM;
  memcpy(ret->item, item, n * sizeof *item);
  ret->n = n;
  return LET_OK;
}

let_err let__running_read(let__problem *p, let__running *ret) {
  const let_plan *run = p->in->running;
  *ret = (let__running){0};
  if (!run || !run->n_gpus) return LET_OK;
  ret->device = let_arena_array(p->scratch, run->n_gpus, sizeof *ret->device);
  if (!ret->device) return LET_ERR_NOMEM;
  for (uint32_t i = 0; i < run->n_gpus; i++) {
    const let_plan_gpu *g = &run->gpu[i];
    uint32_t base = 0;
    for (uint32_t k = 0; k < p->n_kinds; base += p->kind[k++].count) {
      if (g->id < p->kind[k].first_id || g->id - p->kind[k].first_id >= p->kind[k].count) continue;
      if (strcmp(g->type, p->kind[k].profile->device.name) != 0) break;
      let__device *d = &ret->device[ret->n];
      *d = (let__device){.id = g->id, .index = base + g->id - p->kind[k].first_id};
      if (read_device(p, g, k, &d->pattern)) return LET_ERR_NOMEM;
      ret->n += d->pattern.n > 0;
      break;
    }
  }
  return LET_OK;
}

static bool same_let(const let_plan_gpulet *a, const let_plan_gpulet *b) {
  if (a->granules != b->granules || a->n_entries != b->n_entries) return false;
  for (uint32_t i = 0; i < a->n_entries; i++)
    if (a->entry[i].batch != b->entry[i].batch || strcmp(a->entry[i].name, b->entry[i].name) != 0) return false;
  return true;
}

static const let_plan_gpu *gpu_of(const let_plan *p, uint32_t id, uint32_t hint) {
  if (hint < p->n_gpus && p->gpu[hint].id == id) return &p->gpu[hint];
  for (uint32_t i = 0; i < p->n_gpus; i++)
    if (p->gpu[i].id == id) return &p->gpu[i];
  return NULL;
}

uint32_t let__changes(const let_plan *plan, const let_plan *running, uint32_t *ret_all) {
  uint32_t n = 0, all = 0;
  for (uint32_t i = 0; i < plan->n_gpus; i++) {
    const let_plan_gpu *g = &plan->gpu[i], *old = gpu_of(running, g->id, i);
    uint64_t gone = 0; /* gpu-lets of the old device that are matched already */
    for (uint32_t l = 0; l < g->n_gpulets; l++, all++) {
      uint32_t j = 0, end = old ? old->n_gpulets < 64 ? old->n_gpulets : 64 : 0;
      while (j < end && (gone >> j & 1 || !same_let(&g->gpulet[l], &old->gpulet[j]))) j++;
      if (j < end) gone |= 1ull << j;
      else n++;
    }
  }
  *ret_all = all;
  return n;
}
