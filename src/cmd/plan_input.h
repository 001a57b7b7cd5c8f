/* plan_input.h: what `gpulet plan` and `gpulet serve --workload` both turn from words into a let_plan_input. */
#ifndef LET_CMD_PLAN_INPUT_H
#define LET_CMD_PLAN_INPUT_H

#include "plan/plan.h"

enum { LET_POOLS_MAX = 16 };

/* Cuts |*s| at the next comma. False: nothing is left. */
bool let_cmd_next_item(let_str *s, let_str *ret);

/* "DIR[,DIR...]" -> one pool per profile, with no devices yet. Every problem of a profile goes to stderr before the
 * error sums them up. Errors: INVALID, NOT_FOUND, IO, NOMEM. */
LET_CHECKED let_err let_cmd_profiles(const char *list, let_arena *a, let_plan_pool pool[LET_POOLS_MAX], uint32_t *ret_n,
                                     let_error *e);

/* Errors: INVALID, with the nearest name there is. */
LET_CHECKED let_err let_cmd_policy(const char *name, const let_policy **ret, let_error *e);

double let_cmd_now_ms(void *ctx);     /* for let_plan_input.now_ms; |ctx| is not looked at */
bool let_cmd_expired(void *until_ms); /* for let_plan_input.expired: a double in let_cmd_now_ms's time */

#endif
