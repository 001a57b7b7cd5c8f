#include "measure/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "measure/journal.h"
#include "measure/runner.h"
#include "measure/sampler.h"
#include "os/clock.h"
#include "profile/fit.h"
#include "profile/profile.h"

enum { GROUPS_MAX = 400 };
#define LATENCY_SHARE 0.6 /* of the budget, when there is interference to measure too */

typedef struct subject { /* a model being measured */
  const let_model *m;
  let_sampler s;
  uint32_t batch[LET_SIZES_MAX], n_batches;
  double p99_over_p50; /* the largest ratio seen: for cells that are interpolated */
  uint64_t memory[LET_SIZES_MAX];
  double *p99; /* like s.ms */
  bool out;    /* cannot be measured */
} subject;

typedef struct run {
  const let_measure_options *o;
  let_runner *runner;
  const let_device_type *type;
  uint32_t *granules;
  subject *subject;
  let_journal journal;
  let_journal_entry *group;
  bool tried[GROUPS_MAX];
  uint32_t n_groups;
  let_time began;
  let_measure_result result;
  let_measure_progress shown;
} run;

static void show(run *r, const char *trouble) {
  let_dur spent = let_now() - r->began;
  double of = (double)(r->o->budget > 0 ? r->o->budget : 1);
  r->shown.done = fmin(1, (double)spent / of);
  r->shown.left = r->o->budget > spent ? r->o->budget - spent : 0;
  r->shown.cells = r->result.cells;
  r->shown.pairs = r->n_groups;
  snprintf(r->shown.trouble, sizeof r->shown.trouble, "%s", trouble);
  if (r->o->progress) r->o->progress(r->o->ctx, &r->shown);
}

static uint32_t batch_index(const subject *s, uint32_t batch) {
  uint32_t b = 0;
  while (b < s->n_batches && s->batch[b] != batch) b++;
  return b;
}

/* A batch size that does not fit: it and all larger ones are given up. */
static void give_up(subject *s, uint32_t b) {
  uint32_t n = s->s.n_granules;
  s->s.n_batches = s->n_batches = b;
  s->s.measured = 0;
  for (uint32_t i = 0; i < b * n; i++) s->s.measured += !isnan(s->s.ms[i]);
  if (b == 0) s->out = true;
}

static void take(void *ctx, const let_journal_entry *x) {
  run *r = ctx;
  if (x->kind == LET_JOURNAL_GROUP) {
    if (x->index >= GROUPS_MAX || r->tried[x->index]) return;
    r->tried[x->index] = true;
    r->group[r->n_groups++] = *x;
    return;
  }
  subject *s = &r->subject[x->lane[0].model];
  uint32_t b = batch_index(s, x->lane[0].batch), g = x->lane[0].granules - 1;
  if (x->kind == LET_JOURNAL_FAILED && x->n > 1) {
    if (x->index < GROUPS_MAX) r->tried[x->index] = true;
    return;
  }
  if (b == s->n_batches || g >= s->s.n_granules) return;
  if (x->kind == LET_JOURNAL_FAILED) {
    give_up(s, b);
    return;
  }
  const let_runner_times *t = &x->result[0].solo;
  let_sampler_add(&s->s, b, g, t->p50_ms);
  s->p99[b * s->s.n_granules + g] = t->p99_ms;
  if (t->p99_ms / t->p50_ms > s->p99_over_p50) s->p99_over_p50 = t->p99_ms / t->p50_ms;
  if (x->result[0].memory_bytes > s->memory[b]) s->memory[b] = x->result[0].memory_bytes;
  r->result.cells++;
}

static let_err prepare(run *r, let_error *e) {
  const let_measure_options *o = r->o;
  uint32_t n = r->type->granules;
  if (n > LET_SAMPLER_GRANULES_MAX) n = LET_SAMPLER_GRANULES_MAX;
  r->granules = malloc(n * sizeof *r->granules);
  r->subject = calloc(o->n_models, sizeof *r->subject);
  r->group = calloc(GROUPS_MAX, sizeof *r->group);
  if (!r->granules || !r->subject || !r->group) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t g = 0; g < n; g++) r->granules[g] = g + 1;
  for (uint32_t m = 0; m < o->n_models; m++) {
    subject *s = &r->subject[m];
    s->m = &o->models[m];
    s->n_batches = let_model_sizes(s->m, s->batch);
    while (o->max_batch && s->n_batches > 1 && s->batch[s->n_batches - 1] > o->max_batch) s->n_batches--;
    let_err err = let_sampler_init(&s->s, s->batch, s->n_batches, r->granules, n, (double)s->m->slo / 1e6, e);
    if (err) return err;
    s->p99 = malloc((size_t)s->n_batches * n * sizeof *s->p99);
    if (!s->p99) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < s->n_batches * n; i++) s->p99[i] = NAN;
    s->p99_over_p50 = 1;
  }
  return LET_OK;
}

/* What the journal must agree on to be continued. */
static void head(const run *r, let_buf *b) {
  let_buf_fmt(b, "# gpulet profile 2: %s %s, %u granules, seed %llu:", r->o->device, r->type->name, r->type->granules,
              (unsigned long long)r->o->seed);
  for (uint32_t m = 0; m < r->o->n_models; m++) {
    const subject *s = &r->subject[m];
    let_buf_fmt(b, " %s/%lld/%u/%d%d", s->m->name, (long long)s->m->version, s->batch[s->n_batches - 1],
                s->m->precision, s->m->channels_last);
  }
}

static let_err measure_cell(run *r, subject *s, uint32_t b, uint32_t g, let_error *e) {
  let_journal_entry x = {.kind = LET_JOURNAL_CELL, .n = 1};
  x.lane[0] =
      (let_runner_lane){.model = (uint32_t)(s - r->subject), .batch = s->batch[b], .first = 0, .granules = g + 1};
  snprintf(r->shown.doing, sizeof r->shown.doing, "%.80s, batch %u on %u granule%s", s->m->name, s->batch[b], g + 1,
           g ? "s" : "");
  show(r, "");
  let_error why = {0};
  let_err err = let_runner_run(r->runner, x.lane, 1, r->o->window, x.result, &why);
  if (err) {
    x.kind = LET_JOURNAL_FAILED;
    snprintf(x.text, sizeof x.text, "%.200s", why.text);
    let_err io = let_journal_add(&r->journal, &x, e);
    if (io) return io;
    take(r, &x);
    if (err == LET_ERR_DEVICE)
      return let_fail(e, err, "%s: the device runs nothing any more; run the same command again to go on with the rest",
                      why.text);
    let_error left;
    let_fail(&left, err, "%s: batch %u %s: %.300s", s->m->name, x.lane[0].batch,
             s->out ? "and so the model is left out" : "and larger are left out", why.text);
    show(r, left.text);
    return LET_OK;
  }
  take(r, &x);
  return let_journal_add(&r->journal, &x, e);
}

/* The most wanted cell of all models. Ties (the coarse grids) go round the models. */
static bool next_cell(run *r, subject **ret, uint32_t *ret_b, uint32_t *ret_g, double *ret_error) {
  double most = -1;
  for (uint32_t m = 0; m < r->o->n_models; m++) {
    subject *s = &r->subject[m];
    uint32_t b, g;
    double error;
    if (s->out || !let_sampler_next(&s->s, &b, &g, &error) || error <= most) continue;
    most = error;
    *ret = s;
    *ret_b = b;
    *ret_g = g;
  }
  *ret_error = most;
  return most >= 0;
}

static let_err latencies(run *r, let_time until, let_error *e) {
  subject *s;
  uint32_t b, g;
  double error;
  while (next_cell(r, &s, &b, &g, &error) && error > r->o->tolerance && let_now() < until) {
    let_err err = measure_cell(r, s, b, g, e);
    if (err) return err;
  }
  r->result.expected_error = next_cell(r, &s, &b, &g, &error) ? error : 0;
  return LET_OK;
}

/* Group number |index|: two lanes of any models and sizes on all granules; of six groups one has three, one four, one
 * eight. */
static bool choose_group(run *r, uint32_t index, let_journal_entry *x) {
  let_rng rng;
  let_rng_seed(&rng, r->o->seed * 1000003 + index);
  uint32_t total = r->type->granules, fit[LET_RUNNER_LANES_MAX];
  memset(x, 0, sizeof *x);
  x->kind = LET_JOURNAL_GROUP;
  x->index = index;
  x->n = (const uint32_t[]){2, 2, 4, 2, 8, 3}[index % 6];
  if (x->n > total) x->n = 2;
  uint32_t part = total / (x->n > 2 ? x->n : 2u << (index / 6 + index) % 3),
           first = 0; /* pairs: a half, a quarter or an eighth */
  for (uint32_t i = 0; i < x->n; i++) {
    fit[i] = i + 1 < x->n ? (part ? part : 1) : total - first;
    first += fit[i];
  }
  first = 0;
  for (uint32_t i = 0; i < x->n; i++) {
    uint32_t m = (uint32_t)let_rng_below(&rng, r->o->n_models);
    for (uint32_t k = 0; r->subject[m].out && k < r->o->n_models; k++) m = (m + 1) % r->o->n_models;
    subject *s = &r->subject[m];
    if (s->out || !fit[i]) return false;
    x->lane[i] = (let_runner_lane){
        .model = m, .batch = s->batch[let_rng_below(&rng, s->n_batches)], .first = first, .granules = fit[i]};
    first += fit[i];
  }
  return true;
}

static let_err interference(run *r, let_time until, let_error *e) {
  for (uint32_t i = 0; i < GROUPS_MAX && let_now() < until; i++) {
    let_journal_entry x;
    if (r->tried[i]) continue;
    if (!choose_group(r, i, &x)) return LET_OK;
    snprintf(r->shown.doing, sizeof r->shown.doing, "%.40s %u beside %.40s %u%s", r->o->models[x.lane[0].model].name,
             x.lane[0].batch, r->o->models[x.lane[1].model].name, x.lane[1].batch, x.n > 2 ? " and others" : "");
    show(r, "");
    let_error why = {0};
    let_err err = let_runner_run(r->runner, x.lane, x.n, r->o->window, x.result, &why);
    if (err) {
      x.kind = LET_JOURNAL_FAILED;
      snprintf(x.text, sizeof x.text, "%.200s", why.text);
    }
    take(r, &x);
    let_err io = let_journal_add(&r->journal, &x, e);
    if (io) return io;
    if (err == LET_ERR_DEVICE)
      return let_fail(e, err, "%s: the device runs nothing any more; run the same command again to go on with the rest",
                      why.text);
    if (err) show(r, why.text);
  }
  return LET_OK;
}

static bool row_written(const subject *s, uint32_t b) {
  return !isnan(s->s.ms[b * s->s.n_granules]) && !isnan(s->s.ms[(b + 1) * s->s.n_granules - 1]);
}

/* The grid of the file: rows with both ends measured, columns with anything measured in such a row. */
static bool describe(run *r, subject *s, let_arena *a, let_profile_model *m) {
  uint32_t n = s->s.n_granules, rows = 0, columns = 0;
  m->batch = let_arena_array(a, s->n_batches, sizeof *m->batch);
  m->granule = let_arena_array(a, n, sizeof *m->granule);
  m->memory = let_arena_array(a, s->n_batches, sizeof *m->memory);
  m->cell = let_arena_array(a, (size_t)s->n_batches * n, sizeof *m->cell);
  if (!m->batch || !m->granule || !m->memory || !m->cell) return false;
  snprintf(m->name, sizeof m->name, "%s", s->m->name);
  bool used[LET_SAMPLER_GRANULES_MAX] = {false};
  for (uint32_t b = 0; b < s->n_batches; b++) {
    if (!row_written(s, b)) continue;
    m->batch[rows] = s->batch[b];
    m->memory[rows].batch = s->batch[b];
    m->memory[rows].bytes = s->memory[b];
    if (rows && m->memory[rows].bytes < m->memory[rows - 1].bytes) m->memory[rows].bytes = m->memory[rows - 1].bytes;
    rows++;
    for (uint32_t g = 0; g < n; g++) used[g] |= !isnan(s->s.ms[b * n + g]);
  }
  for (uint32_t g = 0; g < n; g++)
    if (used[g]) m->granule[columns++] = g + 1;
  for (uint32_t b = 0; b < s->n_batches; b++) {
    for (uint32_t g = 0; g < n && row_written(s, b); g++) {
      if (!used[g]) continue;
      let_cell *c = &m->cell[m->n_cells++];
      *c = (let_cell){.batch = s->batch[b],
                      .granules = g + 1,
                      .p50_ms = let_sampler_estimate(&s->s, b, g),
                      .p99_ms = s->p99[b * n + g]};
      if (!isnan(c->p99_ms)) continue;
      c->p99_ms = c->p50_ms * s->p99_over_p50;
      r->result.interpolated++;
    }
  }
  m->n_batches = m->n_memory = rows;
  m->n_granules = columns;
  for (unsigned k = 0; k < s->m->n_inputs; k++) {
    uint64_t bytes = let_tensor_row_bytes(&s->m->input[k]);
    if (bytes && bytes != UINT64_MAX) m->input_bytes += bytes;
  }
  return rows > 0;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const let_profile_model *)a)->name, ((const let_profile_model *)b)->name);
}

static let_err collect_samples(run *r, const let_profile *p, let_arena *a, let_samples *ret, let_error *e) {
  ret->n = 0;
  ret->sample = let_arena_array(a, r->n_groups * LET_RUNNER_LANES_MAX + 1, sizeof *ret->sample);
  if (!ret->sample) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t k = 0; k < r->n_groups; k++) {
    const let_journal_entry *x = &r->group[k];
    let_tenant t[LET_RUNNER_LANES_MAX];
    bool all = true;
    for (uint32_t i = 0; i < x->n; i++) {
      uint32_t m = let_profile_find(p, r->o->models[x->lane[i].model].name);
      all &= m != UINT32_MAX;
      t[i] = (let_tenant){.model = m, .batch = x->lane[i].batch, .granules = x->lane[i].granules, .busy = 1};
    }
    for (uint32_t i = 0; all && i < x->n; i++) {
      /* No model runs twice as fast beside others: the machine was busy during one of the two measurements. The journal
       * keeps it, the profile leaves it out. */
      if (x->result[i].together.p50_ms < x->result[i].solo.p50_ms / 2) continue;
      let_sample *s = &ret->sample[ret->n++];
      *s = (let_sample){.self = t[i], .solo_ms = x->result[i].solo.p50_ms, .together_ms = x->result[i].together.p50_ms};
      s->other = let_arena_array(a, x->n, sizeof *s->other);
      if (!s->other) return let_fail(e, LET_ERR_NOMEM, "out of memory");
      for (uint32_t o = 0; o < x->n; o++)
        if (o != i) s->other[s->n++] = t[o];
    }
  }
  return LET_OK;
}

/* Only with enough of them that a held-out error means something. */
static let_err fit(run *r, let_profile *p, const let_samples *s, let_arena *a, let_error *e) {
  enum { FOLDS = 10 };
  if (s->n < 4 * FOLDS) return LET_OK;
  let_fit_report report;
  let_err err = let_fit(p, s, LET_INTERFERENCE_PRESSURE, FOLDS, r->o->seed, a, &report, e);
  if (!err) r->result.interference_error_p95 = report.held_out.p95;
  return err;
}

static let_err write_profile(run *r, let_error *e) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p = {.device = *r->type};
  p.model = let_arena_array(&a, r->o->n_models, sizeof *p.model);
  let_err err = p.model ? LET_OK : let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t m = 0; !err && m < r->o->n_models; m++)
    if (!r->subject[m].out && describe(r, &r->subject[m], &a, &p.model[p.n_models])) p.n_models++;
  r->result.models = p.n_models;
  if (!err && !p.n_models)
    err = let_fail(e, LET_ERR_INVALID,
                   "no model was measured far enough to be written: give a larger --budget (the journal is kept, the "
                   "next run goes on)");
  let_samples samples = {0};
  if (!err) {
    qsort(p.model, p.n_models, sizeof *p.model, by_name);
    err = collect_samples(r, &p, &a, &samples, e);
    if (!err) err = fit(r, &p, &samples, &a, e);
  }
  r->result.pairs = r->n_groups;
  if (!err) {
    char comment[512];
    snprintf(comment, sizeof comment,
             "Measured by `gpulet profile` on %s (%s): %u cells measured, %u more interpolated to complete the grid\n"
             "(journal.csv has the measured ones); %u groups of models side by side.",
             r->o->device, r->type->name, r->result.cells, r->result.interpolated, r->n_groups);
    err = let_profile_save(r->o->output, &p, samples.n ? &samples : NULL, comment, e);
  }
  let_arena_fini(&a);
  return err;
}

let_err let_measure(const let_measure_options *o, let_measure_result *ret, let_error *e) {
  if (!o->n_models) return let_fail(e, LET_ERR_INVALID, "no models to measure");
  run r = {.o = o, .began = let_now()};
  r.result.interference_error_p95 = -1;
  let_err err = let_runner_open(o->device, o->profile_dir, o->plugin_dir, o->models, o->n_models, &r.runner, e);
  if (err) return err;
  r.type = let_runner_type(r.runner);
  err = prepare(&r, e);
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  if (!err) {
    head(&r, &b);
    err = b.failed ? let_fail(e, LET_ERR_NOMEM, "out of memory")
                   : let_journal_open(&r.journal, o->output, b.p, o->resume, o->models, o->n_models, take, &r, e);
  }
  r.result.resumed = r.result.cells + r.n_groups;
  bool neighbours = r.type->granules >= 2;
  if (!err) err = latencies(&r, r.began + (let_dur)((double)o->budget * (neighbours ? LATENCY_SHARE : 1)), e);
  if (!err && neighbours) err = interference(&r, r.began + o->budget, e);
  if (!err) err = write_profile(&r, e);
  let_buf_fini(&b);
  let_journal_close(&r.journal);
  uint32_t n_subjects = r.subject ? o->n_models : 0;
  for (uint32_t m = 0; m < n_subjects; m++) {
    let_sampler_fini(&r.subject[m].s);
    free(r.subject[m].p99);
  }
  free(r.subject);
  free(r.group);
  free(r.granules);
  let_runner_close(r.runner);
  if (!err) *ret = r.result;
  return err;
}
