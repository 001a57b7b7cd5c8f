/* options.h: one table of options per command; from it come the parser, --help, the YAML configuration keys and
 * the documentation. */
#ifndef LET_CONF_OPTIONS_H
#define LET_CONF_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

typedef enum let_option_type {
  LET_OPTION_STR,   /* const char * (borrowed from argv or from the configuration's arena) */
  LET_OPTION_BOOL,  /* bool; "--json" alone means true, "--json=false" works */
  LET_OPTION_I64,   /* int64_t, min..max */
  LET_OPTION_F64,   /* double, min..max */
  LET_OPTION_DUR,   /* let_dur */
  LET_OPTION_SIZE,  /* uint64_t bytes */
  LET_OPTION_CHOICE /* const char *, one of |choices| */
} let_option_type;

typedef struct let_option {
  const char *name; /* "http-port": --http-port N, --http-port=N, and http-port: N in a YAML file */
  let_option_type type;
  size_t offset;     /* of the field in the command's options struct */
  const char *value; /* how --help names the value: "PORT" */
  const char *def;   /* default, as a user would write it; NULL: none (pointer NULL, numbers 0) */
  const char *help;  /* one sentence */
  bool required;
  double min, max;            /* for numbers; both 0: no limits */
  const char *const *choices; /* NULL-terminated */
} let_option;

/* Sets every default, then parses what follows the command's name. Positional arguments are collected into |args|
 * (cap |max_args|). "--" ends options; --help sets *ret_help and stops. "--name value" and "--name=value"; a bool is
 * "--name", "--no-name" or "--name=false". Given twice, the last wins. A missing required option is an error unless
 * --config names a file that may still give it. Errors: INVALID, with the nearest known option when one is unknown. */
LET_CHECKED let_err let_options_parse(const let_option *t, size_t n, int argc, char **argv, void *out, char **args,
                                      int max_args, int *ret_n_args, bool *ret_help, let_error *e);
void let_options_help(const let_option *t, size_t n, let_buf *out);     /* an aligned table, 80 columns */
void let_options_markdown(const let_option *t, size_t n, let_buf *out); /* a table for doc/configuration.md */

/* Sets the fields of |out| that the YAML file names ("http-port: 9000", one per line), except those that the last
 * let_options_parse with this table found on the command line; then checks that every required option is there.
 * Strings live in |a|. Errors: "path:line:column: key: ...". Once, at start-up, on the thread that parsed. */
LET_CHECKED let_err let_options_from_yaml(const char *path, const let_option *t, size_t n, void *out, let_arena *a,
                                          let_error *e);

#endif
