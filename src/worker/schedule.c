/* schedule.c: what the control thread does next.
 *
 * One step at a time, commands first: it brings up the lane set that the server waits for, lane by lane, then frees
 * what was retired, then adds sizes to the lanes that serve. let__backoff says how long it rests in between. */
#include <stdlib.h>

#include "os/clock.h"
#include "worker/worker_int.h"

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static let__lane_set *take(let__lane_set **list, let__lane_set *set) {
  while (*list != set) list = &(*list)->next;
  *list = set->next;
  set->next = NULL;
  return set;
}

/* The oldest lane set with a lane that does not serve yet. */
static let__lane_set *building(const let__worker *w) {
  let__lane_set *found = NULL;
  for (let__lane_set *set = w->lane_sets; set; set = set->next)
    if (set->up < set->n) found = set;
  return found;
}

static bool fatal(let_err r) { return r == LET_ERR_DEVICE || r == LET_ERR_GPULET; }
static bool scarce(let_err r) { return r == LET_ERR_NOMEM || r == LET_ERR_OVERLOADED; }

/* Retired memory is freed slowly, and at once when a step lacks memory. False: there was none. */
static bool free_retired(let__worker *w) {
  if (!w->retired) return false;
  while (w->retired) let__lane_set_free(w, take(&w->retired, w->retired));
  return true;
}

/* Nothing of |set| runs from here on; only its memory is left. */
static void retire(let__worker *w, let__lane_set *set, let_time free_at) {
  let__lane_set_halt(take(&w->lane_sets, set));
  set->free_at = free_at;
  set->next = w->retired;
  w->retired = set;
}

static let_err bring_up(let__worker *w, let__lane_set *set) {
  let__lane *l;
  let_error e = {0};
  uint32_t up = set->up, done = set->done;
  let_err r = let__bring_up(w, set, &l, &e);
  if (scarce(r) && free_retired(w)) r = let__bring_up(w, set, &l, &e);
  if (fatal(r)) let__worker_die(&w->view, &e);
  if (r) {
    retire(w, set, let_now()); /* first: lanes of it may serve already, and "failed" says that nothing of it runs */
    return let__say_failed(w, set->id, l->index, set->model, &e, r);
  }
  if (set->done > done) r = let__say_progress(w, set);
  if (!r && set->up > up) r = let__say_lane_up(w, set, l);
  if (!r && set->up == set->n) r = let__say_prepared(w, set);
  return r;
}

static let__lane_set *warming(const let__worker *w) {
  for (let__lane_set *set = w->lane_sets; set; set = set->next)
    if (let__warming(set)) return set;
  return NULL;
}

static let_err add_size(let__worker *w, let__lane_set *set, let_dur *rest) {
  let__lane *l;
  uint32_t model, size;
  let_error e = {0};
  let_err r = let__add_size(w, set, &l, &model, &size, &e);
  if (r == LET_ERR_AGAIN) *rest = LET_S;
  if (fatal(r)) let__worker_die(&w->view, &e);
  return size ? let__say_size(w, set, l, model, size, r ? &e : NULL) : LET_OK;
}

static let__lane_set *to_free(const let__worker *w) {
  let__lane_set *first = w->retired;
  for (let__lane_set *set = w->retired; set; set = set->next)
    if (set->free_at < first->free_at) first = set;
  return first;
}

let_time let__work_due(const let__worker *w) {
  let_time at = LET_NEVER;
  if (building(w)) at = 0;
  else if (w->retired) at = to_free(w)->free_at; /* before a new size needs the memory */
  else if (warming(w)) at = 0;
  return at > w->next_step ? at : w->next_step;
}

let_err let__work_step(let__worker *w) {
  let_time began = let_now();
  let__lane_set *set = building(w);
  let__work kind = LET__WORK_BRING_UP;
  let_dur rested = set ? set->rested : 0, rest = 0;
  let_err r = LET_OK;
  bool beside = false;
  if (set) {
    beside = set->beside;
    r = bring_up(w, set);
  } else if (w->retired) {
    kind = LET__WORK_FREE;
    set = take(&w->retired, to_free(w));
    if (let__lane_set_free_step(w, set)) {
      set->next = w->retired;
      w->retired = set;
    }
  } else if ((set = warming(w))) {
    kind = LET__WORK_ADD_SIZE;
    beside = set->beside;
    r = add_size(w, set, &rest);
  }
  let_time now = let_now();
  rest += let__backoff(kind, beside || let__busy(w), now - began, &rested);
  w->next_step = now + rest;
  if (kind == LET__WORK_BRING_UP && set && set == building(w)) set->rested = rested;
  return r;
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

let_err let__on_prepare(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds) {
  let_error e = {0};
  let__lane_set *set;
  let_err r = let__lane_set_new(w, a, asked, fds, &set, &e);
  if (r) return let__say_failed(w, asked->set, 0, "", &e, r);
  set->next = w->lane_sets;
  w->lane_sets = set;
  w->next_step = 0;
  return LET_OK;
}

/* RETIRED says that nothing of the set runs any more. Its memory is freed later, step by step: each free waits for all
 * that runs on the device, and the new lanes are taking over just now. */
let_err let__on_retire(let__worker *w, let_lane_set_id id) {
  for (let__lane_set *set = w->lane_sets; set; set = set->next)
    if (let_lane_set_id_eq(set->id, id)) {
      retire(w, set, let_now() + LET__FREE_AFTER);
      return let__say_retired(w, id);
    }
  let_error e;
  (void)let_fail(&e, LET_ERR_NOT_FOUND, "there is no lane set %llu to retire", (unsigned long long)id.n);
  return let__say_error(w, &e);
}
