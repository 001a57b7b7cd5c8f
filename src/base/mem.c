#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *libc_resize(void *ctx, void *p, size_t old, size_t want) {
  (void)ctx, (void)old;
  if (want == 0) return free(p), NULL;
  return realloc(p, want);
}
const let_mem let_mem_libc = {libc_resize, NULL};

static void *failing_resize(void *ctx, void *p, size_t old, size_t want) {
  let_mem_failing *f = ctx;
  if (want == 0) return f->live -= (long)old, free(p), NULL;
  long n = f->count++;
  if (f->fail_at >= 0 && (n == f->fail_at || (f->forever && n > f->fail_at))) return NULL;
  void *q = realloc(p, want);
  if (q) f->live += (long)want - (long)old;
  return q;
}

void let_mem_failing_init(let_mem_failing *f, long fail_at, int forever) {
  *f = (let_mem_failing){.mem = {failing_resize, f}, .fail_at = fail_at, .forever = forever};
}

void *let_mem_zalloc(const let_mem *m, size_t n) {
  void *p = let_mem_alloc(m, n);
  return p ? memset(p, 0, n) : NULL;
}

struct let_arena_block {
  let_arena_block *prev;
  size_t size, used; /* of the whole block, header included */
};
enum { HEADER = (sizeof(let_arena_block) + 15) / 16 * 16, BLOCK = 16 * 1024 };

void let_arena_init(let_arena *a, const let_mem *mem) { *a = (let_arena){.mem = mem}; }

void let_arena_fini(let_arena *a) {
  while (a->last) {
    let_arena_block *b = a->last;
    a->last = b->prev;
    let_mem_free(a->mem, b, b->size);
  }
}

void *let_arena_alloc(let_arena *a, size_t n) {
  if (n > SIZE_MAX / 2) return NULL;
  n = (n + 15) / 16 * 16;
  let_arena_block *b = a->last;
  if (!b || b->size - b->used < n) {
    size_t size = n + HEADER > BLOCK ? n + HEADER : BLOCK;
    b = let_mem_alloc(a->mem, size);
    if (!b) return NULL;
    *b = (let_arena_block){.prev = a->last, .size = size, .used = HEADER};
    a->last = b;
  }
  void *p = (char *)b + b->used;
  b->used += n;
  return memset(p, 0, n);
}

void *let_arena_array(let_arena *a, size_t count, size_t size) {
  size_t n;
  return __builtin_mul_overflow(count, size, &n) ? NULL : let_arena_alloc(a, n);
}

char *let_arena_strdup(let_arena *a, const char *s, size_t n) {
  char *p = n < SIZE_MAX ? let_arena_alloc(a, n + 1) : NULL;
  if (p && n) memcpy(p, s, n);
  return p;
}
