/* fleet_test_rig.h: a test rig: the world around a fleet. It carries every action out as a server would, checks that
 * the action makes sense when it comes, and holds processes that work, die, hang or lie. What happens when is the
 * test's decision: nothing here moves by itself. */
#ifndef LET_FLEET_TEST_RIG_H
#define LET_FLEET_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "fleet/fleet.h"
#include "fleet/view.h"

enum {
  RIG_DEVICES = 4, /* 0 and 1: one worker each; 2: a worker for each gpu-let; 3: the same, and it needs the helper */
  RIG_MODELS = 6,
  RIG_GROUPS = 14,
  RIG_GPULETS = 40,
  RIG_WORKERS = RIG_GROUPS + RIG_DEVICES,
  RIG_SETS = 12, /* of one process */
  RIG_LANES = 4,
  RIG_SAID = 8,
  RIG_PLANS = 256
};
#define RIG_FN     __attribute__((unused)) /* not every test needs it */
#define RIG_MEMORY ((uint64_t)40)          /* bytes of each device */

/* ---- the world --------------------------------------------------------------------------------------------------- */

typedef enum rig_set_state { SET_NONE, SET_PREPARING, SET_PREPARED, SET_RETIRING, SET_GONE } rig_set_state;

typedef struct rig_set { /* in a process */
  rig_set_state state;
  let_lane_set_id id;
  uint32_t n_lanes, up;
  let_fleet_variant variant[RIG_LANES]; /* of the lane's only model */
  uint32_t next[RIG_LANES];             /* sizes said to be ready, or failed */
  uint32_t grown[RIG_LANES];            /* sizes added */
  uint64_t memory;
} rig_set;

typedef struct rig_message { /* said and not yet read */
  let_fleet_event ev;
  let_fleet_model_report models;
  let_fleet_size_time time[LET_SIZES_MAX];
} rig_message;

typedef struct rig_process {
  bool running, ready, stopping, killed, hangs, lies;
  uint32_t device;
  int pid;
  rig_set set[RIG_SETS];
  uint32_t n_said;
  rig_message said[RIG_SAID];
} rig_process;

typedef struct rig_lanes { /* in the server */
  bool open;
  let_lane_set_id id;
  let_group_id group;
  uint32_t n;
} rig_lanes;

typedef struct rig_gpulet { /* in the core */
  bool known, routed, up;
  uint32_t running; /* batches */
  uint32_t n_sizes; /* that are routed to */
} rig_gpulet;

typedef struct world {
  void (*between)(struct world *); /* something happens between two actions; NULL: nothing does */
  let_fleet *f;
  let_mem_failing mem;
  let_rng rng;
  let_time now;
  uint64_t seed;
  rig_process process[RIG_WORKERS];
  rig_lanes lanes[RIG_WORKERS * 4];
  rig_gpulet gpulet[RIG_GPULETS];
  bool refuse_routes, refuse_lanes, refuse_spawn; /* the next one */
  bool helper_away, stopping;
  bool late; /* what processes say is read when the test says so */
  int pids;

  uint64_t offered, serving, applied, failed; /* generations */
  int ended[RIG_PLANS];                       /* PLAN_ENDED by generation */
  bool outcome[RIG_PLANS];
  int contents; /* of the plan that serves, so many gpu-lets */
  char content[RIG_GPULETS][24], next_content[RIG_GPULETS][24];
  int next_contents;
  int switches, renewals, frees, kills, spawns, takes, prepares;
  int reports[LET_FLEET_REPORT_SPARE_TAKES + 1];
  char why[LET_FLEET_WHY_MAX];        /* of the last plan that was rolled back */
  let_fleet_variant asked[RIG_LANES]; /* by the last SEND_PREPARE */
  bool asked_beside;
} world;

static let_model rig_model[RIG_MODELS];
static let_device_type rig_type = {
    .name = "sim", .sms = 132, .granules = 16, .granule_sms = 8, .memory_bytes = RIG_MEMORY};
static let_fleet_device rig_device[RIG_DEVICES];

#define RIG_CHECK(w, cond, ...)                                                                        \
  do {                                                                                                 \
    if (!(cond)) {                                                                                     \
      fprintf(stderr, "seed %llu at %.3f s: ", (unsigned long long)(w)->seed, (double)(w)->now / 1e9); \
      fprintf(stderr, __VA_ARGS__);                                                                    \
      fprintf(stderr, "\n");                                                                           \
      rig_show(w);                                                                                     \
      fail_msg("seed %llu: %s", (unsigned long long)(w)->seed, #cond);                                 \
    }                                                                                                  \
  } while (0)

static void rig_show(const world *w) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_fleet_dump(w->f, &b);
  fprintf(stderr, "%.*s\n", (int)b.n, b.p ? b.p : "");
  let_buf_fini(&b);
}

static void rig_open(world *w, uint64_t seed, bool spare, let_dur prepare_timeout) {
  memset(w, 0, sizeof *w);
  for (uint32_t i = 0; i < RIG_MODELS; i++) {
    snprintf(rig_model[i].name, sizeof rig_model[i].name, "m%u", i);
    rig_model[i].max_batch = 8;
    rig_model[i].slo = 20 * LET_MS;
  }
  static const char *const names[RIG_DEVICES] = {"sim:0", "sim:1", "cpu:2", "mps:3"};
  for (uint32_t i = 0; i < RIG_DEVICES; i++)
    rig_device[i] = (let_fleet_device){
        .name = names[i], .type = &rig_type, .depth = 1, .worker_per_gpulet = i >= 2, .own_share = i == 3};
  let_fleet_options o = {.model = rig_model,
                         .n_models = RIG_MODELS,
                         .device = rig_device,
                         .n_devices = RIG_DEVICES,
                         .groups = RIG_GROUPS,
                         .gpulets = RIG_GPULETS,
                         .watchdog = 5 * LET_S,
                         .prepare_timeout = prepare_timeout,
                         .default_slo = 100 * LET_MS,
                         .spare = spare};
  let_error e = {0};
  w->seed = seed;
  w->now = LET_S;
  let_rng_seed(&w->rng, seed);
  let_mem_failing_init(&w->mem, -1, 0);
  assert_int_equal(let_fleet_new(&o, &w->mem.mem, &w->f, &e), LET_OK);
}

static void rig_close(world *w) {
  let_fleet_free(w->f);
  if (w->mem.live) fail_msg("seed %llu: %ld bytes were not given back", (unsigned long long)w->seed, w->mem.live);
}

/* ---- what the fleet is told -------------------------------------------------------------------------------------- */

static void tell(world *w, let_fleet_event ev) { let_fleet_handle(w->f, &ev, w->now); }

static rig_set *set_named(rig_process *p, let_lane_set_id id) {
  for (int i = 0; i < RIG_SETS; i++)
    if (p->set[i].state != SET_NONE && p->set[i].id.n == id.n) return &p->set[i];
  return NULL;
}

static rig_lanes *lanes_named(world *w, let_lane_set_id id) {
  for (uint32_t i = 0; i < RIG_WORKERS * 4; i++)
    if (w->lanes[i].open && w->lanes[i].id.n == id.n) return &w->lanes[i];
  return NULL;
}

static uint64_t memory_used(const world *w, uint32_t device) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < RIG_WORKERS; i++) {
    if (!w->process[i].running || w->process[i].device != device) continue;
    for (int k = 0; k < RIG_SETS; k++)
      if (w->process[i].set[k].state != SET_NONE) sum += w->process[i].set[k].memory;
  }
  return sum;
}

/* The oldest message is read. Memory is given back when the fleet hears of it, not before. */
static void read_one(world *w, uint32_t i) {
  rig_process *p = &w->process[i];
  if (p->n_said == 0) return;
  rig_message m = p->said[0];
  memmove(p->said, p->said + 1, --p->n_said * sizeof *p->said);
  let_fleet_worker view;
  bool killed = let_fleet_worker_at(w->f, (let_worker_id){i}, &view) && view.state == LET_WORKER_KILLED;
  if (!killed && (m.ev.kind == LET_FLEET_WORKER_FAILED || m.ev.kind == LET_FLEET_WORKER_RETIRED)) {
    rig_set *s = set_named(p, m.ev.set);
    if (s && s->state == SET_GONE) s->state = SET_NONE;
  }
  m.models.size = m.time;
  m.ev.models = &m.models;
  tell(w, m.ev);
}

static bool can_say(const rig_process *p) { return p->running && !p->killed && !p->hangs && p->n_said < RIG_SAID; }

static rig_message *say(world *w, uint32_t i, let_fleet_event_kind kind, let_lane_set_id set) {
  rig_process *p = &w->process[i];
  RIG_CHECK(w, p->n_said < RIG_SAID, "the rig's process says too much");
  rig_message *m = &p->said[p->n_said++];
  *m = (rig_message){.ev = {.kind = kind, .worker = {i}, .set = set}};
  return m;
}

static void said(world *w, uint32_t i) {
  while (!w->late && w->process[i].n_said > 0) read_one(w, i);
}

static void say_ready(world *w, uint32_t i) {
  w->process[i].ready = true;
  say(w, i, LET_FLEET_WORKER_READY, (let_lane_set_id){0});
  said(w, i);
}

static void say_failed(world *w, uint32_t i, rig_set *s, const char *why) {
  s->state = SET_GONE;
  say(w, i, LET_FLEET_WORKER_FAILED, s->id)->ev.text = why;
  said(w, i);
}

/* The next lane is up, or all are; a lane takes one byte for its model and one for each size. */
static void prepare_more(world *w, uint32_t i, rig_set *s) {
  rig_process *p = &w->process[i];
  if (s->up == s->n_lanes) {
    s->state = SET_PREPARED;
    say(w, i, LET_FLEET_WORKER_PREPARED, s->id);
    said(w, i);
    return;
  }
  const let_fleet_variant *v = &s->variant[s->up];
  if (memory_used(w, p->device) + 1 + v->needed > RIG_MEMORY) {
    say_failed(w, i, s, "out of device memory");
    return;
  }
  s->memory += 1 + v->needed;
  s->next[s->up] = v->needed;
  rig_message *m = say(w, i, LET_FLEET_WORKER_LANE, s->id);
  for (uint32_t k = 0; k < v->needed; k++) m->time[k] = (let_fleet_size_time){v->size[k], LET_MS * v->size[k], false};
  m->models = (let_fleet_model_report){
      .memory_bytes = 1 + v->needed, .output_row_bytes = 64, .took = LET_S, .n_sizes = v->needed};
  m->ev.lane = s->up++;
  m->ev.n_models = 1;
  said(w, i);
}

/* One more size is ready, or does not fit. False: all are. */
RIG_FN static bool size_more(world *w, uint32_t i, rig_set *s) {
  for (uint32_t lane = 0; lane < s->n_lanes; lane++) {
    const let_fleet_variant *v = &s->variant[lane];
    if (s->next[lane] == v->n_sizes) continue;
    uint32_t size = v->size[s->next[lane]++];
    bool fits = memory_used(w, w->process[i].device) + 1 <= RIG_MEMORY;
    if (fits) {
      s->memory++;
      s->grown[lane]++;
    }
    rig_message *m = say(w, i, LET_FLEET_WORKER_SIZE, s->id);
    m->ev.lane = lane;
    m->ev.size = (let_fleet_size_time){size, fits ? LET_MS * size : 0, false};
    m->ev.memory_bytes = 1 + v->needed + s->grown[lane];
    m->ev.text = fits ? NULL : "out of device memory";
    said(w, i);
    return true;
  }
  return false;
}

static void say_retired(world *w, uint32_t i, rig_set *s) {
  s->state = SET_GONE;
  say(w, i, LET_FLEET_WORKER_RETIRED, s->id);
  said(w, i);
}

/* Its last words are read first. */
static void process_exits(world *w, uint32_t i, const char *how) {
  while (w->process[i].n_said > 0) read_one(w, i);
  int pid = w->process[i].pid;
  w->process[i] = (rig_process){0};
  tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_EXITED, .worker = {i}, .pid = pid, .text = how});
}

/* ---- what the fleet wants ---------------------------------------------------------------------------------------- */

static void do_spawn(world *w, const let_fleet_action *a) {
  RIG_CHECK(w, a->worker.n < RIG_WORKERS && !w->process[a->worker.n].running, "worker %u runs already", a->worker.n);
  RIG_CHECK(w, !w->stopping, "worker %u is started while all stop", a->worker.n);
  RIG_CHECK(w, !(w->helper_away && rig_device[a->device].own_share), "worker %u is started without its helper",
            a->worker.n);
  w->spawns++;
  if (w->refuse_spawn) {
    w->refuse_spawn = false;
    tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_EXITED, .worker = a->worker, .text = "cannot start"});
    return;
  }
  w->process[a->worker.n] = (rig_process){.running = true, .device = a->device, .pid = ++w->pids};
  tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_STARTED, .worker = a->worker});
}

static void do_prepare(world *w, const let_fleet_action *a) {
  rig_process *p = &w->process[a->worker.n];
  rig_lanes *l = lanes_named(w, a->set);
  RIG_CHECK(w, p->running && p->ready && !p->killed && !p->stopping, "worker %u cannot prepare", a->worker.n);
  RIG_CHECK(w, l && l->n == a->prepare->n_lanes && a->prepare->set.n == a->set.n, "set without lanes");
  RIG_CHECK(w, !set_named(p, a->set), "set twice");
  w->prepares++;
  w->asked_beside = a->prepare->beside;
  rig_set *s = NULL;
  for (int i = 0; i < RIG_SETS && !s; i++)
    if (p->set[i].state == SET_NONE) s = &p->set[i];
  RIG_CHECK(w, s && a->prepare->n_lanes <= RIG_LANES, "the rig is too small");
  *s = (rig_set){.state = SET_PREPARING, .id = a->set, .n_lanes = a->prepare->n_lanes};
  for (uint32_t k = 0; k < s->n_lanes; k++) {
    const let_fleet_variant *v = &a->prepare->lane[k].model[0];
    RIG_CHECK(w, a->prepare->lane[k].n_models == 1 && v->needed >= 1 && v->needed <= v->n_sizes, "bad variant");
    for (uint32_t i = 0; i < v->n_sizes; i++)
      for (uint32_t j = 0; j < i; j++) RIG_CHECK(w, v->size[i] != v->size[j], "size %u twice", v->size[i]);
    s->variant[k] = w->asked[k] = *v;
  }
}

static void do_open(world *w, const let_fleet_action *a) {
  RIG_CHECK(w, a->set.n && !lanes_named(w, a->set), "lanes are open");
  if (w->refuse_lanes) {
    w->refuse_lanes = false;
    tell(w, (let_fleet_event){.kind = LET_FLEET_LANES_FAILED, .set = a->set, .text = "too many files"});
    return;
  }
  for (uint32_t i = 0; i < RIG_WORKERS * 4; i++)
    if (!w->lanes[i].open) {
      w->lanes[i] = (rig_lanes){true, a->set, a->group, a->n_lanes};
      return;
    }
  RIG_CHECK(w, false, "the rig has too few lanes");
}

static void do_reclaim(world *w, const let_fleet_action *a) {
  rig_lanes *l = lanes_named(w, a->set);
  let_fleet_group g;
  RIG_CHECK(w, l && l->group.n == a->group.n && let_fleet_group_at(w->f, a->group, &g), "no such lanes");
  rig_process *p = &w->process[a->worker.n];
  rig_set *s = set_named(p, a->set);
  RIG_CHECK(w, !p->running || p->lies || !s || s->state == SET_GONE,
            "a process may still write into what is taken back");
  for (uint32_t k = 0; k < g.n_gpulets; k++) {
    rig_gpulet *x = &w->gpulet[g.gpulet[k].id.n];
    RIG_CHECK(w, !x->up || !x->known, "gpu-let %u is up while its batches are taken back", g.gpulet[k].id.n);
    x->running = 0;
  }
}

static void do_routes(world *w, const let_fleet_action *a) {
  const let_fleet_routes *r = a->routes;
  bool named[RIG_GPULETS] = {false};
  for (uint32_t i = 0; i < r->n_gpulets; i++) {
    RIG_CHECK(w, !named[r->gpulet[i].gpulet.n] && r->gpulet[i].depth == 1, "a gpu-let is named twice");
    named[r->gpulet[i].gpulet.n] = true;
  }
  for (uint32_t i = 0; i < r->n_routes; i++) {
    const let_fleet_route *x = &r->route[i];
    RIG_CHECK(w, named[x->gpulet.n] && x->n_sizes >= 1 && x->batch <= x->size[x->n_sizes - 1], "a bad route");
    for (uint32_t k = 1; k < x->n_sizes; k++) RIG_CHECK(w, x->size[k] > x->size[k - 1], "sizes out of order");
  }
  if (w->refuse_routes) {
    w->refuse_routes = false;
    tell(w, (let_fleet_event){.kind = LET_FLEET_ROUTES_REFUSED, .text = "refused"});
    return;
  }
  for (uint32_t i = 0; i < r->n_routes; i++) w->gpulet[r->route[i].gpulet.n].n_sizes = r->route[i].n_sizes;
  for (uint32_t i = 0; i < RIG_GPULETS; i++) {
    rig_gpulet *x = &w->gpulet[i];
    if (!r->change) RIG_CHECK(w, x->routed == named[i], "the plan changes without a change of plan");
    if (named[i] && !x->known) x->known = x->up = true;
    x->routed = named[i];
  }
  if (r->change) {
    w->switches++;
    w->contents = w->next_contents;
    memcpy(w->content, w->next_content, sizeof w->content);
  } else {
    w->renewals++;
  }
  tell(w, (let_fleet_event){.kind = LET_FLEET_ROUTES_SET});
}

static void do_ended(world *w, const let_fleet_action *a) {
  RIG_CHECK(w, a->generation.n < RIG_PLANS && ++w->ended[a->generation.n] == 1, "generation %llu ends twice",
            (unsigned long long)a->generation.n);
  RIG_CHECK(w, a->ok == (w->serving == a->generation.n), "the outcome is not what happened");
  RIG_CHECK(w, a->ok || a->text[0], "no reason is given");
  w->outcome[a->generation.n] = a->ok;
  if (a->ok) w->applied = a->generation.n;
  else w->failed = a->generation.n;
  if (!a->ok) snprintf(w->why, sizeof w->why, "%s", a->text);
}

static void do_action(world *w, const let_fleet_action *a) {
  rig_process *p = a->worker.n < RIG_WORKERS ? &w->process[a->worker.n] : NULL;
  rig_gpulet *x = a->gpulet.n < RIG_GPULETS ? &w->gpulet[a->gpulet.n] : NULL;
  rig_lanes *l = lanes_named(w, a->set);
  rig_set *s;
  switch (a->kind) {
  case LET_FLEET_SPAWN: do_spawn(w, a); break;
  case LET_FLEET_SEND_PREPARE: do_prepare(w, a); break;
  case LET_FLEET_SEND_RETIRE:
    RIG_CHECK(w, p->running && !p->killed, "worker %u cannot retire", a->worker.n);
    s = set_named(p, a->set);
    if (s && s->state != SET_GONE) s->state = SET_RETIRING; /* else FAILED crossed it */
    break;
  case LET_FLEET_SEND_STOP:
    RIG_CHECK(w, p->running && !p->killed && !p->stopping, "worker %u cannot stop", a->worker.n);
    p->stopping = true;
    break;
  case LET_FLEET_KILL:
    RIG_CHECK(w, p->running && !p->killed, "worker %u cannot be killed", a->worker.n);
    p->killed = true;
    w->kills++;
    break;
  case LET_FLEET_OPEN_LANES: do_open(w, a); break;
  case LET_FLEET_RECLAIM: do_reclaim(w, a); break;
  case LET_FLEET_CLOSE_LANES:
    RIG_CHECK(w, l, "lanes are closed twice");
    l->open = false;
    break;
  case LET_FLEET_SET_ROUTES: do_routes(w, a); break;
  case LET_FLEET_GPULET_DOWN:
  case LET_FLEET_GPULET_UP:
    RIG_CHECK(w, x->known && x->up != (a->kind == LET_FLEET_GPULET_UP), "gpu-let %u is so already", a->gpulet.n);
    x->up = a->kind == LET_FLEET_GPULET_UP;
    break;
  case LET_FLEET_GPULET_REMOVE:
    RIG_CHECK(w, x->known && !x->routed && x->running == 0, "gpu-let %u is in use", a->gpulet.n);
    *x = (rig_gpulet){0};
    w->frees++;
    break;
  case LET_FLEET_OUTPUT_ROW: RIG_CHECK(w, a->model < RIG_MODELS && a->bytes == 64, "output row"); break;
  case LET_FLEET_PLAN_SERVES:
    RIG_CHECK(w, a->generation.n == w->offered, "another plan serves than was offered");
    w->serving = a->generation.n;
    break;
  case LET_FLEET_PLAN_ENDED: do_ended(w, a); break;
  case LET_FLEET_REPORT:
    w->reports[a->report->kind]++;
    w->takes += a->report->kind == LET_FLEET_REPORT_SPARE_TAKES;
    break;
  }
}

/* What holds whenever all actions were carried out. */
static void rig_check(world *w) {
  let_error e = {0};
  if (!let_fleet_validate(w->f, &e)) RIG_CHECK(w, false, "%s", e.text);
  int routed = 0;
  for (uint32_t i = 0; i < RIG_GPULETS; i++) {
    const rig_gpulet *x = &w->gpulet[i];
    routed += x->routed;
    const let_fleet_gpulet *l = let_fleet_gpulet_at(w->f, (let_gpulet_id){i});
    RIG_CHECK(w, !x->known || l, "the core has gpu-let %u, the fleet has not", i);
    if (!x->routed || !x->up) continue;
    RIG_CHECK(w, l->up && !l->quarantined, "gpu-let %u is routed to and not up", i);
  }
  for (uint32_t i = 0; i < RIG_GROUPS; i++) {
    let_fleet_group g;
    if (!let_fleet_group_at(w->f, (let_group_id){i}, &g)) continue;
    for (uint32_t k = 0; k < g.n_gpulets; k++) {
      const rig_gpulet *x = &w->gpulet[g.gpulet[k].id.n];
      RIG_CHECK(w, x->routed == g.routed, "gpu-let %u: the core's routes are not the fleet's", g.gpulet[k].id.n);
      if (!x->routed || !x->up) continue;
      rig_process *p = &w->process[g.worker.n];
      rig_set *s = set_named(p, g.set);
      RIG_CHECK(w, p->running && !p->killed && lanes_named(w, g.set), "gpu-let %u is routed to and gone",
                g.gpulet[k].id.n);
      RIG_CHECK(w, p->lies || (s && k < s->up), "gpu-let %u is routed to and its lane is not up", g.gpulet[k].id.n);
    }
  }
  RIG_CHECK(w, w->stopping || routed == w->contents, "%d gpu-lets are routed to, the plan has %d", routed, w->contents);
  for (uint32_t d = 0; d < RIG_DEVICES; d++) {
    bool lies = false;
    for (uint32_t i = 0; i < RIG_WORKERS; i++) lies = lies || w->process[i].lies;
    RIG_CHECK(w, memory_used(w, d) <= RIG_MEMORY, "device %u: more memory is used than there is", d);
    RIG_CHECK(w, lies || let_fleet_memory(w->f, d) <= memory_used(w, d),
              "device %u: more memory is promised than given", d);
  }
}

static void pump(world *w) {
  let_fleet_action a;
  int guard = 0;
  while (let_fleet_next(w->f, w->now, &a)) {
    RIG_CHECK(w, guard++ < 5000, "actions without end");
    do_action(w, &a);
    if (w->between) w->between(w);
  }
  rig_check(w);
}

#endif
