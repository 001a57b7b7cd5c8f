/* fleet.c: the worker processes: started, spoken to, watched, buried. What should happen is apply's decision; this
 * file only does it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "obs/log.h"
#include "ipc/socket.h"
#include "serve_int.h"

static const let_dur patience = 5 * LET_S; /* from STOP to SIGKILL */
enum {
  MESSAGES = 64,
  SILENT = 4,
  SILENT_BUSY = 120
}; /* read at once; how many watchdogs long a worker may be silent */

static void free_handle(uv_handle_t *h) { free(h); }

static void close_control(worker *w) {
  if (w->poll) {
    uv_poll_stop(w->poll);
    uv_close((uv_handle_t *)w->poll, free_handle);
    w->poll = NULL;
  }
  if (w->control >= 0) close(w->control);
  w->control = -1;
}

static uint32_t index_of(const worker *w) { return (uint32_t)(w - w->server->worker); }

/* ---- lanes of a group ------------------------------------------------------------------------------------ */

static void on_done(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  group *g = poll->data;
  serve_group_done_events(g->server, g);
}

static void close_lanes(group *g) {
  if (g->poll) {
    uv_poll_stop(g->poll);
    uv_close((uv_handle_t *)g->poll, free_handle);
    g->poll = NULL;
  }
  let_lanes_free(g->lanes);
  g->lanes = NULL;
  g->armed = false;
}

static let_err open_lanes(server *s, group *g, let_error *e) {
  close_lanes(g);
  let_err r = let_lanes_new(g->n_gpulets, &g->lanes, e);
  if (r) return r;
  g->poll = malloc(sizeof *g->poll);
  if (!g->poll) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  g->poll->data = g;
  int uv = uv_poll_init(&s->loop, g->poll, let_lanes_done_event(g->lanes));
  if (uv) return free(g->poll), g->poll = NULL, let_fail(e, LET_ERR_IO, "cannot watch a lane: %s", uv_strerror(uv));
  uv_poll_start(g->poll, UV_READABLE, on_done);
  let_lanes_arm_done(g->lanes);
  return LET_OK;
}

void serve_group_free(server *s, uint32_t i) {
  group *g = &s->group[i];
  if (!g->used) return;
  close_lanes(g);
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    gpulet *l = &g->gpulet[k];
    if (l->declared) let_core_gpulet_remove(s->core, l->number);
    s->where[l->number].used = false;
    free(l->place);
  }
  free(g->gpulet);
  *g = (group){0};
}

/* ---- what we say to a worker ------------------------------------------------------------------------------ */

void serve_worker_say(server *s, uint32_t i, const let_ipc_command *m, const int *fds, uint32_t n_fds) {
  worker *w = &s->worker[i];
  let_error e = {0};
  let_err r = let_ipc_conversation_send(w->conversation, m, &e);
  if (!r) r = let_ipc_send_command(w->control, m, fds, n_fds, &e);
  if (r) serve_fleet_kill(s, i, e.text); /* AGAIN too: a worker that does not read its few messages hangs */
}

void serve_worker_retire(server *s, uint32_t i, let_lane_set_id set) {
  if (s->worker[i].alive && let_ipc_conversation_has(s->worker[i].conversation, set))
    serve_worker_say(s, i, &(let_ipc_command){.type = LET_IPC_RETIRE, .retire = {set}}, NULL, 0);
}

let_err serve_worker_prepare(server *s, uint32_t i, const let_ipc_command *m, const let_lanes *lanes, let_error *e) {
  int fds[LET_IPC_FDS_MAX];
  uint32_t n = 0;
  let_err r = let_ipc_command_check(m, e);
  if (r) return r;
  fds[n++] = let_lanes_fd(lanes);
  fds[n++] = let_lanes_done_event(lanes);
  for (uint32_t k = 0; k < m->prepare.n_lanes; k++) fds[n++] = let_lanes_submit_event(lanes, k);
  serve_worker_say(s, i, m, fds, n);
  return LET_OK;
}

static void send_prepare(server *s, uint32_t group_index) {
  group *g = &s->group[group_index];
  let_error e = {0};
  let_arena a;
  let_ipc_command m;
  let_arena_init(&a, &let_mem_libc);
  let_err r = open_lanes(s, g, &e);
  if (!r) r = serve_prepare_message(s, group_index, &a, &m, &e);
  if (!r) {
    g->set.n = ++s->newest_set.n;
    m.prepare.set = g->set;
    r = serve_worker_prepare(s, let_apply_group_worker(s->apply, group_index), &m, g->lanes, &e);
  }
  let_arena_fini(&a);
  if (r) let_apply_group_failed(s->apply, group_index, e.text, serve_now());
}

static void send_init(server *s, uint32_t i) {
  int fd = let_ring_arena_fd(s->arena);
  let_ipc_command m = {.type = LET_IPC_INIT, .init = {.device = s->device[s->worker[i].device].name}};
  m.init.profile_dir = s->o->profile_dir;
  m.init.plugin_dir = s->o->plugin_dir;
  m.init.arena_bytes = let_ring_arena_size(s->arena);
  m.init.records = let_ring_arena_records(s->arena);
  m.init.spin = s->o->spin > 0 && s->o->spin < LET_S ? s->o->spin : 0;
  serve_worker_say(s, i, &m, &fd, 1);
}

/* ---- what a worker says ----------------------------------------------------------------------------------- */

static uint32_t group_named(const server *s, uint32_t w, let_lane_set_id set) {
  for (uint32_t g = let_apply_group_of(s->apply, w, LET_APPLY_NONE); g != LET_APPLY_NONE;
       g = let_apply_group_of(s->apply, w, g))
    if (s->group[g].used && let_lane_set_id_eq(s->group[g].set, set)) return g;
  return LET_APPLY_NONE;
}

static void failed(server *s, uint32_t g, const let_ipc_failed *m) {
  char why[300];
  snprintf(why, sizeof why, "%s%s%s%s", m->model[0] ? "model '" : "", m->model, m->model[0] ? "': " : "", m->text);
  let_log(LET_LOG_ERROR, "serve", "worker %u cannot prepare its gpu-lets: %s", let_apply_group_worker(s->apply, g),
          why);
  serve_group_lost(
      s, &s->group[g]); /* of a replaced worker some gpu-lets may have served already; the worker has let go of all */
  let_apply_group_failed(s->apply, g, why, serve_now());
}

static let_lane_set_id set_of(const let_ipc_event *m) {
  switch (m->type) {
  case LET_IPC_LANE_UP: return m->lane_up.set;
  case LET_IPC_PREPARED: return m->prepared.set;
  case LET_IPC_SIZE: return m->size.set;
  case LET_IPC_FAILED: return m->failed.set;
  case LET_IPC_RETIRED: return m->retired.set;
  case LET_IPC_READY:
  case LET_IPC_PROGRESS:
  case LET_IPC_HEALTH:
  case LET_IPC_ERROR:
  case LET_IPC_EVENTS_END: break;
  }
  return (let_lane_set_id){0};
}

/* What is about a group: what a spare prepares, or what was taken back meanwhile, is about none. */
static void heard_of_group(server *s, uint32_t i, uint32_t g, const let_ipc_event *m) {
  if (m->type == LET_IPC_LANE_UP) serve_lane_ready(s, g, &m->lane_up);
  else if (m->type == LET_IPC_SIZE) serve_size_ready(s, g, &m->size);
  else if (m->type == LET_IPC_FAILED) failed(s, g, &m->failed);
  else if (m->type == LET_IPC_RETIRED) let_apply_group_retired(s->apply, g);
  else if (m->type == LET_IPC_PREPARED) {
    let_apply_group_prepared(s->apply, g, serve_now());
    serve_spare_settled(s, i);
  }
}

/* Takes |a|, in which |m| lies. */
static void keep_health(worker *w, let_arena *a, const let_ipc_event *m) {
  let_arena_fini(&w->health_arena);
  w->health_arena = *a;
  w->health = m->health;
  w->has_health = true;
  *a = (let_arena){.mem = a->mem};
}

static void heard(server *s, uint32_t i, let_arena *a, const let_ipc_event *m) {
  worker *w = &s->worker[i];
  let_error e = {0};
  if (let_ipc_conversation_hear(w->conversation, m, &e)) {
    let_log(LET_LOG_ERROR, "serve", "worker %u for %s is killed: %s", i, s->device[w->device].name, e.text);
    serve_fleet_kill(s, i, e.text);
    w->distrusted = true;
    return;
  }
  uint32_t g = group_named(s, i, set_of(m));
  if (i >= SERVE_GROUPS) serve_spare_heard(s, i, m);
  if (g != LET_APPLY_NONE) heard_of_group(s, i, g, m);
  if (m->type == LET_IPC_READY) {
    w->ready = true;
    let_apply_worker_ready(s->apply, i, serve_now());
  } else if (m->type == LET_IPC_PROGRESS) {
    let_log(LET_LOG_DEBUG, "serve", "worker %u prepares %s", i, m->progress.model);
  } else if (m->type == LET_IPC_HEALTH) {
    keep_health(w, a, m);
  } else if (m->type == LET_IPC_ERROR) {
    snprintf(w->why, sizeof w->why, "%s", m->error.text);
    let_log(LET_LOG_WARN, "serve", "worker %u: %s", i, w->why);
  }
}

/* Reads one message and acts on it. */
static let_err hear_one(server *s, uint32_t i, let_error *e) {
  let_arena a;
  let_ipc_event m;
  let_arena_init(&a, &let_mem_libc);
  let_err r = let_ipc_recv_event(s->worker[i].control, &a, &m, e);
  if (!r) {
    s->worker[i].heard = serve_now();
    heard(s, i, &a, &m);
  }
  let_arena_fini(&a);
  return r;
}

void serve_worker_control(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  worker *w = poll->data;
  server *s = w->server;
  /* A worker that talks without end must not keep the others waiting: the poll reports again what is left. */
  for (int turn = 0; turn < MESSAGES; turn++) {
    let_error e = {0};
    if (w->control < 0) return;
    if (w->killed) break; /* its last words are read when it is gone */
    let_err r = hear_one(s, index_of(w), &e);
    if (r == LET_ERR_AGAIN) break;
    if (r) { /* gone, or talks nonsense: either way its process has to go */
      serve_fleet_kill(s, index_of(w), r == LET_ERR_IO ? NULL : e.text);
      w->distrusted = r != LET_ERR_IO;
      break;
    }
  }
  serve_fleet_step(s);
}

/* ---- processes -------------------------------------------------------------------------------------------- */

static void on_exit_of(uv_process_t *p, int64_t code, int sig) {
  worker *w = p->data;
  server *s = w->server;
  uint32_t i = index_of(w);
  char how[96], why[512];
  if (sig) snprintf(how, sizeof how, "killed by signal %d (%s)", sig, strsignal(sig));
  else snprintf(how, sizeof how, "exited with %lld", (long long)code);
  snprintf(why, sizeof why, "worker for %s %s%s%s", s->device[w->device].name, how, w->why[0] ? ": " : "", w->why);
  bool expected = w->stop_by != 0;
  let_log(expected ? LET_LOG_DEBUG : LET_LOG_ERROR, "serve", "worker %u (pid %d): %s", i, p->pid, why);
  if (!expected && i < SERVE_GROUPS) s->worker_restarts++;
  let_error e = {0};
  while (w->control >= 0 && !w->distrusted && hear_one(s, i, &e) == LET_OK) {} /* its last messages may still wait */
  close_control(w);
  let_ipc_conversation_free(w->conversation);
  w->conversation = NULL;
  uv_close((uv_handle_t *)p, free_handle);
  w->process = NULL;
  w->alive = w->ready = false;
  w->stop_by = 0;
  let_arena_fini(&w->health_arena);
  w->has_health = false;
  for (uint32_t g = let_apply_group_of(s->apply, i, LET_APPLY_NONE); g != LET_APPLY_NONE;
       g = let_apply_group_of(s->apply, i, g)) {
    serve_group_lost(s, &s->group[g]);
    close_lanes(&s->group[g]);
  }
  if (i < SERVE_GROUPS) let_apply_worker_lost(s->apply, i, why, serve_now());
  else serve_spare_lost(s, i, serve_now());
  w->why[0] = 0;
  serve_fleet_step(s);
  serve_pump(s);
}

static bool same_name(const char *a, const char *b) {
  size_t n = strcspn(a, "=");
  return strncmp(a, b, n) == 0 && b[n] == '=';
}

/* Ours, with what the device asks for in place of what we have of the same name. */
static int fill_environment(const server *s, const worker *w, char **env, int cap) {
  int n = 0, k = 0;
  const char *more[SERVE_ENV_MAX];
  const let_serve_device *d = &s->device[w->device];
  if (d->environment) {
    double percent = 100;
    uint32_t g = let_apply_group_of(s->apply, index_of(w), LET_APPLY_NONE);
    if (g != LET_APPLY_NONE && !s->group[g].gpulet[0].shared && d->type.sms)
      percent = 100.0 * let_share_sms(&d->type, s->group[g].gpulet[0].granules) / d->type.sms;
    k = d->environment(d->environment_ctx, percent, more, SERVE_ENV_MAX);
    for (int i = 0; i < k; i++) env[n++] = (char *)(uintptr_t)more[i];
  }
  for (char **p = environ; *p && n < cap - 1; p++) {
    bool ours = false;
    for (int i = 0; i < k; i++) ours = ours || same_name(more[i], *p);
    if (!ours) env[n++] = *p;
  }
  env[n] = NULL;
  return n;
}

static let_err spawn(server *s, uint32_t i, let_error *e) {
  worker *w = &s->worker[i];
  int fds[2];
  let_err r = let_ipc_pair(fds, e);
  if (r) return r;
  enum { ENV = 2048 };
  char **env = calloc(ENV, sizeof *env);
  w->process = calloc(1, sizeof *w->process);
  w->poll = calloc(1, sizeof *w->poll);
  w->conversation = let_ipc_conversation_new(&let_mem_libc);
  int uv = UV_ENOMEM;
  if (env && w->process && w->poll && w->conversation) {
    fill_environment(s, w, env, ENV);
    uv_stdio_container_t io[4] = {{.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = 2},
                                  {.flags = UV_INHERIT_FD, .data.fd = 2},
                                  {.flags = UV_INHERIT_FD, .data.fd = fds[1]}};
    char verb[] = "worker", control[] = "--control-fd=3",
         *args[] = {(char *)(uintptr_t)s->o->program, verb, control, NULL};
    uv_process_options_t po = {
        .file = s->o->program,
        .args = args,
        .env = env,
        .stdio = io,
        .stdio_count = 4,
        .exit_cb = on_exit_of,
        /* its own session: Ctrl-C in a terminal reaches the server alone, which then drains its workers */
        .flags = UV_PROCESS_DETACHED};
    w->process->data = w;
    uv = uv_spawn(&s->loop, w->process, &po);
  }
  free(env);
  close(fds[1]);
  if (uv) {
    close(fds[0]);
    let_ipc_conversation_free(w->conversation);
    w->conversation = NULL;
    if (w->process && w->process->loop) uv_close((uv_handle_t *)w->process, free_handle); /* uv_spawn initialised it */
    else free(w->process);
    free(w->poll);
    w->process = NULL, w->poll = NULL;
    return let_fail(e, LET_ERR_IO, "cannot start %s: %s", s->o->program, uv_strerror(uv));
  }
  w->control = fds[0];
  w->alive = true;
  w->heard = serve_now();
  w->starts++;
  w->poll->data = w;
  uv_poll_init(&s->loop, w->poll, w->control);
  uv_poll_start(w->poll, UV_READABLE, serve_worker_control);
  return LET_OK;
}

let_err serve_worker_start(server *s, uint32_t i, let_error *e) {
  let_err r = spawn(s, i, e);
  if (!r) send_init(s, i);
  return r;
}

static void start(server *s, uint32_t i) {
  worker *w = &s->worker[i];
  uint32_t g = let_apply_group_of(s->apply, i, LET_APPLY_NONE);
  if (g == LET_APPLY_NONE) { /* nobody needs it any more */
    let_apply_worker_lost(s->apply, i, "not needed", serve_now());
    return;
  }
  *w = (worker){.server = s, .device = s->group[g].device, .control = -1, .starts = w->starts};
  if (s->device[w->device].environment && serve_helper_away(s)) {
    w->waits = true;
    return;
  }
  let_error e = {0};
  if (serve_spare_take(s, i, g)) {
    let_apply_worker_ready(s->apply, i, serve_now());
  } else if (serve_worker_start(s, i, &e)) {
    let_log(LET_LOG_ERROR, "serve", "%s", e.text);
    let_apply_worker_lost(s->apply, i, e.text, serve_now());
  }
}

void serve_fleet_start_waiting(server *s) {
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    if (s->worker[i].waits) s->worker[i].waits = false, start(s, i);
}

/* The worker is not to be trusted any more, or seems dead: make sure that it is. Its slots are reused only after its
 * exit has been seen, so that nothing writes into them behind the server's back. */
void serve_fleet_kill(server *s, uint32_t i, const char *why) {
  if (i >= SERVE_WORKERS || !s->worker[i].alive) return;
  worker *w = &s->worker[i];
  if (why && !w->why[0]) snprintf(w->why, sizeof w->why, "%s", why);
  w->killed = true;
  uv_process_kill(w->process, SIGKILL);
  if (w->poll) uv_poll_stop(w->poll); /* an end-of-file would be reported for ever; the exit is next */
  serve_worker_doomed(s, i);
}

static void stop(server *s, uint32_t i) {
  worker *w = &s->worker[i];
  if (!w->alive) {
    w->waits = false;
    let_apply_worker_lost(s->apply, i, "stopped", serve_now());
    return;
  }
  w->stop_by = serve_now() + patience;
  serve_worker_say(s, i, &(let_ipc_command){.type = LET_IPC_STOP}, NULL, 0);
}

void serve_fleet_tick(server *s, let_time now) {
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    if (s->worker[i].alive && s->worker[i].stop_by && now >= s->worker[i].stop_by) {
      s->worker[i].stop_by = now + patience;
      serve_fleet_kill(s, i, "did not stop when asked");
    }
  for (uint32_t i = 0; i < SERVE_GROUPS; i++) {
    if (!s->group[i].used || !let_apply_group_draining(s->apply, i)) continue;
    bool idle = true;
    for (uint32_t k = 0; k < s->group[i].n_gpulets; k++)
      idle = idle && let_core_gpulet_idle(s->core, s->group[i].gpulet[k].number);
    if (idle) let_apply_group_drained(s->apply, i);
  }
}

/* One that grows may be in a long call of its engine, but not for longer than it might prepare. */
static let_time silent_until(const server *s, uint32_t i) {
  let_dur busy = s->watchdog * SILENT_BUSY, idle = s->watchdog * SILENT, grows = s->o->prepare_timeout;
  bool waits = i >= SERVE_GROUPS; /* a spare */
  if (waits ? !s->spare[i - SERVE_GROUPS].warm : let_apply_worker_busy(s->apply, i)) idle = busy;
  else if (waits || serve_worker_grows(s, i)) idle = grows <= 0 || grows > busy ? busy : grows > idle ? grows : idle;
  return s->worker[i].heard + idle;
}

/* A worker says how it is every second; one that is stopped, or stuck where its own watchdog does not look, cannot. */
void serve_fleet_watch(server *s, let_time now) {
  bool asleep = now - s->watched >
                s->watchdog * SILENT / 2; /* we were stopped ourselves, or starved: no evidence against anybody */
  s->watched = now;
  for (uint32_t i = 0; i < SERVE_WORKERS; i++) {
    worker *w = &s->worker[i];
    if (!w->alive || w->killed || w->stop_by) continue;
    if (asleep) w->heard = now;
    if (now < silent_until(s, i)) continue;
    char why[96];
    snprintf(why, sizeof why, "was silent for %.1f s", (double)(now - w->heard) / 1e9);
    serve_fleet_kill(s, i, why);
  }
}

let_time serve_fleet_wake(const server *s) {
  let_time at = serve_spare_wake(s);
  for (uint32_t i = 0; i < SERVE_WORKERS; i++) {
    const worker *w = &s->worker[i];
    if (!w->alive) continue;
    if (w->stop_by && w->stop_by < at) at = w->stop_by;
    if (!w->stop_by && !w->killed && silent_until(s, i) < at) at = silent_until(s, i);
  }
  return at;
}

/* It has not answered in time. */
static void give_up(server *s, uint32_t i, const char *why) {
  let_log(LET_LOG_ERROR, "serve", "worker %u for %s: %s (--prepare-timeout)", i, s->device[s->worker[i].device].name,
          why);
  if (s->worker[i].alive) {
    serve_fleet_kill(s, i, why);
  } else { /* it waited for the helper */
    s->worker[i].waits = false;
    let_apply_worker_lost(s->apply, i, why, serve_now());
  }
}

static void retire(server *s, uint32_t i) {
  serve_worker_retire(s, let_apply_group_worker(s->apply, i), s->group[i].set);
}

void serve_fleet_step(server *s) {
  let_time now = serve_now();
  let_apply_action a;
  serve_fleet_tick(s, now);
  while (let_apply_step(s->apply, now, &a)) switch (a.kind) {
    case LET_APPLY_START: start(s, a.worker); break;
    case LET_APPLY_PREPARE: send_prepare(s, a.group); break;
    case LET_APPLY_SWITCH: serve_plan_switch(s); break;
    case LET_APPLY_KILL: give_up(s, a.worker, a.text); break;
    case LET_APPLY_UP: serve_group_up(s, a.group); break;
    case LET_APPLY_RETIRE: retire(s, a.group); break;
    case LET_APPLY_STOP: stop(s, a.worker); break;
    case LET_APPLY_FREE: serve_group_free(s, a.group); break;
    case LET_APPLY_APPLIED: serve_plan_ended(s, true, ""); break;
    case LET_APPLY_FAILED: serve_plan_ended(s, false, a.text); break;
    }
  serve_spare_step(s, now);
}
