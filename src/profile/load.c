#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/units.h"
#include "profile/csv.h"
#include "profile/yaml.h"

/* Noise that a mean of a few replays has: a rise below both is not worth a word. */
#define NOISE_RATIO 1.05
#define NOISE_MS    0.02
enum { FILE_BYTES_MAX = 64 << 20 };

typedef struct cell_row {
  char name[LET_NAME_MAX];
  let_cell cell;
  uint32_t line;
} cell_row;

static int by_cell(const void *x, const void *y) {
  const cell_row *a = x, *b = y;
  int c = strcmp(a->name, b->name);
  if (c) return c;
  if (a->cell.batch != b->cell.batch) return a->cell.batch < b->cell.batch ? -1 : 1;
  if (a->cell.granules != b->cell.granules) return a->cell.granules < b->cell.granules ? -1 : 1;
  return a->line < b->line ? -1 : a->line > b->line;
}

static int by_u32(const void *x, const void *y) {
  uint32_t a, b;
  memcpy(&a, x, sizeof a), memcpy(&b, y, sizeof b);
  return a < b ? -1 : a > b;
}

/* Sorted, unique values of one field of |n| rows, in the arena. */
static uint32_t *axis_of(const cell_row *row, uint32_t n, bool batch, let_arena *a, uint32_t *ret_n) {
  uint32_t *v = let_arena_array(a, n, sizeof *v), k = 0;
  if (!v) return NULL;
  for (uint32_t i = 0; i < n; i++) v[i] = batch ? row[i].cell.batch : row[i].cell.granules;
  qsort(v, n, sizeof *v, by_u32);
  for (uint32_t i = 0; i < n; i++)
    if (k == 0 || v[k - 1] != v[i]) v[k++] = v[i];
  *ret_n = k;
  return v;
}

/* Every (batch, granules) of the axes must be there: what lies between cells is interpolated, a hole is not. */
static void holes(const let_profile_model *m, const cell_row *row, uint32_t n, const char *file, let_problems *ps) {
  uint32_t k = 0;
  for (uint32_t b = 0; b < m->n_batches; b++)
    for (uint32_t g = 0; g < m->n_granules; g++) {
      if (k < n && row[k].cell.batch == m->batch[b] && row[k].cell.granules == m->granule[g]) {
        k++;
        continue;
      }
      let_problem_add(ps, false, file, row[k < n ? k : n - 1].line, 0,
                      "model '%s': the cell of batch %u on %u granules is missing (measure it, or leave the whole "
                      "batch or granule count out)",
                      m->name, m->batch[b], m->granule[g]);
    }
}

static void noise(const let_profile_model *m, const cell_row *row, const char *file, let_problems *ps) {
  for (uint32_t b = 0; b < m->n_batches; b++)
    for (uint32_t g = 0; g < m->n_granules; g++) {
      uint32_t i = b * m->n_granules + g;
      double v = row[i].cell.p50_ms;
      if (g && v > NOISE_RATIO * row[i - 1].cell.p50_ms && v - row[i - 1].cell.p50_ms > NOISE_MS)
        let_problem_add(ps, true, file, row[i].line, 0,
                        "model '%s', batch %u: latency rises from %g ms on %u granules to %g ms on %u (measured again, "
                        "this should go away)",
                        m->name, m->batch[b], row[i - 1].cell.p50_ms, m->granule[g - 1], v, m->granule[g]);
      if (b && row[i - m->n_granules].cell.p50_ms > NOISE_RATIO * v &&
          row[i - m->n_granules].cell.p50_ms - v > NOISE_MS)
        let_problem_add(ps, true, file, row[i].line, 0,
                        "model '%s' on %u granules: batch %u takes %g ms, less than batch %u with %g ms", m->name,
                        m->granule[g], m->batch[b], v, m->batch[b - 1], row[i - m->n_granules].cell.p50_ms);
    }
}

static let_err build_model(let_profile_model *m, cell_row *row, uint32_t n, const char *file, let_arena *a,
                           let_problems *ps) {
  uint32_t k = 0;
  for (uint32_t i = 0; i < n; i++) {
    if (k && row[k - 1].cell.batch == row[i].cell.batch && row[k - 1].cell.granules == row[i].cell.granules) {
      let_problem_add(ps, false, file, row[i].line, 0,
                      "model '%s', batch %u, %u granules is there twice, first on line %u", row[i].name,
                      row[i].cell.batch, row[i].cell.granules, row[k - 1].line);
      continue;
    }
    row[k++] = row[i];
  }
  n = k;
  memcpy(m->name, row[0].name, sizeof m->name);
  m->batch = axis_of(row, n, true, a, &m->n_batches);
  m->granule = axis_of(row, n, false, a, &m->n_granules);
  m->cell = let_arena_array(a, n, sizeof *m->cell);
  if (!m->batch || !m->granule || !m->cell) return LET_ERR_NOMEM;
  if ((uint64_t)m->n_batches * m->n_granules != n) return holes(m, row, n, file, ps), LET_OK;
  noise(m, row, file, ps);
  for (uint32_t i = 0; i < n; i++) m->cell[i] = row[i].cell;
  m->n_cells = n;
  let_profile_envelope(m);
  return LET_OK;
}

static let_err parse_latency(let_profile_file f, let_arena *a, let_profile *p, let_problems *ps) {
  static const char *const names[] = {"model", "batch", "granules", "p50_ms", "p99_ms"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 5, 5, false, ps)) return LET_OK;
  cell_row *row = let_arena_array(a, let_csv_lines(f.text), sizeof *row);
  if (!row) return LET_ERR_NOMEM;
  uint32_t n = 0, models = 0;
  while (let_csv_next(&c)) {
    cell_row *r = &row[n];
    r->line = c.line;
    bool ok = let_csv_name(&c, 0, r->name);
    ok &= let_csv_u32(&c, 1, 1, LET_BATCH_MAX, &r->cell.batch);
    ok &= let_csv_u32(&c, 2, 1, p->device.granules, &r->cell.granules);
    bool both = let_csv_positive(&c, 3, 1e7, &r->cell.p50_ms);
    both &= let_csv_positive(&c, 4, 1e7, &r->cell.p99_ms);
    if (both && r->cell.p99_ms < r->cell.p50_ms)
      let_csv_problem(&c, 4, false, "p99_ms %g is less than p50_ms %g", r->cell.p99_ms, r->cell.p50_ms), both = false;
    n += ok && both;
  }
  if (n == 0 && ps->n_errors == 0) let_problem_add(ps, false, f.name, 0, 0, "no rows: nothing is measured");
  qsort(row, n, sizeof *row, by_cell);
  for (uint32_t i = 0; i < n; i++) models += i == 0 || strcmp(row[i].name, row[i - 1].name) != 0;
  p->model = let_arena_array(a, models, sizeof *p->model);
  if (!p->model) return LET_ERR_NOMEM;
  for (uint32_t i = 0, j; i < n; i = j) {
    for (j = i; j < n && strcmp(row[j].name, row[i].name) == 0;) j++;
    let_err r = build_model(&p->model[p->n_models++], row + i, j - i, f.name, a, ps);
    if (r) return r;
  }
  return LET_OK;
}

static bool model_of(const let_csv *c, const let_profile *p, let_str s, uint32_t column, uint32_t *ret) {
  char name[LET_NAME_MAX] = "";
  if (s.n && s.n < sizeof name) memcpy(name, s.p, s.n);
  *ret = let_profile_find(p, name);
  if (*ret != UINT32_MAX) return true;
  let_csv_problem(c, column, false, "model '" LET_STR_FMT "' is not in latency.csv", (int)(s.n < 60 ? s.n : 60), s.p);
  return false;
}

typedef struct memory_row {
  uint32_t model, batch, line;
  double mib;
} memory_row;

static int by_memory(const void *x, const void *y) {
  const memory_row *a = x, *b = y;
  if (a->model != b->model) return a->model < b->model ? -1 : 1;
  if (a->batch != b->batch) return a->batch < b->batch ? -1 : 1;
  return a->line < b->line ? -1 : a->line > b->line;
}

static let_err parse_memory(let_profile_file f, let_arena *a, let_profile *p, let_problems *ps) {
  static const char *const names[] = {"model", "batch", "mib"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 3, 3, false, ps)) return LET_OK;
  memory_row *row = let_arena_array(a, let_csv_lines(f.text), sizeof *row);
  if (!row) return LET_ERR_NOMEM;
  uint32_t n = 0;
  while (let_csv_next(&c)) {
    memory_row *r = &row[n];
    r->line = c.line;
    bool ok = model_of(&c, p, let_csv_str(&c, 0), 0, &r->model);
    ok &= let_csv_u32(&c, 1, 1, LET_BATCH_MAX, &r->batch);
    ok &= let_csv_positive(&c, 2, 1e9, &r->mib);
    n += ok;
  }
  qsort(row, n, sizeof *row, by_memory);
  for (uint32_t i = 0, j; i < n; i = j) {
    let_profile_model *m = &p->model[row[i].model];
    for (j = i; j < n && row[j].model == row[i].model;) j++;
    m->memory = let_arena_array(a, j - i, sizeof *m->memory);
    if (!m->memory) return LET_ERR_NOMEM;
    for (uint32_t k = i; k < j; k++) {
      if (k > i && row[k].batch == row[k - 1].batch) {
        let_problem_add(ps, false, f.name, row[k].line, 0, "model '%s' at batch %u is there twice", m->name,
                        row[k].batch);
        continue;
      }
      m->memory[m->n_memory].batch = row[k].batch;
      m->memory[m->n_memory++].bytes = (uint64_t)(row[k].mib * 0x1p20);
    }
  }
  return LET_OK;
}

static void parse_inputs(let_profile_file f, let_profile *p, let_problems *ps) {
  static const char *const names[] = {"model", "input_bytes"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 2, 2, false, ps)) return;
  while (let_csv_next(&c)) {
    uint32_t m;
    double bytes;
    bool ok = model_of(&c, p, let_csv_str(&c, 0), 0, &m);
    ok &= let_csv_positive(&c, 1, 1e12, &bytes);
    if (!ok) continue;
    if (p->model[m].input_bytes) let_csv_problem(&c, 0, false, "model '%s' is there twice", p->model[m].name);
    p->model[m].input_bytes = (uint64_t)bytes;
  }
}

/* "name:batch:granules", read from its end: a name may hold ':'. */
static bool neighbour(const let_csv *c, const let_profile *p, let_str s, let_tenant *ret) {
  let_str part[2];
  let_str rest = s;
  for (int k = 1; k >= 0; k--) {
    size_t i = rest.n;
    while (i > 0 && rest.p[i - 1] != ':') i--;
    if (i == 0)
      return let_csv_problem(c, 3, false, "neighbour '" LET_STR_FMT "' must be name:batch:granules",
                             (int)(s.n < 60 ? s.n : 60), s.p),
             false;
    part[k] = (let_str){rest.p + i, rest.n - i};
    rest.n = i - 1;
  }
  int64_t v[2];
  let_error e = {0};
  for (int k = 0; k < 2; k++)
    if (let_parse_i64(part[k], 1, k ? p->device.granules : LET_BATCH_MAX, &v[k], &e))
      return let_csv_problem(c, 3, false, "neighbour's %s: %.180s", k ? "granules" : "batch", e.text), false;
  *ret = (let_tenant){.batch = (uint32_t)v[0], .granules = (uint32_t)v[1], .busy = 1};
  return model_of(c, p, rest, 3, &ret->model);
}

static let_err neighbours(const let_csv *c, const let_profile *p, let_arena *a, let_sample *s, bool *ret_ok) {
  let_str text = let_csv_str(c, 3);
  let_tenant t[LET_NEIGHBOURS_MAX];
  uint32_t total = s->self.granules;
  *ret_ok = false;
  for (size_t i = 0, from = 0; i <= text.n; i++) {
    if (i < text.n && text.p[i] != '+') continue;
    if (s->n == LET_NEIGHBOURS_MAX)
      return let_csv_problem(c, 3, false, "more than %d neighbours", LET_NEIGHBOURS_MAX), LET_OK;
    if (!neighbour(c, p, (let_str){text.p + from, i - from}, &t[s->n])) return LET_OK;
    total += t[s->n++].granules;
    from = i + 1;
  }
  if (total > p->device.granules)
    return let_csv_problem(c, 3, false, "%u granules together, the device has %u", total, p->device.granules), LET_OK;
  s->other = let_arena_array(a, s->n, sizeof *t);
  if (!s->other) return LET_ERR_NOMEM;
  memcpy(s->other, t, s->n * sizeof *t);
  return *ret_ok = true, LET_OK;
}

static let_err parse_samples(let_profile_file f, let_arena *a, const let_profile *p, let_samples *ret,
                             let_problems *ps) {
  static const char *const names[] = {"model", "batch", "granules", "neighbours", "solo_ms", "together_ms"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 6, 6, false, ps)) return LET_OK;
  ret->sample = let_arena_array(a, let_csv_lines(f.text), sizeof *ret->sample);
  if (!ret->sample) return LET_ERR_NOMEM;
  while (let_csv_next(&c)) {
    let_sample *s = &ret->sample[ret->n];
    *s = (let_sample){.line = c.line, .self.busy = 1};
    bool ok = model_of(&c, p, let_csv_str(&c, 0), 0, &s->self.model), more = false;
    ok &= let_csv_u32(&c, 1, 1, LET_BATCH_MAX, &s->self.batch);
    ok &= let_csv_u32(&c, 2, 1, p->device.granules, &s->self.granules);
    let_err r = neighbours(&c, p, a, s, &more);
    if (r) return r;
    ok &= more;
    ok &= let_csv_positive(&c, 4, 1e7, &s->solo_ms);
    ok &= let_csv_positive(&c, 5, 1e7, &s->together_ms);
    if (ok && s->together_ms < 0.5 * s->solo_ms)
      let_csv_problem(&c, 5, false, "together_ms %g is less than half of solo_ms %g: these were not measured alike",
                      s->together_ms, s->solo_ms),
          ok = false;
    ret->n += ok;
  }
  return LET_OK;
}

let_err let_profile_parse(const let_profile_texts *t, let_arena *a, let_profile *ret, let_samples *ret_samples,
                          let_problems *ps, let_error *e) {
  let_profile p = {0};
  let_samples s = {0};
  let_err r = LET_OK;
  const let_profile_file *must[] = {&t->device, &t->latency};
  for (int i = 0; i < 2; i++)
    if (!must[i]->text.p) let_problem_add(ps, false, must[i]->name, 0, 0, "the file is missing");
  /* Rows of the other files are judged against the device and the models: without those, only noise would follow. */
  if (ps->n_errors == 0 && let_device_parse(t->device, &p.device, ps)) {
    r = parse_latency(t->latency, a, &p, ps);
    if (!r && t->memory.text.p) r = parse_memory(t->memory, a, &p, ps);
    if (!r && t->inputs.text.p) parse_inputs(t->inputs, &p, ps);
    if (!r && t->samples.text.p) r = parse_samples(t->samples, a, &p, &s, ps);
    if (!r && t->fit.text.p) r = let_fit_parse(t->fit, a, &p, ps);
  }
  if (r == LET_ERR_NOMEM) return let_fail(e, r, "out of memory while reading %s", t->latency.name);
  if (ps->n_errors) return let_problems_fail(ps, e);
  *ret = p;
  if (ret_samples) *ret_samples = s;
  return LET_OK;
}

let_err let_profile_read(const char *dir, const char *name, bool required, let_arena *a, let_profile_file *ret,
                         let_error *e) {
  char path[4096];
  int len = snprintf(path, sizeof path, "%s/%s", dir, name);
  if (len < 0 || (size_t)len >= sizeof path) return let_fail(e, LET_ERR_INVALID, "the path of %s is too long", name);
  ret->name = let_arena_strdup(a, path, (size_t)len);
  ret->text = (let_str){NULL, 0};
  if (!ret->name) return let_fail(e, LET_ERR_NOMEM, "out of memory while reading %s", path);
  FILE *f = fopen(path, "rb");
  if (!f && errno == ENOENT && !required) return LET_OK;
  if (!f)
    return let_fail(e, errno == ENOENT || errno == ENOTDIR ? LET_ERR_NOT_FOUND : LET_ERR_IO, "%s: %s", path,
                    strerror(errno));
  struct stat st;
  let_err r = LET_OK;
  char *text = NULL;
  size_t n = 0;
  if (fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) r = let_fail(e, LET_ERR_IO, "%s: not a file", path);
  else if (st.st_size > FILE_BYTES_MAX)
    r = let_fail(e, LET_ERR_TOO_LARGE, "%s: larger than %d MiB", path, FILE_BYTES_MAX >> 20);
  else if (!(text = let_arena_alloc(a, (size_t)st.st_size + 1)))
    r = let_fail(e, LET_ERR_NOMEM, "out of memory while reading %s", path);
  else {
    n = fread(text, 1, (size_t)st.st_size, f);
    if (ferror(f)) r = let_fail(e, LET_ERR_IO, "%s: %s", path, strerror(errno));
  }
  fclose(f);
  if (!r) ret->text = (let_str){text, n};
  return r;
}

let_err let_profile_load_all(const char *dir, let_arena *a, let_profile *ret, let_samples *ret_samples,
                             let_problems *ps, let_error *e) {
  let_profile_texts t = {0};
  let_profile_file *file[] = {&t.device, &t.latency, &t.memory, &t.inputs, &t.samples, &t.fit};
  static const char *const name[] = {"device.yaml", "latency.csv",      "memory.csv",
                                     "inputs.csv",  "interference.csv", "interference.yaml"};
  for (int i = 0; i < 6; i++) {
    let_err r = let_profile_read(dir, name[i], i < 2, a, file[i], e);
    if (r) return r;
  }
  let_problems *own = ps ? ps : calloc(1, sizeof *own);
  if (!own) return let_fail(e, LET_ERR_NOMEM, "out of memory while reading %s", dir);
  let_err r = let_profile_parse(&t, a, ret, ret_samples, own, e);
  if (!ps) free(own);
  return r;
}

let_err let_profile_load(const char *dir, let_arena *a, let_profile *ret, let_error *e) {
  return let_profile_load_all(dir, a, ret, NULL, NULL, e);
}

let_err let_profile_validate(const char *dir, let_problems *ps, let_error *e) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_err r = let_profile_load_all(dir, &a, &p, NULL, ps, e);
  let_arena_fini(&a);
  return r;
}
