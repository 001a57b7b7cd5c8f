/* backoff.h: how long the control thread rests between two steps of its work, so that the gpu-lets that serve keep the
 * device. Pure. Private to worker/.
 *
 * A step (load, prepare one size, measure it, free one) may occupy the device, its copy engines and its locks while it
 * lasts; there is never more than one. Beside traffic a rest in proportion to the step follows, so that the batches
 * queued behind it are served. The rest is capped at what queues need to run dry, and the rests of a whole bring-up at
 * BRING_UP_TOTAL: a plan change of nine models stays well under 10 s. */
#ifndef LET_WORKER_BACKOFF_H
#define LET_WORKER_BACKOFF_H

#include <stdbool.h>

#include "base/time.h"

typedef enum let__work {
  LET__WORK_BRING_UP, /* what a lane set needs to serve: the server waits for it */
  LET__WORK_ADD_SIZE, /* further sizes: nothing waits for them */
  LET__WORK_FREE      /* a free waits for all that runs on the device, and holds up what comes after it */
} let__work;

/* The rest after a step of |took|. |busy|: gpu-lets of this device have traffic. |rested|: what the bring-up has rested
 * so far; it is added to. */
let_dur let__backoff(let__work work, bool busy, let_dur took, let_dur *rested);

/* From when a lane set is retired until the first of it is freed: the new one has its first batches behind it. */
#define LET__FREE_AFTER (500 * LET_MS)

#endif
