#include "cmd/plan_print.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static let_plan_entry a[2] = {{"vgg16", 8, 300, 4500 * LET_US, 30 * LET_MS}, {"bert", 4, 100, 2 * LET_MS, 22 * LET_MS}},
                      b[1] = {{"lenet", 1, 5000, 50 * LET_US, 5 * LET_MS}};
static char sentence[] = "a sentence", *reasons[] = {sentence};

static void text_of(const let_plan *p, uint32_t width, bool colour, let_buf *out) {
  let_buf_init(out, &let_mem_libc);
  let_plan_print(p, width, colour, out);
  assert_false(out->failed);
}

static void test_table_and_picture(void **state) {
  (void)state;
  let_plan_gpulet l[2] = {{0, 10, false, 2, a}, {10, 4, false, 1, b}};
  let_plan_gpu g = {3, "h200", 16, 2, l};
  let_plan p = {.policy = "optimal",
                .feasible = true,
                .gpus_used = 1,
                .lower_bound = 1,
                .cost = 1,
                .n_gpus = 1,
                .gpu = &g,
                .n_reasons = 1,
                .reason = reasons};
  let_buf t;
  text_of(&p, 60, false, &t);
  assert_non_null(strstr(t.p, "    3  h200             10  62.5%  vgg16     8        300     4.50 ms    30.00 ms\n"));
  assert_non_null(strstr(t.p, "gpu    3 |vgg16+bert                   |lenet      |.....|\n"));
  assert_non_null(strstr(t.p, "optimal: feasible, 1 gpu (cost 1; no plan costs less than 1: this one is optimal)"));
  assert_non_null(strstr(t.p, "- a sentence\n"));
  assert_null(strchr(t.p, '\033'));
  let_buf_fini(&t);
  text_of(&p, 60, true, &t);
  assert_non_null(strstr(t.p, "\033[30;42mvgg16"));
  let_buf_fini(&t);
  for (uint32_t width = 0; width < 300; width += 7) { /* the bar fits the terminal, from 20 columns on */
    text_of(&p, width, false, &t);
    const char *bar = strstr(t.p, "gpu    3 |");
    assert_non_null(bar);
    assert_true(strcspn(bar, "\n") <= (width > 20 ? width : 20));
    let_buf_fini(&t);
  }
}

static void test_shared_and_far_from_the_bound(void **state) {
  (void)state;
  let_plan_gpulet l[2] = {{0, 16, true, 2, a}, {0, 16, true, 1, b}};
  let_plan_gpu g[2] = {{0, "h200", 16, 2, l}, {1, "h200", 16, 1, l}};
  let_plan p = {
      .policy = "shared", .feasible = true, .gpus_used = 2, .lower_bound = 1, .cost = 2, .n_gpus = 2, .gpu = g};
  let_buf t;
  text_of(&p, 80, false, &t);
  assert_non_null(strstr(t.p, "at most 100.0 % above the optimum"));
  let_buf_fini(&t);
  let_plan none = {.policy = "elastic"};
  text_of(&none, 80, false, &t);
  assert_non_null(strstr(t.p, "elastic: not feasible, 0 gpus"));
  let_buf_fini(&t);
}

static void test_the_prototypes_format(void **state) {
  (void)state;
  let_plan_gpulet l[2] = {{0, 4, false, 2, a}, {4, 4, false, 1, b}};
  let_plan_gpu g = {0, "2080ti", 10, 2, l};
  let_plan p = {.n_gpus = 1, .gpu = &g};
  let_buf t;
  let_buf_init(&t, &let_mem_libc);
  let_plan_print_glet(&p, &t);
  assert_string_equal(
      t.p, "0,40,0,vgg16,8,6.500000\n0,40,0,bert,4,6.500000\n0,40,1,lenet,1,0.050000\n0,20,0,reserved,32,0.000000\n");
  let_buf_fini(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_table_and_picture),
                                     cmocka_unit_test(test_shared_and_far_from_the_bound),
                                     cmocka_unit_test(test_the_prototypes_format)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
