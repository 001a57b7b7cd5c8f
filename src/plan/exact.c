/* Small cases to the end: every content of a device that is not dominated, then every multiset of devices that is
 * cheaper than the best plan so far. It either finds a better plan or proves that there is none. */
#include <math.h>
#include <string.h>

#include "plan/search.h"

enum { MODELS = 4, PATTERNS = 20000, SLOTS = 16 };

typedef struct exact {
  let__problem *p;
  let_arena *a;
  let__set all;          /* not dominated; capacities in cap */
  double (*cap)[MODELS]; /* per pattern: what it serves, no more than anybody wants */
  let__item item[LET__ITEMS];
  uint32_t kind, *used;
  uint64_t left; /* effort */
  bool full;     /* gave up */
  uint32_t pick[64], n_pick, best[64], n_best;
  double best_cost, most[MODELS], most_value; /* per unit of cost */
} exact;

static bool spent(exact *x) {
  if (x->left == 0 || (x->left % 1024 == 0 && let__expired(x->p))) return x->full = true;
  x->left--;
  return x->full;
}

static void serves(const exact *x, const let__item *item, uint32_t n, double cap[MODELS]) {
  for (uint32_t m = 0; m < MODELS; m++) cap[m] = 0;
  for (uint32_t i = 0; i < n; i++) cap[item[i].model] += item[i].cap;
  for (uint32_t m = 0; m < x->p->n; m++) cap[m] = fmin(cap[m], x->p->model[m].rate);
}

static bool dominates(const double *a, const double *b, uint32_t n) {
  for (uint32_t m = 0; m < n; m++)
    if (a[m] < b[m] * (1 - 1e-12)) return false;
  return true;
}

static let_err add(exact *x, uint32_t n) {
  double cap[MODELS];
  serves(x, x->item, n, cap);
  x->left -= x->left < x->all.n / 16 ? x->left : x->all.n / 16; /* what the comparisons below take */
  uint32_t keep = 0;
  for (uint32_t i = 0; i < x->all.n; i++)
    if (x->all.p[i].kind == x->kind && dominates(x->cap[i], cap, x->p->n)) return LET_OK;
  for (uint32_t i = 0; i < x->all.n; i++) {
    if (x->all.p[i].kind == x->kind && dominates(cap, x->cap[i], x->p->n)) continue;
    x->all.p[keep] = x->all.p[i];
    memmove(x->cap[keep++], x->cap[i], sizeof *x->cap);
  }
  x->all.n = keep;
  if (keep == PATTERNS) return x->full = true, LET_OK;
  memcpy(x->cap[keep], cap, sizeof cap);
  return let__set_add(x->a, &x->all, &(let__pattern){.kind = x->kind, .n = n, .count = 1, .item = x->item});
}

/* Every content of slot after slot, sizes not growing, contents of equal sizes in order: each device once. */
static let_err contents(exact *x, uint32_t n, uint32_t slot, uint32_t left, uint32_t size, uint64_t from) {
  const let__kind *k = &x->p->kind[x->kind];
  uint64_t codes = 1;
  for (uint32_t m = 0; m < x->p->n; m++) codes *= k->most[m] + 1u;
  for (uint32_t g = size < left ? size : left; g >= 1 && slot < SLOTS; g--)
    for (uint64_t code = g == size ? from : 1; code < codes; code++) {
      if (spent(x)) return LET_OK;
      uint32_t end = n;
      uint64_t c = code;
      let_dur cycle = 0, tight = LET_NEVER;
      for (uint32_t m = 0; m < x->p->n && cycle < LET_NEVER / 64; c /= k->most[m++] + 1u) {
        uint32_t b = (uint32_t)(c % (k->most[m] + 1u));
        if (!b) continue;
        let_dur d = let__lat(k, m, b, g);
        if (d == LET_NEVER) cycle = LET_NEVER / 64;
        else cycle += d;
        if (x->p->model[m].slo - d < tight) tight = x->p->model[m].slo - d;
        x->item[end++] = (let__item){.model = m, .batch = b, .slot = (uint16_t)slot, .granules = (uint16_t)g};
      }
      if (cycle > tight) continue; /* not even alone; neighbours only slow it */
      uint32_t which;
      let_err r = let__evaluate(x->p, x->kind, x->item, end, &which) ? add(x, end) : LET_OK;
      if (!r && left > g) r = contents(x, end, slot + 1, left - g, g, code);
      if (r) return r;
    }
  return LET_OK;
}

static void cover(exact *x, const double *rest, uint32_t from, double cost) {
  double need = 0, open[MODELS], room = x->best_cost * (1 - 1e-9) - cost;
  bool any = false;
  for (uint32_t m = 0; m < x->p->n; m++) {
    any = any || rest[m] > 0;
    need += rest[m] * x->p->price[m];
    if (rest[m] > x->most[m] * room * (1 + 1e-9)) return;
  }
  if (!any) {
    x->best_cost = cost, x->n_best = x->n_pick;
    memcpy(x->best, x->pick, sizeof x->pick);
    return;
  }
  if (x->n_pick == 64 || need > x->most_value * room * (1 + 1e-9)) return;
  for (uint32_t i = from; i < x->all.n; i++) {
    uint32_t k = x->all.p[i].kind;
    if (spent(x)) return;
    if ((x->p->n_kinds > 1 && x->used[k] == x->p->kind[k].count) ||
        cost + x->p->kind[k].cost >= x->best_cost * (1 - 1e-9))
      continue;
    bool helps = false;
    for (uint32_t m = 0; m < x->p->n; m++) {
      helps = helps || (rest[m] > 0 && x->cap[i][m] > 0);
      open[m] = rest[m] - x->cap[i][m];
      if (open[m] < 1e-10 * x->p->model[m].rate) open[m] = 0;
    }
    if (!helps) continue;
    x->used[k]++, x->pick[x->n_pick++] = i;
    cover(x, open, i, cost + x->p->kind[k].cost);
    x->used[k]--, x->n_pick--;
  }
}

static void limits(exact *x) {
  for (uint32_t i = 0; i < x->all.n; i++) {
    double v = 0, cost = x->p->kind[x->all.p[i].kind].cost;
    for (uint32_t m = 0; m < x->p->n; m++) {
      v += x->cap[i][m] * x->p->price[m];
      x->most[m] = fmax(x->most[m], x->cap[i][m] / cost);
    }
    x->most_value = fmax(x->most_value, v / cost);
  }
  for (uint32_t m = 0; m < x->p->n; m++) /* a device costs all or nothing */
    for (uint32_t k = 0; k < x->p->n_kinds && x->p->n_kinds > 1; k++) x->most[m] = INFINITY, x->most_value = INFINITY;
}

let_err let__exact(let__problem *p, uint64_t effort, let__set *best, uint32_t *over) {
  if (p->n > MODELS || !p->n) return LET_OK;
  let_arena tmp;
  let_arena_init(&tmp, p->scratch->mem);
  exact *x = let_arena_alloc(&tmp, sizeof *x);
  let_err r = LET_ERR_NOMEM;
  if (x) {
    *x = (exact){.p = p, .a = &tmp, .left = effort, .best_cost = best->n && !*over ? best->cost : INFINITY};
    x->cap = let_arena_array(&tmp, PATTERNS, sizeof *x->cap);
    x->used = let_arena_array(&tmp, p->n_kinds, sizeof *x->used);
    r = x->cap && x->used ? LET_OK : LET_ERR_NOMEM;
  }
  for (uint32_t k = 0; !r && k < p->n_kinds && !x->full; k++) {
    x->kind = k;
    if (p->kind[k].profile->device.bandwidth > 0) x->full = true; /* capacities would depend on rates */
    else r = contents(x, 0, 0, p->kind[k].granules, p->kind[k].granules, 1);
  }
  if (!r && !x->full) {
    double rest[MODELS];
    for (uint32_t m = 0; m < p->n; m++) rest[m] = p->model[m].rate;
    limits(x);
    cover(x, rest, 0, 0);
    if (x->n_best) {
      *best = (let__set){.cost = x->best_cost}, *over = 0;
      for (uint32_t i = 0; !r && i < x->n_best; i++) r = let__set_add(p->scratch, best, &x->all.p[x->best[i]]);
    }
    if (!r && !x->full && best->n && !*over && best->cost > p->bound) p->bound = best->cost;
  }
  let_arena_fini(&tmp);
  return r;
}
