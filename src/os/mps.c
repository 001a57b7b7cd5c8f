#include "os/mps.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/process.h"

#define CONNECTIONS  "CUDA_DEVICE_MAX_CONNECTIONS"
#define PROGRAM      "nvidia-cuda-mps-control"
#define START_WITHIN (20 * LET_S)
enum { PATH_MAX_ = 512 };

struct let_mps {
  char program[PATH_MAX_], pipe[LET_MPS_ENV_MAX], log[LET_MPS_ENV_MAX]; /* the last two as NAME=value */
  let_process daemon;
};

uint32_t let_mps_percent(uint32_t sms, uint32_t total) {
  if (total == 0 || sms >= total) return 100;
  uint32_t p = (uint32_t)(((uint64_t)sms * 100 + total - 1) / total);
  return p < 1 ? 1 : p;
}

void let_mps_env(const let_mps *m, uint32_t percent, char out[LET_MPS_ENV][LET_MPS_ENV_MAX]) {
  snprintf(out[0], LET_MPS_ENV_MAX, "%s", m->pipe);
  snprintf(out[1], LET_MPS_ENV_MAX, "%s", m->log);
  snprintf(out[2], LET_MPS_ENV_MAX, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=%u", percent);
  /* All clients share one pool of connections, of which a worker per gpu-let needs few: with the 32 that a worker of
   * its own takes (device/cuda), seven clients were too many for an H200. */
  snprintf(out[3], LET_MPS_ENV_MAX, CONNECTIONS "=8");
}

static bool on_path(char out[PATH_MAX_]) {
  for (const char *at = getenv("PATH"); at && *at;) {
    size_t n = strcspn(at, ":");
    if (n && snprintf(out, PATH_MAX_, "%.*s/" PROGRAM, (int)n, at) < PATH_MAX_ && access(out, X_OK) == 0) return true;
    at += n + (at[n] == ':');
  }
  return false;
}

static const char *value(const char *assignment) { return strchr(assignment, '=') + 1; }

/* The end of what the daemon has printed, on one line. */
static void last_words(const char *path, char out[200]) {
  FILE *f = fopen(path, "r");
  size_t n = 0;
  if (f) {
    (void)!fseek(f, -199, SEEK_END);
    n = fread(out, 1, 199, f);
    fclose(f);
  }
  while (n && (out[n - 1] == '\n' || out[n - 1] == ' ')) n--;
  out[n] = 0;
  for (char *c = out; *c; c++)
    if (*c == '\n') *c = ' ';
}

static let_err spawn(const let_mps *m, const char *argument, const let_process_fd *fds, uint32_t n, let_process *ret,
                     let_error *e) {
  /* env(1) sets the variables for this child alone; setenv here would reach every other child too. */
  const char *argv[] = {"env", "-u", CONNECTIONS, m->pipe, m->log, m->program, argument, NULL};
  return let_process_spawn("/usr/bin/env", argv, fds, n, ret, e);
}

static let_err wait_until_up(let_mps *m, const char *out_path, let_error *e) {
  char control[LET_MPS_ENV_MAX + 16];
  snprintf(control, sizeof control, "%s/control", value(m->pipe));
  for (let_time until = let_now() + START_WITHIN; access(control, F_OK) != 0;) {
    int status;
    if (let_process_wait(&m->daemon, 10 * LET_MS, &status)) {
      char how[LET_PROCESS_TEXT_MAX], words[200];
      last_words(out_path, words);
      return let_fail(e, LET_ERR_UNAVAILABLE, "the MPS daemon %s: %s (logs in %.200s)", let_process_text(status, how),
                      words, value(m->log));
    }
    if (let_now() > until)
      return let_fail(e, LET_ERR_DEADLINE, "the MPS daemon is not up after 20 s (logs in %.200s)", value(m->log));
  }
  return LET_OK;
}

let_err let_mps_start(const char *dir, let_mps **ret, let_error *e) {
  let_mps *m = calloc(1, sizeof *m);
  if (!m) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  m->daemon.pidfd = -1;
  let_err err = LET_OK;
  char out_path[LET_MPS_ENV_MAX];
  snprintf(m->pipe, sizeof m->pipe, "CUDA_MPS_PIPE_DIRECTORY=%.200s/pipe", dir);
  snprintf(m->log, sizeof m->log, "CUDA_MPS_LOG_DIRECTORY=%.200s/log", dir);
  snprintf(out_path, sizeof out_path, "%.200s/log/daemon.out", dir);
  if (strlen(dir) + sizeof "/pipe/control" > sizeof((struct sockaddr_un *)0)->sun_path)
    err = let_fail(
        e, LET_ERR_INVALID,
        "the directory '%.120s' is too long for MPS, whose sockets allow about 90 bytes: choose a shorter one", dir);
  else if (!on_path(m->program))
    err = let_fail(e, LET_ERR_NOT_FOUND,
                   "--isolation process needs NVIDIA MPS, and " PROGRAM
                   " is not on PATH: install the driver's utilities, or use --isolation device");
  if (!err && ((mkdir(dir, 0700) && errno != EEXIST) || (mkdir(value(m->pipe), 0700) && errno != EEXIST) ||
               (mkdir(value(m->log), 0700) && errno != EEXIST)))
    err = let_fail(e, LET_ERR_IO, "%.200s: %s", dir, strerror(errno));
  if (!err) {
    char control[LET_MPS_ENV_MAX + 16];
    snprintf(control, sizeof control, "%s/control", value(m->pipe));
    (void)unlink(control); /* of a daemon that died: would look like a live one */
    int fd = open(out_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) err = let_fail(e, LET_ERR_IO, "%s: %s", out_path, strerror(errno));
    /* In the foreground, so that it is our child: seen when it ends, gone when we are. */
    if (!err) err = spawn(m, "-f", (let_process_fd[]){{fd, 1}, {fd, 2}}, 2, &m->daemon, e);
    if (fd >= 0) close(fd);
  }
  if (!err) err = wait_until_up(m, out_path, e);
  if (err) {
    if (m->daemon.pid > 0) let_mps_stop(m, 0);
    else free(m);
    return err;
  }
  *ret = m;
  return LET_OK;
}

bool let_mps_alive(let_mps *m) {
  int status;
  return m->daemon.pid > 0 && !let_process_poll(&m->daemon, &status);
}

int let_mps_fd(const let_mps *m) { return m->daemon.pidfd; }

void let_mps_stop(let_mps *m, let_dur patience) {
  if (!m) return;
  int status, p[2];
  if (patience > 0 && let_mps_alive(m) && pipe2(p, O_CLOEXEC) == 0) {
    let_process client;
    if (write(p[1], "quit\n", 5) == 5 && spawn(m, NULL, (let_process_fd[]){{p[0], 0}}, 1, &client, NULL) == LET_OK) {
      close(p[1]), p[1] = -1;
      if (!let_process_wait(&client, patience, &status)) {
        let_process_kill(&client, SIGKILL);
        (void)let_process_wait(&client, LET_NEVER, &status);
      } else {
        (void)let_process_wait(&m->daemon, patience, &status);
      }
    }
    close(p[0]);
    if (p[1] >= 0) close(p[1]);
  }
  if (m->daemon.pid > 0) {
    let_process_kill(&m->daemon, SIGKILL);
    (void)let_process_wait(&m->daemon, LET_NEVER, &status);
  }
  free(m);
}
