/* metrics.h: what the server counts, and its Prometheus text. Names are Triton's where Triton has one
 * (nv_inference_...), ours otherwise (gpulet_...). Counting is a few additions on the loop's thread. */
#ifndef LET_OBS_METRICS_H
#define LET_OBS_METRICS_H

#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "base/str.h"
#include "base/time.h"
#include "model/model.h"
#include "model/request.h"

/* Per model. Times in ns. */
typedef struct let_model_metrics {
  uint64_t received;      /* every request that named the model and could be parsed */
  uint64_t success;       /* answered with an inference result */
  uint64_t in_slo;        /* of these, within their SLO */
  uint64_t fail_rejected; /* refused: deadline, queue full, unavailable */
  uint64_t fail_cancelled, fail_backend, fail_other;
  uint64_t rows, batches;                                                  /* inferences done, executions */
  uint64_t success_ns, queue_ns, compute_ns, input_ns, output_ns, fail_ns; /* sums over requests */
  uint64_t retries; /* requests put into a second batch after the first failed */
  uint64_t pending; /* gauge: received and not answered */
  uint64_t batch_count[LET_BATCH_MAX + 1], batch_compute_ns[LET_BATCH_MAX + 1]; /* by rows */
  let_time last_inference_ms;                                                   /* wall clock, for model statistics */
  let_hist latency; /* of successful requests: last byte read to last byte of the answer handed to the kernel */
} let_model_metrics;

/* Folds one request into |m| when its answer has been written, or is lost; |now_wall_ms| for last_inference. */
void let_metrics_finish(let_model_metrics *m, const let_request *r, let_time now_wall_ms);
void let_metrics_batch(let_model_metrics *m, uint32_t rows, let_dur took);

/* Prometheus text of |n| models; |name|(ctx, i) and |version|(ctx, i) label them. */
typedef struct let_metrics_model {
  const char *name;
  int64_t version;
  const let_model_metrics *m;
} let_metrics_model;
void let_metrics_models_text(const let_metrics_model *models, uint32_t n, let_buf *out);

/* One HELP/TYPE header; one sample. |labels| is "a=\"b\",c=\"d\"" or "". */
void let_metrics_head(let_buf *out, const char *name, const char *type, const char *help);
void let_metrics_value(let_buf *out, const char *name, const char *labels, double value);
/* One histogram of durations, in seconds; |name| ends in _seconds. */
void let_metrics_hist(let_buf *out, const char *name, const char *help, const let_hist *h);
/* Appends key="value" with the value escaped. */
void let_metrics_label(let_buf *out, const char *key, const char *value);

#endif
