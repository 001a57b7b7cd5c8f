/* Rules of the core that only a case made for them shows: each case fails if its rule is turned round or left out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/core_test_rig.h"

static let_request *arrive(let_core *c, uint32_t m, let_time now, let_dur slo) {
  let_request *r = request(m, now, slo);
  assert_int_equal(let_core_arrive(c, r, now), LET_OK);
  return r;
}

static void submits(let_core *c, let_time now, uint32_t model, uint32_t rows) {
  assert_true(let_core_step(c, now, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.model, model);
  assert_int_equal(act.rows, rows);
}

/* With room for two batches, after three batches of one row that were handed over in 0.5 ms. */
static let_core *with_handover(void) {
  let_core *c = core(100);
  declare(c, 0, model(0, 40 * LET_MS));
  let_core_route r = route(0, 0, 4);
  let_error e;
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{0}, 2}}, 1, &r, 1, 0, &e), LET_OK);
  for (int i = 0; i < 3; i++) {
    let_time t = i * 10 * LET_MS;
    arrive(c, 0, t, 40 * LET_MS);
    submits(c, t, 0, 1);
    assert_int_equal(done(c, act.batch, 2 * LET_MS, t + 5 * LET_MS / 2), 1);
  }
  return c;
}

/* Two idle gpu-lets share a model's requests as their rates were planned. */
static void test_idle_gpulets_share_by_planned_rate(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 40 * LET_MS));
  let_core_route r[2] = {route(0, 0, 4), route(0, 1, 4)};
  r[0].rate = 100;
  r[1].rate = 300;
  routes(c, 2, r, 2, 0);
  uint32_t on[2] = {0};
  for (int i = 0; i < 400; i++) {
    let_time t = LET_S + i * 5 * LET_MS / 2;
    n_pool = 0;
    arrive(c, 0, t, 40 * LET_MS);
    submits(c, t, 0, 1);
    on[act.gpulet.n]++;
    assert_int_equal(done(c, act.batch, 2 * LET_MS, t + 2 * LET_MS), 1);
  }
  print_message("%u and %u of 400 requests, planned 100 and 300\n", on[0], on[1]);
  assert_in_range(on[0], 85, 120);
  let_core_free(c);
}

/* A batch that waits for more requests starts while its first request can still be in time: 2 ms to run, an eighth of
 * that in reserve, 0.5 ms to hand over. A full queue ends the wait. */
static void test_waiting_ends_before_the_slack_does(void **state) {
  (void)state;
  let_core *c = with_handover();
  models[0].max_queue_delay = 18 * LET_MS;
  let_time t = 100 * LET_MS;
  arrive(c, 0, t, 20 * LET_MS);
  assert_false(let_core_step(c, t, &act));
  assert_int_equal(let_core_wake(c), t + 17250 * LET_US);
  let_core_free(c);
  c = core(3);
  declare(c, 0, model(0, 40 * LET_MS));
  models[0].max_queue_delay = 18 * LET_MS;
  routes(c, 1, (let_core_route[]){route(0, 0, 4)}, 1, 0);
  for (int i = 0; i < 3; i++) {
    assert_false(let_core_step(c, 0, &act));
    arrive(c, 0, 0, 40 * LET_MS);
  }
  submits(c, 0, 0, 3);
  let_core_free(c);
}

/* Beyond the planned size a batch leaves the other model's next request time to wait for it and to run: 13 ms less
 * twice 3 ms is enough for four rows and not for eight. A model without an SLO sets no such limit. */
static void test_a_large_batch_leaves_others_in_time(void **state) {
  (void)state;
  for (int slo = 0; slo < 2; slo++) {
    let_core *c = core(100);
    declare(c, 0, model(0, LET_S));
    declare(c, 1, model(1, slo ? 13 * LET_MS : 0));
    routes(c, 1, (let_core_route[]){route(0, 0, 2), route(1, 0, 2)}, 2, 0);
    for (int i = 0; i < 8; i++) arrive(c, 0, 0, LET_S);
    submits(c, 0, 0, slo ? 4 : 8);
    let_time t = slo ? 5 * LET_MS : 9 * LET_MS;
    assert_int_equal(done(c, act.batch, t, t), slo ? 4 : 8);
    if (slo) { /* what is first and too wide for that runs alone */
      let_request *wide = request(0, t, LET_S / 2);
      wide->rows = 8;
      assert_int_equal(let_core_arrive(c, wide, t), LET_OK);
      submits(c, t, 0, 8);
      assert_ptr_equal(act.request[0], wide);
    }
    let_core_free(c);
  }
}

/* Batches that are not full go by deadline, whichever model lags further behind its rate. */
static void test_small_batches_go_by_deadline(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  declare(c, 1, model(1, LET_S));
  let_core_route r[2] = {route(0, 0, 4), route(1, 0, 4)};
  r[0].rate = 10;
  r[1].rate = 500;
  routes(c, 1, r, 2, 0);
  arrive(c, 0, LET_S, 100 * LET_MS);
  arrive(c, 1, LET_S, 90 * LET_MS);
  submits(c, LET_S, 1, 1);
  let_core_free(c);
}

/* Model 1 sends more than its bucket of 32 holds. While it has run less than its rate it still goes by deadline; once
 * it has run more, a model within its plan goes first although its deadline is later. */
static void test_a_model_beyond_its_plan_goes_last(void **state) {
  (void)state;
  for (int ran_more = 0; ran_more < 2; ran_more++) {
    let_core *c = core(100);
    declare(c, 0, model(0, LET_S));
    declare(c, 1, model(1, LET_S));
    let_core_route r[2] = {route(0, 0, 8), route(1, 0, 8)};
    r[0].rate = r[1].rate = 1;
    routes(c, 1, r, 2, 0);
    let_time t = LET_S;
    let_request *many[40];
    for (int i = 0; i < 40; i++) many[i] = arrive(c, 1, t, 500 * LET_MS);
    for (int i = 0; ran_more && i < 3; i++, t += 9 * LET_MS) {
      submits(c, t, 1, 8);
      assert_int_equal(done(c, act.batch, 9 * LET_MS, t + 9 * LET_MS), 8);
    }
    for (int i = ran_more ? 24 : 0; i < 36; i++) assert_true(let_core_cancel(c, many[i]));
    arrive(c, 0, t, 800 * LET_MS);
    if (ran_more) submits(c, t, 0, 1);
    else submits(c, t, 1, 4);
    let_core_free(c);
  }
}

/* A request is refused on arrival once more rows wait before it than can run within its SLO; a gpu-let that is down
 * runs none. Before an idle gpu-let any number may wait: it decides itself. */
static void test_the_door_counts_rows_before(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  routes(c, 2, (let_core_route[]){route(0, 0, 8), route(0, 1, 8)}, 2, 0);
  let_core_gpulet_down(c, ON(1));
  let_time t = 20 * LET_MS;
  ran(c, 0, 8, t);
  for (int i = 0; i < 20; i++) arrive(c, 0, t, 9500 * LET_US);
  submits(c, t, 0, 8);
  for (uint32_t i = 8; i < 28; i++) (void)let_core_cancel(c, &pool[i]);
  assert_int_equal(let_core_queued(c, 0), 0);
  for (int i = 0; i < 8; i++) arrive(c, 0, t, 18500 * LET_US); /* 9 ms to wait, 9 ms for eight rows */
  let_request *r = request(0, t, 18500 * LET_US);
  assert_int_equal(let_core_arrive(c, r, t), LET_ERR_DEADLINE);
  assert_non_null(strstr(r->why, "8 rows wait before it"));
  let_core_free(c);
}

/* A deadline that a batch meets to the nanosecond is met; a nanosecond later the request expires. */
static void test_to_the_nanosecond(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, LET_S));
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  let_time t = 20 * LET_MS;
  ran(c, 0, 1, t);
  arrive(c, 0, t, 2 * LET_MS);
  submits(c, t, 0, 1);
  arrive(c, 0, t, 4 * LET_MS);
  assert_false(let_core_step(c, t, &act));
  assert_int_equal(let_core_wake(c), t + 2 * LET_MS + 1);
  assert_false(let_core_step(c, t + 2 * LET_MS, &act));
  assert_true(let_core_step(c, t + 2 * LET_MS + 1, &act));
  assert_int_equal(act.why, LET_ERR_DEADLINE);
  let_core_free(c);
}

static void batches(let_core *c, uint32_t n, uint32_t rows, let_dur took, let_time *now) {
  for (uint32_t k = 0; k < n; k++) {
    n_pool = 0;
    for (uint32_t i = 0; i < rows; i++) arrive(c, 0, *now, LET_S);
    submits(c, *now, 0, rows);
    *now += took;
    assert_int_equal(done(c, act.batch, took, *now), rows);
  }
}

/* Two samples: the lesser. Sizes that disagree: the one that ran last is right, padding holds for the other. An old
 * figure worse than the plan gives way to the plan. */
static void test_predictions_of_sizes_agree(void **state) {
  (void)state;
  for (int order = 0; order < 4; order++) {
    let_core *c = core(100);
    declare(c, 0, model(0, LET_S));
    let_core_route r = {.batch = 8, .n_sizes = 2, .size = {1, 8}, .predict = {2 * LET_MS, 9 * LET_MS}};
    routes(c, 1, &r, 1, 0);
    let_time now = 10 * LET_S;
    if (order == 0) {
      batches(c, 1, 1, 3 * LET_MS, &now);
      batches(c, 1, 1, 2 * LET_MS, &now);
      assert_int_equal(let_core_predict(c, ON(0), 0, 1), 2 * LET_MS);
    } else if (order == 1) {
      batches(c, 9, 8, 9 * LET_MS, &now);
      batches(c, 1, 1, 12 * LET_MS, &now);
      assert_int_equal(let_core_predict(c, ON(0), 0, 1), 12 * LET_MS);
      assert_int_equal(let_core_predict(c, ON(0), 0, 8), 12 * LET_MS);
    } else if (order == 2) {
      batches(c, 1, 1, 12 * LET_MS, &now);
      batches(c, 9, 8, 9 * LET_MS, &now);
      assert_int_equal(let_core_predict(c, ON(0), 0, 1), 9 * LET_MS);
      assert_int_equal(let_core_predict(c, ON(0), 0, 8), 9 * LET_MS);
    } else {
      batches(c, 1, 1, 12 * LET_MS, &now);
      now += 2 * LET_S;
      batches(c, 9, 8, 9 * LET_MS, &now);
      assert_int_equal(let_core_predict(c, ON(0), 0, 1), 2 * LET_MS);
    }
    let_core_free(c);
  }
}

/* Behind a batch that ends late the next one starts late; behind one that ends early, not before it is handed over. */
static void test_the_next_batch_starts_when_it_can(void **state) {
  (void)state;
  for (int late = 0; late < 2; late++) {
    let_core *c = with_handover();
    let_time t = 100 * LET_MS;
    arrive(c, 0, t, 40 * LET_MS);
    submits(c, t, 0, 1);
    let_batch_id first = act.batch;
    arrive(c, 0, t, 40 * LET_MS);
    submits(c, t + 2 * LET_MS, 0, 1);
    let_time end = t + (late ? 4000 : 2100) * LET_US, start = late ? end : t + 2500 * LET_US;
    assert_int_equal(done(c, first, end - t - LET_MS / 2, end), 1);
    arrive(c, 0, end, 40 * LET_MS);
    assert_false(let_core_step(c, end, &act));
    assert_int_equal(let_core_wake(c), start + let_core_predict(c, ON(0), 0, 1) - LET_MS / 2);
    let_core_free(c);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_idle_gpulets_share_by_planned_rate),
                                     cmocka_unit_test(test_waiting_ends_before_the_slack_does),
                                     cmocka_unit_test(test_a_large_batch_leaves_others_in_time),
                                     cmocka_unit_test(test_small_batches_go_by_deadline),
                                     cmocka_unit_test(test_a_model_beyond_its_plan_goes_last),
                                     cmocka_unit_test(test_the_door_counts_rows_before),
                                     cmocka_unit_test(test_to_the_nanosecond),
                                     cmocka_unit_test(test_predictions_of_sizes_agree),
                                     cmocka_unit_test(test_the_next_batch_starts_when_it_can)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
