/* run.c: `gpulet run`: one model on one share of one device, batch after batch, in this process. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/rng.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "conf/repository.h"
#include "device/device.h"
#include "engine/open.h"
#include "os/clock.h"

typedef struct options {
  const char *device, *profile, *plugin_dir;
  double share, rtol, atol;
  int64_t batch, count, warmup, varying, seed;
  let_dur interval, timeout;
  bool json, verify, replay;
} options;

#define FIELD(f) offsetof(options, f)
static const let_option table[] = {
    {"device", LET_OPTION_STR, FIELD(device), "D", "auto", "cpu, cpu:0-3, cuda:0, sim:h200; of several, the first"},
    {"share", LET_OPTION_F64, FIELD(share), "PERCENT", "100", "part of the device, rounded to whole granules",
     .min = 0.01, .max = 100},
    {"batch", LET_OPTION_I64, FIELD(batch), "N", "1", "rows of a batch", .min = 1, .max = LET_BATCH_MAX},
    {"count", LET_OPTION_I64, FIELD(count), "N", "100", "batches to measure", .min = 1, .max = 1000000},
    {"warmup", LET_OPTION_I64, FIELD(warmup), "N", "5", "batches to run first, not measured", .min = 0, .max = 1000000},
    {"interval", LET_OPTION_DUR, FIELD(interval), "TIME", "0",
     "from the start of a batch to the start of the next; 0: back to back"},
    {"varying", LET_OPTION_I64, FIELD(varying), "N", "16", "what a dimension of -1 is set to", .min = 1,
     .max = 1 << 20},
    {"seed", LET_OPTION_I64, FIELD(seed), "N", "1", "of the random inputs"},
    {"timeout", LET_OPTION_DUR, FIELD(timeout), "TIME", "60s", "longest time of one batch", .min = 1e6, .max = 1e15},
    {"profile", LET_OPTION_STR, FIELD(profile), "DIR", "", "profile directory: latencies of a sim device"},
    {"plugin-dir", LET_OPTION_STR, FIELD(plugin_dir), "DIR", "",
     "where libgpulet_torch.so is, if not beside the program"},
    {"verify", LET_OPTION_BOOL, FIELD(verify), NULL, NULL,
     "first compare with MODEL_DIR/reference/batchN.txt (see models/export.py)"},
    {"rtol", LET_OPTION_F64, FIELD(rtol), "X", "1e-4", "--verify: allowed difference of a value, relative to it",
     .max = 1},
    {"atol", LET_OPTION_F64, FIELD(atol), "X", "1e-5",
     "--verify: allowed in addition, relative to the largest value of the tensor", .max = 1},
    {"replay", LET_OPTION_BOOL, FIELD(replay), NULL, NULL,
     "also the device's own speed: launches one behind the other, without copies or waiting"},
    {"json", LET_OPTION_BOOL, FIELD(json), NULL, NULL, "one JSON document instead of the table"},
};

typedef struct session {
  const options *o;
  let_model m;
  let_device *device;
  let_gpulet *g;
  const let_engine *engine;
  let_engine_model *em;
  let_exec *x;
  uint32_t granules;
  let_exec_tensor in[LET_TENSORS_MAX]; /* host side; the whole batch */
  let_pinned out;
  let_dur load, prepare, *took;
  const char *note;
  double replay; /* rows/s of bare launches; 0: not measured */
} session;

/* ---- inputs */

static uint64_t rows_of(const session *s) { return s->m.max_batch ? (uint64_t)s->o->batch : 1; }

/* Values any model accepts: floats in [0, 1), whole numbers small enough for a vocabulary. */
static void fill(let_dtype t, void *p, uint64_t bytes, let_rng *r) {
  uint64_t size = let_dtype_size(t);
  for (uint64_t i = 0; i < bytes / size; i++) {
    char *at = (char *)p + i * size;
    double d = let_rng_unit(r);
    float f = (float)d;
    uint64_t whole = let_rng_below(r, t == LET_DTYPE_BOOL ? 2 : 100);
    uint16_t half = t == LET_DTYPE_FP16 ? (uint16_t)(0x3800 | (whole << 3)) : (uint16_t)(0x3f00 | whole); /* 0.5 to 1 */
    if (t == LET_DTYPE_FP32) memcpy(at, &f, 4);
    else if (t == LET_DTYPE_FP64) memcpy(at, &d, 8);
    else if (t == LET_DTYPE_FP16 || t == LET_DTYPE_BF16) memcpy(at, &half, 2);
    else memcpy(at, &whole, size); /* little-endian */
  }
}

static let_err make_inputs(session *s, let_error *e) {
  let_rng rng;
  let_rng_seed(&rng, (uint64_t)s->o->seed);
  for (unsigned k = 0; k < s->m.n_inputs; k++) {
    const let_tensor_spec *t = &s->m.input[k];
    let_exec_tensor *x = &s->in[k];
    uint64_t bytes = let_dtype_size(t->dtype);
    if (bytes == 0)
      return let_fail(e, LET_ERR_UNSUPPORTED, "input '%s' has type %s, whose elements vary in size", t->name,
                      let_dtype_pb_name(t->dtype));
    *x = (let_exec_tensor){.dtype = (uint8_t)t->dtype};
    if (s->m.max_batch) x->shape[x->rank++] = s->o->batch;
    for (unsigned i = 0; i < t->rank; i++) {
      int64_t d = t->dims[i] < 0 ? s->o->varying : t->dims[i];
      x->shape[x->rank++] = d;
      if (__builtin_mul_overflow(bytes, (uint64_t)d, &bytes) || bytes > UINT64_C(1) << 36)
        return let_fail(e, LET_ERR_TOO_LARGE, "input '%s' is larger than 64 GiB", t->name);
    }
    x->row_bytes = bytes;
    bytes *= rows_of(s);
    x->data = malloc(bytes);
    if (!x->data)
      return let_fail(e, LET_ERR_NOMEM, "out of memory for %llu bytes of input '%s'", (unsigned long long)bytes,
                      t->name);
    fill(t->dtype, x->data, bytes, &rng);
    let_err r = s->device->i->pin(s->device, x->data, bytes, e);
    if (r) return r;
  }
  return LET_OK;
}

/* ---- set-up */

static let_err open_device(session *s, let_error *e) {
  let_device_name names[64];
  uint32_t n = 0;
  let_err r = let_device_list(s->o->device, s->o->profile, names, 64, &n, e);
  if (!r && n == 0) r = let_fail(e, LET_ERR_NOT_FOUND, "--device %s names no device", s->o->device);
  if (!r) r = let_device_open(names[0].name, s->o->profile, &s->device, e);
  if (r) return r;
  const let_device_type *t = s->device->i->type(s->device);
  s->granules = (uint32_t)lround(s->o->share * t->granules / 100);
  if (s->granules < 1) s->granules = 1;
  if (s->granules > t->granules) s->granules = t->granules;
  if ((r = s->device->i->open(s->device, 0, 0, s->granules, false, &s->g, e))) return r;
  return s->device->i->enter(s->g, e);
}

static let_err load(session *s, let_error *e) {
  let_engine_target t = {0};
  s->device->i->target(s->g, &t);
  bool sim = strcmp(s->device->i->name, "sim") == 0; /* it has latencies, not models */
  let_err r = let_engine_open(sim ? "null" : s->m.backend, s->o->plugin_dir, &s->engine, e);
  if (r) return r;
  let_time start = let_now();
  if ((r = s->engine->load(&s->m, t.cuda, &s->em, e))) return r;
  let_time loaded = let_now();
  s->load = loaded - start;
  if ((r = s->engine->enter(&t, e)) || (r = s->engine->prepare(s->em, &t, (uint32_t)rows_of(s), 0, &s->x, &s->note, e)))
    return r;
  s->x->model = s->m.name;
  s->prepare = let_now() - loaded;
  return LET_OK;
}

/* ---- batches */

static let_err take_outputs(session *s, let_error *e) {
  const let_device_i *d = s->device->i;
  uint64_t rows = rows_of(s), need = 0, at = 0;
  for (unsigned k = 0; k < s->x->n_out; k++) need += s->x->out[k].row_bytes * rows;
  /* It grows the first time, or when shapes vary: before anything is in flight into it. */
  let_err r = let_pinned_reserve(s->device, &s->out, need, e);
  for (unsigned k = 0; !r && k < s->x->n_out; k++) {
    uint64_t n = s->x->out[k].row_bytes * rows;
    if (n) r = d->copy_out(s->g, (char *)s->out.p + at, s->x->out[k].data, n, e);
    at += n;
  }
  return r;
}

static let_err batch(session *s, let_dur *ret, let_error *e) {
  const let_device_i *d = s->device->i;
  let_time start = let_now(), began, ended;
  let_err r = LET_OK;
  if (s->x->dynamic) {
    r = let_device_launch_varying(s->g, s->x, s->in, (uint32_t)rows_of(s), e);
  } else {
    for (unsigned k = 0; !r && k < s->x->n_in; k++)
      r = d->copy_in(s->g, s->x->in[k].data, s->in[k].data, s->in[k].row_bytes * rows_of(s), e);
    if (!r) r = d->launch(s->g, s->x, e);
  }
  if (!r) r = take_outputs(s, e);
  if (!r) r = d->mark(s->g, 0, e);
  if (!r) r = d->wait(s->g, 0, s->o->timeout, &began, &ended, e);
  if (r == LET_ERR_DEADLINE) return let_fail(e, r, "a batch took longer than --timeout");
  *ret = let_now() - start;
  return r;
}

/* The device's own speed: launches one behind the other, no copies, one wait at the end. */
static let_err replay(session *s, let_error *e) {
  const let_device_i *d = s->device->i;
  let_time start = let_now(), began, ended;
  let_err r =
      s->x->dynamic ? let_fail(e, LET_ERR_UNSUPPORTED, "--replay: '%s' has dimensions that vary", s->m.name) : LET_OK;
  for (int64_t i = 0; i < s->o->count && !r; i++) r = d->launch(s->g, s->x, e);
  if (!r) r = d->mark(s->g, 0, e);
  if (!r) r = d->wait(s->g, 0, s->o->timeout, &began, &ended, e);
  if (r) return r;
  s->replay = (double)rows_of(s) * (double)s->o->count * 1e9 / (double)(let_now() - start);
  return LET_OK;
}

static let_err measure(session *s, let_error *e) {
  let_err r = LET_OK;
  let_dur ignored;
  if (!(s->took = calloc((size_t)s->o->count, sizeof *s->took))) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  for (int64_t i = 0; i < s->o->warmup && !r; i++) r = batch(s, &ignored, e);
  let_time next = let_now();
  for (int64_t i = 0; i < s->o->count && !r; i++) {
    if (s->o->interval && i) let_sleep_until(next += s->o->interval);
    r = batch(s, &s->took[i], e);
  }
  return r || !s->o->replay ? r : replay(s, e);
}

/* ---- the model's own reference: lines "input|output NAME DATATYPE FILE DIMENSIONS..." */

static let_err read_exactly(const session *s, const char *name, void *to, uint64_t bytes, let_error *e) {
  char path[1024];
  snprintf(path, sizeof path, "%s/reference/%s", s->m.dir, name);
  FILE *f = fopen(path, "rb");
  if (!f) return let_fail(e, LET_ERR_NOT_FOUND, "%s: cannot be opened", path);
  size_t n = fread(to, 1, bytes, f);
  bool more = fgetc(f) != EOF;
  fclose(f);
  return n == bytes && !more ? LET_OK
                             : let_fail(e, LET_ERR_INVALID, "%s: is not %llu bytes long, as this batch is", path,
                                        (unsigned long long)bytes);
}

/* Floats by --rtol and --atol; other types exactly. */
static let_err compare(const options *o, const char *name, uint8_t dtype, const void *got, const void *want,
                       uint64_t bytes, let_error *e) {
  if (dtype != LET_DTYPE_FP32)
    return memcmp(got, want, bytes) == 0
               ? LET_OK
               : let_fail(e, LET_ERR_INTERNAL, "--verify: output '%s' differs from the reference", name);
  const float *x = got, *y = want;
  double largest = 0;
  for (uint64_t i = 0; i < bytes / 4; i++) largest = fmax(largest, fabs((double)y[i]));
  for (uint64_t i = 0; i < bytes / 4; i++)
    if (!(fabs((double)x[i] - (double)y[i]) <= o->rtol * fabs((double)y[i]) + o->atol * largest))
      return let_fail(e, LET_ERR_INTERNAL, "--verify: output '%s', element %llu: %g, the reference says %g", name,
                      (unsigned long long)i, (double)x[i], (double)y[i]);
  return LET_OK;
}

/* One line: loads an input, or (|outputs|) compares an output, which lie in s->out one after the other. */
static let_err verify_line(session *s, const char *line, bool outputs, unsigned *seen, let_error *e) {
  char kind[16], name[LET_NAME_MAX], type[16], file[64];
  if (sscanf(line, "%15s %127s %15s %63s", kind, name, type, file) != 4 || strchr(file, '/'))
    return let_fail(e, LET_ERR_INVALID, "--verify: cannot read the line '%.60s'", line);
  if ((strcmp(kind, "output") == 0) != outputs) return LET_OK;
  const let_tensor_spec *spec = outputs ? s->m.output : s->m.input;
  uint64_t at = 0;
  for (unsigned k = 0; k < (outputs ? s->m.n_outputs : s->m.n_inputs); k++) {
    uint64_t bytes = (outputs ? s->x->out[k].row_bytes : s->in[k].row_bytes) * rows_of(s);
    if (strcmp(spec[k].name, name) != 0) {
      at += bytes;
      continue;
    }
    (*seen)++;
    if (!outputs) return read_exactly(s, file, s->in[k].data, bytes, e);
    void *want = malloc(bytes ? bytes : 1);
    let_err r = want ? read_exactly(s, file, want, bytes, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
    if (!r) r = compare(s->o, name, s->x->out[k].dtype, (const char *)s->out.p + at, want, bytes, e);
    free(want);
    return r;
  }
  return let_fail(e, LET_ERR_INVALID, "--verify: the reference has a tensor '%s', the model has none", name);
}

static let_err verify(session *s, let_error *e) {
  char path[1024], line[512];
  let_dur ignored;
  snprintf(path, sizeof path, "%s/reference/batch%llu.txt", s->m.dir, (unsigned long long)rows_of(s));
  FILE *f = fopen(path, "r");
  if (!f) return let_fail(e, LET_ERR_NOT_FOUND, "--verify: %s: cannot be opened", path);
  let_err r = LET_OK;
  for (int outputs = 0; !r && outputs < 2; outputs++) {
    unsigned seen = 0;
    rewind(f);
    while (!r && fgets(line, sizeof line, f)) r = verify_line(s, line, outputs, &seen, e);
    if (!r && seen != (outputs ? s->m.n_outputs : s->m.n_inputs))
      r = let_fail(e, LET_ERR_INVALID, "%s: does not name every tensor of the model", path);
    if (!r && !outputs) r = batch(s, &ignored, e);
  }
  fclose(f);
  if (!r) fprintf(stderr, "gpulet run: %s: answers equal the reference\n", s->m.name);
  return r;
}

/* ---- report */

static int by_length(const void *a, const void *b) {
  let_dur x = *(const let_dur *)a, y = *(const let_dur *)b;
  return (x > y) - (x < y);
}

/* Nearest rank. */
static double quantile_ms(const session *s, double q) {
  int64_t at = (int64_t)ceil(q * (double)s->o->count) - 1;
  return (double)s->took[at < 0 ? 0 : at] / 1e6;
}

static int report(session *s) {
  const let_device_type *t = s->device->i->type(s->device);
  let_dur sum = 0;
  for (int64_t i = 0; i < s->o->count; i++) sum += s->took[i];
  qsort(s->took, (size_t)s->o->count, sizeof *s->took, by_length);
  double mean = (double)sum / (double)s->o->count / 1e6, rows_s = (double)rows_of(s) * 1e3 / mean,
         share = let_share_percent(t, s->granules);
  uint64_t weights = s->engine->weights_bytes(s->em), memory = s->x->memory_bytes;
  static const double q[] = {0, 0.5, 0.9, 0.99, 1};
  static const char *const names[] = {"min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms"};
  if (s->o->json) {
    json_t *j = json_pack("{s:s,s:s,s:s,s:i,s:f,s:i,s:I,s:f,s:f,s:I,s:I,s:f,s:f}", "model", s->m.name, "device",
                          t->name, "engine", s->engine->version, "granules", (int)s->granules, "share", share, "batch",
                          (int)rows_of(s), "count", (json_int_t)s->o->count, "load_ms", (double)s->load / 1e6,
                          "prepare_ms", (double)s->prepare / 1e6, "weights_bytes", (json_int_t)weights, "batch_bytes",
                          (json_int_t)memory, "mean_ms", mean, "rows_per_s", rows_s);
    if (j && s->replay > 0) json_object_set_new(j, "replay_rows_per_s", json_real(s->replay));
    for (int i = 0; j && i < 5; i++) json_object_set_new(j, names[i], json_real(quantile_ms(s, q[i])));
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(7)) : NULL;
    if (text) puts(text);
    free(text);
    json_decref(j);
    return text ? LET_EXIT_OK : LET_EXIT_FAILED;
  }
  char a[LET_UNITS_MAX], b[LET_UNITS_MAX], c[LET_UNITS_MAX];
  printf("%s on %s, %u of %u granules (%.1f %%), %s\n", s->m.name, t->name, s->granules, t->granules, share,
         s->engine->version);
  printf("loaded in %s, prepared in %s; weights %s, batch ", let_print_dur(s->load, a), let_print_dur(s->prepare, b),
         let_print_size(weights, c));
  printf("%s\n", let_print_size(memory, a));
  if (s->note) printf("note: %s\n", s->note);
  printf("\n%6s %7s %9s %9s %9s %9s %9s %11s\n%6llu %7lld", "batch", "count", "min ms", "p50 ms", "p90 ms", "p99 ms",
         "max ms", "rows/s", (unsigned long long)rows_of(s), (long long)s->o->count);
  for (int i = 0; i < 5; i++) printf(" %9.3f", quantile_ms(s, q[i]));
  printf(" %11.1f\n", rows_s);
  if (s->replay > 0) printf("replayed back to back, without copies: %.1f rows/s\n", s->replay);
  return LET_EXIT_OK;
}

static void finish(session *s) {
  const let_device_i *d = s->device ? s->device->i : NULL;
  if (s->x) s->engine->discard(s->x);
  if (s->em) s->engine->unload(s->em);
  for (unsigned k = 0; k < LET_TENSORS_MAX; k++) {
    if (s->in[k].data) d->unpin(s->device, s->in[k].data);
    free(s->in[k].data);
  }
  if (s->device) let_pinned_free(s->device, &s->out);
  free(s->took);
  if (s->g) d->close(s->g);
  if (s->device) d->close_device(s->device);
}

static let_err run(const void *opts, char **args, let_arena *arena, int *ret_code, let_error *e) {
  session *s = calloc(1, sizeof *s);
  let_notes notes = {0};
  if (!s) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->o = opts;
  let_err r = let_repository_load_one(args[0], arena, &s->m, &notes, e);
  for (const let_note *n = notes.first; n; n = n->next) fprintf(stderr, "gpulet run: %s\n", n->text);
  if (!r && s->o->batch > (s->m.max_batch ? s->m.max_batch : 1))
    r = let_fail(e, LET_ERR_INVALID, "--batch %lld: model '%s' takes batches of at most %u (max_batch_size)",
                 (long long)s->o->batch, s->m.name, s->m.max_batch ? s->m.max_batch : 1);
  if (!r) r = open_device(s, e);
  if (!r) r = load(s, e);
  if (!r) r = make_inputs(s, e);
  if (!r && s->o->verify) r = verify(s, e);
  if (!r) r = measure(s, e);
  if (!r) *ret_code = report(s);
  finish(s);
  free(s);
  return r;
}

extern const let_command let_command_run;
const let_command let_command_run = {
    .name = "run",
    .summary = "run one model on one share of a device and print its latency",
    .arguments = "MODEL_DIR",
    .text =
        "Loads MODEL_DIR (config.pbtxt and 1/model.pt), prepares one batch size on one share of the device, and runs\n"
        "batches of random inputs. A latency covers copying in, running and copying out.\n\n"
        "  gpulet run models/resnet18 --device cpu --share 50 --batch 8 --count 100\n",
    LET_COMMAND_OPTIONS(table, options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
