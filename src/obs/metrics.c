#include "obs/metrics.h"

#include <math.h>
#include <stdio.h>

static uint64_t between(let_time from, let_time to) { return from > 0 && to > from ? (uint64_t)(to - from) : 0; }

void let_metrics_finish(let_model_metrics *m, const let_request *r, let_time now_wall_ms) {
  const let_time *t = r->stamp;
  uint64_t whole = between(t[LET_STAGE_RECEIVED], t[LET_STAGE_ANSWERED]);
  if (r->status == LET_OK) {
    m->success++;
    if (t[LET_STAGE_ANSWERED] <= r->deadline) m->in_slo++;
    m->success_ns += whole;
    m->queue_ns += between(t[LET_STAGE_ADMITTED], t[LET_STAGE_BATCHED]);
    m->input_ns += between(t[LET_STAGE_BATCHED], t[LET_STAGE_STARTED]);
    m->compute_ns += between(t[LET_STAGE_STARTED], t[LET_STAGE_FINISHED]);
    m->output_ns += between(t[LET_STAGE_FINISHED], t[LET_STAGE_ANSWERED]);
    m->rows += r->rows;
    m->last_inference_ms = now_wall_ms;
    let_hist_add(&m->latency, (let_dur)whole);
    return;
  }
  m->fail_ns += whole;
  switch (r->status) {
  case LET_ERR_DEADLINE:
  case LET_ERR_OVERLOADED:
  case LET_ERR_UNAVAILABLE: m->fail_rejected++; break;
  case LET_ERR_CANCELLED: m->fail_cancelled++; break;
  case LET_ERR_GPULET:
  case LET_ERR_DEVICE:
  case LET_ERR_INTERNAL: m->fail_backend++; break;
  default: m->fail_other++;
  }
}

void let_metrics_batch(let_model_metrics *m, uint32_t rows, let_dur took) {
  m->batches++;
  if (rows > LET_BATCH_MAX) rows = LET_BATCH_MAX;
  m->batch_count[rows]++;
  m->batch_compute_ns[rows] += took > 0 ? (uint64_t)took : 0;
}

void let_metrics_head(let_buf *out, const char *name, const char *type, const char *help) {
  let_buf_fmt(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void let_metrics_label(let_buf *out, const char *key, const char *value) {
  let_buf_fmt(out, "%s=\"", key);
  for (const char *c = value; *c; c++) {
    if (*c == '\\' || *c == '"') let_buf_add(out, "\\", 1);
    if (*c == '\n') let_buf_str(out, "\\n");
    else let_buf_add(out, c, 1);
  }
  let_buf_str(out, "\"");
}

void let_metrics_value(let_buf *out, const char *name, const char *labels, double v) {
  let_buf_str(out, name);
  if (labels[0]) let_buf_fmt(out, "{%s}", labels);
  if (v == floor(v) && fabs(v) < 1e15) let_buf_fmt(out, " %.0f\n", v);
  else let_buf_fmt(out, " %.9g\n", v);
}

static void sample(let_buf *out, const char *name, const let_metrics_model *m, const char *more, double v) {
  let_buf_fmt(out, "%s{", name);
  let_metrics_label(out, "model", m->name);
  let_buf_fmt(out, ",version=\"%lld\"%s} ", (long long)m->version, more);
  if (v == floor(v) && fabs(v) < 1e15) let_buf_fmt(out, "%.0f\n", v);
  else let_buf_fmt(out, "%.9g\n", v);
}

/* One column of let_model_metrics. */
typedef struct column {
  const char *name, *type, *help;
  size_t offset;
  double scale;
} column;

#define COLUMN(name, type, help, field, scale) \
  { name, type, help, offsetof(let_model_metrics, field), scale }
static const column columns[] = {
    COLUMN("nv_inference_request_success", "counter", "Requests answered with a result", success, 1),
    COLUMN("nv_inference_count", "counter", "Inferences performed (rows)", rows, 1),
    COLUMN("nv_inference_exec_count", "counter", "Batches executed", batches, 1),
    COLUMN("nv_inference_pending_request_count", "gauge", "Requests received and not yet answered", pending, 1),
    COLUMN("nv_inference_request_duration_us", "counter", "Cumulative time of successful requests", success_ns, 1e-3),
    COLUMN("nv_inference_queue_duration_us", "counter", "Cumulative time in the queue", queue_ns, 1e-3),
    COLUMN("nv_inference_compute_input_duration_us", "counter",
           "Cumulative time from the ring to the start of the batch", input_ns, 1e-3),
    COLUMN("nv_inference_compute_infer_duration_us", "counter", "Cumulative time of batches, per request", compute_ns,
           1e-3),
    COLUMN("nv_inference_compute_output_duration_us", "counter",
           "Cumulative time from the end of the batch to the answer", output_ns, 1e-3),
    COLUMN("gpulet_requests_received", "counter", "Requests received", received, 1),
    COLUMN("gpulet_requests_in_slo", "counter", "Requests answered within their SLO; its rate is the goodput", in_slo,
           1),
    COLUMN("gpulet_requests_retried", "counter", "Requests run again after their gpu-let failed", retries, 1),
};

static double field(const let_model_metrics *m, const column *c) {
  uint64_t v;
  memcpy(&v, (const char *)m + c->offset, sizeof v);
  return (double)v * c->scale;
}

static void failures(const let_metrics_model *models, uint32_t n, let_buf *out) {
  let_metrics_head(out, "nv_inference_request_failure", "counter", "Requests answered with an error, by reason");
  for (uint32_t i = 0; i < n; i++) {
    const let_model_metrics *m = models[i].m;
    const struct {
      const char *label;
      uint64_t v;
    } rows[] = {{",reason=\"REJECTED\"", m->fail_rejected},
                {",reason=\"CANCELED\"", m->fail_cancelled},
                {",reason=\"BACKEND\"", m->fail_backend},
                {",reason=\"OTHER\"", m->fail_other}};
    for (unsigned k = 0; k < 4; k++)
      sample(out, "nv_inference_request_failure", &models[i], rows[k].label, (double)rows[k].v);
  }
}

static const double ms[] = {0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000};

void let_metrics_hist(let_buf *out, const char *name, const char *help, const let_hist *h) {
  let_metrics_head(out, name, "histogram", help);
  for (unsigned k = 0; k < sizeof ms / sizeof *ms; k++)
    let_buf_fmt(out, "%s_bucket{le=\"%g\"} %llu\n", name, ms[k] / 1e3,
                (unsigned long long)let_hist_below(h, (let_dur)(ms[k] * 1e6)));
  let_buf_fmt(out, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)h->count);
  let_buf_fmt(out, "%s_sum %.9g\n%s_count %llu\n", name, (double)h->sum / 1e9, name, (unsigned long long)h->count);
}

static void histograms(const let_metrics_model *models, uint32_t n, let_buf *out) {
  let_metrics_head(out, "gpulet_request_duration_seconds", "histogram",
                   "Whole request: last byte read to last byte of the answer handed to the kernel");
  for (uint32_t i = 0; i < n; i++) {
    const let_hist *h = &models[i].m->latency;
    char more[64];
    for (unsigned k = 0; k < sizeof ms / sizeof *ms; k++) {
      snprintf(more, sizeof more, ",le=\"%g\"", ms[k] / 1e3);
      sample(out, "gpulet_request_duration_seconds_bucket", &models[i], more,
             (double)let_hist_below(h, (let_dur)(ms[k] * 1e6)));
    }
    sample(out, "gpulet_request_duration_seconds_bucket", &models[i], ",le=\"+Inf\"", (double)h->count);
    sample(out, "gpulet_request_duration_seconds_sum", &models[i], "", (double)h->sum / 1e9);
    sample(out, "gpulet_request_duration_seconds_count", &models[i], "", (double)h->count);
  }
}

void let_metrics_models_text(const let_metrics_model *models, uint32_t n, let_buf *out) {
  for (unsigned c = 0; c < sizeof columns / sizeof *columns; c++) {
    let_metrics_head(out, columns[c].name, columns[c].type, columns[c].help);
    for (uint32_t i = 0; i < n; i++) sample(out, columns[c].name, &models[i], "", field(models[i].m, &columns[c]));
  }
  failures(models, n, out);
  let_metrics_head(out, "gpulet_slo_attainment", "gauge",
                   "Requests answered within their SLO / requests answered, since the start");
  for (uint32_t i = 0; i < n; i++) {
    const let_model_metrics *m = models[i].m;
    uint64_t answered = m->received - m->pending;
    sample(out, "gpulet_slo_attainment", &models[i], "", answered ? (double)m->in_slo / (double)answered : 1);
  }
  histograms(models, n, out);
}
