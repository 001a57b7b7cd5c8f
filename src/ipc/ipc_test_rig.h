/* ipc_test_rig.h: random messages within the limits, for the tests of ipc/. What they point to lives in an arena. */
#ifndef LET_IPC_TEST_RIG_H
#define LET_IPC_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "ipc/ipc.h"

static inline uint32_t below(let_rng *r, uint32_t n) { return (uint32_t)let_rng_below(r, n); }
static inline uint32_t between(let_rng *r, uint32_t min, uint32_t max) { return min + below(r, max - min + 1); }
static inline bool coin(let_rng *r) { return below(r, 2) != 0; }
/* Up to |max|; small numbers and the limits come up often. */
static inline uint64_t any(let_rng *r, uint64_t max) {
  switch (below(r, 4)) {
  case 0: return max;
  case 1: return let_rng_below(r, max < 10 ? max + 1 : 10);
  default: return let_rng_below(r, max);
  }
}

static inline const char *name_of(let_rng *r, let_arena *a) {
  char text[LET_NAME_MAX];
  uint32_t n = between(r, 1, below(r, 8) ? 20 : LET_NAME_MAX - 1);
  for (uint32_t i = 0; i < n; i++) text[i] = (char)between(r, 1, 255);
  return let_arena_strdup(a, text, n);
}

static inline const char *sentence_of(let_rng *r, let_arena *a) {
  static const char *const words[] = {"no", " \xc3\xa4", "memory", "\xf0\x9f\x90\x9c", "\n", " 7", "\xe2\x82\xac"};
  char text[LET_IPC_UUID_MAX] = "";
  for (uint32_t i = below(r, 8); i; i--) strcat(text, words[below(r, 7)]);
  return let_arena_strdup(a, text, strlen(text));
}

static inline let_model *model_of(let_rng *r, let_arena *a) {
  let_model *m = let_arena_alloc(a, sizeof *m);
  strcpy(m->name, name_of(r, a));
  strcpy(m->platform, name_of(r, a));
  strcpy(m->backend, name_of(r, a));
  strcpy(m->file, name_of(r, a));
  strcpy(m->dir, name_of(r, a));
  m->version = (int64_t)let_rng_u64(r);
  m->max_batch = below(r, LET_BATCH_MAX + 1);
  m->n_inputs = (uint8_t)below(r, LET_TENSORS_MAX + 1);
  m->n_outputs = (uint8_t)below(r, 3);
  for (uint32_t i = 0; i < (uint32_t)m->n_inputs + m->n_outputs; i++) {
    let_tensor_spec *t = i < m->n_inputs ? &m->input[i] : &m->output[i - m->n_inputs];
    strcpy(t->name, name_of(r, a));
    strcpy(t->label_file, coin(r) ? name_of(r, a) : "");
    t->dtype = (let_dtype)below(r, LET_DTYPE_COUNT);
    t->optional = coin(r);
    t->rank = (uint8_t)below(r, LET_RANK_MAX + 1);
    for (uint32_t k = 0; k < t->rank; k++) t->dims[k] = (int64_t)any(r, INT64_MAX) - 1;
  }
  m->slo = (let_dur)any(r, INT64_MAX);
  m->max_queue_delay = LET_NEVER;
  m->max_queue = (uint32_t)any(r, UINT32_MAX);
  m->priority_levels = (uint8_t)below(r, 256);
  m->default_priority = (uint8_t)below(r, 256);
  m->default_timeout = (let_dur)any(r, INT64_MAX);
  m->allow_timeout_override = coin(r);
  m->n_sizes = (uint8_t)below(r, LET_SIZES_MAX + 1);
  for (uint32_t i = 0; i < m->n_sizes; i++) m->size[i] = between(r, 1, LET_BATCH_MAX);
  m->precision = (let_precision)below(r, LET_PRECISION_BF16 + 1);
  m->channels_last = coin(r);
  m->output_bytes_hint = any(r, INT64_MAX);
  m->null_us = (uint32_t)any(r, UINT32_MAX);
  return m;
}

static inline let_ipc_variant variant_of(let_rng *r, let_arena *a) {
  let_ipc_variant v = {.model = model_of(r, a), .n_sizes = (uint8_t)between(r, 1, LET_SIZES_MAX)};
  uint32_t start = below(r, LET_BATCH_MAX);
  for (uint32_t i = 0; i < v.n_sizes; i++) v.size[i] = 1 + (start + 37 * i) % LET_BATCH_MAX; /* no two alike */
  v.needed = (uint8_t)between(r, 1, v.n_sizes);
  if (coin(r)) v.needed = 1;
  v.slo = coin(r) ? 0 : (let_dur)any(r, INT64_MAX);
  v.planned = coin(r);
  return v;
}

static inline let_ipc_prepare prepare_of(let_rng *r, let_arena *a, uint32_t lanes_max, uint32_t models_max) {
  let_ipc_prepare p = {.set = {1 + let_rng_below(r, INT64_MAX)}, .beside = coin(r)};
  p.n_lanes = between(r, 1, lanes_max);
  let_ipc_lane *lanes = let_arena_array(a, p.n_lanes, sizeof *lanes);
  for (uint32_t i = 0; i < p.n_lanes; i++) {
    let_ipc_lane *l = &lanes[i];
    *l = (let_ipc_lane){.gpulet = {(uint32_t)any(r, UINT32_MAX)}, .first = (uint32_t)any(r, INT32_MAX)};
    l->granules = 1 + (uint32_t)any(r, INT32_MAX - 1);
    l->shared = coin(r);
    l->cost = (let_dur)any(r, LET_IPC_TIME_MAX);
    l->n_models = between(r, 1, models_max);
    let_ipc_variant *models = let_arena_array(a, l->n_models, sizeof *models);
    for (uint32_t k = 0; k < l->n_models; k++) models[k] = variant_of(r, a);
    l->model = models;
  }
  p.lane = lanes;
  return p;
}

static inline let_ipc_command command_of(let_rng *r, let_arena *a, let_ipc_command_type type) {
  let_ipc_command m = {.type = type};
  if (type == LET_IPC_INIT) {
    m.init = (let_ipc_init){.device = name_of(r, a), .profile_dir = coin(r) ? name_of(r, a) : ""};
    m.init.plugin_dir = coin(r) ? name_of(r, a) : "";
    m.init.arena_bytes = 1 + any(r, LET_IPC_MEMORY_MAX - 2);
    m.init.records = between(r, 1, INT32_MAX);
    m.init.spin = (let_dur)any(r, LET_S);
  } else if (type == LET_IPC_PREPARE) {
    m.prepare = prepare_of(r, a, 4, 3);
  } else if (type == LET_IPC_RETIRE) {
    m.retire.set.n = 1 + any(r, INT64_MAX - 1);
  }
  return m;
}

static inline let_ipc_size_time time_of(let_rng *r, uint32_t size) {
  let_ipc_size_time t = {.size = size, .p50 = (let_dur)any(r, LET_IPC_TIME_MAX), .beside = coin(r)};
  t.p99 = (let_dur)any(r, LET_IPC_TIME_MAX);
  return t;
}

static inline let_ipc_model_report report_of(let_rng *r, let_arena *a) {
  let_ipc_model_report m = {.name = name_of(r, a), .eager = sentence_of(r, a)};
  m.memory_bytes = any(r, LET_IPC_MEMORY_MAX - 1);
  m.output_row_bytes = any(r, LET_IPC_MEMORY_MAX - 1);
  m.took = (let_dur)any(r, LET_IPC_TIME_MAX);
  m.n_sizes = (uint8_t)between(r, 1, LET_SIZES_MAX);
  for (uint32_t i = 0; i < m.n_sizes; i++) m.size[i] = time_of(r, between(r, 1, LET_BATCH_MAX));
  return m;
}

static inline void lists_of(let_rng *r, let_arena *a, let_ipc_event *m) {
  if (m->type == LET_IPC_LANE_UP) {
    m->lane_up.n_models = between(r, 1, 4);
    let_ipc_model_report *list = let_arena_array(a, m->lane_up.n_models, sizeof *list);
    for (uint32_t i = 0; i < m->lane_up.n_models; i++) list[i] = report_of(r, a);
    m->lane_up.model = list;
  } else {
    m->health.n_lanes = below(r, 5);
    let_ipc_lane_health *list = let_arena_array(a, m->health.n_lanes + 1, sizeof *list);
    for (uint32_t i = 0; i < m->health.n_lanes; i++)
      list[i] = (let_ipc_lane_health){.set = {1 + any(r, INT64_MAX - 1)},
                                      .lane = below(r, LET_IPC_LANES_MAX),
                                      .busy = (let_dur)any(r, INT64_MAX),
                                      .batches = any(r, INT64_MAX)};
    m->health.lane = list;
  }
}

static inline let_ipc_event event_of(let_rng *r, let_arena *a, let_ipc_event_type type) {
  let_ipc_event m = {.type = type};
  let_lane_set_id set = {1 + any(r, INT64_MAX - 1)};
  uint32_t lane = below(r, LET_IPC_LANES_MAX);
  switch (type) {
  case LET_IPC_READY:
    m.ready = (let_ipc_ready){
        between(r, 1, INT32_MAX),      name_of(r, a), sentence_of(r, a), below(r, 1000), below(r, 100), below(r, 1000),
        any(r, LET_IPC_MEMORY_MAX - 1)};
    break;
  case LET_IPC_PROGRESS:
    m.progress = (let_ipc_progress){.set = set, .model = name_of(r, a), .total = below(r, 1000)};
    m.progress.done = below(r, m.progress.total + 1);
    break;
  case LET_IPC_LANE_UP:
    m.lane_up = (let_ipc_lane_up){.set = set, .lane = lane};
    lists_of(r, a, &m);
    break;
  case LET_IPC_PREPARED: m.prepared.set = set; break;
  case LET_IPC_SIZE:
    m.size = (let_ipc_size){.set = set, .lane = lane, .model = below(r, LET_IPC_MODELS_MAX), .failed = ""};
    m.size.memory_bytes = any(r, LET_IPC_MEMORY_MAX - 1);
    m.size.time = time_of(r, between(r, 1, LET_BATCH_MAX));
    if (coin(r)) {
      m.size.failed = "no memory";
      m.size.time = (let_ipc_size_time){.size = m.size.time.size};
    }
    break;
  case LET_IPC_FAILED:
    m.failed = (let_ipc_failed){set, lane, coin(r) ? name_of(r, a) : "", LET_ERR_NOMEM, sentence_of(r, a)};
    break;
  case LET_IPC_RETIRED: m.retired.set = set; break;
  case LET_IPC_HEALTH:
    m.health = (let_ipc_health){.memory_bytes = any(r, LET_IPC_MEMORY_MAX - 1), .uuid = sentence_of(r, a)};
    m.health.utilization = coin(r) ? -1 : let_rng_unit(r);
    m.health.power_w = coin(r) ? -1 : 700 * let_rng_unit(r);
    m.health.memory_used = any(r, LET_IPC_MEMORY_MAX - 1);
    m.health.memory_total = any(r, LET_IPC_MEMORY_MAX - 1);
    lists_of(r, a, &m);
    break;
  case LET_IPC_ERROR: m.error.text = sentence_of(r, a); break;
  case LET_IPC_EVENTS_END: break;
  }
  return m;
}

static inline uint64_t seed_of(uint64_t fallback) { /* LET_SEED=7 runs a test with another seed */
  const char *given = getenv("LET_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 10) : fallback;
  print_message("seed %llu\n", (unsigned long long)seed);
  return seed;
}

#endif
