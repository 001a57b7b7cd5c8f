/* cmd.h: one row per subcommand; main.c lists the rows, and help, completion and dispatch come from them. */
#ifndef LET_CMD_CMD_H
#define LET_CMD_CMD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/mem.h"
#include "conf/options.h"

enum { LET_EXIT_OK = 0, LET_EXIT_FAILED = 1, LET_EXIT_USAGE = 2 };

typedef struct let_command {
  const char *name, *summary; /* "plan", "decide which gpu-lets to make and what runs where" */
  const char *arguments;      /* positional, for the usage line: "MODEL_DIR" or "" */
  const char *text;           /* the rest of --help: what it does, an example */
  const let_option *option;
  size_t n_options, options_size; /* size of the struct that |run| gets, zeroed and then filled */
  int min_args, max_args;
  bool hidden; /* worker */
  /* On an error the program prints "gpulet NAME: text" and exits with LET_EXIT_FAILED, or with LET_EXIT_USAGE when
   * *ret_code says so; else it exits with *ret_code, which is LET_EXIT_OK at first. The caller frees |arena|. */
  let_err (*run)(const void *options, char **args, let_arena *arena, int *ret_code, let_error *e);
} let_command;

#define LET_COMMAND_OPTIONS(table, type) \
  .option = (table), .n_options = sizeof(table) / sizeof *(table), .options_size = sizeof(type)

#endif
