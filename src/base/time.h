/* time.h: the two types of time. Monotonic, in nanoseconds; wall time exists only at the log's edge.
 * Nothing above os/ reads a clock: `now` is an argument. */
#ifndef LET_BASE_TIME_H
#define LET_BASE_TIME_H

#include <stdint.h>

typedef int64_t let_time; /* a point: ns on the monotonic clock (CLOCK_MONOTONIC, the same in every process) */
typedef int64_t let_dur;  /* a length: ns */

#define LET_US    ((let_dur)1000)
#define LET_MS    ((let_dur)1000000)
#define LET_S     ((let_dur)1000000000)
#define LET_NEVER INT64_MAX

#endif
