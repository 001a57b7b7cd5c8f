/* decide.c: decides when a gpu-let takes its next batch, and of which model. */
#include <math.h>
#include <stddef.h>

#include "core/core_int.h"

static void wake_at(let_core *c, let__gpulet *g, let_time at) {
  if (g->wake.key == at) return;
  let_heap_remove(&c->wake, &g->wake);
  bool room = let_heap_push(&c->wake, &g->wake, at);
  LET_ASSERT(room);
}

void let__touch_gpulet(let_core *c, let_gpulet_id gpulet, let_time at) {
  if (at < c->gpulet[gpulet.n].wake.key) wake_at(c, &c->gpulet[gpulet.n], at);
}

void let__touch_model(let_core *c, uint32_t model, let_time now) {
  uint32_t n;
  const let__route *r = let__routes_of(c, model, &n);
  for (uint32_t i = 0; i < n; i++) { /* one that takes no more is looked at when a batch of it ends */
    const let__gpulet *g = &c->gpulet[r[i].gpulet.n];
    if (g->n < g->depth) let__touch_gpulet(c, r[i].gpulet, INT64_MIN);
  }
  let__expiry_set(c, model, now);
}

/* Does more arrive for |m| than was planned? Refused requests count too, so that no decision changes the answer. */
void let__demand(let__model *m, double requests, let_time now) {
  m->allowance += m->planned * (double)(now - m->allowed) / 1e9;
  m->allowed = now;
  if (m->allowance > m->burst) m->allowance = m->burst;
  m->allowance = m->allowance - requests > -m->burst ? m->allowance - requests : -m->burst;
  if (m->allowance <= 0) m->beyond = true;
  else if (m->allowance > m->burst / 2) m->beyond = false;
}

/* Requests that |r| may run within its planned rate, as of |now|. Credit and debt end at two full batches: what
 * happened longer ago does not matter. */
double let__credit(let__route *r, let_time now) {
  double most = 2.0 * r->batch;
  r->credit += r->rate * (double)(now - r->credited) / 1e9;
  r->credited = now;
  r->credit = r->credit > most ? most : r->credit < -most ? -most : r->credit;
  return r->credit;
}

/* Seconds by which |r| lags behind its planned rate. */
static double lag(let__route *r, let_time now) { return let__credit(r, now) / (r->rate > 0 ? r->rate : 1); }

/* When |g| can take another batch: at once if it is idle; behind a running batch shortly before that ends, so that the
 * next one is there in time and holds all that arrived meanwhile. LET_NEVER: an event must come first. */
static let_time open_at(const let_core *c, const let__gpulet *g, let_time now) {
  if (!g->open || !g->routed || g->down || g->n >= g->depth) return LET_NEVER;
  if (g->n == 0) return now;
  if (let__handover(g) < c->batch[g->batch[g->n - 1]].spread * 2 / 5) return LET_NEVER;
  let_time at = let__free_at(c, g, now) - let__handover(g);
  return at > now ? at : now;
}

/* Until when a batch of |m| on |r| waits for more requests: not at all unless max_queue_delay asks for it. With
 * LET_NEVER until its slack has run out, but for half of the time to its deadline at most. */
static let_time held_until(const let_core *c, const let__model *m, const let__route *r, let_time start, let_time now) {
  const let__entry *top = &c->entry[m->root];
  let_dur delay = m->m->max_queue_delay;
  if (delay <= 0 || top->rows >= r->batch || m->queued >= m->limit) return now;
  if (top->deadline >= LET__DEADLINE_MAX && delay == LET_NEVER) return now;
  uint32_t k = let__size_for(r, top->rows);
  let_dur took = r->variant[k == LET__NONE ? r->full : k].predict;
  let_time last = top->deadline - took - took / 8 - (start - now); /* an eighth: batches vary */
  if (delay == LET_NEVER) delay = (top->deadline - top->arrival) / 2;
  return delay < last - top->arrival ? top->arrival + delay : last;
}

/* The largest size for |r| that leaves the other models of its gpu-let in time: a request of theirs that arrives just
 * after it began waits for its end and then runs. The planned size is always allowed: the plan counts with it. */
static uint32_t size_limit(const let_core *c, const let__route *r) {
  uint32_t n, most = r->n_sizes - 1;
  const uint32_t *on = let__routes_on(c, r->gpulet, &n);
  for (uint32_t i = 0; i < n && most > r->full; i++) {
    const let__route *o = &c->table->route[on[i]];
    let_dur slo = c->model[o->model].m->slo;
    if (o == r || slo <= 0) continue;
    while (most > r->full && r->variant[most].predict > slo - 2 * o->variant[o->full].predict) most--;
  }
  return most;
}

/* Another gpu-let of |r|'s model is idle too, lags further behind its rate, and has a batch for that very request. */
static bool better_elsewhere(let_core *c, let__route *r, let__pick p, let_time now) {
  uint32_t n;
  let__route *o = let__routes_of(c, r->model, &n);
  for (uint32_t i = 0; i < n; i++) {
    const let__gpulet *g = &c->gpulet[o[i].gpulet.n];
    if (&o[i] == r || g->n > 0 || open_at(c, g, now) == LET_NEVER || lag(&o[i], now) <= lag(r, now)) continue;
    let__pick there = let__batch_pick(c, &o[i], now + let__handover(g), 0, size_limit(c, &o[i]), now);
    if (there.n > 0 && there.first == p.first) return true;
  }
  return false;
}

/* The other models of |x|'s gpu-let that are within their plan can wait for its batch: their first deadline leaves room
 * for it, for what they have to run then, and for what arrives until then. */
static bool others_can_wait(const let_core *c, const let__route *x, let__pick p, let_time start) {
  uint32_t n;
  const uint32_t *on = let__routes_on(c, x->gpulet, &n);
  let_time deadline = LET_NEVER, end = start + x->variant[p.size].predict;
  for (uint32_t i = 0; i < n; i++) {
    const let__route *r = &c->table->route[on[i]];
    const let__model *m = &c->model[r->model];
    if (r == x || !m->queued || m->beyond) continue;
    const let__variant *v = &r->variant[r->full];
    double rows = (double)let__queue_rows(c, m) + r->rate * (double)x->variant[p.size].predict / 1e9;
    double takes = ceil(rows / v->size) * (double)v->predict + (double)v->spread;
    end = takes < (double)(LET__DEADLINE_MAX - end) ? end + (let_dur)takes : LET__DEADLINE_MAX;
    if (c->entry[m->root].deadline < deadline) deadline = c->entry[m->root].deadline;
  }
  return end <= deadline;
}

/* A batch that could start now. The least |rank| goes first, then the least |key|. */
typedef struct candidate {
  let__route *route;
  let__pick pick;
  int rank;
  double key;
} candidate;

/* A full batch goes first where the other models can wait for it: theirs fill up meanwhile, which helps in a shortage.
 * Next, by deadline, models that are within their planned rate or have run less than it. Last, models beyond it, the
 * one furthest behind first. */
static void rank(let_core *c, candidate *x, let_time start, let_time now) {
  const let__route *r = x->route;
  const let__model *m = &c->model[r->model];
  bool behind = let__credit(x->route, now) > 0;
  if (x->pick.rows >= r->batch && others_can_wait(c, r, x->pick, start)) x->rank = 0;
  else x->rank = !m->beyond || behind ? 1 : 2;
  x->key = x->rank == 1 ? (double)c->entry[x->pick.first].r->deadline : -lag(x->route, now);
}

bool let__decide(let_core *c, let_gpulet_id gpulet, let_time now, let_action *ret) {
  let__gpulet *g = &c->gpulet[gpulet.n];
  let_time open = open_at(c, g, now), wake = LET_NEVER, start = let__free_at(c, g, now);
  let_dur doubt = g->n ? c->batch[g->batch[0]].spread / 2 : 0; /* of when the running batch ends */
  if (open > now) {
    wake_at(c, g, open);
    return false;
  }
  uint32_t n;
  const uint32_t *on = let__routes_on(c, gpulet, &n);
  candidate best = {0};
  for (uint32_t i = 0; i < n; i++) {
    candidate x = {.route = &c->table->route[on[i]]};
    let__model *m = &c->model[x.route->model];
    if (!m->queued) continue;
    let__demand(m, 0, now);
    let_time held = held_until(c, m, x.route, start, now);
    if (held > now) {
      if (held < wake) wake = held;
      continue;
    }
    x.pick = let__batch_pick(c, x.route, start, doubt, size_limit(c, x.route), now);
    if (!x.pick.n) continue;
    rank(c, &x, start, now);
    if (best.route && (x.rank > best.rank || (x.rank == best.rank && x.key >= best.key))) continue;
    if (g->n == 0 && better_elsewhere(c, x.route, x.pick, now)) continue;
    best = x;
  }
  wake_at(c, g, wake);
  if (!best.route) return false;
  let__batch_submit(c, best.route, best.pick, now, ret);
  let__touch_gpulet(c, gpulet, INT64_MIN);
  /* Other gpu-lets may have left a request to this one, which chose another. */
  for (uint32_t i = 0; i < n; i++)
    if (c->model[c->table->route[on[i]].model].queued || &c->table->route[on[i]] == best.route)
      let__touch_model(c, c->table->route[on[i]].model, now);
  return true;
}
