/* test: label: thread */
/* The CUDA device against the fake driver: error classes, overlap, depth 2, the watchdog, the context cache, leaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/cuda/cuda_device.h"

static void test_type_names(void **state) {
  (void)state;
  char out[64];
  let_cuda_type_name("NVIDIA H200", out);
  assert_string_equal(out, "h200");
  let_cuda_type_name("NVIDIA GeForce RTX 2080 Ti", out);
  assert_string_equal(out, "rtx-2080-ti");
  let_cuda_type_name("Tesla V100-SXM2-16GB", out);
  assert_string_equal(out, "v100-sxm2-16gb");
  let_cuda_type_name("", out);
  assert_string_equal(out, "gpu");
  let_cuda_type_name(
      "NVIDIA aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", out);
  assert_int_equal(strlen(out), 63);
}

#ifdef LET_HAVE_CUDA
#  include <dlfcn.h>
#  include <stdatomic.h>

#  include "device/cuda/fake/fake_cuda.h"

static let_fake_cuda_fault_fn set_fault;
static int (*launch_host)(void *stream, void (*fn)(void *), void *arg); /* cuLaunchHostFunc */
static let_fake_cuda_stats_fn get_stats;
static let_fake_cuda_release_fn release_hung;

static let_fake_stats stats(void) {
  let_fake_stats s;
  get_stats(&s);
  return s;
}

static int setup(void **state) {
  (void)state;
  set_fault("");
  return 0;
}
static int teardown(void **state) { /* nothing leaked, no usage rule broken */
  (void)state;
  let_fake_stats s = stats();
  if (s.violations || s.live) print_error("violations %ld (%s), live handles %ld\n", s.violations, s.violation, s.live);
  return s.violations || s.live ? -1 : 0;
}

static let_device *device(void) {
  let_device *d = NULL;
  let_error e = {0};
  if (let_cuda_open(0, &d, &e)) fail_msg("%s", e.text);
  return d;
}
static let_gpulet *gpulet(let_device *d, uint32_t number, uint32_t first, uint32_t n, bool shared) {
  let_gpulet *g = NULL;
  let_error e = {0};
  if (d->i->open(d, number, first, n, shared, &g, &e)) fail_msg("%s", e.text);
  if (d->i->enter(g, &e)) fail_msg("%s", e.text);
  return g;
}

/* A model on "device memory": the gpu-let's own workspace. out[i] = in[i] + 1. */
typedef struct rig {
  let_exec x;
  let_fake_graph graph;
  void *graphs[1];
  char *in, *out;
  atomic_int runs;
} rig;
enum { BYTES = 64 };
static void add_one(void *arg) {
  rig *r = arg;
  for (int i = 0; i < BYTES; i++) r->out[i] = (char)(r->in[i] + 1);
  atomic_fetch_add(&r->runs, 1);
}
static void rig_init(rig *r, const let_gpulet *g, int instance, uint32_t us) {
  let_engine_target t;
  g->device->i->target(g, &t);
  memset(r, 0, sizeof *r);
  r->in = (char *)t.workspace + instance * 4096;
  r->out = r->in + 2048;
  r->graph = (let_fake_graph){.magic = LET_FAKE_GRAPH, .kind = LET_FAKE_RUN, .us = us, .fn = add_one, .arg = r};
  r->x.size = 1;
  r->x.n_in = r->x.n_out = 1;
  r->x.in[0] = (let_exec_tensor){.data = r->in, .row_bytes = BYTES};
  r->x.out[0] = (let_exec_tensor){.data = r->out, .row_bytes = BYTES};
  r->graphs[0] = &r->graph;
  r->x.graphs = r->graphs;
  r->x.n_graphs = 1;
}
static let_err batch(let_gpulet *g, rig *r, const char *src, char *dst, int instance, let_error *e) {
  const let_device_i *i = g->device->i;
  let_err err = i->copy_in(g, r->in, src, BYTES, e);
  if (!err) err = i->launch(g, &r->x, e);
  if (!err) err = i->copy_out(g, dst, r->out, BYTES, e);
  return err ? err : i->mark(g, instance, e);
}

static void test_inventory(void **state) {
  (void)state;
  let_device_name name[4];
  uint32_t n = 0;
  let_error e = {0};
  assert_int_equal(let_cuda_list(name, 4, &n, &e), LET_OK);
  assert_int_equal(n, 2);
  assert_string_equal(name[1].name, "cuda:1");
  let_device *d = device();
  const let_device_type *t = d->i->type(d);
  assert_string_equal(t->name, "fake-132");
  assert_int_equal(t->sms, 132);
  assert_int_equal(t->granules, 16);
  assert_int_equal(t->granule_sms, 8);
  assert_int_equal(t->last_granule_sms, 12);
  assert_int_equal(name[0].type.granules, 16);
  let_device_health h;
  assert_int_equal(d->i->health(d, &h, &e), LET_OK);
  assert_float_equal(h.utilization, 0.37, 1e-9);
  assert_float_equal(h.power_w, 123.5, 1e-9);
  assert_int_equal(h.memory_total, 1024u << 20);
  assert_int_equal(strlen(h.uuid), 40);
  d->i->close_device(d);
  assert_int_equal(let_cuda_open(7, &d, &e), LET_ERR_NOT_FOUND);
}

static void test_a_batch(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 3, 4, false);
  let_error e = {0};
  char src[BYTES], dst[BYTES] = {0};
  for (int i = 0; i < BYTES; i++) src[i] = (char)i;
  assert_int_equal(d->i->pin(d, src, sizeof src, &e), LET_OK);
  rig r;
  rig_init(&r, g, 0, 3000);
  assert_int_equal(batch(g, &r, src, dst, 0, &e), LET_OK);
  let_time from, to;
  assert_int_equal(d->i->wait(g, 0, LET_S, &from, &to, &e), LET_OK);
  for (int i = 0; i < BYTES; i++) assert_int_equal(dst[i], (char)(i + 1));
  assert_true(to - from >= 3 * LET_MS && to - from < LET_S);
  assert_int_equal(d->i->wait(g, 0, LET_S, &from, &to, &e), LET_ERR_INVALID); /* nothing marked */
  d->i->unpin(d, src);
  d->i->close(g);
  d->i->close_device(d);
}

static void test_depth_two(void **state) { /* copies of the next batch move while this one computes */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r[2];
  for (int k = 0; k < 2; k++) rig_init(&r[k], g, k, 2000);
  char src[10][BYTES], dst[10][BYTES];
  let_time from = 0, to = 0;
  for (int k = 0; k < 10; k++) {
    memset(src[k], k, BYTES);
    if (k >= 2) {
      let_time before = to;
      assert_int_equal(d->i->wait(g, k & 1, LET_S, &from, &to, &e), LET_OK);
      assert_true(to >= before);
    }
    assert_int_equal(batch(g, &r[k & 1], src[k], dst[k], k & 1, &e), LET_OK);
  }
  for (int k = 0; k < 2; k++) assert_int_equal(d->i->wait(g, k, LET_S, &from, &to, &e), LET_OK);
  for (int k = 0; k < 10; k++)
    for (int i = 0; i < BYTES; i++) assert_int_equal(dst[k][i], k + 1);
  let_fake_stats s = stats();
  assert_int_equal(s.running_most, 1); /* one gpu-let runs one batch at a time */
  assert_true(s.copies_beside > 0);
  d->i->close(g);
  d->i->close_device(d);
}

static void test_same_exec_twice(void **state) { /* legal, ordered: the second batch must not overwrite the first */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r;
  rig_init(&r, g, 0, 2000);
  char src[4][BYTES], dst[4][BYTES];
  let_time from, to;
  for (int k = 0; k < 4; k++) {
    memset(src[k], 10 * k, BYTES);
    if (k >= 2) assert_int_equal(d->i->wait(g, k & 1, LET_S, &from, &to, &e), LET_OK);
    assert_int_equal(batch(g, &r, src[k], dst[k], k & 1, &e), LET_OK);
  }
  for (int k = 0; k < 2; k++) assert_int_equal(d->i->wait(g, k, LET_S, &from, &to, &e), LET_OK);
  for (int k = 0; k < 4; k++) assert_int_equal(dst[k][5], (char)(10 * k + 1));
  d->i->close(g);
  d->i->close_device(d);
}

/* Graphs of one gpu-let share memory: the one that was captured first overwrites, on its way, what the other answered.
 */
static void spoil(void *arg) {
  rig *r = arg;
  memset(r->in + 4096 + 2048, 0x5a, BYTES);
  add_one(r);
}

static void test_answers_leave_first(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r[2];
  for (int k = 0; k < 2; k++) rig_init(&r[k], g, k, 100);
  r[0].graph.fn = spoil;
  r[0].graph.us = 0;
  static char src[BYTES], dst[2][BYTES];
  let_time from, to;
  for (int pinned = 0; pinned < 2; pinned++) {
    if (pinned) assert_int_equal(d->i->pin(d, dst, sizeof dst, &e), LET_OK);
    for (int n = 0; n < 100; n++) {
      memset(src, n, BYTES);
      for (int k = 1; k >= 0; k--) assert_int_equal(batch(g, &r[k], src, dst[k], k, &e), LET_OK);
      for (int k = 1; k >= 0; k--) assert_int_equal(d->i->wait(g, k, LET_S, &from, &to, &e), LET_OK);
      for (int k = 0; k < 2; k++)
        for (int i = 0; i < BYTES; i++) assert_int_equal(dst[k][i], n + 1);
    }
    if (pinned) d->i->unpin(d, dst);
  }
  d->i->close(g);
  d->i->close_device(d);
}

static void test_two_gpulets(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *a = gpulet(d, 0, 0, 8, false), *b = gpulet(d, 1, 8, 8, false), *c = gpulet(d, 2, 0, 16, true);
  let_error e = {0};
  rig r[3];
  let_gpulet *g[3] = {a, b, c};
  char src[BYTES] = {1}, dst[3][BYTES];
  let_time from, to;
  for (int k = 0; k < 3; k++) {
    rig_init(&r[k], g[k], 0, 100000);
    assert_int_equal(batch(g[k], &r[k], src, dst[k], 0, &e), LET_OK);
  }
  for (int k = 0; k < 3; k++) assert_int_equal(d->i->wait(g[k], 0, 10 * LET_S, &from, &to, &e), LET_OK);
  assert_int_equal(stats().running_most, 3);
  let_engine_target t;
  d->i->target(a, &t);
  void *green = t.context;
  d->i->target(c, &t);
  assert_ptr_not_equal(green, t.context);
  for (int k = 0; k < 3; k++) d->i->close(g[k]);
  d->i->close_device(d);
}

static void test_ladder(void **state) {
  (void)state;
  let_device *d = device();
  for (int k = 0; k < 5; k++) {
    let_gpulet *a = gpulet(d, 0, 0, 4, false), *b = gpulet(d, 1, 12, 4, false);
    d->i->close(a);
    d->i->close(b);
  }
  assert_int_equal(stats().contexts_made, 2);
  /* Two generations of one range at the same time share its context. */
  let_gpulet *a = gpulet(d, 0, 0, 4, false), *b = gpulet(d, 1, 0, 4, false);
  let_engine_target x, y;
  d->i->target(a, &x);
  d->i->target(b, &y);
  assert_ptr_equal(x.context, y.context);
  assert_ptr_not_equal(x.stream, y.stream);
  assert_int_equal(stats().contexts_made, 2);
  d->i->close(a);
  d->i->close(b);
  let_error none = {0};
  assert_int_equal(d->i->prewarm(d, &none), LET_OK);
  assert_int_equal(stats().contexts_made, 135); /* every union of neighbours but the whole device */
  a = gpulet(d, 0, 3, 7, false);
  assert_int_equal(stats().contexts_made, 135);
  d->i->close(a);
  let_gpulet *g = NULL;
  let_error e = {0};
  assert_int_equal(d->i->open(d, 0, 12, 5, false, &g, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->open(d, 0, 0, 0, false, &g, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->open(d, 0, UINT32_MAX, 2, false, &g, &e), LET_ERR_INVALID);
  assert_null(g);
  d->i->close_device(d);
}

static void test_watchdog(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false), *other = gpulet(d, 1, 2, 2, false);
  let_error e = {0};
  rig r, q;
  rig_init(&r, g, 0, 0);
  rig_init(&q, other, 0, 0);
  r.graph.kind = LET_FAKE_HANG;
  char src[BYTES] = {1}, dst[BYTES], dst2[BYTES];
  let_time from, to;
  assert_int_equal(batch(g, &r, src, dst, 0, &e), LET_OK);
  assert_int_equal(d->i->wait(g, 0, 30 * LET_MS, &from, &to, &e), LET_ERR_DEADLINE);
  assert_int_equal(batch(other, &q, src, dst2, 0, &e), LET_OK); /* the neighbour runs on */
  assert_int_equal(d->i->wait(other, 0, LET_S, &from, &to, &e), LET_OK);
  assert_int_equal(d->i->wait(g, 0, 30 * LET_MS, &from, &to, &e), LET_ERR_DEADLINE);
  release_hung();
  assert_int_equal(d->i->wait(g, 0, LET_S, &from, &to, &e), LET_OK);
  d->i->close(g);
  d->i->close(other);
  d->i->close_device(d);
}

static void test_stuck_at_close(
    void **state) { /* a gpu-let that is closed while its kernel hangs is kept until the kernel ends */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r;
  rig_init(&r, g, 0, 0);
  r.graph.kind = LET_FAKE_HANG;
  char src[BYTES] = {1}, dst[BYTES];
  assert_int_equal(batch(g, &r, src, dst, 0, &e), LET_OK);
  d->i->close(g);                                /* gives up after its drain time */
  let_gpulet *again = gpulet(d, 1, 0, 2, false); /* streams and events of its own; the context outlives both */
  assert_int_equal(stats().contexts_made, 1);
  d->i->close(again);
  release_hung();
  d->i->close_device(d); /* waits a little for the kernel to end, then gives everything back */
}

static void test_callbacks_tell(void **state) { /* a driver whose streams write no values */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r[2];
  for (int k = 0; k < 2; k++) rig_init(&r[k], g, k, 2000);
  set_fault("cuStreamWriteValue32:0:801");
  char src[BYTES] = {1}, dst[2][BYTES] = {{0}};
  let_time from, to;
  for (int n = 0; n < 6; n++) {
    for (int k = 0; k < 2; k++) assert_int_equal(batch(g, &r[k], src, dst[k], k, &e), LET_OK);
    for (int k = 0; k < 2; k++) {
      assert_int_equal(d->i->wait(g, k, LET_S, &from, &to, &e), LET_OK);
      assert_true(to - from >= 2 * LET_MS && dst[k][0] == 2);
    }
  }
  set_fault("cuLaunchHostFunc:1:719");
  assert_int_equal(batch(g, &r[0], src, dst[0], 0, &e), LET_ERR_DEVICE);
  set_fault("");
  d->i->close(g);
  d->i->close_device(d);
}

/* Times are those of the batch, not of what was ahead of it, and never shorter than it took. */
static void test_times(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r[2];
  for (int k = 0; k < 2; k++) rig_init(&r[k], g, k, k ? 1000 : 40000);
  char src[BYTES] = {1}, dst[2][BYTES];
  let_time from[2], to[2];
  for (int k = 0; k < 2; k++) assert_int_equal(batch(g, &r[k], src, dst[k], k, &e), LET_OK);
  for (int k = 0; k < 2; k++) assert_int_equal(d->i->wait(g, k, LET_S, &from[k], &to[k], &e), LET_OK);
  assert_true(to[0] - from[0] >= 40 * LET_MS && to[1] - from[1] >= LET_MS);
  assert_true(from[1] > from[0] + 30 * LET_MS);   /* it waited for the first */
  assert_int_equal(d->i->mark(g, 0, &e), LET_OK); /* nothing at all */
  assert_int_equal(d->i->wait(g, 0, LET_S, &from[0], &to[0], &e), LET_OK);
  assert_true(from[0] == to[0] && from[0] >= to[1]);
  d->i->close(g);
  d->i->close_device(d);
}

static void test_exact(void **state) { /* for measurements */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  assert_int_equal(d->i->timing_exact(g, &e), LET_OK);
  assert_int_equal(d->i->timing_exact(g, &e), LET_OK);
  rig r[2];
  for (int k = 0; k < 2; k++) rig_init(&r[k], g, k, 2000);
  char src[BYTES] = {1}, dst[2][BYTES] = {{0}};
  let_time from, to = 0;
  for (int n = 0; n < 10; n++) {
    for (int k = 0; k < 2; k++) assert_int_equal(batch(g, &r[k], src, dst[k], k, &e), LET_OK);
    for (int k = 0; k < 2; k++) {
      let_time before = to;
      assert_int_equal(d->i->wait(g, k, LET_S, &from, &to, &e), LET_OK);
      assert_true(to - from >= 2 * LET_MS && dst[k][0] == 2 && to > before);
    }
  }
  r[0].graph.kind = LET_FAKE_HANG;
  assert_int_equal(batch(g, &r[0], src, dst[0], 0, &e), LET_OK);
  assert_int_equal(d->i->wait(g, 0, 30 * LET_MS, &from, &to, &e), LET_ERR_DEADLINE);
  release_hung();
  assert_int_equal(d->i->wait(g, 0, LET_S, &from, &to, &e), LET_OK);
  set_fault("kernel:1:700");
  let_err err = batch(g, &r[1], src, dst[1], 1, &e);
  assert_int_equal(err ? err : d->i->wait(g, 1, LET_S, &from, &to, &e), LET_ERR_DEVICE);
  set_fault("");
  d->i->close(g);
  d->i->close_device(d);
}

static void test_sticky(void **state) { /* an illegal address ends the device, not the program */
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_error e = {0};
  rig r;
  rig_init(&r, g, 0, 0);
  char src[BYTES] = {1}, dst[BYTES];
  let_time from, to;
  set_fault("kernel:1:700");
  let_err err = batch(g, &r, src, dst, 0, &e); /* it may show while the batch is still being enqueued */
  if (!err) err = d->i->wait(g, 0, 5 * LET_S, &from, &to, &e);
  assert_int_equal(err, LET_ERR_DEVICE);
  assert_non_null(strstr(e.text, "CUDA_ERROR_ILLEGAL_ADDRESS"));
  assert_int_equal(d->i->copy_in(g, r.in, src, BYTES, &e), LET_ERR_DEVICE); /* sticky */
  let_gpulet *n = NULL;
  assert_int_equal(d->i->open(d, 1, 2, 2, false, &n, &e), LET_ERR_DEVICE);
  set_fault("");
  d->i->enter(g, &e) ? fail() : (void)0;
  d->i->close(g);
  d->i->close_device(d);
}

static void test_error_classes(void **state) {
  (void)state;
  static const struct {
    const char *fault;
    let_err want;
  } table[] = {
      {"cuMemcpyHtoDAsync:1:1", LET_ERR_INVALID},    {"cuMemcpyHtoDAsync:1:2", LET_ERR_NOMEM},
      {"cuGraphLaunch:1:400", LET_ERR_GPULET},       {"cuGraphLaunch:1:701", LET_ERR_GPULET},
      {"cuGraphLaunch:1:719", LET_ERR_DEVICE},       {"cuMemcpyDtoHAsync:1:700", LET_ERR_DEVICE},
      {"cuStreamWriteValue32:1:1", LET_ERR_INVALID}, {"cuEventRecord:1:999", LET_ERR_DEVICE},
      {"cuGraphLaunch:1:214", LET_ERR_DEVICE},       {"cuGraphLaunch:1:906", LET_ERR_GPULET},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    set_fault("");
    let_device *d = device();
    let_gpulet *g = gpulet(d, 0, 0, 2, false);
    let_error e = {0};
    rig r;
    rig_init(&r, g, 0, 0);
    char src[BYTES] = {1}, dst[BYTES];
    set_fault(table[i].fault);
    let_err err = batch(g, &r, src, dst, 0, &e);
    if (err != table[i].want)
      fail_msg("%s: %s, not %s: %s", table[i].fault, let_err_name(err), let_err_name(table[i].want), e.text);
    set_fault("");
    d->i->close(g);
    d->i->close_device(d);
  }
}

/* Many small answers and large ones, into pinned memory and other: each byte where it belongs and nowhere else. */
static void test_answers(void **state) {
  (void)state;
  enum { N = 150, ROOM = 4 << 20 };
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 2, false);
  let_engine_target t;
  let_error e = {0};
  let_time from, to;
  d->i->target(g, &t);
  unsigned char *src = malloc(ROOM), *dst = calloc(1, ROOM), *want = calloc(1, ROOM);
  for (size_t i = 0; i < ROOM; i++) src[i] = (unsigned char)(i * 2654435761u >> 13);
  uint32_t seed = 1;
  for (int round = 0; round < 4; round++) { /* pinned: all, half, none; then a range given back */
    if (round == 0) assert_int_equal(d->i->pin(d, dst, ROOM, &e), LET_OK);
    if (round == 1) {
      d->i->unpin(d, dst);
      assert_int_equal(d->i->pin(d, dst, ROOM / 2, &e), LET_OK);
    }
    if (round == 2) d->i->unpin(d, dst);
    memset(dst, 0, ROOM);
    memset(want, 0, ROOM);
    assert_int_equal(d->i->copy_in(g, t.workspace, src, ROOM, &e), LET_OK);
    size_t at = 0;
    for (int k = 0; k < N; k++) {
      seed = seed * 1664525u + 1013904223u;
      size_t bytes = k % 50 == 49 ? 300 << 10 : 1 + (seed >> 8) % 9000, off = (seed >> 4) % 4096;
      if (at + bytes > ROOM || off + bytes > ROOM) break;
      assert_int_equal(d->i->copy_out(g, dst + at, (char *)t.workspace + off, bytes, &e), LET_OK);
      memcpy(want + at, src + off, bytes);
      at += bytes + seed % 3;
    }
    assert_int_equal(d->i->mark(g, round & 1, &e), LET_OK);
    assert_int_equal(d->i->wait(g, round & 1, LET_S, &from, &to, &e), LET_OK);
    assert_memory_equal(dst, want, ROOM);
  }
  free(src);
  free(dst);
  free(want);
  d->i->close(g);
  d->i->close_device(d);
}

static void test_every_failing_call_of_open(void **state) { /* no leak, whichever call fails, and a clear sentence */
  (void)state;
  static const char *const name[] = {"cuDeviceGetCount",
                                     "cuDeviceGet",
                                     "cuDeviceGetName",
                                     "cuDeviceTotalMem",
                                     "cuDevicePrimaryCtxRetain",
                                     "cuCtxSetCurrent",
                                     "cuDevResourceGenerateDesc",
                                     "cuGreenCtxCreate",
                                     "cuCtxFromGreenCtx",
                                     "cuGreenCtxStreamCreate",
                                     "cuEventCreate",
                                     "cuMemAlloc"};
  for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
    for (int nth = 1; nth <= 9; nth++) {
      char fault[80];
      snprintf(fault, sizeof fault, "%s:%d:2", name[i], nth);
      set_fault(fault);
      let_device *d = NULL;
      let_gpulet *g = NULL;
      let_error e = {0};
      let_err err = let_cuda_open(0, &d, &e);
      if (!err) err = d->i->open(d, 0, 1, 3, false, &g, &e);
      if (err) {
        assert_int_equal(err, LET_ERR_NOMEM);
        assert_non_null(strstr(e.text, "cu"));
      }
      set_fault("");
      if (g) d->i->close(g);
      if (d) d->i->close_device(d);
      let_fake_stats s = stats();
      if (s.live || s.violations) fail_msg("%s: %ld live, %s", fault, s.live, s.violation);
    }
  }
}

static void test_out_of_memory(
    void **state) { /* 1 GiB and 32 MiB each: a clear refusal, and room again after a close */
  (void)state;
  let_device *d = device();
  let_gpulet *g[64] = {0};
  let_error e = {0};
  let_err err = LET_OK;
  uint32_t n = 0;
  while (n < 64 && !(err = d->i->open(d, n, 0, 1, false, &g[n], &e))) n++;
  assert_int_equal(err, LET_ERR_NOMEM);
  assert_int_equal(n, 32);
  d->i->close(g[--n]);
  assert_int_equal(d->i->open(d, n, 0, 1, false, &g[n], &e), LET_OK);
  n++;
  while (n) d->i->close(g[--n]);
  d->i->close_device(d);
}

/* Enqueues its work, as an engine does: running it here and now would race with the copy in. */
static let_err eager_run(let_exec *x, void *stream, let_error *e) {
  if (!x->impl) return let_fail(e, LET_ERR_INVALID, "the model threw");
  return launch_host(stream, add_one, x->impl) == 0 ? LET_OK : let_fail(e, LET_ERR_GPULET, "cuLaunchHostFunc failed");
}
static void test_eager(void **state) {
  (void)state;
  let_device *d = device();
  let_gpulet *g = gpulet(d, 0, 0, 16, false);
  let_error e = {0};
  rig r;
  rig_init(&r, g, 0, 0);
  r.x.n_graphs = 0;
  r.x.run = eager_run;
  r.x.impl = &r;
  char src[BYTES] = {1}, dst[BYTES];
  let_time from, to;
  assert_int_equal(batch(g, &r, src, dst, 1, &e), LET_OK);
  assert_int_equal(d->i->wait(g, 1, LET_S, &from, &to, &e), LET_OK);
  r.x.impl = NULL;
  assert_int_equal(batch(g, &r, src, dst, 1, &e), LET_ERR_INVALID);
  assert_int_equal(d->i->mark(g, 1, &e), LET_OK); /* the gpu-let goes on */
  assert_int_equal(d->i->wait(g, 1, LET_S, &from, &to, &e), LET_OK);
  d->i->close(g);
  d->i->close_device(d);
}

int main(void) {
  setenv("GPULET_FAKE_CUDA_GPUS", "2", 1);
  const char *path = getenv("GPULET_CUDA_DRIVER");
  void *lib = path ? dlopen(path, RTLD_NOW) : NULL;
  if (!lib) {
    fprintf(stderr, "GPULET_CUDA_DRIVER must name libgpulet_fake_cuda.so (ctest does)\n");
    return 1;
  }
  *(void **)&set_fault = dlsym(lib, "let_fake_cuda_fault");
  *(void **)&launch_host = dlsym(lib, "cuLaunchHostFunc");
  *(void **)&get_stats = dlsym(lib, "let_fake_cuda_stats");
  *(void **)&release_hung = dlsym(lib, "let_fake_cuda_release");
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_type_names),
#  define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
      T(test_inventory),
      T(test_a_batch),
      T(test_depth_two),
      T(test_same_exec_twice),
      T(test_answers_leave_first),
      T(test_two_gpulets),
      T(test_ladder),
      T(test_watchdog),
      T(test_stuck_at_close),
      T(test_sticky),
      T(test_callbacks_tell),
      T(test_times),
      T(test_exact),
      T(test_error_classes),
      T(test_every_failing_call_of_open),
      T(test_out_of_memory),
      T(test_eager),
      T(test_answers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void test_built_without(void **state) {
  (void)state;
  let_device *d = NULL;
  let_error e = {0};
  assert_int_equal(let_cuda_open(0, &d, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "headers"));
}
int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_type_names), cmocka_unit_test(test_built_without)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
