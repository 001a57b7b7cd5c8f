/* A second certified bound, for devices whose gpu-lets slow each other down.
 *
 * A device is a set of sizes g_1 .. g_q, sum g_j <= G. Both forms of interference see neighbours as one weight, which
 * grows with the weight of each, so gpu-let j is slowed at least as by x_j, the weight of the others together when each
 * is the gentlest content of its size. With T_i(g, x) the most requests/s of model i on g granules beside x, the claims
 * of bound.c hold within each set of sizes P: at prices y a device is worth at most
 *   K_P = sum_j max_i y_i T_i(g_j, x_j),  and cost >= sum_i y_i r_i / max_P K_P.
 * All sets are enumerated; the prices come from column generation over them. Then the slots of P may be priced at
 * anything that adds up to the cost of a device, and model i costs at least U_i at those prices (bound.c). */
#include <math.h>
#include <string.h>

#include "plan/crowd.h"
#include "plan/lp.h"

enum { SETS = 2400, LEVELS = 48, ALONE = LEVELS - 1, MODELS = 96, TURNS = 80, COLUMNS = 6, SLOTS = 18 };

typedef struct cell { /* a size beside a level of neighbours */
  uint32_t g, level;
  double best;
  uint32_t who;
} cell;

typedef struct set {
  uint32_t first, n; /* its (cell, count) pairs */
  uint32_t slots;
  double worth;
} set;

typedef struct crowd {
  let__problem *p;
  let__kind *k;
  let__scale scale;
  set *sets;
  uint32_t n_sets, n_pairs, n_cells;
  uint32_t *pair_cell, *pair_count, *cell_of;
  cell *cell;
  double *serve, *slow; /* [cell][model] */
  double *heavy; /* per size: the least weight of a neighbour, in what adds up; INFINITY: nobody can live there */
  double edge[LEVELS], press[LEVELS]; /* per level: from which sum of those on, and what that does */
  double *y;
  let__lp *lp;
} crowd;

static let_tenant whole(const let__scale *s, const let_profile_model *m) {
  return (let_tenant){.model = (uint32_t)(m - s->fake.model), .batch = 1, .granules = s->granules, .busy = 1};
}

bool let__scale_make(let__scale *s, const let__problem *p, const let__kind *k, let_err *err) {
  const let_profile *f = k->profile;
  *err = LET_ERR_NOMEM;
  *s = (let__scale){.fake = *f, .granules = k->granules, .linear = f->interference == LET_INTERFERENCE_LINEAR};
  s->power = s->linear ? 1 : let__max(f->coef[LET_COEF_SHARE_OTHER], LET_SHARE_OTHER_MIN);
  s->fake.model = let_arena_array(p->scratch, f->n_models + 2u, sizeof *s->fake.model);
  if (!s->fake.model) return false;
  memcpy(s->fake.model, f->model, f->n_models * sizeof *f->model);
  s->probe = s->fake.model + f->n_models, s->wall = s->probe + 1;
  s->probe->pressure = let_arena_array(p->scratch, 1, sizeof *s->probe->pressure);
  s->wall->pressure = let_arena_array(p->scratch, 1, sizeof *s->wall->pressure);
  if (!s->probe->pressure || !s->wall->pressure) return false;
  s->probe->n_pressure = s->wall->n_pressure = 1, s->fake.n_models += 2;
  s->probe->pressure[0].p.sensitivity = 1e6;
  s->bare = s->fake;
  if (s->linear)
    s->bare.coef[LET_COEF_CONSTANT] = 1, s->bare.coef[LET_COEF_L2_OTHER] *= 1e6,
    s->bare.coef[LET_COEF_DRAM_OTHER] *= 1e6;
  else s->bare.coef[LET_COEF_SATURATION] = 0;
  s->unit = let__press(s, 1);
  *err = LET_OK;
  if (s->linear)
    return f->coef[LET_COEF_L2_OTHER] >= 0 && f->coef[LET_COEF_DRAM_OTHER] >= 0 &&
           f->coef[LET_COEF_L2_OTHER] + f->coef[LET_COEF_DRAM_OTHER] > 0;
  return f->coef[LET_COEF_SATURATION] >= 0;
}

double let__weight(const let__scale *s, const let_tenant *t, uint32_t n) {
  let_tenant self = whole(s, s->probe);
  return (let_profile_slowdown(&s->bare, &self, t, n) - 1) * 1e-6 * (1 - 1e-9);
}

/* Beside a wall of that weight. */
static double walled(const let__scale *s, const let_tenant *self, double x) {
  let_pressure *w = &s->wall->pressure[0].p;
  const double *f = s->fake.coef;
  if (!s->linear) w->pressure = x;
  else if (f[LET_COEF_L2_OTHER] > 0) w->l2_util = x / f[LET_COEF_L2_OTHER];
  else w->dram_util = x / f[LET_COEF_DRAM_OTHER];
  let_tenant wall = whole(s, s->wall);
  return let_profile_slowdown(&s->fake, self, &wall, 1);
}

/* The linear form adds the two (a wall so heavy that the least slowdown of 1 is far away), the other multiplies them.
 */
double let__feel(const let__scale *s, let_tenant self) {
  if (s->linear) return walled(s, &self, 1e5) - 1e5;
  return (walled(s, &self, 1) - 1) / s->unit;
}

const double *let__feels(const let__scale *s, let__problem *p, let__kind *k, uint32_t m) {
  uint32_t most = k->most[m];
  if (k->feel[m]) return k->feel[m];
  double *feel = k->feel[m] = let_arena_array(p->scratch, (size_t)most * k->granules + 1, sizeof *feel);
  for (uint32_t g = 1; feel && g <= k->granules; g++)
    for (uint32_t b = 1; b <= most; b++) {
      double *x = &feel[(size_t)(g - 1) * most + b - 1];
      if (let__lat(k, m, b, g) > p->model[m].slo / 2) *x = INFINITY;
      else if (!k->alone && g < k->granules)
        *x = let__feel(s, (let_tenant){.model = k->at[m], .batch = b, .granules = g, .busy = 1});
    }
  return feel;
}

double let__press(const let__scale *s, double x) {
  let_tenant probe = whole(s, s->probe);
  return s->linear ? x : (walled(s, &probe, x) - 1) * 1e-6;
}

/* Least weight of any content of each size, in what adds up: in between measured batches pressure is linear, so the
 * knots suffice; and who is gentler does not depend on the size. */
static bool gentles(crowd *c) {
  uint32_t G = c->k->granules;
  let_tenant *least = let_arena_array(c->p->scratch, c->p->n, sizeof *least);
  double *weight = let_arena_array(c->p->scratch, c->p->n, sizeof *weight);
  c->heavy = let_arena_array(c->p->scratch, G + 1u, sizeof *c->heavy);
  if (!least || !weight || !c->heavy) return false;
  for (uint32_t m = 0; m < c->p->n; m++) {
    const let_profile_model *pm = c->k->most[m] ? &c->k->profile->model[c->k->at[m]] : NULL;
    weight[m] = INFINITY;
    for (uint32_t i = 0; pm && i <= pm->n_pressure; i++) {
      let_tenant t = {
          .model = c->k->at[m], .batch = i < pm->n_pressure ? pm->pressure[i].batch : 1, .granules = G, .busy = 1};
      double w = let__weight(&c->scale, &t, 1);
      if (w < weight[m]) weight[m] = w, least[m] = t;
    }
  }
  for (uint32_t g = 1; g <= G; g++) {
    uint32_t at = UINT32_MAX;
    for (uint32_t m = 0; m < c->p->n; m++)
      if (let__best(c->k, m, g) > 0 && (at == UINT32_MAX || weight[m] < weight[at])) at = m;
    c->heavy[g] = INFINITY;
    if (at == UINT32_MAX) continue; /* nobody can live there */
    least[at].granules = g;
    c->heavy[g] = pow(let__max(0, let__weight(&c->scale, &least[at], 1)), 1 / c->scale.power);
  }
  return true;
}

static uint32_t cell_at(crowd *c, uint32_t g, uint32_t level) {
  uint32_t key = g * LEVELS + level;
  if (!c->cell_of[key]) {
    c->cell[c->n_cells] = (cell){.g = g, .level = level};
    c->cell_of[key] = ++c->n_cells;
  }
  return c->cell_of[key] - 1;
}

static uint32_t level_of(const crowd *c, double sum) {
  uint32_t lo = 0, hi = ALONE - 1;
  while (lo < hi) {
    uint32_t mid = (lo + hi + 1) / 2;
    if (c->edge[mid] <= sum) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

static void close_set(crowd *c, const uint32_t *size, uint32_t slots) {
  set *s = &c->sets[c->n_sets++];
  *s = (set){.first = c->n_pairs, .slots = slots};
  for (uint32_t i = 0; i < slots; i++) {
    if (i && size[i] == size[i - 1]) {
      c->pair_count[c->n_pairs - 1]++;
      continue;
    }
    double others = 0;
    for (uint32_t j = 0; j < slots; j++)
      if (j != i) others += c->heavy[size[j]];
    c->pair_cell[c->n_pairs] = cell_at(c, size[i], slots > 1 ? level_of(c, others) : ALONE),
    c->pair_count[c->n_pairs++] = 1, s->n++;
  }
}

static bool sets_of(crowd *c, uint32_t *size, uint32_t slots, uint32_t left, uint32_t largest) {
  for (uint32_t g = largest < left ? largest : left; g >= 1; g--) {
    if (isinf(c->heavy[g])) continue; /* nobody can live there */
    if (c->n_sets == SETS) return false;
    size[slots] = g;
    close_set(c, size, slots + 1);
    if (left > g && !sets_of(c, size, slots + 1, left - g, g)) return false;
  }
  return true;
}

/* T_m at the cells of a size; without neighbours no model of them applies. */
static bool serve_cells(crowd *c, uint32_t g, uint32_t m) {
  const double *feel = let__feels(&c->scale, c->p, c->k, m);
  double slo = (double)c->p->model[m].slo;
  if (!feel) return false;
  feel += (size_t)(g - 1) * c->k->most[m];
  for (uint32_t l = 0; l < LEVELS; l++) {
    double least = INFINITY, most = 0;
    uint32_t at = c->cell_of[g * LEVELS + l];
    if (!at) continue;
    for (uint32_t b = 1; b <= c->k->most[m]; b++) {
      if (isinf(feel[b - 1])) continue;
      double slow = l == ALONE ? 1 : let__slowed(&c->scale, feel[b - 1], c->press[l]),
             d = (double)let__lat(c->k, m, b, g) * slow;
      if (slow < least) least = slow;
      if (2 * d <= slo && b * 1e9 > most * d) most = b * 1e9 / d;
    }
    c->serve[(at - 1) * c->p->n + m] = most, c->slow[(at - 1) * c->p->n + m] = least;
  }
  return true;
}

static double price(crowd *c) {
  double most = 0;
  for (uint32_t i = 0; i < c->n_cells; i++) {
    c->cell[i].best = 0;
    for (uint32_t m = 0; m < c->p->n; m++) {
      double v = c->y[m] * c->serve[i * c->p->n + m];
      if (v > c->cell[i].best) c->cell[i].best = v, c->cell[i].who = m;
    }
  }
  for (uint32_t s = 0; s < c->n_sets; s++) {
    set *x = &c->sets[s];
    x->worth = 0;
    for (uint32_t j = x->first; j < x->first + x->n; j++) x->worth += c->pair_count[j] * c->cell[c->pair_cell[j]].best;
    most = let__max(most, x->worth);
  }
  return most;
}

static void add_column(crowd *c, const set *x) {
  int start[2] = {0, 0}, row[64], n = 0;
  double value[64], one = 1;
  for (uint32_t j = x->first; j < x->first + x->n; j++) {
    const cell *y = &c->cell[c->pair_cell[j]];
    if (!(y->best > 0)) continue;
    int i = 0;
    while (i < n && row[i] != (int)y->who) i++;
    if (i == n) row[n] = (int)y->who, value[n++] = 0;
    value[i] += c->pair_count[j] * c->serve[c->pair_cell[j] * c->p->n + y->who] / c->p->model[y->who].rate;
  }
  start[1] = n;
  if (n) let__lp_add(c->lp, 1, &one, start, row, value);
}

static double once_at(const crowd *c, uint32_t at, uint32_t m) {
  const cell *x = &c->cell[at];
  double rate = c->p->model[m].rate, slow = c->slow[at * c->p->n + m], slo = (double)c->p->model[m].slo;
  double part = c->serve[at * c->p->n + m] >= rate ? 1 : INFINITY;
  for (uint32_t b = 1; b <= c->k->turns[(size_t)m * (c->k->granules + 1) + x->g]; b++) {
    double d = (double)let__lat(c->k, m, b, x->g) * slow;
    if (2 * d <= slo) part = let__min(part, d / let__min(b / rate * 1e9, slo - d));
  }
  return part;
}

static double least_at(const crowd *c, uint32_t at, uint32_t m) {
  const cell *x = &c->cell[at];
  double d = (double)let__lat(c->k, m, 1, x->g) * c->slow[at * c->p->n + m], slo = (double)c->p->model[m].slo;
  return c->k->turns[(size_t)m * (c->k->granules + 1) + x->g] && 2 * d <= slo ? d / (slo - d) : 1;
}

/* Slots priced by what they are worth at y and an equal part of what the device has left over. */
static double units(crowd *c, double most) {
  let__problem *p = c->p;
  double *dear = let_arena_array(p->scratch, c->n_cells, sizeof *dear), sum = 0;
  if (!dear) return 0;
  for (uint32_t i = 0; i < c->n_cells; i++) dear[i] = INFINITY; /* the least price of a cell in any set */
  for (uint32_t s = 0; s < c->n_sets; s++) {
    const set *x = &c->sets[s];
    double over = (1 - x->worth / most) / x->slots;
    for (uint32_t j = x->first; j < x->first + x->n; j++)
      dear[c->pair_cell[j]] = let__min(dear[c->pair_cell[j]], c->cell[c->pair_cell[j]].best / most + let__max(0, over));
  }
  for (uint32_t m = 0; m < p->n; m++) {
    double much = INFINITY, once = INFINITY, least = INFINITY;
    for (uint32_t i = 0; i < c->n_cells; i++) {
      double t = c->serve[i * p->n + m];
      if (!(t > 0)) continue;
      much = let__min(much, dear[i] / t * p->model[m].rate);
      double part = once_at(c, i, m);
      if (!isinf(part)) once = let__min(once, dear[i] * part);
      least = let__min(least, dear[i] * least_at(c, i, m));
    }
    double unit = let__min(once, let__max(2 * least, much));
    if (!isinf(unit)) sum += unit, c->y[m] = unit / p->model[m].rate;
  }
  return sum * (1 - 1e-9);
}

/* Levels of weight, from none to the most that fits beside anybody. */
static void levels(crowd *c) {
  uint32_t G = c->k->granules;
  double most = 0, q = c->scale.power;
  for (uint32_t g = 1; g <= G; g++)
    if (!isinf(c->heavy[g])) most = let__max(most, pow(c->heavy[g] * (G / g), q));
  for (uint32_t l = 0; l < ALONE; l++) {
    double x = most * l / (ALONE - 1);
    c->edge[l] = l ? pow(x, 1 / q) * (1 + 1e-9) : 0;
    c->press[l] = let__press(&c->scale, x * (1 - 1e-9));
  }
}

static bool tables(crowd *c) {
  let_arena *a = c->p->scratch;
  uint32_t G = c->k->granules, size[SLOTS];
  levels(c);
  c->sets = let_arena_array(a, SETS, sizeof *c->sets);
  c->pair_cell = let_arena_array(a, (size_t)SETS * 8, sizeof *c->pair_cell);
  c->pair_count = let_arena_array(a, (size_t)SETS * 8, sizeof *c->pair_count);
  c->cell = let_arena_array(a, (size_t)(G + 1) * LEVELS, sizeof *c->cell);
  c->cell_of = let_arena_array(a, (size_t)(G + 1) * LEVELS, sizeof *c->cell_of);
  if (!c->sets || !c->pair_cell || !c->pair_count || !c->cell || !c->cell_of) return false;
  if (!sets_of(c, size, 0, G, G)) return c->n_sets = 0, true;
  c->serve = let_arena_array(a, (size_t)c->n_cells * c->p->n, sizeof *c->serve);
  c->slow = let_arena_array(a, (size_t)c->n_cells * c->p->n, sizeof *c->slow);
  c->y = let_arena_array(a, c->p->n, sizeof *c->y);
  if (!c->serve || !c->slow || !c->y) return false;
  for (uint32_t g = 1; g <= G; g++)
    for (uint32_t m = 0; m < c->p->n; m++)
      if (!serve_cells(c, g, m)) return false;
  return true;
}

static bool master(crowd *c) {
  double *lo = let_arena_array(c->p->scratch, c->p->n, sizeof *lo),
         *hi = let_arena_array(c->p->scratch, c->p->n, sizeof *hi);
  if (!lo || !hi) return false;
  for (uint32_t m = 0; m < c->p->n; m++) lo[m] = 1, hi[m] = LET__LP_INF;
  c->lp = let__lp_new(c->p->n, lo, hi);
  for (uint32_t m = 0; c->lp && m < c->p->n; m++) {
    double dear = 1e4, one = 1;
    int start[2] = {0, 1}, row = (int)m;
    let__lp_add(c->lp, 1, &dear, start, &row, &one);
    memset(c->y, 0, c->p->n * sizeof *c->y); /* its best device of its own */
    c->y[m] = 1;
    (void)price(c);
    uint32_t at = 0;
    for (uint32_t s = 1; s < c->n_sets; s++)
      if (c->sets[s].worth > c->sets[at].worth) at = s;
    add_column(c, &c->sets[at]);
  }
  return c->lp != NULL;
}

static void generate(crowd *c, double *bound) {
  for (uint32_t turn = 0; turn < TURNS && let__lp_solve(c->lp) && !let__expired(c->p); turn++) {
    const double *dual = let__lp_dual(c->lp);
    double sum = 0;
    for (uint32_t m = 0; m < c->p->n; m++) {
      c->y[m] = let__max(0, dual[m]) / c->p->model[m].rate;
      sum += c->y[m] * c->p->model[m].rate;
    }
    double most = price(c);
    if (!(most > 0)) return;
    bool last = most <= 1 + 1e-6 || turn + 1 == TURNS;
    double plain = sum / most * (1 - 1e-9);
    for (uint32_t i = 0; i < COLUMNS && !last; i++) { /* the most valuable sets */
      uint32_t at = 0;
      for (uint32_t s = 1; s < c->n_sets; s++)
        if (c->sets[s].worth > c->sets[at].worth) at = s;
      if (c->sets[at].worth <= 1 + 1e-6) break;
      add_column(c, &c->sets[at]);
      c->sets[at].worth = 0;
    }
    if (plain > *bound) *bound = plain;
    if (!last) continue;
    double unit = units(c, most);
    if (unit > *bound) *bound = unit;
    return;
  }
}

let_err let__crowd(let__problem *p) {
  crowd c = {.p = p, .k = &p->kind[0]};
  if (p->n_kinds != 1 || c.k->alone || !p->n || p->n > MODELS || c.k->granules > 18 || c.k->granules < 2 ||
      let__expired(p))
    return LET_OK;
  let_err err;
  if (!let__scale_make(&c.scale, p, c.k, &err)) return err;
  if (!gentles(&c) || !tables(&c)) return LET_ERR_NOMEM;
  if (!c.n_sets) return LET_OK;
  if (!master(&c)) return LET_ERR_NOMEM;
  double bound = 0;
  generate(&c, &bound);
  let__lp_free(c.lp);
  if (bound * c.k->cost > p->bound) {
    p->bound = bound * c.k->cost;
    for (uint32_t m = 0; m < p->n; m++) p->price[m] = let__max(p->price[m], c.y[m] * c.k->cost);
  }
  return LET_OK;
}
