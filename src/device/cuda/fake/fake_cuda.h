/* fake_cuda.h: a CUDA driver and NVML without a GPU, for tests: libgpulet_fake_cuda.so, loaded through
 * GPULET_CUDA_DRIVER. Every stream is a thread that executes its work in order, so overlap is real. It checks how
 * it is used: a context current, handles alive, groups of one split, no event awaited that was never recorded,
 * device addresses inside an allocation.
 *
 * Environment, read at cuInit: GPULET_FAKE_CUDA_GPUS (1), GPULET_FAKE_CUDA_SMS (132), GPULET_FAKE_CUDA_MIB (1024),
 * GPULET_FAKE_CUDA_FAULT="function:n:code[,...]": call number n (from 1; 0: every one) of that function fails with
 * that CUDA error; code 700..721 and 999 are sticky, as in the real driver; code -1: it hangs. "kernel" is the
 * execution of a graph. GPULET_FAKE_CUDA_FAULT_FILE=PATH: a file PATH.<gpu> with "function:code" is one fault for the
 * next such call of the process that uses that GPU, which removes the file: a test lays it out when it likes. */
#ifndef LET_FAKE_CUDA_H
#define LET_FAKE_CUDA_H

#include <stdint.h>

enum { LET_FAKE_RUN, LET_FAKE_HANG };

/* What the fake takes for a CUgraphExec. */
typedef struct let_fake_graph {
  uint32_t magic; /* LET_FAKE_GRAPH */
  int kind;       /* LET_FAKE_HANG: runs until let_fake_cuda_release */
  uint32_t us;    /* sleeps that long first */
  void (*fn)(void *arg);
  void *arg;
} let_fake_graph;
#define LET_FAKE_GRAPH 0x67726166u

typedef struct let_fake_stats {
  long contexts_made;  /* green contexts, ever */
  long live;           /* handles and allocations not given back: contexts, streams, events, memory, pins, retains */
  long violations;     /* broken usage rules */
  char violation[256]; /* the first one */
  int running_most;    /* kernels that ran at the same time, at most */
  long copies_beside;  /* copies done while a kernel was running */
} let_fake_stats;

/* Found with dlsym on the same library. */
typedef void (*let_fake_cuda_fault_fn)(const char *faults); /* replaces the faults, clears sticky errors and counters */
typedef void (*let_fake_cuda_stats_fn)(let_fake_stats *ret);
typedef void (*let_fake_cuda_release_fn)(void); /* lets hanging kernels end */

#endif
