#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "client/reply.h"
#include "client/tally.h"

typedef struct sample {
  const char *text;
  int status; /* 0: broken */
  const char *body;
  bool close;
} sample;

static const sample samples[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false},
    {"HTTP/1.1 503 No\r\ncontent-length:0\r\nConnection: close\r\n\r\n", 503, "", true},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 200, "hi", false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
     200, "abc0123456789", false},
    {"HTTP/1.1 204 None\r\n\r\n", 204, "", false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", true},
    {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, "x", false},
    {"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end", true},
    {"SSH-2.0-OpenSSH\r\n", 0, "", false},
    {"HTTP/1.1 999 OK\r\n\r\n", 0, "", false},
    {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 0, "", false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", 0, "", false},
    {"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", 0, "", false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 0, "", false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 0, "a", false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", 0, "hel", false},
};

static void test_replies_in_any_pieces(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof samples / sizeof *samples; i++)
    for (size_t piece = 1; piece < 100; piece++) {
      const sample *s = &samples[i];
      let_reply r;
      let_reply_reset(&r, NULL);
      size_t n = strlen(s->text), at = 0;
      while (at < n && r.state != LET_REPLY_DONE && r.state != LET_REPLY_BROKEN) {
        size_t k = piece < n - at ? piece : n - at;
        at += let_reply_feed(&r, s->text + at, k);
      }
      if (r.state != LET_REPLY_DONE) let_reply_eof(&r);
      if (!s->status) {
        assert_int_equal(r.state, LET_REPLY_BROKEN);
        continue;
      }
      assert_int_equal(r.state, LET_REPLY_DONE);
      assert_int_equal(at, n);
      assert_int_equal(r.status, s->status);
      assert_int_equal(r.body_n, strlen(s->body));
      assert_memory_equal(r.body, s->body, r.body_n);
      assert_int_equal(r.close, s->close);
    }
}

static void test_latency_runs_from_the_intended_time(void **state) {
  (void)state;
  static let_tally t, other;
  t.slo = 10 * LET_MS;
  /* Due every ms, but the server was away from 0 to 100 ms and then answered all at once. */
  for (int i = 0; i < 100; i++) let_tally_add(&t, LET_LOAD_OK, i * LET_MS, 100 * LET_MS);
  assert_int_equal(t.good, 10); /* those due at 90 ms and later */
  assert_true(let_hist_quantile(&t.latency, 0.5) > 48 * LET_MS);
  let_tally_add(&t, LET_LOAD_REFUSED, 0, LET_MS);
  assert_int_equal(t.sent, 101);
  assert_int_equal(t.good, 10);
  assert_int_equal(t.latency.count, 100); /* a refusal has no latency, and is not attained */
  let_tally_merge(&other, &t);
  assert_int_equal(other.kind[LET_LOAD_REFUSED], 1);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  t.name = "m";
  let_load_report r = {.seconds = 0.1};
  let_tally_print(&t, 1, &r, &b);
  assert_non_null(strstr(b.p, "1 refused"));
  assert_null(strstr(b.p, "goodput"));
  r.wide = true;
  let_buf_clear(&b);
  let_tally_print(&t, 1, &r, &b);
  assert_non_null(strstr(b.p, "goodput"));
  let_error e;
  let_buf_clear(&b);
  assert_int_equal(let_tally_json(&t, 1, &r, &b, &e), LET_OK);
  assert_non_null(strstr(b.p, "\"attainment\": 0.0990"));
  let_buf_fini(&b);
}

/* Where a model runs, in as many words as a table's cell has room for. */
static void test_places(void **state) {
  (void)state;
  let_plan_entry m = {.name = "m", .batch = 8}, other = {.name = "other", .batch = 1}, both[] = {other, m};
  let_plan_gpulet half = {.granules = 8, .n_entries = 1, .entry = &m},
                  rest = {.granules = 8, .n_entries = 2, .entry = both},
                  quarter = {.granules = 4, .n_entries = 1, .entry = &m};
  let_plan_gpulet a[] = {half, rest}, b[] = {quarter};
  let_plan_gpu gpu[] = {{.id = 0, .type = "h200", .granules = 16, .n_gpulets = 2, .gpulet = a},
                        {.id = 1, .type = "h200", .granules = 16, .n_gpulets = 1, .gpulet = b}};
  static const struct {
    uint32_t gpus;
    const char *model, *want;
  } rows[] = {{2, "m", "2 x h200 50 % + 1 more"},
              {1, "m", "2 x h200 50 %"},
              {1, "other", "h200 50 %"},
              {1, "gone", "none"},
              {1, "all", "-"}};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    let_plan p = {.n_gpus = rows[i].gpus, .gpu = gpu};
    let_buf_clear(&out);
    let_tally_place(&p, rows[i].model, &out);
    let_buf_add(&out, "", 1);
    assert_string_equal(out.p, rows[i].want);
  }
  let_buf_clear(&out);
  let_tally_place(NULL, "m", &out);
  assert_int_equal(out.p[0], '-');
  static let_tally t; /* too large for the stack */
  t.name = "m", t.rows = 30, t.batches = 12, t.counted = true;
  let_tally_add(&t, LET_LOAD_OK, 0, LET_MS);
  let_plan p = {.n_gpus = 2, .gpu = gpu};
  let_load_report r = {.seconds = 1, .plan = &p};
  let_error e;
  let_buf_clear(&out);
  assert_int_equal(let_tally_json(&t, 1, &r, &out, &e), LET_OK);
  assert_non_null(strstr(out.p, "\"mean_batch\": 2.5"));
  assert_non_null(strstr(out.p, "\"share\": 25.0"));
  let_buf_fini(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_places), cmocka_unit_test(test_replies_in_any_pieces),
                                     cmocka_unit_test(test_latency_runs_from_the_intended_time)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
