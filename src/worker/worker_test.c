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

enum { ROW = 100, RECORDS = 64, GEN_MAX = 4 };

typedef struct server {
  pid_t pid;
  int control;
  let_ring_arena *arena;
  let_lanes *lanes[GEN_MAX];
  json_t *ready, *last; /* last: most recent event that was not progress or health */
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
    _exit(let_worker_run(fds[1]));
  }
  close(fds[1]);
  s->control = fds[0];
  assert_int_equal(let_ring_arena_new(8 << 20, RECORDS, &let_mem_libc, &s->arena, &e), LET_OK);
  int arena = let_ring_arena_fd(s->arena);
  json_t *doc = json_pack("{ss ss sI si ss ss si}", "op", "init", "device", device, "arena_bytes", (json_int_t)(8 << 20), "records", RECORDS,
                          "profile", "", "plugin_dir", "", "spin_us", 0);
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
    if (strcmp(name, "progress") == 0 || strcmp(name, "health") == 0) {
      json_decref(doc);
      continue;
    }
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

/* One generation of |n| gpu-lets, each with all |n_models|. */
static const char *prepare(server *s, int generation, uint32_t n, const let_model *m, uint32_t n_models) {
  let_error e;
  int fds[LET_CONTROL_FDS_MAX], n_fds = 0;
  let_lanes **l = &s->lanes[generation % GEN_MAX];
  let_lanes_free(*l);
  assert_int_equal(let_lanes_new(n, l, &e), LET_OK);
  fds[n_fds++] = let_lanes_fd(*l), fds[n_fds++] = let_lanes_done_event(*l);
  json_t *lanes = json_array();
  for (uint32_t i = 0; i < n; i++) {
    json_t *models = json_array();
    for (uint32_t k = 0; k < n_models; k++)
      json_array_append_new(models, json_pack("{so s[iii]}", "spec", let_control_model_put(&m[k]), "sizes", 1, 4, 8));
    json_array_append_new(lanes, json_pack("{si si si sb so}", "gpulet", (int)(10 + i), "first", 0, "granules", 1, "shared", 0, "models", models));
    fds[n_fds++] = let_lanes_submit_event(*l, i);
  }
  json_t *doc = json_pack("{ss si so}", "op", "prepare", "generation", generation, "lanes", lanes);
  assert_int_equal(let_control_send(s->control, doc, fds, n_fds, &e), LET_OK);
  json_decref(doc);
  return event(s);
}

static void expect(const char *got, const char *want) {
  assert_non_null(got);
  assert_string_equal(got, want);
}

/* Fills record |index| with a request of |rows| rows of bytes that depend on |seed|; slots at fixed places. */
static let_record *request(server *s, uint32_t index, uint32_t rows, unsigned seed, uint64_t out_bytes) {
  uint64_t in = let_ring_slot_alloc(s->arena, rows * ROW), out = let_ring_slot_alloc(s->arena, 8192);
  assert_true(in != LET_SLOT_NONE && out != LET_SLOT_NONE);
  let_record *r = let_ring_arena_record(s->arena, index);
  memset(r, 0, sizeof *r);
  r->rows = rows, r->n_in = 1, r->out_offset = out, r->out_bytes = out_bytes, r->status = -1;
  r->in[0] = (let_tensor){.offset = in, .bytes = rows * ROW, .shape = {rows, ROW}, .rank = 2, .dtype = LET_DTYPE_UINT8, .present = 1};
  unsigned char *p = let_ring_slot_at(s->arena, in);
  for (uint32_t i = 0; i < rows * ROW; i++) p[i] = (unsigned char)(seed + 7 * i);
  return r;
}

static void give_back(server *s, let_record *r) {
  let_ring_slot_free(s->arena, r->in[0].offset);
  let_ring_slot_free(s->arena, r->out_offset);
}

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
    struct pollfd f[2] = {{.fd = let_lanes_done_event(l), .events = POLLIN}, {.fd = s->control, .events = POLLIN}};
    assert_true(poll(f, 2, 60000) > 0);
    if (f[1].revents && !(f[0].revents & POLLIN)) {
      let_error e;
      int fds[LET_CONTROL_FDS_MAX], n;
      json_t *doc;
      let_err r = let_control_recv(s->control, &doc, fds, &n, &e);
      if (r == LET_ERR_IO) return false;
      if (r == LET_OK) json_decref(doc);
    }
  }
}

static let_batch_msg batch(uint64_t number, uint32_t model, uint32_t size, uint32_t rows, uint32_t n) {
  let_batch_msg m = {.batch = number, .model = model, .size = size, .rows = rows, .n = n, .submitted = let_now()};
  for (uint32_t i = 0; i < n; i++) m.record[i] = i;
  return m;
}

/* Ends the worker in the way of a server that goes away; returns its status. */
static int finish(server *s) {
  int status;
  close(s->control);
  assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
  for (int i = 0; i < GEN_MAX; i++) let_lanes_free(s->lanes[i]);
  assert_true(let_ring_arena_validate(s->arena));
  let_ring_arena_free(s->arena);
  json_decref(s->last);
  return status;
}

static void one(server *s, int generation, uint32_t lane, uint64_t number, unsigned seed) {
  let_done_msg d;
  let_record *r = request(s, 0, 1, seed, 8192);
  let_batch_msg m = batch(number, 0, 1, 1, 1);
  assert_true(let_lane_submit(s->lanes[generation % GEN_MAX], lane, &m));
  assert_true(outcome(s, generation, lane, &d));
  assert_int_equal(d.batch, number);
  assert_int_equal(d.status, LET_OK);
  assert_true(d.finished >= d.started && d.started >= m.submitted);
  check_outputs(s, r);
  give_back(s, r);
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
    uint32_t rows[] = {1, 3, 2}, n = round & 1 ? 2 : 3, total = 0;
    let_record *r[3];
    for (uint32_t i = 0; i < n; i++) r[i] = request(&s, i, rows[i], 100 * round + i, 8192), total += rows[i];
    let_batch_msg b = batch(round, round & 1, 8, total, n);
    assert_true(let_lane_submit(s.lanes[1], round & 1, &b));
    assert_true(outcome(&s, 1, round & 1, &d));
    assert_int_equal(d.status, LET_OK);
    assert_int_equal(d.rows, total);
    for (uint32_t i = 0; i < n; i++) check_outputs(&s, r[i]), give_back(&s, r[i]);
  }
  assert_int_equal(let_ring_arena_used(s.arena), 0);
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

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_batches),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
