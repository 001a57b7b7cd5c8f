/* sender.h: one thread of the generator. It owns a loop, its share of the connections and of the arrivals, and what it
 * counted; nothing of it is shared while it runs except the figures of let_sender_progress. */
#ifndef LET_CLIENT_SENDER_H
#define LET_CLIENT_SENDER_H

#include "base/err.h"
#include "client/arrival.h"
#include "client/client.h"
#include "client/tally.h"
#include "client/target.h"

/* What all senders of a run share. Nobody writes it while they run. */
typedef struct let_sender_run {
  const let_load_options *o;
  const let_workload *w;
  const let_target *target;
  const let_buf *request;      /* one per model */
  const let_tally *model;      /* name and SLO of each */
  let_time start, from, until; /* counted: [from, until) */
  uint32_t senders;
  void (*on_end)(void *ctx); /* on a sender's thread, as its last act */
  void *ctx;
} let_sender_run;

typedef struct let_sender_figures {
  double seconds;       /* counted time */
  uint32_t connections; /* open at most */
  uint64_t inflight_max, unfinished, waited;
  let_hist lateness;
  double cpu_seconds;    /* while it counted */
  double busy, deprived; /* of that time: on a core; ready to run, but waiting for one */
} let_sender_figures;

typedef struct let_sender_progress {
  uint64_t done, sent, good, inflight, open;
} let_sender_progress;

typedef struct let_sender let_sender;

/* Takes |arrivals| over, also when it fails. Errors: NOMEM, IO. */
LET_CHECKED let_err let_sender_create(const let_sender_run *run, uint32_t index, let_arrivals *arrivals,
                                      let_sender **ret, let_error *e);
LET_CHECKED let_err let_sender_start(let_sender *s, let_error *e); /* the run's times are set by now */
void let_sender_stop(let_sender *s);                               /* soon; from any thread */
void let_sender_join(let_sender *s);                               /* does nothing when it never started */
void let_sender_destroy(let_sender *s);                            /* not while it runs */

let_sender_progress let_sender_look(let_sender *s); /* from any thread; at most 50 ms old */

/* After let_sender_join. */
const let_tally *let_sender_tally(const let_sender *s); /* one per model */
const let_sender_figures *let_sender_result(const let_sender *s);

#endif
