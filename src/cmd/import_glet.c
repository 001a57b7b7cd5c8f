/* gpulet import-glet: the prototype's resource directory becomes a profile. */
#include <stdio.h>

#include "cmd/cmd.h"
#include "profile/glet.h"

typedef struct options {
  const char *output, *device;
} options;

static const let_option table[] = {
    {.name = "output",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, output),
     .value = "PROFILE_DIR",
     .required = true,
     .help = "Where to write the profile."},
    {.name = "device",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, device),
     .value = "TYPE",
     .help = "A type of device-config.json; without it the one that sched-config.json names first."},
};

static let_err run(const void *options_, char **args, let_arena *a, int *ret_code, let_error *e) {
  (void)ret_code;
  const options *o = options_;
  let_profile p;
  let_err r = let_glet_import(args[0], o->device, a, &p, e);
  if (!r)
    r = let_profile_save(
        o->output, &p, NULL,
        "Imported from the prototype's resources. A granule is 10 % of the device, so that its shares are exact.\n"
        "p50_ms is its latency with the batching overhead; p99_ms is that times its latency ratio.",
        e);
  if (!r)
    printf("%s: %u models on '%s'%s\n", o->output, p.n_models, p.device.name,
           p.interference ? ", with its interference model" : ", no interference model");
  return r;
}

const let_command let_command_import_glet = {
    .name = "import-glet",
    .summary = "make a profile from the resource files of the gpu-let prototype",
    .arguments = "GLET_RESOURCE_DIR",
    .text =
        "Reads device-config.json and the latency, utilisation and interference files it names, sched-config.json,\n"
        "mem-config.json, config/<model>.json and the batching overhead tables (3_224_224.txt, ...).\n",
    LET_COMMAND_OPTIONS(table, options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
