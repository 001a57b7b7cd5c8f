#include "worker/backoff.h"

static const let_dur bring_up_most = 50 * LET_MS, bring_up_total = 2500 * LET_MS, add_size_most = 250 * LET_MS,
                     free_least = 2 * LET_MS, free_most = 100 * LET_MS;

static let_dur within(let_dur x, let_dur low, let_dur high) { return x < low ? low : x > high ? high : x; }

let_dur let__backoff(let__work work, bool busy, let_dur took, let_dur *rested) {
  if (!busy) return 0;
  let_dur rest = 0;
  switch (work) {
  case LET__WORK_BRING_UP:
    rest = within(took / 2, 0, bring_up_most);
    if (rest > bring_up_total - *rested) rest = bring_up_total - *rested;
    *rested += rest;
    break;
  case LET__WORK_ADD_SIZE: rest = within(took, 0, add_size_most); break;
  case LET__WORK_FREE: rest = within(4 * took, free_least, free_most); break;
  }
  return rest;
}
