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

static double place(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t i = 0; i < g->n_gpus; i++) {
    uint32_t p = g->gpu[i].pool, want = tune(g, p, job, rate);
    double most = let__greedy_capacity(g, p, job, want), give = rate < most ? rate : most;
    if (give > 0 && want <= g->gpu[i].free && let__greedy_add(g, &g->gpu[i], g->gpu[i].n, want, false, job, give, oom))
      return give;
    if (*oom) return 0;
  }
  return let__greedy_open_for(g, tune, false, job, rate, oom);
}

static double key(let__greedy *g, uint32_t job, double rate) { return tune(g, 0, job, rate); }

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  return let__greedy_make(in, a, &let__policy_selftune, key, place, ret, e);
}

const let_policy let__policy_selftune = {"selftune", "each model its own share, tuned to its rate (GSLICE)", make,
                                         true};
