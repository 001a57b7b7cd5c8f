/* check.c: every invariant of the fleet. */
#include "fleet_int.h"

#define BAD(...) return let_fail(e, LET_ERR_INTERNAL, __VA_ARGS__), false

/* Its worker may have been told of it. */
static bool told(let_fleet_group_state s) {
  return s == LET_GROUP_PREPARING || s == LET_GROUP_PREPARED || s == LET_GROUP_SERVING || s == LET_GROUP_RETIRING;
}

static bool gpulet_holds(const let_fleet *f, const let__group *g, uint32_t k, let_error *e) {
  const let_fleet_gpulet *l = &g->gpulet[k];
  if (l->id.n >= f->o.gpulets || !f->where[l->id.n].used || f->where[l->id.n].group.n != g->id.n ||
      f->where[l->id.n].lane != k)
    BAD("gpu-let %u of group %u is not where it is looked for", l->id.n, g->id.n);
  if (l->up && !let__gpulet_whole(l)) BAD("gpu-let %u is up without a batch size that it needs", l->id.n);
  if (l->up && g->set.n == 0) BAD("gpu-let %u is up and has no lanes", l->id.n);
  if (g->routed && !l->declared) BAD("gpu-let %u is routed to and unknown to the core", l->id.n);
  if (f->settled && l->declared && l->told_up != (l->up && !l->quarantined))
    BAD("gpu-let %u: the core was not told that it is %s", l->id.n, l->up ? "up" : "down");
  for (uint32_t j = 0; j < l->n_entries; j++) {
    const let_fleet_entry *x = &l->entry[j];
    uint64_t most = f->o.device[g->device].type->memory_bytes;
    if (x->model >= f->o.n_models || x->n_sizes < 1 || x->n_sizes > LET_SIZES_MAX)
      BAD("gpu-let %u: model %u with %u sizes", l->id.n, x->model, x->n_sizes);
    if (most && x->memory_bytes > most) BAD("gpu-let %u: a model takes more memory than the device has", l->id.n);
    for (uint32_t z = 0; z < x->n_sizes; z++) {
      if (x->ready[z] && x->failed[z]) BAD("gpu-let %u: size %u is ready and failed", l->id.n, x->size[z]);
      if (z > 0 && x->size[z] <= x->size[z - 1]) BAD("gpu-let %u: sizes are out of order", l->id.n);
    }
  }
  return true;
}

static bool group_holds(const let_fleet *f, const let__group *g, let_error *e) {
  const char *state = let_fleet_group_state_name(g->state);
  if (g->state == LET_GROUP_NONE) {
    if (g->gpulet || g->routed || g->wanted || g->set.n) BAD("group %u is unused and not empty", g->id.n);
    return true;
  }
  const let__worker *w = let__worker_at(f, g->worker);
  if (!w || w->spare) BAD("group %u is %s in no worker of its own", g->id.n, state);
  if (w->state == LET_WORKER_NONE && !f->stopping) BAD("group %u is %s and its worker is gone", g->id.n, state);
  if (w->device != g->device && w->state != LET_WORKER_NONE) BAD("group %u is on another device", g->id.n);
  if (told(g->state) && (!w->alive || g->set.n == 0)) BAD("group %u is %s without a worker", g->id.n, state);
  if (g->set.n > f->sets.n) BAD("group %u has a lane set that was never given out", g->id.n);
  bool may_be_routed = g->state >= LET_GROUP_WAITING && g->state <= LET_GROUP_SERVING;
  if (g->routed && !may_be_routed) BAD("group %u is routed to and %s", g->id.n, state);
  if (g->state == LET_GROUP_SERVING && !g->routed) BAD("group %u serves and is not routed to", g->id.n);
  if (g->wanted && !may_be_routed) BAD("group %u is wanted and %s", g->id.n, state);
  if (f->change.state != LET_CHANGE_BUILDING && f->change.state != LET_CHANGE_SWITCHING && !f->stopping &&
      g->wanted != g->routed)
    BAD("group %u is %s and no change is under way", g->id.n, g->wanted ? "wanted" : "not wanted");
  for (uint32_t i = 0; i < g->id.n; i++)
    if (g->set.n && f->group[i].set.n == g->set.n) BAD("groups %u and %u have one lane set", i, g->id.n);
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    if (!gpulet_holds(f, g, k, e)) return false;
  return true;
}

static bool worker_holds(const let_fleet *f, const let__worker *w, let_error *e) {
  const char *state = let_fleet_worker_state_name(w->state);
  bool process = w->state == LET_WORKER_READY || w->state == LET_WORKER_STOPPING || w->state == LET_WORKER_KILLED;
  bool none = w->state == LET_WORKER_NONE || w->state == LET_WORKER_BACKOFF || w->state == LET_WORKER_HELD;
  if ((process && !w->alive) || (none && w->alive)) BAD("worker %u is %s", w->id.n, state);
  if (w->state != LET_WORKER_NONE && w->device >= f->o.n_devices) BAD("worker %u is on no device", w->id.n);
  if (w->spare && (w->state == LET_WORKER_NONE || f->spare[w->device].worker.n != w->id.n))
    BAD("worker %u is a spare that no device has", w->id.n);
  if (w->state == LET_WORKER_HELD && !f->helper_away && f->settled)
    BAD("worker %u waits for the helper, which is there", w->id.n);
  for (uint32_t i = 0; i < w->id.n; i++) {
    const let__worker *o = &f->worker[i];
    if (w->key && o->key == w->key && !w->leaving && !o->leaving && o->state != LET_WORKER_NONE &&
        w->state != LET_WORKER_NONE)
      BAD("workers %u and %u are for the same device", i, w->id.n);
  }
  return true;
}

static bool spare_holds(const let_fleet *f, uint32_t d, let_error *e) {
  const let__spare *x = &f->spare[d];
  const let__worker *w = let__worker_at(f, x->worker);
  const char *state = let_fleet_spare_state_name(x->state);
  if (x->state == LET_SPARE_NONE) {
    if (w || x->set.n || x->old.n || x->opening.n) BAD("the spare of device %u is unused and not empty", d);
    return true;
  }
  if (!w || !w->spare || w->device != d) BAD("the spare of device %u is %s and has no worker", d, state);
  bool has = x->state == LET_SPARE_PREPARING || x->state == LET_SPARE_WARM;
  if (has && x->set.n == 0) BAD("the spare of device %u is %s and has no lanes", d, state);
  if (x->opening.n && x->state != LET_SPARE_OPENING) BAD("the spare of device %u is %s with open lanes", d, state);
  return true;
}

bool let_fleet_validate(const let_fleet *f, let_error *e) {
  uint32_t used = 0, numbers = 0;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    if (!group_holds(f, &f->group[i], e)) return false;
    numbers += f->group[i].n_gpulets;
  }
  for (uint32_t i = 0; i < f->o.gpulets; i++) used += f->where[i].used;
  if (used != numbers) BAD("%u gpu-let numbers are used by %u gpu-lets", used, numbers);
  for (uint32_t i = 0; i < f->n_workers; i++)
    if (!worker_holds(f, &f->worker[i], e)) return false;
  for (uint32_t i = 0; i < f->o.n_devices; i++)
    if (!spare_holds(f, i, e)) return false;
  if (f->todo_n > f->todo_cap || f->report_n > LET__REPORTS) BAD("a ring holds more than it can");
  if (f->settled && (f->todo_n || f->report_n)) BAD("something is left to do and said to be done");
  return true;
}
