/* lanes.h: the lane sets that are open: the memory and events through which batches go to workers and come back. */
#ifndef LET_SERVE_LANES_H
#define LET_SERVE_LANES_H

#include <uv.h>

#include "fleet/view.h"
#include "ipc/ipc.h"
#include "ring/ring.h"

enum { SERVE_GPULETS = 1024, SERVE_LANE_SETS = 1024 };

typedef struct lane_set {
  let_lane_set_id id; /* 0: unused */
  let_lanes *lanes;
  bool armed;                              /* its worker signals ended batches: the server may sleep */
  uint32_t n, batches;                     /* lanes; batches on them */
  let_gpulet_id gpulet[LET_IPC_LANES_MAX]; /* the core's numbers, by lane; none for a spare's */
  uv_poll_t *poll;
  struct lane_table *table;
} lane_set;

/* The server's part of a gpu-let, by the core's number. */
typedef struct lane_end {
  lane_set *set; /* NULL: it has no worker */
  uint32_t lane;
  let_dur busy; /* time spent in batches */
  uint64_t batches;
} lane_end;

typedef struct lane_table {
  uv_loop_t *loop;
  void (*done)(void *ctx, lane_set *); /* something has ended on one of its lanes; while it is armed */
  void *ctx;
  uint32_t n; /* sets in use are below */
  lane_set set[SERVE_LANE_SETS];
  lane_end gpulet[SERVE_GPULETS];
} lane_table;

lane_set *serve_lanes_find(lane_table *t, let_lane_set_id id); /* NULL: none */

/* |gpulets| NULL: nothing is submitted to them. */
LET_CHECKED let_err serve_lanes_open(lane_table *t, let_lane_set_id id, uint32_t n, const let_fleet_gpulet *gpulets,
                                     let_error *e);
void serve_lanes_close(lane_table *t, lane_set *s);
void serve_lanes_close_all(lane_table *t); /* the loop runs once more afterwards */
void serve_lanes_arm(lane_set *s);
void serve_lanes_disarm(lane_set *s);

#endif
