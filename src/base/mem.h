/* mem.h: allocation is an argument. let_mem is the source of memory; let_arena hands out pieces that live and
 * die together (a parsed file, a plan, a connection). */
#ifndef LET_BASE_MEM_H
#define LET_BASE_MEM_H

#include <stddef.h>

/* |resize|(ctx, p, old, want): p == NULL allocates, want == 0 frees, NULL on failure (p stays valid). */
typedef struct let_mem {
  void *(*resize)(void *ctx, void *p, size_t old, size_t want);
  void *ctx;
} let_mem;

extern const let_mem let_mem_libc; /* malloc, realloc, free */

/* For tests: fails the allocation number |fail_at| (counted from 0) and every later one when |forever|. */
typedef struct let_mem_failing {
  let_mem mem; /* pass &f.mem */
  long count, fail_at;
  int forever;
  long live; /* bytes not yet given back */
} let_mem_failing;
void let_mem_failing_init(let_mem_failing *f, long fail_at, int forever);

static inline void *let_mem_alloc(const let_mem *m, size_t n) { return m->resize(m->ctx, NULL, 0, n ? n : 1); }
static inline void *let_mem_realloc(const let_mem *m, void *p, size_t old, size_t n) {
  return m->resize(m->ctx, p, old, n ? n : 1);
}
static inline void let_mem_free(const let_mem *m, void *p, size_t old) {
  if (p) (void)m->resize(m->ctx, p, old, 0);
}
void *let_mem_zalloc(const let_mem *m, size_t n);

typedef struct let_arena_block let_arena_block;
typedef struct let_arena {
  const let_mem *mem;
  let_arena_block *last;
} let_arena;

void let_arena_init(let_arena *a, const let_mem *mem);
void let_arena_fini(let_arena *a);                              /* frees everything; the arena may be used again */
void *let_arena_alloc(let_arena *a, size_t n);                  /* zeroed, 16-byte aligned; NULL when out of memory */
void *let_arena_array(let_arena *a, size_t count, size_t size); /* NULL on overflow too */
char *let_arena_strdup(let_arena *a, const char *s, size_t n);  /* copies n bytes and terminates */

#endif
