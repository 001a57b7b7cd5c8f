/* test: os ring device engine label: thread
 * The worker, driven as the server drives it: control socket and lanes. It runs in a forked child. */
#include "worker/worker_test_rig.h"

#include <dirent.h>

/* A sanitizer keeps freed memory for a while. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static void test_batches(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  let_done_msg d;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  assert_string_equal(s.last.ready.device_type, "cpu");
  expect(prepare(&s, 1, 2, m, 2), LET_IPC_PREPARED);
  const let_ipc_model_report *model = model_in(&s, 1, 1);
  assert_string_equal(model->name, "b");
  assert_int_equal(model->output_row_bytes, 300);
  assert_int_equal(model->n_sizes, 3);
  one(&s, 1, 0, 77, 5);
  one(&s, 1, 1, 78, 6);
  /* Formed batches of 1, 3 and 2 rows, padded; then a smaller one in the same buffers. */
  for (uint32_t round = 0; round < 20; round++) {
    uint32_t rows[] = {1, 3, 2}, n = round & 1 ? 2 : 3, total = 0, base = base_of(1, round & 1);
    let_record *r[3];
    for (uint32_t i = 0; i < n; i++) {
      r[i] = request(&s, base + i, rows[i], 100 * round + i);
      total += rows[i];
    }
    let_batch_msg b = batch(base, round, round & 1, 8, total, n);
    assert_true(let_lane_submit(s.lanes[1], round & 1, &b));
    assert_true(outcome(&s, 1, round & 1, &d));
    assert_int_equal(d.status, LET_OK);
    assert_int_equal(d.rows, total);
    for (uint32_t i = 0; i < n; i++) check_outputs(&s, r[i]);
  }
  /* A second lane set beside the first, which then drains. */
  expect(prepare(&s, 2, 1, m, 1), LET_IPC_PREPARED);
  one(&s, 2, 0, 1, 9);
  one(&s, 1, 0, 2, 9);
  retire(&s, 1);
  expect(event(&s), LET_IPC_RETIRED);
  one(&s, 2, 0, 3, 9);
  retire(&s, 1);
  expect(event(&s), LET_IPC_ERROR);
  nonsense(&s, 99);
  expect(event(&s), LET_IPC_ERROR);
  stop(&s);
  assert_int_equal(event(&s), GONE);
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
  expect(prepare(&s, 1, 1, &m, 1), LET_IPC_PREPARED);
  let_record *good = request(&s, 0, 2, 1), *tight = request_n(&s, 1, 2, ROW, 2, 300),
             *short_one = request_n(&s, 2, 1, ROW - 1, 3, 8192), *outside = request(&s, 3, 1, 4),
             *last = request(&s, 4, 1, 5);
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
  let_batch_msg bad[] = {batch(0, 1, 1, 4, 2, 1), batch(0, 2, 0, 3, 2, 1), batch(0, 3, 0, 8, 0, 0),
                         batch(0, 4, 0, 1, 2, 1), batch(63, 5, 0, 8, 1, 2)};
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
  m.input[0].dims[0] = m.output[0].dims[0] = -1;
  m.n_outputs = 1;
  let_done_msg d;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m, 1), LET_IPC_PREPARED);
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
      assert_memory_equal(let_ring_slot_at(s.arena, r[i]->out[0].offset), let_ring_slot_at(s.arena, r[i]->in[0].offset),
                          r[i]->in[0].bytes);
    }
  }
  assert_int_equal(finish(&s), 0);
}

/* A lane set that cannot be prepared leaves nothing behind, and the old one serves on. */
static void test_failing_prepare(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  snprintf(m[1].backend, sizeof m[1].backend, "onnx");
  start(&s, NULL, "cpu");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, m, 1), LET_IPC_PREPARED);
  for (int i = 0; i < 3; i++) {
    expect(prepare(&s, 2, 2, m, 2), LET_IPC_FAILED);
    assert_int_equal(number_of(&s, s.last.failed.set), 2);
    assert_string_equal(s.last.failed.model, "b");
    assert_int_equal(s.last.failed.code, LET_ERR_UNSUPPORTED);
    assert_non_null(strstr(s.last.failed.text, "onnx"));
    one(&s, 1, 0, 5, 3);
  }
  m[1] = null_model("b", 4); /* does not batch by 8, as prepare asks */
  m[1].output[0].dtype = LET_DTYPE_BYTES;
  expect(prepare(&s, 2, 1, m, 2), LET_IPC_FAILED);
  m[1] = null_model("b", 0);
  expect(prepare(&s, 2, 1, m, 2), LET_IPC_FAILED);
  nonsense(&s, LET_IPC_PREPARE); /* no lanes, no descriptors */
  expect(event(&s), LET_IPC_ERROR);
  one(&s, 1, 0, 6, 3);
  assert_int_equal(finish(&s), 0);
}

static void test_bad_init(void **state) {
  (void)state;
  static const char *const devices[] = {"", "toaster", "cpu:9999", "cpu:x", "cpu:0,"};
  for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
    server s;
    start(&s, NULL, devices[i]);
    expect(event(&s), LET_IPC_ERROR);
    assert_int_equal(event(&s), GONE);
    assert_int_equal(WEXITSTATUS(finish(&s)), 1);
  }
}

/* SIGKILL at each stage, at its first passage and a later one: the server sees the end of file and no bad message. */
static void test_killed(void **state) {
  (void)state;
  static const char *const faults[] = {"init:1",     "prepare:1",     "prepare:3",     "take:1",       "copied:2",
                                       "launched:1", "before_done:1", "before_done:3", "after_done:1", "after_done:2"};
  let_model m = null_model("a", 8);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
    server s;
    start(&s, faults[i], "cpu");
    int got = event(&s);
    if (i == 0) assert_int_equal(got, GONE);
    else {
      expect(got, LET_IPC_READY);
      got = prepare(&s, 1, 1, &m, 1);
      if (i < 3) assert_int_equal(got, GONE);
      else {
        expect(got, LET_IPC_PREPARED);
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
static void test_lane_sets(void **state) {
  (void)state;
  server s;
  let_model m[2] = {null_model("a", 8), null_model("b", 8)};
  long fds = 0, rss = 0;
  start(&s, NULL, "cpu");
  expect_ready(&s);
  for (int g = 1; g <= 50; g++) {
    expect(prepare(&s, g, 2, m, 2), LET_IPC_PREPARED);
    if (g > 1) {
      one(&s, g - 1, 0, 1, 1);
      retire(&s, g - 1);
      expect(event(&s), LET_IPC_RETIRED);
    }
    one(&s, g, 1, 2, 2);
    if (g == 25) {
      fds = number_in(s.pid, "fd");
      rss = number_in(s.pid, "status");
    }
  }
  assert_int_equal(number_in(s.pid, "fd"), fds);
  printf("worker RSS: %ld KiB after 25 lane sets, %ld KiB after 50\n", rss, number_in(s.pid, "status"));
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
    assert_string_equal(s[i].last.ready.device_type, "h200");
    assert_int_equal(s[i].last.ready.granules, 16);
    expect(prepare(&s[i], 1, LANES, m, 2), LET_IPC_PREPARED);
  }
  const let_ipc_size_time *size = &model_in(&s[0], 0, 1)->size[2];
  assert_int_equal(size->size, 8);
  assert_true(size->p50 >= 390 * LET_US); /* of varying shape too: the profile knows */
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
  expect(prepare(&s[0], 2, 1, m, 1), LET_IPC_FAILED);
  assert_string_equal(s[0].last.failed.model, "");
  assert_non_null(strstr(s[0].last.failed.text, "unheard-of"));
  for (int i = DEVICES; i-- > 0;)
    assert_int_equal(finish(&s[i]), 0); /* later children hold earlier ones' sockets: fork without exec */
  unlink(path);
  rmdir(dir);
  profile_dir = "";
}

/* A model that never comes back: the process ends itself and says why. */
static void test_stuck(void **state) {
  (void)state;
  server s;
  let_model m = null_model("a", 8);
  m.input[0].dims[0] = m.output[0].dims[0] = -1;
  m.n_outputs = 1; /* not measured, so not slow to prepare */
  m.null_us = 600 * 1000 * 1000;
  setenv("GPULET_WATCHDOG_MS", "50", 1);
  start(&s, NULL, "cpu");
  unsetenv("GPULET_WATCHDOG_MS");
  expect_ready(&s);
  expect(prepare(&s, 1, 1, &m, 1), LET_IPC_PREPARED);
  request_n(&s, 0, 1, 10, 0, 8192);
  let_batch_msg b = batch(0, 1, 0, 1, 1, 1);
  assert_true(let_lane_submit(s.lanes[1], 0, &b));
  expect(event(&s), LET_IPC_ERROR);
  assert_non_null(strstr(s.last.error.text, "stuck"));
  assert_int_equal(event(&s), GONE);
  assert_int_equal(WEXITSTATUS(finish(&s)), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_batches),         cmocka_unit_test(test_refusals), cmocka_unit_test(test_varying),
      cmocka_unit_test(test_failing_prepare), cmocka_unit_test(test_bad_init), cmocka_unit_test(test_killed),
      cmocka_unit_test(test_lane_sets),       cmocka_unit_test(test_sim),      cmocka_unit_test(test_stuck),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
