#include "client/stage_times.h"

#include <stdio.h>
#include <string.h>

#define X(id, name) name,
static const char *const stage_name[] = {LET_STAGE_FIELDS(X)};
static const char *const loss_name[] = {LET_LOSSES(X)};
#undef X

/* ---- reading ------------------------------------------------------------------------------------------------- */

static bool read_hist(json_t *stage, let_hist *h) {
  json_t *cells = json_object_get(stage, "hist"), *sum = json_object_get(stage, "sum_ms"), *pair;
  if (!json_is_array(cells)) return false;
  size_t i;
  json_array_foreach(cells, i, pair) {
    json_t *cell = json_array_get(pair, 0), *n = json_array_get(pair, 1);
    if (!json_is_integer(cell) || !json_is_integer(n)) return false;
    json_int_t at = json_integer_value(cell), count = json_integer_value(n);
    if (at < 0 || at >= LET_HIST_CELLS || count < 0 || count > UINT32_MAX) return false;
    if (!let_hist_put(h, (uint32_t)at, (uint32_t)count)) return false;
  }
  double ms = json_number_value(sum);
  /* The cells alone give the sum to 1 %; what the server says is exact, unless it makes no sense. */
  if (json_is_number(sum) && ms >= 0 && ms < 9e12) h->sum = (let_dur)(ms * 1e6);
  return true;
}

static bool read_model(json_t *m, let_stage_times *s) {
  json_t *stages = json_object_get(m, "stages"), *requests = json_object_get(m, "requests");
  if (!json_is_object(stages) || !json_is_integer(requests) || json_integer_value(requests) < 0) return false;
  s->requests = (uint64_t)json_integer_value(requests);
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++)
    if (!read_hist(json_object_get(stages, stage_name[i]), &s->time[i])) return false;
  for (int i = 0; i < LET_LOSS_COUNT; i++) {
    json_t *n = json_object_get(m, loss_name[i]);
    s->has_loss[i] = json_is_integer(n) && json_integer_value(n) >= 0;
    s->loss[i] = s->has_loss[i] ? (uint64_t)json_integer_value(n) : 0;
  }
  return true;
}

static let_stage_times *of_model(const let_workload *w, const char *name, let_stage_times *all) {
  for (uint32_t i = 0; name && i < w->n; i++)
    if (strcmp(w->demand[i].name, name) == 0) return &all[i];
  return NULL;
}

void let_stage_times_read(let_str json, const let_workload *w, let_stage_times *ret) {
  memset(ret, 0, w->n * sizeof *ret);
  json_t *doc = json_loadb(json.p, json.n, 0, NULL), *m;
  size_t i;
  json_array_foreach(json_object_get(doc, "models"), i, m) {
    let_stage_times *s = of_model(w, json_string_value(json_object_get(m, "name")), ret);
    if (!s || s->known) continue;
    memset(s, 0, sizeof *s);
    s->known = read_model(m, s);
  }
  json_decref(doc);
}

void let_stage_times_subtract(let_stage_times *after, const let_stage_times *before) {
  bool ok = after->known && before->known && after->requests >= before->requests;
  for (int i = 0; i < LET_STAGE_FIELD_COUNT && ok; i++) ok = let_hist_subtract(&after->time[i], &before->time[i]);
  after->known = ok;
  if (!ok) return;
  after->requests -= before->requests;
  for (int i = 0; i < LET_LOSS_COUNT; i++) {
    after->has_loss[i] = after->has_loss[i] && before->has_loss[i] && after->loss[i] >= before->loss[i];
    after->loss[i] = after->has_loss[i] ? after->loss[i] - before->loss[i] : 0;
  }
}

void let_stage_times_merge(let_stage_times *into, const let_stage_times *from) {
  if (!from->known) return;
  into->known = true;
  into->requests += from->requests;
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++) let_hist_merge(&into->time[i], &from->time[i]);
  for (int i = 0; i < LET_LOSS_COUNT; i++) {
    into->has_loss[i] |= from->has_loss[i];
    into->loss[i] += from->loss[i];
  }
}

/* ---- printing ------------------------------------------------------------------------------------------------- */

static double ms(let_dur d) { return (double)d / 1e6; }
static double mean(const let_hist *h) { return h->count ? ms(h->sum) / (double)h->count : 0; }

void let_stage_times_heading(int model_width, let_buf *out) {
  let_buf_fmt(out, "%-*s", model_width, "stage, ms");
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++) let_buf_fmt(out, "  %13s", stage_name[i]);
  let_buf_fmt(out, "\n%-*s", model_width, "");
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++) let_buf_fmt(out, "  %6s %6s", "mean", "p99");
  let_buf_str(out, "\n");
}

void let_stage_times_cell(double x, let_buf *out) {
  let_buf_fmt(out, "%6.*f", x < 9.9995 ? 3 : x < 99.995 ? 2 : x < 999.95 ? 1 : 0, x);
}

void let_stage_times_row(const char *model, const let_stage_times *s, int model_width, let_buf *out) {
  let_buf_fmt(out, "%-*s", model_width, model);
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++) {
    const let_hist *h = s && s->known ? &s->time[i] : NULL;
    let_buf_str(out, "  ");
    if (!h || h->count == 0) {
      let_buf_fmt(out, "%6s %6s", "-", "-");
      continue;
    }
    let_stage_times_cell(mean(h), out);
    let_buf_str(out, " ");
    let_stage_times_cell(ms(let_hist_quantile(h, 0.99)), out);
  }
  let_buf_str(out, "\n");
}

json_t *let_stage_times_json(const let_stage_times *s) {
  if (!s || !s->known) return json_null();
  json_t *o = json_object();
  for (int i = 0; i < LET_STAGE_FIELD_COUNT; i++) {
    const let_hist *h = &s->time[i];
    json_object_set_new(o, stage_name[i],
                        json_pack("{s:f, s:f, s:f, s:I}", "mean_ms", mean(h), "p50_ms", ms(let_hist_quantile(h, 0.5)),
                                  "p99_ms", ms(let_hist_quantile(h, 0.99)), "count", (json_int_t)h->count));
  }
  return o;
}

json_t *let_stage_times_losses_json(const let_stage_times *s) {
  json_t *o = json_object();
  for (int i = 0; i < LET_LOSS_COUNT; i++) {
    bool told = s && s->known && s->has_loss[i];
    json_object_set_new(o, loss_name[i], told ? json_integer((json_int_t)s->loss[i]) : json_null());
  }
  return o;
}
