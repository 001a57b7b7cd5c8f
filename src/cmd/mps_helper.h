/* mps_helper.h: the MPS daemon of one `gpulet serve`, in a private directory under TMPDIR. */
#ifndef LET_CMD_MPS_HELPER_H
#define LET_CMD_MPS_HELPER_H

#include "os/mps.h"
#include "serve/serve.h"

typedef struct let_mps_helper {
  char dir[128];
  let_mps *mps;
  char env[LET_MPS_ENV][LET_MPS_ENV_MAX];
  let_serve_helper serve;
} let_mps_helper;

/* Starts the daemon and fills |ret->serve|. Errors: as let_mps_start; NOT_FOUND: there is no MPS here. */
let_err let_mps_helper_start(let_mps_helper *ret, let_error *e);
/* Stops the daemon and removes its directory. Also for one that was never started (all zeros). */
void let_mps_helper_stop(let_mps_helper *h);
/* let_serve_device.environment; |ctx| is the helper. */
int let_mps_helper_environment(void *ctx, double percent, const char **ret, int cap);

#endif
