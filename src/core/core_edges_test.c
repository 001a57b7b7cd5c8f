/* Numbers at their ends, and rules that only a case made for them shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/core_test_rig.h"

/* A batch said to begin in the future would keep its gpu-let busy until then. */
static void test_a_start_in_the_future_is_not_believed(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 20 * LET_MS));
  let_core_route r = route(0, 0, 4);
  let_error e;
  let_request *got[LET_BATCH_MAX];
  uint32_t n;
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{0}, 2}}, 1, &r, 1, 0, &e), LET_OK);
  for (int i = 0; i < 5; i++) {
    let_time now = LET_S + i * 100 * LET_MS;
    assert_int_equal(let_core_arrive(c, request(0, now, 20 * LET_MS), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    assert_int_equal(act.kind, LET_ACTION_SUBMIT);
    now += 2 * LET_MS;
    assert_true(let_core_batch_done(c, act.batch, now + 3600 * LET_S, now + 7200 * LET_S, now, got, &n));
    assert_int_equal(n, 1);
    check(c);
  }
  let_core_free(c);
}

/* The plan says 1 ns and it takes 1 s: what follows for the other sizes would be more than a let_dur holds. */
static void test_predictions_have_a_limit(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 0));
  let_core_route r = {.batch = 1, .n_sizes = 3, .size = {1, 2, 200}, .predict = {1, 3600 * LET_S, 3600 * LET_S}};
  routes(c, 1, &r, 1, 0);
  let_request *q = request(0, LET_S, 0);
  q->deadline = LET_NEVER;
  assert_int_equal(let_core_arrive(c, q, LET_S), LET_OK);
  assert_true(let_core_step(c, LET_S, &act));
  assert_int_equal(done(c, act.batch, LET_S, 2 * LET_S), 1);
  assert_int_equal(let_core_predict(c, ON(0), 0, 1), LET_S);
  assert_int_equal(let_core_predict(c, ON(0), 0, 2), 2 * LET_S); /* twice the smaller one */
  assert_int_equal(let_core_predict(c, ON(0), 0, 200), 200 * LET_S);
  let_core_free(c);
}

/* Of a neighbour with an absurd rate no batch can be run in time, however the sum is taken. */
static void test_an_absurd_rate_does_not_overflow(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  declare(c, 1, model(1, LET_S));
  let_core_route r[2] = {route(0, 0, 4), route(1, 0, 4)};
  r[1].rate = 1e300;
  routes(c, 1, r, 2, 0);
  for (int i = 0; i < 4; i++) assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_OK);
  assert_int_equal(let_core_arrive(c, request(1, 0, LET_S / 2), 0), LET_OK);
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.model, 1); /* by deadline: the full batch of model 0 does not go first */
  let_core_free(c);
}

/* A deadline beyond all uptime is none; nothing is subtracted from it. */
static void test_a_deadline_at_the_end_of_time(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  let_core_route r = {.batch = 1, .n_sizes = 2, .size = {1, 256}, .predict = {LET_MS, 250 * LET_MS}};
  routes(c, 1, &r, 1, 0);
  let_time now = LET_MS;
  for (int i = 0; i < 3; i++) { /* of the large size the quickest is 2 s below the median: more than the uptime */
    assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    let_dur took = i == 0 ? LET_MS : 9 * LET_MS;
    now += took;
    assert_int_equal(done(c, act.batch, took, now), 1);
  }
  assert_int_equal(let_core_predict(c, ON(0), 0, 256), 9 * 250 * LET_MS);
  assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
  assert_true(let_core_step(c, now, &act));
  let_request *q = request(0, now, 0), *last = request(0, now, 0);
  q->deadline = INT64_MAX - 1;
  last->deadline = INT64_MAX;
  assert_int_equal(let_core_arrive(c, q, now), LET_OK);
  assert_int_equal(let_core_arrive(c, last, now), LET_OK);
  assert_false(let_core_step(c, now, &act));
  check(c);
  let_core_free(c);
}

/* What a size is said to take at the least is never more than what it is said to take. */
static void test_the_quickest_is_not_slower_than_predicted(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  let_core_route r = {.batch = 1, .n_sizes = 2, .size = {1, 8}, .predict = {LET_MS, 3600 * LET_S}};
  routes(c, 1, &r, 1, 0);
  ran(c, 0, 1, LET_S);
  assert_int_equal(let_core_predict(c, ON(0), 0, 8), 8 * LET_MS); /* eight small ones do the same */
  let_request *q = request(0, LET_S, LET_S);
  q->rows = 8;
  assert_int_equal(let_core_arrive(c, q, LET_S), LET_OK);
  let_core_free(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_start_in_the_future_is_not_believed), cmocka_unit_test(test_predictions_have_a_limit),
      cmocka_unit_test(test_an_absurd_rate_does_not_overflow), cmocka_unit_test(test_a_deadline_at_the_end_of_time),
      cmocka_unit_test(test_the_quickest_is_not_slower_than_predicted)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
