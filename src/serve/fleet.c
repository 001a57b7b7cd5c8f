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

void serve_worker_say(server *s, uint32_t i, json_t *doc, const int *fds, int n_fds) {
  let_error e = {0};
  let_err r =
      doc ? let_control_send(s->worker[i].control, doc, fds, n_fds, &e) : let_fail(&e, LET_ERR_NOMEM, "out of memory");
  json_decref(doc);
  if (r) serve_fleet_kill(s, i, e.text); /* AGAIN too: a worker that does not read its few messages hangs */
}

static void send_prepare(server *s, uint32_t group_index) {
  group *g = &s->group[group_index];
  uint32_t w = let_apply_group_worker(s->apply, group_index);
  let_error e = {0};
  if (open_lanes(s, g, &e)) {
    let_apply_group_failed(s->apply, group_index, e.text, serve_now());
    return;
  }
  int fds[LET_CONTROL_FDS_MAX], n = 0;
  fds[n++] = let_lanes_fd(g->lanes);
  fds[n++] = let_lanes_done_event(g->lanes);
  for (uint32_t i = 0; i < g->n_gpulets && n < LET_CONTROL_FDS_MAX; i++) fds[n++] = let_lanes_submit_event(g->lanes, i);
  serve_worker_say(s, w, serve_prepare_document(s, group_index), fds, n);
}

static void send_init(server *s, uint32_t i) {
  worker *w = &s->worker[i];
  int fd = let_ring_arena_fd(s->arena);
  serve_worker_say(s, i,
                   json_pack("{s:s, s:s, s:I, s:I, s:s, s:s, s:I}", "op", "init", "device", s->device[w->device].name,
                             "arena_bytes", (json_int_t)let_ring_arena_size(s->arena), "records",
                             (json_int_t)let_ring_arena_records(s->arena), "profile",
                             s->o->profile_dir ? s->o->profile_dir : "", "plugin_dir",
                             s->o->plugin_dir ? s->o->plugin_dir : "", "spin_us", (json_int_t)(s->o->spin / LET_US)),
                   &fd, 1);
}

/* ---- what a worker says ----------------------------------------------------------------------------------- */

static const char *text_of(json_t *doc, const char *key) {
  const char *t = json_string_value(json_object_get(doc, key));
  return t ? t : "";
}

static uint32_t group_named(server *s, uint32_t w, json_t *doc) {
  json_int_t n = json_integer_value(json_object_get(doc, "generation"));
  if (n < 1 || n > SERVE_GROUPS) return LET_APPLY_NONE;
  uint32_t g = (uint32_t)n - 1;
  return s->group[g].used && let_apply_group_worker(s->apply, g) == w ? g : LET_APPLY_NONE;
}

static void failed(server *s, uint32_t g, json_t *doc) {
  char why[300];
  const char *model = text_of(doc, "model");
  snprintf(why, sizeof why, "%s%s%s%s", model[0] ? "model '" : "", model, model[0] ? "': " : "", text_of(doc, "text"));
  let_log(LET_LOG_ERROR, "serve", "worker %u cannot prepare its gpu-lets: %s", let_apply_group_worker(s->apply, g),
          why);
  serve_group_lost(
      s, &s->group[g]); /* of a replaced worker some gpu-lets may have served already; the worker has let go of all */
  let_apply_group_failed(s->apply, g, why, serve_now());
}

static void heard(server *s, uint32_t i, json_t *doc) {
  worker *w = &s->worker[i];
  const char *event = text_of(doc, "event");
  let_time now = serve_now();
  uint32_t g = group_named(s, i, doc);
  if (i >= SERVE_GROUPS) serve_spare_heard(s, i, event, doc);
  if (strcmp(event, "ready") == 0) {
    w->ready = true;
    let_apply_worker_ready(s->apply, i, now);
  } else if (strcmp(event, "lane") == 0 && g != LET_APPLY_NONE) {
    serve_lanes_ready(s, g, doc);
  } else if (strcmp(event, "size") == 0 && g != LET_APPLY_NONE) {
    serve_size_ready(s, g, doc);
  } else if (strcmp(event, "prepared") == 0 && g != LET_APPLY_NONE) {
    serve_lanes_ready(s, g, doc);
    let_apply_group_prepared(s->apply, g, now);
    serve_spare_settled(s, i);
  } else if (strcmp(event, "failed") == 0 && g != LET_APPLY_NONE) {
    failed(s, g, doc);
  } else if (strcmp(event, "retired") == 0 && g != LET_APPLY_NONE) {
    let_apply_group_retired(s->apply, g);
  } else if (strcmp(event, "progress") == 0) {
    let_log(LET_LOG_DEBUG, "serve", "worker %u prepares %s", i, text_of(doc, "text"));
  } else if (strcmp(event, "health") == 0) {
    json_decref(w->health);
    w->health = json_incref(doc);
  } else if (strcmp(event, "error") == 0) {
    snprintf(w->why, sizeof w->why, "%s", text_of(doc, "text"));
    let_log(LET_LOG_WARN, "serve", "worker %u: %s", i, w->why);
  }
}

void serve_worker_control(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  worker *w = poll->data;
  server *s = w->server;
  /* A worker that talks without end must not keep the others waiting: the poll reports again what is left. */
  for (int turn = 0; turn < MESSAGES; turn++) {
    json_t *doc;
    int fds[LET_CONTROL_FDS_MAX], n = 0;
    let_error e = {0};
    if (w->control < 0) return;
    if (w->killed) break; /* its last words are read when it is gone */
    let_err r = let_control_recv(w->control, &doc, fds, &n, &e);
    if (r == LET_ERR_AGAIN) break;
    if (r) { /* gone, or talks nonsense: either way its process has to go */
      serve_fleet_kill(s, index_of(w), r == LET_ERR_IO ? NULL : e.text);
      break;
    }
    for (int k = 0; k < n; k++) close(fds[k]);
    w->heard = serve_now();
    heard(s, index_of(w), doc);
    json_decref(doc);
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
  if (w->control >= 0) { /* its last messages may still wait in the socket */
    json_t *doc;
    int fds[LET_CONTROL_FDS_MAX], n = 0;
    let_error e = {0};
    while (let_control_recv(w->control, &doc, fds, &n, &e) == LET_OK) {
      for (int k = 0; k < n; k++) close(fds[k]);
      heard(s, i, doc);
      json_decref(doc);
    }
  }
  close_control(w);
  uv_close((uv_handle_t *)p, free_handle);
  w->process = NULL;
  w->alive = w->ready = false;
  w->stop_by = 0;
  json_decref(w->health);
  w->health = NULL;
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
  let_err r = let_control_pair(fds, e);
  if (r) return r;
  enum { ENV = 2048 };
  char **env = calloc(ENV, sizeof *env);
  w->process = calloc(1, sizeof *w->process);
  w->poll = calloc(1, sizeof *w->poll);
  int uv = UV_ENOMEM;
  if (env && w->process && w->poll) {
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
  serve_worker_say(s, i, json_pack("{s:s}", "op", "stop"), NULL, 0);
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
  uint32_t w = let_apply_group_worker(s->apply, i);
  if (s->worker[w].alive)
    serve_worker_say(s, w, json_pack("{s:s, s:I}", "op", "retire", "generation", (json_int_t)(i + 1)), NULL, 0);
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
