/* Cases of the core. How it does under load, and under a virtual clock, is the matter of sim/scenes_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core_test_rig.h"
#include "core/rate.h"

static void test_idle_starts_at_once(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 20 * LET_MS));
  routes(c, 1, (let_core_route[]){route(0, 0, 4)}, 1, 0);
  assert_int_equal(let_core_arrive(c, request(0, 0, 20 * LET_MS), 0), LET_OK);
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.n, 1);
  for (int i = 0; i < 5; i++) assert_int_equal(let_core_arrive(c, request(0, LET_MS, 20 * LET_MS), LET_MS), LET_OK);
  assert_false(let_core_step(c, LET_MS, &act)); /* it is busy */
  assert_int_equal(let_core_running(c, 0), 1);
  assert_int_equal(done(c, act.batch, 2 * LET_MS, 2 * LET_MS), 1);
  assert_true(let_core_step(c, 2 * LET_MS, &act)); /* all that came meanwhile, more than the plan aims at too */
  assert_int_equal(act.rows, 5);
  assert_int_equal(act.size, 8);
  let_core_free(c);
}

/* With room for two, the next batch closes at the end of the running one less the hand-over, not before. */
static void test_next_closes_at_the_end(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 40 * LET_MS));
  let_core_route r = route(0, 0, 4);
  let_error e;
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{0}, 2}}, 1, &r, 1, 0, &e), LET_OK);
  let_request *got[LET_BATCH_MAX];
  uint32_t n;
  for (int i = 0; i < 3; i++) { /* a hand-over of 0.5 ms */
    let_time t = i * 10 * LET_MS;
    assert_int_equal(let_core_arrive(c, request(0, t, 40 * LET_MS), t), LET_OK);
    assert_true(let_core_step(c, t, &act));
    let_time started = t + LET_MS / 2, end = started + 2 * LET_MS;
    assert_true(let_core_batch_done(c, act.batch, started, end, end, got, &n));
  }
  let_time t = 100 * LET_MS;
  assert_int_equal(let_core_arrive(c, request(0, t, 40 * LET_MS), t), LET_OK);
  assert_true(let_core_step(c, t, &act));
  assert_int_equal(let_core_arrive(c, request(0, t, 40 * LET_MS), t), LET_OK);
  assert_false(let_core_step(c, t, &act));
  assert_int_equal(let_core_wake(c), t + 2 * LET_MS); /* 0.5 ms over, 2 ms running, less 0.5 ms */
  assert_int_equal(let_core_arrive(c, request(0, t + LET_MS, 40 * LET_MS), t + LET_MS), LET_OK);
  assert_true(let_core_step(c, t + 2 * LET_MS, &act));
  assert_int_equal(act.n, 2);
  let_core_free(c);
}

static void test_waits_for_company_where_asked(void **state) {
  (void)state;
  for (int never = 0; never < 2; never++) {
    let_core *c = core(100);
    let_model *m = model(0, 20 * LET_MS);
    m->max_queue_delay = never ? LET_NEVER : 3 * LET_MS;
    declare(c, 0, m);
    routes(c, 1, (let_core_route[]){route(0, 0, 4)}, 1, 0);
    assert_int_equal(let_core_arrive(c, request(0, 0, 20 * LET_MS), 0), LET_OK);
    assert_false(let_core_step(c, 0, &act));
    assert_int_equal(let_core_wake(c), never ? 10 * LET_MS : 3 * LET_MS); /* half of the time it has */
    for (int i = 0; i < 3; i++) assert_int_equal(let_core_arrive(c, request(0, LET_MS, 20 * LET_MS), LET_MS), LET_OK);
    assert_true(let_core_step(c, LET_MS, &act)); /* full */
    assert_int_equal(act.n, 4);
    let_core_free(c);
  }
}

/* A batch leaves out what would be late in it; the core refuses that once nothing can be in time for it. */
static void test_what_would_be_late_is_dropped(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 20 * LET_MS));
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  let_time t = 10 * LET_MS;
  ran(c, 0, 8, t);
  let_request *first = request(0, t, 20 * LET_MS);
  assert_int_equal(let_core_arrive(c, first, t), LET_OK);
  assert_true(let_core_step(c, t, &act));
  let_request *late = request(0, t, 12 * LET_MS), *soon = request(0, t, 4500 * LET_US);
  assert_int_equal(let_core_arrive(c, late, t), LET_OK);
  assert_int_equal(let_core_arrive(c, soon, t), LET_OK);
  for (int i = 0; i < 7; i++) assert_int_equal(let_core_arrive(c, request(0, t, 15 * LET_MS), t), LET_OK);
  assert_false(let_core_step(c, t, &act));
  t += 4 * LET_MS;
  assert_int_equal(done(c, act.batch, 4 * LET_MS, t), 1);
  assert_true(let_core_step(c, t, &act)); /* it would take until 6 ms after it came */
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_ptr_equal(act.request[0], soon);
  assert_non_null(strstr(soon->why, "can no longer finish within its 4.5 ms"));
  assert_true(let_core_step(c, t, &act)); /* eight rows take 9 ms: |late| has 8, the others have 11 */
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.n, 7);
  for (uint32_t i = 0; i < act.n; i++) assert_ptr_not_equal(act.request[i], late);
  let_core_free(c);
}

static void test_without_a_deadline_nothing_is_late(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 0));
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  let_request *r[3];
  for (int i = 0; i < 3; i++) {
    r[i] = request(0, i, 0);
    r[i]->deadline = LET_NEVER;
    assert_int_equal(let_core_arrive(c, r[i], i), LET_OK);
  }
  assert_true(let_core_step(c, 3600 * LET_S, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.n, 3);
  assert_ptr_equal(act.request[0], r[0]);
  let_core_free(c);
}

/* A gpu-let that no request could make in time by its predictions is tried all the same, once in a while. */
static void test_a_lie_is_found_out(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 20 * LET_MS));
  let_core_route r = route(0, 0, 8);
  for (uint32_t k = 0; k < r.n_sizes; k++) r.predict[k] *= 50;
  routes(c, 1, &r, 1, 0);
  assert_int_equal(let_core_arrive(c, request(0, 0, 20 * LET_MS), 0), LET_OK);
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(done(c, act.batch, 2 * LET_MS, 2 * LET_MS), 1);
  assert_int_equal(let_core_predict(c, ON(0), 0, 1), 2 * LET_MS);
  assert_true(llabs(let_core_predict(c, ON(0), 0, 8) - 9 * LET_MS) <
              LET_US); /* the plan was wrong by the same ratio everywhere */
  /* And the other way: batches that were held up do not count against the gpu-let for ever. */
  let_time t = 10 * LET_MS;
  for (int i = 0; i < 9; i++, t += 100 * LET_MS) {
    assert_int_equal(let_core_arrive(c, request(0, t, LET_S), t), LET_OK);
    assert_true(let_core_step(c, t, &act));
    done(c, act.batch, 90 * LET_MS, t + 90 * LET_MS);
  }
  assert_int_equal(let_core_arrive(c, request(0, t, 20 * LET_MS), t), LET_ERR_DEADLINE);
  t += 2 * LET_S;
  assert_int_equal(let_core_arrive(c, request(0, t, 20 * LET_MS), t), LET_OK);
  assert_true(let_core_step(c, t, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  let_core_free(c);
}

static void test_no_large_batch_of_padding(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 50 * LET_MS));
  let_core_route r = {.batch = 4, .n_sizes = 2, .size = {4, 32}, .predict = {7 * LET_MS, 33 * LET_MS}};
  routes(c, 1, &r, 1, 0);
  let_time t = 10 * LET_MS;
  ran(c, 0, 1, t);
  for (int i = 0; i < 9; i++) assert_int_equal(let_core_arrive(c, request(0, t, 50 * LET_MS), t), LET_OK);
  for (int i = 0; i < 2; i++, t += 7 * LET_MS) { /* 4 + 4 + 1 take 21 ms, all in one 33 */
    assert_true(let_core_step(c, t, &act));
    assert_int_equal(act.rows, 4);
    assert_int_equal(act.size, 4);
    assert_int_equal(done(c, act.batch, 7 * LET_MS, t + 7 * LET_MS), 4);
  }
  for (int i = 0; i < 20; i++) assert_int_equal(let_core_arrive(c, request(0, t, 50 * LET_MS), t), LET_OK);
  assert_true(let_core_step(c, t, &act)); /* 21 rows: six small ones would take 42 ms */
  assert_int_equal(act.rows, 21);
  assert_int_equal(done(c, act.batch, 33 * LET_MS, t + 33 * LET_MS), 21);
  let_core_free(c);
}

/* A gpu-let that comes back has few sizes at first: what needs a larger one can be tried again, it is not late. */
static void test_too_wide_for_what_is_up(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, 50 * LET_MS);
  m->max_batch = 8;
  declare(c, 0, m);
  let_core_route r[2] = {route(0, 0, 4), route(0, 1, 4)};
  routes(c, 2, r, 2, 0);
  let_request *wide[2];
  for (int i = 0; i < 2; i++) {
    wide[i] = request(0, 0, 50 * LET_MS);
    wide[i]->rows = 8;
  }
  assert_int_equal(let_core_arrive(c, wide[0], 0), LET_OK);
  let_core_gpulet_down(c, ON(0));
  r[1].n_sizes = 3;
  routes(c, 2, r, 2, 0);
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_ptr_equal(act.request[0], wide[0]);
  assert_int_equal(act.why, LET_ERR_UNAVAILABLE);
  assert_int_equal(let_core_arrive(c, wide[1], 0), LET_ERR_UNAVAILABLE); /* what is down may take long to come back */
  let_core_gpulet_up(c, ON(0));
  assert_int_equal(let_core_arrive(c, wide[1], 0), LET_OK);
  check(c);
  let_core_free(c);
}

static void test_order_is_priority_then_deadline(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, 100 * LET_MS);
  m->priority_levels = 3;
  m->default_priority = 2;
  declare(c, 0, m);
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  static const uint8_t priority[8] = {2, 1, 3, 1, 0, 3, 9, 2};
  static const int slo[8] = {50, 60, 40, 30, 55, 90, 60, 45};
  static const int order[8] = {3, 1, 7, 0, 4, 2, 6, 5};
  let_request *r[8];
  for (int i = 0; i < 8; i++) {
    r[i] = request(0, 0, slo[i] * LET_MS);
    r[i]->priority = priority[i];
    assert_int_equal(let_core_arrive(c, r[i], 0), LET_OK);
  }
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.n, 8);
  for (int i = 0; i < 8; i++) assert_ptr_equal(act.request[i], r[order[i]]);
  let_core_free(c);
}

static void test_refusals_say_why(void **state) {
  (void)state;
  let_core *c = core(4);
  declare(c, 0, model(0, 20 * LET_MS));
  declare(c, 1, model(1, 20 * LET_MS));
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  let_request *r = request(2, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_NOT_FOUND);
  r = request(1, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_UNAVAILABLE);
  assert_non_null(strstr(r->why, "'model1'"));
  r = request(0, 0, LET_S);
  r->rows = 9;
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_INVALID);
  assert_non_null(strstr(r->why, "9 rows, but its batches hold at most 8"));
  ran(c, 0, 1, 2 * LET_MS);
  r = request(0, 2 * LET_MS, LET_MS);
  assert_int_equal(let_core_arrive(c, r, 2 * LET_MS), LET_ERR_DEADLINE);
  assert_non_null(strstr(r->why, "running it takes 2.0 ms, more than is left of its 1.0 ms"));
  r = request(0, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 2 * LET_S), LET_ERR_DEADLINE);
  for (int i = 0; i < 4; i++) assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_OK);
  r = request(0, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_OVERLOADED);
  assert_non_null(strstr(r->why, "queue of 4 requests is full"));
  let_core_gpulet_down(c, ON(0));
  for (int i = 0; i < 4; i++) {
    assert_true(let_core_step(c, 0, &act));
    assert_int_equal(act.kind, LET_ACTION_REFUSE);
    assert_int_equal(act.why, LET_ERR_UNAVAILABLE);
  }
  assert_false(let_core_step(c, 0, &act));
  assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_ERR_UNAVAILABLE);
  let_core_gpulet_up(c, ON(0));
  assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_OK);
  let_core_free(c);
}

static void test_failed_batch_runs_elsewhere_once(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, 50 * LET_MS);
  m->max_queue_delay = 0;
  declare(c, 0, m);
  routes(c, 2, (let_core_route[]){route(0, 0, 8), route(0, 1, 8)}, 2, 0);
  let_request *r = request(0, 0, 50 * LET_MS);
  assert_int_equal(let_core_arrive(c, r, 0), LET_OK);
  assert_true(let_core_step(c, 0, &act));
  let_gpulet_id first = act.gpulet;
  let_core_gpulet_down(c, first);
  assert_int_equal(let_core_batch_on(c, first).n, act.batch.n);
  assert_true(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, LET_MS));
  assert_false(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, LET_MS));
  assert_int_equal(let_core_batch_on(c, first).n, 0);
  check(c);
  assert_true(let_core_step(c, LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.gpulet.n, 1 - first.n);
  assert_ptr_equal(act.request[0], r);
  assert_false(let_core_cancel(c, r)); /* comes back with its batch */
  assert_true(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, 2 * LET_MS));
  check(c);
  assert_true(let_core_step(c, 2 * LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_int_equal(act.why, LET_ERR_CANCELLED);
  r = request(0, 2 * LET_MS, 50 * LET_MS);
  let_core_gpulet_up(c, first);
  assert_int_equal(let_core_arrive(c, r, 2 * LET_MS), LET_OK);
  for (int i = 0; i < 2; i++) {
    assert_true(let_core_step(c, 2 * LET_MS, &act));
    assert_true(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, 2 * LET_MS));
  }
  assert_true(let_core_step(c, 2 * LET_MS, &act));
  assert_int_equal(act.why, LET_ERR_GPULET);
  assert_non_null(strstr(r->why, "2 times under this request"));
  let_core_free(c);
}

static void test_plan_change(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 50 * LET_MS));
  declare(c, 1, model(1, 50 * LET_MS));
  routes(c, 2, (let_core_route[]){route(0, 0, 2), route(1, 1, 8)}, 2, 0);
  for (int i = 0; i < 2; i++) assert_int_equal(let_core_arrive(c, request(0, 0, 50 * LET_MS), 0), LET_OK);
  assert_int_equal(let_core_arrive(c, request(1, 0, 50 * LET_MS), 0), LET_OK);
  assert_true(let_core_step(c, 0, &act));
  let_batch_id running = act.batch;
  assert_int_equal(act.model, 0);
  assert_true(let_core_step(c, 0, &act));
  let_batch_id other = act.batch;
  assert_int_equal(act.model, 1);
  assert_false(let_core_step(c, 0, &act));
  assert_int_equal(let_core_arrive(c, request(0, 0, 50 * LET_MS), 0), LET_OK);
  assert_int_equal(let_core_arrive(c, request(1, 0, 50 * LET_MS), 0), LET_OK);
  /* Model 1 loses all, model 0 moves to gpu-let 2; gpu-let 0 drains. A wrong table changes nothing. */
  let_error e = {0};
  let_core_route bad = route(0, 3, 2);
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{2}, 1}}, 1, &bad, 1, LET_MS, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "gpu-let 3"));
  let_core_route twice[] = {route(0, 2, 2), route(0, 2, 2)};
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{2}, 1}}, 1, twice, 2, LET_MS, &e), LET_ERR_INVALID);
  check(c);
  let_core_route good = route(0, 2, 2);
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{2}, 1}}, 1, &good, 1, LET_MS, &e), LET_OK);
  check(c);
  assert_true(let_core_step(c, LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_int_equal(act.model, 1);
  assert_non_null(strstr(act.request[0]->why, "the plan changed"));
  assert_true(let_core_step(c, LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.gpulet.n, 2);
  assert_false(let_core_step(c, LET_MS, &act));
  assert_false(let_core_gpulet_idle(c, ON(0)));
  assert_int_equal(done(c, running, 3 * LET_MS, 3 * LET_MS), 2);
  assert_int_equal(done(c, other, 2 * LET_MS, 3 * LET_MS), 1);
  assert_true(let_core_gpulet_idle(c, ON(0)));
  let_core_gpulet_remove(c, ON(0));
  let_core_gpulet_remove(c, ON(1));
  let_core_free(c);
}

static void test_predictions_follow_both_ways(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, LET_S);
  m->max_queue_delay = 0;
  declare(c, 0, m);
  routes(c, 1, (let_core_route[]){route(0, 0, 8)}, 1, 0);
  let_time now = 0;
  int up = 0, down = 0;
  for (; up < 100 && let_core_predict(c, ON(0), 0, 1) < 4 * LET_MS * 95 / 100; up++) {
    assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    now += 4 * LET_MS;
    done(c, act.batch, 4 * LET_MS, now);
  }
  assert_true(let_core_predict(c, ON(0), 0, 8) > 12 * LET_MS); /* the ratio seen at size 1 holds for the others */
  for (; down < 300 && let_core_predict(c, ON(0), 0, 1) > LET_MS * 110 / 100; down++) {
    assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    now += LET_MS;
    done(c, act.batch, LET_MS, now);
  }
  print_message("2x slower than planned: believed after %d batches; 2x faster: after %d\n", up, down);
  assert_true(up <= 6 && down <= 6);
  assert_false(let_core_batch_done(c, (let_batch_id){12345}, now - LET_MS, now, now, (let_request *[LET_BATCH_MAX]){0},
                                   &(uint32_t){0}));
  let_core_free(c);
}

static void test_allocation_failure(void **state) {
  (void)state;
  let_core_limits l = {.models = 3, .gpulets = 4, .requests = 16, .queue = 4};
  for (long at = 0;; at++) {
    let_mem_failing f;
    let_mem_failing_init(&f, at, 0);
    let_core *c = NULL;
    let_error e = {0};
    let_err err = let_core_new(&l, &f.mem, &c, &e);
    if (!err) {
      declare(c, 0, model(0, LET_S));
      let_core_route r = route(0, 0, 8);
      err = let_core_routes_set(c, (let_core_gpulet[]){{{0}, 1}}, 1, &r, 1, 0, &e);
      check(c);
      if (err) { /* nothing has changed, and it works the next time */
        assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_ERR_UNAVAILABLE);
        assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{{0}, 1}}, 1, &r, 1, 0, &e), LET_OK);
      }
    }
    let_core_free(c);
    assert_int_equal(f.live, 0);
    if (!err) break;
    assert_int_equal(err, LET_ERR_NOMEM);
    assert_true(e.text[0]);
    assert_true(at < 50);
  }
}

static void test_dump_is_json_like(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, 20 * LET_MS);
  snprintf(m->name, sizeof m->name, "a\"b\\c");
  declare(c, 0, m);
  routes(c, 1, (let_core_route[]){route(0, 0, 1)}, 1, 0);
  for (int i = 0; i < 10; i++) (void)!let_core_arrive(c, request(0, 0, 20 * LET_MS), 0);
  assert_true(let_core_step(c, 0, &act));
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_core_dump(c, &b);
  int depth = 0, quotes = 0;
  for (size_t i = 0; i < b.n; i++) {
    if (b.p[i] == '\\') {
      i++;
      continue;
    }
    if (b.p[i] == '"') quotes++;
    depth += b.p[i] == '{' || b.p[i] == '[' ? 1 : b.p[i] == '}' || b.p[i] == ']' ? -1 : 0;
    assert_true(depth >= 0);
  }
  assert_int_equal(depth, 0);
  assert_int_equal(quotes % 2, 0);
  assert_non_null(strstr(b.p, "\"name\":\"a\\\"b\\\\c\""));
  assert_non_null(strstr(b.p, "\"state\":\"up\""));
  let_buf_fini(&b);
  let_core_free(c);
}

static void test_rate(void **state) {
  (void)state;
  let_rate r;
  let_rate_init(&r, LET_S, 0);
  let_time t = 0;
  for (int i = 0; i < 5000; i++) {
    let_rate_add(&r, t, 1);
    t += LET_MS;
  }
  assert_true(fabs(let_rate_get(&r, t) - 1000) < 20);
  for (int i = 0; i < 10000; i++) {
    let_rate_add(&r, t, 1);
    t += LET_MS / 4;
  }
  assert_true(fabs(let_rate_get(&r, t) - 4000) < 500);
  assert_true(let_rate_get(&r, t + 10 * LET_S) < 1);
  let_rate_init(&r, LET_S, 0);
  let_rate_add(&r, 100 * LET_MS, 10);
  assert_true(fabs(let_rate_get(&r, 100 * LET_MS) - 100) < 1); /* before the first bucket is full */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_idle_starts_at_once),
                                     cmocka_unit_test(test_next_closes_at_the_end),
                                     cmocka_unit_test(test_waits_for_company_where_asked),
                                     cmocka_unit_test(test_what_would_be_late_is_dropped),
                                     cmocka_unit_test(test_without_a_deadline_nothing_is_late),
                                     cmocka_unit_test(test_a_lie_is_found_out),
                                     cmocka_unit_test(test_no_large_batch_of_padding),
                                     cmocka_unit_test(test_too_wide_for_what_is_up),
                                     cmocka_unit_test(test_order_is_priority_then_deadline),
                                     cmocka_unit_test(test_refusals_say_why),
                                     cmocka_unit_test(test_failed_batch_runs_elsewhere_once),
                                     cmocka_unit_test(test_plan_change),
                                     cmocka_unit_test(test_predictions_follow_both_ways),
                                     cmocka_unit_test(test_allocation_failure),
                                     cmocka_unit_test(test_dump_is_json_like),
                                     cmocka_unit_test(test_rate)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
