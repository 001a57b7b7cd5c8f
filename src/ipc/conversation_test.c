/* test: base
 * A seeded worker that tells the truth, with answers that cross commands on their way, is always believed; the same
 * events with one thing wrong never are, and leave no trace. */
#include "ipc/conversation.h"

#include "ipc/ipc_test_rig.h"

enum { SETS = 4 };

/* What the worker knows. It hears of a command later than the conversation does. */
typedef struct known_set {
  bool used, retire_sent;
  bool gone_soon;    /* FAILED or RETIRED was said */
  bool prepared;     /* PREPARED was said */
  let_ipc_prepare p; /* what was asked for; in |arena| */
  let_arena arena;
  bool *up;
  uint8_t **reported; /* sizes said, by lane and model */
  uint32_t done;
} known_set;

typedef struct world {
  let_rng rng;
  let_ipc_conversation *c;
  known_set set[SETS];
  uint64_t newest;
  let_arena event; /* the event being made */
  unsigned accepted, refused;
} world;

static let_ipc_command make_init(const char *device) {
  return (let_ipc_command){.type = LET_IPC_INIT, .init = {.device = device, .arena_bytes = 1 << 30, .records = 9}};
}

static let_ipc_event make_ready(const char *device) {
  return (let_ipc_event){.type = LET_IPC_READY, .ready = {.pid = 7, .device = device, .device_type = "t"}};
}

static void must_send(world *w, const let_ipc_command *m) {
  let_error e = {0};
  if (let_ipc_conversation_send(w->c, m, &e)) fail_msg("%s: %s", let_ipc_command_name(m->type), e.text);
}

static void must_accept(world *w, const let_ipc_event *m) {
  let_error e = {0};
  if (let_ipc_conversation_hear(w->c, m, &e)) fail_msg("%s: %s", let_ipc_event_name(m->type), e.text);
  w->accepted++;
}

static void must_refuse(world *w, const let_ipc_event *m) {
  let_error e = {0};
  uint32_t sets = let_ipc_conversation_sets(w->c);
  bool warming = let_ipc_conversation_warming(w->c);
  if (let_ipc_event_check(m, NULL)) return; /* decode would not have let it through */
  if (let_ipc_conversation_hear(w->c, m, &e) != LET_ERR_INVALID)
    fail_msg("%s was believed", let_ipc_event_name(m->type));
  assert_true(strncmp(e.text, "unexpected ", 11) == 0);
  assert_int_equal(let_ipc_conversation_sets(w->c), sets);
  assert_int_equal(let_ipc_conversation_warming(w->c), warming);
  w->refused++;
}

static known_set *some_set(world *w) {
  known_set *s = &w->set[below(&w->rng, SETS)];
  return s->used ? s : NULL;
}

static void drop(known_set *s) {
  let_arena_fini(&s->arena);
  *s = (known_set){0};
}

static void ask(world *w) {
  known_set *s = &w->set[below(&w->rng, SETS)];
  if (s->used) return;
  let_arena_init(&s->arena, &let_mem_libc);
  s->p = prepare_of(&w->rng, &s->arena, 4, 3);
  w->newest += between(&w->rng, 1, 3);
  s->p.set.n = w->newest;
  s->used = true;
  s->up = let_arena_array(&s->arena, s->p.n_lanes, sizeof *s->up);
  s->reported = let_arena_array(&s->arena, s->p.n_lanes, sizeof *s->reported);
  for (uint32_t i = 0; i < s->p.n_lanes; i++)
    s->reported[i] = let_arena_array(&s->arena, s->p.lane[i].n_models, sizeof *s->reported[i]);
  let_ipc_command m = {.type = LET_IPC_PREPARE, .prepare = s->p};
  must_send(w, &m);
  let_error e = {0};
  assert_int_equal(let_ipc_conversation_send(w->c, &m, &e), LET_ERR_INVALID); /* the same set twice */
}

static void retire(world *w) {
  known_set *s = some_set(w);
  if (!s || s->retire_sent) return;
  let_ipc_command m = {.type = LET_IPC_RETIRE, .retire = {s->p.set}};
  must_send(w, &m);
  s->retire_sent = true;
  let_error e = {0};
  assert_int_equal(let_ipc_conversation_send(w->c, &m, &e), LET_ERR_INVALID); /* twice */
}

/* ---- true events ------------------------------------------------------------------------------------------------- */

static bool all_up(const known_set *s) {
  bool up = true;
  for (uint32_t i = 0; i < s->p.n_lanes; i++) up = up && s->up[i];
  return up;
}

static let_ipc_event lane_event(world *w, const known_set *s, uint32_t lane) {
  const let_ipc_lane *l = &s->p.lane[lane];
  let_ipc_model_report *list = let_arena_array(&w->event, l->n_models, sizeof *list);
  for (uint32_t k = 0; k < l->n_models; k++) {
    const let_ipc_variant *v = &l->model[k];
    list[k] = report_of(&w->rng, &w->event);
    list[k].name = v->model->name;
    list[k].output_row_bytes = below(&w->rng, 1 << 30);
    list[k].n_sizes = v->needed;
    if (v->needed == 1 && v->slo > 0 && v->n_sizes > 1 && v->size[1] < v->size[0] && coin(&w->rng)) list[k].n_sizes = 2;
    for (uint32_t i = 0; i < list[k].n_sizes; i++) list[k].size[i] = time_of(&w->rng, v->size[i]);
  }
  return (let_ipc_event){.type = LET_IPC_LANE_UP, .lane_up = {s->p.set, lane, l->n_models, list}};
}

static let_ipc_event health_event(world *w) {
  let_ipc_event m = event_of(&w->rng, &w->event, LET_IPC_HEALTH);
  let_ipc_lane_health *list = let_arena_array(&w->event, SETS, sizeof *list);
  m.health.n_lanes = 0;
  for (int i = 0; i < SETS; i++)
    if (w->set[i].used)
      list[m.health.n_lanes++] =
          (let_ipc_lane_health){.set = w->set[i].p.set, .lane = below(&w->rng, w->set[i].p.n_lanes)};
  m.health.lane = list;
  return m;
}

/* The event that the worker would send next about |s|; false: none. |noted| does what it changes in the worker. */
static bool next_event(world *w, const known_set *s, let_ipc_event *ret) {
  let_lane_set_id set = s->p.set;
  uint32_t lane = below(&w->rng, s->p.n_lanes), model = below(&w->rng, s->p.lane[lane].n_models);
  const let_ipc_variant *v = &s->p.lane[lane].model[model];
  if (s->retire_sent && below(&w->rng, 3) == 0) {
    *ret = (let_ipc_event){.type = LET_IPC_RETIRED, .retired = {set}};
  } else if (s->prepared) {
    if (s->reported[lane][model] == v->n_sizes) return false;
    bool bad = below(&w->rng, 4) == 0;
    *ret = (let_ipc_event){.type = LET_IPC_SIZE, .size = {.set = set, .lane = lane, .model = model}};
    ret->size.time = time_of(&w->rng, v->size[s->reported[lane][model]]);
    if (bad) ret->size.time = (let_ipc_size_time){.size = ret->size.time.size};
    ret->size.failed = bad ? "no memory" : "";
  } else if (all_up(s)) {
    *ret = (let_ipc_event){.type = LET_IPC_PREPARED, .prepared = {set}};
  } else if (below(&w->rng, 30) == 0) {
    *ret = (let_ipc_event){.type = LET_IPC_FAILED, .failed = {set, lane, v->model->name, LET_ERR_NOMEM, "no"}};
  } else if (!s->up[lane]) {
    *ret = lane_event(w, s, lane);
  } else {
    *ret = (let_ipc_event){.type = LET_IPC_PROGRESS, .progress = {set, v->model->name, s->done + 1, s->done + 1}};
    uint32_t sizes = 0;
    for (uint32_t i = 0; i < s->p.n_lanes; i++)
      for (uint32_t k = 0; k < s->p.lane[i].n_models; k++) sizes += s->p.lane[i].model[k].n_sizes;
    return s->done < sizes;
  }
  return true;
}

static void noted(known_set *s, const let_ipc_event *m) {
  if (m->type == LET_IPC_LANE_UP) {
    s->up[m->lane_up.lane] = true;
    for (uint32_t k = 0; k < m->lane_up.n_models; k++) s->reported[m->lane_up.lane][k] = m->lane_up.model[k].n_sizes;
  } else if (m->type == LET_IPC_PREPARED) {
    s->prepared = true;
  } else if (m->type == LET_IPC_SIZE) {
    s->reported[m->size.lane][m->size.model]++;
  } else if (m->type == LET_IPC_PROGRESS) {
    s->done = m->progress.done;
  } else {
    drop(s); /* FAILED, RETIRED */
  }
}

/* ---- lies -------------------------------------------------------------------------------------------------------- */

/* |m| with one thing wrong; false: nothing that can be wrong with it. */
static bool lie(world *w, let_ipc_event *m) {
  let_rng *r = &w->rng;
  uint64_t unknown = coin(r) ? w->newest + 1 + below(r, 9) : INT64_MAX;
  switch (m->type) {
  case LET_IPC_LANE_UP: {
    let_ipc_model_report *list = let_arena_array(&w->event, m->lane_up.n_models + 1, sizeof *list);
    memcpy(list, m->lane_up.model, m->lane_up.n_models * sizeof *list);
    let_ipc_model_report *x = &list[below(r, m->lane_up.n_models)];
    m->lane_up.model = list;
    switch (below(r, 6)) {
    case 0: m->lane_up.set.n = unknown; return true;
    case 1: m->lane_up.lane += 4; return true;
    case 2: x->name = "somebody else"; return true;
    case 3: x->size[below(r, x->n_sizes)].size ^= 1 + below(r, 255); return true;
    case 4: x->output_row_bytes = (UINT64_C(1) << 30) + 1 + below(r, 99); return true;
    default:
      list[m->lane_up.n_models] = *x;
      m->lane_up.n_models++;
      return true;
    }
  }
  case LET_IPC_SIZE:
    switch (below(r, 4)) {
    case 0: m->size.set.n = unknown; return true;
    case 1: m->size.lane += 4; return true;
    case 2: m->size.model += 3; return true;
    default: m->size.time.size ^= 1 + below(r, 255); return true;
    }
  case LET_IPC_FAILED:
    if (coin(r)) m->failed.set.n = unknown;
    else if (coin(r)) m->failed.lane += 4;
    else m->failed.model = "somebody else";
    return true;
  case LET_IPC_PROGRESS:
    if (coin(r)) m->progress.model = "somebody else";
    else m->progress.done--;
    return true;
  case LET_IPC_PREPARED: m->prepared.set.n = unknown; return true;
  case LET_IPC_RETIRED: m->retired.set.n = unknown; return true;
  case LET_IPC_HEALTH: {
    if (!m->health.n_lanes) return false;
    let_ipc_lane_health *list = let_arena_array(&w->event, m->health.n_lanes, sizeof *list);
    memcpy(list, m->health.lane, m->health.n_lanes * sizeof *list);
    let_ipc_lane_health *x = &list[below(r, m->health.n_lanes)];
    if (coin(r)) x->set.n = unknown;
    else x->lane += 4;
    m->health.lane = list;
    return true;
  }
  default: return false;
  }
}

/* Events that are right in themselves, at the wrong time. */
static void out_of_turn(world *w, const known_set *s) {
  let_lane_set_id set = s->p.set;
  let_ipc_event ready = make_ready("d"), prepared = {.type = LET_IPC_PREPARED, .prepared = {set}},
                retired = {.type = LET_IPC_RETIRED, .retired = {set}},
                failed = {.type = LET_IPC_FAILED, .failed = {set, 0, "", LET_ERR_NOMEM, "no"}};
  must_refuse(w, &ready);
  if (!s->retire_sent) must_refuse(w, &retired);
  if (s->prepared || !all_up(s)) must_refuse(w, &prepared);
  if (s->prepared) must_refuse(w, &failed);
  for (uint32_t i = 0; i < s->p.n_lanes; i++) {
    let_ipc_event up = lane_event(w, s, i);
    if (s->prepared || s->up[i]) must_refuse(w, &up);
    let_ipc_event size = {.type = LET_IPC_SIZE, .size = {.set = set, .lane = i, .failed = ""}};
    size.size.time = time_of(&w->rng, s->p.lane[i].model[0].size[0]); /* the first was in LANE_UP */
    must_refuse(w, &size);
  }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void begin(world *w, uint64_t seed) {
  *w = (world){0};
  let_rng_seed(&w->rng, seed);
  w->c = let_ipc_conversation_new(&let_mem_libc);
  assert_non_null(w->c);
  let_ipc_command init = make_init("d");
  must_send(w, &init);
  let_ipc_event ready = make_ready("d");
  must_accept(w, &ready);
}

static void end(world *w) {
  for (int i = 0; i < SETS; i++)
    if (w->set[i].used) drop(&w->set[i]);
  let_ipc_conversation_free(w->c);
}

static void test_histories(void **state) {
  (void)state;
  uint64_t seed = seed_of(1);
  unsigned accepted = 0, refused = 0;
  for (uint64_t history = 0; history < 1000; history++) {
    world w;
    begin(&w, seed * 100000 + history);
    for (int step = 0; step < 60; step++) {
      let_arena_init(&w.event, &let_mem_libc);
      let_ipc_event m;
      known_set *s = some_set(&w);
      switch (below(&w.rng, 8)) {
      case 0: ask(&w); break;
      case 1:
        if (below(&w.rng, 4) == 0) retire(&w);
        break;
      case 2:
        m = health_event(&w);
        must_accept(&w, &m);
        if (lie(&w, &m)) must_refuse(&w, &m);
        break;
      case 3:
        m = event_of(&w.rng, &w.event, LET_IPC_ERROR);
        must_accept(&w, &m);
        if (s) out_of_turn(&w, s);
        break;
      default:
        if (!s || !next_event(&w, s, &m)) break;
        let_ipc_event wrong = m;
        if (lie(&w, &wrong)) must_refuse(&w, &wrong);
        must_accept(&w, &m);
        noted(s, &m);
      }
      assert_true(let_ipc_conversation_validate(w.c));
      let_arena_fini(&w.event);
    }
    uint32_t n = 0;
    for (int i = 0; i < SETS; i++) n += w.set[i].used;
    assert_int_equal(let_ipc_conversation_sets(w.c), n);
    accepted += w.accepted;
    refused += w.refused;
    end(&w);
  }
  print_message("1000 histories: %u events believed, %u refused\n", accepted, refused);
}

/* Nothing of a random stream is believed but what names nothing. */
static void test_nonsense(void **state) {
  (void)state;
  uint64_t seed = seed_of(2);
  for (uint64_t history = 0; history < 300; history++) {
    world w;
    begin(&w, seed * 100000 + history);
    for (int i = 0; i < SETS; i++) ask(&w);
    for (int step = 0; step < 100; step++) {
      let_arena a;
      let_error e = {0};
      let_arena_init(&a, &let_mem_libc);
      let_ipc_event m =
          event_of(&w.rng, &a, (let_ipc_event_type)between(&w.rng, LET_IPC_READY, LET_IPC_EVENTS_END - 1));
      if (m.type == LET_IPC_PROGRESS && coin(&w.rng)) m.progress.set.n = 1 + below(&w.rng, (uint32_t)w.newest);
      if (m.type == LET_IPC_LANE_UP && coin(&w.rng)) m.lane_up.set.n = 1 + below(&w.rng, (uint32_t)w.newest);
      if (m.type == LET_IPC_FAILED) m.failed.model = "somebody else";
      if (m.type == LET_IPC_PROGRESS) m.progress.model = "somebody else";
      let_ipc_lane_health unknown = {.set = {w.newest + 1}};
      if (m.type == LET_IPC_HEALTH && m.health.n_lanes) {
        m.health.lane = &unknown;
        m.health.n_lanes = 1;
      }
      let_err r = let_ipc_conversation_hear(w.c, &m, &e);
      bool nothing_named = m.type == LET_IPC_ERROR || (m.type == LET_IPC_HEALTH && !m.health.n_lanes);
      assert_int_equal(r, nothing_named ? LET_OK : LET_ERR_INVALID);
      assert_true(let_ipc_conversation_validate(w.c));
      let_arena_fini(&a);
    }
    end(&w);
  }
}

static void test_beginning_and_end(void **state) {
  (void)state;
  let_error e = {0};
  world w = {.c = let_ipc_conversation_new(&let_mem_libc)};
  let_ipc_command init = make_init("cuda:0"), stop = {.type = LET_IPC_STOP}, retire_it = {.type = LET_IPC_RETIRE};
  let_ipc_event ready = make_ready("cuda:0"), other = make_ready("cuda:1"), health = {.type = LET_IPC_HEALTH},
                error = {.type = LET_IPC_ERROR};
  retire_it.retire.set.n = 1;
  must_accept(&w, &error);
  must_refuse(&w, &ready);
  assert_int_equal(let_ipc_conversation_send(w.c, &stop, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "STOP may not be sent before INIT");
  must_send(&w, &init);
  assert_int_equal(let_ipc_conversation_send(w.c, &init, &e), LET_ERR_INVALID);
  must_refuse(&w, &health);
  assert_int_equal(let_ipc_conversation_hear(w.c, &other, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "unexpected READY message: it names device 'cuda:1', not 'cuda:0'");
  let_arena a;
  let_rng r;
  let_rng_seed(&r, 1);
  let_arena_init(&a, &let_mem_libc);
  let_ipc_command prepare = {.type = LET_IPC_PREPARE, .prepare = prepare_of(&r, &a, 2, 2)};
  prepare.prepare.set.n = 5;
  assert_int_equal(let_ipc_conversation_send(w.c, &prepare, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "PREPARE may not be sent before READY came");
  assert_false(let_ipc_conversation_ready(w.c));
  must_accept(&w, &ready);
  assert_true(let_ipc_conversation_ready(w.c));
  must_refuse(&w, &ready);
  must_accept(&w, &health);
  assert_int_equal(let_ipc_conversation_send(w.c, &retire_it, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "lane set 1 is not there to be retired");
  must_send(&w, &prepare);
  assert_true(let_ipc_conversation_has(w.c, prepare.prepare.set));
  prepare.prepare.set.n = 4; /* not newer */
  assert_int_equal(let_ipc_conversation_send(w.c, &prepare, &e), LET_ERR_INVALID);
  prepare.prepare.set.n = 6;
  prepare.prepare.n_lanes = LET_IPC_LANES_MAX + 1; /* could not be encoded: nothing is noted */
  assert_int_equal(let_ipc_conversation_send(w.c, &prepare, &e), LET_ERR_INVALID);
  assert_int_equal(let_ipc_conversation_sets(w.c), 1);
  must_send(&w, &stop);
  assert_int_equal(let_ipc_conversation_send(w.c, &stop, &e), LET_ERR_INVALID);
  must_accept(&w, &health); /* was on its way */
  let_arena_fini(&a);
  let_ipc_conversation_free(w.c);
  let_ipc_conversation_free(NULL);
}

/* Every allocation fails in turn: what was noted is whole or nothing. */
static void test_out_of_memory(void **state) {
  (void)state;
  let_arena a;
  let_rng r;
  let_rng_seed(&r, 4);
  let_arena_init(&a, &let_mem_libc);
  let_ipc_command init = make_init("d"), prepare = {.type = LET_IPC_PREPARE, .prepare = prepare_of(&r, &a, 64, 9)};
  let_ipc_event ready = make_ready("d");
  for (long i = 0;; i++) {
    let_mem_failing mem;
    let_error e = {0};
    let_mem_failing_init(&mem, i, 1);
    let_ipc_conversation *c = let_ipc_conversation_new(&mem.mem);
    let_err result = LET_ERR_NOMEM;
    if (c) {
      assert_int_equal(let_ipc_conversation_send(c, &init, &e), LET_OK);
      assert_int_equal(let_ipc_conversation_hear(c, &ready, &e), LET_OK);
      result = let_ipc_conversation_send(c, &prepare, &e);
      assert_int_equal(let_ipc_conversation_sets(c), result ? 0 : 1);
    }
    let_ipc_conversation_free(c);
    assert_int_equal(mem.live, 0);
    if (!result) break;
    assert_int_equal(result, LET_ERR_NOMEM);
  }
  let_arena_fini(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_beginning_and_end),
      cmocka_unit_test(test_histories),
      cmocka_unit_test(test_nonsense),
      cmocka_unit_test(test_out_of_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
