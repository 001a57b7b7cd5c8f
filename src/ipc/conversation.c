#include "ipc/conversation.h"

#include <string.h>

typedef struct variant {
  char name[LET_NAME_MAX];
  uint8_t n_sizes, needed;
  bool may_take_two; /* PREPARE gave an SLO that the first size alone may be too slow for */
  uint8_t reported;  /* sizes that LANE_UP and SIZE told of, in the order of PREPARE */
  uint32_t size[LET_SIZES_MAX];
} variant;

typedef struct lane {
  bool up;
  uint32_t n_models;
  variant *model;
} lane;

typedef struct set {
  let_lane_set_id id;
  bool prepared, retiring;
  uint32_t n_lanes, n_up;
  uint32_t done, sizes; /* the last PROGRESS, and the sizes that were asked for */
  lane *lane;
  let_arena arena; /* of all of the above */
  struct set *next;
} set;

struct let_ipc_conversation {
  const let_mem *mem;
  bool began, ready, stopped; /* INIT was sent, READY came, STOP was sent */
  char device[LET_NAME_MAX];
  uint64_t arena_bytes;
  let_lane_set_id newest;
  set *sets;
};

/* ---- sets -------------------------------------------------------------------------------------------------------- */

static set *find(const let_ipc_conversation *c, let_lane_set_id id) {
  set *s = c->sets;
  while (s && !let_lane_set_id_eq(s->id, id)) s = s->next;
  return s;
}

static void forget(let_ipc_conversation *c, set *gone) {
  set **at = &c->sets;
  while (*at != gone) at = &(*at)->next;
  *at = gone->next;
  let_arena arena = gone->arena; /* |gone| lies in it */
  let_arena_fini(&arena);
}

static bool copy_lane(set *s, const let_ipc_lane *from, lane *to) {
  to->model = let_arena_array(&s->arena, from->n_models, sizeof *to->model);
  if (!to->model) return false;
  to->n_models = from->n_models;
  for (uint32_t i = 0; i < from->n_models; i++) {
    const let_ipc_variant *v = &from->model[i];
    variant *x = &to->model[i];
    memcpy(x->name, v->model->name, sizeof x->name);
    x->n_sizes = v->n_sizes;
    x->needed = v->needed;
    memcpy(x->size, v->size, sizeof x->size);
    x->may_take_two = v->slo > 0 && v->needed == 1 && v->n_sizes > 1 && v->size[1] < v->size[0];
    s->sizes += v->n_sizes;
  }
  return true;
}

static set *copy_set(const let_mem *mem, const let_ipc_prepare *m) {
  let_arena arena;
  let_arena_init(&arena, mem);
  set *s = let_arena_alloc(&arena, sizeof *s);
  if (s) {
    s->id = m->set;
    s->n_lanes = m->n_lanes;
    s->arena = arena;
    s->lane = let_arena_array(&s->arena, m->n_lanes, sizeof *s->lane);
    bool ok = s->lane != NULL;
    for (uint32_t i = 0; ok && i < m->n_lanes; i++) ok = copy_lane(s, &m->lane[i], &s->lane[i]);
    if (ok) return s;
    arena = s->arena;
  }
  let_arena_fini(&arena);
  return NULL;
}

let_ipc_conversation *let_ipc_conversation_new(const let_mem *mem) {
  let_ipc_conversation *c = let_mem_zalloc(mem, sizeof *c);
  if (c) c->mem = mem;
  return c;
}

void let_ipc_conversation_free(let_ipc_conversation *c) {
  if (!c) return;
  while (c->sets) forget(c, c->sets);
  let_mem_free(c->mem, c, sizeof *c);
}

/* ---- what the server says ---------------------------------------------------------------------------------------- */

static let_err send_init(let_ipc_conversation *c, const let_ipc_init *m, let_error *e) {
  if (c->began) return let_fail(e, LET_ERR_INVALID, "INIT was sent before");
  size_t n = strnlen(m->device, sizeof c->device - 1);
  memcpy(c->device, m->device, n);
  c->device[n] = 0;
  c->arena_bytes = m->arena_bytes;
  c->began = true;
  return LET_OK;
}

static let_err send_prepare(let_ipc_conversation *c, const let_ipc_prepare *m, let_error *e) {
  if (!c->ready) return let_fail(e, LET_ERR_INVALID, "PREPARE may not be sent before READY came");
  if (m->set.n <= c->newest.n)
    return let_fail(e, LET_ERR_INVALID, "lane set %llu is not newer than %llu", (unsigned long long)m->set.n,
                    (unsigned long long)c->newest.n);
  set *s = copy_set(c->mem, m);
  if (!s) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u lanes", m->n_lanes);
  s->next = c->sets;
  c->sets = s;
  c->newest = m->set;
  return LET_OK;
}

static let_err send_retire(let_ipc_conversation *c, const let_ipc_retire *m, let_error *e) {
  set *s = find(c, m->set);
  if (!s || s->retiring)
    return let_fail(e, LET_ERR_INVALID, "lane set %llu %s", (unsigned long long)m->set.n,
                    s ? "is being retired already" : "is not there to be retired");
  s->retiring = true;
  return LET_OK;
}

let_err let_ipc_conversation_send(let_ipc_conversation *c, const let_ipc_command *m, let_error *e) {
  let_err r = let_ipc_command_check(m, e);
  if (r) return r;
  if (m->type != LET_IPC_INIT && !c->began)
    return let_fail(e, LET_ERR_INVALID, "%s may not be sent before INIT", let_ipc_command_name(m->type));
  if (c->stopped) return let_fail(e, LET_ERR_INVALID, "%s may not be sent after STOP", let_ipc_command_name(m->type));
  switch (m->type) {
  case LET_IPC_INIT: return send_init(c, &m->init, e);
  case LET_IPC_PREPARE: return send_prepare(c, &m->prepare, e);
  case LET_IPC_RETIRE: return send_retire(c, &m->retire, e);
  case LET_IPC_STOP: c->stopped = true; return LET_OK;
  case LET_IPC_COMMANDS_END: break;
  }
  return let_fail(e, LET_ERR_INVALID, "there is no command %d", (int)m->type);
}

/* ---- what the worker says ---------------------------------------------------------------------------------------- */

#define SET(s) ((unsigned long long)(s)->id.n)

static let_err hear_ready(let_ipc_conversation *c, const let_ipc_ready *m, let_error *e) {
  if (!c->began) return let_fail(e, LET_ERR_INVALID, "it came before INIT was sent");
  if (c->ready) return let_fail(e, LET_ERR_INVALID, "it came twice");
  if (strcmp(m->device, c->device) != 0)
    return let_fail(e, LET_ERR_INVALID, "it names device '%.100s', not '%s'", m->device, c->device);
  c->ready = true;
  return LET_OK;
}

/* The set that an event names; NULL: *r and a sentence. |before|: it must not be prepared; else it must be. */
static set *named(const let_ipc_conversation *c, let_lane_set_id id, bool before, let_err *r, let_error *e) {
  set *s = find(c, id);
  if (s && s->prepared != before) return s;
  *r = s ? let_fail(e, LET_ERR_INVALID, "lane set %llu is %s", SET(s), before ? "prepared already" : "not prepared yet")
         : let_fail(e, LET_ERR_INVALID, "nothing is known of a lane set %llu", (unsigned long long)id.n);
  return NULL;
}

static bool lane_has(const lane *l, const char *model) {
  for (uint32_t i = 0; i < l->n_models; i++)
    if (strcmp(l->model[i].name, model) == 0) return true;
  return false;
}

static let_err hear_progress(const let_ipc_conversation *c, const let_ipc_progress *m, let_error *e) {
  let_err r = LET_OK;
  set *s = named(c, m->set, true, &r, e);
  bool found = false;
  if (!s) return r;
  for (uint32_t i = 0; i < s->n_lanes; i++) found = found || lane_has(&s->lane[i], m->model);
  if (!found) return let_fail(e, LET_ERR_INVALID, "lane set %llu has no model '%.100s'", SET(s), m->model);
  if (m->done <= s->done || m->total > s->sizes)
    return let_fail(e, LET_ERR_INVALID, "%u of %u sizes are done in lane set %llu, which has %u, %u of them before",
                    m->done, m->total, SET(s), s->sizes, s->done);
  s->done = m->done;
  return LET_OK;
}

/* Is that what was asked for, in its order? */
static let_err check_report(const let_ipc_conversation *c, const variant *v, const let_ipc_model_report *m,
                            let_error *e) {
  if (strcmp(m->name, v->name) != 0)
    return let_fail(e, LET_ERR_INVALID, "model '%.100s' is where '%s' was asked for", m->name, v->name);
  if (m->n_sizes != v->needed && !(v->may_take_two && m->n_sizes == 2))
    return let_fail(e, LET_ERR_INVALID, "model '%s' has %u batch sizes, %u are needed", v->name, m->n_sizes, v->needed);
  for (uint8_t i = 0; i < m->n_sizes; i++)
    if (m->size[i].size != v->size[i])
      return let_fail(e, LET_ERR_INVALID, "model '%s' has batch size %u where %u was asked for", v->name,
                      m->size[i].size, v->size[i]);
  if (m->output_row_bytes > c->arena_bytes)
    return let_fail(e, LET_ERR_INVALID, "model '%s' has rows of %llu bytes, more than the arena", v->name,
                    (unsigned long long)m->output_row_bytes);
  return LET_OK;
}

static let_err hear_lane_up(const let_ipc_conversation *c, const let_ipc_lane_up *m, let_error *e) {
  let_err r = LET_OK;
  set *s = named(c, m->set, true, &r, e);
  if (!s) return r;
  if (m->lane >= s->n_lanes)
    return let_fail(e, LET_ERR_INVALID, "lane %u of lane set %llu, which has %u", m->lane, SET(s), s->n_lanes);
  lane *l = &s->lane[m->lane];
  if (l->up) return let_fail(e, LET_ERR_INVALID, "lane %u of lane set %llu is up already", m->lane, SET(s));
  if (m->n_models != l->n_models)
    return let_fail(e, LET_ERR_INVALID, "lane %u has %u models, %u were asked for", m->lane, m->n_models, l->n_models);
  for (uint32_t i = 0; i < l->n_models; i++)
    if ((r = check_report(c, &l->model[i], &m->model[i], e))) return r;
  for (uint32_t i = 0; i < l->n_models; i++) l->model[i].reported = m->model[i].n_sizes;
  l->up = true;
  s->n_up++;
  return LET_OK;
}

static let_err hear_prepared(const let_ipc_conversation *c, const let_ipc_prepared *m, let_error *e) {
  let_err r = LET_OK;
  set *s = named(c, m->set, true, &r, e);
  if (!s) return r;
  if (s->n_up != s->n_lanes)
    return let_fail(e, LET_ERR_INVALID, "%u of %u lanes of lane set %llu are up", s->n_up, s->n_lanes, SET(s));
  s->prepared = true;
  return LET_OK;
}

static let_err hear_size(const let_ipc_conversation *c, const let_ipc_size *m, let_error *e) {
  let_err r = LET_OK;
  set *s = named(c, m->set, false, &r, e);
  if (!s) return r;
  if (m->lane >= s->n_lanes || m->model >= s->lane[m->lane].n_models)
    return let_fail(e, LET_ERR_INVALID, "model %u of lane %u of lane set %llu was not asked for", m->model, m->lane,
                    SET(s));
  variant *v = &s->lane[m->lane].model[m->model];
  if (v->reported == v->n_sizes)
    return let_fail(e, LET_ERR_INVALID, "all batch sizes of model '%s' were reported before", v->name);
  if (m->time.size != v->size[v->reported])
    return let_fail(e, LET_ERR_INVALID, "model '%s' has batch size %u where %u is next", v->name, m->time.size,
                    v->size[v->reported]);
  v->reported++;
  return LET_OK;
}

static let_err hear_failed(let_ipc_conversation *c, const let_ipc_failed *m, let_error *e) {
  let_err r = LET_OK;
  set *s = named(c, m->set, true, &r, e);
  if (!s) return r;
  if (m->lane >= s->n_lanes || (m->model[0] && !lane_has(&s->lane[m->lane], m->model)))
    return let_fail(e, LET_ERR_INVALID, "model '%.100s' of lane %u of lane set %llu was not asked for", m->model,
                    m->lane, SET(s));
  forget(c, s);
  return LET_OK;
}

static let_err hear_retired(let_ipc_conversation *c, const let_ipc_retired *m, let_error *e) {
  set *s = find(c, m->set);
  if (!s || !s->retiring)
    return let_fail(e, LET_ERR_INVALID, "lane set %llu was not to be retired", (unsigned long long)m->set.n);
  forget(c, s);
  return LET_OK;
}

static let_err hear_health(const let_ipc_conversation *c, const let_ipc_health *m, let_error *e) {
  for (uint32_t i = 0; i < m->n_lanes; i++) {
    const set *s = find(c, m->lane[i].set);
    if (!s || m->lane[i].lane >= s->n_lanes)
      return let_fail(e, LET_ERR_INVALID, "lane %u of lane set %llu was not asked for", m->lane[i].lane,
                      (unsigned long long)m->lane[i].set.n);
  }
  return LET_OK;
}

static let_err hear(let_ipc_conversation *c, const let_ipc_event *m, let_error *e) {
  if (m->type == LET_IPC_ERROR) return LET_OK;
  if (m->type == LET_IPC_READY) return hear_ready(c, &m->ready, e);
  if (!c->ready) return let_fail(e, LET_ERR_INVALID, "it came before READY");
  switch (m->type) {
  case LET_IPC_PROGRESS: return hear_progress(c, &m->progress, e);
  case LET_IPC_LANE_UP: return hear_lane_up(c, &m->lane_up, e);
  case LET_IPC_PREPARED: return hear_prepared(c, &m->prepared, e);
  case LET_IPC_SIZE: return hear_size(c, &m->size, e);
  case LET_IPC_FAILED: return hear_failed(c, &m->failed, e);
  case LET_IPC_RETIRED: return hear_retired(c, &m->retired, e);
  case LET_IPC_HEALTH: return hear_health(c, &m->health, e);
  case LET_IPC_READY:
  case LET_IPC_ERROR:
  case LET_IPC_EVENTS_END: break;
  }
  return let_fail(e, LET_ERR_INVALID, "there is no event %d", (int)m->type);
}

let_err let_ipc_conversation_hear(let_ipc_conversation *c, const let_ipc_event *m, let_error *e) {
  let_err r = hear(c, m, e);
  if (r && e) let_fail_prefix(e, "unexpected %s message", let_ipc_event_name(m->type));
  return r;
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

bool let_ipc_conversation_ready(const let_ipc_conversation *c) { return c->ready; }
bool let_ipc_conversation_has(const let_ipc_conversation *c, let_lane_set_id id) { return find(c, id) != NULL; }

static uint32_t still_to_come(const set *s) {
  uint32_t n = s->sizes;
  for (uint32_t i = 0; i < s->n_lanes; i++)
    for (uint32_t k = 0; k < s->lane[i].n_models; k++) n -= s->lane[i].model[k].reported;
  return n;
}

bool let_ipc_conversation_warming(const let_ipc_conversation *c) {
  for (const set *s = c->sets; s; s = s->next)
    if (s->prepared && !s->retiring && still_to_come(s) > 0) return true;
  return false;
}

uint32_t let_ipc_conversation_sets(const let_ipc_conversation *c) {
  uint32_t n = 0;
  for (const set *s = c->sets; s; s = s->next) n++;
  return n;
}

static bool lane_valid(const lane *l) {
  for (uint32_t k = 0; k < l->n_models; k++) {
    const variant *v = &l->model[k];
    if (v->needed < 1 || v->needed > v->n_sizes || v->n_sizes > LET_SIZES_MAX) return false;
    if (v->reported > v->n_sizes || (l->up ? v->reported < v->needed : v->reported > 0)) return false;
  }
  return true;
}

bool let_ipc_conversation_validate(const let_ipc_conversation *c) {
  if ((c->ready && !c->began) || (c->sets && !c->ready)) return false;
  for (const set *s = c->sets; s; s = s->next) {
    uint32_t up = 0;
    if (s->id.n > c->newest.n || (s->next && s->next->id.n >= s->id.n)) return false; /* newest first */
    for (uint32_t i = 0; i < s->n_lanes; i++) {
      up += s->lane[i].up;
      if (!lane_valid(&s->lane[i])) return false;
    }
    if (up != s->n_up || (s->prepared && up != s->n_lanes) || s->done > s->sizes) return false;
  }
  return true;
}
