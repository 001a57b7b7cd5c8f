/* device_check: src/device/cuda on a real GPU. Each check runs in a process of its own with a time limit, so that
 * one that hangs or breaks its context says so and the rest still run. Prints a table; with $OUT set also writes
 * $OUT/device_check.json. Arguments: names of checks (default: all). Exit 0: all passed; 1: some failed; 77: no GPU.
 * GPULET_CHECK_DEVICE: ordinal (0). */
#include <cuda.h>
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "device/device.h"

/* smid: every block writes its SM's number after |spin| cycles. hang: until *flag != 0. fault: a store nowhere. */
static const char ptx[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry smid(.param .u64 out, .param .u32 spin) {\n"
    " .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %d<8>;\n"
    " ld.param.u64 %d1, [out]; ld.param.u32 %r3, [spin]; cvta.to.global.u64 %d1, %d1;\n"
    " mov.u32 %r1, %smid; mov.u32 %r2, %ctaid.x; mul.wide.u32 %d2, %r2, 4; add.u64 %d3, %d1, %d2; mov.u32 %r4, "
    "%clock;\n"
    "again: mov.u32 %r5, %clock; sub.u32 %r6, %r5, %r4; setp.lt.u32 %p, %r6, %r3; @%p bra again;\n"
    " st.global.u32 [%d3], %r1; ret; }\n"
    ".visible .entry hang(.param .u64 flag) {\n"
    " .reg .pred %p; .reg .b32 %r<4>; .reg .b64 %d<4>; ld.param.u64 %d1, [flag];\n"
    "again: ld.volatile.u32 %r1, [%d1]; setp.eq.u32 %p, %r1, 0; @%p bra again; ret; }\n"
    ".visible .entry fault() { .reg .b64 %d<2>; mov.u64 %d1, 16; st.global.u32 [%d1], 1; ret; }\n";

#define FUNCTIONS(X)           \
  X(cuModuleLoadData)          \
  X(cuModuleGetFunction)       \
  X(cuLaunchKernel)            \
  X(cuStreamBeginCapture)      \
  X(cuStreamEndCapture)        \
  X(cuGraphInstantiate)        \
  X(cuMemAlloc)                \
  X(cuMemcpyDtoH)              \
  X(cuMemsetD32)               \
  X(cuMemHostAlloc)            \
  X(cuMemHostGetDevicePointer) \
  X(cuMemGetInfo)              \
  X(cuMemFree)                 \
  X(cuMemcpyDtoHAsync)         \
  X(cuGraphUpload)             \
  X(cuGraphExecDestroy)        \
  X(cuStreamSynchronize)       \
  X(cuCtxSynchronize)
#define STR(x)    #x
#define SYMBOL(x) STR(x)
static struct {
#define X(f) __typeof__(&f) f;
  FUNCTIONS(X)
#undef X
} cu;

static int report = 1; /* the parent reads it */
__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vdprintf(report, fmt, ap);
  va_end(ap);
}
#define REQUIRE(cond, ...)                                                                \
  do {                                                                                    \
    if (!(cond)) say("FAILED line %d: " #cond " ", __LINE__), say(__VA_ARGS__), _exit(1); \
  } while (0)
#define CU(call)                                                                    \
  do {                                                                              \
    CUresult r_ = (call);                                                           \
    if (r_) say("FAILED line %d: " #call " gives %d", __LINE__, (int)r_), _exit(1); \
  } while (0)
#define OK(call)                                                      \
  do {                                                                \
    let_error e_ = {0};                                               \
    let_error *e = &e_;                                               \
    if (call) say("FAILED line %d: %s", __LINE__, e_.text), _exit(1); \
  } while (0)

static let_time now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * LET_S + t.tv_nsec;
}
static double ms(let_dur d) { return (double)d / 1e6; }

static let_device *d;
static const let_device_type *type;
static CUfunction f_smid, f_hang, f_fault;

static void begin(void) {
  char name[32];
  snprintf(name, sizeof name, "cuda:%s", getenv("GPULET_CHECK_DEVICE") ? getenv("GPULET_CHECK_DEVICE") : "0");
  let_error error = {0};
  let_err err = let_device_open(name, "", &d, &error);
  if (err == LET_ERR_NOT_FOUND) say("%s", error.text), _exit(77);
  REQUIRE(!err, "%s", error.text);
  type = d->i->type(d);
  void *lib = dlopen("libcuda.so.1", RTLD_NOW);
  REQUIRE(lib, "%s", dlerror());
#define X(f)                               \
  *(void **)&cu.f = dlsym(lib, SYMBOL(f)); \
  REQUIRE(cu.f, "missing");
  FUNCTIONS(X)
#undef X
  CUmodule m;
  CU(cu.cuModuleLoadData(&m, ptx));
  CU(cu.cuModuleGetFunction(&f_smid, m, "smid"));
  CU(cu.cuModuleGetFunction(&f_hang, m, "hang"));
  CU(cu.cuModuleGetFunction(&f_fault, m, "fault"));
}

static let_gpulet *gpulet(uint32_t number, uint32_t first, uint32_t n, bool shared) {
  let_gpulet *g = NULL;
  OK(d->i->open(d, number, first, n, shared, &g, e));
  OK(d->i->enter(g, e));
  return g;
}

static void **only(CUgraphExec x) {
  void **one = malloc(sizeof *one);
  REQUIRE(one, "memory");
  *one = x;
  return one;
}

/* A "model": one kernel, captured on the gpu-let's stream with the primary context current, as an engine does. */
static let_exec kernel(let_gpulet *g, CUfunction f, unsigned blocks, unsigned threads, void **args) {
  let_engine_target t;
  d->i->target(g, &t);
  CUgraph graph;
  CUgraphExec exec;
  CU(cu.cuStreamBeginCapture((CUstream)t.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  CU(cu.cuLaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, (CUstream)t.stream, args, NULL));
  CU(cu.cuStreamEndCapture((CUstream)t.stream, &graph));
  CU(cu.cuGraphInstantiate(&exec, graph, 0));
  return (let_exec){.size = 1, .graphs = only(exec), .n_graphs = 1};
}
static let_exec spin(let_gpulet *g, CUdeviceptr out, unsigned cycles, unsigned blocks) {
  return kernel(g, f_smid, blocks, 128, (void *[]){&out, &cycles});
}
static let_err run(let_gpulet *g, let_exec *x, int instance, let_dur timeout, let_time *ret_started,
                   let_time *ret_finished, let_error *e) {
  let_err err = d->i->launch(g, x, e);
  if (!err) err = d->i->mark(g, instance, e);
  return err ? err : d->i->wait(g, instance, timeout, ret_started, ret_finished, e);
}
static int by_dur(const void *a, const void *b) {
  return (*(const let_dur *)a > *(const let_dur *)b) - (*(const let_dur *)a < *(const let_dur *)b);
}

enum { BLOCKS = 8192 };
static uint32_t sm_set(const uint32_t *id, unsigned n, bool seen[1024]) {
  uint32_t distinct = 0;
  for (unsigned i = 0; i < n; i++)
    if (id[i] < 1024 && !seen[id[i]]) seen[id[i]] = true, distinct++;
  return distinct;
}

static void check_inventory(void) {
  let_device_health h;
  OK(d->i->health(d, &h, e));
  say("%s, %u SMs, %u granules of %u (last %u), %.0f MiB, %s, %.0f W, %.0f %% busy", type->name, type->sms,
      type->granules, type->granule_sms, type->last_granule_sms, (double)type->memory_bytes / 1048576, h.uuid,
      h.power_w, h.utilization * 100);
  REQUIRE(type->granules > 1, "no green contexts");
  REQUIRE((type->granules - 1) * type->granule_sms + type->last_granule_sms == type->sms, "granules do not add up");
}

static void check_sms(void) { /* the SMs that blocks really ran on, as a graph and as a direct launch */
  CUdeviceptr out;
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  static uint32_t id[BLOCKS];
  uint32_t last = type->granules;
  const uint32_t range[][2] = {{0, 1},        {1, 2},        {3, 3},        {6, 8},
                               {last - 2, 1}, {last - 1, 1}, {0, last / 2}, {last / 2, last - last / 2},
                               {0, last}};
  static bool seen[9][1024];
  for (int i = 0; i < 9; i++) {
    let_gpulet *g = gpulet((uint32_t)i, range[i][0], range[i][1], false);
    let_engine_target t;
    d->i->target(g, &t);
    uint32_t want = range[i][1] * type->granule_sms +
                    (range[i][0] + range[i][1] == last ? type->last_granule_sms - type->granule_sms : 0);
    unsigned cycles = 20000;
    for (int direct = 0; direct < 2; direct++) {
      CU(cu.cuMemsetD32(out, 0xffffffffu, BLOCKS));
      CU(cu.cuCtxSynchronize());
      if (direct) {
        CU(cu.cuLaunchKernel(f_smid, BLOCKS, 1, 1, 128, 1, 1, 0, (CUstream)t.stream, (void *[]){&out, &cycles}, NULL));
        CU(cu.cuStreamSynchronize((CUstream)t.stream));
      } else {
        let_exec x = spin(g, out, cycles, BLOCKS);
        let_time a, b;
        OK(run(g, &x, 0, 5 * LET_S, &a, &b, e));
      }
      CU(cu.cuMemcpyDtoH(id, out, sizeof id));
      bool now_seen[1024] = {0};
      uint32_t got = sm_set(id, BLOCKS, now_seen);
      if (!direct) memcpy(seen[i], now_seen, sizeof now_seen);
      say("%s[%u,%u) %u SMs; ", direct ? "direct " : "", range[i][0], range[i][0] + range[i][1], got);
      REQUIRE(got == want, "granules [%u,%u): %u SMs, expected %u", range[i][0], range[i][0] + range[i][1], got, want);
    }
    d->i->close(g);
  }
  for (int i = 0; i < 9; i++) {
    for (int k = 0; k < i; k++) {
      bool apart = range[i][0] >= range[k][0] + range[k][1] || range[k][0] >= range[i][0] + range[i][1], meet = false;
      for (int s = 0; s < 1024; s++) meet |= seen[i][s] && seen[k][s];
      REQUIRE(meet != apart, "ranges %d and %d %s SMs", i, k, meet ? "share" : "do not share");
    }
  }
  say("disjoint where their granules are");
}

static void check_contexts(void) {
  size_t before, after, total;
  CU(cu.cuMemGetInfo(&before, &total));
  let_time t0 = now();
  let_dur most = 0;
  uint32_t n = 0;
  for (uint32_t k = 1; k < type->granules; k++) {
    for (uint32_t first = 0; first + k <= type->granules; first++, n++) {
      let_time t = now();
      d->i->close(gpulet(n % 64, first, k, false));
      if (now() - t > most) most = now() - t;
    }
  }
  let_dur made = now() - t0;
  CU(cu.cuMemGetInfo(&after, &total));
  t0 = now();
  for (uint32_t k = 1; k < type->granules; k++)
    for (uint32_t first = 0; first + k <= type->granules; first++) d->i->close(gpulet(0, first, k, false));
  let_dur again = now() - t0;
  say("%u contexts: %.1f ms (%.2f ms each, most %.2f), %.0f MiB (%.2f each); reopened: %.3f ms each", n, ms(made),
      ms(made) / n, ms(most), (double)(before - after) / 1048576, (double)(before - after) / 1048576 / n,
      ms(again) / n);
  REQUIRE(ms(again) < ms(made), "the context cache saves nothing");
}

static void check_wait(void) { /* round trip of an almost empty graph; CPU time while waiting for a long one */
  let_gpulet *g = gpulet(0, 0, 2, false);
  CUdeviceptr out;
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  let_exec tiny = spin(g, out, 0, 1), slow = spin(g, out, 20000000, 16);
  static let_dur trip[2000];
  let_time a, b;
  for (int i = 0; i < 2100; i++) {
    let_time t = now();
    OK(run(g, &tiny, 0, LET_S, &a, &b, e));
    if (i >= 100) trip[i - 100] = now() - t;
    REQUIRE(a <= b && b <= now() && b >= t, "stamps out of order");
  }
  qsort(trip, 2000, sizeof *trip, by_dur);
  struct rusage u0, u1;
  getrusage(RUSAGE_SELF, &u0);
  let_time t = now();
  for (int i = 0; i < 50; i++) OK(run(g, &slow, 0, 5 * LET_S, &a, &b, e));
  let_dur wall = now() - t;
  getrusage(RUSAGE_SELF, &u1);
  double cpu = (double)(u1.ru_utime.tv_sec - u0.ru_utime.tv_sec + u1.ru_stime.tv_sec - u0.ru_stime.tv_sec) +
               (double)(u1.ru_utime.tv_usec - u0.ru_utime.tv_usec + u1.ru_stime.tv_usec - u0.ru_stime.tv_usec) / 1e6;
  say("launch..wait of an empty graph: p50 %.1f us, p99 %.1f us; 50 batches of %.2f ms: %.1f %% of a core",
      ms(trip[1000]) * 1e3, ms(trip[1980]) * 1e3, ms(wall) / 50, 100 * cpu / ((double)wall / 1e9));
  REQUIRE(cpu < 0.5 * (double)wall / 1e9, "waiting burns a core");
  d->i->close(g);
}

static void check_overlap(void) { /* depth 2: the next batch's copies beside this batch's kernels */
  enum { BYTES = 64 << 20, N = 20 };
  let_gpulet *g = gpulet(0, 0, type->granules / 2, false);
  char *host = mmap(NULL, 4ul * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(host != MAP_FAILED, "mmap");
  memset(host, 1, 4ul * BYTES);
  let_time t = now();
  OK(d->i->pin(d, host, 4ul * BYTES, e));
  let_dur pin = now() - t;
  CUdeviceptr out, in[2];
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  let_exec x[2];
  for (int i = 0; i < 2; i++) {
    CU(cu.cuMemAlloc(&in[i], BYTES));
    x[i] = spin(g, out, 3000000, type->granule_sms * type->granules / 2);
    x[i].n_in = 1;
    x[i].in[0] = (let_exec_tensor){.data = (void *)(uintptr_t)in[i], .row_bytes = BYTES};
  }
  let_time a = 0, b;
  let_dur took[2], copy;
  t = now();
  for (int k = 0; k < 10; k++) OK(d->i->copy_in(g, (void *)(uintptr_t)in[0], host, BYTES, e));
  OK(d->i->mark(g, 0, e));
  OK(d->i->wait(g, 0, 10 * LET_S, &a, &b, e));
  copy = (b - t) / 10;
  for (int depth = 1; depth <= 2; depth++) {
    t = now();
    for (int k = 0; k < N + depth; k++) {
      int i = depth == 2 ? k & 1 : 0;
      if (k >= depth) OK(d->i->wait(g, i, 10 * LET_S, &a, &b, e));
      if (k >= N) continue;
      OK(d->i->copy_in(g, (void *)(uintptr_t)in[i], host + (size_t)i * BYTES, BYTES, e));
      OK(d->i->launch(g, &x[i], e));
      OK(d->i->copy_out(g, host + (size_t)(2 + i) * BYTES, (void *)(uintptr_t)out, BLOCKS * 4, e));
      OK(d->i->mark(g, i, e));
    }
    took[depth - 1] = (now() - t) / N;
  }
  say("pin 256 MiB: %.1f ms; copy in %.1f GB/s; batch of 64 MiB and a kernel: %.2f ms one at a time, %.2f ms at depth "
      "2",
      ms(pin), BYTES / ((double)copy / 1e9) / 1e9, ms(took[0]), ms(took[1]));
  REQUIRE((double)took[1] < 0.9 * (double)took[0], "no overlap");
  d->i->unpin(d, host);
  d->i->close(g);
}

static void check_side_by_side(void) { /* two gpu-lets run at the same time */
  uint32_t half = type->granules / 2;
  let_gpulet *g[2] = {gpulet(0, 0, half, false), gpulet(1, half, type->granules - half, false)};
  CUdeviceptr out;
  CU(cu.cuMemAlloc(&out, 2 * BLOCKS * 4));
  let_exec x[2];
  for (int i = 0; i < 2; i++) x[i] = spin(g[i], out, 10000000, half * type->granule_sms);
  let_time a, b;
  let_dur alone = 0, both = 0;
  for (int k = 0; k < 5; k++) {
    let_time t = now();
    OK(run(g[0], &x[0], 0, 10 * LET_S, &a, &b, e));
    alone = now() - t;
    t = now();
    for (int i = 0; i < 2; i++) {
      OK(d->i->launch(g[i], &x[i], e));
      OK(d->i->mark(g[i], 0, e));
    }
    for (int i = 0; i < 2; i++) OK(d->i->wait(g[i], 0, 10 * LET_S, &a, &b, e));
    both = now() - t;
  }
  say("%.2f ms alone, %.2f ms for both", ms(alone), ms(both));
  REQUIRE((double)both < 1.5 * (double)alone, "they take turns");
}

/* |n| gpu-lets of |granules| each, all busy with batches of 20 small kernels and small copies; |idle| more are open.
 * How long a batch takes: streams share the device's few work queues, and one that waits behind another gpu-let's
 * kernels is late. */
static double crowd(uint32_t n, uint32_t granules, uint32_t idle, CUdeviceptr out, char *host) {
  enum { CHAIN = 20, BATCHES = 200, IN = 100 << 10, OUT = 4 << 10 };
  static let_dur took[16 * BATCHES];
  let_gpulet *g[64];
  let_exec x[16];
  let_time begun[16];
  uint32_t done[16] = {0}, samples = 0;
  unsigned cycles = 190000; /* 0.1 ms */
  for (uint32_t i = 0; i < n + idle; i++) g[i] = gpulet(i, i % n * granules, granules, false);
  for (uint32_t i = 0; i < n; i++) {
    let_engine_target t;
    CUgraph graph;
    CUgraphExec exec;
    CUdeviceptr mine = out + i * (IN + OUT);
    d->i->target(g[i], &t);
    CU(cu.cuStreamBeginCapture((CUstream)t.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int k = 0; k < CHAIN; k++)
      CU(cu.cuLaunchKernel(f_smid, 8, 1, 1, 128, 1, 1, 0, (CUstream)t.stream, (void *[]){&mine, &cycles}, NULL));
    CU(cu.cuStreamEndCapture((CUstream)t.stream, &graph));
    CU(cu.cuGraphInstantiate(&exec, graph, 0));
    x[i] = (let_exec){.size = 1, .graphs = only(exec), .n_graphs = 1, .n_in = 1};
    x[i].in[0] = (let_exec_tensor){.data = (void *)(uintptr_t)mine, .row_bytes = IN};
  }
  for (uint32_t left = n * (BATCHES + 1); left > 0;) {
    for (uint32_t i = 0; i < n; i++) {
      let_time a, b;
      struct pollfd f = {.fd = d->i->done_fd(g[i], 0), .events = POLLIN};
      if (done[i] > BATCHES || (done[i] && poll(&f, 1, 0) != 1)) continue;
      if (done[i]) {
        OK(d->i->wait(g[i], 0, 5 * LET_S, &a, &b, e));
        took[samples++] = b - begun[i];
        left--;
      } else {
        left--;
      }
      if (done[i]++ == BATCHES) continue;
      begun[i] = now();
      OK(d->i->copy_in(g[i], x[i].in[0].data, host + i * (IN + OUT), IN, e));
      OK(d->i->launch(g[i], &x[i], e));
      OK(d->i->copy_out(g[i], host + i * (IN + OUT) + IN, (void *)(uintptr_t)(out + i * (IN + OUT) + IN), OUT, e));
      OK(d->i->mark(g[i], 0, e));
    }
  }
  for (uint32_t i = 0; i < n + idle; i++) d->i->close(g[i]);
  qsort(took, samples, sizeof *took, by_dur);
  say("%u of %u busy: p50 %.2f, p99 %.2f ms; ", n, n + idle, ms(took[samples / 2]), ms(took[samples * 99 / 100]));
  return ms(took[samples / 2]);
}

static void check_crowd(void) {
  CUdeviceptr out;
  char *host = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(host != MAP_FAILED, "mmap");
  OK(d->i->pin(d, host, 4 << 20, e));
  CU(cu.cuMemAlloc(&out, 4 << 20));
  double alone = crowd(1, 2, 0, out, host);
  double seven = crowd(7, 2, 0, out, host), changed = crowd(7, 2, 7, out, host);
  (void)crowd(15, 1, 0, out, host);
  (void)crowd(15, 1, 15, out, host);
  OK(d->i->prewarm(d, e));
  say("with every context of the context cache: ");
  double stocked = crowd(7, 2, 7, out, host);
  d->i->unpin(d, host);
  REQUIRE(seven < 1.2 * alone && changed < 1.2 * alone && stocked < 1.2 * alone, "gpu-lets wait for one another");
}

/* A chain of small kernels on a gpu-let whose SMs another one keeps busy with a large kernel: how long it takes alone
 * and beside it. What preparing a plan beside the one that serves has to reckon with. */
static void check_overlap_sms(void) {
  enum { CHAIN = 60, TIMES = 20 };
  let_gpulet *g = gpulet(0, 0, 4, false), *other = gpulet(1, 0, 4, false);
  CUdeviceptr out;
  CU(cu.cuMemAlloc(&out, 2 * BLOCKS * 4));
  let_engine_target t;
  d->i->target(g, &t);
  unsigned small = 20000, large = 2000000; /* 10 us, 1 ms */
  CUgraph graph;
  CUgraphExec chain;
  CU(cu.cuStreamBeginCapture((CUstream)t.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  for (int i = 0; i < CHAIN; i++)
    CU(cu.cuLaunchKernel(f_smid, 32, 1, 1, 128, 1, 1, 0, (CUstream)t.stream, (void *[]){&out, &small}, NULL));
  CU(cu.cuStreamEndCapture((CUstream)t.stream, &graph));
  CU(cu.cuGraphInstantiate(&chain, graph, 0));
  let_exec x = {.size = 1, .graphs = only(chain), .n_graphs = 1},
           busy = spin(other, out, large, 4 * type->granule_sms * 16 * 8);
  let_dur took[2][TIMES], whole[TIMES];
  let_time a, b;
  for (int k = 0; k < TIMES; k++) {
    for (int beside = 0; beside < 2; beside++) {
      let_time from = now();
      if (beside) OK(d->i->launch(other, &busy, e));
      if (beside) OK(d->i->mark(other, 0, e));
      OK(run(g, &x, 0, 20 * LET_S, &a, &b, e));
      took[beside][k] = b - from;
      if (beside) OK(d->i->wait(other, 0, 20 * LET_S, &a, &b, e));
      if (beside) whole[k] = b - from;
    }
  }
  for (int i = 0; i < 2; i++) qsort(took[i], TIMES, sizeof *took[i], by_dur);
  qsort(whole, TIMES, sizeof *whole, by_dur);
  say("%d small kernels: %.2f ms alone, %.2f ms on the SMs of a kernel of %.2f ms", CHAIN, ms(took[0][TIMES / 2]),
      ms(took[1][TIMES / 2]), ms(whole[TIMES / 2]));
}

/* What a call of the driver costs whoever serves meanwhile: a thread runs 0.1 ms batches on a gpu-let of its own, this
 * one makes the calls that preparing and retiring a plan are made of. */
typedef struct serving {
  let_gpulet *g;
  let_exec x;
  _Atomic bool stop;
  _Atomic let_dur worst;
} serving;

static void *serve(void *arg) {
  serving *s = arg;
  let_error error = {0};
  if (d->i->enter(s->g, &error)) return NULL;
  while (!s->stop) {
    let_time a, b, from = now();
    if (run(s->g, &s->x, 0, 5 * LET_S, &a, &b, &error)) break;
    let_dur took = now() - from;
    if (took > s->worst) s->worst = took;
  }
  return NULL;
}

enum {
  STALL_NOTHING,
  STALL_ALLOC,
  STALL_FREE,
  STALL_OPEN,
  STALL_CLOSE,
  STALL_PREWARM,
  STALL_CAPTURE,
  STALL_INSTANTIATE,
  STALL_UPLOAD,
  STALL_DESTROY,
  STALL_PIECES,
  STALL_CAPTURE_PIECES,
  STALL_INSTANTIATE_PIECES,
  STALL_UPLOAD_PIECES,
  STALL_DESTROY_PIECES,
  STALL_PIN,
  STALL_UNPIN,
  STALL_HEALTH,
  STALLS
};

static void check_stalls(void) {
  static const char *const name[STALLS] = {"nothing",
                                           "cuMemAlloc 32 MiB",
                                           "cuMemFree",
                                           "open",
                                           "close",
                                           "prewarm",
                                           "capture 1000 kernels",
                                           "instantiate",
                                           "upload",
                                           "destroy",
                                           "in pieces",
                                           "capture 10 times 100",
                                           "instantiate",
                                           "upload",
                                           "destroy",
                                           "pin 16 MiB",
                                           "unpin",
                                           "health"};
  enum { TIMES = 12, CHAIN = 1000, PIECES = 10 };
  int pieces = 1;
  CUdeviceptr out, at[TIMES];
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  serving s = {.g = gpulet(0, 0, 1, false)};
  s.x = spin(s.g, out, 190000, 8);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, NULL, serve, &s) == 0, "thread");
  let_gpulet *g[TIMES], *other = gpulet(40, 4, 4, false);
  CUgraph graph[TIMES][PIECES];
  CUgraphExec exec[TIMES][PIECES];
  let_engine_target t;
  let_device_health h;
  d->i->target(other, &t);
  char *host = mmap(NULL, (size_t)TIMES << 24, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(host != MAP_FAILED, "mmap");
  for (int what = 0; what < STALLS; what++) {
    let_dur worst = 0, sum = 0;
    for (int k = 0; k < TIMES; k++) {
      unsigned small = 1000;
      struct timespec rest = {0, 5000000};
      s.worst = 0;
      let_time from = now();
      if (what == STALL_NOTHING) nanosleep(&rest, NULL);
      if (what == STALL_ALLOC) CU(cu.cuMemAlloc(&at[k], 32 << 20));
      if (what == STALL_FREE) CU(cu.cuMemFree(at[k]));
      if (what == STALL_OPEN) g[k] = gpulet((uint32_t)k + 1, 1, (uint32_t)k + 2, false);
      if (what == STALL_CLOSE) d->i->close(g[k]);
      if (what == STALL_PREWARM && k == 0) OK(d->i->prewarm(d, e));
      if (what == STALL_PIECES) pieces = PIECES;
      for (int i = 0; i < pieces; i++) {
        CUgraph *one = &graph[k][i];
        if (what == STALL_CAPTURE || what == STALL_CAPTURE_PIECES) {
          CU(cu.cuStreamBeginCapture((CUstream)t.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
          for (int n = 0; n < CHAIN / pieces; n++)
            CU(cu.cuLaunchKernel(f_smid, 8, 1, 1, 128, 1, 1, 0, (CUstream)t.stream, (void *[]){&out, &small}, NULL));
          CU(cu.cuStreamEndCapture((CUstream)t.stream, one));
        }
        if (what == STALL_INSTANTIATE || what == STALL_INSTANTIATE_PIECES)
          CU(cu.cuGraphInstantiate(&exec[k][i], *one, 0));
        if (what == STALL_UPLOAD || what == STALL_UPLOAD_PIECES) CU(cu.cuGraphUpload(exec[k][i], (CUstream)t.stream));
        if (what == STALL_DESTROY || what == STALL_DESTROY_PIECES) CU(cu.cuGraphExecDestroy(exec[k][i]));
      }
      if (what == STALL_UPLOAD || what == STALL_UPLOAD_PIECES) CU(cu.cuStreamSynchronize((CUstream)t.stream));
      if (what == STALL_PIN) OK(d->i->pin(d, host + ((size_t)k << 24), 16 << 20, e));
      if (what == STALL_UNPIN) d->i->unpin(d, host + ((size_t)k << 24));
      if (what == STALL_HEALTH) OK(d->i->health(d, &h, e));
      sum += now() - from;
      nanosleep(&rest, NULL); /* the batch that it held up has ended */
      if (s.worst > worst) worst = s.worst;
    }
    say("%s %.2f ms, a batch beside it at most %.2f; ", name[what], ms(sum) / (what == STALL_PREWARM ? 1 : TIMES),
        ms(worst));
  }
  s.stop = true;
  pthread_join(thread, NULL);
}

/* Small answers beside a neighbour's 38 MB: by the copy engine, and as copy_out sends them. */
static void check_answers(void) {
  enum { BYTES = 38 << 20, TIMES = 200, N = 32, EACH = 1000 };
  let_gpulet *g = gpulet(0, 0, 1, false), *other = gpulet(1, 1, 1, false);
  unsigned char *host = mmap(NULL, BYTES + 2 * N * EACH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0),
                *mine = host + BYTES;
  REQUIRE(host != MAP_FAILED, "mmap");
  memset(host, 1, BYTES + 2 * N * EACH);
  OK(d->i->pin(d, host, BYTES + 2 * N * EACH, e));
  CUdeviceptr from;
  let_time a, b;
  CU(cu.cuMemAlloc(&from, BYTES));
  for (int i = 0; i < N * EACH; i++) host[i] = (unsigned char)(i * 2654435761u >> 13);
  OK(d->i->copy_in(g, (void *)(uintptr_t)from, host, N * EACH, e));
  OK(d->i->mark(g, 0, e));
  OK(d->i->wait(g, 0, 5 * LET_S, &a, &b, e));
  for (int how = 0; how < 4; how++) { /* engine or kernel, alone or beside */
    let_engine_target t;
    let_dur took[TIMES];
    d->i->target(g, &t);
    for (int k = 0; k < TIMES; k++) {
      memset(mine, 0, 2 * N * EACH);
      if (how & 1) OK(d->i->copy_out(other, host, (void *)(uintptr_t)from, BYTES, e));
      let_time begin_at = now();
      for (int i = 0; i < N; i++) { /* every second one at an odd address */
        unsigned char *to = mine + 2 * i * EACH + (i & 1);
        if (how < 2) CU(cu.cuMemcpyDtoHAsync(to, from + (unsigned)(i * EACH), EACH, (CUstream)t.stream));
        else OK(d->i->copy_out(g, to, (void *)(uintptr_t)(from + (unsigned)(i * EACH)), EACH, e));
      }
      if (how < 2) CU(cu.cuStreamSynchronize((CUstream)t.stream));
      else OK(d->i->mark(g, 0, e));
      if (how >= 2) OK(d->i->wait(g, 0, 5 * LET_S, &a, &b, e));
      took[k] = now() - begin_at;
      for (int i = 0; i < N; i++)
        REQUIRE(memcmp(mine + 2 * i * EACH + (i & 1), host + i * EACH, EACH) == 0, "answer %d differs", i);
      if (how & 1) OK(d->i->mark(other, 0, e));
      if (how & 1) OK(d->i->wait(other, 0, 5 * LET_S, &a, &b, e));
    }
    qsort(took, TIMES, sizeof *took, by_dur);
    say("%s%s p50 %.0f us, p99 %.0f us; ",
        how == 0   ? "32 answers of 1 KB by the copy engine"
        : how == 2 ? "by a kernel"
                   : "",
        how & 1 ? "beside 38 MB" : "", ms(took[TIMES / 2]) * 1e3, ms(took[TIMES * 99 / 100]) * 1e3);
  }
  d->i->unpin(d, host);
}

static void check_watchdog(void) {
  let_gpulet *g = gpulet(0, 0, 1, false), *other = gpulet(1, 1, 1, false);
  volatile uint32_t *flag;
  CUdeviceptr at, out;
  CU(cu.cuMemHostAlloc((void **)&flag, 4096, CU_MEMHOSTALLOC_DEVICEMAP));
  *flag = 0;
  CU(cu.cuMemHostGetDevicePointer(&at, (void *)flag, 0));
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  let_exec hang = kernel(g, f_hang, 1, 1, (void *[]){&at}), fine = spin(other, out, 1000, 8);
  let_time a, b, t = now();
  let_error error = {0};
  let_err err = run(g, &hang, 0, 200 * LET_MS, &a, &b, &error);
  let_dur took = now() - t;
  REQUIRE(err == LET_ERR_DEADLINE, "%s", error.text);
  for (int i = 0; i < 20; i++) OK(run(other, &fine, 0, LET_S, &a, &b, e));
  t = now();
  *flag = 1;
  OK(d->i->wait(g, 0, 2 * LET_S, &a, &b, e));
  say("gave up after %.0f ms, the neighbour ran on, recovered %.2f ms after the kernel ended", ms(took), ms(now() - t));
}

static void check_sticky(void) {
  let_gpulet *g = gpulet(0, 0, 1, false), *other = gpulet(1, 1, 1, false);
  CUdeviceptr out;
  CU(cu.cuMemAlloc(&out, BLOCKS * 4));
  let_exec bad = kernel(g, f_fault, 1, 1, NULL), fine = spin(other, out, 1000, 8);
  let_time a, b, t = now();
  let_error error = {0};
  let_err err = run(g, &bad, 0, 5 * LET_S, &a, &b, &error);
  let_dur took = now() - t;
  REQUIRE(err == LET_ERR_DEVICE, "%s: %s", let_err_name(err), error.text);
  say("%s after %.1f ms (%s); ", let_err_name(err), ms(took), error.text);
  err = run(other, &fine, 0, 5 * LET_S, &a, &b, &error);
  REQUIRE(err == LET_ERR_DEVICE, "the neighbour: %s", let_err_name(err));
  let_gpulet *n = NULL;
  err = d->i->open(d, 3, 2, 1, false, &n, &error);
  REQUIRE(err == LET_ERR_DEVICE, "opening another gpu-let: %s", let_err_name(err));
  t = now();
  d->i->close(g);
  d->i->close(other);
  d->i->close_device(d);
  say("closed in %.0f ms", ms(now() - t));
}

static void check_memory(void) { /* gpu-lets until the device is full: a clear refusal, and room again */
  CUdeviceptr fill;
  size_t room, total;
  CU(cu.cuMemGetInfo(&room, &total));
  size_t want = room - (600ul << 20);
  CU(cu.cuMemAlloc(&fill, want));
  let_gpulet *g[64];
  let_error error = {0};
  let_err err = LET_OK;
  uint32_t n = 0;
  while (n < 64 && !(err = d->i->open(d, n, n % type->granules, 1, false, &g[n], &error))) n++;
  REQUIRE(err == LET_ERR_NOMEM, "%u opened, then %s: %s", n, let_err_name(err), error.text);
  for (uint32_t i = 0; i < n; i++) d->i->close(g[i]);
  d->i->close(gpulet(0, 0, 1, false));
  say("%u gpu-lets fit into 600 MiB, then: %s", n, error.text);
}

static const struct {
  const char *name;
  void (*run)(void);
} checks[] = {{"inventory", check_inventory}, {"sms", check_sms},
              {"contexts", check_contexts},   {"wait", check_wait},
              {"overlap", check_overlap},     {"side_by_side", check_side_by_side},
              {"crowd", check_crowd},         {"overlap_sms", check_overlap_sms},
              {"stalls", check_stalls},       {"answers", check_answers},
              {"watchdog", check_watchdog},   {"sticky", check_sticky},
              {"memory", check_memory}};
enum { N_CHECKS = sizeof checks / sizeof *checks, LIMIT_S = 60 };

static int one(unsigned i,
               char text[4096]) { /* -> exit status; -1: out of time; the driver is touched only in the child */
  int p[2];
  if (pipe(p)) return 1;
  pid_t pid = fork();
  if (pid == 0) {
    close(p[0]);
    report = p[1];
    begin();
    checks[i].run();
    _exit(0);
  }
  close(p[1]);
  size_t n = 0;
  let_time until = now() + LIMIT_S * LET_S;
  for (;;) {
    struct pollfd fd = {.fd = p[0], .events = POLLIN};
    let_dur left = until - now();
    if (left <= 0 || poll(&fd, 1, (int)(left / LET_MS) + 1) == 0) {
      kill(pid, SIGKILL);
      break;
    }
    ssize_t got = read(p[0], text + n, 4095 - n);
    if (got <= 0) break;
    n += (size_t)got;
  }
  text[n] = 0;
  close(p[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  return now() >= until ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv) {
  const char *out = getenv("OUT");
  char path[1024], text[4096];
  snprintf(path, sizeof path, "%s/device_check.json", out ? out : "");
  FILE *json = out ? fopen(path, "w") : NULL;
  if (json) fprintf(json, "{\"checks\":[");
  int failed = 0, ran = 0;
  for (unsigned i = 0; i < N_CHECKS; i++) {
    bool wanted = argc < 2;
    for (int k = 1; k < argc; k++) wanted |= !strcmp(argv[k], checks[i].name);
    if (!wanted) continue;
    let_time t = now();
    int status = one(i, text);
    const char *verdict = status == 0 ? "ok" : status == 77 ? "no GPU" : status < 0 ? "TIMEOUT" : "FAILED";
    printf("%-13s %-8s %6.1f s  %s\n", checks[i].name, verdict, (double)(now() - t) / 1e9, text);
    fflush(stdout);
    if (json) {
      fprintf(json, "%s{\"name\":\"%s\",\"verdict\":\"%s\",\"text\":\"", ran ? "," : "", checks[i].name, verdict);
      for (char *c = text; *c; c++)
        fprintf(json, *c == '"' || *c == '\\' ? "\\%c" : (unsigned char)*c < 32 ? " " : "%c", *c);
      fprintf(json, "\"}");
    }
    ran++;
    if (status == 77) {
      failed = 77;
      break;
    }
    if (status) failed = 1;
  }
  if (json) fprintf(json, "]}\n"), fclose(json);
  return failed;
}
