/* profile.h: what was measured about models on a device type: latency by (batch, granules), memory, and how
 * neighbours on one device slow each other down. Read by plan/, core/ and sim; loaded, saved, fitted by profile/.
 *
 * Latencies between measured points are interpolated (in batch linearly, in granules on 1/granules), monotone:
 * never less for a larger batch or fewer granules. Outside the measured range is an error (LET_ERR_NOT_FOUND)
 * unless the caller asks for extrapolation. Source of the latency model: ATC'22 section 4.1. */
#ifndef LET_MODEL_PROFILE_H
#define LET_MODEL_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/time.h"
#include "model/model.h"

typedef struct let_device_type {
  char name[64];             /* "h200", "2080ti", "cpu" */
  uint32_t sms;              /* streaming multiprocessors; cores on CPU */
  uint32_t granules;         /* schedulable groups */
  uint32_t granule_sms;      /* SMs of a granule */
  uint32_t last_granule_sms; /* the last granule may be larger (H200: 12); == granule_sms when not */
  uint64_t memory_bytes;
  double cost;      /* of one device, in any unit; 1 when not given */
  double bandwidth; /* bytes/s of input a device can take (PCIe or network); 0: not a constraint */
} let_device_type;

/* Percent of a device that |granules| of them are, for people (8 granules of 16 -> 50). */
double let_share_percent(const let_device_type *d, uint32_t granules);
uint32_t let_share_sms(const let_device_type *d,
                       uint32_t granules); /* SMs, the larger last granule counted when all are taken */

typedef struct let_cell {
  uint32_t batch, granules;
  double p50_ms, p99_ms;
} let_cell;

/* Interference of one model at one batch, by whatever fitted model the profile carries (profile/fit.c).
 * pressure: what it does to its neighbours; sensitivity: what they do to it. Dimensionless, >= 0. delay_ms: what they
 * add to a batch whatever its size (its copies and launches wait their turn). */
typedef struct let_pressure {
  double l2_util, dram_util;              /* 0..1, for the linear model of the prototype */
  double pressure, sensitivity, delay_ms; /* for ours */
} let_pressure;

typedef enum let_interference_kind {
  LET_INTERFERENCE_NONE,   /* nothing measured: predicts 1 and the plan says so */
  LET_INTERFERENCE_LINEAR, /* alpha = c1 l2_self + c2 l2_other + c3 dram_self + c4 dram_other + c5, shares multiplied in
                            */
  LET_INTERFERENCE_PRESSURE
} let_interference_kind;

/* What coef[] means, by kind. The defaults stand in for a model without a pressure row of its own. */
enum {
  LET_COEF_L2_SELF = 0,
  LET_COEF_L2_OTHER,
  LET_COEF_DRAM_SELF,
  LET_COEF_DRAM_OTHER,
  LET_COEF_CONSTANT, /* LINEAR */
  LET_COEF_SHARE_SELF = 0,
  LET_COEF_SHARE_OTHER,
  LET_COEF_SATURATION, /* PRESSURE: exponents and curvature */
  LET_COEF_DEFAULT_L2 = 8,
  LET_COEF_DEFAULT_DRAM,
  LET_COEF_DEFAULT_PRESSURE,
  LET_COEF_DEFAULT_SENSITIVITY,
  LET_COEF_DEFAULT_DELAY,
  LET_COEF_COUNT = 16
};
#define LET_SHARE_OTHER_MIN \
  0.05 /* the least exponent of a neighbour's share: nearly "only the worst neighbour counts" */

typedef struct let_profile_model {
  char name[LET_NAME_MAX];
  uint32_t n_cells;
  let_cell *cell; /* sorted by (batch, granules); complete: every batch at every measured granule count */
  uint32_t n_batches, n_granules;
  uint32_t *batch, *granule; /* the axes, ascending */
  uint32_t n_memory;
  struct {
    uint32_t batch;
    uint64_t bytes;
  } * memory; /* ascending batch; n_memory == 0: unknown, counted as 0 and said so */
  uint32_t n_pressure;
  struct {
    uint32_t batch;
    let_pressure p;
  } * pressure;         /* ascending batch */
  uint64_t input_bytes; /* of one row, for the bandwidth constraint; 0 unknown */
} let_profile_model;

typedef struct let_profile {
  let_device_type device;
  uint32_t n_models;
  let_profile_model *model; /* sorted by name */
  let_interference_kind interference;
  double coef[LET_COEF_COUNT];   /* of the interference model; meaning by kind */
  double interference_error_p95; /* held-out relative error, for reports */
} let_profile;

/* One tenant of a device, seen by its neighbours. |busy| is the fraction of time it runs (1 when not known). */
typedef struct let_tenant {
  uint32_t model; /* index into let_profile.model */
  uint32_t batch, granules;
  double busy;
} let_tenant;

enum { LET_PROFILE_P50 = 1, LET_PROFILE_P99 = 0, LET_PROFILE_EXTRAPOLATE = 2 };

/* Index of |name|, or UINT32_MAX. */
uint32_t let_profile_find(const let_profile *p, const char *name);

/* Latency of one batch, alone on its granules. Errors: NOT_FOUND outside the measured range (the text says
 * which cell is missing and what is measured). */
LET_CHECKED let_err let_profile_latency(const let_profile *p, uint32_t model, uint32_t batch, uint32_t granules,
                                        unsigned flags, let_dur *ret, let_error *e);

/* p99 of batches 1 to |most| at once: ret[batch - 1] is what let_profile_latency says, or LET_NEVER where that is an
 * error. */
void let_profile_latencies(const let_profile *p, uint32_t model, uint32_t granules, uint32_t most, let_dur *ret);

/* How many times longer tenant |self| takes beside the |n| others on the same device. >= 1. Times the p99 latency alone
 * it never falls with a larger batch or fewer granules of |self|, nor with one more neighbour. */
double let_profile_slowdown(const let_profile *p, const let_tenant *self, const let_tenant *others, uint32_t n);

/* Bytes the model occupies at this batch (weights and activations); interpolated, the next larger batch's when in
 * doubt. */
uint64_t let_profile_memory(const let_profile *p, uint32_t model, uint32_t batch);

/* Raises cells until no latency is less for a larger batch or fewer granules (the least such surface above the
 * measured one): interpolation is monotone only after this. Loading a profile does it; call it on hand-made ones. */
void let_profile_envelope(let_profile_model *m);

#endif
