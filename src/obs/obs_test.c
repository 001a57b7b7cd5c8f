#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "obs/metrics.h"

static void test_text(void **state) {
  (void)state;
  let_model_metrics *m = calloc(1, sizeof *m);
  let_request r = {.rows = 2, .status = LET_OK, .deadline = 10 * LET_MS};
  r.stamp[LET_STAGE_RECEIVED] = 1 * LET_MS;
  r.stamp[LET_STAGE_DONE] = 6 * LET_MS;
  m->received = 3;
  let_metrics_finish(m, &r, 0);
  r.stamp[LET_STAGE_DONE] = 11 * LET_MS; /* late */
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

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_text)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
