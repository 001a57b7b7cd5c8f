/* hist.h: a fixed-size logarithmic histogram of durations: 1 us to about 70 s, relative error below 1.6 % (64
 * sub-buckets per power of two). No allocation; merging and subtracting are element-wise. */
#ifndef LET_BASE_HIST_H
#define LET_BASE_HIST_H

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
let_dur let_hist_quantile(const let_hist *h, double q); /* q in [0, 1]; 0 when empty; never above max */
uint64_t let_hist_below(const let_hist *h, let_dur d);  /* how many were <= d (to the histogram's resolution) */

#endif
