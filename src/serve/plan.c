/* plan.c: generations: a plan becomes groups of gpu-lets, apply brings them up, routing switches, the old ones go. */
#include <stdio.h>
#include <stdlib.h>

#include "conf/plan_json.h"
#include "obs/log.h"
#include "serve_int.h"

static uint32_t model_named(const server *s, const char *name) {
  for (uint32_t i = 0; i < s->n_models; i++)
    if (strcmp(s->model[i].name, name) == 0) return i;
  return UINT32_MAX;
}

uint32_t serve_device_of(const server *s, const let_plan_gpu *gpu) {
  return gpu->id < s->n_devices ? gpu->id : UINT32_MAX;
}

/* A plan from a file or a planner against what this server has. */
static let_err check(const server *s, let_plan *p, let_error *e) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    let_plan_gpu *g = &p->gpu[i];
    uint32_t d = serve_device_of(s, g);
    if (d == UINT32_MAX)
      return let_fail(e, LET_ERR_INVALID, "the plan names gpu %u; this server has %u device%s (0 to %u)", g->id,
                      s->n_devices, s->n_devices == 1 ? "" : "s", s->n_devices - 1);
    const let_device_type *t = &s->device[d].type;
    if (g->type[0] && strcmp(g->type, t->name) != 0)
      return let_fail(e, LET_ERR_INVALID, "gpu %u: the plan is for type '%s', the device is '%s'", g->id, g->type,
                      t->name);
    if (g->granules && g->granules != t->granules)
      return let_fail(e, LET_ERR_INVALID, "gpu %u: the plan is for %u granules, the device has %u", g->id, g->granules,
                      t->granules);
    g->granules = t->granules;
    for (uint32_t k = 0; k < g->n_gpulets; k++)
      for (uint32_t j = 0; j < g->gpulet[k].n_entries; j++) {
        const let_plan_entry *x = &g->gpulet[k].entry[j];
        uint32_t m = model_named(s, x->name);
        if (m == UINT32_MAX)
          return let_fail(e, LET_ERR_NOT_FOUND, "gpu %u, gpu-let %u: model '%s' is not in the model repository", g->id,
                          k, x->name);
        uint32_t max = s->model[m].max_batch ? s->model[m].max_batch : 1;
        if (x->batch > max)
          return let_fail(e, LET_ERR_INVALID,
                          "gpu %u, gpu-let %u, model '%s': batch is %u, its config.pbtxt allows %u (max_batch_size)",
                          g->id, k, x->name, x->batch, max);
      }
  }
  let_err r = let_plan_validate(p, e);
  return r ? r : let_plan_place(p, e);
}

static uint64_t mix(uint64_t h, uint64_t v) { /* FNV-1a over eight bytes */
  for (int i = 0; i < 8; i++) h = (h ^ ((v >> (8 * i)) & 255)) * 1099511628211u;
  return h;
}

static uint64_t gpulet_key(const server *s, uint64_t h, const let_plan_gpulet *l) {
  h = mix(mix(mix(h, l->first), l->granules), l->shared);
  for (uint32_t j = 0; j < l->n_entries; j++) h = mix(mix(h, model_named(s, l->entry[j].name)), l->entry[j].batch);
  return h;
}

static let_err fill_gpulet(server *s, uint32_t slot, uint32_t lane, const let_plan_gpulet *from, gpulet *to,
                           let_error *e) {
  uint32_t number = 0;
  while (number < SERVE_GPULETS && s->where[number].used) number++;
  if (number == SERVE_GPULETS) return let_fail(e, LET_ERR_NOMEM, "more than %d gpu-lets at once", SERVE_GPULETS);
  *to = (gpulet){.number = number,
                 .first = from->first,
                 .granules = from->granules,
                 .shared = from->shared,
                 .n_places = from->n_entries};
  to->place = calloc(from->n_entries, sizeof *to->place);
  if (!to->place) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->where[number].used = true, s->where[number].group = slot, s->where[number].lane = lane;
  for (uint32_t j = 0; j < from->n_entries; j++) {
    const let_plan_entry *x = &from->entry[j];
    place *p = &to->place[j];
    p->model = model_named(s, x->name);
    p->batch = p->next_batch = x->batch;
    p->rate = p->next_rate = x->rate;
    p->slo = x->slo;
    p->planned = x->latency;
    serve_choose_sizes(&s->model[p->model], x->batch, p);
  }
  return LET_OK;
}

/* The part of a plan that becomes one group: a whole device, or one gpu-let of it. */
typedef struct part {
  const let_plan_gpu *gpu;
  uint32_t device, from, n;
} part;

static let_err fill_group(server *s, uint32_t slot, const part *x, let_error *e) {
  group *g = &s->group[slot];
  *g = (group){.used = true, .generation = s->generation, .device = x->device, .server = s};
  g->gpulet = calloc(x->n, sizeof *g->gpulet);
  if (!g->gpulet) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t k = 0; k < x->n; k++) {
    let_err r = fill_gpulet(s, slot, k, &x->gpu->gpulet[x->from + k], &g->gpulet[k], e);
    if (r) return r;
    g->n_gpulets++;
  }
  return LET_OK;
}

/* A group that serves already keeps its lanes; only what is expected of it may change. */
static void renew_group(server *s, uint32_t slot, const part *x) {
  group *g = &s->group[slot];
  for (uint32_t k = 0; k < g->n_gpulets; k++)
    for (uint32_t j = 0; j < g->gpulet[k].n_places; j++) {
      g->gpulet[k].place[j].next_batch = x->gpu->gpulet[x->from + k].entry[j].batch;
      g->gpulet[k].place[j].next_rate = x->gpu->gpulet[x->from + k].entry[j].rate;
    }
}

static uint32_t split(const server *s, const let_plan *p, part *parts, uint32_t cap) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    const let_plan_gpu *g = &p->gpu[i];
    uint32_t d = serve_device_of(s, g);
    if (g->n_gpulets == 0) continue;
    if (!s->device[d].worker_per_gpulet) {
      if (n < cap) parts[n] = (part){g, d, 0, g->n_gpulets};
      n++;
      continue;
    }
    for (uint32_t k = 0; k < g->n_gpulets; k++, n++)
      if (n < cap) parts[n] = (part){g, d, k, 1};
  }
  return n;
}

let_err serve_plan_begin(server *s, let_arena *arena, let_plan *plan, void *call, let_error *e) {
  if (s->change.under_way)
    return let_fail(e, LET_ERR_AGAIN, "another plan is being applied (generation %llu): try again in a moment",
                    (unsigned long long)s->generation);
  let_err r = check(s, plan, e);
  if (r) return r;
  static part parts[SERVE_GROUPS];
  let_apply_want want[SERVE_GROUPS];
  uint32_t slot[SERVE_GROUPS];
  bool fresh[SERVE_GROUPS];
  uint32_t n = split(s, plan, parts, SERVE_GROUPS);
  if (n == 0) return let_fail(e, LET_ERR_INVALID, "the plan has no gpu-lets");
  if (n > SERVE_GROUPS)
    return let_fail(e, LET_ERR_UNSUPPORTED, "the plan needs %u workers, this server runs %d at most", n, SERVE_GROUPS);
  for (uint32_t i = 0; i < n; i++) {
    uint64_t h = mix(14695981039346656037u, parts[i].device);
    want[i].worker = s->device[parts[i].device].worker_per_gpulet ? 0 : mix(h, 0x9e37) | 1;
    for (uint32_t k = 0; k < parts[i].n; k++) h = gpulet_key(s, h, &parts[i].gpu->gpulet[parts[i].from + k]);
    want[i].key = h;
  }
  r = let_apply_begin(s->apply, s->generation + 1, want, n, slot, fresh, e);
  if (r) return r;
  plan->generation = ++s->generation;
  s->change = (change){.under_way = true, .arena = *arena, .plan = plan, .call = call, .began = serve_now()};
  *arena = (let_arena){.mem = arena->mem};
  uint32_t kept = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (!fresh[i]) renew_group(s, slot[i], &parts[i]), kept++;
    else if (!r) {
      r = fill_group(s, slot[i], &parts[i], e);
      if (r) let_apply_group_failed(s->apply, slot[i], e->text, serve_now()); /* rolls the change back */
    }
  }
  let_log(LET_LOG_INFO, "serve", "plan generation %llu: %u group%s to prepare, %u kept",
          (unsigned long long)s->generation, n - kept, n - kept == 1 ? "" : "s", kept);
  return LET_OK;
}

let_err serve_plan_first(server *s, let_error *e) {
  let_arena arena;
  let_arena_init(&arena, &let_mem_libc);
  let_plan *plan = let_arena_alloc(&arena, sizeof *plan);
  let_err r = plan ? s->planner->make(s->planner->ctx, &arena, plan, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
  if (!r) r = serve_plan_begin(s, &arena, plan, NULL, e);
  let_arena_fini(&arena);
  return r;
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
  if (!r) r = serve_plan_begin(s, &s->replan_arena, s->replan_plan, NULL, e);
  let_arena_fini(&s->replan_arena);
  if (r == LET_ERR_AGAIN) s->replan_again = true; /* the files are read once more when the other plan serves */
  else if (r) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: %s", e->text);
  if (s->replan_again && !s->change.under_way && !s->draining) serve_plan_reload(s);
}

void serve_plan_reload(server *s) {
  s->replan_again = s->replanning;
  if (s->replanning) return;
  let_arena_init(&s->replan_arena, &let_mem_libc);
  s->replan_error = (let_error){0};
  s->replan.data = s;
  int uv = uv_queue_work(&s->loop, &s->replan, replan, replanned);
  s->replanning = uv == 0;
  if (uv) let_log(LET_LOG_ERROR, "serve", "SIGHUP: the plan stays as it is: no thread to plan on: %s", uv_strerror(uv));
}

let_dur serve_slo_configured(const server *s, uint32_t model) {
  return s->given[model].slo ? s->given[model].slo : s->o->default_slo;
}

/* What the plan was made to keep; config.pbtxt's where it does not say. The core reads it from the model. */
static void adopt_slos(server *s, const let_plan *p) {
  for (uint32_t i = 0; i < s->n_models; i++) s->model[i].slo = serve_slo_configured(s, i);
  for (uint32_t i = 0; i < p->n_gpus; i++)
    for (uint32_t k = 0; k < p->gpu[i].n_gpulets; k++)
      for (uint32_t j = 0; j < p->gpu[i].gpulet[k].n_entries; j++) {
        const let_plan_entry *x = &p->gpu[i].gpulet[k].entry[j];
        if (x->slo > 0) s->model[model_named(s, x->name)].slo = x->slo;
      }
}

/* One call into the core moves all traffic. */
void serve_plan_switch(server *s) {
  let_error e = {0};
  let_time before = serve_now();
  if (serve_routes_set(s, true, before, &e)) {
    let_apply_switch_failed(s->apply, e.text);
    return;
  }
  let_dur took = serve_now() - before;
  let_apply_switched(s->apply);
  for (uint32_t i = 0; i < SERVE_GROUPS; i++) {
    group *g = &s->group[i];
    if (!let_apply_group_wanted(s->apply, i)) continue;
    for (uint32_t k = 0; k < g->n_gpulets; k++) {
      g->gpulet[k].declared = true;
      if (!g->gpulet[k].up) let_core_gpulet_down(s->core, g->gpulet[k].number); /* its worker is just being replaced */
      for (uint32_t j = 0; j < g->gpulet[k].n_places; j++)
        g->gpulet[k].place[j].batch = g->gpulet[k].place[j].next_batch,
        g->gpulet[k].place[j].rate = g->gpulet[k].place[j].next_rate;
    }
    if (!g->since) g->since = before;
  }
  adopt_slos(s, s->change.plan);
  s->plan_took = before - s->change.began;
  s->serving = true;
  s->plan_since = before;
  let_arena_fini(&s->plan_arena);
  s->plan_arena = s->change.arena;
  s->plan = s->change.plan;
  s->change.arena = (let_arena){.mem = &let_mem_libc};
  let_log(LET_LOG_INFO, "serve", "generation %llu serves (prepared in %.1f ms, switched in %.0f us)",
          (unsigned long long)s->plan->generation, (double)s->plan_took / 1e6, (double)took / 1e3);
}

void serve_plan_ended(server *s, bool ok, const char *why) {
  void *call = s->change.call;
  if (!ok) {
    let_log(LET_LOG_ERROR, "serve", "generation %llu was taken back: %s", (unsigned long long)s->generation, why);
    let_arena_fini(&s->change.arena);
  }
  s->change = (change){.arena = {.mem = &let_mem_libc}};
  if (call) {
    let_buf b;
    let_buf_init(&b, &let_mem_libc);
    if (ok) let_plan_to_json(s->plan, &b);
    else {
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
  if (s->replan_again && !s->replanning && !s->draining) serve_plan_reload(s);
  if (!ok && !s->serving) { /* the very first plan: there is nothing to fall back to */
    s->failed = true;
    let_fail(&s->error, LET_ERR_UNAVAILABLE, "%s", why);
    uv_stop(&s->loop);
  }
}
