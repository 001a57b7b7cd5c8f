/* lane.c: the lane's thread: batches off the ring, through the gpu-let, outcomes back on the ring.
 *
 * With depth 2 a batch is enqueued before the one ahead of it is waited for, so that its copies overlap the
 * other's kernels; outcomes still leave in order. */
#include "worker/lane.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "os/clock.h"

enum { ALIGN = 64 };

/* A batch on its way through the gpu-let. */
typedef struct job {
  const let_batch_msg *msg;
  let__lane_model *model;
  let__batch_variant *variant;
  int instance;
  let_err status;
  let_error error;
  let_time started, finished;
} job;

static uint64_t align(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

static let_record *record_of(const let__lane *l, const job *j, uint32_t i) {
  return let_ring_arena_record(l->w->arena, j->msg->record[i]);
}

static bool batches(const job *j) { return j->model->m->max_batch > 0; }

static let_dur watchdog(const let__worker_view *w, const let__batch_variant *v) {
  return v->p99 > w->watchdog / 10 ? 10 * v->p99 : w->watchdog;
}

/* From here on until |time| the lane may be stuck inside a call; the control thread looks. */
static void due(let__lane *l, let_time time) { atomic_store_explicit(&l->due, time, memory_order_relaxed); }

/* A failure that leaves the gpu-let in doubt. */
static bool fatal(let_err r) { return r == LET_ERR_GPULET || r == LET_ERR_DEVICE; }

/* ---- into the exec and out of it --------------------------------------------------------------------------- */

let_err let__zero(const let__worker_view *w, let_gpulet *g, char *to, uint64_t bytes, let_error *e) {
  let_err r = LET_OK;
  for (uint64_t at = 0; !r && at < bytes; at += LET__ZEROS)
    r = w->device->i->copy_in(g, to + at, w->zeros, bytes - at < LET__ZEROS ? bytes - at : LET__ZEROS, e);
  return r;
}

/* Are the tensors of this request what the model takes? Sets rec->status. */
static bool accept(const let__lane *l, const job *j, let_record *rec, let_error *e) {
  const let_model *m = j->model->m;
  const let_exec *x = j->variant->x[0]; /* as large as the other one; of varying shape there is only this one */
  rec->status = LET_OK;
  rec->out_need = 0;
  if (rec->n_in != m->n_inputs || rec->n_in > LET_TENSORS_MAX) {
    rec->status = LET_ERR_INTERNAL;
    let_fail(e, LET_ERR_INTERNAL, "a record with %u inputs for model '%s' of %u", rec->n_in, m->name, m->n_inputs);
    return false;
  }
  for (unsigned k = 0; k < rec->n_in; k++) {
    const let_tensor *t = &rec->in[k];
    if (!t->present && m->input[k].optional) continue;
    if (!let_ring_arena_holds(l->w->arena, t->offset, t->bytes)) {
      rec->status = LET_ERR_INTERNAL;
      let_fail(e, LET_ERR_INTERNAL, "input '%s' lies outside the arena", m->input[k].name);
      return false;
    }
    if (!x->dynamic && t->bytes != rec->rows * x->in[k].row_bytes) {
      rec->status = LET_ERR_INVALID;
      let_fail(e, LET_ERR_INVALID, "input '%s' has %llu bytes, %u row(s) of model '%s' have %llu", m->input[k].name,
               (unsigned long long)t->bytes, rec->rows, m->name, (unsigned long long)(rec->rows * x->in[k].row_bytes));
      return false;
    }
  }
  if (!let_ring_arena_holds(l->w->arena, rec->out_offset, rec->out_bytes) && rec->out_bytes) {
    rec->status = LET_ERR_INTERNAL;
    let_fail(e, LET_ERR_INTERNAL, "the output slot lies outside the arena");
    return false;
  }
  return true;
}

static void describe(const job *j, let_record *rec, unsigned k, const let_exec_tensor *o, uint64_t offset,
                     uint64_t bytes) {
  let_tensor *t = &rec->out[k];
  t->offset = offset;
  t->bytes = bytes;
  t->dtype = o->dtype;
  t->rank = o->rank;
  t->present = 1;
  memcpy(t->shape, o->shape, sizeof t->shape);
  if (batches(j) && t->rank) t->shape[0] = rec->rows;
}

/* Copies the outputs of the request that begins at |row| into its slot. */
static let_err deliver(let__lane *l, job *j, const let_exec *x, let_record *rec, uint32_t row, let_error *e) {
  uint64_t start = align(rec->out_offset), at = start;
  for (unsigned k = 0; k < x->n_out; k++) at = align(at) + x->out[k].row_bytes * rec->rows;
  if (at - rec->out_offset > rec->out_bytes) {
    rec->out_need = at - rec->out_offset;
    rec->status = LET_ERR_OUTPUT_TOO_LARGE;
    return LET_OK;
  }
  rec->n_out = x->n_out;
  at = start;
  for (unsigned k = 0; k < x->n_out; k++) {
    const let_exec_tensor *o = &x->out[k];
    uint64_t bytes = o->row_bytes * rec->rows;
    at = align(at);
    describe(j, rec, k, o, at, bytes);
    let_err r = l->w->device->i->copy_out(l->g, let_ring_slot_at(l->w->arena, at),
                                          (const char *)o->data + row * o->row_bytes, bytes, e);
    if (r) return r;
    at += bytes;
  }
  return LET_OK;
}

/* Enqueues requests [first, first + n) as one run of the exec. Requests that are not acceptable keep their status. */
static let_err enqueue_fixed(let__lane *l, job *j, uint32_t first, uint32_t n, let_error *e) {
  const let_device_i *d = l->w->device->i;
  let_exec *x = j->variant->x[j->instance];
  uint32_t rows = 0;
  let_err r = LET_OK;
  for (uint32_t i = first; !r && i < first + n; i++) {
    let_record *rec = record_of(l, j, i);
    if (rec->status) continue;
    for (unsigned k = 0; !r && k < x->n_in; k++) {
      char *to = (char *)x->in[k].data + rows * x->in[k].row_bytes;
      const let_tensor *t = &rec->in[k];
      if (t->present) r = d->copy_in(l->g, to, let_ring_slot_at(l->w->arena, t->offset), t->bytes, e);
      else r = let__zero(l->w, l->g, to, rec->rows * x->in[k].row_bytes, e);
    }
    rows += rec->rows;
  }
  if (r || rows == 0) return r;
  uint32_t *dirty = &j->variant->dirty[j->instance];
  for (unsigned k = 0; !r && *dirty > rows && k < x->n_in; k++)
    r = let__zero(l->w, l->g, (char *)x->in[k].data + rows * x->in[k].row_bytes, (*dirty - rows) * x->in[k].row_bytes,
                  e);
  *dirty = rows;
  let__fault(LET__STAGE_COPIED);
  if (!r) r = d->launch(l->g, x, e);
  let__fault(LET__STAGE_LAUNCHED);
  rows = 0;
  for (uint32_t i = first; !r && i < first + n; i++) {
    let_record *rec = record_of(l, j, i);
    if (rec->status) continue;
    r = deliver(l, j, x, rec, rows, e);
    rows += rec->rows;
  }
  return r;
}

/* ---- shapes that vary ---------------------------------------------------------------------------------------- */

/* Same shapes, the batch dimension apart: they can be one run. */
static bool alike(const let_record *a, const let_record *b, bool batch) {
  for (unsigned k = 0; k < a->n_in; k++) {
    const let_tensor *s = &a->in[k], *t = &b->in[k];
    if (s->present != t->present || s->rank != t->rank || s->dtype != t->dtype) return false;
    for (unsigned i = batch; i < s->rank; i++)
      if (s->shape[i] != t->shape[i]) return false;
  }
  return batch;
}

/* Brings the inputs of the requests whose bit is set together: one after the other in the staging buffer, or where
 * they are when there is only one request and it is aligned. */
static let_err gather(let__lane *l, job *j, const bool *take, let_exec_tensor *in, uint32_t *ret_rows, let_error *e) {
  const let_model *m = j->model->m;
  uint32_t rows = 0, n = 0;
  uint64_t total = 0;
  const let_record *one = NULL;
  for (uint32_t i = 0; i < j->msg->n; i++) {
    if (!take[i]) continue;
    one = record_of(l, j, i);
    rows += one->rows;
    n++;
    for (unsigned k = 0; k < one->n_in; k++) total += align(one->in[k].bytes);
  }
  let_err r = let_pinned_reserve(l->w->device, &l->stage, total + ALIGN * LET_TENSORS_MAX, e);
  uint64_t at = 0;
  for (unsigned k = 0; !r && k < m->n_inputs; k++) {
    const let_tensor *t = &one->in[k];
    in[k] = (let_exec_tensor){.dtype = t->dtype, .rank = t->rank, .row_bytes = t->bytes / one->rows};
    if (!t->present) continue;
    memcpy(in[k].shape, t->shape, sizeof in[k].shape);
    if (batches(j)) in[k].shape[0] = rows;
    in[k].data = let_ring_slot_at(l->w->arena, t->offset);
    if (n == 1 && t->offset % 16 == 0) continue;
    at = align(at);
    in[k].data = (char *)l->stage.p + at;
    for (uint32_t i = 0; i < j->msg->n; i++) {
      if (!take[i]) continue;
      const let_tensor *u = &record_of(l, j, i)->in[k];
      memcpy((char *)l->stage.p + at, let_ring_slot_at(l->w->arena, u->offset), u->bytes);
      at += u->bytes;
    }
  }
  *ret_rows = rows;
  return r;
}

let_err let__wait_for(const let__worker_view *w, let_gpulet *g, _Atomic let_time *due, const let__batch_variant *v,
                      int instance, let_time *started, let_time *finished, let_error *e) {
  let_dur limit = watchdog(w, v);
  atomic_store_explicit(due, let_now() + 2 * limit,
                        memory_order_relaxed); /* in case the device cannot keep its own limit */
  let_err r = w->device->i->wait(g, instance, limit, started, finished, e);
  if (r == LET_ERR_DEADLINE)
    r = let_fail(e, LET_ERR_GPULET, "a batch of size %u did not finish within %.1f s", v->size,
                 (double)limit / (double)LET_S);
  atomic_store_explicit(due, LET_NEVER, memory_order_relaxed);
  return r;
}

static let_err wait_for(let__lane *l, const let__batch_variant *v, int instance, let_time *started, let_time *finished,
                        let_error *e) {
  return let__wait_for(l->w, l->g, &l->due, v, instance, started, finished, e);
}

/* Runs the batch in groups of equal shapes, each to its end. The staging buffer and out[] are used again by the next.
 */
static let_err run_varying(let__lane *l, job *j, let_error *e) {
  const let_device_i *d = l->w->device->i;
  let_exec *x = j->variant->x[0];
  bool done[LET_BATCH_MAX] = {false}, take[LET_BATCH_MAX];
  let_exec_tensor in[LET_TENSORS_MAX];
  for (uint32_t i = 0; i < j->msg->n; i++) done[i] = record_of(l, j, i)->status != LET_OK;
  for (uint32_t i = 0; i < j->msg->n; i++) {
    if (done[i]) continue;
    uint32_t rows, row = 0;
    for (uint32_t k = 0; k < j->msg->n; k++)
      take[k] = !done[k] && (k == i || (k > i && alike(record_of(l, j, i), record_of(l, j, k), batches(j))));
    let_err r = gather(l, j, take, in, &rows, e);
    if (r) return r;
    let__fault(LET__STAGE_COPIED);
    due(l, let_now() + watchdog(l->w, j->variant));
    r = let_device_launch_varying(l->g, x, in, rows, e);
    let__fault(LET__STAGE_LAUNCHED);
    for (uint32_t k = 0; k < j->msg->n; k++) {
      if (!take[k]) continue;
      let_record *rec = record_of(l, j, k);
      done[k] = true;
      if (r == LET_ERR_INVALID) rec->status = r;
      else if (!r) r = deliver(l, j, x, rec, row, e);
      row += rec->rows;
    }
    if (r == LET_ERR_INVALID) j->error = *e;
    let_time s, f;
    let_err q = d->mark(l->g, j->instance, e);
    if (!q) q = wait_for(l, j->variant, j->instance, &s, &f, e);
    if (q) return q;
    if (r && r != LET_ERR_INVALID) return r;
    if (!j->started) j->started = s;
    j->finished = f;
  }
  return LET_OK;
}

/* ---- batches ------------------------------------------------------------------------------------------------ */

/* Is the message one that the server could have sent? */
static let_err check(const let__lane *l, job *j, let_error *e) {
  const let_batch_msg *m = j->msg;
  uint32_t rows = 0;
  if (m->n < 1 || m->n > LET_BATCH_MAX || m->model >= l->n_models)
    return let_fail(e, LET_ERR_INTERNAL, "a batch of %u requests for model %u of %u", m->n, m->model, l->n_models);
  j->model = &l->model[m->model];
  for (uint32_t i = 0, n = let__variants(j->model); i < n; i++)
    if (j->model->variant[i].size == m->size) j->variant = &j->model->variant[i];
  if (!j->variant)
    return let_fail(e, LET_ERR_INTERNAL, "model '%s' is not prepared for batch size %u here", j->model->m->name,
                    m->size);
  for (uint32_t i = 0; i < m->n; i++) {
    if (m->record[i] >= let_ring_arena_records(l->w->arena))
      return let_fail(e, LET_ERR_INTERNAL, "record %u of %u", m->record[i], let_ring_arena_records(l->w->arena));
    uint32_t k = record_of(l, j, i)->rows;
    if (k < 1 || k > m->size - rows)
      return let_fail(e, LET_ERR_INTERNAL, "requests of more rows than the batch size %u", m->size);
    rows += k;
  }
  return LET_OK;
}

static void report(let__lane *l, job *j) {
  let_done_msg *d = &l->done;
  let_time started = j->started, finished = j->finished;
  let_time from = started > l->last_finished ? started : l->last_finished;
  if (finished > from) atomic_fetch_add_explicit(&l->busy_ns, (uint64_t)(finished - from), memory_order_relaxed);
  if (finished > l->last_finished) l->last_finished = finished;
  atomic_fetch_add_explicit(&l->batches, 1, memory_order_relaxed);
  d->batch = j->msg->batch;
  d->rows = j->msg->rows;
  d->status = (int32_t)j->status;
  d->started = started;
  d->finished = finished;
  size_t n = strnlen(j->error.text, sizeof d->text - 1);
  memcpy(d->text, j->error.text, n);
  memset(d->text + n, 0, sizeof d->text - n);
  let__fault(LET__STAGE_BEFORE_DONE);
  let_lane_done(l->lanes, l->index, d);
  let__fault(LET__STAGE_AFTER_DONE);
  if (fatal(j->status)) let__worker_die(l->w, &j->error);
}

/* Waits for what enqueue() started, and reports it. */
static void complete(let__lane *l, job *j) {
  let_error e = {0};
  let_err r = wait_for(l, j->variant, j->instance, &j->started, &j->finished, &e);
  if (r) {
    j->status = r;
    j->error = e;
  }
  report(l, j);
}

/* The model refused the batch. Each request runs by itself, to find the one that it refuses. */
static let_err isolate(let__lane *l, job *j, let_error *e) {
  let_error last = *e;
  for (uint32_t i = 0; i < j->msg->n; i++) {
    let_record *rec = record_of(l, j, i);
    let_time s, f;
    if (rec->status) continue;
    due(l, let_now() + watchdog(l->w, j->variant));
    let_err r = enqueue_fixed(l, j, i, 1, e), q = LET_OK;
    if (r == LET_ERR_INVALID) {
      rec->status = r;
      last = *e;
      r = LET_OK;
    }
    q = l->w->device->i->mark(l->g, j->instance, e);
    if (!q) q = wait_for(l, j->variant, j->instance, &s, &f, e);
    if (q) return q;
    if (r) return r;
    if (!j->started) j->started = s;
    j->finished = f;
  }
  j->error = last;
  return LET_OK;
}

/* Enqueues a batch. True: the caller calls complete() for it. False: it has ended, and the caller calls report(). */
static bool enqueue(let__lane *l, job *j) {
  let_error e = {0};
  let__fault(LET__STAGE_TAKE);
  let_err r = check(l, j, &j->error);
  for (uint32_t i = 0; !r && i < j->msg->n; i++) (void)accept(l, j, record_of(l, j, i), &j->error);
  if (r) {
    j->status = r;
  } else if (j->variant->x[0]->dynamic) {
    if ((j->status = run_varying(l, j, &e))) j->error = e;
  } else {
    due(l, let_now() + watchdog(l->w, j->variant));
    r = enqueue_fixed(l, j, 0, j->msg->n, &e);
    due(l, LET_NEVER);
    if (!fatal(r)) {
      /* All that was enqueued must end before the requests' memory is given back: mark in any case. */
      let_error late = {0};
      let_err q = l->w->device->i->mark(l->g, j->instance, &late);
      if (!q && !r) return true;
      if (!q) q = wait_for(l, j->variant, j->instance, &j->started, &j->finished, &late);
      if (q) {
        r = q;
        e = late;
      } else if (r == LET_ERR_INVALID) r = isolate(l, j, &e);
    }
    if ((j->status = r)) j->error = e;
  }
  if (!j->started) j->started = j->finished = let_now();
  return false;
}

static bool readable(int fd) {
  struct pollfd f = {.fd = fd, .events = POLLIN};
  return poll(&f, 1, 0) == 1;
}

/* Sleeps until |ahead| is done or another batch comes; true: a batch came first, and its copies can overlap the batch
 * that runs. Without this, depth 2 would gain nothing. The sleep is short: only wait() notices a failed device. */
static bool another_first(let__lane *l, const job *ahead) {
  int fd = l->w->device->i->done_fd(l->g, ahead->instance);
  if (fd < 0) return false;
  let_lane_wait(l->lanes, l->index, fd, 0, 20 * LET_MS);
  return let_lane_waiting(l->lanes, l->index) && !readable(fd);
}

static void serve_batches(let__lane *l) {
  job jobs[2], *ahead = NULL;
  unsigned turn = 0, depth = l->w->device->i->depth > 1 ? 2 : 1;
  for (;;) {
    job *j = &jobs[turn];
    if (!let_lane_take(l->lanes, l->index, &l->msg[turn])) {
      if (ahead) {
        if (another_first(l, ahead)) continue;
        complete(l, ahead);
        ahead = NULL;
        continue;
      }
      let_lane_wait(l->lanes, l->index, l->stop_fd, l->w->spin, LET_NEVER);
      if (readable(l->stop_fd)) {
        if (!let_lane_take(l->lanes, l->index, &l->msg[turn])) return;
      } else {
        continue;
      }
    }
    *j = (job){.msg = &l->msg[turn], .instance = (int)turn};
    /* A batch of varying shape runs to its end at once: the batch ahead of it is completed first. */
    uint32_t model = j->msg->model;
    if (ahead && (model >= l->n_models || l->model[model].variant[0].x[0]->dynamic)) {
      complete(l, ahead);
      ahead = NULL;
    }
    bool pending = enqueue(l, j);
    if (ahead) {
      complete(l, ahead);
      ahead = NULL;
    }
    if (!pending) {
      report(l, j);
    } else if (depth == 1) {
      complete(l, j);
    } else {
      ahead = j;
      turn ^= 1;
    }
  }
}

static void serve(void *arg) {
  let__lane *l = arg;
  serve_batches(l);
  let_pinned_free(l->w->device, &l->stage);
}

void let__lane_serve(let__lane *l) {
  l->serves = true;
  let__job_thread_run(&l->thread, serve, l);
}

void let__lane_join(let__lane *l) { let__job_thread_stop(&l->thread); }
