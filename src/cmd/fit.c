/* gpulet fit: refits a profile's interference models. */
#include <jansson.h>
#include <stdio.h>

#include "cmd/cmd.h"
#include "profile/fit.h"

typedef struct options {
  bool dry_run, json;
  int64_t folds, seed;
  const char *model;
} options;

static const char *const models[] = {"best", "linear", "pressure", NULL};
static const let_option table[] = {
    {.name = "model",
     .type = LET_OPTION_CHOICE,
     .offset = offsetof(options, model),
     .value = "MODEL",
     .def = "best",
     .choices = models,
     .help = "The one to write: linear (the prototype's), pressure, or the one with the smaller held-out error."},
    {.name = "folds",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, folds),
     .value = "N",
     .def = "10",
     .min = 2,
     .max = 1000,
     .help = "The measurements are dealt into so many parts; each is predicted by a fit to the others."},
    {.name = "seed",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, seed),
     .value = "N",
     .def = "1",
     .min = 0,
     .max = 1e15,
     .help = "Deals them."},
    {.name = "dry-run",
     .type = LET_OPTION_BOOL,
     .offset = offsetof(options, dry_run),
     .help = "Print the errors, write nothing."},
    {.name = "json", .type = LET_OPTION_BOOL, .offset = offsetof(options, json), .help = "Print one JSON document."},
};

static void print_row(const char *name, const let_fit_report *r) {
  const let_fit_error *h[] = {&r->held_out, &r->strangers, &r->seen};
  static const char *const what[] = {"single samples", "whole sets of models", "nothing (seen)"};
  for (int i = 0; i < 3; i++)
    if (i != 1 || h[i]->max > 0)
      printf("%-10s %-22s %7.2f %7.2f %7.2f %7.2f\n", i ? "" : name, what[i], 100 * h[i]->p50, 100 * h[i]->p90,
             100 * h[i]->p95, 100 * h[i]->max);
}

static json_t *json_error(const let_fit_error *x) {
  return json_pack("{s:f,s:f,s:f,s:f}", "p50", x->p50, "p90", x->p90, "p95", x->p95, "max", x->max);
}

static json_t *json_row(const let_fit_report *r) {
  return json_pack("{s:i,s:i,s:i,s:i,s:b,s:o,s:o,s:o,s:o}", "repeats", (int)r->n_repeats, "samples", (int)r->n, "folds",
                   (int)r->folds, "sets", (int)r->sets, "utilisations", r->utilisations, "held_out",
                   json_error(&r->held_out), "held_out_sets", json_error(&r->strangers), "seen", json_error(&r->seen),
                   "measured_twice", json_error(&r->repeats));
}

static let_err fit_dir(const options *o, const char *dir, let_arena *a, let_error *e) {
  static const let_interference_kind kind[2] = {LET_INTERFERENCE_LINEAR, LET_INTERFERENCE_PRESSURE};
  let_profile p[2];
  let_samples s = {0};
  let_fit_report rep[2];
  for (int i = 0; i < 2; i++) { /* each fit writes into its own copy */
    let_err r = let_profile_load_all(dir, a, &p[i], &s, NULL, e);
    if (!r && s.n == 0) r = let_fail(e, LET_ERR_NOT_FOUND, "%s/interference.csv: no measurements to fit", dir);
    if (!r) r = let_fit(&p[i], &s, kind[i], (uint32_t)o->folds, (uint64_t)o->seed, a, &rep[i], e);
    if (r) return r;
  }
  int take = strcmp(o->model, "linear") == 0     ? 0
             : strcmp(o->model, "pressure") == 0 ? 1
                                                 : rep[1].held_out.p95 < rep[0].held_out.p95;
  if (o->json) {
    json_t *j = json_pack("{s:s,s:o,s:o}", "model", take ? "pressure" : "linear", "linear", json_row(&rep[0]),
                          "pressure", json_row(&rep[1]));
    if (!j) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    json_dumpf(j, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(j);
  } else {
    printf("relative error of the slowdown, %%, of %u samples of %u sets of models\n", rep[0].n, rep[0].sets);
    printf("%-10s %-22s %7s %7s %7s %7s\n", "model", "held out", "p50", "p90", "p95", "max");
    print_row("linear", &rep[0]);
    print_row("pressure", &rep[1]);
    const let_fit_error *twice = &rep[0].repeats;
    if (rep[0].n_repeats)
      printf("%-10s %-22s %7.2f %7.2f %7.2f %7.2f   (%u times: the noise that the errors above contain)\n", "alone",
             "measured twice", 100 * twice->p50, 100 * twice->p90, 100 * twice->p95, 100 * twice->max,
             rep[0].n_repeats);
    if (!rep[0].utilisations)
      printf("linear: the profile has no L2 and DRAM utilisations, so only its constant was fitted\n");
  }
  return o->dry_run ? LET_OK : let_profile_save_fit(dir, &p[take], e);
}

static let_err run(const void *options_, char **args, let_arena *a, int *ret_code, let_error *e) {
  (void)ret_code;
  return fit_dir(options_, args[0], a, e);
}

const let_command let_command_fit = {
    .name = "fit",
    .summary = "fit the interference model of a profile to its measured pairs",
    .arguments = "PROFILE_DIR",
    .text = "Reads interference.csv, fits the prototype's linear model and the pressure model, prints how far both are "
            "off on\n"
            "measurements that they have not seen, and writes interference.yaml.\n",
    LET_COMMAND_OPTIONS(table, options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
