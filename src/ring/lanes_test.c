/* test: os label: thread
 * The rings: two threads over two mappings of the same memory, as server and worker have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "os/clock.h"
#include "ring/ring.h"

enum { LANES = 3 };

static uint64_t seed_of(void) {
  const char *s = getenv("SEED");
  uint64_t seed = s ? strtoull(s, NULL, 10) : 1;
  printf("SEED=%llu\n", (unsigned long long)seed);
  return seed;
}

static uint64_t rounds(void) { return 20000; }

static void connect(uint32_t n, let_lanes **server, let_lanes **worker) {
  let_error e = {0};
  int events[64];
  assert_int_equal(let_lanes_new(n, server, &e), LET_OK);
  for (uint32_t i = 0; i < n; i++) events[i] = dup(let_lanes_submit_event(*server, i));
  assert_int_equal(let_lanes_map(let_lanes_fd(*server), n, events, dup(let_lanes_done_event(*server)), worker, &e),
                   LET_OK);
  assert_int_equal(let_lanes_count(*worker), n);
}

typedef struct echo {
  let_lanes *l;
  uint32_t lane;
  uint64_t seed, bad, taken;
  int stop;
} echo;

static bool readable(int fd) {
  struct pollfd f = {.fd = fd, .events = POLLIN};
  return poll(&f, 1, 0) == 1;
}

/* Answers every batch, sometimes at once, sometimes after dozing off. */
static void *worker_main(void *arg) {
  echo *w = arg;
  let_rng rng;
  let_batch_msg m;
  let_done_msg d = {0};
  let_rng_seed(&rng, w->seed);
  for (;;) {
    while (let_lane_take(w->l, w->lane, &m)) {
      w->bad +=
          m.batch != w->taken || m.n != m.batch % LET_BATCH_MAX + 1 || m.record[m.n - 1] != (uint32_t)(m.batch * 31);
      w->taken++;
      d.batch = m.batch;
      d.rows = m.n;
      d.status = (int)(m.batch % 3);
      snprintf(d.text, sizeof d.text, "%u", (unsigned)m.batch);
      let_lane_done(w->l, w->lane, &d);
      if (let_rng_below(&rng, 8) == 0) sched_yield();
    }
    let_lane_wait(w->l, w->lane, w->stop, let_rng_below(&rng, 2) ? 0 : 20 * LET_US, LET_NEVER);
    if (readable(w->stop) && !let_lane_take(w->l, w->lane, &m)) return NULL;
  }
}

/* The server sleeps whenever nothing is there; a lost wake-up on either side would hang here. */
static void stress(bool one_mapping) {
  let_lanes *s, *w;
  pthread_t thread[LANES];
  echo echoes[LANES];
  uint64_t sent[LANES] = {0}, got[LANES] = {0}, left = rounds() * LANES;
  let_rng rng;
  let_rng_seed(&rng, seed_of());
  connect(LANES, &s, &w);
  if (one_mapping) {
    let_lanes_free(w);
    w = s;
  }
  int stop = eventfd(0, EFD_CLOEXEC);
  for (uint32_t i = 0; i < LANES; i++) {
    echoes[i] = (echo){.l = w, .lane = i, .seed = let_rng_u64(&rng), .stop = stop};
    assert_int_equal(pthread_create(&thread[i], NULL, worker_main, &echoes[i]), 0);
  }
  let_batch_msg m = {0};
  let_done_msg d;
  while (left) {
    bool corrupt = false, some = false;
    for (uint32_t i = 0; i < LANES; i++) {
      for (uint64_t burst = let_rng_below(&rng, 4); burst && sent[i] < rounds(); burst--) {
        m.batch = sent[i];
        m.n = (uint32_t)(sent[i] % LET_BATCH_MAX) + 1;
        m.record[m.n - 1] = (uint32_t)(sent[i] * 31);
        if (!let_lane_submit(s, i, &m)) break;
        sent[i]++;
        some = true;
      }
    }
    let_lanes_arm_done(s);
    if (let_rng_below(&rng, 2)) {
      let_lanes_disarm_done(s);
      let_lanes_arm_done(s);
    }
    for (uint32_t i = 0; i < LANES; i++)
      while (let_lane_take_done(s, i, &d, &corrupt)) {
        assert_int_equal(d.batch, got[i]);
        assert_int_equal(d.rows, got[i] % LET_BATCH_MAX + 1);
        assert_int_equal(atoi(d.text), (int)got[i]);
        got[i]++;
        left--;
        some = true;
      }
    assert_false(corrupt);
    bool flying = sent[0] > got[0] || sent[1] > got[1] || sent[2] > got[2];
    if (!some && flying && left) {
      struct pollfd f = {.fd = let_lanes_done_event(s), .events = POLLIN};
      assert_int_equal(poll(&f, 1, 60000), 1);
    }
  }
  uint64_t one = 1;
  assert_int_equal(write(stop, &one, sizeof one), sizeof one);
  for (uint32_t i = 0; i < LANES; i++) {
    pthread_join(thread[i], NULL);
    assert_int_equal(echoes[i].bad, 0);
    assert_int_equal(echoes[i].taken, rounds());
  }
  close(stop);
  if (!one_mapping) let_lanes_free(w);
  let_lanes_free(s);
}

/* As in production. */
static void test_stress(void **state) {
  (void)state;
  stress(false);
}

/* Both sides at the same addresses, so that the thread sanitizer sees what they do to each other. */
static void test_stress_one_mapping(void **state) {
  (void)state;
  stress(true);
}

/* In flight is bounded by the ring, however fast the worker takes; indices wrap. */
static void test_full(void **state) {
  (void)state;
  let_lanes *s, *w;
  let_batch_msg m = {.n = 1}, t;
  let_done_msg d = {0};
  bool corrupt = false;
  connect(1, &s, &w);
  for (int turn = 0; turn < 5; turn++) {
    for (int i = 0; i < LET_RING_ENTRIES; i++) assert_true(let_lane_submit(s, 0, &m));
    assert_false(let_lane_submit(s, 0, &m));
    for (int i = 0; i < LET_RING_ENTRIES; i++) assert_true(let_lane_take(w, 0, &t));
    assert_false(let_lane_take(w, 0, &t));
    assert_false(let_lane_submit(s, 0, &m)); /* taken, not answered */
    for (int i = 0; i < LET_RING_ENTRIES; i++) let_lane_done(w, 0, &d);
    assert_false(let_lane_submit(s, 0, &m));
    for (int i = 0; i < LET_RING_ENTRIES; i++) assert_true(let_lane_take_done(s, 0, &d, &corrupt));
    assert_false(let_lane_take_done(s, 0, &d, &corrupt));
  }
  assert_false(corrupt);
  let_lanes_free(w);
  let_lanes_free(s);
}

/* One event per sleep, none while awake. */
static void test_wake(void **state) {
  (void)state;
  let_lanes *s, *w;
  let_batch_msg m = {.n = 1}, t;
  let_done_msg d = {0};
  bool corrupt = false;
  connect(1, &s, &w);
  assert_true(let_lane_submit(s, 0, &m)); /* nobody sleeps: no system call */
  assert_false(readable(let_lanes_submit_event(s, 0)));
  let_lane_wait(w, 0, -1, 0, LET_NEVER); /* something is there: returns at once */
  assert_true(let_lane_take(w, 0, &t));
  let_lane_wait(w, 0, -1, LET_MS, LET_MS); /* times out */
  let_lane_done(w, 0, &d);
  assert_false(readable(let_lanes_done_event(s)));
  assert_true(let_lane_take_done(s, 0, &d, &corrupt));
  let_lanes_arm_done(s);
  for (int i = 0; i < 3; i++) {
    assert_true(let_lane_submit(s, 0, &m));
    assert_true(let_lane_take(w, 0, &t));
    let_lane_done(w, 0, &d);
  }
  uint64_t n;
  assert_int_equal(read(let_lanes_done_event(s), &n, sizeof n), sizeof n);
  assert_int_equal(n, 1);
  let_lanes_arm_done(s);
  let_lanes_disarm_done(s);
  assert_true(let_lane_submit(s, 0, &m));
  assert_true(let_lane_take(w, 0, &t));
  let_lane_done(w, 0, &d);
  assert_false(readable(let_lanes_done_event(s)));
  let_lanes_free(w);
  let_lanes_free(s);
}

/* Whatever a worker writes into the rings: the server answers false or corrupt, and never reads out of bounds. */
static void test_corrupt(void **state) {
  (void)state;
  uint64_t seed = seed_of();
  let_rng rng;
  let_rng_seed(&rng, seed);
  uint32_t found = 0;
  for (int turn = 0; turn < 200; turn++) {
    let_lanes *s, *w;
    let_batch_msg m = {.n = 1};
    let_done_msg d;
    bool corrupt = false;
    connect(1, &s, &w);
    uint64_t bytes = (uint64_t)lseek(let_lanes_fd(s), 0, SEEK_END);
    uint32_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, let_lanes_fd(s), 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    for (int i = 0; i < 5; i++) assert_true(let_lane_submit(s, 0, &m));
    for (uint64_t i = 0; i < bytes / 4; i++)
      if (i < 2048 || let_rng_below(&rng, 16) == 0) p[i] = (uint32_t)let_rng_u64(&rng);
    uint32_t taken = 0;
    for (int i = 0; i < 200; i++) {
      let_lane_submit(s, 0, &m);
      taken += let_lane_take_done(s, 0, &d, &corrupt);
      let_lanes_arm_done(s);
    }
    assert_true(taken <= 205);
    found += corrupt;
    munmap(p, bytes);
    let_lanes_free(w);
    let_lanes_free(s);
  }
  assert_true(found > 150);
}

static void test_refused(void **state) {
  (void)state;
  let_lanes *s, *w;
  let_error e;
  int events[2] = {-1, -1}, fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  assert_int_equal(let_lanes_new(0, &s, &e), LET_ERR_INVALID);
  assert_int_equal(let_lanes_new(65, &s, &e), LET_ERR_INVALID);
  assert_int_equal(let_lanes_new(1, &s, &e), LET_OK);
  assert_int_equal(let_lanes_map(let_lanes_fd(s), 2, events, -1, &w, &e), LET_ERR_INVALID);
  assert_int_equal(let_lanes_map(fd, 1, events, -1, &w, &e), LET_ERR_INVALID);
  close(fd);
  let_lanes_free(s);
  let_lanes_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stress),  cmocka_unit_test(test_stress_one_mapping),
      cmocka_unit_test(test_full),    cmocka_unit_test(test_wake),
      cmocka_unit_test(test_corrupt), cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
