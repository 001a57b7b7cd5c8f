#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/heap.h"
#include "base/hist.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/units.h"

static void test_units(void **state) {
  (void)state;
  let_error e = {0};
  let_dur d = -1;
  assert_int_equal(let_parse_dur(LET_STR("20ms"), &d, &e), LET_OK);
  assert_int_equal(d, 20 * LET_MS);
  assert_int_equal(let_parse_dur(LET_STR("1.5 s"), &d, &e), LET_OK);
  assert_int_equal(d, 1500 * LET_MS);
  assert_int_equal(let_parse_dur(LET_STR("0"), &d, &e), LET_OK);
  assert_int_equal(d, 0);
  static const char *const bad[] = {"", "20", "-1ms", "ms", "1e99s", "0x10ms", "nan", "inf s", "1 fortnight", "1ms 2"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    d = 77;
    assert_int_not_equal(let_parse_dur(let_str_c(bad[i]), &d, &e), LET_OK);
    assert_int_equal(d, 77); /* outputs are written only on success */
    assert_true(e.text[0]);
  }
  uint64_t n;
  assert_int_equal(let_parse_size(LET_STR("64MiB"), &n, &e), LET_OK);
  assert_int_equal(n, 64u << 20);
  double r;
  assert_int_equal(let_parse_rate(LET_STR("90/m"), &r, &e), LET_OK);
  assert_true(r > 1.49 && r < 1.51);
  int64_t v;
  assert_int_not_equal(let_parse_i64(LET_STR("12x"), 0, 100, &v, &e), LET_OK);
  assert_int_not_equal(let_parse_i64(LET_STR("101"), 0, 100, &v, &e), LET_OK);
  assert_int_equal(let_parse_i64(LET_STR("-5"), -5, 100, &v, &e), LET_OK);
}

typedef struct item {
  let_heap_node node;
  int64_t key;
} item;

static void test_heap_orders_and_removes(void **state) {
  (void)state;
  enum { N = 2000 };
  let_rng r;
  let_rng_seed(&r, 7);
  let_heap h;
  assert_true(let_heap_init(&h, &let_mem_libc, N));
  item *x = calloc(N, sizeof *x);
  for (int i = 0; i < N; i++) {
    let_heap_node_init(&x[i].node);
    x[i].key = (int64_t)let_rng_below(&r, 100);
    assert_true(let_heap_push(&h, &x[i].node, x[i].key));
  }
  assert_true(let_heap_valid(&h));
  for (int i = 0; i < N; i += 3) let_heap_remove(&h, &x[i].node);
  assert_true(let_heap_valid(&h));
  int64_t last = -1;
  uint64_t serial = 0;
  while (h.n) {
    let_heap_node *t = let_heap_top(&h);
    assert_true(t->key > last || (t->key == last && t->serial > serial));
    last = t->key, serial = t->serial;
    let_heap_remove(&h, t);
  }
  let_heap_fini(&h);
  free(x);
}

static void test_hist_error_bound(void **state) {
  (void)state;
  static let_hist h;
  for (let_dur d = 1; d <= 100000; d++) let_hist_add(&h, d * LET_US);
  for (int q = 1; q <= 99; q++) {
    double got = (double)let_hist_quantile(&h, q / 100.0), want = q * 1000.0 * 1e3;
    assert_true(got >= want * 0.999 && got <= want * 1.017);
  }
  assert_int_equal(let_hist_quantile(&h, 1), 100000 * LET_US);
  assert_int_equal(let_hist_below(&h, 100 * LET_S), 100000);
}

/* A histogram goes over the wire as its cells, and a run is the difference of what was told before and after it. */
static void test_hist_rebuilt_and_subtracted(void **state) {
  (void)state;
  enum { N = 5000 };
  static let_hist early, late, run, sent;
  let_rng r;
  let_rng_seed(&r, 11);
  for (int i = 0; i < N; i++) {
    let_dur d = (let_dur)let_rng_exponential(&r, 3e6);
    let_hist_add(&early, d);
    let_hist_add(&late, d);
  }
  for (int i = 0; i < N; i++) {
    let_dur d = 10 * LET_MS + (let_dur)let_rng_exponential(&r, 1e6);
    let_hist_add(&run, d);
    let_hist_add(&late, d);
  }
  for (uint32_t i = 0; i < LET_HIST_CELLS; i++) assert_true(let_hist_put(&sent, i, late.cell[i]));
  assert_int_equal(sent.count, late.count);
  assert_true(sent.min <= late.min && sent.max >= late.max);
  double drift = (double)sent.sum / (double)late.sum;
  assert_true(drift > 0.99 && drift < 1.01);
  sent.sum = late.sum;
  assert_true(let_hist_subtract(&sent, &early));
  assert_int_equal(sent.count, N);
  assert_int_equal(sent.sum, run.sum);
  assert_memory_equal(sent.cell, run.cell, sizeof run.cell);
  for (int q = 0; q <= 100; q++) {
    double got = (double)let_hist_quantile(&sent, q / 100.0), want = (double)let_hist_quantile(&run, q / 100.0);
    assert_true(got >= want * 0.983 && got <= want * 1.017);
  }
  static let_hist before, same;
  before = sent;
  assert_false(let_hist_subtract(&sent, &late)); /* the server was restarted: its counters are smaller than before */
  assert_memory_equal(&sent, &before, sizeof sent);
  same = run;
  assert_true(let_hist_subtract(&same, &run));
  assert_int_equal(same.count, 0);
  assert_int_equal(let_hist_quantile(&same, 0.99), 0);
  assert_false(let_hist_put(&same, LET_HIST_CELLS, 1));
  assert_true(let_hist_put(&same, 7, UINT32_MAX));
  assert_false(let_hist_put(&same, 7, 1));
  assert_int_equal(same.count, UINT32_MAX);
}

static void test_arena_survives_failure(void **state) {
  (void)state;
  let_mem_failing f;
  let_mem_failing_init(&f, 1, 1);
  let_arena a;
  let_arena_init(&a, &f.mem);
  assert_non_null(let_arena_alloc(&a, 100));
  assert_null(let_arena_alloc(&a, 100000));
  assert_null(let_arena_array(&a, SIZE_MAX / 2, 16));
  let_arena_fini(&a);
  assert_int_equal(f.live, 0);
}

static void test_buf(void **state) {
  (void)state;
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  for (int i = 0; i < 1000; i++) let_buf_fmt(&b, "%d,", i);
  assert_false(b.failed);
  assert_memory_equal(b.p, "0,1,2,3,", 8);
  assert_int_equal(b.n, 10 * 2 + 90 * 3 + 900 * 4);
  let_buf_fini(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_units),
                                     cmocka_unit_test(test_heap_orders_and_removes),
                                     cmocka_unit_test(test_hist_error_bound),
                                     cmocka_unit_test(test_hist_rebuilt_and_subtracted),
                                     cmocka_unit_test(test_arena_survives_failure),
                                     cmocka_unit_test(test_buf)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
