#include <stdio.h>
#include <stdlib.h>

#include "profile/csv.h"

/* First measurements name SMs; a gpu-let is granules. One granule more than fits below the device's last, larger one
 * does not exist: 128 of 132 SMs are left out, 116 = 13 * 8 + 12 are 14 granules, the last among them. */
static uint32_t granules_of(const let_device_type *d, uint32_t sms, bool may_hold_last) {
  if (sms == d->sms) return d->granules;
  uint32_t last = d->last_granule_sms, g = sms / d->granule_sms;
  if (sms % d->granule_sms == 0 && g < d->granules) return g;
  if (may_hold_last && sms > last && (sms - last) % d->granule_sms == 0 &&
      (sms - last) / d->granule_sms + 1 < d->granules)
    return (sms - last) / d->granule_sms + 1;
  return 0;
}

typedef struct row {
  char name[LET_NAME_MAX];
  uint32_t batch, granules, line;
  double ms;
} row;

static int by_row(const void *x, const void *y) {
  const row *a = x, *b = y;
  int c = strcmp(a->name, b->name);
  if (c) return c;
  if (a->batch != b->batch) return a->batch < b->batch ? -1 : 1;
  if (a->granules != b->granules) return a->granules < b->granules ? -1 : 1;
  return a->line < b->line ? -1 : a->line > b->line;
}

static uint32_t read_rows(let_csv *c, const let_device_type *d, row *out) {
  uint32_t n = 0;
  while (let_csv_next(c)) {
    row *r = &out[n];
    uint32_t sms = 0;
    r->line = c->line;
    bool ok = let_csv_name(c, 0, r->name);
    ok &= let_csv_u32(c, 1, 1, LET_BATCH_MAX, &r->batch);
    ok &= let_csv_u32(c, 2, 1, d->sms, &sms);
    ok &= let_csv_positive(c, 3, 1e7, &r->ms);
    if (!ok) continue;
    r->granules = granules_of(d, sms, false);
    n += r->granules != 0;
  }
  return n;
}

static uint32_t width(const row *r, uint32_t n, uint32_t i) { /* cells of the batch that starts at i */
  uint32_t k = i + 1;
  while (k < n && strcmp(r[k].name, r[i].name) == 0 && r[k].batch == r[i].batch) k++;
  return k - i;
}

/* Rows of one model; batches with fewer cells than the fullest are left out whole. */
static let_err build(let_profile_model *m, const row *r, uint32_t n, const char *file, let_arena *a, let_problems *ps) {
  uint32_t full = 0;
  for (uint32_t i = 0; i < n; i += width(r, n, i)) full = width(r, n, i) > full ? width(r, n, i) : full;
  memcpy(m->name, r[0].name, sizeof m->name);
  m->cell = let_arena_array(a, n, sizeof *m->cell);
  m->batch = let_arena_array(a, n, sizeof *m->batch);
  m->granule = let_arena_array(a, full, sizeof *m->granule);
  if (!m->cell || !m->batch || !m->granule) return LET_ERR_NOMEM;
  for (uint32_t i = 0, w; i < n; i += w) {
    w = width(r, n, i);
    if (w != full) continue;
    for (uint32_t k = 0; k < w; k++) {
      if (m->n_batches == 0) m->granule[m->n_granules++] = r[i + k].granules;
      if (m->granule[k] != r[i + k].granules || (k && m->granule[k] == m->granule[k - 1]))
        let_problem_add(ps, false, file, r[i + k].line, 0,
                        "model '%s': batch %u has other SM counts than batch %u, or one twice", m->name, r[i].batch,
                        r[0].batch);
      m->cell[m->n_cells++] = (let_cell){r[i].batch, r[i + k].granules, r[i + k].ms, r[i + k].ms};
    }
    m->batch[m->n_batches++] = r[i].batch;
  }
  return LET_OK;
}

static let_err latency(let_profile_file f, let_arena *a, let_profile *p, let_problems *ps) {
  static const char *const names[] = {"model", "batch", "sms", "ms"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 4, 4, false, ps)) return LET_OK;
  row *r = let_arena_array(a, let_csv_lines(f.text), sizeof *r);
  if (!r) return LET_ERR_NOMEM;
  uint32_t n = read_rows(&c, &p->device, r), models = 0;
  qsort(r, n, sizeof *r, by_row);
  for (uint32_t i = 0; i < n; i++) models += i == 0 || strcmp(r[i].name, r[i - 1].name) != 0;
  if (n == 0 && ps->n_errors == 0)
    let_problem_add(ps, false, f.name, 0, 0, "no row is a whole number of granules of '%s'", p->device.name);
  p->model = let_arena_array(a, models, sizeof *p->model);
  if (!p->model) return LET_ERR_NOMEM;
  for (uint32_t i = 0, j; i < n; i = j) {
    for (j = i; j < n && strcmp(r[j].name, r[i].name) == 0;) j++;
    let_err err = build(&p->model[p->n_models++], r + i, j - i, f.name, a, ps);
    if (err) return err;
  }
  return LET_OK;
}

/* One side of a pair: false when its row is no use (a complaint was added, or SMs that are no granules). */
static bool side(const let_csv *c, const let_profile *p, uint32_t at, let_tenant *t, double *solo, double *together,
                 uint32_t *covered) {
  char name[LET_NAME_MAX];
  uint32_t sms = 0;
  bool ok = let_csv_name(c, at, name);
  ok &= let_csv_u32(c, at + 1, 1, LET_BATCH_MAX, &t->batch);
  ok &= let_csv_u32(c, at + 2, 1, p->device.sms, &sms);
  ok &= let_csv_positive(c, at + 3, 1e7, solo);
  ok &= let_csv_positive(c, at + 4, 1e7, together);
  ok &= let_csv_u32(c, at + 5, 0, 1, covered);
  if (!ok) return false;
  t->model = let_profile_find(p, name);
  t->granules = granules_of(&p->device, sms, true);
  t->busy = 1;
  if (t->model == UINT32_MAX) let_csv_problem(c, at, false, "model '%s' is not in latency.csv", name);
  if (t->granules == 0)
    let_csv_problem(c, at + 2, false, "%u SMs are no whole number of granules of '%s'", sms, p->device.name);
  return t->model != UINT32_MAX && t->granules;
}

static let_err pairs(let_profile_file f, let_arena *a, const let_profile *p, let_samples *ret, let_problems *ps) {
  static const char *const names[] = {"m1", "b1", "sm1", "solo1", "co1", "cov1",
                                      "m2", "b2", "sm2", "solo2", "co2", "cov2"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 12, 12, false, ps)) return LET_OK;
  ret->sample = let_arena_array(a, (size_t)let_csv_lines(f.text) * 2, sizeof *ret->sample);
  let_tenant *other = let_arena_array(a, (size_t)let_csv_lines(f.text) * 2, sizeof *other);
  if (!ret->sample || !other) return LET_ERR_NOMEM;
  while (let_csv_next(&c)) {
    let_tenant t[2];
    double solo[2], together[2];
    uint32_t covered[2];
    bool ok = side(&c, p, 0, &t[0], &solo[0], &together[0], &covered[0]);
    ok &= side(&c, p, 6, &t[1], &solo[1], &together[1], &covered[1]);
    for (uint32_t k = 0; ok && k < 2; k++) {
      if (!covered[k]) continue; /* the neighbour did not run all the while: no measurement of this side */
      other[ret->n] = t[1 - k];
      ret->sample[ret->n] = (let_sample){.self = t[k],
                                         .n = 1,
                                         .other = &other[ret->n],
                                         .solo_ms = solo[k],
                                         .together_ms = together[k],
                                         .line = c.line};
      ret->n++;
    }
  }
  return LET_OK;
}

let_err let_profile_import_raw(const char *dir, const let_device_type *device, let_arena *a, let_profile *ret,
                               let_samples *ret_samples, let_error *e) {
  let_profile_file f, g;
  let_err r = let_profile_read(dir, "latency.csv", true, a, &f, e);
  if (!r) r = let_profile_read(dir, "pairs.csv", false, a, &g, e);
  if (r) return r;
  let_problems *ps = let_arena_alloc(a, sizeof *ps);
  if (!ps) return let_fail(e, LET_ERR_NOMEM, "out of memory while reading %s", dir);
  let_profile p = {.device = *device};
  let_samples s = {0};
  r = latency(f, a, &p, ps);
  if (!r && g.text.p && ps->n_errors == 0) r = pairs(g, a, &p, &s, ps);
  if (r) return let_fail(e, r, "out of memory while reading %s", dir);
  if (ps->n_errors) return let_problems_fail(ps, e);
  *ret = p;
  if (ret_samples) *ret_samples = s;
  return LET_OK;
}
