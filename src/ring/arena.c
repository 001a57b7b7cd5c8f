/* arena.c: the memory that tensors and records lie in, and a buddy allocator over it.
 *
 * Layout: one page of header, the records, then 2^k pages of slots. The allocator's state is the server's own: a
 * worker can scribble over everything here and the server still hands out what it thinks it does.
 *
 * State: a complete binary tree over the pages, one byte per node: 1 + the order of the largest free block below
 * it, 0 when there is none. A block that is handed out has 0 at its node and an untouched (free) tree below, which
 * is how free() finds its size again. */
#include <string.h>
#include <unistd.h>

#include "os/shm.h"
#include "ring/ring.h"

enum { PAGE_SHIFT = 12, PAGE = 1 << PAGE_SHIFT, ORDER_MAX = 32 };

#define MAGIC UINT64_C(0x31616e6572616c67) /* "glarena1" */

typedef struct header {
  uint64_t magic;
  uint32_t record_bytes, records;
  uint64_t slots, bytes; /* offset of the first slot, size of everything */
} header;

struct let_ring_arena {
  char *base;
  uint64_t size, slots, used;
  uint32_t records;
  int fd; /* -1: mapped from a descriptor of the caller's */
  unsigned order;
  uint8_t *tree; /* 2^(order+1) nodes, root at 1; NULL on the worker's side */
  const let_mem *mem;
};

static uint64_t records_end(uint32_t records) {
  return ((uint64_t)PAGE + records * sizeof(let_record) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

static uint8_t join(uint8_t a, uint8_t b, unsigned child_order) {
  if (a == child_order + 1 && b == child_order + 1) return (uint8_t)(child_order + 2);
  return a > b ? a : b;
}

let_err let_ring_arena_new(uint64_t bytes, uint32_t records, const let_mem *mem, let_ring_arena **ret, let_error *e) {
  unsigned order = 0;
  while (order < ORDER_MAX && ((uint64_t)PAGE << order) < bytes) order++;
  if (((uint64_t)PAGE << order) < bytes)
    return let_fail(e, LET_ERR_NOMEM, "an arena of %llu bytes is too large (at most 16 TiB)",
                    (unsigned long long)bytes);
  let_ring_arena *a = let_mem_zalloc(mem, sizeof *a);
  if (!a) return let_fail(e, LET_ERR_NOMEM, "out of memory for the arena");
  size_t nodes = (size_t)2 << order;
  *a = (let_ring_arena){.fd = -1, .order = order, .mem = mem, .records = records, .slots = records_end(records)};
  uint64_t total = a->slots + ((uint64_t)PAGE << order);
  void *base = NULL;
  let_err r = LET_OK;
  if (!(a->tree = let_mem_alloc(mem, nodes)))
    r = let_fail(e, LET_ERR_NOMEM, "out of memory for the arena's %zu nodes", nodes);
  if (!r) r = let_shm_create("gpulet-arena", total, &a->fd, e);
  if (!r) r = let_shm_map(a->fd, &base, &a->size, e);
  if (r) {
    let_ring_arena_free(a);
    return r;
  }
  a->base = base;
  for (unsigned depth = 0; depth <= order; depth++)
    memset(a->tree + ((size_t)1 << depth), (int)(order - depth + 1), (size_t)1 << depth);
  a->tree[0] = 0;
  *(header *)base = (header){MAGIC, sizeof(let_record), records, a->slots, total};
  *ret = a;
  return LET_OK;
}

let_err let_ring_arena_map(int fd, let_ring_arena **ret, let_error *e) {
  void *base;
  uint64_t size;
  let_err r = let_shm_map(fd, &base, &size, e);
  if (r) return r;
  header h = {0};
  if (size >= PAGE) memcpy(&h, base, sizeof h);
  if (h.magic != MAGIC || h.record_bytes != sizeof(let_record) || h.bytes != size ||
      h.slots != records_end(h.records) || h.slots > size) {
    let_shm_unmap(base, size);
    return let_fail(e, LET_ERR_INVALID, "the shared memory is not an arena of this version of gpulet");
  }
  let_ring_arena *a = let_mem_zalloc(&let_mem_libc, sizeof *a);
  if (!a) {
    let_shm_unmap(base, size);
    return let_fail(e, LET_ERR_NOMEM, "out of memory for the arena");
  }
  *a = (let_ring_arena){
      .base = base, .size = size, .slots = h.slots, .records = h.records, .fd = -1, .mem = &let_mem_libc};
  *ret = a;
  return LET_OK;
}

void let_ring_arena_free(let_ring_arena *a) {
  if (!a) return;
  let_shm_unmap(a->base, a->size);
  if (a->fd >= 0) close(a->fd);
  let_mem_free(a->mem, a->tree, (size_t)2 << a->order);
  let_mem_free(a->mem, a, sizeof *a);
}

int let_ring_arena_fd(const let_ring_arena *a) { return a->fd; }
void *let_ring_arena_base(const let_ring_arena *a) { return a->base; }
uint64_t let_ring_arena_size(const let_ring_arena *a) { return a->size; }
uint32_t let_ring_arena_records(const let_ring_arena *a) { return a->records; }
uint64_t let_ring_arena_used(const let_ring_arena *a) { return a->used; }

let_record *let_ring_arena_record(const let_ring_arena *a, uint32_t index) {
  LET_ASSERT(index < a->records);
  return (let_record *)(void *)(a->base + PAGE) + index;
}

bool let_ring_arena_holds(const let_ring_arena *a, uint64_t offset, uint64_t bytes) {
  return offset >= a->slots && offset <= a->size && bytes <= a->size - offset;
}

uint64_t let_ring_slot_alloc(let_ring_arena *a, uint64_t bytes) {
  LET_ASSERT(a->tree);
  unsigned want = 0;
  while (want < a->order && ((uint64_t)PAGE << want) < bytes) want++;
  if (((uint64_t)PAGE << want) < bytes || a->tree[1] < want + 1) return LET_SLOT_NONE;
  size_t at = 1;
  unsigned order = a->order;
  /* The fuller of two halves that fit: large blocks stay whole, and warm pages are used again. */
  while (order > want) {
    uint8_t l = a->tree[2 * at], r = a->tree[2 * at + 1];
    at = 2 * at + (l < want + 1 || (r >= want + 1 && r < l));
    order--;
  }
  uint64_t slot = ((uint64_t)(at - ((size_t)1 << (a->order - order))) << (order + PAGE_SHIFT)) + a->slots;
  a->tree[at] = 0;
  a->used += (uint64_t)PAGE << order;
  for (; at > 1; at /= 2, order++) a->tree[at / 2] = join(a->tree[at], a->tree[at ^ 1], order);
  return slot;
}

/* The node of a slot that is handed out; its order in *ret. Anything else is a bug of the caller's. */
static size_t node_of(const let_ring_arena *a, uint64_t slot, unsigned *ret) {
  LET_ASSERT(a->tree && slot >= a->slots && slot < a->size && (slot - a->slots) % PAGE == 0);
  size_t page = (slot - a->slots) >> PAGE_SHIFT, at = ((size_t)1 << a->order) + page;
  unsigned order = 0;
  while (at > 1 && a->tree[at]) {
    at /= 2;
    order++;
  }
  LET_ASSERT(a->tree[at] == 0 && page % ((size_t)1 << order) == 0);
  LET_ASSERT(order == 0 || a->tree[2 * at]); /* a full inner node: this slot was never handed out */
  *ret = order;
  return at;
}

void let_ring_slot_free(let_ring_arena *a, uint64_t slot) {
  unsigned order;
  if (slot == LET_SLOT_NONE) return;
  size_t at = node_of(a, slot, &order);
  a->tree[at] = (uint8_t)(order + 1);
  a->used -= (uint64_t)PAGE << order;
  for (; at > 1; at /= 2, order++) a->tree[at / 2] = join(a->tree[at], a->tree[at ^ 1], order);
}

uint64_t let_ring_slot_bytes(const let_ring_arena *a, uint64_t slot) {
  unsigned order;
  (void)node_of(a, slot, &order);
  return (uint64_t)PAGE << order;
}

static bool pristine(const let_ring_arena *a, size_t at, unsigned order) {
  if (a->tree[at] != order + 1) return false;
  return order == 0 || (pristine(a, 2 * at, order - 1) && pristine(a, 2 * at + 1, order - 1));
}

static bool check(const let_ring_arena *a, size_t at, unsigned order, uint64_t *used) {
  uint8_t v = a->tree[at];
  if (order == 0) {
    if (v == 0) *used += PAGE;
    return v <= 1;
  }
  uint8_t l = a->tree[2 * at], r = a->tree[2 * at + 1];
  if (v == 0 && (l || r)) { /* handed out whole */
    *used += (uint64_t)PAGE << order;
    return pristine(a, 2 * at, order - 1) && pristine(a, 2 * at + 1, order - 1);
  }
  return v == join(l, r, order - 1) && check(a, 2 * at, order - 1, used) && check(a, 2 * at + 1, order - 1, used);
}

bool let_ring_arena_validate(const let_ring_arena *a) {
  uint64_t used = 0;
  return a->tree && check(a, 1, a->order, &used) && used == a->used;
}
