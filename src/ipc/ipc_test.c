/* test: base */
#include "ipc/ipc_test_rig.h"

#include <math.h>

/* ---- equality, field by field ------------------------------------------------------------------------------------ */

static void same_time(const let_ipc_size_time *a, const let_ipc_size_time *b) {
  assert_int_equal(a->size, b->size);
  assert_true(a->p50 == b->p50 && a->p99 == b->p99 && a->beside == b->beside);
}

static void same_prepare(const let_ipc_prepare *a, const let_ipc_prepare *b) {
  assert_true(let_lane_set_id_eq(a->set, b->set) && a->beside == b->beside && a->n_lanes == b->n_lanes);
  for (uint32_t i = 0; i < a->n_lanes; i++) {
    const let_ipc_lane *x = &a->lane[i], *y = &b->lane[i];
    assert_true(let_gpulet_id_eq(x->gpulet, y->gpulet) && x->first == y->first && x->granules == y->granules);
    assert_true(x->shared == y->shared && x->cost == y->cost && x->n_models == y->n_models);
    for (uint32_t k = 0; k < x->n_models; k++) {
      const let_ipc_variant *v = &x->model[k], *w = &y->model[k];
      assert_memory_equal(v->model, w->model, sizeof *v->model); /* padding too: models are compared byte by byte */
      assert_int_equal(v->n_sizes, w->n_sizes);
      assert_memory_equal(v->size, w->size, sizeof v->size);
      assert_true(v->needed == w->needed && v->slo == w->slo && v->planned == w->planned);
    }
  }
}

static void same_command(const let_ipc_command *a, const let_ipc_command *b) {
  assert_int_equal(a->type, b->type);
  if (a->type == LET_IPC_INIT) {
    assert_string_equal(a->init.device, b->init.device);
    assert_string_equal(a->init.profile_dir, b->init.profile_dir);
    assert_string_equal(a->init.plugin_dir, b->init.plugin_dir);
    assert_true(a->init.arena_bytes == b->init.arena_bytes && a->init.records == b->init.records);
    assert_true(a->init.spin == b->init.spin);
  } else if (a->type == LET_IPC_PREPARE) {
    same_prepare(&a->prepare, &b->prepare);
  } else if (a->type == LET_IPC_RETIRE) {
    assert_true(let_lane_set_id_eq(a->retire.set, b->retire.set));
  }
}

static void same_lane_up(const let_ipc_lane_up *a, const let_ipc_lane_up *b) {
  assert_true(let_lane_set_id_eq(a->set, b->set) && a->lane == b->lane && a->n_models == b->n_models);
  for (uint32_t i = 0; i < a->n_models; i++) {
    const let_ipc_model_report *x = &a->model[i], *y = &b->model[i];
    assert_string_equal(x->name, y->name);
    assert_string_equal(x->eager, y->eager);
    assert_true(x->memory_bytes == y->memory_bytes && x->output_row_bytes == y->output_row_bytes);
    assert_true(x->took == y->took && x->n_sizes == y->n_sizes);
    for (uint32_t k = 0; k < x->n_sizes; k++) same_time(&x->size[k], &y->size[k]);
  }
}

static void same_health(const let_ipc_health *a, const let_ipc_health *b) {
  assert_int_equal(a->n_lanes, b->n_lanes);
  for (uint32_t i = 0; i < a->n_lanes; i++) {
    assert_true(let_lane_set_id_eq(a->lane[i].set, b->lane[i].set) && a->lane[i].lane == b->lane[i].lane);
    assert_true(a->lane[i].busy == b->lane[i].busy && a->lane[i].batches == b->lane[i].batches);
  }
  assert_true(a->memory_bytes == b->memory_bytes && a->utilization == b->utilization && a->power_w == b->power_w);
  assert_true(a->memory_used == b->memory_used && a->memory_total == b->memory_total);
  assert_string_equal(a->uuid, b->uuid);
}

static void same_event(const let_ipc_event *a, const let_ipc_event *b) {
  assert_int_equal(a->type, b->type);
  switch (a->type) {
  case LET_IPC_READY:
    assert_true(a->ready.pid == b->ready.pid && a->ready.sms == b->ready.sms);
    assert_true(a->ready.granules == b->ready.granules && a->ready.granule_sms == b->ready.granule_sms);
    assert_true(a->ready.memory_bytes == b->ready.memory_bytes);
    assert_string_equal(a->ready.device, b->ready.device);
    assert_string_equal(a->ready.device_type, b->ready.device_type);
    break;
  case LET_IPC_PROGRESS:
    assert_true(let_lane_set_id_eq(a->progress.set, b->progress.set));
    assert_true(a->progress.done == b->progress.done && a->progress.total == b->progress.total);
    assert_string_equal(a->progress.model, b->progress.model);
    break;
  case LET_IPC_LANE_UP: same_lane_up(&a->lane_up, &b->lane_up); break;
  case LET_IPC_PREPARED: assert_true(let_lane_set_id_eq(a->prepared.set, b->prepared.set)); break;
  case LET_IPC_SIZE:
    assert_true(let_lane_set_id_eq(a->size.set, b->size.set) && a->size.lane == b->size.lane);
    assert_true(a->size.model == b->size.model && a->size.memory_bytes == b->size.memory_bytes);
    same_time(&a->size.time, &b->size.time);
    assert_string_equal(a->size.failed, b->size.failed);
    break;
  case LET_IPC_FAILED:
    assert_true(let_lane_set_id_eq(a->failed.set, b->failed.set) && a->failed.lane == b->failed.lane);
    assert_int_equal(a->failed.code, b->failed.code);
    assert_string_equal(a->failed.model, b->failed.model);
    assert_string_equal(a->failed.text, b->failed.text);
    break;
  case LET_IPC_RETIRED: assert_true(let_lane_set_id_eq(a->retired.set, b->retired.set)); break;
  case LET_IPC_HEALTH: same_health(&a->health, &b->health); break;
  case LET_IPC_ERROR: assert_string_equal(a->error.text, b->error.text); break;
  case LET_IPC_EVENTS_END: fail();
  }
}

/* ---- whatever comes ---------------------------------------------------------------------------------------------- */

static let_str view(const let_buf *b) { return (let_str){b->p, b->n}; }

/* Decodes as both; what is accepted is within its limits, and what is refused says why. */
static void judge(let_str bytes) {
  let_arena a;
  let_error e = {0};
  let_ipc_command command;
  let_ipc_event event;
  let_arena_init(&a, &let_mem_libc);
  let_err r = let_ipc_command_decode(bytes, &a, &command, &e);
  assert_true(r == LET_OK || (r == LET_ERR_INVALID && strncmp(e.text, "malformed ", 10) == 0));
  if (!r) assert_int_equal(let_ipc_command_check(&command, &e), LET_OK);
  r = let_ipc_event_decode(bytes, &a, &event, &e);
  assert_true(r == LET_OK || (r == LET_ERR_INVALID && strncmp(e.text, "malformed ", 10) == 0));
  if (!r) assert_int_equal(let_ipc_event_check(&event, &e), LET_OK);
  let_arena_fini(&a);
}

static void refuse(let_str bytes) {
  let_arena a;
  let_error e = {0};
  let_ipc_command command;
  let_ipc_event event;
  let_arena_init(&a, &let_mem_libc);
  assert_int_equal(let_ipc_command_decode(bytes, &a, &command, &e), LET_ERR_INVALID);
  assert_int_equal(let_ipc_event_decode(bytes, &a, &event, &e), LET_ERR_INVALID);
  assert_true(e.text[0]);
  let_arena_fini(&a);
}

static void set_length(char *p, size_t n) {
  for (int i = 0; i < 4; i++) p[8 + i] = (char)((n - LET_IPC_HEADER) >> (8 * i));
}

/* Every truncation, with the length that the header said and with a length that fits; and a byte too many. */
static void truncate_it(const let_buf *b) {
  char *copy = NULL;
  for (size_t n = 0; n < b->n; n++) {
    copy = realloc(copy, n + 1); /* of exactly that size: a sanitizer sees every read beyond it */
    memcpy(copy, b->p, n);
    refuse((let_str){copy, n});
    if (n < LET_IPC_HEADER) continue;
    set_length(copy, n);
    refuse((let_str){copy, n});
  }
  copy = realloc(copy, b->n + 1);
  memcpy(copy, b->p, b->n);
  copy[b->n] = 0;
  set_length(copy, b->n + 1);
  refuse((let_str){copy, b->n + 1});
  free(copy);
}

static void corrupt_it(const let_buf *b, let_rng *r) {
  static const unsigned char values[] = {0, 1, 2, 0x7f, 0x80, 0xff};
  for (size_t at = 0; at < b->n; at++) {
    char was = b->p[at];
    for (size_t i = 0; i < sizeof values + 2; i++) {
      b->p[at] = (char)(i < sizeof values ? values[i] : let_rng_u64(r));
      judge(view(b));
    }
    b->p[at] = was;
  }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void test_commands(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, seed_of(1));
  for (int round = 0; round < 200; round++)
    for (let_ipc_command_type t = LET_IPC_INIT; t < LET_IPC_COMMANDS_END; t++) {
      let_arena a, b;
      let_buf out;
      let_error e = {0};
      let_ipc_command back;
      let_arena_init(&a, &let_mem_libc);
      let_arena_init(&b, &let_mem_libc);
      let_buf_init(&out, &let_mem_libc);
      let_ipc_command m = command_of(&r, &a, t);
      if (let_ipc_command_encode(&m, &out, &e)) fail_msg("%s", e.text);
      if (let_ipc_command_decode(view(&out), &b, &back, &e)) fail_msg("%s", e.text);
      same_command(&m, &back);
      assert_int_equal(let_ipc_command_fds(&back), t == LET_IPC_INIT      ? 1
                                                   : t == LET_IPC_PREPARE ? 2 + m.prepare.n_lanes
                                                                          : 0);
      let_ipc_event other;
      assert_int_equal(let_ipc_event_decode(view(&out), &b, &other, &e), LET_ERR_INVALID);
      if (round < 2) truncate_it(&out);
      if (round < 2) corrupt_it(&out, &r);
      let_buf_fini(&out);
      let_arena_fini(&a);
      let_arena_fini(&b);
    }
}

static void test_events(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, seed_of(2));
  for (int round = 0; round < 300; round++)
    for (let_ipc_event_type t = LET_IPC_READY; t < LET_IPC_EVENTS_END; t++) {
      let_arena a, b;
      let_buf out;
      let_error e = {0};
      let_ipc_event back;
      let_arena_init(&a, &let_mem_libc);
      let_arena_init(&b, &let_mem_libc);
      let_buf_init(&out, &let_mem_libc);
      let_ipc_event m = event_of(&r, &a, t);
      if (let_ipc_event_encode(&m, &out, &e)) fail_msg("%s", e.text);
      if (let_ipc_event_decode(view(&out), &b, &back, &e)) fail_msg("%s", e.text);
      same_event(&m, &back);
      let_ipc_command other;
      assert_int_equal(let_ipc_command_decode(view(&out), &b, &other, &e), LET_ERR_INVALID);
      if (round < 3) truncate_it(&out);
      if (round < 3) corrupt_it(&out, &r);
      let_buf_fini(&out);
      let_arena_fini(&a);
      let_arena_fini(&b);
    }
}

/* Several bytes at once, and bytes that were never a message. */
static void test_noise(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, seed_of(3));
  for (int round = 0; round < 3000; round++) {
    let_arena a;
    let_buf out;
    let_arena_init(&a, &let_mem_libc);
    let_buf_init(&out, &let_mem_libc);
    let_ipc_event m = event_of(&r, &a, (let_ipc_event_type)between(&r, LET_IPC_READY, LET_IPC_EVENTS_END - 1));
    assert_int_equal(let_ipc_event_encode(&m, &out, NULL), LET_OK);
    for (uint32_t k = between(&r, 1, 6); k; k--) {
      uint32_t header = round & 1 ? 0 : LET_IPC_HEADER;
      if (out.n > header) out.p[header + below(&r, (uint32_t)out.n - header)] = (char)let_rng_u64(&r);
    }
    judge(view(&out));
    let_buf_fini(&out);
    let_arena_fini(&a);
  }
}

static void expect_refusal(const let_ipc_event *m, const char *want) {
  let_error e = {0};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  assert_int_equal(let_ipc_event_check(m, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, want);
  assert_int_equal(let_ipc_event_encode(m, &out, &e), LET_ERR_INVALID);
  assert_int_equal(out.n, 0);
  let_buf_fini(&out);
}

static void test_ranges(void **state) {
  (void)state;
  let_ipc_model_report report = {.name = "a", .n_sizes = 2, .size = {{.size = 4}, {.size = 8, .p99 = 5}}};
  let_ipc_event up = {.type = LET_IPC_LANE_UP, .lane_up = {.set = {7}, .n_models = 1, .model = &report}};
  assert_int_equal(let_ipc_event_check(&up, NULL), LET_OK);
  report.size[1].size = LET_BATCH_MAX + 1;
  expect_refusal(&up, "malformed LANE_UP message: field 'model[0].size[1].size' is 257, not 1 to 256");
  report.size[1].size = 0;
  expect_refusal(&up, "malformed LANE_UP message: field 'model[0].size[1].size' is 0, not 1 to 256");
  report.size[1] = (let_ipc_size_time){.size = 8, .p99 = -1};
  expect_refusal(&up, "malformed LANE_UP message: field 'model[0].size[1].p99' is -1, not 0 to 36028797018963968");
  report.size[1].p99 = 0;
  report.memory_bytes = LET_IPC_MEMORY_MAX;
  expect_refusal(&up, "malformed LANE_UP message: field 'model[0].memory_bytes' is 1125899906842624, not 0 to "
                      "1125899906842623");
  report.memory_bytes = 0;
  report.n_sizes = LET_SIZES_MAX + 1;
  expect_refusal(&up, "malformed LANE_UP message: field 'model[0].n_sizes' is 33, not 1 to 32");
  let_ipc_event health = {.type = LET_IPC_HEALTH, .health = {.power_w = (double)NAN}};
  expect_refusal(&health, "malformed HEALTH message: field 'power_w' is nan, not -1 to 1e+06");
  health.health = (let_ipc_health){.utilization = (double)INFINITY};
  expect_refusal(&health, "malformed HEALTH message: field 'utilization' is inf, not -1 to 1");
  let_ipc_event size = {.type = LET_IPC_SIZE, .size = {.set = {1}, .time = {.size = 1, .p50 = 1}, .failed = "no"}};
  expect_refusal(&size, "malformed SIZE message: field 'time' is given for a size that failed");
  let_ipc_event failed = {.type = LET_IPC_FAILED, .failed = {.set = {1}}};
  expect_refusal(&failed, "malformed FAILED message: field 'code' is 0, not 1 to 19");
  let_ipc_event progress = {.type = LET_IPC_PROGRESS, .progress = {.set = {1}, .done = 3, .total = 2}};
  expect_refusal(&progress, "malformed PROGRESS message: field 'done' is 3, not 0 to 2");

  let_model model = {.name = "a"};
  let_ipc_variant twice = {.model = &model, .n_sizes = 2, .size = {4, 4}, .needed = 1};
  let_ipc_lane lane = {.granules = 1, .n_models = 1, .model = &twice};
  let_ipc_command prepare = {.type = LET_IPC_PREPARE, .prepare = {.set = {1}, .n_lanes = 1, .lane = &lane}};
  let_error e = {0};
  assert_int_equal(let_ipc_command_check(&prepare, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "malformed PREPARE message: field 'lane[0].model[0].size' names batch size 4 twice");
  twice.size[1] = 8;
  assert_int_equal(let_ipc_command_check(&prepare, &e), LET_OK);
  prepare.prepare.n_lanes = LET_IPC_LANES_MAX + 1;
  assert_int_equal(let_ipc_command_check(&prepare, &e), LET_ERR_INVALID);
  let_ipc_command nameless = {.type = LET_IPC_INIT, .init = {.device = "", .arena_bytes = 1, .records = 1}};
  assert_int_equal(let_ipc_command_check(&nameless, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "malformed INIT message: field 'device' is empty");
}

/* What a worker quotes may be anything; what the server reads is a sentence. */
static void test_sentences(void **state) {
  (void)state;
  let_arena a;
  let_buf out;
  let_error e = {0};
  let_ipc_event back;
  char longest[2 * LET_IPC_TEXT_MAX] = "";
  let_arena_init(&a, &let_mem_libc);
  let_buf_init(&out, &let_mem_libc);
  memset(longest, 'x', LET_IPC_TEXT_MAX - 2);
  strcat(longest, "\xe2\x82\xac and more");
  static const char *const texts[][2] = {{"plain", "plain"},
                                         {"a\x1b[31mred", "a?[31mred"},
                                         {"\xff\xfe caf\xc3\xa9", "?? caf\xc3\xa9"},
                                         {"\xc0\xaf\xed\xa0\x80", "?????"},
                                         {"line\n\ttab", "line\n\ttab"}};
  for (size_t i = 0; i <= sizeof texts / sizeof *texts; i++) {
    bool last = i == sizeof texts / sizeof *texts;
    let_ipc_event m = {.type = LET_IPC_ERROR, .error = {last ? longest : texts[i][0]}};
    let_buf_clear(&out);
    assert_int_equal(let_ipc_event_encode(&m, &out, &e), LET_OK);
    assert_int_equal(let_ipc_event_decode(view(&out), &a, &back, &e), LET_OK);
    if (last) assert_int_equal(strlen(back.error.text), LET_IPC_TEXT_MAX - 2); /* no half character at the end */
    else assert_string_equal(back.error.text, texts[i][1]);
  }
  out.p[out.n - 1] = 0;
  assert_int_equal(let_ipc_event_decode(view(&out), &a, &back, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "malformed ERROR message: field 'text' has a zero byte in it");
  out.p[out.n - 1] = '\x1b';
  assert_int_equal(let_ipc_event_decode(view(&out), &a, &back, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "malformed ERROR message: field 'text' is not a sentence in UTF-8");
  let_buf_fini(&out);
  let_arena_fini(&a);
}

/* Counts that promise more than there is allocate nothing; the most that is possible stays below its bound. */
static void test_allocation(void **state) {
  (void)state;
  let_mem_failing mem;
  let_arena a;
  let_buf out;
  let_error e = {0};
  let_ipc_command back;
  let_model model = {.name = "a"};
  let_ipc_variant one = {.model = &model, .n_sizes = 1, .size = {1}, .needed = 1};
  let_ipc_variant *many = calloc(LET_IPC_MODELS_MAX, sizeof *many);
  for (int i = 0; i < LET_IPC_MODELS_MAX; i++) many[i] = one;
  let_ipc_lane lane = {.granules = 1, .n_models = LET_IPC_MODELS_MAX, .model = many};
  let_ipc_command m = {.type = LET_IPC_PREPARE, .prepare = {.set = {1}, .n_lanes = 1, .lane = &lane}};
  let_buf_init(&out, &let_mem_libc);
  assert_int_equal(let_ipc_command_encode(&m, &out, &e), LET_OK);
  let_mem_failing_init(&mem, -1, 0);
  let_arena_init(&a, &mem.mem);
  assert_int_equal(let_ipc_command_decode(view(&out), &a, &back, &e), LET_OK);
  assert_true(mem.live < LET_IPC_DECODED_MAX);
  print_message("%zu bytes of %d models take %ld decoded\n", out.n, LET_IPC_MODELS_MAX, mem.live);
  let_arena_fini(&a);
  /* The count of models lies behind set, beside, n_lanes and the lane's numbers. */
  size_t count = LET_IPC_HEADER + 8 + 1 + 4 + 4 + 4 + 4 + 1 + 8;
  assert_memory_equal(out.p + count, "\0\4\0\0", 4);
  size_t n = count + 4 + 500;
  set_length(out.p, n);
  assert_int_equal(let_ipc_command_decode((let_str){out.p, n}, &a, &back, &e), LET_ERR_INVALID);
  assert_string_equal(e.text,
                      "malformed PREPARE message: field 'lane[0].n_models' is a list of 1024, more than the message "
                      "can hold");
  assert_true(mem.live < 64 << 10);
  let_arena_fini(&a);
  lane.n_models = 3;
  out.n = 0;
  assert_int_equal(let_ipc_command_encode(&m, &out, &e), LET_OK);
  for (long i = 0;; i++) { /* each allocation fails in turn */
    let_mem_failing_init(&mem, i, 1);
    let_err r = let_ipc_command_decode(view(&out), &a, &back, &e);
    let_arena_fini(&a);
    assert_int_equal(mem.live, 0);
    if (!r) break;
    assert_int_equal(r, LET_ERR_NOMEM);
  }
  free(many);
  let_buf_fini(&out);
}

static void test_header(void **state) {
  (void)state;
  let_arena a;
  let_buf out;
  let_error e = {0};
  let_ipc_command m = {.type = LET_IPC_STOP}, back;
  let_arena_init(&a, &let_mem_libc);
  let_buf_init(&out, &let_mem_libc);
  assert_int_equal(let_ipc_command_encode(&m, &out, &e), LET_OK);
  assert_int_equal(out.n, LET_IPC_HEADER);
  assert_memory_equal(out.p, "LET1\1\0\4\0\0\0\0\0", LET_IPC_HEADER);
  out.p[4] = 2;
  assert_int_equal(let_ipc_command_decode(view(&out), &a, &back, &e), LET_ERR_INVALID);
  assert_string_equal(e.text,
                      "malformed message: protocol version 2, not 1: the server and the worker are different builds");
  out.p[4] = 1;
  out.p[6] = 99;
  assert_int_equal(let_ipc_command_decode(view(&out), &a, &back, &e), LET_ERR_INVALID);
  assert_string_equal(e.text, "malformed message: no command has type 99");
  assert_string_equal(let_ipc_command_name((let_ipc_command_type)99), "unknown");
  assert_string_equal(let_ipc_event_name(LET_IPC_ERROR), "ERROR");
  let_buf_fini(&out);
  let_arena_fini(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_header),     cmocka_unit_test(test_commands), cmocka_unit_test(test_events),
      cmocka_unit_test(test_noise),      cmocka_unit_test(test_ranges),   cmocka_unit_test(test_sentences),
      cmocka_unit_test(test_allocation),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
