/* search.h: inside `optimal`: looking for the fewest devices, and what the running plan has to do with it. */
#ifndef LET_PLAN_SEARCH_H
#define LET_PLAN_SEARCH_H

#include "plan/optimal.h"

/* A device of the running plan whose content still holds. */
typedef struct let__device {
  uint32_t id, index; /* index: counted over all pools */
  let__pattern pattern;
} let__device;

typedef struct let__running {
  let__device *device;
  uint32_t n;
} let__running;

/* Reads in->running: devices that are gone, unknown models and contents that no longer hold are left out. */
LET_CHECKED let_err let__running_read(let__problem *p, let__running *ret);

/* The best solution found. |ret_over|: how many devices it has beyond the inventory (0: it is a plan). */
LET_CHECKED let_err let__search(let__problem *p, const let__running *run, let__set *ret, uint32_t *ret_over);

/* Small cases (four models at most): the best plan there is, within |effort| steps; then the bound is its cost. Leaves
 * all as it is where the effort does not reach. */
LET_CHECKED let_err let__exact(let__problem *p, uint64_t effort, let__set *best, uint32_t *over);

/* Looks for plans with fewer devices than |best|, of one device type: about |effort| steps for each device less. */
LET_CHECKED let_err let__grain(let__problem *p, let__fill *fill, uint64_t effort, uint64_t seed, let__set *best);

/* What part of its capacity each model uses: rate over the sum of its capacities. */
void let__shares(const let__problem *p, const let__set *s, double *ret_share);

bool let__same(const let__pattern *a, const let__pattern *b);

/* Gpu-lets of |plan| that |running| does not have on the same device; |ret_all|: of how many. */
uint32_t let__changes(const let_plan *plan, const let_plan *running, uint32_t *ret_all);

#endif
