/* offer.c: a plan is offered, and a plan change begins. */
#include "fleet_int.h"

/* A group of the plan that serves has that content, and no earlier part took it. */
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

/* Groups of a change that never began are unknown to every worker. */
static void undo(let_fleet *f) {
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state != LET_GROUP_NONE && f->group[i].wanted && !f->group[i].routed)
      let__group_forget(f, &f->group[i]);
  let__wanted_restore(f);
}

static let_err begin(let_fleet *f, let_plan *p, const let__part *part, uint32_t n, let_time now, let_error *e) {
  let_plan_generation generation = {f->generation.n + 1};
  uint32_t n_kept = 0;
  for (uint32_t i = 0; i < f->o.groups; i++) f->group[i].wanted = false;
  for (uint32_t i = 0; i < n; i++) {
    let__group *g = kept(f, part[i].key);
    if (g) {
      g->wanted = true;
      let__group_renew(g, &part[i]);
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
  r->generation = generation;
  r->number = n - n_kept;
  r->of = n_kept;
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
