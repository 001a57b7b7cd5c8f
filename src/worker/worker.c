/* worker.c: the control thread: the conversation of ipc/conversation.h. */
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "ipc/socket.h"
#include "os/clock.h"
#include "worker/worker_int.h"

#define WATCHDOG (5 * LET_S)
enum { HEALTH_MS = 1000 };

/* ---- start and health --------------------------------------------------------------------------------------- */

static let_err init(let__worker *w, const let_ipc_command *m, int arena_fd, let_error *e) {
  if (m->type != LET_IPC_INIT)
    return let_fail(e, LET_ERR_INVALID, "the first message is %s, not INIT", let_ipc_command_name(m->type));
  snprintf(w->device_name, sizeof w->device_name, "%s", m->init.device);
  snprintf(w->plugin_dir, sizeof w->plugin_dir, "%s", m->init.plugin_dir);
  w->view.spin = m->init.spin;
  let_err r = let_ring_arena_map(arena_fd, &w->view.arena, e);
  if (!r) r = let_device_open(w->device_name, m->init.profile_dir, &w->view.device, e);
  if (r) return r;
  if (!(w->view.zeros = aligned_alloc(4096, LET__ZEROS))) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  memset(w->view.zeros, 0, LET__ZEROS);
  const let_device_i *d = w->view.device->i;
  r = d->pin(w->view.device, let_ring_arena_base(w->view.arena), let_ring_arena_size(w->view.arena), e);
  if (!r) r = d->pin(w->view.device, w->view.zeros, LET__ZEROS, e);
  if (!r) r = d->prewarm(w->view.device, e);
  return r;
}

/* A lane thread that is stuck in a call of the engine or the device cannot report it itself. */
static void look_for_stuck(let__worker *w) {
  let_time now = let_now();
  for (let__lane_set *set = w->lane_sets; set; set = set->next)
    for (uint32_t i = 0; i < set->n; i++)
      if (atomic_load_explicit(&set->lane[i].due, memory_order_relaxed) < now) {
        let_error e;
        (void)let_fail(&e, LET_ERR_GPULET, "gpu-let %u is stuck in a batch far beyond its predicted time",
                       set->lane[i].gpulet.n);
        let__worker_die(&w->view, &e);
      }
}

/* ---- the conversation --------------------------------------------------------------------------------------- */

/* Waits for a command; once |ready|, takes steps and sends health meanwhile. IO: the server is gone. */
static let_err next_command(let__worker *w, bool ready, let_arena *a, let_ipc_command *m, int *fds, let_error *e) {
  for (;;) {
    let_err r = let_ipc_recv_command(w->view.control_fd, a, m, fds, e);
    if (r == LET_OK || r == LET_ERR_IO) return r;
    let_arena_fini(a);
    if (r != LET_ERR_AGAIN && let__say_error(w, e)) return LET_ERR_IO;
    if (r != LET_ERR_AGAIN && !ready) return r; /* nothing works without INIT */
    struct pollfd f = {.fd = w->view.control_fd, .events = POLLIN};
    let_time now = let_now(), due = let__work_due(w), at = w->next_health < due ? w->next_health : due;
    (void)poll(&f, 1, !ready ? -1 : at <= now ? 0 : (int)((at - now) / LET_MS) + 1);
    if (!ready || f.revents) continue; /* commands first */
    if (let_now() >= w->next_health) {
      look_for_stuck(w);
      if (let__say_health(w)) return LET_ERR_IO;
      w->next_health = let_now() + HEALTH_MS * LET_MS;
    }
    if (let__work_due(w) <= let_now() && let__work_step(w)) return LET_ERR_IO;
  }
}

/* False: stop. Takes |a|, in which |m| lies, and |fds|. */
static bool carry_out(let__worker *w, let_arena *a, const let_ipc_command *m, int *fds) {
  switch (m->type) {
  case LET_IPC_PREPARE: return let__on_prepare(w, a, &m->prepare, fds) == LET_OK;
  case LET_IPC_RETIRE: return let__on_retire(w, m->retire.set) == LET_OK;
  case LET_IPC_STOP: return false;
  case LET_IPC_INIT:
    close(fds[0]);
    let_error e;
    (void)let_fail(&e, LET_ERR_INVALID, "INIT came twice");
    return let__say_error(w, &e) == LET_OK;
  case LET_IPC_COMMANDS_END: break;
  }
  return false;
}

static void close_all(let__worker *w) {
  while (w->lane_sets) {
    let__lane_set *set = w->lane_sets;
    w->lane_sets = set->next;
    let__lane_set_free(w, set);
  }
  while (w->retired) {
    let__lane_set *set = w->retired;
    w->retired = set->next;
    let__lane_set_free(w, set);
  }
  while (w->loaded) {
    let__loaded *l = w->loaded;
    w->loaded = l->next;
    free(l);
  }
  let__job_thread_stop(&w->prober);
}

/* From INIT to STOP. Returns the process's exit code. */
static int serve(let__worker *w) {
  int fds[LET_IPC_FDS_MAX];
  let_arena a;
  let_ipc_command m;
  let_error e = {0};
  let_arena_init(&a, &let_mem_libc);
  if (next_command(w, false, &a, &m, fds, &e) != LET_OK) {
    fprintf(stderr, "gpulet worker: %s: workers are started by `gpulet serve`\n", e.text);
    return 1;
  }
  let_err r = init(w, &m, fds[0], &e);
  for (uint32_t i = 0; i < let_ipc_command_fds(&m); i++) close(fds[i]);
  let_arena_fini(&a);
  let__fault(LET__STAGE_INIT);
  if (r) {
    (void)let__say_error(w, &e);
    fprintf(stderr, "gpulet worker: %s\n", e.text);
    return 1;
  }
  bool go = let__say_ready(w) == LET_OK;
  while (go && next_command(w, true, &a, &m, fds, &e) == LET_OK) {
    go = carry_out(w, &a, &m, fds);
    let_arena_fini(&a);
  }
  let_arena_fini(&a);
  return 0;
}

int let_worker_run(int control_fd) {
  let__worker w = {.view = {.control_fd = control_fd}, .prober_due = LET_NEVER};
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* a gpu-let that hangs must not outlive its server and keep the device's memory */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, SIG_IGN); /* the server decides when to stop */
  let__fault_init();
  const char *watchdog = getenv("GPULET_WATCHDOG_MS");
  w.view.watchdog = watchdog && atol(watchdog) > 0 ? atol(watchdog) * LET_MS : WATCHDOG;
  int code = serve(&w);
  close_all(&w);
  if (w.view.device) {
    if (w.view.zeros) w.view.device->i->unpin(w.view.device, w.view.zeros);
    w.view.device->i->unpin(w.view.device, let_ring_arena_base(w.view.arena));
    w.view.device->i->close_device(w.view.device);
  }
  free(w.view.zeros);
  let_ring_arena_free(w.view.arena);
  close(control_fd);
  return code;
}
