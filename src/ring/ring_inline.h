/* ring_inline.h: bodies for ring.h. */
#ifndef LET_RING_RING_INLINE_H
#define LET_RING_RING_INLINE_H

static inline void *let_ring_slot_at(const let_ring_arena *a, uint64_t offset) {
  return (char *)let_ring_arena_base(a) + offset;
}

#endif
