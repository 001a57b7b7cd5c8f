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
  for (unsigned i = 0; colon && i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == (size_t)(colon - s) && strncmp(names[i], s, (size_t)(colon - s)) == 0 &&
        atol(colon + 1) > 0) {
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
