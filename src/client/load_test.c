/* test: os label: thread */
/* The generator against the server of load_test_rig.h. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <uv.h>

#include "client/client.h"
#include "client/load_test_rig.h"

static let_load_options options(const server *s, char url[64]) {
  snprintf(url, 64, "http://127.0.0.1:%d", s->port);
  return (let_load_options){.url = url,
                            .arrival = "uniform",
                            .duration = 500 * LET_MS,
                            .timeout = 5 * LET_S,
                            .rate_scale = 1,
                            .seed = 1,
                            .connections = 4,
                            .max_inflight = 10000,
                            .rows = 2,
                            .variable_dim = 5,
                            .json = true};
}

static json_t *load(const let_load_options *o, const char *name, double rate, let_dur slo) {
  let_demand d = {.rate = rate, .slo = slo};
  snprintf(d.name, sizeof d.name, "%s", name);
  let_workload w = {1, &d};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_error e = {0};
  let_err err = let_load_run(o, &w, &out, NULL, &e);
  if (err && err != LET_ERR_UNAVAILABLE) fail_msg("%s", e.text);
  json_t *doc = json_loadb(out.p, out.n, 0, NULL);
  assert_non_null(doc);
  let_buf_fini(&out);
  return doc;
}

static double number(json_t *doc, const char *key) {
  return json_number_value(json_object_get(json_object_get(doc, "total"), key));
}
static long errors(json_t *doc, const char *kind) {
  return (long)json_integer_value(json_object_get(json_object_get(json_object_get(doc, "total"), "errors"), kind));
}

static void test_infers_with_binary_tensors(void **state) {
  (void)state;
  server s = {0};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  json_t *doc = load(&o, "m", 400, LET_S);
  assert_true(fabs(number(doc, "sent") - 200) <= 1);
  assert_true(number(doc, "ok") == number(doc, "sent"));
  assert_true(number(doc, "attainment") == 1);
  assert_true(number(doc, "mean_batch") == 2);
  json_t *m = json_array_get(json_object_get(doc, "models"), 0),
         *place = json_array_get(json_object_get(m, "gpulets"), 0);
  json_t *run = json_object_get(json_object_get(m, "stages"), "started");
  assert_int_equal(json_integer_value(json_object_get(run, "count")), 200); /* those before the run are not in it */
  assert_true(fabs(json_number_value(json_object_get(run, "mean_ms")) - 1) < 1e-6);
  assert_true(fabs(json_number_value(json_object_get(run, "p99_ms")) - 1) < 0.02);
  json_t *told = json_object_get(m, "server");
  assert_int_equal(json_integer_value(json_object_get(told, "refused_door")), 20);
  assert_int_equal(json_integer_value(json_object_get(told, "dropped_queue")), 0);
  assert_true(json_is_null(json_object_get(told, "late")));
  assert_true(json_number_value(json_object_get(place, "share")) == 50);
  assert_int_equal(json_integer_value(json_object_get(place, "batch")), 8);
  json_decref(doc);
  assert_int_equal(s.requests, 200);
  s.no_plan = true;
  o.duration = 50 * LET_MS;
  doc = load(&o, "m", 100, 0); /* the workload leaves the SLO to the model */
  assert_true(json_number_value(json_object_get(json_array_get(json_object_get(doc, "models"), 0), "slo_ms")) == 12.5);
  assert_true(json_is_null(json_object_get(json_object_get(doc, "total"), "mean_batch")));
  assert_true(json_is_null(json_object_get(json_object_get(doc, "total"), "stages")));
  assert_null(json_object_get(json_array_get(json_object_get(doc, "models"), 0), "gpulets"));
  json_decref(doc);
  let_demand d = {.name = "absent", .rate = 1};
  let_workload w = {1, &d};
  let_error e = {0};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  assert_int_equal(let_load_run(&o, &w, &out, NULL, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "/v2/models/absent: status 404: none"));
  let_buf_fini(&out);
  stop(&s);
  assert_int_equal(s.bad, 0);
}

static void test_no_coordinated_omission(void **state) {
  (void)state;
  server s = {.stall_at = 50, .stall_ms = 250};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x";
  json_t *doc = load(&o, "m", 1000, 20 * LET_MS);
  stop(&s);
  /* Four connections, so only four requests were under way when the server stalled; but 250 fell due meanwhile, and
   * their waiting counts: half of the run was bad, and the table says so. */
  assert_true(number(doc, "ok") >= 499);
  print_message("p50 %.1f ms, p90 %.1f ms, max %.1f ms, attainment %.3f\n", number(doc, "p50_ms"),
                number(doc, "p90_ms"), number(doc, "max_ms"), number(doc, "attainment"));
  assert_true(number(doc, "max_ms") >= 240);
  assert_true(number(doc, "p90_ms") >= 150);
  assert_true(number(doc, "attainment") < 0.6);
  assert_true(json_integer_value(json_object_get(json_object_get(doc, "generator"), "waited_for_connection")) >= 200);
  json_decref(doc);
}

static void test_errors_by_kind(void **state) {
  (void)state;
  server s = {.refuse_each = 10};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x";
  json_t *doc = load(&o, "m", 400, LET_S);
  assert_int_equal(errors(doc, "refused"), s.requests / 10);
  json_decref(doc);
  stop(&s);

  server h = {.hang_up_each = 7, .close_each = 5};
  start(&h);
  o = options(&h, url);
  o.get = "/x";
  doc = load(&o, "m", 400, LET_S);
  stop(&h);
  /* A request cut off on a connection that had answered before goes again; the books balance all the same. */
  assert_true(number(doc, "ok") + (double)errors(doc, "connection") == number(doc, "sent"));
  assert_true(fabs(number(doc, "sent") - 200) <= 1);
  assert_true(number(doc, "ok") > 100);
  json_decref(doc);

  server t = {.stall_at = 1, .stall_ms = 2000};
  start(&t);
  o = options(&t, url);
  o.get = "/x", o.timeout = 150 * LET_MS, o.max_inflight = 20;
  doc = load(&o, "m", 400, LET_S);
  stop(&t);
  assert_true(errors(doc, "timeout") > 0 && errors(doc, "not_sent") > 0);
  assert_true(number(doc, "ok") == 0 && number(doc, "attainment") == 0);
  json_decref(doc);

  doc = load(&o, "m", 100, LET_S); /* no server listens any more */
  assert_true(errors(doc, "connection") > 0 && number(doc, "ok") == 0);
  json_decref(doc);
}

static json_t *of_generator(json_t *doc, const char *key) {
  return json_object_get(json_object_get(doc, "generator"), key);
}

/* Threads share the arrivals, the connections and nothing else: the sums are those of one thread. */
static void test_threads(void **state) {
  (void)state;
  server s = {0};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x";
  o.arrival = "poisson";
  double sent = -1;
  for (uint32_t threads = 1; threads <= 4; threads++) {
    uint64_t before = s.requests;
    o.threads = threads;
    json_t *doc = load(&o, "m", 800, LET_S);
    if (sent < 0) sent = number(doc, "sent");
    assert_true(number(doc, "sent") == sent); /* the same times, whatever the number of threads */
    assert_true(number(doc, "ok") == sent);
    assert_int_equal(s.requests - before, sent);
    assert_int_equal(json_integer_value(of_generator(doc, "threads")), threads);
    assert_true(json_integer_value(of_generator(doc, "connections")) <= 4);
    assert_true(json_number_value(of_generator(doc, "busiest_thread")) > 0);
    assert_true(json_number_value(of_generator(doc, "cpu_seconds")) > 0);
    json_decref(doc);
  }
  o.closed = 7;
  o.threads = 3;
  o.duration = 100 * LET_MS;
  uint64_t before = s.connections;
  json_t *doc = load(&o, "m", 1, 0);
  assert_true(number(doc, "ok") > 50);
  assert_int_equal(s.connections - before, 7);
  json_decref(doc);
  stop(&s);
  let_demand d = {.name = "m", .rate = 1};
  let_workload w = {1, &d};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_error e = {0};
  o.threads = 8;
  assert_int_equal(let_load_run(&o, &w, &out, NULL, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "--threads 8"));
  let_buf_fini(&out);
}

/* The server holds every answer for 250 ms, and two connections are all that the generator may open. */
static void test_says_that_connections_were_short(void **state) {
  (void)state;
  server s = {.stall_at = 50, .stall_ms = 250};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x";
  o.json = false;
  o.connections = 2;
  let_demand d = {.name = "m", .rate = 1000, .slo = LET_S};
  let_workload w = {1, &d};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_error e = {0};
  let_load_outcome outcome;
  assert_int_equal(let_load_run(&o, &w, &out, &outcome, &e), LET_OK);
  stop(&s);
  print_message("%s\n", outcome.advice);
  assert_int_equal(outcome.bottleneck, LET_BOTTLENECK_CONNECTIONS);
  assert_non_null(strstr(outcome.advice, "--connections 256"));
  assert_non_null(strstr(out.p, outcome.advice));
  let_buf_fini(&out);
}

/* Ctrl-C ends every thread and prints what was counted. */
static void interrupt_soon(void *arg) {
  server *s = arg;
  while (!atomic_load(&s->seen)) {
    const struct timespec t = {.tv_nsec = 1000000};
    nanosleep(&t, NULL);
  }
  kill(getpid(), SIGINT);
}

static void test_interrupt(void **state) {
  (void)state;
  server s = {.tell_at = 20};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x";
  o.threads = 2;
  o.duration = 60 * LET_S;
  uv_thread_t killer;
  assert_int_equal(uv_thread_create(&killer, interrupt_soon, &s), 0);
  json_t *doc = load(&o, "m", 1000, LET_S);
  uv_thread_join(&killer);
  stop(&s);
  assert_true(number(doc, "ok") >= 10);
  assert_true(json_number_value(json_object_get(doc, "seconds")) < 30);
  json_decref(doc);
}

static void test_closed_loop_and_trace(void **state) {
  (void)state;
  server s = {0};
  start(&s);
  char url[64];
  let_load_options o = options(&s, url);
  o.get = "/x", o.closed = 8, o.duration = 200 * LET_MS;
  json_t *doc = load(&o, "m", 1, 0);
  assert_true(number(doc, "ok") > 100);
  assert_true(fabs(number(doc, "ok") - (double)s.requests) <= 8);
  assert_int_equal(s.connections, 8);
  json_decref(doc);
  stop(&s);
  o.closed = 0, o.arrival = "trace:/nonexistent/trace.csv";
  let_demand d = {.name = "m", .rate = 1};
  let_workload w = {1, &d};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_error e = {0};
  assert_int_equal(let_load_run(&o, &w, &out, NULL, &e), LET_ERR_NOT_FOUND);
  static const char *const urls[] = {"https://x", "http://", "http://h:", "http://h/path", "http://[::1", "h:80"};
  o.arrival = "poisson";
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    o.url = urls[i];
    assert_int_equal(let_load_run(&o, &w, &out, NULL, &e), LET_ERR_INVALID);
  }
  let_buf_fini(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_infers_with_binary_tensors),
                                     cmocka_unit_test(test_no_coordinated_omission),
                                     cmocka_unit_test(test_threads),
                                     cmocka_unit_test(test_says_that_connections_were_short),
                                     cmocka_unit_test(test_interrupt),
                                     cmocka_unit_test(test_errors_by_kind),
                                     cmocka_unit_test(test_closed_loop_and_trace)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
