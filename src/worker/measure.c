/* measure.c: how long a prepared batch takes, before it serves.
 *
 * Alone, 20 runs give the median and the worst, and the core expects the worst. Beside traffic both mean little: the
 * runs are slowed down by the neighbours' batches, so their spread tells of the neighbours' load at this moment.
 * A prediction that is too high makes the core refuse requests that can be served, and a refused request never runs and
 * never corrects it. One that is too low makes the first batches late, and the first batch corrects it (core/predict.c
 * goes up fast). So beside traffic the least of a few runs stands for both. The server compares it with the plan's own
 * latency (fleet/routes.c). */
#include <stdlib.h>
#include <string.h>

#include "os/clock.h"
#include "worker/lane.h"

enum { RUNS = 20, RUNS_FEW = 3 };
#define LONG_ENOUGH (30 * LET_MS)

static int by_length(const void *a, const void *b) {
  let_dur x = *(const let_dur *)a, y = *(const let_dur *)b;
  return (x > y) - (x < y);
}

static let_err run_nothing(let_exec *x, void *stream, let_error *e) {
  (void)x, (void)stream, (void)e;
  return LET_OK;
}

static let_err clear(const let__worker_view *w, let_gpulet *g, let__batch_variant *v, let_error *e) {
  let_err r = LET_OK;
  for (int i = 0; i < 2 && v->x[i]; i++)
    for (unsigned k = 0; !r && k < v->x[i]->n_in; k++)
      r = let__zero(w, g, v->x[i]->in[k].data, v->size * v->x[i]->in[k].row_bytes, e);
  return r;
}

static let_err run_once(const let__worker_view *w, let_gpulet *g, _Atomic let_time *due, let__batch_variant *v,
                        let_exec *x, let_dur *ret, let_error *e) {
  const let_device_i *d = w->device->i;
  let_time started, finished, begin = let_now();
  let_err r = d->launch(g, x, e);
  if (!r) r = d->mark(g, 0, e);
  if (!r) r = let__wait_for(w, g, due, v, 0, &started, &finished, e);
  *ret = let_now() - begin;
  return r;
}

/* Runs zeros through the variant. A variant of varying shape is not measured, since its time depends on the shapes to
 * come, except where time comes from a profile. */
let_err let__measure(const let__worker_view *w, let_gpulet *g, _Atomic let_time *due, let__batch_variant *v,
                     let__effort effort, let_error *e) {
  const let_device_i *d = w->device->i;
  bool dynamic = v->x[0]->dynamic, simulated = strcmp(d->name, "sim") == 0; /* no need to sleep through many */
  if (dynamic && !simulated) return LET_OK;
  if (effort == LET__ONCE && d->depth > 1) return LET_OK; /* preparing has run it */
  let_dur took[RUNS], total = 0;
  uint32_t n = 0, most = effort == LET__ALONE && !simulated ? RUNS : effort == LET__ONCE ? 1 : RUNS_FEW;
  bool warm = d->depth == 1 && effort != LET__ONCE;
  let_exec nothing = *v->x[0];
  nothing.run = run_nothing;
  nothing.n_graphs = 0;
  if (v->p99 <= 0) v->p99 = 12 * w->watchdog; /* nothing is known of the first run: a minute, tenfold */
  let_err r = dynamic ? LET_OK : clear(w, g, v, e);
  while (!r && n < most && (n < 2 || total < LONG_ENOUGH)) {
    r = run_once(w, g, due, v, dynamic ? &nothing : v->x[n & 1 && v->x[1] ? 1 : 0], &took[n], e);
    if (!warm || took[n] >= LET_S) total += took[n++];
    warm = false;
  }
  if (r || effort == LET__ONCE) return r;
  qsort(took, n, sizeof *took, by_length);
  v->p50 = effort == LET__ALONE ? took[n / 2] : took[0];
  v->p99 = effort == LET__ALONE ? took[n - 1] : took[0];
  v->beside = effort == LET__BESIDE;
  return LET_OK;
}
