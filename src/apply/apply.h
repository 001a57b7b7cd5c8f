/* apply.h: from plan generation N to N+1, and keeping what runs alive. Pure: events in, actions out.
 *
 * The unit is a group: the gpu-lets that one worker serves through one set of lanes. With a worker per device a
 * group is the device's whole content; with a worker per gpu-let it is one gpu-let. A plan is a set of groups, each
 * with a key that says all there is to say about its content; a group of the new plan whose key is already serving
 * is kept as it is.
 *
 * A change is a transaction: start workers and prepare the new groups beside the old; when the last one is
 * prepared, SWITCH (the caller changes routing in one step), then drain and retire the old. Any failure
 * before the switch takes the new groups back and leaves the old generation serving.
 *
 *   group:  PREPARING -> PREPARED -> SERVING -> DRAINING -> RETIRING -> gone
 *                                       |  ^ worker lost: PREPARING again in a new worker, then UP
 *   worker: STARTING -> READY -> (STOPPING) -> gone;  lost: BACKOFF -> STARTING
 */
#ifndef LET_APPLY_APPLY_H
#define LET_APPLY_APPLY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "base/time.h"

enum { LET_APPLY_KEY_MAX = 64, LET_APPLY_NONE = UINT32_MAX };

typedef struct let_apply let_apply;

typedef struct let_apply_want {
  uint64_t key;    /* hash of the content: equal keys are interchangeable */
  uint64_t worker; /* hash of the worker it must run in (the device); 0: a worker of its own */
} let_apply_want;

typedef enum let_apply_kind {
  LET_APPLY_START,   /* start a process for |worker| */
  LET_APPLY_PREPARE, /* send `prepare` for |group| to |worker| */
  LET_APPLY_SWITCH,  /* route to the groups that let_apply_group_wanted names and nothing else; answer at once with
                        let_apply_switched or let_apply_switch_failed */
  LET_APPLY_UP,      /* |group| is back after its worker was lost */
  LET_APPLY_RETIRE,  /* send `retire` for |group| */
  LET_APPLY_STOP,    /* send `stop` to |worker| (kill it when it does not obey) */
  LET_APPLY_FREE,    /* |group| is gone: forget its lanes */
  LET_APPLY_APPLIED, /* |generation| serves and the old one is gone */
  LET_APPLY_FAILED,  /* |generation| was taken back; |text| says why */
  LET_APPLY_KILL /* |worker| has not answered in time (|text|): make sure that it ends, then let_apply_worker_lost */
} let_apply_kind;

typedef struct let_apply_action {
  let_apply_kind kind;
  uint32_t group, worker;
  uint64_t generation;
  const char *text;
} let_apply_action;

LET_CHECKED let_err let_apply_new(uint32_t max_groups, const let_mem *mem, let_apply **ret, let_error *e);
void let_apply_free(let_apply *a);

/* How long a worker may take to become ready, to prepare a group, and to retire one; LET_NEVER (the default): for ever.
 * One that takes longer is killed, and a change that waited for it is taken back. */
void let_apply_set_patience(let_apply *a, let_dur patience);

/* Starts the change to |n| wanted groups; ret_group[i] is the slot of want[i] and ret_new[i] whether the caller must
 * fill it (a new group) or it is one that serves already. Errors: AGAIN (a change is under way), NOMEM (table full). */
LET_CHECKED let_err let_apply_begin(let_apply *a, uint64_t generation, const let_apply_want *want, uint32_t n,
                                    uint32_t *ret_group, bool *ret_new, let_error *e);
bool let_apply_busy(const let_apply *a); /* a change is under way (the old generation may still drain) */

/* Events. */
void let_apply_worker_ready(let_apply *a, uint32_t worker, let_time now);
void let_apply_worker_lost(let_apply *a, uint32_t worker, const char *why,
                           let_time now); /* exited, killed, or never started; also after STOP */
void let_apply_group_prepared(let_apply *a, uint32_t group, let_time now);
void let_apply_group_failed(let_apply *a, uint32_t group, const char *why, let_time now);
void let_apply_group_drained(let_apply *a, uint32_t group); /* nothing of it is on a ring any more */
void let_apply_group_retired(let_apply *a, uint32_t group);
void let_apply_switched(let_apply *a); /* routing points to the wanted groups now */
void let_apply_switch_failed(let_apply *a, const char *why);
void let_apply_stop_all(let_apply *a); /* shutdown: no restarts; every worker is stopped */

/* Next action; false when there is none before let_apply_wake(). */
bool let_apply_step(let_apply *a, let_time now, let_apply_action *ret);
let_time let_apply_wake(const let_apply *a);

/* State, for routing and for people. */
bool let_apply_group_wanted(const let_apply *a, uint32_t group);  /* belongs to the newest generation */
bool let_apply_group_serving(const let_apply *a, uint32_t group); /* prepared and part of the routed generation */
bool let_apply_group_routed(
    const let_apply *a, uint32_t group); /* routing names it: it serves, or will again once its worker is replaced */
bool let_apply_group_draining(const let_apply *a, uint32_t group);
uint32_t let_apply_group_worker(const let_apply *a, uint32_t group);
bool let_apply_group_in_use(const let_apply *a, uint32_t group);
uint32_t let_apply_group_of(const let_apply *a, uint32_t worker,
                            uint32_t after); /* next group (> after, or from LET_APPLY_NONE) in that worker */
bool let_apply_idle(const let_apply *a);     /* no worker is left: after let_apply_stop_all */
const char *let_apply_group_state(const let_apply *a, uint32_t group);
bool let_apply_worker_busy(const let_apply *a,
                           uint32_t worker); /* it starts, prepares or retires: may be silent for long */

#endif
