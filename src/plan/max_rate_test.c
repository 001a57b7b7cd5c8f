/* The planned rate, for every policy on made-up profiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "plan/sample_test_rig.h"

/* What is returned fits, and the judge agrees where the policy promises anything; a little more does not fit, for the
 * policies whose feasibility has no islands at this effort. */
static void test_it_is_the_edge(void **state) {
  (void)state;
  uint32_t n_policies, found = 0, none = 0, edge = 0;
  const let_policy *const *policy = let_policies(&n_policies);
  for (uint64_t seed = 1; seed <= 20; seed++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let__sample s = {
        .models = 1 + (uint32_t)(seed % 4), .granules = 16, .max_batch = 32, .least_ms = 0.2, .most_ms = 20};
    let_profile *p = let__sample_profile(&s, "t", &a, seed);
    let_workload w = let__sample_workload(p, 0.01, 0, &a, seed);
    let_plan_pool pool = {p, 2, 0};
    let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
    for (uint32_t k = 0; k < n_policies; k++) {
      let_plan plan = {0}, more = {0};
      let_error e = {0};
      double multiple = 0;
      if (let_plan_max_rate(policy[k], &in, &a, &multiple, &plan, &e)) {
        assert_int_equal(e.code, LET_ERR_INVALID);
        assert_non_null(strstr(e.text, "fits these devices: "));
        none++;
        continue;
      }
      assert_true(multiple > 0 && plan.feasible);
      found++;
      let_workload edge_of = {w.n, let_arena_array(&a, w.n, sizeof *w.demand)};
      for (uint32_t i = 0; i < w.n; i++) {
        edge_of.demand[i] = w.demand[i];
        edge_of.demand[i].rate *= multiple;
      }
      let_plan_input at = in;
      at.workload = &edge_of;
      if (policy[k]->promises && let_plan_check(&plan, &at, &e))
        fail_msg("seed %llu, %s: %s", (unsigned long long)seed, policy[k]->name, e.text);
      for (uint32_t i = 0; i < w.n; i++) edge_of.demand[i].rate *= 1.02;
      assert_int_equal(policy[k]->make(&at, &a, &more, &e), LET_OK);
      edge += !more.feasible;
    }
    let_arena_fini(&a);
  }
  print_message("20 seeds: %u planned rates, %u without any, %u of which 2 %% more does not fit\n", found, none, edge);
  assert_true(found >= 60 && edge >= found * 9 / 10);
}

static void test_nonsense_is_refused(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let__sample s = {.models = 2, .granules = 16, .max_batch = 8, .least_ms = 1, .most_ms = 2};
  let_profile *p = let__sample_profile(&s, "t", &a, 1);
  let_workload w = let__sample_workload(p, 1, 0, &a, 1);
  let_plan_pool pool = {p, 1, 0};
  let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
  let_plan plan;
  let_error e = {0};
  double multiple;
  const let_policy *optimal = let_policy_find("optimal");
  w.demand[0].slo = 1; /* a nanosecond */
  assert_int_equal(let_plan_max_rate(optimal, &in, &a, &multiple, &plan, &e), LET_ERR_INVALID);
  print_message("%s\n", e.text);
  assert_non_null(strstr(e.text, "model00000"));
  for (uint32_t i = 0; i < w.n; i++) w.demand[i].rate = 0;
  assert_int_equal(let_plan_max_rate(optimal, &in, &a, &multiple, &plan, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "every rate of the workload is 0"));
  let_arena_fini(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_it_is_the_edge), cmocka_unit_test(test_nonsense_is_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
