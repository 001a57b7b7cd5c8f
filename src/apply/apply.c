#include "apply/apply.h"

#include <stdio.h>
#include <string.h>

/* A worker that keeps dying is restarted after 50 ms, 100 ms, ... at most 5 s; a while of good service forgives. */
enum { MAX_LOSSES_WHILE_NEW = 2 };
static const let_dur backoff_first = 50 * LET_MS, backoff_last = 5 * LET_S, forgiven_after = 10 * LET_S;

typedef enum group_state {
  G_NONE,
  G_PREPARING,
  G_PREPARED,
  G_SERVING,
  G_DRAINING,
  G_DRAINED,
  G_RETIRING,
  G_FREE
} group_state;
typedef enum worker_state { W_NONE, W_BACKOFF, W_STARTING, W_READY, W_STOPPING } worker_state;

typedef struct group {
  group_state state;
  bool sent;   /* PREPARE was handed out */
  bool routed; /* belongs to the generation that routing points to: comes back UP after a loss */
  bool keep;   /* wanted by the change under way */
  uint32_t worker;
  uint64_t key;
  let_time asked; /* PREPARE or RETIRE was handed out */
} group;

typedef struct worker {
  worker_state state;
  bool announced; /* START or STOP was handed out */
  uint64_t key;   /* of the device; 0: belongs to one group alone */
  unsigned losses;
  unsigned building; /* losses under the change under way, with a group of it inside */
  bool killed;       /* KILL was handed out: it will be lost */
  let_time at;       /* BACKOFF: when to start; STARTING, READY: since when */
} worker;

typedef enum change { IDLE, BUILDING, SWITCHING, DRAINING, ROLLBACK } change;

struct let_apply {
  const let_mem *mem;
  size_t bytes;
  uint32_t cap;
  change change;
  uint64_t generation;
  bool stopping;
  let_dur patience;
  char why[320], late[128];
  group *group;
  worker *worker;
};

let_err let_apply_new(uint32_t cap, const let_mem *mem, let_apply **ret, let_error *e) {
  size_t bytes = sizeof(let_apply) + cap * (sizeof(group) + sizeof(worker));
  let_apply *a = let_mem_zalloc(mem, bytes);
  if (!a) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u groups", cap);
  a->mem = mem, a->bytes = bytes, a->cap = cap, a->patience = LET_NEVER;
  a->group = (group *)(a + 1);
  a->worker = (worker *)(a->group + cap);
  *ret = a;
  return LET_OK;
}

void let_apply_free(let_apply *a) {
  if (a) let_mem_free(a->mem, a, a->bytes);
}

void let_apply_set_patience(let_apply *a, let_dur patience) { a->patience = patience; }

bool let_apply_busy(const let_apply *a) { return a->change != IDLE; }

static uint32_t free_group(const let_apply *a) {
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->group[i].state == G_NONE) return i;
  return LET_APPLY_NONE;
}

/* The worker with |key|, or a new one. A worker on its way out is not joined. */
static uint32_t worker_for(let_apply *a, uint64_t key, let_time at) {
  uint32_t empty = LET_APPLY_NONE;
  for (uint32_t i = 0; i < a->cap; i++) {
    worker *w = &a->worker[i];
    if (w->state == W_NONE && empty == LET_APPLY_NONE) empty = i;
    if (key && w->state != W_NONE && w->state != W_STOPPING && w->key == key) return i;
  }
  if (empty != LET_APPLY_NONE) a->worker[empty] = (worker){.state = W_BACKOFF, .key = key, .at = at};
  return empty;
}

static bool worker_used(const let_apply *a, uint32_t w) {
  return let_apply_group_of(a, w, LET_APPLY_NONE) != LET_APPLY_NONE;
}

uint32_t let_apply_group_of(const let_apply *a, uint32_t w, uint32_t after) {
  for (uint32_t i = after + 1; i < a->cap; i++) /* LET_APPLY_NONE + 1 == 0 */
    if (a->group[i].state != G_NONE && a->group[i].worker == w) return i;
  return LET_APPLY_NONE;
}

static void drop_new(let_apply *a) {
  for (uint32_t i = 0; i < a->cap; i++) {
    group *g = &a->group[i];
    g->keep = false;
    if (g->state == G_NONE || g->routed) continue;
    if (g->state == G_PREPARING && !g->sent) g->state = G_FREE;
    else if (g->state == G_PREPARING || g->state == G_PREPARED) g->state = G_DRAINED; /* never had a batch */
  }
}

static void roll_back(let_apply *a, const char *why) {
  snprintf(a->why, sizeof a->why, "%s", why);
  drop_new(a);
  a->change = ROLLBACK;
}

let_err let_apply_begin(let_apply *a, uint64_t generation, const let_apply_want *want, uint32_t n, uint32_t *ret_group,
                        bool *ret_new, let_error *e) {
  if (a->change != IDLE)
    return let_fail(e, LET_ERR_AGAIN, "the change to generation %llu is still under way",
                    (unsigned long long)a->generation);
  if (a->stopping) return let_fail(e, LET_ERR_UNAVAILABLE, "the server is shutting down");
  for (uint32_t i = 0; i < a->cap; i++) a->group[i].keep = false, a->worker[i].building = 0;
  for (uint32_t k = 0; k < n; k++) {
    ret_group[k] = LET_APPLY_NONE;
    for (uint32_t i = 0; i < a->cap && ret_group[k] == LET_APPLY_NONE; i++) {
      group *g = &a->group[i];
      if (g->routed && !g->keep && g->key == want[k].key && (g->state == G_SERVING || g->state == G_PREPARING))
        g->keep = true, ret_group[k] = i;
    }
    ret_new[k] = ret_group[k] == LET_APPLY_NONE;
    if (!ret_new[k]) continue;
    uint32_t i = free_group(a), w = i == LET_APPLY_NONE ? LET_APPLY_NONE : worker_for(a, want[k].worker, 0);
    if (w == LET_APPLY_NONE) {
      drop_new(a);
      return let_fail(e, LET_ERR_NOMEM, "the plan has more gpu-lets than this server was started for (%u groups)",
                      a->cap);
    }
    a->group[i] = (group){.state = G_PREPARING, .keep = true, .worker = w, .key = want[k].key};
    ret_group[k] = i;
  }
  a->generation = generation;
  a->change = BUILDING;
  return LET_OK;
}

void let_apply_worker_ready(let_apply *a, uint32_t w, let_time now) {
  if (w >= a->cap || a->worker[w].state != W_STARTING) return;
  a->worker[w].state = W_READY;
  a->worker[w].at = now;
}

void let_apply_worker_lost(let_apply *a, uint32_t i, const char *why, let_time now) {
  if (i >= a->cap || a->worker[i].state == W_NONE) return;
  worker *w = &a->worker[i];
  bool fresh = false; /* a group of the change under way is in it */
  for (uint32_t k = let_apply_group_of(a, i, LET_APPLY_NONE); k != LET_APPLY_NONE; k = let_apply_group_of(a, i, k)) {
    group *g = &a->group[k];
    switch (g->state) {
    case G_SERVING:
    case G_PREPARING:
    case G_PREPARED:
      g->state = G_PREPARING;
      g->sent = false;
      if (!g->routed) fresh = true;
      break;
    default: g->state = G_FREE; /* on its way out anyway */
    }
  }
  if (w->state == W_STOPPING || a->stopping) {
    w->state = W_NONE;
    return;
  }
  if (w->state == W_READY && now - w->at > forgiven_after) w->losses = 0;
  let_dur wait = backoff_first << (w->losses < 7 ? w->losses : 7);
  w->losses++;
  w->state = W_BACKOFF;
  w->announced = w->killed = false;
  w->at = now + (wait < backoff_last ? wait : backoff_last);
  /* Even where the old generation lives in the same worker: what kills it may well be the new one. */
  if (a->change == BUILDING && fresh && ++w->building > MAX_LOSSES_WHILE_NEW) roll_back(a, why);
}

void let_apply_group_prepared(let_apply *a, uint32_t i, let_time now) {
  (void)now;
  if (i < a->cap && a->group[i].state == G_PREPARING && a->group[i].sent) a->group[i].state = G_PREPARED;
}

void let_apply_group_failed(let_apply *a, uint32_t i, const char *why, let_time now) {
  if (i >= a->cap) return;
  group *g = &a->group[i];
  if (g->state == G_DRAINING || g->state == G_DRAINED || g->state == G_RETIRING)
    g->state = G_FREE; /* given up while it prepared: there is nothing to retire */
  if (g->state != G_PREPARING) return;
  if (!g->routed) {
    g->state = G_FREE; /* the worker kept nothing of it */
    if (a->change == BUILDING) roll_back(a, why);
    return;
  }
  /* It served before and its worker was replaced: the new one may have come too early (memory not yet given back).
   * Try again later in the same worker. */
  g->sent = false;
  worker *w = &a->worker[g->worker];
  w->losses++;
  w->at = now + (backoff_first << (w->losses < 7 ? w->losses : 7));
}

void let_apply_group_drained(let_apply *a, uint32_t i) {
  if (i < a->cap && a->group[i].state == G_DRAINING) a->group[i].state = G_DRAINED;
}

void let_apply_group_retired(let_apply *a, uint32_t i) {
  if (i < a->cap && a->group[i].state == G_RETIRING) a->group[i].state = G_FREE;
}

void let_apply_switched(let_apply *a) {
  LET_ASSERT(a->change == SWITCHING);
  for (uint32_t i = 0; i < a->cap; i++) {
    group *g = &a->group[i];
    if (g->keep) {
      if (g->state == G_PREPARED) g->state = G_SERVING;
      g->routed = true;     /* a kept group whose worker is being replaced comes UP later */
    } else if (g->routed) { /* being prepared again, some of it may take batches already */
      g->state = g->state == G_PREPARING && !g->sent ? G_FREE : G_DRAINING, g->routed = false;
    }
  }
  a->change = DRAINING;
}

void let_apply_switch_failed(let_apply *a, const char *why) {
  LET_ASSERT(a->change == SWITCHING);
  roll_back(a, why);
}

void let_apply_stop_all(let_apply *a) {
  a->stopping = true;
  a->change = IDLE;
}

static let_apply_action act(let_apply_kind kind, uint32_t g, uint32_t w, uint64_t generation) {
  return (let_apply_action){.kind = kind, .group = g, .worker = w, .generation = generation};
}

static bool all_prepared(const let_apply *a) {
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->group[i].keep && !a->group[i].routed && a->group[i].state != G_PREPARED) return false;
  return true;
}

static bool step_group(let_apply *a, uint32_t i, let_time now, let_apply_action *ret) {
  group *g = &a->group[i];
  worker *w = &a->worker[g->worker];
  switch (g->state) {
  case G_PREPARING:
    if (g->sent || w->state != W_READY || now < w->at || a->stopping) return false;
    g->sent = true, g->asked = now;
    *ret = act(LET_APPLY_PREPARE, i, g->worker, a->generation);
    return true;
  case G_PREPARED:
    if (!g->routed) return false;
    g->state = G_SERVING;
    *ret = act(LET_APPLY_UP, i, g->worker, a->generation);
    return true;
  case G_DRAINED:
    g->state = w->state == W_READY ? G_RETIRING : G_FREE;
    if (g->state == G_FREE) return step_group(a, i, now, ret);
    g->asked = now;
    *ret = act(LET_APPLY_RETIRE, i, g->worker, a->generation);
    return true;
  case G_FREE:
    *ret = act(LET_APPLY_FREE, i, g->worker, a->generation);
    *g = (group){0};
    return true;
  default: return false;
  }
}

static bool step_worker(let_apply *a, uint32_t i, let_time now, let_apply_action *ret) {
  worker *w = &a->worker[i];
  if (w->state == W_NONE) return false;
  bool unused = !worker_used(a, i) || a->stopping;
  if (w->state == W_BACKOFF) {
    if (unused) return w->state = W_NONE, false;
    if (now < w->at) return false;
    w->state = W_STARTING, w->at = now;
    *ret = act(LET_APPLY_START, LET_APPLY_NONE, i, a->generation);
    return true;
  }
  if (unused && w->state != W_STOPPING) {
    w->state = W_STOPPING;
    *ret = act(LET_APPLY_STOP, LET_APPLY_NONE, i, a->generation);
    return true;
  }
  return false;
}

/* When the patience with a worker ends, and what it was asked to do; LET_NEVER: it owes no answer. */
static let_time due(const let_apply *a, uint32_t i, const char **ret_what) {
  const worker *w = &a->worker[i];
  let_time since = LET_NEVER;
  if (a->patience == LET_NEVER || w->killed) return LET_NEVER;
  if (w->state == W_STARTING) since = w->at, *ret_what = "start";
  if (w->state == W_READY)
    for (uint32_t k = let_apply_group_of(a, i, LET_APPLY_NONE); k != LET_APPLY_NONE; k = let_apply_group_of(a, i, k)) {
      const group *g = &a->group[k];
      bool preparing = g->state == G_PREPARING && g->sent;
      if ((preparing || g->state == G_RETIRING) && g->asked < since)
        since = g->asked, *ret_what = preparing ? "prepare its gpu-lets" : "give its gpu-lets back";
    }
  return since == LET_NEVER ? LET_NEVER : since + a->patience;
}

static bool step_patience(let_apply *a, uint32_t i, let_time now, let_apply_action *ret) {
  const char *what = "";
  if (due(a, i, &what) > now) return false;
  snprintf(a->late, sizeof a->late, "the worker did not %s within %.3g s", what, (double)a->patience / 1e9);
  a->worker[i].killed = true;
  bool waited_for = false;
  for (uint32_t k = let_apply_group_of(a, i, LET_APPLY_NONE); k != LET_APPLY_NONE; k = let_apply_group_of(a, i, k))
    waited_for |= a->group[k].state == G_PREPARING && !a->group[k].routed;
  if (a->change == BUILDING && waited_for) roll_back(a, a->late);
  *ret = act(LET_APPLY_KILL, LET_APPLY_NONE, i, a->generation);
  ret->text = a->late;
  return true;
}

static bool anything(const let_apply *a, group_state s) {
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->group[i].state == s) return true;
  return false;
}

static bool leaving(const let_apply *a) {
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->worker[i].state == W_STOPPING) return true;
  return anything(a, G_DRAINING) || anything(a, G_DRAINED) || anything(a, G_RETIRING) || anything(a, G_FREE);
}

bool let_apply_step(let_apply *a, let_time now, let_apply_action *ret) {
  if (a->change == SWITCHING) return false;
  if (a->change == BUILDING && all_prepared(a)) {
    a->change = SWITCHING;
    *ret = act(LET_APPLY_SWITCH, LET_APPLY_NONE, LET_APPLY_NONE, a->generation);
    return true;
  }
  for (uint32_t i = 0; i < a->cap; i++)
    if (step_patience(a, i, now, ret)) return true;
  for (uint32_t i = 0; i < a->cap; i++)
    if (step_group(a, i, now, ret)) return true;
  for (uint32_t i = 0; i < a->cap; i++)
    if (step_worker(a, i, now, ret)) return true;
  if ((a->change == DRAINING || a->change == ROLLBACK) && !leaving(a)) {
    *ret = act(a->change == DRAINING ? LET_APPLY_APPLIED : LET_APPLY_FAILED, LET_APPLY_NONE, LET_APPLY_NONE,
               a->generation);
    ret->text = a->why;
    a->change = IDLE;
    return true;
  }
  return false;
}

let_time let_apply_wake(const let_apply *a) {
  let_time t = LET_NEVER;
  for (uint32_t i = 0; i < a->cap; i++) {
    const group *g = &a->group[i];
    const char *what;
    let_time end = due(a, i, &what);
    if (end < t) t = end;
    if (a->worker[i].state == W_BACKOFF && a->worker[i].at < t) t = a->worker[i].at;
    if (g->state == G_PREPARING && !g->sent && a->worker[g->worker].state == W_READY && a->worker[g->worker].at < t)
      t = a->worker[g->worker].at;
  }
  return t;
}

bool let_apply_group_wanted(const let_apply *a, uint32_t i) {
  return i < a->cap && a->group[i].state != G_NONE && a->group[i].keep;
}
bool let_apply_group_serving(const let_apply *a, uint32_t i) { return i < a->cap && a->group[i].state == G_SERVING; }
bool let_apply_group_routed(const let_apply *a, uint32_t i) {
  return i < a->cap && a->group[i].state != G_NONE && a->group[i].routed;
}
bool let_apply_group_draining(const let_apply *a, uint32_t i) { return i < a->cap && a->group[i].state == G_DRAINING; }
bool let_apply_group_in_use(const let_apply *a, uint32_t i) { return i < a->cap && a->group[i].state != G_NONE; }
uint32_t let_apply_group_worker(const let_apply *a, uint32_t i) {
  return i < a->cap ? a->group[i].worker : LET_APPLY_NONE;
}

bool let_apply_idle(const let_apply *a) {
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->worker[i].state != W_NONE) return false;
  return true;
}

const char *let_apply_group_state(const let_apply *a, uint32_t i) {
  static const char *const names[] = {"none",     "preparing", "prepared", "serving",
                                      "draining", "drained",   "retiring", "free"};
  return i < a->cap ? names[a->group[i].state] : "none";
}

bool let_apply_worker_busy(const let_apply *a, uint32_t w) {
  if (w >= a->cap || a->worker[w].state != W_READY) return true;
  for (uint32_t i = 0; i < a->cap; i++)
    if (a->group[i].worker == w &&
        (a->group[i].state == G_RETIRING || (a->group[i].state == G_PREPARING && a->group[i].sent)))
      return true;
  return false;
}
