/* ring_bench.c: server -> worker -> server round trip of a batch of a null model, through the real worker process:
 * lanes, arena, copies in and out, wake-ups. Prints one line per mode. Usage: ring_bench [BATCHES] */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hist.h"
#include "ipc/socket.h"
#include "os/clock.h"
#include "os/cpu.h"
#include "ring/ring.h"
#include "worker/worker.h"

enum { ROW = 1024 };

static void must(let_err r, const let_error *e) {
  if (!r) return;
  fprintf(stderr, "ring_bench: %s: %s\n", let_err_text(r), e->text);
  exit(1);
}

static void expect(int fd, let_ipc_event_type want) {
  let_error e = {0};
  for (;;) {
    let_arena a;
    let_ipc_event m;
    let_arena_init(&a, &let_mem_libc);
    let_err r = let_ipc_recv_event(fd, &a, &m, &e);
    if (r == LET_ERR_AGAIN) {
      struct pollfd f = {.fd = fd, .events = POLLIN};
      (void)poll(&f, 1, -1);
      continue;
    }
    must(r, &e);
    if (m.type == LET_IPC_ERROR) must(let_fail(&e, LET_ERR_GPULET, "%s", m.error.text), &e);
    if (m.type == LET_IPC_FAILED) must(let_fail(&e, m.failed.code, "%s", m.failed.text), &e);
    let_arena_fini(&a);
    if (m.type == want) return;
  }
}

typedef struct bench {
  let_ring_arena *arena;
  let_lanes *lanes;
  int control;
  pid_t pid;
} bench;

static void start(bench *b, int spin_us) {
  int fds[2];
  let_error e = {0};
  must(let_ipc_pair(fds, &e), &e);
  if ((b->pid = fork()) == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(fds[0]);
    _exit(let_worker_run(fds[1]));
  }
  close(fds[1]);
  b->control = fds[0];
  must(let_ring_arena_new(64 << 20, 256, &let_mem_libc, &b->arena, &e), &e);
  must(let_lanes_new(1, &b->lanes, &e), &e);
  int arena = let_ring_arena_fd(b->arena),
      all[] = {let_lanes_fd(b->lanes), let_lanes_done_event(b->lanes), let_lanes_submit_event(b->lanes, 0)};
  let_ipc_command init = {.type = LET_IPC_INIT, .init = {.device = "cpu", .arena_bytes = 64 << 20, .records = 256}};
  init.init.spin = spin_us * LET_US;
  must(let_ipc_send_command(b->control, &init, &arena, 1, &e), &e);
  expect(b->control, LET_IPC_READY);
  let_model m = {.name = "null", .backend = "null", .max_batch = 32, .n_inputs = 1, .n_outputs = 1};
  m.input[0] = m.output[0] = (let_tensor_spec){.name = "X", .dtype = LET_DTYPE_UINT8, .rank = 1, .dims = {ROW}};
  let_ipc_variant v = {.model = &m, .n_sizes = 3, .size = {1, 8, 32}, .needed = 3};
  let_ipc_lane lane = {.granules = 1, .shared = true, .n_models = 1, .model = &v};
  let_ipc_command prepare = {.type = LET_IPC_PREPARE, .prepare = {.set = {1}, .n_lanes = 1, .lane = &lane}};
  must(let_ipc_send_command(b->control, &prepare, all, 3, &e), &e);
  expect(b->control, LET_IPC_PREPARED);
}

static void stop(bench *b) {
  close(b->control);
  waitpid(b->pid, NULL, 0);
  let_lanes_free(b->lanes);
  let_ring_arena_free(b->arena);
}

static void fill(bench *b, let_batch_msg *m, uint32_t base, uint32_t n) {
  m->model = 0, m->size = m->rows = m->n = n;
  for (uint32_t i = 0; i < n; i++) {
    let_record *r = let_ring_arena_record(b->arena, base + i);
    if (!r->rows) {
      uint64_t in = let_ring_slot_alloc(b->arena, ROW), out = let_ring_slot_alloc(b->arena, ROW);
      *r = (let_record){.rows = 1, .n_in = 1, .out_offset = out, .out_bytes = 4096};
      r->in[0] = (let_tensor){
          .offset = in, .bytes = ROW, .shape = {1, ROW}, .rank = 2, .dtype = LET_DTYPE_UINT8, .present = 1};
    }
    m->record[i] = base + i;
  }
}

/* One batch at a time. |sleep|: the server waits on the event, as serve's loop does, instead of looking all the time.
 */
static void round_trips(const char *name, int spin_us, bool sleep, uint32_t rows, uint32_t count) {
  static let_hist h;
  bench b;
  let_batch_msg m = {0};
  let_done_msg d;
  bool corrupt = false;
  memset(&h, 0, sizeof h);
  start(&b, spin_us);
  for (uint32_t i = 0; i < count + 1000; i++) {
    fill(&b, &m, 0, rows);
    m.batch = i;
    let_time t = let_now();
    let_lane_submit(b.lanes, 0, &m);
    while (!let_lane_take_done(b.lanes, 0, &d, &corrupt)) {
      if (!sleep) {
        let_cpu_relax();
        continue;
      }
      let_lanes_arm_done(b.lanes);
      if (let_lane_take_done(b.lanes, 0, &d, &corrupt)) break;
      struct pollfd f = {.fd = let_lanes_done_event(b.lanes), .events = POLLIN};
      (void)poll(&f, 1, -1);
    }
    if (i >= 1000) let_hist_add(&h, let_now() - t);
  }
  stop(&b);
  printf("%-44s %4u row(s)  p50 %6.1f us  p90 %6.1f us  p99 %6.1f us\n", name, rows,
         (double)let_hist_quantile(&h, 0.5) / 1e3, (double)let_hist_quantile(&h, 0.9) / 1e3,
         (double)let_hist_quantile(&h, 0.99) / 1e3);
}

/* As many as the ring takes in flight. */
static void throughput(uint32_t rows, uint32_t count) {
  bench b;
  let_batch_msg m = {0};
  let_done_msg d;
  bool corrupt = false;
  start(&b, 50);
  uint32_t sent = 0, got = 0;
  let_time t = let_now();
  while (got < count) {
    while (sent < count && sent - got < 4) {
      fill(&b, &m, sent % 4 * 32, rows);
      m.batch = sent;
      if (!let_lane_submit(b.lanes, 0, &m)) break;
      sent++;
    }
    while (let_lane_take_done(b.lanes, 0, &d, &corrupt)) got++;
  }
  double s = (double)(let_now() - t) / 1e9;
  stop(&b);
  printf("%-44s %4u row(s)  %.0f batches/s, %.0f requests/s\n", "throughput, 4 batches in flight", rows, count / s,
         count * (double)rows / s);
}

int main(int argc, char **argv) {
  uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 50000;
  let_batch_msg m = {.n = 1};
  let_lanes *l;
  let_error e = {0};
  must(let_lanes_new(1, &l, &e), &e);
  bool corrupt = false;
  let_done_msg d = {0};
  let_time t = let_now();
  for (uint32_t i = 0; i < n; i++) {
    let_lane_submit(l, 0, &m);
    let_lane_take(l, 0, &m);
    let_lane_done(l, 0, &d);
    let_lane_take_done(l, 0, &d, &corrupt);
  }
  printf("%-44s %18.0f ns\n", "rings alone: submit, take, done, take done", (double)(let_now() - t) / n);
  let_lanes_free(l);
  round_trips("both awake (spin)", 200, false, 1, n);
  round_trips("both awake (spin)", 200, false, 8, n);
  round_trips("server sleeps, worker spins 50 us", 50, true, 1, n);
  round_trips("both sleep between batches", 0, true, 1, n);
  throughput(1, n);
  throughput(32, n / 4);
  return 0;
}
