/* fleet.c: hands each event to the thing that it is about, and asks each thing in turn for its next action. */
#include "fleet_int.h"

#include <stdio.h>
#include <string.h>

/* ---- making and freeing ------------------------------------------------------------------------------------------ */

static size_t aligned(size_t n) { return (n + 15) / 16 * 16; }

let_err let_fleet_new(const let_fleet_options *o, const let_mem *mem, let_fleet **ret, let_error *e) {
  uint32_t workers = o->groups + o->n_devices; /* each device may have a spare */
  uint32_t todos = 4 * (o->groups + 3 * o->n_devices) + 16;
  size_t sizes[] = {aligned(sizeof(let_fleet)),
                    aligned(o->groups * sizeof(let__group)),
                    aligned(workers * sizeof(let__worker)),
                    aligned(o->n_devices * sizeof(let__spare)),
                    aligned(o->gpulets * sizeof *((let_fleet *)0)->where),
                    aligned(o->n_models * sizeof(let_dur)),
                    aligned(o->n_models * sizeof(let_dur)),
                    aligned(o->n_models * sizeof(let_dur)),
                    aligned(o->n_models * sizeof(uint32_t)),
                    aligned(o->n_models * sizeof(uint64_t)),
                    aligned(todos * sizeof(let__todo)),
                    aligned(LET__REPORTS * sizeof(let_fleet_report))};
  size_t bytes = 0;
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) bytes += sizes[i];
  char *at = let_mem_zalloc(mem, bytes);
  if (!at) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u groups", o->groups);
  let_fleet *f = (let_fleet *)(void *)at;
  void *part[sizeof sizes / sizeof *sizes];
  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    part[i] = at;
    at += sizes[i];
  }
  f->group = part[1];
  f->worker = part[2];
  f->spare = part[3];
  f->where = part[4];
  f->slo = part[5];
  f->next_slo = part[6];
  f->took = part[7];
  f->rows = part[8];
  f->row_bytes = part[9];
  f->todo = part[10];
  f->report = part[11];
  f->mem = mem;
  f->bytes = bytes;
  f->o = *o;
  f->n_workers = workers;
  f->todo_cap = todos;
  f->change.state = LET_CHANGE_IDLE;
  let_arena_init(&f->scratch, mem);
  for (uint32_t i = 0; i < o->groups; i++) f->group[i].id.n = i;
  for (uint32_t i = 0; i < workers; i++) f->worker[i].id.n = i;
  for (uint32_t i = 0; i < o->n_devices; i++) f->spare[i].worker.n = LET_ID_NONE;
  for (uint32_t i = 0; i < o->n_models; i++) f->slo[i] = let__slo_configured(f, i);
  *ret = f;
  return LET_OK;
}

void let_fleet_free(let_fleet *f) {
  if (!f) return;
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state != LET_GROUP_NONE) let__group_forget(f, &f->group[i]);
  let_arena_fini(&f->scratch);
  let_mem_free(f->mem, f, f->bytes);
}

/* ---- what is to be said and done --------------------------------------------------------------------------------- */

static bool report_step(let_fleet *f, let_fleet_action *a) {
  if (f->report_n == 0) return false;
  f->reported = f->report[f->report_first];
  f->report_first = (f->report_first + 1) % LET__REPORTS;
  f->report_n--;
  *a = let__action(LET_FLEET_REPORT);
  a->report = &f->reported;
  return true;
}

static bool todo_step(let_fleet *f, let_fleet_action *a) {
  while (f->todo_n > 0) {
    let__todo t = f->todo[f->todo_first];
    f->todo_first = (f->todo_first + 1) % f->todo_cap;
    f->todo_n--;
    let__worker *w = let__worker_at(f, t.worker);
    if (t.kind == LET_FLEET_SEND_RETIRE && (!w || !w->alive || w->state != LET_WORKER_READY)) continue;
    *a = let__action(t.kind);
    a->worker = t.worker;
    a->group = t.group;
    a->set = t.set;
    return true;
  }
  return false;
}

/* Tells the core which gpu-lets can take batches: down goes first, up only after the gpu-let is routed to. */
static bool gpulet_step(let_fleet *f, bool up, let_fleet_action *a) {
  for (uint32_t i = 0; i < f->o.groups; i++)
    for (uint32_t k = 0; k < f->group[i].n_gpulets; k++) {
      let_fleet_gpulet *l = &f->group[i].gpulet[k];
      bool usable = l->up && !l->quarantined;
      if (!l->declared || l->told_up == usable || usable != up) continue;
      l->told_up = usable;
      *a = let__action(usable ? LET_FLEET_GPULET_UP : LET_FLEET_GPULET_DOWN);
      a->gpulet = l->id;
      return true;
    }
  return false;
}

static bool output_step(let_fleet *f, let_fleet_action *a) {
  if (!f->rows_due) return false;
  for (uint32_t i = 0; i < f->o.n_models; i++) {
    if (f->row_bytes[i] == 0) continue;
    *a = let__action(LET_FLEET_OUTPUT_ROW);
    a->model = i;
    a->bytes = f->row_bytes[i];
    f->row_bytes[i] = 0;
    return true;
  }
  f->rows_due = false;
  return false;
}

static bool routes_step(let_fleet *f, let_fleet_action *a) {
  if (!f->routes_due) return false;
  f->routes_due = false;
  if (!let__routes(f, false)) {
    snprintf(let__report(f, LET_FLEET_REPORT_ROUTES_STAY)->text, LET_FLEET_WHY_MAX, "out of memory");
    return report_step(f, a);
  }
  *a = let__action(LET_FLEET_SET_ROUTES);
  a->routes = &f->routes;
  return true;
}

static bool groups_step(let_fleet *f, let_time now, let_fleet_action *a) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    let_fleet_group_state before = f->group[i].state;
    if (let__group_step(f, &f->group[i], now, a)) return true;
    f->again = f->again || f->group[i].state != before;
  }
  return false;
}

static bool workers_step(let_fleet *f, let_time now, let_fleet_action *a) {
  for (uint32_t i = 0; i < f->n_workers; i++) {
    let__worker *w = &f->worker[i];
    let_fleet_worker_state before = w->state;
    if (let__worker_step(f, w, now, a)) return true;
    f->again = f->again || w->state != before;
  }
  return false;
}

static void deadlines(let_fleet *f, let_time now) {
  for (uint32_t i = 0; i < f->n_workers; i++)
    if (let__late_step(f, &f->worker[i], now)) f->again = true;
}

static bool spares_step(let_fleet *f, let_time now, let_fleet_action *a) {
  for (uint32_t i = 0; i < f->o.n_devices; i++)
    if (let__spare_step(f, i, now, a)) return true;
  return false;
}

/* First the actions that keep the core safe, then those that end things, then those that begin things. */
static bool decide(let_fleet *f, let_time now, let_fleet_action *a) {
  if (report_step(f, a) || gpulet_step(f, false, a) || todo_step(f, a) || output_step(f, a)) return true;
  if (f->change.state == LET_CHANGE_SWITCHING) return false; /* the caller owes an answer */
  if (let__change_step(f, now, a) || routes_step(f, a) || gpulet_step(f, true, a)) return true;
  deadlines(f, now);
  if (groups_step(f, now, a) || workers_step(f, now, a)) return true; /* a worker is needed while it has groups */
  if (f->again || f->report_n || f->todo_n) return false;
  return let__change_end_step(f, now, a) || spares_step(f, now, a);
}

bool let_fleet_next(let_fleet *f, let_time now, let_fleet_action *ret) {
  if (f->settled && now < f->wake) return false;
  f->settled = false;
  do {
    f->again = false;
    if (decide(f, now, ret)) return true;
  } while (f->again || f->report_n || f->todo_n);
  let__settle(f);
  return false;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void lanes_failed(let_fleet *f, const let_fleet_event *ev, const char *text, let_time now) {
  if (ev->set.n == 0 || let__spare_lanes_failed(f, ev->set, text)) return;
  for (uint32_t i = 0; i < f->o.groups; i++) {
    let__group *g = &f->group[i];
    if (g->state != LET_GROUP_WAITING || g->set.n != ev->set.n) continue;
    g->set.n = 0;
    let__group_failed(f, g, text, now);
  }
}

static void prepared(let_fleet *f, let__worker *w, let__group *g, let_time now) {
  if (g->state != LET_GROUP_PREPARING) return; /* it was given up meanwhile */
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    if (!g->gpulet[k].up) {
      let__worker_kill(f, w, "said that all is prepared before each lane was", now);
      return;
    }
  g->state = LET_GROUP_PREPARED;
  let__spare_settled(f, w);
}

static void failed(let_fleet *f, let__worker *w, let__group *g, const char *text, let_time now) {
  if (g->state != LET_GROUP_PREPARING && g->state != LET_GROUP_DRAINING && g->state != LET_GROUP_DRAINED &&
      g->state != LET_GROUP_RETIRING)
    return;
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_FAILED);
  r->worker = w->id;
  snprintf(r->text, sizeof r->text, "%s", text);
  if (w->state == LET_WORKER_KILLED) { /* its exit does the rest */
    if (g->state == LET_GROUP_PREPARING && !g->routed && f->change.state == LET_CHANGE_BUILDING)
      let__roll_back(f, text);
    return;
  }
  let__group_lost(f, g); /* some of its lanes may have served; the worker holds none of them any more */
  let__group_failed(f, g, text, now);
}

/* Messages from |w|. A killed worker is not believed, except when it says that it failed. */
static void worker_says(let_fleet *f, let__worker *w, const let_fleet_event *ev, const char *text, let_time now) {
  if (!w->alive || w->state == LET_WORKER_NONE) return;
  w->heard = now;
  if (ev->kind == LET_FLEET_WORKER_ERROR) snprintf(w->why, sizeof w->why, "%s", text);
  if (w->spare) {
    if (w->state != LET_WORKER_KILLED) let__spare_heard(f, w, ev);
    return;
  }
  if (ev->kind == LET_FLEET_WORKER_READY && w->state == LET_WORKER_STARTING) {
    w->state = LET_WORKER_READY;
    w->at = now;
    return;
  }
  let__group *g = let__group_named(f, w->id, ev->set);
  if (!g) return;
  if (ev->kind == LET_FLEET_WORKER_FAILED) failed(f, w, g, text, now);
  if (w->state == LET_WORKER_KILLED) return;
  bool runs = g->state == LET_GROUP_PREPARING || g->state == LET_GROUP_PREPARED || g->state == LET_GROUP_SERVING ||
              g->state == LET_GROUP_DRAINING;
  if (ev->kind == LET_FLEET_WORKER_LANE && runs) let__lane_ready(f, g, ev);
  if (ev->kind == LET_FLEET_WORKER_SIZE && runs) let__size_ready(f, g, ev);
  if (ev->kind == LET_FLEET_WORKER_PREPARED) prepared(f, w, g, now);
  if (ev->kind == LET_FLEET_WORKER_RETIRED && g->state == LET_GROUP_RETIRING) {
    let__group_lost(f, g);
    g->state = LET_GROUP_RELEASING;
  }
}

static void started(let__worker *w, let_time now) {
  if (w->state != LET_WORKER_STARTING || w->alive) return;
  w->alive = true;
  w->heard = now;
  w->starts++;
}

static void helper_away(let_fleet *f, const char *name, let_time now) {
  f->helper_away = true;
  char why[128];
  snprintf(why, sizeof why, "%.80s has ended", name);
  for (uint32_t i = 0; i < f->n_workers; i++)
    if (f->worker[i].alive && f->o.device[f->worker[i].device].own_share) let__worker_kill(f, &f->worker[i], why, now);
}

static void routes_refused(let_fleet *f, const char *text) {
  if (f->change.state == LET_CHANGE_SWITCHING) {
    let__roll_back(f, text);
    return;
  }
  snprintf(let__report(f, LET_FLEET_REPORT_ROUTES_STAY)->text, LET_FLEET_WHY_MAX, "%s", text);
}

void let_fleet_handle(let_fleet *f, const let_fleet_event *ev, let_time now) {
  const char *text = ev->text ? ev->text : "";
  let__worker *w = let__worker_at(f, ev->worker);
  if (ev->kind == LET_FLEET_TICK) {
    let__watch(f, now);
    return;
  }
  if (ev->kind == LET_FLEET_WORKER_HEALTH) { /* every second from every worker: nothing is to be decided */
    if (w && w->alive) w->heard = now;
    return;
  }
  f->settled = false;
  switch (ev->kind) {
  case LET_FLEET_WORKER_STARTED:
    if (w) started(w, now);
    break;
  case LET_FLEET_WORKER_EXITED:
    if (w) let__worker_exited(f, w, text, ev->pid, now);
    break;
  case LET_FLEET_WORKER_BROKEN:
    if (w) let__worker_kill(f, w, text, now);
    break;
  case LET_FLEET_LANES_FAILED: lanes_failed(f, ev, text, now); break;
  case LET_FLEET_ROUTES_SET:
    if (f->change.state == LET_CHANGE_SWITCHING) let__switched(f, now);
    break;
  case LET_FLEET_ROUTES_REFUSED: routes_refused(f, text); break;
  case LET_FLEET_GPULET_BROKEN:
    if (ev->gpulet.n < f->o.gpulets && f->where[ev->gpulet.n].used)
      let__worker_kill(f, let__worker_at(f, f->group[f->where[ev->gpulet.n].group.n].worker), text, now);
    break;
  case LET_FLEET_GROUP_DRAINED:
    if (ev->group.n < f->o.groups && f->group[ev->group.n].state == LET_GROUP_DRAINING)
      f->group[ev->group.n].state = LET_GROUP_DRAINED;
    break;
  case LET_FLEET_ROWS_SEEN:
    if (ev->model < f->o.n_models && ev->rows > f->rows[ev->model]) f->rows[ev->model] = ev->rows;
    break;
  case LET_FLEET_HELPER_AWAY: helper_away(f, text, now); break;
  case LET_FLEET_HELPER_BACK: f->helper_away = false; break;
  case LET_FLEET_DRAIN: f->draining = true; break;
  case LET_FLEET_STOP_ALL: let__worker_stop_all(f, false, now); break;
  case LET_FLEET_ABANDON: let__worker_stop_all(f, true, now); break;
  default:
    if (w) worker_says(f, w, ev, text, now);
  }
}
