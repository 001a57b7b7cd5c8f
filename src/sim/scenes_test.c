/* The core against the reference rules of reference.c, scene by scene (scenes.c), each with several seeds. Prints the
 * table. In every scene the core's attainment is at least the reference's less one point, and under overload its
 * goodput at least 0.97 of the reference's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "sim/scenes.h"

/* A request weighs what its rows take in a full batch. Otherwise rules that starve a model of large batches for the
 * sake of a small one would look best. |plain| does not weigh. */
typedef struct figures {
  double plain, attainment, worst, goodput, refused, dropped, late, rows;
  double of[LET_SIM_MODELS];
} figures;

static double weight(const let_sim_scene *s, uint32_t model) {
  for (uint32_t i = 0; i < s->n_variants; i++) {
    const let_sim_variant *v = &s->variant[i];
    for (uint32_t k = 0; v->told.model == model && k < v->told.n_sizes; k++)
      if (v->told.size[k] >= v->told.batch) return (double)v->truth[k] / v->told.size[k];
  }
  return 1;
}

static figures run(const let_scene *x, bool core) {
  figures f = {.worst = 1};
  double good = 0, sent = 0;
  uint64_t plain_good = 0, plain_sent = 0, refused = 0, dropped = 0, late = 0, rows = 0, batches = 0;
  double seconds = 0;
  uint64_t good_of[LET_SIM_MODELS] = {0}, sent_of[LET_SIM_MODELS] = {0};
  for (uint64_t seed = 1; seed <= LET_SCENE_SEEDS; seed++) {
    static let_sim_result r;
    let_sim_policy p;
    let_error e = {0};
    let_err err =
        core ? let_sim_core(&x->sim, &let_mem_libc, &p, &e) : let_sim_reference(&x->sim, &let_mem_libc, &p, &e);
    if (!err) err = let_sim_run(&x->sim, p, seed, &let_mem_libc, &r, &e);
    if (err) fail_msg("%s, seed %llu: %s", x->name, (unsigned long long)seed, e.text);
    seconds += r.seconds;
    for (uint32_t i = 0; i < x->sim.n_models; i++) {
      const let_sim_tally *t = &r.model[i];
      assert_int_equal(t->sent, t->good + t->late + t->refused + t->dropped); /* every request ends once */
      double w = weight(&x->sim, i);
      good += w * (double)t->good;
      sent += w * (double)t->sent;
      plain_good += t->good;
      plain_sent += t->sent;
      refused += t->refused;
      dropped += t->dropped;
      late += t->late;
      rows += t->rows;
      batches += t->batches;
      good_of[i] += t->good;
      sent_of[i] += t->sent;
    }
  }
  double n = plain_sent ? (double)plain_sent : 1;
  f.plain = (double)plain_good / n;
  f.attainment = sent > 0 ? good / sent : 1;
  f.goodput = good / seconds;
  f.refused = (double)refused / n;
  f.dropped = (double)dropped / n;
  f.late = (double)late / n;
  f.rows = batches ? (double)rows / (double)batches : 0;
  for (uint32_t i = 0; i < x->sim.n_models; i++) {
    f.of[i] = sent_of[i] ? (double)good_of[i] / (double)sent_of[i] : 1;
    if (f.of[i] < f.worst) f.worst = f.of[i];
  }
  return f;
}

static let_scene scene[LET_SCENES_MAX];

static void test_scenes(void **state) {
  (void)state;
  uint32_t n = let_scenes(scene), bad = 0;
  assert_true(n >= 60);
  printf("%-46s %16s %16s %16s %10s %26s %10s\n", "", "attainment %", "unweighted %", "worst model %", "goodput",
         "core's misses %", "rows");
  printf("%-46s %7s %8s %7s %8s %7s %8s %10s %8s %8s %8s %9s\n", "scene", "rules", "core", "rules", "core", "rules",
         "core", "core/rules", "refused", "dropped", "late", "per batch");
  for (uint32_t i = 0; i < n; i++) {
    figures a = run(&scene[i], false), b = run(&scene[i], true);
    double ratio = a.goodput > 0 ? b.goodput / a.goodput : 1;
    bool ok =
        b.attainment >= a.attainment - 0.01 && (!scene[i].overload || ratio >= 0.97) && b.attainment >= scene[i].least;
    bad += !ok;
    printf("%-46s %7.2f %8.2f %7.2f %8.2f %7.2f %8.2f %10.3f %8.2f %8.2f %8.2f %9.1f%s\n", scene[i].name,
           100 * a.attainment, 100 * b.attainment, 100 * a.plain, 100 * b.plain, 100 * a.worst, 100 * b.worst, ratio,
           100 * b.refused, 100 * b.dropped, 100 * b.late, b.rows, ok ? "" : "  <-- below the rules");
  }
  printf("%u scenes with %d seeds each, %u below the rules\n", n, LET_SCENE_SEEDS, bad);
  assert_int_equal(bad, 0);
}

static void test_neighbours(void **state) {
  (void)state;
  uint32_t n = let_neighbour_scenes(scene), bad = 0;
  double alone = 1;
  printf("%-46s %16s %16s\n", "", "the one in plan %", "the other %");
  printf("%-46s %8s %8s %8s %8s\n", "scene", "rules", "core", "rules", "core");
  for (uint32_t i = 0; i < n; i++) {
    figures a = run(&scene[i], false), b = run(&scene[i], true);
    if (scene[i].sim.model[1].rate <= 0) alone = b.of[0];
    bool ok = b.of[0] >= 0.99 * alone;
    bad += !ok;
    printf("%-46s %8.2f %8.2f %8.2f %8.2f%s\n", scene[i].name, 100 * a.of[0], 100 * b.of[0], 100 * a.of[1],
           100 * b.of[1], ok ? "" : "  <-- hurt");
  }
  assert_int_equal(bad, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_scenes), cmocka_unit_test(test_neighbours)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
