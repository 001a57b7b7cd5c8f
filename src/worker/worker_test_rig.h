/* worker_test_rig.h: the tests' stand-in for the server: control socket, lanes, records. The worker runs in a child
 * process. */
#ifndef LET_WORKER_TEST_RIG_H
#define LET_WORKER_TEST_RIG_H

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
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ipc/conversation.h"
#include "ipc/socket.h"
#include "os/clock.h"
#include "os/cpu.h"
#include "ring/ring.h"

enum { ROW = 100, RECORDS = 64, SETS_MAX = 4 };

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
  let_lanes *lanes[SETS_MAX];
  let_ipc_conversation *conversation; /* believes every event that a worker sends */
  let_arena events;                   /* all that came */
  let_ipc_event last;                 /* most recent one that was not PROGRESS or HEALTH, nor LANE_UP unless |all| */
  bool all;
  uint64_t newest;               /* lane set */
  let_lane_set_id set[SETS_MAX]; /* by the number that a test gives it */
  let_ipc_lane_up up[SETS_MAX][LET_IPC_LANES_MAX];
  uint32_t n_up[SETS_MAX]; /* lanes reported */
  int added[SETS_MAX];     /* SIZE events */
  uint64_t in[RECORDS], out[RECORDS];
} server;

static inline let_model null_model(const char *name, uint32_t max_batch) {
  let_model m;
  memset(&m, 0, sizeof m);
  snprintf(m.name, sizeof m.name, "%s", name);
  snprintf(m.backend, sizeof m.backend, "null");
  m.max_batch = max_batch;
  m.n_inputs = 1;
  m.n_outputs = 2;
  m.max_queue_delay = LET_NEVER;
  m.input[0] = (let_tensor_spec){.name = "IN", .dtype = LET_DTYPE_UINT8, .rank = 1, .dims = {ROW}};
  m.output[0] = (let_tensor_spec){.name = "SAME", .dtype = LET_DTYPE_UINT8, .rank = 1, .dims = {ROW}};
  m.output[1] = (let_tensor_spec){.name = "LONGER", .dtype = LET_DTYPE_INT32, .rank = 2, .dims = {5, 10}};
  return m;
}

static const char *profile_dir = "";

enum { GONE = 0 }; /* instead of an event: the end of file */

static inline void send_raw(server *s, const void *p, size_t n, int fd) {
  union {
    char buf[CMSG_SPACE(sizeof fd)];
    struct cmsghdr align;
  } control = {{0}};
  struct iovec iov = {(void *)(uintptr_t)p, n};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  if (fd >= 0) {
    m.msg_control = control.buf;
    m.msg_controllen = sizeof control.buf;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  assert_int_equal(sendmsg(s->control, &m, MSG_NOSIGNAL), (ssize_t)n);
}

/* INIT without a device's name, which cannot be encoded: that of "c" without the c. */
static inline void send_nameless(server *s, const let_ipc_command *init, int arena) {
  let_ipc_command m = *init;
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  m.init.device = "c";
  assert_int_equal(let_ipc_command_encode(&m, &b, NULL), LET_OK);
  b.p[8]--;
  b.p[LET_IPC_HEADER]--; /* lengths of message and name */
  memmove(b.p + LET_IPC_HEADER + 2, b.p + LET_IPC_HEADER + 3, b.n - LET_IPC_HEADER - 3);
  send_raw(s, b.p, b.n - 1, arena);
  let_buf_fini(&b);
}

static inline void start(server *s, const char *fault, const char *device) {
  int fds[2];
  let_error e = {0};
  memset(s, 0, sizeof *s);
  assert_int_equal(let_ipc_pair(fds, &e), LET_OK);
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
  s->conversation = let_ipc_conversation_new(&let_mem_libc);
  let_arena_init(&s->events, &let_mem_libc);
  assert_int_equal(let_ring_arena_new(8 << 20, RECORDS, &let_mem_libc, &s->arena, &e), LET_OK);
  int arena = let_ring_arena_fd(s->arena);
  let_ipc_command m = {.type = LET_IPC_INIT, .init = {.device = device, .profile_dir = profile_dir}};
  m.init.arena_bytes = 8 << 20;
  m.init.records = RECORDS;
  if (!device[0]) {
    send_nameless(s, &m, arena);
    return;
  }
  assert_int_equal(let_ipc_conversation_send(s->conversation, &m, &e), LET_OK);
  assert_int_equal(let_ipc_send_command(s->control, &m, &arena, 1, &e), LET_OK);
}

/* Which of the tests' numbers has this lane set; the oldest that could. */
static inline int number_of(const server *s, let_lane_set_id set) {
  for (int g = 0; g < SETS_MAX; g++)
    if (let_lane_set_id_eq(s->set[g], set)) return g;
  fail();
  return 0;
}

/* The next event other than PROGRESS and HEALTH; GONE at the end of file. What comes must be believable. */
static inline int event(server *s) {
  for (;;) {
    let_error e = {0};
    let_ipc_event m;
    let_err r = let_ipc_recv_event(s->control, &s->events, &m, &e);
    if (r == LET_ERR_AGAIN) {
      struct pollfd f = {.fd = s->control, .events = POLLIN};
      assert_int_equal(poll(&f, 1, 60000), 1);
      continue;
    }
    if (r == LET_ERR_IO) return GONE;
    if (!r) r = let_ipc_conversation_hear(s->conversation, &m, &e);
    if (r) fail_msg("%s", e.text);
    assert_true(let_ipc_conversation_validate(s->conversation));
    if (m.type == LET_IPC_LANE_UP) {
      int g = number_of(s, m.lane_up.set);
      s->up[g][m.lane_up.lane] = m.lane_up;
      s->n_up[g]++;
    }
    if (m.type == LET_IPC_PROGRESS || m.type == LET_IPC_HEALTH || (!s->all && m.type == LET_IPC_LANE_UP)) continue;
    if (m.type == LET_IPC_SIZE) s->added[number_of(s, m.size.set)]++;
    s->last = m;
    return (int)m.type;
  }
}

/* What the last PREPARED's set was reported to have. */
static inline const let_ipc_model_report *model_in(const server *s, uint32_t lane, uint32_t model) {
  assert_int_equal(s->last.type, LET_IPC_PREPARED);
  const let_ipc_lane_up *up = &s->up[number_of(s, s->last.prepared.set)][lane];
  assert_true(model < up->n_models);
  return &up->model[model];
}

static inline void expect_ready(server *s) { assert_int_equal(event(s), LET_IPC_READY); }

static inline void say(server *s, const let_ipc_command *m) {
  let_error e;
  (void)!let_ipc_conversation_send(s->conversation, m, &e); /* a test may say what the server would not */
  assert_int_equal(let_ipc_send_command(s->control, m, NULL, 0, &e), LET_OK);
}

static inline void retire(server *s, int number) {
  say(s, &(let_ipc_command){.type = LET_IPC_RETIRE, .retire = {s->set[number % SETS_MAX]}});
}

static inline void stop(server *s) { say(s, &(let_ipc_command){.type = LET_IPC_STOP}); }

/* A header that promises what no command is. */
static inline void nonsense(server *s, unsigned type) {
  const unsigned char header[LET_IPC_HEADER] = {'L', 'E', 'T', '1', LET_IPC_VERSION, 0, (unsigned char)type};
  send_raw(s, header, sizeof header, -1);
}

static int granules = 1;   /* of each gpu-let */
static int needed;         /* sizes before a lane serves; 0: all */
static int64_t cost_us[8]; /* of each lane, last time */

/* One lane set of |n| gpu-lets, each with all |n_models|. */
static inline void ask(server *s, int number, uint32_t n, const let_model *m, uint32_t n_models) {
  let_error e = {0};
  int fds[LET_IPC_FDS_MAX];
  uint32_t n_fds = 0;
  let_lanes **l = &s->lanes[number % SETS_MAX];
  let_ipc_variant variant[8] = {0};
  let_ipc_lane lane[LET_IPC_LANES_MAX] = {0};
  s->added[number % SETS_MAX] = 0;
  s->n_up[number % SETS_MAX] = 0;
  s->set[number % SETS_MAX].n = ++s->newest;
  let_lanes_free(*l);
  assert_int_equal(let_lanes_new(n, l, &e), LET_OK);
  fds[n_fds++] = let_lanes_fd(*l);
  fds[n_fds++] = let_lanes_done_event(*l);
  for (uint32_t k = 0; k < n_models; k++) {
    variant[k] = (let_ipc_variant){.model = &m[k], .n_sizes = 3, .size = {1, 4, 8}, .needed = 3};
    if (needed) {
      variant[k].size[0] = 4;
      variant[k].size[1] = 1;
    }
    if (needed) {
      variant[k].needed = (uint8_t)needed;
      variant[k].slo = m[k].slo;
    }
  }
  for (uint32_t i = 0; i < n; i++) {
    lane[i] = (let_ipc_lane){.gpulet = {10 + i}, .granules = (uint32_t)granules, .cost = cost_us[i % 8] * LET_US};
    lane[i].n_models = n_models;
    lane[i].model = variant;
    fds[n_fds++] = let_lanes_submit_event(*l, i);
  }
  let_ipc_command prepare = {.type = LET_IPC_PREPARE, .prepare = {.n_lanes = n, .lane = lane}};
  prepare.prepare.set = s->set[number % SETS_MAX];
  assert_int_equal(let_ipc_conversation_send(s->conversation, &prepare, &e), LET_OK);
  assert_int_equal(let_ipc_send_command(s->control, &prepare, fds, n_fds, &e), LET_OK);
}

static inline int prepare(server *s, int number, uint32_t n, const let_model *m, uint32_t n_models) {
  ask(s, number, n, m, n_models);
  return event(s);
}

static inline void expect(int got, int want) { assert_int_equal(got, want); }

/* Records and slots of one lane: no lane's thread ever touches another's, because the thread sanitizer does not see
 * that the server, another process, stands between them. */
static inline uint32_t base_of(int number, uint32_t lane) { return (uint32_t)(number % SETS_MAX) * 16 + lane * 8; }

static inline let_record *request_n(server *s, uint32_t index, uint32_t rows, uint32_t row, unsigned seed,
                                    uint64_t out_bytes) {
  if (!s->in[index]) {
    s->in[index] = let_ring_slot_alloc(s->arena, 4096);
    s->out[index] = let_ring_slot_alloc(s->arena, 8192);
  }
  assert_true(s->in[index] != LET_SLOT_NONE && s->out[index] != LET_SLOT_NONE);
  let_record *r = let_ring_arena_record(s->arena, index);
  memset(r, 0, sizeof *r);
  r->rows = rows;
  r->n_in = 1;
  r->out_offset = s->out[index];
  r->out_bytes = out_bytes;
  r->status = -1;
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
static inline bool outcome(server *s, int number, uint32_t lane, let_done_msg *ret) {
  let_lanes *l = s->lanes[number % SETS_MAX];
  bool corrupt = false;
  for (;;) {
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    assert_false(corrupt);
    let_lanes_arm_done(l);
    if (let_lane_take_done(l, lane, ret, &corrupt)) return true;
    struct pollfd f[2] = {{.fd = let_lanes_done_event(l), .events = POLLIN},
                          {.fd = s->control}}; /* its events are for event() */
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
  for (int i = 0; i < SETS_MAX; i++) let_lanes_free(s->lanes[i]);
  for (int i = 0; i < RECORDS; i++)
    if (s->in[i]) {
      let_ring_slot_free(s->arena, s->in[i]);
      let_ring_slot_free(s->arena, s->out[i]);
    }
  assert_int_equal(let_ring_arena_used(s->arena), 0);
  assert_true(let_ring_arena_validate(s->arena));
  let_ring_arena_free(s->arena);
  let_ipc_conversation_free(s->conversation);
  let_arena_fini(&s->events);
  return status;
}

static inline void one(server *s, int number, uint32_t lane, uint64_t batch_number, unsigned seed) {
  let_done_msg d;
  uint32_t base = base_of(number, lane);
  let_record *r = request(s, base, 1, seed);
  let_batch_msg m = batch(base, batch_number, 0, 1, 1, 1);
  assert_true(let_lane_submit(s->lanes[number % SETS_MAX], lane, &m));
  assert_true(outcome(s, number, lane, &d));
  assert_int_equal(d.batch, batch_number);
  assert_int_equal(d.status, LET_OK);
  assert_true(d.finished >= d.started && d.started >= m.submitted);
  check_outputs(s, r);
}

#endif
