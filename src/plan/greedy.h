/* greedy.h: inside plan/: what the policies that place one piece after the other have in common: devices being filled,
 * and whether a gpu-let or a whole device can keep its promises.
 *
 * A gpu-let holds when the least fixed point of "cycle = sum of L_i(b_i); b_i = ceil(rate_i cycle)" exists and leaves
 * cycle + L_i <= SLO_i for each model. The iteration is monotone, so where it fails no batches would do. */
#ifndef LET_PLAN_GREEDY_H
#define LET_PLAN_GREEDY_H

#include "plan/policy.h"

enum { LET__WORKS_MAX = 32, LET__PARTS_MAX = 64 };

typedef struct let__job { /* one model of the workload; names are unique, rates > 0, headroom included */
  const char *name;
  double rate;
  let_dur slo;
} let__job;

typedef struct let__work { /* one model in one gpu-let */
  uint32_t job, batch;
  double rate;
  let_dur latency; /* as the policy believes it */
} let__work;

typedef struct let__part { /* one gpu-let */
  uint32_t granules, n;
  bool shared;
  let__work *work; /* n of them, in the arena */
} let__part;

typedef struct let__gpu {
  uint32_t pool, id, n, free; /* free granules */
  double busy;                /* of its time, by the models on it: only `shared` counts it */
  let__part *part;
} let__gpu;

typedef struct let__greedy {
  const let_plan_input *in;
  let_arena *arena;
  uint32_t n_jobs, n_gpus; /* gpus: those in use */
  let__job *job;           /* by name */
  uint32_t *at;            /* [pool * n_jobs + job]: index in the pool's profile, or UINT32_MAX */
  let__gpu *gpu;           /* room for the whole inventory */
  uint32_t total;
  uint32_t *opened;  /* per pool: devices in use */
  double **capacity; /* [pool][job * (granules + 1) + granules], < 0: not computed yet */
  bool interference; /* part of the policy's belief */
  char *reason[64];
  uint32_t n_reasons;
} let__greedy;

LET_CHECKED let_err let__greedy_init(let__greedy *g, const let_plan_input *in, let_arena *a, bool interference,
                                     let_error *e);

static inline const let_profile *let__greedy_profile(const let__greedy *g, uint32_t pool) {
  return g->in->pool[pool].profile;
}

/* Latency alone; LET_NEVER when the profile has none. */
let_dur let__greedy_latency(const let__greedy *g, uint32_t pool, uint32_t job, uint32_t batch, uint32_t granules);
uint32_t let__greedy_most(const let__greedy *g, uint32_t pool, uint32_t job);  /* largest batch; 0: model not there */
uint32_t let__greedy_least(const let__greedy *g, uint32_t pool, uint32_t job); /* smallest batch */

/* The most requests/s of one model alone in a gpu-let of |granules| with 2 L <= SLO; 0: it cannot. */
double let__greedy_capacity(let__greedy *g, uint32_t pool, uint32_t job, uint32_t granules);

/* Would |gpu| with these parts hold? Sets batches and latencies. With g->interference the neighbours slow each other.
 */
bool let__greedy_holds(const let__greedy *g, uint32_t pool, let__part *part, uint32_t n);

/* Adds |rate| of |job| to part |at| of |gpu| (at == gpu->n: a new part of |granules|) when the device then holds.
 * False: nothing changed, or *oom was set. */
bool let__greedy_add(let__greedy *g, let__gpu *gpu, uint32_t at, uint32_t granules, bool shared, uint32_t job,
                     double rate, bool *oom);

/* The next unused device of |pool|; NULL: all in use. */
let__gpu *let__greedy_open(let__greedy *g, uint32_t pool);
void let__greedy_close(let__greedy *g); /* gives back the device opened last; it must be empty */

/* The jobs in the order of |key|, largest first; equal keys by name. */
uint32_t *let__greedy_order(let__greedy *g, const double *key);

/* Opens a device of the first pool that can run |job| in a gpu-let of |size|(g, pool, job, rate) granules, and puts as
 * much of |rate| there as fits. Returns how much; 0: no device is left for it, or *oom was set. */
typedef uint32_t let__greedy_size(let__greedy *g, uint32_t pool, uint32_t job, double rate);
double let__greedy_open_for(let__greedy *g, let__greedy_size *size, bool shared, uint32_t job, double rate, bool *oom);
uint32_t let__greedy_whole(let__greedy *g, uint32_t pool, uint32_t job, double rate); /* a size: the whole device */

/* A whole policy: places every job, those with the largest |key|(g, job, rate) first, piece by piece: |place|(g, job,
 * rate, oom) says how much of |rate| it found room for; what finds none is refused. */
typedef double let__greedy_key(let__greedy *g, uint32_t job, double rate);
typedef double let__greedy_place(let__greedy *g, uint32_t job, double rate, bool *oom);
LET_CHECKED let_err let__greedy_make(const let_plan_input *in, let_arena *a, const let_policy *policy,
                                     let__greedy_key *key, let__greedy_place *place, let_plan *ret, let_error *e);

void let__greedy_reason(let__greedy *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void let__greedy_refuse(let__greedy *g, uint32_t job,
                        double rate); /* why |rate| of |job| found no place, what would help */

/* The plan, feasible unless something was refused; with the judge's opinion among the reasons where it differs. */
LET_CHECKED let_err let__greedy_finish(let__greedy *g, const let_policy *policy, double started, bool feasible,
                                       let_plan *ret, let_error *e);

static inline double let__greedy_now(const let_plan_input *in) { return in->now_ms ? in->now_ms(in->expired_ctx) : 0; }

#endif
