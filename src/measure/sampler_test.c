/* The sampler on a real surface: 9 models measured in full on an H200. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "measure/sampler.h"

enum { MODELS = 16, B = 6, G = 16 };
static const uint32_t batches[B] = {1, 2, 4, 8, 16, 32};
static uint32_t granules[G];
static struct {
  char name[32];
  double ms[B][G];
  int rows;
} truth[MODELS];
static int n_models;

static int load(void **state) {
  (void)state;
  char path[1024];
  snprintf(path, sizeof path, "%.*s/../../test/fixtures/h200_latency.csv", (int)(strrchr(__FILE__, '/') - __FILE__),
           __FILE__);
  FILE *f = fopen(path, "r");
  if (!f) return -1;
  for (uint32_t i = 0; i < G; i++) granules[i] = i + 1;
  char line[256], name[32];
  unsigned batch, sms;
  double ms;
  while (fgets(line, sizeof line, f)) {
    if (sscanf(line, "%31[^,],%u,%u,%lf", name, &batch, &sms, &ms) != 4) continue;
    int m = 0, b = 0;
    while (m < n_models && strcmp(truth[m].name, name)) m++;
    while (b < B && batches[b] != batch) b++;
    unsigned g = sms == 132 ? G - 1 : sms / 8 - 1;
    if (m == MODELS || b == B || g >= G) continue;
    if (m == n_models) snprintf(truth[n_models++].name, 32, "%s", name);
    truth[m].ms[b][g] = ms;
    truth[m].rows++;
  }
  fclose(f);
  return n_models ? 0 : -1;
}

static void errors(const let_sampler *s, int m, double *ret_mean, double *ret_p95) {
  double e[B * G], sum = 0;
  int n = 0;
  for (uint32_t b = 0; b < s->n_batches; b++) {
    for (uint32_t g = 0; g < s->n_granules; g++) {
      double t = truth[m].ms[b][s->granules[g] - 1];
      e[n] = fabs(let_sampler_estimate(s, b, g) - t) / t;
      sum += e[n++];
    }
  }
  for (int i = 1; i < n; i++)
    for (int k = i; k > 0 && e[k - 1] > e[k]; k--) {
      double swap = e[k];
      e[k] = e[k - 1];
      e[k - 1] = swap;
    }
  *ret_mean = sum / n;
  *ret_p95 = e[(n - 1) * 95 / 100];
}

/* Only what the file has for this model: whole columns. */
static uint32_t columns(int m, uint32_t out[G]) {
  uint32_t n = 0;
  for (uint32_t g = 0; g < G; g++) {
    bool all = true;
    for (int b = 0; b < B; b++) all &= truth[m].ms[b][g] > 0;
    if (all) out[n++] = g + 1;
  }
  return n;
}

static void test_error_against_cells(void **state) {
  (void)state;
  static const uint32_t at[] = {6, 12, 18, 24, 36};
  double mean[5] = {0}, p95[5] = {0}, random24 = 0;
  int n = 0;
  for (int m = 0; m < n_models; m++) {
    uint32_t column[G], k = columns(m, column);
    if (k < 8) continue;
    let_sampler s;
    let_error e = {0};
    assert_int_equal(let_sampler_init(&s, batches, B, column, k, 0, &e), LET_OK);
    uint32_t b, g, i = 0;
    double expected;
    while (i < 5 && let_sampler_next(&s, &b, &g, &expected)) {
      assert_true(isnan(s.ms[b * k + g])); /* never twice */
      let_sampler_add(&s, b, g, truth[m].ms[b][column[g] - 1]);
      if (s.measured != at[i]) continue;
      double a, q;
      errors(&s, m, &a, &q);
      mean[i] += a;
      p95[i] += q;
      i++;
    }
    let_sampler_fini(&s);
    /* The rival: the same corners, then cells in a fixed pseudo-random order. */
    assert_int_equal(let_sampler_init(&s, batches, B, column, k, 0, &e), LET_OK);
    uint64_t seed = 1;
    while (s.measured < 24) {
      assert_true(let_sampler_next(&s, &b, &g, &expected));
      if (expected < 1e6) {
        do {
          seed = seed * 6364136223846793005u + 1442695040888963407u;
          b = (uint32_t)(seed >> 33) % B;
          g = (uint32_t)(seed >> 40) % k;
        } while (!isnan(s.ms[b * k + g]));
      }
      let_sampler_add(&s, b, g, truth[m].ms[b][column[g] - 1]);
    }
    double a, q;
    errors(&s, m, &a, &q);
    random24 += q;
    let_sampler_fini(&s);
    n++;
  }
  assert_true(n >= 6);
  print_message("relative error over %d models (mean, p95) by cells measured of 66:", n);
  for (int i = 0; i < 5; i++) print_message("  %u: %.1f %% %.1f %%", at[i], 100 * mean[i] / n, 100 * p95[i] / n);
  print_message("; 24 at random: p95 %.1f %%\n", 100 * random24 / n);
  for (int i = 1; i < 5; i++) assert_true(mean[i] <= mean[i - 1] * 1.05);
  assert_true(mean[3] / n < 0.03);
  assert_true(p95[3] / n < 0.12);
  assert_true(p95[3] < random24);
}

static void test_asks_for_every_cell_once(void **state) {
  (void)state;
  for (uint32_t nb = 1; nb <= B; nb++) {
    for (uint32_t ng = 1; ng <= G; ng++) {
      let_sampler s;
      let_error e = {0};
      assert_int_equal(let_sampler_init(&s, batches, nb, granules, ng, 10, &e), LET_OK);
      uint32_t b, g, n = 0;
      double error;
      while (let_sampler_next(&s, &b, &g, &error)) {
        assert_true(b < nb && g < ng && isnan(s.ms[b * ng + g]) && error >= 0);
        let_sampler_add(&s, b, g, 1 + batches[b] / (double)granules[g]);
        assert_true(++n <= nb * ng);
      }
      assert_int_equal(n, nb * ng);
      let_sampler_fini(&s);
    }
  }
}

static void test_infeasible_cells_wait(void **state) { /* with an SLO, cells that can meet it come first */
  (void)state;
  let_sampler s;
  let_error e = {0};
  assert_int_equal(let_sampler_init(&s, batches, B, granules, G, 8, &e), LET_OK);
  uint32_t b, g;
  double error;
  int feasible = 0;
  for (int i = 0; i < 36; i++) {
    assert_true(let_sampler_next(&s, &b, &g, &error));
    double ms = 0.5 + 4.0 * batches[b] / granules[g] * (1 + 0.1 * (g % 3));
    feasible += error < 1e6 && ms <= 8;
    let_sampler_add(&s, b, g, ms);
  }
  assert_true(feasible >= 24);
  let_sampler_fini(&s);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_error_against_cells),
                                     cmocka_unit_test(test_asks_for_every_cell_once),
                                     cmocka_unit_test(test_infeasible_cells_wait)};
  return cmocka_run_group_tests(tests, load, NULL);
}
