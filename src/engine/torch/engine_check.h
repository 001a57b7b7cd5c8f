/* engine_check.h: the few things of a device that engine_check needs, on the CPU and through the CUDA driver. */
#ifndef LET_ENGINE_TORCH_CHECK_H
#define LET_ENGINE_TORCH_CHECK_H

#include <stdbool.h>

#include "gpulet/engine.h"

typedef struct let_check_gpu {
  int ordinal; /* -1: CPU */
  int sms;     /* of each green context */
  char name[64];
} let_check_gpu;

bool let_check_open(let_check_gpu *g, let_engine_target *targets, int n);
bool let_check_copy(const let_check_gpu *g, void *dst, const void *src, uint64_t bytes, void *stream); /* and waits */
bool let_check_launch(const let_check_gpu *g, let_exec *x, void *stream, let_error *e);
bool let_check_wait(const let_check_gpu *g, void *stream);

#endif
