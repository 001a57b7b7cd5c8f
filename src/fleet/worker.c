/* worker.c: a worker from BACKOFF to its end; its diagram is in fleet.h. */
#include "fleet_int.h"

#include <stdio.h>
#include <string.h>

enum { MAX_LOSSES_WHILE_NEW = 2 };
static const let_dur forgiven_after = 10 * LET_S; /* a while of good service */

/* A worker that leaves gets no new group. */
let__worker *let__worker_for(let_fleet *f, uint64_t key, uint32_t device) {
  uint32_t owners = 0;
  for (uint32_t i = 0; i < f->n_workers; i++) {
    let__worker *w = &f->worker[i];
    if (w->state == LET_WORKER_NONE || w->spare) continue;
    if (key && w->key == key && !w->leaving) return w;
    owners++;
  }
  let__worker *w = owners < f->o.groups ? let__worker_slot(f) : NULL;
  if (w)
    *w = (let__worker){.id = w->id, .state = LET_WORKER_BACKOFF, .key = key, .device = device, .starts = w->starts};
  return w;
}

/* Kills a worker that cannot be trusted or seems dead. From now on no batch goes to its gpu-lets, so a lost batch is
 * not sent to the same process again. Its lanes and its requests' slots are used again only after its exit, since it
 * may write into them until then. */
void let__worker_kill(let_fleet *f, let__worker *w, const char *why, let_time now) {
  if (!w || !w->alive || w->state == LET_WORKER_KILLED) return;
  if (why[0] && !w->why[0]) snprintf(w->why, sizeof w->why, "%s", why);
  if (w->state == LET_WORKER_READY && now - w->at > forgiven_after) w->losses = 0;
  w->state = LET_WORKER_KILLED;
  w->announced = false;
  for (let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g))
    for (uint32_t k = 0; k < g->n_gpulets; k++) g->gpulet[k].quarantined = true;
}

static void gone(let__worker *w) { *w = (let__worker){.id = w->id, .starts = w->starts}; }

/* Its groups wait for another worker or are released. True: one of them belongs to the change under way. */
static bool lose_groups(let_fleet *f, const let__worker *w) {
  bool fresh = false;
  for (let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g)) {
    let__group_lost(f, g);
    switch (g->state) {
    case LET_GROUP_WAITING:
    case LET_GROUP_PREPARING:
    case LET_GROUP_PREPARED:
    case LET_GROUP_SERVING:
      g->state = LET_GROUP_WAITING;
      if (!g->routed) fresh = true;
      break;
    default: g->state = LET_GROUP_RELEASING; /* on its way out anyway */
    }
  }
  return fresh;
}

void let__worker_lost(let_fleet *f, let__worker *w, const char *why, let_time now) {
  bool fresh = lose_groups(f, w);
  if (w->leaving || f->stopping) {
    gone(w);
    return;
  }
  if (w->state == LET_WORKER_READY && now - w->at > forgiven_after) w->losses = 0;
  w->at = now + let__restart_wait(w->losses++);
  w->state = LET_WORKER_BACKOFF;
  w->alive = w->announced = false;
  w->stale.n = 0;
  w->why[0] = 0;
  /* Also where the old plan runs in the same worker: the new plan may be what kills it. */
  if (f->change.state == LET_CHANGE_BUILDING && fresh && ++w->building > MAX_LOSSES_WHILE_NEW) let__roll_back(f, why);
}

void let__worker_exited(let_fleet *f, let__worker *w, const char *how, int pid, let_time now) {
  if (w->state == LET_WORKER_NONE || w->state == LET_WORKER_BACKOFF || w->state == LET_WORKER_HELD ||
      (w->state == LET_WORKER_STARTING && !w->announced))
    return; /* there is no process */
  char why[LET_FLEET_WHY_MAX];
  const char *name = f->o.device[w->device].name;
  if (w->alive) snprintf(why, sizeof why, "worker for %s %s%s%.160s", name, how, w->why[0] ? ": " : "", w->why);
  else snprintf(why, sizeof why, "%s", how);
  bool spare_missing = w->spare && !w->alive;
  let_fleet_report *r = let__report(f, spare_missing ? LET_FLEET_REPORT_SPARE_MISSING : LET_FLEET_REPORT_EXITED);
  r->worker = w->id;
  r->pid = pid;
  r->device = w->device;
  r->expected = w->leaving || f->stopping;
  snprintf(r->text, sizeof r->text, "%s", why);
  if (w->alive && !r->expected && !w->spare) f->restarts++;
  if (!w->spare) {
    let__worker_lost(f, w, why, now);
    return;
  }
  let__spare_lost(f, w, now);
  gone(w);
}

/* A spare has no batch to finish. */
void let__worker_stop_all(let_fleet *f, bool at_once, let_time now) {
  f->draining = f->stopping = true;
  let__change_cut_short(f);
  f->routes_due = false;
  for (uint32_t i = 0; i < f->n_workers; i++) {
    let__worker *w = &f->worker[i];
    if (!w->spare && !at_once) continue;
    w->leaving = true;
    let__worker_kill(f, w, w->spare ? "" : "the server leaves", now);
  }
}

static bool spawn(let_fleet *f, let__worker *w, let_fleet_action *a) {
  const let_fleet_device *d = &f->o.device[w->device];
  const let__group *g = let__group_of(f, w->id, NULL);
  w->state = LET_WORKER_STARTING;
  w->announced = true;
  *a = let__action(LET_FLEET_SPAWN);
  a->worker = w->id;
  a->device = w->device;
  a->percent = 100;
  if (g && d->own_share && !g->gpulet[0].shared && d->type->sms)
    a->percent = 100.0 * let_share_sms(d->type, g->gpulet[0].granules) / d->type->sms;
  return true;
}

static bool start(let_fleet *f, let__worker *w, let_time now, let_fleet_action *a) {
  if (w->state == LET_WORKER_BACKOFF) w->at = now; /* one that was held is as late as it would be */
  if (f->o.device[w->device].own_share && f->helper_away) {
    w->state = LET_WORKER_HELD;
    return false;
  }
  if (let__spare_take(f, w, let__group_of(f, w->id, NULL), now)) {
    gone(w);
    return false;
  }
  return spawn(f, w, a);
}

static bool stop(let__worker *w, let_time now, let_fleet_action *a) {
  w->leaving = true;
  if (!w->alive) { /* held, or its process never came */
    gone(w);
    return false;
  }
  if (w->state == LET_WORKER_KILLED) return false;
  w->state = LET_WORKER_STOPPING;
  w->at = now + LET__STOP_PATIENCE;
  *a = let__action(LET_FLEET_SEND_STOP);
  a->worker = w->id;
  return true;
}

bool let__worker_step(let_fleet *f, let__worker *w, let_time now, let_fleet_action *a) {
  if (w->state == LET_WORKER_NONE) return false;
  if (w->state == LET_WORKER_KILLED) {
    if (w->announced) return false;
    w->announced = true;
    *a = let__action(LET_FLEET_KILL);
    a->worker = w->id;
    return true;
  }
  if (w->spare || w->state == LET_WORKER_STOPPING) return false;
  bool unused = f->stopping || !let__group_of(f, w->id, NULL);
  if (unused) return stop(w, now, a);
  if (w->state == LET_WORKER_BACKOFF && now >= w->at) return start(f, w, now, a);
  if (w->state == LET_WORKER_HELD && !f->helper_away) return start(f, w, now, a);
  return false;
}
