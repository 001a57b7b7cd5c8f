#include "profile/fit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"

enum { MODELS = 5, SAMPLES = 400 };

/* Latency alone is (1 + batch / 8) (4 / granules) ms; |delay|: the level of what company adds to each batch. */
static void planted(let_profile *p, let_samples *s, let_interference_kind kind, double noise, double delay,
                    let_arena *a) {
  let_rng r;
  let_rng_seed(&r, 42);
  *p = (let_profile){.device = {"t", 128, 16, 8, 8, 1ull << 36, 1, 0}, .n_models = MODELS, .interference = kind};
  p->model = let_arena_array(a, MODELS, sizeof *p->model);
  for (uint32_t i = 0; i < MODELS; i++) {
    let_profile_model *m = &p->model[i];
    snprintf(m->name, sizeof m->name, "m%u", i);
    m->n_batches = 2, m->batch = let_arena_array(a, 2, sizeof(uint32_t)), m->batch[0] = 1, m->batch[1] = 32;
    m->n_granules = 4, m->granule = let_arena_array(a, 4, sizeof(uint32_t));
    m->cell = let_arena_array(a, 8, sizeof *m->cell);
    for (uint32_t c = 0; c < 8; c++) {
      double ms = (1 + m->batch[c / 4] / 8.) * 4 / (c % 4 + 1);
      m->granule[c % 4] = c % 4 + 1, m->cell[m->n_cells++] = (let_cell){m->batch[c / 4], c % 4 + 1, ms, ms};
    }
    m->n_pressure = 1, m->pressure = let_arena_array(a, 1, sizeof *m->pressure);
    m->pressure[0].batch = 1;
    m->pressure[0].p = (let_pressure){let_rng_unit(&r), let_rng_unit(&r), 0.2 + 0.4 * let_rng_unit(&r),
                                      0.2 + 0.4 * let_rng_unit(&r), delay * (0.5 + let_rng_unit(&r))};
  }
  if (kind == LET_INTERFERENCE_LINEAR)
    p->coef[0] = 0.11, p->coef[1] = 0.7, p->coef[2] = 0.35, p->coef[3] = 0.09, p->coef[4] = 1.02;
  else p->coef[LET_COEF_SHARE_SELF] = -0.2, p->coef[LET_COEF_SHARE_OTHER] = 0.6;
  s->n = SAMPLES, s->sample = let_arena_array(a, SAMPLES, sizeof *s->sample);
  for (uint32_t i = 0; i < SAMPLES; i++) {
    let_sample *x = &s->sample[i];
    x->n = 1 + (uint32_t)let_rng_below(&r, 3);
    x->other = let_arena_array(a, x->n, sizeof *x->other);
    x->self = (let_tenant){(uint32_t)let_rng_below(&r, MODELS), 1u << let_rng_below(&r, 6),
                           1 + (uint32_t)let_rng_below(&r, 4), 1};
    for (uint32_t k = 0; k < x->n; k++)
      x->other[k] = (let_tenant){(uint32_t)let_rng_below(&r, MODELS), 1u << let_rng_below(&r, 6),
                                 1 + (uint32_t)let_rng_below(&r, 4), 1};
    x->solo_ms = (1 + x->self.batch / 8.) * 4 / x->self.granules;
    x->together_ms =
        x->solo_ms * let_profile_slowdown(p, &x->self, x->other, x->n) * (1 + noise * (2 * let_rng_unit(&r) - 1));
  }
}

static void test_recovers_what_was_planted(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    let_interference_kind kind = k ? LET_INTERFERENCE_LINEAR : LET_INTERFERENCE_PRESSURE;
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_profile p, truth;
    let_samples s = {0};
    let_fit_report rep;
    let_error e = {0};
    planted(&p, &s, kind, 0, k ? 0 : 0.4, &a);
    truth = p;
    if (let_fit(&p, &s, kind, 5, 1, &a, &rep, &e)) fail_msg("%s", e.text);
    printf("kind %d: held-out p95 %.4f %%\n", (int)kind, 100 * rep.held_out.p95);
    assert_true(rep.held_out.p95 < (k ? 1e-6 : 0.01)); /* the ridge leaves a trace */
    if (k)
      for (int i = 0; i <= LET_COEF_CONSTANT; i++) assert_true(fabs(p.coef[i] - truth.coef[i]) < 1e-4);
    else {
      assert_true(fabs(p.coef[LET_COEF_SHARE_SELF] + 0.2) < 0.03);
      assert_true(fabs(p.coef[LET_COEF_SHARE_OTHER] - 0.6) < 0.03);
    }
    for (uint32_t i = 0; i < s.n; i++)
      assert_true(let_profile_slowdown(&p, &s.sample[i].self, s.sample[i].other, s.sample[i].n) >= 1);
    let_arena_fini(&a);
  }
}

/* What is stored predicts what was planted: larger batches feel a delay less, and never take less time for it. */
static void test_a_delay_is_found(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p, truth;
  let_samples s = {0};
  let_fit_report rep;
  let_error e = {0};
  planted(&p, &s, LET_INTERFERENCE_PRESSURE, 0.02, 0.4, &a);
  truth = p;
  truth.model = let_arena_array(&a, MODELS, sizeof *truth.model);
  memcpy(truth.model, p.model, MODELS * sizeof *p.model);
  assert_int_equal(let_fit(&p, &s, LET_INTERFERENCE_PRESSURE, 5, 1, &a, &rep, &e), LET_OK);
  assert_true(rep.n_repeats > 100 && rep.repeats.max < 1e-9); /* alone there is no noise */
  assert_true(rep.sets > 30 && rep.strangers.p95 >= rep.held_out.p95 / 2 && rep.strangers.p95 < 0.06);
  for (uint32_t m = 0; m < MODELS; m++)
    for (uint32_t g = 1; g <= 4; g++) {
      double last = 0;
      for (uint32_t b = 1; b <= 32; b++) {
        let_tenant self = {m, b, g, 1}, other = {(m + 1) % MODELS, 8, 4, 1};
        let_dur d;
        assert_int_equal(let_profile_latency(&p, m, b, g, LET_PROFILE_P99, &d, &e), LET_OK);
        double got = let_profile_slowdown(&p, &self, &other, 1), want = let_profile_slowdown(&truth, &self, &other, 1);
        assert_true(fabs(got / want - 1) < 0.03);
        assert_true((double)d * got >= last * (1 - 1e-12));
        last = (double)d * got;
      }
    }
  let_arena_fini(&a);
}

/* A tenth of the samples is nonsense: the others are predicted as if it were not there. */
static void test_outliers_do_not_spoil_the_rest(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s = {0};
  let_fit_report rep;
  let_error e = {0};
  planted(&p, &s, LET_INTERFERENCE_PRESSURE, 0.02, 0.2, &a);
  for (uint32_t i = 0; i < s.n; i += 10) s.sample[i].together_ms *= 3;
  assert_int_equal(let_fit(&p, &s, LET_INTERFERENCE_PRESSURE, 5, 1, &a, &rep, &e), LET_OK);
  printf("with outliers: p50 %.4f p90 %.4f\n", rep.held_out.p50, rep.held_out.p90);
  assert_true(rep.held_out.p50 < 0.02 && rep.held_out.max > 0.5);
  let_arena_fini(&a);
}

static void test_held_out_error_is_the_noise(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s = {0};
  let_fit_report rep;
  let_error e = {0};
  planted(&p, &s, LET_INTERFERENCE_PRESSURE, 0.1, 0.2, &a);
  assert_int_equal(let_fit(&p, &s, LET_INTERFERENCE_PRESSURE, 5, 1, &a, &rep, &e), LET_OK);
  assert_true(rep.held_out.p50 > 0.03 && rep.held_out.p95 < 0.13);
  assert_true(rep.seen.p50 <= rep.held_out.p50 * 1.1);
  s.n = 3;
  assert_int_equal(let_fit(&p, &s, LET_INTERFERENCE_PRESSURE, 5, 1, &a, &rep, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "too few"));
  let_arena_fini(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_recovers_what_was_planted), cmocka_unit_test(test_a_delay_is_found),
      cmocka_unit_test(test_outliers_do_not_spoil_the_rest), cmocka_unit_test(test_held_out_error_is_the_noise)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
