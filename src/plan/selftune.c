/* `selftune`: guided self-tuning of shares (GSLICE, SoCC'20): every model has gpu-lets of its own; each begins at half
 * a device and is tuned, shrinking while its rate still holds and growing while it does not; what one device cannot
 * hold is copied. Shares are placed first fit, the largest first. No turns, no interference. */
#include "plan/greedy.h"

/* Halving steps from half a device: what a controller that watches the queue would settle on. */
static uint32_t tune(let__greedy *g, uint32_t pool, uint32_t job, double rate) {
  uint32_t all = let__greedy_profile(g, pool)->device.granules, at = all > 1 ? all / 2 : 1, step = at > 1 ? at / 2 : 1;
  for (;;) {
    bool holds = let__greedy_capacity(g, pool, job, at) >= rate * (1 - LET__PLAN_EPS);
    if (step == 1 && holds && (at == 1 || let__greedy_capacity(g, pool, job, at - 1) < rate * (1 - LET__PLAN_EPS)))
      return at;
    if (!holds && at == all) return all;
    if (holds) at = at > step ? at - step : 1;
    else at = at + step < all ? at + step : all;
    if (step > 1) step /= 2;
  }
}

static double place(let__greedy *g, void *ctx, uint32_t job, double rate, bool *oom) {
  (void)ctx;
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    uint32_t p = g->gpu[i].pool, want = tune(g, p, job, rate);
    double most = let__greedy_capacity(g, p, job, want), give = rate < most ? rate : most;
    if (give > 0 && want <= g->gpu[i].free && let__greedy_add(g, &g->gpu[i], g->gpu[i].n, want, false, job, give, oom))
      return give;
    if (*oom) return 0;
  }
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    uint32_t want = tune(g, p, job, rate);
    double most = let__greedy_capacity(g, p, job, want), give = rate < most ? rate : most;
    let__gpu *x = most > 0 ? let__greedy_open(g, p) : NULL;
    if (!x) continue;
    if (let__greedy_add(g, x, 0, want, false, job, give, oom)) return give;
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
  if (!key) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t j = 0; j < g.n_jobs; j++) key[j] = tune(&g, 0, j, g.job[j].rate);
  if ((r = let__greedy_place_all(&g, key, place, NULL, &feasible, e))) return r;
  return let__greedy_finish(&g, &let__policy_selftune, started, feasible, ret, e);
}

const let_policy let__policy_selftune = {"selftune", "each model its own share, tuned to its rate (GSLICE)", make,
                                         true};
