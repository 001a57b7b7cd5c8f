#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "wire/http1.h"

static let_err parse(const char *text, let_http1_head *h, size_t *bytes) {
  size_t scanned = 0;
  let_error e = {0};
  return let_http1_parse(text, strlen(text), &scanned, h, bytes, &e);
}

static void test_whole_head(void **state) {
  (void)state;
  const char *text = "\r\nPOST /v2/models/a%20b/infer?x=1 HTTP/1.1\r\nhost: h\r\nCONTENT-LENGTH: 12 \r\nConnection: "
                     "Keep-Alive, close\r\nExpect: 100-Continue\r\n"
                     "Content-Type:application/json\r\nAccept-Encoding: gzip\r\nInference-Header-Content-Length: "
                     "7\r\nX-Empty:\r\n\r\nbody";
  let_http1_head h;
  size_t n = 0;
  assert_int_equal(parse(text, &h, &n), LET_OK);
  assert_string_equal(text + n, "body");
  assert_int_equal(h.method, LET_HTTP1_POST);
  assert_true(let_str_is(h.path, "/v2/models/a%20b/infer") && let_str_is(h.query, "x=1"));
  assert_true(h.minor == 1 && !h.keep_alive && !h.chunked && h.expect_continue && h.has_length && h.has_header_length);
  assert_int_equal(h.length, 12);
  assert_int_equal(h.header_length, 7);
  assert_true(let_str_is(h.content_type, "application/json") && let_str_is(h.accept_encoding, "gzip") &&
              let_str_is(h.host, "h"));
  let_str path = h.path, s, d;
  char out[16];
  assert_true(let_http1_segment(&path, &s) && let_str_is(s, "v2") && let_http1_segment(&path, &s) &&
              let_http1_segment(&path, &s));
  assert_true(let_http1_decode(s, out, sizeof out, &d) && let_str_is(d, "a b"));
  assert_false(let_http1_decode(LET_STR("%4"), out, sizeof out, &d) ||
               let_http1_decode(LET_STR("%00"), out, sizeof out, &d) || let_http1_decode(LET_STR("abc"), out, 2, &d));
  assert_int_equal(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &h, &n), LET_OK);
  assert_true(h.keep_alive && h.minor == 0);
  assert_int_equal(parse("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", &h, &n), LET_OK);
  assert_true(h.chunked && h.keep_alive);
  assert_int_equal(parse("GET https://a/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\nExpect:\r\n\r\n", &h, &n),
                   LET_OK);
  assert_true(let_str_is(h.path, "/x") && h.length == 5 && !h.expect_continue);
}

static void test_refused(void **state) {
  (void)state;
#define R "GET / HTTP/1.1\r\nHost: a\r\n"
  static const struct {
    const char *text;
    let_err err;
  } rows[] = {
      {"GET\r\n\r\n", LET_ERR_INVALID},
      {"GET /\r\n\r\n", LET_ERR_INVALID},
      {"GET  / HTTP/1.1\r\n\r\n", LET_ERR_INVALID},
      {"G(T / HTTP/1.1\r\n\r\n", LET_ERR_INVALID},
      {" GET / HTTP/1.1\r\n\r\n", LET_ERR_INVALID},
      {"GET / HTTP/2.0\r\n\r\n", LET_ERR_INVALID},
      {"GET / http/1.1\r\n\r\n", LET_ERR_INVALID},
      {"GET / HTTP/1.1 \r\n\r\n", LET_ERR_INVALID},
      {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", LET_ERR_INVALID},
      {"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", LET_ERR_INVALID},
      {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", LET_ERR_INVALID},
      {"GET / HTTP/1.1\nHost: a\r\n\r\n", LET_ERR_INVALID},
      {"\n", LET_ERR_INVALID},
      {"\r\n\r\n\r\n", LET_ERR_INVALID},
      {"GET / HTTP/1.1\r\n\r\n", LET_ERR_INVALID},
      {R "Host: b\r\n\r\n", LET_ERR_INVALID},
      {R " folded\r\n\r\n", LET_ERR_INVALID},
      {R "\tfolded\r\n\r\n", LET_ERR_INVALID},
      {R "NoColon\r\n\r\n", LET_ERR_INVALID},
      {R ": v\r\n\r\n", LET_ERR_INVALID},
      {R "A : v\r\n\r\n", LET_ERR_INVALID},
      {R "A: \x01\r\n\r\n", LET_ERR_INVALID},
      {R "A: b\rc\r\n\r\n", LET_ERR_INVALID},
      {R "A: \x7f\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length:\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 1x\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: +1\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 0x1\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 99999999999999999999\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 1, 2\r\n\r\n", LET_ERR_INVALID},
      {R "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LET_ERR_INVALID},
      {R "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", LET_ERR_INVALID},
      {R "Transfer-Encoding: chunked, chunked\r\n\r\n", LET_ERR_UNSUPPORTED},
      {R "Transfer-Encoding: gzip, chunked\r\n\r\n", LET_ERR_UNSUPPORTED},
      {R "Expect: the-best\r\n\r\n", LET_ERR_INVALID},
      {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", LET_ERR_INVALID},
      {R "Inference-Header-Content-Length: -1\r\n\r\n", LET_ERR_INVALID},
      {R "Inference-Header-Content-Length: 1\r\nInference-Header-Content-Length: 1\r\n\r\n", LET_ERR_INVALID},
      {R "A: b\r\n", LET_ERR_AGAIN},
      {R "A: b\r\n\r", LET_ERR_AGAIN},
      {"", LET_ERR_AGAIN},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    let_http1_head h;
    size_t n, scanned = 0, len = strlen(rows[i].text);
    let_err whole = parse(rows[i].text, &h, &n), r = LET_ERR_AGAIN;
    if (whole != rows[i].err) fail_msg("%s: %s", rows[i].text, let_err_name(whole));
    for (size_t k = 1; k <= len && r == LET_ERR_AGAIN; k++) { /* byte by byte, in a block of that size */
      char *p = malloc(k);
      memcpy(p, rows[i].text, k);
      let_error e = {0};
      r = let_http1_parse(p, k, &scanned, &h, &n, &e);
      if (r && r != LET_ERR_AGAIN) assert_true(strlen(e.text) > 10);
      free(p);
    }
    assert_int_equal(r, rows[i].err);
  }
}

static void test_limits(void **state) {
  (void)state;
  static char text[40000];
  let_http1_head h;
  size_t n;
  for (int extra = -1; extra <= 1; extra++) {
    int at = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    int pad = LET_HTTP1_HEAD_MAX + extra - at - 4;
    memset(text + at, 'x', (size_t)pad);
    memcpy(text + at + pad, "\r\n\r\n", 5);
    assert_int_equal(parse(text, &h, &n), extra > 0 ? LET_ERR_HEADER_TOO_LARGE : LET_OK);
  }
  int at = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\n");
  for (int i = 0; i < LET_HTTP1_FIELDS_MAX; i++) at += snprintf(text + at, 10, "A: b\r\n");
  memcpy(text + at, "\r\n", 3);
  assert_int_equal(parse(text, &h, &n), LET_ERR_HEADER_TOO_LARGE);
}

/* Feeds |text| in pieces drawn from |rng| (NULL: at once); returns the outcome, the body and how much was used. */
static let_err decode(const char *text, let_rng *rng, char *body, size_t *ret_body, size_t *ret_used, bool *ret_end) {
  let_http1_chunked c = {0};
  let_error e = {0};
  size_t len = strlen(text), at = 0;
  *ret_body = 0, *ret_end = false;
  while (at < len && !*ret_end) {
    size_t piece = rng ? 1 + let_rng_below(rng, 4) : len - at, used;
    if (piece > len - at) piece = len - at;
    for (size_t k = 0; k < piece && !*ret_end; k += used, at += used) {
      let_str data;
      let_err r = let_http1_chunked_step(&c, text + at, piece - k, &used, &data, ret_end, &e);
      if (r) return r;
      assert_true(used > 0);
      memcpy(body + *ret_body, data.p, data.n);
      *ret_body += data.n;
    }
  }
  *ret_used = at;
  return LET_OK;
}

static void test_chunked(void **state) {
  (void)state;
  static const struct {
    const char *text, *body; /* body NULL: refused */
    size_t left;
    bool end;
  } rows[] = {
      {"0\r\n\r\n", "", 0, true},
      {"5\r\nhello\r\n0\r\n\r\nGET", "hello", 3, true},
      {"5;a=b\r\nhello\r\n1 \r\n!\r\n000\r\nT: v\r\nU: w\r\n\r\n", "hello!", 0, true},
      {"A\r\n0123456789\r\n", "0123456789", 0, false},
      {"5\r\nhel", "hel", 0, false},
      {"\r\n", NULL, 0, 0},
      {"g\r\n", NULL, 0, 0},
      {"-1\r\n", NULL, 0, 0},
      {"1\nx", NULL, 0, 0},
      {"1\r\nxy\r\n", NULL, 0, 0},
      {"1\r\nx\n", NULL, 0, 0},
      {"1\r\nx\rz", NULL, 0, 0},
      {"1234567890123456\r\n", NULL, 0, 0},
      {"0\r\n\x01", NULL, 0, 0},
      {"0\r\n\rx", NULL, 0, 0},
      {"5;\x01\r\n", NULL, 0, 0},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
    for (uint64_t seed = 0; seed < 20; seed++) {
      let_rng rng;
      let_rng_seed(&rng, seed);
      char body[256];
      size_t n, used = 0;
      bool end;
      let_err r = decode(rows[i].text, seed ? &rng : NULL, body, &n, &used, &end);
      if ((r == LET_OK) != (rows[i].body != NULL)) fail_msg("%s: %s", rows[i].text, let_err_name(r));
      if (r) continue;
      assert_int_equal(end, rows[i].end);
      assert_int_equal(strlen(rows[i].text) - used, rows[i].left);
      assert_true(let_str_is((let_str){body, n}, rows[i].body));
    }
  char line[400];
  memset(line, 'x', sizeof line);
  memcpy(line, "1;", 2);
  line[399] = 0;
  char body[256];
  size_t n, used;
  bool end;
  assert_int_equal(decode(line, NULL, body, &n, &used, &end), LET_ERR_INVALID);
}

static void test_random(void **state) {
  (void)state;
  static const char base[] =
      "POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
  let_rng rng;
  let_rng_seed(&rng, 7);
  for (int round = 0; round < 20000; round++) {
    size_t n = sizeof base - 1, scanned = 0, bytes = 0, again = 0, bytes2 = 0;
    char *p = malloc(n);
    memcpy(p, base, n);
    for (uint64_t k = let_rng_below(&rng, 4); k; k--) p[let_rng_below(&rng, n)] = (char)let_rng_below(&rng, 256);
    let_http1_head h, h2;
    let_err whole = let_http1_parse(p, n, &scanned, &h, &bytes, NULL), r = LET_ERR_AGAIN;
    for (size_t k = 1; k <= n && r == LET_ERR_AGAIN; k++) r = let_http1_parse(p, k, &again, &h2, &bytes2, NULL);
    assert_int_equal(whole, r);
    if (!r) assert_int_equal(bytes, bytes2);
    free(p);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole_head), cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_limits), cmocka_unit_test(test_chunked),
                                     cmocka_unit_test(test_random)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
