#include "model/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { ANY = UINT32_MAX };

static void place(const uint32_t *first, const uint32_t *granules, uint32_t n, uint32_t device, const uint32_t *want) {
  let_plan_gpulet l[8];
  for (uint32_t i = 0; i < n; i++) l[i] = (let_plan_gpulet){.first = first ? first[i] : ANY, .granules = granules[i]};
  let_plan_gpu g = {.granules = device, .n_gpulets = n, .gpulet = l};
  let_plan p = {.n_gpus = 1, .gpu = &g};
  let_error e;
  assert_int_equal(let_plan_place(&p, &e), want ? LET_OK : LET_ERR_INVALID);
  for (uint32_t i = 0; want && i < n; i++) assert_int_equal(l[i].first, want[i]);
}

static void test_the_largest_last(void **state) {
  (void)state;
  place(NULL, (uint32_t[]){8, 2, 2, 4}, 4, 16, (uint32_t[]){8, 0, 2, 4});
  place(NULL, (uint32_t[]){3, 2, 3}, 3, 16, (uint32_t[]){0, 3, 5}); /* idle granules behind it */
  place(NULL, (uint32_t[]){16}, 1, 16, (uint32_t[]){0});
}

static void test_among_others(void **state) { /* what has a place keeps it; the rest in the plan's order */
  (void)state;
  place((uint32_t[]){ANY, 8, ANY}, (uint32_t[]){8, 4, 4}, 3, 16, (uint32_t[]){0, 8, 12});
  place((uint32_t[]){ANY, 4, ANY}, (uint32_t[]){4, 4, 8}, 3, 16, (uint32_t[]){0, 4, 8});
  place((uint32_t[]){ANY, 6}, (uint32_t[]){8, 4}, 2, 16, NULL); /* 6 free on either side */
}

static void test_no_room(void **state) {
  (void)state;
  place(NULL, (uint32_t[]){9, 8}, 2, 16, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_largest_last), cmocka_unit_test(test_among_others),
                                     cmocka_unit_test(test_no_room)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
