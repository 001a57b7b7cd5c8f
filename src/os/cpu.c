#include "os/cpu.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

_Static_assert(LET_CPU_MAX == CPU_SETSIZE, "one bit per core");

static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t allowed[LET_CPU_MAX], n_allowed;

static void look(void) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(getpid(), sizeof set, &set) == 0)
    for (uint32_t i = 0; i < LET_CPU_MAX; i++)
      if (CPU_ISSET(i, &set)) allowed[n_allowed++] = i;
  if (n_allowed == 0) n_allowed = 1;
}

uint32_t let_cpu_allowed(uint32_t ret[LET_CPU_MAX]) {
  pthread_once(&once, look);
  memcpy(ret, allowed, n_allowed * sizeof *ret);
  return n_allowed;
}

let_err let_cpu_pin(const uint32_t *cores, uint32_t n, let_error *e) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (uint32_t i = 0; i < n; i++)
    if (cores[i] < CPU_SETSIZE) CPU_SET(cores[i], &set);
  int r = pthread_setaffinity_np(pthread_self(), sizeof set, &set);
  if (r) return let_fail(e, LET_ERR_DEVICE, "cannot run on the chosen %u core(s): %s", n, strerror(r));
  return LET_OK;
}
