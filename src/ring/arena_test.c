#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"
#include "os/shm.h"
#include "ring/ring.h"

enum { MIB = 1 << 20, SLOTS = 512 };

static let_ring_arena *make(uint64_t bytes, uint32_t records) {
  let_ring_arena *a;
  let_error e = {0};
  assert_int_equal(let_ring_arena_new(bytes, records, &let_mem_libc, &a, &e), LET_OK);
  assert_true(let_ring_arena_validate(a));
  return a;
}

static void test_random(void **state) {
  (void)state;
  struct {
    uint64_t at, bytes;
    unsigned char mark;
  } held[SLOTS];
  uint64_t seed = 20240501;
  printf("seed %llu\n", (unsigned long long)seed);
  let_rng rng;
  let_rng_seed(&rng, seed);
  let_ring_arena *a = make(4 * MIB, 100);
  uint32_t n = 0, refused = 0;
  for (int step = 0; step < 20000; step++) {
    if (n < SLOTS && let_rng_below(&rng, 100) < 55) {
      uint64_t bytes = let_rng_below(&rng, 10) ? 1 + let_rng_below(&rng, 9000) : let_rng_below(&rng, 300000);
      uint64_t at = let_ring_slot_alloc(a, bytes);
      if (at == LET_SLOT_NONE) {
        refused++;
        continue;
      }
      assert_true(let_ring_slot_bytes(a, at) >= bytes);
      assert_int_equal((uintptr_t)let_ring_slot_at(a, at) % 4096, 0);
      assert_true(let_ring_arena_holds(a, at, bytes));
      unsigned char mark = (unsigned char)step;
      held[n].at = at;
      held[n].bytes = bytes;
      held[n].mark = mark;
      n++;
      if (bytes) {
        memset(let_ring_slot_at(a, at), mark, 1);
        ((unsigned char *)let_ring_slot_at(a, at))[bytes - 1] = mark;
      }
    } else if (n) {
      uint32_t i = (uint32_t)let_rng_below(&rng, n);
      const unsigned char *p = let_ring_slot_at(a, held[i].at);
      if (held[i].bytes) {
        assert_int_equal(p[0], held[i].mark);
        assert_int_equal(p[held[i].bytes - 1], held[i].mark);
      }
      let_ring_slot_free(a, held[i].at);
      held[i] = held[--n];
    }
    if (step % 200 == 0) assert_true(let_ring_arena_validate(a));
  }
  assert_true(refused > 0); /* the run reached exhaustion */
  while (n) let_ring_slot_free(a, held[--n].at);
  assert_true(let_ring_arena_validate(a));
  assert_int_equal(let_ring_arena_used(a), 0);
  /* Everything has merged: the whole is one block again. */
  uint64_t all = let_ring_slot_alloc(a, 4 * MIB);
  assert_true(all != LET_SLOT_NONE);
  assert_int_equal(let_ring_slot_alloc(a, 1), LET_SLOT_NONE);
  assert_true(let_ring_arena_validate(a));
  let_ring_slot_free(a, all);
  let_ring_slot_free(a, LET_SLOT_NONE);
  let_ring_arena_free(a);
}

static void test_exhaustion(void **state) {
  (void)state;
  let_ring_arena *a = make(100 * 4096, 1); /* rounded up to 128 pages */
  uint64_t at[128];
  for (int i = 0; i < 128; i++) assert_true((at[i] = let_ring_slot_alloc(a, 0)) != LET_SLOT_NONE);
  assert_int_equal(let_ring_slot_alloc(a, 1), LET_SLOT_NONE);
  assert_int_equal(let_ring_slot_alloc(a, UINT64_MAX), LET_SLOT_NONE);
  for (int i = 0; i < 128; i += 2) let_ring_slot_free(a, at[i]);
  assert_int_equal(let_ring_slot_alloc(a, 4097), LET_SLOT_NONE); /* half is free, no two neighbours are */
  assert_int_equal(let_ring_arena_used(a), 64 * 4096);
  assert_true(let_ring_arena_validate(a));
  for (int i = 1; i < 128; i += 2) let_ring_slot_free(a, at[i]);
  assert_true(let_ring_arena_validate(a));
  let_ring_arena_free(a);
  let_ring_arena_free(NULL);
}

static void test_map(void **state) {
  (void)state;
  let_ring_arena *a = make(MIB, 33), *b;
  let_error e = {0};
  assert_int_equal(let_ring_arena_map(let_ring_arena_fd(a), &b, &e), LET_OK);
  assert_int_equal(let_ring_arena_records(b), 33);
  assert_int_equal(let_ring_arena_size(b), let_ring_arena_size(a));
  let_ring_arena_record(a, 32)->rows = 17;
  assert_int_equal(let_ring_arena_record(b, 32)->rows, 17);
  uint64_t s = let_ring_slot_alloc(a, 5000);
  strcpy(let_ring_slot_at(a, s), "hello");
  assert_string_equal(let_ring_slot_at(b, s), "hello");
  assert_true(let_ring_arena_holds(b, s, 5000));
  assert_true(let_ring_arena_holds(b, let_ring_arena_size(b), 0));
  assert_false(let_ring_arena_holds(b, let_ring_arena_size(b) - 10, 11));
  assert_false(let_ring_arena_holds(b, 0, 1)); /* header and records */
  assert_false(let_ring_arena_holds(b, s, UINT64_MAX));
  assert_false(let_ring_arena_holds(b, UINT64_MAX, 1));
  let_ring_arena_free(b);

  uint32_t *header = let_ring_arena_base(a);
  for (int i = 0; i < 8; i++) { /* magic, record size, records, slots, bytes: any of them wrong is refused */
    header[i] ^= 1u << 20;
    assert_int_equal(let_ring_arena_map(let_ring_arena_fd(a), &b, &e), LET_ERR_INVALID);
    header[i] ^= 1u << 20;
  }
  let_ring_arena_free(a);
  int fd;
  assert_int_equal(let_shm_create("small", 100, &fd, &e), LET_OK);
  assert_int_equal(let_ring_arena_map(fd, &b, &e), LET_ERR_INVALID);
  close(fd);
  assert_int_equal(let_ring_arena_new((uint64_t)1 << 60, 1, &let_mem_libc, &a, &e), LET_ERR_NOMEM);
}

static void test_no_memory(void **state) {
  (void)state;
  for (long fail = 0;; fail++) {
    let_mem_failing f;
    let_ring_arena *a = NULL;
    let_mem_failing_init(&f, fail, 1);
    let_err r = let_ring_arena_new(MIB, 4, &f.mem, &a, NULL);
    let_ring_arena_free(a);
    assert_int_equal(f.live, 0);
    if (r == LET_OK) {
      assert_true(fail > 0);
      return;
    }
    assert_int_equal(r, LET_ERR_NOMEM);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_random),
      cmocka_unit_test(test_exhaustion),
      cmocka_unit_test(test_map),
      cmocka_unit_test(test_no_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
