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

static double place(let__greedy *g, void *ctx, uint32_t job, double rate, bool *oom) {
  load *l = ctx;
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    let__gpu *x = &g->gpu[i];
    double b = busy_of(g, x->pool, job, rate);
    if (l[i].busy + b > 1 + LET__PLAN_EPS) continue;
    if (let__greedy_add(g, x, x->n, let__greedy_profile(g, x->pool)->device.granules, true, job, rate, oom))
      return l[i].busy += b, rate;
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
  bool feasible;
  double *key = let_arena_array(a, g.n_jobs + 1u, sizeof *key);
  load *l = let_arena_array(a, g.total + 1u, sizeof *l);
  if (!key || !l) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t j = 0; j < g.n_jobs; j++) key[j] = busy_of(&g, 0, j, g.job[j].rate);
  if ((r = let__greedy_place_all(&g, key, place, l, &feasible, e))) return r;
  return let__greedy_finish(&g, &let__policy_shared, started, feasible, ret, e);
}

const let_policy let__policy_shared = {"shared", "all models of a device on all of it, no partition, no promise", make,
                                       false};
