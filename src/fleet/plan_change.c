/* plan_change.c: from one plan to the next as a transaction; its diagram is in fleet.h. */
#include "fleet_int.h"

#include <stdio.h>
#include <string.h>

/* ---- an offered plan ------------------------------------------------------------------------------------------------ */

static void restore_wanted(let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++) f->group[i].wanted = f->group[i].routed;
}

/* A group of the plan that serves has that content, and no part before this one took it. */
static let__group *kept(const let_fleet *f, uint64_t key) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    let__group *g = &f->group[i];
    if (g->state != LET_GROUP_NONE && g->routed && !g->wanted && g->key == key) return g;
  }
  return NULL;
}

static let_err add_group(let_fleet *f, const let__part *x, let_plan_generation generation, let_error *e) {
  let__group *g = let__group_free_slot(f);
  let__worker *w = g ? let__worker_for(f, x->worker, x->device) : NULL;
  if (!w)
    return let_fail(e, LET_ERR_NOMEM, "the plan has more gpu-lets than this server was started for (%u groups)",
                    f->o.groups);
  *g = (let__group){.id = g->id,
                    .state = LET_GROUP_WAITING,
                    .wanted = true,
                    .worker = w->id,
                    .key = x->key,
                    .serial = ++f->serials,
                    .generation = generation,
                    .device = x->device};
  return let__group_fill(f, g, x, e);
}

/* What the plan was made to keep; config.pbtxt's where it does not say. */
static void note_slos(let_fleet *f, const let_plan *p) {
  for (uint32_t i = 0; i < f->o.n_models; i++) f->next_slo[i] = let__slo_configured(f, i);
  for (uint32_t i = 0; i < p->n_gpus; i++)
    for (uint32_t k = 0; k < p->gpu[i].n_gpulets; k++)
      for (uint32_t j = 0; j < p->gpu[i].gpulet[k].n_entries; j++) {
        const let_plan_entry *x = &p->gpu[i].gpulet[k].entry[j];
        if (x->slo > 0) f->next_slo[let__model_named(f, x->name)] = x->slo;
      }
}

/* Groups of a change that never began have told nobody anything. */
static void undo(let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state != LET_GROUP_NONE && f->group[i].wanted && !f->group[i].routed)
      let__group_forget(f, &f->group[i]);
  restore_wanted(f);
}

static let_err begin(let_fleet *f, let_plan *p, const let__part *part, uint32_t n, let_time now, let_error *e) {
  let_plan_generation generation = {f->generation.n + 1};
  uint32_t n_kept = 0;
  for (uint32_t i = 0; i < f->o.groups; i++) f->group[i].wanted = false;
  for (uint32_t i = 0; i < n; i++) {
    let__group *g = kept(f, part[i].key);
    if (g) {
      g->wanted = true;
      let__group_renew(f, g, &part[i]);
      n_kept++;
      continue;
    }
    let_err r = add_group(f, &part[i], generation, e);
    if (!r) continue;
    undo(f);
    return r;
  }
  for (uint32_t i = 0; i < f->n_workers; i++) f->worker[i].building = 0;
  note_slos(f, p);
  p->generation = generation.n;
  f->generation = generation;
  f->change = (let__change){.state = LET_CHANGE_BUILDING, .generation = generation, .began = now};
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_PLAN_BEGINS);
  r->generation = generation, r->number = n - n_kept, r->of = n_kept;
  return LET_OK;
}

let_err let_fleet_offer(let_fleet *f, let_plan *p, let_time now, let_error *e) {
  if (f->draining) return let_fail(e, LET_ERR_UNAVAILABLE, "the server is shutting down");
  if (f->change.state != LET_CHANGE_IDLE)
    return let_fail(e, LET_ERR_AGAIN, "another plan is being applied (generation %llu): try again in a moment",
                    (unsigned long long)f->change.generation.n);
  let_arena a;
  let_arena_init(&a, f->mem);
  let__part *part;
  uint32_t n;
  let_err r = let__plan_parts(f, p, &a, &part, &n, e);
  if (!r) r = begin(f, p, part, n, now, e);
  let_arena_fini(&a);
  f->settled = false;
  return r;
}

/* ---- its outcome ----------------------------------------------------------------------------------------------------- */

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
  restore_wanted(f);
  f->again = true;
}

static void adopt(let__group *g, let_time now) {
  if (g->state == LET_GROUP_PREPARED) g->state = LET_GROUP_SERVING;
  g->routed = true; /* a kept group whose worker is being replaced comes back later */
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
  f->change.cut_short = true, f->change.applied = f->change.state == LET_CHANGE_DRAINING;
  if (f->change.state != LET_CHANGE_ROLLBACK)
    snprintf(f->change.why, sizeof f->change.why, "the server is shutting down");
  f->change.state = LET_CHANGE_IDLE;
}

static bool ended(let_fleet *f, bool applied, let_fleet_action *a) {
  f->change.state = LET_CHANGE_IDLE, f->change.cut_short = false;
  *a = let__action(LET_FLEET_PLAN_ENDED);
  a->generation = f->change.generation, a->ok = applied;
  if (!applied) a->text = f->change.why;
  return true;
}

bool let__change_step(let_fleet *f, let_time now, let_fleet_action *a) {
  if (f->change.announce) {
    f->change.announce = false;
    *a = let__action(LET_FLEET_PLAN_SERVES);
    a->generation = f->change.generation, a->took = f->change.took;
    return true;
  }
  if (f->change.cut_short) return ended(f, f->change.applied, a);
  if (f->change.state != LET_CHANGE_BUILDING || !all_prepared(f)) return false;
  if (!let__routes(f, true)) {
    let__roll_back(f, "out of memory");
    return false;
  }
  f->change.state = LET_CHANGE_SWITCHING, f->change.took = now - f->change.began;
  *a = let__action(LET_FLEET_SET_ROUTES);
  a->generation = f->change.generation, a->routes = &f->routes;
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
