/* sizes.c: gpu-lets come up one by one, with the batch sizes that they need to serve; the others are added while they
 * serve. */
#include "fleet_int.h"

#include <stdio.h>
#include <string.h>

/* Sizes to prepare: the model's own up to the planned batch, the planned batch itself, and the largest one that
 * config.pbtxt promises to clients: a single request may have that many rows. */
void let__choose_sizes(const let_model *m, uint32_t batch, let_fleet_entry *x) {
  uint32_t all[LET_SIZES_MAX], n = let_model_sizes(m, all);
  x->n_sizes = 0;
  for (uint32_t i = 0; i < n && all[i] < batch && x->n_sizes + 2 < LET_SIZES_MAX; i++) x->size[x->n_sizes++] = all[i];
  x->size[x->n_sizes++] = batch;
  if (all[n - 1] > batch) x->size[x->n_sizes++] = all[n - 1];
}

/* ---- what a worker is asked for ---------------------------------------------------------------------------------- */

static bool take(uint32_t size, let_fleet_variant *v) {
  for (uint32_t i = 0; i < v->n_sizes; i++)
    if (v->size[i] == size) return false;
  v->size[v->n_sizes++] = size;
  return true;
}

/* The order of preparing, and how many sizes are needed before the gpu-let serves. That is the planned batch alone: the
 * plan keeps the SLO with it, and smaller ones are padded to it. (A worker that finds it too slow for that, where the
 * plan promised nothing, needs the next one too.) A change of plan keeps a size for clients that send more rows; after
 * a failure the planned batch does not wait for it. Then the smallest, for the latency of single requests; the largest,
 * which config.pbtxt promises; and the others, which save padding, from the top. */
static void fill_variant(const let_fleet *f, const let_fleet_entry *x, bool changing, let_fleet_variant *v) {
  v->model = x->model;
  v->needed = 1;
  v->planned = x->planned > 0;
  v->slo = v->planned ? 0 : x->slo ? x->slo : let__slo_configured(f, x->model);
  take(x->batch, v);
  if (changing) {
    uint32_t i = 0;
    while (i < x->n_sizes && x->size[i] < f->rows[x->model]) i++;
    if (i < x->n_sizes) v->needed += take(x->size[i], v) && x->size[i] > x->batch;
  }
  take(x->size[0], v);
  take(x->size[x->n_sizes - 1], v);
  for (uint32_t i = x->n_sizes; i-- > 0;) take(x->size[i], v);
}

bool let__beside_others(const let_fleet *f, const let__group *g) {
  for (uint32_t i = 0; i < f->o.groups; i++) {
    const let__group *other = &f->group[i];
    if (other->state != LET_GROUP_NONE && other->device == g->device && !let_worker_id_eq(other->worker, g->worker))
      return true;
  }
  return false;
}

bool let__prepare(let_fleet *f, const let__group *g, let_lane_set_id set, bool beside) {
  let_arena_fini(&f->scratch);
  bool own = f->o.device[g->device].own_share; /* the share is the process's, not a part that it opens */
  bool changing = f->serving && !g->routed;
  let_fleet_lane *lane = let_arena_array(&f->scratch, g->n_gpulets, sizeof *lane);
  if (!lane) return false;
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    const let_fleet_gpulet *l = &g->gpulet[k];
    let_fleet_variant *v = let_arena_array(&f->scratch, l->n_entries, sizeof *v);
    if (!v) return false;
    let_dur cost = 0;
    for (uint32_t j = 0; j < l->n_entries; j++) {
      fill_variant(f, &l->entry[j], changing, &v[j]);
      cost += f->took[l->entry[j].model];
    }
    lane[k] = (let_fleet_lane){.gpulet = l->id,
                               .first = own ? 0 : l->first,
                               .granules = own ? 1 : l->granules,
                               .shared = own || l->shared,
                               .cost = cost,
                               .n_models = l->n_entries,
                               .model = v};
  }
  f->prepare = (let_fleet_prepare){.set = set, .beside = beside, .n_lanes = g->n_gpulets, .lane = lane};
  return true;
}

/* ---- what the worker says --------------------------------------------------------------------------------------- */

/* One size that is ready. What was measured alone once is worth more than any figure taken beside traffic. */
static void size_is_ready(let_fleet_entry *x, const let_fleet_size_time *t) {
  for (uint32_t k = 0; k < x->n_sizes; k++) {
    if (x->size[k] != t->size) continue;
    x->ready[k] = true;
    x->failed[k] = false;
    if (t->p99 < 0 || t->p99 >= 3600 * LET_S) return; /* 0: not measured, the core learns it */
    if (t->beside && x->predict[k] > 0 && (!x->beside[k] || x->predict[k] <= t->p99)) return;
    x->predict[k] = t->p99;
    x->beside[k] = t->beside;
  }
}

/* No model takes more than the device has. */
static void note_memory(const let_fleet *f, const let__group *g, let_fleet_entry *x, uint64_t bytes) {
  uint64_t most = f->o.device[g->device].type->memory_bytes;
  if (bytes > 0 && (most == 0 || bytes <= most)) x->memory_bytes = bytes;
}

static void note_model(let_fleet *f, const let__group *g, let_fleet_entry *x, const let_fleet_model_report *m) {
  for (uint32_t i = 0; i < m->n_sizes; i++) size_is_ready(x, &m->size[i]);
  note_memory(f, g, x, m->memory_bytes);
  x->eager = m->eager;
  if (m->took > 0 && m->took < INT64_MAX / (let_dur)f->o.gpulets / LET_SIZES_MAX) f->took[x->model] = m->took;
  if (m->output_row_bytes == 0) return;
  f->row_bytes[x->model] = m->output_row_bytes;
  f->rows_due = true;
}

bool let__gpulet_whole(const let_fleet_gpulet *l) {
  for (uint32_t j = 0; j < l->n_entries; j++) {
    const let_fleet_entry *x = &l->entry[j];
    bool has_one = false;
    for (uint32_t k = 0; k < x->n_sizes; k++) has_one = has_one || (x->ready[k] && x->size[k] >= x->batch);
    if (!has_one) return false;
  }
  return true;
}

static let_fleet_sizes count(const let__group *g) {
  let_fleet_sizes n = {0};
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    for (uint32_t j = 0; j < g->gpulet[k].n_entries; j++) {
      const let_fleet_entry *x = &g->gpulet[k].entry[j];
      n.wanted += x->n_sizes;
      for (uint32_t z = 0; z < x->n_sizes; z++) {
        n.ready += x->ready[z];
        n.failed += x->failed[z];
      }
    }
  return n;
}

let_fleet_sizes let_fleet_group_sizes(const let_fleet *f, let_group_id id) {
  return id.n < f->o.groups ? count(&f->group[id.n]) : (let_fleet_sizes){0};
}

static void renew_routes(let_fleet *f, let__group *g) {
  let_fleet_sizes n = count(g);
  g->warming = n.ready > 0 && n.ready + n.failed < n.wanted;
  if (g->routed) f->routes_due = true;
}

void let__gpulet_bring_up(let_fleet *f, let__group *g, let_fleet_gpulet *l) {
  if (l->up) return;
  l->up = true;
  if (!l->declared) return;
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_GPULET_BACK);
  r->gpulet = l->id;
  r->device = g->device;
}

void let__lane_ready(let_fleet *f, let__group *g, const let_fleet_event *ev) {
  if (ev->lane >= g->n_gpulets) return;
  let_fleet_gpulet *l = &g->gpulet[ev->lane];
  for (uint32_t k = 0; k < ev->n_models && k < l->n_entries; k++) note_model(f, g, &l->entry[k], &ev->models[k]);
  renew_routes(f, g);
  if (let__gpulet_whole(l)) let__gpulet_bring_up(f, g, l);
}

void let__size_ready(let_fleet *f, let__group *g, const let_fleet_event *ev) {
  if (ev->lane >= g->n_gpulets || ev->model >= g->gpulet[ev->lane].n_entries) return;
  let_fleet_gpulet *l = &g->gpulet[ev->lane];
  let_fleet_entry *x = &l->entry[ev->model];
  note_memory(f, g, x, ev->memory_bytes);
  if (!ev->text || !ev->text[0]) {
    size_is_ready(x, &ev->size);
  } else {
    snprintf(x->why, sizeof x->why, "%s", ev->text);
    for (uint32_t k = 0; k < x->n_sizes; k++)
      if (x->size[k] == ev->size.size && !x->ready[k]) x->failed[k] = true;
    let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SIZE_FAILED);
    r->gpulet = l->id;
    r->model = x->model;
    r->number = ev->size.size;
    snprintf(r->text, sizeof r->text, "%s", ev->text);
  }
  renew_routes(f, g);
  if (g->warming) return;
  let_fleet_sizes n = count(g);
  let_fleet_report *r = let__report(f, LET_FLEET_REPORT_SIZES_READY);
  r->device = g->device;
  r->number = n.ready;
  r->of = n.wanted;
}

/* What was predicted stays true; what is ready, and the memory that it takes, goes with the worker. */
void let__sizes_forget(let__group *g) {
  g->warming = false;
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    for (uint32_t j = 0; j < g->gpulet[k].n_entries; j++) {
      let_fleet_entry *x = &g->gpulet[k].entry[j];
      memset(x->ready, 0, sizeof x->ready);
      memset(x->failed, 0, sizeof x->failed);
      x->memory_bytes = 0;
    }
}
