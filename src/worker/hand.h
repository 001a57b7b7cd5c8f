/* hand.h: a thread that does one thing at a time for the control thread. Private to worker/. */
#ifndef LET_WORKER_HAND_H
#define LET_WORKER_HAND_H

#include <pthread.h>
#include <stdbool.h>

#include "base/err.h"

typedef struct let__hand {
  pthread_t thread;
  bool started;
  pthread_mutex_t lock; /* of what follows */
  pthread_cond_t turn;
  void (*fn)(void *arg); /* NULL: idle */
  void *arg;
  bool quit;
} let__hand;

/* All from one thread. What was written before give() is seen by |fn|, what |fn| wrote is seen after wait(). */
let_err let__hand_start(let__hand *h, let_error *e);                 /* of a zeroed one; nothing to do when started */
void let__hand_give(let__hand *h, void (*fn)(void *arg), void *arg); /* waits for what it did before */
void let__hand_wait(let__hand *h);
void let__hand_stop(let__hand *h); /* waits too; not started: nothing */

#endif
