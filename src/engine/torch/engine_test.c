/* engine_test.c: engine_torch_test PLUGIN FIXTURES: the plugin through dlopen, as a worker sees it. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "gpulet/engine.h"

static const char *plugin, *fixtures;
static const let_engine *engine;

static const let_engine_target host = {.cuda = -1, .threads = 1};

static void tensor(let_tensor_spec *t, const char *name, let_dtype dtype, uint8_t rank, int64_t d0, int64_t d1,
                   int64_t d2) {
  snprintf(t->name, sizeof t->name, "%s", name);
  t->dtype = dtype;
  t->rank = rank;
  t->dims[0] = d0;
  t->dims[1] = d1;
  t->dims[2] = d2;
}

static let_model model(const char *name, uint32_t max_batch) {
  let_model m = {.version = 1, .max_batch = max_batch};
  snprintf(m.name, sizeof m.name, "%s", name);
  snprintf(m.file, sizeof m.file, "model.pt");
  snprintf(m.dir, sizeof m.dir, "%s/%s", fixtures, name);
  return m;
}

static void in(let_model *m, const char *name, let_dtype t, uint8_t rank, int64_t d0, int64_t d1, int64_t d2) {
  tensor(&m->input[m->n_inputs++], name, t, rank, d0, d1, d2);
}
static void out(let_model *m, const char *name, let_dtype t, uint8_t rank, int64_t d0, int64_t d1, int64_t d2) {
  tensor(&m->output[m->n_outputs++], name, t, rank, d0, d1, d2);
}

static let_engine_model *load(const let_model *m) {
  let_engine_model *em = NULL;
  let_error e = {0};
  if (engine->load(m, -1, &em, &e)) fail_msg("load: %s", e.text);
  return em;
}

static let_exec *prepare(let_engine_model *em, uint32_t size, int instance) {
  let_exec *x = NULL;
  let_error e = {0};
  if (engine->prepare(em, &host, size, instance, &x, NULL, &e)) fail_msg("prepare: %s", e.text);
  return x;
}

static void run(let_exec *x) {
  let_error e = {0};
  if (x->run(x, NULL, &e)) fail_msg("run: %s", e.text);
}

/* Loading and preparing |m| must fail with |code| and a text that contains |a| and |b|. */
static void refuses(const let_model *m, let_err code, const char *a, const char *b) {
  let_engine_model *em = NULL;
  let_exec *x = NULL;
  let_error e = {0};
  let_err got = engine->load(m, -1, &em, &e);
  if (got == LET_OK) {
    uint32_t size = m->max_batch > 1 ? 2 : 1;
    got = engine->prepare(em, &host, size, 0, &x, NULL, &e);
    assert_null(x);
  }
  engine->unload(em);
  if (got != code || !strstr(e.text, a) || !strstr(e.text, b) || !strstr(e.text, m->name) || strchr(e.text, '\n'))
    fail_msg("wanted %s with \"%s\" and \"%s\", got %s: %s", let_err_name(code), a, b, let_err_name(got), e.text);
}

static let_model pair(void) {
  let_model m = model("pair", 4);
  in(&m, "a", LET_DTYPE_FP32, 1, 2, 0, 0);
  in(&m, "b", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "sum", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "less", LET_DTYPE_FP32, 0, 0, 0, 0);
  return m;
}

static void test_entry(void **state) {
  (void)state;
  assert_string_equal(engine->name, "torch");
  assert_int_equal(engine->abi, LET_ENGINE_ABI);
  assert_int_equal(strncmp(engine->version, "libtorch ", 9), 0);
}

static void test_two_in_two_out(void **state) {
  (void)state;
  let_model m = pair();
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 3, 0), *y = prepare(em, 3, 1);
  assert_int_equal(x->size, 3);
  assert_int_equal(x->n_in, 2);
  assert_int_equal(x->n_out, 2);
  assert_int_equal(x->in[1].row_bytes, 8);
  assert_int_equal(x->out[0].row_bytes, 8);
  assert_int_equal(x->out[1].row_bytes, 4);
  assert_int_equal(x->out[1].rank, 1);
  assert_int_equal(x->out[1].shape[0], 3);
  assert_false(x->dynamic);
  assert_int_equal(x->n_graphs, 0);
  assert_ptr_not_equal(x->in[0].data, y->in[0].data);
  assert_ptr_not_equal(x->out[0].data, y->out[0].data);
  assert_true(x->memory_bytes >= 3 * (8 + 8 + 8 + 4));
  const void *where = x->out[0].data;
  for (int round = 1; round <= 2; round++) {
    float *a = x->in[0].data, *b = x->in[1].data;
    for (int i = 0; i < 6; i++) {
      a[i] = (float)(i * round);
      b[i] = 1;
    }
    run(x);
    assert_ptr_equal(x->out[0].data, where);
    const float *sum = x->out[0].data, *less = x->out[1].data;
    for (int i = 0; i < 6; i++) assert_true(sum[i] == (float)(i * round + 1));
    for (int r = 0; r < 3; r++) assert_true(less[r] == (float)((4 * r + 1) * round - 2));
  }
  engine->discard(x);
  engine->discard(y);
  engine->unload(em);
}

static void test_numbered_names(void **state) {
  (void)state;
  let_model m = pair(); /* given in the other order: the numbers decide */
  snprintf(m.input[0].name, sizeof m.input[0].name, "INPUT__1");
  snprintf(m.input[1].name, sizeof m.input[1].name, "INPUT__0");
  m.n_outputs = 0;
  out(&m, "OUTPUT__1", LET_DTYPE_FP32, 0, 0, 0, 0);
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 1, 0);
  ((float *)x->in[0].data)[0] = 5;
  ((float *)x->in[0].data)[1] = 6;
  ((float *)x->in[1].data)[0] = 1;
  ((float *)x->in[1].data)[1] = 2;
  run(x);
  assert_int_equal(x->n_out, 1);
  assert_true(*(float *)x->out[0].data == -8);
  engine->discard(x);
  engine->unload(em);
}

static void test_dictionary(void **state) {
  (void)state;
  let_model m = model("named", 2); /* outputs in another order than the model's; "scale" keeps its default */
  in(&m, "x", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "ids", LET_DTYPE_INT64, 1, 2, 0, 0);
  out(&m, "twice", LET_DTYPE_FP32, 1, 2, 0, 0);
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 2, 0);
  for (int i = 0; i < 4; i++) ((float *)x->in[0].data)[i] = (float)i + 0.5f;
  run(x);
  for (int i = 0; i < 4; i++) {
    assert_int_equal(((int64_t *)x->out[0].data)[i], i);
    assert_true(((float *)x->out[1].data)[i] == (float)(2 * i + 1));
  }
  engine->discard(x);
  engine->unload(em);
}

static void test_any_length(void **state) {
  (void)state;
  let_model m = model("words", 8);
  in(&m, "tokens", LET_DTYPE_INT64, 1, -1, 0, 0);
  out(&m, "mean", LET_DTYPE_FP32, 0, 0, 0, 0);
  out(&m, "next", LET_DTYPE_INT64, 1, -1, 0, 0);
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 8, 0);
  assert_true(x->dynamic);
  assert_null(x->run);
  int64_t tokens[24];
  for (int i = 0; i < 24; i++) tokens[i] = i;
  for (int64_t length = 3; length <= 6; length += 3) {
    let_error e = {0};
    let_exec_tensor t = {.data = tokens, .dtype = LET_DTYPE_INT64, .rank = 2, .shape = {2, length}};
    if (x->run_dynamic(x, &t, NULL, &e)) fail_msg("%s", e.text);
    assert_int_equal(x->out[1].shape[0], 2);
    assert_int_equal(x->out[1].shape[1], length);
    assert_int_equal(x->out[1].row_bytes, length * 8);
    assert_true(((float *)x->out[0].data)[0] == (float)(length - 1) / 2);
    assert_int_equal(((int64_t *)x->out[1].data)[2 * length - 1], 2 * length);
  }
  let_error e = {0};
  let_exec_tensor wrong = {.data = tokens, .dtype = LET_DTYPE_INT64, .rank = 2, .shape = {9, 2}};
  assert_int_equal(x->run_dynamic(x, &wrong, NULL, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "tokens"));
  engine->discard(x);
  engine->unload(em);
}

static void test_weights(void **state) {
  (void)state;
  static const float want[2][5] = {{-0.03910579f, -0.0007027388f, -0.0464634f, 0.118269f, 0.01869921f},
                                   {-0.159684f, -0.009704992f, 0.01262208f, 0.129474f, 0.09446906f}};
  let_model m = model("linear", 4);
  in(&m, "image", LET_DTYPE_FP32, 3, 1, 8, 8);
  out(&m, "score", LET_DTYPE_FP32, 1, 5, 0, 0);
  let_engine_model *em = load(&m);
  assert_true(engine->weights_bytes(em) >= 1285 * 4);
  for (uint32_t size = 2; size <= 4; size += 2) {
    let_exec *x = prepare(em, size, 0);
    for (int i = 0; i < 128; i++) ((float *)x->in[0].data)[i] = (float)(i % 17) / 8 - 1;
    run(x);
    const float *got = x->out[0].data;
    for (int i = 0; i < 10; i++)
      if (fabsf(got[i] - want[i / 5][i % 5]) > 1e-4f * fabsf(want[i / 5][i % 5]) + 1e-6f)
        fail_msg("size %u, output %d: %g, not %g", size, i, (double)got[i], (double)want[i / 5][i % 5]);
    engine->discard(x);
  }
  engine->unload(em);
}

static void test_input_returned(void **state) {
  (void)state;
  let_model m = model("same", 0); /* no batch dimension: whole shapes */
  in(&m, "x", LET_DTYPE_INT8, 2, 2, 3, 0);
  out(&m, "y", LET_DTYPE_INT8, 2, 2, 3, 0);
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 1, 0);
  assert_int_equal(x->in[0].row_bytes, 6);
  memcpy(x->in[0].data, "abcdef", 6);
  run(x);
  assert_ptr_not_equal(x->in[0].data, x->out[0].data);
  assert_memory_equal(x->out[0].data, "abcdef", 6);
  engine->discard(x);
  engine->unload(em);
}

static void test_failed_batch(void **state) {
  (void)state;
  let_model m = model("table", 2);
  in(&m, "index", LET_DTYPE_INT64, 0, 0, 0, 0);
  out(&m, "row", LET_DTYPE_FP32, 1, 3, 0, 0);
  let_engine_model *em = load(&m);
  let_exec *x = prepare(em, 1, 0);
  let_error e = {0};
  *(int64_t *)x->in[0].data = 10;
  assert_int_equal(x->run(x, NULL, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "model table: index out of range"));
  *(int64_t *)x->in[0].data = 9;
  run(x);
  engine->discard(x);
  engine->unload(em);
}

static void test_refusals(void **state) {
  (void)state;
  let_model m = pair();
  m.output[1].dtype = LET_DTYPE_INT64;
  refuses(&m, LET_ERR_INVALID, "\"less\" is declared INT64", "returns FP32");
  m = pair();
  m.input[1].dtype = LET_DTYPE_INT64;
  m.output[0].dtype = LET_DTYPE_FP16;
  refuses(&m, LET_ERR_INVALID, "\"sum\" is declared FP16", "returns FP32");
  m = pair();
  m.output[0].dims[0] = 3;
  refuses(&m, LET_ERR_INVALID, "\"sum\" is declared [2,3]", "returns [2,2]");
  m = pair();
  out(&m, "third", LET_DTYPE_FP32, 1, 2, 0, 0);
  refuses(&m, LET_ERR_INVALID, "\"third\"", "returns 2 tensors");
  m = pair();
  snprintf(m.input[1].name, sizeof m.input[1].name, "c");
  refuses(&m, LET_ERR_INVALID, "\"c\"", "forward(a, b)");
  m = pair();
  m.n_inputs = 1;
  refuses(&m, LET_ERR_INVALID, "needs \"b\"", "config.pbtxt");
  m = pair();
  m.input[0].dtype = LET_DTYPE_BYTES;
  refuses(&m, LET_ERR_UNSUPPORTED, "TYPE_STRING", "\"a\"");
  m = pair();
  m.input[1].dims[0] = 3; /* libtorch's own sentence */
  refuses(&m, LET_ERR_INVALID, "The size of tensor", "must match");
  m = model("named", 2);
  in(&m, "x", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "thrice", LET_DTYPE_FP32, 1, 2, 0, 0);
  refuses(&m, LET_ERR_INVALID, "\"thrice\"", "twice, ids");
  m = model("corrupt", 2);
  in(&m, "x", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "y", LET_DTYPE_FP32, 1, 2, 0, 0);
  refuses(&m, LET_ERR_INVALID, "corrupt/1/model.pt: ", "");
  m = model("absent", 2);
  in(&m, "x", LET_DTYPE_FP32, 1, 2, 0, 0);
  out(&m, "y", LET_DTYPE_FP32, 1, 2, 0, 0);
  refuses(&m, LET_ERR_NOT_FOUND, "absent/1/model.pt: ", "No such file");
  m = pair();
  snprintf(m.file, sizeof m.file, "../1");
  refuses(&m, LET_ERR_INVALID, "not a regular file", "");
}

/* Every truncation and many a damaged byte: an error each time, or a model that still loads; never more. */
static void test_damaged_files(void **state) {
  (void)state;
  char dir[] = "/tmp/gpulet_torch_XXXXXX", path[64], from[600], bytes[4096], work[4096];
  assert_non_null(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/1", dir);
  assert_int_equal(mkdir(path, 0700), 0);
  snprintf(path, sizeof path, "%s/1/model.pt", dir);
  snprintf(from, sizeof from, "%s/pair/1/model.pt", fixtures);
  FILE *f = fopen(from, "rb");
  assert_non_null(f);
  size_t n = fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  assert_true(n > 1000 && n < sizeof bytes);
  let_model m = pair();
  snprintf(m.dir, sizeof m.dir, "%s", dir);
  let_rng rng;
  let_rng_seed(&rng, 11);
  int loaded = 0, refused = 0;
  for (size_t i = 0; i < 300; i++) {
    size_t length = n;
    memcpy(work, bytes, n);
    if (i < 100) length = i * n / 100;
    else work[let_rng_below(&rng, n)] ^= (char)(1 + let_rng_below(&rng, 255));
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(work, 1, length, f), length);
    fclose(f);
    let_engine_model *em = NULL;
    let_error e = {0};
    if (engine->load(&m, -1, &em, &e) == LET_OK) loaded++;
    else refused += strstr(e.text, "model.pt") || strstr(e.text, "pair") ? 1 : -1000;
    engine->unload(em);
  }
  assert_true(refused >= 100 && loaded + refused == 300);
  unlink(path);
  path[strlen(path) - strlen("/model.pt")] = 0;
  rmdir(path);
  rmdir(dir);
}

static void test_no_cuda(void **state) {
  (void)state;
  let_model m = pair();
  let_engine_model *em = load(&m);
  let_exec *x = NULL;
  let_error e = {0};
  assert_int_equal(engine->prepare(em, &host, 5, 0, &x, NULL, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "1 to 4"));
  let_engine_target other = {.cuda = 7};
  assert_int_equal(engine->prepare(em, &other, 1, 0, &x, NULL, &e), LET_ERR_INVALID);
  engine->unload(em);
  em = NULL;
  assert_int_not_equal(engine->load(&m, 4000, &em, &e), LET_OK); /* no such device, or no CUDA at all */
  assert_null(em);
  assert_non_null(strstr(e.text, "CUDA"));
}

static void *lane(void *arg) {
  let_error e = {0};
  let_exec *x = arg;
  static char enter[] = "enter()", execute[] = "run()";
  if (engine->enter(&host, &e)) return enter;
  for (int i = 0; i < 20; i++)
    if (x->run(x, NULL, &e)) return execute;
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  let_model m = model("linear", 4);
  in(&m, "image", LET_DTYPE_FP32, 3, 1, 8, 8);
  out(&m, "score", LET_DTYPE_FP32, 1, 5, 0, 0);
  let_engine_model *em = load(&m);
  let_exec *x[2] = {prepare(em, 4, 0), prepare(em, 1, 1)};
  pthread_t t[2];
  for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, lane, x[i]), 0);
  for (int i = 0; i < 2; i++) {
    void *why = NULL;
    pthread_join(t[i], &why);
    if (why) fail_msg("%s failed on a thread", (char *)why);
  }
  for (int i = 0; i < 2; i++) engine->discard(x[i]);
  engine->unload(em);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: engine_torch_test PLUGIN FIXTURES\n");
    return 2;
  }
  plugin = argv[1];
  fixtures = argv[2];
  void *lib = dlopen(plugin, RTLD_NOW | RTLD_LOCAL);
  if (!lib) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  void *symbol = dlsym(lib, LET_ENGINE_ENTRY);
  let_engine_entry entry;
  memcpy(&entry, &symbol, sizeof entry); /* a data pointer that is a function's: POSIX allows it, ISO C has no cast */
  if (!entry || entry(LET_ENGINE_ABI + 1) || !(engine = entry(LET_ENGINE_ABI))) {
    fprintf(stderr, "no engine\n");
    return 1;
  }
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_entry),          cmocka_unit_test(test_two_in_two_out),
      cmocka_unit_test(test_numbered_names), cmocka_unit_test(test_dictionary),
      cmocka_unit_test(test_any_length),     cmocka_unit_test(test_weights),
      cmocka_unit_test(test_input_returned), cmocka_unit_test(test_failed_batch),
      cmocka_unit_test(test_refusals),       cmocka_unit_test(test_damaged_files),
      cmocka_unit_test(test_no_cuda),        cmocka_unit_test(test_threads),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
