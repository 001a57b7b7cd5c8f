/* The content of one device: gpu-let by gpu-let, each the one that loses least against the bound's prices.
 *
 * A gpu-let's content is a choice of a cycle D, and then a knapsack: model i takes L_i(b) of the cycle for the batch
 * b = rate D that it needs, is worth price x rate, and may take part when D + L_i(b) <= SLO_i. Which size comes next:
 * the one for which its worth plus the worth of what stays free (at the bound's prices) is most. */
#include <math.h>
#include <string.h>

#include "plan/optimal.h"

enum { ACTIVE = 64, CONTENT = 24, CYCLES = 32, CLASSES = 4, MANY = 48 };

typedef struct content {
  double value;
  uint32_t n, model[CONTENT], batch[CONTENT];
  double cycle;
} content;

typedef struct choice {
  uint32_t model, batch;
  double time, value, density;
} choice;

struct let__fill {
  let__problem *p;
  double *rest;            /* per model: what this device has not taken yet */
  double *slow;            /* per class, kind and model: slowdown to expect beside neighbours */
  uint32_t class;          /* gpu-lets have at least 2^class granules: fewer neighbours, less interference */
  content *best;           /* per size */
  choice pick[ACTIVE];
  uint32_t active[ACTIVE], n_active;
  const double *price;
  double trust;
  uint32_t kind;
};

void let__fill_trust(let__fill *f, double trust) { f->trust = trust; }

let__fill *let__fill_new(let__problem *p) {
  let__fill *f = let_arena_alloc(p->scratch, sizeof *f);
  if (!f) return NULL;
  uint32_t most = 0;
  for (uint32_t k = 0; k < p->n_kinds; k++)
    if (p->kind[k].granules > most) most = p->kind[k].granules;
  f->p = p, f->trust = 1;
  f->rest = let_arena_array(p->scratch, p->n + 1u, sizeof *f->rest);
  f->slow = let_arena_array(p->scratch, (size_t)p->n * p->n_kinds * CLASSES + 1, sizeof *f->slow);
  f->best = let_arena_array(p->scratch, most + 1u, sizeof *f->best);
  if (!f->rest || !f->slow || !f->best) return NULL;
  for (size_t i = 0; i < (size_t)p->n * p->n_kinds * CLASSES; i++) f->slow[i] = 1;
  return f;
}

static double *slow_at(const let__fill *f, uint32_t m) {
  return &f->slow[((size_t)f->class * f->p->n_kinds + f->kind) * f->p->n + m];
}

static double slow_of(const let__fill *f, uint32_t m, uint32_t g) {
  return g < f->p->kind[f->kind].granules ? 1 + f->trust * (*slow_at(f, m) - 1) : 1;
}

static double time_of(const let__fill *f, uint32_t m, uint32_t b, uint32_t g) {
  let_dur d = let__lat(&f->p->kind[f->kind], m, b, g);
  return d == LET_NEVER ? INFINITY : ceil((double)d * slow_of(f, m, g));
}

/* The largest batch of |m| up to |want| that takes at most |limit|; 0: none. */
static uint32_t batch_within(const let__fill *f, uint32_t m, uint32_t g, uint32_t want, double limit) {
  uint32_t lo = 0, hi = want;
  while (lo < hi) {
    uint32_t mid = (lo + hi + 1) / 2;
    if (time_of(f, m, mid, g) <= limit) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

static uint32_t batch_for(const let__fill *f, uint32_t m, double cycle) {
  double b = ceil(f->rest[m] * cycle * 1e-9 - 1e-9);
  uint32_t most = f->p->kind[f->kind].most[m];
  return b < 1 ? 1 : b > most ? most : (uint32_t)b;
}

/* The longest cycle in which |m| is served in full; when that is nowhere, the one where it gets most. */
static double cycle_of(const let__fill *f, uint32_t m, uint32_t g) {
  double slo = (double)f->p->model[m].slo;
  uint32_t lo = 1, hi = f->p->kind[f->kind].most[m];
  while (lo < hi) { /* b / rest grows with b, SLO - L(b) falls: where they cross */
    uint32_t mid = (lo + hi) / 2;
    if ((double)mid / f->rest[m] * 1e9 >= slo - time_of(f, m, mid, g)) hi = mid;
    else lo = mid + 1;
  }
  double d = fmin((double)lo / f->rest[m] * 1e9, slo - time_of(f, m, lo, g));
  if (lo > 1) d = fmax(d, fmin((double)(lo - 1) / f->rest[m] * 1e9, slo - time_of(f, m, lo - 1, g)));
  return d;
}

static uint32_t cycles(const let__fill *f, uint32_t g, double out[CYCLES]) {
  uint32_t n = 0, step = f->n_active > CYCLES - 8 ? f->n_active / (CYCLES - 8) + 1 : 1;
  double most = 0;
  for (uint32_t i = 0; i < f->n_active; i += step) {
    double d = cycle_of(f, f->active[i], g);
    if (!(d > 0)) continue;
    most = fmax(most, d);
    bool near = false;
    for (uint32_t j = 0; j < n; j++) near = near || fabs(out[j] - d) < 1e-3 * d;
    if (!near) out[n++] = d;
  }
  for (uint32_t i = 0; i < 6 && most > 0 && n < CYCLES; i++) out[n++] = most *= 0.7;
  return n;
}

static void sort_choices(choice *c, uint32_t n) {
  for (uint32_t i = 1; i < n; i++) {
    choice x = c[i];
    uint32_t j = i;
    for (; j && (c[j - 1].density < x.density || (c[j - 1].density == x.density && c[j - 1].model > x.model)); j--) c[j] = c[j - 1];
    c[j] = x;
  }
}

/* Packs the choices, best first, into one cycle; keeps the outcome when it is the best of this size so far. */
static void pack(let__fill *f, uint32_t g, double cycle, uint32_t n_pick, content *best) {
  content c = {.n = 0};
  double left = cycle, used = 0;
  for (uint32_t i = 0; i < n_pick && c.n < CONTENT; i++) {
    choice *x = &f->pick[i];
    uint32_t b = x->time <= left ? x->batch : batch_within(f, x->model, g, x->batch, left);
    if (!b) continue;
    double t = b == x->batch ? x->time : time_of(f, x->model, b, g);
    c.model[c.n] = x->model, c.batch[c.n++] = b;
    left -= t, used += t;
  }
  for (uint32_t i = 0; i < c.n; i++) c.value += f->price[c.model[i]] * fmin(f->rest[c.model[i]], (double)c.batch[i] / used * 1e9);
  c.cycle = used;
  if (c.value > best->value * (1 + 1e-9)) *best = c;
}

static void one_model(let__fill *f, uint32_t g, content *best) {
  const let__kind *k = &f->p->kind[f->kind];
  for (uint32_t i = 0; i < f->n_active; i++) {
    uint32_t m = f->active[i], b = k->best_batch[(size_t)m * (k->granules + 1) + g];
    if (!b) continue;
    if (slow_of(f, m, g) > 1) b = batch_within(f, m, g, b, floor((double)f->p->model[m].slo / 2));
    if (!b) continue;
    double t = time_of(f, m, b, g), v = f->price[m] * fmin(f->rest[m], (double)b / t * 1e9);
    if (v > best->value * (1 + 1e-9)) *best = (content){.value = v, .n = 1, .model = {m}, .batch = {b}, .cycle = t};
  }
}

static void make_content(let__fill *f, uint32_t g) {
  content *best = &f->best[g];
  best->value = 0, best->n = 0;
  one_model(f, g, best);
  double cycle[CYCLES];
  uint32_t n_cycles = cycles(f, g, cycle);
  for (uint32_t c = 0; c < n_cycles; c++) {
    uint32_t n = 0;
    f->p->work += f->n_active;
    for (uint32_t i = 0; i < f->n_active; i++) {
      uint32_t m = f->active[i];
      if (f->rest[m] <= 0) continue;
      uint32_t b = batch_for(f, m, cycle[c]);
      b = batch_within(f, m, g, b, fmin(cycle[c], (double)f->p->model[m].slo - cycle[c]));
      if (!b) continue;
      double t = time_of(f, m, b, g), v = f->price[m] * fmin(f->rest[m], (double)b / cycle[c] * 1e9);
      f->pick[n++] = (choice){m, b, t, v, v / t};
    }
    sort_choices(f->pick, n);
    pack(f, g, cycle[c], n, best);
    for (uint32_t i = 0; i < n; i++) f->pick[i].density = f->pick[i].value; /* the largest first */
    sort_choices(f->pick, n);
    pack(f, g, cycle[c], n, best);
  }
}

/* The models worth looking at: those with most left to serve. */
static void choose_active(let__fill *f, const double *rest) {
  f->n_active = 0;
  for (uint32_t m = 0; m < f->p->n; m++) {
    f->rest[m] = rest[m];
    if (!(rest[m] > 0) || !f->p->kind[f->kind].lat[m]) continue;
    double v = rest[m] * f->price[m];
    uint32_t j = f->n_active;
    if (j == ACTIVE && v <= f->rest[f->active[j - 1]] * f->price[f->active[j - 1]]) continue;
    if (j == ACTIVE) j--;
    else f->n_active++;
    for (; j && v > f->rest[f->active[j - 1]] * f->price[f->active[j - 1]]; j--) f->active[j] = f->active[j - 1];
    f->active[j] = m;
  }
}

static bool touched(const content *c, const content *by) {
  for (uint32_t i = 0; i < c->n; i++)
    for (uint32_t j = 0; j < by->n; j++)
      if (c->model[i] == by->model[j]) return true;
  return false;
}

static uint32_t build(let__fill *f, double greed, let__item *ret) {
  const let__kind *k = &f->p->kind[f->kind];
  uint32_t n = 0, slot = 0;
  double total = 0;
  for (uint32_t i = 0; i < f->n_active; i++) total += f->rest[f->active[i]] * f->price[f->active[i]];
  uint32_t least = 1u << f->class;
  for (uint32_t g = least; g <= k->granules; g++) make_content(f, g);
  for (uint32_t left = k->granules; left > 0;) {
    uint32_t at = 0;
    double most = 0;
    for (uint32_t g = least; g <= left; g++) {
      double v = f->best[g].value, w = v + fmin(greed * k->room[left - g], total - v);
      if (v <= 0) continue;
      if (w > most * (1 + 1e-9)) most = w, at = g;
      else if (w > most * (1 - 1e-6) && v > f->best[at].value * (1 + 1e-6)) at = g; /* the large first */
    }
    if (!at || n + f->best[at].n > LET__ITEMS) break;
    content c = f->best[at];
    for (uint32_t i = 0; i < c.n; i++) {
      ret[n++] = (let__item){.model = c.model[i], .batch = c.batch[i], .slot = (uint16_t)slot, .granules = (uint16_t)at};
      double served = fmin(f->rest[c.model[i]], (double)c.batch[i] / c.cycle * 1e9);
      f->rest[c.model[i]] -= served;
      if (f->rest[c.model[i]] < 1e-9 * f->p->model[c.model[i]].rate) f->rest[c.model[i]] = 0;
      total -= served * f->price[c.model[i]];
    }
    left -= at, slot++;
    uint32_t live = 0;
    for (uint32_t i = 0; i < f->n_active; i++)
      if (f->rest[f->active[i]] > 0) f->active[live++] = f->active[i];
    f->n_active = live;
    for (uint32_t g = least; g <= left; g++)
      if (touched(&f->best[g], &c)) make_content(f, g);
  }
  return n;
}

static double worth(let__fill *f, const double *rest, const let__item *item, uint32_t n) {
  double v = 0;
  for (uint32_t i = 0; i < n; i++) f->rest[item[i].model] = rest[item[i].model];
  for (uint32_t i = 0; i < n; i++) {
    double served = fmin(f->rest[item[i].model], item[i].cap);
    v += served * f->price[item[i].model], f->rest[item[i].model] -= served;
  }
  return v;
}

/* What the neighbours did, for the next round and the next device. */
static void learn(let__fill *f, const let__item *item, uint32_t n) {
  const let__kind *k = &f->p->kind[f->kind];
  for (uint32_t i = 0; i < n; i++) {
    if (item[i].granules == k->granules) continue;
    double *s = slow_at(f, item[i].model);
    double seen = (double)item[i].lat / (double)let__lat(k, item[i].model, item[i].batch, item[i].granules);
    *s = seen > *s ? seen : 0.5 * (*s + seen);
  }
}

uint32_t let__fill_one(let__fill *f, uint32_t kind, const double *rest, const double *price, double greed, let__item *ret,
                       double *ret_value) {
  let__item item[LET__ITEMS];
  uint32_t n_ret = 0;
  f->kind = kind, f->price = price;
  *ret_value = 0;
  uint32_t rounds = f->p->kind[kind].alone ? 1 : f->p->n > MANY ? 2 : 1 + CLASSES;
  for (uint32_t round = 0; round < rounds; round++) { /* the first class twice: the second time it knows the neighbours */
    f->class = round < 2 ? 0 : round - 1;
    if (1u << f->class > f->p->kind[kind].granules) continue;
    choose_active(f, rest);
    uint32_t n = build(f, greed, item);
    if (!n) continue;
    uint32_t bad;
    bool held = let__evaluate(f->p, kind, item, n, &bad);
    if (!f->p->kind[kind].alone) learn(f, item, n);
    if (!held || f->p->kind[kind].profile->device.bandwidth > 0) n = let__mend(f->p, kind, item, n);
    double v = worth(f, rest, item, n);
    if (v <= *ret_value * (1 + 1e-9)) continue;
    memcpy(ret, item, n * sizeof *item);
    n_ret = n, *ret_value = v;
  }
  return n_ret;
}
