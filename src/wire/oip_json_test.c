#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "base/rng.h"
#include "wire/oip_json.h"

static let_model model(unsigned inputs, const let_dtype *types, uint32_t max_batch) {
  let_model m = {
      .name = "m", .version = 1, .max_batch = max_batch, .n_inputs = (uint8_t)inputs, .n_outputs = (uint8_t)inputs};
  for (unsigned i = 0; i < inputs; i++) {
    let_tensor_spec *s = &m.input[i];
    snprintf(s->name, sizeof s->name, "I%u", i);
    s->dtype = types[i];
    s->rank = 1;
    s->dims[0] = 3;
    m.output[i] = *s;
    m.output[i].name[0] = 'O';
  }
  return m;
}

static char room[65536], text[512];

/* Parses from a block of exactly the document's size. */
static let_err parse(const let_model *m, const char *json, const void *raw, size_t raw_n, let_record *rec,
                     let_oip_infer *x) {
  size_t n = strlen(json);
  char *p = malloc(n + raw_n + 1);
  memcpy(p, json, n);
  if (raw_n) memcpy(p + n, raw, raw_n);
  char *exact = realloc(p, n + raw_n ? n + raw_n : 1);
  let_oip_body b = {.json = exact,
                    .json_bytes = n,
                    .raw = exact + n,
                    .raw_bytes = raw_n,
                    .raw_offset = 1000000 + n,
                    .room = room,
                    .room_bytes = let_oip_room(m, n, raw_n)};
  assert_true(b.room_bytes <= sizeof room);
  let_error e = {0};
  memset(rec, 0, sizeof *rec);
  let_err r = let_oip_infer_parse(&b, m, rec, x, &e);
  snprintf(text, sizeof text, "%s", e.text);
  free(exact);
  return r;
}

static void test_every_dtype(void **state) {
  (void)state;
  static const struct {
    let_dtype t;
    const char *data;
    const char *bytes;
    size_t n;
  } rows[] = {
      {LET_DTYPE_BOOL, "[true,false,true]", "\1\0\1", 3},
      {LET_DTYPE_UINT8, "[0,255,7]", "\0\xff\7", 3},
      {LET_DTYPE_INT8, "[-128,127,-0]", "\x80\x7f\0", 3},
      {LET_DTYPE_UINT16, "[65535,1,0]", "\xff\xff\1\0\0\0", 6},
      {LET_DTYPE_INT16, "[-32768,-1,1]", "\0\x80\xff\xff\1\0", 6},
      {LET_DTYPE_UINT32, "[4294967295,0,0]", "\xff\xff\xff\xff\0\0\0\0\0\0\0\0", 12},
      {LET_DTYPE_INT32, "[-2147483648,0,2147483647]", "\0\0\0\x80\0\0\0\0\xff\xff\xff\x7f", 12},
      {LET_DTYPE_UINT64, "[18446744073709551615,0,1]",
       "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 24},
      {LET_DTYPE_INT64, "[-9223372036854775808,0,9223372036854775807]",
       "\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", 24},
      {LET_DTYPE_FP32, "[1,-2.5,1e0]", "\0\0\x80\x3f\0\0\x20\xc0\0\0\x80\x3f", 12},
      {LET_DTYPE_FP64, "[1,-2.50,0.1e1]", "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\4\xc0\0\0\0\0\0\0\xf0\x3f", 24},
      {LET_DTYPE_BYTES, "[\"\",\"a\\n\",\"\\u00e9\\ud83d\\ude00\"]",
       "\0\0\0\0\2\0\0\0a\n\6\0\0\0\xc3\xa9\xf0\x9f\x98\x80", 20},
  };
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int nested = 0; nested < 2; nested++) {
      let_model m = model(1, &rows[i].t, 8);
      char json[512];
      snprintf(json, sizeof json,
               " {\"inputs\" : [ {\"data\":%s%s%s , \"shape\":[1,3],\"datatype\":\"%s\",\"name\":\"I0\"}]} ",
               nested ? "[" : "", rows[i].data, nested ? "]" : "", let_dtype_name(rows[i].t));
      let_record rec;
      let_oip_infer x;
      if (parse(&m, json, NULL, 0, &rec, &x)) fail_msg("%s: %s", json, text);
      assert_int_equal(rec.in[0].bytes, rows[i].n);
      assert_memory_equal(room + rec.in[0].offset, rows[i].bytes, rows[i].n);
      /* and out again: a reader that is not ours gets the same values */
      let_buf out;
      let_buf_init(&out, &let_mem_libc);
      let_oip_output o = {.t = rec.in[0], .data = room + rec.in[0].offset};
      uint64_t raw = 1;
      let_error e = {0};
      assert_int_equal(let_oip_infer_answer(&m, &x, &o, &out, &raw, &e), LET_OK);
      assert_int_equal(raw, 0);
      if (rows[i].t != LET_DTYPE_UINT64) { /* jansson's integers are signed */
        json_t *doc = json_loadb(out.p, out.n, 0, NULL), *want = json_loads(rows[i].data, 0, NULL);
        json_t *got = json_object_get(json_array_get(json_object_get(doc, "outputs"), 0), "data");
        assert_int_equal(json_array_size(got), 3);
        for (size_t k = 0; k < 3; k++) {
          json_t *a = json_array_get(got, k), *b = json_array_get(want, k);
          assert_true(json_is_number(a) ? json_number_value(a) == json_number_value(b) : json_equal(a, b));
        }
        json_decref(doc);
        json_decref(want);
      } else {
        assert_non_null(strstr(out.p, "[18446744073709551615,0,1]"));
      }
      let_buf_fini(&out);
    }
}

#define IN(rest) "{\"inputs\":[{\"name\":\"I0\",\"datatype\":\"FP32\"," rest "}]}"
#define GOOD     "{\"name\":\"I0\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2,3]}"
static void test_refused(void **state) {
  (void)state;
  static const struct {
    const char *json, *word;
    let_err err;
  } rows[] = {
      {"", "no body", LET_ERR_INVALID},
      {"{", "ends", LET_ERR_INVALID},
      {"[]", "'{'", LET_ERR_INVALID},
      {"{}", "inputs", LET_ERR_INVALID},
      {"{\"inputs\":[]}", "I0", LET_ERR_INVALID},
      {"{\"inputs\":[" GOOD "]}x", "follows", LET_ERR_INVALID},
      {"{\"inputs\":[" GOOD ",]}", "", LET_ERR_INVALID},
      {"{\"inputs\":[" GOOD "," GOOD "]}", "twice", LET_ERR_INVALID},
      {"{\"inputs\":[" GOOD "],\"inputs\":[]}", "twice", LET_ERR_INVALID},
      {"{\"inputs\":[{\"name\":\"X\"}]}", "I0", LET_ERR_INVALID},
      {"{\"inputs\":[{\"shape\":[1]}]}", "name", LET_ERR_INVALID},
      {"{\"inputs\":[1]}", "'{'", LET_ERR_INVALID},
      {"{\"inputs\":1}", "'['", LET_ERR_INVALID},
      {"{\"inputs\":[{\"name\":\"I0\"}]}", "datatype", LET_ERR_INVALID},
      {"{\"inputs\":[{\"name\":\"I0\",\"datatype\":\"NOPE\"}]}", "NOPE", LET_ERR_INVALID},
      {"{\"inputs\":[{\"name\":\"I0\",\"datatype\":\"FP64\",\"shape\":[1,3],\"data\":[1,2,3]}]}", "FP32",
       LET_ERR_INVALID},
      {IN("\"data\":[1]"), "shape", LET_ERR_INVALID},
      {IN("\"shape\":\"1\""), "shape", LET_ERR_INVALID},
      {IN("\"shape\":[1.5]"), "shape", LET_ERR_INVALID},
      {IN("\"shape\":[1,3]"), "neither", LET_ERR_INVALID},
      {IN("\"shape\":[3],\"data\":[1,2,3]"), "batch", LET_ERR_INVALID},
      {IN("\"shape\":[1,4],\"data\":[1,2,3,4]"), "[-1, 3]", LET_ERR_INVALID},
      {IN("\"shape\":[0,3],\"data\":[]"), "below 1", LET_ERR_INVALID},
      {IN("\"shape\":[-1,3],\"data\":[]"), "below 1", LET_ERR_INVALID},
      {IN("\"shape\":[9,3],\"data\":[]"), "max_batch_size 8", LET_ERR_INVALID},
      {IN("\"shape\":[1,1,1,1,1,1,1,1,1],\"data\":[]"), "8 at most", LET_ERR_INVALID},
      {IN("\"shape\":[99999999999999999999,3],\"data\":[]"), "range", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,2]"), "3", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,2,3,4]"), "more", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[[1,2],[3]]"), "", LET_ERR_INVALID},
      {IN("\"shape\":[2,3],\"data\":[[1,2,3],[4,5]]"), "says 3", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[[[1,2,3]]]"), "deeply", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,\"a\",3]"), "number", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,null,3]"), "number", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,NaN,3]"), "NaN", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,01,3]"), "start with 0", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,1.,3]"), "digit", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,1e,3]"), "digit", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,1e39,3]"), "range", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,0x10,3]"), "", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":7"), "'['", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,2,3],\"data\":[1,2,3]"), "same thing twice", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"parameters\":{\"binary_data_size\":12}"), "left", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"data\":[1,2,3],\"parameters\":{\"binary_data_size\":0}"), "both", LET_ERR_INVALID},
      {IN("\"shape\":[1,3],\"parameters\":{\"shared_memory_region\":\"a\"}"), "shared", LET_ERR_UNSUPPORTED},
      {"{\"id\":5,\"inputs\":[" GOOD "]}", "id", LET_ERR_INVALID},
      {"{\"id\":\"\\x\",\"inputs\":[" GOOD "]}", "escape", LET_ERR_INVALID},
      {"{\"id\":\"\\ud800\",\"inputs\":[" GOOD "]}", "surrogate", LET_ERR_INVALID},
      {"{\"id\":\"\xff\",\"inputs\":[" GOOD "]}", "UTF-8", LET_ERR_INVALID},
      {"{\"id\":\"\n\"}", "control", LET_ERR_INVALID},
      {"{\"parameters\":{\"timeout\":-1},\"inputs\":[" GOOD "]}", "timeout", LET_ERR_INVALID},
      {"{\"parameters\":{\"timeout\":18446744073709551615},\"inputs\":[" GOOD "]}", "timeout", LET_ERR_INVALID},
      {"{\"parameters\":{\"priority\":\"a\"},\"inputs\":[" GOOD "]}", "priority", LET_ERR_INVALID},
      {"{\"outputs\":[{\"name\":\"X\"}],\"inputs\":[" GOOD "]}", "O0", LET_ERR_INVALID},
      {"{\"outputs\":[{\"name\":\"O0\"},{\"name\":\"O0\"}],\"inputs\":[" GOOD "]}", "twice", LET_ERR_INVALID},
      {"{\"outputs\":[{}],\"inputs\":[" GOOD "]}", "name", LET_ERR_INVALID},
      {"{\"outputs\":[{\"name\":\"O0\",\"parameters\":{\"classification\":3}}],\"inputs\":[" GOOD "]}",
       "classification", LET_ERR_UNSUPPORTED},
      {"{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", "deeply",
       LET_ERR_INVALID},
      {"{\"x\":tru,\"inputs\":[" GOOD "]}", "", LET_ERR_INVALID},
  };
  let_dtype t = LET_DTYPE_FP32;
  let_model m = model(1, &t, 8);
  for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
    let_record rec;
    let_oip_infer x;
    let_err r = parse(&m, rows[i].json, NULL, 0, &rec, &x);
    if (r != rows[i].err || !strstr(text, rows[i].word)) fail_msg("%s: %s %s", rows[i].json, let_err_name(r), text);
  }
  static const struct {
    let_dtype t;
    const char *data;
  } range[] = {{LET_DTYPE_UINT8, "256"},
               {LET_DTYPE_UINT8, "-1"},
               {LET_DTYPE_INT8, "128"},
               {LET_DTYPE_UINT16, "65536"},
               {LET_DTYPE_INT16, "-32769"},
               {LET_DTYPE_INT32, "2147483648"},
               {LET_DTYPE_UINT32, "4294967296"},
               {LET_DTYPE_INT64, "9223372036854775808"},
               {LET_DTYPE_INT64, "-9223372036854775809"},
               {LET_DTYPE_UINT64, "18446744073709551616"},
               {LET_DTYPE_INT32, "1.0"},
               {LET_DTYPE_INT32, "1e2"},
               {LET_DTYPE_INT32, "true"},
               {LET_DTYPE_BOOL, "1"},
               {LET_DTYPE_BOOL, "\"true\""},
               {LET_DTYPE_FP64, "1e309"},
               {LET_DTYPE_FP32, "3.5e38"},
               {LET_DTYPE_FP16, "1"},
               {LET_DTYPE_BF16, "1"},
               {LET_DTYPE_BYTES, "1"},
               {LET_DTYPE_BYTES, "\"\xff\""}};
  for (unsigned i = 0; i < sizeof range / sizeof *range; i++) {
    char json[256];
    let_record rec;
    let_oip_infer x;
    m = model(1, &range[i].t, 8);
    snprintf(json, sizeof json,
             "{\"inputs\":[{\"name\":\"I0\",\"datatype\":\"%s\",\"shape\":[1,3],\"data\":[%s,%s,%s]}]}",
             let_dtype_name(range[i].t), range[i].data, range[i].data, range[i].data);
    if (parse(&m, json, NULL, 0, &rec, &x) != LET_ERR_INVALID || !strstr(text, "I0")) fail_msg("%s: %s", json, text);
  }
}

static void test_binary_and_mixed(void **state) {
  (void)state;
  let_dtype t[2] = {LET_DTYPE_FP32, LET_DTYPE_BYTES};
  let_model m = model(2, t, 8);
  const char *json = "{\"id\":\"\",\"inputs\":[{\"name\":\"I1\",\"datatype\":\"BYTES\",\"shape\":[1,3],\"parameters\":{"
                     "\"binary_data_size\":14}},"
                     "{\"name\":\"I0\",\"datatype\":\"FP32\",\"shape\":[1,3],\"parameters\":{\"binary_data_size\":12}}]"
                     ",\"outputs\":[{\"name\":\"O1\",\"parameters\":{\"binary_data\":false}},{\"name\":\"O0\"}],"
                     "\"parameters\":{\"binary_data_output\":true,\"triton_enable_empty_final_response\":true}}";
  const char raw[] = "\1\0\0\0a\0\0\0\0\1\0\0\0b\0\0\x80\x3f\0\0\0\0\0\0\0\0";
  let_record rec;
  let_oip_infer x;
  if (parse(&m, json, raw, 26, &rec, &x)) fail_msg("%s", text);
  assert_int_equal(rec.in[1].offset, 1000000 + strlen(json));
  assert_int_equal(rec.in[0].offset, 1000000 + strlen(json) + 14);
  assert_true(x.n_out == 2 && x.out[0] == 1 && !x.out_binary[0] && x.out[1] == 0 && x.out_binary[1] && x.has_id &&
              !x.id_n);
  assert_int_equal(parse(&m, json, raw, 25, &rec, &x), LET_ERR_INVALID);
  assert_int_equal(parse(&m, json, raw, 30 - 4 + 0, &rec, &x), LET_OK);
  assert_int_equal(parse(&m, json, "\2\0\0\0a\0\0\0\0\1\0\0\0b............", 26, &rec, &x),
                   LET_ERR_INVALID); /* strings that do not add up */
  const char *mixed = "{\"inputs\":[{\"name\":\"I1\",\"datatype\":\"BYTES\",\"shape\":[1,3],\"parameters\":{\"binary_"
                      "data_size\":14}},{\"name\":\"I0\",\"datatype\":\"FP32\",\"shape\":[1,3],\"data\":[1,2,3]}]}";
  assert_int_equal(parse(&m, mixed, raw, 14, &rec, &x), LET_OK);
  assert_memory_equal(room + rec.in[1].offset, raw, 14);
  assert_true(rec.in[0].bytes == 12 && rec.rows == 1);
  m = model(1, t, 8);
  let_oip_body b = {.json = raw, .raw = raw, .raw_bytes = 24, .raw_offset = 5};
  assert_int_equal(let_oip_infer_raw(&b, &m, &rec, &x, NULL), LET_OK);
  assert_true(rec.rows == 2 && rec.in[0].offset == 5 && x.out_binary[0]);
  for (b.raw_bytes = 0; b.raw_bytes < 12; b.raw_bytes++)
    assert_int_equal(let_oip_infer_raw(&b, &m, &rec, &x, NULL), LET_ERR_INVALID);
}

static void test_floats_round_trip(void **state) {
  (void)state;
  let_dtype t = LET_DTYPE_FP32;
  let_model m = model(1, &t, 0);
  m.input[0].dims[0] = m.output[0].dims[0] = 1;
  let_oip_infer x = {.n_out = 1};
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_rng rng;
  let_rng_seed(&rng, 11);
  for (int i = 0; i < 60000; i++) {
    uint32_t bits = (uint32_t)let_rng_u64(&rng);
    float f, g;
    if (i % 2)
      f = (float)(let_rng_unit(&rng) * pow(10, (double)let_rng_below(&rng, 12) - 5)) * (i % 4 == 1 ? -1.f : 1.f);
    else memcpy(&f, &bits, 4);
    if (!isfinite(f)) continue;
    let_oip_output o = {.t = {.dtype = LET_DTYPE_FP32, .rank = 1, .shape = {1}, .bytes = 4}, .data = (const char *)&f};
    uint64_t raw;
    let_buf_clear(&out);
    assert_int_equal(let_oip_infer_answer(&m, &x, &o, &out, &raw, NULL), LET_OK);
    const char *data = strstr(out.p, "\"data\":[") + 8;
    g = (float)strtod(data, NULL);
    if (memcmp(&f, &g, 4) != 0) fail_msg("%.9g became %s", (double)f, data);
    char json[256]; /* and through our own reader */
    snprintf(json, sizeof json, "{\"inputs\":[{\"name\":\"I0\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":[%.*s]}]}",
             (int)strcspn(data, "]"), data);
    let_record rec;
    if (parse(&m, json, NULL, 0, &rec, &x)) fail_msg("%s: %s", json, text);
    assert_memory_equal(room + rec.in[0].offset, &f, 4);
  }
  float bad = NAN;
  let_oip_output o = {.t = {.dtype = LET_DTYPE_FP32, .rank = 1, .shape = {1}, .bytes = 4}, .data = (const char *)&bad};
  uint64_t raw;
  assert_int_equal(let_oip_infer_answer(&m, &x, &o, &out, &raw, NULL), LET_ERR_INVALID);
  o.t.bytes = 8; /* a worker that lies */
  assert_int_equal(let_oip_infer_answer(&m, &x, &o, &out, &raw, NULL), LET_ERR_INTERNAL);
  o.t.bytes = 4;
  o.t.rank = 200;
  assert_int_equal(let_oip_infer_answer(&m, &x, &o, &out, &raw, NULL), LET_ERR_INTERNAL);
  let_buf_fini(&out);
}

static void test_cut_and_broken(void **state) {
  (void)state;
  let_dtype t[2] = {LET_DTYPE_FP32, LET_DTYPE_BYTES};
  let_model m = model(2, t, 8);
  const char *json = "{\"id\":\"a\\u00e9\",\"inputs\":[" GOOD
                     ",{\"name\":\"I1\",\"datatype\":\"BYTES\",\"shape\":[1,3],\"data\":[\"a\",\"\\ud83d\\ude00\",\"\"]"
                     "}],\"outputs\":[{\"name\":\"O1\"}],\"parameters\":{\"timeout\":5}}";
  char copy[1024];
  let_record rec;
  let_oip_infer x;
  assert_int_equal(parse(&m, json, NULL, 0, &rec, &x), LET_OK);
  for (size_t n = 0; n < strlen(json); n++) {
    memcpy(copy, json, n);
    copy[n] = 0;
    assert_int_equal(parse(&m, copy, NULL, 0, &rec, &x), LET_ERR_INVALID);
  }
  let_rng rng;
  let_rng_seed(&rng, 3);
  for (int i = 0; i < 20000; i++) {
    memcpy(copy, json, strlen(json) + 1);
    for (uint64_t k = 1 + let_rng_below(&rng, 3); k; k--)
      copy[let_rng_below(&rng, strlen(json))] = (char)(1 + let_rng_below(&rng, 255));
    let_err r = parse(&m, copy, NULL, 0, &rec, &x);
    assert_true(r == LET_OK || let_err_http(r) == 400 || let_err_http(r) == 413 || let_err_http(r) == 501);
  }
}

/* Documents stay whole JSON, and a failed allocation shows in the buffer. */
static void test_documents(void **state) {
  (void)state;
  let_dtype t = LET_DTYPE_FP32;
  let_model m = model(1, &t, 8);
  snprintf(m.platform, sizeof m.platform, "odd \"platform\"\n\xff");
  for (long fail = -1; fail < 4; fail++) {
    let_mem_failing mem;
    let_mem_failing_init(&mem, fail, 1);
    let_buf b;
    let_buf_init(&b, &mem.mem);
    let_buf_str(&b, "[");
    let_oip_model(&b, &m);
    let_buf_str(&b, ",");
    let_oip_server(&b, "n", "v");
    let_buf_str(&b, ",");
    let_oip_error(&b, "what \"now\"\x01");
    let_buf_str(&b, ",");
    let_oip_index_entry(&b, &m, true);
    let_buf_str(&b, "]");
    if (fail < 0) {
      json_t *doc = json_loadb(b.p, b.n, 0, NULL);
      assert_int_equal(json_array_size(doc), 4);
      assert_string_equal(json_string_value(json_object_get(json_array_get(doc, 2), "error")), "what \"now\"\x01");
      json_decref(doc);
    } else {
      assert_true(b.failed);
    }
    let_buf_fini(&b);
    assert_int_equal(mem.live, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_dtype),      cmocka_unit_test(test_refused),
                                     cmocka_unit_test(test_binary_and_mixed), cmocka_unit_test(test_floats_round_trip),
                                     cmocka_unit_test(test_cut_and_broken),   cmocka_unit_test(test_documents)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
