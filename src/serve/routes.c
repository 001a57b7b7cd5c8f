/* routes.c: from what is prepared to the core's routing table. */
#include <stdlib.h>

#include "serve_int.h"

/* What the core is to believe of size |k|: what the worker measured, stretched by what the plan expects of the
 * neighbours. A figure taken beside traffic (the least of a few runs, worker/measure.c) may still have been disturbed:
 * where it is worse than the plan's own for the very batch that the plan was made with, the plan is believed. Too
 * high a figure would refuse requests that can be served, and what is refused never runs and never corrects it; too
 * low a one makes a first batch late and is corrected by it. */
static let_dur predicted(const place *p, uint32_t k) {
  let_dur top = 0;
  /* Not measured, because others were serving: more rows take no longer than in proportion, fewer rows no longer than
   * the planned batch. The first batches correct it. */
  if (p->predict[k] == 0)
    return p->size[k] <= p->batch ? p->planned : (let_dur)((double)p->planned * p->size[k] / p->batch);
  bool beside = false;
  for (uint32_t i = 0; i < p->n_sizes; i++)
    if (p->size[i] == p->next_batch) top = p->predict[i], beside = p->beside[i];
  double stretch = p->planned > 0 && top > 0 ? (double)p->planned / (double)top : 1;
  if (stretch < 1 && !(beside && p->beside[k])) stretch = 1;
  if (stretch > 3) stretch = 3; /* a plan for another device is not evidence */
  if (stretch < 1.0 / 3) stretch = 1;
  return (let_dur)((double)p->predict[k] * stretch);
}

/* Sizes that are not ready are not offered; a place that has none is away, and offers what it will have again. */
static void fill(const place *p, uint32_t number, bool next, let_core_route *x) {
  *x = (let_core_route){.model = p->model,
                        .gpulet = number,
                        .batch = next ? p->next_batch : p->batch,
                        .rate = next ? p->next_rate : p->rate};
  bool none = true;
  for (uint32_t z = 0; z < p->n_sizes; z++) none = none && !p->ready[z];
  for (uint32_t z = 0; z < p->n_sizes; z++)
    if (none || p->ready[z]) x->size[x->n_sizes] = p->size[z], x->predict[x->n_sizes++] = predicted(p, z);
}

static bool named(const server *s, uint32_t i, bool next) {
  return next ? let_apply_group_wanted(s->apply, i) : let_apply_group_routed(s->apply, i);
}

let_err serve_routes_set(server *s, bool next, let_time now, let_error *e) {
  uint32_t n_gpulets = 0, n_routes = 0;
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    for (uint32_t k = 0; named(s, i, next) && k < s->group[i].n_gpulets; k++)
      n_gpulets++, n_routes += s->group[i].gpulet[k].n_places;
  let_core_gpulet *gpulets = calloc(n_gpulets + 1, sizeof *gpulets);
  let_core_route *routes = calloc(n_routes + 1, sizeof *routes);
  let_err r = gpulets && routes ? LET_OK : let_fail(e, LET_ERR_NOMEM, "out of memory");
  n_gpulets = n_routes = 0;
  for (uint32_t i = 0; i < SERVE_GROUPS && !r; i++)
    for (uint32_t k = 0; named(s, i, next) && k < s->group[i].n_gpulets; k++) {
      const gpulet *l = &s->group[i].gpulet[k];
      gpulets[n_gpulets++] = (let_core_gpulet){.number = l->number, .depth = s->device[s->group[i].device].depth};
      for (uint32_t j = 0; j < l->n_places; j++) fill(&l->place[j], l->number, next, &routes[n_routes++]);
    }
  if (!r) r = let_core_routes_set(s->core, gpulets, n_gpulets, routes, n_routes, now, e);
  free(gpulets);
  free(routes);
  return r;
}
