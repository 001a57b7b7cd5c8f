/* heap.h: an intrusive binary heap over caller-owned nodes: no allocation beyond one array of pointers that the
 * caller reserves. Equal keys keep their order of insertion (a serial number breaks ties), so runs repeat. */
#ifndef LET_BASE_HEAP_H
#define LET_BASE_HEAP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

enum { LET_HEAP_OUT = UINT32_MAX };

/* Embed one per heap the object can be in. Call let_heap_node_init once. */
typedef struct let_heap_node {
  int64_t key;
  uint64_t serial;
  uint32_t at; /* position, or LET_HEAP_OUT */
} let_heap_node;

typedef struct let_heap {
  let_heap_node **node;
  uint32_t n, cap;
  uint64_t serial;
  const let_mem *mem;
} let_heap;

static inline void let_heap_node_init(let_heap_node *x) { x->at = LET_HEAP_OUT; }
static inline bool let_heap_has(const let_heap_node *x) { return x->at != LET_HEAP_OUT; }

bool let_heap_init(let_heap *h, const let_mem *mem, uint32_t cap); /* false: out of memory */
void let_heap_fini(let_heap *h);                                   /* nodes stay the caller's */
bool let_heap_push(let_heap *h, let_heap_node *x, int64_t key);    /* false: full */
void let_heap_remove(let_heap *h, let_heap_node *x);               /* x must be in h */
static inline let_heap_node *let_heap_top(const let_heap *h) { return h->n ? h->node[0] : 0; }
bool let_heap_valid(const let_heap *h);

#define LET_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
