/* plan_change.c: the switch and the end of a plan change; its diagram is in fleet.h. */
#include "fleet_int.h"

#include <stdio.h>
#include <string.h>

void let__wanted_restore(let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++) f->group[i].wanted = f->group[i].routed;
}

void let__roll_back(let_fleet *f, const char *why) {
  snprintf(f->change.why, sizeof f->change.why, "%s", why[0] ? why : "unknown reason");
  f->change.state = LET_CHANGE_ROLLBACK;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    let__group *g = &f->group[i];
    if (g->state == LET_GROUP_NONE || g->routed) continue;
    if (g->state == LET_GROUP_WAITING) {
      let__group_lost(f, g);
      g->state = LET_GROUP_RELEASING;
    } else if (g->state == LET_GROUP_PREPARING || g->state == LET_GROUP_PREPARED) {
      g->state = LET_GROUP_DRAINED; /* it never had a batch */
    }
  }
  let__wanted_restore(f);
  f->again = true;
}

static void adopt(let__group *g, let_time now) {
  if (g->state == LET_GROUP_PREPARED) g->state = LET_GROUP_SERVING;
  g->routed = true; /* a kept group serves again after its worker was replaced */
  if (!g->since) g->since = now;
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    let_fleet_gpulet *l = &g->gpulet[k];
    if (!l->declared) l->declared = l->told_up = true; /* a gpu-let that the core did not know is up there */
    for (uint32_t j = 0; j < l->n_entries; j++) {
      l->entry[j].batch = l->entry[j].next_batch;
      l->entry[j].rate = l->entry[j].next_rate;
    }
  }
}

void let__switched(let_fleet *f, let_time now) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    let__group *g = &f->group[i];
    if (g->state == LET_GROUP_NONE) continue;
    if (g->wanted) {
      adopt(g, now);
    } else if (g->routed) { /* being prepared again, some of it may take batches already */
      bool asked = g->state != LET_GROUP_WAITING;
      if (!asked) let__group_lost(f, g);
      g->state = asked ? LET_GROUP_DRAINING : LET_GROUP_RELEASING;
      g->routed = false;
    }
  }
  memcpy(f->slo, f->next_slo, f->o.n_models * sizeof *f->slo);
  f->serving = true;
  f->routes_due = false; /* what was just set names all that is ready */
  f->change.state = LET_CHANGE_DRAINING;
  f->change.announce = true;
}

static bool all_prepared(const let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    if (g->wanted && !g->routed && g->state != LET_GROUP_PREPARED) return false;
  }
  return true;
}

void let__change_cut_short(let_fleet *f) {
  if (f->change.state == LET_CHANGE_IDLE) return;
  f->change.cut_short = true;
  f->change.applied = f->change.state == LET_CHANGE_DRAINING;
  if (f->change.state != LET_CHANGE_ROLLBACK)
    snprintf(f->change.why, sizeof f->change.why, "the server is shutting down");
  f->change.state = LET_CHANGE_IDLE;
}

static bool ended(let_fleet *f, bool applied, let_fleet_action *a) {
  f->change.state = LET_CHANGE_IDLE;
  f->change.cut_short = false;
  *a = let__action(LET_FLEET_PLAN_ENDED);
  a->generation = f->change.generation;
  a->ok = applied;
  if (!applied) a->text = f->change.why;
  return true;
}

bool let__change_step(let_fleet *f, let_time now, let_fleet_action *a) {
  if (f->change.announce) {
    f->change.announce = false;
    *a = let__action(LET_FLEET_PLAN_SERVES);
    a->generation = f->change.generation;
    a->took = f->change.took;
    return true;
  }
  if (f->change.cut_short) return ended(f, f->change.applied, a);
  if (f->change.state != LET_CHANGE_BUILDING || !all_prepared(f)) return false;
  if (!let__routes(f, true)) {
    let__roll_back(f, "out of memory");
    return false;
  }
  f->change.state = LET_CHANGE_SWITCHING;
  f->change.took = now - f->change.began;
  *a = let__action(LET_FLEET_SET_ROUTES);
  a->generation = f->change.generation;
  a->routes = &f->routes;
  return true;
}

static bool leaving(const let_fleet *f) {
  for (uint32_t i = 0; i < f->n_workers; i++) {
    const let__worker *w = &f->worker[i];
    if (!w->spare && (w->state == LET_WORKER_STOPPING || (w->state == LET_WORKER_KILLED && w->leaving))) return true;
  }
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state >= LET_GROUP_DRAINING) return true;
  return false;
}

bool let__change_end_step(let_fleet *f, let_time now, let_fleet_action *a) {
  (void)now;
  bool applied = f->change.state == LET_CHANGE_DRAINING;
  if ((!applied && f->change.state != LET_CHANGE_ROLLBACK) || leaving(f)) return false;
  return ended(f, applied, a);
}
