/* Plans with a given number of devices: annealing over how many granules each model has on each device.
 *
 * What h granules of a model serve beside a weight of neighbours is a table (the best split into gpu-lets with that
 * model alone, neighbours weighed at their most), so a move costs nanoseconds where filling a device costs
 * microseconds. What whole gpu-lets leave short is meant for granules that stay free: they are counted as if it took
 * its part of their time there, and let__fill_more puts real shared gpu-lets in. Nothing here is trusted: let__evaluate
 * judges every device. */
#include <math.h>
#include <string.h>

#include "plan/crowd.h"
#include "plan/search.h"

enum { LEVELS = 96, MODELS = 24, GRANULES = 32, DEVICES = 64, STEPS = 750 };
#define HEAT 4.0 /* granules */

typedef struct device {
  uint8_t h[MODELS]; /* granules */
  uint32_t free;
  double got[MODELS]; /* in parts of the rate */
} device;

typedef struct grain {
  let__problem *p;
  let__kind *k;
  let__fill *fill;
  let__scale scale;
  let_rng rng;
  uint32_t G, n, K;
  double c[MODELS], low; /* weight of a granule; the least of them */
  uint32_t last;         /* level */
  double press[LEVELS];
  const double *feel[MODELS];
  bool known[MODELS][LEVELS];
  double serve[MODELS][LEVELS][GRANULES + 1];   /* by the weight of other models; below 0: not asked for yet */
  double one[MODELS][LEVELS][GRANULES + 1];     /* one gpu-let beside all other gpu-lets */
  uint16_t batch[MODELS][LEVELS][GRANULES + 1]; /* of a gpu-let of this size beside this weight; 0: none holds */
  double dear[MODELS]; /* granules that all of the rate takes in a shared gpu-let, twice: plans that leave little short
                          come out true more often */
  device d[DEVICES], best[DEVICES];
  double got[MODELS];
  double rest[MODELS];
  let__item item[LET__ITEMS];
} grain;

/* Levels are eighths of octaves from |low|, each for the weight in its middle. */
static uint32_t level_of(const grain *s, double w) {
  if (s->k->alone || w < s->low * 1e-6) return 0;
  union {
    float f;
    uint32_t u;
  } x = {.f = (float)(w / s->low)};
  if (x.f < 1) return 1;
  uint32_t l = (x.u >> 20) - (127u << 3) + 1;
  return l < LEVELS ? l : LEVELS - 1;
}
static double edge_of(const grain *s, uint32_t l) {
  union {
    uint32_t u;
    float f;
  } x = {.u = ((l - 1 + (127u << 3)) << 20) + (1u << 19)};
  return l ? s->low * (double)x.f : 0;
}

static let_tenant tenant(const grain *s, uint32_t m, uint32_t knot, uint32_t g) {
  const let_profile_model *pm = &s->k->profile->model[s->k->at[m]];
  return (let_tenant){
      .model = s->k->at[m], .batch = knot < pm->n_pressure ? pm->pressure[knot].batch : 1, .granules = g, .busy = 1};
}

static void weights(grain *s) {
  double most = 0, least = INFINITY;
  for (uint32_t m = 0; m < s->n; m++) {
    s->c[m] = 0;
    for (uint32_t i = 0; i <= s->k->profile->model[s->k->at[m]].n_pressure && !s->k->alone; i++) {
      let_tenant t = tenant(s, m, i, s->G);
      s->c[m] = let__max(s->c[m], pow(let__max(0, let__weight(&s->scale, &t, 1)), 1 / s->scale.power) / s->G);
    }
    most = let__max(most, s->c[m]), least = let__min(least, s->c[m]);
  }
  s->low = let__max(least, most * 1e-6);
  s->last = level_of(s, most * s->G);
  for (uint32_t l = 1; l <= s->last; l++) s->press[l] = let__press(&s->scale, pow(edge_of(s, l), s->scale.power));
}

/* Gpu-lets of |m| beside level |l|; made when they are asked for: a short search sees few levels. */
static const double *one(grain *s, uint32_t m, uint32_t l) {
  const double *feel = s->feel[m];
  double slo = (double)s->p->model[m].slo, each = 1e9 / s->p->model[m].rate;
  uint32_t most = s->k->most[m];
  if (s->known[m][l]) return s->one[m][l];
  s->known[m][l] = true;
  for (uint32_t g = 1; g <= s->G; g++, feel += most) {
    double *v = &s->one[m][l][g];
    for (uint32_t b = 1; b <= most && !isinf(feel[b - 1]); b++) {
      double slow = l ? let__slowed(&s->scale, feel[b - 1], s->press[l]) : 1,
             t = (double)let__plan_slow(let__lat(s->k, m, b, g), slow);
      if (2 * t > slo) break;
      if (b * each > *v * t) *v = b * each / t, s->batch[m][l][g] = (uint16_t)b;
    }
  }
  return s->one[m][l];
}

/* The best split of |h| granules beside others of level |l|; |piece|: one of it for every number of granules, 0: one
 * stays idle. */
static double split(grain *s, uint32_t m, uint32_t l, uint32_t h, uint8_t *piece) {
  double v[GRANULES + 1], r[GRANULES + 1] = {0}, others = edge_of(s, l);
  for (uint32_t g = 1; g <= h; g++) v[g] = one(s, m, level_of(s, others + s->c[m] * (h - g)))[g];
  for (uint32_t i = 1; i <= h; i++) {
    r[i] = r[i - 1], piece[i] = 0;
    for (uint32_t g = i; g >= 1; g--)
      if (v[g] + r[i - g] > r[i] * (1 + 1e-12)) r[i] = v[g] + r[i - g], piece[i] = (uint8_t)g;
  }
  return r[h];
}

static double serves(grain *s, uint32_t m, uint32_t l, uint32_t h) {
  double *v = &s->serve[m][l][h];
  uint8_t piece[GRANULES + 1];
  if (*v < 0) *v = split(s, m, l, h, piece);
  return *v;
}

static bool tables(grain *s, uint32_t m) {
  double slo = (double)s->p->model[m].slo, each = 1e9 / s->p->model[m].rate, e = 0;
  uint32_t some = level_of(s, s->c[m] * s->G / 2), most = s->k->most[m];
  const double *feel = s->feel[m] = let__feels(&s->scale, s->p, s->k, m);
  if (!feel) return false;
  for (uint32_t l = 0; l <= s->last; l++)
    for (uint32_t h = 1; h <= s->G; h++) s->serve[m][l][h] = -1;
  for (uint32_t g = 1; g < s->G; g++, feel += most)
    for (uint32_t b = 1; b <= most && !isinf(feel[b - 1]); b++) {
      double slow = some ? let__slowed(&s->scale, feel[b - 1], s->press[some]) : 1,
             t = (double)let__lat(s->k, m, b, g) * let__max(1, slow);
      if (3 * t > slo) break;
      e = let__max(e, b * each / t / g); /* half of the time */
    }
  if (!(e > 0) && s->G > 1) e = serves(s, m, some, s->G - 1) / (s->G - 1) / 2; /* the whole device has no neighbours */
  s->dear[m] = e > 0 ? 2 / e : 1e3;
  return true;
}

static void weigh(grain *s, device *d) {
  double w = 0;
  d->free = s->G;
  for (uint32_t m = 0; m < s->n; m++) w += s->c[m] * d->h[m], d->free -= d->h[m];
  for (uint32_t m = 0; m < s->n; m++)
    d->got[m] = d->h[m] ? serves(s, m, level_of(s, w - s->c[m] * d->h[m]), d->h[m]) : 0;
}

/* Granules that are missing: what is short, less what is free. */
static double missing(const grain *s, const double *got, double free) {
  double sum = 0, other = 0; /* two sums: they do not wait for each other */
  uint32_t m = 0;
  for (; m + 1 < s->n; m += 2)
    sum += let__max(0, 1 - got[m]) * s->dear[m], other += let__max(0, 1 - got[m + 1]) * s->dear[m + 1];
  if (m < s->n) sum += let__max(0, 1 - got[m]) * s->dear[m];
  return sum + other - free;
}

static double total(grain *s, uint32_t *ret_free) {
  *ret_free = 0;
  memset(s->got, 0, sizeof s->got);
  for (uint32_t i = 0; i < s->K; i++) {
    weigh(s, &s->d[i]);
    *ret_free += s->d[i].free;
    for (uint32_t m = 0; m < s->n; m++) s->got[m] += s->d[i].got[m];
  }
  return missing(s, s->got, *ret_free);
}

/* In [0, n): takes its part of |r| away. */
static uint32_t draw(uint64_t *r, uint32_t n) {
  uint32_t low = (uint32_t)(*r & 4095);
  *r >>= 12;
  return low * n >> 12;
}

/* Another content for one device or two; false: no move. |to| are the devices after it. */
static bool move(grain *s, uint32_t at[2], device to[2]) {
  uint64_t r = let_rng_u64(&s->rng); /* one number for all that is drawn */
  uint32_t a = draw(&r, s->n + 1u), b = draw(&r, s->n + 1u), few;
  at[0] = draw(&r, s->K), at[1] = draw(&r, s->K), few = draw(&r, 8);
  if (a == b) return false;
  uint32_t have = a < s->n ? s->d[at[0]].h[a] : s->d[at[0]].free, j = few % 4 < 3 ? few % 4 + 1 : have;
  if (!have) return false;
  if (j > have) j = have;
  to[0] = s->d[at[0]];
  if (at[0] == at[1] || few < 4) { /* granules change hands */
    at[1] = at[0];
    if (a < s->n) to[0].h[a] -= (uint8_t)j;
    if (b < s->n) to[0].h[b] += (uint8_t)j;
    weigh(s, &to[0]);
    return true;
  }
  to[1] = s->d[at[1]];
  uint32_t back = b < s->n ? to[1].h[b] : to[1].free; /* they change places with others on another device */
  uint32_t i = j < back ? j : back;
  if (a < s->n) to[0].h[a] -= (uint8_t)j, to[1].h[a] += (uint8_t)j;
  if (b < s->n) to[0].h[b] += (uint8_t)i, to[1].h[b] -= (uint8_t)i;
  uint32_t use[2] = {0};
  for (uint32_t m = 0; m < s->n; m++) use[0] += to[0].h[m], use[1] += to[1].h[m];
  if (use[0] > s->G || use[1] > s->G) return false;
  weigh(s, &to[0]), weigh(s, &to[1]);
  return true;
}

static uint32_t lets(grain *s, const device *d, let__item *item) {
  double w = 0;
  for (uint32_t m = 0; m < s->n; m++) w += s->c[m] * d->h[m];
  uint32_t n = 0;
  for (uint32_t m = 0; m < s->n; m++) {
    uint8_t piece[GRANULES + 1];
    double others = w - s->c[m] * d->h[m];
    uint32_t l = level_of(s, others);
    if (d->h[m]) (void)split(s, m, l, d->h[m], piece);
    for (uint32_t h = d->h[m]; h && n < LET__ITEMS; h -= piece[h] ? piece[h] : 1)
      if (piece[h])
        item[n] =
            (let__item){.model = m,
                        .slot = (uint16_t)n,
                        .granules = piece[h],
                        .batch = s->batch[m][level_of(s, edge_of(s, l) + s->c[m] * (d->h[m] - piece[h]))][piece[h]]},
        n++;
  }
  return n;
}

static void take(grain *s, const let__set *set) {
  for (uint32_t m = 0; m < s->n; m++) s->rest[m] = s->p->model[m].rate;
  for (uint32_t i = 0; i < set->n; i++)
    for (uint32_t j = 0; j < set->p[i].n; j++) s->rest[set->p[i].item[j].model] -= set->p[i].item[j].cap;
  for (uint32_t m = 0; m < s->n; m++)
    if (s->rest[m] < 1e-10 * s->p->model[m].rate) s->rest[m] = 0;
}

static bool served(const grain *s) {
  for (uint32_t m = 0; m < s->n; m++)
    if (s->rest[m] > 0) return false;
  return true;
}

/* The annealed devices as contents, the free granules filled with what is short; true: all is served. */
static bool realise(grain *s, let_arena *a, let__set *ret, let_err *err) {
  *ret = (let__set){0};
  for (uint32_t i = 0; i < s->K; i++) {
    let__pattern x = {.count = 1, .item = s->item, .n = lets(s, &s->d[i], s->item)};
    x.n = let__mend(s->p, 0, s->item, x.n);
    if ((*err = let__set_add(a, ret, &x))) return false;
  }
  take(s, ret);
  for (uint32_t i = 0; i < s->K && !served(s); i++) {
    let__pattern *x = &ret->p[i];
    memcpy(s->item, x->item, x->n * sizeof *s->item);
    uint32_t n = let__fill_more(s->fill, 0, s->rest, s->p->price, 1, s->item, x->n);
    if (n == x->n) continue;
    x->item = let_arena_array(a, n, sizeof *x->item);
    if (!x->item) return *err = LET_ERR_NOMEM, false;
    memcpy(x->item, s->item, n * sizeof *s->item), x->n = n;
    take(s, ret);
  }
  return served(s);
}

/* One round of annealing; true: a plan, in |ret|. */
static bool anneal(grain *s, uint32_t steps, let_arena *a, let__set *ret, let_err *err) {
  uint32_t free, quiet = 0;
  double now = total(s, &free), limit = 0.25 * s->n;
  for (uint32_t i = 0; i < steps; i++, quiet++) {
    double heat = HEAT * (1 - (double)i / steps) * (1 - (double)i / steps) + 0.02;
    uint32_t at[2];
    device to[2];
    if (i % 4096 == 0 && let__expired(s->p)) return false;
    if (!move(s, at, to)) continue;
    double got[MODELS], next;
    uint32_t left = free - s->d[at[0]].free + to[0].free;
    for (uint32_t m = 0; m < s->n; m++) got[m] = s->got[m] - s->d[at[0]].got[m] + to[0].got[m];
    if (at[1] != at[0]) {
      left = left - s->d[at[1]].free + to[1].free;
      for (uint32_t m = 0; m < s->n; m++) got[m] += to[1].got[m] - s->d[at[1]].got[m];
    }
    next = missing(s, got, left);
    if (next > now && let_rng_unit(&s->rng) >= exp((now - next) / heat)) continue;
    s->d[at[0]] = to[0];
    if (at[1] != at[0]) s->d[at[1]] = to[1];
    memcpy(s->got, got, sizeof got);
    now = next, free = left;
    bool whole = now <= -(double)free + 1e-9; /* nothing is short */
    if ((now > limit || quiet < 400) && (!whole || quiet < 20)) continue;
    quiet = 0, s->p->work += 200 * s->K;
    if (realise(s, a, ret, err)) return true;
    if (*err) return false;
    if (!whole) limit = let__min(limit, now) - 0.02; /* only what is better is worth trying */
  }
  return false;
}

/* Starts from |set| with its least valuable device left out. */
static void start(grain *s, const let__set *set) {
  uint32_t n = 0, at = 0;
  double least = INFINITY;
  device all[DEVICES + 1];
  memset(all, 0, sizeof all);
  for (uint32_t i = 0; i < set->n; i++)
    for (uint32_t j = 0; j < set->p[i].count; j++, n++) {
      double value = 0;
      for (uint32_t k = 0; k < set->p[i].n; k++) {
        const let__item *x = set->p[i].item;
        value += x[k].cap * s->p->price[x[k].model];
        if ((k && x[k - 1].slot == x[k].slot) || (k + 1 < set->p[i].n && x[k + 1].slot == x[k].slot)) continue;
        all[n].h[x[k].model] = (uint8_t)(all[n].h[x[k].model] + x[k].granules);
      }
      if (value < least) least = value, at = n;
    }
  all[at] = all[n - 1];
  memcpy(s->d, all, s->K * sizeof *s->d);
}

static bool fits(const let__problem *p, uint32_t devices) {
  return p->n_kinds == 1 && p->n <= MODELS && p->kind[0].granules <= GRANULES && devices >= 2 && devices <= DEVICES + 1;
}

let_err let__grain(let__problem *p, let__fill *fill, uint64_t effort, uint64_t seed, let__set *best) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < best->n; i++) n += best->p[i].count;
  if (!fits(p, n)) return LET_OK;
  let__kind *k = &p->kind[0];
  grain *s = let_arena_alloc(p->scratch, sizeof *s);
  if (!s) return LET_ERR_NOMEM;
  memset(s, 0, sizeof *s);
  s->p = p, s->k = k, s->fill = fill, s->G = k->granules, s->n = p->n, s->K = n - 1;
  let_err r = LET_OK;
  if (!k->alone && !let__scale_make(&s->scale, p, k, &r)) return r;
  let_rng_seed(&s->rng, seed);
  weights(s);
  for (uint32_t m = 0; m < s->n; m++)
    if (!tables(s, m)) return LET_ERR_NOMEM;
  let_arena tmp;
  let_arena_init(&tmp, p->scratch->mem);
  while (!r && s->K && s->K * k->cost >= ceil(p->bound - 1e-6) * (1 - 1e-9)) {
    let__set found;
    start(s, best);
    uint64_t end = p->work + effort;
    bool ok = false;
    while (!ok && !r && p->work < end && !let__expired(p)) {
      uint32_t steps = STEPS * s->K;
      p->work += steps;
      ok = anneal(s, steps, &tmp, &found, &r);
    }
    if (!ok) break;
    *best = (let__set){.cost = s->K * k->cost};
    for (uint32_t i = 0; !r && i < found.n; i++) r = let__set_add(p->scratch, best, &found.p[i]);
    s->K--;
  }
  let_arena_fini(&tmp);
  return r;
}
