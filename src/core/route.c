/* route.c: the routing table, predictions corrected by what is measured, and shares of the planned rates. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/core_int.h"

let__route *let__route_find(const let_core *c, uint32_t model, uint32_t gpulet) {
  uint32_t n;
  if (gpulet >= c->limits.gpulets) return NULL;
  const uint32_t *on = let__routes_on(c, gpulet, &n);
  for (uint32_t i = 0; i < n; i++)
    if (c->table->route[on[i]].model == model) return &c->table->route[on[i]];
  return NULL;
}

bool let__route_up(const let_core *c, const let__route *r) { return !c->gpulet[r->gpulet].down; }

uint32_t let__size_for(const let__route *r, uint64_t rows) {
  uint32_t low = 0, high = r->n_sizes;
  while (low < high) {
    uint32_t mid = (low + high) / 2;
    if (r->size[mid] < rows) low = mid + 1;
    else high = mid;
  }
  return low < r->n_sizes ? low : LET__NONE;
}

let_dur let__margin(const let_core *c, const let__route *r) { return c->limits.margin + r->tail; }

let_time let__free_at(const let_core *c, const let__gpulet *g, let_time now) {
  let_time t = now;
  for (uint32_t i = 0; i < g->n; i++) {
    const let__batch *b = &c->batch[g->batch[i]];
    let_time end = (i == 0 ? b->start : t) + b->predict;
    t = end > now ? end : now; /* overdue: any moment now */
  }
  return t;
}

void let__weigh(let_core *c, uint32_t model) {
  uint32_t n;
  const let__route *all = let__routes_of(c, model, &n);
  c->model[model].weight = 0;
  for (uint32_t i = 0; i < n; i++)
    if (let__route_up(c, &all[i])) c->model[model].weight += all[i].weight;
}

/* Smooth weighted choice: every route of the model earns its share of the rows, the one that ran them pays. */
void let__route_charge(let_core *c, const let__route *taken, uint32_t rows) {
  uint32_t n;
  let__route *all = let__routes_of(c, taken->model, &n);
  double sum = c->model[taken->model].weight;
  for (uint32_t i = 0; i < n && sum > 0; i++) {
    let__route *r = &all[i];
    if (let__route_up(c, r)) r->credit += rows * r->weight / sum;
    if (r == taken) r->credit -= rows;
    /* A gpu-let that could not keep up is not owed its whole past. */
    double most = 2.0 * r->size[r->most];
    r->credit = r->credit > most ? most : r->credit < -most ? -most : r->credit;
  }
}

static void believe(let__route *r) {
  for (uint32_t i = 0; i < r->n_sizes; i++) {
    double d = r->own[i] > 0 ? r->own[i] : (double)r->plan[i] * r->factor;
    r->predict[i] = d < 1 && r->plan[i] > 0 ? 1 : (let_dur)d;
    if (i == 0 || r->predict[i] >= r->predict[i - 1]) continue;
    /* A smaller batch takes no longer than a larger one. Where the two say otherwise, the younger one is right. */
    if (r->own[i] > 0 && r->seen[i] > r->seen[i - 1])
      for (uint32_t k = i; k > 0 && r->predict[k - 1] > r->predict[i]; k--) r->predict[k - 1] = r->predict[i];
    else r->predict[i] = r->predict[i - 1];
  }
}

/* Up fast, because too low a prediction makes requests late; down slowly. But some batches are held up by what happens
 * elsewhere on the device, and those say nothing about the next one: were each believed by half, one in five would keep
 * the prediction near the longest, and everything would be refused that four in five could have served. So a single one
 * counts for an eighth of what is believed; only when they come in a row is it the new truth, then by half at once. */
static double follow(double was, double seen, uint32_t rising) {
  if (seen <= was) return was + (seen - was) / 16;
  double up = was + (seen - was) / 2, most = was * (rising < 2 ? 1.125 : rising < 3 ? 1.25 : 1.5);
  return up < most ? up : most;
}

/* A running 98th percentile: up a whole step when exceeded, down a fiftieth of one when not. */
static let_dur percentile(let_dur was, let_dur seen, let_dur step) {
  if (seen > was) return was + (seen - was < step ? seen - was : step);
  return was - step / 50 > 0 ? was - step / 50 : 0;
}

void let__route_learn(let__route *r, uint32_t size, let_dur took, let_dur late, let_time now) {
  uint32_t i = let__size_for(r, size);
  r->ran = now;
  if (i == LET__NONE || r->size[i] != size || took <= 0) return;
  double seen = (double)took;
  r->rising = seen > 1.125 * (double)r->predict[i] ? r->rising + 1 : 0;
  if (r->plan[i] > 0) {
    r->own[i] = follow(r->own[i] > 0 ? r->own[i] : (double)r->predict[i], seen, r->rising);
    r->factor = follow(r->factor, seen / (double)r->plan[i], r->rising);
    if (r->factor < 0.05) r->factor = 0.05;
  } else {
    r->own[i] = r->own[i] > 0 ? follow(r->own[i], seen, r->rising) : seen;
  }
  r->seen[i] = ++r->learnt;
  believe(r);
  let_dur most = r->predict[r->full] / 4 + 500 * LET_US;
  r->late = percentile(r->late, late, r->predict[i] / 32 + 10 * LET_US);
  if (r->late > most) r->late = most;
  r->tail = percentile(r->tail, late, (r->predict[i] + r->tail) / 16 + 10 * LET_US);
}

/* An idle gpu-let for which everything is refused never measures anything again: what was learnt upward is forgotten
 * bit by bit until a batch runs and tells. */
void let__route_relax(let__route *r, bool plan_too) {
  double least = plan_too ? 0.125 : 1; /* of the plan */
  for (uint32_t i = 0; i < r->n_sizes; i++)
    if (r->plan[i] > 0 && r->own[i] > least * (double)r->plan[i])
      r->own[i] -= (r->own[i] - least * (double)r->plan[i]) / 8;
  if (r->factor > least) r->factor -= (r->factor - least) / 8;
  r->late -= r->late / 8;
  believe(r);
}

static let_err check_gpulets(const let_core *c, const let_core_gpulet *g, uint32_t n, let_error *e) {
  if (n > c->limits.gpulets)
    return let_fail(e, LET_ERR_INVALID, "routes: %u gpu-lets are more than the limit of %u", n, c->limits.gpulets);
  for (uint32_t i = 0; i < n; i++) {
    if (g[i].number >= c->limits.gpulets)
      return let_fail(e, LET_ERR_INVALID, "routes: gpu-let number %u is not below the limit of %u", g[i].number,
                      c->limits.gpulets);
    if (g[i].depth < 1 || g[i].depth > LET__DEPTH_MAX)
      return let_fail(e, LET_ERR_INVALID, "routes: gpu-let %u: depth %u is not within 1..%d", g[i].number, g[i].depth,
                      LET__DEPTH_MAX);
  }
  return LET_OK;
}

static let_err check_route(const let_core *c, const let_core_route *r, let_error *e) {
  if (r->model >= c->limits.models || !c->model[r->model].m)
    return let_fail(e, LET_ERR_INVALID, "routes: model %u was not declared", r->model);
  const char *name = c->model[r->model].m->name;
  if (r->n_sizes < 1 || r->n_sizes > LET_SIZES_MAX)
    return let_fail(e, LET_ERR_INVALID, "routes: model '%s' on gpu-let %u: %u batch sizes are not within 1..%d", name,
                    r->gpulet, r->n_sizes, LET_SIZES_MAX);
  for (uint32_t i = 0; i < r->n_sizes; i++) {
    if (r->size[i] < 1 || r->size[i] > LET_BATCH_MAX || (i > 0 && r->size[i] <= r->size[i - 1]))
      return let_fail(e, LET_ERR_INVALID,
                      "routes: model '%s' on gpu-let %u: batch size %u is out of order or not within 1..%d", name,
                      r->gpulet, r->size[i], LET_BATCH_MAX);
    if (r->predict[i] < 0 || r->predict[i] > 3600 * LET_S)
      return let_fail(e, LET_ERR_INVALID,
                      "routes: model '%s' on gpu-let %u: the prediction for batch size %u is not within 0..1 h", name,
                      r->gpulet, r->size[i]);
  }
  if (r->batch < 1 || r->batch > r->size[r->n_sizes - 1])
    return let_fail(e, LET_ERR_INVALID, "routes: model '%s' on gpu-let %u: batch %u is not within its prepared sizes",
                    name, r->gpulet, r->batch);
  if (!(r->rate >= 0 && isfinite(r->rate)))
    return let_fail(e, LET_ERR_INVALID, "routes: model '%s' on gpu-let %u: the rate is not a number >= 0", name,
                    r->gpulet);
  return LET_OK;
}

static void fill(const let_core *c, let__route *r, const let_core_route *from) {
  *r = (let__route){.model = from->model,
                    .gpulet = from->gpulet,
                    .batch = from->batch,
                    .n_sizes = from->n_sizes,
                    .rate = from->rate,
                    .factor = 1,
                    .ran = c->now};
  memcpy(r->size, from->size, from->n_sizes * sizeof *r->size);
  memcpy(r->plan, from->predict, from->n_sizes * sizeof *r->plan);
  r->full = let__size_for(r, r->batch);
  /* The same gpu-let goes on: what was learnt about it stays true. A new one of that number starts afresh: the table
   * in between did not name it. */
  const let__route *old = let__route_find(c, r->model, r->gpulet);
  if (old) {
    r->factor = old->factor, r->late = old->late, r->tail = old->tail, r->credit = old->credit;
    r->rising = old->rising, r->learnt = old->learnt, r->ran = old->ran;
    for (uint32_t i = 0; i < r->n_sizes; i++) {
      uint32_t k = let__size_for(old, r->size[i]);
      if (k != LET__NONE && old->size[k] == r->size[i] && old->own[k] > 0)
        r->own[i] = old->own[k], r->seen[i] = old->seen[k];
    }
  }
  believe(r);
}

/* What depends on the neighbours: how much time they may take first, and whether larger batches than planned are
 * nobody else's loss. */
static void settle(let__table *t, uint32_t first, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    let__route *r = &t->route[t->by_gpulet[first + i]];
    r->most = r->full;
    for (uint32_t k = r->full + 1; n == 1 && k < r->n_sizes; k++)
      if ((double)r->plan[k] / r->size[k] <= (double)r->plan[r->most] / r->size[r->most]) r->most = k;
    for (uint32_t k = 0; k < n; k++) {
      const let__route *other = &t->route[t->by_gpulet[first + k]];
      if (k != i) r->reserve += other->predict[other->full];
    }
  }
}

/* The speed of a full batch stands in for rates that were not planned. */
static void share_out(let__route *r, uint32_t n) {
  bool planned = true;
  for (uint32_t i = 0; i < n; i++) planned = planned && r[i].rate > 0;
  for (uint32_t i = 0; i < n; i++)
    r[i].weight = planned ? r[i].rate : r[i].size[r[i].full] * 1e9 / (double)(r[i].predict[r[i].full] + LET_US);
}

let_err let__table_new(const let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                       const let_core_route *routes, uint32_t n_routes, let__table **ret, let_error *e) {
  let_err err = check_gpulets(c, gpulets, n_gpulets, e);
  for (uint32_t i = 0; i < n_routes && !err; i++) err = check_route(c, &routes[i], e);
  if (err) return err;
  uint32_t models = c->limits.models, lets = c->limits.gpulets;
  size_t head = (sizeof(let__table) + 15) / 16 * 16, rows = n_routes * sizeof(let__route);
  size_t bytes = head + rows + (n_routes + models + 1 + lets + 1) * sizeof(uint32_t);
  let__table *t = let_mem_zalloc(c->mem, bytes);
  if (!t) return let_fail(e, LET_ERR_NOMEM, "routes: out of memory for %u routes", n_routes);
  t->bytes = bytes, t->n = n_routes;
  t->route = (let__route *)(void *)((char *)t + head);
  t->by_gpulet = (uint32_t *)(void *)((char *)t + head + rows);
  t->first_of_model = t->by_gpulet + n_routes;
  t->first_of_gpulet = t->first_of_model + models + 1;

  /* |first_of_gpulet| first marks the gpu-lets that are named, then counts, then points. */
  for (uint32_t i = 0; i < n_gpulets && !err; i++)
    if (t->first_of_gpulet[gpulets[i].number]++)
      err = let_fail(e, LET_ERR_INVALID, "routes: gpu-let %u is named twice", gpulets[i].number);
  for (uint32_t i = 0; i < n_routes && !err; i++)
    if (routes[i].gpulet >= lets || !t->first_of_gpulet[routes[i].gpulet])
      err = let_fail(e, LET_ERR_INVALID, "routes: model '%s' is routed to gpu-let %u, which is not among those named",
                     c->model[routes[i].model].m->name, routes[i].gpulet);
  if (err) return let__table_free(c, t), err;
  memset(t->first_of_gpulet, 0, (lets + 1) * sizeof(uint32_t));

  /* Two counting sorts: after the fill, first_of_x[i] has moved to the end of i, which is the start of i + 1. */
  for (uint32_t i = 0; i < n_routes; i++) t->first_of_model[routes[i].model]++;
  for (uint32_t i = 0, at = 0; i <= models; i++) {
    uint32_t k = t->first_of_model[i];
    t->first_of_model[i] = at;
    at += k;
  }
  for (uint32_t i = 0; i < n_routes; i++) fill(c, &t->route[t->first_of_model[routes[i].model]++], &routes[i]);
  memmove(t->first_of_model + 1, t->first_of_model, models * sizeof(uint32_t));
  t->first_of_model[0] = 0;
  for (uint32_t i = 0; i < n_routes; i++) t->first_of_gpulet[t->route[i].gpulet]++;
  for (uint32_t i = 0, at = 0; i <= lets; i++) {
    uint32_t k = t->first_of_gpulet[i];
    t->first_of_gpulet[i] = at;
    at += k;
  }
  for (uint32_t i = 0; i < n_routes; i++) t->by_gpulet[t->first_of_gpulet[t->route[i].gpulet]++] = i;
  memmove(t->first_of_gpulet + 1, t->first_of_gpulet, lets * sizeof(uint32_t));
  t->first_of_gpulet[0] = 0;

  for (uint32_t g = 0; g < lets && !err; g++) {
    uint32_t first = t->first_of_gpulet[g], n = t->first_of_gpulet[g + 1] - first;
    /* By model already, so twins are neighbours. */
    for (uint32_t i = 1; i < n && !err; i++)
      if (t->route[t->by_gpulet[first + i]].model == t->route[t->by_gpulet[first + i - 1]].model)
        err = let_fail(e, LET_ERR_INVALID, "routes: model '%s' is routed to gpu-let %u twice",
                       c->model[t->route[t->by_gpulet[first + i]].model].m->name, g);
    settle(t, first, n);
  }
  if (err) return let__table_free(c, t), err;
  for (uint32_t i = 0; i < models; i++)
    share_out(t->route + t->first_of_model[i], t->first_of_model[i + 1] - t->first_of_model[i]);
  *ret = t;
  return LET_OK;
}

void let__table_free(const let_core *c, let__table *t) {
  if (t) let_mem_free(c->mem, t, t->bytes);
}
