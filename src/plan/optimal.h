/* optimal.h: inside the policy `optimal`: the problem in numbers, the certified bound, patterns.
 *
 * A pattern is the whole content of one device. Identical devices are one pattern with a count. */
#ifndef LET_PLAN_OPTIMAL_H
#define LET_PLAN_OPTIMAL_H

#include "base/rng.h"
#include "plan/policy.h"

/* A pool of devices in numbers. Models are indices of let__problem.model everywhere. */
typedef struct let__kind {
  const let_profile *profile;
  uint32_t count, first_id, granules;
  double cost;    /* 1 where all pools have one type: then cost counts devices */
  uint32_t *at;   /* per model: index in the profile, UINT32_MAX: not there */
  uint32_t *most; /* per model: largest batch */
  let_dur **lat;  /* per model: alone, [(g - 1) * most + batch - 1]; LET_NEVER: not measured */
  let_dur **low;  /* as lat, no longer than any plan's: beside the gentlest neighbour when that takes less than all */
  double **feel;  /* per model, as lat: crowd.h, let__feels; NULL: not asked for yet */
  double *best;   /* per model, [m * (granules + 1) + g]: most requests/s that g granules can serve (by low); 0: none */
  uint32_t *best_batch;
  uint32_t *turns; /* per model and g, as best: the largest batch that can take turns with another model; 0: none */
  double *once, *least; /* per model and g, as best: see bound.c, claim 2 */
  double *size_price;   /* per g: the bound's price of a gpu-let of g granules */
  double *room;         /* per g: what g granules are worth at those prices, in any split */
  bool alone;           /* no interference was measured: neighbours never matter */
} let__kind;

typedef struct let__want {
  const char *name;
  double rate; /* > 0, headroom included */
  let_dur slo;
} let__want;

/* One model in one gpu-let of a pattern. Items of one slot lie side by side. */
typedef struct let__item {
  uint32_t model, batch;
  uint16_t slot, granules;
  let_dur lat; /* interference included, as evaluated */
  double cap;  /* requests/s it can take */
} let__item;

enum { LET__ITEMS = 160 };

/* The price of a change to the running plan, of an entry in a gpu-let that was not there as it is: a model that comes
 * to a device has to be loaded, one that is there only gets another share or batch. Among plans of equal cost, never
 * against it. */
enum { LET__PRICE_MOVE = 4, LET__PRICE_SHARE = 1 };

typedef struct let__pattern {
  uint32_t kind, n, count;
  double value; /* at the prices it was made with */
  let__item *item;
} let__pattern;

/* A growing list of patterns: one solution. */
typedef struct let__set {
  let__pattern *p;
  uint32_t n, cap;
  double cost;
} let__set;

typedef struct let__problem {
  const let_plan_input *in;
  let_arena *arena;   /* of the plan */
  let_arena *scratch; /* of the search */
  uint32_t n, n_kinds;
  let__want *model; /* by name: the order of the workload changes nothing */
  let__kind *kind;
  double *price; /* per model: the bound's price of one request/s, never 0 */
  double bound;  /* certified least cost */
  bool one_type;
  uint64_t work; /* counted effort: the search is limited by it, not by a clock, so that runs repeat */
} let__problem;

/* fmin and fmax are calls: they ask for NaN. */
static inline double let__min(double a, double b) { return a < b ? a : b; }
static inline double let__max(double a, double b) { return a > b ? a : b; }

static inline let_dur let__lat(const let__kind *k, uint32_t m, uint32_t batch, uint32_t g) {
  return k->lat[m] ? k->lat[m][(size_t)(g - 1) * k->most[m] + batch - 1] : LET_NEVER;
}
static inline let_dur let__low(const let__kind *k, uint32_t m, uint32_t batch, uint32_t g) {
  return k->low[m] ? k->low[m][(size_t)(g - 1) * k->most[m] + batch - 1] : LET_NEVER;
}
static inline double let__best(const let__kind *k, uint32_t m, uint32_t g) {
  return k->best[(size_t)m * (k->granules + 1) + g];
}

/* Fills |p|. Errors: INVALID (unknown model, SLO or rate that is no number), NOMEM. */
LET_CHECKED let_err let__problem_make(let__problem *p, const let_plan_input *in, let_arena *scratch, let_error *e);

/* Sets bound and prices. NOMEM, or OK; a solver that gives up leaves a weaker bound that is as certain. */
LET_CHECKED let_err let__bound(let__problem *p);

/* Raises the bound where interference does (one device type, few models). NOMEM, or OK. */
LET_CHECKED let_err let__crowd(let__problem *p);

/* Raises the bound by a linear program over real contents of a device (one device type, few models). |most|: devices of
 * a plan that there is; the bound is not sought beyond. NOMEM, or OK. */
LET_CHECKED let_err let__joint(let__problem *p, double most);

/* As let__joint, tighter and dearer: at most about |effort| steps. */
LET_CHECKED let_err let__classes(let__problem *p, double most, uint64_t effort);

/* The least part of the time of |g| granules that |rate| of |m| needs in one piece; INFINITY: more than there is. */
double let__once(const let__problem *p, const let__kind *k, uint32_t m, uint32_t g, double rate);
/* What serving |rate| of |m| costs at least, at the bound's prices. */
double let__unit(const let__problem *p, uint32_t m, double rate);

/* Evaluates |item| on a device of |kind|: latencies with interference, capacities. False: some SLO does not hold,
 * or memory does not; |ret_bad| is then the item to shrink. */
bool let__evaluate(const let__problem *p, uint32_t kind, let__item *item, uint32_t n, uint32_t *ret_bad);

/* Shrinks and drops until the SLOs and the memory hold; limits capacities to the bandwidth. Returns how many items are
 * left. */
uint32_t let__mend(const let__problem *p, uint32_t kind, let__item *item, uint32_t n);

/* Everything one run of fills needs; its arrays are reused from device to device. */
typedef struct let__fill let__fill;
let__fill *let__fill_new(let__problem *p); /* from the problem's arena; NULL: out of memory */
/* How much of the slowdown seen so far to expect again: 1 all of it (the default), 0 none: then what does not hold is
 * mended. */
void let__fill_trust(let__fill *f, double trust);
/* The content of one device of |kind| that serves most of |rest| (requests/s by model) at |price|. |greed| around 1
 * weighs what stays free. Returns the number of items (0: nothing fits), at most LET__ITEMS. */
uint32_t let__fill_one(let__fill *f, uint32_t kind, const double *rest, const double *price, double greed,
                       let__item *ret, double *ret_value);

/* Goes on with a device that has |n| items; they may be shrunk where the new ones slow them too much. Returns how many
 * there are now. */
uint32_t let__fill_more(let__fill *f, uint32_t kind, const double *rest, const double *price, double greed,
                        let__item *item, uint32_t n);

LET_CHECKED let_err let__set_add(let_arena *a, let__set *s, const let__pattern *x); /* copies */

static inline bool let__expired(const let__problem *p) { return p->in->expired && p->in->expired(p->in->expired_ctx); }

#endif
