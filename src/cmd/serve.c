/* serve.c: `gpulet serve`: from the command line to let_serve_run. This is where devices, files and the server meet. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/mps_helper.h"
#include "cmd/plan_input.h"
#include "cmd/serve_plan.h"
#include "conf/repository.h"
#include "device/device.h"
#include "obs/log.h"
#include "serve/serve.h"

typedef struct options {
  const char *repository, *config, *devices, *isolation, *plan, *workload, *policy, *batching, *profile, *log_level;
  let_dur plan_time;
  let_serve_options serve;
} options;

#define FIELD(f) offsetof(options, f)
static const char *const isolations[] = {"device", "process", NULL}, *const batchings[] = {"eager", "deferred", NULL},
                         *const levels[] = {"error", "warn", "info", "debug", NULL};
static const let_option table[] = {
    {"model-repository", LET_OPTION_STR, FIELD(repository), "DIR", NULL,
     "models in Triton's layout: DIR/MODEL/config.pbtxt and DIR/MODEL/1/model.pt", .required = true},
    {"config", LET_OPTION_STR, FIELD(config), "FILE", NULL,
     "YAML file with any of these options; the command line wins"},
    {"devices", LET_OPTION_STR, FIELD(devices), "LIST", "auto",
     "auto, cpu, cpu:0-3, cuda:0,1 or sim:h200x4; several kinds joined by +: cuda+cpu"},
    {"isolation", LET_OPTION_CHOICE, FIELD(isolation), "KIND", "device",
     "GPUs: one worker process per device (green contexts), or one per gpu-let (MPS)", .choices = isolations},
    {"spare", LET_OPTION_BOOL, FIELD(serve.spare), NULL, "false",
     "a second worker per GPU has the plan prepared and takes over within two seconds when the first is lost (its "
     "weights and graphs are there twice)"},
    {"plan", LET_OPTION_STR, FIELD(plan), "FILE", NULL,
     "plan in JSON, as `gpulet plan --json` prints it; read again on SIGHUP"},
    {"workload", LET_OPTION_STR, FIELD(workload), "FILE", NULL,
     "plan for these rates and SLOs (YAML: models: [{name, rate, slo}]) on the devices found; needs --profile; read "
     "again on SIGHUP"},
    {"policy", LET_OPTION_STR, FIELD(policy), "POLICY", "optimal",
     "how --workload is planned: optimal, elastic-int, elastic, selftune, temporal, static or shared"},
    {"plan-time", LET_OPTION_DUR, FIELD(plan_time), "TIME", "2s", "stop improving a plan after this", .min = 1,
     .max = 3.6e12},
    {"profile", LET_OPTION_STR, FIELD(profile), "DIR[,DIR...]", "",
     "profile directories, one per device type: for --workload, and the latencies of sim devices"},
    {"batching", LET_OPTION_CHOICE, FIELD(batching), "KIND", "eager",
     "eager: a gpu-let that is idle starts a batch at once; deferred: it waits for a fuller one, for half of the SLO "
     "at "
     "most, as rivals do. config.pbtxt's max_queue_delay_microseconds goes before either",
     .choices = batchings},
    {"host", LET_OPTION_STR, FIELD(serve.host), "ADDRESS", "0.0.0.0", "address to listen on"},
    {"http-port", LET_OPTION_I64, FIELD(serve.http_port), "PORT", "8000",
     "Open Inference Protocol over HTTP; 0: any free port", .max = 65535},
    {"metrics-port", LET_OPTION_I64, FIELD(serve.metrics_port), "PORT", "8002",
     "Prometheus metrics; 0: any free port, -1: only on the HTTP port", .min = -1, .max = 65535},
    {"default-slo", LET_OPTION_DUR, FIELD(serve.default_slo), "TIME", "0",
     "SLO of models that have none in the plan and no slo_ms in config.pbtxt; 0: no SLO, so no deadline: what comes is "
     "served, however late"},
    {"arena-size", LET_OPTION_SIZE, FIELD(serve.arena_bytes), "SIZE", "512MiB", "shared memory for tensors in flight"},
    {"max-requests", LET_OPTION_I64, FIELD(serve.requests), "N", "8192", "requests in flight at most", .min = 1,
     .max = 1 << 20},
    {"max-queue", LET_OPTION_I64, FIELD(serve.queue), "N", "2048", "waiting requests per model at most", .min = 1,
     .max = 1 << 20},
    {"max-connections", LET_OPTION_I64, FIELD(serve.connections), "N", "4096", "open connections at most", .min = 1,
     .max = 1 << 20},
    {"max-body", LET_OPTION_SIZE, FIELD(serve.body_max), "SIZE", "64MiB", "largest request body"},
    {"head-timeout", LET_OPTION_DUR, FIELD(serve.head_timeout), "TIME", "10s",
     "a request head must arrive within this"},
    {"body-timeout", LET_OPTION_DUR, FIELD(serve.body_timeout), "TIME", "10s", "longest pause within a request body"},
    {"idle-timeout", LET_OPTION_DUR, FIELD(serve.idle_timeout), "TIME", "5m",
     "longest pause between requests of a connection"},
    {"prepare-timeout", LET_OPTION_DUR, FIELD(serve.prepare_timeout), "TIME", "5m",
     "a worker that takes longer to start or to prepare a plan is killed, and the plan is rolled back; 0: no limit"},
    {"exit-timeout", LET_OPTION_DUR, FIELD(serve.exit_timeout), "TIME", "30s",
     "after SIGTERM, wait this long for requests in flight"},
    {"spin", LET_OPTION_DUR, FIELD(serve.spin), "TIME", "0",
     "how long a worker watches its ring before it sleeps (costs CPU, saves wake-ups)"},
    {"plugin-dir", LET_OPTION_STR, FIELD(serve.plugin_dir), "DIR", "",
     "where libgpulet_torch.so is, if not beside the program"},
    {"ready-file", LET_OPTION_STR, FIELD(serve.ready_file), "FILE", NULL,
     "written once requests are served, with the ports"},
    {"log-level", LET_OPTION_CHOICE, FIELD(log_level), "LEVEL", "info", "what to log on stderr", .choices = levels},
};

enum { DEVICES = 64 };

static let_err inventory(const options *o, let_serve_device *ret, uint32_t *ret_n, let_error *e) {
  let_device_name names[DEVICES];
  let_err r = let_device_list(o->devices, o->profile, names, DEVICES, ret_n, e);
  if (r) return r;
  for (uint32_t i = 0; i < *ret_n; i++) {
    bool cpu = strncmp(names[i].name, "cpu", 3) == 0;
    ret[i] = (let_serve_device){.type = names[i].type, .worker_per_gpulet = cpu, .depth = cpu ? 1 : 2};
    snprintf(ret[i].name, sizeof ret[i].name, "%.63s", names[i].name);
  }
  return LET_OK;
}

/* Waiting for company is the exception: where config.pbtxt asks for it, or with --batching deferred. */
static void set_delays(let_model *m, uint32_t n, bool deferred) {
  for (uint32_t i = 0; i < n; i++)
    if (m[i].max_queue_delay == LET_NEVER && !deferred) m[i].max_queue_delay = 0;
}

/* --isolation process: CUDA devices get a worker per gpu-let, whose shares MPS holds them to. */
static let_err isolate(let_serve_device *d, uint32_t n, let_mps_helper *mps, let_serve_options *o, let_error *e) {
  uint32_t gpus = 0;
  for (uint32_t i = 0; i < n; i++) gpus += strncmp(d[i].name, "cuda:", 5) == 0;
  if (!gpus) return LET_OK;
  let_err r = let_mps_helper_start(mps, e);
  if (r == LET_ERR_NOT_FOUND) {
    let_log(LET_LOG_WARN, "serve", "%s; going on as with --isolation device", e->text);
    return LET_OK;
  }
  if (r) return r;
  o->helper = &mps->serve;
  for (uint32_t i = 0; i < n; i++)
    if (strncmp(d[i].name, "cuda:", 5) == 0) {
      d[i].worker_per_gpulet = true;
      d[i].environment = let_mps_helper_environment;
      d[i].environment_ctx = mps;
    }
  return LET_OK;
}

/* Found out before anything is prepared, which may take minutes. */
static let_err check_ready_file(const char *path, let_error *e) {
  char probe[4200];
  snprintf(probe, sizeof probe, "%s.tmp", path);
  FILE *f = fopen(probe, "we");
  if (!f) return let_fail(e, LET_ERR_IO, "--ready-file %s: cannot be written: %s", path, strerror(errno));
  fclose(f);
  unlink(probe);
  return LET_OK;
}

static let_err run(const void *opts, char **args, let_arena *arena, int *ret_code, let_error *e) {
  (void)args;
  options o = *(const options *)opts;
  const let_policy *policy = NULL;
  let_err r = o.config ? let_options_from_yaml(o.config, table, sizeof table / sizeof *table, &o, arena, e) : LET_OK;
  if (!r) r = let_cmd_policy(o.policy, &policy, e);
  if (!r && o.workload && !o.plan && !o.profile[0])
    r = let_fail(
        e, LET_ERR_INVALID,
        "--workload needs --profile DIR: measured latencies of the devices' type (`gpulet profile` measures them)");
  if (r) {
    *ret_code = LET_EXIT_USAGE;
    return r;
  }
  for (int i = 0; levels[i]; i++)
    if (strcmp(levels[i], o.log_level) == 0) let_log_set((let_log_level)i);
  o.serve.profile_dir = o.profile;
  char program[4096];
  ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
  if (n < 0) return let_fail(e, LET_ERR_IO, "cannot read /proc/self/exe: %s", strerror(errno));
  program[n] = 0;
  o.serve.program = program;
  let_model *models = NULL;
  uint32_t n_models = 0, n_devices = 0;
  static let_serve_device devices[DEVICES];
  let_notes notes = {0};
  r = o.serve.ready_file ? check_ready_file(o.serve.ready_file, e) : LET_OK;
  if (!r) r = let_repository_load_notes(o.repository, arena, &models, &n_models, &notes, e);
  for (const let_note *x = notes.first; x; x = x->next) let_log(LET_LOG_INFO, "serve", "%s", x->text);
  if (!r) set_delays(models, n_models, strcmp(o.batching, "deferred") == 0);
  if (!r) r = inventory(&o, devices, &n_devices, e);
  static let_mps_helper mps;
  if (!r && strcmp(o.isolation, "process") == 0) r = isolate(devices, n_devices, &mps, &o.serve, e);
  bool useful = false;
  for (uint32_t i = 0; i < n_devices; i++) useful = useful || !devices[i].worker_per_gpulet;
  if (!r && o.serve.spare && !useful)
    let_log(LET_LOG_WARN, "serve",
            "--spare changes nothing here: these devices have a worker for each gpu-let, not one for all");
  let_serve_planning p = {.plan = o.plan,
                          .workload = o.workload,
                          .profiles = o.profile,
                          .repository = o.repository,
                          .policy = policy,
                          .time_limit = o.plan_time,
                          .models = models,
                          .n_models = n_models,
                          .devices = devices,
                          .n_devices = n_devices,
                          .default_slo = o.serve.default_slo};
  let_buf_init(&p.last, &let_mem_libc);
  let_serve_planner planner = {let_serve_planning_make, &p};
  if (!r && o.plan && o.workload)
    let_log(LET_LOG_INFO, "serve", "--plan wins: --workload %s is not looked at", o.workload);
  if (!r) r = let_serve_run(&o.serve, models, n_models, devices, n_devices, &planner, e);
  let_buf_fini(&p.last);
  let_mps_helper_stop(&mps);
  return r;
}

extern const let_command let_command_serve;
const let_command let_command_serve = {
    .name = "serve",
    .summary = "serve a model repository over HTTP, every request inside its SLO",
    .arguments = "",
    .text = "Serves every model that the plan gives a gpu-let, over the Open Inference Protocol. The plan is --plan, "
            "or is made\n"
            "by --policy from --workload and --profile for the devices found, or else shares the devices out evenly. "
            "SIGHUP\n"
            "reads --plan or --workload again and changes to it without dropping a request (what cannot be served "
            "leaves the\n"
            "old plan serving); PUT /v2/gpulet/plan does the same over HTTP. SIGTERM answers what is in flight and "
            "leaves.\n\n"
            "  gpulet serve --model-repository models --devices cpu\n"
            "  gpulet serve --model-repository models --workload w.yaml --profile profiles/h200\n",
    LET_COMMAND_OPTIONS(table, options),
    .run = run,
};
