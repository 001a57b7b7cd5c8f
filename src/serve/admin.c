/* admin.c: everything that is not inference: /metrics, the running plan, model configuration and statistics in
 * Triton's form, and pages about the server's own state under /debug. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conf/plan_json.h"
#include "serve_int.h"

static int json_reply(json_t *doc, int status, let_buf *out, const char **type) {
  char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
  json_decref(doc);
  if (!text) return 500;
  let_buf_str(out, text);
  free(text);
  *type = "application/json";
  return status;
}

static int error_reply(int status, const char *text, let_buf *out, const char **type) {
  return json_reply(json_pack("{s:s}", "error", text), status, out, type);
}

/* ---- the plan ---------------------------------------------------------------------------------------------- */

static int plan_get(server *s, let_buf *out, const char **type) {
  if (!s->planning.plan) return error_reply(503, "no plan serves yet", out, type);
  *type = "application/json";
  let_plan_to_json(s->planning.plan, out);
  let_fleet_sizes all = let_fleet_routed_sizes(s->fleet);
  while (out->n && out->p[out->n - 1] != '}') out->n--;
  out->n--;
  let_buf_fmt(out, ",\n  \"growing\": %s,\n  \"sizes\": {\"wanted\": %u, \"ready\": %u, \"failed\": %u}\n}\n",
              all.ready + all.failed < all.wanted ? "true" : "false", all.wanted, all.ready, all.failed);
  return 200;
}

static int plan_put(server *s, let_str body, let_buf *out, const char **type, void *call) {
  let_arena arena;
  let_arena_init(&arena, &let_mem_libc);
  let_error e = {0};
  let_plan *plan = let_arena_alloc(&arena, sizeof *plan);
  let_err r = plan ? let_plan_parse(body.p, body.n, "request body", &arena, plan, &e)
                   : let_fail(&e, LET_ERR_NOMEM, "out of memory");
  if (!r && s->draining) r = let_fail(&e, LET_ERR_UNAVAILABLE, "the server is shutting down");
  if (!r) r = serve_plan_offer(&s->planning, &arena, plan, call, &e);
  let_arena_fini(&arena);
  if (r) return error_reply(r == LET_ERR_AGAIN ? 409 : let_err_http(r), e.text, out, type);
  return -1; /* answered when it serves, or has failed */
}

/* ---- metrics ----------------------------------------------------------------------------------------------- */

static void gpulet_labels(const server *s, uint32_t device, const let_fleet_gpulet *l, char *out, size_t cap) {
  snprintf(out, cap, "gpulet=\"%u\",device=\"%s\",first=\"%u\",granules=\"%u\"", l->id.n, s->device[device].name,
           l->first, l->granules);
}

typedef enum gpulet_figure { GPULET_BUSY, GPULET_UP, GPULET_BATCHES } gpulet_figure;

static double gpulet_figure_of(const server *s, const let_fleet_group *g, const let_fleet_gpulet *l, gpulet_figure f) {
  const lane_end *end = &s->lanes.gpulet[l->id.n];
  if (f == GPULET_UP) return g->routed && l->up ? 1 : 0;
  if (f == GPULET_BATCHES) return (double)end->batches;
  double span = (double)(serve_now() - g->since), busy = g->since && span > 0 ? (double)end->busy / span : 0;
  return busy > 1 ? 1 : busy;
}

static void gpulets_text(const server *s, let_buf *out) {
  static const struct {
    const char *name, *type, *help;
  } rows[] = {
      {"gpulet_busy_fraction", "gauge", "Part of the time in which the gpu-let ran batches, since it began to serve"},
      {"gpulet_up", "gauge", "1 while the gpu-let can take batches"},
      {"gpulet_batches", "counter", "Batches run"}};
  char labels[256];
  for (int f = GPULET_BUSY; f <= GPULET_BATCHES; f++) {
    let_metrics_head(out, rows[f].name, rows[f].type, rows[f].help);
    for (uint32_t i = 0; i < let_fleet_groups(s->fleet); i++) {
      let_fleet_group g;
      if (!let_fleet_group_at(s->fleet, (let_group_id){i}, &g)) continue;
      for (uint32_t k = 0; k < g.n_gpulets; k++) {
        gpulet_labels(s, g.device, &g.gpulet[k], labels, sizeof labels);
        let_metrics_value(out, rows[f].name, labels, gpulet_figure_of(s, &g, &g.gpulet[k], (gpulet_figure)f));
      }
    }
  }
}

typedef enum gpu_figure { GPU_UTILIZATION, GPU_POWER, GPU_MEMORY_USED, GPU_MEMORY_TOTAL } gpu_figure;

/* -1: not known. */
static double figure_of(const let_ipc_health *h, gpu_figure f) {
  if (!h || !h->uuid[0]) return -1;
  switch (f) {
  case GPU_UTILIZATION: return h->utilization;
  case GPU_POWER: return h->power_w;
  case GPU_MEMORY_USED: return (double)h->memory_used;
  case GPU_MEMORY_TOTAL: return (double)h->memory_total;
  }
  return -1;
}

/* What that worker said last; NULL: nothing, or it is a spare. */
static const let_ipc_health *health_of(const server *s, uint32_t i) {
  let_fleet_worker w;
  const process *p = &s->processes.process[i];
  if (!let_fleet_worker_at(s->fleet, (let_worker_id){i}, &w) || w.spare) return NULL;
  return p->alive && p->control.has_health ? &p->control.health : NULL;
}

/* Has a worker before |i| told the same of this GPU? Under MPS it has several. */
static bool told(const server *s, uint32_t i, gpu_figure f) {
  for (uint32_t k = 0; k < i; k++)
    if (figure_of(health_of(s, k), f) >= 0 && strcmp(health_of(s, k)->uuid, health_of(s, i)->uuid) == 0) return true;
  return false;
}

/* What the workers report about their GPUs, under Triton's names. */
static void gpus_text(const server *s, let_buf *out) {
  static const struct {
    const char *name;
    gpu_figure figure;
    const char *help;
  } rows[] = {{"nv_gpu_utilization", GPU_UTILIZATION, "GPU utilization, 0 to 1"},
              {"nv_gpu_power_usage", GPU_POWER, "GPU power, W"},
              {"nv_gpu_memory_used_bytes", GPU_MEMORY_USED, "GPU memory in use"},
              {"nv_gpu_memory_total_bytes", GPU_MEMORY_TOTAL, "GPU memory"}};
  for (unsigned r = 0; r < sizeof rows / sizeof *rows; r++) {
    bool head = false;
    for (uint32_t i = 0; i < s->processes.n; i++) {
      double v = figure_of(health_of(s, i), rows[r].figure);
      if (v < 0 || told(s, i, rows[r].figure)) continue;
      if (!head) let_metrics_head(out, rows[r].name, "gauge", rows[r].help);
      head = true;
      let_buf_fmt(out, "%s{", rows[r].name);
      let_metrics_label(out, "gpu_uuid", health_of(s, i)->uuid);
      let_buf_fmt(out, "} %.9g\n", v);
    }
  }
}

static void loop_text(const server *s, let_buf *out) {
  let_metrics_hist(out, "gpulet_loop_lag_seconds",
                   "From the end of a batch on the device to when the server noticed it", &s->turn.lag);
  let_metrics_hist(out, "gpulet_decision_gap_seconds",
                   "Time between two decisions of the core, less the time that the loop slept", &s->turn.gap);
  let_metrics_head(out, "gpulet_decision_gap_max_seconds", "gauge", "The longest of them since the start");
  let_metrics_value(out, "gpulet_decision_gap_max_seconds", "", s->turn.gap.count ? (double)s->turn.gap.max / 1e9 : 0);
}

static void server_text(const server *s, let_buf *out) {
  let_front_stats f;
  let_front_stats_get(s->front, &f);
  const struct {
    const char *name, *type, *help;
    double v;
  } rows[] = {
      {"gpulet_connections", "gauge", "Open HTTP connections", (double)f.open},
      {"gpulet_connections_accepted", "counter", "HTTP connections accepted", (double)f.accepted},
      {"gpulet_connections_refused", "counter", "HTTP connections refused: too many", (double)f.refused},
      {"gpulet_http_requests", "counter", "HTTP requests", (double)f.requests},
      {"gpulet_http_bad_requests", "counter", "HTTP requests answered with 4xx", (double)f.bad_requests},
      {"gpulet_http_timeouts", "counter", "Connections closed because they sent too slowly", (double)f.timeouts},
      {"gpulet_arena_used_bytes", "gauge", "Arena bytes in slots handed out", (double)let_ring_arena_used(s->arena)},
      {"gpulet_requests_in_flight", "gauge", "Requests between their first byte and their answer",
       (double)s->in_flight},
      {"gpulet_worker_restarts", "counter", "Worker processes lost and replaced", (double)let_fleet_restarts(s->fleet)},
      {"gpulet_plan_generation", "gauge", "Generation of the plan being served",
       s->planning.plan ? (double)s->planning.plan->generation : 0},
      {"gpulet_uptime_seconds", "gauge", "Since the server started", (double)(serve_now() - s->began) / 1e9}};
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    let_metrics_head(out, rows[i].name, rows[i].type, rows[i].help);
    let_metrics_value(out, rows[i].name, "", rows[i].v);
  }
}

static int metrics(server *s, let_buf *out, const char **type) {
  let_metrics_model *rows = calloc(s->n_models + 1, sizeof *rows);
  if (!rows) return error_reply(503, "out of memory", out, type);
  for (uint32_t i = 0; i < s->n_models; i++)
    rows[i] = (let_metrics_model){s->model[i].name, s->model[i].version, &s->metrics[i]};
  let_metrics_models_text(rows, s->n_models, out);
  free(rows);
  gpulets_text(s, out);
  gpus_text(s, out);
  server_text(s, out);
  loop_text(s, out);
  *type = "text/plain; version=0.0.4";
  return 200;
}

/* ---- model configuration and statistics ---------------------------------------------------------------------- */

static json_t *tensors(const let_tensor_spec *t, uint32_t n) {
  json_t *a = json_array();
  for (uint32_t i = 0; i < n; i++) {
    json_t *dims = json_array();
    for (uint32_t k = 0; k < t[i].rank; k++) json_array_append_new(dims, json_integer(t[i].dims[k]));
    json_array_append_new(
        a, json_pack("{s:s, s:s, s:o}", "name", t[i].name, "data_type", let_dtype_pb_name(t[i].dtype), "dims", dims));
  }
  return a;
}

static json_t *config(const let_model *m) {
  char version[32], slo[32];
  snprintf(version, sizeof version, "%lld", (long long)m->version);
  snprintf(slo, sizeof slo, "%g", (double)m->slo / 1e6);
  uint32_t all[LET_SIZES_MAX], n = let_model_sizes(m, all);
  json_t *sizes = json_array();
  for (uint32_t i = 0; i < n; i++) json_array_append_new(sizes, json_integer(all[i]));
  json_t *doc = json_pack("{s:s, s:s, s:s, s:i, s:o, s:o, s:s}", "name", m->name, "platform", m->platform, "backend",
                          m->backend, "max_batch_size", (int)m->max_batch, "input", tensors(m->input, m->n_inputs),
                          "output", tensors(m->output, m->n_outputs), "default_model_filename", m->file);
  if (doc && m->max_batch) {
    json_int_t delay = m->max_queue_delay == LET_NEVER ? 0 : m->max_queue_delay / LET_US;
    json_object_set_new(doc, "dynamic_batching",
                        json_pack("{s:o, s:I}", "preferred_batch_size", sizes, "max_queue_delay_microseconds", delay));
  } else {
    json_decref(sizes);
  }
  if (doc && m->slo) json_object_set_new(doc, "parameters", json_pack("{s:{s:s}}", "slo_ms", "string_value", slo));
  return doc;
}

static json_t *count_ns(uint64_t count, uint64_t ns) {
  return json_pack("{s:I, s:I}", "count", (json_int_t)count, "ns", (json_int_t)ns);
}

static json_t *statistics(const let_model *m, const let_model_metrics *x) {
  char version[32];
  snprintf(version, sizeof version, "%lld", (long long)m->version);
  json_t *batches = json_array();
  for (uint32_t b = 1; b <= LET_BATCH_MAX; b++)
    if (x->batch_count[b])
      json_array_append_new(batches, json_pack("{s:i, s:o, s:o, s:o}", "batch_size", (int)b, "compute_input",
                                               count_ns(x->batch_count[b], 0), "compute_infer",
                                               count_ns(x->batch_count[b], x->batch_compute_ns[b]), "compute_output",
                                               count_ns(x->batch_count[b], 0)));
  uint64_t failed = x->fail_backend + x->fail_cancelled + x->fail_other + x->fail_rejected;
  json_t *stats = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "success", count_ns(x->success, x->success_ns),
                            "fail", count_ns(failed, x->fail_ns), "queue", count_ns(x->success, x->queue_ns),
                            "compute_input", count_ns(x->success, x->input_ns), "compute_infer",
                            count_ns(x->success, x->compute_ns), "compute_output", count_ns(x->success, x->output_ns),
                            "cache_hit", count_ns(0, 0), "cache_miss", count_ns(0, 0));
  return json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:{}, s:o, s:[]}", "name", m->name, "version", version,
                   "last_inference", (json_int_t)x->last_inference_ms, "inference_count", (json_int_t)x->rows,
                   "execution_count", (json_int_t)x->batches, "inference_stats", stats, "response_stats", "batch_stats",
                   batches, "memory_usage");
}

/* /v2/models/NAME[/versions/V]/(config|stats): the part behind /v2/models/. */
static int model_page(server *s, let_str rest, let_buf *out, const char **type) {
  for (uint32_t i = 0; i < s->n_models; i++) {
    const let_model *m = &s->model[i];
    size_t n = strlen(m->name);
    if (rest.n <= n || memcmp(rest.p, m->name, n) != 0 || rest.p[n] != '/') continue;
    let_str tail = {rest.p + n + 1, rest.n - n - 1};
    char versioned[64];
    int k = snprintf(versioned, sizeof versioned, "versions/%lld/", (long long)m->version);
    if (tail.n > (size_t)k && memcmp(tail.p, versioned, (size_t)k) == 0) {
      tail.p += k;
      tail.n -= (size_t)k;
    }
    if (let_str_is(tail, "config")) return json_reply(config(m), 200, out, type);
    if (let_str_is(tail, "stats"))
      return json_reply(json_pack("{s:[o]}", "model_stats", statistics(m, &s->metrics[i])), 200, out, type);
  }
  return 0;
}

static int all_statistics(server *s, let_buf *out, const char **type) {
  json_t *a = json_array();
  for (uint32_t i = 0; i < s->n_models; i++) json_array_append_new(a, statistics(&s->model[i], &s->metrics[i]));
  return json_reply(json_pack("{s:o}", "model_stats", a), 200, out, type);
}

/* ---- /debug -------------------------------------------------------------------------------------------------- */

static json_t *entry_page(const server *s, const let_fleet_gpulet *l, const let_fleet_entry *x) {
  json_t *sizes = json_array();
  for (uint32_t z = 0; z < x->n_sizes; z++)
    json_array_append_new(sizes,
                          json_pack("{s:i, s:f, s:s}", "size", (int)x->size[z], "predicted_ms",
                                    (double)let_core_predict(s->core, l->id, x->model, x->size[z]) / 1e6, "state",
                                    x->ready[z]    ? "ready"
                                    : x->failed[z] ? "failed"
                                                   : "growing"));
  return json_pack("{s:s, s:i, s:f, s:I, s:b, s:o}", "model", s->model[x->model].name, "batch", (int)x->batch, "rate",
                   x->rate, "memory_bytes", (json_int_t)x->memory_bytes, "eager", x->eager, "sizes", sizes);
}

static json_t *group_page(const server *s, uint32_t i, const let_fleet_group *g) {
  json_t *lets = json_array();
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    const let_fleet_gpulet *l = &g->gpulet[k];
    json_t *models = json_array();
    for (uint32_t j = 0; j < l->n_entries; j++) json_array_append_new(models, entry_page(s, l, &l->entry[j]));
    json_array_append_new(lets,
                          json_pack("{s:i, s:i, s:i, s:b, s:b, s:o}", "gpulet", (int)l->id.n, "first", (int)l->first,
                                    "granules", (int)l->granules, "shared", l->shared, "up", l->up, "models", models));
  }
  let_fleet_sizes n = let_fleet_group_sizes(s->fleet, (let_group_id){i});
  return json_pack("{s:i, s:s, s:s, s:I, s:i, s:b, s:i, s:i, s:i, s:o}", "group", (int)i, "device",
                   s->device[g->device].name, "state", let_fleet_group_state_name(g->state), "generation",
                   (json_int_t)g->generation.n, "worker", (int)g->worker.n, "growing", n.ready + n.failed < n.wanted,
                   "sizes_wanted", (int)n.wanted, "sizes_ready", (int)n.ready, "sizes_failed", (int)n.failed, "gpulets",
                   lets);
}

static json_t *health_page(const let_ipc_health *h) {
  if (!h) return json_null();
  return json_pack("{s:I, s:{s:f, s:f, s:I, s:I, s:s}}", "memory_bytes", (json_int_t)h->memory_bytes, "gpu",
                   "utilization", h->utilization, "power_w", h->power_w, "memory_used", (json_int_t)h->memory_used,
                   "memory_total", (json_int_t)h->memory_total, "uuid", h->uuid);
}

static json_t *hist_page(const let_hist *h) {
  return json_pack("{s:I, s:f, s:f, s:f, s:f}", "count", (json_int_t)h->count, "mean_ms",
                   h->count ? (double)h->sum / (double)h->count / 1e6 : 0, "p50_ms",
                   (double)let_hist_quantile(h, 0.5) / 1e6, "p99_ms", (double)let_hist_quantile(h, 0.99) / 1e6,
                   "max_ms", h->count ? (double)h->max / 1e6 : 0);
}

static int debug_server(server *s, let_buf *out, const char **type) {
  json_t *groups = json_array(), *workers = json_array(), *spares = json_array();
  for (uint32_t i = 0; i < let_fleet_groups(s->fleet); i++) {
    let_fleet_group g;
    if (let_fleet_group_at(s->fleet, (let_group_id){i}, &g)) json_array_append_new(groups, group_page(s, i, &g));
  }
  for (uint32_t i = 0; i < let_fleet_workers(s->fleet); i++) {
    let_fleet_worker w;
    int pid = serve_process_pid(&s->processes, (let_worker_id){i});
    if (!let_fleet_worker_at(s->fleet, (let_worker_id){i}, &w) || !pid) continue;
    const char *device = s->device[w.device].name;
    if (w.spare)
      json_array_append_new(spares, json_pack("{s:i, s:s, s:b}", "pid", pid, "device", device, "prepared",
                                              let_fleet_spare_warm(s->fleet, w.device)));
    else
      json_array_append_new(workers, json_pack("{s:i, s:i, s:s, s:b, s:I, s:o}", "worker", (int)i, "pid", pid, "device",
                                               device, "ready", w.state == LET_WORKER_READY, "starts",
                                               (json_int_t)w.starts, "health", health_page(health_of(s, i))));
  }
  return json_reply(json_pack("{s:I, s:b, s:b, s:i, s:I, s:o, s:o, s:o, s:{s:o, s:o}}", "generation",
                              (json_int_t)(s->planning.plan ? s->planning.plan->generation : 0), "changing",
                              s->planning.under_way, "draining", s->draining, "in_flight", (int)s->in_flight,
                              "worker_restarts", (json_int_t)let_fleet_restarts(s->fleet), "groups", groups, "workers",
                              workers, "spares", spares, "loop", "lag", hist_page(&s->turn.lag), "decision_gap",
                              hist_page(&s->turn.gap)),
                    200, out, type);
}

/* ---- stage times ------------------------------------------------------------------------------------------------- */

static int stages(server *s, let_buf *out, const char **type) {
  const char *comma = "";
  let_buf_str(out, "{\"models\":[");
  for (uint32_t i = 0; i < s->n_models; i++) {
    let_buf_str(out, comma);
    let_stages_text(s->stages, i, s->model[i].name, out);
    comma = ",";
  }
  let_buf_str(out, "]}");
  *type = "application/json";
  return 200;
}

static int forget(server *s, let_buf *out, const char **type) {
  let_core_forget(s->core);
  let_stages_forget(s->stages);
  return json_reply(json_pack("{s:b}", "forgotten", true), 200, out, type);
}

/* ---- dispatch ------------------------------------------------------------------------------------------------ */

static bool starts(let_str path, const char *with, let_str *ret_rest) {
  size_t n = strlen(with);
  if (path.n < n || memcmp(path.p, with, n) != 0) return false;
  *ret_rest = (let_str){path.p + n, path.n - n};
  return true;
}

int serve_admin(void *ctx, let_str method, let_str path, let_str body, let_buf *out, const char **type, void *call) {
  server *s = ctx;
  let_str rest;
  bool get = let_str_is(method, "GET");
  if (let_str_is(path, "/v2/gpulet/plan")) {
    if (get) return plan_get(s, out, type);
    if (let_str_is(method, "PUT")) return plan_put(s, body, out, type, call);
    return error_reply(405, "/v2/gpulet/plan takes GET and PUT", out, type);
  }
  if (let_str_is(path, "/v2/gpulet/forget")) {
    if (let_str_is(method, "POST")) return forget(s, out, type);
    return error_reply(405, "/v2/gpulet/forget takes POST", out, type);
  }
  if (!get) return 0;
  if (let_str_is(path, "/v2/gpulet/stages")) return stages(s, out, type);
  if (let_str_is(path, "/metrics")) return metrics(s, out, type);
  if (let_str_is(path, "/v2/models/stats")) return all_statistics(s, out, type);
  if (starts(path, "/v2/models/", &rest)) return model_page(s, rest, out, type);
  if (let_str_is(path, "/debug/server")) return debug_server(s, out, type);
  if (let_str_is(path, "/debug/fleet")) {
    *type = "application/json";
    let_fleet_dump(s->fleet, out);
    return 200;
  }
  if (let_str_is(path, "/debug/core")) {
    *type = "application/json";
    let_core_dump(s->core, out);
    return 200;
  }
  return 0;
}
