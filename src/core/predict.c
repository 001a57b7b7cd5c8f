/* predict.c: predicts how long a batch takes: the median of the newest of its kind, by the device's own clock. One
 * batch that something else held up does not move a median; a lasting change moves it within five batches. */
#include <math.h>
#include <stddef.h>

#include "core/core_int.h"

/* A ratio measured at one size, times the plan of another, may be more than a let_dur holds. */
static let_dur duration(double ns) { return ns < (double)LET__BATCH_MAX ? (let_dur)ns : LET__BATCH_MAX; }

void let__window_add(let__window *w, double v) {
  w->v[w->at] = (float)v;
  w->at = (uint8_t)((w->at + 1) % LET__WINDOW);
  if (w->n < LET__WINDOW) w->n++;
}

/* Of two samples the median is the lesser: one batch that was held up must not set the prediction alone. */
let__stats let__window_stats(const let__window *w, double otherwise) {
  float v[LET__WINDOW];
  uint32_t n = w->n;
  if (n == 0) return (let__stats){otherwise, otherwise, otherwise};
  for (uint32_t i = 0; i < n; i++) {
    uint32_t k = i;
    for (; k > 0 && v[k - 1] > w->v[i]; k--) v[k] = v[k - 1];
    v[k] = w->v[i];
  }
  return (let__stats){.least = (double)v[0], .median = (double)v[(n - 1) / 2], .high = (double)v[n > 1 ? n - 2 : 0]};
}

bool let__route_fresh(const let__route *r, let_time now) { return r->ran && now - r->ran < LET__FRESH; }

/* Predicts each size from its own recent samples; without these, from the plan times the ratio measured at the other
 * sizes. Then makes the sizes agree: padding bounds a smaller one by a larger one, splitting a larger one by smaller
 * ones. Where two sizes disagree, the one that ran last is right. */
void let__route_refresh(let__route *r, let_time now) {
  let__stats ratio = let__window_stats(&r->ratio, 1);
  for (uint32_t i = 0; i < r->n_sizes; i++) {
    let__variant *v = &r->variant[i];
    double planned = (double)v->plan * ratio.median, ever = (double)v->plan * ratio.least;
    let__stats took = let__window_stats(&v->took, planned);
    double own = took.median;
    if (own > planned && v->plan > 0 && now - v->seen > LET__FRESH) own = planned;
    v->predict = own < 1 && v->plan > 0 ? 1 : duration(own);
    v->quick = duration(v->took.n ? took.least : ever > 0 ? ever : own);
    v->spread = duration(took.high - own);
    if (v->spread < v->predict / 16) v->spread = v->predict / 16;
  }
  for (uint32_t i = 1; i < r->n_sizes; i++) {
    let__variant *low = &r->variant[i - 1], *v = &r->variant[i];
    let_dur split = low->predict * ((v->size + low->size - 1) / low->size);
    if (v->predict > split && low->seen >= v->seen) v->predict = split;
    if (v->predict >= low->predict) continue;
    if (v->seen > low->seen)
      for (uint32_t k = i; k > 0 && r->variant[k - 1].predict > v->predict; k--) r->variant[k - 1].predict = v->predict;
    else v->predict = low->predict;
  }
  for (uint32_t i = 0; i < r->n_sizes; i++)
    if (r->variant[i].quick > r->variant[i].predict) r->variant[i].quick = r->variant[i].predict;
}

void let__route_learn(let__route *r, uint32_t size, let_dur took, let_time now) {
  r->ran = now;
  uint32_t i = let__size_for(r, size);
  if (i == LET__NONE || r->variant[i].size != size || took <= 0) return;
  let__variant *v = &r->variant[i];
  let__window_add(&v->took, (double)took);
  if (v->plan > 0) let__window_add(&r->ratio, (double)took / (double)v->plan);
  v->seen = now;
  let__route_refresh(r, now);
}

let_dur let__handover(const let__gpulet *g) { return (let_dur)let__window_stats(&g->handover, 0).median; }

let_time let__free_at(const let_core *c, const let__gpulet *g, let_time now) {
  let_time t = now;
  if (g->n == 0) return now + let__handover(g);
  for (uint32_t i = 0; i < g->n; i++) {
    const let__batch *b = &c->batch[g->batch[i]];
    let_time end = (i == 0 ? b->start : t) + b->predict;
    t = end > now ? end : now; /* overdue: any moment now */
  }
  return t;
}
