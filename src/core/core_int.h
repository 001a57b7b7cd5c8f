/* core_int.h: what the files of core/ share. How a request travels: core.c takes the event, admit.c says whether it
 * may enter, queue.c keeps it in order, batch.c closes batches, route.c says where one may run and how long it takes.
 */
#ifndef LET_CORE_CORE_INT_H
#define LET_CORE_CORE_INT_H

#include "base/heap.h"
#include "core/core.h"
#include "core/rate.h"

enum {
  LET__NONE = UINT32_MAX,
  LET__DEPTH_MAX = 8, /* batches on one gpu-let's ring; the ring itself holds 64 */
  LET__ATTEMPTS = 2   /* batches that may fail under one request */
};
#define LET__DEADLINE_MAX (((int64_t)1 << 56) - 1) /* 2.2 years of uptime: what the queue's key has room for */

/* A place in a queue's order. Keys are unique: |serial| breaks ties in order of insertion. */
typedef struct let__key {
  int64_t at; /* priority in the top byte, then the deadline */
  uint64_t serial;
} let__key;

/* One per request in the core. A node of its model's tree while queued: a treap (heap order on |rank|, a hash of the
 * serial number) whose nodes also know the sums and least values of their subtree, so that "rows queued before this
 * deadline", "the earliest deadline" and "the longest wait" take O(log n). */
typedef struct let__entry {
  let_request *r;
  let__key key;
  uint32_t left, right, rank;
  uint32_t n; /* of the subtree, like the next three */
  uint64_t rows;
  let_time deadline, arrival; /* the least */
} let__entry;

/* A row of the routing table at work. */
typedef struct let__route {
  uint32_t model, gpulet;
  uint32_t batch, n_sizes;
  uint32_t full;         /* index of the size that |batch| rows need */
  uint32_t most;         /* index of the largest size worth forming here; a single request may need a larger one */
  double weight, credit; /* planned share of the model; rows it lags behind that share (< 0: is ahead) */
  let_dur reserve;       /* a full batch of each other model of the gpu-let: it may be served first */
  let_dur late;    /* high quantile of how much later than predicted batches come back, within bounds: for admission */
  let_dur tail;    /* the same without bounds: how early to close a batch */
  uint32_t rising; /* batches in a row that took clearly longer than believed */
  uint64_t learnt; /* batches seen */
  let_time ran;    /* when the last one came back, or the route began */
  uint32_t size[LET_SIZES_MAX];
  let_dur plan[LET_SIZES_MAX];    /* as given */
  double own[LET_SIZES_MAX];      /* corrected by batches of that very size; 0: none seen */
  uint64_t seen[LET_SIZES_MAX];   /* |learnt| when that was */
  let_dur predict[LET_SIZES_MAX]; /* what to believe: corrected, never less for a larger size */
  double factor;                  /* measured / planned over all sizes, for sizes not seen yet */
  double rate;                    /* planned requests/s; 0: none */
} let__route;

/* A routing table; replaced as a whole. */
typedef struct let__table {
  size_t bytes; /* of the allocation that holds it all */
  uint32_t n;
  let__route *route;         /* by model */
  uint32_t *by_gpulet;       /* indices into |route|, by gpu-let */
  uint32_t *first_of_model;  /* models + 1 */
  uint32_t *first_of_gpulet; /* gpulets + 1, into |by_gpulet| */
} let__table;

typedef struct let__model {
  const let_model *m; /* NULL: not declared */
  uint32_t limit, levels, root, queued, running;
  let_heap_node wake; /* in core.wake, always: when to look at this model again */
  let_rate rate;      /* rows that arrive, refused or not */
  double weight;      /* of its routes that are up */
} let__model;

typedef struct let__batch {
  uint64_t id; /* 0: free */
  uint32_t model, gpulet, size, rows, n;
  let_dur predict;
  let_time start;            /* when it began or, behind another batch, was expected to */
  let_request *first, *last; /* by let_request.next */
  uint32_t next_free;
} let__batch;

typedef struct let__gpulet {
  bool open, routed, down;
  uint32_t depth, n;
  uint32_t batch[LET__DEPTH_MAX]; /* on its ring, oldest first */
} let__gpulet;

struct let_core {
  let_core_limits limits;
  const let_mem *mem;
  let_time now; /* of the last event */
  let__model *model;
  let__gpulet *gpulet;
  let__entry *entry;
  let__batch *batch;
  let__table *table;
  uint32_t n_batches;
  uint32_t free_entry, fresh_entry,
      used_entries; /* freed ones by |left|; from fresh_entry on never used: memory stays cold */
  uint32_t free_batch;
  uint64_t serial, generation;
  let_heap wake;
  let_request *out, *out_last; /* given back by failed batches, to be refused by the next steps */
};

/* queue.c: the queue of one model */
let__key let__key_of(const let__model *m, const let_request *r, uint64_t serial);
let__key let__key_at(uint32_t priority, let_time deadline); /* the first place with that priority and deadline */
uint32_t let__key_priority(let__key k);
bool let__entry_take(let_core *c, let_request *r); /* false: the core is full */
void let__entry_give(let_core *c, let_request *r);
void let__queue_put(let_core *c, let__model *m, let_request *r);
void let__queue_remove(let_core *c, let__model *m, let_request *r);
uint32_t let__queue_from(const let_core *c, const let__model *m,
                         let__key k); /* first entry at or after |k|, LET__NONE */
uint64_t let__queue_rows_before(const let_core *c, const let__model *m, let__key k);
uint32_t let__queue_most_urgent(const let_core *c, const let__model *m); /* of least deadline, LET__NONE */
static inline uint64_t let__queue_rows(const let_core *c, const let__model *m) {
  return m->root == LET__NONE ? 0 : c->entry[m->root].rows;
}

/* route.c: gpu-lets, predictions, the routing table */
static inline let__route *let__routes_of(const let_core *c, uint32_t model, uint32_t *ret_n) {
  const let__table *t = c->table;
  *ret_n = t ? t->first_of_model[model + 1] - t->first_of_model[model] : 0;
  return t ? t->route + t->first_of_model[model] : 0;
}
static inline const uint32_t *let__routes_on(const let_core *c, uint32_t gpulet, uint32_t *ret_n) {
  const let__table *t = c->table;
  *ret_n = t ? t->first_of_gpulet[gpulet + 1] - t->first_of_gpulet[gpulet] : 0;
  return t ? t->by_gpulet + t->first_of_gpulet[gpulet] : 0;
}
let__route *let__route_find(const let_core *c, uint32_t model, uint32_t gpulet);
bool let__route_up(const let_core *c, const let__route *r);
uint32_t let__size_for(const let__route *r, uint64_t rows); /* index of the least size >= rows; LET__NONE */
let_dur let__margin(const let_core *c, const let__route *r);
let_time let__free_at(const let_core *c, const let__gpulet *g, let_time now); /* when its ring is expected to run dry */
void let__weigh(let_core *c, uint32_t model); /* after a change of the table, or of who is up */
void let__route_charge(let_core *c, const let__route *taken, uint32_t rows);
void let__route_learn(let__route *r, uint32_t size, let_dur took, let_dur late, let_time now);
void let__route_relax(let__route *r, bool plan_too); /* |plan_too|: doubt what was given, not only what was learnt */
let_err let__table_new(const let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                       const let_core_route *routes, uint32_t n_routes, let__table **ret, let_error *e);
void let__table_free(const let_core *c, let__table *t);

/* admit.c: who may enter; the sentences of refusals */
let_err let__admit(let_core *c, let_request *r, let_time now);
bool let__hopeless(const let_core *c, const let_request *r, let_time now, let_time *ret_until);
let_err let__refuse(let_request *r, let_err why, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool let__any_up(const let_core *c, uint32_t model);
uint32_t let__most_rows(const let_core *c, uint32_t model); /* of one request, on the gpu-lets that are up */

/* batch.c: when a batch closes and what is in it */
void let__touch(let_core *c, uint32_t model);                                 /* look at it in the next step */
void let__touch_gpulet(let_core *c, uint32_t gpulet);                         /* at every model on it */
bool let__decide(let_core *c, uint32_t model, let_time now, let_action *ret); /* false: m->wake is set anew */
let__batch *let__batch_find(const let_core *c, uint64_t id);
void let__batch_end(let_core *c, let__batch *b, let_time now); /* off its ring; its requests stay linked */

#endif
