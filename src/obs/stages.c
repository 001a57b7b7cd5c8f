#include "obs/stages.h"

#include <string.h>

typedef struct times {
  let_hist since[LET_STAGE_COUNT]; /* [LET_STAGE_FIRST_BYTE] stays empty: nothing comes before it */
} times;

typedef struct row {
  let_stages_count count;
  times *times; /* NULL before the model's first result */
} row;

struct let_stages {
  const let_mem *mem;
  uint32_t n;
  row row[];
};

static const char *const names[LET_STAGE_COUNT] = {"first_byte", "received", "admitted", "batched",
                                                   "submitted",  "started",  "finished", "answered"};

static size_t size_of(uint32_t models) { return sizeof(let_stages) + models * sizeof(row); }

let_err let_stages_new(uint32_t models, const let_mem *mem, let_stages **ret, let_error *e) {
  let_stages *s = let_mem_zalloc(mem, size_of(models));
  if (!s) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->mem = mem;
  s->n = models;
  *ret = s;
  return LET_OK;
}

void let_stages_free(let_stages *s) {
  if (!s) return;
  for (uint32_t i = 0; i < s->n; i++)
    if (s->row[i].times) let_mem_free(s->mem, s->row[i].times, sizeof(times));
  let_mem_free(s->mem, s, size_of(s->n));
}

static bool refused(let_err why) {
  return why == LET_ERR_DEADLINE || why == LET_ERR_OVERLOADED || why == LET_ERR_UNAVAILABLE;
}

void let_stages_finish(let_stages *s, const let_request *r) {
  row *x = &s->row[r->model];
  x->count.requests++;
  if (refused(r->status)) {
    if (r->stamp[LET_STAGE_ADMITTED]) x->count.dropped_queue++;
    else x->count.refused_door++;
  }
  if (r->status != LET_OK) return;
  if (r->stamp[LET_STAGE_ANSWERED] > r->deadline) x->count.late++;
  if (!x->times) x->times = let_mem_zalloc(s->mem, sizeof *x->times);
  if (!x->times) return;
  /* The device's times are another clock's: a stage that seems to end before it began took no time, so that the
   * stages always add up to the whole. */
  let_time last = r->stamp[LET_STAGE_FIRST_BYTE];
  for (unsigned k = LET_STAGE_FIRST_BYTE + 1; k < LET_STAGE_COUNT; k++) {
    let_time at = r->stamp[k] > last ? r->stamp[k] : last;
    let_hist_add(&x->times->since[k], at - last);
    last = at;
  }
}

void let_stages_forget(let_stages *s) {
  for (uint32_t i = 0; i < s->n; i++)
    if (s->row[i].times) memset(s->row[i].times, 0, sizeof *s->row[i].times);
}

let_stages_count let_stages_count_of(const let_stages *s, uint32_t model) { return s->row[model].count; }

const let_hist *let_stages_hist(const let_stages *s, uint32_t model, let_stage stage) {
  return s->row[model].times ? &s->row[model].times->since[stage] : NULL;
}

static void hist_text(const let_hist *h, let_buf *out) {
  double mean = h->count ? (double)h->sum / (double)h->count : 0;
  let_buf_fmt(out, "{\"mean_ms\":%.6g,\"p50_ms\":%.6g,\"p99_ms\":%.6g,\"count\":%llu,\"sum_ms\":%.6f,\"hist\":[",
              mean / 1e6, (double)let_hist_quantile(h, 0.5) / 1e6, (double)let_hist_quantile(h, 0.99) / 1e6,
              (unsigned long long)h->count, (double)h->sum / 1e6);
  const char *comma = "";
  for (unsigned i = 0; h->count && i < LET_HIST_CELLS; i++) {
    if (!h->cell[i]) continue;
    let_buf_fmt(out, "%s[%u,%u]", comma, i, h->cell[i]);
    comma = ",";
  }
  let_buf_str(out, "]}");
}

void let_stages_text(const let_stages *s, uint32_t model, const char *name, let_buf *out) {
  static const let_hist none;
  const let_stages_count *n = &s->row[model].count;
  let_buf_str(out, "{\"name\":\"");
  for (const char *c = name; *c; c++) {
    if (*c == '"' || *c == '\\') let_buf_add(out, "\\", 1);
    if ((unsigned char)*c < ' ') let_buf_fmt(out, "\\u%04x", (unsigned)*c);
    else let_buf_add(out, c, 1);
  }
  let_buf_fmt(out, "\",\"requests\":%llu,\"refused_door\":%llu,\"dropped_queue\":%llu,\"late\":%llu,\"stages\":{",
              (unsigned long long)n->requests, (unsigned long long)n->refused_door,
              (unsigned long long)n->dropped_queue, (unsigned long long)n->late);
  for (unsigned k = LET_STAGE_RECEIVED; k < LET_STAGE_COUNT; k++) {
    const let_hist *h = let_stages_hist(s, model, (let_stage)k);
    let_buf_fmt(out, "%s\"%s\":", k > LET_STAGE_RECEIVED ? "," : "", names[k]);
    hist_text(h ? h : &none, out);
  }
  let_buf_str(out, "}}");
}
