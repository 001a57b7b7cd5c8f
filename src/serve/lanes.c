#include "lanes.h"

#include <stdlib.h>

static void free_handle(uv_handle_t *h) { free(h); }

lane_set *serve_lanes_find(lane_table *t, let_lane_set_id id) {
  if (!id.n) return NULL;
  for (uint32_t i = 0; i < t->n; i++)
    if (let_lane_set_id_eq(t->set[i].id, id)) return &t->set[i];
  return NULL;
}

static void on_done(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  lane_set *s = poll->data;
  s->table->done(s->table->ctx, s);
}

static let_err watch(lane_set *s, let_error *e) {
  s->poll = malloc(sizeof *s->poll);
  if (!s->poll) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  s->poll->data = s;
  int uv = uv_poll_init(s->table->loop, s->poll, let_lanes_done_event(s->lanes));
  if (uv) {
    free(s->poll);
    s->poll = NULL;
    return let_fail(e, LET_ERR_IO, "cannot watch a lane: %s", uv_strerror(uv));
  }
  uv_poll_start(s->poll, UV_READABLE, on_done);
  serve_lanes_arm(s);
  return LET_OK;
}

let_err serve_lanes_open(lane_table *t, let_lane_set_id id, uint32_t n, const let_fleet_gpulet *gpulets, let_error *e) {
  uint32_t i = 0;
  while (i < t->n && t->set[i].id.n) i++;
  if (i == SERVE_LANE_SETS) return let_fail(e, LET_ERR_NOMEM, "more than %d lane sets", SERVE_LANE_SETS);
  if (n > LET_IPC_LANES_MAX)
    return let_fail(e, LET_ERR_UNSUPPORTED, "%u gpu-lets for one worker: %d are possible", n, LET_IPC_LANES_MAX);
  lane_set *s = &t->set[i];
  *s = (lane_set){.id = id, .n = n, .table = t};
  if (i == t->n) t->n++;
  let_err r = let_lanes_new(n, &s->lanes, e);
  if (!r && gpulets) r = watch(s, e);
  if (r) {
    serve_lanes_close(t, s);
    return r;
  }
  if (!gpulets) return LET_OK;
  for (uint32_t k = 0; k < n; k++) {
    s->gpulet[k] = gpulets[k].id;
    t->gpulet[s->gpulet[k].n].set = s;
    t->gpulet[s->gpulet[k].n].lane = k;
  }
  return LET_OK;
}

void serve_lanes_close(lane_table *t, lane_set *s) {
  for (uint32_t k = 0; k < SERVE_GPULETS; k++)
    if (t->gpulet[k].set == s) t->gpulet[k].set = NULL;
  if (s->poll) {
    uv_poll_stop(s->poll);
    uv_close((uv_handle_t *)s->poll, free_handle);
  }
  let_lanes_free(s->lanes);
  *s = (lane_set){0};
  while (t->n && t->set[t->n - 1].id.n == 0) t->n--;
}

void serve_lanes_close_all(lane_table *t) {
  while (t->n) serve_lanes_close(t, &t->set[t->n - 1]);
}

void serve_lanes_arm(lane_set *s) {
  let_lanes_arm_done(s->lanes);
  s->armed = true;
}

void serve_lanes_disarm(lane_set *s) {
  let_lanes_disarm_done(s->lanes);
  s->armed = false;
}
