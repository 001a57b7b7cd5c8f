/* plan_print.h: a plan for people. */
#ifndef LET_CMD_PLAN_PRINT_H
#define LET_CMD_PLAN_PRINT_H

#include "base/str.h"
#include "model/plan.h"

/* A table, then each device as a bar of its granules at most |width| columns wide, then bound and reasons. */
void let_plan_print(const let_plan *p, uint32_t width, bool colour, let_buf *out);

/* gpu,share,dedup,model,batch,duty_cycle_ms; what no model uses is "reserved". Shares are whole percents. */
void let_plan_print_glet(const let_plan *p, let_buf *out);

#endif
