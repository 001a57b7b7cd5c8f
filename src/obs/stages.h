/* stages.h: where the time of requests goes, per model: a histogram for each stage of the time since the stage before,
 * of all requests answered with a result, and counts of those refused or late. It shows whether a miss comes from
 * admission, the queue, the ring, the device or the loop.
 *
 * A model costs nothing until its first request, then about 64 KiB for good. One thread. */
#ifndef LET_OBS_STAGES_H
#define LET_OBS_STAGES_H

#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/request.h"

typedef struct let_stages let_stages;

typedef struct let_stages_count {
  uint64_t requests;      /* ended, with any outcome */
  uint64_t refused_door;  /* refused on arrival by the core */
  uint64_t dropped_queue; /* refused by the core after it had queued */
  uint64_t late;          /* answered with a result, after the deadline */
} let_stages_count;

LET_CHECKED let_err let_stages_new(uint32_t models, const let_mem *mem, let_stages **ret, let_error *e);
void let_stages_free(let_stages *s); /* NULL is fine */

/* Folds one request when its answer has been written, or is lost. Without memory for the model's histograms its times
 * are not kept; the counts are. */
void let_stages_finish(let_stages *s, const let_request *r);

/* Empties the histograms. The counts go on. */
void let_stages_forget(let_stages *s);

let_stages_count let_stages_count_of(const let_stages *s, uint32_t model);
/* Time from the stage before to |stage|; NULL: nothing yet. */
const let_hist *let_stages_hist(const let_stages *s, uint32_t model, let_stage stage);

/* {"name":...,"requests":...,...,"stages":{"received":{...},...}}; doc/protocol.md has the fields. */
void let_stages_text(const let_stages *s, uint32_t model, const char *name, let_buf *out);

#endif
