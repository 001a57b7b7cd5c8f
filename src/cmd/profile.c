#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/units.h"
#include "cmd/cmd.h"
#include "conf/repository.h"
#include "measure/measure.h"
#include "os/clock.h"

typedef struct options {
  const char *repository, *device, *output, *models, *profile_dir, *plugin_dir;
  let_dur budget, window;
  int64_t max_batch, seed;
  double tolerance;
  bool resume, json;
} options;

static const let_option table[] = {
    {.name = "model-repository",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, repository),
     .value = "DIR",
     .required = true,
     .help = "The models to measure, in Triton's layout."},
    {.name = "device",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, device),
     .value = "D",
     .def = "cuda:0",
     .help = "Where: cuda:0, cpu, cpu:0-3, sim:h200."},
    {.name = "output",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, output),
     .value = "DIR",
     .required = true,
     .help = "The profile directory to write; its journal.csv keeps every measurement."},
    {.name = "budget",
     .type = LET_OPTION_DUR,
     .offset = offsetof(options, budget),
     .value = "TIME",
     .def = "10m",
     .help = "How long to measure; spent where the planner is most sensitive."},
    {.name = "models",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, models),
     .value = "A,B",
     .help = "Only these models."},
    {.name = "max-batch",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, max_batch),
     .value = "N",
     .def = "0",
     .min = 0,
     .max = LET_BATCH_MAX,
     .help = "Largest batch to measure; 0: each model's own."},
    {.name = "tolerance",
     .type = LET_OPTION_F64,
     .offset = offsetof(options, tolerance),
     .value = "FRACTION",
     .def = "0.01",
     .min = 0,
     .max = 1,
     .help = "Stop refining latencies once the expected error is below this."},
    {.name = "window",
     .type = LET_OPTION_DUR,
     .offset = offsetof(options, window),
     .value = "TIME",
     .def = "150ms",
     .help = "Length of one measurement; slow batches take longer."},
    {.name = "seed",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, seed),
     .value = "N",
     .def = "1",
     .min = 0,
     .max = 1e15,
     .help = "Which models are measured side by side."},
    {.name = "resume",
     .type = LET_OPTION_BOOL,
     .offset = offsetof(options, resume),
     .def = "true",
     .help = "Go on from the journal when it is of the same device and models, as it does by itself; --no-resume "
             "measures all anew."},
    {.name = "profile",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, profile_dir),
     .value = "DIR",
     .def = "",
     .help = "For sim devices: the profile that is simulated."},
    {.name = "plugin-dir",
     .type = LET_OPTION_STR,
     .offset = offsetof(options, plugin_dir),
     .value = "DIR",
     .def = "",
     .help = "Where libgpulet_torch.so is."},
    {.name = "json",
     .type = LET_OPTION_BOOL,
     .offset = offsetof(options, json),
     .help = "Print the result as one JSON document."},
};

typedef struct screen {
  bool tty;
  let_time last;
} screen;

static void progress(void *ctx, const let_measure_progress *p) {
  screen *s = ctx;
  char left[LET_UNITS_MAX];
  if (p->trouble[0]) {
    fprintf(stderr, "%sgpulet profile: %s\n", s->tty ? "\r\033[K" : "", p->trouble);
    return;
  }
  let_time now = let_now();
  if (now - s->last < (s->tty ? LET_S / 10 : 10 * LET_S)) return;
  s->last = now;
  let_dur seconds = p->left / LET_S * LET_S;
  if (s->tty) {
    char bar[31];
    memset(bar, '.', 30);
    memset(bar, '#', (size_t)(p->done * 30));
    bar[30] = 0;
    fprintf(stderr, "\r\033[K[%s] %3.0f %%, at most %s left  %u cells, %u groups  %.60s", bar, p->done * 100,
            let_print_dur(seconds, left), p->cells, p->pairs, p->doing);
  } else {
    fprintf(stderr, "gpulet profile: %.0f %%, at most %s left, %u cells, %u groups: %s\n", p->done * 100,
            let_print_dur(seconds, left), p->cells, p->pairs, p->doing);
  }
}

/* Keeps the models named in |list| ("a,b"). */
static let_err choose(let_model *m, uint32_t *n, const char *list, let_error *e) {
  uint32_t kept = 0;
  for (const char *at = list; *at;) {
    size_t len = strcspn(at, ",");
    uint32_t i = 0;
    while (i < *n && (strlen(m[i].name) != len || strncmp(m[i].name, at, len))) i++;
    if (i == *n)
      return let_fail(e, LET_ERR_NOT_FOUND, "--models: there is no model '%.*s' in the repository", (int)len, at);
    if (i >= kept) {
      let_model swap = m[kept];
      m[kept++] = m[i];
      m[i] = swap;
    }
    at += len;
    if (*at) at++;
  }
  *n = kept;
  return kept ? LET_OK : let_fail(e, LET_ERR_INVALID, "--models is empty");
}

static let_err run(const void *o_, char **args, let_arena *a, int *ret_code, let_error *e) {
  (void)args, (void)ret_code;
  const options *o = o_;
  let_model *models = NULL;
  uint32_t n = 0;
  let_err err = let_repository_load(o->repository, a, &models, &n, e);
  if (!err && o->models) err = choose(models, &n, o->models, e);
  screen s = {.tty = isatty(2)};
  let_measure_result r;
  if (!err) {
    let_measure_options m = {.models = models,
                             .n_models = n,
                             .device = o->device,
                             .output = o->output,
                             .profile_dir = o->profile_dir,
                             .plugin_dir = o->plugin_dir,
                             .budget = o->budget,
                             .max_batch = (uint32_t)o->max_batch,
                             .resume = o->resume,
                             .tolerance = o->tolerance,
                             .window = o->window,
                             .seed = (uint64_t)o->seed,
                             .progress = progress,
                             .ctx = &s};
    err = let_measure(&m, &r, e);
  }
  if (s.tty) fprintf(stderr, "\r\033[K");
  if (err) return err;
  if (o->json) {
    printf("{\"models\":%u,\"cells\":%u,\"interpolated\":%u,\"groups\":%u,\"resumed\":%u,\"expected_error\":", r.models,
           r.cells, r.interpolated, r.pairs, r.resumed);
    if (r.expected_error < 1e6) printf("%.4f}\n", r.expected_error);
    else printf("null}\n"); /* the coarse grid is not complete */
  } else {
    printf("%s: %u models, %u cells measured and %u interpolated, %u groups side by side (%u measurements from the "
           "journal)\n",
           o->output, r.models, r.cells, r.interpolated, r.pairs, r.resumed);
    if (r.interference_error_p95 >= 0)
      printf("interference: fitted; 95 %% of held-out cases within %.1f %%\n", 100 * r.interference_error_p95);
    else printf("interference: too few groups measured to fit a model (20 are needed)\n");
    if (r.expected_error < 1e6) printf("largest error still expected of a latency: %.1f %%\n", 100 * r.expected_error);
    else printf("the budget was too small for a coarse grid of every model: run again to go on\n");
  }
  return LET_OK;
}

const let_command let_command_profile = {
    .name = "profile",
    .summary = "measure how models behave on every share of a device",
    .arguments = "",
    .text =
        "Measures latency (p50, p99) by batch size and granules, memory, and how models slow each other down side by\n"
        "side, and writes the profile directory that `gpulet plan` and `gpulet serve` read. Interrupted, it goes on\n"
        "where it was when the same command is given again.\n\n"
        "  gpulet profile --model-repository models --device cuda:0 --output profiles/h200 --budget 10m\n",
    LET_COMMAND_OPTIONS(table, options),
    .run = run,
};
