#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "obs/metrics.h"
#include "obs/stages.h"

static void test_text(void **state) {
  (void)state;
  let_model_metrics *m = calloc(1, sizeof *m);
  let_request r = {.rows = 2, .status = LET_OK, .deadline = 10 * LET_MS};
  r.stamp[LET_STAGE_RECEIVED] = 1 * LET_MS;
  r.stamp[LET_STAGE_ANSWERED] = 6 * LET_MS;
  m->received = 3;
  let_metrics_finish(m, &r, 0);
  r.stamp[LET_STAGE_ANSWERED] = 11 * LET_MS; /* late */
  let_metrics_finish(m, &r, 0);
  r.status = LET_ERR_DEADLINE;
  let_metrics_finish(m, &r, 0);
  let_metrics_batch(m, 4, LET_MS);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_metrics_model row = {"a\"b\\c\nd", 1, m};
  let_metrics_models_text(&row, 1, &b);
  assert_non_null(strstr(b.p, "nv_inference_request_success{model=\"a\\\"b\\\\c\\nd\",version=\"1\"} 2\n"));
  assert_non_null(strstr(b.p, "version=\"1\",reason=\"REJECTED\"} 1\n"));
  assert_non_null(strstr(b.p, "nv_inference_count{model=\"a\\\"b\\\\c\\nd\",version=\"1\"} 4\n"));
  assert_non_null(strstr(b.p, "version=\"1\",le=\"0.005\"} 1\n"));
  assert_non_null(strstr(b.p, "version=\"1\",le=\"+Inf\"} 2\n"));
  char *a = strstr(b.p, "\ngpulet_slo_attainment{");
  assert_non_null(a);
  assert_true(atof(strstr(a, "} ") + 2) > 0.333 && atof(strstr(a, "} ") + 2) < 0.334);
  let_buf_fini(&b);
  free(m);
}

static let_request passed(uint32_t model) { /* 1 ms after its first byte it was there, 2 ms later admitted, 3 ms ... */
  let_request r = {.model = model, .rows = 1, .deadline = LET_NEVER};
  let_time at = LET_S;
  for (unsigned k = 0; k < LET_STAGE_COUNT; k++) r.stamp[k] = at += k * LET_MS;
  return r;
}

static void test_stages(void **state) {
  (void)state;
  let_mem_failing mem;
  let_error e = {0};
  let_stages *s;
  let_mem_failing_init(&mem, -1, 0);
  assert_int_equal(let_stages_new(2, &mem.mem, &s, &e), LET_OK);
  assert_null(let_stages_hist(s, 1, LET_STAGE_ANSWERED));
  let_request r = passed(1);
  let_stages_finish(s, &r);
  long count = mem.count;
  r.stamp[LET_STAGE_STARTED] = r.stamp[LET_STAGE_SUBMITTED] - LET_MS / 2; /* another clock */
  r.deadline = r.stamp[LET_STAGE_ANSWERED] - 1;
  let_stages_finish(s, &r);
  assert_int_equal(mem.count, count); /* of the first request only */
  let_dur sum = 0;
  for (unsigned k = LET_STAGE_RECEIVED; k < LET_STAGE_COUNT; k++) {
    const let_hist *h = let_stages_hist(s, 1, (let_stage)k);
    assert_int_equal(h->count, 2);
    assert_int_equal(h->min, k == LET_STAGE_STARTED ? 0 : k * LET_MS);
    sum += h->sum;
  }
  assert_int_equal(sum, 2 * (r.stamp[LET_STAGE_ANSWERED] - r.stamp[LET_STAGE_FIRST_BYTE]));
  r = passed(1);
  r.status = LET_ERR_DEADLINE;
  let_stages_finish(s, &r);
  r.stamp[LET_STAGE_ADMITTED] = 0;
  r.status = LET_ERR_OVERLOADED;
  let_stages_finish(s, &r);
  r.status = LET_ERR_CANCELLED;
  let_stages_finish(s, &r);
  let_stages_count n = let_stages_count_of(s, 1);
  assert_int_equal(n.requests, 5);
  assert_int_equal(n.dropped_queue, 1);
  assert_int_equal(n.refused_door, 1);
  assert_int_equal(n.late, 1);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_stages_text(s, 1, "a\"b", &b);
  assert_non_null(strstr(b.p, "{\"name\":\"a\\\"b\",\"requests\":5,\"refused_door\":1,\"dropped_queue\":1,\"late\":1,"
                              "\"stages\":{\"received\":{\"mean_ms\":1,"));
  assert_non_null(strstr(b.p, "\"count\":2,\"sum_ms\":2.000000,\"hist\":[["));
  let_buf_clear(&b);
  let_stages_text(s, 0, "none", &b);
  assert_non_null(strstr(b.p, "\"answered\":{\"mean_ms\":0,\"p50_ms\":0,\"p99_ms\":0,\"count\":0,\"sum_ms\":0.000000,"
                              "\"hist\":[]}}}"));
  let_buf_fini(&b);
  let_stages_forget(s);
  assert_int_equal(let_stages_hist(s, 1, LET_STAGE_ANSWERED)->count, 0);
  assert_int_equal(let_stages_count_of(s, 1).requests, 5);
  mem.fail_at = mem.count; /* no memory for another model's times: its requests are counted all the same */
  r = passed(0);
  let_stages_finish(s, &r);
  assert_int_equal(let_stages_count_of(s, 0).requests, 1);
  assert_null(let_stages_hist(s, 0, LET_STAGE_ANSWERED));
  let_stages_free(s);
  assert_int_equal(mem.live, 0);
}

static void test_hist_text(void **state) {
  (void)state;
  static let_hist h;
  let_hist_add(&h, 90 * LET_US);
  let_hist_add(&h, 3 * LET_MS);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_metrics_hist(&b, "x_seconds", "Help", &h);
  assert_non_null(strstr(b.p, "# TYPE x_seconds histogram\n"));
  assert_non_null(strstr(b.p, "x_seconds_bucket{le=\"5e-05\"} 0\nx_seconds_bucket{le=\"0.0001\"} 1\n"));
  assert_non_null(strstr(b.p, "x_seconds_bucket{le=\"0.005\"} 2\n"));
  assert_non_null(strstr(b.p, "x_seconds_bucket{le=\"+Inf\"} 2\nx_seconds_sum 0.00309\nx_seconds_count 2\n"));
  let_buf_fini(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_stages),
                                     cmocka_unit_test(test_hist_text)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
