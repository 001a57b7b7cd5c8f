/* test: plan
 * Golden plans: the five scenarios of the gpu-let paper (bench/workloads) on the H200 profile, at rates that need one
 * to ten devices: how many, and what is on each. A planner that gets better changes them: look at the new ones and
 * print them here (GPULET_TEST_PRINT=1). A change that makes them worse is a step back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "plan/policy.h"
#include "profile/profile.h"

typedef struct scenario {
  double times; /* the scenario's rates */
  uint32_t gpus;
  const char *plan;
} scenario;

static const let_workload scen[5] = {
    {4, (let_demand[]){{"googlenet", 800, 66000000},
                       {"bert", 800, 22000000},
                       {"mnasnet1_0", 400, 62000000},
                       {"mobilenet_v2", 400, 64000000}}},
    {2, (let_demand[]){{"densenet161", 400, 202000000}, {"vgg16", 400, 142000000}}},
    {3, (let_demand[]){{"resnet50", 400, 108000000}, {"vgg16", 400, 142000000}, {"mobilenet_v2", 400, 64000000}}},
    {3, (let_demand[]){{"ssd", 400, 202000000}, {"mnasnet1_0", 400, 62000000}, {"densenet161", 400, 202000000}}},
    {4,
     (let_demand[]){
         {"lenet", 400, 5000000}, {"ssd", 400, 202000000}, {"vgg16", 400, 142000000}, {"mnasnet1_0", 400, 62000000}}},
};

static const scenario golden[5][3] = {
    {{4, 1, "16: bert@32 + googlenet@32 + mobilenet_v2@16 + mnasnet1_0@16"},
     {24, 4,
      "3x 4: bert@19 / 2: bert@9 / 1: googlenet@32 / 1: mobilenet_v2@32 | 3x 4: bert@19 / 2: bert@9 / 2x 1: "
      "googlenet@32 | 5: bert@23 / 2x 4: bert@19 / 2x 1: googlenet@32 / 1: mobilenet_v2@32 | 3: bert@14 / "
      "8x 1: googlenet@32 / 3x 1: mnasnet1_0@32 / 1: mobilenet_v2@32 / 1: mobilenet_v2@19 + mnasnet1_0@4 + "
      "bert@1"},
     {56, 10,
      "16x 1: googlenet@32 | 11x 1: googlenet@32 / 5x 1: mnasnet1_0@32 | 4x 4: bert@19 | 4x 4: bert@19 | 4x "
      "4: bert@19 | 4x 4: bert@19 | 4x 4: bert@19 | 4x 4: bert@19 | 2x 1: mnasnet1_0@32 / 7x 1: "
      "mobilenet_v2@32 / 1: googlenet@32 + mobilenet_v2@28 / 4: bert@19 / 2: bert@9 | 2: bert@2 + "
      "mobilenet_v2@30 + mnasnet1_0@9"}},
    {{4, 1, "9: vgg16@32 + densenet161@32"},
     {20, 3,
      "3x 4: vgg16@32 / 1: vgg16@16 / 3x 1: densenet161@29 | 16x 1: densenet161@30 | 16: vgg16@14 + "
      "densenet161@32"},
     {50, 7,
      "4x 4: vgg16@32 | 4x 4: vgg16@32 | 16x 1: densenet161@30 | 16x 1: densenet161@30 | 16x 1: "
      "densenet161@30 | 16x 1: densenet161@30 | 13: vgg16@32 + densenet161@9"}},
    {{6, 1, "8: vgg16@32 + resnet50@32 + mobilenet_v2@32"},
     {32, 3,
      "8x 1: resnet50@32 / 8x 1: vgg16@16 | 14x 1: vgg16@16 / 1: resnet50@32 + vgg16@12 / 1: "
      "mobilenet_v2@32 | 16: mobilenet_v2@32 + resnet50@4 + vgg16@1"},
     {80, 6,
      "16x 1: resnet50@32 | 7x 1: resnet50@32 / 9x 1: vgg16@16 | 16x 1: vgg16@16 | 16x 1: vgg16@16 | 15x 1: "
      "vgg16@16 / 1: mobilenet_v2@32 | 9: mobilenet_v2@32 / 3: mobilenet_v2@32 / 3x 1: mobilenet_v2@32 / 1: "
      "resnet50@29 + vgg16@11 + mobilenet_v2@21"}},
    {{4, 1, "8: densenet161@32 + ssd@32 + mnasnet1_0@32"},
     {20, 3,
      "2x 1: mnasnet1_0@32 / 14x 1: densenet161@30 | 12x 1: densenet161@30 / 2x 1: mnasnet1_0@32 + ssd@24 / "
      "2x 1: ssd@32 | 16: ssd@32 + densenet161@2 + mnasnet1_0@1"},
     {50, 6,
      "5x 1: mnasnet1_0@32 / 11x 1: densenet161@30 | 1: mnasnet1_0@32 / 15x 1: densenet161@30 | 16x 1: "
      "densenet161@30 | 16x 1: densenet161@30 | 8x 1: densenet161@30 / 2x 1: ssd@32 + mnasnet1_0@31 / 6x 1: "
      "ssd@32 | 12: ssd@32 / 2: ssd@32 / 1: ssd@32 / 1: mnasnet1_0@30 + ssd@26 + densenet161@4"}},
    {{5, 1, "11: vgg16@10 + ssd@10 + mnasnet1_0@10 + lenet@10"},
     {24, 2,
      "3x 1: mnasnet1_0@32 / 6x 1: ssd@32 / 6: vgg16@32 + ssd@27 + mnasnet1_0@5 / 1: lenet@32 | 13x 1: "
      "vgg16@16 / 2: ssd@32 + vgg16@7 + mnasnet1_0@14"},
     {60, 5,
      "16: vgg16@32 | 16: vgg16@32 | 16: vgg16@32 + lenet@32 | 8x 2: ssd@32 | 2x 2: ssd@32 / 3: "
      "mnasnet1_0@32 / 4: mnasnet1_0@32 / 3: mnasnet1_0@32 + lenet@32 / 1: ssd@32 / 1: lenet@32 + ssd@1"}},
};

static let_profile profile;
static let_arena arena;

static bool same_let(const let_plan_gpulet *a, const let_plan_gpulet *b) {
  bool same = a->granules == b->granules && a->n_entries == b->n_entries;
  for (uint32_t k = 0; same && k < a->n_entries; k++)
    same = a->entry[k].batch == b->entry[k].batch && strcmp(a->entry[k].name, b->entry[k].name) == 0;
  return same;
}

/* "16: bert@8" of every gpu-let, " / " between them, "3x " before three that are alike; " | " between devices. */
static void draw(const let_plan *p, char *out, size_t size) {
  size_t n = 0;
  out[0] = 0;
  for (uint32_t i = 0; i < p->n_gpus; i++)
    for (uint32_t l = 0, end; l < p->gpu[i].n_gpulets; l = end) {
      const let_plan_gpulet *t = &p->gpu[i].gpulet[l];
      for (end = l + 1; end < p->gpu[i].n_gpulets && same_let(t, &p->gpu[i].gpulet[end]);) end++;
      n += (size_t)snprintf(out + n, size - n, "%s", l ? " / " : i ? " | " : "");
      if (end - l > 1) n += (size_t)snprintf(out + n, size - n, "%ux ", end - l);
      n += (size_t)snprintf(out + n, size - n, "%u:", t->granules);
      for (uint32_t k = 0; k < t->n_entries; k++)
        n += (size_t)snprintf(out + n, size - n, "%s %s@%u", k ? " +" : "", t->entry[k].name, t->entry[k].batch);
      assert_true(n < size);
    }
}

static let_plan plan_of(const let_workload *w, double times, const let_plan *running) {
  static let_plan_pool pool;
  pool = (let_plan_pool){.profile = &profile, .count = 16};
  let_workload scaled = *w;
  scaled.demand = let_arena_array(&arena, w->n, sizeof *w->demand);
  assert_non_null(scaled.demand);
  memcpy(scaled.demand, w->demand, w->n * sizeof *w->demand);
  for (uint32_t m = 0; m < w->n; m++) scaled.demand[m].rate *= times;
  let_plan_input in = {.workload = &scaled, .pool = &pool, .n_pools = 1, .running = running};
  let_plan p = {0};
  let_error e = {0};
  if (let__policy_optimal.make(&in, &arena, &p, &e) || let_plan_check(&p, &in, &e)) fail_msg("%s", e.text);
  return p;
}

static void test_scenarios(void **state) {
  (void)state;
  char text[4096];
  for (uint32_t s = 0; s < 5; s++)
    for (uint32_t i = 0; i < 3; i++) {
      const scenario *g = &golden[s][i];
      let_plan p = plan_of(&scen[s], g->times, NULL);
      draw(&p, text, sizeof text);
      if (getenv("GPULET_TEST_PRINT")) printf("  {%g, %u,\n    \"%s\"},\n", g->times, p.gpus_used, text);
      else if (p.gpus_used != g->gpus || strcmp(text, g->plan) != 0)
        fail_msg("scen%u times %g: %u gpus instead of %u:\n%s\ninstead of\n%s", s + 1, g->times, p.gpus_used, g->gpus,
                 text, g->plan);
    }
}

/* One rate 2 % up: most gpu-lets stay as and where they are, and the plan tells how many do not. */
static void test_changes_are_few(void **state) {
  (void)state;
  uint32_t sum_all = 0, sum_kept = 0;
  for (uint32_t s = 0; s < 5; s++)
    for (uint32_t i = 0; i < 3; i++) {
      let_demand d[8];
      let_workload w = {scen[s].n, d};
      memcpy(d, scen[s].demand, w.n * sizeof *d);
      let_plan before = plan_of(&w, golden[s][i].times, NULL);
      d[(s + i) % w.n].rate *= 1.02;
      let_plan after = plan_of(&w, golden[s][i].times, &before);
      uint32_t all = 0, kept = 0;
      for (uint32_t g = 0; g < after.n_gpus; g++)
        for (uint32_t l = 0; l < after.gpu[g].n_gpulets; l++, all++)
          for (uint32_t o = 0; o < before.n_gpus; o++) {
            bool same = false;
            for (uint32_t j = 0; before.gpu[o].id == after.gpu[g].id && j < before.gpu[o].n_gpulets; j++)
              same = same || same_let(&after.gpu[g].gpulet[l], &before.gpu[o].gpulet[j]);
            kept += same;
          }
      sum_all += all, sum_kept += kept;
      assert_true(after.gpus_used <= before.gpus_used + 1);
      assert_non_null(strstr(after.reason[after.n_reasons - 1], "gpu-lets differ from the running plan"));
    }
  print_message("%u of %u gpu-lets stay\n", sum_kept, sum_all);
  assert_true(4 * sum_kept >= 3 * sum_all);
}

static int load(void **state) {
  (void)state;
  char dir[1024] = __FILE__;
  let_error e = {0};
  let_arena_init(&arena, &let_mem_libc);
  char *end = strstr(dir, "src/profile/golden_plan_test.c");
  if (!end) return -1;
  strcpy(end, "profiles/h200-graphs");
  return let_profile_load(dir, &arena, &profile, &e) ? -1 : 0;
}

static int unload(void **state) {
  (void)state;
  let_arena_fini(&arena);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_scenarios), cmocka_unit_test(test_changes_are_few)};
  return cmocka_run_group_tests(tests, load, unload);
}
