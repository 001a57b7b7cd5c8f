/* table.c: checks and fills a routing table, and carries over what was measured under the one before. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/core_int.h"

let__route *let__route_find(const let_core *c, uint32_t model, let_gpulet_id gpulet) {
  uint32_t n;
  if (gpulet.n >= c->limits.gpulets) return NULL;
  const uint32_t *on = let__routes_on(c, gpulet, &n);
  for (uint32_t i = 0; i < n; i++)
    if (c->table->route[on[i]].model == model) return &c->table->route[on[i]];
  return NULL;
}

uint32_t let__size_for(const let__route *r, uint64_t rows) {
  uint32_t low = 0, high = r->n_sizes;
  while (low < high) {
    uint32_t mid = (low + high) / 2;
    if (r->variant[mid].size < rows) low = mid + 1;
    else high = mid;
  }
  return low < r->n_sizes ? low : LET__NONE;
}

bool let__any_up(const let_core *c, uint32_t model) {
  uint32_t n;
  const let__route *r = let__routes_of(c, model, &n);
  for (uint32_t i = 0; i < n; i++)
    if (let__route_up(c, &r[i])) return true;
  return false;
}

uint32_t let__most_rows(const let_core *c, uint32_t model) {
  uint32_t n, most = 0;
  const let__route *r = let__routes_of(c, model, &n);
  for (uint32_t i = 0; i < n; i++) {
    uint32_t rows = r[i].variant[r[i].n_sizes - 1].size;
    if (let__route_up(c, &r[i]) && rows > most) most = rows;
  }
  return most;
}

static let_err check_gpulets(const let_core *c, const let_core_gpulet *g, uint32_t n, let_error *e) {
  if (n > c->limits.gpulets)
    return let_fail(e, LET_ERR_INVALID, "routes: %u gpu-lets are more than the limit of %u", n, c->limits.gpulets);
  for (uint32_t i = 0; i < n; i++) {
    if (g[i].id.n >= c->limits.gpulets)
      return let_fail(e, LET_ERR_INVALID, "routes: gpu-let number %u is not below the limit of %u", g[i].id.n,
                      c->limits.gpulets);
    if (g[i].depth < 1 || g[i].depth > LET__DEPTH_MAX)
      return let_fail(e, LET_ERR_INVALID, "routes: gpu-let %u: depth %u is not within 1..%d", g[i].id.n, g[i].depth,
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
                    r->gpulet.n, r->n_sizes, LET_SIZES_MAX);
  for (uint32_t i = 0; i < r->n_sizes; i++) {
    if (r->size[i] < 1 || r->size[i] > LET_BATCH_MAX || (i > 0 && r->size[i] <= r->size[i - 1]))
      return let_fail(e, LET_ERR_INVALID,
                      "routes: model '%s' on gpu-let %u: batch size %u is out of order or not within 1..%d", name,
                      r->gpulet.n, r->size[i], LET_BATCH_MAX);
    if (r->predict[i] < 0 || r->predict[i] > LET__BATCH_MAX)
      return let_fail(e, LET_ERR_INVALID,
                      "routes: model '%s' on gpu-let %u: the prediction for batch size %u is not within 0..1 h", name,
                      r->gpulet.n, r->size[i]);
  }
  if (r->batch < 1 || r->batch > r->size[r->n_sizes - 1])
    return let_fail(e, LET_ERR_INVALID, "routes: model '%s' on gpu-let %u: batch %u is not within its prepared sizes",
                    name, r->gpulet.n, r->batch);
  if (!(r->rate >= 0 && isfinite(r->rate)))
    return let_fail(e, LET_ERR_INVALID, "routes: model '%s' on gpu-let %u: the rate is not a number >= 0", name,
                    r->gpulet.n);
  return LET_OK;
}

/* The gpu-let goes on, so what was measured on it stays true. A new one with the same id starts afresh: a table in
 * between did not name it. */
static void inherit(let__route *r, const let__route *old) {
  r->ratio = old->ratio;
  r->ran = old->ran;
  r->credit = old->credit;
  r->credited = old->credited;
  for (uint32_t i = 0; i < r->n_sizes; i++) {
    uint32_t k = let__size_for(old, r->variant[i].size);
    if (k == LET__NONE || old->variant[k].size != r->variant[i].size) continue;
    r->variant[i].took = old->variant[k].took;
    r->variant[i].seen = old->variant[k].seen;
  }
}

static void fill(const let_core *c, let__route *r, let__variant *variant, const let_core_route *from) {
  *r = (let__route){.model = from->model,
                    .gpulet = from->gpulet,
                    .batch = from->batch,
                    .n_sizes = from->n_sizes,
                    .variant = variant,
                    .rate = from->rate,
                    .credited = 0};
  for (uint32_t i = 0; i < from->n_sizes; i++)
    variant[i] = (let__variant){.size = from->size[i], .plan = from->predict[i]};
  r->full = let__size_for(r, r->batch);
  const let__route *old = let__route_find(c, r->model, r->gpulet);
  if (old) inherit(r, old);
  let__route_refresh(r, c->now);
}

/* Sets the rates at which models gain credit. They share in proportion what the gpu-let has left beyond the planned
 * rates; a model without a planned rate gets an even part of the time. */
static void share_out(let__table *t, uint32_t first, uint32_t n) {
  double used = 0;
  for (uint32_t i = 0; i < n; i++) {
    let__route *r = &t->route[t->by_gpulet[first + i]];
    double per_request = (double)(r->variant[r->full].predict + LET_US) / 1e9 / r->variant[r->full].size;
    if (r->rate <= 0) r->rate = 1.0 / n / per_request;
    used += r->rate * per_request;
  }
  for (uint32_t i = 0; i < n && used < 1; i++) t->route[t->by_gpulet[first + i]].rate *= used > 0.9 ? 1 / used : 1.1;
}

let_err let__table_new(const let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                       const let_core_route *routes, uint32_t n_routes, let__table **ret, let_error *e) {
  let_err err = check_gpulets(c, gpulets, n_gpulets, e);
  for (uint32_t i = 0; i < n_routes && !err; i++) err = check_route(c, &routes[i], e);
  if (err) return err;
  uint32_t models = c->limits.models, lets = c->limits.gpulets;
  size_t head = (sizeof(let__table) + 15) / 16 * 16, rows = n_routes * sizeof(let__route);
  size_t n_variants = 0;
  for (uint32_t i = 0; i < n_routes; i++) n_variants += routes[i].n_sizes;
  size_t variants = n_variants * sizeof(let__variant);
  size_t bytes = head + rows + variants + (n_routes + models + 1 + lets + 1) * sizeof(uint32_t);
  let__table *t = let_mem_zalloc(c->mem, bytes);
  if (!t) return let_fail(e, LET_ERR_NOMEM, "routes: out of memory for %u routes", n_routes);
  t->bytes = bytes;
  t->n = n_routes;
  t->route = (let__route *)(void *)((char *)t + head);
  let__variant *variant = (let__variant *)(void *)((char *)t->route + rows);
  t->by_gpulet = (uint32_t *)(void *)((char *)variant + variants);
  t->first_of_model = t->by_gpulet + n_routes;
  t->first_of_gpulet = t->first_of_model + models + 1;

  /* |first_of_gpulet| first marks the gpu-lets that are named, then counts, then points. */
  for (uint32_t i = 0; i < n_gpulets && !err; i++)
    if (t->first_of_gpulet[gpulets[i].id.n]++)
      err = let_fail(e, LET_ERR_INVALID, "routes: gpu-let %u is named twice", gpulets[i].id.n);
  for (uint32_t i = 0; i < n_routes && !err; i++)
    if (routes[i].gpulet.n >= lets || !t->first_of_gpulet[routes[i].gpulet.n])
      err = let_fail(e, LET_ERR_INVALID, "routes: model '%s' is routed to gpu-let %u, which is not among those named",
                     c->model[routes[i].model].m->name, routes[i].gpulet.n);
  if (err) {
    let__table_free(c, t);
    return err;
  }
  memset(t->first_of_gpulet, 0, (lets + 1) * sizeof(uint32_t));

  /* Two counting sorts: after the fill, first_of_x[i] has moved to the end of i, which is the start of i + 1. */
  for (uint32_t i = 0; i < n_routes; i++) t->first_of_model[routes[i].model]++;
  for (uint32_t i = 0, at = 0; i <= models; i++) {
    uint32_t k = t->first_of_model[i];
    t->first_of_model[i] = at;
    at += k;
  }
  for (uint32_t i = 0; i < n_routes; i++) {
    fill(c, &t->route[t->first_of_model[routes[i].model]++], variant, &routes[i]);
    variant += routes[i].n_sizes;
  }
  memmove(t->first_of_model + 1, t->first_of_model, models * sizeof(uint32_t));
  t->first_of_model[0] = 0;
  for (uint32_t i = 0; i < n_routes; i++) t->first_of_gpulet[t->route[i].gpulet.n]++;
  for (uint32_t i = 0, at = 0; i <= lets; i++) {
    uint32_t k = t->first_of_gpulet[i];
    t->first_of_gpulet[i] = at;
    at += k;
  }
  for (uint32_t i = 0; i < n_routes; i++) t->by_gpulet[t->first_of_gpulet[t->route[i].gpulet.n]++] = i;
  memmove(t->first_of_gpulet + 1, t->first_of_gpulet, lets * sizeof(uint32_t));
  t->first_of_gpulet[0] = 0;

  for (uint32_t g = 0; g < lets && !err; g++) {
    uint32_t first = t->first_of_gpulet[g], n = t->first_of_gpulet[g + 1] - first;
    /* They are in order of models, so two of one model are next to each other. */
    for (uint32_t i = 1; i < n && !err; i++)
      if (t->route[t->by_gpulet[first + i]].model == t->route[t->by_gpulet[first + i - 1]].model)
        err = let_fail(e, LET_ERR_INVALID, "routes: model '%s' is routed to gpu-let %u twice",
                       c->model[t->route[t->by_gpulet[first + i]].model].m->name, g);
    share_out(t, first, n);
  }
  if (err) {
    let__table_free(c, t);
    return err;
  }
  *ret = t;
  return LET_OK;
}

void let__table_free(const let_core *c, let__table *t) {
  if (t) let_mem_free(c->mem, t, t->bytes);
}
