/* control.h: the conversation with one worker: messages in and out, in the fleet's words. */
#ifndef LET_SERVE_CONTROL_H
#define LET_SERVE_CONTROL_H

#include "fleet/fleet.h"
#include "ipc/conversation.h"
#include "ring/ring.h"

typedef struct control {
  int fd;          /* -1: closed */
  bool distrusted; /* it broke the conversation: nothing that it says is believed */
  let_ipc_conversation *conversation;
  let_arena health_arena;
  let_ipc_health health; /* the last; in |health_arena| */
  bool has_health;
  let_worker_id worker;
  const char *device; /* name, for sentences */
  let_fleet *fleet;
} control;

/* |ret_peer| is the worker's end: close it once the process has it. */
LET_CHECKED let_err serve_control_open(control *c, let_fleet *f, let_worker_id worker, const char *device,
                                       int *ret_peer, let_error *e);
void serve_control_close(control *c);

/* A worker that cannot be sent to is reported to the fleet as broken. */
void serve_control_say(control *c, const let_ipc_command *m, const int *fds, uint32_t n_fds, let_time now);
void serve_control_retire(control *c, let_lane_set_id set, let_time now);
void serve_control_prepare(control *c, const let_fleet_prepare *p, const let_model *models, const let_lanes *lanes,
                           let_time now);

/* Reads what has come, at most |most| messages; the fleet hears of each. */
void serve_control_hear(control *c, int most, let_time (*now)(void));

#endif
