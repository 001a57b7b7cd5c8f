#include "process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MESSAGES = 64, ENV_MAX = 2048, ENV_MORE = 8 };

static void free_handle(uv_handle_t *h) { free(h); }

static let_worker_id id_of(const process *p) { return (let_worker_id){(uint32_t)(p - p->table->process)}; }

let_err serve_processes_open(process_table *t, let_error *e) {
  t->n = let_fleet_workers(t->fleet);
  t->process = calloc(t->n, sizeof *t->process);
  if (!t->process) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u workers", t->n);
  for (uint32_t i = 0; i < t->n; i++) {
    t->process[i].table = t;
    t->process[i].control.fd = -1;
  }
  return LET_OK;
}

void serve_processes_close(process_table *t) {
  free(t->process);
  t->process = NULL;
  t->n = 0;
}

/* A worker that sends without end must not hold up the others: the poll reports the rest again. The last messages of a
 * killed worker are read at its exit. */
static void on_message(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  process *p = poll->data;
  if (!p->killed) serve_control_hear(&p->control, MESSAGES, p->table->now);
}

static void on_exit_of(uv_process_t *handle, int64_t code, int sig) {
  process *p = handle->data;
  process_table *t = p->table;
  let_worker_id id = id_of(p);
  char how[96];
  if (sig) snprintf(how, sizeof how, "killed by signal %d (%s)", sig, strsignal(sig));
  else snprintf(how, sizeof how, "exited with %lld", (long long)code);
  serve_control_hear(&p->control, INT_MAX, t->now); /* its last messages may still wait in the socket */
  int pid = handle->pid;
  if (p->poll) {
    uv_poll_stop(p->poll);
    uv_close((uv_handle_t *)p->poll, free_handle);
  }
  serve_control_close(&p->control);
  uv_close((uv_handle_t *)handle, free_handle);
  *p = (process){.table = t, .control.fd = -1};
  let_fleet_event ev = {.kind = LET_FLEET_WORKER_EXITED, .worker = id, .pid = pid, .text = how};
  let_fleet_handle(t->fleet, &ev, t->now());
}

static bool same_name(const char *a, const char *b) {
  size_t n = strcspn(a, "=");
  return strncmp(a, b, n) == 0 && b[n] == '=';
}

/* The server's environment; the device's variables replace those of the same name. */
static void fill_environment(const let_serve_device *d, double percent, char **env, int cap) {
  const char *more[ENV_MORE];
  int n = 0, k = d->environment ? d->environment(d->environment_ctx, percent, more, ENV_MORE) : 0;
  for (int i = 0; i < k; i++) env[n++] = (char *)(uintptr_t)more[i];
  for (char **p = environ; *p && n < cap - 1; p++) {
    bool ours = false;
    for (int i = 0; i < k; i++) ours = ours || same_name(more[i], *p);
    if (!ours) env[n++] = *p;
  }
  env[n] = NULL;
}

/* |peer| is the process's end of its control socket. */
static int spawn(process *p, double percent, int peer) {
  process_table *t = p->table;
  char **env = calloc(ENV_MAX, sizeof *env);
  p->process = calloc(1, sizeof *p->process);
  p->poll = calloc(1, sizeof *p->poll);
  int uv = UV_ENOMEM;
  if (env && p->process && p->poll) {
    fill_environment(&t->device[p->device], percent, env, ENV_MAX);
    uv_stdio_container_t io[4] = {{.flags = UV_IGNORE},
                                  {.flags = UV_INHERIT_FD, .data.fd = 2},
                                  {.flags = UV_INHERIT_FD, .data.fd = 2},
                                  {.flags = UV_INHERIT_FD, .data.fd = peer}};
    char verb[] = "worker", fd[] = "--control-fd=3", *args[] = {(char *)(uintptr_t)t->o->program, verb, fd, NULL};
    uv_process_options_t po = {
        .file = t->o->program,
        .args = args,
        .env = env,
        .stdio = io,
        .stdio_count = 4,
        .exit_cb = on_exit_of,
        /* its own session: Ctrl-C in a terminal reaches the server alone, which then drains its workers */
        .flags = UV_PROCESS_DETACHED};
    p->process->data = p;
    uv = uv_spawn(t->loop, p->process, &po);
  }
  free(env);
  if (!uv) return 0;
  if (p->process && p->process->loop) uv_close((uv_handle_t *)p->process, free_handle); /* uv_spawn initialised it */
  else free(p->process);
  free(p->poll);
  p->process = NULL;
  p->poll = NULL;
  return uv;
}

static let_err start(process *p, let_worker_id id, double percent, let_error *e) {
  process_table *t = p->table;
  int peer;
  let_err r = serve_control_open(&p->control, t->fleet, id, t->device[p->device].name, &peer, e);
  if (r) return r;
  int uv = spawn(p, percent, peer);
  close(peer);
  if (uv) {
    serve_control_close(&p->control);
    return let_fail(e, LET_ERR_IO, "cannot start %s: %s", t->o->program, uv_strerror(uv));
  }
  p->alive = true;
  p->poll->data = p;
  uv_poll_init(t->loop, p->poll, p->control.fd);
  uv_poll_start(p->poll, UV_READABLE, on_message);
  return LET_OK;
}

static void send_init(process *p) {
  const process_table *t = p->table;
  int fd = let_ring_arena_fd(t->arena);
  let_ipc_command m = {.type = LET_IPC_INIT, .init = {.device = t->device[p->device].name}};
  m.init.profile_dir = t->o->profile_dir;
  m.init.plugin_dir = t->o->plugin_dir;
  m.init.arena_bytes = let_ring_arena_size(t->arena);
  m.init.records = let_ring_arena_records(t->arena);
  m.init.spin = t->o->spin > 0 && t->o->spin < LET_S ? t->o->spin : 0;
  serve_control_say(&p->control, &m, &fd, 1, t->now());
}

void serve_process_start(process_table *t, let_worker_id w, uint32_t device, double percent) {
  process *p = &t->process[w.n];
  LET_ASSERT(!p->alive);
  *p = (process){.device = device, .table = t, .control.fd = -1};
  let_error e = {0};
  let_fleet_event ev = {.kind = LET_FLEET_WORKER_STARTED, .worker = w};
  if (start(p, w, percent, &e)) {
    ev.kind = LET_FLEET_WORKER_EXITED;
    ev.text = e.text;
    let_fleet_handle(t->fleet, &ev, t->now());
    return;
  }
  let_fleet_handle(t->fleet, &ev, t->now());
  send_init(p);
}

void serve_process_kill(process_table *t, let_worker_id w) {
  process *p = &t->process[w.n];
  if (!p->alive) return;
  p->killed = true;
  uv_process_kill(p->process, SIGKILL);
  uv_poll_stop(p->poll); /* an end-of-file would be reported for ever; the exit is next */
}

control *serve_process_control(process_table *t, let_worker_id w) {
  return w.n < t->n && t->process[w.n].alive ? &t->process[w.n].control : NULL;
}

int serve_process_pid(const process_table *t, let_worker_id w) {
  return w.n < t->n && t->process[w.n].alive ? t->process[w.n].process->pid : 0;
}
