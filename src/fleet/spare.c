/* spare.c: the spare of each device; its diagram is in fleet.h. Its weights are loaded, its kernels compiled and its
 * graphs checked: when it takes over, it only makes the graphs once more on the real lanes. */
#include "fleet_int.h"

#include <stdio.h>

static const let_dur retry_first = LET_S, retry_last = 60 * LET_S;

static const let_group_id no_group = {LET_ID_NONE};

bool let__spare_wanted(const let_fleet *f, uint32_t d) { return f->o.spare && !f->o.device[d].worker_per_gpulet; }

const let__group *let__spare_target(const let_fleet *f, uint32_t d) {
  for (uint32_t i = 0; i < f->o.groups; i++)
    if (f->group[i].state == LET_GROUP_SERVING && f->group[i].device == d) return &f->group[i];
  return NULL;
}

bool let_fleet_spare_warm(const let_fleet *f, uint32_t d) {
  if (d >= f->o.n_devices) return false;
  const let__group *g = let__spare_target(f, d);
  return g && f->spare[d].state == LET_SPARE_WARM && f->spare[d].target == g->serial;
}

static void close_set(let_fleet *f, const let__spare *x, let_lane_set_id *set) {
  if (set->n) let__later(f, LET_FLEET_CLOSE_LANES, x->worker, no_group, *set);
  set->n = 0;
}

static void retire_set(let_fleet *f, const let__spare *x, let_lane_set_id *set) {
  if (set->n) let__later(f, LET_FLEET_SEND_RETIRE, x->worker, no_group, *set);
  close_set(f, x, set);
}

void let__spare_heard(let_fleet *f, let__worker *w, const let_fleet_event *ev) {
  let__spare *x = &f->spare[w->device];
  bool ours = x->set.n && let_lane_set_id_eq(ev->set, x->set);
  if (ev->kind == LET_FLEET_WORKER_READY && x->state == LET_SPARE_STARTING) {
    w->state = LET_WORKER_READY;
    w->at = w->heard;
    x->state = LET_SPARE_IDLE;
  } else if (ev->kind == LET_FLEET_WORKER_PREPARED && ours && x->state == LET_SPARE_PREPARING) {
    x->state = LET_SPARE_WARM;
    x->failures = 0;
    retire_set(f, x, &x->old);
    let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SPARE_READY);
    r->worker = w->id;
    r->device = w->device;
  } else if (ev->kind == LET_FLEET_WORKER_FAILED && ours && x->state == LET_SPARE_PREPARING) {
    x->state = LET_SPARE_REFUSED; /* until another plan serves, there is none */
    close_set(f, x, &x->set);
    let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SPARE_REFUSED);
    r->device = w->device;
    snprintf(r->text, sizeof r->text, "%s", ev->text ? ev->text : "");
  }
}

/* Its process is gone, or never came. */
void let__spare_lost(let_fleet *f, let__worker *w, let_time now) {
  let__spare *x = &f->spare[w->device];
  let_dur wait = retry_first << (x->failures < 6 ? x->failures : 6);
  close_set(f, x, &x->set);
  close_set(f, x, &x->old);
  close_set(f, x, &x->opening);
  *x = (let__spare){
      .worker = {LET_ID_NONE}, .failures = x->failures + 1, .retry_at = now + (wait < retry_last ? wait : retry_last)};
}

static void missing(let_fleet *f, uint32_t d, const char *why) {
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SPARE_MISSING);
  r->device = d;
  snprintf(r->text, sizeof r->text, "%s", why);
}

bool let__spare_lanes_failed(let_fleet *f, let_lane_set_id set, const char *why) {
  for (uint32_t d = 0; d < f->o.n_devices; d++) {
    let__spare *x = &f->spare[d];
    if (x->state != LET_SPARE_OPENING || !let_lane_set_id_eq(x->opening, set)) continue;
    x->opening.n = 0;
    x->state = LET_SPARE_REFUSED;
    missing(f, d, why);
    return true;
  }
  return false;
}

/* The spare becomes the worker of |w|'s groups, with |w|'s history. A silent spare does not take over: a new process is
 * sooner ready. */
bool let__spare_take(let_fleet *f, let__worker *w, const let__group *g, let_time now) {
  if (!g || w->spare || !let__spare_wanted(f, w->device)) return false;
  let__spare *x = &f->spare[w->device];
  let__worker *by = let__worker_at(f, x->worker);
  if (x->state != LET_SPARE_WARM || x->target != g->serial || !by || !by->alive) return false;
  if (by->state != LET_WORKER_READY || now - by->heard > f->o.watchdog) return false;
  let_worker_id from = w->id;
  for (let__group *k = let__group_of(f, from, NULL); k; k = let__group_of(f, from, k)) k->worker = by->id;
  by->spare = false;
  by->key = w->key;
  by->losses = w->losses;
  by->building = w->building;
  by->at = now;
  by->stale = x->set;
  close_set(f, x, &x->set);
  close_set(f, x, &x->old);
  *x = (let__spare){.worker = {LET_ID_NONE}};
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SPARE_TAKES);
  r->worker = by->id;
  r->device = w->device;
  return true;
}

/* Its group is prepared: the set that it held as a spare is retired. */
void let__spare_settled(let_fleet *f, let__worker *w) {
  if (w->stale.n) let__later(f, LET_FLEET_SEND_RETIRE, w->id, no_group, w->stale);
  w->stale.n = 0;
}

static bool start(let_fleet *f, uint32_t d, let_time now, let_fleet_action *a) {
  let__worker *w = let__worker_slot(f);
  if (!w) return false;
  *w = (let__worker){.id = w->id,
                     .state = LET_WORKER_STARTING,
                     .spare = true,
                     .announced = true,
                     .device = d,
                     .at = now,
                     .starts = w->starts};
  f->spare[d].worker = w->id;
  f->spare[d].state = LET_SPARE_STARTING;
  *a = let__action(LET_FLEET_SPAWN);
  a->worker = w->id;
  a->device = d;
  a->percent = 100;
  return true;
}

static bool open_lanes(let_fleet *f, let__spare *x, const let__group *g, let_fleet_action *a) {
  x->state = LET_SPARE_OPENING;
  x->target = g->serial;
  x->opening.n = ++f->sets.n;
  *a = let__action(LET_FLEET_OPEN_LANES);
  a->set = x->opening;
  a->n_lanes = g->n_gpulets;
  return true;
}

static bool ask(let_fleet *f, let__spare *x, const let__group *g, let_fleet_action *a) {
  if (!let__prepare(f, g, x->opening, true)) {
    close_set(f, x, &x->opening);
    x->state = LET_SPARE_REFUSED;
    missing(f, g->device, "out of memory");
    return false;
  }
  retire_set(f, x, &x->old); /* the older set never became ready */
  x->old = x->set;
  x->set = x->opening;
  x->opening.n = 0;
  x->state = LET_SPARE_PREPARING;
  *a = let__action(LET_FLEET_SEND_PREPARE);
  a->worker = x->worker;
  a->set = x->set;
  a->prepare = &f->prepare;
  return true;
}

/* Only while nothing else is under way: the plan that serves goes first. */
bool let__spare_step(let_fleet *f, uint32_t d, let_time now, let_fleet_action *a) {
  if (!let__spare_wanted(f, d) || !f->serving || f->draining || f->change.state != LET_CHANGE_IDLE) return false;
  let__spare *x = &f->spare[d];
  const let__group *g = let__spare_target(f, d);
  if (!g || g->warming) return false;
  if (x->state == LET_SPARE_NONE) return now >= x->retry_at && start(f, d, now, a);
  const let__worker *w = let__worker_at(f, x->worker);
  if (!w || w->state != LET_WORKER_READY) return false;
  if (x->state == LET_SPARE_OPENING && x->target == g->serial) return ask(f, x, g, a);
  if (x->target == g->serial) return false;
  close_set(f, x, &x->opening); /* for something that serves no more */
  return open_lanes(f, x, g, a);
}

/* Only where nothing but time is missing: the rest comes with an event. */
let_time let__spare_wake(const let_fleet *f) {
  let_time at = LET_NEVER;
  if (!f->serving || f->draining || f->change.state != LET_CHANGE_IDLE) return at;
  for (uint32_t d = 0; d < f->o.n_devices; d++) {
    const let__spare *x = &f->spare[d];
    if (!let__spare_wanted(f, d) || x->state != LET_SPARE_NONE || x->retry_at >= at) continue;
    const let__group *g = let__spare_target(f, d);
    if (g && !g->warming) at = x->retry_at;
  }
  return at;
}
