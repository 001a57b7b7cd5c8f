/* stage_times.h: where requests spend their time inside the server, as GET /v2/gpulet/stages tells it. Pure.
 *
 * The server tells histograms since its start, so the run is the difference of two readings. */
#ifndef LET_CLIENT_STAGE_TIMES_H
#define LET_CLIENT_STAGE_TIMES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hist.h"
#include "base/str.h"
#include "model/plan.h"

/* The document's fields; each is the time since the one above it. RECEIVED: from the head's first byte to the body's
 * last. */
#define LET_STAGE_FIELDS(X) \
  X(RECEIVED, "received")   \
  X(ADMITTED, "admitted")   \
  X(BATCHED, "batched")     \
  X(SUBMITTED, "submitted") \
  X(STARTED, "started")     \
  X(FINISHED, "finished")   \
  X(ANSWERED, "answered")
#define X(id, name) LET_STAGE_FIELD_##id,
typedef enum let_stage_field { LET_STAGE_FIELDS(X) LET_STAGE_FIELD_COUNT } let_stage_field;
#undef X

/* What became of those that were not answered in time, as the server counts it. */
#define LET_LOSSES(X)               \
  X(REFUSED_DOOR, "refused_door")   \
  X(DROPPED_QUEUE, "dropped_queue") \
  X(LATE, "late")
#define X(id, name) LET_LOSS_##id,
typedef enum let_loss { LET_LOSSES(X) LET_LOSS_COUNT } let_loss;
#undef X

typedef struct let_stage_times { /* of one model */
  bool known;
  uint64_t requests;
  bool has_loss[LET_LOSS_COUNT];
  uint64_t loss[LET_LOSS_COUNT];
  let_hist time[LET_STAGE_FIELD_COUNT];
} let_stage_times;

/* Fills |ret|[i] for the workload's i-th model; what the text does not have, or has wrong, is not |known|. */
void let_stage_times_read(let_str json, const let_workload *w, let_stage_times *ret);

/* Leaves in |after| what came since |before|; not |known| when one of them is not, or when the server began anew. */
void let_stage_times_subtract(let_stage_times *after, const let_stage_times *before);
void let_stage_times_merge(let_stage_times *into, const let_stage_times *from);

/* A number of a table: six characters below 1000 s, three digits at least. */
void let_stage_times_cell(double ms, let_buf *out);

/* The table "stage times, ms": mean and p99 of each stage, a line per model; "-" where the server does not tell. */
void let_stage_times_heading(int model_width, let_buf *out);
void let_stage_times_row(const char *model, const let_stage_times *s, int model_width, let_buf *out);

/* {"admitted": {"mean_ms", "p50_ms", "p99_ms", "count"}, ...}, or null. */
json_t *let_stage_times_json(const let_stage_times *s);
/* {"refused_door": n, "dropped_queue": n, "late": n}, null each where not told. */
json_t *let_stage_times_losses_json(const let_stage_times *s);

#endif
