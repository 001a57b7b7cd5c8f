/* core_test_rig.h: a small world for single cases of the core: three models, four gpu-lets, and a line each for what a
 * server would do. */
#ifndef LET_CORE_CORE_TEST_RIG_H
#define LET_CORE_CORE_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "core/core.h"

static let_model models[3];
static let_request pool[600];
static uint32_t n_pool;
static let_action act;

#define ON(number) ((let_gpulet_id){number})

static inline let_model *model(uint32_t i, let_dur slo) {
  models[i] = (let_model){.slo = slo};
  snprintf(models[i].name, sizeof models[i].name, "model%u", i);
  return &models[i];
}

/* 1 ms + 1 ms per row */
static inline let_core_route route(uint32_t m, uint32_t g, uint32_t batch) {
  let_core_route r = {.model = m, .gpulet = {g}, .batch = batch, .n_sizes = 4, .size = {1, 2, 4, 8}};
  for (int i = 0; i < 4; i++) r.predict[i] = (1 + (1 << i)) * LET_MS;
  return r;
}

static inline let_core *core(uint32_t queue) {
  let_core_limits l = {.models = 3, .gpulets = 4, .requests = 512, .queue = queue};
  let_core *c;
  let_error e;
  assert_int_equal(let_core_new(&l, &let_mem_libc, &c, &e), LET_OK);
  n_pool = 0;
  return c;
}

static inline void routes(let_core *c, uint32_t lets, const let_core_route *r, uint32_t n, let_time now) {
  let_core_gpulet g[4];
  let_error e = {0};
  for (uint32_t i = 0; i < lets; i++) g[i] = (let_core_gpulet){{i}, 1};
  if (let_core_routes_set(c, g, lets, r, n, now, &e)) {
    print_message("%s\n", e.text);
    fail();
  }
}

static inline let_request *request(uint32_t m, let_time now, let_dur slo) {
  let_request *r = &pool[n_pool++];
  *r = (let_request){.id = n_pool, .model = m, .rows = 1, .arrival = now, .deadline = now + slo};
  let_heap_node_init(&r->node);
  return r;
}

static inline void check(const let_core *c) {
  let_error e = {0};
  if (!let_core_validate(c, &e)) {
    print_message("%s\n", e.text);
    fail();
  }
}

static inline uint32_t done(let_core *c, let_batch_id batch, let_dur took, let_time now) {
  let_request *got[LET_BATCH_MAX];
  uint32_t n = 0;
  assert_true(let_core_batch_done(c, batch, now - took, now, now, got, &n));
  check(c);
  return n;
}

static inline void declare(let_core *c, uint32_t i, const let_model *m) {
  let_error e;
  assert_int_equal(let_core_model_set(c, i, m, &e), LET_OK);
}

/* One batch of |rows| rows that takes what the plan says, so that the gpu-lets are known by |now|. */
static inline void ran(let_core *c, uint32_t m, uint32_t rows, let_time now) {
  let_time then = now - let_core_predict(c, ON(0), m, rows);
  for (uint32_t i = 0; i < rows; i++) assert_int_equal(let_core_arrive(c, request(m, then, LET_S), then), LET_OK);
  assert_true(let_core_step(c, then, &act));
  assert_int_equal(act.n, rows);
  assert_int_equal(done(c, act.batch, now - then, now), rows);
}

#endif
