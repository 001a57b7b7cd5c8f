/* The front against a server that echoes in place (front_test_rig.h). */
#include "front/front_test_rig.h"

static void test_routes(void **state) {
  world *w = *state;
  static const struct {
    const char *line;
    int status;
    const char *word;
  } rows[] = {
      {"GET /v2", 200, "binary_tensor_data"},
      {"GET /v2/", 200, "gpulet"},
      {"HEAD /v2", 200, ""},
      {"GET /v2/health/live", 200, ""},
      {"GET /v2/health/ready", 200, ""},
      {"GET /v2/models/echo", 200, "\"shape\":[-1,-1]"},
      {"GET /v2/models/echo/versions/3", 200, "\"versions\":[\"3\"]"},
      {"GET /v2/models/echo/versions/4", 404, "3"},
      {"GET /v2/models/%65cho/ready", 200, ""},
      {"GET /v2/models/other/ready", 503, ""},
      {"GET /v2/models/nope", 404, "there is no"},
      {"GET /v2/models/nope/ready", 404, "echo, other"},
      {"POST /v2/models/nope/infer", 404, "echo, other"},
      {"GET /v2/models/echo/infer", 405, "POST"},
      {"DELETE /v2/models/echo/infer", 405, "POST"},
      {"POST /v2", 405, "GET"},
      {"POST /v2/repository/index", 200, "\"state\":\"READY\""},
      {"GET /nowhere", 404, "/v2/health/live"},
      {"BREW /pot", 404, ""},
      {"GET /echo", 200, "GET"},
      {"PUT /echo", 200, "PUT"},
      {"GET /metrics", 200, "up 1"},
      {"GET http://host/v2/health/live", 200, ""},
      {"GET /v2/models/%zz/ready", 404, ""},
      {"POST /v2/models/echo/infer", 400, "no body"},
  };
  int fd = dial(let_front_port(w->f)); /* all on one connection: every answer leaves it in order */
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    char text[256];
    snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: x\r\n\r\n", rows[i].line);
    say(w, fd, text, strlen(text));
    answer a = {0};
    if (strncmp(rows[i].line, "HEAD", 4) == 0) {
      while (!strstr(inbox, "\r\n\r\n") || a.n == 0) {
        ssize_t k = recv(fd, inbox, sizeof inbox - 1, MSG_DONTWAIT);
        if (k > 0) {
          a.n = (size_t)k;
          inbox[k] = 0;
        } else uv_run(&w->loop, UV_RUN_ONCE);
      }
      a.status = atoi(inbox + 9);
      assert_string_equal(strstr(inbox, "\r\n\r\n"), "\r\n\r\n"); /* a length, no body */
    } else {
      a = hear(w, fd, 1);
    }
    if (a.status != rows[i].status || !strstr(inbox, rows[i].word)) fail_msg("%s: %s", rows[i].line, inbox);
  }
  close(fd);
  fd = dial(let_front_metrics_port(w->f));
  const char *get = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /v2/models/echo HTTP/1.1\r\nHost: x\r\n\r\n";
  say(w, fd, get, strlen(get));
  assert_int_equal(hear(w, fd, 2).status, 404);
  close(fd);
}

static void test_infer(void **state) {
  world *w = *state;
  char text[1024];
  int fd = dial(let_front_port(w->f));
  infer_json(text, sizeof text, "", BODY);
  say(w, fd, text, strlen(text));
  answer a = hear(w, fd, 1);
  assert_int_equal(a.status, 200);
  assert_non_null(strstr(a.p, "\"id\":\"a\""));
  assert_non_null(strstr(a.p, DATA));
  assert_int_equal(w->last_timeout, 0);
  assert_int_equal(w->last_priority, 2);
  infer_json(text, sizeof text, "",
             "{\"parameters\":{\"timeout\":1500,\"priority\":1,\"x\":[{}]},\"inputs\":[{\"data\":[[1],[2]],\"shape\":["
             "2,1],\"datatype\":\"FP32\",\"name\":\"IN\"}]}");
  say(w, fd, text, strlen(text));
  assert_int_equal(hear(w, fd, 1).status, 200);
  assert_int_equal(w->last_timeout, 1500 * LET_US);
  assert_int_equal(w->last_priority, 1);

  /* binary there and back */
  const char *json = "{\"inputs\":[{\"name\":\"IN\",\"datatype\":\"FP32\",\"shape\":[2,2],\"parameters\":{\"binary_"
                     "data_size\":16}}],\"parameters\":{\"binary_data_output\":true}}";
  float x[4] = {1, 2, 3, 4};
  int n = snprintf(text, sizeof text,
                   "POST /v2/models/echo/versions/3/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: "
                   "%zu\r\nContent-Length: %zu\r\n\r\n%s",
                   strlen(json), strlen(json) + 16, json);
  memcpy(text + n, x, 16);
  for (int part = 0; part < 2; part++) { /* at once, and with the tensor later */
    size_t cut = (size_t)n + (part ? 5 : 16);
    say(w, fd, text, cut);
    if (part) {
      run_some(w);
      say(w, fd, text + cut, (size_t)n + 16 - cut);
    }
    a = hear(w, fd, 1);
    assert_int_equal(a.status, 200);
    assert_memory_equal(a.p + a.head + a.body - 16, x, 16);
    assert_non_null(strstr(a.p, "\"binary_data_size\":16"));
    char *h = strstr(a.p, "Inference-Header-Content-Length: ");
    assert_non_null(h);
    assert_int_equal(strtoul(h + 33, NULL, 10), a.body - 16);
  }
  n = snprintf(text, sizeof text,
               "POST /v2/models/other/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: "
               "0\r\nContent-Length: 16\r\n\r\n");
  memcpy(text + n, x, 16);
  say(w, fd, text, (size_t)n + 16);
  a = hear(w, fd, 1);
  assert_int_equal(a.status, 200);
  assert_memory_equal(a.p + a.head + a.body - 16, x, 16);
  close(fd);
}

static void test_pipelining_in_pieces(void **state) {
  world *w = *state;
  char one[1024], chunked[1024], all[8192];
  infer_json(one, sizeof one, "", BODY);
  snprintf(chunked, sizeof chunked,
           "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
           "chunked\r\n\r\n5\r\n%.5s\r\n%zX;e=1\r\n%s\r\n0\r\nT: x\r\n\r\n",
           BODY, strlen(BODY) - 5, &BODY[5]);
  snprintf(all, sizeof all, "%s%sGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n%s%s", one, chunked, chunked, one);
  for (uint64_t seed = 0; seed < 30; seed++) {
    let_rng rng;
    let_rng_seed(&rng, seed);
    int fd = dial(let_front_port(w->f));
    w->infers = 0;
    for (size_t at = 0, len = strlen(all); at < len;) {
      size_t k = seed == 0 ? 1 : seed == 1 ? len : 1 + let_rng_below(&rng, 200);
      if (k > len - at) k = len - at;
      say(w, fd, all + at, k);
      at += k;
    }
    answer a = hear(w, fd, 5);
    assert_int_equal(a.status, 200);
    assert_int_equal(w->infers, 4);
    assert_non_null(strstr(a.p, DATA));
    close(fd);
  }
}

static void test_refusals(void **state) {
  world *w = *state;
  static const struct {
    const char *text;
    int status;
  } rows[] = {
      {"GARBAGE\r\n\r\n", 400},
      {"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 400},
      {"GET /v2 HTTP/1.1\n\n", 400},
      {"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", 501},
      {"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 9\r\nContent-Length: "
       "2\r\n\r\n{}",
       400},
      {"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 400},
      {"POST /v2/models/nope/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{}", 404},
      {"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
       400},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    int got = ask(w, rows[i].text);
    if (got != rows[i].status) fail_msg("%s: %d\n%s", rows[i].text, got, inbox);
    assert_non_null(strstr(inbox, "{\"error\":\""));
  }
  char *big = malloc(100001);
  memset(big, 'a', 100000);
  big[100000] = 0;
  memcpy(big, "GET / HTTP/1.1\r\nX: ", 19);
  assert_int_equal(ask(w, big), 431);
  free(big);
  run_some(w);
}

static void test_expect_and_large(void **state) {
  world *w = *state;
  size_t n = 4 * 1024 * 1024;
  char head[256], *data = malloc(n);
  for (size_t i = 0; i < n; i++) data[i] = (char)(i % 251);
  int fd = dial(let_front_port(w->f));
  snprintf(head, sizeof head,
           "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nInference-Header-Content-Length: "
           "0\r\nContent-Length: %zu\r\n\r\n",
           n);
  say(w, fd, head, strlen(head));
  answer a = hear(w, fd, 1);
  assert_int_equal(a.status, 100);
  say(w, fd, data, n);
  a = hear(w, fd, 1);
  assert_int_equal(a.status, 200);
  assert_memory_equal(a.p + a.head + a.body - n, data, n);
  close(fd);
  free(data);
}

static void test_no_allocation(void **state) {
  world *w = *state;
  char one[1024];
  infer_json(one, sizeof one, "", BODY);
  int fd = dial(let_front_port(w->f));
  long before = 0;
  for (int i = 0; i < 1010; i++) {
    if (i == 10) before = w->mem.count;
    say(w, fd, one, strlen(one));
    assert_int_equal(hear(w, fd, 1).status, 200);
  }
  assert_int_equal(w->mem.count, before);
  close(fd);
}

static void test_disconnect(void **state) {
  world *w = *state;
  char one[1024];
  infer_json(one, sizeof one, "", BODY);
  w->hold = true;
  int fd[3];
  for (int i = 0; i < 3; i++) {
    fd[i] = dial(let_front_port(w->f));
    say(w, fd[i], one, strlen(one));
  }
  while (w->n_held < 3) uv_run(&w->loop, UV_RUN_ONCE);
  close(fd[0]);
  struct linger reset = {1, 0};
  setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  close(fd[1]);
  while (w->cancelled < 2) uv_run(&w->loop, UV_RUN_ONCE);
  answer_held(w);
  assert_int_equal(hear(w, fd[2], 1).status, 200);
  assert_int_equal(w->in_flight, 0);
  close(fd[2]);
  /* and the late answer of control() */
  fd[0] = dial(let_front_port(w->f));
  fd[1] = dial(let_front_port(w->f));
  say(w, fd[0], "GET /late HTTP/1.1\r\nHost: x\r\n\r\n", 31);
  while (!w->call) uv_run(&w->loop, UV_RUN_ONCE);
  let_front_reply(w->f, w->call, 409, "text/plain", LET_STR("later"));
  answer a = hear(w, fd[0], 1);
  assert_int_equal(a.status, 409);
  assert_non_null(strstr(a.p, "later"));
  w->call = NULL;
  say(w, fd[1], "GET /late HTTP/1.1\r\nHost: x\r\n\r\n", 31);
  while (!w->call) uv_run(&w->loop, UV_RUN_ONCE);
  close(fd[1]);
  run_some(w);
  let_front_reply(w->f, w->call, 200, "text/plain", LET_STR("nobody"));
  close(fd[0]);
}

static void test_drain_done(void *ctx) { ((world *)ctx)->drained = true; }

static void test_drain(void **state) {
  world *w = *state;
  char one[1024];
  infer_json(one, sizeof one, "", BODY);
  w->hold = true;
  uint16_t port = let_front_port(w->f);
  int busy = dial(port), idle = dial(port);
  say(w, busy, one, strlen(one));
  while (!w->n_held) uv_run(&w->loop, UV_RUN_ONCE);
  let_front_drain(w->f, test_drain_done, w);
  assert_true(gone(w, idle));
  assert_false(w->drained);
  answer_held(w);
  answer a = hear(w, busy, 1);
  assert_int_equal(a.status, 200);
  assert_non_null(strstr(a.p, "Connection: close"));
  while (!w->drained) uv_run(&w->loop, UV_RUN_ONCE);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof addr), -1);
  close(fd);
  close(busy);
  close(idle);
}

static void test_slow_loris(void **state) {
  world *w = calloc(1, sizeof *w);
  (void)state;
  options(w);
  w->o.head_timeout = w->o.body_timeout = w->o.idle_timeout = 20 * LET_MS;
  start(w);
  int head = dial(let_front_port(w->f)), body = dial(let_front_port(w->f)), idle = dial(let_front_port(w->f));
  say(w, head, "GET /v2 HT", 10);
  const char *post = "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
  say(w, body, post, strlen(post));
  assert_int_equal(hear(w, head, 1).status, 408);
  assert_int_equal(hear(w, body, 1).status, 408);
  assert_true(gone(w, idle));
  let_front_stats s;
  let_front_stats_get(w->f, &s);
  assert_int_equal(s.timeouts, 2);
  close(head);
  close(body);
  close(idle);
  stop(w);
  assert_int_equal(w->slots_used, 0);
  free(w);
}

static void test_many_and_cap(void **state) {
  world *w = calloc(1, sizeof *w);
  (void)state;
  struct rlimit lim;
  getrlimit(RLIMIT_NOFILE, &lim);
  int many = 1000;
  if (lim.rlim_cur < 2100 && lim.rlim_max >= 2100) {
    lim.rlim_cur = 2100;
    setrlimit(RLIMIT_NOFILE, &lim);
  }
  options(w);
  w->o.connections = (uint32_t)many;
  start(w);
  char one[1024];
  infer_json(one, sizeof one, "", BODY);
  static int fd[1000];
  for (int i = 0; i < many; i++) {
    fd[i] = dial(let_front_port(w->f));
    if (i % 50 == 0) run_some(w);
  }
  let_front_stats s;
  do {
    uv_run(&w->loop, UV_RUN_NOWAIT);
    let_front_stats_get(w->f, &s);
  } while (s.open < (uint64_t)many);
  int extra = dial(let_front_port(w->f));
  assert_int_equal(hear(w, extra, 1).status, 503);
  close(extra);
  for (int i = 0; i < many; i++) say(w, fd[i], one, strlen(one));
  for (int i = 0; i < many; i++) {
    assert_int_equal(hear(w, fd[i], 1).status, 200);
    close(fd[i]);
  }
  stop(w);
  assert_int_equal(w->in_flight, 0);
  free(w);
}

enum { TURN = 256 * 1024 }; /* front.h's promise: at most so much of one connection before the others have their turn */

static int ask_for(world *w, size_t n) { /* an echo of |n| bytes is on its way, and held back */
  char head[256], *data = calloc(1, n);
  uint32_t before = w->n_held;
  int fd = dial(let_front_port(w->f));
  snprintf(head, sizeof head,
           "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: 0\r\nContent-Length: "
           "%zu\r\n\r\n",
           n);
  say(w, fd, head, strlen(head));
  say(w, fd, data, n);
  while (w->n_held == before) uv_run(&w->loop, UV_RUN_ONCE);
  free(data);
  return fd;
}

static uint64_t bytes_out(world *w) {
  let_front_stats s;
  let_front_stats_get(w->f, &s);
  return s.bytes_out;
}

/* A large answer, to a client that takes all it can get and to one that takes nothing: in front of the small one that
 * was asked for next there is one turn's worth of it. */
static void test_a_large_answer_is_no_wall(void **state) {
  (void)state;
  size_t n = 8 * 1024 * 1024;
  for (int reads = 0; reads < 2; reads++) {
    world *w = calloc(1, sizeof *w);
    options(w);
    start(w);
    w->hold = true;
    int large = ask_for(w, n), small = ask_for(w, 4);
    assert_true(w->most_in > 0 && w->most_in <= TURN); /* the body came in pieces, too */
    uint64_t before = bytes_out(w);
    answer_held(w); /* the large one is the first */
    uint64_t wrote = bytes_out(w) - before;
    assert_true(wrote > TURN / 2 && wrote < TURN + 2048);
    answer a = hear(w, small, 1);
    assert_int_equal(a.status, 200);
    assert_true(bytes_out(w) - before < 2 * TURN);
    if (reads) {
      a = hear(w, large, 1);
      assert_int_equal(a.status, 200);
      assert_int_equal(a.body, a.n - a.head);
      assert_true(a.body >= n);
      assert_int_equal(w->answered, 2);
    } else {
      uint64_t turns;
      do { /* until the socket is full: then the loop has nothing to do with it */
        turns = w->turns;
        uv_run(&w->loop, UV_RUN_NOWAIT);
      } while (turns != w->turns);
      before = bytes_out(w);
      run_some(w);
      assert_int_equal(w->turns, turns);
      assert_int_equal(bytes_out(w), before);
      assert_int_equal(w->answered, 1);
    }
    assert_true(w->most_out <= TURN + 2048);
    close(small);
    close(large);
    run_some(w);
    stop(w);
    assert_int_equal(w->answered + w->lost, 2);
    assert_int_equal(w->lost, !reads);
    assert_int_equal(w->slots_used, 0);
    free(w);
  }
}

/* Answers are written from inside of other connections' events, the connection's own among them; requests follow each
 * other without a pause, and some clients hang up in the middle. */
static void test_answers_inside_of_events(void **state) {
  world *w = *state;
  enum { CLIENTS = 12, EACH = 40 };
  char one[1024], get[] = "GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", piece[4096];
  infer_json(one, sizeof one, "", BODY);
  w->hold = w->answer_in_turn = true;
  for (uint64_t seed = 0; seed < 10; seed++) {
    let_rng rng;
    let_rng_seed(&rng, seed);
    int fd[CLIENTS];
    uint32_t infers = w->infers;
    for (int i = 0; i < CLIENTS; i++) fd[i] = dial(let_front_port(w->f));
    for (int k = 0; k < EACH; k++)
      for (int i = 0; i < CLIENTS; i++) {
        if (fd[i] < 0) continue;
        snprintf(piece, sizeof piece, "%s%s%s", one, get, one);
        say(w, fd[i], piece, strlen(piece));
        if (i >= CLIENTS - 3 && let_rng_below(&rng, EACH) == 0) { /* gone, with an answer on its way perhaps */
          struct linger reset = {1, 0};
          if (i % 2) setsockopt(fd[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
          close(fd[i]);
          fd[i] = -1;
        }
      }
    for (int i = 0; i < CLIENTS; i++) {
      if (fd[i] < 0) continue;
      int left = 3 * EACH;
      size_t n = 0;
      while (left > 0) { /* no other event may come: a visitor brings the next turn */
        if (w->n_held) answer_held(w);
        ssize_t k = recv(fd[i], inbox + n, sizeof inbox - 1 - n, MSG_DONTWAIT);
        if (k > 0) n += (size_t)k;
        else uv_run(&w->loop, UV_RUN_NOWAIT);
        inbox[n] = 0;
        left = 3 * EACH;
        for (char *at = inbox; (at = strstr(at, "HTTP/1.1 200 OK")); at++) left--;
        if (k == 0) fail_msg("seed %llu: client %d was cut", (unsigned long long)seed, i);
      }
      close(fd[i]);
    }
    answer_held(w);
    run_some(w);
    assert_true(w->infers - infers >= (CLIENTS - 3) * 2 * EACH);
  }
  answer_held(w);
  w->answer_in_turn = false;
  assert_true(w->answered > 0);
}

/* Whatever allocation fails, the front answers 503 or refuses, and leaks nothing. */
static void test_allocation_failures(void **state) {
  (void)state;
  for (long n = 0; n < 12; n++) {
    world *w = calloc(1, sizeof *w);
    options(w);
    start(w);
    w->mem.fail_at = w->mem.count + n;
    for (int k = 0; k < 3; k++) {
      char one[1024];
      infer_json(one, sizeof one, "Connection: close\r\n", BODY);
      int fd = dial(let_front_port(w->f));
      say(w, fd, one, strlen(one));
      answer a = hear(w, fd, 1);
      assert_true(a.status == 200 || a.status == 503 || a.eof);
      close(fd);
      run_some(w);
    }
    stop(w);
    assert_int_equal(w->in_flight, 0);
    assert_int_equal(w->slots_used, 0);
    free(w);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_infer, setup, teardown),
      cmocka_unit_test_setup_teardown(test_pipelining_in_pieces, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_expect_and_large, setup, teardown),
      cmocka_unit_test_setup_teardown(test_no_allocation, setup, teardown),
      cmocka_unit_test_setup_teardown(test_disconnect, setup, teardown),
      cmocka_unit_test_setup_teardown(test_drain, setup, teardown),
      cmocka_unit_test(test_slow_loris),
      cmocka_unit_test(test_many_and_cap),
      cmocka_unit_test(test_a_large_answer_is_no_wall),
      cmocka_unit_test_setup_teardown(test_answers_inside_of_events, setup, teardown),
      cmocka_unit_test(test_allocation_failures),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
