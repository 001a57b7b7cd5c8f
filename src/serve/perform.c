/* perform.c: carries out what the fleet decides. It decides nothing itself. */
#include <stdlib.h>

#include "serve_int.h"

static void set_routes(server *s, const let_fleet_routes *r) {
  let_error e = {0};
  let_core_gpulet *gpulets = calloc(r->n_gpulets + 1, sizeof *gpulets);
  let_core_route *routes = calloc(r->n_routes + 1, sizeof *routes);
  let_err err = gpulets && routes ? LET_OK : let_fail(&e, LET_ERR_NOMEM, "out of memory");
  for (uint32_t i = 0; !err && i < r->n_gpulets; i++)
    gpulets[i] = (let_core_gpulet){.id = r->gpulet[i].gpulet, .depth = r->gpulet[i].depth};
  for (uint32_t i = 0; !err && i < r->n_routes; i++) {
    const let_fleet_route *x = &r->route[i];
    routes[i] = (let_core_route){
        .model = x->model, .gpulet = x->gpulet, .batch = x->batch, .n_sizes = x->n_sizes, .rate = x->rate};
    memcpy(routes[i].size, x->size, sizeof routes[i].size);
    memcpy(routes[i].predict, x->predict, sizeof routes[i].predict);
  }
  let_time before = serve_now();
  uint32_t n_gpulets = r->n_gpulets, n_routes = r->n_routes;
  if (!err) err = let_core_routes_set(s->core, gpulets, n_gpulets, routes, n_routes, before, &e);
  if (r->change) s->switch_took = serve_now() - before;
  free(gpulets);
  free(routes);
  if (err) serve_tell(s, (let_fleet_event){.kind = LET_FLEET_ROUTES_REFUSED, .text = e.text});
  else serve_tell(s, (let_fleet_event){.kind = LET_FLEET_ROUTES_SET});
}

static void open_lanes(server *s, const let_fleet_action *a) {
  let_error e = {0};
  let_fleet_group g;
  bool group = let_fleet_group_at(s->fleet, a->group, &g);
  if (serve_lanes_open(&s->lanes, a->set, a->n_lanes, group ? g.gpulet : NULL, &e))
    serve_tell(s, (let_fleet_event){.kind = LET_FLEET_LANES_FAILED, .set = a->set, .text = e.text});
}

static void output_row(server *s, uint32_t model, uint64_t bytes) {
  if (bytes > s->out_bytes[model] && bytes < let_ring_arena_size(s->arena) / 8) s->out_bytes[model] = bytes;
}

/* The core reads the SLO in force from the model. */
static void plan_serves(server *s, let_dur prepared) {
  for (uint32_t i = 0; i < s->n_models; i++) s->model[i].slo = let_fleet_slo(s->fleet, i);
  serve_plan_serves(&s->planning, prepared, s->switch_took);
}

static void perform(server *s, const let_fleet_action *a) {
  control *c = serve_process_control(&s->processes, a->worker);
  lane_set *x = serve_lanes_find(&s->lanes, a->set);
  switch (a->kind) {
  case LET_FLEET_SPAWN: serve_process_start(&s->processes, a->worker, a->device, a->percent); break;
  case LET_FLEET_SEND_PREPARE:
    if (c && x) serve_control_prepare(c, a->prepare, s->model, x->lanes, serve_now());
    break;
  case LET_FLEET_SEND_RETIRE:
    if (c) serve_control_retire(c, a->set, serve_now());
    break;
  case LET_FLEET_SEND_STOP:
    if (c) serve_control_say(c, &(let_ipc_command){.type = LET_IPC_STOP}, NULL, 0, serve_now());
    break;
  case LET_FLEET_KILL: serve_process_kill(&s->processes, a->worker); break;
  case LET_FLEET_OPEN_LANES: open_lanes(s, a); break;
  case LET_FLEET_RECLAIM: serve_reclaim(s, a); break;
  case LET_FLEET_CLOSE_LANES:
    if (x) serve_lanes_close(&s->lanes, x);
    break;
  case LET_FLEET_SET_ROUTES: set_routes(s, a->routes); break;
  case LET_FLEET_GPULET_DOWN: let_core_gpulet_down(s->core, a->gpulet); break;
  case LET_FLEET_GPULET_UP: let_core_gpulet_up(s->core, a->gpulet); break;
  case LET_FLEET_GPULET_REMOVE:
    let_core_gpulet_remove(s->core, a->gpulet);
    s->lanes.gpulet[a->gpulet.n] = (lane_end){0};
    break;
  case LET_FLEET_OUTPUT_ROW: output_row(s, a->model, a->bytes); break;
  case LET_FLEET_PLAN_SERVES: plan_serves(s, a->took); break;
  case LET_FLEET_PLAN_ENDED: serve_plan_ended(&s->planning, a->ok, a->text); break;
  case LET_FLEET_REPORT: serve_report(s, a->report); break;
  }
}

void serve_perform(server *s) {
  let_fleet_action a;
  while (let_fleet_next(s->fleet, serve_now(), &a)) perform(s, &a);
}

void serve_look(server *s) {
  uint32_t draining = let_fleet_change(s->fleet) == LET_CHANGE_DRAINING ? let_fleet_groups(s->fleet) : 0;
  for (uint32_t i = 0; i < draining; i++) {
    let_fleet_group g;
    if (!let_fleet_group_at(s->fleet, (let_group_id){i}, &g) || g.state != LET_GROUP_DRAINING) continue;
    bool idle = true;
    for (uint32_t k = 0; k < g.n_gpulets; k++) idle = idle && let_core_gpulet_idle(s->core, g.gpulet[k].id);
    if (idle) serve_tell(s, (let_fleet_event){.kind = LET_FLEET_GROUP_DRAINED, .group = {i}});
  }
  serve_tell(s, (let_fleet_event){.kind = LET_FLEET_TICK});
}
