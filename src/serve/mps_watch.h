/* mps_watch.h: watches the process that some workers need (the MPS daemon) and restarts it. */
#ifndef LET_SERVE_MPS_WATCH_H
#define LET_SERVE_MPS_WATCH_H

#include <uv.h>

#include "fleet/fleet.h"
#include "serve/serve.h"

typedef struct mps_watch {
  uv_loop_t *loop;
  let_fleet *fleet;
  const let_serve_helper *helper; /* NULL: there is none to watch */
  let_time (*now)(void);
  uv_poll_t *poll; /* NULL: it does not run */
  uv_timer_t *retry;
  uv_work_t work;
  unsigned failures;
  let_error error;
} mps_watch;

LET_CHECKED let_err serve_mps_watch_open(mps_watch *m, let_error *e); /* the first four fields are set */
void serve_mps_watch_close(mps_watch *m);                             /* the loop runs once more afterwards */

#endif
