#include "client/tally.h"

#include <jansson.h>
#include <stdlib.h>

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
  into->sent += from->sent, into->good += from->good;
  for (int i = 0; i < LET_LOAD_KIND_COUNT; i++) into->kind[i] += from->kind[i];
  let_hist_merge(&into->latency, &from->latency);
}

static double ms(let_dur d) { return (double)d / 1e6; }
static double quantile(const let_tally *t, double q) { return ms(let_hist_quantile(&t->latency, q)); }
static double highest(const let_tally *t) { return t->latency.count ? ms(t->latency.max) : 0; }
static double attainment(const let_tally *t) { return t->sent ? (double)t->good / (double)t->sent : 0; }

static void row(const let_tally *t, int width, double seconds, let_buf *out) {
  char slo[32] = "-";
  if (t->slo) snprintf(slo, sizeof slo, "%.4g", ms(t->slo));
  let_buf_fmt(out, "%-*s %9llu %9.1f %9.2f %9.2f %9.2f %9.2f %9.2f %8s %9.2f%% %9.1f", width, t->name, (unsigned long long)t->sent,
              (double)t->sent / seconds, quantile(t, 0.5), quantile(t, 0.9), quantile(t, 0.99), quantile(t, 0.999), highest(t), slo,
              100 * attainment(t), (double)t->good / seconds);
  bool any = false;
  for (int i = 1; i < LET_LOAD_KIND_COUNT; i++) {
    if (!t->kind[i]) continue;
    let_buf_fmt(out, "%s%llu %s", any ? ", " : "  ", (unsigned long long)t->kind[i], kinds[i]), any = true;
  }
  let_buf_str(out, any ? "\n" : "  none\n");
}

static let_tally *total_of(const let_tally *t, uint32_t n) {
  let_tally *sum = calloc(1, sizeof *sum); /* too large for the stack */
  if (!sum) return NULL;
  sum->name = "all";
  for (uint32_t i = 0; i < n; i++) let_tally_merge(sum, &t[i]);
  return sum;
}

void let_tally_print(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out) {
  int width = 5;
  for (uint32_t i = 0; i < n; i++)
    if ((int)strlen(t[i].name) > width) width = (int)strlen(t[i].name);
  let_buf_fmt(out, "%-*s %9s %9s %9s %9s %9s %9s %9s %8s %10s %9s  %s\n", width, "model", "sent", "rate/s", "p50 ms", "p90 ms", "p99 ms",
              "p99.9 ms", "max ms", "SLO ms", "attained", "goodput/s", "errors");
  for (uint32_t i = 0; i < n; i++) row(&t[i], width, r->seconds, out);
  if (n > 1) {
    let_tally *sum = total_of(t, n);
    if (sum) row(sum, width, r->seconds, out);
    else out->failed = true;
    free(sum);
  }
  for (uint32_t i = 0; i < n; i++)
    if (t[i].example[0]) let_buf_fmt(out, "first error of %s: %s\n", t[i].name, t[i].example);
  if (r->unfinished) let_buf_fmt(out, "%llu requests were still in flight at the end and are not counted\n", (unsigned long long)r->unfinished);
  if (r->closed || !r->lateness.count) return;
  let_dur p99 = let_hist_quantile(&r->lateness, 0.99);
  if (p99 <= LET_MS) return;
  let_buf_fmt(out, "note: sends were late: p99 %.2f ms, max %.2f ms (counted in the latencies). ", ms(p99), ms(r->lateness.max));
  if (r->waited * 2 > r->lateness.count / 100)
    let_buf_fmt(out, "%llu found all %u connections busy: the server answers too slowly for them, or --connections is too small\n",
                (unsigned long long)r->waited, r->connections);
  else let_buf_str(out, "The generator itself could not keep up: use a lower rate, or a machine of its own\n");
}

static json_t *model(const let_tally *t, double seconds) {
  json_t *errors = json_object();
  for (int i = 1; i < LET_LOAD_KIND_COUNT; i++) json_object_set_new(errors, kinds[i], json_integer((json_int_t)t->kind[i]));
  json_t *o = json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "name", t->name, "sent", (json_int_t)t->sent, "ok",
                        (json_int_t)t->kind[LET_LOAD_OK], "rate", (double)t->sent / seconds, "p50_ms", quantile(t, 0.5), "p90_ms", quantile(t, 0.9),
                        "p99_ms", quantile(t, 0.99), "p999_ms", quantile(t, 0.999), "max_ms", highest(t), "attainment", attainment(t),
                        "goodput", (double)t->good / seconds, "errors", errors);
  if (!o) return NULL;
  json_object_set_new(o, "slo_ms", t->slo ? json_real(ms(t->slo)) : json_null());
  if (t->example[0]) json_object_set_new(o, "first_error", json_string(t->example));
  return o;
}

let_err let_tally_json(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out, let_error *e) {
  json_t *models = json_array();
  bool ok = models != NULL;
  for (uint32_t i = 0; i < n && ok; i++) ok = json_array_append_new(models, model(&t[i], r->seconds)) == 0;
  let_tally *sum = total_of(t, n);
  json_t *all = sum ? model(sum, r->seconds) : NULL;
  free(sum);
  json_t *doc = ok && all ? json_pack("{s:f, s:s, s:O, s:O, s:{s:f, s:f, s:I, s:i, s:I}}", "seconds", r->seconds, "loop", r->closed ? "closed" : "open",
                                      "models", models, "total", all, "generator", "late_p99_ms", ms(let_hist_quantile(&r->lateness, 0.99)),
                                      "late_max_ms", r->lateness.count ? ms(r->lateness.max) : 0.0, "waited_for_connection",
                                      (json_int_t)r->waited, "connections", (int)r->connections, "unfinished", (json_int_t)r->unfinished)
                          : NULL;
  char *text = doc ? json_dumps(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(8)) : NULL;
  if (text) let_buf_str(out, text), let_buf_str(out, "\n");
  json_decref(doc), json_decref(all), json_decref(models);
  bool failed = !text;
  free(text);
  return failed || out->failed ? let_fail(e, LET_ERR_NOMEM, "out of memory for the report") : LET_OK;
}
