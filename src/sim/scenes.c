/* scenes.c: the scenes, from a few shapes of models. Capacity of a variant is the rate at which full batches follow one
 * another; a scene's load is the offered share of it. Plans claim 0.8 of it. */
#include "sim/scenes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* How long a batch takes: fixed + each * rows. */
typedef struct shape {
  const char *name;
  double fixed_ms, each_ms;
  uint32_t full; /* the planned batch size */
} shape;

static const shape mixed = {"mixed", 2, 0.5, 16};    /* 10 ms for 16 */
static const shape small = {"small", 1.6, 0.05, 32}; /* mnasnet on a whole device: 3.2 ms for 32 */
static const shape dense = {"dense", 0.3, 1.0, 8};   /* vgg16: batches hardly help */
static const shape tiny = {"tiny", 0.1, 0.006, 32};  /* lenet: 0.3 ms for 32, less than the hand-over */

static double ms_of(const shape *x, uint32_t rows) { return x->fixed_ms + x->each_ms * rows; }
static double capacity(const shape *x) { return x->full * 1e3 / ms_of(x, x->full); }

/* Ten percent of noise, and three batches in a hundred take 2 ms longer. */
static const let_sim_noise usual = {
    .jitter = 0.1, .tail_share = 0.03, .tail = 2 * LET_MS, .handover = 250 * LET_US, .lag = 100 * LET_US};

typedef struct list {
  let_scene *at;
  uint32_t n;
} list;

static let_scene *add(list *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static let_scene *add(list *l, const char *fmt, ...) {
  let_scene *x = &l->at[l->n++];
  LET_ASSERT(l->n <= LET_SCENES_MAX);
  memset(x, 0, sizeof *x);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(x->name, sizeof x->name, fmt, ap);
  va_end(ap);
  x->sim.name = x->name;
  x->sim.noise = usual;
  x->sim.requests = 60000;
  return x;
}

/* Model |m| on gpu-let |g|, which runs it |slower| times as slowly; |share| of the gpu-let is planned for it. */
static let_sim_variant *place(let_scene *x, uint32_t m, uint32_t g, const shape *k, double slower, double share) {
  let_sim_variant *v = &x->sim.variant[x->sim.n_variants++];
  v->told = (let_core_route){.model = m, .gpulet = {g}, .batch = k->full, .rate = 0.8 * share * capacity(k) / slower};
  for (uint32_t s = 1; s <= k->full; s *= 2) {
    let_dur t = (let_dur)(ms_of(k, s) * slower * 1e6);
    v->told.size[v->told.n_sizes] = s;
    v->told.predict[v->told.n_sizes] = t;
    v->truth[v->told.n_sizes++] = t;
  }
  if (g >= x->sim.n_gpulets) x->sim.n_gpulets = g + 1;
  x->sim.depth[g] = 2;
  return v;
}

static let_sim_model *model(let_scene *x, double slo_ms, double rate) {
  let_sim_model *m = &x->sim.model[x->sim.n_models++];
  m->slo = (let_dur)(slo_ms * 1e6);
  m->rate = rate;
  return m;
}

/* As long as |requests| take to come, the first tenth not counted. */
static void last(let_scene *x, double requests) {
  double rate = 0;
  for (uint32_t i = 0; i < x->sim.n_models; i++) rate += x->sim.model[i].rate;
  x->sim.length = (let_dur)(requests / rate * 1e9);
  x->sim.count_from = x->sim.length / 10;
}

/* ---- one model on one gpu-let ----------------------------------------------------------------------------- */

static let_scene *alone(list *l, const shape *k, double slo, double load) {
  let_scene *x = add(l, "%s, SLO %.4g L, %.2g x", k->name, slo, load);
  place(x, 0, 0, k, 1, 1);
  model(x, slo * ms_of(k, k->full), load * capacity(k));
  x->overload = load > 1;
  last(x, 20000);
  return x;
}

static void one_model(list *l) {
  static const shape *const shapes[] = {&mixed, &small, &dense};
  static const double slo[] = {1.5, 2.03, 3, 8, 40}, load[] = {0.1, 0.3, 0.6, 0.9};
  for (unsigned i = 0; i < 3; i++)
    for (unsigned j = 0; j < 5; j++)
      for (unsigned k = i == 0 ? 0 : 2; k < 4; k++) alone(l, shapes[i], slo[j], load[k]);
  static const double much[] = {1.1, 1.5, 2, 5, 10}, wide[] = {1.5, 2.03, 5, 40};
  for (unsigned j = 0; j < 4; j++)
    for (unsigned k = 0; k < 5; k++) alone(l, j % 2 ? &small : &mixed, wide[j], much[k]);
  for (unsigned k = 0; k < 4; k++) alone(l, &tiny, 17, load[k]); /* SLO 5 ms */
  alone(l, &tiny, 17, 2);
}

/* ---- noise and lies ---------------------------------------------------------------------------------------- */

static void told(let_scene *x, double times) {
  for (uint32_t i = 0; i < x->sim.n_variants; i++)
    for (uint32_t k = 0; k < x->sim.variant[i].told.n_sizes; k++)
      x->sim.variant[i].told.predict[k] = (let_dur)((double)x->sim.variant[i].told.predict[k] * times);
}

static void renamed(let_scene *x, const char *what) {
  char was[64];
  snprintf(was, sizeof was, "%.40s", x->name);
  snprintf(x->name, sizeof x->name, "%.40s: %.20s", was, what);
}

static let_scene *disturbed(list *l, const shape *k, double slo, double load, const char *what) {
  let_scene *x = alone(l, k, slo, load);
  renamed(x, what);
  return x;
}

static const let_time recording[] = {/* ms; a burst of five, a pause, pairs: 40 requests in 200 ms */
                                     0,   1,   1,   2,   2,   30,  31,  45,  46,  46,  47,  47,  48,  70,
                                     71,  88,  88,  90,  91,  95,  101, 102, 102, 103, 103, 104, 120, 121,
                                     139, 140, 140, 155, 156, 170, 171, 171, 172, 190, 191, 200};
static let_time recorded[sizeof recording / sizeof *recording];

static void noises(list *l) {
  disturbed(l, &mixed, 3, 0.6, "jitter 30 %")->sim.noise.jitter = 0.3;
  disturbed(l, &small, 2.03, 0.6, "jitter 30 %")->sim.noise.jitter = 0.3;
  disturbed(l, &mixed, 3, 0.6, "no noise")->sim.noise = (let_sim_noise){0};
  disturbed(l, &mixed, 3, 0.6, "drift to 1.5 x")->sim.noise.drift = 1.5;
  disturbed(l, &mixed, 8, 0.9, "drift to 0.6 x")->sim.noise.drift = 0.6;
  disturbed(l, &mixed, 4, 1.5, "drift to 1.5 x")->sim.noise.drift = 1.5;
  static const double slo[] = {3, 8};
  for (int i = 0; i < 2; i++) {
    told(disturbed(l, &mixed, slo[i], 0.6, "told 5 x"), 5);
    told(disturbed(l, &mixed, slo[i], 0.6, "told 30 x"), 30);
    told(disturbed(l, &mixed, slo[i], 0.6, "told 0.2 x"), 0.2);
    told(disturbed(l, &mixed, slo[i], 1.5, "told 5 x"), 5);
    let_scene *x = disturbed(l, &mixed, slo[i], 0.9, "one size told 5 x");
    x->sim.variant[0].told.predict[3] *= 5;
    x = disturbed(l, &mixed, slo[i], 0.6, "step to 1.4 x");
    x->sim.noise.step_at = x->sim.length / 2;
    x->sim.noise.step = 1.4;
    /* Slow for a fifth of the time, overloaded by it; only what comes well after that is counted. */
    x = disturbed(l, &mixed, slo[i], 0.6, "3 x slow before");
    x->sim.noise.busy_until = x->sim.length / 5;
    x->sim.noise.busy = 3;
    x->sim.count_from = x->sim.length * 3 / 10;
    x = disturbed(l, &mixed, slo[i], 0.6, "10 % tails of 8 ms");
    x->sim.noise.tail_share = 0.1;
    x->sim.noise.tail = 8 * LET_MS;
    disturbed(l, &mixed, slo[i], 0.6, "lag 1 ms")->sim.noise.lag = LET_MS;
    disturbed(l, &small, slo[i], 0.6, "lag 1 ms")->sim.noise.lag = LET_MS;
    x = disturbed(l, &mixed, slo[i], 0.5, "bursty 2 x");
    x->sim.model[0].kind = LET_SIM_BURSTY;
    x->sim.model[0].burst = 2;
    x = disturbed(l, &small, slo[i], 0.4, "bursty 4 x");
    x->sim.model[0].kind = LET_SIM_BURSTY;
    x->sim.model[0].burst = 4;
    x = disturbed(l, &dense, slo[i], 0.2, "recorded");
    for (unsigned k = 0; k < sizeof recording / sizeof *recording; k++) recorded[k] = recording[k] * LET_MS;
    x->sim.model[0].kind = LET_SIM_RECORDED;
    x->sim.model[0].recorded = recorded;
    x->sim.model[0].n_recorded = sizeof recording / sizeof *recording;
    x->sim.length = 40 * LET_S;
    x->sim.count_from = 4 * LET_S;
  }
}

/* A model of very short batches and a short SLO at a small part of what its gpu-let can do. Batches that are held up by
 * 8 ms are late whatever the policy does, and so are the requests behind them. */
static void short_batches(list *l) {
  static const struct {
    double told, share;
    let_dur tail;
    double least;
  } cases[] = {{1, 0, 0, 0.999},           {1, 0.05, 4 * LET_MS, 0.97},
               {1, 0.1, 8 * LET_MS, 0.78}, {1, 0.2, 2 * LET_MS, 0.99},
               {1, 0.2, 4 * LET_MS, 0.9},  {1, 0.2, 8 * LET_MS, 0.58},
               {1, 0.3, 4 * LET_MS, 0.72}, {5, 0, 0, 0.999},
               {30, 0, 0, 0.99},           {60, 0, 0, 0.9}};
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    let_scene *x = add(l, "tiny, SLO 5 ms, 300/s, told %.2g x, %.2g %% +%.0f ms", cases[i].told, 100 * cases[i].share,
                       (double)cases[i].tail / 1e6);
    place(x, 0, 0, &tiny, 1, 1);
    model(x, 5, 300);
    last(x, 6000);
    x->sim.noise = (let_sim_noise){.jitter = 0.1, .tail_share = cases[i].share, .tail = cases[i].tail};
    x->least = cases[i].least;
    told(x, cases[i].told);
  }
}

/* ---- several models, several gpu-lets, kinds of requests ----------------------------------------------------- */

/* |n| models share a gpu-let evenly; their SLOs are |slo| cycles of all their planned batches. */
static let_scene *sharing(list *l, uint32_t n, double slo, double load, bool same) {
  static const shape *const kinds[] = {&mixed, &small, &dense, &tiny, &mixed, &small};
  let_scene *x = add(l, "%u models, SLO %.3g D, %.2g x%s", n, slo, load, same ? ", alike" : "");
  double cycle = 0;
  for (uint32_t i = 0; i < n; i++) cycle += ms_of(same ? &mixed : kinds[i], same ? mixed.full : kinds[i]->full);
  for (uint32_t i = 0; i < n; i++) {
    const shape *k = same ? &mixed : kinds[i];
    place(x, i, 0, k, 1, 1.0 / n);
    model(x, slo * cycle + ms_of(k, k->full), load * capacity(k) / n);
  }
  x->overload = load > 1;
  last(x, 20000);
  return x;
}

static void several(list *l) {
  static const double load[] = {0.3, 0.6, 0.9, 1.5, 3};
  for (uint32_t n = 2; n <= 6; n += 2)
    for (unsigned k = 0; k < 5; k++) sharing(l, n, 1.1, load[k], false);
  for (unsigned k = 1; k < 5; k++) sharing(l, 3, 1.1, load[k], true);
  for (unsigned k = 1; k < 5; k += 2) sharing(l, 2, 4, load[k], false);
  sharing(l, 5, 2, 0.8, false);
}

static void spread(list *l) {
  static const double load[] = {0.3, 0.6, 0.9, 1.5, 5};
  static const double slower[] = {1, 1.8, 3.5};
  for (unsigned k = 0; k < 5; k++) {
    let_scene *x = add(l, "3 unequal gpu-lets, SLO 8 L, %.2g x", load[k]);
    double sum = 0;
    for (uint32_t g = 0; g < 3; g++) {
      place(x, 0, g, &mixed, slower[g], 1);
      sum += capacity(&mixed) / slower[g];
    }
    model(x, 8 * ms_of(&mixed, mixed.full), load[k] * sum);
    x->overload = load[k] > 1;
    last(x, 20000);
    x = add(l, "4 gpu-lets, SLO 2.03 L, %.2g x", load[k]);
    for (uint32_t g = 0; g < 4; g++) place(x, 0, g, &small, 1, 1);
    model(x, 2.03 * ms_of(&small, small.full), load[k] * 4 * capacity(&small));
    x->overload = load[k] > 1;
    last(x, 40000);
  }
  for (unsigned k = 1; k < 4; k++) { /* model 0 alone on one gpu-let, and with model 1 on the other */
    let_scene *x = add(l, "2 gpu-lets, one shared, %.2g x", load[k]);
    place(x, 0, 0, &small, 1, 1);
    place(x, 0, 1, &small, 1, 0.5);
    place(x, 1, 1, &mixed, 1, 0.5);
    model(x, 20, load[k] * 1.5 * capacity(&small));
    model(x, 30, load[k] * 0.5 * capacity(&mixed));
    x->overload = load[k] > 1;
    last(x, 40000);
  }
}

static void kinds(list *l) {
  static const double load[] = {0.5, 0.8, 2};
  for (unsigned k = 0; k < 3; k++) {
    let_scene *x = add(l, "3 priorities, SLO 5 L, %.2g x", load[k]);
    place(x, 0, 0, &mixed, 1, 1);
    model(x, 50, load[k] * capacity(&mixed))->levels = 3;
    x->overload = load[k] > 1;
    last(x, 20000);
    x = add(l, "1 to 6 rows, SLO 5 L, %.2g x", load[k]);
    place(x, 0, 0, &mixed, 1, 1);
    model(x, 50, load[k] * capacity(&mixed) / 3.5)->rows_max = 6;
    x->overload = load[k] > 1;
    last(x, 20000);
    x = add(l, "1 to 16 rows, SLO 4 L, %.2g x", load[k]);
    place(x, 0, 0, &small, 1, 1);
    model(x, 12.8, load[k] * capacity(&small) / 8.5)->rows_max = 16;
    x->overload = load[k] > 1;
    last(x, 20000);
    x = add(l, "sizes 1 and 32 only, SLO 4 L, %.2g x", load[k]);
    let_sim_variant *v = place(x, 0, 0, &small, 1, 1);
    v->told.size[1] = 32;
    v->told.predict[1] = v->told.predict[5];
    v->truth[1] = v->truth[5];
    v->told.n_sizes = 2;
    model(x, 12.8, load[k] * capacity(&small));
    x->overload = load[k] > 1;
    last(x, 20000);
  }
  let_scene *x = add(l, "no SLO beside SLO 3 D, 0.6 x");
  place(x, 0, 0, &mixed, 1, 0.5);
  place(x, 1, 0, &small, 1, 0.5);
  model(x, 0, 0.3 * capacity(&mixed));
  model(x, 40, 0.3 * capacity(&small));
  last(x, 20000);
}

uint32_t let_scenes(let_scene ret[LET_SCENES_MAX]) {
  list l = {ret, 0};
  one_model(&l);
  noises(&l);
  short_batches(&l);
  several(&l);
  spread(&l);
  kinds(&l);
  return l.n;
}

uint32_t let_neighbour_scenes(let_scene ret[LET_SCENES_MAX]) {
  static const shape *const pairs[][2] = {
      {&mixed, &mixed}, {&small, &mixed}, {&mixed, &small}, {&small, &dense}, {&tiny, &small}};
  static const double times[] = {0, 1, 2, 5, 10};
  list l = {ret, 0};
  for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++)
    for (unsigned k = 0; k < sizeof times / sizeof *times; k++) {
      const shape *a = pairs[i][0], *b = pairs[i][1];
      let_scene *x = add(&l, "%s beside %s at %.3g x its plan", a->name, b->name, times[k]);
      double cycle = ms_of(a, a->full) + ms_of(b, b->full);
      place(x, 0, 0, a, 1, 0.5);
      place(x, 1, 0, b, 1, 0.5);
      model(x, 1.5 * cycle + 1.5 * ms_of(a, a->full) + 4, 0.9 * 0.4 * capacity(a));
      model(x, 1.5 * cycle + 1.5 * ms_of(b, b->full) + 4, times[k] * 0.4 * capacity(b));
      x->sim.length = (let_dur)(20000 / x->sim.model[0].rate * 1e9) + LET_S;
      x->sim.count_from = x->sim.length / 10;
    }
  return l.n;
}
