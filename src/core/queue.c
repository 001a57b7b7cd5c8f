/* queue.c: the queue of one model: a treap over the core's entries, ordered by (priority, deadline, insertion). */
#include <stddef.h>

#include "core/core_int.h"

static int64_t clamp_deadline(let_time t) { return t < 0 ? 0 : t > LET__DEADLINE_MAX ? LET__DEADLINE_MAX : t; }

static int64_t pack(uint32_t priority, let_time deadline) {
  return ((int64_t)priority - 128) * ((int64_t)1 << 56) + clamp_deadline(deadline);
}

let__key let__key_of(const let__model *m, const let_request *r, uint64_t serial) {
  uint32_t p = r->priority ? r->priority : m->m->default_priority;
  if (p < 1) p = 1;
  if (p > m->levels) p = m->levels;
  return (let__key){pack(p, r->deadline), serial};
}

let__key let__key_at(uint32_t priority, let_time deadline) { return (let__key){pack(priority, deadline), 0}; }
uint32_t let__key_priority(let__key k) { return (uint32_t)((k.at >> 56) + 128); }

static bool before(let__key a, let__key b) { return a.at != b.at ? a.at < b.at : a.serial < b.serial; }

/* node.at of a request is the index of its entry; outside the core it is LET_HEAP_OUT. */
bool let__entry_take(let_core *c, let_request *r) {
  uint32_t i = c->free_entry;
  if (i != LET__NONE) c->free_entry = c->entry[i].left;
  else if (c->fresh_entry < c->limits.requests) i = c->fresh_entry++;
  else return false;
  c->used_entries++;
  c->entry[i] = (let__entry){.r = r, .left = LET__NONE, .right = LET__NONE};
  r->node.at = i;
  return true;
}

void let__entry_give(let_core *c, let_request *r) {
  let__entry *x = &c->entry[r->node.at];
  *x = (let__entry){.left = c->free_entry};
  c->free_entry = r->node.at;
  c->used_entries--;
  r->node.at = LET_HEAP_OUT;
}

static void sum(let_core *c, uint32_t i) {
  let__entry *x = &c->entry[i];
  x->rows = x->r->rows;
  x->deadline = clamp_deadline(x->r->deadline);
  x->arrival = x->r->arrival;
  const uint32_t kid[2] = {x->left, x->right};
  for (int k = 0; k < 2; k++) {
    if (kid[k] == LET__NONE) continue;
    const let__entry *y = &c->entry[kid[k]];
    x->rows += y->rows;
    if (y->deadline < x->deadline) x->deadline = y->deadline;
    if (y->arrival < x->arrival) x->arrival = y->arrival;
  }
}

static uint32_t hash(uint64_t x) { /* splitmix64 */
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return (uint32_t)((x ^ (x >> 31)) >> 32);
}

/* Recursion is as deep as the tree: about 2 log2(n) expected, whatever the order of arrivals. */
static void split(let_core *c, uint32_t t, let__key k, uint32_t *low, uint32_t *high) {
  if (t == LET__NONE) {
    *low = *high = LET__NONE;
    return;
  }
  let__entry *x = &c->entry[t];
  if (before(x->key, k)) {
    split(c, x->right, k, &x->right, high);
    *low = t;
  } else {
    split(c, x->left, k, low, &x->left);
    *high = t;
  }
  sum(c, t);
}

static uint32_t merge(let_core *c, uint32_t low, uint32_t high) {
  if (low == LET__NONE) return high;
  if (high == LET__NONE) return low;
  let__entry *a = &c->entry[low], *b = &c->entry[high];
  if (a->rank < b->rank) {
    a->right = merge(c, a->right, high);
    sum(c, low);
    return low;
  }
  b->left = merge(c, low, b->left);
  sum(c, high);
  return high;
}

static uint32_t insert(let_core *c, uint32_t t, uint32_t i) {
  let__entry *x = &c->entry[i];
  if (t == LET__NONE || x->rank < c->entry[t].rank) {
    split(c, t, x->key, &x->left, &x->right);
    sum(c, i);
    return i;
  }
  let__entry *y = &c->entry[t];
  if (before(x->key, y->key)) y->left = insert(c, y->left, i);
  else y->right = insert(c, y->right, i);
  sum(c, t);
  return t;
}

static uint32_t take_out(let_core *c, uint32_t t, uint32_t i) {
  LET_ASSERT(t != LET__NONE);
  let__entry *y = &c->entry[t];
  if (t == i) return merge(c, y->left, y->right);
  if (before(c->entry[i].key, y->key)) y->left = take_out(c, y->left, i);
  else y->right = take_out(c, y->right, i);
  sum(c, t);
  return t;
}

void let__queue_put(let_core *c, let__model *m, let_request *r) {
  uint32_t i = r->node.at;
  let__entry *x = &c->entry[i];
  x->left = x->right = LET__NONE;
  x->key = let__key_of(m, r, ++c->serial);
  x->rank = hash(c->serial);
  m->root = insert(c, m->root, i);
  m->queued++;
  r->state = LET_REQUEST_QUEUED;
}

void let__queue_remove(let_core *c, let__model *m, let_request *r) {
  m->root = take_out(c, m->root, r->node.at);
  m->queued--;
}

uint32_t let__queue_from(const let_core *c, const let__model *m, let__key k) {
  uint32_t best = LET__NONE;
  for (uint32_t t = m->root; t != LET__NONE;) {
    const let__entry *x = &c->entry[t];
    if (before(x->key, k)) t = x->right;
    else {
      best = t;
      t = x->left;
    }
  }
  return best;
}

uint64_t let__queue_rows_before(const let_core *c, const let__model *m, let__key k) {
  uint64_t rows = 0;
  for (uint32_t t = m->root; t != LET__NONE;) {
    const let__entry *x = &c->entry[t];
    if (!before(x->key, k)) {
      t = x->left;
      continue;
    }
    rows += x->r->rows + (x->left != LET__NONE ? c->entry[x->left].rows : 0);
    t = x->right;
  }
  return rows;
}

uint32_t let__queue_most_urgent(const let_core *c, const let__model *m) {
  uint32_t t = m->root;
  while (t != LET__NONE) {
    const let__entry *x = &c->entry[t];
    if (x->left != LET__NONE && c->entry[x->left].deadline == x->deadline) t = x->left;
    else if (clamp_deadline(x->r->deadline) == x->deadline) return t;
    else t = x->right;
  }
  return LET__NONE;
}
