#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/stage_times.h"
#include "client/tally.h"

static let_demand two[] = {{.name = "bert", .rate = 1}, {.name = "resnet", .rate = 1}};
static const let_workload work = {2, two};

/* A document as the server writes it: |n| requests of bert, each |us| in every stage. */
static void document(let_buf *out, uint64_t n, let_dur us) {
  static const char *const stage[] = {"received", "admitted", "batched", "submitted",
                                      "started",  "finished", "answered"};
  static let_hist h;
  memset(&h, 0, sizeof h);
  let_buf_fmt(out,
              "{\"models\":[{\"name\":\"other\",\"requests\":1,\"stages\":{}},{\"name\":\"bert\",\"requests\":%llu,",
              (unsigned long long)n);
  let_buf_fmt(out, "\"refused_door\":%llu,\"dropped_queue\":3,\"stages\":{", (unsigned long long)n / 2);
  for (uint64_t i = 0; i < n; i++) let_hist_add(&h, us * LET_US);
  for (int i = 0; i < 7; i++) {
    let_buf_fmt(out, "%s\"%s\":{\"mean_ms\":1,\"p50_ms\":1,\"p99_ms\":1,\"count\":%llu,\"sum_ms\":%.6f,\"hist\":[",
                i ? "," : "", stage[i], (unsigned long long)n, (double)h.sum / 1e6);
    bool first = true;
    for (int k = 0; k < LET_HIST_CELLS; k++) {
      if (!h.cell[k]) continue;
      let_buf_fmt(out, "%s[%d,%u]", first ? "" : ",", k, h.cell[k]);
      first = false;
    }
    let_buf_str(out, "]}");
  }
  let_buf_str(out, "}}]}");
}

static void test_difference_of_two_readings(void **state) {
  (void)state;
  static let_stage_times before[2], after[2];
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  document(&b, 10, 4000);
  let_stage_times_read((let_str){b.p, b.n}, &work, before);
  assert_true(before[0].known && !before[1].known); /* it does not have resnet */
  assert_int_equal(before[0].requests, 10);
  let_buf_clear(&b);
  document(&b, 30, 4000);
  let_stage_times_read((let_str){b.p, b.n}, &work, after);
  for (int i = 0; i < 2; i++) let_stage_times_subtract(&after[i], &before[i]);
  assert_true(after[0].known && !after[1].known);
  assert_int_equal(after[0].requests, 20);
  assert_int_equal(after[0].loss[LET_LOSS_REFUSED_DOOR], 10);
  assert_int_equal(after[0].loss[LET_LOSS_DROPPED_QUEUE], 0);
  assert_false(after[0].has_loss[LET_LOSS_LATE]);
  json_t *doc = let_stage_times_json(&after[0]), *run = json_object_get(doc, "finished");
  assert_int_equal(json_integer_value(json_object_get(run, "count")), 20);
  assert_true(fabs(json_number_value(json_object_get(run, "mean_ms")) - 4) < 1e-6);
  assert_true(fabs(json_number_value(json_object_get(run, "p99_ms")) - 4) < 0.07);
  json_decref(doc);
  doc = let_stage_times_json(&after[1]);
  assert_true(json_is_null(doc));
  json_decref(doc);

  /* A server that began anew in between has less than before: no difference, and none is invented. */
  let_buf_clear(&b);
  document(&b, 5, 4000);
  let_stage_times_read((let_str){b.p, b.n}, &work, after);
  let_stage_times_subtract(&after[0], &before[0]);
  assert_false(after[0].known);
  let_buf_fini(&b);
}

static void test_nonsense_is_unknown(void **state) {
  (void)state;
  static let_stage_times s[2];
  let_buf good;
  let_buf_init(&good, &let_mem_libc);
  document(&good, 4, 50);
  static const struct {
    const char *from, *to;
  } change[] = {{"\"hist\":[[", "\"hist\":[[9"},
                {"\"hist\":[[", "\"hist\":[[-"},
                {",4]]", ",4.5]]"},
                {",4]]", ",-4]]"},
                {",4]]", ",4294967296]]"},
                {"\"batched\"", "\"batch\""},
                {"\"requests\":4", "\"requests\":-4"},
                {"[[", "[[[],"},
                {"}}]}", "}}]"}};
  for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
    const char *at = strstr(good.p + strlen("{\"models\":[{\"name\":\"other\""), change[i].from);
    assert_non_null(at);
    let_buf bad;
    let_buf_init(&bad, &let_mem_libc);
    let_buf_fmt(&bad, "%.*s%s%s", (int)(at - good.p), good.p, change[i].to, at + strlen(change[i].from));
    let_stage_times_read((let_str){bad.p, bad.n}, &work, s);
    if (s[0].known) fail_msg("taken for good: %s", bad.p);
    let_buf_fini(&bad);
  }
  static const char *const texts[] = {"", "[]", "{}", "{\"models\":3}", "{\"models\":[1,{\"name\":4}]}"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    let_stage_times_read(let_str_c(texts[i]), &work, s);
    assert_false(s[0].known || s[1].known);
  }
  let_buf_fini(&good);
}

static size_t longest_line(const char *p) {
  size_t most = 0;
  while (*p) {
    size_t n = strcspn(p, "\n");
    if (n > most) most = n;
    p += n + (p[n] != 0);
  }
  return most;
}

static void test_wide_table(void **state) {
  (void)state;
  static let_stage_times s[2];
  static let_tally t[2];
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  document(&b, 100, 12345);
  let_stage_times_read((let_str){b.p, b.n}, &work, s);
  t[0].name = "bert";
  t[1].name = "resnet";
  for (int i = 0; i < 200; i++) {
    t[0].slo = t[1].slo = 2 * LET_S;
    let_tally_add(&t[0], i < 150 ? LET_LOAD_OK : LET_LOAD_REFUSED, 0, 3 * LET_S);
    let_tally_add(&t[1], LET_LOAD_OK, 0, LET_MS);
  }
  let_load_report r = {.seconds = 10, .wide = true, .stages = s, .threads = 1};
  let_buf_clear(&b);
  let_tally_print(t, 2, &r, &b);
  printf("%s", b.p);
  assert_non_null(strstr(b.p, "received       admitted"));
  assert_non_null(strstr(b.p, "\nresnet          -      -       -      -")); /* the server does not tell */
  assert_non_null(strstr(b.p, " 12.35  12.45 "));
  assert_non_null(strstr(b.p, "50 refused (50 at the door, 3 in the queue), 150 late"));
  assert_true(longest_line(b.p) <= 120);
  let_error e;
  let_buf_clear(&b);
  assert_int_equal(let_tally_json(t, 2, &r, &b, &e), LET_OK);
  json_t *doc = json_loadb(b.p, b.n, 0, NULL), *m = json_array_get(json_object_get(doc, "models"), 0);
  assert_true(json_is_null(json_object_get(doc, "bottleneck")));
  assert_int_equal(json_integer_value(json_object_get(m, "late")), 150);
  assert_true(json_is_object(json_object_get(m, "stages")));
  assert_true(json_is_null(json_object_get(json_array_get(json_object_get(doc, "models"), 1), "stages")));
  json_decref(doc);
  let_buf_fini(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_difference_of_two_readings),
                                     cmocka_unit_test(test_nonsense_is_unknown), cmocka_unit_test(test_wide_table)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
