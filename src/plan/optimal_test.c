/* Properties of `optimal` on profiles and workloads made from seeds. GPULET_TEST_SCALE multiplies the rounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "plan/lp.h"
#include "plan/optimal.h"
#include "plan/policy.h"
#include "plan/sample_test_rig.h"

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
  let__sample how = {.models = 1 + (uint32_t)let_rng_below(&r, 7),
                     .granules = 1 + (uint32_t)let_rng_below(&r, 8),
                     .max_batch = 1u << let_rng_below(&r, 5),
                     .least_ms = 0.1,
                     .most_ms = 20,
                     .interference = (uint32_t)let_rng_below(&r, 4)};
  s->profile[0] = let__sample_profile(&how, "alpha", &s->arena, seed);
  s->work = let__sample_workload(s->profile[0], 0.3 + 6 * let_rng_unit(&r), 0, &s->arena, seed ^ 99);
  s->pool[0] = (let_plan_pool){.profile = s->profile[0], .count = 64};
  s->in = (let_plan_input){.workload = &s->work, .pool = s->pool, .n_pools = 1};
}

static void add_type(scene *s, uint64_t seed) {
  let__sample how = {.models = s->profile[0]->n_models,
                     .granules = 4,
                     .max_batch = 8,
                     .least_ms = 0.2,
                     .most_ms = 30,
                     .interference = 1};
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

static void test_plans_hold(void **state) {
  (void)state;
  uint32_t feasible = 0, met = 0, above = 0;
  for (uint64_t seed = 1; seed <= rounds(60); seed++) {
    scene s;
    scene_make(&s, seed);
    let_plan p = plan_of(&s.in, &s.arena, seed);
    feasible += p.feasible;
    met += p.feasible && p.gpus_used <= p.lower_bound;
    above += p.feasible && p.gpus_used > p.lower_bound + 1;
    let_arena_fini(&s.arena);
  }
  print_message("%u feasible, %u meet their bound, %u are more than 1 above\n", feasible, met, above);
  assert_true(feasible > rounds(60) / 2);
}

static void test_two_types(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= rounds(40); seed++) {
    scene s;
    scene_make(&s, seed);
    add_type(&s, seed);
    (void)plan_of(&s.in, &s.arena, seed);
    let_arena_fini(&s.arena);
  }
}

static void test_properties(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= rounds(40); seed++) {
    scene s;
    scene_make(&s, seed + 5000);
    let_plan p = plan_of(&s.in, &s.arena, seed);
    let_workload w = s.work; /* the same models in another order */
    w.demand = let_arena_array(&s.arena, w.n, sizeof *w.demand);
    for (uint32_t i = 0; i < w.n; i++) w.demand[i] = s.work.demand[(i * 5 + seed) % w.n];
    bool all = w.n % 5 != 0;
    let_plan_input in = s.in;
    in.workload = &w;
    let_plan other = plan_of(&in, &s.arena, seed);
    if (all && (other.gpus_used != p.gpus_used || other.lower_bound != p.lower_bound))
      fail_msg("seed %llu: the order of models changes %u gpus to %u", (unsigned long long)seed, p.gpus_used,
               other.gpus_used);
    memcpy(w.demand, s.work.demand, w.n * sizeof *w.demand);
    w.demand[seed % w.n].rate *= 2;
    other = plan_of(&in, &s.arena, seed);
    if (p.feasible && other.feasible && other.lower_bound < p.lower_bound - 1e-6)
      fail_msg("seed %llu: a doubled rate lowers the bound from %g to %g", (unsigned long long)seed, p.lower_bound,
               other.lower_bound);
    in = s.in;
    if (p.feasible) { /* exactly enough, one too few, one more */
      s.pool[0].count = p.gpus_used;
      other = plan_of(&in, &s.arena, seed);
      if (!other.feasible || other.gpus_used != p.gpus_used)
        fail_msg("seed %llu: %u gpus were enough", (unsigned long long)seed, p.gpus_used);
      s.pool[0].count = p.gpus_used + 1;
      other = plan_of(&in, &s.arena, seed);
      if (!other.feasible || other.gpus_used > p.gpus_used)
        fail_msg("seed %llu: one gpu more hurts", (unsigned long long)seed);
      s.pool[0].count = (uint32_t)fmax(0, p.lower_bound - 1);
      other = plan_of(&in, &s.arena, seed);
      if (other.feasible) fail_msg("seed %llu: a plan below the bound", (unsigned long long)seed);
    }
    let_arena_fini(&s.arena);
  }
}

static void test_running_plan_is_kept(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= rounds(30); seed++) {
    scene s;
    scene_make(&s, seed + 9000);
    let_plan p = plan_of(&s.in, &s.arena, seed);
    if (p.feasible) {
      let_plan_input in = s.in;
      in.running = &p;
      let_plan again = plan_of(&in, &s.arena, seed);
      assert_true(again.feasible);
      if (again.gpus_used > p.gpus_used)
        fail_msg("seed %llu: the same workload now needs more", (unsigned long long)seed);
      char want[64];
      uint32_t lets = 0;
      for (uint32_t i = 0; i < p.n_gpus; i++) lets += p.gpu[i].n_gpulets;
      snprintf(want, sizeof want, "0 of %u gpu-lets differ from the running plan", lets);
      if (again.gpus_used == p.gpus_used && p.gpus_used == p.lower_bound &&
          strcmp(again.reason[again.n_reasons - 1], want) != 0)
        fail_msg("seed %llu: %s", (unsigned long long)seed, again.reason[again.n_reasons - 1]);
      s.work.demand[seed % s.work.n].rate *= 0.4;
      again = plan_of(&in, &s.arena, seed);
      if (again.gpus_used > p.gpus_used) fail_msg("seed %llu: less to serve needs more gpus", (unsigned long long)seed);
    }
    let_arena_fini(&s.arena);
  }
}

static bool at_once(void *ctx) {
  (void)ctx;
  return true;
}
static bool soon(void *ctx) { return (*(uint32_t *)ctx)-- == 0; }

static void test_any_time_limit(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= rounds(30); seed++) {
    scene s;
    scene_make(&s, seed + 3000);
    let_plan whole = plan_of(&s.in, &s.arena, seed);
    s.in.expired = at_once;
    let_plan p = plan_of(&s.in, &s.arena, seed);
    if (whole.feasible && !p.feasible) fail_msg("seed %llu: no plan at time limit 0", (unsigned long long)seed);
    uint32_t calls = (uint32_t)seed;
    s.in.expired = soon, s.in.expired_ctx = &calls;
    p = plan_of(&s.in, &s.arena, seed);
    if (whole.feasible && !p.feasible)
      fail_msg("seed %llu: no plan at call %u of the limit", (unsigned long long)seed, calls);
    let_arena_fini(&s.arena);
  }
}

static void test_out_of_memory(void **state) {
  (void)state;
  scene s;
  scene_make(&s, 4);
  for (long at = 0;; at++) {
    let_mem_failing f;
    let_mem_failing_init(&f, at, (int)(at % 2));
    let_arena a;
    let_arena_init(&a, &f.mem);
    let_plan p = {0};
    let_error e = {0};
    let_err r = let__policy_optimal.make(&s.in, &a, &p, &e);
    let_arena_fini(&a);
    assert_int_equal(f.live, 0);
    if (r == LET_OK && f.count <= at) break;
    if (r != LET_ERR_NOMEM && r != LET_OK) fail_msg("allocation %ld: %s", at, e.text);
    if (r == LET_OK) fail_msg("allocation %ld failed and nobody noticed", at);
  }
  let_arena_fini(&s.arena);
}

static void test_says_why(void **state) {
  (void)state;
  scene s;
  scene_make(&s, 11);
  s.work.demand[0].slo = 1000;
  let_plan p = plan_of(&s.in, &s.arena, 11);
  assert_false(p.feasible);
  bool said = false;
  for (uint32_t i = 0; i < p.n_reasons; i++)
    said = said || (strstr(p.reason[i], s.work.demand[0].name) && strstr(p.reason[i], "an SLO of"));
  assert_true(said);
  let_error e = {0};
  assert_int_equal(let_plan_check(&p, &s.in, &e), LET_ERR_INVALID);
  strcpy(s.work.demand[0].name, "nobody");
  assert_int_equal(let__policy_optimal.make(&s.in, &s.arena, &p, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "nobody"));
  let_arena_fini(&s.arena);
}

/* The oracle: every content of a device, every multiset of devices, from the profile's functions alone. */
enum { ORACLE_MODELS = 3, ORACLE_LETS = 4, ORACLE_CONTENTS = 400000 };
typedef struct oracle {
  const scene *s;
  uint32_t n, batches;
  uint32_t slots, size[ORACLE_LETS], batch[ORACLE_LETS][ORACLE_MODELS];
  double (*cap)[ORACLE_MODELS];
  uint32_t n_caps;
} oracle;

static double oracle_slow(const oracle *o, uint32_t l, uint32_t m) {
  let_tenant self = {.model = m, .batch = o->batch[l][m], .granules = o->size[l], .busy = 1}, other[ORACLE_LETS];
  uint32_t n = 0;
  for (uint32_t i = 0; i < o->slots; i++) {
    double worst = -1;
    for (uint32_t j = 0; i != l && j < o->n; j++) {
      if (!o->batch[i][j]) continue;
      let_tenant t = {.model = j, .batch = o->batch[i][j], .granules = o->size[i], .busy = 1};
      double x = let_profile_slowdown(o->s->profile[0], &self, &t, 1);
      if (x > worst) worst = x, other[n] = t;
    }
    n += worst >= 0;
  }
  return let_profile_slowdown(o->s->profile[0], &self, other, n);
}

static void oracle_judge(oracle *o) {
  double cap[ORACLE_MODELS] = {0};
  for (uint32_t l = 0; l < o->slots; l++) {
    let_dur lat[ORACLE_MODELS] = {0}, cycle = 0;
    for (uint32_t m = 0; m < o->n; m++) {
      if (!o->batch[l][m]) continue;
      if (let_profile_latency(o->s->profile[0], m, o->batch[l][m], o->size[l], LET_PROFILE_P99, &lat[m], NULL)) return;
      lat[m] = (let_dur)ceil((double)lat[m] * oracle_slow(o, l, m));
      cycle += lat[m];
    }
    for (uint32_t m = 0; m < o->n; m++) {
      if (o->batch[l][m] && cycle + lat[m] > o->s->work.demand[m].slo) return;
      if (o->batch[l][m]) cap[m] += o->batch[l][m] * 1e9 / (double)cycle;
    }
  }
  for (uint32_t m = 0; m < o->n; m++) cap[m] = fmin(cap[m], o->s->work.demand[m].rate);
  for (uint32_t i = 0; i < o->n_caps; i++) {
    bool worse = true;
    for (uint32_t m = 0; m < o->n; m++) worse = worse && cap[m] <= o->cap[i][m];
    if (worse) return;
  }
  assert_true(o->n_caps < ORACLE_CONTENTS);
  memcpy(o->cap[o->n_caps++], cap, sizeof cap);
}

static void oracle_lets(oracle *o, uint32_t left) {
  if (o->slots) oracle_judge(o);
  if (o->slots == ORACLE_LETS) return;
  for (uint32_t g = 1; g <= left; g++) {
    if (o->slots && g > o->size[o->slots - 1]) break;
    uint32_t codes = 1, l = o->slots;
    for (uint32_t m = 0; m < o->n; m++) codes *= o->batches + 1;
    for (uint32_t code = 1; code < codes; code++) {
      for (uint32_t m = 0, c = code; m < o->n; m++, c /= o->batches + 1) o->batch[l][m] = c % (o->batches + 1);
      o->size[l] = g, o->slots = l + 1;
      oracle_lets(o, left - g);
      o->slots = l;
    }
  }
}

static bool oracle_covers(const oracle *o, const double *rest, uint32_t from, uint32_t gpus) {
  bool any = false;
  for (uint32_t m = 0; m < o->n; m++) any = any || rest[m] > 1e-9 * o->s->work.demand[m].rate;
  if (!any || !gpus) return !any;
  for (uint32_t i = from; i < o->n_caps; i++) {
    double open[ORACLE_MODELS];
    for (uint32_t m = 0; m < o->n; m++) open[m] = fmax(0, rest[m] - o->cap[i][m]);
    if (oracle_covers(o, open, i, gpus - 1)) return true;
  }
  return false;
}

static void test_equals_oracle(void **state) {
  (void)state;
  static double cap[ORACLE_CONTENTS][ORACLE_MODELS];
  uint32_t compared = 0;
  for (uint64_t seed = 1; seed <= rounds(60); seed++) {
    scene s = {0};
    let_rng r;
    let_rng_seed(&r, seed * 77);
    let_arena_init(&s.arena, &let_mem_libc);
    uint32_t n = 1 + (uint32_t)let_rng_below(&r, 3),
             G = n == 3 ? 1 + (uint32_t)let_rng_below(&r, 2) : 1 + (uint32_t)let_rng_below(&r, 3);
    let__sample how = {.models = n,
                       .granules = G,
                       .max_batch = n == 3 ? 2 : 4,
                       .least_ms = 1,
                       .most_ms = 8,
                       .interference = (uint32_t)let_rng_below(&r, 4)};
    s.profile[0] = let__sample_profile(&how, "alpha", &s.arena, seed);
    s.work = let__sample_workload(s.profile[0], 0.3 + 2.2 * let_rng_unit(&r), 0, &s.arena, seed ^ 99);
    s.pool[0] = (let_plan_pool){.profile = s.profile[0], .count = 3};
    s.in = (let_plan_input){.workload = &s.work, .pool = s.pool, .n_pools = 1};
    oracle o = {.s = &s, .n = n, .batches = how.max_batch, .cap = cap};
    oracle_lets(&o, G);
    double rest[ORACLE_MODELS];
    for (uint32_t m = 0; m < n; m++) rest[m] = s.work.demand[m].rate;
    uint32_t least = 1;
    while (least <= 3 && !oracle_covers(&o, rest, 0, least)) least++;
    let_plan p = plan_of(&s.in, &s.arena, seed);
    if (p.feasible != (least <= 3) || (p.feasible && p.gpus_used != least))
      fail_msg("seed %llu: %u models, %u granules: the oracle needs %u gpus (4: more than 3), the plan %s %u",
               (unsigned long long)seed, n, G, least, p.feasible ? "takes" : "is infeasible with", p.gpus_used);
    compared += p.feasible;
    let_arena_fini(&s.arena);
  }
  print_message("%u compared\n", compared);
  assert_true(compared > rounds(60) / 3);
}

/* The least number of devices by linear programming over all contents that the oracle knows. */
static double oracle_bound(const oracle *o) {
  double lo[ORACLE_MODELS] = {1, 1, 1}, hi[ORACLE_MODELS] = {LET__LP_INF, LET__LP_INF, LET__LP_INF}, least = 0, one = 1;
  int start[2] = {0, (int)o->n}, row[ORACLE_MODELS] = {0, 1, 2};
  let__lp *lp = let__lp_new(o->n, lo, hi);
  for (uint32_t i = 0; i < o->n_caps; i++) {
    double part[ORACLE_MODELS];
    for (uint32_t m = 0; m < o->n; m++) part[m] = o->cap[i][m] / o->s->work.demand[m].rate;
    let__lp_add(lp, 1, &one, start, row, part);
  }
  if (let__lp_solve(lp))
    for (uint32_t m = 0; m < o->n; m++) least += let__lp_dual(lp)[m];
  let__lp_free(lp);
  return least; /* 0: some model cannot be served at all */
}

/* Bounds by column generation see more contents than there are, so they are never above the one over those that there
 * are. */
static void test_bounds_hold(void **state) {
  (void)state;
  static double cap[ORACLE_CONTENTS][ORACLE_MODELS];
  double near[2] = {0};
  uint32_t compared = 0, proved = 0, tried = 0;
  for (uint64_t seed = 1; seed <= rounds(60); seed++) {
    scene s = {0};
    let_rng r;
    let_rng_seed(&r, seed * 177);
    let_arena_init(&s.arena, &let_mem_libc);
    uint32_t n = 1 + (uint32_t)let_rng_below(&r, 3), G = n == 3 ? 2 : 2 + (uint32_t)let_rng_below(&r, n == 1 ? 4 : 2);
    let__sample how = {.models = n,
                       .granules = G,
                       .max_batch = n == 3 ? 2 : 4,
                       .least_ms = 1,
                       .most_ms = 8,
                       .interference = let_rng_below(&r, 3) ? 2 + (uint32_t)(seed % 2) : 0};
    s.profile[0] = let__sample_profile(&how, "alpha", &s.arena, seed);
    for (uint32_t m = 0; m < n; m++) /* pressure as it likes; what is felt never falls with the batch */
      for (uint32_t i = 0; i < s.profile[0]->model[m].n_pressure; i++)
        s.profile[0]->model[m].pressure[i].p.pressure = 0.6 * let_rng_unit(&r);
    s.work = let__sample_workload(s.profile[0], 0.3 + 2.2 * let_rng_unit(&r), 0, &s.arena, seed ^ 99);
    s.pool[0] = (let_plan_pool){.profile = s.profile[0], .count = 3};
    s.in = (let_plan_input){.workload = &s.work, .pool = s.pool, .n_pools = 1};
    oracle o = {.s = &s, .n = n, .batches = how.max_batch, .cap = cap};
    oracle_lets(&o, G);
    double least = oracle_bound(&o);
    let__problem p;
    let_error e = {0};
    if (let__problem_make(&p, &s.in, &s.arena, &e)) fail_msg("seed %llu: %s", (unsigned long long)seed, e.text);
    p.arena = &s.arena;
    for (uint32_t way = 0; way < 2 && least > 0; way++) {
      p.bound = 0;
      assert_int_equal(way ? let__classes(&p, 1e9, 100000) : let__joint(&p, 1e9), LET_OK);
      if (p.bound > least * (1 + 1e-7))
        fail_msg("seed %llu: %s says %.9g, all contents together need %.9g", (unsigned long long)seed,
                 way ? "classes" : "joint", p.bound, least);
      near[way] += p.bound / least;
    }
    uint32_t whole = (uint32_t)ceil(least - 1e-9);
    double rest[ORACLE_MODELS];
    for (uint32_t m = 0; m < n; m++) rest[m] = s.work.demand[m].rate;
    while (least > 0 && whole <= 3 && !oracle_covers(&o, rest, 0, whole)) whole++;
    for (uint32_t more = 0; more < 2 && least > 0 && whole <= 3;
         more++) { /* of whole devices: what is enough is not refused */
      p.bound = 0;
      assert_int_equal(let__classes(&p, whole + more, 100000), LET_OK);
      if (p.bound > whole)
        fail_msg("seed %llu: %u devices are enough, of %u the bound says %.9g", (unsigned long long)seed, whole,
                 whole + more, p.bound);
      if (!more) proved += p.bound > whole - 1, tried++;
    }
    compared += least > 0;
    let_arena_fini(&s.arena);
  }
  print_message("%u compared: joint reaches %.3f of what is possible, classes %.3f; of %u best plans %u are proved\n",
                compared, near[0] / compared, near[1] / compared, tried, proved);
  assert_true(compared > rounds(60) / 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_plans_hold),     cmocka_unit_test(test_two_types),
      cmocka_unit_test(test_properties),     cmocka_unit_test(test_running_plan_is_kept),
      cmocka_unit_test(test_any_time_limit), cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_says_why),       cmocka_unit_test(test_equals_oracle),
      cmocka_unit_test(test_bounds_hold),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
