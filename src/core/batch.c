/* batch.c: when a batch closes, on which gpu-let, and what is in it.
 *
 * Within a model the order is (priority, deadline). A batch starts at the first request that makes its deadline in
 * that batch; the ones it passes over would have been late in it, and stay for a faster gpu-let until none is left. */
#include <stddef.h>

#include "core/core_int.h"

static void set_wake(let_core *c, let__model *m, let_time at) {
  if (m->wake.key == at) return;
  let_heap_remove(&c->wake, &m->wake);
  bool room = let_heap_push(&c->wake, &m->wake, at);
  LET_ASSERT(room);
}

void let__touch(let_core *c, uint32_t model) { set_wake(c, &c->model[model], INT64_MIN); }

void let__touch_gpulet(let_core *c, uint32_t gpulet) {
  uint32_t n;
  const uint32_t *on = let__routes_on(c, gpulet, &n);
  for (uint32_t i = 0; i < n; i++)
    if (c->model[c->table->route[on[i]].model].queued) let__touch(c, c->table->route[on[i]].model);
}

/* ---- what could run where ------------------------------------------------------------------------------- */

/* The first request, in order, that is in time when a batch starts at |start| and has as many rows as |rows|, or as
 * it has itself when |rows| is 0. Deadlines ascend within a priority level, so each level is entered at the first
 * deadline that can do. */
static uint32_t first_in_time(const let_core *c, const let__model *m, const let__route *r, let_time start,
                              uint32_t rows) {
  uint32_t least = let__size_for(r, rows ? rows : 1);
  let__key k = {INT64_MIN, 0};
  for (;;) {
    uint32_t i = let__queue_from(c, m, k);
    if (i == LET__NONE) return LET__NONE;
    const let__entry *x = &c->entry[i];
    uint32_t own = let__size_for(r, x->r->rows), size = own == LET__NONE || own < least ? least : own;
    bool fits = own != LET__NONE; /* one request may be larger than batches are meant to be: it goes alone */
    if (fits && start <= x->r->deadline - r->predict[size]) return i;
    let__key level = let__key_at(let__key_priority(x->key), start + r->predict[least]);
    k = (let__key){x->key.at, x->key.serial + 1};
    if (level.at > k.at) k = level;
  }
}

typedef struct pick {
  uint32_t first, n, rows, size; /* entry to begin at, requests, rows, index of the size */
} pick;

/* The run of requests from entry |i| on whose batch, started at |start|, is in time for each of them: the longest one,
 * or fewer where several smaller batches take less time than a large one that is mostly padding (5 rows, and only 4 and
 * 32 are prepared) and still are in time. */
static pick run_from(const let_core *c, const let__model *m, const let__route *r, let_time start, uint32_t i) {
  pick p = {.first = i}, full[LET_SIZES_MAX] = {0}; /* the longest of each size */
  let_time deadline = LET_NEVER;
  while (i != LET__NONE && p.n < LET_BATCH_MAX) {
    const let__entry *x = &c->entry[i];
    uint32_t k = let__size_for(r, (uint64_t)p.rows + x->r->rows);
    let_time least = x->r->deadline < deadline ? x->r->deadline : deadline;
    if (k == LET__NONE || (k > r->most && p.n > 0) || start > least - r->predict[k]) break;
    deadline = least;
    p.n++, p.rows += x->r->rows, p.size = k;
    full[k] = p;
    i = let__queue_from(c, m, (let__key){x->key.at, x->key.serial + 1});
  }
  pick best = p;
  let_dur took = p.n ? r->predict[p.size] : 0;
  for (uint32_t k = 0; k < p.size; k++) {
    if (!full[k].n) continue;
    let_dur all = (let_dur)((p.rows + full[k].rows - 1) / full[k].rows) * r->predict[k];
    if (all < took && start <= deadline - all) best = full[k], took = all;
  }
  return best;
}

static double speed(const let__route *r, pick p) { return p.rows / (double)(r->predict[p.size] + 1); }

/* What to run on |r| from |start| on; n == 0: nothing that would be in time. */
static pick choose(const let_core *c, const let__model *m, const let__route *r, let_time start) {
  uint32_t i = first_in_time(c, m, r, start, 0);
  if (i == LET__NONE) return (pick){0};
  pick p = run_from(c, m, r, start, i);
  uint64_t all = let__queue_rows(c, m);
  if (p.rows >= r->batch || p.rows >= all) return p;
  /* The first ones are so late that only a small batch would do for them. When many wait behind them, running small
   * batches would make these late as well, and so on: better a full batch of those that still can. */
  uint32_t aim = all < r->batch ? (uint32_t)all : r->batch, later = first_in_time(c, m, r, start, aim);
  if (later == LET__NONE || later == i) return p;
  if (let__key_priority(c->entry[later].key) != let__key_priority(c->entry[i].key)) return p;
  pick q = run_from(c, m, r, start, later);
  if (q.size < let__size_for(r, aim))
    return p; /* too few of them: the first ones would not have been late in this one */
  bool both = start + r->predict[p.size] + r->predict[q.size] <= c->entry[later].r->deadline;
  return !both && speed(r, q) > 1.25 * speed(r, p) ? q : p;
}

/* When a batch of |m| on |r| closes, by what is queued now. */
static let_time close_at(const let_core *c, const let__model *m, const let__route *r, let_time now) {
  const let__entry *top = &c->entry[m->root];
  if (c->limits.eager || top->rows >= r->batch || m->queued >= m->limit) return now;
  /* Without a deadline there is no slack to wait for company in. */
  if (top->deadline >= LET__DEADLINE_MAX && m->m->max_queue_delay == LET_NEVER) return now;
  uint32_t k = let__size_for(r, top->rows);
  if (k == LET__NONE) k = r->full;
  /* The neighbours may be served first, but half of the slack is ours: else many of them would end all batching. */
  let_dur slack = top->deadline - now - r->predict[k] - let__margin(c, r);
  let_dur reserve = r->reserve < slack ? r->reserve : slack > 0 ? slack : 0;
  let_time at = now + slack - reserve;
  if (m->m->max_queue_delay < at - top->arrival) at = top->arrival + m->m->max_queue_delay;
  return at > now ? at : now;
}

/* When |r|'s gpu-let can be given another batch: at once when idle; behind a running batch only shortly before that
 * one ends, unless the gpu-let has one model only and the batch is full: then waiting gains nothing. LET_NEVER: an
 * event must come first. */
static let_time open_at(const let_core *c, const let__model *m, const let__route *r, let_time now) {
  const let__gpulet *g = &c->gpulet[r->gpulet];
  if (g->down || g->n >= g->depth) return LET_NEVER;
  if (g->n == 0 || (r->reserve == 0 && let__queue_rows(c, m) >= r->batch)) return now;
  const let__batch *last = &c->batch[g->batch[g->n - 1]];
  let_dur lead = last->predict / 4 > c->limits.margin ? last->predict / 4 : c->limits.margin;
  let_time at = let__free_at(c, g, now) - lead;
  return at > now ? at : now;
}

typedef struct candidate {
  let__route *route;
  let_time at; /* when to close */
  pick pick;
} candidate;

/* The gpu-let that should run |m|'s next batch. Idle ones before busy ones; among them the one that lags most behind
 * its planned share. False: none until *ret_wake. */
static bool candidate_of(const let_core *c, uint32_t model, let_time now, candidate *ret, let_time *ret_wake) {
  const let__model *m = &c->model[model];
  uint32_t n;
  let__route *route = let__routes_of(c, model, &n);
  candidate best = {0};
  bool best_idle = false, found = false;
  let_time wake = LET_NEVER;
  for (uint32_t i = 0; i < n; i++) {
    let__route *r = &route[i];
    let_time open = open_at(c, m, r, now);
    if (open == LET_NEVER) continue;
    bool idle = c->gpulet[r->gpulet].n == 0;
    if (found &&
        (best_idle > idle || (best_idle == idle && best.route->credit >= r->credit && (idle || best.at <= now))))
      continue;
    pick p = choose(c, m, r, let__free_at(c, &c->gpulet[r->gpulet], now));
    if (p.n == 0) continue;
    let_time at = close_at(c, m, r, now);
    if (open > at) at = open;
    if (!idle && at > now) { /* comes into question later */
      if (at < wake) wake = at;
      continue;
    }
    best = (candidate){r, at, p}, best_idle = idle, found = true;
  }
  if (found && best.at < wake) wake = best.at;
  *ret = best, *ret_wake = wake;
  return found && best.at <= now;
}

/* ---- carrying it out ------------------------------------------------------------------------------------- */

static void submit(let_core *c, const candidate *k, let_time now, let_action *ret) {
  let__route *r = k->route;
  let__model *m = &c->model[r->model];
  let__gpulet *g = &c->gpulet[r->gpulet];
  uint32_t at = c->free_batch;
  LET_ASSERT(at != LET__NONE);
  let__batch *b = &c->batch[at];
  c->free_batch = b->next_free;
  *b = (let__batch){.id = (++c->generation << 20) | at,
                    .model = r->model,
                    .gpulet = r->gpulet,
                    .size = r->size[k->pick.size],
                    .rows = k->pick.rows,
                    .n = k->pick.n,
                    .predict = r->predict[k->pick.size],
                    .start = let__free_at(c, g, now),
                    .next_free = LET__NONE};
  ret->kind = LET_ACTION_SUBMIT, ret->why = LET_OK, ret->batch = b->id;
  ret->gpulet = b->gpulet, ret->model = b->model, ret->size = b->size, ret->rows = b->rows, ret->n = b->n;
  uint32_t i = k->pick.first;
  for (uint32_t j = 0; j < k->pick.n; j++) {
    let__entry *x = &c->entry[i];
    let_request *q = x->r;
    let__key next = {x->key.at, x->key.serial + 1};
    let__queue_remove(c, m, q);
    q->state = LET_REQUEST_RUNNING, q->next = NULL;
    if (b->last) b->last->next = q;
    else b->first = q;
    b->last = q, ret->request[j] = q;
    i = let__queue_from(c, m, next);
  }
  m->running += b->n;
  g->batch[g->n++] = at;
  let__route_charge(c, r, b->rows);
  let__touch_gpulet(c, b->gpulet);
  let__touch(c, b->model);
}

static bool refuse_queued(let_core *c, let_request *r, let_action *ret) {
  let__model *m = &c->model[r->model];
  let__queue_remove(c, m, r);
  let__entry_give(c, r);
  r->state = LET_REQUEST_IDLE;
  *ret = (let_action){
      .kind = LET_ACTION_REFUSE, .why = r->status, .gpulet = LET__NONE, .model = r->model, .rows = r->rows, .n = 1};
  ret->request[0] = r;
  return true;
}

bool let__decide(let_core *c, uint32_t model, let_time now, let_action *ret) {
  let__model *m = &c->model[model];
  if (!m->queued) return set_wake(c, m, LET_NEVER), false;
  uint32_t i = let__queue_most_urgent(c, m);
  let_request *urgent = c->entry[i].r;
  uint32_t n;
  (void)let__routes_of(c, model, &n);
  if (!let__any_up(c, model)) {
    if (n)
      let__refuse(urgent, LET_ERR_UNAVAILABLE,
                  "model '%.80s': its gpu-lets (%u) went down while the request waited; try again", m->m->name, n);
    else
      let__refuse(urgent, LET_ERR_UNAVAILABLE, "model '%.80s': the plan changed and no gpu-let runs it any more",
                  m->m->name);
    return refuse_queued(c, urgent, ret);
  }
  uint32_t most = let__most_rows(c, model);
  if (urgent->rows > most) { /* what could run it went down while it waited, and comes back small */
    let__refuse(urgent, LET_ERR_UNAVAILABLE,
                "model '%.80s': %u rows, but at present its batches hold at most %u: split the request or try again",
                m->m->name, urgent->rows, most);
    return refuse_queued(c, urgent, ret);
  }
  let_time until;
  if (let__hopeless(c, urgent, now, &until)) {
    let__refuse(urgent, LET_ERR_DEADLINE, "model '%.80s': waited %.1f ms and can no longer finish within its %.1f ms",
                m->m->name, (double)(now - urgent->arrival) / 1e6, (double)(urgent->deadline - urgent->arrival) / 1e6);
    return refuse_queued(c, urgent, ret);
  }
  candidate own, other;
  let_time wake, ignored;
  if (!candidate_of(c, model, now, &own, &wake)) {
    if (until < LET_NEVER && until + 1 < wake) wake = until + 1;
    return set_wake(c, m, wake), false;
  }
  /* Of all models that would now close a batch for this very gpu-let, the earliest deadline goes. */
  const uint32_t *on = let__routes_on(c, own.route->gpulet, &n);
  let_time deadline = c->entry[m->root].deadline;
  candidate best = own;
  for (uint32_t k = 0; k < n; k++) {
    const let__route *r = &c->table->route[on[k]];
    const let__model *o = &c->model[r->model];
    if (r->model == model || !o->queued || c->entry[o->root].deadline >= deadline) continue;
    if (!candidate_of(c, r->model, now, &other, &ignored) || other.route->gpulet != own.route->gpulet) continue;
    best = other, deadline = c->entry[o->root].deadline;
  }
  submit(c, &best, now, ret);
  return true;
}

let__batch *let__batch_find(const let_core *c, uint64_t id) {
  uint32_t at = (uint32_t)(id & 0xfffff);
  return id != 0 && at < c->n_batches && c->batch[at].id == id ? &c->batch[at] : NULL;
}

void let__batch_end(let_core *c, let__batch *b, let_time now) {
  let__gpulet *g = &c->gpulet[b->gpulet];
  uint32_t at = (uint32_t)(b - c->batch), i = 0;
  while (i < g->n && g->batch[i] != at) i++;
  LET_ASSERT(i < g->n);
  for (uint32_t k = i + 1; k < g->n; k++) g->batch[k - 1] = g->batch[k];
  g->n--;
  if (i == 0 && g->n) c->batch[g->batch[0]].start = now;
  c->model[b->model].running -= b->n;
  b->id = 0, b->next_free = c->free_batch;
  c->free_batch = at;
}
