/* job_thread.h: a thread that does one thing at a time for the control thread. Private to worker/. */
#ifndef LET_WORKER_JOB_THREAD_H
#define LET_WORKER_JOB_THREAD_H

#include <pthread.h>
#include <stdbool.h>

#include "base/err.h"

typedef struct let__job_thread {
  pthread_t thread;
  bool started;
  pthread_mutex_t lock; /* of what follows */
  pthread_cond_t turn;
  void (*fn)(void *arg); /* NULL: idle */
  void *arg;
  bool quit;
} let__job_thread;

/* All from one thread. What was written before run() is seen by |fn|, what |fn| wrote is seen after wait(). */
let_err let__job_thread_start(let__job_thread *h, let_error *e); /* of a zeroed one; nothing to do when started */
void let__job_thread_run(let__job_thread *h, void (*fn)(void *arg), void *arg); /* waits for what it did before */
void let__job_thread_wait(let__job_thread *h);
void let__job_thread_stop(let__job_thread *h); /* waits too; not started: nothing */

#endif
