/* test: os ring device engine label: thread
 * Lanes that come up one by one, and sizes that are added while they serve. */
#include "worker/worker_test_rig.h"

static uint32_t sizes_in(const server *s, uint32_t lane, uint32_t model) { return model_in(s, lane, model)->n_sizes; }

/* Waits for a SIZE of lane set |g|; returns the size, negative when it failed. */
static int more(server *s, int g) {
  expect(event(s), LET_IPC_SIZE);
  assert_int_equal(number_of(s, s->last.size.set), g % SETS_MAX);
  int size = (int)s->last.size.time.size;
  return s->last.size.failed[0] ? -size : size;
}

/* The next event |want|, whatever was said before it. */
static void await(server *s, int want) {
  int got;
  while ((got = event(s)) && got != want) assert_true(got == LET_IPC_SIZE || got == LET_IPC_PREPARED);
  assert_int_not_equal(got, GONE);
}

static let_err run_batch(server *s, int number, uint32_t lane, uint32_t size, uint32_t rows) {
  let_done_msg d;
  uint32_t base = base_of(number, lane);
  let_record *r = request(s, base, rows, size);
  let_batch_msg m = batch(base, size, 0, size, rows, 1);
  assert_true(let_lane_submit(s->lanes[number % SETS_MAX], lane, &m));
  assert_true(outcome(s, number, lane, &d));
  if (!d.status) check_outputs(s, r);
  return d.status;
}

static void test_lanes_come_one_by_one(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  start(&s, NULL, "cpu");
  expect_ready(&s);
  s.all = true;
  cost_us[0] = 3000;
  cost_us[1] = 0;
  cost_us[2] = 200;
  static const int order[] = {11, 12, 10};
  expect(prepare(&s, 1, 3, &m, 1), LET_IPC_LANE_UP);
  for (int i = 0; i < 3; i++) {
    if (i > 0) expect(event(&s), LET_IPC_LANE_UP);
    assert_int_equal(10 + s.last.lane_up.lane, order[i]);
    assert_int_equal(s.last.lane_up.model[0].n_sizes, 3);
    assert_int_equal(run_batch(&s, 1, (uint32_t)order[i] - 10, 8, 5), LET_OK); /* it serves already */
  }
  expect(event(&s), LET_IPC_PREPARED);
  assert_int_equal(s.n_up[1], 3);
  memset(cost_us, 0, sizeof cost_us);
  assert_int_equal(finish(&s), 0);
}

/* A lane serves with the size that is needed; the others come while it is at work. */
static void test_adds_sizes_while_serving(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.null_us = 20000;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 2, &m, 1), LET_IPC_PREPARED);
  assert_int_equal(sizes_in(&s, 0, 0), 1);
  assert_int_equal(run_batch(&s, 1, 0, 8, 5), LET_ERR_INTERNAL); /* the server does not send what is not ready */
  for (uint32_t k = 0; k < 4; k++) {
    assert_int_equal(run_batch(&s, 1, k & 1, 4, 3), LET_OK);
    assert_int_equal(more(&s, 1), k < 2 ? 1 : 8); /* both get the second size before any gets the third */
    assert_true(s.last.size.time.p50 >= 20 * LET_MS);
    assert_true(s.last.size.time.beside); /* batches ran meanwhile */
    assert_int_equal(run_batch(&s, 1, k & 1, k < 2 ? 1 : 8, 1), LET_OK);
  }
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* Single requests would be padded to a batch that takes too long for the SLO: one more size is needed. */
static void test_too_slow_for_padding(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("quick", 8), null_model("slow", 8)};
  m[0].null_us = m[1].null_us = 5000;
  m[0].slo = LET_S;
  m[1].slo = 9 * LET_MS;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 1, m, 2), LET_IPC_PREPARED);
  assert_int_equal(sizes_in(&s, 0, 0), 1);
  assert_int_equal(sizes_in(&s, 0, 1), 2);
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* Change of plan, its rollback, and the end, while a lane set adds sizes. */
static void test_changes_while_adding_sizes(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.null_us = 10000;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  for (int g = 1; g <= 6; g++) {
    ask(&s, g, 2, &m, 1);
    await(&s, LET_IPC_PREPARED);
    if (g % 3 == 0) await(&s, LET_IPC_SIZE);
    if (g == 1) continue;
    assert_int_equal(run_batch(&s, g - 1, 0, 4, 2), LET_OK); /* until it is retired, the old one serves */
    retire(&s, g - 1);
    await(&s, LET_IPC_RETIRED);
    assert_int_equal(run_batch(&s, g, 1, 4, 2), LET_OK);
  }
  while (s.added[6 % SETS_MAX] < 4) assert_int_not_equal(event(&s), GONE);
  needed = 2;
  ask(&s, 7, 2, &m, 1); /* and taken back, before it is ready or after */
  retire(&s, 7);
  await(&s, LET_IPC_RETIRED);
  assert_int_equal(run_batch(&s, 6, 0, 8, 8), LET_OK);
  needed = 1;
  ask(&s, 8, 1, &m, 1); /* the end comes while it adds sizes */
  await(&s, LET_IPC_PREPARED);
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* 64 gpu-lets are all that a device has numbers for: the second lane set adds sizes once the first is gone, and loses
 * nothing. */
static void test_adds_sizes_when_there_is_room(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 30, &m, 1), LET_IPC_PREPARED);
  while (s.added[1] < 60) assert_true(more(&s, 1) > 0);
  expect(prepare(&s, 2, 3, &m, 1), LET_IPC_PREPARED);
  assert_true(more(&s, 2) == 1); /* one more number is free */
  retire(&s, 1);
  expect(event(&s), LET_IPC_RETIRED);
  while (s.added[2] < 6) assert_true(more(&s, 2) > 0);
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

static void test_killed_while_adding_sizes(void **state) {
  (void)state;
  static const char *const faults[] = {"prepare:2", "prepare:3"};
  let_model m = null_model("a", 8);
  for (int i = 0; i < 2; i++) {
    server s;
    start(&s, faults[i], "cpu");
    expect_ready(&s);
    needed = 1;
    expect(prepare(&s, 1, 1, &m, 1), LET_IPC_PREPARED);
    if (i == 1) assert_int_equal(more(&s, 1), 1);
    assert_int_equal(event(&s), GONE);
    needed = 0;
    int status = finish(&s);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
}

static let_dur p50_of(const server *s, size_t size) { return model_in(s, 0, 0)->size[size].p50; }

/* A -> B -> A: a latency is not measured again on as many granules, and a model without users is loaded again. */
static void test_measures_once(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  m[0].null_us = 3000;
  uint32_t cores[LET_CPU_MAX];
  int wide = let_cpu_allowed(cores) > 1 ? 2 : 1;
  let_dur first[3], other[3];
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m[0], 1), LET_IPC_PREPARED);
  for (size_t i = 0; i < 3; i++) first[i] = p50_of(&s, i);
  retire(&s, 1);
  expect(event(&s), LET_IPC_RETIRED);
  granules = wide;
  expect(prepare(&s, 2, 1, &m[0], 1), LET_IPC_PREPARED);
  granules = 1;
  for (size_t i = 0; i < 3; i++) other[i] = p50_of(&s, i);
  if (wide > 1) assert_true(first[0] != other[0] || first[1] != other[1] || first[2] != other[2]);
  expect(prepare(&s, 3, 1, &m[1], 1), LET_IPC_PREPARED);
  retire(&s, 2);
  expect(event(&s), LET_IPC_RETIRED);
  expect(prepare(&s, 4, 1, &m[0], 1), LET_IPC_PREPARED);
  for (size_t i = 0; i < 3; i++) assert_true(p50_of(&s, i) == first[i]);
  assert_int_equal(run_batch(&s, 4, 0, 8, 8), LET_OK);
  assert_int_equal(finish(&s), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lanes_come_one_by_one),
      cmocka_unit_test(test_adds_sizes_while_serving),
      cmocka_unit_test(test_too_slow_for_padding),
      cmocka_unit_test(test_changes_while_adding_sizes),
      cmocka_unit_test(test_adds_sizes_when_there_is_room),
      cmocka_unit_test(test_killed_while_adding_sizes),
      cmocka_unit_test(test_measures_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
