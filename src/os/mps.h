/* mps.h: NVIDIA's Multi-Process Service for `--isolation process`: one daemon of our own in a private directory, so
 * that it meets no other daemon of the machine. A worker started with let_mps_env's variables shares the GPU and is
 * held to its percentage of the SMs: a cap, not a reservation, fixed when the worker starts. */
#ifndef LET_OS_MPS_H
#define LET_OS_MPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/time.h"

typedef struct let_mps let_mps;

/* Starts nvidia-cuda-mps-control (found on PATH) with |dir|/pipe and |dir|/log, which it makes; returns once it
 * answers. The daemon ends with the calling thread at the latest. Errors: NOT_FOUND (no such program here: says what to
 * use instead), INVALID (|dir| too long for a socket), UNAVAILABLE (it ended at once; with its last words), DEADLINE,
 * IO. */
LET_CHECKED let_err let_mps_start(const char *dir, let_mps **ret, let_error *e);

/* False once the daemon has ended: its clients have lost the GPU and must be started anew after let_mps_start. */
bool let_mps_alive(let_mps *m);

int let_mps_fd(const let_mps *m); /* readable once the daemon has ended; -1 where the kernel has no pidfd */

/* Asks it to quit, kills it after |patience|, removes nothing. NULL is fine. */
void let_mps_stop(let_mps *m, let_dur patience);

/* "NAME=value" for a worker's environment. */
enum { LET_MPS_ENV = 4, LET_MPS_ENV_MAX = 320 };
void let_mps_env(const let_mps *m, uint32_t percent, char out[LET_MPS_ENV][LET_MPS_ENV_MAX]);

/* The least whole percentage that is not less than |sms| of |total| (the driver rounds SMs down). 1..100. */
uint32_t let_mps_percent(uint32_t sms, uint32_t total);

#endif
