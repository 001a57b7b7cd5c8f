/* The fleet's rules for batch sizes and routes. What must hold at any time is checked by the rig. */
#include "fleet_test_steps.h"

static void serve_one(world *w, uint32_t device, bool spare, let_dur timeout) {
  rig_open(w, 1, spare, timeout);
  begin(w, &(part){device, 1}, 1);
  obey(w, 25);
  assert_int_equal(w->applied, 1);
  assert_true(w->renewals > 0);
  assert_int_equal(w->gpulet[0].n_sizes, 4); /* each one that became ready is routed to */
}

/* The planned batch is needed; then the smallest, the largest, and the rest from the top. */
static void test_order_of_sizes(void **state) {
  (void)state;
  static world w;
  serve_one(&w, 0, false, 0);
  const uint32_t order[] = {4, 1, 8, 2};
  assert_int_equal(w.asked[0].n_sizes, 4);
  assert_int_equal(w.asked[0].needed, 1);
  assert_memory_equal(w.asked[0].size, order, sizeof order);
  assert_false(w.asked[0].planned);
  assert_int_equal(w.asked[0].slo, 20 * LET_MS);
  /* clients send requests of 6 rows: a change of plan takes nothing away from them */
  tell(&w, (let_fleet_event){.kind = LET_FLEET_ROWS_SEEN, .model = 2, .rows = 6});
  begin(&w, &(part){0, 2}, 1);
  obey(&w, 20);
  const uint32_t wide[] = {4, 8, 1, 2};
  assert_int_equal(w.asked[0].needed, 2);
  assert_memory_equal(w.asked[0].size, wide, sizeof wide);
  /* after a failure the others do not wait for them */
  lose(&w, worker_of(&w, 0, 2));
  obey(&w, 20);
  assert_int_equal(w.asked[0].needed, 1);
  rig_close(&w);
}

static void test_size_that_fails(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 0);
  begin(&w, &(part){0, 1}, 1);
  pump(&w);
  all_ready(&w);
  all_prepared(&w);
  pump(&w);
  char why[200];
  assert_false(let_fleet_why_too_wide(w.f, 1, 8, why, sizeof why)); /* it is on its way */
  let_fleet_event ev = {.kind = LET_FLEET_WORKER_SIZE, .worker = {worker_of(&w, 0, 1)}, .set = set_of(&w, 0, 1)->id};
  ev.size.size = 8;
  ev.text = "no memory for it";
  tell(&w, ev);
  pump(&w);
  assert_true(let_fleet_why_too_wide(w.f, 1, 8, why, sizeof why));
  assert_non_null(strstr(why, "no batch size for 8 rows could be prepared, split the request: no memory for it"));
  assert_false(let_fleet_why_too_wide(w.f, 1, 4, why, sizeof why));
  assert_int_equal(w.reports[LET_FLEET_REPORT_SIZE_FAILED], 1);
  assert_int_equal(let_fleet_routed_sizes(w.f).failed, 1);
  rig_close(&w);
}

/* The next SET_ROUTES' only route. */
static let_fleet_route next_route(world *w) {
  let_fleet_action a;
  while (let_fleet_next(w->f, w->now, &a)) {
    if (a.kind == LET_FLEET_SET_ROUTES) {
      assert_int_equal(a.routes->n_routes, 1);
      let_fleet_route r = a.routes->route[0];
      do_action(w, &a);
      return r;
    }
    do_action(w, &a);
  }
  fail_msg("the routes are not set");
  return (let_fleet_route){0};
}

static let_fleet_route routed_as(world *w, let_dur planned, let_dur measured, bool beside) {
  rig_open(w, 1, false, 0);
  let_plan_entry x = {.name = "m1", .batch = 4, .latency = planned};
  let_plan_gpulet l = {.first = 2, .granules = 4, .n_entries = 1, .entry = &x};
  let_plan_gpu g = {.n_gpulets = 1, .gpulet = &l};
  let_error e = {0};
  assert_int_equal(let_fleet_offer(w->f, &(let_plan){.n_gpus = 1, .gpu = &g}, w->now, &e), LET_OK);
  w->offered = 1;
  w->next_contents = 1;
  pump(w);
  all_ready(w);
  uint32_t i = group_with(w, 0, 1, NULL).worker.n;
  let_fleet_event ev = {.worker = {i}, .set = group_with(w, 0, 1, NULL).set};
  let_fleet_size_time t[] = {{4, measured, beside}, {1, measured / 4, beside}, {8, 0, false}};
  let_fleet_model_report m = {.n_sizes = 3, .size = t};
  ev.kind = LET_FLEET_WORKER_LANE;
  ev.n_models = 1;
  ev.models = &m;
  w->process[i].lies = true;
  tell(w, ev);
  ev.kind = LET_FLEET_WORKER_PREPARED;
  tell(w, ev);
  let_fleet_route r = next_route(w);
  assert_int_equal(r.n_sizes, 3); /* 2 is not ready */
  assert_true(r.size[0] == 1 && r.size[1] == 4 && r.size[2] == 8);
  pump(w);
  rig_close(w);
  return r;
}

static void test_predictions(void **state) {
  (void)state;
  static world w;
  let_fleet_route r = routed_as(&w, 0, 4 * LET_MS, false); /* what was measured */
  assert_true(r.predict[0] == LET_MS && r.predict[1] == 4 * LET_MS && r.predict[2] == 0);
  r = routed_as(&w, 6 * LET_MS, 4 * LET_MS, false); /* stretched by what the plan expects of the neighbours */
  assert_true(r.predict[0] == LET_MS * 3 / 2 && r.predict[1] == 6 * LET_MS);
  assert_int_equal(r.predict[2], 12 * LET_MS);       /* not measured: in proportion to the plan */
  r = routed_as(&w, 40 * LET_MS, 4 * LET_MS, false); /* a plan for another device is not evidence */
  assert_int_equal(r.predict[1], 12 * LET_MS);
  r = routed_as(&w, 3 * LET_MS, 4 * LET_MS, false); /* measured alone, it is no faster beside others */
  assert_int_equal(r.predict[1], 4 * LET_MS);
  r = routed_as(&w, 3 * LET_MS, 4 * LET_MS, true); /* measured beside traffic: the plan's is taken */
  assert_true(r.predict[1] == 3 * LET_MS && r.predict[0] == LET_MS * 3 / 4);
}

static void test_slos(void **state) {
  (void)state;
  static world w;
  rig_open(&w, 1, false, 0);
  assert_int_equal(let_fleet_slo(w.f, 1), 20 * LET_MS);
  let_plan_entry x = {.name = "m1", .batch = 4, .slo = 7 * LET_MS};
  let_plan_gpulet l = {.first = 0, .granules = 4, .n_entries = 1, .entry = &x};
  let_plan_gpu g = {.n_gpulets = 1, .gpulet = &l};
  let_error e = {0};
  assert_int_equal(let_fleet_offer(w.f, &(let_plan){.n_gpus = 1, .gpu = &g}, w.now, &e), LET_OK);
  w.offered = 1;
  w.next_contents = 1;
  assert_int_equal(let_fleet_slo(w.f, 1), 20 * LET_MS); /* until it serves */
  obey(&w, 20);
  assert_int_equal(w.asked[0].slo, 7 * LET_MS);
  assert_int_equal(let_fleet_slo(w.f, 1), 7 * LET_MS);
  begin(&w, &(part){0, 2}, 1);
  obey(&w, 20);
  assert_int_equal(let_fleet_slo(w.f, 1), 20 * LET_MS);
  rig_close(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_order_of_sizes), cmocka_unit_test(test_size_that_fails),
                                     cmocka_unit_test(test_predictions), cmocka_unit_test(test_slos)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
