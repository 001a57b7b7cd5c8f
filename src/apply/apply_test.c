#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "apply/apply.h"
#include "base/rng.h"

enum { CAP = 16 };

/* A world of workers that obey, die and refuse, driven by a seed. It keeps the books that a server keeps. */
typedef struct world {
  let_apply *a;
  let_rng rng;
  let_time now;
  bool running[CAP], ready[CAP], asked_stop[CAP], killed[CAP];
  bool prepared[CAP], asked[CAP], routed[CAP], up[CAP];
  uint64_t serving, applied, failed; /* generations */
  int switches, frees, kills;
} world;

static void pump(world *w, bool refuse_switch) {
  let_apply_action x;
  int guard = 0;
  while (let_apply_step(w->a, w->now, &x)) {
    assert_true(guard++ < 1000);
    switch (x.kind) {
    case LET_APPLY_START:
      assert_false(w->running[x.worker]);
      w->running[x.worker] = true, w->ready[x.worker] = w->asked_stop[x.worker] = false;
      break;
    case LET_APPLY_STOP:
      assert_true(w->running[x.worker]);
      w->asked_stop[x.worker] = true;
      break;
    case LET_APPLY_PREPARE:
      assert_true(w->ready[x.worker]);
      assert_false(w->asked[x.group] && w->prepared[x.group]);
      w->asked[x.group] = true, w->prepared[x.group] = false;
      break;
    case LET_APPLY_SWITCH:
      w->switches++;
      if (refuse_switch) {
        let_apply_switch_failed(w->a, "refused");
        break;
      }
      let_apply_switched(w->a);
      for (uint32_t i = 0; i < CAP; i++) w->routed[i] = let_apply_group_wanted(w->a, i);
      w->serving = x.generation;
      break;
    case LET_APPLY_UP: assert_true(w->routed[x.group] && w->prepared[x.group]); break;
    case LET_APPLY_RETIRE: assert_true(w->asked[x.group] && !w->routed[x.group]); break;
    case LET_APPLY_FREE:
      assert_false(w->routed[x.group]);
      w->asked[x.group] = w->prepared[x.group] = false;
      w->frees++;
      break;
    case LET_APPLY_APPLIED:
      assert_int_equal(w->serving, x.generation);
      w->applied = x.generation;
      break;
    case LET_APPLY_FAILED:
      assert_int_not_equal(w->serving, x.generation);
      assert_true(x.text[0]);
      w->failed = x.generation;
      break;
    case LET_APPLY_KILL:
      assert_true(w->running[x.worker] && x.text[0]);
      w->killed[x.worker] = true, w->kills++;
      break;
    }
  }
}

static void lose(world *w, uint32_t i) {
  for (uint32_t g = 0; g < CAP; g++)
    if (let_apply_group_in_use(w->a, g) && let_apply_group_worker(w->a, g) == i) w->asked[g] = w->prepared[g] = false;
  w->running[i] = w->ready[i] = w->asked_stop[i] = w->killed[i] = false;
  let_apply_worker_lost(w->a, i, "killed", w->now);
}

/* Everything that is asked happens. */
static void settle(world *w) {
  for (int round = 0; round < 200; round++) {
    pump(w, false);
    for (uint32_t i = 0; i < CAP; i++) {
      if (w->running[i] && (w->asked_stop[i] || w->killed[i])) lose(w, i);
      else if (w->running[i] && !w->ready[i]) w->ready[i] = true, let_apply_worker_ready(w->a, i, w->now);
    }
    for (uint32_t i = 0; i < CAP; i++) {
      if (w->asked[i] && !w->prepared[i]) w->prepared[i] = true, let_apply_group_prepared(w->a, i, w->now);
      if (let_apply_group_draining(w->a, i)) let_apply_group_drained(w->a, i);
      let_apply_group_retired(w->a, i);
    }
    w->now += 100 * LET_MS;
  }
}

static void begin(world *w, uint64_t generation, const let_apply_want *want, uint32_t n) {
  let_error e = {0};
  uint32_t group[CAP];
  bool fresh[CAP];
  assert_int_equal(let_apply_begin(w->a, generation, want, n, group, fresh, &e), LET_OK);
}

static void setup(world *w, uint64_t seed) {
  let_error e = {0};
  memset(w, 0, sizeof *w);
  let_rng_seed(&w->rng, seed);
  assert_int_equal(let_apply_new(CAP, &let_mem_libc, &w->a, &e), LET_OK);
}

static void test_kept_groups_are_not_touched(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}, {12, 1}, {13, 0}}, 3);
  settle(&w);
  assert_int_equal(w.applied, 1);
  int frees = w.frees;
  begin(&w, 2, (let_apply_want[]){{11, 1}, {14, 0}, {13, 0}}, 3);
  settle(&w);
  assert_int_equal(w.applied, 2);
  assert_int_equal(w.frees - frees, 1); /* group 12 only */
  let_apply_free(w.a);
}

static void test_failed_prepare_leaves_old_serving(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}}, 1);
  settle(&w);
  let_error e = {0};
  uint32_t group[2];
  bool fresh[2];
  assert_int_equal(let_apply_begin(w.a, 2, (let_apply_want[]){{21, 1}, {22, 2}}, 2, group, fresh, &e), LET_OK);
  assert_int_equal(let_apply_begin(w.a, 3, NULL, 0, group, fresh, &e), LET_ERR_AGAIN);
  pump(&w, false);
  let_apply_group_failed(w.a, group[0], "model 'x' does not load", w.now);
  w.asked[group[0]] = false;
  settle(&w);
  assert_int_equal(w.failed, 2);
  assert_int_equal(w.serving, 1);
  assert_false(let_apply_busy(w.a));
  begin(&w, 3, (let_apply_want[]){{31, 1}}, 1);
  settle(&w);
  assert_int_equal(w.applied, 3);
  let_apply_free(w.a);
}

/* Gpu-lets that come up one by one ask whether routing names their group, while its worker is replaced and while the
 * plan changes. */
static void test_routed_is_the_generation_that_serves(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  let_error e = {0};
  uint32_t old, next;
  bool fresh;
  assert_int_equal(let_apply_begin(w.a, 1, (let_apply_want[]){{11, 1}}, 1, &old, &fresh, &e), LET_OK);
  assert_false(let_apply_group_routed(w.a, old));
  settle(&w);
  assert_true(let_apply_group_routed(w.a, old) && let_apply_group_serving(w.a, old));
  lose(&w, let_apply_group_worker(w.a, old));
  assert_true(let_apply_group_routed(w.a, old) && !let_apply_group_serving(w.a, old));
  w.now += LET_S;
  settle(&w);
  assert_true(let_apply_group_routed(w.a, old) && let_apply_group_serving(w.a, old));
  assert_int_equal(let_apply_begin(w.a, 2, (let_apply_want[]){{21, 1}}, 1, &next, &fresh, &e), LET_OK);
  pump(&w, false);
  assert_true(let_apply_group_routed(w.a, old) && !let_apply_group_wanted(w.a, old));
  assert_true(!let_apply_group_routed(w.a, next) && let_apply_group_wanted(w.a, next));
  settle(&w);
  assert_true(let_apply_group_routed(w.a, next));
  assert_false(let_apply_group_routed(w.a, old));
  let_apply_free(w.a);
}

/* The worker of a group is being replaced, and part of it takes batches already, when a plan gives it up: they are
 * waited for. So is nothing when it fails to prepare meanwhile. */
static void test_given_up_while_it_comes_back(void **state) {
  (void)state;
  for (int fails = 0; fails < 2; fails++) {
    world w;
    setup(&w, 1);
    let_error e = {0};
    uint32_t g[2], kept;
    bool fresh[2];
    assert_int_equal(let_apply_begin(w.a, 1, (let_apply_want[]){{11, 1}, {12, 2}}, 2, g, fresh, &e), LET_OK);
    settle(&w);
    uint32_t worker = let_apply_group_worker(w.a, g[0]);
    lose(&w, worker);
    w.now += LET_S;
    pump(&w, false);
    w.ready[worker] = true, let_apply_worker_ready(w.a, worker, w.now);
    pump(&w, false);
    assert_true(w.asked[g[0]]);
    assert_int_equal(let_apply_begin(w.a, 2, (let_apply_want[]){{12, 2}}, 1, &kept, fresh, &e), LET_OK);
    int frees = w.frees;
    pump(&w, false);
    assert_int_equal(w.switches, 2);
    assert_true(let_apply_group_draining(w.a, g[0]) && let_apply_busy(w.a));
    assert_int_equal(w.frees, frees);
    if (fails) let_apply_group_failed(w.a, g[0], "no", w.now);
    else let_apply_group_drained(w.a, g[0]);
    settle(&w);
    assert_int_equal(w.frees, frees + 1);
    assert_int_equal(w.applied, 2);
    let_apply_free(w.a);
  }
}

static void test_refused_switch_rolls_back(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}}, 1);
  settle(&w);
  begin(&w, 2, (let_apply_want[]){{21, 1}}, 1);
  pump(&w, false);
  for (uint32_t i = 0; i < CAP; i++)
    if (w.asked[i] && !w.prepared[i]) w.prepared[i] = true, let_apply_group_prepared(w.a, i, w.now);
  pump(&w, true);
  settle(&w);
  assert_int_equal(w.failed, 2);
  assert_int_equal(w.serving, 1);
  let_apply_free(w.a);
}

static void test_worker_that_never_lives_fails_the_change(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}}, 1);
  for (int i = 0; i < 10 && !w.failed; i++) {
    pump(&w, false);
    for (uint32_t k = 0; k < CAP; k++)
      if (w.running[k]) lose(&w, k);
    w.now += 10 * LET_S;
  }
  assert_int_equal(w.failed, 1);
  let_apply_free(w.a);
}

/* Both groups of a change fail, the second after the change was given up: its worker kept nothing of it, and has
 * nothing that it could report as retired. */
static void test_failure_after_the_roll_back(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}}, 1);
  settle(&w);
  let_error e = {0};
  uint32_t group[2];
  bool fresh[2];
  assert_int_equal(let_apply_begin(w.a, 2, (let_apply_want[]){{21, 1}, {22, 2}}, 2, group, fresh, &e), LET_OK);
  pump(&w, false);
  for (uint32_t i = 0; i < CAP; i++)
    if (w.running[i] && !w.ready[i]) w.ready[i] = true, let_apply_worker_ready(w.a, i, w.now);
  pump(&w, false);
  assert_true(w.asked[group[0]] && w.asked[group[1]]);
  let_apply_group_failed(w.a, group[0], "no memory", w.now);
  pump(&w, false); /* group[1] is asked to retire while it still prepares */
  let_apply_group_failed(w.a, group[1], "no memory either", w.now);
  for (int round = 0; round < 10; round++) {
    pump(&w, false);
    for (uint32_t i = 0; i < CAP; i++)
      if (w.running[i] && w.asked_stop[i]) lose(&w, i);
    w.now += 100 * LET_MS;
  }
  assert_int_equal(w.failed, 2);
  assert_int_equal(w.serving, 1);
  assert_false(let_apply_busy(w.a));
  let_apply_free(w.a);
}

/* Old and new generation share a worker, and preparing the new one kills it every time: the change must be given up,
 * or the old one would never be left in peace. */
static void test_new_group_that_kills_the_worker_it_shares(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, (let_apply_want[]){{11, 1}}, 1);
  settle(&w);
  let_error e = {0};
  uint32_t group[1];
  bool fresh[1];
  assert_int_equal(let_apply_begin(w.a, 2, (let_apply_want[]){{21, 1}}, 1, group, fresh, &e), LET_OK);
  for (int round = 0; round < 100 && !w.failed; round++) {
    pump(&w, false);
    for (uint32_t i = 0; i < CAP; i++) {
      if (w.running[i] && !w.ready[i]) w.ready[i] = true, let_apply_worker_ready(w.a, i, w.now);
      if (w.asked[i] && !w.prepared[i] && i != group[0]) w.prepared[i] = true, let_apply_group_prepared(w.a, i, w.now);
    }
    uint32_t worker = let_apply_group_worker(w.a, group[0]);
    if (!w.failed && w.asked[group[0]] && w.running[worker]) lose(&w, worker);
    w.now += 500 * LET_MS;
  }
  assert_int_equal(w.failed, 2);
  settle(&w);
  assert_int_equal(w.serving, 1);
  assert_false(let_apply_busy(w.a));
  let_apply_free(w.a);
}

/* Random life: plans, deaths, refusals at any moment. In the end the world calms down and the last plan asked for
 * must serve (or have failed, with its predecessor serving), and shutdown must leave nothing. */
static void test_random_lives(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 400; seed++) {
    world w;
    setup(&w, seed);
    uint64_t generation = 0;
    for (int step = 0; step < 300; step++) {
      w.now += (let_dur)let_rng_below(&w.rng, 300) * LET_MS;
      pump(&w, let_rng_below(&w.rng, 20) == 0);
      uint32_t i = (uint32_t)let_rng_below(&w.rng, CAP);
      switch (let_rng_below(&w.rng, 8)) {
      case 0:
        if (!let_apply_busy(w.a)) {
          let_apply_want want[5];
          uint32_t n = 1 + (uint32_t)let_rng_below(&w.rng, 5), group[5];
          bool fresh[5];
          let_error e = {0};
          for (uint32_t k = 0; k < n; k++)
            want[k] = (let_apply_want){100 + let_rng_below(&w.rng, 6), let_rng_below(&w.rng, 3)};
          let_err r = let_apply_begin(w.a, generation + 1, want, n, group, fresh, &e);
          if (r == LET_OK) generation++;
          else assert_int_equal(r, LET_ERR_NOMEM);
        }
        break;
      case 1:
        if (w.running[i] && let_rng_below(&w.rng, 3) == 0) lose(&w, i);
        break;
      case 2:
        if (w.asked[i] && !w.prepared[i] && let_rng_below(&w.rng, 4) == 0)
          w.asked[i] = false, let_apply_group_failed(w.a, i, "no memory", w.now);
        break;
      case 3:
      case 4:
        if (w.running[i] && w.asked_stop[i]) lose(&w, i);
        else if (w.running[i] && !w.ready[i]) w.ready[i] = true, let_apply_worker_ready(w.a, i, w.now);
        break;
      case 5:
        if (w.asked[i] && !w.prepared[i]) w.prepared[i] = true, let_apply_group_prepared(w.a, i, w.now);
        break;
      case 6:
        if (let_apply_group_draining(w.a, i)) let_apply_group_drained(w.a, i);
        break;
      default: let_apply_group_retired(w.a, i);
      }
    }
    settle(&w);
    if (let_apply_busy(w.a)) fail_msg("seed %llu: the change never ends", (unsigned long long)seed);
    for (uint32_t i = 0; i < CAP; i++)
      if (w.routed[i] && !let_apply_group_serving(w.a, i))
        fail_msg("seed %llu: group %u is routed to and %s", (unsigned long long)seed, i, let_apply_group_state(w.a, i));
    let_apply_stop_all(w.a);
    memset(w.routed, 0, sizeof w.routed);
    settle(&w);
    assert_true(let_apply_idle(w.a));
    let_apply_free(w.a);
  }
}

/* A worker that hangs while it prepares is killed in the end, the change fails, and what it served before comes back.
 */
static void test_silent_worker_is_killed(void **state) {
  (void)state;
  world w;
  setup(&w, 1);
  begin(&w, 1, &(let_apply_want){.key = 1, .worker = 7}, 1);
  settle(&w);
  assert_int_equal(w.applied, 1);
  let_apply_set_patience(w.a, 60 * LET_S);
  assert_int_equal(let_apply_wake(w.a), LET_NEVER);
  begin(&w, 2, (let_apply_want[]){{.key = 2, .worker = 7}, {.key = 3, .worker = 0}}, 2);
  let_time asked = w.now;
  pump(&w, false);
  assert_int_equal(let_apply_wake(w.a), asked + 60 * LET_S);
  w.now = asked + 60 * LET_S - 1;
  pump(&w, false);
  assert_int_equal(w.kills, 0);
  w.now++;
  pump(&w, false);
  assert_int_equal(w.kills, 2); /* the one that prepares and the one that never became ready */
  settle(&w);
  assert_int_equal(w.failed, 2);
  assert_false(let_apply_busy(w.a));
  assert_int_equal(w.serving, 1);
  for (uint32_t i = 0; i < CAP; i++)
    if (w.routed[i]) assert_true(let_apply_group_serving(w.a, i));
  begin(&w, 3, &(let_apply_want){.key = 4, .worker = 7}, 1);
  settle(&w);
  assert_int_equal(w.applied, 3);
  assert_int_equal(w.kills, 2);
  let_apply_free(w.a);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_kept_groups_are_not_touched),
                                     cmocka_unit_test(test_failed_prepare_leaves_old_serving),
                                     cmocka_unit_test(test_routed_is_the_generation_that_serves),
                                     cmocka_unit_test(test_given_up_while_it_comes_back),
                                     cmocka_unit_test(test_refused_switch_rolls_back),
                                     cmocka_unit_test(test_worker_that_never_lives_fails_the_change),
                                     cmocka_unit_test(test_failure_after_the_roll_back),
                                     cmocka_unit_test(test_new_group_that_kills_the_worker_it_shares),
                                     cmocka_unit_test(test_silent_worker_is_killed),
                                     cmocka_unit_test(test_random_lives)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
