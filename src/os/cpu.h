/* cpu.h: the cores this process may use, and on which of them a thread runs. */
#ifndef LET_OS_CPU_H
#define LET_OS_CPU_H

#include <stdint.h>

#include "base/err.h"

enum { LET_CPU_MAX = 1024 };

/* Cores in this process's affinity mask as it was at the first call (later pins of a thread do not shrink it),
 * ascending. Returns how many, at least 1. */
uint32_t let_cpu_allowed(uint32_t ret[LET_CPU_MAX]);

/* Restricts the calling thread (and threads it makes later) to these cores. */
LET_CHECKED let_err let_cpu_pin(const uint32_t *cores, uint32_t n, let_error *e);

static inline void let_cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#endif
