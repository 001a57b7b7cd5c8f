#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "conf/options.h"
#include "conf/repository.h"

typedef struct options {
  const char *name, *mode, *config;
  bool json, fast;
  int64_t port;
  double share;
  let_dur slo;
  uint64_t size;
} options;

#define FIELD(f) offsetof(options, f)
static const char *const modes[] = {"eager", "deferred", NULL};
static const let_option table[] = {
    {"name", LET_OPTION_STR, FIELD(name), "NAME", NULL, "what it is called", .required = true},
    {"mode", LET_OPTION_CHOICE, FIELD(mode), "MODE", "deferred",
     "eager: at once; deferred: as late as the objective allows, which is how a batch becomes full", .choices = modes},
    {"config", LET_OPTION_STR, FIELD(config), "FILE", NULL, "YAML file"},
    {"json", LET_OPTION_BOOL, FIELD(json), NULL, NULL, "machine-readable"},
    {"fast", LET_OPTION_BOOL, FIELD(fast), NULL, "true", "the default"},
    {"http-port", LET_OPTION_I64, FIELD(port), "PORT", "8000", "where to listen", .min = 0, .max = 65535},
    {"share", LET_OPTION_F64, FIELD(share), "PERCENT", "50", "part of the device", .min = 1, .max = 100},
    {"default-service-level-objective", LET_OPTION_DUR, FIELD(slo), "TIME", "1s", "longest answer"},
    {"size", LET_OPTION_SIZE, FIELD(size), "SIZE", "1MiB", "memory"},
};
enum { N = sizeof table / sizeof *table, ARGS = 2 };

typedef struct line {
  options o;
  char *args[ARGS];
  int n_args;
  bool help;
  let_error e;
} line;

/* Parses the words of |text|. They stay alive in a buffer of their own until the next call. */
static let_err parse(const char *text, line *l) {
  static char words[512];
  char *argv[32];
  int argc = 0;
  snprintf(words, sizeof words, "%s", text);
  for (char *p = strtok(words, " "); p; p = strtok(NULL, " ")) argv[argc++] = p;
  *l = (line){0};
  return let_options_parse(table, N, argc, argv, &l->o, l->args, ARGS, &l->n_args, &l->help, &l->e);
}

static void test_parse(void **state) {
  (void)state;
  line l;
  assert_int_equal(parse("--name=x --json --http-port 9000 --share=25 a --default-service-level-objective 20ms --size "
                         "2KiB --mode eager -- --b",
                         &l),
                   LET_OK);
  assert_string_equal(l.o.name, "x");
  assert_string_equal(l.o.mode, "eager");
  assert_true(l.o.json && l.o.fast && l.o.port == 9000 && l.o.slo == 20 * LET_MS && l.o.size == 2048);
  assert_true(l.o.share > 24.9 && l.o.share < 25.1);
  assert_int_equal(l.n_args, 2);
  assert_string_equal(l.args[0], "a");
  assert_string_equal(l.args[1], "--b");
  assert_int_equal(parse("--name x --json=false --no-fast --http-port 1 --http-port 2", &l), LET_OK);
  assert_true(!l.o.json && !l.o.fast && l.o.port == 2);
  assert_string_equal(l.o.mode, "deferred");
  assert_null(l.o.config);
  assert_int_equal(parse("--help --nonsense", &l), LET_OK);
  assert_true(l.help);
  assert_int_equal(parse("--name --json", &l), LET_OK); /* a value is taken as it stands */
  assert_string_equal(l.o.name, "--json");
}

static void test_usage(void **state) {
  (void)state;
  static const char *const cases[][2] = {{"", "--name NAME is required"},
                                         {"--name", "needs a value"},
                                         {"--http-prt 1", "mean --http-port?"},
                                         {"--name x --http-port x", "--http-port: 'x' is not a whole number"},
                                         {"--name x --http-port 65536", "0 to 65535"},
                                         {"--name x --share 0", "1 to 100"},
                                         {"--name x --mode lazy", "eager, deferred"},
                                         {"--name x --mode defered", "mean deferred?"},
                                         {"--name x --default-service-level-objective 10", "no unit"},
                                         {"--name x --size 10", "no unit"},
                                         {"--name x --json=maybe", "--json"},
                                         {"--name x -json", "mean --json?"},
                                         {"--name x a b c", "'c'"},
                                         {"--name x --no-name", "unknown option '--no-name'"},
                                         {"--name x --no-json=1", "unknown"},
                                         {"--=1", "unknown"},
                                         {"--zzzzzzzz", "unknown option '--zzzzzzzz'"}};
  line l;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    if (parse(cases[i][0], &l) != LET_ERR_INVALID || !strstr(l.e.text, cases[i][1]))
      fail_msg("%s: '%s', wanted '%s'", cases[i][0], l.e.text, cases[i][1]);
}

static void test_help(void **state) {
  (void)state;
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_options_help(table, N, &b);
  assert_string_equal(b.p, "  --name NAME       what it is called (required)\n"
                           "  --mode MODE       eager: at once; deferred: as late as the objective allows,\n"
                           "                    which is how a batch becomes full [deferred]\n"
                           "  --config FILE     YAML file\n"
                           "  --json            machine-readable\n"
                           "  --fast            the default\n"
                           "  --http-port PORT  where to listen [8000]\n"
                           "  --share PERCENT   part of the device [50]\n"
                           "  --default-service-level-objective TIME\n"
                           "                    longest answer [1s]\n"
                           "  --size SIZE       memory [1MiB]\n");
  let_buf_fini(&b);
}

static void write_file(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static char dir[64];
static const char *in_dir(const char *name) {
  static char path[4][256];
  static unsigned n;
  char *p = path[n++ % 4];
  snprintf(p, 256, "%s/%s", dir, name);
  return p;
}

static int make_dir(void **state) {
  (void)state;
  snprintf(dir, sizeof dir, "/tmp/let_conf_XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}
static int remove_dir(void **state) {
  (void)state;
  char cmd[128];
  snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
  return system(cmd);
}

static void test_yaml(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  const char *path = in_dir("gpulet.yaml");
  line l;
  write_file(path, "# comment\nname: from file\nhttp-port: 9000\nshare: 20\njson: yes\n");
  assert_int_equal(parse("--config x --share 50 --http-port 8000", &l), LET_OK); /* name may come from the file */
  if (let_options_from_yaml(path, table, N, &l.o, &a, &l.e)) fail_msg("%s", l.e.text);
  assert_string_equal(l.o.name, "from file");
  assert_true(l.o.port == 8000 && l.o.json && l.o.share > 49.9); /* flags win, a default's value too */
  assert_string_equal(l.o.mode, "deferred");
  static const char *const cases[][2] = {{"http-port: 9\n", "--name NAME is required"},
                                         {"htp-port: 9\n", ":1:1: unknown key 'htp-port' (did you mean http-port?)"},
                                         {"name: x\nhttp-port: no\n", ":2:12: http-port: 'no'"},
                                         {"name: x\nhttp-port: 70000\n", ":2:12: http-port: 70000"},
                                         {"name: [a]\n", ":1:7: name"},
                                         {"- a\n", ":1:1"},
                                         {"name: x\nname: y\n", ":2:1: 'name' is given twice"},
                                         {"", "empty"},
                                         {"a: [\n", ":2:1"},
                                         {"config: other\n", "unknown key 'config'"},
                                         {"name: x\nshare: wrong\n", ":2:8: share"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_file(path, cases[i][0]);
    assert_int_equal(parse("--config x --share 50", &l), LET_OK);
    let_err r = let_options_from_yaml(path, table, N, &l.o, &a, &l.e);
    if (r != LET_ERR_INVALID || !strstr(l.e.text, cases[i][1]))
      fail_msg("%s: '%s', wanted '%s'", cases[i][0], l.e.text, cases[i][1]);
  }
  assert_int_equal(let_options_from_yaml("/no/such", table, N, &l.o, &a, &l.e), LET_ERR_NOT_FOUND);
  let_arena_fini(&a);
}

/* ---- repositories */

#define TENSORS "input { name: 'a' data_type: TYPE_FP32 dims: 1 }\noutput { name: 'b' data_type: TYPE_FP32 dims: 1 }\n"

static void make_model(const char *name, const char *config) {
  char path[256];
  mkdir(in_dir(name), 0700);
  snprintf(path, sizeof path, "%s/config.pbtxt", in_dir(name));
  write_file(path, config);
}
static void make_version(const char *model, const char *version, const char *content) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", in_dir(model), version);
  mkdir(path, 0700);
  strcat(path, "/model.pt");
  if (content) write_file(path, content);
}

static void test_repository(void **state) {
  (void)state;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_model *m = NULL;
  uint32_t n = 0;
  assert_int_equal(let_repository_load("/no/such", &a, &m, &n, &e), LET_ERR_NOT_FOUND);
  assert_int_equal(let_repository_load(dir, &a, &m, &n, &e), LET_ERR_NOT_FOUND);
  write_file(in_dir("README"), "not a model");
  mkdir(in_dir(".hidden"), 0700);
  make_model("zebra", "backend: 'null' " TENSORS);
  make_model("ant", "name: 'ant' platform: 'pytorch_libtorch' " TENSORS);
  make_version("ant", "1", "x"), make_version("ant", "10", "x"), make_version("ant", "2", "x"),
      make_version("ant", "011", "x"), make_version("ant", "latest", "x");
  if (let_repository_load(dir, &a, &m, &n, &e)) fail_msg("%s", e.text);
  assert_int_equal(n, 2);
  assert_string_equal(m[0].name, "ant");
  assert_int_equal(m[0].version, 10);
  assert_string_equal(m[0].dir, in_dir("ant"));
  assert_string_equal(m[1].name, "zebra");
  make_model("ant", TENSORS "version_policy { specific { versions: [ 1, 2, 7 ] } }");
  assert_int_equal(let_repository_load(dir, &a, &m, &n, &e), LET_OK);
  assert_int_equal(m[0].version, 2);
  static const char *const cases[][2] = {
      {TENSORS "version_policy { specific { versions: [ 7 ] } }", "ant/config.pbtxt:3: version_policy"},
      {TENSORS "default_model_filename: 'net.pt'", "ant/10/net.pt"},
      {"name: 'bee' " TENSORS, "ant/config.pbtxt:1:1: name"},
      {"nam: 'ant'", "ant/config.pbtxt:1:1"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    make_model("ant", cases[i][0]);
    if (!let_repository_load(dir, &a, &m, &n, &e) || !strstr(e.text, cases[i][1]))
      fail_msg("%s: '%s', wanted '%s'", cases[i][0], e.text, cases[i][1]);
  }
  make_model("ant", TENSORS);
  make_version("ant", "11", "");
  assert_int_equal(let_repository_load(dir, &a, &m, &n, &e), LET_ERR_INVALID);
  assert_non_null(strstr(e.text, "ant/11/model.pt: is empty"));
  make_model("cat", TENSORS);
  let_model one;
  assert_int_equal(let_repository_load_one(in_dir("cat/"), &a, &one, NULL, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "no version directory"));
  mkdir(in_dir("dog"), 0700);
  assert_int_equal(let_repository_load_one(in_dir("dog"), &a, &one, NULL, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "dog/config.pbtxt"));
  let_arena_fini(&a);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_usage),
                                     cmocka_unit_test(test_help),
                                     cmocka_unit_test_setup_teardown(test_yaml, make_dir, remove_dir),
                                     cmocka_unit_test_setup_teardown(test_repository, make_dir, remove_dir)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
