/* serve_plan.c: workload, profiles and the devices that were found -> the plan to serve. */
#include "cmd/serve_plan.h"

#include <stdio.h>
#include <string.h>

#include "cmd/plan_input.h"
#include "cmd/plan_print.h"
#include "conf/plan_json.h"
#include "conf/workload.h"
#include "obs/log.h"

/* The planner numbers devices pool by pool; the server as they were found. */
typedef struct numbers {
  let_plan_pool pool[LET_POOLS_MAX];
  uint32_t n_pools, n, *inventory; /* planner's number -> server's */
} numbers;

static const let_model *model_named(const let_serve_planning *p, const char *name) {
  for (uint32_t i = 0; i < p->n_models; i++)
    if (strcmp(p->models[i].name, name) == 0) return &p->models[i];
  return NULL;
}

static let_err read_workload(const let_serve_planning *p, let_arena *a, let_workload *ret, let_error *e) {
  let_err r = let_workload_load(p->workload, a, ret, e);
  if (r) return r;
  for (uint32_t i = 0; i < ret->n; i++) {
    let_demand *d = &ret->demand[i];
    const let_model *m = model_named(p, d->name);
    if (!m)
      return let_fail(e, LET_ERR_NOT_FOUND, "%s: model '%s' is not in the repository %s", p->workload, d->name,
                      p->repository);
    if (!d->slo) d->slo = m->slo ? m->slo : p->default_slo;
    if (!d->slo && d->rate > 0)
      return let_fail(e, LET_ERR_INVALID,
                      "%s: model '%s' has no SLO to plan for: write slo: 20ms here, or slo_ms in its config.pbtxt, or "
                      "start with --default-slo",
                      p->workload, d->name);
  }
  for (uint32_t k = 0; k < p->n_models; k++) {
    bool wanted = false;
    for (uint32_t i = 0; i < ret->n && !wanted; i++)
      wanted = ret->demand[i].rate > 0 && strcmp(ret->demand[i].name, p->models[k].name) == 0;
    if (!wanted)
      let_log(LET_LOG_WARN, "serve", "model '%s' has no rate in %s: it gets no gpu-let, and its requests are refused",
              p->models[k].name, p->workload);
  }
  return LET_OK;
}

/* Batches larger than the model's config.pbtxt allows are not for sale. */
static let_err limit_batches(const let_serve_planning *p, const let_workload *w, const let_profile *profile,
                             let_error *e) {
  for (uint32_t i = 0; i < profile->n_models; i++) {
    let_profile_model *m = &profile->model[i];
    const let_model *own = model_named(p, m->name);
    uint32_t most = !own ? UINT32_MAX : own->max_batch ? own->max_batch : 1, n = 0;
    while (n < m->n_batches && m->batch[n] <= most) n++;
    bool wanted = false;
    for (uint32_t k = 0; k < w->n; k++) wanted |= w->demand[k].rate > 0 && strcmp(w->demand[k].name, m->name) == 0;
    if (n == 0 && wanted)
      return let_fail(e, LET_ERR_INVALID,
                      "model '%s': its config.pbtxt allows batches of %u at most, and the profile of '%s' begins at "
                      "%u: profile it again, or raise max_batch_size",
                      m->name, most, profile->device.name, m->batch[0]);
    if (n) {
      m->n_batches = n;
      m->n_cells = n * m->n_granules;
    }
  }
  return LET_OK;
}

/* Every device that was found goes to the pool of its type. */
static let_err take_devices(const let_serve_planning *p, numbers *n, let_arena *a, let_error *e) {
  n->inventory = let_arena_array(a, p->n_devices, sizeof *n->inventory);
  if (!n->inventory) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t k = 0; k < n->n_pools; k++) {
    const let_device_type *t = &n->pool[k].profile->device;
    n->pool[k].first_id = n->n;
    for (uint32_t d = 0; d < p->n_devices; d++) {
      const let_device_type *have = &p->devices[d].type;
      if (strcmp(have->name, t->name) != 0) continue;
      if (have->granules != t->granules)
        return let_fail(e, LET_ERR_INVALID,
                        "device %u (%s) has %u granules, the profile of '%s' was measured on %u: profile this device",
                        d, p->devices[d].name, have->granules, t->name, t->granules);
      n->inventory[n->n++] = d;
      n->pool[k].count++;
    }
  }
  for (uint32_t d = 0; d < p->n_devices; d++) {
    bool known = false;
    for (uint32_t k = 0; k < n->n_pools && !known; k++)
      known = strcmp(p->devices[d].type.name, n->pool[k].profile->device.name) == 0;
    if (!known)
      return let_fail(e, LET_ERR_NOT_FOUND,
                      "device %u (%s) is of type '%s', and --profile %s has no profile of it: measure one with `gpulet "
                      "profile --device %s`, or leave the device out of --devices",
                      d, p->devices[d].name, p->devices[d].type.name, p->profiles, p->devices[d].name);
  }
  return LET_OK;
}

static void log_plan(const let_plan *p) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_plan_print(p, 100, false, &b);
  for (char *line = b.failed ? NULL : b.p, *end; line && *line; line = end + 1) {
    end = strchr(line, '\n');
    if (end) *end = 0;
    if (*line) let_log(LET_LOG_INFO, "plan", "%s", line);
    if (!end) break;
  }
  let_buf_fini(&b);
}

static let_err infeasible(const let_serve_planning *p, const let_plan *plan, let_error *e) {
  char text[sizeof e->text - 200] = "";
  for (uint32_t i = 0; i < plan->n_reasons; i++) {
    size_t at = strlen(text);
    snprintf(text + at, sizeof text - at, "%s%s", i ? "; " : "", plan->reason[i]);
  }
  return let_fail(e, LET_ERR_INVALID, "%s: policy '%s' cannot serve it on the %u device%s there %s: %s", p->workload,
                  p->policy->name, p->n_devices, p->n_devices == 1 ? "" : "s", p->n_devices == 1 ? "is" : "are",
                  text[0] ? text : "no reason was given");
}

static let_err plan_workload(let_serve_planning *p, let_arena *a, let_plan *ret, let_error *e) {
  numbers n = {0};
  let_workload w;
  let_plan running;
  let_err r = read_workload(p, a, &w, e);
  if (!r) r = let_cmd_profiles(p->profiles, a, n.pool, &n.n_pools, e);
  for (uint32_t k = 0; k < n.n_pools && !r; k++) r = limit_batches(p, &w, n.pool[k].profile, e);
  if (!r) r = take_devices(p, &n, a, e);
  if (r) return r;
  let_error unused = {0};
  bool again = p->last.n && let_plan_parse(p->last.p, p->last.n, "the running plan", a, &running, &unused) == LET_OK;
  double until = let_cmd_now_ms(NULL) + (double)p->time_limit / 1e6;
  let_plan_input in = {.workload = &w,
                       .pool = n.pool,
                       .n_pools = n.n_pools,
                       .running = again ? &running : NULL,
                       .expired = let_cmd_expired,
                       .expired_ctx = &until,
                       .now_ms = let_cmd_now_ms};
  if ((r = p->policy->make(&in, a, ret, e))) return let_fail_prefix(e, "%s", p->workload);
  if (!ret->feasible) return infeasible(p, ret, e);
  if (ret->n_gpus == 0)
    return let_fail(e, LET_ERR_INVALID, "%s: every rate is 0: there is nothing to serve", p->workload);
  let_buf_clear(&p->last);
  let_plan_to_json(ret, &p->last);
  if (p->last.failed) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; i < ret->n_gpus; i++) {
    LET_ASSERT(ret->gpu[i].id < n.n);
    ret->gpu[i].id = n.inventory[ret->gpu[i].id];
  }
  log_plan(ret);
  return LET_OK;
}

let_err let_serve_planning_make(void *planning, let_arena *a, let_plan *ret, let_error *e) {
  let_serve_planning *p = planning;
  if (p->plan) return let_plan_load(p->plan, a, ret, e);
  if (p->workload) return plan_workload(p, a, ret, e);
  return let_serve_default_plan(p->models, p->n_models, p->devices, p->n_devices, a, ret, e);
}
