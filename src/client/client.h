/* client.h: the load generator behind `gpulet load`: sends inference requests at times fixed beforehand, whatever the
 * answers take (open loop), and measures each from the moment it should have been sent. So a server that stalls is
 * charged for every request it kept waiting, also for those that could not be sent meanwhile.
 *
 * load.c asks the server what it has and supervises; each sender (sender.h) is one thread with its own loop,
 * connections and share of the arrivals; capacity.h says how many senders, and whether they were the bottleneck. */
#ifndef LET_CLIENT_CLIENT_H
#define LET_CLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/str.h"
#include "base/time.h"
#include "model/plan.h"

typedef struct let_load_options {
  const char *url;     /* http://host[:port] */
  const char *arrival; /* "poisson", "uniform", "trace:FILE" */
  const char *data;    /* directory with MODEL/INPUT.bin; NULL: random bytes */
  const char *get;     /* send GET of this path instead of inferences: to compare with any web server; NULL: off */
  let_dur duration, warmup, timeout; /* |warmup| comes before |duration| and is not counted */
  double rate_scale;
  uint64_t seed;
  uint32_t threads;     /* 0: as many as let_capacity_threads says */
  uint32_t connections; /* at most, all threads together */
  uint32_t max_inflight;
  uint32_t closed;       /* > 0: closed loop: that many connections, back to back, and no arrival times */
  uint32_t rows;         /* of each request */
  uint32_t variable_dim; /* what stands in for dimensions of -1 other than the batch's */
  bool json, wide;       /* wide: more columns in the table, and the table of stage times */
  FILE *progress;        /* NULL: none */
  bool tty;              /* progress overwrites its line */
} let_load_options;

/* What came back, beside OK. */
#define LET_LOAD_KINDS(X)                                         \
  X(OK, "ok")                                                     \
  X(REFUSED, "refused") /* 503 */                                 \
  X(CLIENT_ERROR, "http_4xx")                                     \
  X(SERVER_ERROR, "http_5xx")                                     \
  X(CONNECTION, "connection") /* refused, reset, broken answer */ \
  X(TIMEOUT, "timeout")                                           \
  X(NOT_SENT, "not_sent") /* more than max_inflight were waiting */
#define X(id, name) LET_LOAD_##id,
typedef enum let_load_kind { LET_LOAD_KINDS(X) LET_LOAD_KIND_COUNT } let_load_kind;
#undef X

/* What in the generator itself, not in the server, decided the figures. */
#define LET_BOTTLENECKS(X)      \
  X(CONNECTIONS, "connections") \
  X(CPU, "cpu")                 \
  X(LATE_SENDS, "late sends")
#define X(id, name) LET_BOTTLENECK_##id,
typedef enum let_bottleneck { LET_BOTTLENECK_NONE, LET_BOTTLENECKS(X) LET_BOTTLENECK_COUNT } let_bottleneck;
#undef X
const char *let_bottleneck_name(let_bottleneck b); /* NULL for NONE */

typedef struct let_load_outcome {
  let_bottleneck bottleneck;
  char advice[320]; /* a sentence: what was the bottleneck, by which figures, and what to do */
} let_load_outcome;

/* Runs to the end, or until SIGINT, and appends the table (or the JSON document) to |out|. |ret| may be NULL. Errors:
 * INVALID (options, trace, data files), NOT_FOUND (a model that the server does not have), UNAVAILABLE (no server; or,
 * with the table in |out|, not one good answer), CANCELLED (before anything was counted), NOMEM. */
LET_CHECKED let_err let_load_run(const let_load_options *o, const let_workload *w, let_buf *out, let_load_outcome *ret,
                                 let_error *e);

#endif
