/* tables.c: finding things in the fleet's tables. */
#include "fleet_int.h"

let__group *let__group_of(const let_fleet *f, let_worker_id w, const let__group *after) {
  for (uint32_t i = after ? after->id.n + 1 : 0; i < f->o.groups; i++)
    if (f->group[i].state != LET_GROUP_NONE && let_worker_id_eq(f->group[i].worker, w)) return &f->group[i];
  return NULL;
}

let__group *let__group_named(const let_fleet *f, let_worker_id w, let_lane_set_id set) {
  if (set.n == 0) return NULL;
  for (let__group *g = let__group_of(f, w, NULL); g; g = let__group_of(f, w, g))
    if (let_lane_set_id_eq(g->set, set)) return g;
  return NULL;
}

let__group *let__group_free_slot(let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state == LET_GROUP_NONE) return &f->group[i];
  return NULL;
}

let__worker *let__worker_slot(let_fleet *f) {
  for (uint32_t i = 0; i < f->n_workers; i++)
    if (f->worker[i].state == LET_WORKER_NONE) return &f->worker[i];
  return NULL;
}

/* 50 ms, 100 ms, ... at most 5 s. */
let_dur let__restart_wait(unsigned losses) {
  let_dur wait = 50 * LET_MS << (losses < 7 ? losses : 7);
  return wait < 5 * LET_S ? wait : 5 * LET_S;
}
