#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/arrival.h"

static let_demand two[] = {{.name = "a", .rate = 1000}, {.name = "b", .rate = 250}};
static const let_workload work = {2, two};

/* Counts and gaps of |seconds| of arrivals of each model. */
static void measure(let_arrivals *a, double seconds, double count[2], double mean[2], double var[2]) {
  let_time last[2] = {0}, then = 0;
  double sum[2] = {0}, squares[2] = {0};
  count[0] = count[1] = 0;
  let_arrival x;
  while (let_arrivals_peek(a, &x) && (double)x.at < seconds * 1e9) {
    assert_true(x.at >= then);
    then = x.at;
    double gap = (double)(x.at - last[x.model]) / 1e9;
    last[x.model] = x.at;
    count[x.model]++, sum[x.model] += gap, squares[x.model] += gap * gap;
    let_arrivals_pop(a);
  }
  for (int i = 0; i < 2; i++) mean[i] = sum[i] / count[i], var[i] = squares[i] / count[i] - mean[i] * mean[i];
}

static void test_poisson(void **state) {
  (void)state;
  let_arrivals a;
  let_error e;
  double count[2], mean[2], var[2];
  assert_int_equal(let_arrivals_init(&a, &work, false, 2, 42, &let_mem_libc, &e), LET_OK);
  measure(&a, 100, count, mean, var);
  let_arrivals_fini(&a);
  for (int i = 0; i < 2; i++) {
    double rate = two[i].rate * 2;
    print_message("seed 42: rate %.0f/s: mean gap %.4f ms, standard deviation %.4f ms\n", rate, mean[i] * 1e3,
                  sqrt(var[i]) * 1e3);
    assert_true(fabs(count[i] - 100 * rate) < 4 * sqrt(100 * rate));
    assert_true(fabs(mean[i] * rate - 1) < 0.02);
    assert_true(fabs(sqrt(var[i]) * rate - 1) < 0.03); /* exponential gaps: deviation equals mean */
  }
}

static void test_uniform_and_same_seed(void **state) {
  (void)state;
  let_arrivals a, b;
  let_error e;
  double count[2], mean[2], var[2];
  assert_int_equal(let_arrivals_init(&a, &work, true, 1, 7, &let_mem_libc, &e), LET_OK);
  measure(&a, 10, count, mean, var);
  assert_true(fabs(count[0] - 10000) <= 1 && fabs(count[1] - 2500) <= 1);
  assert_true(sqrt(var[0]) < 1e-4);
  let_arrivals_fini(&a);
  assert_int_equal(let_arrivals_init(&a, &work, false, 1, 7, &let_mem_libc, &e), LET_OK);
  assert_int_equal(let_arrivals_init(&b, &work, false, 1, 7, &let_mem_libc, &e), LET_OK);
  for (int i = 0; i < 1000; i++) {
    let_arrival x, y;
    assert_true(let_arrivals_peek(&a, &x) && let_arrivals_peek(&b, &y));
    assert_true(x.at == y.at && x.model == y.model);
    let_arrivals_pop(&a), let_arrivals_pop(&b);
  }
  let_arrivals_fini(&a), let_arrivals_fini(&b);
}

static void test_trace(void **state) {
  (void)state;
  let_arrivals a;
  let_error e = {0};
  let_str text = LET_STR("time_s,model\n# comment\n0.5, b\n\n0.5,a\r\n2\n");
  assert_int_equal(let_arrivals_trace(&a, &work, text, "t.csv", 2, 1, &let_mem_libc, &e), LET_OK);
  let_arrival x;
  assert_true(let_arrivals_peek(&a, &x));
  assert_true(x.at == LET_S / 4 && x.model == 1);
  let_arrivals_pop(&a);
  assert_true(let_arrivals_peek(&a, &x));
  assert_true(x.at == LET_S / 4 && x.model == 0);
  let_arrivals_pop(&a);
  assert_true(let_arrivals_peek(&a, &x));
  assert_true(x.at == LET_S && x.model < 2);
  let_arrivals_pop(&a);
  assert_false(let_arrivals_peek(&a, &x));
  let_arrivals_fini(&a);
  static const struct {
    const char *text, *says;
  } bad[] = {
      {"0.5,c\n", "t.csv:1: model 'c'"},
      {"0.5\nhello\n", "t.csv:2: 'hello'"},
      {"2\n1\n", "t.csv:2: time"},
      {"-1\n", "t.csv:1:"},
      {"", "no arrival"},
      {"nan\n1e99\n", "t.csv:2:"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    e = (let_error){0};
    assert_int_equal(let_arrivals_trace(&a, &work, let_str_c(bad[i].text), "t.csv", 1, 1, &let_mem_libc, &e),
                     LET_ERR_INVALID);
    if (!strstr(e.text, bad[i].says)) fail_msg("%s lacks %s", e.text, bad[i].says);
  }
}

/* Threads share one process: together their parts are the times that one thread alone would have, each exactly once. */
static void check_parts(let_arrivals *whole, let_arrivals *part, uint32_t parts) {
  uint64_t count[8][2] = {0};
  let_arrival want, x;
  for (int i = 0; i < 4000 && let_arrivals_peek(whole, &want); i++) {
    uint32_t owners = 0;
    for (uint32_t k = 0; k < parts && !owners; k++) {
      if (!let_arrivals_peek(&part[k], &x) || x.at != want.at || x.model != want.model) continue;
      let_arrivals_pop(&part[k]);
      count[k][x.model]++;
      owners++;
    }
    assert_int_equal(owners, 1);
    let_arrivals_pop(whole);
  }
  for (uint32_t k = 0; k < parts; k++)
    for (int m = 0; m < 2; m++) {
      uint64_t all = 0;
      for (uint32_t j = 0; j < parts; j++) all += count[j][m];
      assert_true(llabs((long long)(count[k][m] * parts) - (long long)all) <= (long long)parts);
    }
}

static void test_parts_are_the_whole(void **state) {
  (void)state;
  let_arrivals whole, part[8];
  let_error e;
  for (uint32_t parts = 1; parts <= 8; parts++)
    for (int uniform = 0; uniform < 2; uniform++) {
      assert_int_equal(let_arrivals_init(&whole, &work, uniform, 2, 5, &let_mem_libc, &e), LET_OK);
      assert_true(fabs(let_arrivals_rate(&whole) - 2500) < 1e-6);
      for (uint32_t k = 0; k < parts; k++) {
        assert_int_equal(let_arrivals_init(&part[k], &work, uniform, 2, 5, &let_mem_libc, &e), LET_OK);
        let_arrivals_part(&part[k], k, parts);
      }
      check_parts(&whole, part, parts);
      for (uint32_t k = 0; k < parts; k++) let_arrivals_fini(&part[k]);
      let_arrivals_fini(&whole);
    }
}

static void test_parts_of_a_trace(void **state) {
  (void)state;
  let_error e = {0};
  const let_str text = LET_STR("0,a\n1\n2,b\n3\n4\n");
  let_arrivals whole, part[7];
  assert_int_equal(let_arrivals_trace(&whole, &work, text, "t.csv", 1, 9, &let_mem_libc, &e), LET_OK);
  assert_true(fabs(let_arrivals_rate(&whole) - 1) < 1e-9);
  for (uint32_t k = 0; k < 7; k++) {
    assert_int_equal(let_arrivals_trace(&part[k], &work, text, "t.csv", 1, 9, &let_mem_libc, &e), LET_OK);
    let_arrivals_part(&part[k], k, 7);
  }
  let_arrival x, y;
  for (uint32_t k = 0; k < 5; k++) {
    assert_true(let_arrivals_peek(&whole, &x) && let_arrivals_peek(&part[k], &y));
    assert_true(x.at == y.at && x.model == y.model);
    let_arrivals_pop(&whole);
    let_arrivals_pop(&part[k]);
  }
  for (uint32_t k = 0; k < 7; k++) {
    assert_false(let_arrivals_peek(&part[k], &y)); /* more threads than lines: some have nothing to do */
    let_arrivals_fini(&part[k]);
  }
  let_arrivals_fini(&whole);
}

static void test_allocation_failure(void **state) {
  (void)state;
  for (long at = 0; at < 3; at++) {
    let_mem_failing f;
    let_mem_failing_init(&f, at, 0);
    let_arrivals a;
    let_error e;
    let_err err = let_arrivals_init(&a, &work, false, 1, 1, &f.mem, &e);
    assert_int_equal(err, at < 2 ? LET_ERR_NOMEM : LET_OK);
    if (!err) let_arrivals_fini(&a);
    assert_int_equal(f.live, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_poisson),
                                     cmocka_unit_test(test_uniform_and_same_seed),
                                     cmocka_unit_test(test_trace),
                                     cmocka_unit_test(test_parts_are_the_whole),
                                     cmocka_unit_test(test_parts_of_a_trace),
                                     cmocka_unit_test(test_allocation_failure)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
