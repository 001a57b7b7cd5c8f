#include "control.h"

#include <stdio.h>
#include <unistd.h>

#include "ipc/socket.h"
#include "obs/log.h"

let_err serve_control_open(control *c, let_fleet *f, let_worker_id worker, const char *device, int *ret_peer,
                           let_error *e) {
  int fds[2];
  *c = (control){.fd = -1, .worker = worker, .device = device, .fleet = f};
  let_arena_init(&c->health_arena, &let_mem_libc);
  c->conversation = let_ipc_conversation_new(&let_mem_libc);
  if (!c->conversation) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  let_err r = let_ipc_pair(fds, e);
  if (r) {
    serve_control_close(c);
    return r;
  }
  c->fd = fds[0];
  *ret_peer = fds[1];
  return LET_OK;
}

void serve_control_close(control *c) {
  if (c->fd >= 0) close(c->fd);
  let_ipc_conversation_free(c->conversation);
  let_arena_fini(&c->health_arena);
  c->fd = -1;
  c->conversation = NULL;
  c->has_health = false;
}

static void tell(control *c, let_fleet_event ev, let_time now) {
  ev.worker = c->worker;
  let_fleet_handle(c->fleet, &ev, now);
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

void serve_control_say(control *c, const let_ipc_command *m, const int *fds, uint32_t n_fds, let_time now) {
  let_error e = {0};
  let_err r = let_ipc_conversation_send(c->conversation, m, &e);
  if (!r) r = let_ipc_send_command(c->fd, m, fds, n_fds, &e);
  if (r) /* AGAIN too: a worker that does not read its few messages hangs */
    tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .text = e.text}, now);
}

/* Unless its FAILED crossed our decision: then there is nothing to retire. */
void serve_control_retire(control *c, let_lane_set_id set, let_time now) {
  if (let_ipc_conversation_has(c->conversation, set))
    serve_control_say(c, &(let_ipc_command){.type = LET_IPC_RETIRE, .retire = {set}}, NULL, 0, now);
}

static let_err put_lane(const let_fleet_lane *l, const let_model *models, let_arena *a, let_ipc_lane *ret,
                        let_error *e) {
  let_ipc_variant *v = let_arena_array(a, l->n_models, sizeof *v);
  if (!v) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u models", l->n_models);
  for (uint32_t k = 0; k < l->n_models; k++) {
    const let_fleet_variant *from = &l->model[k];
    v[k] = (let_ipc_variant){.model = &models[from->model],
                             .n_sizes = (uint8_t)from->n_sizes,
                             .needed = (uint8_t)from->needed,
                             .slo = from->slo,
                             .planned = from->planned};
    memcpy(v[k].size, from->size, sizeof v[k].size);
  }
  *ret = (let_ipc_lane){.gpulet = l->gpulet,
                        .first = l->first,
                        .granules = l->granules,
                        .shared = l->shared,
                        .cost = l->cost < LET_IPC_TIME_MAX ? l->cost : LET_IPC_TIME_MAX,
                        .n_models = l->n_models,
                        .model = v};
  return LET_OK;
}

void serve_control_prepare(control *c, const let_fleet_prepare *p, const let_model *models, const let_lanes *lanes,
                           let_time now) {
  let_arena a;
  let_error e = {0};
  int fds[LET_IPC_FDS_MAX];
  uint32_t n = 0;
  let_arena_init(&a, &let_mem_libc);
  let_ipc_lane *lane = let_arena_array(&a, p->n_lanes, sizeof *lane);
  let_err r = lane ? LET_OK : let_fail(&e, LET_ERR_NOMEM, "out of memory for %u gpu-lets", p->n_lanes);
  for (uint32_t i = 0; !r && i < p->n_lanes; i++) r = put_lane(&p->lane[i], models, &a, &lane[i], &e);
  let_ipc_command m = {.type = LET_IPC_PREPARE,
                       .prepare = {.set = p->set, .beside = p->beside, .n_lanes = p->n_lanes, .lane = lane}};
  if (!r) r = let_ipc_command_check(&m, &e);
  if (!r) {
    fds[n++] = let_lanes_fd(lanes);
    fds[n++] = let_lanes_done_event(lanes);
    for (uint32_t k = 0; k < p->n_lanes; k++) fds[n++] = let_lanes_submit_event(lanes, k);
    serve_control_say(c, &m, fds, n, now);
  } else { /* it was not sent: the fleet hears what it would hear had the worker refused */
    tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_FAILED, .set = p->set, .text = e.text}, now);
  }
  let_arena_fini(&a);
}

/* ---- in ---------------------------------------------------------------------------------------------------------- */

static let_fleet_size_time size_time(const let_ipc_size_time *t) {
  return (let_fleet_size_time){.size = t->size, .p99 = t->p99, .beside = t->beside};
}

static void lane_up(control *c, let_arena *a, const let_ipc_lane_up *m, let_time now) {
  let_fleet_model_report *models = let_arena_array(a, m->n_models, sizeof *models);
  bool ok = models != NULL;
  for (uint32_t k = 0; ok && k < m->n_models; k++) {
    const let_ipc_model_report *from = &m->model[k];
    let_fleet_size_time *size = let_arena_array(a, from->n_sizes, sizeof *size);
    ok = size != NULL;
    for (uint32_t z = 0; ok && z < from->n_sizes; z++) size[z] = size_time(&from->size[z]);
    models[k] = (let_fleet_model_report){.memory_bytes = from->memory_bytes,
                                         .output_row_bytes = from->output_row_bytes,
                                         .eager = from->eager[0] != 0,
                                         .took = from->took,
                                         .n_sizes = from->n_sizes,
                                         .size = size};
  }
  let_fleet_event ev = {.kind = LET_FLEET_WORKER_LANE, .set = m->set, .lane = m->lane};
  ev.n_models = m->n_models;
  ev.models = models;
  if (!ok) ev = (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .text = "out of memory for what it says"};
  tell(c, ev, now);
}

static void failed(control *c, const let_ipc_failed *m, let_time now) {
  char why[300];
  snprintf(why, sizeof why, "%s%s%s%s", m->model[0] ? "model '" : "", m->model, m->model[0] ? "': " : "", m->text);
  tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_FAILED, .set = m->set, .text = why}, now);
}

/* Takes |a|, in which |m| lies. */
static void keep_health(control *c, let_arena *a, const let_ipc_health *m, let_time now) {
  let_arena_fini(&c->health_arena);
  c->health_arena = *a;
  c->health = *m;
  c->has_health = true;
  *a = (let_arena){.mem = a->mem};
  tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH}, now);
}

static void pass_on(control *c, let_arena *a, const let_ipc_event *m, let_time now) {
  switch (m->type) {
  case LET_IPC_READY: tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_READY}, now); break;
  case LET_IPC_PROGRESS:
    let_log(LET_LOG_DEBUG, "serve", "worker %u prepares %s", c->worker.n, m->progress.model);
    tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH}, now);
    break;
  case LET_IPC_LANE_UP: lane_up(c, a, &m->lane_up, now); break;
  case LET_IPC_PREPARED:
    tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_PREPARED, .set = m->prepared.set}, now);
    break;
  case LET_IPC_SIZE:
    tell(c,
         (let_fleet_event){.kind = LET_FLEET_WORKER_SIZE,
                           .set = m->size.set,
                           .lane = m->size.lane,
                           .model = m->size.model,
                           .size = size_time(&m->size.time),
                           .memory_bytes = m->size.memory_bytes,
                           .text = m->size.failed[0] ? m->size.failed : NULL},
         now);
    break;
  case LET_IPC_FAILED: failed(c, &m->failed, now); break;
  case LET_IPC_RETIRED: tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_RETIRED, .set = m->retired.set}, now); break;
  case LET_IPC_HEALTH: keep_health(c, a, &m->health, now); break;
  case LET_IPC_ERROR:
    let_log(LET_LOG_WARN, "serve", "worker %u: %s", c->worker.n, m->error.text);
    tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_ERROR, .text = m->error.text}, now);
    break;
  case LET_IPC_EVENTS_END: break;
  }
}

/* It broke the conversation: its process is killed. */
static void distrust(control *c, const char *why, let_time now) {
  let_log(LET_LOG_ERROR, "serve", "worker %u for %s is killed: %s", c->worker.n, c->device, why);
  c->distrusted = true;
  tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .text = why}, now);
}

void serve_control_hear(control *c, int most, let_time (*now)(void)) {
  for (int turn = 0; turn < most && c->fd >= 0 && !c->distrusted; turn++) {
    let_arena a;
    let_ipc_event m;
    let_error e = {0};
    let_arena_init(&a, &let_mem_libc);
    let_err r = let_ipc_recv_event(c->fd, &a, &m, &e);
    if (!r) r = let_ipc_conversation_hear(c->conversation, &m, &e);
    if (!r) pass_on(c, &a, &m, now());
    else if (r == LET_ERR_IO) tell(c, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN}, now()); /* it is gone */
    else if (r != LET_ERR_AGAIN) distrust(c, e.text, now());
    let_arena_fini(&a);
    if (r) return;
  }
}
