/* group_step.c: a group from WAITING to RELEASING; its diagram is in fleet.h. */
#include "fleet_int.h"

/* The worker keeps nothing of it. */
void let__group_failed(let_fleet *f, let__group *g, const char *why, let_time now) {
  if (g->state == LET_GROUP_DRAINING || g->state == LET_GROUP_DRAINED || g->state == LET_GROUP_RETIRING)
    g->state = LET_GROUP_RELEASING; /* given up while it prepared: there is nothing to retire */
  if (g->state != LET_GROUP_WAITING && g->state != LET_GROUP_PREPARING) return;
  if (!g->routed) {
    g->state = LET_GROUP_RELEASING;
    if (f->change.state == LET_CHANGE_BUILDING) let__roll_back(f, why);
    return;
  }
  /* It served before and its worker was replaced: the new worker may have come before the old one's memory was free.
   * It tries again later. */
  g->state = LET_GROUP_WAITING;
  let__worker *w = let__worker_at(f, g->worker);
  if (w) w->at = now + let__restart_wait(w->losses++);
}

static bool waiting_step(let_fleet *f, let__group *g, const let__worker *w, let_time now, let_fleet_action *a) {
  if (!w || w->state != LET_WORKER_READY || now < w->at || f->stopping) return false;
  if (g->set.n == 0) {
    g->set.n = ++f->sets.n;
    *a = let__action(LET_FLEET_OPEN_LANES);
    a->group = g->id;
    a->set = g->set;
    a->n_lanes = g->n_gpulets;
    return true;
  }
  if (!let__prepare(f, g, g->set, let__beside_others(f, g))) {
    let__group_lost(f, g);
    let__group_failed(f, g, "out of memory", now);
    return false;
  }
  g->state = LET_GROUP_PREPARING;
  g->asked = now;
  *a = let__action(LET_FLEET_SEND_PREPARE);
  a->worker = g->worker;
  a->group = g->id;
  a->set = g->set;
  a->prepare = &f->prepare;
  return true;
}

static void back(let_fleet *f, let__group *g, let_time now) {
  g->state = LET_GROUP_SERVING;
  g->since = now;
  for (uint32_t k = 0; k < g->n_gpulets; k++) let__gpulet_bring_up(f, g, &g->gpulet[k]);
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_GROUP_BACK);
  r->device = g->device;
  r->number = g->n_gpulets;
}

/* Its worker retires it. A killed worker may still write into the group's memory, so only its exit releases the
 * group. */
static bool drained_step(let_fleet *f, let__group *g, const let__worker *w, let_time now, let_fleet_action *a) {
  if (w && w->alive && w->state == LET_WORKER_READY && g->set.n) {
    g->state = LET_GROUP_RETIRING;
    g->asked = now;
    *a = let__action(LET_FLEET_SEND_RETIRE);
    a->worker = g->worker;
    a->group = g->id;
    a->set = g->set;
    return true;
  }
  if (w && w->alive && g->set.n) return false;
  let__group_lost(f, g);
  g->state = LET_GROUP_RELEASING;
  return false;
}

static bool releasing_step(let_fleet *f, let__group *g, let_fleet_action *a) {
  if (f->todo_n > 0) return false; /* its lanes go first */
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    if (g->gpulet[k].declared) {
      g->gpulet[k].declared = false;
      *a = let__action(LET_FLEET_GPULET_REMOVE);
      a->gpulet = g->gpulet[k].id;
      return true;
    }
  let__group_forget(f, g);
  return false;
}

bool let__group_step(let_fleet *f, let__group *g, let_time now, let_fleet_action *a) {
  const let__worker *w = let__worker_at(f, g->worker);
  switch (g->state) {
  case LET_GROUP_WAITING: return waiting_step(f, g, w, now, a);
  case LET_GROUP_PREPARED:
    if (g->routed) back(f, g, now);
    return false;
  case LET_GROUP_DRAINED: return drained_step(f, g, w, now, a);
  case LET_GROUP_RELEASING: return releasing_step(f, g, a);
  default: return false;
  }
}
