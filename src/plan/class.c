/* A fourth certified bound: column generation over contents of a device, told by classes. It asks more time than
 * joint.c and sees more: that nobody wants more of a model than its rate, and that who takes turns shares his
 * neighbours.
 *
 * Claim. Under the pressure fit weights add up as powers 1/q, and a gpu-let of g granules in which model m runs weighs
 * at least c_m g, the least over its batches and sizes: neighbours count with the entry that slows most. Let a gpu-let
 * belong to the class of its heaviest model, by c. With u_t granules in class t a gpu-let of class t and g granules has
 * at least w_t + c_t (u_t - g) beside it, w_t the sum of c_s u_s of the other classes. So gpu-lets with t alone that
 * take h of the u_t granules serve at most S_t(h), the best split of h. In a shared one of class t model m finds t, or
 * t finds a lighter one, whose batch of 1 at least takes its turn as well: m's batch takes L <= min((SLO_m - L_o(1)) /
 * 2, SLO_o - 2 L_o(1)), o the other, and serves at most E_tm = max b / (L g) per granule and part of its time. The
 * parts in shared gpu-lets of class t add up to u_t - h, and t has at least f_t = min L_t(1) / (SLO_t - L_t(1)) of
 * them. So beside given u, contents are worth at most max sum_m y_m min(1, S_m(h_m) + sum_t E_tm x_tm), in parts of the
 * rates, and for every 0 <= d <= y no more than (relax the min)
 *   sum_m d_m + sum_t max_h { (y_t - d_t) S_t(h) + (u_t - h) (f_t z_tt + (1 - f_t) max_m z_tm) },
 *   z_tm = (y_m - d_m) E_tm.
 * A gpu-let of the whole device that is shared has no neighbours and stands apart: model m takes a part f of the cycle
 * D = L(b) / f with D + L(b) <= SLO, as a table over f in PARTS steps, each rounded down (joint.c). Without
 * interference c = 0. Weights are rounded down to a level. K(y) is the largest of these, over all u; every plan costs
 * at least sum y / K (Farley).
 *
 * K is found by branch and bound over u, the heaviest class first. A few vectors d are good for all u at once: then
 * what is left is a sum over classes, of which a table knows the best split of the granules that are left, beside the
 * weight chosen so far and the least that these granules add. Where that is not enough, a small linear program finds
 * the best d for one u; it is judged by the formula above, not by what the solver says. Branches worth no more than the
 * cut are left out, those that the effort does not reach count with their estimate: K is the largest of all of these.
 *
 * Whole devices. A plan of no more than N devices has, of every kind of device, a whole number of them: either at most
 * k or at least k + 1 devices are one gpu-let in which m runs, or have a granules or more in class t. A tree of such
 * rules is a row of the program each, whose price every content that they count is worth more. Where K and the prices y
 * and b of a leaf say (sum y + sum b rhs) / K > N, no plan with N devices obeys its rules; where all leaves say so
 * there is none. */
#include <math.h>
#include <string.h>

#include "plan/crowd.h"
#include "plan/lp.h"

enum {
  LEVELS = 96,
  COARSE = 3,
  STEPS = LEVELS / COARSE,
  MODELS = 16,
  GRANULES = 18,
  TURNS = 100,
  KEEP = 10,
  COLUMNS = 1024,
  RULES = 24,
  PARTS = 192,
  RELAX = 4
};
#define GAP_MIN 2e-5
#define GAP_MAX 0.3

typedef struct content {
  bool one; /* a gpu-let of the whole device: its models are those with u > 0 */
  uint8_t u[MODELS];
  double worth, out[MODELS]; /* what it serves, in parts of the rates */
} content;

typedef struct rule { /* of devices that are one gpu-let with model |m| (|a| = 0), or have |a| granules or more in its
                         class */
  uint32_t m, a;
  bool least; /* at least |count| of them, or at most */
  double count, price;
} rule;

typedef struct classes {
  let__problem *p;
  let__kind *k;
  let__scale scale;
  uint32_t G, n, last;
  uint32_t who[MODELS];                /* the heaviest first: below, models are counted in this order */
  double c[MODELS], light[MODELS + 1]; /* light: the least from here on */
  double low, press[LEVELS];
  uint8_t with[MODELS][LEVELS][GRANULES + 1]; /* the level with so many more granules of a class */
  double *own;                                /* S_t: [t][level of the others][u][h] */
  double *duo;                                /* E_tm: [t][m][level][u] */
  double *turn;                               /* [m][part], of the whole device shared */
  double least[MODELS];                       /* f_t */
  double y[MODELS];
  double relax[RELAX][MODELS], sum[RELAX]; /* vectors d, and their sums */
  uint32_t n_relax, next;
  double part[RELAX][MODELS][STEPS][GRANULES + 1], rest[RELAX][MODELS + 1][STEPS][GRANULES + 1];
  content now, keep[KEEP], *column;
  uint32_t n_keep, n_columns, n_rules;
  rule rule[RULES];
  double more[MODELS]
             [GRANULES + 1]; /* what rules make granules of a class worth more; 0: of one gpu-let with the model */
  uint64_t left;             /* effort */
  double goal;               /* whole devices: a bound above the number below is as good as any */
  double cut;                /* contents worth no more are of no interest */
  double open;               /* the largest estimate of what the effort did not reach */
  let__lp *lp;
} classes;

/* Levels are eighths of octaves from |low|, rounded down. */
static uint32_t level_of(const classes *c, double w) {
  if (c->k->alone || w < c->low) return 0;
  union {
    float f;
    uint32_t u;
  } x = {.f = (float)(w / c->low * (1 - 1e-6))};
  uint32_t l = x.f < 1 ? 0 : (x.u >> 20) - (127u << 3) + 1;
  return l < LEVELS ? l : LEVELS - 1;
}
static double edge_of(const classes *c, uint32_t l) {
  union {
    uint32_t u;
    float f;
  } x = {.u = (l - 1 + (127u << 3)) << 20};
  return l ? c->low * (double)x.f : 0;
}

static double *own_at(const classes *c, uint32_t t, uint32_t l, uint32_t u) {
  return &c->own[((t * LEVELS + l) * (c->G + 1) + u) * (c->G + 1)];
}
static double *duo_at(const classes *c, uint32_t t, uint32_t m, uint32_t l) {
  return &c->duo[((t * c->n + m) * LEVELS + l) * (c->G + 1)];
}
static const let__want *want_of(const classes *c, uint32_t m) { return &c->p->model[c->who[m]]; }
static let_dur lat_of(const classes *c, uint32_t m, uint32_t b, uint32_t g) {
  return c->k->most[c->who[m]] ? let__lat(c->k, c->who[m], b, g) : LET_NEVER;
}

static void weights(classes *c) {
  double least = INFINITY, most = 0;
  for (uint32_t m = 0; m < c->n; m++) {
    const let_profile_model *pm = &c->k->profile->model[c->k->at[m]];
    double w = c->k->alone ? 0 : INFINITY;
    for (uint32_t g = 1; g <= c->G && !c->k->alone; g++)
      for (uint32_t i = 0; i <= pm->n_pressure; i++) { /* linear between measured batches: the knots suffice */
        let_tenant t = {
            .model = c->k->at[m], .batch = i < pm->n_pressure ? pm->pressure[i].batch : 1, .granules = g, .busy = 1};
        w = fmin(w, pow(fmax(0, let__weight(&c->scale, &t, 1)), 1 / c->scale.power) / g * (1 - 1e-9));
      }
    uint32_t j = m;
    for (; j && c->c[j - 1] < w; j--) c->c[j] = c->c[j - 1], c->who[j] = c->who[j - 1];
    c->c[j] = w, c->who[j] = m;
    least = fmin(least, w), most = fmax(most, w);
  }
  c->light[c->n] = least;
  for (uint32_t m = c->n; m-- > 0;) c->light[m] = fmin(c->light[m + 1], c->c[m]);
  c->light[c->n] = 0;
  c->low = fmax(least, most * 1e-3);
  c->last = most > 0 ? level_of(c, most * c->G) : 0;
  for (uint32_t l = 1; l <= c->last; l++)
    c->press[l] = let__press(&c->scale, pow(edge_of(c, l) * (1 - 1e-9), c->scale.power) * (1 - 2e-9));
  for (uint32_t t = 0; t < c->n; t++)
    for (uint32_t l = 0; l <= c->last; l++)
      for (uint32_t h = 0; h <= c->G; h++) c->with[t][l][h] = (uint8_t)level_of(c, edge_of(c, l) + c->c[t] * h);
}

/* A model at a size, by batch: how long it takes alone, and what it feels of its neighbours. */
typedef struct speed {
  double alone[LET_BATCH_MAX + 1], feel[LET_BATCH_MAX + 1];
} speed;

typedef struct pace {
  uint32_t n, batch[LET_BATCH_MAX];
  double time[LET_BATCH_MAX], most[LET_BATCH_MAX];
} pace;

typedef double grid[LEVELS][GRANULES + 1];

static void speeds(const classes *c, uint32_t m, uint32_t g, speed *s) {
  for (uint32_t b = 1; b <= c->k->most[c->who[m]]; b++) {
    let_dur d = lat_of(c, m, b, g);
    s->alone[b] = d == LET_NEVER ? INFINITY : (double)d, s->feel[b] = 0;
    if (!c->k->alone && d <= want_of(c, m)->slo / 2)
      s->feel[b] =
          let__feel(&c->scale, (let_tenant){.model = c->k->at[c->who[m]], .batch = b, .granules = g, .busy = 1});
  }
}

/* Beside level |l|: how long each batch takes, and the most that it or a shorter one serves, in parts of the rate. */
static void paces(const classes *c, uint32_t m, uint32_t l, const speed *s, pace *ret) {
  double rows = 0, time = 1, unit = 1e9 / want_of(c, m)->rate * (1 + 1e-12);
  ret->n = 0;
  for (uint32_t b = 1; b <= c->k->most[c->who[m]]; b++) {
    double d = s->alone[b] * (l ? let__slowed(&c->scale, s->feel[b], c->press[l]) : 1);
    if (2 * d > (double)want_of(c, m)->slo * (1 + 1e-12)) continue;
    uint32_t at = ret->n++;
    for (; at && ret->time[at - 1] > d; at--)
      ret->time[at] = ret->time[at - 1], ret->batch[at] = ret->batch[at - 1]; /* they seldom fall */
    ret->time[at] = d, ret->batch[at] = b;
  }
  for (uint32_t i = 0; i < ret->n; i++) {
    if (ret->batch[i] * time > rows * ret->time[i]) rows = ret->batch[i], time = ret->time[i];
    ret->most[i] = rows / time * unit;
  }
}

/* The most that batches serve that take at most |limit|. */
static double within(const pace *x, double limit) {
  uint32_t lo = 0, hi = x->n;
  limit *= 1 + 1e-12;
  while (lo < hi) {
    uint32_t mid = (lo + hi) / 2;
    if (x->time[mid] <= limit) lo = mid + 1;
    else hi = mid;
  }
  return lo ? x->most[lo - 1] : 0;
}

/* The longest batch of |m| that leaves room for one of |o| in the same cycle. */
static double beside(const classes *c, uint32_t m, uint32_t o, uint32_t g) {
  let_dur d = lat_of(c, o, 1, g);
  return d == LET_NEVER ? 0 : fmin((double)(want_of(c, m)->slo - d) / 2, (double)(want_of(c, o)->slo - 2 * d));
}

static void tables(classes *c, uint32_t m, speed *s, pace *x, grid *at) {
  c->least[m] = 1;
  for (uint32_t g = 1; g <= c->G; g++) {
    let_dur d = lat_of(c, m, 1, g), slo = want_of(c, m)->slo;
    if (d != LET_NEVER && 2 * d <= slo) c->least[m] = fmin(c->least[m], (double)d / (double)(slo - d));
    speeds(c, m, g, &s[g]);
  }
  double limit[MODELS][GRANULES + 1] = {{0}}; /* of a batch that takes turns, by the class */
  for (uint32_t t = 0; t <= m; t++)
    for (uint32_t g = 1; g < c->G; g++) {
      if (t < m) limit[t][g] = beside(c, m, t, g);
      for (uint32_t o = m + 1; o < c->n && t == m; o++) limit[t][g] = fmax(limit[t][g], beside(c, m, o, g));
    }
  for (uint32_t l = 0; l <= c->last; l++)
    for (uint32_t g = 1; g <= c->G; g++) {
      paces(c, m, l, &s[g], x);
      at[MODELS][l][g] = within(x, (double)want_of(c, m)->slo / 2);
      for (uint32_t t = 0; t <= m; t++) at[t][l][g] = limit[t][g] > 0 ? within(x, limit[t][g]) / g : 0;
    }
  for (uint32_t l = 0; l <= c->last; l++)
    for (uint32_t u = 1; u <= c->G; u++) {
      double *r = own_at(c, m, l, u), v[GRANULES + 1];
      for (uint32_t g = 1; g <= u; g++) v[g] = g == c->G ? 0 : at[MODELS][c->with[m][l][u - g]][g];
      for (uint32_t h = 1; h <= u; h++) {
        double most = r[h - 1];
        for (uint32_t g = 1; g <= h; g++) most = let__max(most, v[g] + r[h - g]);
        r[h] = let__min(1, most); /* nobody wants more */
      }
    }
  for (uint32_t l = 0; l <= c->last; l++)
    for (uint32_t u = 1; u <= c->G; u++)
      for (uint32_t g = 1; g <= u && g < c->G; g++)
        for (uint32_t t = 0; t <= m; t++) {
          double *most = &duo_at(c, t, m, l)[u], v = at[t][c->with[t][l][u - g]][g];
          if (v > *most) *most = v;
        }
  double *turn = &c->turn[m * PARTS], most = 0, slo = (double)want_of(c, m)->slo; /* joint.c */
  for (uint32_t b = 1; b <= c->k->most[c->who[m]]; b++) {
    double d = (double)lat_of(c, m, b, c->G);
    if (2 * d > slo) break;
    uint32_t i = (uint32_t)fmax(0, ceil(PARTS * d / (slo - d) - 1e-9) - 1);
    if (i < PARTS) turn[i] = fmax(turn[i], b * 1e9 / d / want_of(c, m)->rate);
  }
  for (uint32_t i = 0; i < PARTS; i++) {
    most = fmax(most, turn[i]);
    turn[i] = fmin(1, most * (i + 1) / PARTS * (1 + 1e-12));
  }
}

/* The most that one class is worth with |u| granules beside others of level |l|, at prices |z|. */
static double worth_of(const classes *c, uint32_t t, uint32_t l, uint32_t u, const double *z) {
  if (!u) return 0;
  const double *s = own_at(c, t, l, u);
  double most = 0, mine = z[t] * duo_at(c, t, t, l)[u], best = mine;
  for (uint32_t m = t + 1; m < c->n; m++) best = let__max(best, z[m] * duo_at(c, t, m, l)[u]);
  double part = c->least[t] * mine + (1 - c->least[t]) * best;
  if (!(duo_at(c, t, t, l)[u] > 0)) part = 0; /* nobody can take turns with it */
  for (uint32_t h = 0; h <= u; h++) most = let__max(most, z[t] * s[h] + (u - h) * part);
  return most;
}

static void others(const classes *c, const content *x, uint32_t *l) {
  double w = 0;
  for (uint32_t t = 0; t < c->n; t++) w += c->c[t] * x->u[t];
  for (uint32_t t = 0; t < c->n; t++) l[t] = level_of(c, (w - c->c[t] * x->u[t]) * (1 - 1e-9) - 1e-9 * w);
}

static double value(const classes *c, const content *x, const uint32_t *l, const double *d) {
  double z[MODELS], v = 0;
  for (uint32_t m = 0; m < c->n; m++) z[m] = c->y[m] - d[m], v += d[m];
  for (uint32_t t = 0; t < c->n; t++) v += worth_of(c, t, l[t], x->u[t], z) + (x->u[t] ? c->more[t][x->u[t]] : 0);
  return v;
}

static void relax(classes *c, const double *d) {
  uint32_t j = c->n_relax < RELAX ? c->n_relax++ : c->next;
  c->next = (j + 1) % RELAX, c->sum[j] = 0;
  for (uint32_t m = 0; m < c->n; m++) c->relax[j][m] = d[m], c->sum[j] += d[m];
}

/* The best vector d for |x|, and a content to go with it. */
static bool solve(const classes *c, content *x, const uint32_t *l, double *d) {
  double lo[4 * MODELS] = {0}, hi[4 * MODELS] = {0}, rate[MODELS * (GRANULES + 1) + MODELS * MODELS];
  uint32_t n = c->n, who[MODELS * (GRANULES + 1) + MODELS * MODELS], cols = 0;
  for (uint32_t m = 0; m < n; m++) { /* one h; time that is shared; no more than all; the class's own part of it */
    lo[m] = hi[m] = 1, lo[n + m] = lo[2 * n + m] = -LET__LP_INF, hi[n + m] = 0, hi[2 * n + m] = 1, lo[3 * n + m] = 0,
    hi[3 * n + m] = LET__LP_INF;
  }
  let__lp *lp = let__lp_new(4 * n, lo, hi);
  if (!lp) return false;
  for (uint32_t t = 0; t < n; t++) {
    bool shares = x->u[t] && duo_at(c, t, t, l[t])[x->u[t]] > 0;
    for (uint32_t h = 0; h <= x->u[t]; h++) {
      double s = x->u[t] ? own_at(c, t, l[t], x->u[t])[h] : 0, cost = -c->y[t] * s, time = x->u[t] - h;
      int start[2] = {0, 4}, row[4] = {(int)t, (int)(n + t), (int)(2 * n + t), (int)(3 * n + t)};
      let__lp_add(lp, 1, &cost, start, row, (double[]){1, -time, s, -c->least[t] * time});
      rate[cols] = s, who[cols++] = t;
    }
    for (uint32_t m = t; shares && m < n; m++) {
      double e = duo_at(c, t, m, l[t])[x->u[t]], cost = -c->y[m] * e;
      int start[2] = {0, m == t ? 3 : 2}, row[3] = {(int)(n + t), (int)(2 * n + m), (int)(3 * n + m)};
      let__lp_add(lp, 1, &cost, start, row, (double[]){1, e, 1});
      rate[cols] = e, who[cols++] = m;
    }
  }
  bool ok = let__lp_solve(lp);
  const double *much = let__lp_primal(lp), *dual = let__lp_dual(lp);
  for (uint32_t m = 0; m < n; m++) x->out[m] = 0, d[m] = ok ? fmin(c->y[m], fmax(0, -dual[2 * n + m])) : 0;
  for (uint32_t i = 0; ok && i < cols; i++) x->out[who[i]] += rate[i] * fmax(0, much[i]);
  for (uint32_t m = 0; m < n; m++) x->out[m] = fmin(1, x->out[m]);
  let__lp_free(lp);
  return ok;
}

static void found(classes *c, const content *x) {
  uint32_t at = c->n_keep;
  if (at == KEEP) {
    at = 0;
    for (uint32_t i = 1; i < KEEP; i++)
      if (c->keep[i].worth < c->keep[at].worth) at = i;
    if (c->keep[at].worth >= x->worth) return;
  } else {
    c->n_keep++;
  }
  c->keep[at] = *x;
  c->cut = fmax(c->cut, 1 + 0.6 * (x->worth - 1));
}

static void leaf(classes *c) {
  uint32_t l[MODELS];
  others(c, &c->now, l);
  double v = INFINITY, d[MODELS];
  for (uint32_t j = 0; j < c->n_relax && v > c->cut; j++) v = fmin(v, value(c, &c->now, l, c->relax[j]));
  if (v <= c->cut) return;
  c->left -= c->left < 20 ? c->left : 20; /* what a small program takes, in steps */
  if (!solve(c, &c->now, l, d)) {
    c->open = fmax(c->open, v);
    return;
  }
  relax(c, d);
  c->now.worth = fmin(v, value(c, &c->now, l, d));
  if (c->now.worth > c->cut) found(c, &c->now);
}

/* The tables of the first |n_relax| vectors. */
static void rests(classes *c, uint32_t j) {
  double z[MODELS];
  c->sum[j] = 0;
  for (uint32_t m = 0; m < c->n; m++) {
    c->relax[j][m] = fmin(c->relax[j][m], c->y[m]);
    z[m] = c->y[m] - c->relax[j][m], c->sum[j] += c->relax[j][m];
  }
  for (uint32_t i = 0; i * COARSE <= c->last; i++) {
    memset(c->rest[j][c->n][i], 0, sizeof c->rest[j][c->n][i]);
    for (uint32_t t = c->n; t-- > 0;) {
      double *part = c->part[j][t][i], *rest = c->rest[j][t][i], *next = c->rest[j][t + 1][i];
      for (uint32_t u = 0; u <= c->G; u++) {
        part[u] = worth_of(c, t, level_of(c, edge_of(c, i * COARSE) - c->c[t] * u * (1 + 1e-9)), u, z) +
                  (u ? c->more[t][u] : 0);
        rest[u] = part[0] + next[u];
        for (uint32_t h = 1; h <= u; h++) rest[u] = fmax(rest[u], part[h] + next[u - h]);
      }
    }
  }
}

/* The most that a content can be worth whose classes before |t| are as in |now|; or something above the cut. */
static double estimate(const classes *c, uint32_t t, uint32_t left, double w, uint32_t n_relax) {
  double most = -INFINITY;
  for (uint32_t h = left + 1; h-- > 0;) {
    uint32_t i = level_of(c, (w + c->light[t] * h) * (1 - 1e-9)) / COARSE;
    double v = INFINITY;
    for (uint32_t j = 0; j < n_relax && v > c->cut; j++) {
      double sum = c->sum[j] + c->rest[j][t][i][h];
      for (uint32_t k = 0; k < t; k++) sum += c->part[j][k][i][c->now.u[k]];
      v = fmin(v, sum);
    }
    most = fmax(most, v);
  }
  return most;
}

static void branch(classes *c, uint32_t t, uint32_t left, double w, uint32_t n_relax) {
  if (t == c->n) {
    leaf(c);
    return;
  }
  double most = estimate(c, t, left, w, n_relax);
  if (most <= c->cut) return;
  if (!c->left) {
    c->open = fmax(c->open, most);
    return;
  }
  c->left--;
  for (uint32_t u = left + 1; u-- > 0;) {
    c->now.u[t] = (uint8_t)u;
    branch(c, t + 1, left - u, w + c->c[t] * u, n_relax);
  }
}

/* The whole device shared: the best choice of parts. */
static void single(classes *c) {
  double best[PARTS] = {0}, next[PARTS];
  uint8_t pick[MODELS][PARTS]; /* steps + 1; 0: not there */
  for (uint32_t m = 0; m < c->n; m++) {
    memset(pick[m], 0, PARTS);
    memcpy(next, best, sizeof next);
    for (uint32_t k = 0; k < PARTS; k++) {
      double s = c->turn[m * PARTS + k], v = c->y[m] * s + c->more[m][0];
      if (!(s > 0)) continue;
      for (uint32_t i = k; i < PARTS; i++)
        if (best[i - k] + v > next[i]) next[i] = best[i - k] + v, pick[m][i] = (uint8_t)(k + 1);
      if (s >= 1) break;
    }
    memcpy(best, next, sizeof best);
  }
  content x = {.one = true, .worth = best[PARTS - 1]};
  for (uint32_t m = c->n, left = PARTS - 1; m-- > 0;) {
    uint32_t k = pick[m][left];
    x.out[m] = k ? c->turn[m * PARTS + k - 1] : 0, x.u[m] = k > 0;
    if (k) left -= k - 1;
  }
  if (x.worth > c->cut) found(c, &x);
}

/* K; contents that are worth most are in keep. */
static double price(classes *c, double gap, uint64_t effort) {
  c->n_keep = 0, c->open = 0, c->cut = 1 + gap, c->left = effort;
  single(c);
  if (!c->n_relax) relax(c, (double[MODELS]){0});
  uint32_t n_relax = c->n_relax; /* leaves find more, for which there are no tables yet */
  for (uint32_t j = 0; j < n_relax; j++) rests(c, j);
  if (n_relax == RELAX) n_relax--, c->next = RELAX - 1, c->n_relax = RELAX; /* the last place is theirs */
  branch(c, 0, c->G, 0, n_relax);
  c->p->work += effort - c->left + 1000;
  double most = fmax(c->open, c->cut);
  for (uint32_t i = 0; i < c->n_keep; i++) most = fmax(most, c->keep[i].worth);
  return most;
}

static bool counts(const rule *r, const content *x) {
  return r->a ? !x->one && x->u[r->m] >= r->a : x->one && x->u[r->m] > 0;
}

static void add_column(classes *c, const content *x) {
  int start[2] = {0, 0}, row[MODELS + RULES];
  double value[MODELS + RULES], cost = 1;
  for (uint32_t m = 0; m < c->n; m++)
    if (x->out[m] > 0) row[start[1]] = (int)m, value[start[1]++] = x->out[m];
  for (uint32_t i = 0; i < c->n_rules; i++)
    if (counts(&c->rule[i], x)) row[start[1]] = (int)(c->n + i), value[start[1]++] = 1;
  let__lp_add(c->lp, 1, &cost, start, row, value);
}

static void keep_column(classes *c, const content *x) {
  if (c->n_columns == COLUMNS) return;
  c->column[c->n_columns++] = *x;
  add_column(c, x);
}

/* The program under the rules, with all contents so far and a dear way out of every row. */
static bool master(classes *c) {
  double lo[MODELS + RULES], hi[MODELS + RULES], one = 1, dear = 2 * fmin(c->goal, 64);
  for (uint32_t m = 0; m < c->n; m++) lo[m] = 1, hi[m] = LET__LP_INF;
  for (uint32_t i = 0; i < c->n_rules; i++) {
    lo[c->n + i] = c->rule[i].least ? c->rule[i].count : -LET__LP_INF;
    hi[c->n + i] = c->rule[i].least ? LET__LP_INF : c->rule[i].count;
  }
  c->lp = let__lp_new(c->n + c->n_rules, lo, hi);
  for (uint32_t i = 0; c->lp && i < c->n + c->n_rules; i++) {
    int start[2] = {0, 1}, row = (int)i;
    if (i < c->n || c->rule[i - c->n].least) let__lp_add(c->lp, 1, &dear, start, &row, &one);
  }
  for (uint32_t i = 0; c->lp && i < c->n_columns; i++) add_column(c, &c->column[i]);
  return c->lp != NULL;
}

/* Reads the prices; what they promise all together. */
static double prices(classes *c) {
  const double *dual = let__lp_dual(c->lp);
  double sum = 0;
  memset(c->more, 0, sizeof c->more);
  for (uint32_t m = 0; m < c->n; m++) sum += c->y[m] = fmax(0, dual[m]);
  for (uint32_t i = 0; i < c->n_rules; i++) {
    rule *r = &c->rule[i];
    r->price = r->least ? fmax(0, dual[c->n + i]) : fmin(0, dual[c->n + i]);
    sum += r->price * r->count;
    for (uint32_t u = r->a; u <= (r->a ? c->G : 0); u++) c->more[r->m][u] += r->price;
  }
  return sum;
}

/* Makes contents until the bound is as good as the next whole number that it can reach. */
static bool root(classes *c, uint64_t end) {
  let__problem *p = c->p;
  double best = 0;
  if (!master(c)) return false;
  for (uint32_t m = 0; m < c->n; m++) { /* a device of its own */
    content all = {.one = true};
    all.u[m] = 1, all.out[m] = c->turn[m * PARTS + PARTS - 1];
    keep_column(c, &all);
  }
  for (uint32_t turn = 0; turn < TURNS && p->work < end && let__lp_solve(c->lp) && !let__expired(p); turn++) {
    double sum = prices(c), whole = fmin(ceil(sum - 1e-6), c->goal);
    if (whole * c->k->cost <= ceil(p->bound - 1e-6)) break; /* the sum only falls */
    double gap = whole > 1 ? fmin(GAP_MAX, fmax(GAP_MIN, sum / (whole - 1 + 1e-4) - 1)) : GAP_MAX;
    double most = price(c, gap, end - p->work);
    best = fmax(best, sum / most * (1 - 1e-9) * c->k->cost);
    if (!c->n_keep) break;
    for (uint32_t i = 0; i < c->n_keep; i++) keep_column(c, &c->keep[i]);
  }
  p->bound = fmax(p->bound, best);
  return true;
}

/* The rule whose count is the least whole one. False: all are whole. */
static bool choose(classes *c, const double *x, rule *ret) {
  double best = 1e-3;
  for (uint32_t m = 0; m < c->n; m++)
    for (uint32_t a = 0; a <= c->G; a++) {
      rule r = {.m = m, .a = a};
      double sum = 0;
      for (uint32_t i = 0; i < c->n_columns; i++) sum += counts(&r, &c->column[i]) ? x[i] : 0;
      double off = fmin(sum - floor(sum), ceil(sum) - sum) * (a ? 1 : 1.5);
      if (off > best) best = off, *ret = r, ret->count = floor(sum);
    }
  return best > 1e-3;
}

/* True: no plan of |n| devices obeys the rules. */
static bool none(classes *c, double n, uint64_t end) {
  let__problem *p = c->p;
  bool out = false, more = false;
  rule r;
  if (!master(c)) return false;
  for (uint32_t turn = 0; turn < TURNS && !out && p->work < end && let__lp_solve(c->lp) && !let__expired(p); turn++) {
    double sum = prices(c);
    if (sum <= n * (1 + 1e-6)) { /* it can be done in parts of devices: which rule says that it cannot in whole ones? */
      const double *x = let__lp_primal(c->lp);
      uint32_t dear = c->n;
      for (uint32_t i = 0; i < c->n_rules; i++) dear += c->rule[i].least;
      more = c->n_rules < RULES && choose(c, x + dear, &r);
      break;
    }
    double most = price(c, fmin(GAP_MAX, sum / (n + 1e-4) - 1), end - p->work);
    out = sum / most * (1 - 1e-9) > n + 1e-6;
    if (!c->n_keep || c->n_columns == COLUMNS) break;
    for (uint32_t i = 0; i < c->n_keep; i++) keep_column(c, &c->keep[i]);
  }
  let__lp_free(c->lp);
  c->lp = NULL;
  if (out || !more) return out;
  rule *now = &c->rule[c->n_rules++];
  *now = r;
  out = none(c, n, end);
  if (out) {
    *now = r, now->least = true, now->count += 1;
    out = none(c, n, end);
  }
  c->n_rules--;
  return out;
}

let_err let__classes(let__problem *p, double most, uint64_t effort) {
  let__kind *k = &p->kind[0];
  if (p->n_kinds != 1 || !p->n || p->n > MODELS || k->granules > GRANULES || k->granules < 2 || let__expired(p))
    return LET_OK;
  if (ceil(p->bound - 1e-6) > most - 0.5) return LET_OK;
  if (!k->alone && k->profile->interference != LET_INTERFERENCE_PRESSURE) return LET_OK;
  let_arena *a = p->scratch;
  classes *c = let_arena_alloc(a, sizeof *c);
  if (!c) return LET_ERR_NOMEM;
  memset(c, 0, sizeof *c);
  c->p = p, c->k = k, c->G = k->granules, c->n = p->n, c->goal = most;
  let_err r = LET_OK;
  if (!k->alone && !let__scale_make(&c->scale, p, k, &r)) return r;
  c->own = let_arena_array(a, (size_t)c->n * LEVELS * (c->G + 1) * (c->G + 1), sizeof *c->own);
  c->duo = let_arena_array(a, (size_t)c->n * c->n * LEVELS * (c->G + 1), sizeof *c->duo);
  c->turn = let_arena_array(a, (size_t)c->n * PARTS, sizeof *c->turn);
  c->column = let_arena_array(a, COLUMNS, sizeof *c->column);
  speed *s = let_arena_array(a, c->G + 1u, sizeof *s);
  pace *x = let_arena_alloc(a, sizeof *x);
  grid *at = let_arena_array(a, MODELS + 1, sizeof *at);
  if (!c->own || !c->duo || !c->turn || !c->column || !s || !x || !at) return LET_ERR_NOMEM;
  weights(c);
  for (uint32_t m = 0; m < c->n; m++) tables(c, m, s, x, at);
  for (uint32_t m = 0; m < c->n; m++)
    if (!(c->turn[m * PARTS + PARTS - 1] > 0)) return LET_OK;
  uint64_t end = p->work + effort;
  bool ok = root(c, end);
  let__lp_free(c->lp);
  if (!ok) return LET_ERR_NOMEM;
  if (ceil(p->bound / k->cost - 1e-6) == most - 1 && none(c, most - 1, end)) p->bound = most * k->cost;
  return r;
}
