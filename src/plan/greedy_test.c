#include "plan/greedy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "plan/sample_test_rig.h"

static bool in_set(uint32_t granules, uint32_t all) {
  static const uint32_t percent[] = {20, 40, 50, 60, 80, 100};
  for (int i = 0; i < 6; i++)
    if (granules == (percent[i] * all + 50) / 100) return true;
  return false;
}

static void shape(const let_plan *p) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    const let_plan_gpu *g = &p->gpu[i];
    assert_true(g->n_gpulets > 0);
    for (uint32_t l = 0; l < g->n_gpulets; l++) {
      if (strncmp(p->policy, "elastic", 7) == 0) {
        assert_true(g->n_gpulets <= 2 && g->gpulet[l].n_entries <= 3);
        assert_true(in_set(g->gpulet[l].granules, g->granules) || g->n_gpulets == 2);
      }
      if (strcmp(p->policy, "temporal") == 0) assert_int_equal(g->gpulet[l].granules, g->granules);
      if (strcmp(p->policy, "static") == 0)
        assert_true(g->gpulet[l].granules == g->gpulet[0].granules && g->gpulet[l].n_entries == 1);
      assert_true(g->gpulet[l].shared == (strcmp(p->policy, "shared") == 0));
    }
  }
}

/* Random profiles and workloads: what is called feasible and promises must pass the judge, unless the policy ignores
 * the interference that there is, and then it says so. */
static void test_the_judge_agrees(void **state) {
  (void)state;
  uint32_t n_policies, feasible = 0, rejected = 0;
  const let_policy *const *policy = let_policies(&n_policies);
  assert_true(n_policies >= 7);
  for (uint64_t seed = 1; seed <= 150; seed++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let__sample s = {.models = 1 + (uint32_t)(seed % 9),
                     .granules = seed % 3 ? 16 : 10,
                     .max_batch = 32,
                     .least_ms = 0.2,
                     .most_ms = 20,
                     .interference = seed % 4};
    let_profile *p = let__sample_profile(&s, "t", &a, seed);
    let_workload w = let__sample_workload(p, 0.3 + (double)(seed % 5), 0, &a, seed);
    let_plan_pool pool = {p, 10, 3};
    let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
    for (uint32_t k = 0; k < n_policies; k++) {
      if (policy[k] == &let__policy_optimal) continue;
      let_plan plan = {0};
      let_error e = {0};
      if (policy[k]->make(&in, &a, &plan, &e))
        fail_msg("seed %llu, %s: %s", (unsigned long long)seed, policy[k]->name, e.text);
      shape(&plan);
      assert_int_equal(let_plan_validate(&plan, &e), LET_OK);
      if (!plan.feasible) {
        assert_true(plan.n_reasons > 0);
        continue;
      }
      feasible++;
      bool aware = policy[k] == &let__policy_elastic_int || !policy[k]->promises || !s.interference;
      let_err r = let_plan_check(&plan, &in, &e);
      if (r && aware) fail_msg("seed %llu, %s: %s", (unsigned long long)seed, policy[k]->name, e.text);
      if (!r) continue;
      rejected++;
      assert_non_null(strstr(plan.reason[plan.n_reasons - 1], "ignores interference"));
    }
    let_arena_fini(&a);
  }
  printf("%u feasible plans, %u of them only without interference\n", feasible, rejected);
  assert_true(feasible > 300 && rejected > 0);
}

static void test_more_devices_never_hurt(void **state) {
  (void)state;
  uint32_t n_policies;
  const let_policy *const *policy = let_policies(&n_policies);
  for (uint64_t seed = 1; seed <= 40; seed++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let__sample s = {.models = 6, .granules = 16, .max_batch = 32, .least_ms = 0.2, .most_ms = 20};
    let_profile *p = let__sample_profile(&s, "t", &a, seed);
    let_workload w = let__sample_workload(p, 2.5, 0, &a, seed);
    for (uint32_t k = 0; k < n_policies; k++) {
      if (policy[k] == &let__policy_optimal) continue;
      bool was = false;
      for (uint32_t n = 1; n <= 12; n++) {
        let_plan_pool pool = {p, n, 0};
        let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
        let_plan plan = {0};
        let_error e = {0};
        assert_int_equal(policy[k]->make(&in, &a, &plan, &e), LET_OK);
        assert_true(plan.feasible || !was);
        assert_true(plan.gpus_used <= n);
        was = plan.feasible;
      }
    }
    let_arena_fini(&a);
  }
}

static void test_refusals_say_why(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let__sample s = {.models = 2, .granules = 16, .max_batch = 8, .least_ms = 5, .most_ms = 6};
  let_profile *p = let__sample_profile(&s, "t", &a, 4);
  let_demand d[2] = {{"model00000", 10, LET_MS}, {"model00001", 1e7, LET_S}};
  let_plan_pool pool = {p, 2, 0};
  uint32_t n_policies;
  const let_policy *const *policy = let_policies(&n_policies);
  for (uint32_t k = 0; k < n_policies; k++) {
    if (policy[k] == &let__policy_optimal) continue;
    for (uint32_t i = 0; i < 2; i++) {
      let_workload w = {1, &d[i]};
      let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
      let_plan plan = {0};
      let_error e = {0};
      assert_int_equal(policy[k]->make(&in, &a, &plan, &e), LET_OK);
      assert_false(plan.feasible);
      assert_non_null(strstr(plan.reason[0], i ? "no place for" : "its SLO is 1.00 ms: a larger SLO"));
    }
    let_demand unknown = {"nobody", 1, LET_S};
    let_workload w = {1, &unknown}, none = {0, &unknown};
    let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
    let_plan plan = {0};
    let_error e = {0};
    assert_int_equal(policy[k]->make(&in, &a, &plan, &e), LET_ERR_INVALID);
    assert_non_null(strstr(e.text, "'nobody' is in the workload and in no profile"));
    in.workload = &none;
    assert_int_equal(policy[k]->make(&in, &a, &plan, &e), LET_OK);
    assert_true(plan.feasible && plan.gpus_used == 0);
  }
  let_arena_fini(&a);
}

static void test_out_of_memory_is_an_error(void **state) {
  (void)state;
  let_arena keep;
  let_arena_init(&keep, &let_mem_libc);
  let__sample s = {.models = 5, .granules = 16, .max_batch = 32, .least_ms = 0.2, .most_ms = 20, .interference = true};
  let_profile *p = let__sample_profile(&s, "t", &keep, 9);
  let_workload w = let__sample_workload(p, 2, 0, &keep, 9);
  let_plan_pool pool = {p, 10, 0};
  let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
  uint32_t n_policies;
  const let_policy *const *policy = let_policies(&n_policies);
  for (uint32_t k = 0; k < n_policies; k++) {
    if (policy[k] == &let__policy_optimal) continue;
    for (long n = 0;; n++) {
      let_mem_failing f;
      let_mem_failing_init(&f, n, 0);
      let_arena a;
      let_arena_init(&a, &f.mem);
      let_plan plan = {0};
      let_error e = {0};
      let_err r = policy[k]->make(&in, &a, &plan, &e);
      let_arena_fini(&a);
      assert_int_equal(f.live, 0);
      if (r == LET_OK) break;
      assert_int_equal(r, LET_ERR_NOMEM);
    }
  }
  let_arena_fini(&keep);
}

/* From nothing and from a running plan: no policy whose plan holds takes fewer devices than `optimal`. */
static void test_optimal_never_takes_more(void **state) {
  (void)state;
  uint32_t n_policies, compared = 0, equal = 0;
  const let_policy *const *policy = let_policies(&n_policies);
  for (uint64_t seed = 1; seed <= 24; seed++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_rng r;
    let_rng_seed(&r, seed);
    let__sample s = {.models = 1 + (uint32_t)let_rng_below(&r, 8),
                     .granules = 4u << let_rng_below(&r, 3),
                     .max_batch = 16,
                     .least_ms = 0.2,
                     .most_ms = 20,
                     .interference = (uint32_t)let_rng_below(&r, 3)};
    let_profile *p = let__sample_profile(&s, "t", &a, seed);
    let_workload w = let__sample_workload(p, 0.5 + 5 * let_rng_unit(&r), 0, &a, seed);
    let_plan_pool pool = {p, 40, 0};
    let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1};
    let_plan plan[3] = {{{0}}};
    let_error e = {0};
    for (int round = 0; round < 3; round++) {
      if (round) in.running = &plan[round - 1], w.demand[seed % w.n].rate *= round == 1 ? 1.3 : 0.5;
      assert_int_equal(let__policy_optimal.make(&in, &a, &plan[round], &e), LET_OK);
      let_plan_input other = in;
      other.running = NULL;
      for (uint32_t k = 0; k < n_policies; k++) {
        let_plan rival = {0};
        assert_int_equal(policy[k]->make(&other, &a, &rival, &e), LET_OK);
        if (policy[k] == &let__policy_optimal || !policy[k]->promises || !rival.feasible ||
            let_plan_check(&rival, &in, &e))
          continue;
        if (!plan[round].feasible || rival.gpus_used < plan[round].gpus_used)
          fail_msg("seed %llu, round %d: '%s' takes %u, optimal %u", (unsigned long long)seed, round, policy[k]->name,
                   rival.gpus_used, plan[round].gpus_used);
        compared++, equal += rival.gpus_used == plan[round].gpus_used;
      }
      if (!plan[round].feasible) break;
    }
    let_arena_fini(&a);
  }
  print_message("%u compared, %u equal\n", compared, equal);
  assert_true(compared > 100 && equal < compared);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_optimal_never_takes_more),  cmocka_unit_test(test_the_judge_agrees),
      cmocka_unit_test(test_more_devices_never_hurt),   cmocka_unit_test(test_refusals_say_why),
      cmocka_unit_test(test_out_of_memory_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
