/* clock.h: the only place that reads a clock. */
#ifndef LET_OS_CLOCK_H
#define LET_OS_CLOCK_H

#include <time.h>

#include "base/time.h"

/* CLOCK_MONOTONIC in ns: the same clock in every process of this machine. No system call (vDSO). */
static inline let_time let_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (let_time)t.tv_sec * LET_S + t.tv_nsec;
}

/* CPU time that the calling thread has used, ns. */
static inline let_dur let_thread_cpu(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (let_dur)t.tv_sec * LET_S + t.tv_nsec;
}

/* Sleeps until |when| on that clock; at once when it is past. Signals do not cut it short. */
void let_sleep_until(let_time when);

enum { LET_WALL_MAX = 32 };
const char *let_wall_text(char out[LET_WALL_MAX]); /* wall time for logs, UTC: "2024-05-01T12:00:00.123Z" */

#endif
