#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/clock.h"
#include "os/cpu.h"
#include "os/process.h"
#include "os/shm.h"

static void test_clock(void **state) {
  (void)state;
  char wall[LET_WALL_MAX];
  let_time a = let_now(), b = a + 2 * LET_MS;
  let_sleep_until(b);
  assert_true(let_now() >= b);
  let_sleep_until(a); /* past: at once */
  assert_int_equal(strlen(let_wall_text(wall)), 24);
  assert_int_equal(wall[23], 'Z');
}

static void test_cpu(void **state) {
  (void)state;
  uint32_t cores[LET_CPU_MAX], n = let_cpu_allowed(cores), absent = LET_CPU_MAX - 1;
  let_error e = {0};
  assert_true(n >= 1);
  assert_int_equal(let_cpu_pin(cores, 1, &e), LET_OK);
  assert_int_equal(sched_getcpu(), cores[0]);
  assert_int_equal(let_cpu_allowed(cores), n); /* a pin does not shrink it */
  assert_int_equal(let_cpu_pin(cores, n, &e), LET_OK);
  assert_int_equal(let_cpu_pin(&absent, 1, &e), LET_ERR_DEVICE);
  assert_true(e.text[0]);
}

static void test_shm(void **state) {
  (void)state;
  int fd = -1, plain;
  void *p, *q;
  uint64_t n, m;
  let_error e = {0};
  assert_int_equal(let_shm_create("test", 10000, &fd, &e), LET_OK);
  assert_int_equal(let_shm_map(fd, &p, &n, &e), LET_OK);
  assert_int_equal(let_shm_map(fd, &q, &m, &e), LET_OK);
  assert_int_equal(n, 10000);
  ((char *)p)[9999] = 7;
  assert_int_equal(((char *)q)[9999], 7);
  assert_int_equal(ftruncate(fd, 0), -1); /* no peer can shrink or grow it */
  assert_int_equal(ftruncate(fd, 20000), -1);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  let_shm_unmap(p, n);
  let_shm_unmap(q, m);
  close(fd);
  plain = memfd_create("plain", MFD_CLOEXEC);
  assert_int_equal(ftruncate(plain, 4096), 0);
  assert_int_equal(let_shm_map(plain, &p, &n, &e), LET_ERR_INVALID);
  close(plain);
  assert_int_equal(let_shm_create("test", UINT64_MAX, &fd, &e), LET_ERR_IO);
}

static void reap(let_process *p, const char *want) {
  char text[LET_PROCESS_TEXT_MAX];
  int status;
  assert_true(let_process_wait(p, 60 * LET_S, &status));
  assert_string_equal(let_process_text(status, text), want);
  assert_int_equal(p->pid, 0);
  assert_false(let_process_poll(p, &status));
}

/* The child sees exactly the descriptors it was given, and says so with its exit code. */
static void test_process(void **state) {
  (void)state;
  let_process p;
  let_error e = {0};
  int a[2], b[2];
  char text[16] = "";
  assert_int_equal(pipe2(a, O_CLOEXEC), 0);
  assert_int_equal(pipe2(b, 0), 0); /* inheritable, and yet not to be seen */
  /* Crossed over on purpose: 3 gets what lies at a high number, and the other way round. */
  int high = fcntl(a[1], F_DUPFD_CLOEXEC, 20);
  let_process_fd map[] = {{high, 3}, {a[0], 20}};
  const char *argv[] = {"sh", "-c",
                        "echo hello >&3; for f in /proc/self/fd/*; do case ${f##*/} in 0|1|2|3|20) ;; *) [ -e $f ] && "
                        "exit 9;; esac; done; exit 5",
                        NULL};
  assert_int_equal(let_process_spawn("/bin/sh", argv, map, 2, &p, &e), LET_OK);
  reap(&p, "exited with 5");
  assert_int_equal(read(a[0], text, sizeof text - 1), 6);
  assert_string_equal(text, "hello\n");
  close(a[0]), close(a[1]), close(b[0]), close(b[1]), close(high);

  const char *none[] = {"none", NULL};
  assert_int_equal(let_process_spawn("/nonexistent/program", none, NULL, 0, &p, &e), LET_ERR_NOT_FOUND);
  assert_non_null(strstr(e.text, "/nonexistent/program"));

  const char *forever[] = {"sleep", "1000", NULL};
  int status;
  assert_int_equal(let_process_spawn("/bin/sleep", forever, NULL, 0, &p, &e), LET_OK);
  assert_false(let_process_poll(&p, &status));
  if (p.pidfd >= 0) {
    struct pollfd f = {.fd = p.pidfd, .events = POLLIN};
    assert_int_equal(poll(&f, 1, 0), 0);
  }
  let_process_kill(&p, SIGKILL);
  reap(&p, "killed by SIGKILL");
}

/* Who is killed leaves no children behind. */
static void test_process_orphan(void **state) {
  (void)state;
  int link[2];
  char byte;
  assert_int_equal(pipe(link), 0);
  fflush(NULL);
  pid_t parent = fork();
  if (parent == 0) {
    let_process p;
    let_process_fd map[] = {{link[1], 3}};
    const char *forever[] = {"sleep", "1000", NULL};
    _exit(let_process_spawn("/bin/sleep", forever, map, 1, &p, NULL) ? 1 : (raise(SIGKILL), 0));
  }
  close(link[1]);
  assert_int_equal(waitpid(parent, NULL, 0), parent);
  struct pollfd f = {.fd = link[0], .events = POLLIN};
  assert_int_equal(poll(&f, 1, 60000), 1); /* end of file: the last holder is gone */
  assert_int_equal(read(link[0], &byte, 1), 0);
  close(link[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_clock),
      cmocka_unit_test(test_cpu),
      cmocka_unit_test(test_shm),
      cmocka_unit_test(test_process),
      cmocka_unit_test(test_process_orphan),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
