/* server.c: start, the loop, signals, shutdown. */
#include <fcntl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/version.h"
#include "obs/log.h"
#include "serve_int.h"

/* Answers the client that waits for a plan with its outcome. */
static void tell_outcome(server *s) {
  plan_outcome o;
  if (!serve_plan_outcome(&s->planning, &o) || s->stopping) return;
  if (o.call) {
    let_buf b;
    let_buf_init(&b, &let_mem_libc);
    serve_plan_outcome_text(&s->planning, &o, &b);
    let_front_reply(s->front, o.call, o.ok ? 200 : 409, "application/json", (let_str){b.p, b.n});
    let_buf_fini(&b);
  }
  if (o.ok || let_fleet_serving(s->fleet)) return;
  s->failed = true; /* the first plan: there is no older one to keep */
  let_fail(&s->error, LET_ERR_UNAVAILABLE, "%s", o.why);
  uv_stop(&s->loop);
}

/* After every round of events: carries out the actions of fleet and core. A worker's silence is judged after its
 * messages were read. */
static void on_check(uv_check_t *check) {
  server *s = check->data;
  serve_perform(s);
  serve_look(s);
  serve_perform(s);
  tell_outcome(s);
  serve_pump(s);
}

static void give_up_draining(server *s) {
  s->failed = true;
  let_fail(&s->error, LET_ERR_DEADLINE, "%u request%s still in flight after the exit timeout", s->in_flight,
           s->in_flight == 1 ? " was" : "s were");
  uv_stop(&s->loop);
}

static void on_timer(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  server *s = poll->data;
  uint64_t ticks;
  ssize_t n = read(s->timer_fd, &ticks, sizeof ticks); /* EAGAIN after a re-arm is fine */
  (void)n;
  s->timer_at = LET_NEVER; /* it fired: whatever is due next must be armed anew (by serve_before_sleep) */
  if (s->draining && !s->stopping && serve_now() >= s->exit_by) give_up_draining(s);
}

/* ---- shutdown: drain the front, then stop the workers, then leave ------------------------------------------- */

static void maybe_leave(uv_check_t *check) {
  server *s = check->data;
  on_check(check);
  if (let_fleet_idle(s->fleet)) uv_stop(&s->loop);
}

static void on_drained(void *ctx) {
  server *s = ctx;
  s->stopping = true;
  serve_tell(s, (let_fleet_event){.kind = LET_FLEET_STOP_ALL});
  uv_check_stop(&s->check);
  uv_check_start(&s->check, maybe_leave);
  serve_perform(s);
  if (let_fleet_idle(s->fleet)) uv_stop(&s->loop);
}

static void begin_drain(server *s, const char *why) {
  if (s->draining) {
    let_log(LET_LOG_WARN, "serve", "%s again: leaving at once", why);
    s->failed = true;
    let_fail(&s->error, LET_ERR_CANCELLED, "stopped by a second signal with %u requests in flight", s->in_flight);
    uv_stop(&s->loop);
    return;
  }
  let_log(LET_LOG_INFO, "serve", "%s: answering %u requests in flight, then leaving", why, s->in_flight);
  s->draining = s->planning.leaving = true;
  serve_tell(s, (let_fleet_event){.kind = LET_FLEET_DRAIN});
  s->exit_by = serve_now() + s->o->exit_timeout;
  let_front_drain(s->front, on_drained, s);
}

static void on_signal(uv_signal_t *h, int sig) {
  server *s = h->data;
  switch (sig) {
  case SIGHUP: serve_plan_again(&s->planning); break;
  case SIGUSR1: {
    let_buf b;
    let_buf_init(&b, &let_mem_libc);
    let_core_dump(s->core, &b);
    let_buf_str(&b, "\n");
    let_fleet_dump(s->fleet, &b);
    fprintf(stderr, "%.*s\n", (int)b.n, b.p ? b.p : "");
    let_buf_fini(&b);
    break;
  }
  default: begin_drain(s, sig == SIGINT ? "SIGINT" : "SIGTERM");
  }
}

/* ---- start -------------------------------------------------------------------------------------------------- */

static let_err open_loop(server *s, let_error *e) {
  static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};
  int uv = uv_loop_init(&s->loop);
  if (uv) return let_fail(e, LET_ERR_IO, "cannot make an event loop: %s", uv_strerror(uv));
  signal(SIGPIPE, SIG_IGN);
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
    uv_signal_init(&s->loop, &s->signal[i]);
    s->signal[i].data = s;
    uv_signal_start(&s->signal[i], on_signal, signals[i]);
  }
  uv_prepare_init(&s->loop, &s->prepare);
  s->prepare.data = s;
  uv_prepare_start(&s->prepare, serve_before_sleep);
  uv_check_init(&s->loop, &s->check);
  s->check.data = s;
  uv_check_start(&s->check, on_check);
  s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (s->timer_fd < 0) return let_fail(e, LET_ERR_IO, "cannot make a timer: %s", strerror(errno));
  s->timer_at = LET_NEVER;
  uv_poll_init(&s->loop, &s->timer, s->timer_fd);
  s->timer.data = s;
  uv_poll_start(&s->timer, UV_READABLE, on_timer);
  return LET_OK;
}

static uint64_t output_bytes(const let_model *m) {
  uint64_t n = 0;
  for (uint32_t i = 0; i < m->n_outputs; i++) {
    uint64_t row = let_tensor_row_bytes(&m->output[i]);
    if (row == 0) row = m->output_bytes_hint ? m->output_bytes_hint : 4096; /* grows when a worker says so */
    if (row > ((uint64_t)1 << 40)) row = (uint64_t)1 << 40;
    n += (row + 63) / 64 * 64;
  }
  return n ? n : 64;
}

static let_err open_models(server *s, let_error *e) {
  s->metrics = calloc(s->n_models + 1, sizeof *s->metrics);
  s->out_bytes = calloc(s->n_models + 1, sizeof *s->out_bytes);
  s->model = calloc(s->n_models + 1, sizeof *s->model);
  s->rows = calloc(s->n_models + 1, sizeof *s->rows);
  if (!s->metrics || !s->out_bytes || !s->model || !s->rows) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  let_err r = let_stages_new(s->n_models, &let_mem_libc, &s->stages, e);
  if (r) return r;
  for (uint32_t i = 0; i < s->n_models; i++) {
    s->model[i] = s->given[i];
    s->model[i].slo = let_fleet_slo(s->fleet, i);
    s->out_bytes[i] = output_bytes(&s->model[i]);
    r = let_core_model_set(s->core, i, &s->model[i], e);
    if (r) return r;
  }
  return LET_OK;
}

static let_dur watchdog(void) {
  const char *text = getenv("GPULET_WATCHDOG_MS"); /* the workers read it too */
  let_dur d = text && atol(text) > 0 && atol(text) < 1000000 ? atol(text) * LET_MS : 5 * LET_S;
  return d < LET_S ? LET_S : d; /* they report once a second */
}

static let_err open_fleet(server *s, let_error *e) {
  s->fleet_device = calloc(s->n_devices + 1, sizeof *s->fleet_device);
  if (!s->fleet_device) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < s->n_devices; i++) {
    const let_serve_device *d = &s->device[i];
    s->fleet_device[i] = (let_fleet_device){.name = d->name,
                                            .type = &d->type,
                                            .depth = d->depth,
                                            .worker_per_gpulet = d->worker_per_gpulet,
                                            .own_share = d->environment != NULL};
  }
  let_fleet_options o = {.model = s->given,
                         .n_models = s->n_models,
                         .device = s->fleet_device,
                         .n_devices = s->n_devices,
                         .groups = SERVE_GROUPS,
                         .gpulets = SERVE_GPULETS,
                         .watchdog = watchdog(),
                         .prepare_timeout = s->o->prepare_timeout,
                         .default_slo = s->o->default_slo,
                         .spare = s->o->spare};
  let_err r = let_fleet_new(&o, &let_mem_libc, &s->fleet, e);
  if (r) return r;
  s->processes = (process_table){
      .loop = &s->loop, .fleet = s->fleet, .o = s->o, .device = s->device, .arena = s->arena, .now = serve_now};
  s->planning.loop = &s->loop;
  s->planning.fleet = s->fleet;
  s->planning.planner = s->planner;
  s->planning.now = serve_now;
  s->mps_watch = (mps_watch){.loop = &s->loop, .fleet = s->fleet, .helper = s->o->helper, .now = serve_now};
  s->lanes.loop = &s->loop;
  s->lanes.done = serve_lanes_done;
  s->lanes.ctx = s;
  return serve_processes_open(&s->processes, e);
}

static let_err open_all(server *s, let_error *e) {
  const let_serve_options *o = s->o;
  let_err r = open_loop(s, e);
  if (r) return r;
  s->n_requests = (uint32_t)o->requests;
  s->request = calloc(s->n_requests, sizeof *s->request);
  if (!s->request) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u requests", s->n_requests);
  if ((r = let_ring_arena_new(o->arena_bytes, s->n_requests, &let_mem_libc, &s->arena, e))) return r;
  let_core_limits limits = {.models = s->n_models ? s->n_models : 1,
                            .gpulets = SERVE_GPULETS,
                            .requests = s->n_requests,
                            .queue = (uint32_t)o->queue};
  if ((r = let_core_new(&limits, &let_mem_libc, &s->core, e))) return r;
  if ((r = open_fleet(s, e))) return r;
  if ((r = serve_mps_watch_open(&s->mps_watch, e))) return r;
  if ((r = open_models(s, e))) return r;
  let_front_options fo = {.host = o->host,
                          .port = (uint16_t)o->http_port,
                          .connections = (uint32_t)o->connections,
                          .body_max = o->body_max,
                          .head_timeout = o->head_timeout,
                          .body_timeout = o->body_timeout,
                          .idle_timeout = o->idle_timeout,
                          .server_name = "gpulet",
                          .server_version = LET_VERSION};
  let_front_i fi;
  serve_front_interface(s, &fi);
  fi.turn = serve_turn;
  fi.control = serve_admin;
  if ((r = let_front_new(&s->loop, &fo, &fi, &let_mem_libc, &s->front, e))) return r;
  if (o->metrics_port >= 0 && (r = let_front_listen_metrics(s->front, o->host, (uint16_t)o->metrics_port, e))) return r;
  return LET_OK;
}

static let_err write_ready_file(const server *s, let_error *e) {
  if (!s->o->ready_file) return LET_OK;
  char tmp[4200];
  snprintf(tmp, sizeof tmp, "%s.tmp", s->o->ready_file);
  FILE *f = fopen(tmp, "we");
  bool ok = f && fprintf(f, "http %u\nmetrics %u\npid %d\n", let_front_port(s->front), let_front_metrics_port(s->front),
                         (int)getpid()) > 0;
  if (f && fclose(f)) ok = false;
  if (!ok || rename(tmp, s->o->ready_file)) {
    let_fail(e, LET_ERR_IO, "%s: cannot write the ready file: %s", s->o->ready_file, strerror(errno));
    unlink(tmp);
    return e->code;
  }
  return LET_OK;
}

/* ---- end ----------------------------------------------------------------------------------------------------- */

static void close_all(server *s) {
  s->draining = s->stopping = s->planning.leaving = true;
  if (s->fleet) {
    serve_tell(s, (let_fleet_event){.kind = LET_FLEET_ABANDON});
    serve_perform(s);
    while (!let_fleet_idle(s->fleet) && uv_run(&s->loop, UV_RUN_ONCE)) serve_perform(s); /* exits are on the way */
  }
  if (s->front) let_front_close(s->front);
  serve_lanes_close_all(&s->lanes);
  serve_mps_watch_close(&s->mps_watch);
  uv_close((uv_handle_t *)&s->prepare, NULL);
  uv_close((uv_handle_t *)&s->check, NULL);
  uv_close((uv_handle_t *)&s->timer, NULL);
  for (unsigned i = 0; i < sizeof s->signal / sizeof *s->signal; i++) uv_close((uv_handle_t *)&s->signal[i], NULL);
  uv_run(&s->loop, UV_RUN_DEFAULT);
  let_front_free(s->front);
  uv_loop_close(&s->loop);
  close(s->timer_fd);
  let_core_free(s->core);
  serve_processes_close(&s->processes);
  let_fleet_free(s->fleet);
  free(s->fleet_device);
  let_ring_arena_free(s->arena);
  serve_planning_close(&s->planning);
  let_stages_free(s->stages);
  free(s->request);
  free(s->metrics);
  free(s->out_bytes);
  free(s->model);
  free(s->rows);
}

static void announce(server *s) {
  let_log(LET_LOG_INFO, "serve", "ready: http port %u, metrics port %u, %u model%s on %u device%s",
          let_front_port(s->front), let_front_metrics_port(s->front), s->n_models, s->n_models == 1 ? "" : "s",
          s->n_devices, s->n_devices == 1 ? "" : "s");
}

let_err let_serve_run(const let_serve_options *o, const let_model *models, uint32_t n_models,
                      const let_serve_device *devices, uint32_t n_devices, const let_serve_planner *planner,
                      let_error *e) {
  server *s = calloc(1, sizeof *s);
  if (!s) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->o = o;
  s->given = models;
  s->n_models = n_models;
  s->device = devices;
  s->n_devices = n_devices;
  s->planner = planner;
  s->began = serve_now();
  serve_planning_open(&s->planning);
  let_err r = open_all(s, e);
  if (!r) r = serve_plan_first(&s->planning, e);
  if (!r) {
    serve_perform(s);
    /* until the first plan serves, then until told to leave */
    while (!let_fleet_serving(s->fleet) && !s->failed && !s->stopping && uv_run(&s->loop, UV_RUN_ONCE)) {}
    if (let_fleet_serving(s->fleet) && !s->failed && !s->draining) {
      r = write_ready_file(s, e);
      if (!r) announce(s);
    }
    if (!r && !s->failed) uv_run(&s->loop, UV_RUN_DEFAULT);
    if (s->failed) {
      *e = s->error;
      r = s->error.code;
    }
  }
  close_all(s);
  free(s);
  return r;
}
