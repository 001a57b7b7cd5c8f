/* event.c: what a worker says: the fields of each message. */
#include "ipc/codec.h"

static const char *const names[LET_IPC_EVENTS_END - LET_IPC_READY] = {
    "READY", "PROGRESS", "LANE_UP", "PREPARED", "SIZE", "FAILED", "RETIRED", "HEALTH", "ERROR"};

const char *let_ipc_event_name(let_ipc_event_type t) {
  return t >= LET_IPC_READY && t < LET_IPC_EVENTS_END ? names[t - LET_IPC_READY] : "unknown";
}

enum { SMS_MAX = 1 << 20 };

static void memory(let__ipc_codec *c, const char *name, uint64_t *v) {
  let__ipc_u64(c, name, v, 0, LET_IPC_MEMORY_MAX - 1);
}

static void ready(let__ipc_codec *c, let_ipc_ready *m) {
  let__ipc_u32(c, "pid", &m->pid, 1, INT32_MAX);
  let__ipc_text(c, "device", &m->device, LET_NAME_MAX, LET__IPC_EXACT);
  let__ipc_text(c, "device_type", &m->device_type, LET_NAME_MAX, LET__IPC_SENTENCE);
  let__ipc_u32(c, "sms", &m->sms, 0, SMS_MAX);
  let__ipc_u32(c, "granules", &m->granules, 0, SMS_MAX);
  let__ipc_u32(c, "granule_sms", &m->granule_sms, 0, SMS_MAX);
  memory(c, "memory_bytes", &m->memory_bytes);
}

static void progress(let__ipc_codec *c, let_ipc_progress *m) {
  let__ipc_set(c, &m->set);
  let__ipc_text(c, "model", &m->model, LET_NAME_MAX, LET__IPC_EXACT);
  let__ipc_u32(c, "total", &m->total, 0, LET_IPC_MODELS_MAX * LET_SIZES_MAX);
  let__ipc_u32(c, "done", &m->done, 0, m->total);
}

static void size_time(let__ipc_codec *c, let_ipc_size_time *t) {
  let__ipc_u32(c, "size", &t->size, 1, LET_BATCH_MAX);
  let__ipc_i64(c, "p50", &t->p50, 0, LET_IPC_TIME_MAX);
  let__ipc_i64(c, "p99", &t->p99, 0, LET_IPC_TIME_MAX);
  let__ipc_bool(c, "beside", &t->beside);
}

static void model_report(let__ipc_codec *c, let_ipc_model_report *m) {
  let__ipc_text(c, "name", &m->name, LET_NAME_MAX, LET__IPC_EXACT);
  memory(c, "memory_bytes", &m->memory_bytes);
  memory(c, "output_row_bytes", &m->output_row_bytes);
  let__ipc_text(c, "eager", &m->eager, LET_IPC_TEXT_MAX, LET__IPC_SENTENCE);
  let__ipc_i64(c, "took", &m->took, 0, LET_IPC_TIME_MAX);
  let__ipc_u8(c, "n_sizes", &m->n_sizes, 1, LET_SIZES_MAX);
  for (uint8_t i = 0; !c->result && i < m->n_sizes; i++) {
    let__ipc_enter(c, "size", i);
    size_time(c, &m->size[i]);
    let__ipc_leave(c);
  }
}

static void lane_up(let__ipc_codec *c, let_ipc_lane_up *m) {
  const void *models = m->model;
  let__ipc_set(c, &m->set);
  let__ipc_u32(c, "lane", &m->lane, 0, LET_IPC_LANES_MAX - 1);
  let__ipc_list(c, "n_models", &m->n_models, 1, LET_IPC_MODELS_MAX, &models, sizeof *m->model, 50);
  if (c->result) return;
  if (let__ipc_decodes(c)) m->model = models;
  for (uint32_t i = 0; !c->result && i < m->n_models; i++) {
    let__ipc_enter(c, "model", i);
    model_report(c, (let_ipc_model_report *)(uintptr_t)&m->model[i]);
    let__ipc_leave(c);
  }
}

static void size(let__ipc_codec *c, let_ipc_size *m) {
  let__ipc_set(c, &m->set);
  let__ipc_u32(c, "lane", &m->lane, 0, LET_IPC_LANES_MAX - 1);
  let__ipc_u32(c, "model", &m->model, 0, LET_IPC_MODELS_MAX - 1);
  memory(c, "memory_bytes", &m->memory_bytes);
  size_time(c, &m->time);
  let__ipc_text(c, "failed", &m->failed, LET_IPC_TEXT_MAX, LET__IPC_SENTENCE);
  if (!c->result && m->failed && m->failed[0] && (m->time.p50 || m->time.p99 || m->time.beside))
    let__ipc_refuse(c, "time", "is given for a size that failed");
}

static void failed(let__ipc_codec *c, let_ipc_failed *m) {
  uint32_t code = (uint32_t)m->code;
  let__ipc_set(c, &m->set);
  let__ipc_u32(c, "lane", &m->lane, 0, LET_IPC_LANES_MAX - 1);
  let__ipc_text(c, "model", &m->model, LET_NAME_MAX, LET__IPC_EXACT);
  let__ipc_u32(c, "code", &code, LET_OK + 1, LET_ERR_COUNT - 1);
  let__ipc_text(c, "text", &m->text, LET_IPC_TEXT_MAX, LET__IPC_SENTENCE);
  if (let__ipc_decodes(c)) m->code = (let_err)code;
}

static void health(let__ipc_codec *c, let_ipc_health *m) {
  const void *lanes = m->lane;
  let__ipc_list(c, "n_lanes", &m->n_lanes, 0, LET_IPC_HEALTH_MAX, &lanes, sizeof *m->lane, 28);
  if (c->result) return;
  if (let__ipc_decodes(c)) m->lane = lanes;
  for (uint32_t i = 0; !c->result && i < m->n_lanes; i++) {
    let_ipc_lane_health *l = (let_ipc_lane_health *)(uintptr_t)&m->lane[i];
    let__ipc_enter(c, "lane", i);
    let__ipc_set(c, &l->set);
    let__ipc_u32(c, "lane", &l->lane, 0, LET_IPC_LANES_MAX - 1);
    let__ipc_i64(c, "busy", &l->busy, 0, INT64_MAX);
    let__ipc_u64(c, "batches", &l->batches, 0, INT64_MAX);
    let__ipc_leave(c);
  }
  memory(c, "memory_bytes", &m->memory_bytes);
  let__ipc_f64(c, "utilization", &m->utilization, -1, 1);
  let__ipc_f64(c, "power_w", &m->power_w, -1, 1e6);
  memory(c, "memory_used", &m->memory_used);
  memory(c, "memory_total", &m->memory_total);
  let__ipc_text(c, "uuid", &m->uuid, LET_IPC_UUID_MAX, LET__IPC_SENTENCE);
}

static void fields(let__ipc_codec *c, void *event) {
  let_ipc_event *m = event;
  switch (m->type) {
  case LET_IPC_READY: ready(c, &m->ready); break;
  case LET_IPC_PROGRESS: progress(c, &m->progress); break;
  case LET_IPC_LANE_UP: lane_up(c, &m->lane_up); break;
  case LET_IPC_PREPARED: let__ipc_set(c, &m->prepared.set); break;
  case LET_IPC_SIZE: size(c, &m->size); break;
  case LET_IPC_FAILED: failed(c, &m->failed); break;
  case LET_IPC_RETIRED: let__ipc_set(c, &m->retired.set); break;
  case LET_IPC_HEALTH: health(c, &m->health); break;
  case LET_IPC_ERROR: let__ipc_text(c, "text", &m->error.text, LET_IPC_TEXT_MAX, LET__IPC_SENTENCE); break;
  case LET_IPC_EVENTS_END: break;
  }
}

let_err let_ipc_event_check(const let_ipc_event *m, let_error *e) {
  if (m->type < LET_IPC_READY || m->type >= LET_IPC_EVENTS_END)
    return let_fail(e, LET_ERR_INVALID, "there is no event %d", (int)m->type);
  return let__ipc_check(let_ipc_event_name(m->type), fields, m, e);
}

let_err let_ipc_event_encode(const let_ipc_event *m, let_buf *out, let_error *e) {
  LET_ASSERT(m->type >= LET_IPC_READY && m->type < LET_IPC_EVENTS_END);
  return let__ipc_encode((uint16_t)m->type, let_ipc_event_name(m->type), fields, m, out, e);
}

let_err let_ipc_event_decode(let_str bytes, let_arena *a, let_ipc_event *ret, let_error *e) {
  let__ipc_codec c;
  let_ipc_event m = {0};
  uint16_t type;
  let_err r = let__ipc_open(&c, bytes, a, &type, e);
  if (r) return r;
  if (type < LET_IPC_READY || type >= LET_IPC_EVENTS_END)
    return let_fail(e, LET_ERR_INVALID, "malformed message: no event has type %u", type);
  m.type = (let_ipc_event_type)type;
  c.message = let_ipc_event_name(m.type);
  fields(&c, &m);
  r = let__ipc_close(&c);
  if (!r) *ret = m;
  return r;
}
