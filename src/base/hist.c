#include "base/hist.h"

/* Cells count units of 32 ns: below 64 units one cell each, above it 64 cells per power of two. */
enum { SHIFT = 5 };

static unsigned cell_of(let_dur d) {
  uint64_t u = (uint64_t)d >> SHIFT;
  if (u < LET_HIST_SUB) return (unsigned)u;
  unsigned power = 63u - (unsigned)__builtin_clzll(u) - 6u; /* u >> power is in [64, 128) */
  unsigned i = LET_HIST_SUB * (power + 1) + (unsigned)((u >> power) - LET_HIST_SUB);
  return i < LET_HIST_CELLS ? i : LET_HIST_CELLS - 1;
}

static let_dur upper_of(unsigned i) {
  if (i < LET_HIST_SUB) return ((let_dur)i + 1) << SHIFT;
  unsigned power = i / LET_HIST_SUB - 1;
  return (let_dur)((uint64_t)(LET_HIST_SUB + i % LET_HIST_SUB + 1) << power) << SHIFT;
}

void let_hist_add(let_hist *h, let_dur d) {
  if (d < 0) d = 0;
  if (h->count == 0 || d < h->min) h->min = d;
  if (h->count == 0 || d > h->max) h->max = d;
  h->count++;
  h->sum += d;
  h->cell[cell_of(d)]++;
}

void let_hist_merge(let_hist *into, const let_hist *from) {
  if (from->count == 0) return;
  if (into->count == 0 || from->min < into->min) into->min = from->min;
  if (into->count == 0 || from->max > into->max) into->max = from->max;
  into->count += from->count;
  into->sum += from->sum;
  for (unsigned i = 0; i < LET_HIST_CELLS; i++) into->cell[i] += from->cell[i];
}

static let_dur lower_of(unsigned i) { return i == 0 ? 0 : upper_of(i - 1); }

bool let_hist_put(let_hist *h, uint32_t cell, uint32_t n) {
  if (cell >= LET_HIST_CELLS || h->cell[cell] > UINT32_MAX - n) return false;
  if (n == 0) return true;
  let_dur low = lower_of(cell), high = upper_of(cell);
  if (h->count == 0 || low < h->min) h->min = low;
  if (h->count == 0 || high > h->max) h->max = high;
  h->count += n;
  h->sum += (low + high) / 2 * (let_dur)n;
  h->cell[cell] += n;
  return true;
}

bool let_hist_subtract(let_hist *h, const let_hist *earlier) {
  if (earlier->count > h->count) return false;
  for (unsigned i = 0; i < LET_HIST_CELLS; i++)
    if (earlier->cell[i] > h->cell[i]) return false;
  unsigned first = LET_HIST_CELLS, last = 0;
  for (unsigned i = 0; i < LET_HIST_CELLS; i++) {
    h->cell[i] -= earlier->cell[i];
    if (h->cell[i] == 0) continue;
    if (first == LET_HIST_CELLS) first = i;
    last = i;
  }
  h->count -= earlier->count;
  h->sum = h->sum > earlier->sum ? h->sum - earlier->sum : 0;
  if (first == LET_HIST_CELLS) return true;
  if (lower_of(first) > h->min) h->min = lower_of(first);
  if (upper_of(last) < h->max) h->max = upper_of(last);
  return true;
}

let_dur let_hist_quantile(const let_hist *h, double q) {
  if (h->count == 0) return 0;
  double want = q * (double)h->count;
  uint64_t seen = 0;
  for (unsigned i = 0; i < LET_HIST_CELLS; i++) {
    seen += h->cell[i];
    if (seen && (double)seen >= want) {
      let_dur d = upper_of(i);
      return d > h->max ? h->max : d < h->min ? h->min : d;
    }
  }
  return h->max;
}

uint64_t let_hist_below(const let_hist *h, let_dur d) {
  if (d < 0) return 0;
  uint64_t n = 0;
  for (unsigned i = 0, last = cell_of(d); i <= last; i++) n += h->cell[i];
  return n;
}
