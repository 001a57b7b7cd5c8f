/* admit.c: who may enter. A request is refused on arrival when, by prediction, it would be refused from the queue
 * later: under overload that keeps the queue as long as the deadlines allow and every batch full of requests that
 * still make it, instead of all of them being a little late. */
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

bool let__any_up(const let_core *c, uint32_t model) {
  uint32_t n;
  const let__route *r = let__routes_of(c, model, &n);
  for (uint32_t i = 0; i < n; i++)
    if (let__route_up(c, &r[i])) return true;
  return false;
}

/* True: no gpu-let of its model can finish |r| in time even if it went next. Otherwise *ret_until is until when one of
 * them can, as they are now. */
bool let__hopeless(const let_core *c, const let_request *r, let_time now, let_time *ret_until) {
  uint32_t n;
  const let__route *route = let__routes_of(c, r->model, &n);
  for (uint32_t i = 0; i < n; i++) {
    if (!let__route_up(c, &route[i])) continue;
    uint32_t k = let__size_for(&route[i], r->rows);
    if (k == LET__NONE) continue;
    let_time until = r->deadline - route[i].predict[k];
    if (let__free_at(c, &c->gpulet[route[i].gpulet], now) > until) continue;
    *ret_until = until;
    return false;
  }
  return true;
}

/* The time that a place in a batch is worth asking for. While more arrives than can be run, a place in a small batch
 * costs several in a full one; but no model may be asked for more time than its SLO leaves beside a running batch. */
static let_dur least_time(let_core *c, const let__route *r, const let_request *q, double share, double part,
                          let_time now) {
  double arriving =
      let_rate_get(&c->model[r->model].rate, now) * part * (double)r->predict[r->most] / 1e9 / r->size[r->most];
  if (arriving + share < 0.95) return 0;
  uint32_t k = r->most;
  while (k > 0 && 2 * r->predict[k] + c->limits.margin > q->deadline - q->arrival) k--;
  /* Some more, because one that just fits is the first to make its batch a small one when the batch before is late. */
  return k > 0 ? r->predict[k] + r->predict[k] / 16 : 0;
}

static uint32_t rows_within(const let__route *r, let_dur t) {
  uint32_t rows = 0;
  for (uint32_t k = 0; k <= r->most && r->predict[k] <= t; k++) rows = r->size[k];
  return rows;
}

/* The share of its time that gpu-let of |r| owes to |r|'s model: what arrives, but no more than was planned, so that
 * one model's overload is not its neighbours'. */
static double owed(let_core *c, const let__route *r, uint32_t n_on, let_time now, double *ret_part) {
  let__model *m = &c->model[r->model];
  *ret_part = m->weight > 0 ? r->weight / m->weight : 1;
  double per_row = (double)r->predict[r->full] / 1e9 / r->batch;
  double used = let_rate_get(&m->rate, now) * *ret_part * per_row;
  double planned = r->rate > 0 ? r->rate * per_row : 1.0 / n_on;
  return used < planned ? used : planned;
}

typedef struct neighbours {
  double share;   /* of the gpu-let's time */
  let_dur queued; /* time for what they have queued with an earlier deadline */
  let_dur least;  /* see least_time */
  let_dur room;   /* a queue longer than this would make a neighbour's next request late */
} neighbours;

static neighbours look_around(let_core *c, const let__route *r, const let_request *q, let_time now) {
  uint32_t n;
  const uint32_t *on = let__routes_on(c, r->gpulet, &n);
  neighbours ret = {.room = INT64_MAX};
  for (uint32_t i = 0; i < n; i++) {
    const let__route *o = &c->table->route[on[i]];
    double part;
    if (o == r) continue;
    double share = owed(c, o, n, now, &part);
    ret.share += share;
    const let__model *m = &c->model[o->model];
    /* Over a time that is long beside the neighbour's SLO, its demand is its share, and that is counted already. */
    bool near = m->m->slo > 0 && q->deadline - now < 4 * m->m->slo;
    if (share > 0.01 && near && m->m->slo - o->predict[o->full] < ret.room) ret.room = m->m->slo - o->predict[o->full];
    double rows = (double)let__queue_rows_before(c, m, let__key_at(m->levels, q->deadline)) * part;
    uint64_t batches = ((uint64_t)(rows + 0.999) + o->batch - 1) / o->batch;
    ret.queued += (let_dur)batches * o->predict[o->full];
  }
  /* Only who takes more than was planned has to keep out of the neighbours' way. */
  double part, own = owed(c, r, n, now, &part);
  if (let_rate_get(&c->model[r->model].rate, now) * part * (double)r->predict[r->full] / 1e9 / r->batch < own * 1.1)
    ret.room = INT64_MAX;
  ret.least = least_time(c, r, q, ret.share, part, now);
  return ret;
}

/* Rows of its model that |r| can finish by |by|. */
static uint64_t capacity(const let_core *c, const let__route *r, neighbours beside, let_time by, let_time now) {
  /* Each batch on the way may be as late as batches here tend to be. */
  const let__gpulet *g = &c->gpulet[r->gpulet];
  let_time start = let__free_at(c, g, now);
  let_dur t = by - c->limits.margin - r->late * (g->n + 1) - start;
  let_dur after = t - beside.queued;
  if (after <= 0) return 0;
  /* When those who wait have too little slack left for a full batch, they go in a smaller one, and that comes first.
   * Without this, everybody is let in for a full batch that none of them lives to see. */
  const let__model *m = &c->model[r->model];
  uint64_t rows = 0;
  if (m->queued && let__queue_rows(c, m) < r->size[r->most] && c->entry[m->root].deadline < by) {
    let_dur slack = c->entry[m->root].deadline - start;
    uint32_t first = rows_within(r, slack);
    uint32_t k = first ? let__size_for(r, first) : 0;
    if (first && k < r->most)
      rows = first < let__queue_rows(c, m) ? first : let__queue_rows(c, m), after -= r->predict[k], t -= r->predict[k];
    if (after <= 0) return rows;
  }
  /* One batch needs its turn and no more. Further ones have to leave the neighbours their share, and are counted
   * full: what arrives behind will fill them up, and with it they take as long. */
  uint64_t one = after >= beside.least ? rows_within(r, after) : 0;
  let_dur fair = (let_dur)((double)t * (beside.share < 1 ? 1 - beside.share : 0));
  if (fair > after) fair = after;
  if (beside.room < INT64_MAX && fair > beside.room - (start - now)) fair = beside.room - (start - now);
  if (fair < 0) fair = 0;
  let_dur each = r->predict[r->most] + r->late > 0 ? r->predict[r->most] + r->late : 1;
  uint64_t many = (uint64_t)((fair + r->late) / each) * r->size[r->most];
  return rows + (one > many ? one : many);
}

enum {
  EXAMINED = 8
}; /* gpu-lets of a model looked at for its neighbours' sake: beyond that the first ones stand for all */

typedef struct view {
  let__route *route;
  uint32_t n;
  neighbours beside[EXAMINED];
} view;

static uint64_t capacity_of_all(const let_core *c, const view *v, let_time by, uint64_t enough, let_time now) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < v->n && sum < enough; i++)
    if (let__route_up(c, &v->route[i])) sum += capacity(c, &v->route[i], v->beside[i % EXAMINED], by, now);
  return sum;
}

/* The least time from now at which |rows| could be done: for the sentence. */
static let_dur earliest(const let_core *c, const view *v, uint64_t rows, let_time now) {
  let_dur low = 0, high = LET_MS;
  while (high < 3600 * LET_S && capacity_of_all(c, v, now + high, rows, now) < rows) low = high, high *= 2;
  for (int i = 0; i < 10; i++) {
    let_dur mid = low + (high - low) / 2;
    if (capacity_of_all(c, v, now + mid, rows, now) < rows) low = mid;
    else high = mid;
  }
  return high;
}

#define DOUBT_AFTER LET_S /* once a second a request may be late to find out what is true */

/* What was learnt upward is let go where it alone keeps an idle gpu-let from ever being measured again. So is what the
 * plan or the worker said, measured at a bad moment perhaps, where nothing has run for a while. */
static void relax_idle(let_core *c, const let_request *r, let_time now) {
  uint32_t n;
  let__route *route = let__routes_of(c, r->model, &n);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t k = let__size_for(&route[i], r->rows);
    if (k == LET__NONE || !let__route_up(c, &route[i]) || c->gpulet[route[i].gpulet].n > 0) continue;
    /* Not for the sake of a client who asks for the impossible. */
    bool doubt = now - route[i].ran > DOUBT_AFTER && 2 * (r->deadline - r->arrival) >= c->model[r->model].m->slo;
    if (doubt || now + route[i].plan[k] + c->limits.margin <= r->deadline) let__route_relax(&route[i], doubt);
  }
}

uint32_t let__most_rows(const let_core *c, uint32_t model) {
  uint32_t n, most = 0;
  const let__route *route = let__routes_of(c, model, &n);
  for (uint32_t i = 0; i < n; i++)
    if (let__route_up(c, &route[i]) && route[i].size[route[i].n_sizes - 1] > most)
      most = route[i].size[route[i].n_sizes - 1];
  return most;
}

let_err let__admit(let_core *c, let_request *r, let_time now) {
  if (r->model >= c->limits.models || !c->model[r->model].m)
    return let__refuse(r, LET_ERR_NOT_FOUND, "model number %u is not served", r->model);
  let__model *m = &c->model[r->model];
  const char *name = m->m->name;
  let_rate_add(&m->rate, now, r->rows);
  view v = {0};
  v.route = let__routes_of(c, r->model, &v.n);
  if (v.n == 0)
    return let__refuse(r, LET_ERR_UNAVAILABLE, "model '%.80s': no gpu-let runs it in the current plan", name);
  if (!let__any_up(c, r->model))
    return let__refuse(r, LET_ERR_UNAVAILABLE,
                       "model '%.80s': %u of its %u gpu-lets are down and being restarted; try again", name, v.n, v.n);
  uint32_t most = let__most_rows(c, r->model);
  /* Promised by the configuration, but not prepared yet: that comes, or another server has it. */
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

  if (r->deadline == LET_NEVER) return LET_OK;
  let_dur given = r->deadline - r->arrival;
  if (r->deadline <= now)
    return let__refuse(r, LET_ERR_DEADLINE, "model '%.80s': its deadline, %.3f ms after arrival, had passed", name,
                       (double)given / 1e6);
  for (uint32_t i = 0; i < v.n && i < EXAMINED; i++)
    if (let__route_up(c, &v.route[i])) v.beside[i] = look_around(c, &v.route[i], r, now);
  uint64_t rows = let__queue_rows_before(c, m, let__key_of(m, r, UINT64_MAX)) + r->rows;
  let_time ignored;
  if (capacity_of_all(c, &v, r->deadline, rows, now) >= rows && !let__hopeless(c, r, now, &ignored)) return LET_OK;
  if (m->queued == 0) relax_idle(c, r, now);
  let_dur soonest = earliest(c, &v, rows, now) + (now - r->arrival);
  return let__refuse(r, LET_ERR_DEADLINE,
                     "model '%.80s': the earliest finish is %.1f ms after arrival, the deadline is %.1f ms", name,
                     (double)soonest / 1e6, (double)given / 1e6);
}
