/* watch.c: deadlines: workers that take too long to start, prepare, retire or stop, and workers that are silent. */
#include "fleet_int.h"

#include <stdio.h>

enum { SILENT = 4, SILENT_BUSY = 120 }; /* how many watchdogs long a worker may be silent */

/* The deadline of a worker's answer, and the request that it answers; LET_NEVER: it owes none. */
static let_time due(const let_fleet *f, const let__worker *w, const char **ret_what) {
  let_time since = LET_NEVER;
  if (f->o.prepare_timeout <= 0 || w->spare) return LET_NEVER;
  if (w->state == LET_WORKER_STARTING || w->state == LET_WORKER_HELD) {
    since = w->at;
    *ret_what = "start";
  }
  if (w->state == LET_WORKER_READY)
    for (const let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g)) {
      bool preparing = g->state == LET_GROUP_PREPARING;
      if ((preparing || g->state == LET_GROUP_RETIRING) && g->asked < since) {
        since = g->asked;
        *ret_what = preparing ? "prepare its gpu-lets" : "give its gpu-lets back";
      }
    }
  return since == LET_NEVER ? LET_NEVER : since + f->o.prepare_timeout;
}

static void give_up(let_fleet *f, let__worker *w, const char *what, let_time now) {
  snprintf(f->late, sizeof f->late, "the worker did not %s within %.3g s", what, (double)f->o.prepare_timeout / 1e9);
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_LATE);
  r->worker = w->id;
  r->device = w->device;
  snprintf(r->text, sizeof r->text, "%s", f->late);
  bool waited_for = false;
  for (const let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g))
    waited_for |= (g->state == LET_GROUP_WAITING || g->state == LET_GROUP_PREPARING) && !g->routed;
  if (f->change.state == LET_CHANGE_BUILDING && waited_for) let__roll_back(f, f->late);
  if (w->alive) let__worker_kill(f, w, f->late, now);
  else let__worker_lost(f, w, f->late, now); /* it waited for the helper */
}

bool let__late_step(let_fleet *f, let__worker *w, let_time now) {
  const char *what = "";
  if (w->state == LET_WORKER_STOPPING && now >= w->at) {
    let__worker_kill(f, w, "did not stop when asked", now);
    return true;
  }
  if (due(f, w, &what) > now) return false;
  give_up(f, w, what, now);
  return true;
}

static bool busy(const let_fleet *f, const let__worker *w) {
  if (w->state != LET_WORKER_READY) return true;
  for (const let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g))
    if (g->state == LET_GROUP_RETIRING || g->state == LET_GROUP_PREPARING) return true;
  return false;
}

static bool warming(const let_fleet *f, const let__worker *w) {
  for (const let__group *g = let__group_of(f, w->id, NULL); g; g = let__group_of(f, w->id, g))
    if (g->warming) return true;
  return false;
}

/* A warming worker may be in a long call of its engine, at most for the time that it may prepare. */
static let_time silent_until(const let_fleet *f, const let__worker *w) {
  let_dur idle = f->o.watchdog * SILENT, long_call = f->o.watchdog * SILENT_BUSY, most = f->o.prepare_timeout;
  if (w->spare ? f->spare[w->device].state != LET_SPARE_WARM : busy(f, w)) idle = long_call;
  else if (w->spare || warming(f, w)) idle = most <= 0 || most > long_call ? long_call : most > idle ? most : idle;
  return w->heard + idle;
}

static bool watched(const let__worker *w) {
  return w->alive && w->state != LET_WORKER_KILLED && w->state != LET_WORKER_STOPPING;
}

/* A worker sends its health every second, unless it is stopped, or stuck where its own watchdog does not look. */
void let__watch(let_fleet *f, let_time now) {
  /* The server itself was stopped or starved: the silence proves nothing. */
  bool asleep = now - f->watched > f->o.watchdog * SILENT / 2;
  f->watched = now;
  if (!asleep && f->settled && now < f->silence_at && now < f->look_at) return;
  f->look_at = now + f->o.watchdog; /* more often than what counts as asleep */
  for (uint32_t i = 0; i < f->n_workers; i++) {
    let__worker *w = &f->worker[i];
    if (!watched(w)) continue;
    if (asleep) w->heard = now;
    if (now < silent_until(f, w)) continue;
    char why[96];
    snprintf(why, sizeof why, "was silent for %.1f s", (double)(now - w->heard) / 1e9);
    let__worker_kill(f, w, why, now);
    f->settled = false;
  }
  if (f->settled) let__settle(f); /* workers that sent something meanwhile have longer */
}

void let__settle(let_fleet *f) {
  let_time at = let__spare_wake(f), silence = LET_NEVER;
  const char *what;
  for (uint32_t i = 0; i < f->n_workers; i++) {
    const let__worker *w = &f->worker[i];
    if (w->state == LET_WORKER_NONE) continue;
    let_time end = due(f, w, &what);
    if (end < at) at = end;
    if ((w->state == LET_WORKER_BACKOFF || w->state == LET_WORKER_STOPPING) && w->at < at) at = w->at;
    if (watched(w) && silent_until(f, w) < silence) silence = silent_until(f, w);
  }
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *g = &f->group[i];
    const let__worker *w = let__worker_at(f, g->worker);
    if (g->state == LET_GROUP_WAITING && w && w->state == LET_WORKER_READY && w->at < at && !f->stopping) at = w->at;
  }
  f->settled = true;
  f->wake = at;
  f->silence_at = silence;
}

let_time let_fleet_wake(const let_fleet *f) {
  if (!f->settled) return 0; /* let_fleet_next has something to say */
  let_time look = f->silence_at < f->look_at || f->silence_at == LET_NEVER ? f->silence_at : f->look_at;
  return f->wake < look ? f->wake : look;
}
