#include "os/clock.h"

#include <errno.h>
#include <stdio.h>

void let_sleep_until(let_time when) {
  struct timespec t = {.tv_sec = when / LET_S, .tv_nsec = when % LET_S};
  if (when <= 0) return;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

const char *let_wall_text(char out[LET_WALL_MAX]) {
  struct timespec t;
  struct tm tm;
  clock_gettime(CLOCK_REALTIME, &t);
  gmtime_r(&t.tv_sec, &tm);
  size_t n = strftime(out, LET_WALL_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(out + n, LET_WALL_MAX - n, ".%03dZ", (int)(t.tv_nsec / 1000000) % 1000);
  return out;
}
