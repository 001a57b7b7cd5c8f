/* offer.c: plans are made or taken from a client, offered to the fleet, and their outcome is told. */
#include <stdio.h>
#include <stdlib.h>

#include "conf/plan_json.h"
#include "obs/log.h"
#include "serve_int.h"

let_err serve_offer(server *s, let_arena *arena, let_plan *plan, void *call, let_error *e) {
  if (s->change.under_way) /* the last one's outcome was not even told */
    return let_fail(e, LET_ERR_AGAIN, "another plan is being applied (generation %llu): try again in a moment",
                    (unsigned long long)let_fleet_generation(s->fleet).n);
  let_err r = let_fleet_offer(s->fleet, plan, serve_now(), e);
  if (r) return r;
  s->change = (change){.under_way = true, .arena = *arena, .plan = plan, .call = call};
  *arena = (let_arena){.mem = arena->mem};
  return LET_OK;
}

let_err serve_offer_first(server *s, let_error *e) {
  let_arena arena;
  let_arena_init(&arena, &let_mem_libc);
  let_plan *plan = let_arena_alloc(&arena, sizeof *plan);
  let_err r = plan ? s->planner->make(s->planner->ctx, &arena, plan, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
  if (!r) r = serve_offer(s, &arena, plan, NULL, e);
  let_arena_fini(&arena);
  return r;
}

let_dur serve_slo_configured(const server *s, uint32_t model) {
  return s->given[model].slo ? s->given[model].slo : s->o->default_slo;
}

static void replan(uv_work_t *w) {
  server *s = w->data;
  s->replan_plan = let_arena_alloc(&s->replan_arena, sizeof *s->replan_plan);
  s->replan_result = s->replan_plan
                         ? s->planner->make(s->planner->ctx, &s->replan_arena, s->replan_plan, &s->replan_error)
                         : let_fail(&s->replan_error, LET_ERR_NOMEM, "out of memory");
}

static void replanned(uv_work_t *w, int status) {
  server *s = w->data;
  let_error *e = &s->replan_error;
  let_err r = status ? let_fail(e, LET_ERR_CANCELLED, "the server is leaving") : s->replan_result;
  s->replanning = false;
  if (!r && s->draining) r = let_fail(e, LET_ERR_UNAVAILABLE, "the server is shutting down");
  if (!r) r = serve_offer(s, &s->replan_arena, s->replan_plan, NULL, e);
  let_arena_fini(&s->replan_arena);
  if (r == LET_ERR_AGAIN) s->replan_again = true; /* the files are read once more when the other plan serves */
  else if (r) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: %s", e->text);
  if (s->replan_again && !s->change.under_way && !s->draining) serve_offer_again(s);
}

void serve_offer_again(server *s) {
  s->replan_again = s->replanning;
  if (s->replanning) return;
  let_arena_init(&s->replan_arena, &let_mem_libc);
  s->replan_error = (let_error){0};
  s->replan.data = s;
  int uv = uv_queue_work(&s->loop, &s->replan, replan, replanned);
  s->replanning = uv == 0;
  if (uv) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: no thread to plan on: %s", uv_strerror(uv));
}

/* The core reads the SLO from the model. */
void serve_plan_serves(server *s, let_dur took) {
  for (uint32_t i = 0; i < s->n_models; i++) s->model[i].slo = let_fleet_slo(s->fleet, i);
  s->plan_took = took;
  s->plan_since = serve_now();
  let_arena_fini(&s->plan_arena);
  s->plan_arena = s->change.arena;
  s->plan = s->change.plan;
  s->change.arena = (let_arena){.mem = &let_mem_libc};
  let_log(LET_LOG_INFO, "serve", "generation %llu serves (prepared in %.1f ms, switched in %.0f us)",
          (unsigned long long)s->plan->generation, (double)took / 1e6, (double)s->switch_took / 1e3);
}

void serve_plan_ended(server *s, bool ok, const char *why) {
  if (!ok && !s->stopping)
    let_log(LET_LOG_ERROR, "serve", "generation %llu was taken back: %s",
            (unsigned long long)let_fleet_generation(s->fleet).n, why);
  s->change.ended = true, s->change.ok = ok;
  snprintf(s->change.why, sizeof s->change.why, "%s", why);
}

static void reply(server *s, void *call, bool ok, const char *why) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  if (ok) {
    let_plan_to_json(s->plan, &b);
  } else {
    json_t *doc =
        json_pack("{s:s, s:I}", "error", why, "serving_generation", (json_int_t)(s->plan ? s->plan->generation : 0));
    char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    if (text) let_buf_str(&b, text);
    free(text);
    json_decref(doc);
  }
  let_front_reply(s->front, call, ok ? 200 : 409, "application/json", (let_str){b.p, b.n});
  let_buf_fini(&b);
}

void serve_plan_answer(server *s) {
  if (!s->change.ended) return;
  change x = s->change;
  s->change = (change){.arena = {.mem = &let_mem_libc}};
  let_arena_fini(&x.arena); /* it was emptied where the plan came to serve */
  if (s->stopping) return;  /* nobody waits any more */
  if (x.call) reply(s, x.call, x.ok, x.why);
  if (s->replan_again && !s->replanning && !s->draining) serve_offer_again(s);
  if (x.ok || let_fleet_serving(s->fleet)) return;
  s->failed = true; /* the very first plan: there is nothing to fall back to */
  let_fail(&s->error, LET_ERR_UNAVAILABLE, "%s", x.why);
  uv_stop(&s->loop);
}
