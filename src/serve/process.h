/* process.h: the worker processes: started, killed, reaped. The fleet decides, these functions perform. */
#ifndef LET_SERVE_PROCESS_H
#define LET_SERVE_PROCESS_H

#include <uv.h>

#include "control.h"
#include "fleet/view.h"
#include "serve/serve.h"

typedef struct process {
  bool alive, killed;
  uint32_t device;
  uv_process_t *process;
  uv_poll_t *poll;
  control control;
  struct process_table *table;
} process;

typedef struct process_table {
  uv_loop_t *loop;
  let_fleet *fleet;
  const let_serve_options *o;
  const let_serve_device *device;
  let_ring_arena *arena;
  let_time (*now)(void);
  uint32_t n;
  process *process; /* by worker */
} process_table;

LET_CHECKED let_err serve_processes_open(process_table *t, let_error *e); /* the other fields are set */
void serve_processes_close(process_table *t);                             /* all have exited */

/* Starts it and sends INIT; the fleet hears that it started, or why not. */
void serve_process_start(process_table *t, let_worker_id w, uint32_t device, double percent);
void serve_process_kill(process_table *t, let_worker_id w);
control *serve_process_control(process_table *t, let_worker_id w); /* NULL: there is no process */
int serve_process_pid(const process_table *t, let_worker_id w);    /* 0: there is none */

#endif
