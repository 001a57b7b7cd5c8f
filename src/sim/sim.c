/* sim.c: the kernel: takes the next event in order of time and tells the policy. */
#include "sim/sim.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/heap.h"

enum { RING = 8 };

typedef struct stream { /* the requests of one model */
  let_heap_node node;   /* key: when the next one comes */
  let_rng rng;
  bool fast;          /* BURSTY: in the fast phase, */
  let_time phase_end; /* until here */
  uint32_t at;        /* RECORDED */
  let_time round;
} stream;

typedef struct batch {
  let_batch_id id;
  let_time started, finished, heard;
} batch;

typedef struct device { /* a gpu-let's */
  let_heap_node node;   /* key: when its oldest batch is heard of */
  let_rng rng;
  batch ring[RING];
  uint32_t head, n;
  let_time free; /* when the last batch on it ends */
} device;

typedef struct world {
  const let_sim_scene *s;
  const let_mem *mem;
  let_sim_policy policy;
  let_heap due;
  stream stream[LET_SIM_MODELS];
  device device[LET_SIM_GPULETS];
  let_request *request, *idle;
  let_rng rng;
  let_time now;
  uint64_t next_id, inside;
  let_action action;
  let_request *done[LET_BATCH_MAX];
  let_sim_result *ret;
} world;

/* ---- arrivals -------------------------------------------------------------------------------------------- */

static void next_arrival(world *w, uint32_t i) {
  const let_sim_model *m = &w->s->model[i];
  stream *x = &w->stream[i];
  let_time at = let_heap_has(&x->node) ? x->node.key : m->from;
  if (m->kind == LET_SIM_RECORDED) {
    if (x->at >= m->n_recorded) {
      x->at = 0;
      x->round += m->recorded[m->n_recorded - 1] + 1;
    }
    at = m->from + x->round + m->recorded[x->at++];
  } else {
    double rate = m->rate;
    if (m->kind == LET_SIM_BURSTY) {
      /* Time is shared so that the mean stays: fast for 1 / (1 + burst) of it. */
      while (at >= x->phase_end) {
        x->fast = !x->fast;
        double mean = 200e6 * (x->fast ? 1 : m->burst) / (1 + m->burst);
        x->phase_end += (let_time)let_rng_exponential(&x->rng, mean) + 1;
      }
      rate *= x->fast ? m->burst : 1 / m->burst;
    }
    at += (let_time)let_rng_exponential(&x->rng, 1e9 / rate) + 1;
  }
  if (let_heap_has(&x->node)) let_heap_remove(&w->due, &x->node);
  let_time end = m->until && m->until < w->s->length ? m->until : w->s->length;
  if (at >= end || (m->rate <= 0 && m->kind != LET_SIM_RECORDED)) return;
  bool room = let_heap_push(&w->due, &x->node, at);
  LET_ASSERT(room);
}

static bool counts(const world *w, const let_request *r) { return r->arrival >= w->s->count_from; }

static void over(world *w, let_request *r) {
  w->inside--;
  r->next = w->idle;
  w->idle = r;
}

static let_err arrive(world *w, uint32_t i, let_error *e) {
  const let_sim_model *m = &w->s->model[i];
  stream *x = &w->stream[i];
  next_arrival(w, i);
  let_request *r = w->idle;
  if (!r) return let_fail(e, LET_ERR_INTERNAL, "more than %u requests in flight", w->s->requests);
  w->idle = r->next;
  *r = (let_request){
      .id = ++w->next_id, .model = i, .arrival = w->now, .deadline = m->slo ? w->now + m->slo : LET_NEVER};
  let_heap_node_init(&r->node);
  r->rows = 1 + (m->rows_max > 1 ? (uint32_t)let_rng_below(&x->rng, m->rows_max) : 0);
  r->priority = (uint8_t)(1 + (m->levels > 1 ? let_rng_below(&x->rng, m->levels) : 0));
  let_sim_tally *t = &w->ret->model[i];
  t->sent += counts(w, r);
  w->inside++;
  if (!w->policy.arrive(w->policy.ctx, r, w->now)) return LET_OK;
  t->refused += counts(w, r);
  over(w, r);
  return LET_OK;
}

/* ---- gpu-lets -------------------------------------------------------------------------------------------- */

static double normal(let_rng *r) { /* sum of twelve, as good as needed and bounded by its making */
  double sum = -6;
  for (int i = 0; i < 12; i++) sum += let_rng_unit(r);
  return sum > 3 ? 3 : sum < -3 ? -3 : sum;
}

static let_dur takes(const world *w, device *d, let_dur truth, let_time start) {
  const let_sim_noise *z = &w->s->noise;
  double t = (double)truth;
  if (z->drift > 0) t *= 1 + (z->drift - 1) * (double)start / (double)w->s->length;
  if (z->step_at && start >= z->step_at) t *= z->step;
  if (start < z->busy_until) t *= z->busy;
  double g = normal(&d->rng), tail = let_rng_unit(&d->rng);
  t *= 1 + z->jitter * g;
  if (tail < z->tail_share) t += (double)z->tail;
  return t < 1 ? 1 : (let_dur)t;
}

static const let_sim_variant *variant(const let_sim_scene *s, uint32_t model, let_gpulet_id gpulet) {
  for (uint32_t i = 0; i < s->n_variants; i++)
    if (s->variant[i].told.model == model && s->variant[i].told.gpulet.n == gpulet.n) return &s->variant[i];
  return NULL;
}

static let_err submit(world *w, const let_action *a, let_error *e) {
  const let_sim_variant *v = a->gpulet.n < w->s->n_gpulets ? variant(w->s, a->model, a->gpulet) : NULL;
  if (!v)
    return let_fail(e, LET_ERR_INTERNAL, "model %u was sent to gpu-let %u, which does not run it", a->model,
                    a->gpulet.n);
  uint32_t k = 0;
  while (k < v->told.n_sizes && v->told.size[k] != a->size) k++;
  if (k == v->told.n_sizes || a->rows > a->size || a->n < 1)
    return let_fail(e, LET_ERR_INTERNAL, "%u rows of model %u in a batch of %u", a->rows, a->model, a->size);
  device *d = &w->device[a->gpulet.n];
  if (d->n >= w->s->depth[a->gpulet.n] || d->n >= RING)
    return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u was given more batches than it takes", a->gpulet.n);
  batch *b = &d->ring[(d->head + d->n++) % RING];
  let_time ready = w->now + w->s->noise.handover;
  b->id = a->batch;
  b->started = ready > d->free ? ready : d->free;
  b->finished = d->free = b->started + takes(w, d, v->truth[k], b->started);
  b->heard = b->finished + (w->s->noise.lag ? (let_dur)let_rng_exponential(&d->rng, (double)w->s->noise.lag) : 0);
  w->ret->busy[a->gpulet.n] += b->finished - b->started;
  w->ret->model[a->model].rows += a->rows;
  w->ret->model[a->model].batches++;
  if (d->n > 1) return LET_OK;
  bool room = let_heap_push(&w->due, &d->node, b->heard);
  LET_ASSERT(room);
  return LET_OK;
}

static let_err batch_done(world *w, uint32_t g, let_error *e) {
  device *d = &w->device[g];
  batch b = d->ring[d->head];
  d->head = (d->head + 1) % RING;
  d->n--;
  let_heap_remove(&w->due, &d->node);
  if (d->n) {
    const batch *next = &d->ring[d->head];
    bool room = let_heap_push(&w->due, &d->node, next->heard > w->now ? next->heard : w->now);
    LET_ASSERT(room);
  }
  uint32_t n = 0;
  if (!w->policy.done(w->policy.ctx, b.id, b.started, b.finished, w->now, w->done, &n))
    return let_fail(e, LET_ERR_INTERNAL, "a batch on gpu-let %u is not known to the policy", g);
  for (uint32_t i = 0; i < n; i++) {
    let_request *r = w->done[i];
    let_sim_tally *t = &w->ret->model[r->model];
    if (counts(w, r)) {
      bool good = w->now <= r->deadline;
      t->good += good;
      t->late += !good;
      let_hist_add(&t->latency, w->now - r->arrival);
    }
    over(w, r);
  }
  return LET_OK;
}

/* ---- a run ----------------------------------------------------------------------------------------------- */

static let_err decide(world *w, let_error *e) {
  let_err r = LET_OK;
  for (uint32_t guard = 0; !r && w->policy.step(w->policy.ctx, w->now, &w->action); guard++) {
    if (guard > 2 * w->s->requests + 64) return let_fail(e, LET_ERR_INTERNAL, "the policy does not come to rest");
    if (w->action.kind == LET_ACTION_SUBMIT) {
      r = submit(w, &w->action, e);
      continue;
    }
    let_request *q = w->action.request[0];
    w->ret->model[q->model].dropped += counts(w, q);
    over(w, q);
  }
  return r;
}

static let_err loop(world *w, let_error *e) {
  for (let_err r = LET_OK; !r;) {
    let_heap_node *top = let_heap_top(&w->due);
    let_time wake = w->policy.wake(w->policy.ctx), at = top && top->key <= wake ? top->key : wake;
    if (at == LET_NEVER)
      return w->inside ? let_fail(e, LET_ERR_INTERNAL, "%llu requests were forgotten", (unsigned long long)w->inside)
                       : LET_OK;
    if (at > w->s->length + 3600 * LET_S) return let_fail(e, LET_ERR_INTERNAL, "requests do not end");
    w->now = at > w->now ? at : w->now;
    if (top && top->key <= wake) {
      char *p = (char *)top;
      if (p >= (char *)w->stream && p < (char *)(w->stream + LET_SIM_MODELS))
        r = arrive(w, (uint32_t)(LET_CONTAINER(top, stream, node) - w->stream), e);
      else r = batch_done(w, (uint32_t)(LET_CONTAINER(top, device, node) - w->device), e);
    }
    if (!r) r = decide(w, e);
    if (r) return r;
  }
  return LET_OK;
}

let_err let_sim_run(const let_sim_scene *s, let_sim_policy policy, uint64_t seed, const let_mem *mem,
                    let_sim_result *ret, let_error *e) {
  world *w = let_mem_zalloc(mem, sizeof *w);
  let_request *pool = let_mem_zalloc(mem, s->requests * sizeof *pool);
  let_err r = w && pool && let_heap_init(&w->due, mem, LET_SIM_MODELS + LET_SIM_GPULETS)
                  ? LET_OK
                  : let_fail(e, LET_ERR_NOMEM, "out of memory for %u requests", s->requests);
  memset(ret, 0, sizeof *ret);
  if (!r) {
    w->s = s;
    w->mem = mem;
    w->policy = policy;
    w->request = pool;
    w->ret = ret;
    ret->seconds = (double)(s->length - s->count_from) / 1e9;
    for (uint32_t i = s->requests; i-- > 0;) {
      pool[i].next = w->idle;
      w->idle = &pool[i];
    }
    for (uint32_t i = 0; i < LET_SIM_MODELS; i++) {
      let_heap_node_init(&w->stream[i].node);
      let_rng_seed(&w->stream[i].rng, seed * 1000003 + i);
      if (i < s->n_models) next_arrival(w, i);
    }
    for (uint32_t i = 0; i < LET_SIM_GPULETS; i++) {
      let_heap_node_init(&w->device[i].node);
      let_rng_seed(&w->device[i].rng, seed * 7919 + 500 + i);
    }
    r = loop(w, e);
    let_heap_fini(&w->due);
  }
  policy.free(policy.ctx);
  let_mem_free(mem, pool, s->requests * sizeof *pool);
  let_mem_free(mem, w, sizeof *w);
  return r;
}
