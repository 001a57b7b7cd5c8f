/* open.h: engines by the name of a model's backend. */
#ifndef LET_ENGINE_OPEN_H
#define LET_ENGINE_OPEN_H

#include "gpulet/engine.h"

const let_engine *let_engine_null(void); /* built in */

/* Finds the engine for a model's backend: "null" (built in), "pytorch" (libgpulet_torch.so in |plugin_dir|, or
 * beside the program, or in its ../lib). Errors: NOT_FOUND with every path that was tried. */
LET_CHECKED let_err let_engine_open(const char *backend, const char *plugin_dir, const let_engine **ret, let_error *e);

#endif
