/* routes.c: makes the core's routing table from the prepared groups. */
#include "fleet_int.h"

/* The predicted time of a batch of size |k|: the worker's measurement, stretched by the interference that the plan
 * expects. A measurement beside traffic (worker/measure.c) that is worse than the plan's own latency for the planned
 * batch gives way to the plan's. */
static let_dur predicted(const let_fleet_entry *x, uint32_t k) {
  /* Not measured, because others were serving: more rows take no longer than in proportion, fewer rows no longer than
   * the planned batch. The first batches correct it. */
  if (x->predict[k] == 0)
    return x->size[k] <= x->batch ? x->planned : (let_dur)((double)x->planned * x->size[k] / x->batch);
  let_dur top = 0;
  bool beside = false;
  for (uint32_t i = 0; i < x->n_sizes; i++)
    if (x->size[i] == x->next_batch) {
      top = x->predict[i];
      beside = x->beside[i];
    }
  double stretch = x->planned > 0 && top > 0 ? (double)x->planned / (double)top : 1;
  if (stretch < 1 && !(beside && x->beside[k])) stretch = 1;
  if (stretch > 3) stretch = 3; /* a plan for another device is not evidence */
  if (stretch < 1.0 / 3) stretch = 1;
  return (let_dur)((double)x->predict[k] * stretch);
}

/* Only ready sizes are offered. A model without one waits for its worker, and offers the sizes that it will have. */
static void fill(const let_fleet_entry *x, let_gpulet_id gpulet, bool change, let_fleet_route *r) {
  *r = (let_fleet_route){.model = x->model,
                         .gpulet = gpulet,
                         .batch = change ? x->next_batch : x->batch,
                         .rate = change ? x->next_rate : x->rate};
  bool none = true;
  for (uint32_t z = 0; z < x->n_sizes; z++) none = none && !x->ready[z];
  for (uint32_t z = 0; z < x->n_sizes; z++)
    if (none || x->ready[z]) {
      r->size[r->n_sizes] = x->size[z];
      r->predict[r->n_sizes++] = predicted(x, z);
    }
}

static bool named(const let__group *g, bool change) {
  return g->state != LET_GROUP_NONE && (change ? g->wanted : g->routed);
}

bool let__routes(let_fleet *f, bool change) {
  uint32_t n_gpulets = 0, n_routes = 0;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    if (!named(g, change)) continue;
    n_gpulets += g->n_gpulets;
    for (uint32_t k = 0; k < g->n_gpulets; k++) n_routes += g->gpulet[k].n_entries;
  }
  let_arena_fini(&f->scratch);
  let_fleet_routed *gpulet = let_arena_array(&f->scratch, n_gpulets + 1, sizeof *gpulet);
  let_fleet_route *route = let_arena_array(&f->scratch, n_routes + 1, sizeof *route);
  if (!gpulet || !route) return false;
  f->routes = (let_fleet_routes){.change = change, .gpulet = gpulet, .route = route};
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    if (!named(g, change)) continue;
    for (uint32_t k = 0; k < g->n_gpulets; k++) {
      const let_fleet_gpulet *l = &g->gpulet[k];
      gpulet[f->routes.n_gpulets++] = (let_fleet_routed){l->id, f->o.device[g->device].depth};
      for (uint32_t j = 0; j < l->n_entries; j++) fill(&l->entry[j], l->id, change, &route[f->routes.n_routes++]);
    }
  }
  return true;
}
