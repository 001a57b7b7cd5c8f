/* batch.c: chooses the requests of a batch, and keeps the batches that are on a ring. */
#include <stddef.h>

#include "core/core_int.h"

/* The first entry at or after |k| whose deadline is |by| or later. Deadlines ascend within a priority level, so the
 * search enters each level at its first such entry. */
static uint32_t next_by(const let_core *c, const let__model *m, let__key k, let_time by) {
  for (;;) {
    uint32_t i = let__queue_from(c, m, k);
    if (i == LET__NONE || c->entry[i].r->deadline >= by) return i;
    let__key level = let__key_at(let__key_priority(c->entry[i].key), by);
    k = (let__key){c->entry[i].key.at, c->entry[i].key.serial + 1};
    if (level.at > k.at) k = level;
  }
}

/* The next entry after |i| that can be in |p|. A request with more rows than the size that |p| is made for runs in a
 * batch of its own. */
static uint32_t next_in(const let_core *c, const let__model *m, const let__route *r, const let__pick *p, uint32_t i) {
  let__key k = i == LET__NONE ? (let__key){INT64_MIN, 0} : (let__key){c->entry[i].key.at, c->entry[i].key.serial + 1};
  for (;;) {
    i = next_by(c, m, k, p->by);
    if (i == LET__NONE || c->entry[i].r->rows <= r->variant[p->made_for].size) return i;
    k = (let__key){c->entry[i].key.at, c->entry[i].key.serial + 1};
  }
}

/* In order, all requests that fit into a batch of size |k| and are in time if it ends at |end|. */
static let__pick take(const let_core *c, const let__model *m, const let__route *r, uint32_t k, let_time end) {
  let__pick p = {.by = end, .least = LET_NEVER, .made_for = k};
  for (uint32_t i = next_in(c, m, r, &p, LET__NONE); i != LET__NONE && p.n < LET_BATCH_MAX;
       i = next_in(c, m, r, &p, i)) {
    const let_request *q = c->entry[i].r;
    p.full = p.rows + q->rows > r->variant[k].size;
    if (p.full) break;
    if (p.n == 0) p.first = i;
    if (q->deadline < p.least) p.least = q->deadline;
    p.n++;
    p.rows += q->rows;
  }
  p.size = p.n ? let__size_for(r, p.rows) : 0;
  return p;
}

/* The largest size that requests fill which are in time even if it starts |doubt| later. Where they leave room,
 * requests that are in time without the doubt fill it. */
static let__pick fullest(const let_core *c, const let__model *m, const let__route *r, let_time start, let_dur doubt,
                         uint32_t most) {
  for (uint32_t k = most;; k--) {
    let_time end = start + r->variant[k].predict;
    let__pick p = take(c, m, r, k, end + doubt);
    if (k > 0 && p.rows <= r->variant[k - 1].size) continue;
    return p.full ? p : take(c, m, r, k, end);
  }
}

/* Where few sizes are prepared, several smaller batches may take less time than one that is mostly padding. */
static let__pick less_padding(const let_core *c, const let__model *m, const let__route *r, let_time start,
                              let__pick p) {
  let__pick best = p;
  let_dur took = p.n ? r->variant[p.size].predict : 0;
  for (uint32_t k = 0; p.n && k < p.size; k++) {
    uint32_t size = r->variant[k].size;
    let_dur all = (let_dur)((p.rows + size - 1) / size) * r->variant[k].predict;
    if (all >= took || start + all > p.least) continue;
    let__pick q = take(c, m, r, k, start + r->variant[k].predict);
    if (!q.n) continue;
    best = q;
    took = all;
  }
  return best;
}

/* The first request in order runs alone if it has more rows than size |most|. */
static let__pick lone(const let_core *c, const let__model *m, const let__route *r, let_time start, uint32_t most) {
  uint32_t i = let__queue_from(c, m, (let__key){INT64_MIN, 0});
  const let_request *q = c->entry[i].r;
  uint32_t k = let__size_for(r, q->rows);
  if (k == LET__NONE || k <= most || q->deadline < start + r->variant[k].predict) return (let__pick){0};
  return (let__pick){.first = i, .n = 1, .rows = q->rows, .size = k, .least = q->deadline, .made_for = k};
}

/* Nothing would be in time by the predictions. What would be if the batch were as quick as the quickest lately runs all
 * the same: the gpu-let has nothing better to do, and the run corrects the predictions. */
static let__pick hopeful(const let_core *c, const let__model *m, const let__route *r, let_time start, uint32_t most) {
  for (uint32_t k = most;; k--) {
    let__pick p = take(c, m, r, k, start + r->variant[k].quick);
    if (p.n || k == 0) return p;
  }
}

let__pick let__batch_pick(const let_core *c, const let__route *r, let_time start, let_dur doubt, uint32_t most,
                          let_time now) {
  const let__model *m = &c->model[r->model];
  let__pick alone = lone(c, m, r, start, most);
  if (alone.n) return alone;
  /* No prediction is fresh: whatever waits is tried. */
  if (!let__route_fresh(r, now)) return take(c, m, r, most, now);
  uint64_t all = let__queue_rows(c, m);
  const let__variant *largest = &r->variant[most];
  /* Where more waits than the largest batch holds, requests that may be late in it make room for others. */
  bool more = all > largest->size;
  if (more) {
    let__pick sure = take(c, m, r, most, start + doubt + largest->predict + largest->spread);
    if (sure.full) return sure;
  }
  let__pick p = less_padding(c, m, r, start, fullest(c, m, r, start, doubt, more ? most : let__size_for(r, all)));
  if (more && p.n) return p;
  /* The first requests may be so late that only a smaller batch is in time for them. It goes first if the requests in
   * |p| can wait for it. If they cannot, it would make them late too, and they the next ones. */
  if (!p.n) return hopeful(c, m, r, start, more ? most : let__size_for(r, all));
  uint32_t early = next_by(c, m, (let__key){INT64_MIN, 0}, start + r->variant[0].predict);
  if (early == LET__NONE || early == p.first) return p;
  const let_request *q = c->entry[early].r;
  uint32_t k = p.size;
  while (k > 0 && start + r->variant[k].predict > q->deadline) k--;
  let__pick small = take(c, m, r, k, start + r->variant[k].predict);
  if (!small.n) return p;
  bool dearer = let__key_priority(c->entry[early].key) < let__key_priority(c->entry[p.first].key);
  const let__variant *then = &r->variant[p.size];
  return dearer || start + r->variant[small.size].predict + then->predict + then->spread <= p.least ? small : p;
}

void let__batch_submit(let_core *c, let__route *r, let__pick p, let_time now, let_action *ret) {
  let__model *m = &c->model[r->model];
  let__gpulet *g = &c->gpulet[r->gpulet.n];
  uint32_t at = c->free_batch;
  LET_ASSERT(at != LET__NONE && p.n > 0);
  let__batch *b = &c->batch[at];
  c->free_batch = b->next_free;
  *b = (let__batch){.id = {(++c->batches << 20) | at},
                    .model = r->model,
                    .gpulet = r->gpulet,
                    .size = r->variant[p.size].size,
                    .rows = p.rows,
                    .n = p.n,
                    .predict = r->variant[p.size].predict,
                    .spread = r->variant[p.size].spread,
                    .submitted = now,
                    .start = let__free_at(c, g, now),
                    .led = g->n == 0,
                    .next_free = LET__NONE};
  ret->kind = LET_ACTION_SUBMIT;
  ret->why = LET_OK;
  ret->batch = b->id;
  ret->gpulet = b->gpulet;
  ret->model = b->model;
  ret->size = b->size;
  ret->rows = b->rows;
  ret->n = b->n;
  uint32_t i = p.first;
  for (uint32_t j = 0; j < p.n; j++) {
    let_request *q = c->entry[i].r;
    uint32_t next = next_in(c, m, r, &p, i);
    let__queue_remove(c, m, q);
    q->state = LET_REQUEST_RUNNING;
    q->next = NULL;
    if (b->last) b->last->next = q;
    else b->first = q;
    b->last = q;
    ret->request[j] = q;
    i = next;
  }
  m->running += b->n;
  g->batch[g->n++] = at;
  r->credit = let__credit(r, now) - b->n;
}

let__batch *let__batch_find(const let_core *c, let_batch_id id) {
  uint32_t at = (uint32_t)(id.n & 0xfffff);
  return id.n != 0 && at < c->n_batches && let_batch_id_eq(c->batch[at].id, id) ? &c->batch[at] : NULL;
}

void let__batch_end(let_core *c, let__batch *b, let_time finished) {
  let__gpulet *g = &c->gpulet[b->gpulet.n];
  uint32_t at = (uint32_t)(b - c->batch), i = 0;
  while (i < g->n && g->batch[i] != at) i++;
  LET_ASSERT(i < g->n);
  for (uint32_t k = i + 1; k < g->n; k++) g->batch[k - 1] = g->batch[k];
  g->n--;
  if (i == 0 && g->n) { /* the next one began when this one ended, or when it was handed over */
    let__batch *next = &c->batch[g->batch[0]];
    let_time over = next->submitted + let__handover(g);
    next->start = finished > over ? finished : over;
  }
  c->model[b->model].running -= b->n;
  b->id = (let_batch_id){0};
  b->next_free = c->free_batch;
  c->free_batch = at;
}
