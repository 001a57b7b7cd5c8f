#include "profile/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static const let_device_type h200 = {"h200", 132, 16, 8, 12, 1ull << 37, 1, 0};
#define PAIRS "m1,b1,sm1,solo1,co1,cov1,m2,b2,sm2,solo2,co2,cov2\n"

static let_err import(const char *latency, const char *pairs, let_arena *a, let_profile *p, let_samples *s,
                      let_error *e) {
  char dir[] = "/tmp/gpulet-raw-XXXXXX", path[2][64];
  const char *text[2] = {latency, pairs};
  assert_non_null(mkdtemp(dir));
  for (int i = 0; i < 2; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s", dir, i ? "pairs.csv" : "latency.csv");
    FILE *f = text[i] ? fopen(path[i], "w") : NULL;
    if (f) fputs(text[i], f), fclose(f);
  }
  let_err r = let_profile_import_raw(dir, &h200, a, p, s, e);
  for (int i = 0; i < 2; i++) (void)unlink(path[i]);
  assert_int_equal(rmdir(dir), 0);
  return r;
}

static void test_sms_become_granules(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s;
  let_error e = {0};
  /* 128 SMs are no gpu-let; batch 4 lacks a cell and goes as a whole. */
  if (import("model,batch,sms,ms\nb,1,8,4\nb,1,128,1.1\nb,1,132,1\nb,2,8,6\nb,2,132,2\nb,4,8,9\n",
             PAIRS "b,1,16,2,2.5,1,b,2,116,2,2.1,1\nb,1,64,2,2.5,0,b,2,68,2,2.2,1\n", &a, &p, &s, &e))
    fail_msg("%s", e.text);
  assert_int_equal(p.n_models, 1);
  assert_int_equal(p.model[0].n_batches, 2);
  assert_int_equal(p.model[0].n_granules, 2);
  assert_int_equal(p.model[0].granule[1], 16);
  assert_int_equal(s.n, 3); /* the side that was not covered is no measurement */
  assert_int_equal(s.sample[0].self.granules, 2);
  assert_int_equal(s.sample[0].other[0].granules, 14); /* 116 = 13 x 8 + 12 */
  assert_int_equal(s.sample[2].self.granules, 8);
  let_arena_fini(&a);
}

static void test_malformed(void **state) {
  (void)state;
  static const struct {
    const char *latency, *pairs, *want;
  } bad[] = {{"model,batch,granules,ms\n", NULL, "column 'granules' is not known"},
             {"model,batch,sms,ms\nb,1,8,0\n", NULL, "latency.csv:2:7: ms is 0"},
             {"model,batch,sms,ms\nb,1,128,1\n", NULL, "no row is a whole number of granules"},
             {"model,batch,sms,ms\nb,1,8,1\nb,1,8,2\n", NULL, "or one twice"},
             {"model,batch,sms,ms\nb,1,8,1\nb,1,16,1\nb,2,8,2\nb,2,24,2\n", NULL,
              "latency.csv:5: model 'b': batch 2 has other SM counts"},
             {"model,batch,sms,ms\nb,1,8,1\n", PAIRS "c,1,8,1,1,1,b,1,8,1,1,1\n",
              "pairs.csv:2:1: model 'c' is not in latency.csv"},
             {"model,batch,sms,ms\nb,1,8,1\n", PAIRS "b,1,9,1,1,1,b,1,8,1,1,1\n",
              "pairs.csv:2:5: 9 SMs are no whole number of granules"},
             {"model,batch,sms,ms\nb,1,8,1\n", PAIRS "b,1,8,1,1,2,b,1,8,1,1,1\n", "cov1: 2 is out of range"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_profile p;
    let_samples s;
    let_error e = {0};
    let_err r = import(bad[i].latency, bad[i].pairs, &a, &p, &s, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, bad[i].want))
      fail_msg("case %zu: %s '%s', want '%s'", i, let_err_name(r), e.text, bad[i].want);
    let_arena_fini(&a);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_sms_become_granules), cmocka_unit_test(test_malformed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
