/* MPS against a script that stands in for nvidia-cuda-mps-control. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/clock.h"
#include "os/mps.h"

static char dir[64], old_path[4096];

static void script(const char *body) {
  char path[128];
  snprintf(path, sizeof path, "%s/bin", dir);
  mkdir(path, 0700);
  snprintf(path, sizeof path, "%s/bin/nvidia-cuda-mps-control", dir);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fprintf(f, "#!/bin/sh\n%s\n", body);
  fclose(f);
  assert_int_equal(chmod(path, 0700), 0);
}

static int setup(void **state) {
  (void)state;
  snprintf(dir, sizeof dir, "/tmp/gpulet-mps-XXXXXX");
  if (!mkdtemp(dir)) return -1;
  snprintf(old_path, sizeof old_path, "%s", getenv("PATH"));
  char path[8192];
  snprintf(path, sizeof path, "%s/bin:%s", dir, old_path);
  return setenv("PATH", path, 1);
}
static int teardown(void **state) {
  (void)state;
  setenv("PATH", old_path, 1);
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

static void test_percent(void **state) {
  (void)state;
  assert_int_equal(let_mps_percent(66, 132), 50);
  assert_int_equal(let_mps_percent(8, 132), 7);
  assert_int_equal(let_mps_percent(132, 132), 100);
  assert_int_equal(let_mps_percent(200, 132), 100);
  assert_int_equal(let_mps_percent(0, 132), 1);
  assert_int_equal(let_mps_percent(5, 0), 100);
  for (uint32_t total = 1; total < 200; total++)
    for (uint32_t sms = 1; sms <= total; sms++) assert_true(let_mps_percent(sms, total) * total / 100 >= sms);
}

#define DAEMON                                                                                           \
  "if [ \"$1\" = -f ]; then mkfifo $CUDA_MPS_PIPE_DIRECTORY/quit; : >$CUDA_MPS_PIPE_DIRECTORY/control; " \
  "read word <$CUDA_MPS_PIPE_DIRECTORY/quit; echo \"$word\" >$CUDA_MPS_LOG_DIRECTORY/word; exit 0; fi; " \
  "read word; echo \"$word\" >$CUDA_MPS_PIPE_DIRECTORY/quit"

static void test_start_and_stop(void **state) {
  (void)state;
  script(DAEMON);
  let_mps *m = NULL;
  let_error e = {0};
  if (let_mps_start(dir, &m, &e)) fail_msg("%s", e.text);
  assert_true(let_mps_alive(m));
  char env[LET_MPS_ENV][LET_MPS_ENV_MAX], want[128];
  let_mps_env(m, 50, env);
  snprintf(want, sizeof want, "CUDA_MPS_PIPE_DIRECTORY=%s/pipe", dir);
  assert_string_equal(env[0], want);
  assert_string_equal(env[2], "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50");
  assert_string_equal(env[3], "CUDA_DEVICE_MAX_CONNECTIONS=8");
  assert_null(getenv("CUDA_MPS_PIPE_DIRECTORY")); /* our own environment is untouched */
  let_mps_stop(m, 5 * LET_S);
  snprintf(want, sizeof want, "%s/log/word", dir);
  FILE *f = fopen(want, "r"); /* it was asked, not killed */
  assert_non_null(f);
  char word[16] = "";
  assert_non_null(fgets(word, sizeof word, f));
  fclose(f);
  assert_string_equal(word, "quit\n");
}

static void test_deaf(void **state) { /* one that does not quit is killed */
  (void)state;
  script("if [ \"$1\" = -f ]; then : >$CUDA_MPS_PIPE_DIRECTORY/control; exec tail -f /dev/null; fi; exec tail -f "
         "/dev/null");
  let_mps *m = NULL;
  let_error e = {0};
  if (let_mps_start(dir, &m, &e)) fail_msg("%s", e.text);
  let_time t = let_now();
  let_mps_stop(m, 100 * LET_MS);
  assert_true(let_now() - t < 5 * LET_S);
}

static void test_dies(void **state) {
  (void)state;
  script("echo 'no such GPU' >&2; exit 3");
  let_mps *m = NULL;
  let_error e = {0};
  assert_int_equal(let_mps_start(dir, &m, &e), LET_ERR_UNAVAILABLE);
  assert_non_null(strstr(e.text, "no such GPU"));
  assert_non_null(strstr(e.text, "exited with 3"));
  /* One that ends after it was up is noticed. */
  script("if [ \"$1\" = -f ]; then mkfifo $CUDA_MPS_PIPE_DIRECTORY/go; : >$CUDA_MPS_PIPE_DIRECTORY/control; read x "
         "<$CUDA_MPS_PIPE_DIRECTORY/go; fi; exit 0");
  if (let_mps_start(dir, &m, &e)) fail_msg("%s", e.text);
  assert_true(let_mps_alive(m));
  char go[128];
  snprintf(go, sizeof go, "%s/pipe/go", dir);
  FILE *f = fopen(go, "w");
  assert_non_null(f);
  fclose(f);
  let_time until = let_now() + 10 * LET_S;
  while (let_mps_alive(m) && let_now() < until) {}
  assert_false(let_mps_alive(m));
  let_mps_stop(m, LET_S);
}

static void test_missing(void **state) {
  (void)state;
  setenv("PATH", "/nonexistent", 1);
  let_mps *m = NULL;
  let_error e = {0};
  assert_int_equal(let_mps_start(dir, &m, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "--isolation device"));
  assert_int_equal(
      let_mps_start(
          "/tmp/"
          "a-directory-whose-name-is-so-long-that-no-unix-domain-socket-can-ever-be-bound-in-it-whatever-it-is-called",
          &m, &e),
      LET_ERR_INVALID);
  let_mps_stop(NULL, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_percent),
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
      T(test_start_and_stop),         T(test_deaf), T(test_dies), T(test_missing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
