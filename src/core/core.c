/* core.c: events in, actions out; creation and introspection. */
#include "core/core.h"

#include <stddef.h>
#include <string.h>

#include "core/core_int.h"

/* ---- life ------------------------------------------------------------------------------------------------ */

static void *array(let_core *c, uint32_t n, size_t size, bool zero) {
  return zero ? let_mem_zalloc(c->mem, n * size) : let_mem_alloc(c->mem, n * size);
}

let_err let_core_new(const let_core_limits *limits, const let_mem *mem, let_core **ret, let_error *e) {
  if (limits->models < 1 || limits->gpulets < 1 || limits->requests < 1 || limits->queue < 1)
    return let_fail(e, LET_ERR_INVALID, "core: the limits on models, gpu-lets, requests and queue must be at least 1");
  if (limits->models > 1u << 20 || limits->gpulets > (1u << 20) / LET__DEPTH_MAX || limits->requests > 1u << 30)
    return let_fail(e, LET_ERR_INVALID, "core: limits above %u models, %u gpu-lets or %u requests", 1u << 20,
                    (1u << 20) / LET__DEPTH_MAX, 1u << 30);
  let_core *c = let_mem_zalloc(mem, sizeof *c);
  if (!c) return let_fail(e, LET_ERR_NOMEM, "core: out of memory");
  c->limits = *limits;
  c->mem = mem;
  c->n_batches = limits->gpulets * LET__DEPTH_MAX;
  c->free_entry = LET__NONE;
  c->free_batch = 0;
  c->model = array(c, limits->models, sizeof *c->model, true);
  c->gpulet = array(c, limits->gpulets, sizeof *c->gpulet, true);
  c->entry = array(c, limits->requests, sizeof *c->entry, false);
  c->batch = array(c, c->n_batches, sizeof *c->batch, true);
  if (!let_heap_init(&c->wake, mem, limits->gpulets) || !let_heap_init(&c->expiry, mem, limits->models) || !c->model ||
      !c->gpulet || !c->entry || !c->batch) {
    let_core_free(c);
    return let_fail(e, LET_ERR_NOMEM, "core: out of memory for %u models, %u gpu-lets, %u requests", limits->models,
                    limits->gpulets, limits->requests);
  }
  for (uint32_t i = 0; i < c->n_batches; i++) c->batch[i].next_free = i + 1 < c->n_batches ? i + 1 : LET__NONE;
  for (uint32_t i = 0; i < limits->models; i++) {
    c->model[i].root = LET__NONE;
    let_heap_node_init(&c->model[i].expiry);
    bool room = let_heap_push(&c->expiry, &c->model[i].expiry, LET_NEVER);
    LET_ASSERT(room);
  }
  for (uint32_t i = 0; i < limits->gpulets; i++) {
    let_heap_node_init(&c->gpulet[i].wake);
    bool room = let_heap_push(&c->wake, &c->gpulet[i].wake, LET_NEVER);
    LET_ASSERT(room);
  }
  *ret = c;
  return LET_OK;
}

void let_core_free(let_core *c) {
  if (!c) return;
  let__table_free(c, c->table);
  if (c->wake.node) let_heap_fini(&c->wake);
  if (c->expiry.node) let_heap_fini(&c->expiry);
  let_mem_free(c->mem, c->model, c->limits.models * sizeof *c->model);
  let_mem_free(c->mem, c->gpulet, c->limits.gpulets * sizeof *c->gpulet);
  let_mem_free(c->mem, c->entry, c->limits.requests * sizeof *c->entry);
  let_mem_free(c->mem, c->batch, c->n_batches * sizeof *c->batch);
  let_mem_free(c->mem, c, sizeof *c);
}

let_err let_core_model_set(let_core *c, uint32_t index, const let_model *m, let_error *e) {
  if (index >= c->limits.models)
    return let_fail(e, LET_ERR_INVALID, "core: model number %u is not below the limit of %u", index, c->limits.models);
  let__model *x = &c->model[index];
  if (!x->m) let_rate_init(&x->rate, LET_S, c->now);
  x->m = m;
  x->limit = m->max_queue ? m->max_queue : c->limits.queue;
  x->levels = m->priority_levels ? m->priority_levels : 1;
  let__touch_model(c, index, c->now);
  return LET_OK;
}

/* ---- gpu-lets -------------------------------------------------------------------------------------------- */

/* The planned rate of the model over all gpu-lets, and how many requests may arrive at once within it: those of one SLO
 * at that rate, or four batches. */
static void plan_demand(let_core *c, uint32_t model) {
  uint32_t n, batch = 0;
  const let__route *r = let__routes_of(c, model, &n);
  let__model *m = &c->model[model];
  m->planned = 0;
  for (uint32_t i = 0; i < n; i++) {
    m->planned += r[i].rate;
    if (r[i].batch > batch) batch = r[i].batch;
  }
  bool first = m->burst <= 0;
  double slo = m->m ? m->planned * (double)m->m->slo / 1e9 : 0;
  m->burst = slo > 4.0 * batch ? slo : 4.0 * batch;
  if (first) m->allowance = m->burst;
}

static void reset(let__gpulet *g, bool open) { *g = (let__gpulet){.wake = g->wake, .open = open}; }

let_err let_core_routes_set(let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                            const let_core_route *routes, uint32_t n_routes, let_time now, let_error *e) {
  c->now = now;
  let__table *t;
  let_err err = let__table_new(c, gpulets, n_gpulets, routes, n_routes, &t, e);
  if (err) return err;
  let__table_free(c, c->table);
  c->table = t;
  for (uint32_t i = 0; i < c->limits.gpulets; i++) {
    c->gpulet[i].routed = false;
    if (c->gpulet[i].open) let__touch_gpulet(c, (let_gpulet_id){i}, INT64_MIN);
  }
  for (uint32_t i = 0; i < n_gpulets; i++) {
    let__gpulet *g = &c->gpulet[gpulets[i].id.n];
    if (!g->open) reset(g, true);
    g->routed = true;
    g->depth = gpulets[i].depth;
  }
  for (uint32_t i = 0; i < c->limits.models; i++) {
    plan_demand(c, i);
    if (c->model[i].queued) let__touch_model(c, i, now);
  }
  return LET_OK;
}

bool let_core_gpulet_idle(const let_core *c, let_gpulet_id gpulet) {
  return gpulet.n >= c->limits.gpulets || c->gpulet[gpulet.n].n == 0;
}

void let_core_gpulet_remove(let_core *c, let_gpulet_id gpulet) {
  LET_ASSERT(gpulet.n < c->limits.gpulets && c->gpulet[gpulet.n].n == 0);
  uint32_t n;
  (void)let__routes_on(c, gpulet, &n);
  LET_ASSERT(n == 0);
  reset(&c->gpulet[gpulet.n], false);
}

static void set_down(let_core *c, let_gpulet_id gpulet, bool down) {
  if (gpulet.n >= c->limits.gpulets || !c->gpulet[gpulet.n].open) return;
  c->gpulet[gpulet.n].down = down;
  uint32_t n;
  const uint32_t *on = let__routes_on(c, gpulet, &n);
  for (uint32_t i = 0; i < n; i++) let__touch_model(c, c->table->route[on[i]].model, c->now);
}

void let_core_gpulet_down(let_core *c, let_gpulet_id gpulet) { set_down(c, gpulet, true); }
void let_core_gpulet_up(let_core *c, let_gpulet_id gpulet) { set_down(c, gpulet, false); }

/* ---- requests -------------------------------------------------------------------------------------------- */

let_err let_core_arrive(let_core *c, let_request *r, let_time now) {
  c->now = now;
  LET_ASSERT(r->state == LET_REQUEST_IDLE);
  let_err err = let__admit(c, r, now);
  if (err) return err;
  if (!let__entry_take(c, r))
    return let__refuse(r, LET_ERR_OVERLOADED, "the server holds %u requests, its limit; try again", c->limits.requests);
  r->attempts = 0;
  r->cancelled = false;
  r->status = LET_OK;
  r->why[0] = 0;
  r->next = NULL;
  let__queue_put(c, &c->model[r->model], r);
  let__touch_model(c, r->model, now);
  return LET_OK;
}

bool let_core_cancel(let_core *c, let_request *r) {
  r->cancelled = true;
  if (r->state != LET_REQUEST_QUEUED) return false;
  let__queue_remove(c, &c->model[r->model], r);
  let__entry_give(c, r);
  r->state = LET_REQUEST_IDLE;
  r->status = LET_ERR_CANCELLED;
  let__expiry_set(c, r->model, c->now);
  return true;
}

static bool refuse_returned(let_core *c, let_action *ret) {
  let_request *r = c->out;
  if (!r) return false;
  c->out = r->next;
  if (!c->out) c->out_last = NULL;
  r->next = NULL;
  r->state = LET_REQUEST_IDLE;
  let__entry_give(c, r);
  *ret = (let_action){
      .kind = LET_ACTION_REFUSE, .why = r->status, .gpulet = {LET_ID_NONE}, .model = r->model, .rows = r->rows, .n = 1};
  ret->request[0] = r;
  return true;
}

bool let_core_step(let_core *c, let_time now, let_action *ret) {
  c->now = now;
  if (refuse_returned(c, ret)) return true;
  /* Both heaps hold a node of every model and every gpu-let, always. A node that gives nothing moves beyond |now|. */
  while (let_heap_top(&c->expiry)->key <= now) {
    const let__model *m = LET_CONTAINER(let_heap_top(&c->expiry), let__model, expiry);
    if (let__expire(c, (uint32_t)(m - c->model), now, ret)) return true;
  }
  while (let_heap_top(&c->wake)->key <= now) {
    const let__gpulet *g = LET_CONTAINER(let_heap_top(&c->wake), let__gpulet, wake);
    if (let__decide(c, let__gpulet_id(c, g), now, ret)) return true;
  }
  return false;
}

let_time let_core_wake(const let_core *c) {
  if (c->out) return c->now;
  let_time a = let_heap_top(&c->wake)->key, b = let_heap_top(&c->expiry)->key, at = a < b ? a : b;
  return at > c->now ? at : c->now;
}

/* ---- outcomes -------------------------------------------------------------------------------------------- */

bool let_core_batch_done(let_core *c, let_batch_id id, let_time started, let_time finished, let_time now,
                         let_request **ret, uint32_t *ret_n) {
  c->now = now;
  let__batch *b = let__batch_find(c, id);
  if (!b) return false;
  let__route *r = let__route_find(c, b->model, b->gpulet);
  let__gpulet *g = &c->gpulet[b->gpulet.n];
  /* The times come from a worker: no batch began before it was submitted, and none ends in the future. */
  if (finished > now) finished = now;
  if (started > now) started = now;
  if (started < b->submitted) started = b->submitted;
  if (finished < started) finished = started;
  if (b->led) let__window_add(&g->handover, (double)(started - b->submitted));
  if (r) let__route_learn(r, b->size, finished - started, now);
  let__batch_end(c, b, finished);
  uint32_t n = 0;
  for (let_request *q = b->first, *next; q; q = next) {
    next = q->next;
    q->next = NULL;
    q->state = LET_REQUEST_IDLE;
    q->status = LET_OK;
    let__entry_give(c, q);
    ret[n++] = q;
  }
  *ret_n = n;
  b->first = b->last = NULL;
  let__touch_gpulet(c, b->gpulet, INT64_MIN);
  return true;
}

static void give_back(let_core *c, let_request *q, let_err why, let_time now) {
  const char *name = c->model[q->model].m->name;
  q->attempts++;
  if (q->cancelled) {
    let__refuse(q, LET_ERR_CANCELLED, "model '%.80s': cancelled", name);
  } else if (q->attempts >= LET__ATTEMPTS) {
    let__refuse(q, why, "model '%.80s': %s, %u times under this request", name, let_err_text(why), q->attempts);
  } else if (!let__any_up(c, q->model)) {
    let__refuse(q, why, "model '%.80s': %s under this request and no other gpu-let of the model is up; try again", name,
                let_err_text(why));
  } else if (now + let__least(c, q->model, q->rows, now) > q->deadline) {
    let__refuse(q, why, "model '%.80s': %s under this request, %.1f ms after arrival: too late to run it again", name,
                let_err_text(why), (double)(now - q->arrival) / 1e6);
  } else {
    let__queue_put(c, &c->model[q->model], q);
    return;
  }
  q->next = NULL;
  if (c->out_last) c->out_last->next = q;
  else c->out = q;
  c->out_last = q;
}

bool let_core_batch_failed(let_core *c, let_batch_id id, let_err why, let_time now) {
  c->now = now;
  let__batch *b = let__batch_find(c, id);
  if (!b) return false;
  if (why == LET_OK) why = LET_ERR_INTERNAL;
  let__batch_end(c, b, now);
  for (let_request *q = b->first, *next; q; q = next) {
    next = q->next;
    give_back(c, q, why, now);
  }
  b->first = b->last = NULL;
  let__touch_gpulet(c, b->gpulet, INT64_MIN);
  let__touch_model(c, b->model, now);
  return true;
}

let_batch_id let_core_batch_on(const let_core *c, let_gpulet_id gpulet) {
  return gpulet.n < c->limits.gpulets && c->gpulet[gpulet.n].n ? c->batch[c->gpulet[gpulet.n].batch[0]].id
                                                               : (let_batch_id){0};
}

let_gpulet_id let_core_batch_gpulet(const let_core *c, let_batch_id id) {
  const let__batch *b = let__batch_find(c, id);
  return b ? b->gpulet : (let_gpulet_id){LET_ID_NONE};
}

void let_core_forget(let_core *c) {
  for (uint32_t i = 0; c->table && i < c->table->n; i++) {
    let__route *r = &c->table->route[i];
    r->ratio = (let__window){0};
    r->ran = 0;
    r->credit = 0;
    for (uint32_t k = 0; k < r->n_sizes; k++) r->variant[k].took = (let__window){0};
    let__route_refresh(r, c->now);
  }
  for (uint32_t i = 0; i < c->limits.models; i++) let_rate_init(&c->model[i].rate, LET_S, c->now);
}

/* ---- introspection --------------------------------------------------------------------------------------- */

uint32_t let_core_queued(const let_core *c, uint32_t model) {
  return model < c->limits.models ? c->model[model].queued : 0;
}
uint32_t let_core_running(const let_core *c, uint32_t model) {
  return model < c->limits.models ? c->model[model].running : 0;
}

let_dur let_core_predict(const let_core *c, let_gpulet_id gpulet, uint32_t model, uint32_t size) {
  const let__route *r = let__route_find(c, model, gpulet);
  uint32_t k = r ? let__size_for(r, size) : LET__NONE;
  return k == LET__NONE ? 0 : r->variant[k].predict;
}
