/* A third certified bound: column generation over contents of a whole device, with who sits beside whom.
 *
 * Claim. A gpu-let of one model serves at most min(r_m, T_m(g, x)) beside weight x. In a gpu-let of several, model m
 * takes a part f of the cycle D = L(b) / f with D + L(b) <= SLO, so it serves at most s_m(f) = max { b f / L(b) : L(b)
 * (1 / f + 1) <= SLO_m }, and the parts add up to at most 1: a table over f in PARTS steps, each rounded down, takes
 * no less than the best of them. Nor is it worth more than y_i T_i(g, x) of the one, the lead, with the largest y_i
 * b_i / L_i (bound.c, claim 1: the mediant). Neighbours count with the entry that slows most, so a gpu-let weighs at
 * least u(m, g), the least over the batches of its only model or its lead m. With everything else free, K is the
 * largest worth of a content, and every plan costs at least sum y r / K (Farley). Under the pressure fit weights add
 * up as powers 1/q; with no interference u = 0. Weights are rounded down to LEVELS steps, what is served is then no
 * less than it is. The linear fit clamps at 1, where "slows it most" is a tie that says nothing of weights: left to
 * crowd.c.
 *
 * K is found by branch and bound over gpu-lets of falling size. What a branch can be worth: for every number h of
 * granules used of those that are free, those chosen beside the chosen and h of the least weight, and the best split of
 * h, each piece beside the chosen and the rest of h. Branches worth no more than 1 + gap are cut, those that the effort
 * does not reach count with that estimate: K is the largest of all. A bound counts whole devices, so the gap may be as
 * large as leaves sum y r / (1 + gap) above the whole number below sum y r: no more columns could raise what that
 * rounds up to. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "plan/crowd.h"
#include "plan/lp.h"

enum { LEVELS = 64, MODELS = 24, GRANULES = 18, TURNS = 60, KEEP = 8, COLUMNS = 1024, PARTS = 64, COARSE = 8 };
enum {
  SOME_NODES = 1500,
  NODES = 20000,
  ALL_NODES = 40000
}; /* effort: of a turn that found something, of one that did not, of all */
#define GAP_MIN 2e-5
#define GAP_MAX 0.3

typedef struct lot { /* a content: gpu-lets by falling size */
  uint32_t n;
  uint8_t model[GRANULES], g[GRANULES];
  double worth;
} lot;

typedef struct joint {
  let__problem *p;
  let__kind *k;
  let__scale scale;
  uint32_t G, n;
  double u[MODELS][GRANULES + 1], unit; /* INFINITY: cannot live there; unit: the least of a granule */
  double edge[LEVELS], press[LEVELS];   /* level l: weights (as sums of u) from edge[l], and what they do */
  double serve[LEVELS][GRANULES + 1][MODELS];
  const double *feel[GRANULES + 1][MODELS]; /* per batch from 1: what it feels there; INFINITY: too slow even alone */
  double turn[LEVELS / COARSE][GRANULES + 1][MODELS][PARTS]; /* s_m, of a part below (i + 1) / PARTS */
  double taken[LEVELS / COARSE][GRANULES + 1][MODELS]; /* what the best shared content serves, at the last prices */
  double share[LEVELS / COARSE][GRANULES + 1];
  bool shared[LEVELS / COARSE][GRANULES + 1]; /* it is known at these prices */
  uint8_t beside[LEVELS][GRANULES];           /* the level with so many more granules of the least weight */
  double y[MODELS];
  double value[LEVELS][GRANULES + 1], room[LEVELS][GRANULES + 1];
  lot now, keep[KEEP];
  uint32_t n_keep, nodes;
  double goal;  /* whole devices: a bound above the number below is as good as any */
  double gap;   /* contents worth no more than 1 + gap are of no interest */
  double best;  /* the most found, from 1 + gap */
  double open;  /* the largest estimate of what was left out */
  double weigh; /* chosen so far */
  uint32_t n_columns;
  let__lp *lp;
} joint;

static uint32_t level_of(const joint *c, double u) {
  uint32_t lo = 0, hi = LEVELS - 1;
  if (u <= 0) return 0;
  while (lo < hi) {
    uint32_t mid = (lo + hi + 1) / 2;
    if (c->edge[mid] <= u) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

static double power_of(const joint *c) {
  return let__max(c->k->profile->coef[LET_COEF_SHARE_OTHER], LET_SHARE_OTHER_MIN);
}

static void weights(joint *c) {
  double q = c->k->alone ? 1 : power_of(c), most = 0;
  c->unit = INFINITY;
  for (uint32_t g = 1; g <= c->G; g++) {
    for (uint32_t m = 0; m < c->n; m++) {
      const let_profile_model *pm = &c->k->profile->model[c->k->at[m]];
      double w = INFINITY;
      if (c->k->most[m] && let__lat(c->k, m, 1, g) <= c->p->model[m].slo / 2) {
        if (c->k->alone) w = 0;
        for (uint32_t i = 0; i <= pm->n_pressure && !c->k->alone;
             i++) { /* linear between measured batches: the knots suffice */
          let_tenant t = {
              .model = c->k->at[m], .batch = i < pm->n_pressure ? pm->pressure[i].batch : 1, .granules = g, .busy = 1};
          w = let__min(w, let__weight(&c->scale, &t, 1));
        }
      }
      c->u[m][g] = isinf(w) ? w : pow(let__max(0, w), 1 / q) * (1 - 1e-9);
      if (!isinf(w)) most = let__max(most, w);
      c->unit = let__min(c->unit, c->u[m][g] / g * (1 - 1e-9));
    }
  }
  if (isinf(c->unit)) c->unit = 0;
  for (uint32_t l = 0; l < LEVELS; l++) {
    c->edge[l] = l ? pow(most * pow(c->G, q) * l / LEVELS, 1 / q) * (1 + 1e-9) : 0;
    if (l && !c->k->alone) c->press[l] = let__press(&c->scale, pow(c->edge[l], q) * (1 - 2e-9));
  }
  for (uint32_t l = 0; l < LEVELS; l++)
    for (uint32_t h = 0; h < c->G; h++) c->beside[l][h] = (uint8_t)level_of(c, c->edge[l] + h * c->unit * (1 - 1e-9));
}

/* A batch of |b| beside the weight of level |l|, at least; infinite where it is too slow even alone. */
static double beside_ns(const joint *c, uint32_t l, uint32_t m, uint32_t b, uint32_t g) {
  double slow = !l || c->k->alone ? 1 : let__slowed(&c->scale, c->feel[g][m][b - 1], c->press[l]);
  return isinf(c->feel[g][m][b - 1]) ? INFINITY : (double)let__lat(c->k, m, b, g) * slow;
}

/* Predicted times never fall with the batch, so the batches that hold beside x are the first few. */
static bool serves(joint *c, uint32_t m, uint32_t g) {
  uint32_t end = c->k->most[m];
  double slo = (double)c->p->model[m].slo;
  const double *feel = let__feels(&c->scale, c->p, c->k, m);
  if (!feel) return false;
  c->feel[g][m] = feel + (size_t)(g - 1) * end;
  for (uint32_t l = 0; l < LEVELS; l++) {
    double most = 0;
    while (end && 2 * beside_ns(c, l, m, end, g) > slo) end--;
    for (uint32_t b = 1; b <= end; b++) {
      double t = beside_ns(c, l, m, b, g);
      if (b * 1e9 > most * t) most = b * 1e9 / t;
    }
    c->serve[l][g][m] = most;
  }
  return true;
}

/* Steps of parts: what model |m| serves with less than (i + 1) / PARTS of the time. */
static void turns(joint *c, uint32_t l, uint32_t g, uint32_t m) {
  double *s = c->turn[l][g][m], slo = (double)c->p->model[m].slo;
  memset(s, 0, PARTS * sizeof *s);
  for (uint32_t b = 1; b <= c->k->most[m]; b++) { /* from which part on it may take part, and what it serves per time */
    double t = beside_ns(c, l * COARSE, m, b, g);
    if (2 * t > slo) break;
    uint32_t i = (uint32_t)let__max(0, ceil(PARTS * t / (slo - t) - 1e-9) - 1);
    s[i] = let__max(s[i], b * 1e9 / t);
  }
  double most = 0;
  for (uint32_t i = 0; i < PARTS; i++) {
    most = let__max(most, s[i]);
    s[i] = let__min(most * (i + 1) / PARTS * (1 + 1e-12), c->p->model[m].rate);
  }
}

static void better(double *restrict to, const double *restrict from, double v) {
  for (uint32_t i = 0; i < PARTS; i++) to[i] = from[i] + v > to[i] ? from[i] + v : to[i];
}

/* The best shared content of a size beside a level, by parts: best of the first m models with i + 1 parts lies behind
 * PARTS places that nobody reaches, so that every step is one loop of known length. */
static void share(joint *c, uint32_t l, uint32_t g) {
  static_assert(PARTS % 8 == 0, "whole vectors");
  double best[MODELS + 1][2 * PARTS];
  for (uint32_t i = 0; i < PARTS; i++) best[0][i] = -INFINITY, best[0][PARTS + i] = 0;
  for (uint32_t m = 0; m < c->n; m++) {
    const double *s = c->turn[l][g][m], *from = best[m];
    double *to = best[m + 1];
    memcpy(to, from, sizeof best[m]);
    if (!(c->y[m] > 0) || !(s[PARTS - 1] > 0)) continue;
    for (uint32_t k = 0; k < PARTS; k++) {
      if (!(s[k] > 0)) continue;
      double v = c->y[m] * s[k];
      better(to + PARTS, from + PARTS - k, v);
      if (s[k] >= c->p->model[m].rate) break;
    }
  }
  c->share[l][g] = best[c->n][2 * PARTS - 1], c->shared[l][g] = true;
  for (uint32_t m = c->n, left = 2 * PARTS - 1; m-- > 0;) { /* how it came about */
    c->taken[l][g][m] = 0;
    if (best[m + 1][left] == best[m][left]) continue;
    uint32_t k = 0;
    while (k + 1 < PARTS && best[m + 1][left] != best[m][left - k] + c->y[m] * c->turn[l][g][m][k]) k++;
    c->taken[l][g][m] = c->turn[l][g][m][k], left -= k;
  }
}

/* The worth of a gpu-let led by |m|: |ret_shared|: the part of the best shared content that it is, 0: only |m| is
 * there. */
static double led(joint *c, uint32_t l, uint32_t g, uint32_t m, double *ret_shared) {
  double serve = c->serve[l][g][m], rate = c->p->model[m].rate, all = c->y[m] * serve, alone = c->y[m] * rate;
  *ret_shared = 0;
  if (serve <= rate) return all;
  if (!c->shared[l / COARSE][g]) share(c, l / COARSE, g);
  double both = c->share[l / COARSE][g];
  if (alone >= both) return alone;
  *ret_shared = all < both ? all / both : 1;
  return all < both ? all : both;
}

/* What the content serves of each model beside |more|; its worth. A model that several gpu-lets serve may add up to
 * more than anybody wants: what is shared stands for other contents of the same worth, so a limit here would be none
 * for them. */
static double served(joint *c, double more, double *ret) {
  double v = 0, part;
  for (uint32_t m = 0; m < c->n; m++) ret[m] = 0;
  for (uint32_t j = 0; j < c->now.n; j++) {
    uint32_t m = c->now.model[j], g = c->now.g[j], l = level_of(c, (c->weigh - c->u[m][g]) * (1 - 1e-9) + more);
    (void)led(c, l, g, m, &part);
    if (part <= 0) ret[m] += let__min(c->serve[l][g][m], c->p->model[m].rate);
    else
      for (uint32_t i = 0; i < c->n; i++) ret[i] += part * c->taken[l / COARSE][g][i];
  }
  for (uint32_t m = 0; m < c->n; m++) v += c->y[m] * ret[m];
  return v;
}

static double worth(joint *c, double more) {
  double out[MODELS];
  return served(c, more, out);
}

static void found(joint *c, double v) {
  uint32_t at = c->n_keep;
  if (at == KEEP) {
    at = 0;
    for (uint32_t i = 1; i < KEEP; i++)
      if (c->keep[i].worth < c->keep[at].worth) at = i;
    if (c->keep[at].worth >= v) return;
  } else {
    c->n_keep++;
  }
  c->keep[at] = c->now, c->keep[at].worth = v;
  c->best = let__max(c->best, v);
}

static void branch(joint *c, uint32_t left, uint32_t g, uint32_t m) {
  for (; g >= 1; g--, m = 0) {
    if (g > left) {
      g = left + 1;
      continue;
    }
    for (; m < c->n; m++) {
      if (isinf(c->u[m][g]) || !(c->y[m] > 0)) continue;
      double before = c->weigh;
      c->now.model[c->now.n] = (uint8_t)m, c->now.g[c->now.n++] = (uint8_t)g;
      c->weigh += c->u[m][g];
      double v = worth(c, 0);
      if (v > 1 + c->gap) found(c, v);
      if (left > g) {
        uint32_t rest = left - g, l = level_of(c, c->weigh * (1 - 1e-9));
        double most = 0, gone = v; /* the chosen alone are worth no more than now */
        for (uint32_t h = rest; h >= 1; h--) {
          if (gone + c->room[l][h] <= let__max(most, c->best)) continue;
          most = let__max(most, worth(c, h * c->unit) + c->room[l][h]);
        }
        c->nodes++;
        if (most > c->best) {
          if (c->nodes >= (c->n_keep ? SOME_NODES : NODES)) c->open = let__max(c->open, most);
          else branch(c, rest, g < rest ? g : rest, g <= rest ? m : 0);
        }
      }
      c->now.n--, c->weigh = before;
    }
  }
}

/* value: the best of a size beside a level; room: of splits of exactly h granules, each piece beside the others too. */
static void rooms(joint *c) {
  uint32_t last = c->k->alone ? 1 : LEVELS;
  memset(c->shared, 0, sizeof c->shared);
  for (uint32_t l = 0; l < last; l++)
    for (uint32_t g = 1; g <= c->G; g++) {
      double most = 0, part;
      for (uint32_t m = 0; m < c->n;
           m++) { /* those that fill it alone, and what the others cannot be worth more than */
        double serve = c->serve[l][g][m], rate = c->p->model[m].rate, v = c->y[m] * (serve < rate ? serve : rate);
        if (v > most) most = v;
      }
      for (uint32_t m = 0; m < c->n; m++) {
        if (c->y[m] * c->serve[l][g][m] <= most) continue;
        double v = led(c, l, g, m, &part);
        if (v > most) most = v;
      }
      c->value[l][g] = most;
    }
  for (uint32_t l = 0; l < last; l++)
    for (uint32_t h = 1; h <= c->G; h++) {
      double best[GRANULES + 1] = {0}, v[GRANULES + 1];
      for (uint32_t g = 1; g <= h; g++) v[g] = c->value[c->beside[l][h - g]][g];
      for (uint32_t i = 1; i <= h; i++)
        for (uint32_t g = 1; g <= i; g++) best[i] = v[g] + best[i - g] > best[i] ? v[g] + best[i - g] : best[i];
      c->room[l][h] = best[h];
    }
}

/* K; the most valuable contents are in keep. */
static double price(joint *c) {
  rooms(c);
  c->n_keep = 0, c->nodes = 0, c->open = c->best = 1 + c->gap, c->weigh = 0, c->now.n = 0;
  branch(c, c->G, c->G, 0);
  c->p->work += c->nodes / 4 + 500;
  double most = c->open;
  for (uint32_t i = 0; i < c->n_keep; i++) most = let__max(most, c->keep[i].worth);
  return most;
}

static void add_column(joint *c, const lot *x) {
  int start[2] = {0, 0}, row[MODELS];
  double value[MODELS], out[MODELS], one = 1;
  if (c->n_columns == COLUMNS) return;
  c->now = *x, c->weigh = 0;
  for (uint32_t j = 0; j < x->n; j++) c->weigh += c->u[x->model[j]][x->g[j]];
  (void)served(c, 0, out);
  for (uint32_t m = 0; m < c->n; m++)
    if (out[m] > 0) row[start[1]] = (int)m, value[start[1]++] = out[m] / c->p->model[m].rate;
  let__lp_add(c->lp, 1, &one, start, row, value);
  c->n_columns++;
}

static bool master(joint *c) {
  double lo[MODELS], hi[MODELS];
  for (uint32_t m = 0; m < c->n; m++) lo[m] = 1, hi[m] = LET__LP_INF;
  c->lp = let__lp_new(c->n, lo, hi);
  for (uint32_t m = 0; c->lp && m < c->n; m++) { /* a device of its own: every model has one, or there is no plan */
    lot whole = {.n = 1, .model = {(uint8_t)m}, .g = {(uint8_t)c->G}};
    add_column(c, &whole);
  }
  return c->lp != NULL;
}

static void generate(joint *c) {
  let__problem *p = c->p;
  double best = 0;
  uint32_t all = 0;
  for (uint32_t turn = 0; turn < TURNS && all < ALL_NODES && let__lp_solve(c->lp) && !let__expired(p); turn++) {
    const double *dual = let__lp_dual(c->lp);
    double sum = 0;
    for (uint32_t m = 0; m < c->n; m++) sum += let__max(0, dual[m]), c->y[m] = let__max(0, dual[m]) / p->model[m].rate;
    double whole = let__min(ceil(sum - 1e-6), c->goal);
    if (whole * c->k->cost <= ceil(p->bound - 1e-6)) break; /* the sum only falls */
    c->gap = whole > 1 ? let__min(GAP_MAX, let__max(GAP_MIN, sum / (whole - 1 + 1e-4) - 1)) : GAP_MAX;
    double most = price(c), bound = sum / most * (1 - 1e-9) * c->k->cost;
    all += c->nodes;
    best = let__max(best, bound);
    if (!c->n_keep) break;
    for (uint32_t i = 0; i < c->n_keep; i++) add_column(c, &c->keep[i]);
  }
  p->bound = let__max(p->bound, best);
}

let_err let__joint(let__problem *p, double most) {
  let__kind *k = &p->kind[0];
  if (p->n_kinds != 1 || !p->n || p->n > MODELS || k->granules > GRANULES || k->granules < 2 || let__expired(p))
    return LET_OK;
  if (ceil(p->bound - 1e-6) > most - 0.5) return LET_OK;
  if (!k->alone && k->profile->interference != LET_INTERFERENCE_PRESSURE) return LET_OK;
  joint *c = let_arena_alloc(p->scratch, sizeof *c);
  if (!c) return LET_ERR_NOMEM;
  memset(c, 0, sizeof *c);
  c->p = p, c->k = k, c->G = k->granules, c->n = p->n, c->goal = most;
  let_err r = LET_OK;
  if (!k->alone && !let__scale_make(&c->scale, p, k, &r)) return r;
  weights(c);
  for (uint32_t g = 1; g <= c->G; g++)
    for (uint32_t m = 0; m < c->n; m++)
      if (!isinf(c->u[m][g])) {
        if (!serves(c, m, g)) return LET_ERR_NOMEM;
        for (uint32_t l = 0; l < (c->k->alone ? 1 : LEVELS / COARSE); l++) turns(c, l, g, m);
      }
  for (uint32_t m = 0; m < c->n; m++)
    if (!(c->serve[0][c->G][m] > 0)) return LET_OK;
  if (!master(c)) return LET_ERR_NOMEM;
  generate(c);
  let__lp_free(c->lp);
  return r;
}
