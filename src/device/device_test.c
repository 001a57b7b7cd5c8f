/* test: engine os profile
 * Names, lists, the cpu device and the sim device. (cuda/ has its own tests.) */
#include "device/device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/clock.h"
#include "os/cpu.h"
#include "profile/profile.h"

static char dir[] = "/tmp/gpulet-device-test-XXXXXX", raw[] = "/tmp/gpulet-device-raw-XXXXXX";

static void put(const char *where, const char *name, const char *text) {
  char path[200];
  snprintf(path, sizeof path, "%s/%s", where, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static int set_up(void **state) {
  (void)state;
  assert_non_null(mkdtemp(dir));
  assert_non_null(mkdtemp(raw));
  put(dir, "device.yaml", "type: toy\nsms: 40\ngranules: 4\ngranule_sms: 10\nmemory_mib: 1000\n");
  put(dir, "latency.csv",
      "model,batch,granules,p50_ms,p99_ms\na,1,1,4,4\na,1,4,1,1\na,8,1,400,400\na,8,4,100,100\nb,1,1,2,2\nb,1,4,2,2\n");
  put(dir, "interference.yaml",
      "model: pressure\ncoefficients: {share_self: 0, share_other: 0, saturation: 0, default_pressure: 0.5, "
      "default_sensitivity: 1}\n");
  put(raw, "latency.csv", "model,batch,sms,ms\na,1,8,2.0\na,1,132,0.5\n");
  return 0;
}

static int tear_down(void **state) {
  static const char *const files[] = {"device.yaml", "latency.csv", "interference.yaml"};
  char path[200];
  (void)state;
  for (int i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i]);
    unlink(path);
  }
  snprintf(path, sizeof path, "%s/latency.csv", raw);
  unlink(path);
  return rmdir(dir) | rmdir(raw);
}

static void test_names(void **state) {
  (void)state;
  let_device_name n[8];
  uint32_t count, cores[LET_CPU_MAX], n_cores = let_cpu_allowed(cores);
  char spec[64];
  let_error e = {0};
  let_device *d;
  assert_int_equal(let_device_list("cpu", "", n, 8, &count, &e), LET_OK);
  assert_int_equal(count, 1);
  assert_int_equal(n[0].type.granules, n_cores);
  snprintf(spec, sizeof spec, "cpu:%u+sim:h200x3", cores[0]);
  assert_int_equal(let_device_list(spec, "", n, 8, &count, &e), LET_OK);
  assert_int_equal(count, 4);
  assert_int_equal(n[0].type.granules, 1);
  assert_string_equal(n[3].name, "sim:h200#2");
  assert_int_equal(n[3].type.last_granule_sms, 12);
  assert_int_equal(let_device_list("sim:toy", dir, n, 8, &count, &e), LET_OK);
  assert_int_equal(n[0].type.granules, 4);
  assert_int_equal(let_device_list("sim:h200x9", "", n, 8, &count, &e), LET_ERR_INVALID);
  static const char *const bad[] = {
      "",          "gpu",        "cpu:",           "cpu:1-0", "cpu:0,0",      "cpu:a", "cpu:5000", "sim:",
      "sim:h200#", "sim:h200#x", "sim:h200#99999", "sim:toy", "sim:h200x4#1", "cpu+",  "+cpu",     "cuda:x"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (i == 2) continue; /* "cpu:" is all cores */
    e.text[0] = 0;
    let_err r = let_device_list(bad[i], "", n, 8, &count, &e);
    assert_true(r == LET_ERR_INVALID || r == LET_ERR_NOT_FOUND);
    assert_true(e.text[0]);
    assert_true(let_device_open(bad[i], "", &d, &e) != LET_OK);
  }
  assert_int_equal(let_device_open("sim:h200", dir, &d, &e), LET_ERR_NOT_FOUND); /* the profile is a toy's */
  assert_non_null(strstr(e.text, "toy"));
  assert_int_equal(let_device_open("sim:h200", "/nonexistent", &d, &e), LET_ERR_NOT_FOUND);
}

static let_err nothing(let_exec *x, void *stream, let_error *e) {
  (void)x, (void)stream, (void)e;
  return LET_OK;
}

static void test_cpu(void **state) {
  (void)state;
  let_device *d;
  let_gpulet *g;
  let_engine_target t;
  let_error e = {0};
  let_time a, b, before = let_now();
  char to[4] = "";
  assert_int_equal(let_device_open("cpu", "", &d, &e), LET_OK);
  assert_int_equal(d->i->depth, 1);
  uint32_t all = d->i->type(d)->granules;
  assert_int_equal(d->i->open(d, 3, all, 1, false, &g, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->open(d, 3, 0, all + 1, false, &g, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->open(d, 3, all - 1, 1, false, &g, &e), LET_OK);
  d->i->target(g, &t);
  assert_int_equal(t.cuda, -1);
  assert_int_equal(t.threads, 1);
  assert_int_equal(t.gpulet, 3);
  assert_int_equal(d->i->enter(g, &e), LET_OK);
  let_exec x = {.size = 1, .run = nothing};
  assert_int_equal(d->i->copy_in(g, to, "abc", 4, &e), LET_OK);
  assert_int_equal(d->i->launch(g, &x, &e), LET_OK);
  assert_int_equal(d->i->mark(g, 0, &e), LET_OK);
  assert_int_equal(d->i->wait(g, 0, LET_S, &a, &b, &e), LET_OK);
  assert_true(before <= a && a <= b && b <= let_now());
  assert_string_equal(to, "abc");
  let_device_health h;
  assert_int_equal(d->i->health(d, &h, &e), LET_OK);
  assert_true(h.memory_total > 0 && h.memory_used <= h.memory_total);
  d->i->close(g);
  d->i->close_device(d);
}

static double ms_of(let_gpulet *g, const char *model, uint32_t size, int instance, bool wait) {
  const let_device_i *i = g->device->i;
  let_exec x = {.size = size, .run = nothing, .model = model};
  let_error e = {0};
  let_time a = 0, b = 0;
  assert_int_equal(i->launch(g, &x, &e), LET_OK);
  assert_int_equal(i->mark(g, instance, &e), LET_OK);
  if (!wait) return 0;
  assert_int_equal(i->wait(g, instance, LET_S, &a, &b, &e), LET_OK);
  assert_true(let_now() >= b);
  return (double)(b - a) / 1e6;
}

static void about(double got, double want) {
  if (got < want * 0.99 || got > want * 1.01) fail_msg("%g ms, not about %g", got, want);
}

static void test_sim(void **state) {
  (void)state;
  let_device *d;
  let_gpulet *one, *three, *all, *both;
  let_error e = {0};
  assert_int_equal(let_device_open("sim:toy#1", dir, &d, &e), LET_OK);
  assert_int_equal(d->i->depth, 2);
  assert_int_equal(d->i->open(d, 0, 2, 3, false, &one, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->open(d, 0, 0, 1, false, &one, &e), LET_OK);
  assert_int_equal(d->i->open(d, 1, 1, 3, false, &three, &e), LET_OK);
  assert_int_equal(d->i->enter(one, &e), LET_OK);
  about(ms_of(one, "a", 1, 0, true), 4);
  about(ms_of(one, "a", 8, 0, true), 400);
  about(ms_of(three, "a", 1, 0, true), 4.0 / 3); /* between 1 and 4 granules: in proportion to 1 / granules */
  /* Two at once: b beside a takes as much longer as the profile predicts; a, which was first, does not. */
  let_arena arena;
  let_profile p;
  let_arena_init(&arena, &let_mem_libc);
  assert_int_equal(let_profile_load(dir, &arena, &p, &e), LET_OK);
  double slow = let_profile_slowdown(&p, &(let_tenant){.model = 1, .batch = 1, .granules = 3, .busy = 1},
                                     &(let_tenant){.model = 0, .batch = 8, .granules = 1, .busy = 1}, 1);
  let_arena_fini(&arena);
  assert_true(slow > 1.2);
  (void)ms_of(one, "a", 8, 0, false);
  about(ms_of(three, "b", 1, 0, true), 2 * slow);
  let_time a, b;
  assert_int_equal(d->i->wait(one, 0, LET_S, &a, &b, &e), LET_OK);
  about((double)(b - a) / 1e6, 400);
  /* The next batch begins when the one ahead of it ends. */
  let_time a1, b1;
  (void)ms_of(one, "a", 8, 0, false);
  (void)ms_of(one, "a", 1, 1, false);
  assert_int_equal(d->i->wait(one, 0, LET_S, &a, &b, &e), LET_OK);
  assert_int_equal(d->i->wait(one, 1, LET_S, &a1, &b1, &e), LET_OK);
  assert_int_equal(a1, b);
  /* The watchdog's limit. */
  (void)ms_of(one, "a", 8, 0, false);
  assert_int_equal(d->i->wait(one, 0, LET_MS, &a, &b, &e), LET_ERR_DEADLINE);
  let_device_health h;
  assert_int_equal(d->i->health(d, &h, &e), LET_OK);
  assert_int_equal(d->i->health(d, &h, &e), LET_OK);
  assert_true(h.utilization >= 0 && h.utilization <= 1);
  /* What the profile does not know is refused, and the text says what it is. */
  let_exec x = {.size = 1, .run = nothing, .model = "c"};
  assert_int_equal(d->i->launch(one, &x, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "'c'"));
  x.model = "a";
  x.size = 9;
  assert_int_equal(d->i->launch(one, &x, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "batch 9"));
  d->i->close(one);
  d->i->close(three);
  /* Without a partition two of them halve the device. */
  assert_int_equal(d->i->open(d, 0, 0, 4, true, &all, &e), LET_OK);
  assert_int_equal(d->i->open(d, 1, 0, 4, true, &both, &e), LET_OK);
  (void)ms_of(all, "a", 8, 0, false);
  about(ms_of(both, "a", 1, 0, true), 2);
  d->i->close(all);
  d->i->close(both);
  d->i->close_device(d);
  /* A first measurement, without device.yaml. */
  assert_int_equal(let_device_open("sim:h200#2", raw, &d, &e), LET_OK);
  assert_int_equal(d->i->open(d, 0, 0, 16, false, &all, &e), LET_OK);
  about(ms_of(all, "a", 1, 0, true), 0.5);
  d->i->close(all);
  d->i->close_device(d);
  /* No profile: the device is there, its latencies are not. */
  assert_int_equal(let_device_open("sim:h200", "", &d, &e), LET_OK);
  assert_int_equal(d->i->open(d, 0, 0, 16, false, &all, &e), LET_OK);
  assert_int_equal(d->i->launch(all, &x, &e), LET_ERR_NOT_FOUND);
  d->i->close(all);
  d->i->close_device(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_cpu),
                                     cmocka_unit_test(test_sim)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
