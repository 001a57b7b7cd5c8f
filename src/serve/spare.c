/* spare.c: --spare: for every device whose gpu-lets share a worker, one more worker that has prepared the same gpu-lets
 * on lanes that nobody uses. When the first is lost, the spare takes its place: its weights are loaded, its kernels
 * compiled and its graphs checked, so that all that is left is to make the graphs once more on the real lanes. It is
 * no business of apply's: to apply, a worker was lost and its successor started very quickly. */
#include "obs/log.h"
#include "serve_int.h"

static const let_dur retry_first = LET_S, retry_last = 60 * LET_S;

static worker *slot(server *s, uint32_t device) { return &s->worker[SERVE_GROUPS + device]; }
static bool wants_one(const server *s, uint32_t d) {
  return s->o->spare && d < SERVE_SPARES && !s->device[d].worker_per_gpulet;
}

/* What serves on device |d|; LET_APPLY_NONE: nothing does at present. */
static uint32_t serving_on(const server *s, uint32_t d) {
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    if (s->group[i].used && s->group[i].device == d && let_apply_group_serving(s->apply, i)) return i;
  return LET_APPLY_NONE;
}

static bool same(const spare *x, const server *s, uint32_t g) {
  return x->group == g && x->generation == s->group[g].generation;
}

bool serve_spare_prepared(const server *s, uint32_t d) {
  uint32_t g = serving_on(s, d);
  return s->spare[d].warm && g != LET_APPLY_NONE && same(&s->spare[d], s, g);
}

static void forget_lanes(spare *x) {
  let_lanes_free(x->lanes), let_lanes_free(x->old_lanes);
  x->lanes = x->old_lanes = NULL;
}

/* Asks it to prepare what |g| has. */
static void ask(server *s, uint32_t d, uint32_t g) {
  spare *x = &s->spare[d];
  let_error e = {0};
  let_arena a;
  let_lanes *lanes;
  let_ipc_command m;
  x->group = g, x->generation = s->group[g].generation, x->warm = false;
  let_err r = let_lanes_new(s->group[g].n_gpulets, &lanes, &e);
  if (r) {
    let_log(LET_LOG_WARN, "serve", "no spare worker for %s: %s", s->device[d].name, e.text);
    return;
  }
  serve_worker_retire(s, SERVE_GROUPS + d, x->old); /* the one before was not even ready */
  let_lanes_free(x->old_lanes);
  x->old_lanes = x->lanes, x->lanes = lanes;
  x->old = x->set, x->set.n = ++s->newest_set.n;
  let_arena_init(&a, &let_mem_libc);
  r = serve_prepare_message(s, g, &a, &m, &e);
  m.prepare.set = x->set;
  m.prepare.beside = true;
  if (!r) r = serve_worker_prepare(s, SERVE_GROUPS + d, &m, lanes, &e);
  if (r)
    let_log(LET_LOG_WARN, "serve", "the spare worker for %s cannot prepare the plan: %s", s->device[d].name, e.text);
  let_arena_fini(&a);
}

void serve_spare_heard(server *s, uint32_t w, const let_ipc_event *m) {
  uint32_t d = w - SERVE_GROUPS;
  spare *x = &s->spare[d];
  if (m->type == LET_IPC_PREPARED && let_lane_set_id_eq(m->prepared.set, x->set)) {
    x->warm = true, x->failures = 0;
    serve_worker_retire(s, w, x->old);
    x->old.n = 0;
    let_lanes_free(x->old_lanes);
    x->old_lanes = NULL;
    let_log(LET_LOG_INFO, "serve", "the spare worker for %s (pid %d) is prepared", s->device[d].name,
            s->worker[w].process ? s->worker[w].process->pid : 0);
  } else if (m->type == LET_IPC_FAILED && let_lane_set_id_eq(m->failed.set, x->set)) {
    x->set.n = 0; /* until another plan serves, it is none */
    let_log(LET_LOG_WARN, "serve", "the spare worker for %s cannot prepare the plan: %s", s->device[d].name,
            m->failed.text);
  }
}

void serve_spare_lost(server *s, uint32_t w, let_time now) {
  spare *x = &s->spare[w - SERVE_GROUPS];
  let_dur wait = retry_first << (x->failures < 6 ? x->failures : 6);
  forget_lanes(x);
  *x = (spare){
      .group = LET_APPLY_NONE, .failures = x->failures + 1, .retry_at = now + (wait < retry_last ? wait : retry_last)};
}

bool serve_spare_take(server *s, uint32_t i, uint32_t g) {
  uint32_t d = s->group[g].device;
  if (!wants_one(s, d)) return false;
  worker *from = slot(s, d), *to = &s->worker[i];
  spare *x = &s->spare[d];
  if (!from->alive || from->killed || !x->warm || !same(x, s, g)) return false;
  if (serve_now() - from->heard > s->watchdog) return false; /* says nothing, every second: a new one is sooner ready */
  uint64_t starts = to->starts;
  *to = *from;
  to->starts = starts + 1, to->leftover = x->set;
  to->process->data = to->poll->data = to;
  *from = (worker){.server = s, .device = d, .control = -1};
  forget_lanes(x);
  *x = (spare){.group = LET_APPLY_NONE};
  let_log(LET_LOG_INFO, "serve", "the spare worker (pid %d) takes over %s", to->process->pid, s->device[d].name);
  return true;
}

void serve_spare_settled(server *s, uint32_t i) {
  serve_worker_retire(s, i, s->worker[i].leftover);
  s->worker[i].leftover.n = 0;
}

/* Not while anything else is going on: whoever serves goes first. */
void serve_spare_step(server *s, let_time now) {
  if (!s->o->spare || !s->serving || s->draining || s->stopping || let_apply_busy(s->apply)) return;
  for (uint32_t d = 0; d < s->n_devices; d++) {
    uint32_t g = wants_one(s, d) ? serving_on(s, d) : LET_APPLY_NONE;
    spare *x = &s->spare[d];
    worker *w = slot(s, d);
    if (g == LET_APPLY_NONE || s->group[g].grows) continue;
    if (!w->alive && now >= x->retry_at) {
      let_error e = {0};
      *w = (worker){.server = s, .device = d, .control = -1, .starts = w->starts};
      if (serve_worker_start(s, SERVE_GROUPS + d, &e)) {
        let_log(LET_LOG_WARN, "serve", "no spare worker for %s: %s", s->device[d].name, e.text);
        serve_spare_lost(s, SERVE_GROUPS + d, now);
      }
    } else if (w->alive && w->ready && !same(x, s, g)) {
      ask(s, d, g);
    }
  }
}

let_time serve_spare_wake(const server *s) {
  let_time at = LET_NEVER;
  for (uint32_t d = 0; d < s->n_devices && s->serving && !s->draining; d++)
    if (wants_one(s, d) && !s->worker[SERVE_GROUPS + d].alive && s->spare[d].retry_at && s->spare[d].retry_at < at)
      at = s->spare[d].retry_at;
  return at;
}

void serve_spare_close(server *s) {
  for (uint32_t d = 0; d < SERVE_SPARES; d++) {
    forget_lanes(&s->spare[d]);
    if (!slot(s, d)->alive) continue;
    slot(s, d)->stop_by = serve_now(); /* expected */
    serve_fleet_kill(s, SERVE_GROUPS + d, NULL);
  }
}
