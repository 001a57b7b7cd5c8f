/* front_test_rig.h: for front_test.c: a server that echoes in place, and clients. Real sockets on the loopback, one
 * thread, one loop: a client writes, then the loop runs until its answer is whole. */
#ifndef LET_FRONT_FRONT_TEST_RIG_H
#define LET_FRONT_FRONT_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/rng.h"
#include "front/front.h"

enum { SLOT = 64 * 1024, SLOTS = 600, REQUESTS = 1100, MODELS = 2 };

typedef struct world {
  uv_loop_t loop;
  let_front *f;
  let_mem_failing mem;
  char *arena;
  bool used[SLOTS];
  uint64_t slots_used;
  let_model model[MODELS];
  let_request request[REQUESTS];
  let_record record[REQUESTS];
  bool taken[REQUESTS];
  uint32_t in_flight, cancelled, infers;
  bool hold; /* keep requests until answer_held */
  let_request *held[REQUESTS];
  uint32_t n_held;
  void *call;
  let_dur last_timeout;
  uint8_t last_priority;
  bool drained;
  uint64_t turns;
  let_front_stats last;       /* at the turn before */
  uint64_t most_in, most_out; /* bytes between two turns */
  bool answer_in_turn, in_turn;
  uint64_t answered, lost; /* requests that came back with and without the stamp */
  let_front_options o;
} world;

static bool w_ready(void *ctx) { return (void)ctx, true; }
static uint32_t w_models(void *ctx) { return (void)ctx, MODELS; }
static const let_model *w_model(void *ctx, uint32_t i) { return &((world *)ctx)->model[i]; }
static bool w_model_ready(void *ctx, uint32_t i) { return (void)ctx, i == 0; }
static let_time w_now(void *ctx) { return (void)ctx, (let_time)uv_hrtime(); }

static uint64_t w_alloc(void *ctx, uint64_t bytes) {
  world *w = ctx;
  uint32_t need = (uint32_t)((bytes + SLOT - 1) / SLOT), run = 0;
  if (!need) need = 1;
  for (uint32_t i = 0; i < SLOTS; i++) {
    run = w->used[i] ? 0 : run + 1;
    if (run < need) continue;
    uint32_t at = i + 1 - need;
    for (uint32_t k = 0; k < need; k++) w->used[at + k] = true;
    /* the length of the run lives behind the arena */
    ((uint32_t *)(void *)(w->arena + (uint64_t)SLOTS * SLOT))[at] = need;
    w->slots_used++;
    return (uint64_t)at * SLOT;
  }
  return UINT64_MAX;
}
static uint32_t *run_of(world *w, uint64_t slot) {
  return &((uint32_t *)(void *)(w->arena + (uint64_t)SLOTS * SLOT))[slot / SLOT];
}
static void w_free(void *ctx, uint64_t slot) {
  world *w = ctx;
  for (uint32_t k = 0; k < *run_of(w, slot); k++) {
    assert_true(w->used[slot / SLOT + k]);
    w->used[slot / SLOT + k] = false;
  }
  w->slots_used--;
}
static uint64_t w_bytes(void *ctx, uint64_t slot) { return (uint64_t)*run_of(ctx, slot) * SLOT; }
static void *w_at(void *ctx, uint64_t offset) { return ((world *)ctx)->arena + offset; }

static let_request *w_take(void *ctx) {
  world *w = ctx;
  for (uint32_t i = 0; i < REQUESTS; i++) {
    if (w->taken[i]) continue;
    w->taken[i] = true;
    w->in_flight++;
    memset(&w->record[i], 0, sizeof w->record[i]);
    w->request[i] = (let_request){.index = i, .rec = &w->record[i], .in_slot = UINT64_MAX, .out_slot = UINT64_MAX};
    return &w->request[i];
  }
  return NULL;
}
static void w_release(void *ctx, let_request *r) {
  world *w = ctx;
  assert_true(w->taken[r->index]);
  if (r->stamp[LET_STAGE_ANSWERED]) w->answered++;
  else w->lost++;
  w->taken[r->index] = false;
  w->in_flight--;
  if (r->in_slot != UINT64_MAX) w_free(w, r->in_slot);
  if (r->out_slot != UINT64_MAX) w_free(w, r->out_slot);
}

/* Output 0 is input 0. */
static void echo(world *w, let_request *r) {
  const let_tensor *in = &r->rec->in[0];
  r->out_slot = w_alloc(w, in->bytes);
  assert_true(r->out_slot != UINT64_MAX);
  r->out_cap = w_bytes(w, r->out_slot);
  memcpy(w->arena + r->out_slot, w->arena + in->offset, in->bytes);
  r->rec->out[0] = *in;
  r->rec->out[0].offset = r->out_slot;
  r->rec->n_out = 1;
  let_front_done(w->f, r);
}
static void w_infer(void *ctx, let_request *r, let_dur timeout) {
  world *w = ctx;
  w->infers++;
  w->last_timeout = timeout;
  w->last_priority = r->priority;
  assert_true(r->stamp[LET_STAGE_FIRST_BYTE] && r->stamp[LET_STAGE_RECEIVED] >= r->stamp[LET_STAGE_FIRST_BYTE]);
  if (w->hold) w->held[w->n_held++] = r;
  else echo(w, r);
}
static void answer_held(world *w) {
  uint32_t n = w->n_held;
  w->n_held = 0;
  for (uint32_t i = 0; i < n; i++) echo(w, w->held[i]);
}
static void w_cancel(void *ctx, let_request *r) { (void)r, ((world *)ctx)->cancelled++; }

/* As a server under load does: what one client asked for is answered inside of another's event. */
static void w_turn(void *ctx) {
  world *w = ctx;
  let_front_stats now;
  let_front_stats_get(w->f, &now);
  if (now.bytes_in - w->last.bytes_in > w->most_in) w->most_in = now.bytes_in - w->last.bytes_in;
  if (now.bytes_out - w->last.bytes_out > w->most_out) w->most_out = now.bytes_out - w->last.bytes_out;
  w->last = now;
  w->turns++;
  if (!w->answer_in_turn || w->in_turn) return;
  w->in_turn = true;
  answer_held(w);
  w->in_turn = false;
}

static int w_control(void *ctx, let_str method, let_str path, let_str body, let_buf *out, const char **type,
                     void *call) {
  world *w = ctx;
  if (let_str_is(path, "/metrics")) {
    *type = "text/plain";
    let_buf_str(out, "up 1\n");
    return 200;
  }
  if (let_str_is(path, "/late")) {
    w->call = call;
    return -1;
  }
  if (let_str_is(path, "/echo")) {
    let_buf_add(out, method.p, method.n);
    let_buf_add(out, body.p, body.n);
    return 200;
  }
  return 0;
}

static void options(world *w) {
  w->o = (let_front_options){.host = "127.0.0.1",
                             .connections = 1100,
                             .body_max = 8 * 1024 * 1024,
                             .head_timeout = 60 * LET_S,
                             .body_timeout = 60 * LET_S,
                             .idle_timeout = 60 * LET_S,
                             .server_name = "gpulet",
                             .server_version = "1"};
}

static void start(world *w) {
  let_error e = {0};
  let_front_i i = {w,       w_ready, w_models, w_model,   w_model_ready, w_now,    w_alloc, w_free,
                   w_bytes, w_at,    w_take,   w_release, w_infer,       w_cancel, w_turn,  w_control};
  w->arena = calloc(1, (uint64_t)SLOTS * SLOT + SLOTS * sizeof(uint32_t));
  let_mem_failing_init(&w->mem, -1, 0);
  for (int k = 0; k < MODELS; k++) {
    let_model *m = &w->model[k];
    snprintf(m->name, sizeof m->name, k ? "other" : "echo");
    snprintf(m->platform, sizeof m->platform, "gpulet_null");
    m->version = 3;
    m->max_batch = 8;
    m->n_inputs = m->n_outputs = 1;
    m->priority_levels = 4;
    m->default_priority = 2;
    m->input[0] = (let_tensor_spec){.name = "IN", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {-1}};
    m->output[0] = (let_tensor_spec){.name = "OUT", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {-1}};
  }
  uv_loop_init(&w->loop);
  assert_int_equal(let_front_new(&w->loop, &w->o, &i, &w->mem.mem, &w->f, &e), LET_OK);
  assert_int_equal(let_front_listen_metrics(w->f, "127.0.0.1", 0, &e), LET_OK);
}

static void stop(world *w) {
  let_front_close(w->f);
  assert_int_equal(uv_run(&w->loop, UV_RUN_DEFAULT), 0);
  let_front_free(w->f);
  assert_int_equal(uv_loop_close(&w->loop), 0);
  assert_int_equal(w->mem.live, 0);
  free(w->arena);
}

static int setup(void **state) {
  world *w = calloc(1, sizeof *w);
  options(w);
  start(w);
  *state = w;
  return 0;
}
static int teardown(void **state) {
  world *w = *state;
  stop(w);
  assert_int_equal(w->in_flight, 0);
  assert_int_equal(w->slots_used, 0);
  free(w);
  return 0;
}

/* ---- a client -------------------------------------------------------------------------------------------- */

static int dial(uint16_t port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(fd >= 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
  return fd;
}

/* Sends all of it, running the loop whenever the socket is full. */
static void say(world *w, int fd, const char *p, size_t n) {
  while (n) {
    ssize_t k = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k > 0) {
      p += k;
      n -= (size_t)k;
    } else if (k < 0 && errno != EAGAIN) return; /* the server closed: the test looks at the answer */
    uv_run(&w->loop, UV_RUN_NOWAIT);
  }
}

typedef struct answer {
  int status;
  size_t head, body, n;
  bool eof;
  char *p;
} answer;
static char inbox[12 * 1024 * 1024];

/* Runs the loop until |count| whole answers are there, or the end. Returns the last one; all are in inbox. */
static answer hear(world *w, int fd, int count) {
  answer a = {.p = inbox};
  size_t n = 0, at = 0;
  for (;;) {
    while (n > at) {
      inbox[n] = 0;
      char *end = strstr(inbox + at, "\r\n\r\n"), *len = strstr(inbox + at, "Content-Length: ");
      if (!end) break;
      a.p = inbox + at;
      a.head = (size_t)(end + 4 - a.p);
      a.body = len && len < end ? strtoul(len + 16, NULL, 10) : 0;
      a.status = atoi(a.p + 9);
      if (n - at < a.head + a.body) break;
      at += a.head + a.body;
      if (--count == 0) {
        a.n = n;
        return a;
      }
    }
    ssize_t k = recv(fd, inbox + n, sizeof inbox - 1 - n, MSG_DONTWAIT);
    if (k > 0) n += (size_t)k;
    else if (k == 0 || errno != EAGAIN) {
      a.eof = true;
      a.n = n;
      return a;
    } else uv_run(&w->loop, UV_RUN_ONCE);
  }
}
static bool gone(world *w, int fd) {
  answer a = hear(w, fd, 1);
  return a.eof && a.n == 0;
}
static void run_some(world *w) {
  for (int i = 0; i < 20; i++) uv_run(&w->loop, UV_RUN_NOWAIT);
}

static const char *infer_json(char *out, size_t cap, const char *extra_head, const char *body) {
  snprintf(out, cap, "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s", extra_head,
           strlen(body), body);
  return out;
}
#define BODY "{\"id\":\"a\",\"inputs\":[{\"name\":\"IN\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2.5,-3]}]}"
#define DATA "\"data\":[1.0,2.5,-3.0]"

static int ask(world *w, const char *text) { /* one request on a connection of its own */
  int fd = dial(let_front_port(w->f));
  say(w, fd, text, strlen(text));
  answer a = hear(w, fd, 1);
  close(fd);
  return a.status;
}

#endif
