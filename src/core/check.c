/* check.c: checks every invariant of the core's state, and writes the state as JSON. */
#include <stddef.h>

#include "core/core_int.h"

typedef struct seen {
  uint32_t n;
  uint64_t rows;
  let_time deadline, arrival;
  bool ok;
} seen;

static bool before(let__key a, let__key b) { return a.at != b.at ? a.at < b.at : a.serial < b.serial; }

static seen walk(const let_core *c, uint32_t model, uint32_t t, const let__key *low, const let__key *high) {
  if (t == LET__NONE) return (seen){.deadline = LET_NEVER, .arrival = LET_NEVER, .ok = true};
  const let__entry *x = &c->entry[t];
  seen a = walk(c, model, x->left, low, &x->key), b = walk(c, model, x->right, &x->key, high);
  let_time d = x->r->deadline < 0 ? 0 : x->r->deadline > LET__DEADLINE_MAX ? LET__DEADLINE_MAX : x->r->deadline;
  seen s = {.n = a.n + b.n + 1, .rows = a.rows + b.rows + x->r->rows};
  s.deadline = d < a.deadline ? d : a.deadline;
  if (b.deadline < s.deadline) s.deadline = b.deadline;
  s.arrival = x->r->arrival < a.arrival ? x->r->arrival : a.arrival;
  if (b.arrival < s.arrival) s.arrival = b.arrival;
  s.ok = a.ok && b.ok && (!low || before(*low, x->key)) && (!high || before(x->key, *high));
  s.ok = s.ok && x->r->model == model && x->r->state == LET_REQUEST_QUEUED && x->r->node.at == t;
  s.ok = s.ok && let__key_of(&c->model[model], x->r, x->key.serial).at == x->key.at;
  s.ok = s.ok && (x->left == LET__NONE || c->entry[x->left].rank >= x->rank) &&
         (x->right == LET__NONE || c->entry[x->right].rank >= x->rank);
  s.ok = s.ok && x->rows == s.rows && x->deadline == s.deadline && x->arrival == s.arrival;
  return s;
}

static let_err check_batch(const let_core *c, uint32_t g, uint32_t at, let_error *e) {
  if (at >= c->n_batches) return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: batch index %u", g, at);
  const let__batch *b = &c->batch[at];
  uint32_t n = 0, rows = 0;
  for (const let_request *q = b->first; q; q = q->next) {
    n++;
    rows += q->rows;
    if (q->model != b->model)
      return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: a batch of model %u holds one of %u", g, b->model, q->model);
    if (q->state != LET_REQUEST_RUNNING || c->entry[q->node.at].r != q)
      return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: request %llu of a batch is not running", g,
                      (unsigned long long)q->id);
    if (!q->next && q != b->last)
      return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: the last of a batch is not its last", g);
  }
  if (let__batch_find(c, b->id) != b || b->gpulet.n != g || n != b->n || n < 1 || rows != b->rows || rows > b->size)
    return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: a batch of %u requests (%u rows, size %u) counts %u (%u rows)", g,
                    b->n, b->rows, b->size, n, rows);
  return LET_OK;
}

static let_err check(const let_core *c, let_error *e) {
  uint64_t inside = 0, batches = 0, free_batches = 0;
  if (!let_heap_valid(&c->wake) || c->wake.n != c->limits.gpulets || !let_heap_valid(&c->expiry) ||
      c->expiry.n != c->limits.models)
    return let_fail(e, LET_ERR_INTERNAL, "the heap of wake-ups is broken");
  uint64_t running = 0;
  for (uint32_t i = 0; i < c->limits.models; i++) {
    const let__model *m = &c->model[i];
    seen s = walk(c, i, m->root, NULL, NULL);
    if (!s.ok || s.n != m->queued)
      return let_fail(e, LET_ERR_INTERNAL, "model %u: the queue is broken or counts %u instead of %u", i, m->queued,
                      s.n);
    if (m->queued && !m->m) return let_fail(e, LET_ERR_INTERNAL, "model %u: has requests but was not declared", i);
    /* A request given back by a batch may exceed the limit, an arriving one may not. */
    if (m->m && m->queued > (uint64_t)m->limit + c->n_batches * LET_BATCH_MAX)
      return let_fail(e, LET_ERR_INTERNAL, "model %u: queue of %u", i, m->queued);
    inside += m->queued + m->running;
    running += m->running;
  }
  for (uint32_t g = 0; g < c->limits.gpulets; g++) {
    const let__gpulet *x = &c->gpulet[g];
    if (x->n > LET__DEPTH_MAX || (x->n && !x->open))
      return let_fail(e, LET_ERR_INTERNAL, "gpu-let %u: %u batches", g, x->n);
    for (uint32_t i = 0; i < x->n; i++, batches++) {
      let_err err = check_batch(c, g, x->batch[i], e);
      if (err) return err;
      running -= c->batch[x->batch[i]].n;
    }
  }
  if (running) return let_fail(e, LET_ERR_INTERNAL, "requests are counted as running but in no batch");
  for (uint32_t i = c->free_batch; i != LET__NONE; i = c->batch[i].next_free, free_batches++)
    if (c->batch[i].id.n || free_batches > c->n_batches)
      return let_fail(e, LET_ERR_INTERNAL, "the list of free batches is broken");
  if (batches + free_batches != c->n_batches) return let_fail(e, LET_ERR_INTERNAL, "batches are lost");
  for (const let_request *q = c->out; q; q = q->next) inside++;
  if (inside != c->used_entries)
    return let_fail(e, LET_ERR_INTERNAL, "%u requests are inside, %llu are found", c->used_entries,
                    (unsigned long long)inside);
  uint32_t free_entries = 0;
  for (uint32_t i = c->free_entry; i != LET__NONE; i = c->entry[i].left, free_entries++)
    if (c->entry[i].r || free_entries > c->limits.requests)
      return let_fail(e, LET_ERR_INTERNAL, "the list of free places is broken");
  if (free_entries + c->used_entries != c->fresh_entry)
    return let_fail(e, LET_ERR_INTERNAL, "places for requests are lost");
  for (uint32_t i = 0; c->table && i < c->table->n; i++) {
    const let__route *r = &c->table->route[i];
    if (!c->gpulet[r->gpulet.n].open || !c->gpulet[r->gpulet.n].routed || let__route_find(c, r->model, r->gpulet) != r)
      return let_fail(e, LET_ERR_INTERNAL, "route %u leads to gpu-let %u, which is closed", i, r->gpulet.n);
    for (uint32_t k = 1; k < r->n_sizes; k++)
      if (r->variant[k].predict < r->variant[k - 1].predict)
        return let_fail(e, LET_ERR_INTERNAL, "route %u: predictions fall with size", i);
  }
  return LET_OK;
}

bool let_core_validate(const let_core *c, let_error *e) { return check(c, e) == LET_OK; }

static void dump_name(let_buf *out, const char *s) {
  let_buf_str(out, "\"");
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') let_buf_fmt(out, "\\%c", *s);
    else if ((unsigned char)*s < 0x20) let_buf_fmt(out, "\\u%04x", (unsigned)*s);
    else let_buf_fmt(out, "%c", *s);
  }
  let_buf_str(out, "\"");
}

static void dump_ms(let_buf *out, const char *name, let_time t) {
  if (t >= LET__DEADLINE_MAX) let_buf_fmt(out, "\"%s\":null", name);
  else let_buf_fmt(out, "\"%s\":%.3f", name, (double)t / 1e6);
}

static void dump_model(const let_core *c, uint32_t i, let_buf *out) {
  const let__model *m = &c->model[i];
  let_buf_fmt(out, "{\"index\":%u,\"name\":", i);
  dump_name(out, m->m->name);
  let_rate rate = m->rate;
  let_buf_fmt(out, ",\"queued\":%u,\"rows\":%llu,\"limit\":%u,\"running\":%u,\"rows_per_s\":%.3f,", m->queued,
              (unsigned long long)let__queue_rows(c, m), m->limit, m->running,
              let_rate_get(&rate, c->now > rate.since ? c->now : rate.since));
  dump_ms(out, "deadline_in_ms",
          m->queued && c->entry[m->root].deadline < LET__DEADLINE_MAX ? c->entry[m->root].deadline - c->now
                                                                      : LET_NEVER);
  let_buf_str(out, ",");
  dump_ms(out, "expires_in_ms",
          m->expiry.key == LET_NEVER ? LET_NEVER
          : m->expiry.key < c->now   ? 0
                                     : m->expiry.key - c->now);
  let_buf_str(out, ",\"routes\":[");
  uint32_t n;
  const let__route *r = let__routes_of(c, i, &n);
  for (uint32_t k = 0; k < n; k++) {
    let_buf_fmt(out, "%s{\"gpulet\":%u,\"batch\":%u,\"rate\":%.3f,\"credit\":%.2f,", k ? "," : "", r[k].gpulet.n,
                r[k].batch, r[k].rate, r[k].credit);
    dump_ms(out, "handover_ms", let__handover(&c->gpulet[r[k].gpulet.n]));
    let_buf_fmt(out, ",\"ratio\":%.4f,\"predict_ms\":{", let__window_stats(&r[k].ratio, 1).median);
    for (uint32_t s = 0; s < r[k].n_sizes; s++)
      let_buf_fmt(out, "%s\"%u\":%.3f", s ? "," : "", r[k].variant[s].size, (double)r[k].variant[s].predict / 1e6);
    let_buf_str(out, "}}");
  }
  let_buf_str(out, "]}");
}

void let_core_dump(const let_core *c, let_buf *out) {
  let_buf_fmt(out, "{\"requests\":%u,\"limit\":%u,\"models\":[", c->used_entries, c->limits.requests);
  bool first = true;
  for (uint32_t i = 0; i < c->limits.models; i++) {
    if (!c->model[i].m) continue;
    if (!first) let_buf_str(out, ",");
    dump_model(c, i, out);
    first = false;
  }
  let_buf_str(out, "],\"gpulets\":[");
  first = true;
  for (uint32_t g = 0; g < c->limits.gpulets; g++) {
    const let__gpulet *x = &c->gpulet[g];
    if (!x->open) continue;
    let_buf_fmt(out, "%s{\"number\":%u,\"state\":\"%s\",\"depth\":%u,\"batches\":[", first ? "" : ",", g,
                x->down     ? "down"
                : x->routed ? "up"
                            : "draining",
                x->depth);
    for (uint32_t i = 0; i < x->n; i++) {
      const let__batch *b = &c->batch[x->batch[i]];
      let_buf_fmt(out, "%s{\"batch\":%llu,\"model\":%u,\"size\":%u,\"rows\":%u,\"requests\":%u,", i ? "," : "",
                  (unsigned long long)b->id.n, b->model, b->size, b->rows, b->n);
      dump_ms(out, "running_ms", c->now - b->start);
      let_buf_str(out, ",");
      dump_ms(out, "predicted_ms", b->predict);
      let_buf_str(out, "}");
    }
    let_buf_str(out, "]}");
    first = false;
  }
  let_buf_str(out, "]}");
}
