#include "profile/glet.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define assert_near(a, b, eps) assert_true(fabs((a) - (b)) <= (eps))
#define DEVICES                                                                                                       \
  "{\"device_specs\":[{\"type\":\"2080ti\",\"mem_mb\":11000,\"latency_prof_file\":\"2080ti/latency.csv\","            \
  "\"interference_const_file\":\"2080ti/INT.CSV\",\"interference_util_file\":\"2080ti/UTIL.CSV\"},"                   \
  "{\"type\":\"3080\",\"mem_mb\":10200,\"latency_prof_file\":\"x\",\"interference_const_file\":\"x\",\"interference_" \
  "util_file\":\"x\"}]}"
#define SCHED   "{\"GPUs\":[{\"Type\":\"2080ti\",\"Num\":2}],\"Latency Ratio\":1.1}"
#define LATENCY "vgg16,20,1,20\nvgg16,100,1,5\nvgg16,20,2,36\nvgg16,100,2,8\nlenet,20,1,1\nlenet,100,1,0.5\n"
#define UTIL                                                                                                        \
  "bench,batch,avg_duration(ms),SM_util(%),l2_util(%),mem_util(%),a,b\nvgg16,1,0,0,20,30,0,0\nvgg16,3,0,0,99,99,0," \
  "0\nvgg16,2,0,0,40,50,0,0\nlenet,1,0,0,5,6,0,0\n"
#define CONSTANTS "l2_util_m1,l2_util_m2,dram_util_m1,dram_util_m2,constant\n0.11,0.72,0.35,0.09,0.90\n"

typedef struct file {
  const char *name, *text;
} file;
static const file files[] = {
    {"device-config.json", DEVICES},
    {"sched-config.json", SCHED},
    {"mem-config.json", "{\"models\":[{\"name\":\"vgg16\",\"mem\":2920},{\"name\":\"lenet3\",\"mem\":50},{\"name\":"
                        "\"absent\",\"mem\":1}]}"},
    {"2080ti/latency.csv", LATENCY},
    {"2080ti/UTIL.CSV", UTIL},
    {"2080ti/INT.CSV", CONSTANTS},
    {"config/vgg16.json",
     "{\"Name\":\"vgg16\",\"Input\":[{\"ID\":0,\"InputDim\":[3,224,224],\"InputType\":\"FP32\"}]}"},
    {"3_224_224.txt", "1,0.25,\n2,0.5,\n"}};
enum { FILES = sizeof files / sizeof *files };

static void write_all(const char *dir, int skip) {
  char path[128];
  const char *sub[] = {"2080ti", "config"};
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, sub[i]);
    (void)mkdir(path, 0777);
  }
  for (int i = 0; i < FILES; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
    (void)unlink(path);
    if (i == skip) continue;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(files[i].text, f);
    assert_int_equal(fclose(f), 0);
  }
}

static void remove_all(const char *dir) {
  char path[128];
  for (int i = 0; i < FILES; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
    (void)unlink(path);
  }
  snprintf(path, sizeof path, "%s/2080ti", dir);
  (void)rmdir(path);
  snprintf(path, sizeof path, "%s/config", dir);
  (void)rmdir(path);
  assert_int_equal(rmdir(dir), 0);
}

static void test_golden(void **state) {
  (void)state;
  char dir[] = "/tmp/gpulet-glet-XXXXXX";
  assert_non_null(mkdtemp(dir));
  write_all(dir, -1);
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_error e = {0};
  if (let_glet_import(dir, NULL, &a, &p, &e)) fail_msg("%s", e.text);
  assert_string_equal(p.device.name, "2080ti");
  assert_int_equal(p.device.sms, 68);
  assert_int_equal(p.device.granules, 10);
  assert_int_equal(p.n_models, 7); /* lenet1 to lenet6, vgg16 */
  uint32_t v = let_profile_find(&p, "vgg16"), l = let_profile_find(&p, "lenet3");
  let_dur d;
  assert_int_equal(let_profile_latency(&p, v, 2, 10, LET_PROFILE_P50, &d, &e), LET_OK);
  assert_int_equal(d, 8500 * LET_US); /* 8 ms and 0.5 ms to batch */
  assert_int_equal(let_profile_latency(&p, v, 2, 10, LET_PROFILE_P99, &d, &e), LET_OK);
  assert_int_equal(d, 9350 * LET_US); /* x 1.1 */
  assert_int_equal(let_profile_latency(&p, l, 1, 2, LET_PROFILE_P99, &d, &e), LET_OK);
  assert_int_equal(d, 1100 * LET_US);
  assert_int_equal(let_profile_memory(&p, v, 1), 2920ull << 20);
  assert_int_equal(let_profile_memory(&p, l, 1), 50ull << 20);
  assert_int_equal(p.model[v].input_bytes, 3 * 224 * 224 * 4);
  assert_int_equal(p.model[v].n_pressure, 2); /* batch 3 is no power of two */
  let_tenant self = {v, 1, 4, 1}, other = {l, 1, 6, 1};
  double want = 0.11 * 0.20 * 0.4 + 0.72 * 0.05 * 0.6 + 0.35 * 0.30 * 0.4 + 0.09 * 0.06 * 0.6 + 0.90;
  assert_near(let_profile_slowdown(&p, &self, &other, 1), want > 1 ? want : 1, 1e-12);
  let_tenant big = {v, 2, 10, 1};
  want = 0.11 * 0.40 + 0.72 * 0.40 + 0.35 * 0.50 + 0.09 * 0.50 + 0.90;
  assert_near(let_profile_slowdown(&p, &big, &big, 1), want, 1e-12);
  write_all(dir, 3);
  assert_int_equal(let_glet_import(dir, NULL, &a, &p, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "2080ti/latency.csv: no such file: the prototype does not publish"));
  assert_int_equal(let_glet_import(dir, "v100", &a, &p, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "no type 'v100'"));
  remove_all(dir);
  let_arena_fini(&a);
}

static let_err tasks(const char *text, let_workload *w, let_arena *a, let_error *e) {
  return let_glet_tasks((let_profile_file){"tasks.csv", let_str_c(text)}, a, w, e);
}

static void test_task_files(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_workload w;
  let_error e = {0};
  assert_int_equal(tasks("3\n0,100,5,\n9,50.5,142,\r\n13,0,22\n", &w, &a, &e), LET_OK);
  assert_int_equal(w.n, 3);
  assert_string_equal(w.demand[0].name, "lenet1");
  assert_string_equal(w.demand[1].name, "vgg16");
  assert_string_equal(w.demand[2].name, "bert");
  assert_near(w.demand[1].rate, 50.5, 0);
  assert_int_equal(w.demand[1].slo, 142 * LET_MS);
  static const struct {
    const char *text, *want;
  } bad[] = {{"", "tasks.csv: the file is empty"},
             {"x\n", "tasks.csv:1:1: number of tasks: 'x' is not a whole number"},
             {"2\n0,100,5,\n", "tasks.csv:1:1: says 2 tasks, 1 follow"},
             {"0\n0,100,5,\n", "says 0 tasks, 1 follow"},
             {"1\n14,100,5,\n", "tasks.csv:2:1: model_id: 14 is out of range (0 to 13)"},
             {"1\n0,-1,5,\n", "tasks.csv:2:3: rate: -1 is out of range"},
             {"1\n0,nan,5,\n", "'nan' is not a number"},
             {"1\n0,1,0,\n", "tasks.csv:2:5: slo_ms is 0"},
             {"1\n0,1,\n", "tasks.csv:2: 3 fields"},
             {"1\n0,1\n", "tasks.csv:2: 2 fields, expected 3"},
             {"1,2\n", "tasks.csv:1: 2 fields, expected 1"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    let_err r = tasks(bad[i].text, &w, &a, &e);
    if (i == 8) { /* "0,1," is two fields and a trailing comma, or three with an empty SLO: refused either way */
      assert_int_equal(r, LET_ERR_INVALID);
      continue;
    }
    if (r != LET_ERR_INVALID || !strstr(e.text, bad[i].want))
      fail_msg("case %zu: %s '%s', want '%s'", i, let_err_name(r), e.text, bad[i].want);
  }
  let_arena_fini(&a);
}

static void test_malformed(void **state) {
  (void)state;
  static const struct {
    const char *devices, *sched, *latency, *memory, *util, *constants, *want;
  } bad[] = {{"{", SCHED, LATENCY, NULL, NULL, NULL, "device-config.json:1:"},
             {"{}", SCHED, LATENCY, NULL, NULL, NULL, "device_specs: must be a list"},
             {"{\"device_specs\":[{}]}", SCHED, LATENCY, NULL, NULL, NULL, "device_specs[0].type"},
             {"{\"device_specs\":[{\"type\":\"2080ti\"}]}", SCHED, LATENCY, NULL, NULL, NULL, "device_specs[0].mem_mb"},
             {DEVICES, "{\"Latency Ratio\":0.5}", LATENCY, NULL, NULL, NULL, "Latency Ratio: must be"},
             {DEVICES, "[", LATENCY, NULL, NULL, NULL, "sched-config.json:1:"},
             {DEVICES, SCHED, "vgg16,20,1,0\n", NULL, NULL, NULL, "latency.csv:1:12: latency_ms is 0"},
             {DEVICES, SCHED, "vgg16,25,1,3\n", NULL, NULL, NULL, "latency.csv:1:7: part 25 is no multiple of 10 %"},
             {DEVICES, SCHED, "vgg16,20,1\n", NULL, NULL, NULL, "latency.csv:1: 3 fields, expected 4"},
             {DEVICES, SCHED, "a,20,1,3\na,100,1,2\na,20,2,4\n", NULL, NULL, NULL,
              "the cell of batch 2 on 10 granules is missing"},
             {DEVICES, SCHED, LATENCY, "{\"models\":[{\"name\":\"vgg16\"}]}", NULL, NULL, "mem-config.json: models[0]"},
             {DEVICES, SCHED, LATENCY, NULL, "bench,batch\n", CONSTANTS, "UTIL.CSV:1: column 'l2_util(%)' is missing"},
             {DEVICES, SCHED, LATENCY, NULL, "bench,batch,l2_util(%),mem_util(%)\nvgg16,1,101,3\n", CONSTANTS,
              "UTIL.CSV:2:9: l2_util(%): 101 is out of range"},
             {DEVICES, SCHED, LATENCY, NULL, UTIL, "l2_util_m1,l2_util_m2,dram_util_m1,dram_util_m2,constant\n",
              "INT.CSV: the row of constants is missing"},
             {DEVICES, SCHED, LATENCY, NULL, UTIL,
              "l2_util_m1,l2_util_m2,dram_util_m1,dram_util_m2,constant\n1,2,3,x,4\n", "INT.CSV:2:7: dram_util_m2"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
#define FILE_OF(name, text)                              \
  {                                                      \
    name, text ? let_str_c(text) : (let_str) { NULL, 0 } \
  }
    let_glet_texts t = {FILE_OF("device-config.json", bad[i].devices),
                        FILE_OF("sched-config.json", bad[i].sched),
                        FILE_OF("mem-config.json", bad[i].memory),
                        FILE_OF("latency.csv", bad[i].latency),
                        FILE_OF("UTIL.CSV", bad[i].util),
                        FILE_OF("INT.CSV", bad[i].constants)};
    let_glet_device d;
    let_profile p;
    let_error e = {0};
    let_err r = let_glet_devices(t.devices, t.sched, NULL, &d, &e);
    if (!r) r = let_glet_parse(&t, &d, &a, &p, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, bad[i].want))
      fail_msg("case %zu: %s '%s', want '%s'", i, let_err_name(r), e.text, bad[i].want);
    let_arena_fini(&a);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_task_files),
                                     cmocka_unit_test(test_malformed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
