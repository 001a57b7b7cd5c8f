/* `elastic` and `elastic-int`: the gpu-let paper's elastic partitioning (ATC'22, algorithm 1). At most two gpu-lets on
 * a device, shares from one list. Models by falling rate; each takes gpu-lets of its most efficient share (the knee of
 * requests/s over share) or of the least share that holds the rest of its rate, whichever is smaller, best fit first;
 * before a new gpu-let is made, one that exists is tried in turns (up to three models). Percents become granules by
 * rounding: on 16 granules 20 % are 3, 40 % 6, 60 % 10, 80 % 13, and the pairs still fill the device.
 * The other restrictions of the prototype (latency ratio, batching overhead) are in the latencies that
 * `gpulet import-glet` writes. */
#include <math.h>

#include "plan/greedy.h"

enum { SHARES = 6, LETS = 2, MODELS = 3 };
static const uint32_t percent[SHARES] = {20, 40, 50, 60, 80, 100};

static uint32_t share(const let__greedy *g, uint32_t pool, int i) {
  uint32_t all = let__greedy_profile(g, pool)->device.granules, n = (percent[i] * all + 50) / 100;
  return n < 1 ? 1 : n;
}

/* The share where the curve of requests/s stands highest above the straight line to its end. */
static uint32_t knee(let__greedy *g, uint32_t pool, uint32_t job) {
  double end = let__greedy_capacity(g, pool, job, share(g, pool, SHARES - 1)), most = -1;
  uint32_t best = share(g, pool, SHARES - 1);
  for (int i = 0; i < SHARES && end > 0; i++) {
    double c = let__greedy_capacity(g, pool, job, share(g, pool, i));
    double above = c / end - percent[i] / 100.0;
    if (c > 0 && above > most + 1e-9) most = above, best = share(g, pool, i);
  }
  return best;
}

static uint32_t least(let__greedy *g, uint32_t pool, uint32_t job, double rate) {
  for (int i = 0; i < SHARES; i++)
    if (let__greedy_capacity(g, pool, job, share(g, pool, i)) >= rate * (1 - LET__PLAN_EPS)) return share(g, pool, i);
  return share(g, pool, SHARES - 1);
}

/* In turns with what runs already, the fullest gpu-let first: it is the one that loses least. */
static bool join(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t i = 0; i < g->n_gpus; i++)
    for (uint32_t l = 0; l < g->gpu[i].n; l++)
      if (g->gpu[i].part[l].n < MODELS && let__greedy_add(g, &g->gpu[i], l, 0, false, job, rate, oom)) return true;
      else if (*oom) return false;
  return false;
}

/* Puts as much of |rate| as the gpu-let holds; with interference that is less than it holds alone. */
static double place(let__greedy *g, let__gpu *x, uint32_t granules, uint32_t job, double rate, bool *oom) {
  double most = let__greedy_capacity(g, x->pool, job, granules), give = rate < most ? rate : most;
  for (int tries = 0; give > 0 && tries < (g->interference ? 12 : 1); tries++, give *= 0.95) {
    if (let__greedy_add(g, x, x->n, granules, false, job, give, oom)) return give;
    if (*oom) return 0;
  }
  return 0;
}

/* The rest of a split device, at least |want|: the smallest first. Returns the rate placed. */
static double best_fit(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t size = 1;;) {
    uint32_t next = UINT32_MAX;
    for (uint32_t i = 0; i < g->n_gpus; i++) {
      let__gpu *x = &g->gpu[i];
      if (x->n == 0 || x->n >= LETS || x->free < size) continue;
      uint32_t k = knee(g, x->pool, job), r = least(g, x->pool, job, rate), want = k < r ? k : r;
      if (x->free == size && size >= want) {
        double got = place(g, x, size, job, rate, oom);
        if (got > 0 || *oom) return got;
      }
      if (x->free > size && x->free < next) next = x->free;
    }
    if (next == UINT32_MAX) return 0;
    size = next;
  }
}

static double open_new(let__greedy *g, uint32_t job, double rate, bool *oom) {
  for (uint32_t p = 0; p < g->in->n_pools; p++) {
    uint32_t k = knee(g, p, job), r = least(g, p, job, rate), want = k < r ? k : r,
             all = let__greedy_profile(g, p)->device.granules;
    if (let__greedy_capacity(g, p, job, all) <= 0) continue;
    let__gpu *x = let__greedy_open(g, p);
    if (!x) continue;
    double got = place(g, x, want, job, rate, oom);
    if (got > 0 || *oom) return got;
    let__greedy_close(g);
  }
  return 0;
}

static let_err make(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e, const let_policy *policy,
                    bool interference) {
  double started = let__greedy_now(in);
  let__greedy g;
  let_err r = let__greedy_init(&g, in, a, interference, e);
  if (r) return r;
  bool oom = false, feasible = true;
  double *key = let_arena_array(a, g.n_jobs + 1u, sizeof *key);
  for (uint32_t i = 0; key && i < g.n_jobs; i++) key[i] = g.job[i].rate;
  uint32_t *order = key ? let__greedy_order(&g, key) : NULL;
  if (!order) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < g.n_jobs; i++) {
    uint32_t j = order[i];
    double left = g.job[j].rate;
    while (left > g.job[j].rate * LET__PLAN_EPS && !oom) {
      if (join(&g, j, left, &oom)) break;
      double got = oom ? 0 : best_fit(&g, j, left, &oom);
      if (got <= 0 && !oom) got = open_new(&g, j, left, &oom);
      if (got <= 0 && !oom) {
        let__greedy_refuse(&g, j, left);
        feasible = false;
        break;
      }
      left -= got;
    }
    if (oom) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  return let__greedy_finish(&g, policy, started, feasible, ret, e);
}

static let_err make_elastic(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  return make(in, a, ret, e, &let__policy_elastic, false);
}
static let_err make_elastic_int(const let_plan_input *in, let_arena *a, let_plan *ret, let_error *e) {
  return make(in, a, ret, e, &let__policy_elastic_int, true);
}

const let_policy let__policy_elastic = {
    "elastic", "elastic partitioning of the gpu-let paper: two gpu-lets on a device", make_elastic, true};
const let_policy let__policy_elastic_int = {"elastic-int", "elastic, and predicted interference is part of every check",
                                            make_elastic_int, true};
