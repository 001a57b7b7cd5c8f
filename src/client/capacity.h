/* capacity.h: what a generator can do: how many threads a load takes, and whether the generator, not the server,
 * decided the figures. Pure. */
#ifndef LET_CLIENT_CAPACITY_H
#define LET_CLIENT_CAPACITY_H

#include "client/tally.h"

/* A small request costs a thread 6 to 30 us of CPU, a large one 0.1 ns per byte more. Punctuality asks for far more
 * than that: one thread with 6,300 requests/s of 150 KB used 0.31 of a core and sent 1 % of them 6 ms late or later,
 * because a poll round that finds many answers and new connections holds up what is due (H100 host, 16 cores,
 * 2026-11-25). */
#define LET_CAPACITY_RATE  2000.0  /* requests/s of one thread */
#define LET_CAPACITY_BYTES 2e8     /* bytes/s of requests of one thread */
enum { LET_CAPACITY_CLOSED = 64 }; /* connections of one thread in the closed loop, whose rate is not known before */

/* More than 1 % of the requests waited for a connection: then p99 is the generator's queue. */
#define LET_CAPACITY_WAITED 0.01
/* Above 0.85 of a core a thread has queues of its own that grow with 1 / (1 - use). The time for which it wanted a core
 * and got none counts as well: on a crowded machine a thread that uses little may still be all that holds things up. */
#define LET_CAPACITY_CPU 0.85
/* Sends later than a tenth of the SLO move a request across it; below 1 ms timers and the scheduler show, not we. */
#define LET_CAPACITY_LATE_OF_SLO 0.1
#define LET_CAPACITY_LATE        LET_MS

enum { LET_CONNECTIONS_MAX = 65536, LET_THREADS_MAX = 256 };

/* Threads for |rate| requests/s with |bytes| bytes/s, or for |closed| connections in the closed loop; never more than
 * |cores| or |connections|. */
uint32_t let_capacity_threads(double rate, double bytes, uint32_t closed, uint32_t connections, uint32_t cores);

/* The first that holds of: a busy thread (then the others follow from it), connections (not in the closed loop, where
 * each waits for the answer before), a thread that got no core, late sends. |slo_min| is the smallest SLO that was
 * judged; 0: none. */
let_load_outcome let_capacity_judge(const let_load_report *r, let_dur slo_min);

#endif
