/* glet.h: the files of the prototype (casys-kaist/glet). Its tables come without headers, its shares are percent. */
#ifndef LET_PROFILE_GLET_H
#define LET_PROFILE_GLET_H

#include "profile/profile.h"

/* A task file: the number of tasks, then "model_id,rate,slo_ms," each. Ids count the prototype's models, lenet1 first.
 * Errors: INVALID with file:line:column. */
LET_CHECKED let_err let_glet_tasks(let_profile_file f, let_arena *a, let_workload *ret, let_error *e);

/* Resource directory -> profile. Reads device-config.json and what it names (latency, utilisation, interference
 * constants), sched-config.json, mem-config.json, config/<model>.json and the batching overhead tables. |device| NULL:
 * the scheduler's. What the prototype adds to a latency is in the cells: p50 = latency + batching overhead, p99 = p50 x
 * its latency ratio. A granule is 10 % of the device, so its shares are exact. Errors: NOT_FOUND, with what to do, when
 * latency.csv is missing (the prototype does not publish it), IO, INVALID, NOMEM. */
LET_CHECKED let_err let_glet_import(const char *dir, const char *device, let_arena *a, let_profile *ret, let_error *e);

/* The texts apart from their files, for tests and fuzzing; absent ones have text.p == NULL. */
typedef struct let_glet_texts {
  let_profile_file devices, sched, memory, latency, util, constants;
} let_glet_texts;
typedef struct let_glet_device {
  char type[64], latency[256], util[256], constants[256];
  double memory_mib, latency_ratio;
} let_glet_device;
LET_CHECKED let_err let_glet_devices(let_profile_file devices, let_profile_file sched, const char *want,
                                     let_glet_device *ret, let_error *e);
LET_CHECKED let_err let_glet_parse(const let_glet_texts *t, const let_glet_device *d, let_arena *a, let_profile *ret,
                                   let_error *e);

#endif
