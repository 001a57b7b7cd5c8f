/* `shared`: what people do without partitions: all models of a device on plain streams over the whole of it. Models are
 * packed by the part of a device that their rate keeps busy, first fit, the largest first. Promises no latency: what
 * runs beside what is not known. */
#include "plan/greedy.h"

static double busy_of(let__greedy *g, uint32_t pool, uint32_t job, double rate) {
  double most = let__greedy_capacity(g, pool, job, let__greedy_whole(g, pool, job, rate));
  return most > 0 ? rate / most : 2;
}

static double place(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    let__gpu *x = &g->gpu[i];
    double b = busy_of(g, x->pool, job, rate);
    if (x->busy + b > 1 + LET__PLAN_EPS) continue;
    if (let__greedy_add(g, x, x->n, let__greedy_whole(g, x->pool, job, rate), true, job, rate, oom)) {
      x->busy += b;
      return rate;
    }
    if (*oom) return 0;
  }
  double got = let__greedy_open_for(g, let__greedy_whole, true, job, rate, oom);
  if (got > 0) g->gpu[g->n_gpus - 1].busy = busy_of(g, g->gpu[g->n_gpus - 1].pool, job, got);
  return got;
}

static double key(let__greedy *g, uint32_t job, double rate) { return busy_of(g, 0, job, rate); }

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  return let__greedy_make(in, a, &let__policy_shared, key, place, ret, e);
}

const let_policy let__policy_shared = {"shared", "all models of a device on all of it, no partition, no promise", make,
                                       false};
