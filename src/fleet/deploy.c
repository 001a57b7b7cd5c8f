/* deploy.c: a plan becomes groups of gpu-lets. */
#include "fleet_int.h"

#include <string.h>

uint32_t let__model_named(const let_fleet *f, const char *name) {
  for (uint32_t i = 0; i < f->o.n_models; i++)
    if (strcmp(f->o.model[i].name, name) == 0) return i;
  return LET_ID_NONE;
}

/* ---- a plan from a file or a planner against what there is ------------------------------------------------------- */

static let_err check_gpulet(const let_fleet *f, const let_plan_gpu *g, uint32_t k, let_error *e) {
  const let_plan_gpulet *l = &g->gpulet[k];
  for (uint32_t j = 0; j < l->n_entries; j++) {
    const let_plan_entry *x = &l->entry[j];
    uint32_t m = let__model_named(f, x->name);
    if (m == LET_ID_NONE)
      return let_fail(e, LET_ERR_NOT_FOUND, "gpu %u, gpu-let %u: model '%s' is not in the model repository", g->id, k,
                      x->name);
    uint32_t max = f->o.model[m].max_batch ? f->o.model[m].max_batch : 1;
    if (x->batch > max)
      return let_fail(e, LET_ERR_INVALID,
                      "gpu %u, gpu-let %u, model '%s': batch is %u, its config.pbtxt allows %u (max_batch_size)", g->id,
                      k, x->name, x->batch, max);
  }
  return LET_OK;
}

static let_err check(const let_fleet *f, let_plan *p, let_error *e) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    let_plan_gpu *g = &p->gpu[i];
    if (g->id >= f->o.n_devices)
      return let_fail(e, LET_ERR_INVALID, "the plan names gpu %u; this server has %u device%s (0 to %u)", g->id,
                      f->o.n_devices, f->o.n_devices == 1 ? "" : "s", f->o.n_devices - 1);
    const let_device_type *t = f->o.device[g->id].type;
    if (g->type[0] && strcmp(g->type, t->name) != 0)
      return let_fail(e, LET_ERR_INVALID, "gpu %u: the plan is for type '%s', the device is '%s'", g->id, g->type,
                      t->name);
    if (g->granules && g->granules != t->granules)
      return let_fail(e, LET_ERR_INVALID, "gpu %u: the plan is for %u granules, the device has %u", g->id, g->granules,
                      t->granules);
    g->granules = t->granules;
    for (uint32_t k = 0; k < g->n_gpulets; k++) {
      let_err r = check_gpulet(f, g, k, e);
      if (r) return r;
    }
  }
  let_err r = let_plan_validate(p, e);
  return r ? r : let_plan_place(p, e);
}

/* ---- its parts --------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t v) { /* FNV-1a over eight bytes */
  for (int i = 0; i < 8; i++) h = (h ^ ((v >> (8 * i)) & 255)) * 1099511628211u;
  return h;
}

static uint64_t gpulet_key(const let_fleet *f, uint64_t h, const let_plan_gpulet *l) {
  h = mix(mix(mix(h, l->first), l->granules), l->shared);
  for (uint32_t j = 0; j < l->n_entries; j++) h = mix(mix(h, let__model_named(f, l->entry[j].name)), l->entry[j].batch);
  return h;
}

static uint32_t split(const let_fleet *f, const let_plan *p, let__part *part) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    const let_plan_gpu *g = &p->gpu[i];
    uint32_t each = f->o.device[g->id].worker_per_gpulet ? 1 : g->n_gpulets;
    for (uint32_t k = 0; k < g->n_gpulets; k += each) {
      if (part) part[n] = (let__part){.gpu = g, .device = g->id, .from = k, .n = each};
      n++;
    }
  }
  return n;
}

let_err let__plan_parts(let_fleet *f, let_plan *p, let_arena *a, let__part **ret, uint32_t *ret_n, let_error *e) {
  let_err r = check(f, p, e);
  if (r) return r;
  uint32_t n = split(f, p, NULL);
  if (n == 0) return let_fail(e, LET_ERR_INVALID, "the plan has no gpu-lets");
  if (n > f->o.groups)
    return let_fail(e, LET_ERR_UNSUPPORTED, "the plan needs %u workers, this server runs %u at most", n, f->o.groups);
  let__part *part = let_arena_array(a, n, sizeof *part);
  if (!part) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  split(f, p, part);
  for (uint32_t i = 0; i < n; i++) {
    let__part *x = &part[i];
    x->key = mix(14695981039346656037u, x->device);
    x->worker = f->o.device[x->device].worker_per_gpulet ? 0 : mix(x->key, 0x9e37) | 1;
    for (uint32_t k = 0; k < x->n; k++) x->key = gpulet_key(f, x->key, &x->gpu->gpulet[x->from + k]);
  }
  *ret = part;
  *ret_n = n;
  return LET_OK;
}

/* ---- a group's content ------------------------------------------------------------------------------------------- */

static let_err fill_gpulet(let_fleet *f, let__group *g, uint32_t lane, const let_plan_gpulet *from, let_error *e) {
  uint32_t number = 0;
  while (number < f->o.gpulets && f->where[number].used) number++;
  if (number == f->o.gpulets) return let_fail(e, LET_ERR_NOMEM, "more than %u gpu-lets at once", f->o.gpulets);
  let_fleet_gpulet *l = &g->gpulet[lane];
  l->entry = let_mem_zalloc(f->mem, from->n_entries * sizeof *l->entry);
  if (!l->entry) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  l->n_entries = from->n_entries;
  l->id.n = number;
  l->first = from->first;
  l->granules = from->granules;
  l->shared = from->shared;
  f->where[number].used = true;
  f->where[number].group = g->id;
  f->where[number].lane = lane;
  g->n_gpulets++;
  for (uint32_t j = 0; j < from->n_entries; j++) {
    const let_plan_entry *x = &from->entry[j];
    let_fleet_entry *to = &l->entry[j];
    to->model = let__model_named(f, x->name);
    to->batch = to->next_batch = x->batch;
    to->rate = to->next_rate = x->rate;
    to->slo = x->slo;
    to->planned = x->latency;
    let__choose_sizes(&f->o.model[to->model], x->batch, to);
  }
  return LET_OK;
}

let_err let__group_fill(let_fleet *f, let__group *g, const let__part *x, let_error *e) {
  g->gpulet = let_mem_zalloc(f->mem, x->n * sizeof *g->gpulet);
  if (!g->gpulet) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  g->cap_gpulets = x->n;
  for (uint32_t k = 0; k < x->n; k++) {
    let_err r = fill_gpulet(f, g, k, &x->gpu->gpulet[x->from + k], e);
    if (r) return r;
  }
  return LET_OK;
}

/* A group that serves already keeps its lanes; only what is expected of it may change. */
void let__group_renew(let__group *g, const let__part *x) {
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    for (uint32_t j = 0; j < g->gpulet[k].n_entries; j++) {
      g->gpulet[k].entry[j].next_batch = x->gpu->gpulet[x->from + k].entry[j].batch;
      g->gpulet[k].entry[j].next_rate = x->gpu->gpulet[x->from + k].entry[j].rate;
    }
}
