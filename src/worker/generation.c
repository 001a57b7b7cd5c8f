/* generation.c: what the control thread does next, and what it tells the server about it.
 *
 * One step at a time, documents first: what the server waits for (a generation being brought up, lane by lane), then
 * frees of what was retired, then the further sizes of what serves (let__pace says how long it rests in between). Were
 * several threads to bring up lanes, each would take a lane of the generation's order; nothing else here assumes one.
 */
#include <stdlib.h>

#include "os/clock.h"
#include "worker/worker_int.h"

/* ---- descriptions --------------------------------------------------------------------------------------------- */

static uint64_t memory_of(const let__lane_model *m) {
  uint64_t n = m->engine->weights_bytes(m->loaded->em);
  for (uint32_t c = 0; c < let__cells(m); c++)
    for (int x = 0; x < 2; x++)
      if (m->cell[c].x[x]) n += m->cell[c].x[x]->memory_bytes;
  return n;
}

static let_ipc_size_time time_of(const let__cell *c) {
  return (let_ipc_size_time){.size = c->size, .p50 = c->p50, .p99 = c->p99, .beside = c->beside};
}

static let_ipc_model_report report_on(const let__worker *w, const let__lane_model *m) {
  let_ipc_model_report report = {.name = m->m->name, .memory_bytes = memory_of(m), .took = m->took};
  const let_exec *x = m->cell[0].x[0];
  uint64_t row = 0;
  for (unsigned o = 0; o < x->n_out && !x->dynamic; o++) row += x->out[o].row_bytes;
  if (row <= let_ring_arena_size(w->view.arena)) report.output_row_bytes = row; /* else no request can have it */
  report.eager = m->note ? m->note : "";
  report.n_sizes = (uint8_t)let__cells(m);
  for (uint32_t c = 0; c < report.n_sizes; c++) report.size[c] = time_of(&m->cell[c]);
  return report;
}

static let_err say_lane_up(let__worker *w, const let__generation *g, const let__lane *l) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_ipc_model_report *models = let_arena_array(&a, l->n_models, sizeof *models);
  let_err r = models ? LET_OK : LET_ERR_NOMEM;
  for (uint32_t k = 0; !r && k < l->n_models; k++) models[k] = report_on(w, &l->model[k]);
  let_ipc_event m = {.type = LET_IPC_LANE_UP, .lane_up = {g->set, l->index, l->n_models, models}};
  if (!r) r = let__send(w, &m);
  let_arena_fini(&a);
  return r;
}

static let_err say_prepared(let__worker *w, const let__generation *g) {
  let_ipc_event m = {.type = LET_IPC_PREPARED, .prepared = {g->set}};
  let_err r = let__send(w, &m);
  if (!r && let__fault_lies()) r = let__send(w, &m);
  return r;
}

static let_err say_progress(let__worker *w, const let__generation *g) {
  let_ipc_event m = {.type = LET_IPC_PROGRESS, .progress = {g->set, g->model, g->done, g->total}};
  return let__send(w, &m);
}

static let_err say_failed(let__worker *w, let_lane_set_id set, uint32_t lane, const char *model, const let_error *e,
                          let_err code) {
  let_ipc_event m = {.type = LET_IPC_FAILED, .failed = {set, lane, model, code, e->text}};
  return let__send(w, &m);
}

/* |failed|: why there is none; NULL: it is the newest. */
static let_err say_size(let__worker *w, const let__generation *g, const let__lane *l, uint32_t model, uint32_t size,
                        const let_error *failed) {
  const let__lane_model *of = &l->model[model];
  let_ipc_event m = {.type = LET_IPC_SIZE, .size = {.set = g->set, .lane = l->index, .model = model}};
  m.size.memory_bytes = memory_of(of);
  m.size.time = failed ? (let_ipc_size_time){.size = size} : time_of(&of->cell[let__cells(of) - 1]);
  m.size.failed = !failed ? "" : failed->text[0] ? failed->text : let_err_text(failed->code);
  return let__send(w, &m);
}

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
    return say_failed(w, g->set, l->index, g->model, &e, r);
  }
  if (g->done > done) r = say_progress(w, g);
  if (!r && g->up > up) r = say_lane_up(w, g, l);
  if (!r && g->up == g->n) r = say_prepared(w, g);
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
  return size ? say_size(w, g, l, model, size, r ? &e : NULL) : LET_OK;
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
  rest += let__pace(kind, beside || let__busy(w), now - began, &rested);
  w->next_step = now + rest;
  if (kind == LET__WORK_BRING_UP && g && g == building(w)) g->rested = rested;
  return r;
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

let_err let__on_prepare(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds) {
  let_error e = {0};
  let__generation *g;
  let_err r = let__generation_new(w, a, asked, fds, &g, &e);
  if (r) return say_failed(w, asked->set, 0, "", &e, r);
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
      return let__send(w, &(let_ipc_event){.type = LET_IPC_RETIRED, .retired = {set}});
    }
  let_error e;
  (void)let_fail(&e, LET_ERR_NOT_FOUND, "there is no lane set %llu to retire", (unsigned long long)set.n);
  return let__send(w, &(let_ipc_event){.type = LET_IPC_ERROR, .error = {e.text}});
}
