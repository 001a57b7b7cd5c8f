/* tally.h: what the requests of a run came to, per model. Pure. */
#ifndef LET_CLIENT_TALLY_H
#define LET_CLIENT_TALLY_H

#include "base/hist.h"
#include "client/client.h"
#include "client/stage_times.h"

typedef struct let_tally {
  const char *name;
  let_dur slo; /* 0: none; then every answer is in time */
  uint64_t sent, good, kind[LET_LOAD_KIND_COUNT];
  let_hist latency;       /* of answers with 200 */
  char example[200];      /* the text of the first error */
  uint64_t rows, batches; /* that the server ran meanwhile, as it says */
  bool counted;           /* it does say so */
} let_tally;

typedef struct let_load_report {
  double seconds;            /* counted time */
  uint32_t connections;      /* open at most */
  uint32_t connection_limit; /* allowed */
  bool files_limited;        /* more were asked for than the process may open files */
  uint64_t inflight_max;     /* due and unanswered at most; of each thread, summed */
  uint64_t unfinished;       /* in flight when the run was cut off */
  let_hist lateness;         /* sends: how long after the time they were due */
  uint64_t waited;           /* of them, because every connection was busy */
  uint32_t threads, cores;   /* |cores|: that this machine lets us use */
  double busiest;            /* of a core, by the thread that used most, while it counted */
  double deprived;           /* of the time, by the thread that most wanted one: ready to run, but waiting for a core */
  double wanted;             /* by that thread: this and what it used */
  double cpu_seconds;        /* of all threads, while they counted */
  bool closed;
  let_load_outcome outcome;
  const let_plan *plan;          /* what runs where, as the server says; NULL: it does not */
  bool wide;                     /* more columns, and the stage times */
  const let_stage_times *stages; /* of each model; NULL: not asked for */
} let_load_report;

/* One request is over. Its latency runs from |intended|, when it should have been sent, not from when it was. */
void let_tally_add(let_tally *t, let_load_kind kind, let_time intended, let_time answered);
void let_tally_merge(let_tally *into, const let_tally *from);
void let_tally_place(const let_plan *p, const char *model, let_buf *out); /* "cpu 50 %", "2 x h200 25 %", "-" */
void let_tally_print(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out);
LET_CHECKED let_err let_tally_json(const let_tally *t, uint32_t n, const let_load_report *r, let_buf *out,
                                   let_error *e);

#endif
