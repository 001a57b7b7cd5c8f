/* gpulet import-raw: first measurements (latency.csv by SMs, pairs.csv) become a profile directory. */
#include <stdio.h>

#include "cmd/cmd.h"
#include "profile/fit.h"

typedef struct options {
  const char *output, *type, *comment;
  int64_t sms, granule_sms;
  double memory_mib;
} options;

static const let_option table[] = {
    {.name = "output",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, output),
     .value = "PROFILE_DIR",
     .required = true,
     .help = "Where to write the profile."},
    {.name = "type",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, type),
     .value = "TYPE",
     .required = true,
     .help = "The device's type, such as h200."},
    {.name = "sms",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, sms),
     .value = "N",
     .required = true,
     .min = 1,
     .max = 100000,
     .help = "Its streaming multiprocessors."},
    {.name = "granule-sms",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, granule_sms),
     .value = "N",
     .def = "8",
     .min = 1,
     .max = 100000,
     .help = "SMs of a granule; what is left over belongs to the last."},
    {.name = "memory-mib",
     .type = LET_OPTION_F64,
     .offset = offsetof(options, memory_mib),
     .value = "MIB",
     .required = true,
     .min = 1,
     .max = 1e9,
     .help = "Its memory."},
    {.name = "comment",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, comment),
     .value = "TEXT",
     .help = "A sentence for the head of device.yaml."},
};

static let_err import(const options *o, const char *dir, let_arena *a, let_error *e) {
  let_device_type d = {.sms = (uint32_t)o->sms,
                       .granule_sms = (uint32_t)o->granule_sms,
                       .memory_bytes = (uint64_t)(o->memory_mib * 0x1p20),
                       .cost = 1};
  if (d.granule_sms > d.sms)
    return let_fail(e, LET_ERR_INVALID, "--granule-sms %u is more than --sms %u", d.granule_sms, d.sms);
  d.granules = d.sms / d.granule_sms;
  d.last_granule_sms = d.sms - (d.granules - 1) * d.granule_sms;
  if (strlen(o->type) >= sizeof d.name || !o->type[0])
    return let_fail(e, LET_ERR_INVALID, "--type must have 1 to %zu bytes", sizeof d.name - 1);
  memcpy(d.name, o->type, strlen(o->type) + 1);
  let_profile p;
  let_samples s;
  let_err r = let_profile_import_raw(dir, &d, a, &p, &s, e);
  if (r) return r;
  char comment[2048];
  snprintf(
      comment, sizeof comment,
      "%s%sImported from means: p99_ms is p50_ms, which no server should promise; `gpulet profile` measures both.\n"
      "Rows that are no whole number of granules, and batches with a missing cell, were left out.",
      o->comment ? o->comment : "", o->comment ? "\n" : "");
  r = let_profile_save(o->output, &p, &s, comment, e);
  if (!r)
    printf("%s: %u models on '%s' (%u granules), %u interference measurements\n", o->output, p.n_models, d.name,
           d.granules, s.n);
  return r;
}

static let_err run(const void *options_, char **args, let_arena *a, int *ret_code, let_error *e) {
  (void)ret_code;
  return import(options_, args[0], a, e);
}

const let_command let_command_import_raw = {
    .name = "import-raw",
    .summary = "make a profile from latencies by SM count and measured pairs",
    .arguments = "DIR",
    .text = "DIR holds latency.csv (model,batch,sms,ms) and may hold pairs.csv\n"
            "(m1,b1,sm1,solo1,co1,cov1,m2,b2,sm2,solo2,co2,cov2; cov is 1 where the neighbour ran all the while).\n",
    LET_COMMAND_OPTIONS(table, options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
