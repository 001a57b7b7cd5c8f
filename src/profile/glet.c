#include "profile/glet.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "profile/csv.h"

enum { GRANULES = 10 };
static const char *const task_models[] = {
    "lenet1",   "lenet2",          "lenet3", "lenet4",     "lenet5",       "lenet6",      "googlenet",
    "resnet50", "ssd-mobilenetv1", "vgg16",  "mnasnet1_0", "mobilenet_v2", "densenet161", "bert"};
enum { TASK_MODELS = sizeof task_models / sizeof *task_models };

let_err let_glet_tasks(let_profile_file f, let_arena *a, let_workload *ret, let_error *e) {
  static const char *const count[] = {"number of tasks"}, *const names[] = {"model_id", "rate", "slo_ms"};
  let_problems *ps = let_arena_alloc(a, sizeof *ps);
  let_demand *d = let_arena_array(a, let_csv_lines(f.text), sizeof *d);
  if (!ps || !d) return let_fail(e, LET_ERR_NOMEM, "out of memory while reading %s", f.name);
  let_csv c;
  uint32_t want = 0, n = 0;
  let_csv_open_bare(&c, f, count, 1, ps);
  if (!let_csv_next(&c)) {
    if (!ps->n_errors)
      let_problem_add(ps, false, f.name, 0, 0, "the file is empty: its first line must be the number of tasks");
  } else if (let_csv_u32(&c, 0, 0, 100000, &want)) {
    let_csv rest = c;
    let_csv_open_bare(&c, f, names, 3, ps);
    c.at = rest.at, c.line = rest.line;
    while (let_csv_next(&c)) {
      uint32_t id;
      double slo;
      bool ok = let_csv_u32(&c, 0, 0, TASK_MODELS - 1, &id);
      ok &= let_csv_f64(&c, 1, 0, 1e9, &d[n].rate);
      ok &= let_csv_positive(&c, 2, 1e7, &slo);
      if (!ok) continue;
      snprintf(d[n].name, sizeof d[n].name, "%s", task_models[id]);
      d[n++].slo = (let_dur)llround(slo * 1e6);
    }
    if (n != want && !ps->n_errors) let_problem_add(ps, false, f.name, 1, 1, "says %u tasks, %u follow", want, n);
  }
  if (ps->n_errors) return let_problems_fail(ps, e);
  *ret = (let_workload){n, d};
  return LET_OK;
}

static json_t *json_of(let_profile_file f, let_error *e) {
  json_error_t je;
  json_t *j = json_loadb(f.text.p, f.text.n, JSON_REJECT_DUPLICATES, &je);
  if (!j) (void)let_fail(e, LET_ERR_INVALID, "%s:%d:%d: %s", f.name, je.line, je.column, je.text);
  return j;
}

static bool text_of(const json_t *o, const char *key, char *out, size_t size) {
  const char *s = json_string_value(json_object_get(o, key));
  return s && strlen(s) < size && snprintf(out, size, "%s", s) > 0;
}

static let_err device_of(const char *file, const json_t *root, const char *want, let_glet_device *d, let_error *e) {
  const json_t *list = json_object_get(root, "device_specs"), *o;
  size_t i;
  if (!json_is_array(list)) return let_fail(e, LET_ERR_INVALID, "%s: device_specs: must be a list", file);
  json_array_foreach(list, i, o) {
    if (!text_of(o, "type", d->type, sizeof d->type))
      return let_fail(e, LET_ERR_INVALID, "%s: device_specs[%zu].type: must be a short string", file, i);
    if (want[0] && strcmp(d->type, want) != 0) continue;
    d->memory_mib = json_number_value(json_object_get(o, "mem_mb"));
    if (!(d->memory_mib > 0 && d->memory_mib < 1e9))
      return let_fail(e, LET_ERR_INVALID, "%s: device_specs[%zu].mem_mb: must be a number above 0", file, i);
    if (!text_of(o, "latency_prof_file", d->latency, sizeof d->latency) ||
        !text_of(o, "interference_const_file", d->constants, sizeof d->constants) ||
        !text_of(o, "interference_util_file", d->util, sizeof d->util))
      return let_fail(e, LET_ERR_INVALID,
                      "%s: device_specs[%zu]: latency_prof_file, interference_const_file and interference_util_file "
                      "must be strings",
                      file, i);
    return LET_OK;
  }
  return let_fail(e, LET_ERR_NOT_FOUND, "%s: device_specs has no type '%s'", file, want);
}

let_err let_glet_devices(let_profile_file devices, let_profile_file sched, const char *want, let_glet_device *ret,
                         let_error *e) {
  let_glet_device d = {.latency_ratio = 1};
  char type[64] = "";
  let_err r = LET_OK;
  if (sched.text.p) {
    json_t *j = json_of(sched, e);
    if (!j) return LET_ERR_INVALID;
    const json_t *ratio = json_object_get(j, "Latency Ratio");
    if (ratio) d.latency_ratio = json_number_value(ratio);
    if (!(d.latency_ratio >= 1 && d.latency_ratio <= 100))
      r = let_fail(e, LET_ERR_INVALID, "%s: Latency Ratio: must be a number from 1 to 100", sched.name);
    (void)text_of(json_array_get(json_object_get(j, "GPUs"), 0), "Type", type, sizeof type);
    json_decref(j);
  }
  if (r) return r;
  json_t *j = json_of(devices, e);
  if (!j) return LET_ERR_INVALID;
  r = device_of(devices.name, j, want ? want : type, &d, e);
  json_decref(j);
  if (!r) *ret = d;
  return r;
}

static bool part_of(const let_csv *c, uint32_t *ret) {
  double part;
  if (!let_csv_positive(c, 1, 100, &part)) return false;
  *ret = (uint32_t)(part / (100.0 / GRANULES) + 0.5);
  if (*ret >= 1 && fabs(*ret * (100.0 / GRANULES) - part) < 1e-6) return true;
  let_csv_problem(c, 1, false, "part %g is no multiple of %d %%", part, 100 / GRANULES);
  return false;
}

/* latency.csv of the prototype -> our text, so that one reader checks both. lenet is served six times over. */
static bool latency_text(const let_glet_texts *t, const let_glet_device *d, let_buf *out, let_problems *ps) {
  static const char *const names[] = {"model", "part", "batch", "latency_ms"};
  let_csv c;
  let_csv_open_bare(&c, t->latency, names, 4, ps);
  let_buf_str(out, "model,batch,granules,p50_ms,p99_ms\n");
  while (let_csv_next(&c)) {
    char name[LET_NAME_MAX];
    uint32_t granules, batch;
    double ms;
    bool ok = let_csv_name(&c, 0, name);
    ok &= part_of(&c, &granules);
    ok &= let_csv_u32(&c, 2, 1, LET_BATCH_MAX, &batch);
    ok &= let_csv_positive(&c, 3, 1e6, &ms);
    if (!ok) continue;
    bool lenet = strcmp(name, "lenet") == 0;
    for (int k = lenet ? 1 : 0; k <= (lenet ? 6 : 0); k++) {
      let_buf_fmt(out, "%s", name);
      if (k) let_buf_fmt(out, "%d", k);
      let_buf_fmt(out, ",%u,%u,%.9g,%.9g\n", batch, granules, ms, ms * d->latency_ratio);
    }
  }
  return ps->n_errors == 0;
}

static let_err memory_of(let_profile_file f, let_profile *p, let_arena *a, let_error *e) {
  json_t *j = json_of(f, e);
  if (!j) return LET_ERR_INVALID;
  const json_t *list = json_object_get(j, "models"), *o;
  size_t i;
  let_err r = json_is_array(list) ? LET_OK : let_fail(e, LET_ERR_INVALID, "%s: models: must be a list", f.name);
  json_array_foreach(list, i, o) {
    char name[LET_NAME_MAX];
    double mb = json_number_value(json_object_get(o, "mem"));
    if (r) break;
    if (!text_of(o, "name", name, sizeof name) || !(mb > 0 && mb < 1e9)) {
      r = let_fail(e, LET_ERR_INVALID, "%s: models[%zu]: must have a name and a mem above 0", f.name, i);
      break;
    }
    uint32_t m = let_profile_find(p, name);
    if (m == UINT32_MAX) continue; /* listed, not profiled on this device */
    let_profile_model *pm = &p->model[m];
    pm->memory = let_arena_array(a, 1, sizeof *pm->memory);
    if (!pm->memory) r = let_fail(e, LET_ERR_NOMEM, "out of memory");
    else
      pm->n_memory = 1, pm->memory[0].batch = pm->batch[pm->n_batches - 1],
      pm->memory[0].bytes = (uint64_t)(mb * 0x1p20);
  }
  json_decref(j);
  return r;
}

typedef struct util_row {
  char name[LET_NAME_MAX];
  uint32_t batch;
  double l2, dram;
} util_row;

static int by_batch(const void *x, const void *y) {
  const util_row *a = x, *b = y;
  return a->batch < b->batch ? -1 : a->batch > b->batch;
}

/* The prototype interpolates between powers of two: other batches of UTIL.CSV are not used. */
static let_err util_of(let_profile_file f, let_profile *p, let_arena *a, let_problems *ps) {
  static const char *const names[] = {"bench", "batch", "l2_util(%)", "mem_util(%)"};
  let_csv c;
  util_row *row = let_arena_array(a, let_csv_lines(f.text), sizeof *row);
  if (!row) return LET_ERR_NOMEM;
  uint32_t n = 0;
  if (!let_csv_open(&c, f, names, 4, 4, true, ps)) return LET_OK;
  while (let_csv_next(&c)) {
    util_row *u = &row[n];
    bool ok = let_csv_name(&c, 0, u->name);
    ok &= let_csv_u32(&c, 1, 1, LET_BATCH_MAX, &u->batch);
    ok &= let_csv_f64(&c, 2, 0, 100, &u->l2);
    ok &= let_csv_f64(&c, 3, 0, 100, &u->dram);
    n += ok && (u->batch & (u->batch - 1)) == 0;
  }
  qsort(row, n, sizeof *row, by_batch);
  for (uint32_t m = 0; m < p->n_models; m++) {
    let_profile_model *pm = &p->model[m];
    bool lenet = strncmp(pm->name, "lenet", 5) == 0;
    pm->pressure = let_arena_array(a, n, sizeof *pm->pressure);
    if (!pm->pressure) return LET_ERR_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
      if (strcmp(row[i].name, pm->name) != 0 && !(lenet && strcmp(row[i].name, "lenet") == 0)) continue;
      if (pm->n_pressure && pm->pressure[pm->n_pressure - 1].batch == row[i].batch)
        continue; /* measured twice: the first */
      pm->pressure[pm->n_pressure].batch = row[i].batch;
      pm->pressure[pm->n_pressure++].p = (let_pressure){.l2_util = row[i].l2 / 100, .dram_util = row[i].dram / 100};
    }
  }
  return LET_OK;
}

static void constants_of(let_profile_file f, let_profile *p, let_problems *ps) {
  static const char *const names[] = {"l2_util_m1", "l2_util_m2", "dram_util_m1", "dram_util_m2", "constant"};
  let_csv c;
  if (!let_csv_open(&c, f, names, 5, 5, false, ps)) return;
  if (!let_csv_next(&c)) {
    if (!ps->n_errors) let_problem_add(ps, false, f.name, 0, 0, "the row of constants is missing");
    return;
  }
  for (uint32_t i = 0; i < 5; i++) (void)let_csv_f64(&c, i, -100, 100, &p->coef[LET_COEF_L2_SELF + i]);
  p->interference = LET_INTERFERENCE_LINEAR;
  for (uint32_t m = 0; m < p->n_models; m++) /* a model without a row of its own is taken for the worst of them */
    for (uint32_t i = 0; i < p->model[m].n_pressure; i++) {
      p->coef[LET_COEF_DEFAULT_L2] = fmax(p->coef[LET_COEF_DEFAULT_L2], p->model[m].pressure[i].p.l2_util);
      p->coef[LET_COEF_DEFAULT_DRAM] = fmax(p->coef[LET_COEF_DEFAULT_DRAM], p->model[m].pressure[i].p.dram_util);
    }
}

let_err let_glet_parse(const let_glet_texts *t, const let_glet_device *d, let_arena *a, let_profile *ret,
                       let_error *e) {
  let_problems *ps = let_arena_alloc(a, sizeof *ps);
  if (!ps) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  /* 68 SMs on both cards of the paper; shares are what counts, so an unknown card gets one SM a granule. */
  bool known = strcmp(d->type, "2080ti") == 0 || strcmp(d->type, "3080") == 0;
  char device[512];
  snprintf(device, sizeof device,
           "type: %s\nsms: %d\ngranules: %d\ngranule_sms: %d\nlast_granule_sms: %d\nmemory_mib: %.9g\n", d->type,
           known ? 68 : GRANULES, GRANULES, known ? 6 : 1, known ? 14 : 1, d->memory_mib);
  let_buf latency;
  let_buf_init(&latency, &let_mem_libc);
  let_profile p;
  let_err r = LET_OK;
  if (!latency_text(t, d, &latency, ps)) r = let_problems_fail(ps, e);
  else if (latency.failed) r = let_fail(e, LET_ERR_NOMEM, "out of memory");
  let_profile_texts own = {.device = {t->devices.name, let_str_c(device)},
                           .latency = {t->latency.name, {latency.p, latency.n}}};
  if (!r) r = let_profile_parse(&own, a, &p, NULL, ps, e);
  let_buf_fini(&latency);
  if (r) return r;
  if (t->memory.text.p) r = memory_of(t->memory, &p, a, e);
  if (!r && t->util.text.p && util_of(t->util, &p, a, ps)) r = let_fail(e, LET_ERR_NOMEM, "out of memory");
  if (!r && t->util.text.p && t->constants.text.p) constants_of(t->constants, &p, ps);
  if (!r && ps->n_errors) r = let_problems_fail(ps, e);
  if (!r) *ret = p;
  return r;
}

/* "InputDim": [3,224,224] of the model's first input -> "3_224_224.txt", and the bytes of one row. */
static let_err input_of(const char *dir, const char *model, let_arena *a, char *table, size_t size, uint64_t *ret_bytes,
                        let_error *e) {
  char path[LET_NAME_MAX + 16];
  let_profile_file f;
  snprintf(path, sizeof path, "config/%s.json", model);
  let_err r = strchr(model, '/') ? LET_OK : let_profile_read(dir, path, false, a, &f, e);
  if (r || strchr(model, '/') || !f.text.p) return r;
  json_t *j = json_of(f, e);
  if (!j) return LET_ERR_INVALID;
  const json_t *input = json_array_get(json_object_get(j, "Input"), 0), *dims = json_object_get(input, "InputDim"), *o;
  const char *type = json_string_value(json_object_get(input, "InputType"));
  size_t i, at = 0;
  double bytes = type && strcmp(type, "INT64") == 0 ? 8 : 4;
  json_array_foreach(dims, i, o) {
    double v = json_number_value(o);
    if (!(v >= 1 && v < 1e6) || at >= size) break;
    at += (size_t)snprintf(table + at, size - at, "%s%.0f", i ? "_" : "", v);
    bytes *= v;
  }
  if (at && at + 4 < size && bytes < 1e12) {
    memcpy(table + at, ".txt", 5);
    *ret_bytes = (uint64_t)bytes;
  } else table[0] = 0;
  json_decref(j);
  return LET_OK;
}

static let_err overhead_add(const char *dir, const char *table, double ratio, let_profile_model *m, let_arena *a,
                            let_problems *ps, let_error *e) {
  static const char *const names[] = {"batch", "overhead_ms"};
  let_profile_file f;
  let_err r = let_profile_read(dir, table, false, a, &f, e);
  if (r || !f.text.p) return r;
  double ms[LET_BATCH_MAX + 1] = {0};
  let_csv c;
  let_csv_open_bare(&c, f, names, 2, ps);
  while (let_csv_next(&c)) {
    uint32_t b;
    double v;
    bool ok = let_csv_u32(&c, 0, 1, LET_BATCH_MAX, &b);
    ok &= let_csv_f64(&c, 1, 0, 1e6, &v);
    if (ok) ms[b] = v;
  }
  if (ps->n_errors) return let_problems_fail(ps, e);
  for (uint32_t i = 0; i < m->n_cells; i++) {
    let_cell *x = &m->cell[i];
    if (ms[x->batch] <= 0)
      return let_fail(e, LET_ERR_INVALID, "%s: no batching overhead for batch %u, which model '%s' is measured at",
                      f.name, x->batch, m->name);
    x->p50_ms += ms[x->batch], x->p99_ms += ms[x->batch] * ratio;
  }
  let_profile_envelope(m);
  return LET_OK;
}

let_err let_glet_import(const char *dir, const char *device, let_arena *a, let_profile *ret, let_error *e) {
  let_glet_texts t = {0};
  let_glet_device d;
  let_err r = let_profile_read(dir, "device-config.json", true, a, &t.devices, e);
  if (!r) r = let_profile_read(dir, "sched-config.json", false, a, &t.sched, e);
  if (!r) r = let_glet_devices(t.devices, t.sched, device, &d, e);
  if (!r) r = let_profile_read(dir, d.latency, false, a, &t.latency, e);
  if (!r && !t.latency.text.p)
    return let_fail(e, LET_ERR_NOT_FOUND,
                    "%s: no such file: the prototype does not publish its latency table; measure it with its profiling "
                    "scripts (rows model,part,batch,latency_ms) or measure this machine with 'gpulet profile'",
                    t.latency.name);
  if (!r) r = let_profile_read(dir, d.util, false, a, &t.util, e);
  if (!r) r = let_profile_read(dir, d.constants, false, a, &t.constants, e);
  if (!r) r = let_profile_read(dir, "mem-config.json", false, a, &t.memory, e);
  let_profile p;
  if (!r) r = let_glet_parse(&t, &d, a, &p, e);
  let_problems *ps = let_arena_alloc(a, sizeof *ps);
  if (!ps) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t m = 0; !r && m < p.n_models; m++) {
    char table[128] = "";
    r = input_of(dir, p.model[m].name, a, table, sizeof table, &p.model[m].input_bytes, e);
    if (!r && table[0]) r = overhead_add(dir, table, d.latency_ratio, &p.model[m], a, ps, e);
  }
  if (!r) *ret = p;
  return r;
}
