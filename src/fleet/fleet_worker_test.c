/* The fleet's rules for workers and spares. What must hold at any time is checked by the rig. */
#include "fleet_test_steps.h"

static void serve_one(world *w, uint32_t device, bool spare, let_dur timeout) {
  rig_open(w, 1, spare, timeout);
  begin(w, &(part){device, 1}, 1);
  obey(w, 25);
  assert_int_equal(w->applied, 1);
}

static void tick(world *w, let_dur after) {
  w->now += after;
  tell(w, (let_fleet_event){.kind = LET_FLEET_TICK});
  pump(w);
}

static void healthy(world *w) {
  for (uint32_t i = 0; i < RIG_WORKERS; i++)
    if (w->process[i].running) tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {i}});
}

static let_fleet_worker worker_at(const world *w, uint32_t i) {
  let_fleet_worker v;
  assert_true(let_fleet_worker_at(w->f, (let_worker_id){i}, &v));
  return v;
}

/* ---- restarts ---------------------------------------------------------------------------------------------------- */

/* From its loss until it is started again; it stays alive for |lives|. */
static let_dur wait_after_loss(world *w, let_dur lives) {
  all_ready(w);
  w->now += lives;
  int spawns = w->spawns;
  lose(w, worker_of(w, 0, 1));
  pump(w);
  let_time lost = w->now;
  assert_int_equal(w->spawns, spawns);
  while (w->spawns == spawns) {
    w->now = let_fleet_wake(w->f);
    pump(w);
  }
  return w->now - lost;
}

static void test_back_off_grows_and_is_forgiven(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  let_dur expected = 50 * LET_MS;
  for (int i = 0; i < 10; i++) {
    assert_int_equal(wait_after_loss(&w, 0), expected);
    expected = expected * 2 < 5 * LET_S ? expected * 2 : 5 * LET_S;
  }
  assert_int_equal(wait_after_loss(&w, 10 * LET_S), 5 * LET_S);
  assert_int_equal(wait_after_loss(&w, 10 * LET_S + 1), 50 * LET_MS);
  assert_int_equal(let_fleet_restarts(w.f), 12);
  obey(&w, 30);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  rig_close(&w);
}

/* It may have come before the old one's memory was given back. */
static void test_replaced_worker_that_cannot_prepare_tries_again(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  uint32_t i = worker_of(&w, 0, 1);
  lose(&w, i);
  pump(&w);
  w.now += LET_S;
  pump(&w);
  all_ready(&w);
  let_lane_set_id first = set_of(&w, 0, 1)->id;
  say_failed(&w, i, set_of(&w, 0, 1), "out of memory");
  pump(&w);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_WAITING);
  assert_true(w.process[i].running); /* the same process */
  w.now += 100 * LET_MS;
  pump(&w);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_PREPARING);
  assert_true(set_of(&w, 0, 1)->id.n > first.n);
  obey(&w, 20);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  rig_close(&w);
}

/* Nothing goes to a broken worker's gpu-lets, but what it had is taken back only when it is gone. */
static void test_broken_gpulet_quarantines_its_worker(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 0);
  begin(&w, (part[]){{0, 1}, {0, 2}, {1, 3}}, 3);
  obey(&w, 25);
  let_fleet_group g = group_with(&w, 0, 1, NULL);
  uint32_t one = g.gpulet[0].id.n, two = g.gpulet[1].id.n, other = group_with(&w, 1, 3, NULL).gpulet[0].id.n;
  w.gpulet[one].running = w.gpulet[two].running = 1;
  tell(&w, (let_fleet_event){.kind = LET_FLEET_GPULET_BROKEN, .gpulet = {one}, .text = "illegal address"});
  pump(&w);
  assert_true(!w.gpulet[one].up && !w.gpulet[two].up && w.gpulet[other].up);
  assert_true(w.process[g.worker.n].killed && w.gpulet[two].running == 1);
  process_exits(&w, g.worker.n, "killed by signal 9 (Killed)");
  pump(&w);
  assert_true(w.gpulet[one].running == 0 && w.gpulet[two].running == 0);
  obey(&w, 30);
  assert_true(w.gpulet[one].up && w.gpulet[two].up);
  assert_int_equal(w.reports[LET_FLEET_REPORT_GPULET_BACK], 2);
  rig_close(&w);
}

/* ---- silence ----------------------------------------------------------------------------------------------------- */

static void test_silent_worker_is_killed(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  uint32_t i = worker_of(&w, 0, 1);
  for (int k = 0; k < 30; k++) { /* it says every second that it is well */
    healthy(&w);
    tick(&w, LET_S);
  }
  assert_int_equal(w.kills, 0);
  healthy(&w);
  for (int k = 0; k < 19; k++) tick(&w, LET_S);
  assert_int_equal(w.kills, 0);
  assert_true(let_fleet_wake(w.f) <= w.now + LET_S);
  tick(&w, LET_S);
  assert_int_equal(w.kills, 1);
  assert_true(w.process[i].killed);
  rig_close(&w);
}

/* Nothing else happens in the server: it wakes up often enough to know that it was awake. */
static void test_silence_while_nothing_else_happens(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  tick(&w, 0);
  let_time began = w.now;
  while (w.kills == 0 && w.now < began + 100 * LET_S) tick(&w, let_fleet_wake(w.f) - w.now);
  assert_int_equal(w.kills, 1);
  assert_true(w.now - began <= 20 * LET_S);
  rig_close(&w);
}

/* The server did not look for a while: that nothing was heard says nothing. */
static void test_silence_while_the_server_slept(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  tick(&w, 60 * LET_S);
  assert_int_equal(w.kills, 0);
  for (int k = 0; k < 19; k++) tick(&w, LET_S);
  assert_int_equal(w.kills, 0);
  tick(&w, LET_S);
  assert_int_equal(w.kills, 1);
  rig_close(&w);
}

/* One that prepares may be in a long call; one that adds sizes may be, but not for longer than it might prepare. */
static void test_busy_workers_may_be_silent_for_longer(void **state) {
  (void)state;
  for (int warming = 0; warming < 2; warming++) {
    static world w;
    rig_open(&w, 1, false, warming ? 60 * LET_S : 0);
    begin(&w, &(part){0, 1}, 1);
    pump(&w);
    all_ready(&w);
    if (warming) {
      all_prepared(&w);
      pump(&w);
      assert_true(group_with(&w, 0, 1, NULL).warming);
    }
    int seconds = warming ? 60 : 600;
    for (int k = 0; k < seconds - 1; k++) tick(&w, LET_S);
    assert_int_equal(w.kills, 0);
    tick(&w, LET_S);
    assert_int_equal(w.kills, 1);
    rig_close(&w);
  }
}

static void test_worker_that_does_not_stop_is_killed(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  uint32_t i = worker_of(&w, 0, 1);
  w.process[i].hangs = true;
  w.stopping = true;
  tell(&w, (let_fleet_event){.kind = LET_FLEET_STOP_ALL});
  pump(&w);
  assert_true(w.process[i].stopping);
  tick(&w, 5 * LET_S - 1);
  assert_int_equal(w.kills, 0);
  tick(&w, 1);
  assert_int_equal(w.kills, 1);
  obey(&w, 2);
  assert_true(let_fleet_idle(w.f));
  assert_int_equal(let_fleet_restarts(w.f), 0);
  rig_close(&w);
}

/* ---- nonsense ---------------------------------------------------------------------------------------------------- */

static void test_prepared_before_each_lane_is_up(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 0);
  begin(&w, (part[]){{0, 1}, {0, 2}}, 2);
  pump(&w);
  all_ready(&w);
  uint32_t i = worker_of(&w, 0, 1);
  prepare_more(&w, i, set_of(&w, 0, 1));
  tell(&w, (let_fleet_event){.kind = LET_FLEET_WORKER_PREPARED, .worker = {i}, .set = set_of(&w, 0, 1)->id});
  pump(&w);
  assert_true(w.process[i].killed);
  assert_int_equal(w.switches, 0);
  obey(&w, 30);
  assert_int_equal(w.applied, 1);
  rig_close(&w);
}

static void test_more_memory_than_there_is(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  uint64_t before = let_fleet_memory(w.f, 0);
  assert_true(before > 0);
  let_fleet_event ev = {.kind = LET_FLEET_WORKER_SIZE, .worker = {worker_of(&w, 0, 1)}, .set = set_of(&w, 0, 1)->id};
  ev.size.size = 2;
  ev.memory_bytes = RIG_MEMORY + 1;
  tell(&w, ev);
  pump(&w);
  assert_int_equal(let_fleet_memory(w.f, 0), before);
  rig_close(&w);
}

/* ---- the helper -------------------------------------------------------------------------------------------------- */

static void test_workers_wait_for_the_helper(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 30 * LET_S);
  begin(&w, (part[]){{0, 1}, {3, 2}}, 2);
  obey(&w, 25);
  uint32_t i = worker_of(&w, 3, 2);
  w.helper_away = true;
  tell(&w, (let_fleet_event){.kind = LET_FLEET_HELPER_AWAY, .text = "the MPS daemon"});
  pump(&w);
  assert_int_equal(w.kills, 1); /* device 0 does not need it */
  assert_true(w.process[i].killed);
  int spawns = w.spawns;
  obey(&w, 20);
  assert_int_equal(w.spawns, spawns);
  assert_int_equal(worker_at(&w, i).state, LET_WORKER_HELD);
  w.helper_away = false;
  tell(&w, (let_fleet_event){.kind = LET_FLEET_HELPER_BACK});
  obey(&w, 20);
  assert_int_equal(w.spawns, spawns + 1);
  assert_int_equal(group_with(&w, 3, 2, NULL).state, LET_GROUP_SERVING);
  rig_close(&w);
}

static void test_share_of_a_worker_of_its_own(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 0);
  begin(&w, &(part){3, 2}, 1);
  let_fleet_action a;
  while (let_fleet_next(w.f, w.now, &a)) {
    if (a.kind != LET_FLEET_SPAWN) continue;
    assert_true(a.percent > 100.0 * 16 / 132 - 0.01 && a.percent < 100.0 * 16 / 132 + 0.01); /* 2 granules of 8 SMs */
    return let_fleet_free(w.f);
  }
  fail_msg("nothing is started");
}

/* ---- the spare --------------------------------------------------------------------------------------------------- */

static uint32_t spare_of(const world *w, uint32_t device) {
  for (uint32_t i = 0; i < RIG_WORKERS; i++) {
    let_fleet_worker v;
    if (let_fleet_worker_at(w->f, (let_worker_id){i}, &v) && v.spare && v.device == device) return i;
  }
  return LET_ID_NONE;
}

static void test_spare_takes_over(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, true, 0);
  obey(&w, 20);
  uint32_t spare = spare_of(&w, 0), old = worker_of(&w, 0, 1);
  assert_true(spare != LET_ID_NONE && let_fleet_spare_warm(w.f, 0));
  assert_true(w.asked_beside);
  int pid = w.process[spare].pid, spawns = w.spawns;
  lose(&w, old);
  pump(&w);
  assert_int_equal(w.takes, 0);
  w.now += 50 * LET_MS;
  pump(&w);
  assert_int_equal(w.takes, 1);
  assert_int_equal(w.spawns, spawns);
  assert_int_equal(worker_of(&w, 0, 1), spare);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_PREPARING);
  obey(&w, 4);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  assert_int_equal(w.process[spare].pid, pid);
  int sets = 0; /* what it had prepared as a spare is retired */
  for (int k = 0; k < RIG_SETS; k++) sets += w.process[spare].set[k].state != SET_NONE;
  assert_int_equal(sets, 1);
  obey(&w, 30);
  assert_int_equal(w.spawns, spawns + 1); /* the next spare */
  assert_true(spare_of(&w, 0) != spare && let_fleet_spare_warm(w.f, 0));
  assert_int_equal(let_fleet_restarts(w.f), 1);
  rig_close(&w);
}

static void test_silent_spare_does_not_take_over(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, true, 0);
  obey(&w, 20);
  uint32_t spare = spare_of(&w, 0), old = worker_of(&w, 0, 1);
  w.process[spare].hangs = true;
  for (int k = 0; k < 6; k++) { /* longer than the watchdog */
    tell(&w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {old}});
    tick(&w, LET_S);
  }
  int spawns = w.spawns;
  lose(&w, old);
  obey(&w, 20);
  assert_int_equal(w.takes, 0);
  assert_int_equal(w.spawns, spawns + 1);
  assert_int_equal(group_with(&w, 0, 1, NULL).state, LET_GROUP_SERVING);
  rig_close(&w);
}

static void test_spare_follows_the_plan(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, true, 0);
  obey(&w, 20);
  uint32_t spare = spare_of(&w, 0);
  begin(&w, &(part){0, 2}, 1);
  pump(&w);
  obey(&w, 12);
  assert_false(let_fleet_change(w.f) == LET_CHANGE_IDLE && let_fleet_spare_warm(w.f, 0) && !serves(&w, 0, 2));
  obey(&w, 30);
  assert_int_equal(spare_of(&w, 0), spare); /* the same process prepared the new plan */
  assert_true(let_fleet_spare_warm(w.f, 0));
  int sets = 0;
  for (int k = 0; k < RIG_SETS; k++) sets += w.process[spare].set[k].state != SET_NONE;
  assert_int_equal(sets, 1);
  begin(&w, &(part){2, 2}, 1); /* workers for each gpu-let have none */
  obey(&w, 40);
  assert_int_equal(spare_of(&w, 2), LET_ID_NONE);
  rig_close(&w);
}

static void test_spare_that_dies_is_started_later_each_time(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, true, 0);
  let_dur expected = LET_S;
  for (int i = 0; i < 8; i++) {
    uint32_t spare = spare_of(&w, 0);
    assert_true(spare != LET_ID_NONE);
    process_exits(&w, spare, "exited with 1");
    pump(&w);
    assert_int_equal(spare_of(&w, 0), LET_ID_NONE);
    w.now += expected - 1;
    pump(&w);
    assert_int_equal(spare_of(&w, 0), LET_ID_NONE);
    w.now++;
    pump(&w);
    expected = expected * 2 < 60 * LET_S ? expected * 2 : 60 * LET_S;
  }
  assert_int_equal(let_fleet_restarts(w.f), 0);
  rig_close(&w);
}

static void test_dump(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, true, 0);
  obey(&w, 20);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_fleet_dump(w.f, &b);
  assert_false(b.failed);
  assert_non_null(strstr(b.p, "{\"generation\": 1, \"change\": \"idle\", \"serving\": true"));
  assert_non_null(strstr(b.p, "\"state\": \"serving\", \"device\": \"sim:0\""));
  assert_non_null(strstr(b.p, "{\"state\": \"warm\""));
  int depth = 0;
  for (size_t i = 0; i < b.n; i++) depth += (b.p[i] == '{' || b.p[i] == '[') - (b.p[i] == '}' || b.p[i] == ']');
  assert_int_equal(depth, 0);
  let_buf_fini(&b);
  rig_close(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_back_off_grows_and_is_forgiven),
                                     cmocka_unit_test(test_replaced_worker_that_cannot_prepare_tries_again),
                                     cmocka_unit_test(test_broken_gpulet_quarantines_its_worker),
                                     cmocka_unit_test(test_silent_worker_is_killed),
                                     cmocka_unit_test(test_silence_while_nothing_else_happens),
                                     cmocka_unit_test(test_silence_while_the_server_slept),
                                     cmocka_unit_test(test_busy_workers_may_be_silent_for_longer),
                                     cmocka_unit_test(test_worker_that_does_not_stop_is_killed),
                                     cmocka_unit_test(test_prepared_before_each_lane_is_up),
                                     cmocka_unit_test(test_more_memory_than_there_is),
                                     cmocka_unit_test(test_workers_wait_for_the_helper),
                                     cmocka_unit_test(test_share_of_a_worker_of_its_own),
                                     cmocka_unit_test(test_spare_takes_over),
                                     cmocka_unit_test(test_silent_spare_does_not_take_over),
                                     cmocka_unit_test(test_spare_follows_the_plan),
                                     cmocka_unit_test(test_spare_that_dies_is_started_later_each_time),
                                     cmocka_unit_test(test_dump)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
