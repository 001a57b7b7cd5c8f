#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/model_config.h"
#include "conf/pbtxt.h"

/* ---- the text format */

static let_err parse(const char *text, let_arena *a, let_pb_field **ret, let_error *e) {
  return let_pb_parse(let_str_c(text), "f.pbtxt", a, ret, e);
}

static void test_format(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_pb_field *f = NULL;
  assert_int_equal(parse("# comment\n"
                         "a: 1, b: -0x1F; c < d: 017 >\n"
                         "e { f: [1, 2,3] g: [ { h: 1 }, < h: 2 > ] }\n"
                         "s: \"one\" 'two' # between\n \"\\n\\x41\\101\\u00e9\\\"\"\n"
                         "w: TYPE_FP32 x: true y: -1.5e3f z: - inf [pkg.ext]: 3 l: []",
                         &a, &f, &e),
                   LET_OK);
  int64_t v = 0;
  double d = 0;
  assert_int_equal(let_pb_i64(let_pb_find(f, "a"), "f", 0, 9, &v, &e), LET_OK);
  assert_int_equal(v, 1);
  assert_int_equal(let_pb_i64(let_pb_find(f, "b"), "f", -99, 9, &v, &e), LET_OK);
  assert_int_equal(v, -31);
  assert_int_equal(let_pb_i64(let_pb_find(let_pb_find(f, "c")->child, "d"), "f", 0, 99, &v, &e), LET_OK);
  assert_int_equal(v, 15);
  const let_pb_field *g = let_pb_find(f, "e")->child;
  int n = 0;
  for (; g; g = g->next) n++;
  assert_int_equal(n, 5);
  const let_pb_field *s = let_pb_find(f, "s");
  assert_int_equal(s->line, 4);
  assert_int_equal(s->column, 1);
  assert_true(let_str_is(s->text, "onetwo\nAA\xc3\xa9\""));
  assert_int_equal(let_pb_f64(let_pb_find(f, "y"), "f", &d, &e), LET_OK);
  assert_true(d < -1499.9 && d > -1500.1);
  assert_int_equal(let_pb_f64(let_pb_find(f, "z"), "f", &d, &e), LET_OK);
  assert_true(d < -1e300);
  assert_non_null(let_pb_find(f, "[pkg.ext]"));
  assert_null(let_pb_find(f, "l"));
  assert_int_equal(let_pb_find(f, "w")->kind, LET_PB_WORD);
  assert_int_equal(parse("", &a, &f, &e), LET_OK);
  assert_null(f);
  let_arena_fini(&a);
}

typedef struct bad {
  const char *text, *place, *word;
} bad;

static void test_malformed(void **state) {
  (void)state;
  static const bad cases[] = {{"a", "f.pbtxt:1:2", "':'"},     {"a:", "1:3", "end of the file"},
                              {"\n\na: {", "3:5", "'}'"},      {"a { b: 1 >", "1:10", "name"},
                              {"a: \"x", "1:6", "no end"},     {"a: \"x\ny\"", "1:6", "line"},
                              {"a: 'x\\q'", "1:7", "escape"},  {"a: '\\x'", "1:7", "hex"},
                              {"a: '\\400'", "1:9", "octal"},  {"a: '\\ud800'", "1:11", "character"},
                              {"a: '\\u12'", "1:9", "digits"}, {"a: '\\U00110000'", "1:15", "character"},
                              {"a: 1x", "1:5", "number"},      {"a: 0x", "1:4", "hex"},
                              {"a: 1e", "1:5", "exponent"},    {"a: 1.2.3", "1:7", "number"},
                              {"a: [1", "1:6", "']'"},         {"a: [1 2]", "1:7", "','"},
                              {"a: [[1]]", "1:5", "within"},   {"a: -word", "1:9", "no number"},
                              {"1: 2", "1:1", "name"},         {"a: 1 }", "1:6", "'}'"},
                              {"a: @", "1:4", "'@'"},          {"a: \x01", "1:4", "0x01"},
                              {"[a: 1", "1:6", "']'"},         {"a: 1,, b: 2", "1:6", "','"},
                              {"a [1]", "1:4", "':'"},         {"a: [1,]", "1:7", "']'"},
                              {"a: '\\", "1:6", "no end"}};
  int wrong = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_error e = {0};
    let_pb_field *f = NULL;
    let_err r = parse(cases[i].text, &a, &f, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, cases[i].place) || !strstr(e.text, cases[i].word))
      fprintf(stderr, "%s: %s, wanted %s %s", cases[i].text, e.text, cases[i].place, cases[i].word), wrong++;
    let_arena_fini(&a);
  }
  assert_int_equal(wrong, 0);
}

static void test_depth(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_pb_field *f;
  static char deep[400001];
  for (int i = 0; i < 200000; i++) memcpy(deep + 2 * i, "a{", 2);
  assert_int_equal(parse(deep, &a, &f, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "deeper"));
  let_arena_fini(&a);
}

/* ---- Triton's configuration */

static const char whole[] = "name: \"m\"\nplatform: \"pytorch_libtorch\"\nmax_batch_size: 32\n"
                            "input [ { name: \"i0\" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 224 ] }, { "
                            "name: \"i1\" data_type: TYPE_INT64 dims: 7 optional: true } ]\n"
                            "output { name: \"o\" data_type: TYPE_BF16 dims: [ 10 ] label_filename: \"labels.txt\" }\n"
                            "instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] } ]\n"
                            "optimization { cuda { graphs: true } execution_accelerators { gpu_execution_accelerator: "
                            "[ { name: \"tensorrt\" parameters { key: \"a\" value: \"b\" } } ] } }\n"
                            "dynamic_batching { preferred_batch_size: [ 8, 4, 8 ] max_queue_delay_microseconds: 100 "
                            "priority_levels: 3 default_priority_level: 2\n"
                            "  default_queue_policy { default_timeout_microseconds: 5000 allow_timeout_override: false "
                            "max_queue_size: 9 timeout_action: DELAY } }\n"
                            "version_policy { specific { versions: [ 3, 1 ] } }\n"
                            "model_warmup [ { name: \"w\" batch_size: 1 inputs { key: \"i0\" value { data_type: "
                            "TYPE_FP32 dims: [1] zero_data: true } } } ]\n"
                            "response_cache { enable: true }\nmodel_transaction_policy { decoupled: false }\n"
                            "parameters { key: \"slo_ms\" value { string_value: \"2.5\" } }\nparameters [ { key: "
                            "\"precision\" value: { string_value: \"fp16\" } } ]\n"
                            "parameters { key: \"memory_format\" value { string_value: \"channels_last\" } "
                            "}\nparameters { key: \"max_output_bytes\" value { string_value: \"4096\" } }\n"
                            "parameters { key: \"INFERENCE_MODE\" value { string_value: \"true\" } }\n";

static void test_whole(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_notes notes = {0};
  static let_model_config c;
  let_err r = let_model_config_parse(LET_STR(whole), "c", "m", &a, &c, &notes, &e);
  if (r) fail_msg("%s", e.text);
  const let_model *m = &c.model;
  assert_string_equal(m->name, "m");
  assert_string_equal(m->backend, "pytorch");
  assert_string_equal(m->file, "model.pt");
  assert_int_equal(m->max_batch, 32);
  assert_int_equal(m->n_inputs, 2);
  assert_int_equal(m->input[0].rank, 3);
  assert_int_equal(m->input[0].dims[1], -1);
  assert_true(m->input[1].optional);
  assert_int_equal(m->input[1].dtype, LET_DTYPE_INT64);
  assert_int_equal(m->output[0].dtype, LET_DTYPE_BF16);
  assert_string_equal(m->output[0].label_file, "labels.txt");
  assert_int_equal(m->n_sizes, 2);
  assert_int_equal(m->size[0], 4);
  assert_int_equal(m->size[1], 8);
  assert_true(m->max_queue_delay == 100 * LET_US);
  assert_int_equal(m->priority_levels, 3);
  assert_int_equal(m->default_priority, 2);
  assert_true(m->default_timeout == 5 * LET_MS);
  assert_false(m->allow_timeout_override);
  assert_int_equal(m->max_queue, 9);
  assert_true(m->slo == 2500 * LET_US);
  assert_int_equal(m->precision, LET_PRECISION_FP16);
  assert_true(m->channels_last);
  assert_int_equal(m->output_bytes_hint, 4096);
  assert_int_equal(c.n_versions, 2);
  char text[2048] = "";
  for (const let_note *n = notes.first; n; n = n->next) strcat(strcat(text, n->text), "\n");
  static const char *const noted[] = {
      "c:4: format",        "c:6: instance_group",  "c:7: optimization",        "c:9: timeout_action DELAY",
      "c:11: model_warmup", "c:12: response_cache", "parameter INFERENCE_MODE", "version_policy"};
  for (size_t i = 0; i < sizeof noted / sizeof *noted; i++)
    if (!strstr(text, noted[i])) fail_msg("no note '%s' in\n%s", noted[i], text);
  let_arena_fini(&a);
}

#define IN            "input { name: 'a' data_type: TYPE_FP32 dims: 1 }\n"
#define OUT           "output { name: 'b' data_type: TYPE_FP32 dims: 1 }\n"
#define P(key, value) IN OUT "parameters { key: '" key "' value { string_value: '" value "' } }"

static void test_refusals(void **state) {
  (void)state;
  static const bad cases[] = {
      {"nmae: 'm'", "c:1:1", "did you mean name?"},
      {IN OUT "max_batchsize: 1", "c:3:1", "max_batch_size"},
      {"input { name: 'a' datatype: TYPE_FP32 }", "c:1:19", "data_type"},
      {"input { name: 'a' data_type: TYPE_FP23 dims: 1 }", "c:1:19", "TYPE_FP32"},
      {"input { name: 'a' data_type: 'TYPE_FP32' dims: 1 }", "c:1:19", "without quotes"},
      {"input { name: a data_type: TYPE_FP32 dims: 1 }", "c:1:9", "quotes"},
      {"input { data_type: TYPE_FP32 dims: 1 }", "c:1:1", "no name"},
      {"input { name: '' data_type: TYPE_FP32 dims: 1 }", "c:1:9", "empty"},
      {"input { name: 'a' dims: 1 }", "c:1:1", "data_type"},
      {"input { name: 'a' data_type: TYPE_INVALID dims: 1 }", "c:1:19", "TYPE_INVALID"},
      {"input { name: 'a' data_type: TYPE_FP32 }", "c:1:1", "dims"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [ 1, 0 ] }", "c:1:", "at least 1"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: -2 }", "c:1:", "-2"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 1.5 }", "c:1:", "whole"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [1,1,1,1,1,1,1,1,1] }", "c:1:", "8 dim"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: [4294967296,4294967296] }", "c:1:", "TiB"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 99999999999999999999 }", "c:1:", "range"},
      {IN, "c:", "output"},
      {OUT, "c:", "no input"},
      {IN IN OUT, "c:2:1", "twice"},
      {"name: 'x'\n" IN OUT, "c:1:1", "directory"},
      {"name: 'm'\nname: 'm'", "c:2:1", "line 1"},
      {"name: 5", "c:1:1", "string"},
      {"name: { }", "c:1:1", "string"},
      {"platform: 'onnx'", "c:1:1", "pytorch"},
      {"backend: 'tensorrt'", "c:1:1", "null"},
      {"platform: 'gpulet_null' backend: 'pytorch'" IN OUT, "c:1:25", "does not go"},
      {"max_batch_size: 257", "c:1:1", "256"},
      {"max_batch_size: -1", "c:1:1", "range"},
      {"max_batch_size: 'x'", "c:1:1", "whole"},
      {"default_model_filename: '../x'", "c:1:1", "path"},
      {"input: 5", "c:1:1", "message"},
      {IN OUT "sequence_batching { }", "c:3:1", "not supported"},
      {IN OUT "ensemble_scheduling { step { model_name: 'x' } }", "c:3:1", "not supported"},
      {IN OUT "batch_input { kind: BATCH_ELEMENT_COUNT }", "c:3:1", "not supported"},
      {IN OUT "model_transaction_policy { decoupled: true }", "c:3:", "decoupled"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 1 reshape { shape: [] } }", "c:1:", "reshape"},
      {"input { name: 'a' data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }", "c:1:", "ragged"},
      {IN OUT "optimization { cuda { grphs: true } }", "c:3:", "graphs"},
      {IN OUT "instance_group { kind: KIND_GPUS }", "c:3:", "KIND_GPU"},
      {IN OUT "response_cache { enable: 3 }", "c:3:", "true or false"},
      {"max_batch_size: 4 " IN OUT "dynamic_batching { preferred_batch_size: 5 }", "c:3:", "range"},
      {IN OUT "dynamic_batching { priority_levels: 2 }", "c:3:", "default_priority_level"},
      {IN OUT "dynamic_batching { priority_levels: 2 default_priority_level: 3 }", "c:3:", "range"},
      {IN OUT "dynamic_batching { priority_levels: 256 default_priority_level: 1 }", "c:3:", "255"},
      {IN OUT "dynamic_batching { max_queue_delay_microseconds: -1 }", "c:3:", "range"},
      {IN OUT "version_policy { latest { } all { } }", "c:3:", "exclude"},
      {IN OUT "version_policy { specific { } }", "c:3:", "no version"},
      {IN OUT "version_policy { latest { num_versions: 0 } }", "c:3:", "range"},
      {P("slo_ms", "fast"), "c:3:", "not a number"},
      {P("slo_ms", "0"), "c:3:", "more than 0"},
      {P("slo_ms", "-1"), "c:3:", "range"},
      {P("slo_ms", "20ms"), "c:3:", "not a number"},
      {P("slo-ms", "20"), "c:3:", "slo_ms"},
      {P("slo_sm", "20"), "c:3:", "slo_ms"},
      {P("precision", "fp8"), "c:3:", "bf16"},
      {P("memory_format", "nhwc"), "c:3:", "channels_last"},
      {P("null_us", "-1"), "c:3:", "range"},
      {P("max_output_bytes", "1KiB"), "c:3:", "whole"},
      {P("slo_ms", "1") P("slo_ms", "1"), "c:", "twice"},
      {IN OUT "parameters { value { string_value: '1' } }", "c:3:1", "key"},
      {IN OUT "parameters { key: 'slo_ms' }", "c:3:1", "string_value"},
      {IN OUT "parameters { key: 'slo_ms' value: '20' }", "c:3:", "message"},
      {"name: '\\000'", "c:1:1", "NUL"}};
  int wrong = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_error e = {0};
    static let_model_config c;
    let_err r = let_model_config_parse(let_str_c(cases[i].text), "c", "m", &a, &c, NULL, &e);
    if ((r != LET_ERR_INVALID && r != LET_ERR_UNSUPPORTED) || !strstr(e.text, cases[i].place) ||
        !strstr(e.text, cases[i].word))
      fprintf(stderr, "%s: '%s', wanted %s %s", cases[i].text, e.text, cases[i].place, cases[i].word), wrong++;
    let_arena_fini(&a);
  }
  assert_int_equal(wrong, 0);
}

/* Every allocation in turn fails: a clean error, nothing leaks, and once none fails the result is there. */
static void test_no_memory(void **state) {
  (void)state;
  for (long n = 0;; n++) {
    let_mem_failing mem;
    let_mem_failing_init(&mem, n, 1);
    let_arena a;
    let_arena_init(&a, &mem.mem);
    let_error e = {0};
    static let_model_config c;
    let_err r = let_model_config_parse(LET_STR(whole), "c", "m", &a, &c, NULL, &e);
    long count = mem.count;
    let_arena_fini(&a);
    assert_int_equal(mem.live, 0);
    if (count <= n) {
      assert_int_equal(r, LET_OK);
      assert_true(n > 0);
      return;
    }
    assert_int_equal(r, LET_ERR_NOMEM);
    assert_true(n < 1000);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_format),   cmocka_unit_test(test_malformed),
                                     cmocka_unit_test(test_depth),    cmocka_unit_test(test_whole),
                                     cmocka_unit_test(test_refusals), cmocka_unit_test(test_no_memory)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
