#include "os/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/clock.h"

extern char **environ;

/* Runs in the child, between fork and exec: async-signal-safe calls only. Returns only on failure, with errno. */
static void child(const char *path, const char *const argv[], const let_process_fd *fds, uint32_t n, int *report,
                  pid_t parent) {
  int high[LET_PROCESS_FDS_MAX + 1], top = 3;
  sigset_t none;
  for (uint32_t i = 0; i < n; i++)
    if (fds[i].to >= top) top = fds[i].to + 1;
  /* First above every target, so that no dup2 overwrites a descriptor that is still to be moved. */
  for (uint32_t i = 0; i < n; i++)
    if ((high[i] = fcntl(fds[i].from, F_DUPFD_CLOEXEC, top)) < 0) return;
  if ((high[n] = fcntl(*report, F_DUPFD_CLOEXEC, top)) < 0) return;
  *report = high[n];
  for (uint32_t i = 0; i < n; i++)
    if (dup2(high[i], fds[i].to) < 0) return;
  if (close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) return;
  for (uint32_t i = 0; i < n; i++)
    if (fcntl(fds[i].to, F_SETFD, 0) < 0) return;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return;
  if (getppid() != parent) _exit(127); /* it died before the line above */
  (void)setpgid(0, 0);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  execve(path, (char *const *)(uintptr_t)argv, environ);
}

let_err let_process_spawn(const char *path, const char *const argv[], const let_process_fd *fds, uint32_t n,
                          let_process *ret, let_error *e) {
  int report[2], err = 0;
  LET_ASSERT(n <= LET_PROCESS_FDS_MAX);
  if (pipe2(report, O_CLOEXEC) < 0) return let_fail(e, LET_ERR_IO, "cannot start %s: %s", path, strerror(errno));
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) {
    int to = report[1];
    child(path, argv, fds, n, &to, parent);
    err = errno;
    (void)!write(to, &err, sizeof err);
    _exit(127);
  }
  int fork_err = errno;
  close(report[1]);
  if (pid < 0) {
    close(report[0]);
    return let_fail(e, LET_ERR_IO, "cannot start %s: %s", path, strerror(fork_err));
  }
  ssize_t got;
  while ((got = read(report[0], &err, sizeof err)) < 0 && errno == EINTR) {}
  close(report[0]);
  if (got == sizeof err) {
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    return let_fail(e, err == ENOENT ? LET_ERR_NOT_FOUND : LET_ERR_IO, "cannot start %s: %s", path, strerror(err));
  }
  ret->pid = pid;
  ret->pidfd = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec by definition; -1 before Linux 5.3 */
  return LET_OK;
}

static bool reap(let_process *p, int flags, int *ret_status) {
  int status = 0;
  pid_t r;
  if (p->pid <= 0) return false;
  while ((r = waitpid(p->pid, &status, flags)) < 0 && errno == EINTR) {}
  if (r == 0) return false;
  if (p->pidfd >= 0) close(p->pidfd);
  p->pid = 0, p->pidfd = -1;
  *ret_status = r < 0 ? 0 : status; /* someone else reaped it (SIGCHLD ignored): gone all the same */
  return true;
}

bool let_process_poll(let_process *p, int *ret_status) { return reap(p, WNOHANG, ret_status); }

bool let_process_wait(let_process *p, let_dur timeout, int *ret_status) {
  if (p->pid <= 0) return false;
  if (timeout == LET_NEVER) return reap(p, 0, ret_status);
  let_time end = let_now() + timeout;
  for (;;) {
    if (reap(p, WNOHANG, ret_status)) return true;
    let_dur left = end - let_now();
    if (left <= 0) return false;
    struct pollfd f = {.fd = p->pidfd, .events = POLLIN};
    int ms = (int)(left / LET_MS < 60000 ? left / LET_MS + 1 : 60000);
    if (p->pidfd < 0 && ms > 5) ms = 5; /* an old kernel: look again */
    (void)poll(&f, p->pidfd >= 0, ms);
  }
}

void let_process_kill(let_process *p, int signal_number) {
  if (p->pid > 0) kill(p->pid, signal_number);
}

const char *let_process_text(int status, char out[LET_PROCESS_TEXT_MAX]) {
  if (WIFEXITED(status)) snprintf(out, LET_PROCESS_TEXT_MAX, "exited with %d", WEXITSTATUS(status));
  else if (WIFSIGNALED(status) && sigabbrev_np(WTERMSIG(status)))
    snprintf(out, LET_PROCESS_TEXT_MAX, "killed by SIG%s", sigabbrev_np(WTERMSIG(status)));
  else snprintf(out, LET_PROCESS_TEXT_MAX, "ended with status 0x%x", (unsigned)status);
  return out;
}
