/* fleet_test_steps.h: a test rig: plans to offer, and steps that a test's world takes. */
#ifndef LET_FLEET_TEST_STEPS_H
#define LET_FLEET_TEST_STEPS_H

#include "fleet_test_rig.h"

/* ---- plans ------------------------------------------------------------------------------------------------------- */

typedef struct part { /* of a plan: one gpu-let; |content| names model and place on the device */
  uint32_t device, content;
} part;

static let_err offer(world *w, const part *x, uint32_t n) {
  let_plan_gpu gpu[RIG_DEVICES] = {0};
  let_plan_gpulet lets[RIG_DEVICES][8] = {0};
  let_plan_entry entry[RIG_DEVICES][8] = {0};
  let_plan p = {.gpu = gpu};
  char content[RIG_GPULETS][24] = {{0}};
  for (uint32_t d = 0; d < RIG_DEVICES; d++) {
    let_plan_gpu *g = &gpu[p.n_gpus];
    *g = (let_plan_gpu){.id = d, .gpulet = lets[d]};
    for (uint32_t i = 0; i < n; i++) {
      if (x[i].device != d) continue;
      let_plan_entry *to = &entry[d][g->n_gpulets];
      *to = (let_plan_entry){.batch = 4, .rate = 10};
      snprintf(to->name, sizeof to->name, "m%u", x[i].content % RIG_MODELS);
      lets[d][g->n_gpulets++] =
          (let_plan_gpulet){.first = 2 * (x[i].content % 8), .granules = 2, .n_entries = 1, .entry = to};
      snprintf(content[i], sizeof content[i], "%u/%u", d, x[i].content);
    }
    p.n_gpus += g->n_gpulets > 0;
  }
  let_error e = {0};
  let_err r = let_fleet_offer(w->f, &p, w->now, &e);
  RIG_CHECK(w, r == LET_OK || e.text[0], "refused without a reason");
  if (r) return r;
  RIG_CHECK(w, p.generation == w->offered + 1, "generations do not count");
  w->offered = p.generation;
  w->next_contents = (int)n;
  memcpy(w->next_content, content, sizeof content);
  return LET_OK;
}

/* Does what serves have that content? */
RIG_FN static bool serves(world *w, uint32_t device, uint32_t content) {
  for (uint32_t i = 0; i < RIG_GROUPS; i++) {
    let_fleet_group g;
    if (!let_fleet_group_at(w->f, (let_group_id){i}, &g) || g.device != device || !g.routed) continue;
    for (uint32_t k = 0; k < g.n_gpulets; k++)
      if (g.gpulet[k].first == 2 * (content % 8) && g.gpulet[k].entry[0].model == content % RIG_MODELS) return true;
  }
  return false;
}

/* Everything that is asked happens, for |rounds| of 100 ms. */
RIG_FN static void obey(world *w, int rounds) {
  for (; rounds > 0; rounds--) {
    pump(w);
    for (uint32_t i = 0; i < RIG_WORKERS; i++) {
      rig_process *p = &w->process[i];
      if (!p->running) continue;
      if (p->killed) process_exits(w, i, "killed by signal 9 (Killed)");
      while (p->n_said > 0) read_one(w, i);
      if (!p->running || p->hangs) continue;
      if (p->stopping) process_exits(w, i, "exited with 0");
      else if (!p->ready) say_ready(w, i);
      else tell(w, (let_fleet_event){.kind = LET_FLEET_WORKER_HEALTH, .worker = {i}});
      for (int k = 0; k < RIG_SETS; k++) {
        if (!p->ready || !can_say(p)) break;
        rig_set *s = &p->set[k];
        if (s->state == SET_PREPARING) prepare_more(w, i, s);
        else if (s->state == SET_PREPARED) size_more(w, i, s);
        else if (s->state == SET_RETIRING) say_retired(w, i, s);
      }
    }
    for (uint32_t i = 0; i < RIG_GPULETS; i++) w->gpulet[i].running = 0;
    for (uint32_t i = 0; i < RIG_GROUPS; i++) tell(w, (let_fleet_event){.kind = LET_FLEET_GROUP_DRAINED, .group = {i}});
    tell(w, (let_fleet_event){.kind = LET_FLEET_TICK});
    w->now += 100 * LET_MS;
  }
  pump(w);
}

/* ---- for directed tests ------------------------------------------------------------------------------------------ */

/* The newest group with that content; it must be there. */
RIG_FN static let_fleet_group group_with(world *w, uint32_t device, uint32_t content, uint32_t *ret_id) {
  let_fleet_group g, found = {0};
  for (uint32_t i = 0; i < RIG_GROUPS; i++) {
    if (!let_fleet_group_at(w->f, (let_group_id){i}, &g) || g.device != device) continue;
    if (g.gpulet[0].first != 2 * (content % 8) || g.gpulet[0].entry[0].model != content % RIG_MODELS) continue;
    if (found.n_gpulets && found.generation.n > g.generation.n) continue;
    found = g;
    if (ret_id) *ret_id = i;
  }
  assert_true(found.n_gpulets > 0);
  return found;
}

RIG_FN static uint32_t worker_of(world *w, uint32_t device, uint32_t content) {
  return group_with(w, device, content, NULL).worker.n;
}

RIG_FN static rig_set *set_of(world *w, uint32_t device, uint32_t content) {
  let_fleet_group g = group_with(w, device, content, NULL);
  rig_set *s = set_named(&w->process[g.worker.n], g.set);
  assert_non_null(s);
  return s;
}

RIG_FN static void lose(world *w, uint32_t i) { process_exits(w, i, "killed by signal 9 (Killed)"); }

RIG_FN static void all_ready(world *w) {
  for (uint32_t i = 0; i < RIG_WORKERS; i++)
    if (w->process[i].running && !w->process[i].ready) say_ready(w, i);
  pump(w);
}

RIG_FN static void all_prepared(world *w) {
  for (int round = 0; round < 8; round++)
    for (uint32_t i = 0; i < RIG_WORKERS; i++)
      for (int k = 0; k < RIG_SETS && can_say(&w->process[i]); k++)
        if (w->process[i].set[k].state == SET_PREPARING) prepare_more(w, i, &w->process[i].set[k]);
}

RIG_FN static void begin(world *w, const part *x, uint32_t n) { assert_int_equal(offer(w, x, n), LET_OK); }

#endif
