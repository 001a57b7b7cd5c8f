/* Random histories of a fleet: plans are offered, workers die, hang, answer late or lie, routes are refused, memory
 * runs out, at any moment. The rig checks every action and, after each step, what must always hold. In the end the
 * world calms down: what was asked for last must serve, or have failed with its predecessor serving; then all must
 * stop. */
#include "fleet_test_steps.h"

#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { HISTORIES = 600 };
#else
enum { HISTORIES = 10000 };
#endif

typedef struct totals {
  long histories, offered, applied, failed, kills, spawns, takes, lies, actions;
} totals;

static uint64_t pick(world *w, uint64_t n) { return let_rng_below(&w->rng, n); }

static void random_plan(world *w) {
  part x[RIG_DEVICES * 3];
  uint32_t n = 0;
  if (w->offered + 1 >= RIG_PLANS) return;
  for (uint32_t d = 0; d < RIG_DEVICES; d++) {
    uint32_t many = (uint32_t)pick(w, 4), first = (uint32_t)pick(w, 8), step = 1 + (uint32_t)pick(w, 2);
    for (uint32_t k = 0; k < many; k++) x[n++] = (part){d, (first + k * step) % 8 + 8 * (uint32_t)pick(w, 2)};
  }
  let_err r = offer(w, x, n);
  if (r == LET_OK) RIG_CHECK(w, n > 0, "an empty plan is taken");
  if (r == LET_ERR_INVALID) RIG_CHECK(w, n == 0, "a good plan is refused");
}

/* A process says what it has no reason to say. */
static void lie(world *w, uint32_t i) {
  static const let_fleet_event_kind kinds[] = {
      LET_FLEET_WORKER_READY,  LET_FLEET_WORKER_LANE,    LET_FLEET_WORKER_PREPARED, LET_FLEET_WORKER_SIZE,
      LET_FLEET_WORKER_FAILED, LET_FLEET_WORKER_RETIRED, LET_FLEET_WORKER_ERROR};
  let_fleet_size_time t[3];
  for (int k = 0; k < 3; k++)
    t[k] =
        (let_fleet_size_time){(uint32_t)pick(w, 10), (let_dur)pick(w, 2) * (let_dur)let_rng_u64(&w->rng), pick(w, 2)};
  let_fleet_model_report m[2];
  for (int k = 0; k < 2; k++)
    m[k] = (let_fleet_model_report){let_rng_u64(&w->rng), 0, pick(w, 2), (let_dur)let_rng_u64(&w->rng), 3, t};
  const rig_process *p = &w->process[i];
  let_lane_set_id known = p->set[pick(w, RIG_SETS)].id;
  if (p->running) w->process[i].lies = true;
  let_fleet_event_kind kind = kinds[pick(w, 7)];
  if (p->running && kind == LET_FLEET_WORKER_READY) w->process[i].ready = true;
  tell(w, (let_fleet_event){.kind = kind,
                            .worker = {i + (pick(w, 20) == 0 ? 1000 : 0)},
                            .set = pick(w, 4) ? known : (let_lane_set_id){pick(w, 100)},
                            .lane = (uint32_t)pick(w, 5),
                            .model = (uint32_t)pick(w, 3),
                            .n_models = (uint32_t)pick(w, 3),
                            .models = m,
                            .size = t[0],
                            .memory_bytes = pick(w, 2) ? let_rng_u64(&w->rng) : 1,
                            .text = pick(w, 2) ? "nonsense" : NULL});
}

/* One thing that a process may do. */
static void process_acts(world *w, uint32_t i, bool faults) {
  rig_process *p = &w->process[i];
  if (!p->running) return;
  if (p->n_said && pick(w, 3)) read_one(w, i);
  if (p->killed || (p->stopping && pick(w, 3) == 0)) {
    if (pick(w, 2)) process_exits(w, i, p->killed ? "killed by signal 9 (Killed)" : "exited with 0");
    return;
  }
  if (faults && pick(w, 60) == 0) p->hangs = true;
  if (faults && pick(w, 80) == 0) {
    process_exits(w, i, "exited with 1");
    return;
  }
  if (!can_say(p)) return;
  if (pick(w, 4) == 0) tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {i}});
  if (!p->ready) {
    say_ready(w, i);
    return;
  }
  rig_set *s = &p->set[pick(w, RIG_SETS)];
  for (int k = 0; k < RIG_SETS && (s->state == SET_NONE || s->state == SET_GONE); k++) s = &p->set[k];
  if (s->state == SET_PREPARING && faults && pick(w, 8) == 0) say_failed(w, i, s, "model 'x' does not load");
  else if (s->state == SET_PREPARING) prepare_more(w, i, s);
  else if (s->state == SET_PREPARED) size_more(w, i, s);
  else if (s->state == SET_RETIRING) say_retired(w, i, s);
}

static void core_acts(world *w, bool faults) {
  uint32_t i = (uint32_t)pick(w, RIG_GPULETS);
  rig_gpulet *x = &w->gpulet[i];
  if (x->routed && x->up && pick(w, 2)) x->running++;
  else if (x->running) x->running--;
  if (faults && x->known && pick(w, 100) == 0)
    tell(w, (let_fleet_event){.kind = LET_FLEET_GPULET_BROKEN, .gpulet = {i}, .text = "a batch never ended"});
  for (uint32_t g = 0; g < RIG_GROUPS; g++) {
    let_fleet_group view;
    if (!let_fleet_group_at(w->f, (let_group_id){g}, &view) || view.state != LET_GROUP_DRAINING) continue;
    uint32_t running = 0;
    for (uint32_t k = 0; k < view.n_gpulets; k++) running += w->gpulet[view.gpulet[k].id.n].running;
    if (running == 0) tell(w, (let_fleet_event){.kind = LET_FLEET_GROUP_DRAINED, .group = {g}});
    else w->gpulet[view.gpulet[pick(w, view.n_gpulets)].id.n].running = 0;
  }
}

static void mischief(world *w, bool lies) {
  uint32_t i = (uint32_t)pick(w, RIG_WORKERS);
  switch (pick(w, 12)) {
  case 0: w->refuse_routes = true; break;
  case 1: w->refuse_lanes = true; break;
  case 2: w->refuse_spawn = true; break;
  case 3: tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .worker = {i}, .text = "talks nonsense"}); break;
  case 4:
    w->helper_away = !w->helper_away;
    tell(w, (let_fleet_event){.kind = w->helper_away ? LET_FLEET_HELPER_AWAY : LET_FLEET_HELPER_BACK, .text = "MPS"});
    break;
  case 5: tell(w, (let_fleet_event){.kind = LET_FLEET_ROWS_SEEN, .model = (uint32_t)pick(w, 8), .rows = 8}); break;
  case 6: w->mem.fail_at = w->mem.count + (long)pick(w, 4); break;
  case 7: w->now += (let_dur)pick(w, 40) * LET_S; break; /* the server was stopped for a while, or nothing came */
  case 8:                                                /* answers to no request */
    tell(w, (let_fleet_event){.kind = LET_FLEET_ROUTES_SET});
    tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_STARTED, .worker = {i}});
    tell(w, (let_fleet_event){.kind = LET_FLEET_LANES_FAILED, .set = {pick(w, 50)}, .text = "?"});
    tell(w, (let_fleet_event){.kind = LET_FLEET_GPULET_BROKEN, .gpulet = {(uint32_t)pick(w, 99)}, .text = "?"});
    break;
  default:
    if (lies) lie(w, i);
  }
}

/* An action may fail, or a worker die, before the next action. */
static void interrupt(world *w) {
  if (pick(w, 24)) return;
  uint32_t i = (uint32_t)pick(w, RIG_WORKERS);
  if (!w->process[i].running) return;
  if (pick(w, 2)) process_exits(w, i, "exited with 1");
  else tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .worker = {i}, .text = "does not read"});
}

/* Nothing goes wrong any more; what hangs is found by the clock. */
static void calm(world *w) {
  w->between = NULL;
  if (w->helper_away) tell(w, (let_fleet_event){.kind = LET_FLEET_HELPER_BACK});
  w->refuse_routes = w->refuse_lanes = w->refuse_spawn = w->helper_away = false;
  w->mem.fail_at = -1;
  for (uint32_t i = 0; i < RIG_WORKERS; i++) /* what lied is replaced, as serve/ does when a message makes no sense */
    if (w->process[i].lies) tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_BROKEN, .worker = {i}, .text = "lied"});
  obey(w, 30);
  for (int k = 0; k < 30; k++) {
    w->now += 9 * LET_S;
    obey(w, 2);
  }
  obey(w, 80);
}

static void check_calm(world *w) {
  RIG_CHECK(w, let_fleet_change(w->f) == LET_CHANGE_IDLE, "a change never ends");
  for (uint64_t g = 1; g <= w->offered; g++)
    RIG_CHECK(w, w->ended[g] == 1, "generation %llu ended %d times", (unsigned long long)g, w->ended[g]);
  RIG_CHECK(w, w->serving == w->applied, "what serves was not applied");
  for (uint32_t i = 0; i < RIG_GROUPS; i++) {
    let_fleet_group g;
    if (let_fleet_group_at(w->f, (let_group_id){i}, &g))
      RIG_CHECK(w, g.state == LET_GROUP_SERVING, "group %u is %s", i, let_fleet_group_state_name(g.state));
  }
  for (int i = 0; i < w->contents; i++) {
    uint32_t d, c;
    RIG_CHECK(w, sscanf(w->content[i], "%u/%u", &d, &c) == 2 && serves(w, d, c), "%s does not serve", w->content[i]);
  }
  for (uint32_t i = 0; i < RIG_GPULETS; i++)
    RIG_CHECK(w, !w->gpulet[i].known || (w->gpulet[i].routed && w->gpulet[i].up), "gpu-let %u is not up", i);
}

static void history(uint64_t seed, int steps, totals *all) {
  static world w;
  rig_open(&w, seed, seed % 2, 30 * LET_S);
  bool lies = seed % 4 == 3, faulty = seed % 8 != 0;
  w.late = seed % 3 != 0;
  w.between = seed % 16 == 1 || seed % 16 == 6 ? interrupt : NULL;
  for (int step = 0; step < steps; step++) {
    w.now += (let_dur)pick(&w, 200) * LET_MS;
    if (pick(&w, 12) == 0) random_plan(&w);
    for (uint32_t i = 0; i < RIG_WORKERS; i++)
      if (pick(&w, 2)) process_acts(&w, i, faulty && pick(&w, 8) == 0);
    core_acts(&w, faulty);
    if (faulty && pick(&w, 15) == 0) mischief(&w, lies);
    if (pick(&w, 3)) tell(&w, (let_fleet_event){.kind = LET_FLEET_TICK});
    if (pick(&w, 4)) pump(&w); /* else: several things happen before anything is done */
  }
  bool cut_short = pick(&w, 4) == 0;
  if (!cut_short) {
    calm(&w);
    check_calm(&w);
    tell(&w, (let_fleet_event){.kind = LET_FLEET_DRAIN});
  }
  pump(&w);
  w.stopping = true;
  w.between = NULL;
  w.mem.fail_at = -1;
  tell(&w, (let_fleet_event){.kind = pick(&w, 3) ? LET_FLEET_STOP_ALL : LET_FLEET_ABANDON});
  obey(&w, 120);
  RIG_CHECK(&w, let_fleet_idle(w.f), "a worker does not go");
  for (uint32_t i = 0; i < RIG_WORKERS * 4; i++) RIG_CHECK(&w, !w.lanes[i].open, "lanes stay open");
  for (uint64_t g = 1; g <= w.offered; g++) RIG_CHECK(&w, w.ended[g] == 1, "a change has no outcome");
  for (uint32_t i = 0; i < RIG_WORKERS; i++) RIG_CHECK(&w, !w.process[i].running, "worker %u still runs", i);
  all->histories++;
  all->offered += (long)w.offered;
  all->kills += w.kills;
  all->spawns += w.spawns;
  all->takes += w.takes;
  all->lies += lies;
  for (uint64_t g = 1; g <= w.offered; g++) {
    all->applied += w.outcome[g];
    all->failed += !w.outcome[g];
  }
  rig_close(&w);
}

static void test_random_histories(void **state) {
  (void)state;
  const char *n = getenv("GPULET_HISTORIES"), *from = getenv("GPULET_SEED");
  long histories = n ? atol(n) : HISTORIES;
  uint64_t seed = from ? strtoull(from, NULL, 10) : 1;
  totals all = {0};
  for (long i = 0; i < histories; i++) history(seed + (uint64_t)i, 300, &all);
  printf("%ld histories, seeds %llu to %llu: %ld plans (%ld applied, %ld rolled back), %ld processes, %ld killed, %ld "
         "spares took over, %ld with lies\n",
         all.histories, (unsigned long long)seed, (unsigned long long)seed + (uint64_t)histories - 1, all.offered,
         all.applied, all.failed, all.spawns, all.kills, all.takes, all.lies);
  if (!from && histories >= 100) assert_true(all.applied > histories && all.failed > histories && all.takes > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_histories)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
