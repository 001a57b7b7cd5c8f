/* Properties of `optimal` on profiles and workloads made from seeds. GPULET_TEST_SCALE multiplies the rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "plan/policy.h"
#include "plan/sample.h"

static uint32_t rounds(uint32_t n) {
  const char *s = getenv("GPULET_TEST_SCALE");
  double f = s ? strtod(s, NULL) : 1;
  return (uint32_t)(n * (f > 0 ? f : 1));
}

typedef struct scene {
  let_arena arena;
  let_profile *profile[2];
  let_workload work;
  let_plan_pool pool[2];
  let_plan_input in;
} scene;

static void scene_make(scene *s, uint64_t seed) {
  let_rng r;
  let_rng_seed(&r, seed);
  let_arena_init(&s->arena, &let_mem_libc);
  let__sample how = {.models = 1 + (uint32_t)let_rng_below(&r, 7), .granules = 1 + (uint32_t)let_rng_below(&r, 8),
                     .max_batch = 1u << let_rng_below(&r, 5), .least_ms = 0.1, .most_ms = 20, .interference = let_rng_below(&r, 2)};
  s->profile[0] = let__sample_profile(&how, "alpha", &s->arena, seed);
  s->work = let__sample_workload(s->profile[0], 0.3 + 6 * let_rng_unit(&r), 0, &s->arena, seed ^ 99);
  s->pool[0] = (let_plan_pool){.profile = s->profile[0], .count = 64};
  s->in = (let_plan_input){.workload = &s->work, .pool = s->pool, .n_pools = 1};
}

static void add_type(scene *s, uint64_t seed) {
  let__sample how = {.models = s->profile[0]->n_models, .granules = 4, .max_batch = 8, .least_ms = 0.2, .most_ms = 30, .interference = true};
  s->profile[1] = let__sample_profile(&how, "beta", &s->arena, seed + 7);
  s->profile[1]->device.cost = 0.4;
  s->pool[0].count = 4;
  s->pool[1] = (let_plan_pool){.profile = s->profile[1], .count = 40, .first_id = 100};
  s->in.n_pools = 2;
}

static let_plan plan_of(const let_plan_input *in, let_arena *a, uint64_t seed) {
  let_plan p = {0};
  let_error e = {0};
  if (let__policy_optimal.make(in, a, &p, &e)) fail_msg("seed %llu: %s", (unsigned long long)seed, e.text);
  if (p.feasible && let_plan_check(&p, in, &e)) fail_msg("seed %llu: %s", (unsigned long long)seed, e.text);
  if (p.feasible && p.lower_bound > (in->n_pools > 1 ? p.cost : p.gpus_used) * (1 + 1e-9))
    fail_msg("seed %llu: bound %g, %u gpus of cost %g", (unsigned long long)seed, p.lower_bound, p.gpus_used, p.cost);
  if (!p.feasible && p.n_reasons == 0) fail_msg("seed %llu: infeasible without a reason", (unsigned long long)seed);
  return p;
}

static void plans_hold(void **state) {
  (void)state;
  uint32_t feasible = 0, met = 0, above = 0;
  for (uint64_t seed = 1; seed <= rounds(150); seed++) {
    scene s;
    scene_make(&s, seed);
    let_plan p = plan_of(&s.in, &s.arena, seed);
    feasible += p.feasible;
    met += p.feasible && p.gpus_used <= p.lower_bound;
    above += p.feasible && p.gpus_used > p.lower_bound + 1;
    let_arena_fini(&s.arena);
  }
  print_message("%u feasible, %u meet their bound, %u are more than 1 above\n", feasible, met, above);
  assert_true(feasible > rounds(150) / 2);
}

static void two_types(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= rounds(40); seed++) {
    scene s;
    scene_make(&s, seed);
    add_type(&s, seed);
    (void)plan_of(&s.in, &s.arena, seed);
    let_arena_fini(&s.arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(plans_hold),
    cmocka_unit_test(two_types),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
