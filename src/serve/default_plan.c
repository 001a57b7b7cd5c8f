#include <stdio.h>
#include <sys/stat.h>

#include "serve/serve.h"

static uint64_t weight_of(const let_model *m) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%lld/%s", m->dir, (long long)m->version, m->file);
  struct stat st;
  return (stat(path, &st) == 0 ? (uint64_t)st.st_size : 0) + (1 << 20); /* a MiB for being there at all */
}

typedef struct bin {
  uint64_t load;
  uint32_t n, *model;
} bin;

/* Longest first into the emptiest bin (Graham's LPT): deterministic, within 4/3 of even. */
static bool spread(let_arena *a, const uint64_t *weight, const uint32_t *item, uint32_t n, bin *b, uint32_t bins) {
  uint32_t *order = let_arena_array(a, n, sizeof *order);
  if (!order) return false;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t at = i;
    for (; at > 0 && weight[item[order[at - 1]]] < weight[item[i]]; at--) order[at] = order[at - 1];
    order[at] = i;
  }
  for (uint32_t i = 0; i < n; i++) {
    uint32_t best = 0;
    for (uint32_t k = 1; k < bins; k++)
      if (b[k].load < b[best].load) best = k;
    b[best].model[b[best].n++] = item[order[i]];
    b[best].load += weight[item[order[i]]];
  }
  return true;
}

static let_err new_bins(let_arena *a, uint32_t n, uint32_t cap, bin **ret, let_error *e) {
  bin *b = let_arena_array(a, n, sizeof *b);
  if (!b) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < n; i++) {
    b[i].model = let_arena_array(a, cap ? cap : 1, sizeof *b[i].model);
    if (!b[i].model) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  *ret = b;
  return LET_OK;
}

static let_err fill_gpu(const let_model *models, const uint64_t *weight, const bin *content, const let_serve_device *d,
                        let_arena *a, let_plan_gpu *g, let_error *e) {
  uint32_t lets = content->n < d->type.granules ? content->n : d->type.granules;
  bin *b;
  let_err r = new_bins(a, lets, content->n, &b, e);
  if (r) return r;
  if (!spread(a, weight, content->model, content->n, b, lets)) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  g->granules = d->type.granules;
  snprintf(g->type, sizeof g->type, "%s", d->type.name);
  g->gpulet = let_arena_array(a, lets, sizeof *g->gpulet);
  if (!g->gpulet) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  g->n_gpulets = lets;
  for (uint32_t k = 0, first = 0; k < lets; k++) {
    let_plan_gpulet *l = &g->gpulet[k];
    l->granules =
        d->type.granules / lets + (k >= lets - d->type.granules % lets); /* the larger ones last: let_plan_place */
    l->first = first;
    first += l->granules;
    l->entry = let_arena_array(a, b[k].n, sizeof *l->entry);
    if (!l->entry) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    l->n_entries = b[k].n;
    for (uint32_t j = 0; j < b[k].n; j++) {
      const let_model *m = &models[b[k].model[j]];
      snprintf(l->entry[j].name, sizeof l->entry[j].name, "%s", m->name);
      l->entry[j].batch = m->max_batch ? m->max_batch < 32 ? m->max_batch : 32 : 1;
      l->entry[j].slo = m->slo;
    }
  }
  return LET_OK;
}

let_err let_serve_default_plan(const let_model *models, uint32_t n_models, const let_serve_device *devices,
                               uint32_t n_devices, let_arena *a, let_plan *ret, let_error *e) {
  if (n_models == 0) return let_fail(e, LET_ERR_INVALID, "the model repository has no models");
  uint64_t *weight = let_arena_array(a, n_models, sizeof *weight);
  uint32_t *all = let_arena_array(a, n_models, sizeof *all);
  bin *per_gpu;
  let_err r =
      weight && all ? new_bins(a, n_devices, n_models, &per_gpu, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
  if (r) return r;
  for (uint32_t i = 0; i < n_models; i++) {
    weight[i] = weight_of(&models[i]);
    all[i] = i;
  }
  if (!spread(a, weight, all, n_models, per_gpu, n_devices)) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t d = n_models, i = 0; d < n_devices;
       d++, i = (i + 1) % n_models) /* more devices than models: again from the first */
    for (uint32_t k = 0; k < n_devices; k++)
      if (per_gpu[k].n == 0) {
        per_gpu[k].model[per_gpu[k].n++] = i;
        break;
      }
  *ret = (let_plan){.policy = "default", .feasible = true, .gpus_used = n_devices, .n_gpus = n_devices};
  ret->gpu = let_arena_array(a, n_devices, sizeof *ret->gpu);
  ret->reason = let_arena_array(a, 1, sizeof *ret->reason);
  if (!ret->gpu || !ret->reason) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  static char why[] =
      "made without a profile: models are spread by the size of their files, shares are equal, no latency is promised";
  ret->reason[ret->n_reasons++] = why;
  for (uint32_t i = 0; i < n_devices && !r; i++) {
    ret->gpu[i].id = i;
    r = fill_gpu(models, weight, &per_gpu[i], &devices[i], a, &ret->gpu[i], e);
  }
  return r;
}
