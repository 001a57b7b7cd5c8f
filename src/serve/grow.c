/* grow.c: gpu-lets come up one by one, with the sizes that they need to serve; the others are added while they serve.
 */
#include <stdio.h>

#include "obs/log.h"
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

static let_err lane_message(const server *s, const group *g, uint32_t number, let_arena *a, let_ipc_lane *ret,
                            let_error *e) {
  const gpulet *l = &g->gpulet[number];
  bool whole = s->device[g->device].environment != NULL; /* the share is the process's, not a part that it opens */
  bool changing = s->serving && !let_apply_group_routed(s->apply, (uint32_t)(g - s->group));
  let_ipc_variant *models = let_arena_array(a, l->n_places, sizeof *models);
  if (!models) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u models", l->n_places);
  let_dur cost = 0;
  for (uint32_t k = 0; k < l->n_places; k++) {
    const place *p = &l->place[k];
    let_ipc_variant *v = &models[k];
    uint32_t n, needed = preparing_order(s, p, changing, v->size, &n);
    v->model = &s->model[p->model];
    v->n_sizes = (uint8_t)n;
    v->needed = (uint8_t)needed;
    v->slo = p->planned > 0 ? 0 : s->slo[p->model];
    v->planned = p->planned > 0;
    cost += s->took[p->model];
  }
  *ret = (let_ipc_lane){.gpulet = {l->number}, .n_models = l->n_places, .model = models};
  ret->first = whole ? 0 : l->first;
  ret->granules = whole ? 1 : l->granules;
  ret->shared = whole || l->shared;
  ret->cost = cost < LET_IPC_TIME_MAX ? cost : LET_IPC_TIME_MAX;
  return LET_OK;
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

let_err serve_prepare_message(const server *s, uint32_t g, let_arena *a, let_ipc_command *ret, let_error *e) {
  uint32_t n = s->group[g].n_gpulets;
  let_ipc_lane *lanes = let_arena_array(a, n, sizeof *lanes);
  let_err r = lanes ? LET_OK : let_fail(e, LET_ERR_NOMEM, "out of memory for %u gpu-lets", n);
  for (uint32_t i = 0; !r && i < n; i++) r = lane_message(s, &s->group[g], i, a, &lanes[i], e);
  *ret = (let_ipc_command){.type = LET_IPC_PREPARE, .prepare = {.n_lanes = n, .lane = lanes}};
  ret->prepare.beside = beside_others(s, g);
  return r;
}

/* ---- what it says -------------------------------------------------------------------------------------------- */

/* One size that is ready. What was measured alone once is worth more than any figure taken beside traffic. */
static void read_size(place *p, const let_ipc_size_time *x) { /* p99 0: not measured, the core learns it */
  for (uint32_t k = 0; k < p->n_sizes; k++) {
    if (p->size[k] != x->size) continue;
    p->ready[k] = true, p->failed[k] = false;
    if (x->p99 >= 3600 * LET_S) return;
    if (x->beside && p->predict[k] > 0 && (!p->beside[k] || p->predict[k] <= x->p99)) return;
    p->predict[k] = x->p99, p->beside[k] = x->beside;
  }
}

static void read_model(server *s, place *p, const let_ipc_model_report *m) {
  for (uint8_t i = 0; i < m->n_sizes; i++) read_size(p, &m->size[i]);
  p->memory_bytes = m->memory_bytes;
  p->eager = m->eager[0] != 0; /* why, if so */
  if (m->took > 0) s->took[p->model] = m->took;
  uint64_t row = m->output_row_bytes;
  if (row > s->out_bytes[p->model] && row < let_ring_arena_size(s->arena) / 8) s->out_bytes[p->model] = row;
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

void serve_lane_ready(server *s, uint32_t group_index, const let_ipc_lane_up *m) {
  group *g = &s->group[group_index];
  if (m->lane >= g->n_gpulets || m->n_models != g->gpulet[m->lane].n_places) return;
  gpulet *l = &g->gpulet[m->lane];
  bool whole = true;
  for (uint32_t k = 0; k < m->n_models; k++) read_model(s, &l->place[k], &m->model[k]);
  for (uint32_t k = 0; k < l->n_places; k++) whole = whole && has_one(&l->place[k]);
  renew_routes(s, group_index);
  if (whole) bring_up(s, g, l);
}

void serve_size_ready(server *s, uint32_t group_index, const let_ipc_size *m) {
  group *g = &s->group[group_index];
  if (m->lane >= g->n_gpulets || m->model >= g->gpulet[m->lane].n_places) return;
  place *p = &g->gpulet[m->lane].place[m->model];
  if (m->memory_bytes > 0) p->memory_bytes = m->memory_bytes;
  if (!m->failed[0]) {
    read_size(p, &m->time);
  } else {
    snprintf(p->why, sizeof p->why, "%s", m->failed);
    for (uint32_t k = 0; k < p->n_sizes; k++)
      if (p->size[k] == m->time.size && !p->ready[k]) p->failed[k] = true;
    let_log(LET_LOG_WARN, "serve", "model '%s' on gpu-let %u serves without batch size %u: %s", s->model[p->model].name,
            g->gpulet[m->lane].number, m->time.size, p->why);
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
