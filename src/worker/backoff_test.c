#include "worker/backoff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_no_rest_without_traffic(void **state) {
  (void)state;
  let_dur rested = 0;
  for (int k = LET__WORK_BRING_UP; k <= LET__WORK_FREE; k++)
    assert_int_equal(let__backoff((let__work)k, false, LET_S, &rested), 0);
  assert_int_equal(rested, 0);
}

/* Nine models in seven gpu-lets: a step each to open, load, prepare twice and measure; and one that compiles for 3 s.
 */
static void test_a_plan_change_is_bounded(void **state) {
  (void)state;
  let_dur rested = 0, sum = 0;
  for (int i = 0; i < 200; i++) {
    let_dur took = i % 20 == 0 ? 3 * LET_S : 30 * LET_MS, rest = let__backoff(LET__WORK_BRING_UP, true, took, &rested);
    assert_true(rest >= 0 && rest <= took / 2 && rest <= 50 * LET_MS);
    if (i < 50 && took < LET_S) assert_int_equal(rest, 15 * LET_MS);
    sum += rest;
  }
  assert_int_equal(sum, rested);
  assert_int_equal(sum, 2500 * LET_MS);
}

static void test_adding_sizes_takes_half_of_the_time_at_most(void **state) {
  (void)state;
  let_dur rested = 0;
  assert_int_equal(let__backoff(LET__WORK_ADD_SIZE, true, 20 * LET_MS, &rested), 20 * LET_MS);
  assert_int_equal(let__backoff(LET__WORK_ADD_SIZE, true, 10 * LET_S, &rested), 250 * LET_MS);
  assert_int_equal(rested, 0);
}

static void test_frees_lie_apart(void **state) {
  (void)state;
  let_dur rested = 0;
  assert_int_equal(let__backoff(LET__WORK_FREE, true, 0, &rested), 2 * LET_MS);
  assert_int_equal(let__backoff(LET__WORK_FREE, true, 5 * LET_MS, &rested), 20 * LET_MS);
  assert_int_equal(let__backoff(LET__WORK_FREE, true, LET_S, &rested), 100 * LET_MS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_no_rest_without_traffic), cmocka_unit_test(test_a_plan_change_is_bounded),
      cmocka_unit_test(test_adding_sizes_takes_half_of_the_time_at_most), cmocka_unit_test(test_frees_lie_apart)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
