/* measure.h: `gpulet profile`: measures the models of a repository on one device and writes a profile directory.
 *
 * The budget goes first to latency, cell by cell where the profile's reader would be most wrong (sampler.h), then to
 * interference: pairs, and some groups of three, four and eight, on disjoint granules. Every measurement is appended to
 * OUTPUT/journal.csv before the next begins; a run with the same device and models goes on from there. */
#ifndef LET_MEASURE_MEASURE_H
#define LET_MEASURE_MEASURE_H

#include "base/err.h"
#include "base/time.h"
#include "model/model.h"

typedef struct let_measure_progress {
  double done; /* 0..1, of the time it will take */
  let_dur left;
  uint32_t cells, pairs;
  char doing[160];   /* "resnet50, batch 8 on 4 granules" */
  char trouble[512]; /* something was left out, and why; "" mostly */
} let_measure_progress;

typedef struct let_measure_options {
  const let_model *models; /* borrowed */
  uint32_t n_models;
  const char *device, *output, *profile_dir, *plugin_dir; /* the last two may be "" */
  let_dur budget;
  uint32_t max_batch; /* 0: each model's own */
  bool resume;        /* false: start the journal anew */
  double tolerance;   /* stop refining below this expected relative error */
  let_dur window;     /* of one measurement */
  uint64_t seed;      /* which pairs */
  void (*progress)(void *ctx, const let_measure_progress *p);
  void *ctx;
} let_measure_options;

typedef struct let_measure_result {
  uint32_t models, cells, interpolated, pairs, resumed; /* interpolated: cells written that were not measured */
  double interference_error_p95; /* of the fitted model on held-out samples; -1: too few samples, none was fitted */
  double expected_error;         /* the largest relative error still expected of a latency */
} let_measure_result;

/* Errors: as let_device_open and let_runner_run; what was measured before the error is in the journal. */
LET_CHECKED let_err let_measure(const let_measure_options *o, let_measure_result *ret, let_error *e);

#endif
