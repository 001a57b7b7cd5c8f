#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "client/capacity.h"

static void test_threads(void **state) {
  (void)state;
  static const struct {
    double rate, bytes;
    uint32_t closed, connections, cores, want;
  } rows[] = {{100, 1e5, 0, 1024, 16, 1},       {2001, 1e5, 0, 1024, 16, 2},
              {10000, 1e7, 0, 1024, 16, 5},     {100000, 1e8, 0, 1024, 2, 1},
              {100000, 1e8, 0, 3, 16, 3},       {1000, 5e8, 0, 1024, 16, 3},
              {1e9, 1e12, 0, 65536, 1000, 256}, {0, 0, 0, 1024, 16, 1},
              {1e9, 1e9, 1, 1, 16, 1},          {1, 1, 65, 65, 16, 2},
              {1, 1, 1024, 1024, 8, 4},         {100000, 1e8, 0, 1024, 1, 1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    assert_int_equal(
        let_capacity_threads(rows[i].rate, rows[i].bytes, rows[i].closed, rows[i].connections, rows[i].cores),
        rows[i].want);
}

/* 1000 sends, |late_count| of them late by |late|, |waited| because of connections. */
static void check(uint64_t waited, double busiest, let_dur late, int late_count, let_dur slo, bool closed,
                  let_bottleneck want, const char *says) {
  static let_load_report r;
  r = (let_load_report){.threads = 2,
                        .cores = 8,
                        .connection_limit = 64,
                        .inflight_max = 900,
                        .waited = waited,
                        .busiest = busiest,
                        .closed = closed};
  for (int i = 0; i < 1000; i++) let_hist_add(&r.lateness, i < late_count ? late : 10 * LET_US);
  let_load_outcome x = let_capacity_judge(&r, slo);
  if (x.advice[0]) print_message("%s\n", x.advice);
  assert_int_equal(x.bottleneck, want);
  if (!strstr(x.advice, says)) fail_msg("no '%s' in '%s'", says, x.advice);
}

static void test_judgement(void **state) {
  (void)state;
  check(0, 0.5, 0, 0, 0, false, LET_BOTTLENECK_NONE, "");
  check(10, 0.5, 0, 0, 0, false, LET_BOTTLENECK_NONE, "");
  check(11, 0.5, 0, 0, 0, false, LET_BOTTLENECK_CONNECTIONS, "1.1 % of the requests waited");
  check(500, 0.5, 0, 0, 0, false, LET_BOTTLENECK_CONNECTIONS, "use --connections 1024");
  check(500, 0.5, 9 * LET_MS, 500, 0, true, LET_BOTTLENECK_NONE, "");
  check(0, 0.85, 0, 0, 0, false, LET_BOTTLENECK_NONE, "");
  check(0, 0.86, 0, 0, 0, false, LET_BOTTLENECK_CPU, "use --threads 4");
  check(500, 0.97, 5 * LET_MS, 500, 0, false, LET_BOTTLENECK_CPU, "0.97 of a core");
  check(0, 0.97, 0, 0, 0, true, LET_BOTTLENECK_CPU, "--threads 4");
  check(0, 0.5, 2 * LET_MS, 11, 0, false, LET_BOTTLENECK_LATE_SENDS, "allowed: 1.00 ms");
  check(0, 0.5, 2 * LET_MS, 10, 0, false, LET_BOTTLENECK_NONE, "");
  check(0, 0.5, 2 * LET_MS, 500, 10 * LET_MS, false, LET_BOTTLENECK_LATE_SENDS, "late by 2.0");
  check(0, 0.5, 2 * LET_MS, 500, 50 * LET_MS, false, LET_BOTTLENECK_NONE, "");
}

/* What cannot be had on this machine is not advised. */
static void test_advice_that_can_be_followed(void **state) {
  (void)state;
  static let_load_report r = {.threads = 2, .cores = 2, .connection_limit = 1000, .busiest = 0.9};
  let_load_outcome x = let_capacity_judge(&r, 0);
  assert_null(strstr(x.advice, "--threads"));
  assert_non_null(strstr(x.advice, "this machine has 2 cores"));
  r.busiest = 0.2;
  r.deprived = 0.66;
  r.wanted = 0.86;
  x = let_capacity_judge(&r, 0);
  assert_int_equal(x.bottleneck, LET_BOTTLENECK_CPU);
  assert_non_null(strstr(x.advice, "used 0.20 of a core, and waited for one 0.66 of the time: leave it a core"));
  r.wanted = 0.84;
  assert_int_equal(let_capacity_judge(&r, 0).bottleneck, LET_BOTTLENECK_NONE);
  r.waited = 500;
  r.files_limited = true;
  for (int i = 0; i < 1000; i++) let_hist_add(&r.lateness, 0);
  x = let_capacity_judge(&r, 0);
  assert_non_null(strstr(x.advice, "ulimit -n 4096"));
  r.files_limited = false;
  r.connection_limit = LET_CONNECTIONS_MAX;
  x = let_capacity_judge(&r, 0);
  assert_null(strstr(x.advice, "--connections"));
  assert_string_equal(let_bottleneck_name(LET_BOTTLENECK_CONNECTIONS), "connections");
  assert_string_equal(let_bottleneck_name(LET_BOTTLENECK_LATE_SENDS), "late sends");
  assert_null(let_bottleneck_name(LET_BOTTLENECK_NONE));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_judgement),
                                     cmocka_unit_test(test_advice_that_can_be_followed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
