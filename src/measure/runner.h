/* runner.h: runs batches of models on gpu-lets of one device, alone and side by side, and times them. In process, no
 * worker: the same device.h and engine.h calls that a worker makes. */
#ifndef LET_MEASURE_RUNNER_H
#define LET_MEASURE_RUNNER_H

#include "device/device.h"
#include "engine/open.h"
#include "model/model.h"

enum { LET_RUNNER_LANES_MAX = 8, LET_RUNNER_ROUNDS = 3 };

typedef struct let_runner let_runner;

typedef struct let_runner_lane {
  uint32_t model, batch, first, granules;
} let_runner_lane;

typedef struct let_runner_times {
  uint32_t n;
  double p50_ms, p99_ms; /* of a batch: from its first byte copied in to its last byte copied out */
  double device_ms;      /* p50 as the device tells it: what the host adds before and after is not in it */
} let_runner_times;

typedef struct let_runner_result {
  let_runner_times solo, together; /* together: only batches during which every other lane was running */
  uint64_t memory_bytes;           /* weights and what this batch size needs beyond them */
  const char *note;                /* why it runs eagerly, or NULL */
} let_runner_result;

/* |models| are borrowed. |plugin_dir| may be "". */
LET_CHECKED let_err let_runner_open(const char *device, const char *profile_dir, const char *plugin_dir,
                                    const let_model *models, uint32_t n, let_runner **ret, let_error *e);
void let_runner_close(let_runner *r);
const let_device_type *let_runner_type(const let_runner *r);

/* Each lane alone (|solo|), then all of them together when there are several, every window about |window| long
 * (longer for slow batches, at most ten times). With several, in LET_RUNNER_ROUNDS rounds of so much shorter windows:
 * clocks drift and hosts have other things to do, and a slowdown must not be that. p50 is the middle one of the
 * rounds'. Errors: NOMEM (this batch does not fit), DEVICE (nothing will run any more), others: this model at this
 * size. */
LET_CHECKED let_err let_runner_run(let_runner *r, const let_runner_lane *lane, uint32_t n, let_dur window,
                                   let_runner_result *ret, let_error *e);

#endif
