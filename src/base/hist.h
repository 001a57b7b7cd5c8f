/* hist.h: a fixed-size logarithmic histogram of durations: 1 us to about 70 s, relative error below 1.6 % (64
 * sub-buckets per power of two). No allocation; merging and subtracting are element-wise. */
#ifndef LET_BASE_HIST_H
#define LET_BASE_HIST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/time.h"

enum { LET_HIST_SUB = 64, LET_HIST_POWERS = 32, LET_HIST_CELLS = LET_HIST_SUB * LET_HIST_POWERS };

typedef struct let_hist {
  uint64_t count;
  let_dur sum, min, max; /* min and max are exact; meaningless while count == 0 */
  uint32_t cell[LET_HIST_CELLS];
} let_hist;

void let_hist_add(let_hist *h, let_dur d); /* negative counts as 0; larger than the range clamps to the last cell */
void let_hist_merge(let_hist *into, const let_hist *from);

/* For a histogram that was sent as its cells: |n| more values in |cell|. |sum| grows by the middle of the cell, so a
 * caller that knows the exact sum sets it afterwards; |min| and |max| are the cells' edges. False, unchanged: no such
 * cell, or it would overflow. */
bool let_hist_put(let_hist *h, uint32_t cell, uint32_t n);

/* Takes away |earlier|, the same histogram at an earlier time. What is left has the cells' edges as |min| and |max|.
 * False, unchanged: |earlier| holds what |h| does not, so it is not the same histogram. */
bool let_hist_subtract(let_hist *h, const let_hist *earlier);
let_dur let_hist_quantile(const let_hist *h, double q); /* q in [0, 1]; 0 when empty; never above max */
uint64_t let_hist_below(const let_hist *h, let_dur d);  /* how many were <= d (to the histogram's resolution) */

#endif
