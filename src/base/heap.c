#include "base/heap.h"

#include "base/err.h"

bool let_heap_init(let_heap *h, const let_mem *mem, uint32_t cap) {
  *h = (let_heap){.mem = mem, .cap = cap};
  h->node = let_mem_alloc(mem, cap * sizeof *h->node);
  return h->node != 0;
}

void let_heap_fini(let_heap *h) {
  let_mem_free(h->mem, h->node, h->cap * sizeof *h->node);
  *h = (let_heap){0};
}

static bool before(const let_heap_node *a, const let_heap_node *b) {
  return a->key != b->key ? a->key < b->key : a->serial < b->serial;
}

static void place(let_heap *h, let_heap_node *x, uint32_t at) { h->node[at] = x, x->at = at; }

static void up(let_heap *h, let_heap_node *x, uint32_t at) {
  while (at > 0 && before(x, h->node[(at - 1) / 2])) {
    place(h, h->node[(at - 1) / 2], at);
    at = (at - 1) / 2;
  }
  place(h, x, at);
}

static void down(let_heap *h, let_heap_node *x, uint32_t at) {
  for (;;) {
    uint32_t k = 2 * at + 1;
    if (k >= h->n) break;
    if (k + 1 < h->n && before(h->node[k + 1], h->node[k])) k++;
    if (!before(h->node[k], x)) break;
    place(h, h->node[k], at);
    at = k;
  }
  place(h, x, at);
}

bool let_heap_push(let_heap *h, let_heap_node *x, int64_t key) {
  LET_ASSERT(x->at == LET_HEAP_OUT);
  if (h->n == h->cap) return false;
  x->key = key;
  x->serial = h->serial++;
  up(h, x, h->n++);
  return true;
}

void let_heap_remove(let_heap *h, let_heap_node *x) {
  LET_ASSERT(x->at < h->n && h->node[x->at] == x);
  uint32_t at = x->at;
  let_heap_node *last = h->node[--h->n];
  x->at = LET_HEAP_OUT;
  if (last == x) return;
  if (at > 0 && before(last, h->node[(at - 1) / 2])) up(h, last, at);
  else down(h, last, at);
}

bool let_heap_valid(const let_heap *h) {
  for (uint32_t i = 0; i < h->n; i++)
    if (h->node[i]->at != i || (i > 0 && before(h->node[i], h->node[(i - 1) / 2]))) return false;
  return true;
}
