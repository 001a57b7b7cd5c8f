#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/plan_json.h"
#include "conf/workload.h"

typedef struct bad {
  const char *text, *place, *word;
} bad;

static void test_workload(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_workload w;
  assert_int_equal(
      let_workload_parse(LET_STR("# c\nmodels:\n  - {name: a, rate: 1200/s, slo: 20ms}\n  - name: b\n    rate: 90/m\n"),
                         "w", &a, &w, &e),
      LET_OK);
  assert_int_equal(w.n, 2);
  assert_string_equal(w.demand[0].name, "a");
  assert_true(w.demand[0].rate > 1199.9 && w.demand[0].rate < 1200.1);
  assert_true(w.demand[0].slo == 20 * LET_MS);
  assert_true(w.demand[1].rate > 1.49 && w.demand[1].rate < 1.51);
  assert_true(w.demand[1].slo == 0);
  static const bad cases[] = {
      {"", "w:1:1", "empty"},
      {"5", "w:1:1", "models:"},
      {"[]", "w:1:1", "models:"},
      {"modles: []", "w:1:1", "models?"},
      {"{}", "w:1:1", "missing"},
      {"models: 5", "w:1:9", "list"},
      {"models: []", "w:1:9", "empty"},
      {"models: [5]", "w:1:10", "written"},
      {"models:\n- {rate: 1/s}", "w:2:3", "name: is missing"},
      {"models:\n- {name: a}", "w:2:3", "rate: is missing"},
      {"models:\n- {name: a, rate: 5}", "w:2:19", "unit"},
      {"models:\n- {name: a, rate: 5/x}", "w:2:19", "unit"},
      {"models:\n- {name: a, rate: -5/s}", "w:2:19", "negative"},
      {"models:\n- {name: a, rate: nan/s}", "w:2:19", "not a rate"},
      {"models:\n- {name: a, rate: 5/s, slo: 20}", "w:2:29", "unit"},
      {"models:\n- {name: a, rate: 5/s, slo: 0}", "w:2:29", "more than 0"},
      {"models:\n- {name: a, rate: 5/s, sol: 2ms}", "w:2:24", "slo?"},
      {"models:\n- {name: a, rate: [5]}", "w:2:19", "one value"},
      {"models:\n- {name: '', rate: 5/s}", "w:2:10", "empty"},
      {"models:\n- {name: a, name: b, rate: 5/s}", "w:2:13", "line 2"},
      {"models:\n- {name: a, rate: 1/s}\n- {name: b, rate: 1/s}\n- {name: a, rate: 2/s}", "w:4:3", "line 2"},
      {"models: [", "w:", "expected"},
      {"models:\n\t- a", "w:2:1", "cannot start"},
      {"a: b\n---\nc: d", "w:3:1", "second"},
      {"? [a]\n: b", "w:1:3", "word"},
      {"models: *x", "w:1:9", "alias"},
      {"models:\n- {name: a, rate: 1e99/s}", "w:2:19", "1e9"},
      {"\xff\xfe\x41", "w:1:1", ""},
      {"models:\n- {name: \"a\\0b\", rate: 1/s}", "w:2:10", "NUL"},
      {"models:\n- {name: a, rate: }", "w:2:", "rate"}};
  int wrong = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    e = (let_error){0};
    let_err r = let_workload_parse(let_str_c(cases[i].text), "w", &a, &w, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, cases[i].place) || !strstr(e.text, cases[i].word))
      fprintf(stderr, "%s: '%s', wanted %s %s", cases[i].text, e.text, cases[i].place, cases[i].word), wrong++;
  }
  assert_int_equal(wrong, 0);
  assert_int_equal(let_workload_load("/no/such.yaml", &a, &w, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_workload_load("tasks.csv", &a, &w, &e), LET_ERR_INVALID);
  let_arena_fini(&a);
}

static const char minimal[] =
    "{\"gpus\":[{\"id\":3,\"gpulets\":[{\"granules\":8,\"share\":50,\"models\":[{\"name\":\"a\",\"batch\":4}]}]}]}";

static void test_plan(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_plan p = {0};
  let_err r = let_plan_parse(minimal, strlen(minimal), "p", &a, &p, &e);
  if (r) fail_msg("%s", e.text);
  assert_int_equal(p.gpu[0].id, 3);
  assert_int_equal(p.gpu[0].granules, 16);
  assert_int_equal(p.gpus_used, 1);
  assert_true(p.feasible);
  assert_int_equal(p.gpu[0].gpulet[0].first, UINT32_MAX);
  const char *by_share = "{\"gpus\":[{\"id\":0,\"granules\":16,\"gpulets\":[{\"share\":37.5,\"models\":[{\"name\":"
                         "\"a\",\"batch\":1}]}]}]}";
  assert_int_equal(let_plan_parse(by_share, strlen(by_share), "p", &a, &p, &e), LET_OK);
  assert_int_equal(p.gpu[0].gpulet[0].granules, 6);
  let_arena_fini(&a);
}

static void test_plan_round_trip(void **state) {
  (void)state;
  let_plan_entry entry[3] = {{"a\"\\\n", 8, 1.0 / 3, 1234567, 20 * LET_MS}, {"b", 1, 0, 0, 0}, {"c", 256, 1e6, 1, 3}};
  let_plan_gpulet l[3] = {{0, 5, false, 2, entry}, {5, 11, false, 1, entry + 2}, {UINT32_MAX, 7, true, 1, entry}};
  let_plan_gpu g[3] = {{0, "h200", 16, 2, l}, {7, "2080ti", 7, 1, l + 2}, {9, "idle", 4, 0, NULL}};
  char first[] = "because", second[] = "of \t that", *reasons[] = {first, second};
  let_plan p = {"optimal", false, 2, 1.75, 3.1, 0.123, 2, reasons, 3, g, 42}, q = {0};
  let_buf text, again;
  let_buf_init(&text, &let_mem_libc);
  let_buf_init(&again, &let_mem_libc);
  let_plan_to_json(&p, &text);
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_err r = let_plan_parse(text.p, text.n, "p", &a, &q, &e);
  if (r) fail_msg("%s in\n%s", e.text, text.p);
  let_plan_to_json(&q, &again);
  assert_string_equal(text.p, again.p);
  assert_string_equal(q.gpu[0].gpulet[0].entry[0].name, entry[0].name);
  assert_memory_equal(&q.gpu[0].gpulet[0].entry[0].rate, &entry[0].rate, sizeof(double));
  assert_true(q.gpu[0].gpulet[0].entry[0].latency == 1234567 && q.gpu[0].gpulet[1].entry[0].slo == 3);
  assert_true(q.gpu[1].gpulet[0].shared && q.generation == 42 && !q.feasible);
  assert_string_equal(q.reason[1], second);
  let_arena_fini(&a);
  let_buf_fini(&text);
  let_buf_fini(&again);
}

#define G(gpulet) "{\"gpus\":[{\"id\":0,\"granules\":16,\"gpulets\":[" gpulet "]}]}"
#define M(model)  G("{\"granules\":4,\"models\":[" model "]}")

static void test_plan_malformed(void **state) {
  (void)state;
  static const bad cases[] = {
      {"", "p:1:", ""},
      {"{", "p:1:", ""},
      {"{\n\"a\": }", "p:2:", "'}'"},
      {"[]", "p: ", "object"},
      {"5", "p:1:1", "expected"},
      {"{}", "p: gpus", "missing"},
      {"{\"gpus\":5}", "p: gpus", "list"},
      {"{\"gpus\":[5]}", "gpus[0]", "object"},
      {"{\"gpus\":[],\"gpus\":[]}", "p:1:", "duplicate"},
      {"{\"gpus\":[],\"polcy\":\"x\"}", "p: ", "policy"},
      {"{\"gpus\":[],\"policy\":5}", "policy", "string"},
      {"{\"gpus\":[],\"feasible\":1}", "feasible", "true"},
      {"{\"gpus\":[],\"gpus_used\":-1}", "gpus_used", "range"},
      {"{\"gpus\":[],\"reasons\":[1]}", "reasons", "string"},
      {"{\"gpus\":[{\"gpulets\":[]}]}", "gpus[0].id", "missing"},
      {"{\"gpus\":[{\"id\":0}]}", "gpus[0].gpulets", "missing"},
      {"{\"gpus\":[{\"id\":0.5,\"gpulets\":[]}]}", "gpus[0].id", "whole"},
      {"{\"gpus\":[{\"id\":0,\"gpulets\":[]},{\"id\":0,\"gpulets\":[]}]}", "p: gpu 0", "twice"},
      {"{\"gpus\":[{\"id\":0,\"type\":5,\"gpulets\":[]}]}", "gpus[0].type", "string"},
      {"{\"gpus\":[{\"id\":0,\"gpulets\":[{\"share\":25,\"models\":[{\"name\":\"a\",\"batch\":1}]}]}]}",
       "gpulets[0].granules", "missing"},
      {"{\"gpus\":[{\"id\":0,\"gpulets\":[{\"share\":50,\"models\":[{\"name\":\"a\",\"batch\":1}]}]}]}", "granules",
       "write gpus[0].granules"},
      {"{\"gpus\":[{\"id\":0,\"gpulets\":[{\"granules\":8,\"share\":50,\"models\":[{\"name\":\"a\",\"batch\":1}]},{"
       "\"granules\":4,\"share\":50,\"models\":[{\"name\":\"a\",\"batch\":1}]}]}]}",
       "gpus[0].gpulets", "fit"},
      {G("5"), "gpus[0].gpulets[0]", "object"},
      {G("{\"models\":[]}"), "gpus[0].gpulets[0].granules", "missing"},
      {G("{\"granules\":4}"), "gpulets[0].models", "missing"},
      {G("{\"granules\":4,\"models\":[]}"), "gpu-let 0", "empty"},
      {G("{\"granules\":0,\"models\":[]}"), "granules", "range"},
      {G("{\"granules\":17,\"models\":[{\"name\":\"a\",\"batch\":1}]}"), "gpu-let 0", "16"},
      {G("{\"granule\":4,\"models\":[]}"), "gpulets[0]", "granules?"},
      {G("{\"share\":20,\"models\":[{\"name\":\"a\",\"batch\":1}]}"), "share", "3.20"},
      {G("{\"share\":200,\"models\":[]}"), "share", "range"},
      {G("{\"granules\":4,\"first\":14,\"models\":[{\"name\":\"a\",\"batch\":1}]}"), "gpu-let 0", "beyond"},
      {G("{\"granules\":4,\"first\":-1,\"models\":[]}"), "first", "range"},
      {M("5"), "models[0]", "object"},
      {M("{}"), "models[0].name", "missing"},
      {M("{\"name\":\"a\"}"), "models[0].batch", "missing"},
      {M("{\"name\":\"a\",\"batch\":0}"), "models[0].batch", "range"},
      {M("{\"name\":\"a\",\"batch\":257}"), "models[0].batch", "256"},
      {M("{\"name\":\"a\",\"batch\":\"1\"}"), "batch", "whole"},
      {M("{\"name\":\"a\",\"batch\":1,\"rate\":-1}"), "rate", "range"},
      {M("{\"name\":\"a\",\"batch\":1,\"latency\":1}"), "models[0]", "latency_ms"},
      {M("{\"name\":\"a\",\"batch\":1},{\"name\":\"a\",\"batch\":1}"), "'a'", "twice"},
      {M("{\"name\":\"a\",\"batch\":1,\"slo_ms\":1e300}"), "slo_ms", "range"},
      {"{\"gpus\":[]} x", "p:1:", "end of file"},
      {"\xff", "p:1:", ""}};
  int wrong = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_error e = {0};
    let_plan p;
    let_err r = let_plan_parse(cases[i].text, strlen(cases[i].text), "p", &a, &p, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, cases[i].place) || !strstr(e.text, cases[i].word))
      fprintf(stderr, "%s: '%s', wanted %s %s", cases[i].text, e.text, cases[i].place, cases[i].word), wrong++;
    let_arena_fini(&a);
  }
  assert_int_equal(wrong, 0);
}

static let_err read_plan(let_arena *a, let_error *e) {
  let_plan p;
  return let_plan_parse(minimal, strlen(minimal), "p", a, &p, e);
}
static let_err read_workload(let_arena *a, let_error *e) {
  let_workload w;
  return let_workload_parse(LET_STR("models:\n- {name: a, rate: 1/s}\n"), "w", a, &w, e);
}

static void no_memory(let_err (*read)(let_arena *, let_error *)) {
  for (long n = 0;; n++) {
    let_mem_failing mem;
    let_mem_failing_init(&mem, n, 1);
    let_arena a;
    let_arena_init(&a, &mem.mem);
    let_error e = {0};
    let_err r = read(&a, &e);
    long count = mem.count;
    let_arena_fini(&a);
    assert_int_equal(mem.live, 0);
    if (count <= n) {
      assert_int_equal(r, LET_OK);
      assert_true(n > 0);
      return;
    }
    assert_int_equal(r, LET_ERR_NOMEM);
  }
}
static void test_no_memory(void **state) { (void)state, no_memory(read_plan), no_memory(read_workload); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_workload), cmocka_unit_test(test_plan),
                                     cmocka_unit_test(test_plan_round_trip), cmocka_unit_test(test_plan_malformed),
                                     cmocka_unit_test(test_no_memory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
