/* core.h: queue, batch, route, admit: decides which request runs when, on which gpu-let, in which batch. Pure:
 * (state, event, now) -> (state, actions). It reads no clock, opens no socket and allocates nothing after let_core_new;
 * the server and the simulator drive the same objects.
 *
 * The rules, which sim/scenes_test.c holds against the reference policy of sim/reference.c:
 *  - An idle gpu-let starts a batch at once. Behind a running batch the next one closes at the predicted end of that
 *    batch, less the measured hand-over.
 *  - A batch holds requests of one model, by priority and then by deadline, and takes all that fits. It leaves out what
 *    would be late in it, and the core refuses that (LET_ERR_DEADLINE) once no gpu-let can be in time for it.
 *  - Among the models of a gpu-let a full batch goes first where the other models can wait for it. Then the models
 *    within their planned rate go by deadline, and of those beyond it the one furthest behind its rate. Among the idle
 *    gpu-lets of a model, the one furthest behind takes the batch.
 *  - On arrival the core refuses only what certainly fails. A request without a deadline is never late.
 *  - A batch waits for more requests only where config.pbtxt asks for it (max_queue_delay).
 *  - A batch whose gpu-let failed gives its requests back: each is queued again unless it cannot make its deadline
 *    or has failed twice.
 *  - Every request leaves the core exactly once: in a finished batch, refused, or cancelled.
 *
 * A prediction is the median of the device's own times per (model, batch size, gpu-let); the plan's figure stands in
 * for a size that has not run. A gpu-let that has not run a model for a second is tried, whatever its prediction. */
#ifndef LET_CORE_CORE_H
#define LET_CORE_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"
#include "model/ids.h"
#include "model/model.h"
#include "model/request.h"

typedef struct let_core let_core;

typedef struct let_core_limits {
  uint32_t models;   /* at most */
  uint32_t gpulets;  /* at most, old and new generation together */
  uint32_t requests; /* in the core at once */
  uint32_t queue;    /* waiting per model, unless the model says less */
} let_core_limits;

/* A model on a gpu-let: a row of the routing table. */
typedef struct let_core_route {
  uint32_t model;
  let_gpulet_id gpulet;
  uint32_t batch;   /* rows to aim for: "full" */
  uint32_t n_sizes; /* prepared sizes, ascending; the last may exceed |batch| */
  uint32_t size[LET_SIZES_MAX];
  let_dur predict[LET_SIZES_MAX]; /* of one batch of that size, with what is colocated running */
  double rate;                    /* planned requests/s; 0: share by speed */
} let_core_route;

/* An open gpu-let. The server chooses the id and uses it again only after let_core_gpulet_remove. */
typedef struct let_core_gpulet {
  let_gpulet_id id;
  uint32_t depth; /* batches it may hold at once: 1, or 2 where copies overlap compute */
} let_core_gpulet;

typedef enum let_action_kind { LET_ACTION_SUBMIT, LET_ACTION_REFUSE } let_action_kind;

/* What the caller must do now. SUBMIT: put the batch on its gpu-let's ring, and later report it with exactly one of
 * let_core_batch_done and let_core_batch_failed. REFUSE: answer request[0] with |why|. */
typedef struct let_action {
  let_action_kind kind;
  let_err why;
  let_batch_id batch;
  let_gpulet_id gpulet;
  uint32_t model;
  uint32_t size, rows, n; /* prepared size to run, rows in it, requests */
  let_request *request[LET_BATCH_MAX];
} let_action;

LET_CHECKED let_err let_core_new(const let_core_limits *limits, const let_mem *mem, let_core **ret, let_error *e);
void let_core_free(let_core *c); /* requests inside stay the caller's; NULL is fine */

/* Declares model |index|, borrows |m| and reads its slo, queue limits, priorities and max_queue_delay. With a
 * max_queue_delay of LET_NEVER a batch waits for more requests until the slack of its first one has run out: deferred
 * batching, for comparisons. */
LET_CHECKED let_err let_core_model_set(let_core *c, uint32_t index, const let_model *m, let_error *e);

/* Changes the plan in one step, or changes nothing: the new routing table replaces the old one. Batches on a ring
 * finish where they are, gpu-lets that are no longer named drain (let_core_gpulet_idle says when), and requests that
 * wait go by the new routes. */
LET_CHECKED let_err let_core_routes_set(let_core *c, const let_core_gpulet *gpulets, uint32_t n_gpulets,
                                        const let_core_route *routes, uint32_t n_routes, let_time now, let_error *e);
bool let_core_gpulet_idle(const let_core *c, let_gpulet_id gpulet); /* nothing on its ring */
void let_core_gpulet_remove(let_core *c, let_gpulet_id gpulet);     /* must be idle, and no route may lead to it */

/* A gpu-let is lost, or is back. While it is down the core submits nothing to it; the caller still reports the batches
 * on its ring with let_core_batch_failed. */
void let_core_gpulet_down(let_core *c, let_gpulet_id gpulet);
void let_core_gpulet_up(let_core *c, let_gpulet_id gpulet);

/* A request arrives: r->model, rows, priority, arrival and deadline are set. OK: the core has it. Otherwise it was
 * refused and the caller still has it; r->why says it in a sentence. */
LET_CHECKED let_err let_core_arrive(let_core *c, let_request *r, let_time now);

/* The client of |r| went away. True: |r| was still queued, and the caller has it again. False: it is in a running batch
 * and comes back with that. */
bool let_core_cancel(let_core *c, let_request *r);

/* Decides one more thing; false when there is nothing to do until let_core_wake(). Call until false after every
 * event. */
bool let_core_step(let_core *c, let_time now, let_action *ret);
let_time let_core_wake(const let_core *c); /* LET_NEVER: only an event can make a difference */

/* A batch ended: its requests are out of the core and in |ret|, which has room for LET_BATCH_MAX; the caller answers
 * them. |started| and |finished| are the device's own times and correct the prediction of (gpu-let, model, size). |now|
 * is when the caller noticed; the time from |finished| to it does not count against the gpu-let.
 *
 * A batch failed: requests that may still run elsewhere are queued again, the others come out of let_core_step as
 * REFUSE with |why|.
 *
 * Both return false for an unknown id (a worker's stale or forged message): the caller ignores it. */
bool let_core_batch_done(let_core *c, let_batch_id batch, let_time started, let_time finished, let_time now,
                         let_request **ret, uint32_t *ret_n);
bool let_core_batch_failed(let_core *c, let_batch_id batch, let_err why, let_time now);
/* The oldest batch on |gpulet|'s ring, {0} when there is none: to fail them all when a worker dies. */
let_batch_id let_core_batch_on(const let_core *c, let_gpulet_id gpulet);
/* The gpu-let on whose ring |batch| is, {LET_ID_NONE} for an unknown id: a worker may report its own batches only. */
let_gpulet_id let_core_batch_gpulet(const let_core *c, let_batch_id batch);

/* Forgets the times of batches and the rates of models: predictions are the plan's again. For benchmarks. */
void let_core_forget(let_core *c);

/* Introspection. */
uint32_t let_core_queued(const let_core *c, uint32_t model);
uint32_t let_core_running(const let_core *c, uint32_t model);
let_dur let_core_predict(const let_core *c, let_gpulet_id gpulet, uint32_t model, uint32_t size); /* 0: unknown */
bool let_core_validate(const let_core *c, let_error *e); /* every invariant; O(everything), for tests */
void let_core_dump(const let_core *c, let_buf *out);     /* JSON */

#endif
