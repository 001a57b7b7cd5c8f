/* infer.c: the way of a request through the server: front -> core -> ring, and from the ring back to the front.
 * Every request leaves through finish(), once; its answer is written in turn.c. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "obs/log.h"
#include "serve_int.h"

/* ---- the pool ------------------------------------------------------------------------------------------- */

static let_request *request_take(void *ctx) {
  server *s = ctx;
  let_request *r = s->idle;
  if (r) s->idle = r->next;
  else if (s->fresh < s->n_requests) r = &s->request[s->fresh++];
  else return NULL;
  uint32_t index = (uint32_t)(r - s->request);
  *r = (let_request){.id = ++s->next_id, .index = index, .in_slot = LET_SLOT_NONE, .out_slot = LET_SLOT_NONE};
  let_heap_node_init(&r->node);
  r->rec = let_ring_arena_record(s->arena, index);
  memset(r->rec, 0, sizeof *r->rec);
  s->in_flight++;
  return r;
}

/* Its answer was written, or its client is gone: it is counted by what the client got. */
static void count(server *s, let_request *r) {
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  if (r->status == LET_OK && !r->stamp[LET_STAGE_ANSWERED]) r->status = LET_ERR_CANCELLED;
  s->metrics[r->model].pending--;
  let_metrics_finish(&s->metrics[r->model], r, wall.tv_sec * 1000 + wall.tv_nsec / 1000000);
  let_stages_finish(s->stages, r);
}

static void request_release(void *ctx, let_request *r) {
  server *s = ctx;
  LET_ASSERT(r->state == LET_REQUEST_IDLE);
  if (r->stamp[LET_STAGE_RECEIVED]) count(s, r); /* otherwise it never reached infer() */
  let_ring_slot_free(s->arena, r->in_slot);
  let_ring_slot_free(s->arena, r->out_slot);
  r->in_slot = r->out_slot = LET_SLOT_NONE;
  r->next = s->idle;
  s->idle = r;
  s->in_flight--;
}

/* ---- front -> core -------------------------------------------------------------------------------------- */

/* It is answered later, by turn.c, in the order in which requests end. */
static void finish(server *s, let_request *r) {
  r->state = LET_REQUEST_IDLE;
  r->next = NULL;
  if (s->last_ended) s->last_ended->next = r;
  else s->first_ended = r;
  s->last_ended = r;
}

void serve_refuse(server *s, let_request *r, let_err why, const char *text) {
  r->status = why;
  if (text) snprintf(r->why, sizeof r->why, "%s", text);
  finish(s, r);
}

static bool output_slot(server *s, let_request *r, uint64_t bytes) {
  let_ring_slot_free(s->arena, r->out_slot);
  r->out_cap = bytes;
  r->out_slot = let_ring_slot_alloc(s->arena, r->out_cap);
  if (r->out_slot == LET_SLOT_NONE) return false;
  r->out_cap = let_ring_slot_bytes(s->arena, r->out_slot);
  r->rec->out_offset = r->out_slot;
  r->rec->out_bytes = r->out_cap;
  return true;
}

static void infer(void *ctx, let_request *r, let_dur timeout) {
  server *s = ctx;
  const let_model *m = &s->model[r->model];
  s->metrics[r->model].received++;
  s->metrics[r->model].pending++;
  if (timeout <= 0 || !m->allow_timeout_override) timeout = m->default_timeout > 0 ? m->default_timeout : m->slo;
  r->arrival = r->stamp[LET_STAGE_RECEIVED];
  r->deadline = timeout > 0 && timeout < LET_NEVER - r->arrival ? r->arrival + timeout : LET_NEVER;
  s->turn.stale = true;
  if (s->stopping) {
    serve_refuse(s, r, LET_ERR_UNAVAILABLE, "the server is shutting down");
    return;
  }
  if (!output_slot(s, r, s->out_bytes[r->model] * r->rows)) {
    serve_refuse(s, r, LET_ERR_NOMEM,
                 "the arena is full: send fewer requests at once, or start the server with a larger --arena-size");
    return;
  }
  if (r->rows > s->rows[r->model] && r->rows <= m->max_batch) {
    s->rows[r->model] = r->rows;
    serve_tell(s, (let_fleet_event){.kind = LET_FLEET_ROWS_SEEN, .model = r->model, .rows = r->rows});
  }
  let_time now = serve_now();
  let_err why = let_core_arrive(s->core, r, now);
  if (!why) r->stamp[LET_STAGE_ADMITTED] = now;
  if (why == LET_ERR_UNAVAILABLE) (void)let_fleet_why_too_wide(s->fleet, r->model, r->rows, r->why, sizeof r->why);
  if (why) serve_refuse(s, r, why, NULL);
}

static void cancel(void *ctx, let_request *r) {
  server *s = ctx;
  s->turn.stale = true;
  if (let_core_cancel(s->core, r)) serve_refuse(s, r, LET_ERR_CANCELLED, "the client went away");
}

/* ---- core -> ring --------------------------------------------------------------------------------------- */

void serve_submit(server *s, const let_action *a, let_time now) {
  const lane_end *end = &s->lanes.gpulet[a->gpulet.n];
  const let_fleet_gpulet *l = let_fleet_gpulet_at(s->fleet, a->gpulet);
  LET_ASSERT(l);
  let_batch_msg msg;
  msg.batch = a->batch.n;
  msg.model = let_fleet_entry_of(l, a->model);
  LET_ASSERT(msg.model != LET_ID_NONE);
  msg.size = a->size;
  msg.rows = a->rows;
  msg.n = a->n;
  let_time submitted = serve_now();
  msg.submitted = submitted;
  for (uint32_t i = 0; i < a->n; i++) {
    let_request *r = a->request[i];
    r->stamp[LET_STAGE_BATCHED] = now;
    r->stamp[LET_STAGE_SUBMITTED] = submitted;
    r->rec->status = LET_OK;
    r->rec->out_need = 0;
    msg.record[i] = r->index;
    if (r->attempts) s->metrics[r->model].retries++;
  }
  if (!end->set || !let_lane_submit(end->set->lanes, end->lane, &msg))
    let_core_batch_failed(s->core, a->batch, LET_ERR_GPULET, now);
  else end->set->batches++;
}

/* ---- ring -> front -------------------------------------------------------------------------------------- */

/* The worker's word about where an output lies is checked against the slot that the server gave it. */
static bool outputs_sane(const let_request *r, const let_model *m) {
  const let_record *rec = r->rec;
  if (rec->n_out != m->n_outputs) return false;
  for (uint32_t i = 0; i < m->n_outputs; i++) {
    const let_tensor *t = &rec->out[i];
    if (t->rank > LET_RANK_MAX || t->offset < r->out_slot || t->bytes > r->out_cap ||
        t->offset - r->out_slot > r->out_cap - t->bytes)
      return false;
  }
  return true;
}

static void answer(server *s, let_request *r, const let_done_msg *d) {
  r->stamp[LET_STAGE_STARTED] = d->started;
  r->stamp[LET_STAGE_FINISHED] = d->finished;
  let_err status = (let_err)(d->status ? d->status : r->rec->status);
  if (r->cancelled) {
    serve_refuse(s, r, LET_ERR_CANCELLED, "the client went away");
    return;
  }
  if (status == LET_ERR_OUTPUT_TOO_LARGE) {
    uint64_t need = r->rec->out_need, per_row = need / (r->rows ? r->rows : 1) + 1;
    if (need > r->out_cap && need <= let_ring_arena_size(s->arena) / 4) { /* it runs again, with more room */
      /* One huge answer must not make every later request reserve as much: such requests run twice instead. */
      uint64_t most =
          let_ring_arena_size(s->arena) / 64 / (s->model[r->model].max_batch ? s->model[r->model].max_batch : 1);
      if (per_row > s->out_bytes[r->model] && per_row <= most) s->out_bytes[r->model] = per_row;
      if (output_slot(s, r, need)) {
        let_err why = let_core_arrive(s->core, r, serve_now());
        if (why) serve_refuse(s, r, why, NULL);
        return;
      }
    }
    serve_refuse(s, r, LET_ERR_NOMEM, "the outputs do not fit the arena: start the server with a larger --arena-size");
    return;
  }
  if (status == LET_OK && !outputs_sane(r, &s->model[r->model])) {
    serve_refuse(s, r, LET_ERR_INTERNAL, "the worker returned outputs that make no sense");
    return;
  }
  if (status != LET_OK && d->text[0]) snprintf(r->why, sizeof r->why, "%.*s", (int)sizeof r->why - 1, d->text);
  else if (status != LET_OK)
    snprintf(r->why, sizeof r->why, "model '%s': %s", s->model[r->model].name, let_err_text(status));
  r->status = status;
  finish(s, r);
}

/* False: this is no batch of that lane's. */
static bool batch_ended(server *s, lane_set *x, uint32_t lane, let_done_msg *d, let_time now) {
  static let_request *done[LET_BATCH_MAX];
  uint32_t n = 0;
  let_gpulet_id gpulet = x->gpulet[lane];
  let_batch_id id = {d->batch};
  if (!let_gpulet_id_eq(let_core_batch_gpulet(s->core, id), gpulet)) return false;
  d->text[sizeof d->text - 1] = 0;
  if ((unsigned)d->status >= LET_ERR_COUNT) d->status = LET_ERR_INTERNAL;
  if (d->started > now || d->started < 0) d->started = now;
  if (d->finished > now || d->finished < d->started) d->finished = now;
  if (d->status == LET_ERR_GPULET || d->status == LET_ERR_DEVICE) {
    /* Its requests go elsewhere after the worker's exit: until then it may still write into their slots. */
    let_log(LET_LOG_WARN, "serve", "gpu-let %u: %s", gpulet.n, d->text);
    serve_tell(s, (let_fleet_event){.kind = LET_FLEET_GPULET_BROKEN, .gpulet = gpulet, .text = d->text});
    return true;
  }
  let_dur took = d->finished - d->started;
  if (!let_core_batch_done(s->core, id, d->started, d->finished, now, done, &n)) return false;
  x->batches--;
  let_hist_add(&s->turn.lag, now - d->finished); /* the server's delay, not the gpu-let's */
  s->lanes.gpulet[gpulet.n].busy += took;
  s->lanes.gpulet[gpulet.n].batches++;
  uint32_t rows = 0;
  for (uint32_t i = 0; i < n; i++) rows += done[i]->rows;
  if (n) let_metrics_batch(&s->metrics[done[0]->model], rows, took);
  for (uint32_t i = 0; i < n; i++) {
    done[i]->state = LET_REQUEST_IDLE;
    answer(s, done[i], d);
  }
  return true;
}

/* True: something had ended. A worker that wrote nonsense is broken. */
static bool take_all(server *s, lane_set *x) {
  static let_done_msg d;
  let_time now = serve_now();
  bool corrupt = false, any = false;
  for (uint32_t lane = 0; lane < x->n; lane++)
    while (let_lane_take_done(x->lanes, lane, &d, &corrupt)) {
      any = true;
      if (!batch_ended(s, x, lane, &d, now)) corrupt = true;
    }
  if (corrupt)
    serve_tell(s, (let_fleet_event){
                      .kind = LET_FLEET_GPULET_BROKEN, .gpulet = x->gpulet[0], .text = "wrote nonsense on its ring"});
  return any;
}

void serve_take_done_of(server *s, lane_set *x) {
  serve_lanes_arm(x); /* and so drains the event */
  (void)take_all(s, x);
}

/* While the server is awake it looks by itself, so the workers need not signal. */
void serve_take_done(server *s) {
  for (uint32_t i = 0; i < s->lanes.n; i++) {
    lane_set *x = &s->lanes.set[i];
    if (!x->batches) continue;
    if (x->armed) serve_lanes_disarm(x);
    (void)take_all(s, x);
  }
}

bool serve_arm_lanes(server *s) {
  bool any = false;
  for (uint32_t i = 0; i < s->lanes.n; i++) {
    lane_set *x = &s->lanes.set[i];
    if (!x->batches || x->armed) continue;
    serve_lanes_arm(x);
    any |= take_all(s, x); /* what came between the last look and the arming */
  }
  return any;
}

/* Nothing of that set runs any more. Finished batches are answered; the core gets the others back. */
void serve_reclaim(server *s, const let_fleet_action *a) {
  let_time now = serve_now();
  lane_set *x = serve_lanes_find(&s->lanes, a->set);
  uint32_t lanes = x ? x->n : 0;
  for (uint32_t lane = 0; lane < lanes; lane++) {
    static let_done_msg d;
    bool corrupt = false;
    while (let_lane_take_done(x->lanes, lane, &d, &corrupt) && d.status != LET_ERR_GPULET && d.status != LET_ERR_DEVICE)
      (void)batch_ended(s, x, lane, &d, now);
  }
  let_fleet_group g;
  if (x) x->batches = 0;
  if (!let_fleet_group_at(s->fleet, a->group, &g)) return;
  for (uint32_t i = 0; i < g.n_gpulets; i++) {
    if (!g.gpulet[i].declared) continue;
    let_batch_id b;
    while ((b = let_core_batch_on(s->core, g.gpulet[i].id)).n != 0)
      let_core_batch_failed(s->core, b, LET_ERR_GPULET, now);
  }
}

/* ---- what the front sees of the server ------------------------------------------------------------------- */

static bool model_ready(void *ctx, uint32_t model) { return let_fleet_model_up(((server *)ctx)->fleet, model); }

static bool ready(void *ctx) {
  server *s = ctx;
  if (!s->planning.plan || s->draining) return false;
  for (uint32_t p = 0; p < s->planning.plan->n_gpus; p++)
    for (uint32_t k = 0; k < s->planning.plan->gpu[p].n_gpulets; k++)
      for (uint32_t j = 0; j < s->planning.plan->gpu[p].gpulet[k].n_entries; j++)
        for (uint32_t m = 0; m < s->n_models; m++)
          if (strcmp(s->model[m].name, s->planning.plan->gpu[p].gpulet[k].entry[j].name) == 0 && !model_ready(s, m))
            return false;
  return true;
}

static uint32_t models(void *ctx) { return ((server *)ctx)->n_models; }
static const let_model *model(void *ctx, uint32_t i) { return &((server *)ctx)->model[i]; }
static let_time now_of(void *ctx) {
  (void)ctx;
  return serve_now();
}
static uint64_t slot_alloc(void *ctx, uint64_t n) { return let_ring_slot_alloc(((server *)ctx)->arena, n); }
static void slot_free(void *ctx, uint64_t slot) { let_ring_slot_free(((server *)ctx)->arena, slot); }
static uint64_t slot_bytes(void *ctx, uint64_t slot) { return let_ring_slot_bytes(((server *)ctx)->arena, slot); }
static void *at(void *ctx, uint64_t offset) { return let_ring_slot_at(((server *)ctx)->arena, offset); }

void serve_front_interface(server *s, let_front_i *ret) {
  *ret = (let_front_i){.ctx = s,
                       .ready = ready,
                       .models = models,
                       .model = model,
                       .model_ready = model_ready,
                       .now = now_of,
                       .slot_alloc = slot_alloc,
                       .slot_free = slot_free,
                       .slot_bytes = slot_bytes,
                       .at = at,
                       .request_take = request_take,
                       .request_release = request_release,
                       .infer = infer,
                       .cancel = cancel};
}
