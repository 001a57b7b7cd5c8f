/* serve.h: the server: wires front, core, ring, fleet and the workers together on one event loop.
 *
 *   request:   front -> core (queue, batch, route) -> ring -> worker -> ring -> front       infer.c, turn.c
 *   decision:  plan -> fleet (start, prepare, switch, drain, retire)                        offer.c, perform.c
 *
 * It never sees a device or an engine: those live in the workers. */
#ifndef LET_SERVE_SERVE_H
#define LET_SERVE_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/time.h"
#include "model/model.h"
#include "model/plan.h"
#include "model/profile.h"

/* A device that plans may use. */
typedef struct let_serve_device {
  char name[64]; /* what a worker opens: "cpu:0-1", "cuda:0", "sim:h200#0" */
  let_device_type type;
  bool worker_per_gpulet; /* a process for each gpu-let (CPU, MPS), or one for the device (green contexts, sim) */
  uint32_t depth;         /* batches in flight per gpu-let */
  /* MPS: environment of a worker whose gpu-let owns |percent| of the device; NULL: nothing to add. The worker then has
   * its share from there and opens the whole of what it sees. Returns how many "NAME=value" strings were put into
   * |ret|; they must last until the next call. */
  int (*environment)(void *ctx, double percent, const char **ret, int cap);
  void *environment_ctx;
} let_serve_device;

/* A process that the workers of devices with an |environment| need: the MPS daemon. When it ends, those workers are
 * killed, and started again after restart() succeeds. */
typedef struct let_serve_helper {
  const char *name;
  int (*fd)(void *ctx); /* readable once it has ended */
  let_err (*restart)(
      void *ctx,
      let_error *e); /* may take seconds: called on a thread of its own; environment() is not called meanwhile */
  void *ctx;
} let_serve_helper;

/* The seam to planning: serve asks one function for a plan: at start on the calling thread, on SIGHUP on a thread
 * beside the loop, never two at once. */
typedef struct let_serve_planner {
  let_err (*make)(void *ctx, let_arena *arena, let_plan *ret, let_error *e);
  void *ctx;
} let_serve_planner;

typedef struct let_serve_options {
  const char *host;
  int64_t http_port, metrics_port; /* 0: any free port, printed at start; metrics_port -1: none */
  uint64_t arena_bytes;
  int64_t requests; /* in flight at most */
  int64_t connections;
  uint64_t body_max;
  let_dur head_timeout, body_timeout, idle_timeout, exit_timeout;
  int64_t queue;           /* waiting requests per model */
  let_dur default_slo;     /* for models without slo_ms, in plans that name none; 0: none, those have no deadline */
  let_dur spin;            /* how long a worker looks at its ring before it sleeps */
  const char *profile_dir; /* for sim devices, "" otherwise */
  const char *plugin_dir;  /* where libgpulet_torch.so is, "" for the usual places */
  const char *program;     /* path of the gpulet binary, started with "worker" */
  let_dur
      prepare_timeout; /* a worker that takes longer to start or to prepare is killed, and the plan is rolled back */
  const let_serve_helper *helper; /* NULL: none */
  bool spare;                     /* a second, prepared worker for every device with a worker of its own */
  const char *ready_file;         /* written once serving: "http PORT\nmetrics PORT\n"; NULL: none */
} let_serve_options;

/* Serves until SIGTERM or SIGINT; then answers what is in flight and returns OK. Blocks; takes the process's signal
 * handling for itself. Errors: whatever kept it from starting, or LET_ERR_DEADLINE when requests were still in
 * flight after exit_timeout. |models| and |devices| are borrowed. */
LET_CHECKED let_err let_serve_run(const let_serve_options *o, const let_model *models, uint32_t n_models,
                                  const let_serve_device *devices, uint32_t n_devices, const let_serve_planner *planner,
                                  let_error *e);

/* A plan without a profile: every model gets a share, devices and cores are divided evenly by the size of the model
 * files, and batches go up to what the model allows. */
LET_CHECKED let_err let_serve_default_plan(const let_model *models, uint32_t n_models, const let_serve_device *devices,
                                           uint32_t n_devices, let_arena *arena, let_plan *ret, let_error *e);

#endif
