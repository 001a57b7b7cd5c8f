/* gpulet plan: profiles, workload, devices -> plan, as a table, a picture, JSON or the prototype's ModelList.txt. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/units.h"
#include "cmd/cmd.h"
#include "cmd/plan_input.h"
#include "cmd/plan_print.h"
#include "conf/file.h"
#include "conf/plan_json.h"
#include "conf/workload.h"
#include "profile/glet.h"

typedef struct options {
  const char *profile, *workload, *gpus, *policy, *running, *format;
  bool json, max_rate;
  let_dur time_limit;
  double headroom;
  int64_t max_batch, effort;
} options;

static const char *const formats[] = {"table", "json", "glet", NULL};
static const let_option table[] = {
    {.name = "profile",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, profile),
     .value = "DIR[,DIR...]",
     .required = true,
     .help = "Profile directories, one per device type."},
    {.name = "workload",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, workload),
     .value = "FILE",
     .required = true,
     .help = "Workload YAML, or a task file of the prototype (.csv)."},
    {.name = "gpus",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, gpus),
     .value = "N",
     .required = true,
     .help = "How many devices: 4, or h200:4,a100:2 with several profiles."},
    {.name = "policy",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, policy),
     .value = "POLICY",
     .def = "optimal",
     .help = "optimal, elastic-int, elastic, selftune, temporal, static or shared."},
    {.name = "format",
     .type = LET_OPTION_CHOICE,
     .offset = offsetof(options, format),
     .value = "FORMAT",
     .def = "table",
     .choices = formats,
     .help = "table, json, or glet (the prototype's ModelList.txt)."},
    {.name = "json", .type = LET_OPTION_BOOL, .offset = offsetof(options, json), .help = "The same as --format json."},
    {.name = "max-rate",
     .type = LET_OPTION_BOOL,
     .offset = offsetof(options, max_rate),
     .help = "Plan for the largest multiple of the workload's rates that fits, found to 1 %, and say it."},
    {.name = "time-limit",
     .type = LET_OPTION_DUR,
     .offset = offsetof(options, time_limit),
     .value = "TIME",
     .def = "10s",
     .help = "Stop improving after this long and print the best plan so far."},
    {.name = "effort",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, effort),
     .value = "N",
     .def = "2",
     .min = 0,
     .max = 8,
     .help =
         "How long to seek a smaller plan and a better bound: 0 takes milliseconds, every step up four times as long."},
    {.name = "running",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, running),
     .value = "PLAN.json",
     .help = "The plan that is running: change as little of it as the workload allows."},
    {.name = "headroom",
     .type = LET_OPTION_F64,
     .offset = offsetof(options, headroom),
     .value = "X",
     .def = "0",
     .min = 0,
     .max = 10,
     .help = "Plan for rates this much higher: 0.1 is 10 %."},
    {.name = "max-batch",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, max_batch),
     .value = "N",
     .def = "0",
     .min = 0,
     .max = LET_BATCH_MAX,
     .help = "No batch larger than this; 0: as profiled."},
};

static let_err gpus_parse(const options *o, let_plan_pool *pool, uint32_t n, let_error *e) {
  let_str rest = let_str_c(o->gpus), item;
  bool any = false;
  while (let_cmd_next_item(&rest, &item)) {
    const char *colon = memchr(item.p, ':', item.n);
    uint32_t at = 0;
    let_str count = item;
    if (colon) {
      let_str type = {item.p, (size_t)(colon - item.p)};
      count = (let_str){colon + 1, item.n - type.n - 1};
      while (at < n && !let_str_is(type, pool[at].profile->device.name)) at++;
      if (at == n)
        return let_fail(e, LET_ERR_INVALID, "--gpus: no profile is of device type '" LET_STR_FMT "'",
                        LET_STR_ARG(type));
    } else if (n > 1 || any)
      return let_fail(e, LET_ERR_INVALID, "--gpus: with several profiles say how many of each type, such as %s:4",
                      pool[0].profile->device.name);
    int64_t v;
    let_error why = {0};
    if (let_parse_i64(count, 0, 1000000, &v, &why))
      return let_fail(e, LET_ERR_INVALID, "--gpus: %s: write 4, or %s:4", why.text, pool[0].profile->device.name);
    pool[at].count += (uint32_t)v;
    any = true;
  }
  if (!any) return let_fail(e, LET_ERR_INVALID, "--gpus is empty");
  for (uint32_t i = 1; i < n; i++) pool[i].first_id = pool[i - 1].first_id + pool[i - 1].count;
  return LET_OK;
}

static let_err workload_load(const char *path, let_arena *a, let_workload *ret, let_error *e) {
  if (!let_workload_is_csv(path)) return let_workload_load(path, a, ret, e);
  let_profile_file f = {.name = path};
  let_err r = let_file_read(path, a, &f.text, e);
  return r ? r : let_glet_tasks(f, a, ret, e);
}

/* |multiple| of the workload's rates, which then are |rate| requests/s in all; 0: not asked for. */
static int print_plan(const options *o, const let_plan *p, double multiple, double rate) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  struct winsize w = {0};
  bool tty = isatty(STDOUT_FILENO);
  uint32_t width = tty && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
  const char *no = getenv("NO_COLOR");
  bool json = o->json || strcmp(o->format, "json") == 0;
  if (json && multiple > 0) {
    let_buf_fmt(&b, "{\"multiple\":%.6g,\"requests_per_s\":%.6g,\"plan\":", multiple, rate);
    let_plan_to_json(p, &b);
    let_buf_str(&b, "}\n");
  } else if (json) let_plan_to_json(p, &b);
  else if (strcmp(o->format, "glet") == 0) let_plan_print_glet(p, &b);
  else let_plan_print(p, width, tty && !(no && no[0]), &b);
  if (!json && multiple > 0 && strcmp(o->format, "glet") != 0)
    let_buf_fmt(&b, "the largest multiple of the workload that fits: %.4g x, %.6g requests/s in all\n", multiple, rate);
  bool ok = !b.failed && (b.n == 0 || fwrite(b.p, 1, b.n, stdout) == b.n) && fflush(stdout) == 0;
  let_buf_fini(&b);
  if (!ok) return LET_EXIT_FAILED; /* cmd.c says why */
  return p->feasible ? LET_EXIT_OK : LET_EXIT_FAILED;
}

static let_err run(const void *options_, char **args, let_arena *a, int *ret_code, let_error *e) {
  (void)args;
  const options *o = options_;
  const let_policy *policy;
  uint32_t n;
  let_err r;
  if ((r = let_cmd_policy(o->policy, &policy, e)) != LET_OK) {
    *ret_code = LET_EXIT_USAGE;
    return r;
  }
  let_plan_pool pool[LET_POOLS_MAX] = {0};
  let_workload w;
  let_plan running, plan;
  if ((r = let_cmd_profiles(o->profile, a, pool, &n, e)) != LET_OK) return r;
  if ((r = gpus_parse(o, pool, n, e)) != LET_OK) {
    *ret_code = LET_EXIT_USAGE;
    return r;
  }
  if ((r = workload_load(o->workload, a, &w, e)) != LET_OK) return r;
  for (uint32_t i = 0; i < w.n; i++)
    if (!w.demand[i].slo)
      return let_fail(e, LET_ERR_INVALID, "%s: model '%s' has no slo to plan for: write slo: 20ms", o->workload,
                      w.demand[i].name);
  if (o->running && (r = let_plan_load(o->running, a, &running, e)) != LET_OK) return r;
  double until = let_cmd_now_ms(NULL) + (double)o->time_limit / 1e6;
  let_plan_input in = {.workload = &w,
                       .pool = pool,
                       .n_pools = n,
                       .running = o->running ? &running : NULL,
                       .max_batch = (uint32_t)o->max_batch,
                       .headroom = o->headroom,
                       .effort = (uint32_t)o->effort,
                       .expired = let_cmd_expired,
                       .expired_ctx = &until,
                       .now_ms = let_cmd_now_ms};
  double multiple = 0, rate = 0;
  r = o->max_rate ? let_plan_max_rate(policy, &in, a, &multiple, &plan, e) : policy->make(&in, a, &plan, e);
  if (r) return r;
  for (uint32_t i = 0; i < w.n; i++) rate += w.demand[i].rate * multiple;
  *ret_code = print_plan(o, &plan, multiple, rate);
  return LET_OK;
}

const let_command let_command_plan = {
    .name = "plan",
    .summary = "decide which gpu-lets to make and what runs where",
    .arguments = "",
    .text = "Exit code 0: there is a plan; 1: there is none, and the reasons say why and what would help.\n"
            "Example: gpulet plan --profile profiles/h200 --workload w.yaml --gpus 4\n",
    LET_COMMAND_OPTIONS(table, options),
    .run = run,
};
