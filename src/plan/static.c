/* `static`: what people configure by hand: every device cut into k equal shares, one model in each, as many shares as
 * its rate needs. k runs from 1 to 7 (what MIG allows); the k with the fewest devices stays. */
#include "plan/greedy.h"

enum { CUTS = 7 };

static bool place(let__greedy *g, uint32_t k, uint32_t job, double rate, double *ret_got, bool *oom) {
  for (uint32_t i = 0; i <= g->n_gpus + g->in->n_pools; i++) {
    bool fresh = i >= g->n_gpus;
    uint32_t p = fresh ? i - g->n_gpus : g->gpu[i].pool;
    if (p >= g->in->n_pools) break;
    uint32_t size = let__greedy_profile(g, p)->device.granules / k;
    double most = size ? let__greedy_capacity(g, p, job, size) : 0, give = rate < most ? rate : most;
    if (most <= 0 || (!fresh && g->gpu[i].n >= k)) continue;
    let__gpu *x = fresh ? let__greedy_open(g, p) : &g->gpu[i];
    if (!x) continue;
    if (let__greedy_add(g, x, x->n, size, false, job, give, oom)) return *ret_got = give, true;
    if (*oom) return false;
    if (fresh) {
      let__greedy_close(g);
      i = g->n_gpus + p; /* the count is as before: go on with the next pool */
    }
  }
  return false;
}

static bool cut(let__greedy *g, uint32_t k, bool refuse, bool *oom) {
  for (uint32_t j = 0; j < g->n_jobs; j++) {
    double left = g->job[j].rate, got = 0;
    while (left > g->job[j].rate * LET__PLAN_EPS) {
      if (!place(g, k, j, left, &got, oom)) {
        if (refuse && !*oom) let__greedy_refuse(g, j, left);
        return false;
      }
      left -= got;
    }
  }
  return true;
}

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  double started = let__greedy_now(in);
  let__greedy best = {0}, g;
  bool oom = false, feasible = false;
  uint32_t best_k = 0;
  for (uint32_t k = 1; k <= CUTS; k++) {
    let_err r = let__greedy_init(&g, in, a, false, e);
    if (r) return r;
    bool ok = cut(&g, k, false, &oom);
    if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    if (ok && (!feasible || g.n_gpus < best.n_gpus)) best = g, feasible = true, best_k = k;
  }
  if (!feasible) {
    let_err r = let__greedy_init(&best, in, a, false, e);
    if (r) return r;
    (void)cut(&best, 1, true, &oom);
    if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  } else let__greedy_reason(&best, "equal shares: %u to a device", best_k);
  return let__greedy_finish(&best, &let__policy_static, started, feasible, ret, e);
}

const let_policy let__policy_static = {"static", "equal shares, one model in each: what people configure by hand", make,
                                       true};
