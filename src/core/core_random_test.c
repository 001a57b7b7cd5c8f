/* A seeded stream of random events against the core, checked from outside against what the header promises. */
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

enum { MODELS = 6, LETS = 10, REQUESTS = 600, QUEUE = 60, DEPTH = 2, EVENTS = 400000 };

typedef struct flight {
  let_batch_id id;
  let_gpulet_id gpulet;
  uint32_t model;
  let_dur took;
} flight;

typedef struct world {
  let_rng rng;
  let_core *c;
  let_mem_failing mem;
  let_time now;
  let_model model[MODELS];
  let_core_route route[MODELS * LETS];
  let_core_gpulet lets[LETS];
  uint32_t n_routes, n_lets;
  bool down[LETS], named[LETS];
  uint32_t depth[LETS];
  let_request request[REQUESTS];
  bool inside[REQUESTS]; /* the core has it */
  flight flight[LETS * DEPTH];
  uint32_t n_flights;
  uint64_t arrived, refused_at_once, refused_later, done, cancelled, batches, rows, late, failed;
  uint64_t next_id;
  long plans;
} world;

static uint64_t below(world *w, uint64_t n) { return let_rng_below(&w->rng, n); }

static const let_core_route *route_of(const world *w, uint32_t model, let_gpulet_id gpulet) {
  for (uint32_t i = 0; i < w->n_routes; i++)
    if (w->route[i].model == model && let_gpulet_id_eq(w->route[i].gpulet, gpulet)) return &w->route[i];
  return NULL;
}

/* When the batches on |gpulet| should have ended, by the core's own predictions at their submission. */
typedef struct clock_of {
  let_time start;
  let_dur predict[DEPTH];
  uint32_t n;
} clock_of;
static clock_of ring[LETS];
static let_time ran[MODELS][LETS]; /* when a batch of that model last ended there; 0: none of the route that it has */

static let_time free_at(let_gpulet_id gpulet, let_time now) {
  let_time t = now;
  for (uint32_t i = 0; i < ring[gpulet.n].n; i++) {
    let_time end = (i == 0 ? ring[gpulet.n].start : t) + ring[gpulet.n].predict[i];
    t = end > now ? end : now;
  }
  return t;
}

static uint32_t level_of(const world *w, const let_request *r) {
  uint32_t n = w->model[r->model].priority_levels, p = r->priority ? r->priority : w->model[r->model].default_priority;
  n = n ? n : 1;
  return p < 1 ? 1 : p > n ? n : p;
}

static bool ordered_before(const world *w, const let_request *a, const let_request *b) {
  uint32_t x = level_of(w, a), y = level_of(w, b);
  return x != y ? x < y : a->deadline < b->deadline;
}

static void leave(world *w, let_request *r) {
  assert_true(r >= w->request && r < w->request + REQUESTS);
  assert_true(w->inside[r - w->request]); /* exactly once */
  assert_int_equal(r->state, LET_REQUEST_IDLE);
  w->inside[r - w->request] = false;
}

static void check_submit(world *w, const let_action *a) {
  const let_core_route *route = route_of(w, a->model, a->gpulet);
  assert_non_null(route);
  assert_false(w->down[a->gpulet.n]);
  assert_true(ring[a->gpulet.n].n < w->depth[a->gpulet.n]);
  bool prepared = false;
  for (uint32_t i = 0; i < route->n_sizes; i++) prepared |= route->size[i] == a->size;
  assert_true(prepared && a->n >= 1 && a->rows <= a->size);
  let_time start = free_at(a->gpulet, w->now), end = start + let_core_predict(w->c, a->gpulet, a->model, a->size);
  uint32_t rows = 0, late = 0;
  for (uint32_t i = 0; i < a->n; i++) {
    const let_request *r = a->request[i];
    rows += r->rows;
    assert_int_equal(r->model, a->model); /* no batch mixes models */
    assert_int_equal(r->state, LET_REQUEST_RUNNING);
    assert_true(w->inside[r - w->request]);
    /* Nothing runs late by its prediction, except where nothing would be in time: then a run corrects it. */
    late += end > r->deadline;
    if (i > 0) assert_false(ordered_before(w, r, a->request[i - 1]));
  }
  assert_int_equal(rows, a->rows);
  bool fresh = w->now - ran[a->model][a->gpulet.n] < LET_S;
  for (uint32_t i = 0; i < REQUESTS && late && fresh; i++) {
    const let_request *r = &w->request[i];
    if (w->inside[i] && r->state == LET_REQUEST_QUEUED && r->model == a->model && r->rows <= route->size[0])
      assert_true(start + let_core_predict(w->c, a->gpulet, a->model, 1) > r->deadline);
  }
  /* What was passed over would have been late in this batch, or made room in a full one for what is surely in time. */
  for (uint32_t i = 0; i < REQUESTS; i++) {
    const let_request *r = &w->request[i];
    if (!w->inside[i] || r->state != LET_REQUEST_QUEUED || r->model != a->model) continue;
    if (ordered_before(w, r, a->request[a->n - 1]) && r->rows <= route->size[0])
      assert_true(r->deadline < end || r->rows > route->batch || a->rows + 6 > a->size);
  }
  flight f = {a->batch, a->gpulet, a->model, 0};
  double slip = let_rng_unit(&w->rng);
  f.took = (let_dur)((double)(end - start) *
                     (slip < 0.9 ? 0.7 + 0.35 * let_rng_unit(&w->rng) : 1 + 2 * let_rng_unit(&w->rng)));
  assert_true(w->n_flights < LETS * DEPTH);
  w->flight[w->n_flights++] = f;
  clock_of *k = &ring[a->gpulet.n];
  if (k->n == 0) k->start = w->now;
  k->predict[k->n++] = end - start;
  w->batches++;
  w->rows += a->rows;
}

static void steps(world *w) {
  static let_action a;
  while (let_core_step(w->c, w->now, &a)) {
    if (a.kind == LET_ACTION_SUBMIT) {
      check_submit(w, &a);
      continue;
    }
    assert_int_equal(a.n, 1);
    assert_true(a.why != LET_OK && a.request[0]->why[0]);
    leave(w, a.request[0]);
    w->refused_later++;
  }
  assert_true(let_core_wake(w->c) > w->now);
}

static void arrive(world *w) {
  uint32_t i = (uint32_t)below(w, REQUESTS);
  if (w->inside[i]) return;
  let_request *r = &w->request[i];
  memset(r, 0, sizeof *r);
  let_heap_node_init(&r->node);
  r->id = ++w->next_id;
  r->model = (uint32_t)below(w, MODELS);
  r->priority = (uint8_t)below(w, 4);
  r->rows = below(w, 4) ? 1 : (uint32_t)(1 + below(w, 6));
  r->arrival = w->now - (let_time)below(w, 100 * LET_US);
  let_dur slo = w->model[r->model].slo;
  r->deadline = below(w, 50) == 0 ? LET_NEVER : r->arrival + slo / 2 + (let_dur)below(w, (uint64_t)slo);
  w->arrived++;
  if (let_core_arrive(w->c, r, w->now) == LET_OK) {
    w->inside[i] = true;
    assert_true(let_core_queued(w->c, r->model) <=
                (w->model[r->model].max_queue ? w->model[r->model].max_queue : QUEUE));
  } else {
    assert_true(r->why[0] && r->status != LET_OK && r->state == LET_REQUEST_IDLE);
    w->refused_at_once++;
  }
}

static void finish(world *w, uint32_t at, bool failed) {
  flight f = w->flight[at];
  w->flight[at] = w->flight[--w->n_flights];
  clock_of *k = &ring[f.gpulet.n];
  let_time started = k->start, finished = started + f.took < w->now ? started + f.took : w->now;
  k->n--;
  k->predict[0] = k->predict[1];
  k->start = failed ? w->now : finished;
  if (failed) {
    assert_true(let_core_batch_failed(w->c, f.id, LET_ERR_GPULET, w->now));
    assert_false(let_core_batch_failed(w->c, f.id, LET_ERR_GPULET, w->now));
    w->failed++;
    return;
  }
  static let_request *got[LET_BATCH_MAX];
  uint32_t n = 0;
  assert_true(let_core_batch_done(w->c, f.id, started, finished, w->now, got, &n));
  if (route_of(w, f.model, f.gpulet)) ran[f.model][f.gpulet.n] = w->now;
  assert_true(n >= 1);
  for (uint32_t i = 0; i < n; i++) {
    leave(w, got[i]);
    if (w->now > got[i]->deadline) w->late++;
  }
  w->done += n;
  assert_false(let_core_batch_done(w->c, f.id, started, finished, w->now, got, &n));
}

/* The oldest batch of a random busy gpu-let, as a worker would report it. */
static void some_outcome(world *w, bool failed) {
  if (!w->n_flights) return;
  let_gpulet_id on = w->flight[below(w, w->n_flights)].gpulet;
  let_batch_id id = let_core_batch_on(w->c, on);
  for (uint32_t i = 0; i < w->n_flights; i++)
    if (let_batch_id_eq(w->flight[i].id, id)) {
      let_time end = ring[on.n].start + w->flight[i].took;
      if (!failed && end > w->now && below(w, 4)) w->now = end;
      finish(w, i, failed);
      return;
    }
  fail();
}

static void lose(world *w, uint32_t g) {
  if (!w->named[g]) return;
  let_core_gpulet_down(w->c, (let_gpulet_id){g});
  w->down[g] = true;
  for (let_batch_id id; (id = let_core_batch_on(w->c, (let_gpulet_id){g})).n != 0;)
    for (uint32_t i = 0; i < w->n_flights; i++)
      if (let_batch_id_eq(w->flight[i].id, id)) {
        finish(w, i, true);
        break;
      }
}

static void replan(world *w) {
  w->n_routes = w->n_lets = 0;
  w->plans++;
  bool named[LETS] = {0};
  for (uint32_t g = 0; g < LETS; g++) {
    if (below(w, 4) == 0) continue;
    named[g] = true;
    w->depth[g] = (uint32_t)(1 + below(w, DEPTH));
    w->lets[w->n_lets++] = (let_core_gpulet){{g}, w->depth[g]};
    for (uint32_t m = 0; m < MODELS; m++) {
      if (below(w, 3)) continue;
      let_core_route *r = &w->route[w->n_routes++];
      *r = (let_core_route){.model = m,
                            .gpulet = {g},
                            .n_sizes = (uint32_t)(1 + below(w, 5)),
                            .rate = below(w, 2) ? 0 : (double)below(w, 1000)};
      let_dur fixed = (let_dur)(200 + below(w, 1500)) * LET_US, each = (let_dur)(20 + below(w, 300)) * LET_US;
      for (uint32_t k = 0; k < r->n_sizes; k++) {
        r->size[k] = 1u << k;
        r->predict[k] = fixed + each * (1 << k);
      }
      r->batch = 1 + (uint32_t)below(w, r->size[r->n_sizes - 1]);
    }
  }
  let_error e;
  assert_int_equal(let_core_routes_set(w->c, w->lets, w->n_lets, w->route, w->n_routes, w->now, &e), LET_OK);
  for (uint32_t m = 0; m < MODELS; m++)
    for (uint32_t g = 0; g < LETS; g++)
      if (!route_of(w, m, (let_gpulet_id){g})) ran[m][g] = 0;
  for (uint32_t g = 0; g < LETS; g++) {
    if (w->named[g] && !named[g] && let_core_gpulet_idle(w->c, (let_gpulet_id){g})) {
      let_core_gpulet_remove(w->c, (let_gpulet_id){g});
      w->down[g] = false;
      w->named[g] = false;
    }
    if (named[g]) w->named[g] = true;
  }
}

static void event(world *w) {
  uint64_t k = below(w, 1000);
  if (k < 560) arrive(w);
  else if (k < 860) some_outcome(w, false);
  else if (k < 870) some_outcome(w, true);
  else if (k < 910) {
    uint32_t i = (uint32_t)below(w, REQUESTS);
    for (int tries = 0; tries < REQUESTS && !w->inside[i]; tries++) i = (i + 1) % REQUESTS;
    if (!w->inside[i]) return;
    bool queued = w->request[i].state == LET_REQUEST_QUEUED;
    assert_int_equal(let_core_cancel(w->c, &w->request[i]), queued);
    if (queued) {
      leave(w, &w->request[i]);
      w->cancelled++;
    }
  } else if (k < 913) lose(w, (uint32_t)below(w, LETS));
  else if (k < 921) {
    uint32_t g = (uint32_t)below(w, LETS);
    let_core_gpulet_up(w->c, (let_gpulet_id){g});
    w->down[g] = false;
  } else if (k < 923) replan(w);
  else if (k < 980) {
    let_time t = let_core_wake(w->c);
    if (t < LET_NEVER && t < w->now + LET_S) w->now = t;
  } else if (k < 999) w->now += (let_time)below(w, 2 * LET_MS);
  else w->now += (let_time)below(w, 50 * LET_MS);
  w->now += (let_time)below(w, 30 * LET_US);
}

static void run(uint64_t seed, bool waits, int events) {
  world *w = calloc(1, sizeof *w);
  let_rng_seed(&w->rng, seed);
  memset(ring, 0, sizeof ring);
  memset(ran, 0, sizeof ran);
  let_mem_failing_init(&w->mem, -1, 0);
  let_core_limits limits = {.models = MODELS, .gpulets = LETS, .requests = REQUESTS / 2, .queue = QUEUE};
  let_error e;
  assert_int_equal(let_core_new(&limits, &w->mem.mem, &w->c, &e), LET_OK);
  for (uint32_t i = 0; i < MODELS; i++) {
    let_model *m = &w->model[i];
    snprintf(m->name, sizeof m->name, "m%u", i);
    m->slo = (let_dur)(3 + 5 * i) * LET_MS;
    m->max_queue_delay = !waits ? 0 : i % 2 ? LET_MS : LET_NEVER;
    m->max_queue = i == 3 ? 8 : 0;
    m->priority_levels = i == 1 || i == 4 ? 3 : 0;
    m->default_priority = 2;
    assert_int_equal(let_core_model_set(w->c, i, m, &e), LET_OK);
  }
  w->now = LET_S;
  replan(w);
  for (int i = 0; i < events; i++) {
    long allocations = w->mem.count, plans = w->plans;
    event(w);
    steps(w);
    assert_int_equal(w->mem.count - allocations,
                     w->plans - plans); /* a plan change allocates its table, nothing else anything */
    if (i % 64 == 0 && !let_core_validate(w->c, &e)) {
      print_message("seed %llu, event %d: %s\n", (unsigned long long)seed, i, e.text);
      fail();
    }
  }
  /* Everything comes out in the end. */
  while (w->n_flights) {
    some_outcome(w, false);
    steps(w);
  }
  w->n_routes = 0;
  assert_int_equal(let_core_routes_set(w->c, w->lets, 0, NULL, 0, w->now, &e), LET_OK);
  steps(w);
  for (uint32_t i = 0; i < REQUESTS; i++) assert_false(w->inside[i]);
  assert_true(let_core_wake(w->c) == LET_NEVER);
  assert_true(let_core_validate(w->c, &e));
  print_message("seed %llu: %llu arrived, %llu refused at once, %llu later, %llu done (%llu after their deadline), "
                "%llu cancelled, "
                "%llu batches of %.2f rows, %llu failed\n",
                (unsigned long long)seed, (unsigned long long)w->arrived, (unsigned long long)w->refused_at_once,
                (unsigned long long)w->refused_later, (unsigned long long)w->done, (unsigned long long)w->late,
                (unsigned long long)w->cancelled, (unsigned long long)w->batches, (double)w->rows / (double)w->batches,
                (unsigned long long)w->failed);
  let_core_free(w->c);
  assert_int_equal(w->mem.live, 0);
  free(w);
}

static void test_waiting_for_company(void **state) {
  (void)state;
  run(1, true, EVENTS / 2);
}
static void test_at_once(void **state) {
  (void)state;
  run(2, false, EVENTS / 4);
}
static void test_more(void **state) {
  (void)state;
  for (uint64_t seed = 10; seed < 15; seed++) run(seed, seed % 3 == 0, EVENTS / 20);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_waiting_for_company), cmocka_unit_test(test_at_once),
                                     cmocka_unit_test(test_more)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
