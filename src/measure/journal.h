/* journal.h: what has been measured so far, one line each, so that a profile goes on after any interruption. */
#ifndef LET_MEASURE_JOURNAL_H
#define LET_MEASURE_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "measure/runner.h"

/* Of one line. cell: lane[0]; group: n lanes, number |index| of the seeded sequence; failed: lane[0] and why. */
typedef struct let_journal_entry {
  enum { LET_JOURNAL_CELL, LET_JOURNAL_GROUP, LET_JOURNAL_FAILED } kind;
  uint32_t index, n;
  let_runner_lane lane[LET_RUNNER_LANES_MAX];
  let_runner_result result[LET_RUNNER_LANES_MAX];
  char text[256];
} let_journal_entry;

typedef struct let_journal {
  FILE *file;
  const let_model *models;
  uint32_t n_models;
  char path[1024];
} let_journal;

/* Opens |dir|/journal.csv for appending (|dir| is made). With |resume| and the same |head| (one line) every whole line
 * is first given to |take|; otherwise the file starts anew. A half-written last line is dropped. */
LET_CHECKED let_err let_journal_open(let_journal *j, const char *dir, const char *head, bool resume,
                                     const let_model *models, uint32_t n_models,
                                     void (*take)(void *ctx, const let_journal_entry *x), void *ctx, let_error *e);
LET_CHECKED let_err let_journal_add(let_journal *j, const let_journal_entry *x, let_error *e);
void let_journal_close(let_journal *j);

#endif
