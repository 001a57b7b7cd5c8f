/* The content of one device: gpu-let by gpu-let, each the one that loses least against the bound's prices.
 *
 * A gpu-let's content is a choice of a cycle D, and then a knapsack: model i takes L_i(b) of the cycle for the batch
 * b = rate D that it needs, is worth price x rate, and may take part when D + L_i(b) <= SLO_i. Which size comes next:
 * the one for which its worth plus the worth of what stays free (at the bound's prices) is most. What a size can be
 * worth at most is cheap to know, so only those are made that might be the one. */
#include <math.h>
#include <string.h>

#include "plan/optimal.h"

enum { ACTIVE = 64, CONTENT = 24, CYCLES = 32, CLASSES = 4, MANY = 48 };

typedef struct content {
  double value, most; /* most: not made yet, and worth no more than this */
  bool made;
  uint32_t n, model[CONTENT], batch[CONTENT];
  double cycle;
} content;

/* One active model on the size that is being made. */
typedef struct seat {
  const let_dur *lat; /* alone, by batch - 1 */
  double slow;        /* times that, beside neighbours */
  double rest, price, slo;
  double first; /* the time of a batch of 1 */
  uint32_t model, most;
} seat;

typedef struct choice {
  uint32_t seat, batch;
  double time, value, density;
} choice;

struct let__fill {
  let__problem *p;
  double *rest;   /* per model: what this device has not taken yet */
  double *slow;   /* per class, kind and model: slowdown to expect beside neighbours */
  uint32_t class; /* gpu-lets have at least 2^class granules: fewer neighbours, less interference */
  content *best;  /* per size */
  seat seat[ACTIVE];
  choice pick[ACTIVE];
  uint32_t active[ACTIVE], n_active, n_seats;
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

/* Not rounded; endless where nothing was measured. */
static inline double about(const seat *s, uint32_t b) { return (double)s->lat[b - 1] * s->slow; }

static double time_of(const seat *s, uint32_t b) {
  if (s->lat[b - 1] == LET_NEVER) return INFINITY;
  double x = about(s, b);
  let_dur whole = (let_dur)x; /* rounded up, as the judge does */
  return (double)(whole + ((double)whole < x));
}

/* The largest batch up to |want| that takes at most |limit|; 0: none. */
static uint32_t batch_within(const seat *s, uint32_t want, double limit) {
  if (!(limit >= s->first)) return 0;
  limit = (double)(let_dur)limit;
  if (about(s, want) <= limit) return want;
  uint32_t at = 1; /* fits; the answer is among the |left| from here on */
  for (uint32_t left = want - 1, half; left > 1; left -= half) {
    half = left / 2;
    at = about(s, at + half) <= limit ? at + half : at;
  }
  return at;
}

static uint32_t batch_for(const seat *s, double cycle) {
  double b = s->rest * cycle * 1e-9 - 1e-9;
  if (b <= 1) return 1;
  if (b >= s->most) return s->most;
  uint32_t whole = (uint32_t)b;
  return whole + (whole < b);
}

/* The longest cycle in which it is served in full; when that is nowhere, the one where it gets most. */
static double cycle_of(const seat *s) {
  double each = 1e9 / s->rest;
  uint32_t at = 1;
  for (uint32_t left = s->most, half; left > 1;
       left -= half) { /* b / rest grows with b, SLO - L(b) falls: where they cross */
    half = left / 2;
    at = (at + half - 1) * each >= s->slo - about(s, at + half - 1) ? at : at + half;
  }
  double d = let__min(at * each, s->slo - time_of(s, at));
  return at > 1 ? let__max(d, let__min((at - 1) * each, s->slo - time_of(s, at - 1))) : d;
}

/* Those that can live on |g| granules at all. */
static void take_seats(let__fill *f, uint32_t g) {
  const let__kind *k = &f->p->kind[f->kind];
  f->n_seats = 0;
  for (uint32_t i = 0; i < f->n_active; i++) {
    uint32_t m = f->active[i], most = k->most[m];
    seat s = {.lat = k->lat[m] + (size_t)(g - 1) * most,
              .slow = slow_of(f, m, g),
              .rest = f->rest[m],
              .price = f->price[m],
              .slo = (double)f->p->model[m].slo,
              .model = m,
              .most = most};
    s.first = time_of(&s, 1);
    if (2 * s.first <= s.slo) f->seat[f->n_seats++] = s;
  }
}

static uint32_t cycles(const let__fill *f, double out[CYCLES]) {
  uint32_t n = 0, step = f->n_seats > CYCLES - 8 ? f->n_seats / (CYCLES - 8) + 1 : 1;
  double most = 0;
  for (uint32_t i = 0; i < f->n_seats; i += step) {
    double d = cycle_of(&f->seat[i]);
    if (!(d > 0)) continue;
    most = let__max(most, d);
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
    for (; j && (c[j - 1].density < x.density || (c[j - 1].density == x.density && c[j - 1].seat > x.seat)); j--)
      c[j] = c[j - 1];
    c[j] = x;
  }
}

/* Packs the choices, best first, into one cycle; keeps the outcome when it is the best of this size so far. */
static void pack(const let__fill *f, double cycle, uint32_t n_pick, content *best) {
  uint32_t n = 0, at[CONTENT], batch[CONTENT];
  double left = cycle, used = 0, value = 0;
  for (uint32_t i = 0; i < n_pick && n < CONTENT; i++) {
    const choice *x = &f->pick[i];
    const seat *s = &f->seat[x->seat];
    uint32_t b = x->time <= left ? x->batch : batch_within(s, x->batch, left);
    if (!b) continue;
    double t = b == x->batch ? x->time : time_of(s, b);
    at[n] = x->seat, batch[n++] = b;
    left -= t, used += t;
  }
  for (uint32_t i = 0; i < n; i++)
    value += f->seat[at[i]].price * let__min(f->seat[at[i]].rest, (double)batch[i] / used * 1e9);
  if (value <= best->value * (1 + 1e-9)) return;
  best->value = value, best->n = n, best->cycle = used;
  for (uint32_t i = 0; i < n; i++) best->model[i] = f->seat[at[i]].model, best->batch[i] = batch[i];
}

/* The best content of one model; |best->most|: what no content of this size is worth more than: the dearest models by
 * time, each no longer than it is wanted (the mediant, bound.c, claim 1). */
static void one_model(let__fill *f, uint32_t g, content *best) {
  const let__kind *k = &f->p->kind[f->kind];
  uint32_t n = 0;
  double left = 1;
  best->value = best->most = 0, best->n = 0;
  for (uint32_t i = 0; i < f->n_seats; i++) {
    const seat *s = &f->seat[i];
    uint32_t b = k->best_batch[(size_t)s->model * (k->granules + 1) + g];
    if (b && s->slow > 1) b = batch_within(s, b, (double)(f->p->model[s->model].slo / 2));
    if (!b) continue;
    double t = time_of(s, b), rate = (double)b / t * 1e9, v = s->price * let__min(s->rest, rate);
    f->pick[n++] = (choice){.seat = i, .time = s->rest / rate, .density = s->price * rate};
    if (v > best->value * (1 + 1e-9))
      best->value = v, best->n = 1, best->model[0] = s->model, best->batch[0] = b, best->cycle = t;
  }
  sort_choices(f->pick, n);
  for (uint32_t i = 0; i < n && left > 0; left -= f->pick[i++].time)
    best->most += let__min(left, f->pick[i].time) * f->pick[i].density;
}

/* Only what it may be worth: most of the sizes are never looked at again. */
static void peek(let__fill *f, uint32_t g) {
  take_seats(f, g);
  one_model(f, g, &f->best[g]);
  f->best[g].made = false;
}

/* Who takes part in a cycle of |cycle|, and with which batch. Returns what no content of these is worth more than. */
static double picks(let__fill *f, double cycle, uint32_t *ret_n, bool *ret_all) {
  uint32_t n = 0;
  double all = 0, value = 0, densest = 0, least = INFINITY, turns = 1e9 / cycle;
  f->p->work += f->n_seats;
  for (uint32_t i = 0; i < f->n_seats; i++) {
    const seat *s = &f->seat[i];
    double limit = let__min(cycle, s->slo - cycle);
    if (limit < s->first) continue;
    uint32_t b = batch_within(s, batch_for(s, cycle), limit);
    double t = time_of(s, b), v = s->price * let__min(s->rest, (double)b * turns), d = v / t;
    f->pick[n++] = (choice){i, b, t, v, d};
    all += t, value += v, densest = let__max(densest, d), least = let__min(least, s->first);
  }
  *ret_n = n, *ret_all = all <= cycle;
  double used = *ret_all ? all : let__max(least, cycle - least); /* what stays free is too short for anybody */
  return let__min(value, densest * cycle) * cycle / used;
}

static void make_content(let__fill *f, uint32_t g) {
  content *best = &f->best[g];
  take_seats(f, g);
  one_model(f, g, best);
  double cycle[CYCLES];
  uint32_t n_cycles = best->value < best->most * (1 - 1e-9) ? cycles(f, cycle) : 0;
  for (uint32_t c = 0; c < n_cycles; c++) {
    uint32_t n;
    bool all;
    double most = picks(f, cycle[c], &n, &all);
    if (n < 2 || most <= best->value * (1 + 1e-9)) continue; /* one model: seen */
    sort_choices(f->pick, n);
    pack(f, cycle[c], n, best);
    if (all) continue;
    for (uint32_t i = 0; i < n; i++) f->pick[i].density = f->pick[i].value; /* the largest first */
    sort_choices(f->pick, n);
    pack(f, cycle[c], n, best);
  }
  best->most = best->value, best->made = true;
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

/* Would |c| serve less now that |by| is chosen? If not, it is still the best of its size: the others have only less to
 * serve. */
static bool touched(const let__fill *f, const content *c, const content *by) {
  for (uint32_t i = 0; i < c->n; i++)
    for (uint32_t j = 0; j < by->n; j++)
      if (c->model[i] == by->model[j] && f->rest[c->model[i]] < (double)c->batch[i] / c->cycle * 1e9) return true;
  return false;
}

/* The size that comes next of those up to |left|; 0: none. A size is made when it might be the one. */
static uint32_t next_size(let__fill *f, uint32_t left, double greed, double total) {
  const let__kind *k = &f->p->kind[f->kind];
  uint32_t least = 1u << f->class, at = 0;
  for (;;) {
    double most = 0, may = 0;
    uint32_t open = 0;
    at = 0;
    for (uint32_t g = least; g <= left; g++) {
      const content *c = &f->best[g];
      double w = c->most + let__min(greed * k->room[left - g], total - c->most);
      if (!c->made) {
        if (w > may * (1 + 1e-9) || (w >= may * (1 - 1e-9) && c->most > f->best[open].most * (1 + 1e-6)))
          may = w, open = g; /* the small first */
        continue;
      }
      if (c->value <= 0) continue;
      if (w > most * (1 + 1e-9)) most = w, at = g;
      else if (w > most * (1 - 1e-6) && c->value > f->best[at].value * (1 + 1e-6)) at = g; /* the large first */
    }
    if (!open || may < most * (1 - 1e-6) ||
        (may <= most * (1 + 1e-9) && f->best[open].most <= f->best[at].value * (1 + 1e-6)))
      return at;
    make_content(f, open);
  }
}

/* Goes on behind the |n| items of |ret|, which take |taken| granules. */
static uint32_t build(let__fill *f, double greed, let__item *ret, uint32_t n, uint32_t taken) {
  const let__kind *k = &f->p->kind[f->kind];
  uint32_t slot = n ? ret[n - 1].slot + 1u : 0, room = k->granules - taken;
  double total = 0;
  for (uint32_t i = 0; i < f->n_active; i++) total += f->rest[f->active[i]] * f->price[f->active[i]];
  for (uint32_t g = 1u << f->class; g <= room; g++) peek(f, g);
  for (uint32_t left = room; left > 0;) {
    uint32_t at = next_size(f, left, greed, total);
    if (!at || n + f->best[at].n > LET__ITEMS) break;
    content c = f->best[at];
    for (uint32_t i = 0; i < c.n; i++) {
      ret[n++] =
          (let__item){.model = c.model[i], .batch = c.batch[i], .slot = (uint16_t)slot, .granules = (uint16_t)at};
      double served = let__min(f->rest[c.model[i]], (double)c.batch[i] / c.cycle * 1e9);
      f->rest[c.model[i]] -= served;
      if (f->rest[c.model[i]] < 1e-9 * f->p->model[c.model[i]].rate) f->rest[c.model[i]] = 0;
      total -= served * f->price[c.model[i]];
    }
    left -= at, slot++;
    uint32_t live = 0;
    for (uint32_t i = 0; i < f->n_active; i++)
      if (f->rest[f->active[i]] > 0) f->active[live++] = f->active[i];
    f->n_active = live;
    for (uint32_t g = 1u << f->class; g <= left; g++) /* less rests, so it is worth no more than it was */
      if (f->best[g].made && touched(f, &f->best[g], &c)) f->best[g].made = false;
  }
  return n;
}

static double worth(let__fill *f, const double *rest, const let__item *item, uint32_t n) {
  double v = 0;
  for (uint32_t i = 0; i < n; i++) f->rest[item[i].model] = rest[item[i].model];
  for (uint32_t i = 0; i < n; i++) {
    double served = let__min(f->rest[item[i].model], item[i].cap);
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

uint32_t let__fill_one(let__fill *f, uint32_t kind, const double *rest, const double *price, double greed,
                       let__item *ret, double *ret_value) {
  let__item item[LET__ITEMS];
  uint32_t n_ret = 0;
  f->kind = kind, f->price = price;
  *ret_value = 0;
  uint32_t rounds = f->p->kind[kind].alone ? 1 : f->p->n > MANY ? 2 : 1 + CLASSES;
  for (uint32_t round = 0; round < rounds;
       round++) { /* the first class twice: the second time it knows the neighbours */
    f->class = round < 2 ? 0 : round - 1;
    if (1u << f->class > f->p->kind[kind].granules) continue;
    choose_active(f, rest);
    uint32_t n = build(f, greed, item, 0, 0);
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

uint32_t let__fill_more(let__fill *f, uint32_t kind, const double *rest, const double *price, double greed,
                        let__item *item, uint32_t n) {
  let__item more[LET__ITEMS];
  uint32_t taken = 0, bad = 0, end = n;
  f->kind = kind, f->price = price, f->class = 0;
  for (uint32_t i = 0; i < n; i++)
    if (!i || item[i].slot != item[i - 1].slot) taken += item[i].granules;
  if (taken >= f->p->kind[kind].granules) return n;
  for (uint32_t round = 0; round < (f->p->kind[kind].alone ? 1 : 2);
       round++) { /* the second time it knows the neighbours */
    choose_active(f, rest);
    memcpy(more, item, n * sizeof *item);
    end = build(f, greed, more, n, taken);
    bool held = let__evaluate(f->p, kind, more, end, &bad);
    if (!f->p->kind[kind].alone) learn(f, more, end);
    if (held && round) break;
  }
  end = let__mend(f->p, kind, more, end);
  memcpy(item, more, end * sizeof *item);
  return end;
}
