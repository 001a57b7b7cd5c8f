/* engine_check.c: compares the plugin's answers with PyTorch's own (the reference/ that models/export.py writes).
 *
 *   engine_check PLUGIN [--cuda N [--sms 16]] [--precision fp16] [--channels-last] [--rtol R] [--atol A]
 *                MODEL_DIR|REPOSITORY...
 *
 * Every model, at the batches of its reference, exactly sized and padded to the next power of two, on two gpu-lets.
 * With --cuda the gpu-lets are two green contexts of |sms| SMs, and the graphs of both run at the same time, many
 * rounds. Exit 77 when there is nothing to check. */
#include <dirent.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gpulet/engine.h"
#include "engine_check.h"

enum { SIZES = 3, GPULETS = 2, ROUNDS = 20 };
static const uint32_t sizes[SIZES] = {1, 3, 8};

static const let_engine *engine;
static const char *precision = "fp32";
static bool channels_last;
static double relative = 1e-4, absolute = 1e-5; /* the latter of the largest value */
static let_check_gpu gpu = {.ordinal = -1, .sms = 16};
static let_engine_target targets[GPULETS];
static int checked, wrong;

typedef struct reference {
  void *in[LET_TENSORS_MAX], *out[LET_TENSORS_MAX];
} reference;

static void complain(const let_model *m, const char *what, const let_error *e) {
  wrong++;
  printf("%s: %s: %s\n", m->name, what, e->text);
}

static void *read_file(const char *dir, const char *file, uint64_t bytes) {
  char path[1024];
  snprintf(path, sizeof path, "%s/reference/%s", dir, file);
  void *p = malloc(bytes);
  FILE *f = fopen(path, "rb");
  if (!p || !f || fread(p, 1, bytes, f) != bytes) exit((fprintf(stderr, "%s: cannot be read\n", path), 1));
  fclose(f);
  return p;
}

/* Reads reference/batch<N>.txt; the first one read also says what the model's tensors are. False: there is none. */
static bool read_reference(let_model *m, uint32_t batch, reference *ret) {
  char path[1024], line[512], kind[16], name[LET_NAME_MAX], type[16], file[64];
  snprintf(path, sizeof path, "%s/reference/batch%u.txt", m->dir, batch);
  FILE *f = fopen(path, "r");
  if (!f) return false;
  uint8_t n_in = 0, n_out = 0;
  while (fgets(line, sizeof line, f)) {
    int at = 0, more = 0;
    if (sscanf(line, "%15s %127s %15s %63s%n", kind, name, type, file, &at) != 4) continue;
    bool is_input = strcmp(kind, "input") == 0;
    uint8_t *n = is_input ? &n_in : &n_out;
    if (*n == LET_TENSORS_MAX) break;
    let_tensor_spec *t = is_input ? &m->input[*n] : &m->output[*n];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dtype = let_dtype_of(let_str_c(type));
    t->rank = 0;
    const char *p = line + at;
    bool first = true;
    long dim;
    while (t->rank < LET_RANK_MAX - 1 && sscanf(p, "%ld%n", &dim, &more) == 1) {
      if (!first) t->dims[t->rank++] = dim;
      first = false;
      p += more;
    }
    (is_input ? ret->in : ret->out)[(*n)++] = read_file(m->dir, file, batch * let_tensor_row_bytes(t));
  }
  fclose(f);
  m->n_inputs = n_in;
  m->n_outputs = n_out;
  return n_in && n_out;
}

static double ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static bool put(const let_exec *x, void *stream, const reference *r, uint32_t rows) {
  for (unsigned k = 0; k < x->n_in; k++)
    if (!let_check_copy(&gpu, x->in[k].data, r->in[k], rows * x->in[k].row_bytes, stream)) return false;
  return true;
}

/* The largest error as a part of what is allowed (above 1: wrong), or -1 when the copy failed. */
static double judge(const let_exec *x, void *stream, const reference *r, uint32_t rows) {
  double worst = 0;
  for (unsigned j = 0; j < x->n_out; j++) {
    uint64_t bytes = rows * x->out[j].row_bytes, n = bytes / sizeof(float);
    float *got = malloc(bytes);
    const float *want = r->out[j];
    if (!got || !let_check_copy(&gpu, got, x->out[j].data, bytes, stream)) {
      free(got);
      return -1;
    }
    double scale = 1;
    for (uint64_t i = 0; i < n; i++) scale = fmax(scale, fabs((double)want[i]));
    for (uint64_t i = 0; i < n; i++) {
      double error = fabs((double)got[i] - (double)want[i]) / (absolute * scale + relative * fabs((double)want[i]));
      worst = isnan(error) ? INFINITY : fmax(worst, error);
    }
    free(got);
  }
  return worst;
}

static void check_size(let_engine_model *em, let_model *m, uint32_t rows, uint32_t size, const reference *r) {
  let_exec *x[GPULETS] = {0};
  let_error e = {0};
  const char *note = NULL;
  double start = ms(), worst = 0, each = 0;
  for (int g = 0; g < GPULETS; g++)
    if (engine->prepare(em, &targets[g], size, 0, &x[g], &note, &e)) complain(m, "prepare", &e);
  double prepared = ms() - start;
  for (int g = 0; g < GPULETS; g++)
    if (x[g] && !put(x[g], targets[g].stream, r, rows)) {
      complain(m, "copying inputs", &e);
      engine->discard(x[g]);
      x[g] = NULL;
    }
  start = ms();
  for (int i = 0; i < (gpu.ordinal >= 0 ? ROUNDS : 1); i++)
    for (int g = 0; g < GPULETS; g++)
      if (x[g] && !let_check_launch(&gpu, x[g], targets[g].stream, &e)) {
        complain(m, "run", &e);
        engine->discard(x[g]);
        x[g] = NULL;
      }
  for (int g = 0; g < GPULETS; g++)
    if (!let_check_wait(&gpu, targets[g].stream)) {
      snprintf(e.text, sizeof e.text, "the GPU reports an error");
      complain(m, "wait", &e);
    }
  each = (ms() - start) / (gpu.ordinal >= 0 ? ROUNDS : GPULETS);
  for (int g = 0; g < GPULETS; g++) {
    if (!x[g]) continue;
    double error = judge(x[g], targets[g].stream, r, rows);
    if (error < 0 || error > 1) wrong++;
    worst = error < 0 ? INFINITY : fmax(worst, error);
  }
  if (x[0])
    printf(
        "%-16s batch %u in %-2u %s error %.3f of the allowed, prepared in %.0f ms, %.2f ms a batch, %.1f MiB%s%s%s\n",
        m->name, rows, size, worst <= 1 ? "ok" : "WRONG", worst, prepared / GPULETS, each,
        (double)x[0]->memory_bytes / 1048576, x[0]->n_graphs ? ", graph" : "", note ? "; " : "", note ? note : "");
  for (int g = 0; g < GPULETS; g++) engine->discard(x[g]);
}

static void check_model(const char *dir) {
  let_model m = {.version = 1, .max_batch = 32, .channels_last = channels_last};
  m.precision = strcmp(precision, "fp16") == 0   ? LET_PRECISION_FP16
                : strcmp(precision, "bf16") == 0 ? LET_PRECISION_BF16
                                                 : LET_PRECISION_FP32;
  const char *slash = strrchr(dir, '/');
  snprintf(m.name, sizeof m.name, "%s", slash ? slash + 1 : dir);
  snprintf(m.file, sizeof m.file, "model.pt");
  snprintf(m.dir, sizeof m.dir, "%s", dir);
  reference r[SIZES] = {0};
  for (int i = 0; i < SIZES; i++)
    if (!read_reference(&m, sizes[i], &r[i])) return;
  checked++;
  let_engine_model *em = NULL;
  let_error e = {0};
  double start = ms();
  if (engine->load(&m, gpu.ordinal, &em, &e)) {
    complain(&m, "load", &e);
  } else {
    printf("%-16s loaded in %.0f ms, weights %.1f MiB\n", m.name, ms() - start,
           (double)engine->weights_bytes(em) / 1048576);
    for (int i = 0; i < SIZES; i++)
      for (uint32_t size = sizes[i]; size <= sizes[i] + 1; size++) check_size(em, &m, sizes[i], size, &r[i]);
  }
  engine->unload(em);
  for (int i = 0; i < SIZES; i++) {
    for (unsigned k = 0; k < m.n_inputs; k++) free(r[i].in[k]);
    for (unsigned j = 0; j < m.n_outputs; j++) free(r[i].out[j]);
  }
}

/* |path| is a model or a repository of models. */
static void check_path(const char *path) {
  char sub[600];
  DIR *d = opendir(path);
  if (!d) return;
  snprintf(sub, sizeof sub, "%s/reference", path);
  DIR *one = opendir(sub);
  if (one) {
    closedir(one);
    check_model(path);
  } else {
    struct dirent *x;
    while ((x = readdir(d)))
      if (x->d_name[0] != '.' && snprintf(sub, sizeof sub, "%s/%s", path, x->d_name) < (int)sizeof sub)
        check_model(sub);
  }
  closedir(d);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: engine_check PLUGIN [options] MODEL_DIR|REPOSITORY...\n");
    return 2;
  }
  int i = 2;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (strcmp(argv[i], "--channels-last") == 0) channels_last = true;
    else if (i + 1 == argc) {
      fprintf(stderr, "engine_check: %s\n", argv[i]);
      return 2;
    } else if (strcmp(argv[i], "--cuda") == 0) gpu.ordinal = atoi(argv[++i]);
    else if (strcmp(argv[i], "--sms") == 0) gpu.sms = atoi(argv[++i]);
    else if (strcmp(argv[i], "--precision") == 0) precision = argv[++i];
    else if (strcmp(argv[i], "--rtol") == 0) relative = atof(argv[++i]);
    else if (strcmp(argv[i], "--atol") == 0) absolute = atof(argv[++i]);
    else {
      fprintf(stderr, "engine_check: %s\n", argv[i]);
      return 2;
    }
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  void *lib = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!lib) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  void *symbol = dlsym(lib, LET_ENGINE_ENTRY);
  let_engine_entry entry;
  memcpy(&entry, &symbol, sizeof entry);
  engine = entry ? entry(LET_ENGINE_ABI) : NULL;
  if (!engine) {
    fprintf(stderr, "%s: no engine\n", argv[1]);
    return 1;
  }
  if (!let_check_open(&gpu, targets, GPULETS)) return 1;
  const char *env = getenv("GPULET_MODELS");
  if (i == argc && env) check_path(env);
  for (; i < argc; i++) check_path(argv[i]);
  printf("%s, %s: %d models, %d wrong\n", engine->version, gpu.ordinal >= 0 ? gpu.name : "CPU", checked, wrong);
  return wrong ? 1 : checked ? 0 : 77;
}
