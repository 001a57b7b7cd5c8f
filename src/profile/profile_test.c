#include "profile/profile.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"

#define assert_near(a, b, eps) assert_true(fabs((a) - (b)) <= (eps)) /* cmocka compares floats, not doubles */

static const char device_ok[] =
    "type: h200\nsms: 132\ngranules: 16\ngranule_sms: 8\nlast_granule_sms: 12\nmemory_mib: 143000\n";
static const char latency_ok[] =
    "model,batch,granules,p50_ms,p99_ms\na,1,1,4,5\na,1,16,1,1.5\na,8,1,20,22\na,8,16,3,3.5\nb,1,2,2,2\n";

static let_str str(const char *s) { return s ? let_str_c(s) : (let_str){NULL, 0}; }

static let_err parse(const char *device, const char *latency, const char *memory, const char *samples, const char *fit,
                     let_arena *a, let_profile *p, let_samples *s, let_problems *ps, let_error *e) {
  let_profile_texts t = {{"device.yaml", str(device)},       {"latency.csv", str(latency)},
                         {"memory.csv", str(memory)},        {"inputs.csv", {NULL, 0}},
                         {"interference.csv", str(samples)}, {"interference.yaml", str(fit)}};
  return let_profile_parse(&t, a, p, s, ps, e);
}

typedef struct bad_case {
  const char *device, *latency, *memory, *samples, *fit;
  const char *want; /* in the first error */
} bad_case;

#define HEAD  "model,batch,granules,p50_ms,p99_ms\n"
#define SHEAD "model,batch,granules,neighbours,solo_ms,together_ms\n"
static const bad_case bad[] = {
    {NULL, latency_ok, NULL, NULL, NULL, "device.yaml: the file is missing"},
    {device_ok, NULL, NULL, NULL, NULL, "latency.csv: the file is missing"},
    {"", latency_ok, NULL, NULL, NULL, "device.yaml:1: must be a mapping"},
    {"- a\n", latency_ok, NULL, NULL, NULL, "device.yaml:1: must be a mapping"},
    {"type: [\n", latency_ok, NULL, NULL, NULL, "device.yaml:"},
    {"type: h\nsms: 8\n", latency_ok, NULL, NULL, NULL, "'granules' is missing"},
    {"type: h\nsms: -8\ngranules: 1\ngranule_sms: 8\nmemory_mib: 1\n", latency_ok, NULL, NULL, NULL,
     "device.yaml:2:6: sms: -8 is out of range"},
    {"type: h\nsms: 8.5\ngranules: 1\ngranule_sms: 8\nmemory_mib: 1\n", latency_ok, NULL, NULL, NULL,
     "must be a whole number"},
    {"type: h\nsms: many\ngranules: 1\ngranule_sms: 8\nmemory_mib: 1\n", latency_ok, NULL, NULL, NULL,
     "device.yaml:2:6"},
    {"type: h\nsms: 100\ngranules: 16\ngranule_sms: 8\nmemory_mib: 1\n", latency_ok, NULL, NULL, NULL,
     "are 128 SMs, but sms is 100"},
    {"type: h\nsms: 8\nsms: 8\ngranules: 1\ngranule_sms: 8\nmemory_mib: 1\n", latency_ok, NULL, NULL, NULL,
     "device.yaml:3:1: 'sms' is there twice"},
    {"type: h\nsmz: 8\n", latency_ok, NULL, NULL, NULL, "device.yaml:2:1: 'smz' is no key"},
    {"type: 'a b'\nsms: 8\n", latency_ok, NULL, NULL, NULL, "device.yaml:1:7: 'a b' is no device type"},
    {device_ok, "", NULL, NULL, NULL, "latency.csv: the file is empty"},
    {device_ok, "# only a comment\n", NULL, NULL, NULL, "latency.csv: the file is empty"},
    {device_ok, HEAD, NULL, NULL, NULL, "no rows"},
    {device_ok, "model,batch,granules,p50_ms\n", NULL, NULL, NULL, "column 'p99_ms' is missing"},
    {device_ok, "model,batch,sms,ms\n", NULL, NULL, NULL, "latency.csv:1:13: column 'sms' is not known"},
    {device_ok, "model,batch,batch,p50_ms,p99_ms\n", NULL, NULL, NULL,
     "latency.csv:1:13: column 'batch' is there twice"},
    {device_ok, HEAD "a,1,1,0,1\n", NULL, NULL, NULL, "latency.csv:2:7: p50_ms is 0: must be more than 0"},
    {device_ok, HEAD "a,1,1,-2,1\n", NULL, NULL, NULL, "latency.csv:2:7: p50_ms is -2: must be more than 0"},
    {device_ok, HEAD "a,1,1,nan,1\n", NULL, NULL, NULL, "latency.csv:2:7: p50_ms: 'nan' is not a number"},
    {device_ok, HEAD "a,1,1,inf,1\n", NULL, NULL, NULL, "'inf' is not a number"},
    {device_ok, HEAD "a,1,1,1e99,1\n", NULL, NULL, NULL, "out of range"},
    {device_ok, HEAD "a,1,1,1 ms,1\n", NULL, NULL, NULL, "'1 ms' is not a number"},
    {device_ok, HEAD "a,1,1,,1\n", NULL, NULL, NULL, "latency.csv:2:7: p50_ms: '' is not a number"},
    {device_ok, HEAD "a,1,1,2,1\n", NULL, NULL, NULL, "latency.csv:2:9: p99_ms 1 is less than p50_ms 2"},
    {device_ok, HEAD "a,0,1,1,1\n", NULL, NULL, NULL, "latency.csv:2:3: batch: 0 is out of range"},
    {device_ok, HEAD "a,257,1,1,1\n", NULL, NULL, NULL, "batch: 257 is out of range"},
    {device_ok, HEAD "a,1.5,1,1,1\n", NULL, NULL, NULL, "'1.5' is not a whole number"},
    {device_ok, HEAD "a,1,17,1,1\n", NULL, NULL, NULL, "latency.csv:2:5: granules: 17 is out of range (1 to 16)"},
    {device_ok, HEAD "a,1,0,1,1\n", NULL, NULL, NULL, "granules: 0 is out of range"},
    {device_ok, HEAD ",1,1,1,1\n", NULL, NULL, NULL, "latency.csv:2:1: model is empty"},
    {device_ok, HEAD "a+b,1,1,1,1\n", NULL, NULL, NULL, "a character that no name may have"},
    {device_ok, HEAD "a,1,1,1\n", NULL, NULL, NULL, "latency.csv:2: 4 fields, expected 5"},
    {device_ok, HEAD "a,1,1,1,1,1\n", NULL, NULL, NULL, "6 fields, expected 5"},
    {device_ok, HEAD "a,1,1,1,1\n\na,1,1,2,2\n", NULL, NULL, NULL,
     "latency.csv:4: model 'a', batch 1, 1 granules is there twice, first on line 2"},
    {device_ok, HEAD "a,1,1,1,1\na,2,1,2,2\na,2,2,2,2\n", NULL, NULL, NULL,
     "latency.csv:3: model 'a': the cell of batch 1 on 2 granules is missing"},
    {device_ok, HEAD "a,1,1,1,1\na,1,2,1,1\na,2,1,2,2\n", NULL, NULL, NULL,
     "the cell of batch 2 on 2 granules is missing"},
    {device_ok, latency_ok, "model,batch,mib\nzz,1,5\n", NULL, NULL,
     "memory.csv:2:1: model 'zz' is not in latency.csv"},
    {device_ok, latency_ok, "model,batch,mib\na,1,0\n", NULL, NULL, "memory.csv:2:5: mib is 0"},
    {device_ok, latency_ok, "model,batch,mib\na,1,5\na,1,5\n", NULL, NULL,
     "memory.csv:3: model 'a' at batch 1 is there twice"},
    {device_ok, latency_ok, "model,batch,mb\n", NULL, NULL, "column 'mb' is not known"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,2,b,1,1\n", NULL,
     "interference.csv:2:7: neighbour 'b' must be name:batch:granules"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,2,b:1:x,1,1\n", NULL, "neighbour's granules: 'x' is not a whole number"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,2,c:1:2,1,1\n", NULL, "model 'c' is not in latency.csv"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,8,b:1:9,1,1\n", NULL, "17 granules together, the device has 16"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,8,b:1:8,1,0\n", NULL, "together_ms is 0"},
    {device_ok, latency_ok, NULL, SHEAD "a,1,8,b:1:8,3,1\n", NULL, "less than half of solo_ms"},
    {device_ok, latency_ok, NULL, NULL, "model: magic\n", "interference.yaml:1: key 'model' must be one of"},
    {device_ok, latency_ok, NULL, NULL, "model: pressure\n", "key 'coefficients' is missing"},
    {device_ok, latency_ok, NULL, NULL, "model: pressure\ncoefficients: {share_self: 1}\n",
     "'share_other' is missing from coefficients"},
    {device_ok, latency_ok, NULL, NULL, "model: linear\ncoefficients: {share_self: 1}\n",
     "interference.yaml:2:16: 'share_self' is no coefficient of this model"},
    {device_ok, latency_ok, NULL, NULL, "model: none\nmodels: [{name: q, batch: 1, pressure: 1, sensitivity: 1}]\n",
     "'q' is not in latency.csv"},
    {device_ok, latency_ok, NULL, NULL, "model: none\nmodels: [{name: a, pressure: 1, sensitivity: 1}]\n",
     "needs a name and a whole batch"},
    {device_ok, latency_ok, NULL, NULL, "model: none\nmodels: [{name: a, batch: 1, pressure: -1}]\n",
     "pressure: -1 is out of range"},
    {device_ok, latency_ok, NULL, NULL, "model: none\nmodels: [{name: a, batch: 1, delay_ms: -1}]\n",
     "delay_ms: -1 is out of range"},
    {device_ok, latency_ok, NULL, NULL, "model: none\nmodels: [{name: a, batch: 1}, {name: a, batch: 1}]\n",
     "is there twice"},
};

static void test_malformed(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_problems *ps = calloc(1, sizeof *ps);
    let_profile p;
    let_error e = {0};
    let_err r = parse(bad[i].device, bad[i].latency, bad[i].memory, bad[i].samples, bad[i].fit, &a, &p, NULL, ps, &e);
    if (r != LET_ERR_INVALID || !strstr(e.text, bad[i].want))
      fail_msg("case %zu: got %s '%s', want '%s'", i, let_err_name(r), e.text, bad[i].want);
    free(ps);
    let_arena_fini(&a);
  }
}

static void test_every_problem_is_told(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_problems *ps = calloc(1, sizeof *ps);
  let_profile p;
  let_error e = {0};
  assert_int_equal(
      parse(device_ok, HEAD "a,1,1,0,1\na,1,99,1,1\na,x,1,y,1\na,1,2,3,4\n", NULL, NULL, NULL, &a, &p, NULL, ps, &e),
      LET_ERR_INVALID);
  assert_int_equal(ps->n_errors, 4);
  assert_non_null(strstr(e.text, "(and 3 more)"));
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_problems_print(ps, &b);
  assert_non_null(strstr(b.p, "latency.csv:3:5: error: granules"));
  let_buf_fini(&b);
  free(ps);
  let_arena_fini(&a);
}

static void test_rising_with_more_sms_is_a_warning(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_problems *ps = calloc(1, sizeof *ps);
  let_profile p;
  let_error e = {0};
  assert_int_equal(parse(device_ok, HEAD "a,1,1,2,2\na,1,8,3,3\na,2,1,1.5,1.5\na,2,8,3.1,3.1\n", NULL, NULL, NULL, &a,
                         &p, NULL, ps, &e),
                   LET_OK);
  assert_int_equal(ps->n_warnings, 3);
  assert_int_equal(ps->problem[0].line, 3);
  let_dur d;
  assert_int_equal(let_profile_latency(&p, 0, 1, 1, 0, &d, &e), LET_OK); /* the envelope took the slower one */
  assert_int_equal(d, 3 * LET_MS);
  free(ps);
  let_arena_fini(&a);
}

static void test_good_is_read(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_problems *ps = calloc(1, sizeof *ps);
  let_profile p;
  let_samples s;
  let_error e = {0};
  assert_int_equal(
      parse(device_ok, "\xef\xbb\xbf# c\r\np99_ms,model,batch,granules,p50_ms\r\n5, a ,1,1,4\r\n1,b,1,2,1",
            "model,batch,mib\na,1,100\na,4,400\n", SHEAD "a,1,2,b:1:2+a:1:4,1,1.25\n",
            "model: pressure\nheld_out_error_p95: 0.04\ncoefficients: {share_self: 0, share_other: 1, saturation: 0, "
            "default_pressure: .1, "
            "default_sensitivity: 1}\nmodels:\n  - {name: a, batch: 1, pressure: 0.2, sensitivity: 0.5, delay_ms: 2}\n",
            &a, &p, &s, ps, &e),
      LET_OK);
  assert_int_equal(p.n_models, 2);
  assert_int_equal(let_profile_find(&p, "b"), 1);
  assert_int_equal(p.device.memory_bytes, 143000ull << 20);
  assert_int_equal(let_profile_memory(&p, 0, 2), 200ull << 20);
  assert_int_equal(let_profile_memory(&p, 0, 8), 800ull << 20);
  assert_int_equal(s.n, 1);
  assert_int_equal(s.sample[0].n, 2);
  assert_int_equal(s.sample[0].other[1].granules, 4);
  let_tenant self = {0, 1, 2, 1}, other[2] = {{1, 1, 2, 1}, {0, 1, 4, 1}};
  assert_near(let_profile_slowdown(&p, &self, other, 2), 1 + (0.5 + 2 / 5.) * (0.1 * 2 / 16 + 0.2 * 4 / 16),
              1e-12); /* p99 is 5 ms */
  assert_near(let_profile_slowdown(&p, &other[0], &self, 1), 1 + 1 * (0.2 * 2 / 16), 1e-12);
  assert_near(let_profile_slowdown(&p, &self, other, 0), 1, 0);
  free(ps);
  let_arena_fini(&a);
}

static void random_profile(let_rng *r, let_arena *a, let_profile *p) {
  *p = (let_profile){
      .device = {"t", 132, 16, 8, 12, 80ull << 30, 1, 0}, .n_models = 3, .interference = LET_INTERFERENCE_PRESSURE};
  p->model = let_arena_array(a, 3, sizeof *p->model);
  for (int i = 0; i < LET_COEF_COUNT; i++) p->coef[i] = let_rng_unit(r);
  p->interference_error_p95 = 0.03;
  for (uint32_t k = 0; k < 3; k++) {
    let_profile_model *m = &p->model[k];
    snprintf(m->name, sizeof m->name, "m%u", k);
    m->batch = let_arena_array(a, 6, sizeof(uint32_t)), m->granule = let_arena_array(a, 8, sizeof(uint32_t));
    for (uint32_t v = 1 + (uint32_t)let_rng_below(r, 3); m->n_batches < 6; v += 1 + (uint32_t)let_rng_below(r, 9))
      m->batch[m->n_batches++] = v;
    for (uint32_t v = 1 + (uint32_t)let_rng_below(r, 3); m->n_granules < 8 && v <= 16;
         v += 1 + (uint32_t)let_rng_below(r, 4))
      m->granule[m->n_granules++] = v;
    m->cell = let_arena_array(a, 48, sizeof(let_cell));
    for (uint32_t b = 0; b < m->n_batches; b++)
      for (uint32_t g = 0; g < m->n_granules; g++) {
        double ms = 0.01 + 50 * let_rng_unit(r) * let_rng_unit(r);
        m->cell[m->n_cells++] = (let_cell){m->batch[b], m->granule[g], ms, ms * (1 + let_rng_unit(r))};
      }
    let_profile_envelope(m);
    m->memory = let_arena_array(a, 2, sizeof *m->memory);
    m->n_memory = 2;
    m->memory[0].batch = 1, m->memory[0].bytes = (1 + let_rng_below(r, 1000)) << 20;
    m->memory[1].batch = 9, m->memory[1].bytes = m->memory[0].bytes * 2;
    m->pressure = let_arena_array(a, 1, sizeof *m->pressure);
    m->n_pressure = 1;
    m->pressure[0].batch = 1,
    m->pressure[0].p = (let_pressure){0, 0, let_rng_unit(r), let_rng_unit(r), let_rng_unit(r)};
    m->input_bytes = 1 + let_rng_below(r, 1 << 20);
  }
}

/* Planners count on it: predicted times never fall with a larger batch, fewer granules or one more neighbour. */
static void test_predicted_times_are_monotone(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, 20221101);
  for (int round = 0; round < 200; round++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_profile p;
    random_profile(&r, &a, &p);
    p.interference = LET_INTERFERENCE_PRESSURE;
    p.coef[LET_COEF_SHARE_SELF] *= -1;
    let_tenant other[3];
    for (uint32_t m = 0; m < 3; m++)
      other[m] = (let_tenant){m, 1 + (uint32_t)let_rng_below(&r, 64), 1 + (uint32_t)let_rng_below(&r, 8), 1};
    for (uint32_t m = 0; m < 3; m++) {
      double prev[17] = {0};
      for (uint32_t b = 1; b <= 80; b++) {
        double wider = INFINITY;
        for (uint32_t g = 1; g <= 16; g++) {
          let_tenant self = {m, b, g, 1};
          let_dur d;
          double slow = 1;
          if (let_profile_latency(&p, m, b, g, LET_PROFILE_P99, &d, NULL)) continue;
          for (uint32_t n = 0; n <= 3; n++) {
            double more = let_profile_slowdown(&p, &self, other, n);
            assert_true(more >= slow);
            slow = more;
          }
          double ns = (double)d * slow;
          assert_true(ns <= wider * (1 + 1e-9) && ns >= prev[g] * (1 - 1e-9));
          wider = ns, prev[g] = ns;
        }
      }
    }
    let_arena_fini(&a);
  }
}

static void test_interpolation_is_monotone(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, 20220711);
  for (int round = 0; round < 200; round++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_profile p;
    random_profile(&r, &a, &p);
    for (uint32_t m = 0; m < 3; m++)
      for (unsigned flags = 0; flags < 4; flags++) {
        let_dur prev[17] = {0};
        for (uint32_t b = 1; b <= 80; b++) {
          let_dur wider = LET_NEVER;
          for (uint32_t g = 1; g <= 16; g++) {
            let_dur d;
            let_error e = {0};
            let_err err = let_profile_latency(&p, m, b, g, flags, &d, &e);
            const let_profile_model *pm = &p.model[m];
            bool inside =
                b >= pm->batch[0] && b <= pm->batch[5] && g >= pm->granule[0] && g <= pm->granule[pm->n_granules - 1];
            assert_int_equal(err, inside || flags & LET_PROFILE_EXTRAPOLATE ? LET_OK : LET_ERR_NOT_FOUND);
            if (err) {
              assert_non_null(strstr(e.text, "is not profiled at batch"));
              continue;
            }
            assert_true(d > 0);
            assert_true(d <= wider);
            assert_true(d >= prev[g]);
            wider = d, prev[g] = d;
          }
        }
      }
    let_arena_fini(&a);
  }
}

static void test_many_latencies_are_the_single_ones(void **state) {
  (void)state;
  let_rng r;
  let_rng_seed(&r, 20220712);
  for (int round = 0; round < 200; round++) {
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_profile p;
    random_profile(&r, &a, &p);
    for (uint32_t m = 0; m < 3; m++)
      for (uint32_t g = 1; g <= 17; g++) {
        uint32_t most = 1 + (uint32_t)let_rng_below(&r, 60);
        let_dur all[61] = {0}, d;
        all[most] = 7;
        let_profile_latencies(&p, m, g, most, all);
        for (uint32_t b = 1; b <= most; b++) {
          if (let_profile_latency(&p, m, b, g, LET_PROFILE_P99, &d, NULL)) d = LET_NEVER;
          assert_int_equal(all[b - 1], d);
        }
        assert_int_equal(all[most], 7);
      }
    let_arena_fini(&a);
  }
}

static void test_cells_are_exact_and_edges_are_errors(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_problems *ps = calloc(1, sizeof *ps);
  let_profile p;
  let_error e = {0};
  assert_int_equal(parse(device_ok, latency_ok, NULL, NULL, NULL, &a, &p, NULL, ps, &e), LET_OK);
  let_dur d;
  assert_int_equal(let_profile_latency(&p, 0, 8, 16, LET_PROFILE_P50, &d, &e), LET_OK);
  assert_int_equal(d, 3 * LET_MS);
  assert_int_equal(let_profile_latency(&p, 0, 8, 16, LET_PROFILE_P99, &d, &e), LET_OK);
  assert_int_equal(d, 3500 * LET_US);
  assert_int_equal(let_profile_latency(&p, 0, 1, 2, LET_PROFILE_P50, &d, &e),
                   LET_OK); /* 1/2 lies 8/15 of the way from 1 to 1/16 */
  assert_int_equal(d, (let_dur)llround((4 - 3 * (8.0 / 15)) * 1e6));
  assert_int_equal(let_profile_latency(&p, 0, 9, 16, 0, &d, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_profile_latency(&p, 0, 16, 16, LET_PROFILE_EXTRAPOLATE, &d, &e), LET_OK);
  assert_int_equal(d, 7 * LET_MS);
  assert_int_equal(let_profile_latency(&p, 0, 0, 16, LET_PROFILE_EXTRAPOLATE, &d, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_profile_latency(&p, 0, 1, 17, LET_PROFILE_EXTRAPOLATE, &d, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_profile_latency(&p, 7, 1, 1, LET_PROFILE_EXTRAPOLATE, &d, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_share_sms(&p.device, 16), 132);
  assert_int_equal(let_share_sms(&p.device, 15), 120);
  assert_near(let_share_percent(&p.device, 8), 50, 0);
  free(ps);
  let_arena_fini(&a);
}

static void test_save_then_load_is_the_same(void **state) {
  (void)state;
  char dir[] = "/tmp/gpulet-profile-XXXXXX", path[64];
  assert_non_null(mkdtemp(dir));
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_rng r;
  let_rng_seed(&r, 7);
  let_profile p, q;
  let_samples s = {0}, t;
  let_error e = {0};
  random_profile(&r, &a, &p);
  let_tenant other[2] = {{1, 2, 3, 1}, {2, 4, 5, 1}};
  let_sample one = {.self = {0, 1, 2, 1}, .n = 2, .other = other, .solo_ms = 1.5, .together_ms = 1.75};
  s = (let_samples){1, &one};
  if (let_profile_save(dir, &p, &s, "two\nlines", &e)) fail_msg("%s", e.text);
  if (let_profile_load_all(dir, &a, &q, &t, NULL, &e)) fail_msg("%s", e.text);
  assert_string_equal(q.device.name, p.device.name);
  assert_int_equal(q.n_models, 3);
  assert_int_equal(q.interference, p.interference);
  for (int i = 0; i <= LET_COEF_SATURATION; i++) assert_near(q.coef[i], p.coef[i], 1e-8);
  for (uint32_t m = 0; m < 3; m++) {
    assert_int_equal(q.model[m].n_cells, p.model[m].n_cells);
    for (uint32_t i = 0; i < p.model[m].n_cells; i++)
      assert_near(q.model[m].cell[i].p99_ms, p.model[m].cell[i].p99_ms, 1e-4 * p.model[m].cell[i].p99_ms);
    assert_int_equal(q.model[m].memory[1].bytes, p.model[m].memory[1].bytes);
    assert_int_equal(q.model[m].input_bytes, p.model[m].input_bytes);
    assert_near(q.model[m].pressure[0].p.pressure, p.model[m].pressure[0].p.pressure, 1e-5);
    assert_near(q.model[m].pressure[0].p.delay_ms, p.model[m].pressure[0].p.delay_ms, 1e-5);
  }
  assert_int_equal(t.n, 1);
  assert_int_equal(t.sample[0].other[1].batch, 4);
  static const char *const files[] = {"device.yaml", "latency.csv",      "memory.csv",
                                      "inputs.csv",  "interference.csv", "interference.yaml"};
  for (int i = 0; i < 6; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, files[i]);
    assert_int_equal(unlink(path), 0);
  }
  assert_int_equal(let_profile_load(dir, &a, &q, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "device.yaml"));
  assert_int_equal(rmdir(dir), 0);
  assert_int_equal(let_profile_load("/nonexistent", &a, &q, &e), LET_ERR_NOT_FOUND);
  let_arena_fini(&a);
}

static void test_out_of_memory_is_an_error(void **state) {
  (void)state;
  let_problems *ps = calloc(1, sizeof *ps);
  for (long n = 0;; n++) {
    let_mem_failing f;
    let_mem_failing_init(&f, n, 0);
    let_arena a;
    let_arena_init(&a, &f.mem);
    let_profile p;
    let_error e = {0};
    *ps = (let_problems){0};
    let_err r = parse(device_ok, latency_ok, "model,batch,mib\na,1,100\n", SHEAD "a,1,2,b:1:2,1,1.25\n",
                      "model: none\nmodels: [{name: a, batch: 1}]\n", &a, &p, NULL, ps, &e);
    let_arena_fini(&a);
    assert_int_equal(f.live, 0);
    if (r == LET_OK) break;
    assert_int_equal(r, LET_ERR_NOMEM);
    assert_true(n < 100);
  }
  free(ps);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_every_problem_is_told),
      cmocka_unit_test(test_rising_with_more_sms_is_a_warning),
      cmocka_unit_test(test_good_is_read),
      cmocka_unit_test(test_interpolation_is_monotone),
      cmocka_unit_test(test_predicted_times_are_monotone),
      cmocka_unit_test(test_many_latencies_are_the_single_ones),
      cmocka_unit_test(test_cells_are_exact_and_edges_are_errors),
      cmocka_unit_test(test_save_then_load_is_the_same),
      cmocka_unit_test(test_out_of_memory_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
