/* admit.c: which request may enter, and which expires. On arrival only what certainly fails is refused, judged by the
 * quickest times seen lately: a refusal does not change these. Everything else is decided when a batch starts. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "core/core_int.h"

let_err let__refuse(let_request *r, let_err why, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(r->why, sizeof r->why, fmt, ap);
  va_end(ap);
  return r->status = why;
}

/* The least time seen lately for that size or a larger one: padding can make any of them hold the rows. */
static let_dur quick(const let__route *r, uint32_t size) {
  let_dur least = r->variant[size].quick;
  for (uint32_t k = size + 1; k < r->n_sizes; k++)
    if (r->variant[k].quick < least) least = r->variant[k].quick;
  return least;
}

let_dur let__least(const let_core *c, uint32_t model, uint32_t rows, let_time now) {
  uint32_t n;
  const let__route *r = let__routes_of(c, model, &n);
  let_dur least = LET_NEVER;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t k = let__size_for(&r[i], rows);
    if (!let__route_up(c, &r[i]) || k == LET__NONE) continue;
    /* A figure that is not fresh may be several times too high. */
    let_dur took = let__route_fresh(&r[i], now) ? quick(&r[i], k) : quick(&r[i], k) / 8;
    if (took < least) least = took;
  }
  return least == LET_NEVER ? 0 : least;
}

/* The most rows that |r| can run in |time|: full batches of one size, and one smaller batch in what is left. */
static uint64_t rows_within(const let__route *r, let_dur time) {
  uint64_t most = 0;
  for (uint32_t k = 0; k < r->n_sizes; k++) {
    let_dur each = r->variant[k].predict > 0 ? r->variant[k].predict : 1, left = time % each;
    uint64_t rows = (uint64_t)(time / each) * r->variant[k].size;
    uint32_t last = k;
    while (last > 0 && r->variant[last].predict > left) last--;
    if (r->variant[last].predict <= left) rows += r->variant[last].size;
    if (rows > most) most = rows;
  }
  return most;
}

/* The most rows that all gpu-lets of the model can run by |by| if they run nothing else. *ret_full: when the first of
 * them could have run a batch of its largest size. */
static uint64_t most_by(const let_core *c, uint32_t model, let_time by, let_time now, let_time *ret_full) {
  uint32_t n;
  const let__route *r = let__routes_of(c, model, &n);
  uint64_t rows = 0;
  *ret_full = LET_NEVER;
  for (uint32_t i = 0; i < n; i++) {
    if (!let__route_up(c, &r[i])) continue;
    /* A prediction may be wrong: a gpu-let that is idle or has not run the model lately is tried. */
    if (!let__route_fresh(&r[i], now) || c->gpulet[r[i].gpulet.n].n == 0) return UINT64_MAX;
    const let__variant *largest = &r[i].variant[r[i].n_sizes - 1];
    let_time free = let__free_at(c, &c->gpulet[r[i].gpulet.n], now), early = free - (largest->predict - largest->quick);
    if (early < by) rows += rows_within(&r[i], by - early);
    if (rows > UINT32_MAX) return UINT64_MAX; /* more than can wait; the sum must not wrap */
    free += largest->predict + largest->spread;
    if (free < *ret_full) *ret_full = free;
  }
  return rows;
}

/* Rows that go before |r|, less those that would be late in a full batch and so give way to it. */
static uint64_t rows_before(const let_core *c, const let__model *m, const let_request *r, let_time full) {
  let__key own = let__key_of(m, r, UINT64_MAX);
  uint32_t level = let__key_priority(own);
  uint64_t before = let__queue_rows_before(c, m, own);
  if (full >= r->deadline) return before;
  return before - let__queue_rows_before(c, m, let__key_at(level, full)) +
         let__queue_rows_before(c, m, let__key_at(level, 0));
}

let_err let__admit(let_core *c, let_request *r, let_time now) {
  if (r->model >= c->limits.models || !c->model[r->model].m)
    return let__refuse(r, LET_ERR_NOT_FOUND, "model number %u is not served", r->model);
  let__model *m = &c->model[r->model];
  const char *name = m->m->name;
  let_rate_add(&m->rate, now, r->rows);
  let__demand(m, 1, now);
  uint32_t n;
  (void)let__routes_of(c, r->model, &n);
  if (n == 0) return let__refuse(r, LET_ERR_UNAVAILABLE, "model '%.80s': no gpu-let runs it in the current plan", name);
  if (!let__any_up(c, r->model))
    return let__refuse(r, LET_ERR_UNAVAILABLE,
                       "model '%.80s': %u of its %u gpu-lets are down and being restarted; try again", name, n, n);
  uint32_t most = let__most_rows(c, r->model);
  /* The configuration allows the size, but it is not prepared yet: a retry may find it, here or elsewhere. */
  if (r->rows > most && r->rows <= m->m->max_batch)
    return let__refuse(r, LET_ERR_UNAVAILABLE,
                       "model '%.80s': %u rows, but so far its batches hold at most %u, larger ones are being "
                       "prepared: split the request or try again",
                       name, r->rows, most);
  if (r->rows < 1 || r->rows > most)
    return let__refuse(r, LET_ERR_INVALID, "model '%.80s': %u rows, but its batches hold at most %u: split the request",
                       name, r->rows, most);
  if (m->queued >= m->limit)
    return let__refuse(r, LET_ERR_OVERLOADED, "model '%.80s': its queue of %u requests is full", name, m->limit);

  if (r->deadline >= LET__DEADLINE_MAX) return LET_OK;
  double given = (double)(r->deadline - r->arrival) / 1e6;
  if (r->deadline <= now)
    return let__refuse(r, LET_ERR_DEADLINE, "model '%.80s': its deadline, %.3f ms after arrival, had passed", name,
                       given);
  let_dur least = let__least(c, r->model, r->rows, now);
  if (now + least > r->deadline)
    return let__refuse(r, LET_ERR_DEADLINE, "model '%.80s': running it takes %.1f ms, more than is left of its %.1f ms",
                       name, (double)least / 1e6, given);
  let_time full;
  uint64_t room = most_by(c, r->model, r->deadline, now, &full), before = rows_before(c, m, r, full);
  if (before + r->rows > room)
    return let__refuse(r, LET_ERR_DEADLINE,
                       "model '%.80s': %llu rows wait before it, more than can be run within its %.1f ms", name,
                       (unsigned long long)before, given);
  return LET_OK;
}

/* ---- what expires ----------------------------------------------------------------------------------------- */

void let__expiry_set(let_core *c, uint32_t model, let_time now) {
  let__model *m = &c->model[model];
  let_time at = LET_NEVER;
  if (m->queued && !let__any_up(c, model)) at = INT64_MIN;
  else if (m->queued) {
    const let_request *r = c->entry[let__queue_most_urgent(c, m)].r;
    if (r->rows > let__most_rows(c, model)) at = INT64_MIN;
    else if (r->deadline < LET__DEADLINE_MAX) at = r->deadline - let__least(c, model, r->rows, now) + 1;
  }
  if (m->expiry.key == at) return;
  let_heap_remove(&c->expiry, &m->expiry);
  bool room = let_heap_push(&c->expiry, &m->expiry, at);
  LET_ASSERT(room);
}

bool let__expire(let_core *c, uint32_t model, let_time now, let_action *ret) {
  let__expiry_set(c, model, now); /* the predictions may have changed since */
  let__model *m = &c->model[model];
  if (m->expiry.key > now) return false;
  const char *name = m->m->name;
  let_request *r = c->entry[let__queue_most_urgent(c, m)].r;
  uint32_t n, most = let__most_rows(c, model);
  (void)let__routes_of(c, model, &n);
  if (!let__any_up(c, model) && n)
    let__refuse(r, LET_ERR_UNAVAILABLE,
                "model '%.80s': its gpu-lets (%u) went down while the request waited; try again", name, n);
  else if (!n)
    let__refuse(r, LET_ERR_UNAVAILABLE, "model '%.80s': the plan changed and no gpu-let runs it any more", name);
  else if (r->rows > most) /* the gpu-let that could run it went down while it waited */
    let__refuse(r, LET_ERR_UNAVAILABLE,
                "model '%.80s': %u rows, but at present its batches hold at most %u: split the request or try again",
                name, r->rows, most);
  else
    let__refuse(r, LET_ERR_DEADLINE, "model '%.80s': waited %.1f ms and can no longer finish within its %.1f ms", name,
                (double)(now - r->arrival) / 1e6, (double)(r->deadline - r->arrival) / 1e6);
  let__queue_remove(c, m, r);
  let__entry_give(c, r);
  r->state = LET_REQUEST_IDLE;
  *ret = (let_action){
      .kind = LET_ACTION_REFUSE, .why = r->status, .gpulet = {LET_ID_NONE}, .model = model, .rows = r->rows, .n = 1};
  ret->request[0] = r;
  let__touch_model(c, model, now);
  return true;
}
