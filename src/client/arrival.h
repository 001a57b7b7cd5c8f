/* arrival.h: when which model's next request is due. Pure; the same seed gives the same times. */
#ifndef LET_CLIENT_ARRIVAL_H
#define LET_CLIENT_ARRIVAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/heap.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/time.h"
#include "model/plan.h"

typedef struct let_stream { /* of one model */
  let_heap_node node;       /* key: when its next request is due */
  let_rng rng;              /* its own: another model's rate does not move its times */
  double gap;               /* mean, ns */
  uint32_t turn;            /* whose part its next request is, see let_arrivals_part */
} let_stream;

typedef struct let_arrival {
  let_time at;    /* since the start */
  uint32_t model; /* index into the workload */
} let_arrival;

typedef struct let_arrivals {
  const let_mem *mem;
  bool uniform;
  uint32_t n;
  let_stream *stream;
  let_heap due;
  let_arrival *trace; /* instead of streams */
  size_t n_trace, at;
  uint32_t part, parts; /* this one deals only with each |parts|-th arrival */
  double sum;           /* of the rates */
  const let_workload *w;
  let_rng pick; /* models for a trace that names none, and for the closed loop */
} let_arrivals;

/* |trace| is the text of a CSV: time_s or time_s,model per line, ascending; a first line of words is a heading.
 * Times are divided by |scale|, rates multiplied. Errors: INVALID "name:line: ...", NOMEM. */
LET_CHECKED let_err let_arrivals_init(let_arrivals *a, const let_workload *w, bool uniform, double scale, uint64_t seed,
                                      const let_mem *mem, let_error *e);
LET_CHECKED let_err let_arrivals_trace(let_arrivals *a, const let_workload *w, let_str trace, const char *name,
                                       double scale, uint64_t seed, const let_mem *mem, let_error *e);
void let_arrivals_fini(let_arrivals *a);

/* Keeps part |part| of |parts|, before the first peek: every |parts|-th arrival of each model, of a trace every
 * |parts|-th line. All parts together are the same times as the whole, whatever their number. let_arrivals_pick
 * draws other models in each part. */
void let_arrivals_part(let_arrivals *a, uint32_t part, uint32_t parts);

double let_arrivals_rate(const let_arrivals *a); /* requests/s of the whole, on average */

bool let_arrivals_peek(const let_arrivals *a, let_arrival *ret); /* false: the trace is over, or no rate is above 0 */
void let_arrivals_pop(let_arrivals *a);
uint32_t let_arrivals_pick(let_arrivals *a); /* a model, in proportion to the rates */

#endif
