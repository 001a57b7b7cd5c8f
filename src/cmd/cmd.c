#include "cmd/cmd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "cmd/main.h"
#include "commit.h" /* generated */
#include "conf/suggest.h"

/* The build lists the commands whose files are there. */
#define LET_COMMAND(id) extern const let_command let_command_##id;
#include "cmd_list.h"
#undef LET_COMMAND

static const let_command *const commands[] = {
#define LET_COMMAND(id) &let_command_##id,
#include "cmd_list.h"
#undef LET_COMMAND
    NULL,
};

enum { ARGS = 64 };

/* Where every error of a command ends. */
static int fail(const char *cmd, int code, const let_error *e) {
  fprintf(stderr, "gpulet %s: %s\n", cmd, e->text);
  if (code != LET_EXIT_USAGE) return LET_EXIT_FAILED;
  fprintf(stderr, "See 'gpulet %s --help'.\n", cmd);
  return LET_EXIT_USAGE;
}

void let_cmd_help(const let_command *c, let_buf *out) {
  let_buf_fmt(out, "gpulet %s: %s\n\nUsage: gpulet %s%s%s%s\n", c->name, c->summary, c->name,
              c->n_options ? " [OPTIONS]" : "", c->arguments && c->arguments[0] ? " " : "",
              c->arguments ? c->arguments : "");
  if (c->text && c->text[0]) let_buf_fmt(out, "\n%s", c->text);
  if (c->n_options) {
    let_buf_str(out, "\nOptions:\n");
    let_options_help(c->option, c->n_options, out);
  }
}

void let_cmd_overview(let_buf *out) {
  let_buf_str(out, "gpulet serves many models on few GPUs, every request inside its latency objective.\n\n"
                   "Usage: gpulet COMMAND [OPTIONS]\n\nCommands:\n");
  for (const let_command *const *c = commands; *c; c++)
    if (!(*c)->hidden) let_buf_fmt(out, "  %-12s  %s\n", (*c)->name, (*c)->summary);
  let_buf_str(out, "\n'gpulet help COMMAND' explains one. Exit codes: 0 ok, 1 failed, 2 wrong usage.\n");
}

static const let_command *find(const char *name) {
  for (const let_command *const *c = commands; *c; c++)
    if (strcmp((*c)->name, name) == 0) return *c;
  return NULL;
}

static int unknown(const char *name) {
  let_suggest s = {.word = let_str_c(name)};
  for (const let_command *const *c = commands; *c; c++)
    if (!(*c)->hidden) let_suggest_offer(&s, (*c)->name);
  let_suggest_offer(&s, "help");
  char hint[LET_SUGGEST_TEXT];
  fprintf(stderr, "gpulet: unknown command '%s'%s\n'gpulet help' lists the commands.\n", name,
          let_suggest_text(&s, "", hint));
  return LET_EXIT_USAGE;
}

/* An answer that did not reach its reader is a failure, a full disk above all. */
static int flushed(int code) {
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  if (errno != EPIPE) fprintf(stderr, "gpulet: cannot write the output: %s\n", strerror(errno));
  return code ? code : LET_EXIT_FAILED;
}

static int print(let_buf *b, FILE *f) {
  int code = b->failed ? LET_EXIT_FAILED : LET_EXIT_OK;
  if (b->n) fwrite(b->p, 1, b->n, f);
  let_buf_fini(b);
  return code;
}

static int print_help(const let_command *c) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_cmd_help(c, &b);
  return print(&b, stdout);
}

static int print_overview(FILE *f) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_cmd_overview(&b);
  return print(&b, f);
}

/* doc/configuration.md, from the same tables as --help and the parser. */
static void markdown(let_buf *out) {
  let_buf_str(out, "# Configuration\n\n"
                   "<!-- Written by `gpulet help --markdown >doc/configuration.md`; a test compares them. -->\n\n"
                   "Options are written `--name value` or `--name=value`; a switch is `--name`, `--no-name` or "
                   "`--name=false`. Given twice,\n"
                   "the last wins. Values carry their unit: times `20ms`, `30s`, `5m`; sizes `512MiB`; rates `1200/s`. "
                   "Exit codes: 0 ok,\n"
                   "1 failed, 2 wrong usage. `gpulet serve --config FILE` reads the same options from YAML, one `name: "
                   "value` per line\n"
                   "without the dashes; the command line wins. What a model's `config.pbtxt` may say is in "
                   "[protocol.md](protocol.md).\n\n"
                   "A workload, for `plan`, `load` and `serve --workload`:\n\n"
                   "```yaml\nmodels:\n  - {name: resnet18, rate: 400/s, slo: 20ms}   # slo: serve and load take the "
                   "model's own instead\n"
                   "  - {name: lenet, rate: 1200/s}\n```\n");
  for (const let_command *const *c = commands; *c; c++) {
    if ((*c)->hidden) continue;
    let_buf_fmt(out, "\n## gpulet %s\n\n`gpulet %s%s%s%s`: %s.\n", (*c)->name, (*c)->name,
                (*c)->n_options ? " [OPTIONS]" : "", (*c)->arguments && (*c)->arguments[0] ? " " : "",
                (*c)->arguments ? (*c)->arguments : "", (*c)->summary);
    if ((*c)->text && (*c)->text[0]) let_buf_fmt(out, "\n```text\n%s```\n", (*c)->text);
    if ((*c)->n_options) {
      let_buf_str(out, "\n");
      let_options_markdown((*c)->option, (*c)->n_options, out);
    }
  }
}

static int print_markdown(void) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  markdown(&b);
  return print(&b, stdout);
}

static int help(int argc, char **argv) {
  if (argc == 0) return print_overview(stdout);
  if (strcmp(argv[0], "--markdown") == 0) return print_markdown();
  const let_command *c = find(argv[0]);
  if (!c && (strcmp(argv[0], "help") == 0 || strcmp(argv[0], "--help") == 0)) return print_overview(stdout);
  return c ? print_help(c) : unknown(argv[0]);
}

static int run(const let_command *c, int argc, char **argv) {
  void *options = calloc(1, c->options_size ? c->options_size : 1);
  if (!options) {
    fprintf(stderr, "gpulet %s: out of memory\n", c->name);
    return LET_EXIT_FAILED;
  }
  char *args[ARGS + 1] = {0};
  int n_args = 0, code = LET_EXIT_OK;
  bool wants_help = false;
  let_error e = {0};
  LET_ASSERT(c->max_args <= ARGS);
  let_err r =
      let_options_parse(c->option, c->n_options, argc, argv, options, args, c->max_args, &n_args, &wants_help, &e);
  if (!r && !wants_help && n_args < c->min_args)
    r = let_fail(&e, LET_ERR_INVALID, "missing argument: gpulet %s %s", c->name, c->arguments);
  if (r) code = fail(c->name, LET_EXIT_USAGE, &e);
  else if (wants_help) code = print_help(c);
  else {
    let_arena arena;
    let_arena_init(&arena, &let_mem_libc);
    r = c->run(options, args, &arena, &code, &e);
    let_arena_fini(&arena);
    if (r) code = fail(c->name, code, &e);
  }
  free(options);
  return code;
}

int let_cmd_main(int argc, char **argv) {
  /* A reader that leaves (`gpulet plan | head`) and a peer that hangs up show as EPIPE where they happen. */
  signal(SIGPIPE, SIG_IGN);
  if (argc < 2) {
    (void)print_overview(stderr);
    return LET_EXIT_USAGE;
  }
  const char *word = argv[1];
  if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
    return flushed(help(argc - 2, argv + 2));
  if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
    if (LET_COMMIT[0]) printf("gpulet %s (%s)\n", LET_VERSION, LET_COMMIT);
    else printf("gpulet %s\n", LET_VERSION);
    return flushed(LET_EXIT_OK);
  }
  const let_command *c = find(word);
  return c ? flushed(run(c, argc - 2, argv + 2)) : unknown(word);
}
