#include "model/plan.h"

#include <stdint.h>
#include <stdlib.h>

enum { GRANULES_MAX = 1 << 16 }; /* where the device is not known */

static let_err gpulet_valid(const let_plan_gpu *g, const let_plan_gpulet *l, uint32_t i, let_error *e) {
  uint32_t device = g->granules ? g->granules : GRANULES_MAX;
  if (l->granules < 1 || l->granules > device)
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: granules is %u, must be 1 to %u", g->id, i, l->granules,
                    device);
  if (l->first != UINT32_MAX && (l->first > device || l->first + l->granules > device))
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: granules %u to %u are beyond the device's %u", g->id, i,
                    l->first, l->first + l->granules - 1, device);
  if (l->n_entries == 0) return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: models is empty", g->id, i);
  for (uint32_t k = 0; k < l->n_entries; k++) {
    const let_plan_entry *m = &l->entry[k];
    if (!m->name[0]) return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u, model %u: name is empty", g->id, i, k);
    if (m->batch < 1 || m->batch > LET_BATCH_MAX)
      return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u, model '%s': batch is %u, must be 1 to %d", g->id, i,
                      m->name, m->batch, LET_BATCH_MAX);
    if (!(m->rate >= 0) || m->latency < 0 || m->slo < 0)
      return let_fail(e, LET_ERR_INVALID,
                      "gpu %u, gpu-let %u, model '%s': rate, latency_ms and slo_ms must not be negative", g->id, i,
                      m->name);
    for (uint32_t j = 0; j < k; j++)
      if (strcmp(l->entry[j].name, m->name) == 0)
        return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: model '%s' is listed twice", g->id, i, m->name);
  }
  return LET_OK;
}

static let_err gpu_valid(const let_plan_gpu *g, let_error *e) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < g->n_gpulets; i++) {
    const let_plan_gpulet *l = &g->gpulet[i];
    let_err r = gpulet_valid(g, l, i, e);
    if (r) return r;
    if (l->shared) continue;
    sum += l->granules;
    for (uint32_t j = 0; j < i; j++) {
      const let_plan_gpulet *o = &g->gpulet[j];
      if (o->shared || l->first == UINT32_MAX || o->first == UINT32_MAX) continue;
      if (l->first < o->first + o->granules && o->first < l->first + l->granules)
        return let_fail(e, LET_ERR_INVALID, "gpu %u: gpu-lets %u and %u overlap", g->id, j, i);
    }
  }
  if (g->granules && sum > g->granules)
    return let_fail(e, LET_ERR_INVALID, "gpu %u: its gpu-lets take %llu granules, the device has %u", g->id,
                    (unsigned long long)sum, g->granules);
  return LET_OK;
}

let_err let_plan_validate(const let_plan *p, let_error *e) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    for (uint32_t j = 0; j < i; j++)
      if (p->gpu[j].id == p->gpu[i].id) return let_fail(e, LET_ERR_INVALID, "gpu %u is listed twice", p->gpu[i].id);
    let_err r = gpu_valid(&p->gpu[i], e);
    if (r) return r;
  }
  return LET_OK;
}

/* The first free run of granules. */
static let_err place_one(const let_plan_gpu *g, uint32_t i, let_error *e) {
  let_plan_gpulet *l = &g->gpulet[i];
  uint32_t at = 0;
  for (uint32_t j = 0; j < g->n_gpulets && !l->shared; j++) { /* restart behind each one in the way */
    const let_plan_gpulet *o = &g->gpulet[j];
    if (o == l || o->shared || o->first == UINT32_MAX) continue;
    if (at < o->first + o->granules && o->first < at + l->granules) at = o->first + o->granules, j = UINT32_MAX;
  }
  if (!l->shared && at + l->granules > g->granules)
    return let_fail(e, LET_ERR_INVALID, "gpu %u, gpu-let %u: no %u free granules side by side", g->id, i, l->granules);
  l->first = at;
  return LET_OK;
}

/* In the plan's order, but where none has a place yet the largest comes last. At the end of a device are the SMs that
 * its clusters have left over, two here and two there: a gpu-let of two granules was up to 1.67 times as slow there as
 * elsewhere at small batches (H200, 20 SMs against 16), one of four 1.04 times, larger ones no slower. Idle granules
 * are at the end, too. */
static let_err place_gpu(let_plan_gpu *g, let_error *e) {
  uint32_t last = 0, n = 0;
  let_err r = LET_OK;
  for (uint32_t i = 0; i < g->n_gpulets; i++) {
    n += g->gpulet[i].first != UINT32_MAX;
    if (g->gpulet[i].granules >= g->gpulet[last].granules) last = i;
  }
  for (uint32_t i = 0; !r && i < g->n_gpulets; i++)
    if (g->gpulet[i].first == UINT32_MAX && (n || i != last)) r = place_one(g, i, e);
  if (!r && g->n_gpulets && g->gpulet[last].first == UINT32_MAX) r = place_one(g, last, e);
  return r;
}

let_err let_plan_place(let_plan *p, let_error *e) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    let_err r = place_gpu(&p->gpu[i], e);
    if (r) return r;
  }
  return LET_OK;
}
