/* worker_rig.h: the tests' stand-in for the server: control socket, lanes, records. The worker runs in a forked child.
 */
#ifndef LET_WORKER_RIG_H
#define LET_WORKER_RIG_H

#include "worker/worker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
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

/* Whether the worker has lost memory, where a sanitizer can tell. */
#if defined(__SANITIZE_ADDRESS__)
#  include <sanitizer/lsan_interface.h>
static inline int leaks(void) { return __lsan_do_recoverable_leak_check() ? 99 : 0; }
#else
static inline int leaks(void) { return 0; }
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

static inline let_model null_model(const char *name, uint32_t max_batch) {
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

static inline void start(server *s, const char *fault, const char *device) {
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
  json_t *doc =
      json_pack("{ss ss sI si ss ss si}", "op", "init", "device", device, "arena_bytes", (json_int_t)(8 << 20),
                "records", RECORDS, "profile", profile_dir, "plugin_dir", "", "spin_us", 0);
  assert_int_equal(let_control_send(s->control, doc, &arena, 1, &e), LET_OK);
  json_decref(doc);
}

/* The next event other than progress and health; NULL at the end of file. */
static inline const char *event(server *s) {
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

static inline void expect_ready(server *s) {
  const char *got = event(s);
  assert_non_null(got);
  assert_string_equal(got, "ready");
}

static inline void op(server *s, const char *name, int generation) {
  let_error e;
  json_t *doc = json_pack("{ss si}", "op", name, "generation", generation);
  assert_int_equal(let_control_send(s->control, doc, NULL, 0, &e), LET_OK);
  json_decref(doc);
}

static int granules = 1;   /* of each gpu-let */
static int needed;         /* sizes before a lane serves; 0: all */
static int64_t cost_us[8]; /* of each lane, last time */

/* One generation of |n| gpu-lets, each with all |n_models|. */
static inline void ask(server *s, int generation, uint32_t n, const let_model *m, uint32_t n_models) {
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
      json_t *one =
          json_pack("{so s[iii]}", "spec", let_control_model_put(&m[k]), "sizes", needed ? 4 : 1, needed ? 1 : 4, 8);
      if (needed) json_object_set_new(one, "needed", json_integer(needed));
      if (needed) json_object_set_new(one, "slo_us", json_integer(m[k].slo / LET_US));
      json_array_append_new(models, one);
    }
    json_array_append_new(lanes,
                          json_pack("{si si si sb sI so}", "gpulet", (int)(10 + i), "first", 0, "granules", granules,
                                    "shared", 0, "cost_us", (json_int_t)cost_us[i % 8], "models", models));
    fds[n_fds++] = let_lanes_submit_event(*l, i);
  }
  json_t *doc = json_pack("{ss si so}", "op", "prepare", "generation", generation, "lanes", lanes);
  assert_int_equal(let_control_send(s->control, doc, fds, n_fds, &e), LET_OK);
  json_decref(doc);
}

static inline const char *prepare(server *s, int generation, uint32_t n, const let_model *m, uint32_t n_models) {
  ask(s, generation, n, m, n_models);
  return event(s);
}

static inline void expect(const char *got, const char *want) {
  assert_non_null(got);
  assert_string_equal(got, want);
}

/* Records and slots of one lane: no lane's thread ever touches another's, because the thread sanitizer does not see
 * that the server, another process, stands between them. */
static inline uint32_t base_of(int generation, uint32_t lane) {
  return (uint32_t)(generation % GEN_MAX) * 16 + lane * 8;
}

static inline let_record *request_n(server *s, uint32_t index, uint32_t rows, uint32_t row, unsigned seed,
                                    uint64_t out_bytes) {
  if (!s->in[index])
    s->in[index] = let_ring_slot_alloc(s->arena, 4096), s->out[index] = let_ring_slot_alloc(s->arena, 8192);
  assert_true(s->in[index] != LET_SLOT_NONE && s->out[index] != LET_SLOT_NONE);
  let_record *r = let_ring_arena_record(s->arena, index);
  memset(r, 0, sizeof *r);
  r->rows = rows, r->n_in = 1, r->out_offset = s->out[index], r->out_bytes = out_bytes, r->status = -1;
  /* Odd on purpose: a tensor begins where it begins in the body. */
  r->in[0] = (let_tensor){.offset = s->in[index] + 3,
                          .bytes = rows * row,
                          .shape = {rows, row},
                          .rank = 2,
                          .dtype = LET_DTYPE_UINT8,
                          .present = 1};
  unsigned char *p = let_ring_slot_at(s->arena, r->in[0].offset);
  for (uint32_t i = 0; i < rows * row; i++) p[i] = (unsigned char)(seed + 7 * i);
  return r;
}

static inline let_record *request(server *s, uint32_t index, uint32_t rows, unsigned seed) {
  return request_n(s, index, rows, ROW, seed, 8192);
}

static inline void check_outputs(server *s, const let_record *r) {
  assert_int_equal(r->status, LET_OK);
  assert_int_equal(r->n_out, 2);
  const unsigned char *in = let_ring_slot_at(s->arena, r->in[0].offset),
                      *a = let_ring_slot_at(s->arena, r->out[0].offset),
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
static inline bool outcome(server *s, int generation, uint32_t lane, let_done_msg *ret) {
  let_lanes *l = s->lanes[generation % GEN_MAX];
  bool corrupt = false;
  for (;;) {
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    assert_false(corrupt);
    let_lanes_arm_done(l);
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    struct pollfd f[2] = {{.fd = let_lanes_done_event(l), .events = POLLIN},
                          {.fd = s->control}}; /* its documents are for event() */
    assert_true(poll(f, 2, 60000) > 0);
    if (!(f[0].revents & POLLIN) && f[1].revents & POLLHUP) return false;
  }
}

static inline let_batch_msg batch(uint32_t base, uint64_t number, uint32_t model, uint32_t size, uint32_t rows,
                                  uint32_t n) {
  let_batch_msg m = {.batch = number, .model = model, .size = size, .rows = rows, .n = n, .submitted = let_now()};
  for (uint32_t i = 0; i < n; i++) m.record[i] = base + i;
  return m;
}

/* Ends the worker in the way of a server that goes away; returns its status. */
static inline int finish(server *s) {
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

static inline void one(server *s, int generation, uint32_t lane, uint64_t number, unsigned seed) {
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

#endif
