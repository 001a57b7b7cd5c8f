/* load.c: `gpulet load`: drives a server by a workload and prints what it kept of its promises. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/client.h"
#include "cmd/cmd.h"
#include "conf/workload.h"

typedef struct options {
  let_load_options load;
  const char *workload;
  const char *bottleneck;
  bool quiet;
  int64_t seed, threads, connections, max_inflight, closed, rows, variable_dim;
} options;

#define FIELD(f) offsetof(options, f)
static const char *const on_bottleneck[] = {"fail", "warn", "ignore", NULL};
static const let_option table[] = {
    {"url", LET_OPTION_STR, FIELD(load.url), "URL", "http://127.0.0.1:8000", "the server"},
    {"workload", LET_OPTION_STR, FIELD(workload), "FILE", NULL, "YAML: models: [{name, rate, slo}]"},
    {"duration", LET_OPTION_DUR, FIELD(load.duration), "TIME", "30s", "how long to send, after the warm-up"},
    {"warmup", LET_OPTION_DUR, FIELD(load.warmup), "TIME", "0", "send this long before counting"},
    {"arrival", LET_OPTION_STR, FIELD(load.arrival), "KIND", "poisson",
     "poisson, uniform, or trace:FILE (CSV: time_s,model per line, or time_s)"},
    {"rate-scale", LET_OPTION_F64, FIELD(load.rate_scale), "X", "1", "multiplies every rate of the workload",
     .min = 1e-6, .max = 1e6},
    {"seed", LET_OPTION_I64, FIELD(seed), "N", "1", "of arrival times and random inputs", .min = 0, .max = 9e15},
    {"threads", LET_OPTION_I64, FIELD(threads), "N", "0",
     "that send; 0: one per 2,000 requests/s, 200 MB/s or 64 closed-loop connections, at most on half of the cores",
     .min = 0, .max = 256},
    {"connections", LET_OPTION_I64, FIELD(connections), "N", "1024",
     "keep-alive connections at most, of all threads; opened as needed", .min = 1, .max = 65536},
    {"max-inflight", LET_OPTION_I64, FIELD(max_inflight), "N", "20000",
     "requests due and unanswered at most; further ones count as not sent", .min = 1, .max = 10000000},
    {"timeout", LET_OPTION_DUR, FIELD(load.timeout), "TIME", "10s", "give up on an answer after this"},
    {"closed", LET_OPTION_I64, FIELD(closed), "N", "0",
     "closed loop: N connections back to back, as fast as answers come; rates only weigh the models", .min = 0,
     .max = 65536},
    {"bottleneck", LET_OPTION_CHOICE, FIELD(bottleneck), NULL, "fail",
     "when the generator itself was the bottleneck: exit with 1, warn on stderr, or neither", .choices = on_bottleneck},
    {"rows", LET_OPTION_I64, FIELD(rows), "N", "1", "of the batch dimension, in each request", .min = 1, .max = 65536},
    {"variable-dim", LET_OPTION_I64, FIELD(variable_dim), "N", "16",
     "stands in for other dimensions of -1, such as a sequence length", .min = 1, .max = 1048576},
    {"data", LET_OPTION_STR, FIELD(load.data), "DIR", NULL,
     "inputs from DIR/MODEL/INPUT.bin (raw, little-endian) instead of random ones"},
    {"get", LET_OPTION_STR, FIELD(load.get), "PATH", NULL,
     "send GET PATH instead of inferences, to compare with any web server"},
    {"json", LET_OPTION_BOOL, FIELD(load.json), NULL, "false", "one JSON document instead of the table"},
    {"wide", LET_OPTION_BOOL, FIELD(load.wide), NULL, "false",
     "more columns, and the time of each stage in the server"},
    {"quiet", LET_OPTION_BOOL, FIELD(quiet), NULL, "false", "no progress on stderr"},
};

/* A run that measured the generator instead of the server says so, after its table. */
static int judge(const options *o, const let_load_outcome *x) {
  if (!x->bottleneck || !strcmp(o->bottleneck, "ignore")) return LET_EXIT_OK;
  bool fails = !strcmp(o->bottleneck, "fail");
  fprintf(stderr, "gpulet load: %s%s\n", x->advice, fails ? " (--bottleneck warn accepts it)" : "");
  return fails ? LET_EXIT_FAILED : LET_EXIT_OK;
}

static let_err run(const void *opts, char **args, let_arena *arena, int *ret_code, let_error *e) {
  (void)args;
  options o = *(const options *)opts;
  let_buf out;
  let_buf_init(&out, &let_mem_libc);
  let_demand any = {.name = "GET", .rate = 1};
  let_workload w = {1, &any};
  let_load_outcome outcome = {0};
  let_err err = LET_OK;
  o.load.seed = (uint64_t)o.seed;
  o.load.threads = (uint32_t)o.threads;
  o.load.connections = (uint32_t)o.connections;
  o.load.max_inflight = (uint32_t)o.max_inflight;
  o.load.closed = (uint32_t)o.closed;
  o.load.rows = (uint32_t)o.rows;
  o.load.variable_dim = (uint32_t)o.variable_dim;
  o.load.progress = o.quiet ? NULL : stderr;
  o.load.tty = isatty(STDERR_FILENO);
  if (!o.workload && !(o.load.get && o.closed))
    err = let_fail(e, LET_ERR_INVALID, "--workload FILE is missing (only --get with --closed does without)");
  else if (o.workload) err = let_workload_load(o.workload, arena, &w, e);
  if (!err) err = let_load_run(&o.load, &w, &out, &outcome, e);
  if (out.n) {
    fwrite(out.p, 1, out.n, stdout);
    fflush(stdout);
  }
  *ret_code = judge(&o, &outcome);
  if (err == LET_ERR_INVALID && !strncmp(e->text, "--", 2)) *ret_code = LET_EXIT_USAGE;
  let_buf_fini(&out);
  return err;
}

extern const let_command let_command_load;
const let_command let_command_load = {
    .name = "load",
    .summary = "send a workload to a server and report latency, attainment and goodput",
    .arguments = "",
    .text =
        "Open loop: requests go out at times fixed beforehand, and each latency runs from the time the request was\n"
        "due, so a server that stalls is charged for what it held up. Attainment counts refusals and errors as\n"
        "missed. From a gpulet server the table also tells each model's gpu-lets and the mean batch it ran, and with\n"
        "--wide how long a request took from each stage in the server to the next: received (from the first byte of\n"
        "its head), admitted, batched, submitted, started, finished, answered. Ctrl-C prints the table so far.\n\n"
        "The same seed gives the same times, with any number of threads. The run fails (exit 1, after its table) when\n"
        "the generator was the bottleneck, so that its figures are not the server's: a thread used more than 0.85 of\n"
        "a core, or wanted to and got none; more than 1 % of the requests waited for a free connection; or the p99 of\n"
        "the sends was late by more than 1 ms and a tenth of the smallest SLO. Where load and server share few cores:\n"
        "--bottleneck warn.\n\n"
        "  gpulet load --workload workload.yaml --duration 30s\n"
        "  gpulet load --workload workload.yaml --closed 64 --duration 10s\n"
        "  gpulet load --workload workload.yaml --threads 4 --connections 4096 --json >run.json\n",
    LET_COMMAND_OPTIONS(table, options),
    .run = run,
};
