/* `shared`: what people do without partitions: all models of a device on plain streams over the whole of it. Models are
 * packed by the part of a device that their rate keeps busy, first fit, the largest first. Promises no latency: nobody
 * knows what runs beside what. */
#include "plan/greedy.h"

typedef struct load {
  double busy; /* of one device, by the jobs on it */
} load;

static double busy_of(let__greedy *g, uint32_t pool, uint32_t job, double rate) {
  double most = let__greedy_capacity(g, pool, job, let__greedy_profile(g, pool)->device.granules);
  return most > 0 ? rate / most : 2;
}

static double place(let__greedy *g, load *l, uint32_t job, double rate, bool *oom) {
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    let__gpu *x = &g->gpu[i];
    double b = busy_of(g, x->pool, job, rate);
    if (l[i].busy + b > 1 + LET__PLAN_EPS) continue;
    if (let__greedy_add(g, x, x->n, let__greedy_profile(g, x->pool)->device.granules, true, job, rate, oom)) return l[i].busy += b, rate;
    if (*oom) return 0;
  }
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    double b = busy_of(g, p, job, rate), give = b > 1 ? rate / b : rate;
    if (let__greedy_capacity(g, p, job, let__greedy_profile(g, p)->device.granules) <= 0) continue;
    let__gpu *x = let__greedy_open(g, p);
    if (!x) continue;
    if (let__greedy_add(g, x, 0, let__greedy_profile(g, p)->device.granules, true, job, give, oom))
      return l[g->n_gpus - 1].busy = b > 1 ? 1 : b, give;
    if (*oom) return 0;
    let__greedy_close(g);
  }
  return 0;
}

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  double started = let__greedy_now(in);
  let__greedy g;
  let_err r = let__greedy_init(&g, in, a, false, e);
  if (r) return r;
  bool oom = false, feasible = true;
  double *key = let_arena_array(a, g.n_jobs + 1u, sizeof *key);
  load *l = let_arena_array(a, g.total + 1u, sizeof *l);
  if (!key || !l) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t j = 0; j < g.n_jobs; j++) key[j] = busy_of(&g, 0, j, g.job[j].rate);
  uint32_t *order = let__greedy_order(&g, key);
  if (!order) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < g.n_jobs && !oom; i++) {
    uint32_t j = order[i];
    double left = g.job[j].rate;
    while (left > g.job[j].rate * LET__PLAN_EPS && !oom) {
      double got = place(&g, l, j, left, &oom);
      left -= got;
      if (got > 0 || oom) continue;
      let__greedy_refuse(&g, j, left);
      feasible = false;
      break;
    }
  }
  if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  return let__greedy_finish(&g, &let__policy_shared, started, feasible, ret, e);
}

const let_policy let__policy_shared = {"shared", "all models of a device on all of it, no partition, no promise", make, false};
