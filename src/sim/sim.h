/* sim.h: a discrete-event simulation of requests, batches and gpu-lets under a virtual clock. It drives a request
 * policy through one interface: the committed objects of core/ (let_sim_core) or the reference rules of reference.c.
 * The same scene and seed give the same result, bit for bit. One thread; allocates when a run starts, not while it
 * runs. */
#ifndef LET_SIM_SIM_H
#define LET_SIM_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hist.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/time.h"
#include "core/core.h"
#include "model/model.h"
#include "model/request.h"

enum { LET_SIM_MODELS = 16, LET_SIM_GPULETS = 16, LET_SIM_VARIANTS = 64 };

typedef enum let_sim_arrivals {
  LET_SIM_POISSON,
  LET_SIM_BURSTY,  /* Poisson whose rate jumps between |burst| and 1 / |burst| of its mean, every 100 ms on average */
  LET_SIM_RECORDED /* the times of |recorded|, over and over */
} let_sim_arrivals;

typedef struct let_sim_model {
  let_dur slo; /* 0: none */
  double rate; /* requests/s */
  let_sim_arrivals kind;
  double burst;             /* BURSTY: 2 means twice and half of the rate */
  const let_time *recorded; /* RECORDED: ascending, from 0; the last one is the length of the recording */
  uint32_t n_recorded;
  uint32_t rows_max;       /* each request has 1..rows_max rows, evenly; 0 means 1 */
  uint32_t levels;         /* priority levels, drawn evenly; 0 means 1 */
  let_dur max_queue_delay; /* as in let_model; 0: none */
  let_time from, until;    /* requests come in [from, until); until 0: to the end */
} let_sim_model;

/* A model on a gpu-let, as the policy is told, and what is true. */
typedef struct let_sim_variant {
  let_core_route told;          /* model, gpu-let, sizes, latencies and rate as a plan gives them */
  let_dur truth[LET_SIZES_MAX]; /* median execution time of each size */
} let_sim_variant;

/* What disturbs batches. All zero: everything takes what |truth| says. */
typedef struct let_sim_noise {
  double jitter;     /* each batch takes (1 + jitter * g) times as long, g normal and cut at +-3 */
  double tail_share; /* this share of the batches takes |tail| longer */
  let_dur tail;
  double drift;     /* the truth grows linearly to this multiple at the end of the run; 0: no drift */
  let_time step_at; /* from here on the truth is |step| times as long; 0: never */
  double step;
  let_time busy_until; /* until here (and from the start) everything takes |busy| times as long; 0: never */
  double busy;
  let_dur handover; /* from a batch's submission to its start on an idle gpu-let */
  let_dur lag;      /* from a batch's end to the moment the policy hears of it, exponential with this mean */
} let_sim_noise;

typedef struct let_sim_scene {
  const char *name;
  uint32_t n_models, n_gpulets, n_variants;
  let_sim_model model[LET_SIM_MODELS];
  uint32_t depth[LET_SIM_GPULETS];
  let_sim_variant variant[LET_SIM_VARIANTS];
  let_sim_noise noise;
  let_dur length;      /* of the arrivals; what is in flight then is finished */
  let_time count_from; /* only requests that arrive from here on are counted */
  uint32_t requests;   /* in flight at most */
} let_sim_scene;

/* A request policy. arrive, step, wake and done mean what let_core_arrive, _step, _wake and _batch_done mean. */
typedef struct let_sim_policy {
  void *ctx;
  let_err (*arrive)(void *ctx, let_request *r, let_time now);
  bool (*step)(void *ctx, let_time now, let_action *ret);
  let_time (*wake)(void *ctx);
  bool (*done)(void *ctx, let_batch_id batch, let_time started, let_time finished, let_time now, let_request **ret,
               uint32_t *ret_n);
  void (*free)(void *ctx);
} let_sim_policy;

/* core.c of this directory: the server's own objects. Errors: as let_core_new, let_core_routes_set. */
LET_CHECKED let_err let_sim_core(const let_sim_scene *s, const let_mem *mem, let_sim_policy *ret, let_error *e);
/* reference.c: the rules that core/ is held to. Knows the truth of every batch variant. Errors: NOMEM. */
LET_CHECKED let_err let_sim_reference(const let_sim_scene *s, const let_mem *mem, let_sim_policy *ret, let_error *e);

typedef struct let_sim_tally {
  uint64_t sent, good, late, refused, dropped; /* refused: on arrival; dropped: after it had waited */
  uint64_t rows, batches;                      /* that ran */
  let_hist latency;                            /* of those answered */
} let_sim_tally;

typedef struct let_sim_result {
  let_sim_tally model[LET_SIM_MODELS];
  let_dur busy[LET_SIM_GPULETS]; /* time in batches */
  double seconds;                /* counted */
} let_sim_result;

/* Runs |policy| (freed afterwards) through |s|. Errors: NOMEM, INTERNAL (the policy broke a rule: a sentence). */
LET_CHECKED let_err let_sim_run(const let_sim_scene *s, let_sim_policy policy, uint64_t seed, const let_mem *mem,
                                let_sim_result *ret, let_error *e);

static inline double let_sim_attainment(const let_sim_tally *t) {
  return t->sent ? (double)t->good / (double)t->sent : 1;
}

#endif
