/* `temporal`: whole devices in turns only: squishy bin packing (Nexus, SOSP'19). What fills whole devices gets whole
 * devices at the most productive batch; the rests, by falling occupancy, go where a common cycle still holds. */
#include <math.h>

#include "plan/greedy.h"

/* The part of its cycle that |rate| alone would run, on the whole device. */
static double occupancy(let__greedy *g, uint32_t job, double rate) {
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    double most = let__greedy_capacity(g, p, job, let__greedy_profile(g, p)->device.granules);
    if (most > 0) return rate / most;
  }
  return 0;
}

static bool anywhere(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t i = 0; i < g->n_gpus; i++)
    if (g->gpu[i].n && let__greedy_add(g, &g->gpu[i], 0, 0, false, job, rate, oom)) return true;
    else if (*oom) return false;
  return false;
}

/* A whole device for up to |rate|; 0: none is left that can. */
static double whole(let__greedy *g, uint32_t job, double rate, bool *oom) {
  return let__greedy_open_for(g, let__greedy_whole, false, job, rate, oom);
}

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  double started = let__greedy_now(in);
  let__greedy g;
  let_err r = let__greedy_init(&g, in, a, false, e);
  if (r) return r;
  bool oom = false, feasible = true;
  double *rest = let_arena_array(a, g.n_jobs + 1u, sizeof *rest), *key = let_arena_array(a, g.n_jobs + 1u, sizeof *key);
  if (!rest || !key) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t j = 0; j < g.n_jobs; j++) {
    rest[j] = g.job[j].rate;
    while (!oom && occupancy(&g, j, rest[j]) >= 1) {
      double got = whole(&g, j, rest[j], &oom);
      if (got <= 0) break;
      rest[j] -= got;
    }
    key[j] = occupancy(&g, j, rest[j]);
  }
  uint32_t *order = let__greedy_order(&g, key);
  if (!order) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < g.n_jobs && !oom; i++) {
    uint32_t j = order[i];
    while (rest[j] > g.job[j].rate * LET__PLAN_EPS && !oom) {
      if (anywhere(&g, j, rest[j], &oom)) break;
      double got = oom ? 0 : whole(&g, j, rest[j], &oom);
      rest[j] -= got;
      if (got > 0 || oom) continue;
      let__greedy_refuse(&g, j, rest[j]);
      feasible = false;
      break;
    }
  }
  if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  return let__greedy_finish(&g, &let__policy_temporal, started, feasible, ret, e);
}

const let_policy let__policy_temporal = {"temporal", "whole devices in turns (Nexus's squishy bin packing)", make,
                                         true};
