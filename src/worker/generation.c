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

static json_t *size_json(const let__cell *c) {
  return json_pack("{si sf sf sb}", "size", (int)c->size, "p50_us", (double)c->p50 / 1e3, "p99_us",
                   (double)c->p99 / 1e3, "beside", c->beside);
}

static json_t *model_json(const let__lane_model *m) {
  json_t *sizes = json_array();
  uint64_t row = 0;
  const let_exec *x = m->cell[0].x[0];
  for (unsigned o = 0; o < x->n_out && !x->dynamic; o++) row += x->out[o].row_bytes;
  for (uint32_t c = 0; c < let__cells(m); c++) json_array_append_new(sizes, size_json(&m->cell[c]));
  return json_pack("{ss sI sI so sI so}", "name", m->m->name, "memory_bytes", (json_int_t)memory_of(m),
                   "output_row_bytes", (json_int_t)row, "eager", let__text_json(m->note ? m->note : ""), "took_us",
                   (json_int_t)(m->took / LET_US), "sizes", sizes);
}

static json_t *lane_json(const let__lane *l) {
  json_t *models = json_array();
  for (uint32_t k = 0; k < l->n_models; k++) json_array_append_new(models, model_json(&l->model[k]));
  return json_pack("{si so}", "gpulet", (int)l->gpulet, "models", models);
}

static let_err say_lane(let__worker *w, const let__generation *g, const let__lane *l) {
  return let__send(
      w, json_pack("{ss sI s[o]}", "event", "lane", "generation", (json_int_t)g->number, "lanes", lane_json(l)));
}

static let_err say_prepared(let__worker *w, const let__generation *g) {
  json_t *lanes = json_array();
  for (uint32_t i = 0; i < g->n; i++) json_array_append_new(lanes, lane_json(&g->lane[i]));
  return let__send(w,
                   json_pack("{ss sI so}", "event", "prepared", "generation", (json_int_t)g->number, "lanes", lanes));
}

static let_err say_progress(let__worker *w, const let__generation *g) {
  return let__send(w, json_pack("{ss sI ss si si}", "event", "progress", "generation", (json_int_t)g->number, "text",
                                g->model, "done", (int)g->done, "total", (int)g->total));
}

static let_err say_failed(let__worker *w, uint64_t generation, uint32_t gpulet, const char *model, const let_error *e,
                          let_err code) {
  return let__send(w, json_pack("{ss sI si so si so}", "event", "failed", "generation", (json_int_t)generation,
                                "gpulet", (int)gpulet, "model", let__text_json(model), "code", (int)code, "text",
                                let__text_json(e->text)));
}

static let_err say_size(let__worker *w, const let__generation *g, const let__lane *l, uint32_t model, uint32_t size,
                        const char *failed) {
  const let__lane_model *m = &l->model[model];
  json_t *one = failed ? json_pack("{si so}", "size", (int)size, "failed", let__text_json(failed))
                       : size_json(&m->cell[let__cells(m) - 1]);
  return let__send(w, json_pack("{ss sI si si sI so}", "event", "size", "generation", (json_int_t)g->number, "gpulet",
                                (int)l->gpulet, "model", (int)model, "memory_bytes", (json_int_t)memory_of(m), "size",
                                one));
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
    return say_failed(w, g->number, l->gpulet, g->model, &e, r);
  }
  if (g->done > done) r = say_progress(w, g);
  if (!r && g->up > up) r = say_lane(w, g, l);
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
  return size ? say_size(w, g, l, model, size, r ? e.text : NULL) : LET_OK;
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

/* ---- documents ------------------------------------------------------------------------------------------------- */

let_err let__on_prepare(let__worker *w, const json_t *doc, int *fds, int n_fds) {
  let_error e = {0};
  let__generation *g;
  let_err r = let__generation_new(w, doc, fds, n_fds, &g, &e);
  if (r) return say_failed(w, (uint64_t)json_integer_value(json_object_get(doc, "generation")), 0, "", &e, r);
  g->next = w->generations, w->generations = g;
  w->next_step = 0;
  return LET_OK;
}

/* `retired` says that nothing of it runs any more. Its memory is given back later, step by step: each free waits for
 * all that runs on the device, and the new generation is just taking over. */
let_err let__on_retire(let__worker *w, const json_t *doc) {
  uint64_t number = (uint64_t)json_integer_value(json_object_get(doc, "generation"));
  for (let__generation *g = w->generations; g; g = g->next)
    if (g->number == number) {
      retire(w, g, let_now() + LET__FREE_AFTER);
      return let__send(w, json_pack("{ss sI}", "event", "retired", "generation", (json_int_t)number));
    }
  let_error e;
  (void)let_fail(&e, LET_ERR_NOT_FOUND, "there is no generation %llu to retire", (unsigned long long)number);
  return let__send(w, json_pack("{ss so}", "event", "error", "text", let__text_json(e.text)));
}
