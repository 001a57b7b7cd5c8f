/* grow.c: gpu-lets come up one by one, with the sizes that they need to serve; the others are added while they serve.
 */
#include <stdio.h>

#include "obs/log.h"
#include "ipc/socket.h"
#include "serve_int.h"

/* Sizes to prepare: the model's own up to the planned batch, the planned batch itself, and the largest one that
 * config.pbtxt promises to clients: a single request may have that many rows. */
void serve_choose_sizes(const let_model *m, uint32_t batch, place *p) {
  uint32_t all[LET_SIZES_MAX], n = let_model_sizes(m, all);
  p->n_sizes = 0;
  for (uint32_t i = 0; i < n && all[i] < batch && p->n_sizes + 2 < LET_SIZES_MAX; i++) p->size[p->n_sizes++] = all[i];
  p->size[p->n_sizes++] = batch;
  if (all[n - 1] > batch) p->size[p->n_sizes++] = all[n - 1];
}

/* ---- what the worker is asked for -------------------------------------------------------------------------- */

static bool take(uint32_t size, uint32_t *order, uint32_t *n) {
  for (uint32_t i = 0; i < *n; i++)
    if (order[i] == size) return false;
  order[(*n)++] = size;
  return true;
}

/* The order of preparing; returns how many are needed before the gpu-let serves. That is the planned batch alone: the
 * plan keeps the SLO with it, and smaller ones are padded to it. (A worker that finds it too slow for that, where the
 * plan promised nothing, needs the next one too.) A change of plan takes nothing away from clients who were seen to
 * send more rows; after a failure the others do not wait for these. Then the smallest, for the latency of single
 * requests; the largest, which config.pbtxt promises; and what saves padding, from the top. */
static uint32_t preparing_order(const server *s, const place *p, bool changing, uint32_t *order, uint32_t *ret_n) {
  uint32_t n = 0, needed = 1;
  take(p->batch, order, &n);
  for (uint32_t i = 0; i < p->n_sizes && changing; i++)
    if (p->size[i] >= s->rows[p->model]) {
      needed += take(p->size[i], order, &n) && p->size[i] > p->batch;
      break;
    }
  take(p->size[0], order, &n);
  take(p->size[p->n_sizes - 1], order, &n);
  for (uint32_t i = p->n_sizes; i-- > 0;) take(p->size[i], order, &n);
  *ret_n = n;
  return needed;
}

static json_t *lane_document(const server *s, const group *g, uint32_t number) {
  const gpulet *l = &g->gpulet[number];
  bool whole = s->device[g->device].environment != NULL; /* the share is the process's, not a part that it opens */
  bool changing = s->serving && !let_apply_group_routed(s->apply, (uint32_t)(g - s->group));
  json_t *models = json_array();
  let_dur cost = 0;
  for (uint32_t k = 0; k < l->n_places; k++) {
    const place *p = &l->place[k];
    uint32_t order[LET_SIZES_MAX], n, needed = preparing_order(s, p, changing, order, &n);
    json_t *sizes = json_array();
    for (uint32_t j = 0; j < n; j++) json_array_append_new(sizes, json_integer(order[j]));
    json_array_append_new(
        models, json_pack("{s:o, s:o, s:i, s:I, s:b}", "spec", let_control_model_put(&s->model[p->model]), "sizes",
                          sizes, "needed", (int)needed, "slo_us",
                          (json_int_t)(p->planned > 0 ? 0 : s->slo[p->model] / LET_US), "planned", p->planned > 0));
    cost += s->took[p->model];
  }
  return json_pack("{s:i, s:i, s:i, s:b, s:I, s:o}", "gpulet", (int)number, "first", whole ? 0 : (int)l->first,
                   "granules", whole ? 1 : (int)l->granules, "shared", whole || l->shared, "cost_us",
                   (json_int_t)(cost / LET_US), "models", models);
}

/* Do other workers serve on this device, or prepare to, so that what is measured there is not measured alone? Its own
 * gpu-lets a worker knows. */
static bool beside_others(const server *s, uint32_t g) {
  uint32_t w = let_apply_group_worker(s->apply, g);
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    if (s->group[i].used && s->group[i].device == s->group[g].device && let_apply_group_in_use(s->apply, i) &&
        let_apply_group_worker(s->apply, i) != w)
      return true;
  return false;
}

json_t *serve_prepare_document(const server *s, uint32_t g) {
  json_t *lanes = json_array();
  for (uint32_t i = 0; i < s->group[g].n_gpulets; i++) json_array_append_new(lanes, lane_document(s, &s->group[g], i));
  /* The group's slot doubles as the generation number on this wire: it names the set of lanes to the worker. */
  return json_pack("{s:s, s:I, s:b, s:o}", "op", "prepare", "generation", (json_int_t)(g + 1), "beside",
                   beside_others(s, g), "lanes", lanes);
}

/* ---- what it says -------------------------------------------------------------------------------------------- */

static const char *text_of(json_t *doc, const char *key) {
  const char *t = json_string_value(json_object_get(doc, key));
  return t ? t : "";
}

/* One size that is ready. What was measured alone once is worth more than any figure taken beside traffic. */
static void read_size(place *p, json_t *x) {
  json_int_t size = json_integer_value(json_object_get(x, "size"));
  double p99_us = json_number_value(json_object_get(x, "p99_us")); /* 0: not measured, the core learns it */
  bool beside = json_is_true(json_object_get(x, "beside"));
  for (uint32_t k = 0; k < p->n_sizes; k++) {
    if (p->size[k] != size) continue;
    p->ready[k] = true, p->failed[k] = false;
    if (!(p99_us >= 0 && p99_us < 3.6e9)) return;
    let_dur p99 = (let_dur)(p99_us * 1e3);
    if (beside && p->predict[k] > 0 && (!p->beside[k] || p->predict[k] <= p99)) return;
    p->predict[k] = p99, p->beside[k] = beside;
  }
}

static void read_model(server *s, place *p, json_t *m) {
  size_t i;
  json_t *x;
  json_array_foreach(json_object_get(m, "sizes"), i, x) read_size(p, x);
  p->memory_bytes = (uint64_t)json_integer_value(json_object_get(m, "memory_bytes"));
  p->eager = text_of(m, "eager")[0] != 0; /* why, if so */
  json_int_t took = json_integer_value(json_object_get(m, "took_us")),
             row = json_integer_value(json_object_get(m, "output_row_bytes"));
  if (took > 0 && took < INT64_MAX / LET_US / SERVE_GPULETS) s->took[p->model] = took * LET_US;
  if (row > 0 && (uint64_t)row > s->out_bytes[p->model] && (uint64_t)row < let_ring_arena_size(s->arena) / 8)
    s->out_bytes[p->model] = (uint64_t)row;
}

static bool has_one(const place *p) {
  for (uint32_t k = 0; k < p->n_sizes; k++)
    if (p->ready[k] && p->size[k] >= p->batch) return true;
  return false;
}

/* The routing table once more, with what has become ready since. */
static void renew_routes(server *s, uint32_t g) {
  sizes_count n = serve_group_sizes(s, g);
  s->group[g].grows = n.ready > 0 && n.ready + n.failed < n.wanted;
  let_error e = {0};
  if (let_apply_group_routed(s->apply, g) && serve_routes_set(s, false, serve_now(), &e))
    let_log(LET_LOG_ERROR, "serve", "the routes stay as they were: %s", e.text);
}

static void bring_up(server *s, group *g, gpulet *l) {
  if (l->up) return;
  l->up = true;
  if (l->declared) let_core_gpulet_up(s->core, l->number);
  if (l->declared) let_log(LET_LOG_INFO, "serve", "gpu-let %u of %s is back", l->number, s->device[g->device].name);
}

void serve_lanes_ready(server *s, uint32_t group_index, json_t *doc) {
  group *g = &s->group[group_index];
  size_t i, k;
  json_t *lane, *m;
  bool up[SERVE_GPULETS] = {false};
  json_array_foreach(json_object_get(doc, "lanes"), i, lane) {
    json_int_t number = json_integer_value(json_object_get(lane, "gpulet"));
    if (number < 0 || number >= g->n_gpulets || number >= SERVE_GPULETS) continue;
    gpulet *l = &g->gpulet[number];
    json_array_foreach(json_object_get(lane, "models"), k, m) {
      if (k >= l->n_places) break;
      read_model(s, &l->place[k], m);
    }
    bool whole = true;
    for (k = 0; k < l->n_places; k++) whole = whole && has_one(&l->place[k]);
    up[number] = whole;
  }
  renew_routes(s, group_index);
  for (i = 0; i < g->n_gpulets; i++)
    if (up[i]) bring_up(s, g, &g->gpulet[i]);
}

void serve_size_ready(server *s, uint32_t group_index, json_t *doc) {
  group *g = &s->group[group_index];
  json_int_t number = json_integer_value(json_object_get(doc, "gpulet")),
             model = json_integer_value(json_object_get(doc, "model"));
  if (number < 0 || number >= g->n_gpulets || model < 0 || model >= g->gpulet[number].n_places) return;
  place *p = &g->gpulet[number].place[model];
  json_t *x = json_object_get(doc, "size");
  json_int_t memory = json_integer_value(json_object_get(doc, "memory_bytes"));
  if (memory > 0) p->memory_bytes = (uint64_t)memory;
  if (!text_of(x, "failed")[0]) {
    read_size(p, x);
  } else {
    json_int_t size = json_integer_value(json_object_get(x, "size"));
    snprintf(p->why, sizeof p->why, "%s", text_of(x, "failed"));
    for (uint32_t k = 0; k < p->n_sizes; k++)
      if (p->size[k] == size && !p->ready[k]) p->failed[k] = true;
    let_log(LET_LOG_WARN, "serve", "model '%s' on gpu-let %u serves without batch size %lld: %s",
            s->model[p->model].name, g->gpulet[number].number, (long long)size, p->why);
  }
  renew_routes(s, group_index);
  sizes_count n = serve_group_sizes(s, group_index);
  if (!g->grows)
    let_log(LET_LOG_INFO, "serve", "%s: %u of %u batch sizes are ready", s->device[g->device].name, n.ready, n.wanted);
}

void serve_group_up(server *s, uint32_t i) {
  group *g = &s->group[i];
  for (uint32_t k = 0; k < g->n_gpulets; k++) bring_up(s, g, &g->gpulet[k]);
  g->since = serve_now();
  let_log(LET_LOG_INFO, "serve", "%u gpu-let%s of %s back", g->n_gpulets, g->n_gpulets == 1 ? "" : "s",
          s->device[g->device].name);
}

void serve_group_down(server *s, uint32_t i) {
  group *g = &s->group[i];
  g->grows = false;
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    gpulet *l = &g->gpulet[k];
    l->up = false;
    if (l->declared) let_core_gpulet_down(s->core, l->number);
    for (uint32_t j = 0; j < l->n_places; j++) {
      place *p = &l->place[j];
      memset(p->ready, 0, sizeof p->ready);
      memset(p->failed, 0, sizeof p->failed);
    }
  }
}

/* ---- for people ------------------------------------------------------------------------------------------------ */

sizes_count serve_group_sizes(const server *s, uint32_t i) {
  sizes_count n = {0};
  const group *g = &s->group[i];
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    for (uint32_t j = 0; j < g->gpulet[k].n_places; j++) {
      const place *p = &g->gpulet[k].place[j];
      n.wanted += p->n_sizes;
      for (uint32_t z = 0; z < p->n_sizes; z++) n.ready += p->ready[z], n.failed += p->failed[z];
    }
  return n;
}

bool serve_worker_grows(const server *s, uint32_t w) {
  for (uint32_t i = let_apply_group_of(s->apply, w, LET_APPLY_NONE); i != LET_APPLY_NONE;
       i = let_apply_group_of(s->apply, w, i))
    if (s->group[i].grows) return true;
  return false;
}

bool serve_why_too_wide(const server *s, uint32_t model, uint32_t rows, char *out, size_t cap) {
  const place *because = NULL;
  for (uint32_t i = 0; i < SERVE_GROUPS; i++)
    for (uint32_t k = 0; s->group[i].used && let_apply_group_routed(s->apply, i) && k < s->group[i].n_gpulets; k++)
      for (uint32_t j = 0; j < s->group[i].gpulet[k].n_places; j++) {
        const place *p = &s->group[i].gpulet[k].place[j];
        for (uint32_t z = 0; p->model == model && z < p->n_sizes; z++) {
          if (p->size[z] >= rows && !p->failed[z]) return false; /* ready, or on its way */
          if (p->size[z] >= rows) because = p;
        }
      }
  if (!because) return false;
  snprintf(out, cap, "model '%.60s': no batch size for %u rows could be prepared, split the request: %s",
           s->model[model].name, rows, because->why);
  return true;
}
