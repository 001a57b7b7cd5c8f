#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_poisson), cmocka_unit_test(test_uniform_and_same_seed),
                                     cmocka_unit_test(test_trace), cmocka_unit_test(test_allocation_failure)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
