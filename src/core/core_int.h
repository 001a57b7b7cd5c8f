/* core_int.h: what the files of core/ share. How a request travels: core.c takes the event, admit.c decides whether it
 * may enter, queue.c keeps it in order, decide.c chooses the gpu-let and the model of the next batch, batch.c chooses
 * its requests, predict.c says how long it takes. table.c holds the routes, check.c the invariants. */
#ifndef LET_CORE_CORE_INT_H
#define LET_CORE_CORE_INT_H

#include "base/heap.h"
#include "core/core.h"
#include "core/rate.h"

enum {
  LET__NONE = UINT32_MAX,
  LET__DEPTH_MAX = 8, /* batches on one gpu-let's ring; the ring itself holds 64 */
  LET__ATTEMPTS = 2,  /* batches that may fail under one request */
  LET__WINDOW = 9     /* samples of a median: five slow batches in a row move it, four do not */
};
#define LET__FRESH        LET_S                    /* older measurements are tried again */
#define LET__DEADLINE_MAX (((int64_t)1 << 56) - 1) /* 2.2 years of uptime: the queue's key has no room for more */
#define LET__BATCH_MAX    (3600 * LET_S)           /* no batch is planned or predicted to take longer */

/* A position in a queue's order. Keys are unique: |serial| breaks ties in order of insertion. */
typedef struct let__key {
  int64_t at; /* priority in the top byte, then the deadline */
  uint64_t serial;
} let__key;

/* One per request in the core; while queued a node of its model's treap, in heap order on |rank|, a hash of the serial
 * number. Nodes hold the sum and the least values of their subtree, so "rows queued before this deadline", "the
 * earliest deadline" and "the longest wait" take O(log n). */
typedef struct let__entry {
  let_request *r;
  let__key key;
  uint32_t left, right, rank;
  uint64_t rows;              /* of the subtree, like the next two */
  let_time deadline, arrival; /* the least */
} let__entry;

/* The newest samples of something positive. */
typedef struct let__window {
  uint8_t n, at;
  float v[LET__WINDOW];
} let__window;

/* A batch variant: a model's batches of one size on one gpu-let. */
typedef struct let__variant {
  uint32_t size;
  let_dur plan;     /* as given */
  let_dur predict;  /* never less for a larger size */
  let_dur quick;    /* the least of the newest samples */
  let_dur spread;   /* how far the longest of the newest samples but one exceeds the median */
  let_time seen;    /* when one last ended */
  let__window took; /* the device's own times, ns */
} let__variant;

/* A row of the routing table at work. */
typedef struct let__route {
  uint32_t model;
  let_gpulet_id gpulet;
  uint32_t batch, n_sizes;
  uint32_t full;         /* index of the size that |batch| rows need */
  let__variant *variant; /* n_sizes, ascending */
  let__window ratio;     /* measured / planned over all sizes: for sizes that have not run yet */
  let_time ran;          /* when the last batch came back; 0: none did */
  double rate;           /* requests/s; where the plan names none, what an even part of the gpu-let's time allows */
  double credit;         /* requests that it may still run within |rate|; below 0: it runs more than was planned */
  let_time credited;     /* credit is as of then */
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
  let_heap_node expiry; /* in core.expiry, always: when its most urgent request expires */
  let_rate rate;        /* rows that arrive, refused or not; for let_core_dump */
  double planned;       /* requests/s of its routes */
  double allowance;     /* requests that may still arrive within that rate: a bucket that fills at it, up to |burst| */
  double burst;
  let_time allowed; /* allowance is as of then */
  bool beyond;      /* more arrives than planned: the allowance ran out and is not half full again */
} let__model;

typedef struct let__batch {
  let_batch_id id; /* 0: free */
  let_gpulet_id gpulet;
  uint32_t model, size, rows, n;
  let_dur predict, spread;
  let_time submitted, start; /* start: when it began or, behind another batch, was expected to */
  bool led;                  /* its gpu-let was idle: from |submitted| to its start is hand-over */
  let_request *first, *last; /* by let_request.next */
  uint32_t next_free;
} let__batch;

typedef struct let__gpulet {
  let_heap_node wake; /* in core.wake, always: when to look at it again */
  bool open, routed, down;
  uint32_t depth, n;
  uint32_t batch[LET__DEPTH_MAX]; /* on its ring, oldest first */
  let__window handover;           /* from submission to start, ns, where it was idle */
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
  uint32_t free_entry, fresh_entry; /* freed ones by |left|; from fresh_entry on never used: memory stays cold */
  uint32_t used_entries;
  uint32_t free_batch;
  uint64_t serial, batches;
  let_heap wake, expiry;
  let_request *out, *out_last; /* from failed batches; the next steps refuse them */
};

/* queue.c: the queue of one model */
let__key let__key_of(const let__model *m, const let_request *r, uint64_t serial);
let__key let__key_at(uint32_t priority, let_time deadline); /* the first position with that priority and deadline */
uint32_t let__key_priority(let__key k);
bool let__entry_take(let_core *c, let_request *r); /* false: the core is full */
void let__entry_give(let_core *c, let_request *r);
void let__queue_put(let_core *c, let__model *m, let_request *r);
void let__queue_remove(let_core *c, let__model *m, let_request *r);
/* The first entry at or after |k|, or LET__NONE. */
uint32_t let__queue_from(const let_core *c, const let__model *m, let__key k);
uint64_t let__queue_rows_before(const let_core *c, const let__model *m, let__key k);
uint32_t let__queue_most_urgent(const let_core *c, const let__model *m); /* of least deadline, LET__NONE */
static inline uint64_t let__queue_rows(const let_core *c, const let__model *m) {
  return m->root == LET__NONE ? 0 : c->entry[m->root].rows;
}

/* table.c: the routing table */
static inline let_gpulet_id let__gpulet_id(const let_core *c, const let__gpulet *g) {
  return (let_gpulet_id){(uint32_t)(g - c->gpulet)};
}
static inline let__route *let__routes_of(const let_core *c, uint32_t model, uint32_t *ret_n) {
  const let__table *t = c->table;
  *ret_n = t ? t->first_of_model[model + 1] - t->first_of_model[model] : 0;
  return t ? t->route + t->first_of_model[model] : 0;
}
static inline const uint32_t *let__routes_on(const let_core *c, let_gpulet_id gpulet, uint32_t *ret_n) {
  const let__table *t = c->table;
  *ret_n = t ? t->first_of_gpulet[gpulet.n + 1] - t->first_of_gpulet[gpulet.n] : 0;
  return t ? t->by_gpulet + t->first_of_gpulet[gpulet.n] : 0;
}
let__route *let__route_find(const let_core *c, uint32_t model, let_gpulet_id gpulet);
static inline bool let__route_up(const let_core *c, const let__route *r) { return !c->gpulet[r->gpulet.n].down; }
uint32_t let__size_for(const let__route *r, uint64_t rows); /* index of the least size >= rows; LET__NONE */
uint32_t let__most_rows(const let_core *c, uint32_t model); /* of its gpu-lets that are up */
bool let__any_up(const let_core *c, uint32_t model);
let_err let__table_new(const let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                       const let_core_route *routes, uint32_t n_routes, let__table **ret, let_error *e);
void let__table_free(const let_core *c, let__table *t);

/* predict.c: how long batches take */
void let__window_add(let__window *w, double v);
typedef struct let__stats {
  double least, median, high; /* high: all but one of the samples are at most this */
} let__stats;
let__stats let__window_stats(const let__window *w, double otherwise); /* |otherwise|: of no samples */
void let__route_learn(let__route *r, uint32_t size, let_dur took, let_time now);
void let__route_refresh(let__route *r, let_time now); /* after its samples or its plan have changed */
bool let__route_fresh(const let__route *r, let_time now);
let_time let__free_at(const let_core *c, const let__gpulet *g, let_time now); /* when its ring is expected to run dry */
let_dur let__handover(const let__gpulet *g);

/* batch.c: what is in a batch */
typedef struct let__pick {
  uint32_t first, n, rows, size; /* entry to begin at, requests, rows, index of the size */
  let_time by, least;            /* requests due before |by| are left out; the earliest deadline in it */
  uint32_t made_for;             /* index of the size it was made for; wider requests are left out */
  bool full;                     /* there are more, but no room for the next one */
} let__pick;
/* What |r| runs from |start| on, or |doubt| later, in a size of index |most| or less; n == 0: nothing would be in
 * time. */
let__pick let__batch_pick(const let_core *c, const let__route *r, let_time start, let_dur doubt, uint32_t most,
                          let_time now);
void let__batch_submit(let_core *c, let__route *r, let__pick p, let_time now, let_action *ret);
let__batch *let__batch_find(const let_core *c, let_batch_id id);
void let__batch_end(let_core *c, let__batch *b, let_time finished); /* off its gpu-let; its requests stay in b->first */

/* decide.c: which gpu-let takes a batch of which model, and when */
bool let__decide(let_core *c, let_gpulet_id gpulet, let_time now, let_action *ret); /* true: *ret is a batch */
void let__touch_model(let_core *c, uint32_t model, let_time now);                   /* something changed for it */
void let__touch_gpulet(let_core *c, let_gpulet_id gpulet, let_time at);             /* look at it at |at|, or before */
double let__credit(let__route *r, let_time now);
void let__demand(let__model *m, double requests, let_time now); /* so many more arrived */

/* admit.c: which request may enter and which expires; the sentences of refusals */
let_err let__admit(let_core *c, let_request *r, let_time now);
let_dur let__least(const let_core *c, uint32_t model, uint32_t rows,
                   let_time now); /* the least time that a gpu-let may take for it */
void let__expiry_set(let_core *c, uint32_t model, let_time now);
bool let__expire(let_core *c, uint32_t model, let_time now, let_action *ret); /* true: *ret refuses one */
let_err let__refuse(let_request *r, let_err why, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
