#include "client/tally.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define X(id, name) name,
static const char *const kinds[] = {LET_LOAD_KINDS(X)};
#undef X

void let_tally_add(let_tally *t, let_load_kind kind, let_time intended, let_time answered) {
  t->sent++;
  t->kind[kind]++;
  if (kind != LET_LOAD_OK) return;
  let_dur d = answered - intended;
  let_hist_add(&t->latency, d);
  if (t->slo == 0 || d <= t->slo) t->good++;
}

void let_tally_merge(let_tally *into, const let_tally *from) {
  into->sent += from->sent, into->good += from->good, into->rows += from->rows, into->batches += from->batches;
  for (int i = 0; i < LET_LOAD_KIND_COUNT; i++) into->kind[i] += from->kind[i];
  let_hist_merge(&into->latency, &from->latency);
}

static double ms(let_dur d) { return (double)d / 1e6; }
static double quantile(const let_tally *t, double q) { return ms(let_hist_quantile(&t->latency, q)); }
static double highest(const let_tally *t) { return t->latency.count ? ms(t->latency.max) : 0; }
static double attainment(const let_tally *t) { return t->sent ? (double)t->good / (double)t->sent : 0; }

static double waited_share(const let_load_report *r) {
  return r->lateness.count ? (double)r->waited / (double)r->lateness.count : 0;
}

static double mean_batch(const let_tally *t) { return t->batches ? (double)t->rows / (double)t->batches : 0; }

/* ---- which gpu-lets ------------------------------------------------------------------------------------------ */

typedef struct places {
  uint32_t n;
  struct {
    const let_plan_gpu *gpu;
    const let_plan_gpulet *l;
    const let_plan_entry *x;
  } at[256]; /* the first of them */
} places;

static double share_of(const let_plan_gpu *g, const let_plan_gpulet *l) {
  return g->granules ? 100.0 * l->granules / g->granules : 0;
}

static void find(const let_plan *p, const char *model, places *ret) {
  ret->n = 0;
  for (uint32_t i = 0; p && i < p->n_gpus; i++)
    for (uint32_t k = 0; k < p->gpu[i].n_gpulets; k++)
      for (uint32_t j = 0; j < p->gpu[i].gpulet[k].n_entries; j++) {
        const let_plan_gpulet *l = &p->gpu[i].gpulet[k];
        if (strcmp(l->entry[j].name, model) != 0) continue;
        if (ret->n < sizeof ret->at / sizeof *ret->at)
          ret->at[ret->n].gpu = &p->gpu[i], ret->at[ret->n].l = l, ret->at[ret->n].x = &l->entry[j];
        ret->n++;
      }
}

void let_tally_place(const let_plan *p, const char *model, let_buf *out) {
  places w;
  find(p, model, &w);
  if (w.n == 0) {
    let_buf_str(out, p && strcmp(model, "all") != 0 ? "none" : "-");
    return;
  }
  uint32_t same = 1;
  const char *type = w.at[0].gpu->type[0] ? w.at[0].gpu->type : "gpu";
  double share = share_of(w.at[0].gpu, w.at[0].l);
  for (; same < w.n && same < sizeof w.at / sizeof *w.at; same++)
    if (strcmp(w.at[same].gpu->type, w.at[0].gpu->type) != 0 ||
        (int)share_of(w.at[same].gpu, w.at[same].l) != (int)share)
      break;
  if (same > 1) let_buf_fmt(out, "%u x ", same);
  let_buf_fmt(out, "%s %.0f %%", type, share);
  if (w.n > same) let_buf_fmt(out, " + %u more", w.n - same);
}

/* ---- the table ------------------------------------------------------------------------------------------------ */

typedef struct widths {
  int model, place;
  bool wide;
} widths;

static void cell_place(const let_plan *p, const char *model, int width, let_buf *out) {
  size_t from = out->n;
  let_tally_place(p, model, out);
  while (!out->failed && out->n - from < (size_t)width) let_buf_str(out, " ");
}

/* The wide table has the gpu-let at its end: its text may be long, and the numbers stay within 120 columns. */
static void heading(const widths *w, let_buf *out) {
  if (w->wide)
    let_buf_fmt(out, "%-*s  %5s  %8s  %7s  %6s  %6s  %6s  %8s  %6s  %6s  %10s  %9s  %s\n", w->model, "model", "batch",
                "sent", "rate/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "SLO ms", "attainment",
                "goodput/s", "gpu-let");
  else
    let_buf_fmt(out, "%-*s  %-*s  %6s  %8s  %8s  %8s  %7s  %10s\n", w->model, "model", w->place, "gpu-let", "batch",
                "rate/s", "p50 ms", "p99 ms", "SLO ms", "attainment");
}

static void wide_row(const let_tally *t, const widths *w, const let_load_report *r, const char *slo, const char *batch,
                     let_buf *out) {
  static const double q[] = {0.5, 0.9, 0.99, 0.999};
  let_buf_fmt(out, "%-*s  %5s  %8llu  %7.1f", w->model, t->name, batch, (unsigned long long)t->sent,
              (double)t->sent / r->seconds);
  for (size_t i = 0; i < sizeof q / sizeof *q; i++) {
    let_buf_str(out, i == 3 ? "    " : "  ");
    let_stage_times_cell(quantile(t, q[i]), out);
  }
  let_buf_str(out, "  ");
  let_stage_times_cell(highest(t), out);
  let_buf_fmt(out, "  %6s  %8.2f %%  %9.1f  ", slo, 100 * attainment(t), (double)t->good / r->seconds);
  let_tally_place(r->plan, t->name, out);
  let_buf_str(out, "\n");
}

static void row(const let_tally *t, const widths *w, const let_load_report *r, let_buf *out) {
  char slo[32] = "-", batch[32] = "-";
  if (t->slo) snprintf(slo, sizeof slo, "%.4g", ms(t->slo));
  if (t->batches) snprintf(batch, sizeof batch, "%.1f", mean_batch(t));
  if (w->wide) {
    wide_row(t, w, r, slo, batch, out);
    return;
  }
  let_buf_fmt(out, "%-*s  ", w->model, t->name);
  cell_place(r->plan, t->name, w->place, out);
  let_buf_fmt(out, "  %6s  %8.1f  %8.2f  %8.2f  %7s  %8.2f %%\n", batch, (double)t->sent / r->seconds, quantile(t, 0.5),
              quantile(t, 0.99), slo, 100 * attainment(t));
}

static let_stage_times *all_stages(const let_load_report *r, uint32_t n) {
  let_stage_times *sum = calloc(1, sizeof *sum); /* too large for the stack */
  for (uint32_t i = 0; sum && r->stages && i < n; i++) let_stage_times_merge(sum, &r->stages[i]);
  return sum;
}

static void stage_table(const let_tally *t, uint32_t n, const let_load_report *r, int width, let_buf *out) {
  if (width < 9) width = 9;
  let_buf_str(out, "\n");
  let_stage_times_heading(width, out);
  for (uint32_t i = 0; i < n; i++) let_stage_times_row(t[i].name, &r->stages[i], width, out);
  if (n > 1) {
    let_stage_times *sum = all_stages(r, n);
    if (sum) let_stage_times_row("all", sum, width, out);
    else out->failed = true;
    free(sum);
  }
  let_buf_str(out, "\n");
}

static uint64_t late(const let_tally *t) { return t->kind[LET_LOAD_OK] - t->good; }

/* "(12 at the door, 8 in the queue)", where the server says so. */
static void refusals(const let_stage_times *s, let_buf *out) {
  if (!s || !s->known || !s->has_loss[LET_LOSS_REFUSED_DOOR] || !s->has_loss[LET_LOSS_DROPPED_QUEUE]) return;
  let_buf_fmt(out, " (%llu at the door, %llu in the queue)", (unsigned long long)s->loss[LET_LOSS_REFUSED_DOOR],
              (unsigned long long)s->loss[LET_LOSS_DROPPED_QUEUE]);
}

/* What did not come back well, a line per model. */
static void trouble(const let_tally *t, const let_stage_times *s, let_buf *out) {
  if (t->kind[LET_LOAD_OK] == t->sent && !late(t)) return;
  let_buf_fmt(out, "%s: of %llu requests", t->name, (unsigned long long)t->sent);
  const char *comma = " ";
  for (int i = 1; i < LET_LOAD_KIND_COUNT; i++) {
    if (!t->kind[i]) continue;
    let_buf_fmt(out, "%s%llu %s", comma, (unsigned long long)t->kind[i], kinds[i]);
    if (i == LET_LOAD_REFUSED) refusals(s, out);
    comma = ", ";
  }
  if (late(t)) let_buf_fmt(out, "%s%llu late", comma, (unsigned long long)late(t));
  if (t->example[0]) let_buf_fmt(out, "; first error: %s", t->example);
  let_buf_str(out, "\n");
}

static let_tally *total_of(const let_tally *t, uint32_t n) {
  let_tally *sum = calloc(1, sizeof *sum); /* too large for the stack */
  if (!sum) return NULL;
  sum->name = "all";
  for (uint32_t i = 0; i < n; i++) let_tally_merge(sum, &t[i]);
  return sum;
}

void let_tally_print(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out) {
  widths w = {.model = 5, .place = 7, .wide = r->wide};
  for (uint32_t i = 0; i < n; i++) {
    size_t from = out->n;
    let_tally_place(r->plan, t[i].name, out);
    if ((int)(out->n - from) > w.place) w.place = (int)(out->n - from);
    out->n = from;
    if ((int)strlen(t[i].name) > w.model) w.model = (int)strlen(t[i].name);
  }
  heading(&w, out);
  for (uint32_t i = 0; i < n; i++) row(&t[i], &w, r, out);
  if (n > 1) {
    let_tally *sum = total_of(t, n);
    if (sum) row(sum, &w, r, out);
    else out->failed = true;
    free(sum);
  }
  if (r->wide && r->stages) stage_table(t, n, r, w.model, out);
  for (uint32_t i = 0; i < n; i++) trouble(&t[i], r->stages ? &r->stages[i] : NULL, out);
  if (r->unfinished)
    let_buf_fmt(out, "%llu requests were still in flight at the end and are not counted\n",
                (unsigned long long)r->unfinished);
  if (r->wide)
    let_buf_fmt(
        out,
        "generator: %u thread%s, the busiest %.2f of a core; %u connections, %.2f %% waited for one; sends late by "
        "%.3f ms at p99\n",
        r->threads, r->threads == 1 ? "" : "s", r->busiest, r->connections, 100 * waited_share(r),
        ms(let_hist_quantile(&r->lateness, 0.99)));
  if (r->outcome.bottleneck)
    let_buf_fmt(out, "%s: %s\n", let_bottleneck_name(r->outcome.bottleneck), r->outcome.advice);
}

static json_t *gpulets(const let_plan *p, const char *name) {
  places w;
  find(p, name, &w);
  json_t *a = json_array();
  for (uint32_t i = 0; i < w.n && i < sizeof w.at / sizeof *w.at; i++)
    json_array_append_new(a, json_pack("{s:i, s:s, s:i, s:f, s:i}", "gpu", (int)w.at[i].gpu->id, "type",
                                       w.at[i].gpu->type, "granules", (int)w.at[i].l->granules, "share",
                                       share_of(w.at[i].gpu, w.at[i].l), "batch", (int)w.at[i].x->batch));
  return a;
}

static json_t *model(const let_tally *t, const let_load_report *r, const let_stage_times *s) {
  json_t *errors = json_object();
  for (int i = 1; i < LET_LOAD_KIND_COUNT; i++)
    json_object_set_new(errors, kinds[i], json_integer((json_int_t)t->kind[i]));
  json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "name", t->name, "sent",
                        (json_int_t)t->sent, "ok", (json_int_t)t->kind[LET_LOAD_OK], "late", (json_int_t)late(t),
                        "rate", (double)t->sent / r->seconds, "p50_ms", quantile(t, 0.5), "p90_ms", quantile(t, 0.9),
                        "p99_ms", quantile(t, 0.99), "p999_ms", quantile(t, 0.999), "max_ms", highest(t), "attainment",
                        attainment(t), "goodput", (double)t->good / r->seconds, "errors", errors);
  if (!o) return NULL;
  if (r->plan && strcmp(t->name, "all") != 0) json_object_set_new(o, "gpulets", gpulets(r->plan, t->name));
  json_object_set_new(o, "mean_batch", t->batches ? json_real(mean_batch(t)) : json_null());
  json_object_set_new(o, "slo_ms", t->slo ? json_real(ms(t->slo)) : json_null());
  json_object_set_new(o, "stages", let_stage_times_json(s));
  json_object_set_new(o, "server", let_stage_times_losses_json(s));
  if (t->example[0]) json_object_set_new(o, "first_error", json_string(t->example));
  return o;
}

static json_t *generator(const let_load_report *r) {
  json_t *o =
      json_pack("{s:i, s:i, s:f, s:f, s:f, s:i, s:i, s:I, s:I, s:f, s:f, s:f, s:I}", "threads", (int)r->threads,
                "cores", (int)r->cores, "busiest_thread", r->busiest, "waited_for_core", r->deprived, "cpu_seconds",
                r->cpu_seconds, "connections", (int)r->connections, "connection_limit", (int)r->connection_limit,
                "inflight_max", (json_int_t)r->inflight_max, "waited_for_connection", (json_int_t)r->waited,
                "waited_share", waited_share(r), "late_p99_ms", ms(let_hist_quantile(&r->lateness, 0.99)),
                "late_max_ms", r->lateness.count ? ms(r->lateness.max) : 0.0, "unfinished", (json_int_t)r->unfinished);
  if (o && r->outcome.bottleneck) json_object_set_new(o, "advice", json_string(r->outcome.advice));
  return o;
}

let_err let_tally_json(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out, let_error *e) {
  json_t *models = json_array();
  bool ok = models != NULL;
  for (uint32_t i = 0; i < n && ok; i++)
    ok = json_array_append_new(models, model(&t[i], r, r->stages ? &r->stages[i] : NULL)) == 0;
  let_tally *sum = total_of(t, n);
  let_stage_times *stages = all_stages(r, n);
  json_t *all = sum && stages ? model(sum, r, stages) : NULL, *self = generator(r);
  free(sum);
  free(stages);
  json_t *doc = ok && all && self
                    ? json_pack("{s:f, s:s, s:s?, s:O, s:O, s:O}", "seconds", r->seconds, "loop",
                                r->closed ? "closed" : "open", "bottleneck", let_bottleneck_name(r->outcome.bottleneck),
                                "models", models, "total", all, "generator", self)
                    : NULL;
  char *text = doc ? json_dumps(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(8)) : NULL;
  if (text) {
    let_buf_str(out, text);
    let_buf_str(out, "\n");
  }
  json_decref(doc);
  json_decref(all);
  json_decref(self);
  json_decref(models);
  bool failed = !text;
  free(text);
  return failed || out->failed ? let_fail(e, LET_ERR_NOMEM, "out of memory for the report") : LET_OK;
}
