/* reference.c: the reference rules, short enough to be read at once. The scenes compare core/ with them.
 *
 *   A gpu-let that can take a batch takes one at once: of the model whose first request has the earliest deadline (by
 *   priority first), on the fastest of that model's idle gpu-lets. The batch takes all that fits, in that order. What
 *   would be late in it is dropped, when it starts and not before. Nothing is refused on arrival.
 *
 * It knows how long every batch really takes, except for the noise; core/ has to measure that. */
#include <stddef.h>

#include "sim/sim.h"

enum { RUNNING = 1024 };

typedef struct reference {
  const let_sim_scene *s;
  const let_mem *mem;
  let_request *queue[LET_SIM_MODELS]; /* by priority, deadline, arrival */
  bool busy[LET_SIM_GPULETS];
  struct {
    let_batch_id id;
    let_request *first;
  } running[LET_SIM_GPULETS];
  uint64_t batches;
} reference;

static bool before(const let_request *a, const let_request *b) {
  return a->priority != b->priority ? a->priority < b->priority : a->deadline < b->deadline;
}

static let_err arrive(void *ctx, let_request *r, let_time now) {
  reference *x = ctx;
  (void)now;
  let_request **at = &x->queue[r->model];
  while (*at && !before(r, *at)) at = &(*at)->next;
  r->next = *at;
  *at = r;
  return LET_OK;
}

static let_dur takes(const let_sim_variant *v, uint32_t rows, uint32_t *ret_size) {
  uint32_t k = 0;
  while (k + 1 < v->told.n_sizes && v->told.size[k] < rows) k++;
  *ret_size = v->told.size[k];
  return v->truth[k];
}

/* The idle gpu-let and model that go next; NULL: none. */
static const let_sim_variant *choose(const reference *x) {
  const let_sim_variant *best = NULL;
  uint32_t any;
  for (uint32_t i = 0; i < x->s->n_variants; i++) {
    const let_sim_variant *v = &x->s->variant[i];
    const let_request *q = x->queue[v->told.model], *p = best ? x->queue[best->told.model] : NULL;
    if (!q || x->busy[v->told.gpulet.n]) continue;
    if (!best || before(q, p) || (q == p && takes(v, q->rows, &any) < takes(best, q->rows, &any))) best = v;
  }
  return best;
}

static bool step(void *ctx, let_time now, let_action *ret) {
  reference *x = ctx;
  for (const let_sim_variant *v; (v = choose(x));) {
    let_request **queue = &x->queue[v->told.model], **end = queue;
    uint32_t most = v->told.size[v->told.n_sizes - 1], rows = 0, n = 0, size;
    for (; *end && n < LET_BATCH_MAX && rows + (*end)->rows <= most; end = &(*end)->next) {
      rows += (*end)->rows;
      n++;
    }
    let_time done = now + takes(v, rows, &size) + x->s->noise.handover;
    for (let_request **at = queue; n && at != end; at = &(*at)->next) {
      if ((*at)->deadline >= done) continue;
      *ret = (let_action){.kind = LET_ACTION_REFUSE, .why = LET_ERR_DEADLINE, .n = 1, .request = {*at}};
      *at = (*at)->next;
      return true;
    }
    *ret = (let_action){.kind = LET_ACTION_SUBMIT, .batch = {++x->batches}, .gpulet = v->told.gpulet};
    ret->model = v->told.model;
    ret->size = size;
    ret->rows = rows;
    ret->n = n;
    let_request *first = *queue, *q = first;
    for (uint32_t i = 0; i < n; i++, q = q->next) ret->request[i] = q;
    *queue = *end;
    *end = NULL;
    x->busy[v->told.gpulet.n] = true;
    x->running[v->told.gpulet.n].id = ret->batch;
    x->running[v->told.gpulet.n].first = first;
    return true;
  }
  return false;
}

static let_time wake(void *ctx) { return (void)ctx, LET_NEVER; }

static bool done(void *ctx, let_batch_id batch, let_time started, let_time finished, let_time now, let_request **ret,
                 uint32_t *ret_n) {
  reference *x = ctx;
  (void)started;
  (void)finished;
  (void)now;
  for (uint32_t g = 0; g < x->s->n_gpulets; g++) {
    if (!x->busy[g] || !let_batch_id_eq(x->running[g].id, batch)) continue;
    *ret_n = 0;
    for (let_request *q = x->running[g].first; q; q = q->next) ret[(*ret_n)++] = q;
    x->busy[g] = false;
    return true;
  }
  return false;
}

static void drop(void *ctx) {
  reference *x = ctx;
  let_mem_free(x->mem, x, sizeof *x);
}

let_err let_sim_reference(const let_sim_scene *s, const let_mem *mem, let_sim_policy *ret, let_error *e) {
  reference *x = let_mem_zalloc(mem, sizeof *x);
  if (!x) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  x->s = s;
  x->mem = mem;
  *ret = (let_sim_policy){.ctx = x, .arrive = arrive, .step = step, .wake = wake, .done = done, .free = drop};
  return LET_OK;
}
