/* Cases of the core, and the core under a virtual clock at loads around and far above capacity. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "core/core.h"
#include "core/rate.h"

/* ---- a small world for single cases ---------------------------------------------------------------------- */

static let_model models[3];
static let_request pool[600];
static uint32_t n_pool;
static let_action act;

static let_model *model(uint32_t i, let_dur slo) {
  models[i] = (let_model){.slo = slo, .max_queue_delay = LET_NEVER};
  snprintf(models[i].name, sizeof models[i].name, "model%u", i);
  return &models[i];
}

/* 1 ms + 1 ms per row */
static let_core_route route(uint32_t m, uint32_t g, uint32_t batch) {
  let_core_route r = {.model = m, .gpulet = g, .batch = batch, .n_sizes = 4, .size = {1, 2, 4, 8}};
  for (int i = 0; i < 4; i++) r.predict[i] = (1 + (1 << i)) * LET_MS;
  return r;
}

static let_core *core(uint32_t queue) {
  let_core_limits l = {.models = 3, .gpulets = 4, .requests = 512, .queue = queue, .margin = 200 * LET_US};
  let_core *c;
  let_error e;
  assert_int_equal(let_core_new(&l, &let_mem_libc, &c, &e), LET_OK);
  n_pool = 0;
  return c;
}

static void routes(let_core *c, uint32_t lets, const let_core_route *r, uint32_t n, let_time now) {
  let_core_gpulet g[4];
  let_error e = {0};
  for (uint32_t i = 0; i < lets; i++) g[i] = (let_core_gpulet){i, 1};
  if (let_core_routes_set(c, g, lets, r, n, now, &e)) print_message("%s\n", e.text), fail();
}

static let_request *request(uint32_t m, let_time now, let_dur slo) {
  let_request *r = &pool[n_pool++];
  *r = (let_request){.id = n_pool, .model = m, .rows = 1, .arrival = now, .deadline = now + slo};
  let_heap_node_init(&r->node);
  return r;
}

static void check(const let_core *c) {
  let_error e = {0};
  if (!let_core_validate(c, &e)) print_message("%s\n", e.text), fail();
}

static uint32_t done(let_core *c, uint64_t batch, let_dur took, let_time now) {
  let_request *got[LET_BATCH_MAX];
  uint32_t n = 0;
  assert_true(let_core_batch_done(c, batch, now - took, now, now, got, &n));
  check(c);
  return n;
}

static void declare(let_core *c, uint32_t i, const let_model *m) {
  let_error e;
  assert_int_equal(let_core_model_set(c, i, m, &e), LET_OK);
}

static void test_closes_when_slack_runs_out_or_full(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 20 * LET_MS));
  routes(c, 1, (let_core_route[]){route(0, 0, 4)}, 1, 0);
  assert_int_equal(let_core_arrive(c, request(0, 0, 20 * LET_MS), 0), LET_OK);
  assert_false(let_core_step(c, 0, &act));
  assert_int_equal(let_core_wake(c), 20 * LET_MS - 2 * LET_MS - 200 * LET_US);
  assert_int_equal(let_core_arrive(c, request(0, LET_MS, 20 * LET_MS), LET_MS), LET_OK);
  assert_false(let_core_step(c, LET_MS, &act));
  let_time t = 20 * LET_MS - 3 * LET_MS - 200 * LET_US; /* two rows take 3 ms */
  assert_int_equal(let_core_wake(c), t);
  assert_true(let_core_step(c, t, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.n, 2);
  assert_int_equal(act.size, 2);
  assert_false(let_core_step(c, t, &act));
  assert_int_equal(let_core_running(c, 0), 2);
  assert_int_equal(done(c, act.batch, 3 * LET_MS, t + 3 * LET_MS), 2);
  t += 3 * LET_MS;
  for (int i = 0; i < 5; i++) assert_int_equal(let_core_arrive(c, request(0, t, 20 * LET_MS), t), LET_OK);
  assert_true(
      let_core_step(c, t, &act)); /* full for what the plan aims at, and more is welcome: the gpu-let is its own */
  assert_int_equal(act.rows, 5);
  assert_int_equal(act.size, 8);
  let_core_free(c);
}

static void test_no_large_batch_of_padding(void **state) {
  (void)state;
  let_core *c = core(100);
  declare(c, 0, model(0, 50 * LET_MS));
  let_core_route r = {.batch = 4, .n_sizes = 2, .size = {4, 32}, .predict = {7 * LET_MS, 33 * LET_MS}};
  routes(c, 1, &r, 1, 0);
  let_time t = 0;
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
  for (int i = 0; i < 2; i++) wide[i] = request(0, 0, 50 * LET_MS), wide[i]->rows = 8;
  assert_int_equal(let_core_arrive(c, wide[0], 0), LET_OK);
  let_core_gpulet_down(c, 0);
  r[1].n_sizes = 3;
  routes(c, 2, r, 2, 0);
  assert_true(let_core_step(c, 0, &act));
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_ptr_equal(act.request[0], wide[0]);
  assert_int_equal(act.why, LET_ERR_UNAVAILABLE);
  assert_int_equal(let_core_arrive(c, wide[1], 0), LET_ERR_UNAVAILABLE); /* what is down may take long to come back */
  let_core_gpulet_up(c, 0);
  assert_int_equal(let_core_arrive(c, wide[1], 0), LET_OK);
  check(c);
  let_core_free(c);
}

static void test_order_is_priority_then_deadline(void **state) {
  (void)state;
  let_core *c = core(100);
  let_model *m = model(0, 100 * LET_MS);
  m->priority_levels = 3, m->default_priority = 2;
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
  r = request(0, 0, LET_MS);
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_DEADLINE);
  assert_non_null(strstr(r->why, "the earliest finish is 2.2 ms after arrival, the deadline is 1.0 ms"));
  r = request(0, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 2 * LET_S), LET_ERR_DEADLINE);
  for (int i = 0; i < 4; i++) assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_OK);
  r = request(0, 0, LET_S);
  assert_int_equal(let_core_arrive(c, r, 0), LET_ERR_OVERLOADED);
  assert_non_null(strstr(r->why, "queue of 4 requests is full"));
  let_core_gpulet_down(c, 0);
  for (int i = 0; i < 4; i++) {
    assert_true(let_core_step(c, 0, &act));
    assert_int_equal(act.kind, LET_ACTION_REFUSE);
    assert_int_equal(act.why, LET_ERR_UNAVAILABLE);
  }
  assert_false(let_core_step(c, 0, &act));
  assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_ERR_UNAVAILABLE);
  let_core_gpulet_up(c, 0);
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
  uint32_t first = act.gpulet;
  let_core_gpulet_down(c, first);
  assert_int_equal(let_core_batch_on(c, first), act.batch);
  assert_true(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, LET_MS));
  assert_false(let_core_batch_failed(c, act.batch, LET_ERR_GPULET, LET_MS));
  assert_int_equal(let_core_batch_on(c, first), 0);
  check(c);
  assert_true(let_core_step(c, LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_SUBMIT);
  assert_int_equal(act.gpulet, 1 - first);
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
  uint64_t running = act.batch;
  assert_false(let_core_step(c, 0, &act));
  assert_int_equal(let_core_arrive(c, request(0, 0, 50 * LET_MS), 0), LET_OK);
  /* Model 1 loses all, model 0 moves to gpu-let 2; gpu-let 0 drains. A wrong table changes nothing. */
  let_error e = {0};
  let_core_route bad = route(0, 3, 2);
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{2, 1}}, 1, &bad, 1, LET_MS, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "gpu-let 3"));
  let_core_route twice[] = {route(0, 2, 2), route(0, 2, 2)};
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{2, 1}}, 1, twice, 2, LET_MS, &e), LET_ERR_INVALID);
  check(c);
  let_core_route good = route(0, 2, 2);
  assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{2, 1}}, 1, &good, 1, LET_MS, &e), LET_OK);
  check(c);
  assert_true(let_core_step(c, LET_MS, &act));
  assert_int_equal(act.kind, LET_ACTION_REFUSE);
  assert_int_equal(act.model, 1);
  assert_non_null(strstr(act.request[0]->why, "the plan changed"));
  assert_false(let_core_step(c, LET_MS, &act));
  assert_false(let_core_gpulet_idle(c, 0));
  assert_int_equal(done(c, running, 3 * LET_MS, 3 * LET_MS), 2);
  assert_true(let_core_gpulet_idle(c, 0));
  let_core_gpulet_remove(c, 0);
  let_core_gpulet_remove(c, 1);
  assert_true(let_core_step(c, let_core_wake(c), &act));
  assert_int_equal(act.gpulet, 2);
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
  for (; up < 100 && let_core_predict(c, 0, 0, 1) < 4 * LET_MS * 95 / 100; up++) {
    assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    now += 4 * LET_MS;
    done(c, act.batch, 4 * LET_MS, now);
  }
  assert_true(let_core_predict(c, 0, 0, 8) > 12 * LET_MS); /* what was seen at size 1 is believed of the others */
  for (; down < 300 && let_core_predict(c, 0, 0, 1) > LET_MS * 110 / 100; down++) {
    assert_int_equal(let_core_arrive(c, request(0, now, LET_S), now), LET_OK);
    assert_true(let_core_step(c, now, &act));
    now += LET_MS;
    done(c, act.batch, LET_MS, now);
  }
  print_message("2x slower than planned: believed after %d batches; 2x faster: after %d\n", up, down);
  assert_true(up <= 6 && down > up && down < 100);
  assert_false(
      let_core_batch_done(c, 12345, now - LET_MS, now, now, (let_request *[LET_BATCH_MAX]){0}, &(uint32_t){0}));
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
      err = let_core_routes_set(c, (let_core_gpulet[]){{0, 1}}, 1, &r, 1, 0, &e);
      check(c);
      if (err) { /* nothing has changed, and it works the next time */
        assert_int_equal(let_core_arrive(c, request(0, 0, LET_S), 0), LET_ERR_UNAVAILABLE);
        assert_int_equal(let_core_routes_set(c, (let_core_gpulet[]){{0, 1}}, 1, &r, 1, 0, &e), LET_OK);
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
  for (int i = 0; i < 5000; i++) let_rate_add(&r, t, 1), t += LET_MS;
  assert_true(fabs(let_rate_get(&r, t) - 1000) < 20);
  for (int i = 0; i < 10000; i++) let_rate_add(&r, t, 1), t += LET_MS / 4;
  assert_true(fabs(let_rate_get(&r, t) - 4000) < 500);
  assert_true(let_rate_get(&r, t + 10 * LET_S) < 1);
  let_rate_init(&r, LET_S, 0);
  let_rate_add(&r, 100 * LET_MS, 10);
  assert_true(fabs(let_rate_get(&r, 100 * LET_MS) - 100) < 1); /* before the first bucket is full */
}

/* ---- under a virtual clock ------------------------------------------------------------------------------- */

typedef struct tenant {
  double rate;
  let_dur slo;
  let_time next;
  uint64_t sent, good, late, refused, dropped; /* dropped: admitted, then refused from the queue */
} tenant;

typedef struct device {
  let_time end[8];
  let_dur took[8];
  uint64_t batch[8];
  uint32_t n;
} device;

typedef struct trial {
  tenant t[3];
  device d[4];
  uint32_t n_tenants, n_lets;
  let_rng rng;
  let_core *c;
  let_time now;
  double jitter, truth;  /* what batches really take: |truth| times the prediction, +- |jitter| */
  double hiccups;        /* that part of the batches takes |hiccup| longer */
  let_dur hiccup, delay; /* delay: the models' max_queue_delay, 0: none */
  uint64_t batches, rows;
} trial;

static let_request *idle_list;
static double last_fill;

static void over(trial *w, let_request *r, bool answered) {
  tenant *t = &w->t[r->model];
  if (!answered) t->dropped++;
  else if (w->now <= r->deadline) t->good++;
  else t->late++;
  r->next = idle_list, idle_list = r;
}

static void drive(trial *w, const let_core_route *r, uint32_t n_routes) {
  while (let_core_step(w->c, w->now, &act)) {
    if (act.kind == LET_ACTION_REFUSE) {
      over(w, act.request[0], false);
      continue;
    }
    device *d = &w->d[act.gpulet];
    let_dur took = 0;
    for (uint32_t i = 0; i < n_routes; i++)
      for (uint32_t k = 0; r[i].model == act.model && r[i].gpulet == act.gpulet && k < r[i].n_sizes; k++)
        if (r[i].size[k] == act.size) took = r[i].predict[k];
    assert_true(took > 0 && d->n < 8);
    took = (let_dur)((double)took * w->truth * (1 + w->jitter * (let_rng_unit(&w->rng) - 0.7)));
    if (w->hiccups > 0 && let_rng_unit(&w->rng) < w->hiccups) took += w->hiccup;
    let_time start = d->n ? d->end[d->n - 1] : w->now;
    d->end[d->n] = start + took, d->took[d->n] = took, d->batch[d->n++] = act.batch;
    w->batches++, w->rows += act.rows;
  }
}

static void trial_run(trial *w, let_core_route *r, uint32_t n_routes, uint32_t depth, let_dur length) {
  static let_request many[4096];
  idle_list = NULL;
  for (int i = 0; i < 4096; i++)
    many[i] = (let_request){.next = idle_list}, let_heap_node_init(&many[i].node), idle_list = &many[i];
  let_core_limits l = {.models = 3, .gpulets = 4, .requests = 4096, .queue = 1024, .margin = 200 * LET_US};
  let_error e;
  assert_int_equal(let_core_new(&l, &let_mem_libc, &w->c, &e), LET_OK);
  for (uint32_t i = 0; i < w->n_tenants; i++) {
    let_model *m = model(i, w->t[i].slo);
    if (w->delay) m->max_queue_delay = w->delay;
    declare(w->c, i, m);
  }
  let_core_gpulet g[4];
  for (uint32_t i = 0; i < w->n_lets; i++) g[i] = (let_core_gpulet){i, depth};
  assert_int_equal(let_core_routes_set(w->c, g, w->n_lets, r, n_routes, 0, &e), LET_OK);
  for (uint32_t i = 0; i < w->n_tenants; i++) w->t[i].next = (let_time)let_rng_exponential(&w->rng, 1e9 / w->t[i].rate);
  while (w->now < length) {
    let_time t = let_core_wake(w->c);
    int who = -1, dev = -1;
    for (uint32_t i = 0; i < w->n_tenants; i++)
      if (w->t[i].next <= t) t = w->t[i].next, who = (int)i;
    for (uint32_t i = 0; i < w->n_lets; i++)
      if (w->d[i].n && w->d[i].end[0] <= t) t = w->d[i].end[0], dev = (int)i, who = -1;
    w->now = t;
    if (dev >= 0) {
      device *d = &w->d[dev];
      let_request *got[LET_BATCH_MAX];
      uint32_t n;
      assert_true(let_core_batch_done(w->c, d->batch[0], t - d->took[0], t, t, got, &n));
      for (uint32_t i = 0; i < n; i++) over(w, got[i], true);
      d->n--;
      for (uint32_t i = 0; i < d->n; i++)
        d->end[i] = d->end[i + 1], d->took[i] = d->took[i + 1], d->batch[i] = d->batch[i + 1];
    } else if (who >= 0) {
      tenant *x = &w->t[who];
      x->next = t + (let_time)let_rng_exponential(&w->rng, 1e9 / x->rate);
      let_request *q = idle_list;
      assert_non_null(q);
      idle_list = q->next;
      q->model = (uint32_t)who, q->rows = 1, q->arrival = t, q->deadline = t + x->slo, q->cancelled = false;
      x->sent++;
      if (let_core_arrive(w->c, q, t)) x->refused++, q->next = idle_list, idle_list = q;
    }
    drive(w, r, n_routes);
  }
  check(w->c);
  let_core_free(w->c);
  last_fill = (double)w->rows / (double)w->batches;
}

/* Attainment of those admitted, and goodput per second. */
static double report(const char *what, const tenant *t, double capacity, let_dur length, double *goodput) {
  uint64_t admitted = t->sent - t->refused;
  *goodput = (double)t->good / ((double)length / 1e9);
  double kept = admitted ? (double)t->good / (double)(t->good + t->late + t->dropped) : 1;
  print_message("[%.1f rows/batch] %-28s offered %7.0f/s  goodput %7.0f/s (%5.1f %% of capacity %.0f/s)  refused at "
                "once %5.1f %%  of the admitted %6.2f %% in time\n",
                last_fill, what, (double)t->sent / ((double)length / 1e9), *goodput, 100 * *goodput / capacity,
                capacity, 100.0 * (double)t->refused / (double)t->sent, 100 * kept);
  return kept;
}

static let_core_route table(uint32_t m, uint32_t g, uint32_t batch, double fixed_ms, double row_ms, double rate) {
  let_core_route r = {.model = m, .gpulet = g, .batch = batch, .rate = rate};
  for (uint32_t s = 1; s <= batch; s *= 2)
    r.size[r.n_sizes] = s, r.predict[r.n_sizes++] = (let_dur)((fixed_ms + row_ms * s) * 1e6);
  return r;
}

static void test_overload(void **state) {
  (void)state;
  static const double loads[] = {0.5, 0.9, 1.1, 2, 5};
  for (uint32_t depth = 1; depth <= 2; depth++)
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
      trial w = {.n_tenants = 1, .n_lets = 1, .jitter = 0.1, .truth = 1};
      let_rng_seed(&w.rng, 42);
      let_core_route r = table(0, 0, 16, 2, 0.5, 0); /* 10 ms for 16 rows */
      double capacity = 1600, goodput;
      w.t[0] = (tenant){.rate = capacity * loads[i], .slo = 25 * LET_MS};
      trial_run(&w, &r, 1, depth, 20 * LET_S);
      char what[64];
      snprintf(what, sizeof what, "one model, depth %u, %.1fx", depth, loads[i]);
      double kept = report(what, &w.t[0], capacity, 20 * LET_S, &goodput);
      assert_true(kept > 0.985);
      assert_true(goodput > 0.93 * (loads[i] < 1 ? loads[i] * capacity : capacity));
    }
}

static void test_overload_stays_at_home(void **state) {
  (void)state;
  /* Two models share a gpu-let, half of its time each; the second gets five times its planned rate. */
  for (int tight = 0; tight < 2; tight++) {
    trial w = {.n_tenants = 2, .n_lets = 1, .jitter = 0.1, .truth = 1};
    let_rng_seed(&w.rng, 7);
    double each = 8 / (2 * 6e-3), goodput; /* 8 rows every 12 ms */
    let_core_route r[] = {table(0, 0, 8, 2, 0.5, each * 0.9), table(1, 0, 8, 2, 0.5, each * 0.9)};
    w.t[0] = (tenant){.rate = each * 0.8, .slo = (tight ? 20 : 40) * LET_MS};
    w.t[1] = (tenant){.rate = each * 5, .slo = (tight ? 40 : 20) * LET_MS};
    trial_run(&w, r, 2, 1, 20 * LET_S);
    report(tight ? "tight SLO, 0.8x" : "wide SLO, 0.8x", &w.t[0], each, 20 * LET_S, &goodput);
    double victim = (double)w.t[0].good / (double)w.t[0].sent;
    report(tight ? "beside wide SLO, 5x" : "beside tight SLO, 5x", &w.t[1], each, 20 * LET_S, &goodput);
    print_message("%-28s attainment of the model inside its plan: %.2f %%\n", "", 100 * victim);
    assert_true(victim > 0.92); /* not more: one batch of the neighbour's may still lie before each of its own */
    assert_true(goodput > 0.8 * each);
  }
}

static void test_split_over_unequal_gpulets(void **state) {
  (void)state;
  static const double loads[] = {0.8, 2};
  for (int i = 0; i < 2; i++) {
    trial w = {.n_tenants = 1, .n_lets = 3, .jitter = 0.1, .truth = 1};
    let_rng_seed(&w.rng, 3);
    double speed[3] = {16 / 10e-3, 8 / 10e-3, 4 / 10e-3}, capacity = speed[0] + speed[1] + speed[2], goodput;
    let_core_route r[] = {table(0, 0, 16, 2, 0.5, speed[0]), table(0, 1, 8, 2, 1, speed[1]),
                          table(0, 2, 4, 2, 2, speed[2])};
    w.t[0] = (tenant){.rate = capacity * loads[i], .slo = 30 * LET_MS};
    trial_run(&w, r, 3, 2, 10 * LET_S);
    double kept = report(i ? "three gpu-lets, 2x" : "three gpu-lets, 0.8x", &w.t[0], capacity, 10 * LET_S, &goodput);
    assert_true(kept > 0.98);
    assert_true(goodput > 0.9 * capacity * (loads[i] < 1 ? loads[i] : 1));
  }
}

static void test_survives_a_wrong_profile(void **state) {
  (void)state;
  static const double truth[] = {0.6, 1.5};
  for (int i = 0; i < 2; i++) {
    trial w = {.n_tenants = 1, .n_lets = 1, .jitter = 0.2, .truth = truth[i]};
    let_rng_seed(&w.rng, 5);
    let_core_route r = table(0, 0, 16, 2, 0.5, 0);
    w.t[0] = (tenant){.rate = 800, .slo = 35 * LET_MS};
    double goodput;
    trial_run(&w, &r, 1, 1, 10 * LET_S);
    report(i ? "1.5x the planned time" : "0.6x the planned time", &w.t[0], 1600 / truth[i], 10 * LET_S, &goodput);
    assert_true(goodput > 800 * 0.97);
  }
}

/* A model of very short batches and a short SLO, alone in its gpu-let at a small part of what that can do. */
static void test_short_batches(void **state) {
  (void)state;
  /* |plan|: how many times too long the plan says; |least|: of the goodput. Batches hit by 8 ms are late whatever is
   * done, and so is who arrives behind them. The last plan is longer than the SLO. */
  static const struct {
    double plan, hiccups;
    let_dur hiccup;
    double least;
  } cases[] = {{1, 0, 0, 0.999},           {1, 0.05, 4 * LET_MS, 0.97},
               {1, 0.1, 8 * LET_MS, 0.78}, {1, 0.2, 2 * LET_MS, 0.99},
               {1, 0.2, 4 * LET_MS, 0.9},  {1, 0.2, 8 * LET_MS, 0.58},
               {1, 0.3, 4 * LET_MS, 0.72}, {5, 0, 0, 0.999},
               {30, 0, 0, 0.99},           {60, 0, 0, 0.9}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    trial w = {.n_tenants = 1,
               .n_lets = 1,
               .jitter = 0.1,
               .truth = 1 / cases[i].plan,
               .hiccups = cases[i].hiccups,
               .hiccup = cases[i].hiccup,
               .delay = 2500 * LET_US};
    let_rng_seed(&w.rng, 11);
    let_core_route r = {.batch = 8, .rate = 300, .n_sizes = 5, .size = {1, 2, 4, 8, 32}};
    for (int k = 0; k < 5; k++) r.predict[k] = (let_dur)((100 + 6 * r.size[k]) * 1e3 * cases[i].plan);
    w.t[0] = (tenant){.rate = 300, .slo = 5 * LET_MS};
    double goodput;
    trial_run(&w, &r, 1, 2, 20 * LET_S);
    char what[64];
    snprintf(what, sizeof what, "plan %.0fx, %.0f %% by %.0f ms", cases[i].plan, 100 * cases[i].hiccups,
             (double)cases[i].hiccup / 1e6);
    report(what, &w.t[0], 300, 20 * LET_S, &goodput);
    assert_true((double)w.t[0].good >= cases[i].least * (double)w.t[0].sent);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_closes_when_slack_runs_out_or_full),
                                     cmocka_unit_test(test_no_large_batch_of_padding),
                                     cmocka_unit_test(test_too_wide_for_what_is_up),
                                     cmocka_unit_test(test_order_is_priority_then_deadline),
                                     cmocka_unit_test(test_refusals_say_why),
                                     cmocka_unit_test(test_failed_batch_runs_elsewhere_once),
                                     cmocka_unit_test(test_plan_change),
                                     cmocka_unit_test(test_predictions_follow_both_ways),
                                     cmocka_unit_test(test_allocation_failure),
                                     cmocka_unit_test(test_dump_is_json_like),
                                     cmocka_unit_test(test_rate),
                                     cmocka_unit_test(test_overload),
                                     cmocka_unit_test(test_overload_stays_at_home),
                                     cmocka_unit_test(test_split_over_unequal_gpulets),
                                     cmocka_unit_test(test_survives_a_wrong_profile),
                                     cmocka_unit_test(test_short_batches)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
