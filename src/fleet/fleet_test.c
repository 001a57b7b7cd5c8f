/* The fleet's rules, one by one. What must hold at any time is checked after every step by the rig. */
#include "fleet_test_steps.h"

#define OFFER(w, ...) offer(w, (part[]){__VA_ARGS__}, sizeof((part[]){__VA_ARGS__}) / sizeof(part))

static bool busy(const world *w) { return let_fleet_change(w->f) != LET_CHANGE_IDLE; }

static void setup(world *w) { rig_open(w, 1, false, 0); }

/* ---- plan changes ------------------------------------------------------------------------------------------------ */

static void test_kept_groups_are_not_touched(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}, {1, 2}, {2, 3}}, 3);
  obey(&w, 20);
  assert_int_equal(w.applied, 1);
  int frees = w.frees, prepares = w.prepares;
  begin(&w, (part[]){{0, 1}, {2, 4}, {2, 3}}, 3);
  obey(&w, 20);
  assert_int_equal(w.applied, 2);
  assert_int_equal(w.frees - frees, 1);       /* device 1's only */
  assert_int_equal(w.prepares - prepares, 1); /* the new gpu-let's only */
  rig_close(&w);
}

static void test_failed_prepare_leaves_old_serving(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  begin(&w, (part[]){{0, 2}, {1, 3}}, 2);
  assert_int_equal(OFFER(&w, {0, 3}), LET_ERR_AGAIN);
  pump(&w);
  say_failed(&w, worker_of(&w, 0, 2), set_of(&w, 0, 2), "model 'x' does not load");
  obey(&w, 20);
  assert_int_equal(w.failed, 2);
  assert_string_equal(w.why, "model 'x' does not load");
  assert_int_equal(w.serving, 1);
  assert_true(serves(&w, 0, 1) && !serves(&w, 0, 2));
  assert_false(busy(&w));
  begin(&w, (part[]){{0, 4}}, 1);
  obey(&w, 20);
  assert_int_equal(w.applied, 3);
  rig_close(&w);
}

/* Gpu-lets that come up one by one depend on whether routing names their group, while its worker is replaced and while
 * the plan changes. */
static void test_routed_is_the_generation_that_serves(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  assert_false(group_with(&w, 0, 1, NULL).routed);
  obey(&w, 20);
  let_fleet_group old = group_with(&w, 0, 1, NULL);
  assert_true(old.routed && old.state == LET_GROUP_SERVING);
  lose(&w, old.worker.n);
  pump(&w);
  old = group_with(&w, 0, 1, NULL);
  assert_true(old.routed && old.state != LET_GROUP_SERVING);
  w.now += LET_S;
  obey(&w, 20);
  old = group_with(&w, 0, 1, NULL);
  assert_true(old.routed && old.state == LET_GROUP_SERVING);
  begin(&w, (part[]){{0, 2}}, 1);
  pump(&w);
  old = group_with(&w, 0, 1, NULL);
  assert_true(old.routed && !old.wanted);
  assert_true(!group_with(&w, 0, 2, NULL).routed && group_with(&w, 0, 2, NULL).wanted);
  obey(&w, 20);
  assert_true(group_with(&w, 0, 2, NULL).routed);
  assert_false(serves(&w, 0, 1));
  rig_close(&w);
}

/* The worker of a group is being replaced, and part of it takes batches already, when a plan gives it up: they are
 * waited for. Nothing is waited for when it fails to prepare meanwhile. */
static void test_given_up_while_it_comes_back(void **state) {
  (void)state;
  for (int fails = 0; fails < 2; fails++) {
    static world w;
    setup(&w);
    begin(&w, (part[]){{0, 1}, {1, 2}}, 2);
    obey(&w, 20);
    uint32_t worker = worker_of(&w, 0, 1), id;
    lose(&w, worker);
    pump(&w);
    w.now += LET_S;
    pump(&w);
    all_ready(&w);
    rig_set *s = set_of(&w, 0, 1);
    assert_int_equal(s->state, SET_PREPARING);
    prepare_more(&w, worker, s);
    pump(&w);
    uint32_t number = group_with(&w, 0, 1, &id).gpulet[0].id.n;
    assert_true(w.gpulet[number].up);
    w.gpulet[number].running = 1;
    int frees = w.frees;
    begin(&w, (part[]){{1, 2}}, 1);
    pump(&w);
    assert_int_equal(w.switches, 2);
    assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_DRAINING);
    assert_true(busy(&w));
    assert_int_equal(w.frees, frees);
    if (fails) {
      say_failed(&w, worker, set_of(&w, 0, 1), "no");
    } else {
      w.gpulet[number].running = 0;
      tell(&w, (let_fleet_event){.kind = LET_FLEET_GROUP_DRAINED, .group = {id}});
    }
    obey(&w, 20);
    assert_int_equal(w.frees, frees + 1);
    assert_int_equal(w.applied, 2);
    rig_close(&w);
  }
}

static void test_refused_switch_rolls_back(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  begin(&w, (part[]){{0, 2}}, 1);
  pump(&w);
  all_prepared(&w);
  w.refuse_routes = true;
  pump(&w);
  obey(&w, 20);
  assert_int_equal(w.failed, 2);
  assert_string_equal(w.why, "refused");
  assert_int_equal(w.serving, 1);
  rig_close(&w);
}

static void test_worker_that_never_lives_fails_the_change(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  for (int i = 0; i < 10 && !w.failed; i++) {
    pump(&w);
    for (uint32_t k = 0; k < RIG_WORKERS; k++)
      if (w.process[k].running) lose(&w, k);
    w.now += 10 * LET_S;
  }
  assert_int_equal(w.failed, 1);
  assert_int_equal(w.spawns, 3);
  rig_close(&w);
}

/* Both groups of a change fail, the second after the change was given up: its worker kept nothing of it, and has
 * nothing that it could report as retired. */
static void test_failure_after_the_roll_back(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  begin(&w, (part[]){{0, 2}, {1, 3}}, 2);
  pump(&w);
  all_ready(&w);
  uint32_t second = worker_of(&w, 1, 3);
  rig_set *s = set_of(&w, 1, 3);
  say_failed(&w, worker_of(&w, 0, 2), set_of(&w, 0, 2), "no memory");
  w.late = true;
  say_failed(&w, second, s, "no memory either"); /* on its way when */
  pump(&w);                                      /* it is asked to retire */
  assert_int_equal(group_with(&w, 1, 3, NULL).state, LET_GROUP_RETIRING);
  w.late = false;
  said(&w, second);
  obey(&w, 20);
  assert_int_equal(w.failed, 2);
  assert_int_equal(w.serving, 1);
  assert_false(busy(&w));
  rig_close(&w);
}

/* Old and new generation share a worker, and preparing the new one kills it every time: the change must be given up,
 * or the old one would never be left in peace. */
static void test_new_group_that_kills_the_worker_it_shares(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  begin(&w, (part[]){{0, 2}}, 1);
  for (int round = 0; round < 100 && !w.failed; round++) {
    pump(&w);
    all_ready(&w);
    let_fleet_group g = group_with(&w, 0, 2, NULL);
    bool asked = g.state == LET_GROUP_PREPARING;
    if (asked) lose(&w, g.worker.n);
    w.now += 500 * LET_MS;
    pump(&w);
  }
  assert_int_equal(w.failed, 2);
  obey(&w, 40);
  assert_int_equal(w.serving, 1);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  assert_false(busy(&w));
  rig_close(&w);
}

/* A worker that hangs while it prepares is killed in the end, the change fails, and what it served before comes
 * back. */
static void test_late_worker_is_killed(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 60 * LET_S);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  assert_int_equal(w.applied, 1);
  begin(&w, (part[]){{0, 2}, {2, 3}}, 2);
  let_time asked = w.now;
  pump(&w);
  uint32_t one = worker_of(&w, 0, 2), other = worker_of(&w, 2, 3);
  for (int i = 0; i < 59; i++) { /* both say that they are well */
    w.now += LET_S;
    tell(&w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {one}});
    tell(&w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {other}});
    tell(&w, (let_fleet_event){.kind = LET_FLEET_TICK});
    pump(&w);
  }
  assert_true(let_fleet_wake(w.f) <= asked + 60 * LET_S);
  w.now = asked + 60 * LET_S - 1;
  pump(&w);
  assert_int_equal(w.kills, 0);
  w.now++;
  pump(&w);
  assert_int_equal(w.kills, 2); /* the one that prepares and the one that never became ready */
  assert_int_equal(w.reports[LET_FLEET_REPORT_LATE], 2);
  obey(&w, 40);
  assert_int_equal(w.failed, 2);
  assert_non_null(strstr(w.why, "within 60 s"));
  assert_false(busy(&w));
  assert_int_equal(w.serving, 1);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  begin(&w, (part[]){{0, 4}}, 1);
  obey(&w, 20);
  assert_int_equal(w.applied, 3);
  assert_int_equal(w.kills, 2);
  rig_close(&w);
}

static void test_stop_ends_a_change_with_one_report(void **state) {
  (void)state;
  static world w;
  setup(&w);
  begin(&w, (part[]){{0, 1}}, 1);
  obey(&w, 20);
  begin(&w, (part[]){{0, 2}}, 1);
  pump(&w);
  assert_true(busy(&w));
  tell(&w, (let_fleet_event){.kind = LET_FLEET_DRAIN});
  let_error e = {0};
  assert_int_equal(let_fleet_offer(w.f, &(let_plan){0}, w.now, &e), LET_ERR_UNAVAILABLE);
  w.stopping = true;
  tell(&w, (let_fleet_event){.kind = LET_FLEET_STOP_ALL});
  obey(&w, 20);
  assert_int_equal(w.failed, 2);
  assert_int_equal(w.ended[2], 1);
  assert_true(let_fleet_idle(w.f));
  rig_close(&w);
}

static void test_plans_are_checked(void **state) {
  (void)state;
  static world w;
  setup(&w);
  let_error e = {0};
  let_plan_entry x = {.name = "nobody", .batch = 4};
  let_plan_gpulet l = {.first = UINT32_MAX, .granules = 2, .n_entries = 1, .entry = &x};
  let_plan_gpu g = {.id = 0, .n_gpulets = 1, .gpulet = &l};
  let_plan p = {.n_gpus = 1, .gpu = &g};
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "'nobody' is not in the model repository"));
  snprintf(x.name, sizeof x.name, "m1");
  x.batch = 9;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "its config.pbtxt allows 8"));
  x.batch = 4;
  g.id = 4;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "names gpu 4; this server has 4 devices (0 to 3)"));
  g.id = 0;
  g.granules = 8;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_INVALID);
  g.granules = 0;
  snprintf(g.type, sizeof g.type, "h200");
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "type 'h200', the device is 'sim'"));
  g.type[0] = 0;
  g.n_gpulets = 0;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_INVALID);
  let_plan_gpulet many[RIG_GROUPS + 1];
  for (int i = 0; i <= RIG_GROUPS; i++) many[i] = l;
  for (int i = 0; i <= RIG_GROUPS; i++) many[i].granules = 1;
  g.id = 2;
  g.n_gpulets = RIG_GROUPS + 1;
  g.gpulet = many;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_ERR_UNSUPPORTED);
  assert_int_equal(let_fleet_generation(w.f).n, 0);
  pump(&w);
  assert_int_equal(w.spawns, 0);
  g.n_gpulets = RIG_GROUPS;
  assert_int_equal(let_fleet_offer(w.f, &p, w.now, &e), LET_OK);
  assert_int_equal(p.generation, 1);
  assert_int_equal(many[3].first, 3); /* placed */
  rig_close(&w);
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
                                     cmocka_unit_test(test_late_worker_is_killed),
                                     cmocka_unit_test(test_stop_ends_a_change_with_one_report),
                                     cmocka_unit_test(test_plans_are_checked)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
