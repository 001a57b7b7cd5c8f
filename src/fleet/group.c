/* group.c: releases a group's lanes and memory. */
#include "fleet_int.h"

void let__group_lost(let_fleet *f, let__group *g) {
  bool declared = false;
  let__sizes_forget(g);
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    declared = declared || g->gpulet[k].declared;
    g->gpulet[k].up = g->gpulet[k].quarantined = false;
  }
  if (g->set.n == 0) return;
  if (declared) let__later(f, LET_FLEET_RECLAIM, g->worker, g->id, g->set);
  let__later(f, LET_FLEET_CLOSE_LANES, g->worker, g->id, g->set);
  g->set.n = 0;
}

void let__group_forget(let_fleet *f, let__group *g) {
  for (uint32_t k = 0; k < g->cap_gpulets; k++) {
    let_fleet_gpulet *l = &g->gpulet[k];
    if (k < g->n_gpulets) f->where[l->id.n].used = false;
    let_mem_free(f->mem, l->entry, l->n_entries * sizeof *l->entry);
  }
  let_mem_free(f->mem, g->gpulet, g->cap_gpulets * sizeof *g->gpulet);
  *g = (let__group){.id = g->id};
}
