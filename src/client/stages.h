/* stages.h: where requests spend their time inside the server, as GET /v2/gpulet/stages tells it. Pure.
 *
 * The server tells histograms since its start, so the run is the difference of two readings. */
#ifndef LET_CLIENT_STAGES_H
#define LET_CLIENT_STAGES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/hist.h"
#include "base/str.h"
#include "model/plan.h"

/* Each is the time since the one above it; RECEIVED: from the head's first byte to the body's last. */
#define LET_STAGES(X)       \
  X(RECEIVED, "received")   \
  X(ADMITTED, "admitted")   \
  X(BATCHED, "batched")     \
  X(SUBMITTED, "submitted") \
  X(STARTED, "started")     \
  X(FINISHED, "finished")   \
  X(ANSWERED, "answered")
#define X(id, name) LET_STAGE_##id,
typedef enum let_stage { LET_STAGES(X) LET_STAGE_COUNT } let_stage;
#undef X

/* What became of those that were not answered in time, as the server counts it. */
#define LET_STAGE_LOSSES(X)         \
  X(REFUSED_DOOR, "refused_door")   \
  X(DROPPED_QUEUE, "dropped_queue") \
  X(LATE, "late")
#define X(id, name) LET_LOSS_##id,
typedef enum let_stage_loss { LET_STAGE_LOSSES(X) LET_LOSS_COUNT } let_stage_loss;
#undef X

typedef struct let_stages { /* of one model */
  bool known;
  uint64_t requests;
  bool has_loss[LET_LOSS_COUNT];
  uint64_t loss[LET_LOSS_COUNT];
  let_hist time[LET_STAGE_COUNT];
} let_stages;

/* Fills |ret|[i] for the workload's i-th model; what the text does not have, or has wrong, is not |known|. */
void let_stages_read(let_str json, const let_workload *w, let_stages *ret);

/* Leaves in |after| what came since |before|; not |known| when one of them is not, or when the server began anew. */
void let_stages_subtract(let_stages *after, const let_stages *before);
void let_stages_merge(let_stages *into, const let_stages *from);

void let_stages_cell(double ms,
                     let_buf *out); /* a number of a table: six characters below 1000 s, three digits at least */

/* The table "stage times, ms": mean and p99 of each stage, a line per model; "-" where the server does not tell. */
void let_stages_heading(int model_width, let_buf *out);
void let_stages_row(const char *model, const let_stages *s, int model_width, let_buf *out);

json_t *let_stages_json(const let_stages *s);        /* {"admitted": {"mean_ms", "p50_ms", "p99_ms", "count"}, ...} */
json_t *let_stages_losses_json(const let_stages *s); /* {"refused_door": n, ...}, null each where not told */

#endif
