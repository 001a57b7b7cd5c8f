/* core.c: the committed objects of core/ as a policy of the simulator. */
#include <stddef.h>
#include <stdio.h>

#include "sim/sim.h"

typedef struct subject {
  let_core *core;
  const let_mem *mem;
  let_model model[LET_SIM_MODELS];
} subject;

static let_err arrive(void *ctx, let_request *r, let_time now) {
  return let_core_arrive(((subject *)ctx)->core, r, now);
}
static bool step(void *ctx, let_time now, let_action *ret) { return let_core_step(((subject *)ctx)->core, now, ret); }
static let_time wake(void *ctx) { return let_core_wake(((subject *)ctx)->core); }

static bool done(void *ctx, let_batch_id batch, let_time started, let_time finished, let_time now, let_request **ret,
                 uint32_t *ret_n) {
  return let_core_batch_done(((subject *)ctx)->core, batch, started, finished, now, ret, ret_n);
}

static void drop(void *ctx) {
  subject *x = ctx;
  let_core_free(x->core);
  let_mem_free(x->mem, x, sizeof *x);
}

static let_err fill(subject *x, const let_sim_scene *s, let_error *e) {
  let_core_limits limits = {
      .models = s->n_models, .gpulets = s->n_gpulets, .requests = s->requests, .queue = s->requests};
  let_err r = let_core_new(&limits, x->mem, &x->core, e);
  for (uint32_t i = 0; i < s->n_models && !r; i++) {
    const let_sim_model *m = &s->model[i];
    snprintf(x->model[i].name, sizeof x->model[i].name, "m%u", i);
    x->model[i].slo = m->slo;
    x->model[i].max_batch = LET_BATCH_MAX;
    x->model[i].max_queue_delay = m->max_queue_delay;
    x->model[i].priority_levels = (uint8_t)m->levels;
    x->model[i].default_priority = 1;
    r = let_core_model_set(x->core, i, &x->model[i], e);
  }
  let_core_gpulet lets[LET_SIM_GPULETS];
  let_core_route routes[LET_SIM_VARIANTS];
  for (uint32_t i = 0; i < s->n_gpulets; i++) lets[i] = (let_core_gpulet){{i}, s->depth[i]};
  for (uint32_t i = 0; i < s->n_variants; i++) routes[i] = s->variant[i].told;
  return r ? r : let_core_routes_set(x->core, lets, s->n_gpulets, routes, s->n_variants, 0, e);
}

let_err let_sim_core(const let_sim_scene *s, const let_mem *mem, let_sim_policy *ret, let_error *e) {
  subject *x = let_mem_zalloc(mem, sizeof *x);
  if (!x) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  x->mem = mem;
  let_err r = fill(x, s, e);
  if (r) {
    drop(x);
    return r;
  }
  *ret = (let_sim_policy){.ctx = x, .arrive = arrive, .step = step, .wake = wake, .done = done, .free = drop};
  return LET_OK;
}
