#include "planning.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/plan_json.h"
#include "obs/log.h"

void serve_planning_open(planning *p) {
  let_arena_init(&p->arena, &let_mem_libc);
  let_arena_init(&p->next_arena, &let_mem_libc);
}

void serve_planning_close(planning *p) {
  let_arena_fini(&p->arena);
  let_arena_fini(&p->next_arena);
}

/* ---- offers ------------------------------------------------------------------------------------------------------ */

let_err serve_plan_offer(planning *p, let_arena *arena, let_plan *plan, void *call, let_error *e) {
  if (p->under_way) /* the last one's outcome was not even told */
    return let_fail(e, LET_ERR_AGAIN, "another plan is being applied (generation %llu): try again in a moment",
                    (unsigned long long)let_fleet_generation(p->fleet).n);
  let_err r = let_fleet_offer(p->fleet, plan, p->now(), e);
  if (r) return r;
  p->under_way = true;
  p->next_arena = *arena;
  p->next = plan;
  p->outcome = (plan_outcome){.call = call};
  *arena = (let_arena){.mem = arena->mem};
  return LET_OK;
}

static let_err make(planning *p, let_arena *arena, let_plan **ret, let_error *e) {
  *ret = let_arena_alloc(arena, sizeof **ret);
  if (!*ret) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  return p->planner->make(p->planner->ctx, arena, *ret, e);
}

let_err serve_plan_first(planning *p, let_error *e) {
  let_arena arena;
  let_plan *plan;
  let_arena_init(&arena, &let_mem_libc);
  let_err r = make(p, &arena, &plan, e);
  if (!r) r = serve_plan_offer(p, &arena, plan, NULL, e);
  let_arena_fini(&arena);
  return r;
}

static void work(uv_work_t *w) {
  planning *p = w->data;
  p->result = make(p, &p->made_arena, &p->made, &p->error);
}

static void made(uv_work_t *w, int status) {
  planning *p = w->data;
  let_error *e = &p->error;
  let_err r = status ? let_fail(e, LET_ERR_CANCELLED, "the server is leaving") : p->result;
  p->busy = false;
  if (!r && p->leaving) r = let_fail(e, LET_ERR_UNAVAILABLE, "the server is shutting down");
  if (!r) r = serve_plan_offer(p, &p->made_arena, p->made, NULL, e);
  let_arena_fini(&p->made_arena);
  if (r == LET_ERR_AGAIN) p->again = true; /* the files are read once more when the other plan serves */
  else if (r) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: %s", e->text);
  if (p->again && !p->under_way && !p->leaving) serve_plan_again(p);
}

void serve_plan_again(planning *p) {
  p->again = p->busy;
  if (p->busy) return;
  let_arena_init(&p->made_arena, &let_mem_libc);
  p->error = (let_error){0};
  p->work.data = p;
  int uv = uv_queue_work(p->loop, &p->work, work, made);
  p->busy = uv == 0;
  if (uv) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: no thread to plan on: %s", uv_strerror(uv));
}

/* ---- what becomes of them ---------------------------------------------------------------------------------------- */

void serve_plan_serves(planning *p, let_dur prepared, let_dur switched) {
  let_arena_fini(&p->arena);
  p->arena = p->next_arena;
  p->plan = p->next;
  p->next_arena = (let_arena){.mem = &let_mem_libc};
  p->next = NULL;
  let_log(LET_LOG_INFO, "serve", "generation %llu serves (prepared in %.1f ms, switched in %.0f us)",
          (unsigned long long)p->plan->generation, (double)prepared / 1e6, (double)switched / 1e3);
}

void serve_plan_ended(planning *p, bool ok, const char *why) {
  if (!ok)
    let_log(LET_LOG_ERROR, "serve", "generation %llu was rolled back: %s",
            (unsigned long long)let_fleet_generation(p->fleet).n, why);
  let_arena_fini(&p->next_arena); /* it is empty where the plan came to serve */
  p->next = NULL;
  p->ended = true;
  p->outcome.ok = ok;
  snprintf(p->outcome.why, sizeof p->outcome.why, "%s", why);
}

bool serve_plan_outcome(planning *p, plan_outcome *ret) {
  if (!p->ended) return false;
  p->ended = p->under_way = false;
  *ret = p->outcome;
  if (p->again && !p->busy && !p->leaving) serve_plan_again(p);
  return true;
}

void serve_plan_outcome_text(const planning *p, const plan_outcome *o, let_buf *out) {
  if (o->ok) {
    let_plan_to_json(p->plan, out);
    return;
  }
  json_int_t serving = (json_int_t)(p->plan ? p->plan->generation : 0);
  json_t *doc = json_pack("{s:s, s:I}", "error", o->why, "serving_generation", serving);
  char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
  if (text) let_buf_str(out, text);
  free(text);
  json_decref(doc);
}
