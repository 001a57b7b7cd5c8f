/* command.c: what the server says: the fields of each message. */
#include "ipc/codec.h"

static const char *const names[LET_IPC_COMMANDS_END] = {"unknown", "INIT", "PREPARE", "RETIRE", "STOP"};

const char *let_ipc_command_name(let_ipc_command_type t) {
  return (unsigned)t < LET_IPC_COMMANDS_END ? names[t] : names[0];
}

static void init(let__ipc_codec *c, let_ipc_init *m) {
  let__ipc_text(c, "device", &m->device, LET_NAME_MAX, LET__IPC_EXACT);
  if (!c->result && (!m->device || !m->device[0])) let__ipc_refuse(c, "device", "is empty");
  let__ipc_text(c, "profile_dir", &m->profile_dir, LET_IPC_PATH_MAX, LET__IPC_EXACT);
  let__ipc_text(c, "plugin_dir", &m->plugin_dir, LET_IPC_PATH_MAX, LET__IPC_EXACT);
  let__ipc_u64(c, "arena_bytes", &m->arena_bytes, 1, LET_IPC_MEMORY_MAX - 1);
  let__ipc_u32(c, "records", &m->records, 1, INT32_MAX);
  let__ipc_i64(c, "spin", &m->spin, 0, LET_S);
}

static void variant(let__ipc_codec *c, let_ipc_variant *v) {
  let_model *model = let__ipc_decodes(c) ? let__ipc_alloc(c, sizeof *model) : (let_model *)(uintptr_t)v->model;
  if (c->result) return;
  LET_ASSERT(model);
  let__ipc_model(c, model);
  if (let__ipc_decodes(c)) v->model = model;
  let__ipc_u8(c, "n_sizes", &v->n_sizes, 1, LET_SIZES_MAX);
  for (uint8_t i = 0; !c->result && i < v->n_sizes; i++) {
    let__ipc_u32(c, "size", &v->size[i], 1, LET_BATCH_MAX);
    for (uint8_t k = 0; !c->result && k < i; k++)
      if (v->size[k] == v->size[i]) let__ipc_refuse(c, "size", "names batch size %u twice", v->size[i]);
  }
  let__ipc_u8(c, "needed", &v->needed, 1, v->n_sizes);
  let__ipc_i64(c, "slo", &v->slo, 0, INT64_MAX);
  let__ipc_bool(c, "planned", &v->planned);
}

static void lane(let__ipc_codec *c, let_ipc_lane *l) {
  const void *models = l->model;
  let__ipc_u32(c, "gpulet", &l->gpulet.n, 0, UINT32_MAX);
  let__ipc_u32(c, "first", &l->first, 0, INT32_MAX);
  let__ipc_u32(c, "granules", &l->granules, 1, INT32_MAX);
  let__ipc_bool(c, "shared", &l->shared);
  let__ipc_i64(c, "cost", &l->cost, 0, LET_IPC_TIME_MAX);
  let__ipc_list(c, "n_models", &l->n_models, 1, LET_IPC_MODELS_MAX - c->models, &models, sizeof *l->model,
                LET__IPC_MODEL_LEAST + 15);
  if (c->result) return;
  if (let__ipc_decodes(c)) l->model = models;
  c->models += l->n_models;
  for (uint32_t i = 0; !c->result && i < l->n_models; i++) {
    let__ipc_enter(c, "model", i);
    variant(c, (let_ipc_variant *)(uintptr_t)&l->model[i]);
    let__ipc_leave(c);
  }
}

static void prepare(let__ipc_codec *c, let_ipc_prepare *m) {
  const void *lanes = m->lane;
  let__ipc_set(c, &m->set);
  let__ipc_bool(c, "beside", &m->beside);
  let__ipc_list(c, "n_lanes", &m->n_lanes, 1, LET_IPC_LANES_MAX, &lanes, sizeof *m->lane, 32);
  if (c->result) return;
  if (let__ipc_decodes(c)) m->lane = lanes;
  for (uint32_t i = 0; !c->result && i < m->n_lanes; i++) {
    let__ipc_enter(c, "lane", i);
    lane(c, (let_ipc_lane *)(uintptr_t)&m->lane[i]);
    let__ipc_leave(c);
  }
}

static void fields(let__ipc_codec *c, void *command) {
  let_ipc_command *m = command;
  switch (m->type) {
  case LET_IPC_INIT: init(c, &m->init); break;
  case LET_IPC_PREPARE: prepare(c, &m->prepare); break;
  case LET_IPC_RETIRE: let__ipc_set(c, &m->retire.set); break;
  case LET_IPC_STOP:
  case LET_IPC_COMMANDS_END: break;
  }
}

let_err let_ipc_command_check(const let_ipc_command *m, let_error *e) {
  if (m->type < LET_IPC_INIT || m->type >= LET_IPC_COMMANDS_END)
    return let_fail(e, LET_ERR_INVALID, "there is no command %d", (int)m->type);
  return let__ipc_check(let_ipc_command_name(m->type), fields, m, e);
}

let_err let_ipc_command_encode(const let_ipc_command *m, let_buf *out, let_error *e) {
  LET_ASSERT(m->type >= LET_IPC_INIT && m->type < LET_IPC_COMMANDS_END);
  return let__ipc_encode((uint16_t)m->type, let_ipc_command_name(m->type), fields, m, out, e);
}

let_err let_ipc_command_decode(let_str bytes, let_arena *a, let_ipc_command *ret, let_error *e) {
  let__ipc_codec c;
  let_ipc_command m = {0};
  uint16_t type;
  let_err r = let__ipc_open(&c, bytes, a, &type, e);
  if (r) return r;
  if (type < LET_IPC_INIT || type >= LET_IPC_COMMANDS_END)
    return let_fail(e, LET_ERR_INVALID, "malformed message: no command has type %u", type);
  m.type = (let_ipc_command_type)type;
  c.message = let_ipc_command_name(m.type);
  fields(&c, &m);
  r = let__ipc_close(&c);
  if (!r) *ret = m;
  return r;
}

uint32_t let_ipc_command_fds(const let_ipc_command *m) {
  if (m->type == LET_IPC_INIT) return 1;
  return m->type == LET_IPC_PREPARE ? 2 + m->prepare.n_lanes : 0;
}
