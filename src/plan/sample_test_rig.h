/* sample_test_rig.h: for tests and benchmarks: profiles and workloads made from a seed. Header only. */
#ifndef LET_PLAN_SAMPLE_TEST_RIG_H
#define LET_PLAN_SAMPLE_TEST_RIG_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "plan/plan.h"

typedef struct let__sample {
  uint32_t models, granules, max_batch; /* max_batch: a power of two */
  double least_ms, most_ms;             /* of one row on the whole device, spread evenly in the logarithm */
  uint32_t interference;                /* 0 none, 1 linear, 2 pressure, 3 with delays too */
} let__sample;

/* Latency = start + work(batch) / speed(granules): speed saturates where the batch has no more to spread. */
static inline double let__sample_ms(double row, double start, double spread, uint32_t b, uint32_t g, uint32_t G) {
  double use = fmin((double)g, fmax(1, spread * b * G));
  return row * (start + (1 - start) * b * spread * G / use);
}

static inline void let__sample_model(let_profile_model *m, const let__sample *s, let_arena *a, let_rng *r) {
  double row = s->least_ms * pow(s->most_ms / s->least_ms, let_rng_unit(r)), start = 0.2 + 0.5 * let_rng_unit(r);
  double spread = 0.05 + 0.9 * let_rng_unit(r);
  m->n_granules = s->granules;
  for (uint32_t b = 1; b <= s->max_batch; b *= 2) m->n_batches++;
  m->n_cells = m->n_batches * m->n_granules, m->n_memory = m->n_pressure = m->n_batches;
  m->cell = let_arena_array(a, m->n_cells, sizeof *m->cell);
  m->batch = let_arena_array(a, m->n_batches, sizeof *m->batch);
  m->granule = let_arena_array(a, m->n_granules, sizeof *m->granule);
  m->memory = let_arena_array(a, m->n_memory, sizeof *m->memory);
  m->pressure = let_arena_array(a, m->n_pressure, sizeof *m->pressure);
  double l2 = let_rng_unit(r), dram = let_rng_unit(r);
  for (uint32_t i = 0, b = 1; i < m->n_batches; i++, b *= 2) {
    m->batch[i] = b;
    m->memory[i].batch = b, m->memory[i].bytes = (uint64_t)(100 + 10 * b) << 20;
    m->pressure[i].batch = b;
    m->pressure[i].p = (let_pressure){.l2_util = l2,
                                      .dram_util = dram,
                                      .pressure = l2 * 0.3,
                                      .sensitivity = dram * 0.3,
                                      .delay_ms = s->interference == 3 ? 0.3 * start * row : 0};
    for (uint32_t g = 1; g <= s->granules; g++) {
      m->granule[g - 1] = g;
      double ms = let__sample_ms(row, start, spread, b, g, s->granules);
      m->cell[i * s->granules + g - 1] = (let_cell){.batch = b, .granules = g, .p50_ms = ms * 0.97, .p99_ms = ms};
    }
  }
  m->input_bytes = 1000;
}

static inline let_profile *let__sample_profile(const let__sample *s, const char *type, let_arena *a, uint64_t seed) {
  let_rng r;
  let_rng_seed(&r, seed);
  let_profile *p = let_arena_alloc(a, sizeof *p);
  snprintf(p->device.name, sizeof p->device.name, "%s", type);
  p->device.sms = s->granules * 8, p->device.granules = s->granules,
  p->device.granule_sms = p->device.last_granule_sms = 8;
  p->device.memory_bytes = 140ull << 30, p->device.cost = 1;
  p->n_models = s->models;
  p->model = let_arena_array(a, s->models, sizeof *p->model);
  for (uint32_t i = 0; i < s->models; i++) {
    snprintf(p->model[i].name, sizeof p->model[i].name, "model%05u", i);
    let__sample_model(&p->model[i], s, a, &r);
  }
  if (s->interference >= 2) {
    p->interference = LET_INTERFERENCE_PRESSURE;
    p->coef[LET_COEF_SHARE_SELF] = 0.15, p->coef[LET_COEF_SHARE_OTHER] = 0.3;
  } else if (s->interference) {
    p->interference = LET_INTERFERENCE_LINEAR;
    p->coef[0] = 0.05, p->coef[1] = 0.15, p->coef[2] = 0.05, p->coef[3] = 0.15, p->coef[4] = 0.98;
  }
  return p;
}

/* Rates in devices: model i alone would keep |devices| x its part of them busy. SLOs: 2.2 to 12 times the whole
 * device's latency at some batch. */
static inline let_workload let__sample_workload(const let_profile *p, double devices, double zipf, let_arena *a,
                                                uint64_t seed) {
  let_rng r;
  let_rng_seed(&r, seed);
  let_workload w = {.n = p->n_models, .demand = let_arena_array(a, p->n_models, sizeof *w.demand)};
  double sum = 0;
  for (uint32_t i = 0; i < w.n; i++) sum += pow(i + 1, -zipf);
  for (uint32_t i = 0; i < w.n; i++) {
    let_demand *d = &w.demand[i];
    const let_profile_model *m = &p->model[i];
    memcpy(d->name, m->name, sizeof d->name);
    uint32_t at = (uint32_t)let_rng_below(&r, m->n_batches);
    double ms = m->cell[at * m->n_granules + m->n_granules - 1].p99_ms;
    d->slo = (let_dur)(ms * (2.2 + 10 * let_rng_unit(&r)) * 1e6);
    d->rate =
        devices * pow(i + 1, -zipf) / sum * m->batch[at] / ms * 1e3 * (zipf > 0 ? 1 : 0.2 + 1.6 * let_rng_unit(&r));
  }
  return w;
}

#endif
