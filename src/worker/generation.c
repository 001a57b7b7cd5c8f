/* generation.c: what the control thread does next, and what it tells the server about it.
 *
 * One step at a time, documents first: what the server waits for (a generation being brought up, lane by lane), then
 * frees of what was retired, then the further sizes of what serves (let__backoff says how long it rests in between). Were
 * several threads to bring up lanes, each would take a lane of the generation's order; nothing else here assumes one.
 */
#include <stdlib.h>

#include "os/clock.h"
#include "worker/worker_int.h"

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static let__generation *take(let__generation **list, let__generation *g) {
  while (*list != g) list = &(*list)->next;
  *list = g->next;
  g->next = NULL;
  return g;
}

/* The oldest that does not serve completely. */
static let__generation *building(const let__worker *w) {
  let__generation *found = NULL;
  for (let__generation *g = w->generations; g; g = g->next)
    if (g->up < g->n) found = g;
  return found;
}

static bool fatal(let_err r) { return r == LET_ERR_DEVICE || r == LET_ERR_GPULET; }
static bool scarce(let_err r) { return r == LET_ERR_NOMEM || r == LET_ERR_OVERLOADED; }

/* What was retired is freed without haste; when it is missed, at once. False: there was nothing. */
static bool free_retired(let__worker *w) {
  if (!w->retired) return false;
  while (w->retired) let__generation_free(w, take(&w->retired, w->retired));
  return true;
}

/* From now on only memory: nothing of it runs any more. */
static void retire(let__worker *w, let__generation *g, let_time free_at) {
  let__generation_halt(take(&w->generations, g));
  g->free_at = free_at;
  g->next = w->retired, w->retired = g;
}

static let_err bring_up(let__worker *w, let__generation *g) {
  let__lane *l;
  let_error e = {0};
  uint32_t up = g->up, done = g->done;
  let_err r = let__bring_up(w, g, &l, &e);
  if (scarce(r) && free_retired(w)) r = let__bring_up(w, g, &l, &e);
  if (fatal(r)) let__worker_die(&w->view, &e);
  if (r) {
    retire(w, g, let_now()); /* first: lanes of it may serve already, and "failed" says that nothing of it runs */
    return let__say_failed(w, g->set, l->index, g->model, &e, r);
  }
  if (g->done > done) r = let__say_progress(w, g);
  if (!r && g->up > up) r = let__say_lane_up(w, g, l);
  if (!r && g->up == g->n) r = let__say_prepared(w, g);
  return r;
}

static let__generation *growing(const let__worker *w) {
  for (let__generation *g = w->generations; g; g = g->next)
    if (let__growing(g)) return g;
  return NULL;
}

static let_err grow(let__worker *w, let__generation *g, let_dur *rest) {
  let__lane *l;
  uint32_t model, size;
  let_error e = {0};
  let_err r = let__grow(w, g, &l, &model, &size, &e);
  if (r == LET_ERR_AGAIN) *rest = LET_S;
  if (fatal(r)) let__worker_die(&w->view, &e);
  return size ? let__say_size(w, g, l, model, size, r ? &e : NULL) : LET_OK;
}

static let__generation *to_free(const let__worker *w) {
  let__generation *first = w->retired;
  for (let__generation *g = w->retired; g; g = g->next)
    if (g->free_at < first->free_at) first = g;
  return first;
}

let_time let__work_due(const let__worker *w) {
  let_time at = LET_NEVER;
  if (building(w)) at = 0;
  else if (w->retired) at = to_free(w)->free_at; /* before anything grows into the memory */
  else if (growing(w)) at = 0;
  return at > w->next_step ? at : w->next_step;
}

let_err let__work_step(let__worker *w) {
  let_time began = let_now();
  let__generation *g = building(w);
  let__work kind = LET__WORK_BRING_UP;
  let_dur rested = g ? g->rested : 0, rest = 0;
  let_err r = LET_OK;
  bool beside = false;
  if (g) {
    beside = g->beside;
    r = bring_up(w, g);
  } else if (w->retired) {
    kind = LET__WORK_FREE;
    g = take(&w->retired, to_free(w));
    if (let__generation_free_step(w, g)) g->next = w->retired, w->retired = g;
  } else if ((g = growing(w))) {
    kind = LET__WORK_GROW;
    beside = g->beside;
    r = grow(w, g, &rest);
  }
  let_time now = let_now();
  rest += let__backoff(kind, beside || let__busy(w), now - began, &rested);
  w->next_step = now + rest;
  if (kind == LET__WORK_BRING_UP && g && g == building(w)) g->rested = rested;
  return r;
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

let_err let__on_prepare(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds) {
  let_error e = {0};
  let__generation *g;
  let_err r = let__generation_new(w, a, asked, fds, &g, &e);
  if (r) return let__say_failed(w, asked->set, 0, "", &e, r);
  g->next = w->generations, w->generations = g;
  w->next_step = 0;
  return LET_OK;
}

/* RETIRED says that nothing of it runs any more. Its memory is given back later, step by step: each free waits for
 * all that runs on the device, and the new lanes are just taking over. */
let_err let__on_retire(let__worker *w, let_lane_set_id set) {
  for (let__generation *g = w->generations; g; g = g->next)
    if (let_lane_set_id_eq(g->set, set)) {
      retire(w, g, let_now() + LET__FREE_AFTER);
      return let__say_retired(w, set);
    }
  let_error e;
  (void)let_fail(&e, LET_ERR_NOT_FOUND, "there is no lane set %llu to retire", (unsigned long long)set.n);
  return let__say_error(w, &e);
}
