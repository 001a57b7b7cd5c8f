/* test: label: thread
 * gpulet profile, whole, on this machine's cores with the null engine: files, resuming, budget, damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "measure/measure.h"
#include "os/clock.h"
#include "profile/profile.h"

static char dir[64];
static let_model models[3];

static int setup(void **state) {
  (void)state;
  snprintf(dir, sizeof dir, "/tmp/gpulet-measure-XXXXXX");
  if (!mkdtemp(dir)) return -1;
  memset(models, 0, sizeof models);
  for (int i = 0; i < 3; i++) {
    let_model *m = &models[i];
    snprintf(m->name, sizeof m->name, "m%d", i);
    snprintf(m->backend, sizeof m->backend, i == 2 ? "pytorch-no-such" : "null");
    m->version = 1;
    m->max_batch = 4;
    m->n_inputs = m->n_outputs = 1;
    m->null_us = 1000u * (unsigned)(i + 1);
    m->input[0] = (let_tensor_spec){.name = "x", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {16}};
    m->output[0] = (let_tensor_spec){.name = "y", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {16}};
  }
  return 0;
}
static int teardown(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

static void on_progress(void *ctx, const let_measure_progress *p) {
  int *n = ctx;
  if (p->done < 0 || p->done > 1) n[0] = -1000000;
  n[0]++;
  if (p->trouble[0]) n[1]++;
}

static let_measure_options options(uint32_t n, let_dur budget, int seen[2]) {
  seen[0] = seen[1] = 0;
  return (let_measure_options){.models = models,
                               .n_models = n,
                               .device = "cpu",
                               .output = dir,
                               .profile_dir = "",
                               .plugin_dir = "",
                               .budget = budget,
                               .resume = true,
                               .tolerance = 0.02,
                               .window = 10 * LET_MS,
                               .seed = 1,
                               .progress = on_progress,
                               .ctx = seen};
}

static void test_a_profile(void **state) {
  (void)state;
  int seen[2];
  let_measure_options o = options(2, 3 * LET_S, seen);
  let_measure_result r;
  let_error e = {0};
  let_time t = let_now();
  if (let_measure(&o, &r, &e)) fail_msg("%s", e.text);
  assert_true(let_now() - t < 60 * LET_S); /* the budget is 3 s; other tests may have the cores */
  assert_int_equal(r.models, 2);
  assert_int_equal(r.resumed, 0);
  assert_true(r.cells >= 6 && seen[0] >= 6);
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s;
  if (let_profile_load_all(dir, &a, &p, &s, NULL, &e)) fail_msg("%s", e.text);
  assert_string_equal(p.device.name, "cpu");
  assert_int_equal(p.n_models, 2);
  let_dur one, two;
  assert_int_equal(let_profile_latency(&p, 0, 1, 1, LET_PROFILE_P50, &one, &e), LET_OK);
  assert_int_equal(let_profile_latency(&p, 1, 4, 1, LET_PROFILE_P50, &two, &e), LET_OK);
  assert_true(one >= LET_MS && two >= 2 * LET_MS);
  assert_int_equal(p.model[0].input_bytes, 64);
  /* On a busy machine a pair may be measured too badly to be used, never wrongly. */
  for (uint32_t i = 0; i < s.n; i++)
    assert_true(s.sample[i].n >= 1 && s.sample[i].together_ms >= s.sample[i].solo_ms / 2);
  let_arena_fini(&a);

  /* Again, with hardly any time: everything comes out of the journal. */
  o.budget = LET_MS;
  let_measure_result again;
  if (let_measure(&o, &again, &e)) fail_msg("%s", e.text);
  assert_int_equal(again.resumed, r.cells + r.pairs);
  assert_true(again.cells >= r.cells && again.cells <= r.cells + 1);

  /* A torn last line and lines of nonsense are not believed. */
  char path[128];
  snprintf(path, sizeof path, "%s/journal.csv", dir);
  FILE *f = fopen(path, "a");
  assert_non_null(f);
  fputs("cell,0,1,m0,1,0,1,5,-3,2,1,0,0,0,0,0\ncell,0,9\nnonsense\ncell,0,1,nobody,1,0,1,5,1,2,1,0,0,0,0,0\ncell,0,1,"
        "m0,1,0,1,5,9",
        f);
  fclose(f);
  let_measure_result torn;
  if (let_measure(&o, &torn, &e)) fail_msg("%s", e.text);
  assert_int_equal(torn.resumed, again.cells + again.pairs);

  /* Another set of models: a journal of its own. */
  o = options(1, 500 * LET_MS, seen);
  if (let_measure(&o, &again, &e)) fail_msg("%s", e.text);
  assert_int_equal(again.resumed, 0);
  assert_int_equal(again.models, 1);
}

static void put(const char *name, const char *text) {
  char path[160];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

/* A simulated device has granules enough for crowds: they are measured, and slow each other down as they were told to.
 */
static void test_crowds(void **state) {
  (void)state;
  char from[64];
  snprintf(from, sizeof from, "%s", dir);
  put("device.yaml", "type: t\nsms: 64\ngranules: 8\ngranule_sms: 8\nmemory_mib: 1000\n");
  put("latency.csv", "model,batch,granules,p50_ms,p99_ms\nm0,1,1,2,2\nm0,1,8,1,1\nm0,4,1,4,4\nm0,4,8,2,2\nm1,1,1,2,"
                     "2\nm1,1,8,1,1\nm1,4,1,4,4\nm1,4,8,2,2\n");
  put("interference.yaml", "model: pressure\ncoefficients: {share_self: 0, share_other: 1, saturation: 0, "
                           "default_pressure: 1, default_sensitivity: 1}\n");
  snprintf(dir, sizeof dir, "%.60s/2", from);
  int seen[2];
  let_measure_options o = options(2, 2 * LET_S, seen);
  o.device = "sim:t";
  o.profile_dir = from;
  o.window = 15 * LET_MS;
  o.tolerance = 0.5;
  let_measure_result r = {0};
  let_error e = {0};
  for (int k = 0; k < 8 && r.pairs < 3; k++) /* the third group has four; a busy machine goes on from the journal */
    if (let_measure(&o, &r, &e)) fail_msg("%s", e.text);
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s;
  if (let_profile_load_all(dir, &a, &p, &s, NULL, &e)) fail_msg("%s", e.text);
  uint32_t most = 0, slowed = 0;
  for (uint32_t i = 0; i < s.n; i++) {
    most = s.sample[i].n > most ? s.sample[i].n : most;
    slowed += s.sample[i].together_ms > 1.05 * s.sample[i].solo_ms;
  }
  printf("%u samples, at most %u neighbours, %u slowed\n", s.n, most, slowed);
  assert_true(s.n >= 6 && most == 3 + 4 * (r.pairs > 4) && slowed > s.n / 3);
  let_arena_fini(&a);
  memcpy(dir, from, sizeof dir);
}

static void test_what_cannot_be_measured(void **state) {
  (void)state;
  int seen[2];
  let_measure_options o = options(3, 1500 * LET_MS, seen);
  let_measure_result r;
  let_error e = {0};
  if (let_measure(&o, &r, &e)) fail_msg("%s", e.text);
  assert_int_equal(r.models, 2); /* the third is left out, and said so */
  assert_true(seen[1] >= 1);
  models[0].input[0].dims[0] = -1; /* no single latency */
  o = options(1, 200 * LET_MS, seen);
  o.resume = false;
  assert_int_equal(let_measure(&o, &r, &e), LET_ERR_INVALID);
  assert_true(seen[1] >= 1);
  o.device = "cuda:99999";
  assert_int_not_equal(let_measure(&o, &r, &e), LET_OK);
  o.n_models = 0;
  assert_int_equal(let_measure(&o, &r, &e), LET_ERR_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_a_profile, setup, teardown),
                                     cmocka_unit_test_setup_teardown(test_crowds, setup, teardown),
                                     cmocka_unit_test_setup_teardown(test_what_cannot_be_measured, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
