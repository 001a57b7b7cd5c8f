/* say.c: what the worker tells the server, in the messages of ipc/ipc.h. */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "ipc/socket.h"
#include "os/clock.h"
#include "worker/worker_int.h"

enum { SEND_MS = 5000 };

/* ---- sending --------------------------------------------------------------------------------------------- */

/* Waits for room for a while; a server that does not read for seconds is as good as gone. */
static let_err send_event(int fd, const let_ipc_event *m) {
  let_error e = {0};
  let_time end = let_now() + SEND_MS * LET_MS;
  let_err r;
  while ((r = let_ipc_send_event(fd, m, &e)) == LET_ERR_AGAIN && let_now() <= end) {
    struct pollfd f = {.fd = fd, .events = POLLOUT};
    (void)poll(&f, 1, 100);
  }
  if (r && r != LET_ERR_IO) fprintf(stderr, "gpulet worker: cannot send %s: %s\n", let_ipc_event_name(m->type), e.text);
  return r;
}

void let__worker_die(const let__worker_view *w, const let_error *e) {
  fprintf(stderr, "gpulet worker: %s: %s\n", let_err_text(e->code), e->text);
  (void)send_event(w->control_fd, &(let_ipc_event){.type = LET_IPC_ERROR, .error = {e->text}});
  _exit(1); /* the other threads still run: no exit handlers */
}

static let_err say(const let__worker *w, const let_ipc_event *m) { return send_event(w->view.control_fd, m); }

let_err let__say_error(let__worker *w, const let_error *e) {
  return say(w, &(let_ipc_event){.type = LET_IPC_ERROR, .error = {e->text}});
}

/* ---- the device ----------------------------------------------------------------------------------------------- */

let_err let__say_ready(let__worker *w) {
  const let_device_type *t = w->view.device->i->type(w->view.device);
  let_ipc_event m = {.type = LET_IPC_READY, .ready = {.pid = (uint32_t)getpid(), .device = w->device_name}};
  m.ready.device_type = t->name;
  m.ready.sms = t->sms;
  m.ready.granules = t->granules;
  m.ready.granule_sms = t->granule_sms;
  m.ready.memory_bytes = t->memory_bytes;
  return say(w, &m);
}

static uint64_t memory_of_variants(const let__lane_model *m) {
  uint64_t n = 0;
  for (uint32_t k = 0; k < let__variants(m); k++)
    for (int x = 0; x < 2; x++)
      if (m->variant[k].x[x]) n += m->variant[k].x[x]->memory_bytes;
  return n;
}

let_err let__say_health(let__worker *w) {
  let_device_health h = {.utilization = -1, .power_w = -1};
  let_ipc_lane_health lanes[LET_IPC_HEALTH_MAX];
  let_error e;
  uint64_t memory = 0;
  uint32_t n = 0;
  let_err r = w->view.device->i->health(w->view.device, &h, &e);
  if (r == LET_ERR_DEVICE) let__worker_die(&w->view, &e);
  for (const let__loaded *l = w->loaded; l; l = l->next) memory += l->em ? l->engine->weights_bytes(l->em) : 0;
  for (const let__lane_set *set = w->lane_sets; set; set = set->next)
    for (uint32_t i = 0; i < set->n; i++) {
      const let__lane *l = &set->lane[i];
      for (uint32_t k = 0; k < l->n_models; k++) memory += memory_of_variants(&l->model[k]);
      if (n == LET_IPC_HEALTH_MAX) continue;
      lanes[n++] = (let_ipc_lane_health){.set = set->id,
                                         .lane = i,
                                         .busy = (let_dur)atomic_load_explicit(&l->busy_ns, memory_order_relaxed),
                                         .batches = atomic_load_explicit(&l->batches, memory_order_relaxed)};
    }
  let_ipc_event m = {.type = LET_IPC_HEALTH, .health = {.n_lanes = n, .lane = lanes, .memory_bytes = memory}};
  m.health.utilization = h.utilization;
  m.health.power_w = h.power_w;
  m.health.memory_used = h.memory_used;
  m.health.memory_total = h.memory_total;
  m.health.uuid = h.uuid;
  return say(w, &m);
}

/* ---- lane sets ------------------------------------------------------------------------------------------------ */

static uint64_t memory_of(const let__lane_model *m) {
  return m->engine->weights_bytes(m->loaded->em) + memory_of_variants(m);
}

static let_ipc_size_time time_of(const let__batch_variant *v) {
  return (let_ipc_size_time){.size = v->size, .p50 = v->p50, .p99 = v->p99, .beside = v->beside};
}

static let_ipc_model_report report_on(const let__worker *w, const let__lane_model *m) {
  let_ipc_model_report report = {.name = m->m->name, .memory_bytes = memory_of(m), .took = m->took};
  const let_exec *x = m->variant[0].x[0];
  uint64_t row = 0;
  unsigned n_fixed = x->dynamic ? 0 : x->n_out;
  for (unsigned o = 0; o < n_fixed; o++) row += x->out[o].row_bytes;
  if (row <= let_ring_arena_size(w->view.arena)) report.output_row_bytes = row; /* else no request can have it */
  report.eager = m->note ? m->note : "";
  report.n_sizes = (uint8_t)let__variants(m);
  for (uint32_t c = 0; c < report.n_sizes; c++) report.size[c] = time_of(&m->variant[c]);
  return report;
}

let_err let__say_lane_up(let__worker *w, const let__lane_set *set, const let__lane *l) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_ipc_model_report *models = let_arena_array(&a, l->n_models, sizeof *models);
  let_err r = models ? LET_OK : LET_ERR_NOMEM;
  for (uint32_t k = 0; !r && k < l->n_models; k++) models[k] = report_on(w, &l->model[k]);
  let_ipc_event m = {.type = LET_IPC_LANE_UP, .lane_up = {set->id, l->index, l->n_models, models}};
  if (!r) r = say(w, &m);
  let_arena_fini(&a);
  return r;
}

let_err let__say_prepared(let__worker *w, const let__lane_set *set) {
  let_ipc_event m = {.type = LET_IPC_PREPARED, .prepared = {set->id}};
  let_err r = say(w, &m);
  if (!r && let__fault_lies()) r = say(w, &m);
  return r;
}

let_err let__say_progress(let__worker *w, const let__lane_set *set) {
  let_ipc_event m = {.type = LET_IPC_PROGRESS, .progress = {set->id, set->model, set->done, set->total}};
  return say(w, &m);
}

let_err let__say_failed(let__worker *w, let_lane_set_id set, uint32_t lane, const char *model, const let_error *e,
                        let_err code) {
  let_ipc_event m = {.type = LET_IPC_FAILED, .failed = {set, lane, model, code, e->text}};
  return say(w, &m);
}

let_err let__say_size(let__worker *w, const let__lane_set *set, const let__lane *l, uint32_t model, uint32_t size,
                      const let_error *failed) {
  const let__lane_model *of = &l->model[model];
  let_ipc_event m = {.type = LET_IPC_SIZE, .size = {.set = set->id, .lane = l->index, .model = model}};
  m.size.memory_bytes = memory_of(of);
  m.size.time = failed ? (let_ipc_size_time){.size = size} : time_of(&of->variant[let__variants(of) - 1]);
  m.size.failed = !failed ? "" : failed->text[0] ? failed->text : let_err_text(failed->code);
  return say(w, &m);
}

let_err let__say_retired(let__worker *w, let_lane_set_id set) {
  return say(w, &(let_ipc_event){.type = LET_IPC_RETIRED, .retired = {set}});
}
