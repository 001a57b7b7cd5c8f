#include "client/arrival.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static void common(let_arrivals *a, const let_workload *w, uint64_t seed, const let_mem *mem) {
  *a = (let_arrivals){.mem = mem, .w = w, .n = w->n, .parts = 1};
  let_rng_seed(&a->pick, seed ^ 0x9e3779b97f4a7c15u);
  for (uint32_t i = 0; i < w->n; i++) a->sum += w->demand[i].rate;
}

let_err let_arrivals_init(let_arrivals *a, const let_workload *w, bool uniform, double scale, uint64_t seed,
                          const let_mem *mem, let_error *e) {
  common(a, w, seed, mem);
  a->uniform = uniform;
  a->stream = let_mem_zalloc(mem, w->n * sizeof *a->stream);
  if (!a->stream || !let_heap_init(&a->due, mem, w->n)) {
    let_arrivals_fini(a);
    return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  for (uint32_t i = 0; i < w->n; i++) {
    let_stream *s = &a->stream[i];
    let_heap_node_init(&s->node);
    if (w->demand[i].rate * scale <= 0) continue;
    let_rng_seed(&s->rng, seed + 0x100000001b3u * (i + 1));
    s->gap = 1e9 / (w->demand[i].rate * scale);
    /* Uniform streams of the same rate start at different phases, or their requests would come in bursts. */
    double first = uniform ? s->gap * let_rng_unit(&s->rng) : let_rng_exponential(&s->rng, s->gap);
    bool room = let_heap_push(&a->due, &s->node, (int64_t)first);
    LET_ASSERT(room);
  }
  return LET_OK;
}

static uint32_t find(const let_workload *w, let_str name) {
  for (uint32_t i = 0; i < w->n; i++)
    if (let_str_is(name, w->demand[i].name)) return i;
  return UINT32_MAX;
}

static let_str trim(let_str s) {
  while (s.n && strchr(" \t\r", s.p[s.n - 1])) s.n--;
  while (s.n && strchr(" \t", s.p[0])) s.p++, s.n--;
  return s;
}

static let_err line_of(let_arrivals *a, let_str line, const char *name, size_t number, double scale, let_error *e) {
  const char *comma = memchr(line.p, ',', line.n);
  let_str time = trim(comma ? (let_str){line.p, (size_t)(comma - line.p)} : line);
  double s;
  let_error why;
  if (let_parse_f64(time, 0, 1e9, &s, &why)) {
    if (number == 1 && time.n && !strchr("0123456789.-+", time.p[0])) return LET_OK;
    return let_fail(e, LET_ERR_INVALID, "%s:%zu: '" LET_STR_FMT "' is not a time in seconds", name, number,
                    LET_STR_ARG(time));
  }
  let_arrival x = {.at = (let_time)(s / scale * 1e9)};
  if (comma) {
    let_str model = trim((let_str){comma + 1, line.n - (size_t)(comma + 1 - line.p)});
    x.model = find(a->w, model);
    if (x.model == UINT32_MAX)
      return let_fail(e, LET_ERR_INVALID, "%s:%zu: model '" LET_STR_FMT "' is not in the workload", name, number,
                      LET_STR_ARG(model));
  } else {
    x.model = let_arrivals_pick(a);
  }
  if (a->n_trace && x.at < a->trace[a->n_trace - 1].at)
    return let_fail(e, LET_ERR_INVALID, "%s:%zu: time %.6f s lies before the line above it: sort the trace", name,
                    number, s);
  a->trace[a->n_trace++] = x;
  return LET_OK;
}

let_err let_arrivals_trace(let_arrivals *a, const let_workload *w, let_str trace, const char *name, double scale,
                           uint64_t seed, const let_mem *mem, let_error *e) {
  common(a, w, seed, mem);
  size_t lines = 1;
  for (size_t i = 0; i < trace.n; i++) lines += trace.p[i] == '\n';
  a->trace = let_mem_alloc(mem, lines * sizeof *a->trace);
  a->at = 0;
  if (!a->trace) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", name);
  let_err err = LET_OK;
  size_t number = 0;
  for (const char *p = trace.p, *end = trace.p + trace.n; p < end && !err;) {
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    let_str line = trim((let_str){p, (size_t)((nl ? nl : end) - p)});
    number++;
    if (line.n && line.p[0] != '#') err = line_of(a, line, name, number, scale, e);
    p = nl ? nl + 1 : end;
  }
  if (!err && a->n_trace == 0)
    err = let_fail(e, LET_ERR_INVALID, "%s: holds no arrival: a line is a time in seconds, or time,model", name);
  /* The allocation's size is needed to give it back, so the array is kept at its full length. */
  a->at = 0, a->n = (uint32_t)lines;
  if (err) let_arrivals_fini(a);
  return err;
}

void let_arrivals_fini(let_arrivals *a) {
  if (a->trace) let_mem_free(a->mem, a->trace, a->n * sizeof *a->trace);
  else let_mem_free(a->mem, a->stream, a->n * sizeof *a->stream);
  if (a->due.node) let_heap_fini(&a->due);
  *a = (let_arrivals){0};
}

bool let_arrivals_peek(const let_arrivals *a, let_arrival *ret) {
  if (a->trace) {
    if (a->at == a->n_trace) return false;
    *ret = a->trace[a->at];
    return true;
  }
  const let_heap_node *top = let_heap_top(&a->due);
  if (!top) return false;
  const let_stream *s = LET_CONTAINER((let_heap_node *)(uintptr_t)top, let_stream, node);
  *ret = (let_arrival){top->key, (uint32_t)(s - a->stream)};
  return true;
}

/* The stream's next arrival, whose part it may be. */
static void advance(let_arrivals *a, let_stream *s) {
  let_heap_node *top = &s->node;
  double gap = a->uniform ? s->gap : let_rng_exponential(&s->rng, s->gap);
  int64_t next = top->key + (int64_t)(gap + let_rng_unit(&s->rng)); /* the fraction of a ns, kept on average */
  s->turn = s->turn + 1 == a->parts ? 0 : s->turn + 1;
  let_heap_remove(&a->due, top);
  bool room = let_heap_push(&a->due, top, next);
  LET_ASSERT(room);
}

static void skip_others(let_arrivals *a) {
  for (let_heap_node *top = let_heap_top(&a->due); top; top = let_heap_top(&a->due)) {
    let_stream *s = LET_CONTAINER(top, let_stream, node);
    if (s->turn == a->part) return;
    advance(a, s);
  }
}

void let_arrivals_part(let_arrivals *a, uint32_t part, uint32_t parts) {
  LET_ASSERT(part < parts);
  a->part = part;
  a->parts = parts;
  if (part) let_rng_seed(&a->pick, let_rng_u64(&a->pick) + part);
  if (a->trace) {
    a->at = part < a->n_trace ? part : a->n_trace;
    return;
  }
  /* The parts begin at different models' turns, or the first would get the first request of each. */
  for (uint32_t i = 0; i < a->n; i++) a->stream[i].turn = i % parts;
  skip_others(a);
}

void let_arrivals_pop(let_arrivals *a) {
  if (a->trace) {
    a->at = a->n_trace - a->at > a->parts ? a->at + a->parts : a->n_trace;
    return;
  }
  let_heap_node *top = let_heap_top(&a->due);
  advance(a, LET_CONTAINER(top, let_stream, node));
  skip_others(a);
}

double let_arrivals_rate(const let_arrivals *a) {
  if (a->trace) {
    double span = a->n_trace > 1 ? (double)(a->trace[a->n_trace - 1].at - a->trace[0].at) / 1e9 : 0;
    return span > 0 ? (double)(a->n_trace - 1) / span : (double)a->n_trace;
  }
  double sum = 0;
  for (uint32_t i = 0; i < a->n; i++) sum += a->stream[i].gap > 0 ? 1e9 / a->stream[i].gap : 0;
  return sum;
}

uint32_t let_arrivals_pick(let_arrivals *a) {
  double x = let_rng_unit(&a->pick) * a->sum;
  for (uint32_t i = 0; i + 1 < a->w->n; i++) {
    x -= a->w->demand[i].rate;
    if (x < 0) return i;
  }
  return a->w->n - 1;
}
