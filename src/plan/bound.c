/* The certified lower bound.
 *
 * Claim 1. A gpu-let of g granules that serves models S in turn, with batches b_i and times L_i, serves at most
 * b_i / D of each, D = sum of L_i. At any prices y >= 0 its worth is sum(y_i b_i) / sum(L_i), and a quotient of sums
 * never exceeds the largest quotient (mediant): max_i y_i b_i / L_i. Every i in S satisfies D + L_i <= SLO_i and
 * D >= L_i, so 2 L_i <= SLO_i: model i alone could run there at b_i. So no gpu-let of g granules is
 * worth more than v(g) = max_i y_i T_i(g), T_i(g) the most requests/s of i alone.
 *
 * Interference. A device has one gpu-let, which may as well count as all of its granules (never slower), or more: then
 * every gpu-let has a neighbour and L_i is at least L_i alone times the slowdown by the gentlest neighbour that there
 * is room for (problem.c, lows). T_i and all below are computed from these times.
 *
 * Claim 2. A piece of model i in a gpu-let takes a part w of its time. Where it is alone, count w = 1: it serves at
 * most T_i(g). Where it takes turns with another model: w = L_i(b) / D, it serves b / D, D <= SLO_i - L_i(b), and b is
 * at most turns_i(g), the largest batch for which any other model fits into the cycle beside it. So however small its
 * rate, w >= least_i(g), and to serve all of r_i in one piece w >= once_i(g), the least over these cases. The parts of
 * a gpu-let add up to at most 1, so at prices p(g) of gpu-lets, i costs at least
 *   U_i = min(one piece, more pieces)
 *       = min(min_g p(g) once(g), max(2 min_g p(g) least(g), r_i min_g p(g) / T_i(g))).
 *
 * Bound. Let p_k(g) be any prices >= 0 and K_k = max { sum p_k(g_j) : sum g_j <= G_k }, a knapsack that a table solves
 * exactly. A plan with x_k devices of kind k has gpu-lets worth at most sum_k x_k K_k, and by claim 2 at least
 * sum_i U_i. With K_k <= c_k + s_k, s_k >= 0 and x_k <= N_k: cost = sum c_k x_k >= sum_i U_i - sum_k s_k N_k. That
 * holds for every p, whatever the solver did: certify() computes it; the linear program and its column generation over
 * splits of a device only look for good prices. Inputs give another bound where there is one type: all bytes/s over
 * what one device takes.
 */
#include <math.h>
#include <string.h>

#include "plan/lp.h"
#include "plan/optimal.h"

typedef struct master {
  let__problem *p;
  let__lp *lp;
  uint32_t *row0; /* per kind: its first size row; the row behind its sizes limits its devices */
  uint32_t rows;
  double *scale; /* per model: its row is in units of its best throughput */
  double **size; /* per kind: prices of sizes */
  double *y, *excess;
  uint32_t *last; /* per size: the last piece of the best split */
  int *row;
  double *value;
} master;

/* value[h]: the best split of h granules at prices |size|; last[h]: one piece of it, 0: a granule stays free. */
static void splits(const double *size, uint32_t G, double *value, uint32_t *last) {
  value[0] = 0;
  for (uint32_t h = 1; h <= G; h++) {
    value[h] = value[h - 1], last[h] = 0;
    for (uint32_t g = 1; g <= h; g++)
      if (size[g] + value[h - g] > value[h]) value[h] = size[g] + value[h - g], last[h] = g;
  }
}

/* U_m at prices |size|. */
static double cost_of(const let__problem *p, double *const *size, uint32_t m, double rate, bool planned) {
  double much = INFINITY, once = INFINITY, least = INFINITY;
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    const let__kind *d = &p->kind[k];
    for (uint32_t g = 1; g <= d->granules; g++) {
      size_t i = (size_t)m * (d->granules + 1) + g;
      if (!(d->best[i] > 0)) continue;
      double price = size ? size[k][g] : d->size_price[g], part = planned ? d->once[i] : let__once(p, d, m, g, rate);
      much = let__min(much, price / d->best[i] * rate);
      if (!isinf(part)) once = let__min(once, price * part);
      least = let__min(least, price * d->least[i]);
    }
  }
  return let__min(once, let__max(2 * least, much));
}

double let__unit(const let__problem *p, uint32_t m, double rate) { return cost_of(p, NULL, m, rate, false); }

static double certify(master *w, bool scaled) {
  let__problem *p = w->p;
  double worst = 0, sum = 0;
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    let__kind *d = &p->kind[k];
    splits(w->size[k], d->granules, d->room, w->last);
    w->excess[k] = d->room[d->granules] - d->cost;
    worst = let__max(worst, d->room[d->granules] / d->cost);
  }
  for (uint32_t m = 0; m < p->n; m++) {
    double unit = cost_of(p, w->size, m, p->model[m].rate, true);
    w->y[m] = isinf(unit) ? 0 : unit / p->model[m].rate;
    sum += w->y[m] * p->model[m].rate;
  }
  if (scaled) return worst > 0 ? sum / worst * (1 - 1e-9) : 0;
  for (uint32_t k = 0; k < p->n_kinds; k++)
    if (w->excess[k] > 0) sum -= w->excess[k] * p->kind[k].count;
  return sum * (1 - 1e-9);
}

/* Keeps the prices of the best bound so far. */
static void keep(master *w, double bound, double shrink) {
  let__problem *p = w->p;
  if (bound <= p->bound) return;
  p->bound = bound;
  for (uint32_t m = 0; m < p->n; m++) p->price[m] = w->y[m] * shrink;
  for (uint32_t k = 0; k < p->n_kinds; k++)
    for (uint32_t g = 1; g <= p->kind[k].granules; g++) p->kind[k].size_price[g] = w->size[k][g] * shrink;
}

static void bounds(master *w) {
  let__problem *p = w->p;
  double worst = 0;
  double plain = certify(w, false), scaled = certify(w, true);
  for (uint32_t k = 0; k < p->n_kinds; k++)
    worst = let__max(worst, p->kind[k].room[p->kind[k].granules] / p->kind[k].cost);
  if (plain > scaled) keep(w, plain, 1);
  else keep(w, scaled, worst > 0 ? 1 / worst : 1);
}

static void add_split(master *w, uint32_t k, uint32_t first) {
  let__kind *d = &w->p->kind[k];
  int n = 0, start[2] = {0, 0};
  for (uint32_t h = d->granules, g = first; h > 0; g = w->last[h]) {
    if (g == 0) {
      h--;
      continue;
    }
    int at = (int)(w->row0[k] + g - 1), i = 0;
    while (i < n && w->row[i] != at) i++;
    if (i == n) w->row[n] = at, w->value[n++] = 0;
    w->value[i] -= 1;
    h -= g;
    if (!h) break;
  }
  w->row[n] = (int)(w->row0[k] + d->granules), w->value[n++] = 1;
  start[1] = n;
  let__lp_add(w->lp, 1, &d->cost, start, w->row, w->value);
}

static bool add_lets(master *w) {
  let__problem *p = w->p;
  uint32_t G = 0;
  for (uint32_t k = 0; k < p->n_kinds; k++) G += p->kind[k].granules;
  size_t most = (size_t)p->n * G;
  int *start = let_arena_array(p->scratch, most + 1, sizeof *start),
      *row = let_arena_array(p->scratch, 2 * most + 1, sizeof *row);
  double *value = let_arena_array(p->scratch, 2 * most + 1, sizeof *value),
         *cost = let_arena_array(p->scratch, most + 1, sizeof *cost);
  if (!start || !row || !value || !cost) return false;
  uint32_t n = 0;
  int at = 0;
  for (uint32_t m = 0; m < p->n; m++)
    for (uint32_t k = 0; k < p->n_kinds; k++) {
      double last = 0;
      for (uint32_t g = 1; g <= p->kind[k].granules; g++) {
        double once = p->kind[k].once[(size_t)m * (p->kind[k].granules + 1) + g];
        double t = isinf(once) ? let__best(&p->kind[k], m, g) : p->model[m].rate / once;
        if (t <= last) continue; /* a smaller gpu-let serves as much */
        last = t;
        start[n++] = at;
        row[at] = (int)m, value[at++] = t / w->scale[m];
        row[at] = (int)(w->row0[k] + g - 1), value[at++] = 1;
      }
    }
  start[n] = at;
  let__lp_add(w->lp, n, cost, start, row, value);
  return true;
}

/* Rows: every model's rate; for every size, no more gpu-lets than splits provide; no more devices than there are
 * (with a dear way out, so that there is always a solution to learn prices from). */
static bool master_make(master *w) {
  let__problem *p = w->p;
  uint32_t most = 0;
  w->row0 = let_arena_array(p->scratch, p->n_kinds, sizeof *w->row0);
  w->size = let_arena_array(p->scratch, p->n_kinds, sizeof *w->size);
  w->excess = let_arena_array(p->scratch, p->n_kinds, sizeof *w->excess);
  w->scale = let_arena_array(p->scratch, p->n + 1u, sizeof *w->scale);
  w->y = let_arena_array(p->scratch, p->n + 1u, sizeof *w->y);
  if (!w->row0 || !w->size || !w->excess || !w->scale || !w->y) return false;
  w->rows = p->n;
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    w->row0[k] = w->rows;
    w->rows += p->kind[k].granules + 1;
    if (p->kind[k].granules > most) most = p->kind[k].granules;
    w->size[k] = let_arena_array(p->scratch, p->kind[k].granules + 1u, sizeof **w->size);
    if (!w->size[k]) return false;
  }
  w->last = let_arena_array(p->scratch, most + 1u, sizeof *w->last);
  w->row = let_arena_array(p->scratch, most + 2u, sizeof *w->row);
  w->value = let_arena_array(p->scratch, most + 2u, sizeof *w->value);
  double *lo = let_arena_array(p->scratch, w->rows, sizeof *lo), *hi = let_arena_array(p->scratch, w->rows, sizeof *hi);
  if (!w->last || !w->row || !w->value || !lo || !hi) return false;
  for (uint32_t r = p->n; r < w->rows; r++) lo[r] = -LET__LP_INF;
  for (uint32_t m = 0; m < p->n; m++) {
    for (uint32_t k = 0; k < p->n_kinds; k++)
      w->scale[m] = let__max(w->scale[m], let__best(&p->kind[k], m, p->kind[k].granules));
    lo[m] = w->scale[m] > 0 ? p->model[m].rate / w->scale[m] : 0, hi[m] = LET__LP_INF;
    if (!(w->scale[m] > 0)) w->scale[m] = 1;
  }
  for (uint32_t k = 0; k < p->n_kinds; k++)
    hi[w->row0[k] + p->kind[k].granules] = p->one_type ? LET__LP_INF : p->kind[k].count;
  w->lp = let__lp_new(w->rows, lo, hi);
  return w->lp != NULL;
}

static void first_columns(master *w) {
  let__problem *p = w->p;
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    uint32_t G = p->kind[k].granules;
    for (uint32_t g = 1; g <= G; g++) { /* as many of g as fit, and the rest in one piece */
      for (uint32_t h = 1; h <= G; h++) w->last[h] = h >= g ? g : h;
      add_split(w, k, g);
    }
    double dear = 1e3 * p->kind[k].cost, minus = -1;
    int start[2] = {0, 1}, row = (int)(w->row0[k] + G);
    if (!p->one_type) let__lp_add(w->lp, 1, &dear, start, &row, &minus);
  }
}

/* True: a split is worth more than its device costs, so the program can still improve. */
static bool price_splits(master *w) {
  let__problem *p = w->p;
  const double *dual = let__lp_dual(w->lp);
  bool more = false;
  for (uint32_t k = 0; k < p->n_kinds; k++) {
    let__kind *d = &p->kind[k];
    double limit = d->cost - dual[w->row0[k] + d->granules];
    splits(w->size[k], d->granules, d->room, w->last);
    if (d->room[d->granules] <= limit * (1 + 1e-7)) continue;
    more = true;
    for (uint32_t g = 1; g <= d->granules; g++)
      if (w->size[k][g] + d->room[d->granules - g] > limit * (1 + 1e-7)) add_split(w, k, g);
  }
  return more;
}

static void read_prices(master *w) {
  const double *dual = let__lp_dual(w->lp);
  for (uint32_t k = 0; k < w->p->n_kinds; k++) {
    double most = 0; /* a larger gpu-let is worth at least as much: it may leave granules idle */
    for (uint32_t g = 1; g <= w->p->kind[k].granules; g++) {
      most = let__max(most, -dual[w->row0[k] + g - 1]);
      w->size[k][g] = most;
    }
  }
}

/* A model that is free at the bound's prices still takes room: the search needs it to be worth something. */
static void floor_prices(let__problem *p) {
  for (uint32_t m = 0; m < p->n; m++) {
    double whole = INFINITY;
    for (uint32_t k = 0; k < p->n_kinds; k++) {
      double t = let__best(&p->kind[k], m, p->kind[k].granules);
      if (t > 0) whole = let__min(whole, p->kind[k].cost / t);
    }
    if (!isinf(whole)) p->price[m] = let__max(p->price[m], 0.05 * whole);
  }
}

/* Bytes/s of all inputs in devices of the only type. */
static double wire_bound(const let__problem *p) {
  const let__kind *k = &p->kind[0];
  double bytes = 0;
  for (uint32_t m = 0; m < p->n; m++)
    if (k->at[m] != UINT32_MAX) bytes += p->model[m].rate * (double)k->profile->model[k->at[m]].input_bytes;
  return p->n_kinds == 1 && k->profile->device.bandwidth > 0
             ? bytes / k->profile->device.bandwidth * k->cost * (1 - 1e-9)
             : 0;
}

let_err let__bound(let__problem *p) {
  master w = {.p = p};
  p->bound = 0;
  if (!p->n) return LET_OK;
  if (!master_make(&w) || !add_lets(&w)) {
    let__lp_free(w.lp);
    return LET_ERR_NOMEM;
  }
  for (uint32_t k = 0; k < p->n_kinds; k++) /* prices to start with, should time be over at once */
    for (uint32_t g = 1; g <= p->kind[k].granules; g++) w.size[k][g] = p->kind[k].cost * g / p->kind[k].granules;
  bounds(&w);
  if (!let__expired(p)) {
    first_columns(&w);
    for (uint32_t i = 0; i < 60 && let__lp_solve(w.lp); i++) {
      read_prices(&w);
      bounds(&w);
      if (let__expired(p)) break;
      read_prices(&w);
      if (!price_splits(&w)) break;
    }
  }
  for (uint32_t k = 0; k < p->n_kinds; k++) splits(p->kind[k].size_price, p->kind[k].granules, p->kind[k].room, w.last);
  p->bound = let__max(p->bound, wire_bound(p));
  floor_prices(p);
  let__lp_free(w.lp);
  return let__crowd(p);
}
