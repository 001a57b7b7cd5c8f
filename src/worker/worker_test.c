/* test: os ring device engine label: thread
 * The worker, driven as the server drives it: control socket and lanes. It runs in a forked child. */
#include "worker/worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/clock.h"
#include "os/cpu.h"
#include "ring/control.h"
#include "ring/ring.h"

/* A sanitizer keeps freed memory for a while. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { ROW = 100, RECORDS = 64, GEN_MAX = 4 };

/* Whether the worker has lost memory, where a sanitizer can tell. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
static int leaks(void) { return __lsan_do_recoverable_leak_check() ? 99 : 0; }
#else
static int leaks(void) { return 0; }
#endif

typedef struct server {
  pid_t pid;
  int control;
  let_ring_arena *arena;
  let_lanes *lanes[GEN_MAX];
  json_t *last; /* most recent event that was not progress or health, nor lane unless |all| */
  bool all;
  int grown[GEN_MAX]; /* `size` events by generation */
  uint64_t in[RECORDS], out[RECORDS];
} server;

static let_model null_model(const char *name, uint32_t max_batch) {
  let_model m;
  memset(&m, 0, sizeof m);
  snprintf(m.name, sizeof m.name, "%s", name);
  snprintf(m.backend, sizeof m.backend, "null");
  m.max_batch = max_batch, m.n_inputs = 1, m.n_outputs = 2;
  m.max_queue_delay = LET_NEVER;
  m.input[0] = (let_tensor_spec){.name = "IN", .dtype = LET_DTYPE_UINT8, .rank = 1, .dims = {ROW}};
  m.output[0] = (let_tensor_spec){.name = "SAME", .dtype = LET_DTYPE_UINT8, .rank = 1, .dims = {ROW}};
  m.output[1] = (let_tensor_spec){.name = "LONGER", .dtype = LET_DTYPE_INT32, .rank = 2, .dims = {5, 10}};
  return m;
}

static const char *profile_dir = "";

static void start(server *s, const char *fault, const char *device) {
  int fds[2];
  let_error e = {0};
  memset(s, 0, sizeof *s);
  assert_int_equal(let_control_pair(fds, &e), LET_OK);
  fflush(NULL);
  s->pid = fork();
  assert_true(s->pid >= 0);
  if (s->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(fds[0]);
    if (fault) setenv("GPULET_FAULT", fault, 1);
    int code = let_worker_run(fds[1]);
    _exit(code ? code : leaks());
  }
  close(fds[1]);
  s->control = fds[0];
  assert_int_equal(let_ring_arena_new(8 << 20, RECORDS, &let_mem_libc, &s->arena, &e), LET_OK);
  int arena = let_ring_arena_fd(s->arena);
  json_t *doc = json_pack("{ss ss sI si ss ss si}", "op", "init", "device", device, "arena_bytes", (json_int_t)(8 << 20), "records", RECORDS,
                          "profile", profile_dir, "plugin_dir", "", "spin_us", 0);
  assert_int_equal(let_control_send(s->control, doc, &arena, 1, &e), LET_OK);
  json_decref(doc);
}

/* The next event other than progress and health; NULL at the end of file. */
static const char *event(server *s) {
  for (;;) {
    let_error e;
    int fds[LET_CONTROL_FDS_MAX], n;
    json_t *doc;
    let_err r = let_control_recv(s->control, &doc, fds, &n, &e);
    if (r == LET_ERR_AGAIN) {
      struct pollfd f = {.fd = s->control, .events = POLLIN};
      assert_int_equal(poll(&f, 1, 60000), 1);
      continue;
    }
    if (r == LET_ERR_IO) return NULL;
    assert_int_equal(r, LET_OK);
    assert_int_equal(n, 0);
    const char *name = json_string_value(json_object_get(doc, "event"));
    assert_non_null(name);
    if (strcmp(name, "progress") == 0 || strcmp(name, "health") == 0 || (!s->all && strcmp(name, "lane") == 0)) {
      json_decref(doc);
      continue;
    }
    if (strcmp(name, "size") == 0) s->grown[json_integer_value(json_object_get(doc, "generation")) % GEN_MAX]++;
    json_decref(s->last);
    s->last = doc;
    return name;
  }
}

static void expect_ready(server *s) {
  const char *got = event(s);
  assert_non_null(got);
  assert_string_equal(got, "ready");
}

static void op(server *s, const char *name, int generation) {
  let_error e;
  json_t *doc = json_pack("{ss si}", "op", name, "generation", generation);
  assert_int_equal(let_control_send(s->control, doc, NULL, 0, &e), LET_OK);
  json_decref(doc);
}

static int granules = 1;   /* of each gpu-let */
static int needed;         /* sizes before a lane serves; 0: all */
static int64_t cost_us[8]; /* of each lane, last time */

/* One generation of |n| gpu-lets, each with all |n_models|. */
static void ask(server *s, int generation, uint32_t n, const let_model *m, uint32_t n_models) {
  let_error e;
  int fds[LET_CONTROL_FDS_MAX], n_fds = 0;
  let_lanes **l = &s->lanes[generation % GEN_MAX];
  s->grown[generation % GEN_MAX] = 0;
  let_lanes_free(*l);
  assert_int_equal(let_lanes_new(n, l, &e), LET_OK);
  fds[n_fds++] = let_lanes_fd(*l), fds[n_fds++] = let_lanes_done_event(*l);
  json_t *lanes = json_array();
  for (uint32_t i = 0; i < n; i++) {
    json_t *models = json_array();
    for (uint32_t k = 0; k < n_models; k++) {
      json_t *one = json_pack("{so s[iii]}", "spec", let_control_model_put(&m[k]), "sizes", needed ? 4 : 1, needed ? 1 : 4, 8);
      if (needed) json_object_set_new(one, "needed", json_integer(needed));
      if (needed) json_object_set_new(one, "slo_us", json_integer(m[k].slo / LET_US));
      json_array_append_new(models, one);
    }
    json_array_append_new(lanes, json_pack("{si si si sb sI so}", "gpulet", (int)(10 + i), "first", 0, "granules", granules, "shared", 0, "cost_us",
                                           (json_int_t)cost_us[i % 8], "models", models));
    fds[n_fds++] = let_lanes_submit_event(*l, i);
  }
  json_t *doc = json_pack("{ss si so}", "op", "prepare", "generation", generation, "lanes", lanes);
  assert_int_equal(let_control_send(s->control, doc, fds, n_fds, &e), LET_OK);
  json_decref(doc);
}

static const char *prepare(server *s, int generation, uint32_t n, const let_model *m, uint32_t n_models) {
  ask(s, generation, n, m, n_models);
  return event(s);
}

static void expect(const char *got, const char *want) {
  assert_non_null(got);
  assert_string_equal(got, want);
}

/* Records and slots of one lane: no lane's thread ever touches another's, because the thread sanitizer does not see
 * that the server, another process, stands between them. */
static uint32_t base_of(int generation, uint32_t lane) { return (uint32_t)(generation % GEN_MAX) * 16 + lane * 8; }

static let_record *request_n(server *s, uint32_t index, uint32_t rows, uint32_t row, unsigned seed, uint64_t out_bytes) {
  if (!s->in[index]) s->in[index] = let_ring_slot_alloc(s->arena, 4096), s->out[index] = let_ring_slot_alloc(s->arena, 8192);
  assert_true(s->in[index] != LET_SLOT_NONE && s->out[index] != LET_SLOT_NONE);
  let_record *r = let_ring_arena_record(s->arena, index);
  memset(r, 0, sizeof *r);
  r->rows = rows, r->n_in = 1, r->out_offset = s->out[index], r->out_bytes = out_bytes, r->status = -1;
  /* Odd on purpose: a tensor begins where it begins in the body. */
  r->in[0] = (let_tensor){.offset = s->in[index] + 3, .bytes = rows * row, .shape = {rows, row}, .rank = 2, .dtype = LET_DTYPE_UINT8, .present = 1};
  unsigned char *p = let_ring_slot_at(s->arena, r->in[0].offset);
  for (uint32_t i = 0; i < rows * row; i++) p[i] = (unsigned char)(seed + 7 * i);
  return r;
}

static let_record *request(server *s, uint32_t index, uint32_t rows, unsigned seed) { return request_n(s, index, rows, ROW, seed, 8192); }

static void check_outputs(server *s, const let_record *r) {
  assert_int_equal(r->status, LET_OK);
  assert_int_equal(r->n_out, 2);
  const unsigned char *in = let_ring_slot_at(s->arena, r->in[0].offset), *a = let_ring_slot_at(s->arena, r->out[0].offset),
                      *b = let_ring_slot_at(s->arena, r->out[1].offset);
  assert_int_equal(r->out[0].bytes, r->rows * ROW);
  assert_int_equal(r->out[1].bytes, r->rows * 200);
  assert_int_equal(r->out[0].offset % 64, 0);
  assert_int_equal(r->out[1].offset % 64, 0);
  assert_int_equal(r->out[1].shape[0], r->rows);
  assert_int_equal(r->out[1].shape[2], 10);
  assert_int_equal(r->out[1].dtype, LET_DTYPE_INT32);
  assert_memory_equal(in, a, r->rows * ROW);
  for (uint32_t k = 0; k < r->rows; k++)
    for (uint32_t i = 0; i < 200; i++) assert_int_equal(b[k * 200 + i], in[k * ROW + i % ROW] ^ 1);
}

/* Waits for an outcome of |lane|; false at the worker's end of file. */
static bool outcome(server *s, int generation, uint32_t lane, let_done_msg *ret) {
  let_lanes *l = s->lanes[generation % GEN_MAX];
  bool corrupt = false;
  for (;;) {
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    assert_false(corrupt);
    let_lanes_arm_done(l);
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    struct pollfd f[2] = {{.fd = let_lanes_done_event(l), .events = POLLIN}, {.fd = s->control}}; /* its documents are for event() */
    assert_true(poll(f, 2, 60000) > 0);
    if (!(f[0].revents & POLLIN) && f[1].revents & POLLHUP) return false;
  }
}

static let_batch_msg batch(uint32_t base, uint64_t number, uint32_t model, uint32_t size, uint32_t rows, uint32_t n) {
  let_batch_msg m = {.batch = number, .model = model, .size = size, .rows = rows, .n = n, .submitted = let_now()};
  for (uint32_t i = 0; i < n; i++) m.record[i] = base + i;
  return m;
}

/* Ends the worker in the way of a server that goes away; returns its status. */
static int finish(server *s) {
  int status;
  close(s->control);
  assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
  for (int i = 0; i < GEN_MAX; i++) let_lanes_free(s->lanes[i]);
  for (int i = 0; i < RECORDS; i++)
    if (s->in[i]) let_ring_slot_free(s->arena, s->in[i]), let_ring_slot_free(s->arena, s->out[i]);
  assert_int_equal(let_ring_arena_used(s->arena), 0);
  assert_true(let_ring_arena_validate(s->arena));
  let_ring_arena_free(s->arena);
  json_decref(s->last);
  return status;
}

static void one(server *s, int generation, uint32_t lane, uint64_t number, unsigned seed) {
  let_done_msg d;
  uint32_t base = base_of(generation, lane);
  let_record *r = request(s, base, 1, seed);
  let_batch_msg m = batch(base, number, 0, 1, 1, 1);
  assert_true(let_lane_submit(s->lanes[generation % GEN_MAX], lane, &m));
  assert_true(outcome(s, generation, lane, &d));
  assert_int_equal(d.batch, number);
  assert_int_equal(d.status, LET_OK);
  assert_true(d.finished >= d.started && d.started >= m.submitted);
  check_outputs(s, r);
}

static void test_batches(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  let_done_msg d;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  assert_string_equal(json_string_value(json_object_get(s.last, "type")), "cpu");
  expect(prepare(&s, 1, 2, m, 2), "prepared");
  json_t *model = json_array_get(json_object_get(json_array_get(json_object_get(s.last, "lanes"), 1), "models"), 1);
  assert_string_equal(json_string_value(json_object_get(model, "name")), "b");
  assert_int_equal(json_integer_value(json_object_get(model, "output_row_bytes")), 300);
  assert_int_equal(json_array_size(json_object_get(model, "sizes")), 3);
  one(&s, 1, 0, 77, 5);
  one(&s, 1, 1, 78, 6);
  /* Formed batches of 1, 3 and 2 rows, padded; then a smaller one in the same buffers. */
  for (uint32_t round = 0; round < 20; round++) {
    uint32_t rows[] = {1, 3, 2}, n = round & 1 ? 2 : 3, total = 0, base = base_of(1, round & 1);
    let_record *r[3];
    for (uint32_t i = 0; i < n; i++) r[i] = request(&s, base + i, rows[i], 100 * round + i), total += rows[i];
    let_batch_msg b = batch(base, round, round & 1, 8, total, n);
    assert_true(let_lane_submit(s.lanes[1], round & 1, &b));
    assert_true(outcome(&s, 1, round & 1, &d));
    assert_int_equal(d.status, LET_OK);
    assert_int_equal(d.rows, total);
    for (uint32_t i = 0; i < n; i++) check_outputs(&s, r[i]);
  }
  /* A second generation beside the first, which then drains. */
  expect(prepare(&s, 2, 1, m, 1), "prepared");
  one(&s, 2, 0, 1, 9);
  one(&s, 1, 0, 2, 9);
  op(&s, "retire", 1);
  expect(event(&s), "retired");
  one(&s, 2, 0, 3, 9);
  op(&s, "retire", 1);
  expect(event(&s), "error");
  op(&s, "dance", 1);
  expect(event(&s), "error");
  op(&s, "stop", 0);
  assert_null(event(&s));
  assert_int_equal(finish(&s), 0);
}

/* What is wrong with one request is that request's outcome, and its neighbours in the batch do not notice. */
static void test_refusals(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  let_done_msg d;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m, 1), "prepared");
  let_record *good = request(&s, 0, 2, 1), *tight = request_n(&s, 1, 2, ROW, 2, 300), *short_one = request_n(&s, 2, 1, ROW - 1, 3, 8192),
             *outside = request(&s, 3, 1, 4), *last = request(&s, 4, 1, 5);
  outside->in[0].offset = let_ring_arena_size(s.arena) - 1;
  let_batch_msg b = batch(0, 9, 0, 8, 7, 5);
  assert_true(let_lane_submit(s.lanes[1], 0, &b));
  assert_true(outcome(&s, 1, 0, &d));
  assert_int_equal(d.status, LET_OK);
  check_outputs(&s, good);
  assert_int_equal(tight->status, LET_ERR_OUTPUT_TOO_LARGE);
  assert_int_equal(tight->out_need, 256 + 400);
  assert_int_equal(short_one->status, LET_ERR_INVALID);
  assert_int_equal(outside->status, LET_ERR_INTERNAL);
  check_outputs(&s, last);
  assert_true(d.text[0]);
  /* With what it asked for, it fits. */
  tight = request_n(&s, 1, 2, ROW, 2, tight->out_need);
  b = batch(1, 10, 0, 4, 2, 1);
  assert_true(let_lane_submit(s.lanes[1], 0, &b));
  assert_true(outcome(&s, 1, 0, &d));
  check_outputs(&s, tight);
  /* Batches no server would send: an answer, not a crash. */
  let_batch_msg bad[] = {batch(0, 1, 1, 4, 2, 1), batch(0, 2, 0, 3, 2, 1), batch(0, 3, 0, 8, 0, 0), batch(0, 4, 0, 1, 2, 1), batch(63, 5, 0, 8, 1, 2)};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    assert_true(let_lane_submit(s.lanes[1], 0, &bad[i]));
    assert_true(outcome(&s, 1, 0, &d));
    assert_int_equal(d.batch, i + 1);
    assert_int_equal(d.status, LET_ERR_INTERNAL);
    assert_true(d.text[0]);
  }
  one(&s, 1, 0, 6, 0);
  assert_int_equal(finish(&s), 0);
}

/* Shapes that vary within a batch: grouped, run, and each gets its own back. */
static void test_varying(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.input[0].dims[0] = m.output[0].dims[0] = -1, m.n_outputs = 1;
  let_done_msg d;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m, 1), "prepared");
  for (int round = 0; round < 10; round++) {
    uint32_t width[] = {10, 30, 10, 7, 30}, rows[] = {1, 2, 3, 1, 1};
    let_record *r[5];
    for (uint32_t i = 0; i < 5; i++) r[i] = request_n(&s, i, rows[i], width[i] + (uint32_t)round, i, 8192);
    let_batch_msg b = batch(0, 9, 0, 8, 8, 5);
    assert_true(let_lane_submit(s.lanes[1], 0, &b));
    assert_true(outcome(&s, 1, 0, &d));
    assert_int_equal(d.status, LET_OK);
    for (uint32_t i = 0; i < 5; i++) {
      assert_int_equal(r[i]->status, LET_OK);
      assert_int_equal(r[i]->out[0].bytes, r[i]->in[0].bytes);
      assert_int_equal(r[i]->out[0].shape[0], rows[i]);
      assert_int_equal(r[i]->out[0].shape[1], (int)width[i] + round);
      assert_memory_equal(let_ring_slot_at(s.arena, r[i]->out[0].offset), let_ring_slot_at(s.arena, r[i]->in[0].offset), r[i]->in[0].bytes);
    }
  }
  assert_int_equal(finish(&s), 0);
}

/* A generation that cannot be prepared leaves nothing behind, and the old one serves on. */
static void test_failing_prepare(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  snprintf(m[1].backend, sizeof m[1].backend, "onnx");
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, m, 1), "prepared");
  for (int i = 0; i < 3; i++) {
    expect(prepare(&s, 2, 2, m, 2), "failed");
    assert_int_equal(json_integer_value(json_object_get(s.last, "generation")), 2);
    assert_string_equal(json_string_value(json_object_get(s.last, "model")), "b");
    assert_int_equal(json_integer_value(json_object_get(s.last, "code")), LET_ERR_UNSUPPORTED);
    assert_non_null(strstr(json_string_value(json_object_get(s.last, "text")), "onnx"));
    one(&s, 1, 0, 5, 3);
  }
  m[1] = null_model("b", 4); /* does not batch by 8, as prepare asks */
  m[1].output[0].dtype = LET_DTYPE_BYTES;
  expect(prepare(&s, 2, 1, m, 2), "failed");
  m[1] = null_model("b", 0);
  expect(prepare(&s, 2, 1, m, 2), "failed");
  op(&s, "prepare", 3); /* no lanes, no descriptors */
  expect(event(&s), "failed");
  one(&s, 1, 0, 6, 3);
  assert_int_equal(finish(&s), 0);
}

static void test_bad_init(void **state) {
  (void)state;
  static const char *const devices[] = {"", "toaster", "cpu:9999", "cpu:x", "cpu:0,"};
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    server s;
    start(&s, NULL, devices[i]);
    expect(event(&s), "error");
    assert_null(event(&s));
    assert_int_equal(WEXITSTATUS(finish(&s)), 1);
  }
}

/* SIGKILL at each stage, at its first passage and a later one: the server sees the end of file and no bad message. */
static void test_killed(void **state) {
  (void)state;
  static const char *const faults[] = {"init:1", "prepare:1", "prepare:3", "take:1", "copied:2", "launched:1", "before_done:1", "before_done:3", "after_done:1", "after_done:2"};
  let_model m = null_model("a", 8);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    server s;
    start(&s, faults[i], "cpu");
    const char *got = event(&s);
    if (i == 0) assert_null(got);
    else {
      expect(got, "ready");
      got = prepare(&s, 1, 1, &m, 1);
      if (i < 3) assert_null(got);
      else {
        expect(got, "prepared");
        int sent = 10, done = 0;
        let_done_msg d;
        for (int k = 0; k < sent; k++) {
          request(&s, (uint32_t)k % 8, 1, (unsigned)k);
          let_batch_msg b = batch((uint32_t)k % 8, (uint64_t)k, 0, 1, 1, 1);
          assert_true(let_lane_submit(s.lanes[1], 0, &b));
        }
        while (outcome(&s, 1, 0, &d)) {
          assert_int_equal(d.batch, done);
          done++;
        }
        bool corrupt = false;
        while (let_lane_take_done(s.lanes[1], 0, &d, &corrupt)) done++; /* reported, then killed */
        assert_false(corrupt);
        assert_true(done <= 2);
      }
    }
    int status = finish(&s);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
}

static long number_in(pid_t pid, const char *what) {
  char path[64], line[256];
  long n = 0;
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
  if (strcmp(what, "fd") == 0) {
    DIR *dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir)) n++;
    closedir(dir);
    return n;
  }
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  while (fgets(line, sizeof line, f))
    if (strncmp(line, "VmRSS:", 6) == 0) n = atol(line + 6);
  fclose(f);
  return n;
}

/* Fifty plan changes under load: no descriptor and no memory is left behind. */
static void test_generations(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  long fds = 0, rss = 0;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  for (int g = 1; g <= 50; g++) {
    expect(prepare(&s, g, 2, m, 2), "prepared");
    if (g > 1) {
      one(&s, g - 1, 0, 1, 1);
      op(&s, "retire", g - 1);
      expect(event(&s), "retired");
    }
    one(&s, g, 1, 2, 2);
    if (g == 25) fds = number_in(s.pid, "fd"), rss = number_in(s.pid, "status");
  }
  assert_int_equal(number_in(s.pid, "fd"), fds);
  printf("worker RSS: %ld KiB after 25 generations, %ld KiB after 50\n", rss, number_in(s.pid, "status"));
  if (!SANITIZED) assert_true(number_in(s.pid, "status") < rss + 2048);
  assert_int_equal(finish(&s), 0);
}

/* Four simulated devices, three gpu-lets each, two batches ahead on every one. */
static void test_sim(void **state) {
  (void)state;
  enum { DEVICES = 4, LANES = 3, BATCHES = 30 };
  server s[DEVICES];
  char dir[] = "/tmp/gpulet-worker-test-XXXXXX", path[64], name[32];
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  snprintf(m[0].backend, sizeof m[0].backend, "pytorch"); /* the device has no arithmetic: no plugin is needed */
  m[1].input[0].dims[0] = -1;
  profile_dir = mkdtemp(dir);
  assert_non_null(profile_dir);
  snprintf(path, sizeof path, "%s/latency.csv", dir);
  FILE *f = fopen(path, "w");
  fprintf(f, "model,batch,sms,ms\na,1,8,0.3\na,8,8,0.9\nb,1,8,0.2\nb,8,8,0.4\n");
  fclose(f);
  for (int i = 0; i < DEVICES; i++) {
    snprintf(name, sizeof name, "sim:h200#%d", i);
    start(&s[i], NULL, name);
    expect_ready(&s[i]);
    assert_string_equal(json_string_value(json_object_get(s[i].last, "type")), "h200");
    assert_int_equal(json_integer_value(json_object_get(s[i].last, "granules")), 16);
    expect(prepare(&s[i], 1, LANES, m, 2), "prepared");
  }
  json_t *size = json_array_get(json_object_get(json_array_get(json_object_get(json_array_get(json_object_get(s[0].last, "lanes"), 0), "models"), 1), "sizes"), 2);
  assert_int_equal(json_integer_value(json_object_get(size, "size")), 8);
  assert_true(json_real_value(json_object_get(size, "p50_us")) >= 390); /* of varying shape too: the profile knows */
  for (uint64_t k = 0; k < BATCHES; k += 2) {
    for (int i = 0; i < DEVICES; i++)
      for (uint32_t l = 0; l < LANES; l++)
        for (uint32_t n = 0; n < 2; n++) {
          request(&s[i], l * 8 + n * 4, 3, (unsigned)k + n);
          let_batch_msg b = batch(l * 8 + n * 4, k + n, (uint32_t)(k / 2 + n) % 2, 8, 3, 1);
          assert_true(let_lane_submit(s[i].lanes[1], l, &b));
        }
    for (int i = 0; i < DEVICES; i++)
      for (uint32_t l = 0; l < LANES; l++)
        for (uint32_t n = 0; n < 2; n++) {
          let_done_msg d;
          assert_true(outcome(&s[i], 1, l, &d));
          assert_int_equal(d.batch, k + n); /* in order */
          assert_int_equal(d.status, LET_OK);
          assert_true(d.finished - d.started >= 250 * LET_US && d.finished <= let_now());
          check_outputs(&s[i], let_ring_arena_record(s[i].arena, l * 8 + n * 4));
        }
  }
  m[0] = null_model("unheard-of", 8);
  expect(prepare(&s[0], 2, 1, m, 1), "failed");
  assert_string_equal(json_string_value(json_object_get(s[0].last, "model")), "");
  assert_non_null(strstr(json_string_value(json_object_get(s[0].last, "text")), "unheard-of"));
  for (int i = DEVICES; i-- > 0;) assert_int_equal(finish(&s[i]), 0); /* later children hold earlier ones' sockets: fork without exec */
  unlink(path);
  rmdir(dir);
  profile_dir = "";
}

/* A model that never comes back: the process ends itself and says why. */
static void test_stuck(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.input[0].dims[0] = m.output[0].dims[0] = -1, m.n_outputs = 1; /* not measured, so not slow to prepare */
  m.null_us = 600 * 1000 * 1000;
  setenv("GPULET_WATCHDOG_MS", "50", 1);
  start(&s, NULL, "cpu");
  unsetenv("GPULET_WATCHDOG_MS");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m, 1), "prepared");
  request_n(&s, 0, 1, 10, 0, 8192);
  let_batch_msg b = batch(0, 1, 0, 1, 1, 1);
  assert_true(let_lane_submit(s.lanes[1], 0, &b));
  expect(event(&s), "error");
  assert_non_null(strstr(json_string_value(json_object_get(s.last, "text")), "stuck"));
  assert_null(event(&s));
  assert_int_equal(WEXITSTATUS(finish(&s)), 1);
}

/* ---- lanes one by one, sizes while serving ------------------------------------------------------------------ */

static json_t *model_in(const server *s, size_t lane, size_t model) {
  return json_array_get(json_object_get(json_array_get(json_object_get(s->last, "lanes"), lane), "models"), model);
}

static size_t sizes_in(const server *s, size_t lane, size_t model) { return json_array_size(json_object_get(model_in(s, lane, model), "sizes")); }

/* Waits for a `size` event of generation |g|; returns the size, negative when it failed. */
static int more(server *s, int g) {
  expect(event(s), "size");
  assert_int_equal(json_integer_value(json_object_get(s->last, "generation")), g);
  const json_t *x = json_object_get(s->last, "size");
  int size = (int)json_integer_value(json_object_get(x, "size"));
  return json_object_get(x, "failed") ? -size : size;
}

/* The next event |want|, whatever was said before it. */
static void await(server *s, const char *want) {
  const char *got;
  while ((got = event(s)) && strcmp(got, want) != 0) assert_true(strcmp(got, "size") == 0 || strcmp(got, "prepared") == 0);
  assert_non_null(got);
}

static let_err run_batch(server *s, int generation, uint32_t lane, uint32_t size, uint32_t rows) {
  let_done_msg d;
  uint32_t base = base_of(generation, lane);
  let_record *r = request(s, base, rows, size);
  let_batch_msg m = batch(base, size, 0, size, rows, 1);
  assert_true(let_lane_submit(s->lanes[generation % GEN_MAX], lane, &m));
  assert_true(outcome(s, generation, lane, &d));
  if (!d.status) check_outputs(s, r);
  return d.status;
}

static void test_lanes_come_one_by_one(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  start(&s, NULL, "cpu");
  expect_ready(&s);
  s.all = true, cost_us[0] = 3000, cost_us[1] = 0, cost_us[2] = 200;
  static const int order[] = {11, 12, 10};
  expect(prepare(&s, 1, 3, &m, 1), "lane");
  for (int i = 0; i < 3; i++) {
    if (i > 0) expect(event(&s), "lane");
    json_t *lane = json_array_get(json_object_get(s.last, "lanes"), 0);
    assert_int_equal(json_integer_value(json_object_get(lane, "gpulet")), order[i]);
    assert_int_equal(sizes_in(&s, 0, 0), 3);
    assert_int_equal(run_batch(&s, 1, (uint32_t)order[i] - 10, 8, 5), LET_OK); /* it serves already */
  }
  expect(event(&s), "prepared");
  assert_int_equal(json_array_size(json_object_get(s.last, "lanes")), 3);
  memset(cost_us, 0, sizeof cost_us);
  assert_int_equal(finish(&s), 0);
}

/* A lane serves with the size that is needed; the others come while it is at work. */
static void test_grows_while_serving(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.null_us = 20000;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 2, &m, 1), "prepared");
  assert_int_equal(sizes_in(&s, 0, 0), 1);
  assert_int_equal(run_batch(&s, 1, 0, 8, 5), LET_ERR_INTERNAL); /* the server does not send what is not ready */
  for (uint32_t k = 0; k < 4; k++) {
    assert_int_equal(run_batch(&s, 1, k & 1, 4, 3), LET_OK);
    assert_int_equal(more(&s, 1), k < 2 ? 1 : 8); /* both get the second size before any gets the third */
    const json_t *x = json_object_get(s.last, "size");
    assert_true(json_real_value(json_object_get(x, "p50_us")) >= 20000);
    assert_true(json_is_true(json_object_get(x, "beside"))); /* batches ran meanwhile */
    assert_int_equal(run_batch(&s, 1, k & 1, k < 2 ? 1 : 8, 1), LET_OK);
  }
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* Single requests would be padded to a batch that takes too long for the SLO: one more size is needed. */
static void test_too_slow_for_padding(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("quick", 8), null_model("slow", 8)};
  m[0].null_us = m[1].null_us = 5000, m[0].slo = LET_S, m[1].slo = 9 * LET_MS;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 1, m, 2), "prepared");
  assert_int_equal(sizes_in(&s, 0, 0), 1);
  assert_int_equal(sizes_in(&s, 0, 1), 2);
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* Change of plan, taking it back, and the end, while a generation grows. */
static void test_changes_while_growing(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.null_us = 10000;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  for (int g = 1; g <= 6; g++) {
    ask(&s, g, 2, &m, 1);
    await(&s, "prepared");
    if (g % 3 == 0) await(&s, "size");
    if (g == 1) continue;
    assert_int_equal(run_batch(&s, g - 1, 0, 4, 2), LET_OK); /* until it is retired, the old one serves */
    op(&s, "retire", g - 1);
    await(&s, "retired");
    assert_int_equal(run_batch(&s, g, 1, 4, 2), LET_OK);
  }
  while (s.grown[6 % GEN_MAX] < 4) assert_non_null(event(&s));
  needed = 2;
  ask(&s, 7, 2, &m, 1); /* and taken back, before it is ready or after */
  op(&s, "retire", 7);
  await(&s, "retired");
  assert_int_equal(run_batch(&s, 6, 0, 8, 8), LET_OK);
  needed = 1;
  ask(&s, 8, 1, &m, 1); /* the end comes while it grows */
  await(&s, "prepared");
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

/* 64 gpu-lets are all that a device has numbers for: the second generation grows once the first is gone, and loses nothing. */
static void test_grows_when_there_is_room(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  start(&s, NULL, "cpu");
  expect_ready(&s);
  needed = 1;
  expect(prepare(&s, 1, 30, &m, 1), "prepared");
  while (s.grown[1] < 60) assert_true(more(&s, 1) > 0);
  expect(prepare(&s, 2, 3, &m, 1), "prepared");
  assert_true(more(&s, 2) == 1); /* one more number is free */
  op(&s, "retire", 1);
  expect(event(&s), "retired");
  while (s.grown[2] < 6) assert_true(more(&s, 2) > 0);
  needed = 0;
  assert_int_equal(finish(&s), 0);
}

static void test_killed_while_growing(void **state) {
  (void)state;
  static const char *const faults[] = {"prepare:2", "prepare:3"};
  let_model m = null_model("a", 8);
  for (int i = 0; i < 2; i++) {
    server s;
    start(&s, faults[i], "cpu");
    expect_ready(&s);
    needed = 1;
    expect(prepare(&s, 1, 1, &m, 1), "prepared");
    if (i == 1) assert_int_equal(more(&s, 1), 1);
    assert_null(event(&s));
    needed = 0;
    int status = finish(&s);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  }
}

static double p50_of(const server *s, size_t size) {
  return json_real_value(json_object_get(json_array_get(json_object_get(model_in(s, 0, 0), "sizes"), size), "p50_us"));
}

/* A -> B -> A: what was measured is not measured again, on as many granules; and the model is loaded again when nobody has
 * kept it. */
static void test_measures_once(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  m[0].null_us = 3000;
  uint32_t cores[LET_CPU_MAX];
  int wide = let_cpu_allowed(cores) > 1 ? 2 : 1;
  double first[3], other[3];
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m[0], 1), "prepared");
  for (size_t i = 0; i < 3; i++) first[i] = p50_of(&s, i);
  op(&s, "retire", 1);
  expect(event(&s), "retired");
  granules = wide;
  expect(prepare(&s, 2, 1, &m[0], 1), "prepared");
  granules = 1;
  for (size_t i = 0; i < 3; i++) other[i] = p50_of(&s, i);
  if (wide > 1) assert_true(first[0] != other[0] || first[1] != other[1] || first[2] != other[2]);
  expect(prepare(&s, 3, 1, &m[1], 1), "prepared");
  op(&s, "retire", 2);
  expect(event(&s), "retired");
  expect(prepare(&s, 4, 1, &m[0], 1), "prepared");
  for (size_t i = 0; i < 3; i++) assert_true(p50_of(&s, i) == first[i]);
  assert_int_equal(run_batch(&s, 4, 0, 8, 8), LET_OK);
  assert_int_equal(finish(&s), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_batches),  cmocka_unit_test(test_refusals), cmocka_unit_test(test_varying), cmocka_unit_test(test_failing_prepare),
    cmocka_unit_test(test_bad_init), cmocka_unit_test(test_killed),   cmocka_unit_test(test_generations),
    cmocka_unit_test(test_sim),      cmocka_unit_test(test_stuck),
    cmocka_unit_test(test_lanes_come_one_by_one), cmocka_unit_test(test_grows_while_serving), cmocka_unit_test(test_too_slow_for_padding),
    cmocka_unit_test(test_changes_while_growing), cmocka_unit_test(test_grows_when_there_is_room), cmocka_unit_test(test_killed_while_growing), cmocka_unit_test(test_measures_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
