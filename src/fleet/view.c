/* view.c: reads the fleet's state for others. */
#include "fleet/view.h"

#include <stdio.h>

#include "fleet_int.h"

#define X(name, text) text,
static const char *const group_names[] = {LET_FLEET_GROUP_MAP(X)};
static const char *const worker_names[] = {LET_FLEET_WORKER_MAP(X)};
static const char *const spare_names[] = {LET_FLEET_SPARE_MAP(X)};
static const char *const change_names[] = {LET_FLEET_CHANGE_MAP(X)};
#undef X

const char *let_fleet_group_state_name(let_fleet_group_state s) {
  return (unsigned)s < LET_GROUP_STATES ? group_names[s] : "?";
}
const char *let_fleet_worker_state_name(let_fleet_worker_state s) {
  return (unsigned)s < LET_WORKER_STATES ? worker_names[s] : "?";
}
const char *let_fleet_spare_state_name(let_fleet_spare_state s) {
  return (unsigned)s < LET_SPARE_STATES ? spare_names[s] : "?";
}
const char *let_fleet_change_state_name(let_fleet_change_state s) {
  return (unsigned)s < LET_CHANGE_STATES ? change_names[s] : "?";
}

uint32_t let_fleet_groups(const let_fleet *f) { return f->o.groups; }
uint32_t let_fleet_workers(const let_fleet *f) { return f->n_workers; }

bool let_fleet_group_at(const let_fleet *f, let_group_id id, let_fleet_group *ret) {
  if (id.n >= f->o.groups || f->group[id.n].state == LET_GROUP_NONE) return false;
  const let__group *g = &f->group[id.n];
  *ret = (let_fleet_group){.state = g->state,
                           .generation = g->generation,
                           .worker = g->worker,
                           .set = g->set,
                           .device = g->device,
                           .routed = g->routed,
                           .wanted = g->wanted,
                           .warming = g->warming,
                           .since = g->since,
                           .n_gpulets = g->n_gpulets,
                           .gpulet = g->gpulet};
  return true;
}

bool let_fleet_worker_at(const let_fleet *f, let_worker_id id, let_fleet_worker *ret) {
  const let__worker *w = let__worker_at(f, id);
  if (!w || w->state == LET_WORKER_NONE) return false;
  *ret = (let_fleet_worker){
      .state = w->state, .spare = w->spare, .alive = w->alive, .device = w->device, .starts = w->starts};
  return true;
}

const let_fleet_gpulet *let_fleet_gpulet_at(const let_fleet *f, let_gpulet_id id) {
  if (id.n >= f->o.gpulets || !f->where[id.n].used) return NULL;
  return &f->group[f->where[id.n].group.n].gpulet[f->where[id.n].lane];
}

uint32_t let_fleet_entry_of(const let_fleet_gpulet *l, uint32_t model) {
  for (uint32_t i = 0; i < l->n_entries; i++)
    if (l->entry[i].model == model) return i;
  return LET_ID_NONE;
}

bool let_fleet_model_up(const let_fleet *f, uint32_t model) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    if (!f->group[i].routed) continue;
    for (uint32_t k = 0; k < f->group[i].n_gpulets; k++) {
      const let_fleet_gpulet *l = &f->group[i].gpulet[k];
      if (l->up && let_fleet_entry_of(l, model) != LET_ID_NONE) return true;
    }
  }
  return false;
}

let_fleet_sizes let_fleet_routed_sizes(const let_fleet *f) {
  let_fleet_sizes all = {0};
  for (uint32_t i = 0; i < f->o.groups; i++) {
    if (!f->group[i].routed) continue;
    let_fleet_sizes n = let_fleet_group_sizes(f, f->group[i].id);
    all.wanted += n.wanted;
    all.ready += n.ready;
    all.failed += n.failed;
  }
  return all;
}

bool let_fleet_why_too_wide(const let_fleet *f, uint32_t model, uint32_t rows, char *out, size_t cap) {
  const let_fleet_entry *because = NULL;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    if (!g->routed) continue;
    for (uint32_t k = 0; k < g->n_gpulets; k++) {
      uint32_t j = let_fleet_entry_of(&g->gpulet[k], model);
      if (j == LET_ID_NONE) continue;
      const let_fleet_entry *x = &g->gpulet[k].entry[j];
      for (uint32_t z = 0; z < x->n_sizes; z++) {
        if (x->size[z] >= rows && !x->failed[z]) return false; /* ready, or on its way */
        if (x->size[z] >= rows) because = x;
      }
    }
  }
  if (!because) return false;
  snprintf(out, cap, "model '%.60s': no batch size for %u rows could be prepared, split the request: %s",
           f->o.model[model].name, rows, because->why);
  return true;
}

let_fleet_change_state let_fleet_change(const let_fleet *f) { return f->change.state; }
bool let_fleet_serving(const let_fleet *f) { return f->serving; }
let_plan_generation let_fleet_generation(const let_fleet *f) { return f->generation; }
uint64_t let_fleet_restarts(const let_fleet *f) { return f->restarts; }
let_dur let_fleet_slo(const let_fleet *f, uint32_t model) { return model < f->o.n_models ? f->slo[model] : 0; }

bool let_fleet_idle(const let_fleet *f) {
  for (uint32_t i = 0; i < f->n_workers; i++)
    if (f->worker[i].state != LET_WORKER_NONE) return false;
  return true;
}

uint64_t let_fleet_memory(const let_fleet *f, uint32_t device) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    if (g->device != device) continue;
    for (uint32_t k = 0; k < g->n_gpulets; k++)
      for (uint32_t j = 0; j < g->gpulet[k].n_entries; j++) sum += g->gpulet[k].entry[j].memory_bytes;
  }
  return sum;
}
