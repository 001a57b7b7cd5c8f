/* workload.h: models, rates and SLOs to plan for or to drive, from YAML:
 *
 *   models:
 *     - {name: resnet50, rate: 1200/s, slo: 20ms}
 */
#ifndef LET_CONF_WORKLOAD_H
#define LET_CONF_WORKLOAD_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/plan.h"

enum { LET_WORKLOAD_MAX = 100000 };

/* Errors: INVALID "path:line:column: field: ...", and let_file_read's. |slo| may be left out (0: the model's own). */
LET_CHECKED let_err let_workload_load(const char *path, let_arena *a, let_workload *ret, let_error *e);
LET_CHECKED let_err let_workload_parse(let_str text, const char *name, let_arena *a, let_workload *ret, let_error *e);

/* True for the prototype's task files ("*.csv"), which profile/ reads; let_workload_load refuses them with a hint. */
bool let_workload_is_csv(const char *path);

#endif
