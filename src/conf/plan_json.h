/* plan_json.h: the plan document, read and written.
 *
 *   {"policy": "optimal", "feasible": true, "gpus_used": 1, "lower_bound_gpus": 1, "cost": 1, "time_ms": 0.4,
 *    "reasons": [],
 *    "gpus": [{"id": 0, "type": "h200", "granules": 16, "gpulets": [
 *      {"first": 0, "granules": 8, "share": 50, "models": [
 *        {"name": "lenet", "batch": 8, "rate": 300, "latency_ms": 1.5, "slo_ms": 5}]}]}]}
 *
 * A person may leave out all but gpus, gpulets, models, name, batch and one of granules and share; share needs to know
 * the device's granules. A gpu-let with "shared": true overlaps its neighbours. */
#ifndef LET_CONF_PLAN_JSON_H
#define LET_CONF_PLAN_JSON_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/plan.h"

/* A device's "granules" that is left out is worked out from a gpu-let that gives both granules and share. The
 * result has passed let_plan_validate and lives in |a|. Errors: INVALID "file:line:column: ..." where the text is no
 * JSON, "file: gpus[0].gpulets[1].models[0].batch: ..." where a field is wrong; NOMEM. */
LET_CHECKED let_err let_plan_parse(const char *text, size_t len, const char *file, let_arena *a, let_plan *ret,
                                   let_error *e);
LET_CHECKED let_err let_plan_load(const char *path, let_arena *a, let_plan *ret, let_error *e);

/* Appends the document, a line feed at its end. What let_plan_parse reads back is equal. */
void let_plan_to_json(const let_plan *p, let_buf *out);

#endif
