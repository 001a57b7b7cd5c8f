#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/lane.h"

int let__fault_stage = -1;
static _Atomic long left;

void let__fault_init(void) {
  static const char *const names[] = {"init",     "prepare",     "take",       "copied",
                                      "launched", "before_done", "after_done", "lie"};
  const char *s = getenv("GPULET_FAULT");
  const char *colon = s ? strchr(s, ':') : NULL;
  if (!s || !*s) return;
  size_t stage = colon ? (size_t)(colon - s) : 0; /* letters of its name */
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    if (colon && strlen(names[i]) == stage && strncmp(names[i], s, stage) == 0 && atol(colon + 1) > 0) {
      atomic_store(&left, atol(colon + 1));
      let__fault_stage = (int)i;
      return;
    }
  fprintf(stderr,
          "gpulet worker: GPULET_FAULT=\"%s\" is not \"stage:n\" with a stage of init, prepare, take, copied, "
          "launched, before_done, after_done, lie\n",
          s);
}

bool let__fault_hits(void) { return atomic_fetch_sub(&left, 1) == 1; }

void let__fault_raise(void) {
  if (let__fault_hits()) raise(SIGKILL);
}
