#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/version.h"
#include "cmd/main.h"

typedef struct options {
  int64_t n;
} options;
static const let_option table[] = {
    {"count", LET_OPTION_I64, offsetof(options, n), "N", "3", "how many", .min = 1, .max = 9}};

static void test_help(void **state) {
  (void)state;
  const let_command with = {.name = "try",
                            .summary = "try it",
                            .arguments = "DIR",
                            .text = "Tries.\n",
                            LET_COMMAND_OPTIONS(table, options)},
                    bare = {.name = "bare", .summary = "nothing to set"};
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_cmd_help(&with, &b);
  assert_string_equal(
      b.p, "gpulet try: try it\n\nUsage: gpulet try [OPTIONS] DIR\n\nTries.\n\nOptions:\n  --count N  how many [3]\n");
  let_buf_clear(&b);
  let_cmd_help(&bare, &b);
  assert_string_equal(b.p, "gpulet bare: nothing to set\n\nUsage: gpulet bare\n");
  let_buf_clear(&b);
  let_cmd_overview(&b);
  assert_non_null(strstr(b.p, "\n  run           run one model"));
  assert_null(strstr(b.p, "\n  worker")); /* hidden */
  let_buf_fini(&b);
}

/* Runs the program with both outputs in |out|. */
static int call(const char *line, char *out, size_t cap) {
  char words[256], *argv[16];
  int argc = 0, saved[2] = {dup(1), dup(2)};
  snprintf(words, sizeof words, "%s", line);
  for (char *p = strtok(words, " "); p; p = strtok(NULL, " ")) argv[argc++] = p;
  argv[argc] = NULL;
  FILE *f = tmpfile();
  assert_non_null(f);
  fflush(stdout);
  dup2(fileno(f), 1);
  dup2(fileno(f), 2);
  int code = let_cmd_main(argc, argv);
  fflush(stdout);
  fflush(stderr);
  dup2(saved[0], 1);
  dup2(saved[1], 2);
  close(saved[0]);
  close(saved[1]);
  rewind(f);
  out[fread(out, 1, cap - 1, f)] = 0;
  fclose(f);
  return code;
}

static void test_exit_codes(void **state) {
  (void)state;
  static const struct {
    const char *line;
    int code;
    const char *word;
  } cases[] = {{"gpulet", 2, "Usage: gpulet COMMAND"},
               {"gpulet help", 0, "Commands:"},
               {"gpulet --help", 0, "Commands:"},
               {"gpulet -h", 0, "Commands:"},
               {"gpulet --version", 0, "gpulet " LET_VERSION},
               {"gpulet help run", 0, "Usage: gpulet run [OPTIONS] MODEL_DIR"},
               {"gpulet run --help", 0, "Usage: gpulet run [OPTIONS] MODEL_DIR"},
               {"gpulet run --help --nonsense", 0, "Usage: gpulet run"},
               {"gpulet rnu", 2, "did you mean run?"},
               {"gpulet help rnu", 2, "did you mean run?"},
               {"gpulet xyzzy", 2, "unknown command 'xyzzy'"},
               {"gpulet --verbose", 2, "unknown command"},
               {"gpulet run", 2, "MODEL_DIR"},
               {"gpulet run a b", 2, "unexpected argument 'b'"},
               {"gpulet run --btach 3 a", 2, "did you mean --batch?"},
               {"gpulet run --batch 1000 a", 2, "--batch: 1000 is out of range (1 to 256)"},
               {"gpulet run --interval 5 a", 2, "unit"},
               {"gpulet run /no/such/model", 1, "/no/such/model"}};
  static char out[1 << 16];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int code = call(cases[i].line, out, sizeof out);
    if (code != cases[i].code || !strstr(out, cases[i].word)) fail_msg("%s: exit %d, %s", cases[i].line, code, out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_help), cmocka_unit_test(test_exit_codes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
