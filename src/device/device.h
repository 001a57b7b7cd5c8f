/* device.h: what a worker runs batches on. cuda/ (driver API, dlopened), cpu/, sim/.
 *
 * A device is opened once by a worker; gpu-lets are opened on it and closed again; each open gpu-let belongs to
 * one thread. Work on a gpu-let runs in the order it was enqueued: copy in, launch, copy out, then `mark` gives
 * a ticket and `wait` blocks (without spinning a core) until everything before the mark is done. On CPU and sim
 * the calls simply do their work; on a GPU they only enqueue it, so a worker may enqueue the next batch before
 * it waits for the last one.
 *
 * Error classes: INVALID (this batch), GPULET (close and reopen the gpu-let), DEVICE (restart the worker). */
#ifndef LET_DEVICE_DEVICE_H
#define LET_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/time.h"
#include "gpulet/engine.h"
#include "model/profile.h"

typedef struct let_device let_device;
typedef struct let_gpulet let_gpulet; /* an open gpu-let */

typedef struct let_device_health {
  double utilization, power_w; /* -1: unknown */
  uint64_t memory_used, memory_total;
  char uuid[64];
} let_device_health;

/* What a directory under device/ implements. Every entry is mandatory. */
typedef struct let_device_i {
  const char *name; /* "cpu", "sim", "cuda" */
  void (*close_device)(let_device *d);
  const let_device_type *(*type)(const let_device *d);
  let_err (*health)(let_device *d, let_device_health *ret, let_error *e);
  /* Shared memory the copies will read and write: pinned on a GPU. */
  let_err (*pin)(let_device *d, void *p, uint64_t bytes, let_error *e);
  void (*unpin)(let_device *d, void *p);
  /* Makes now what opening a gpu-let would otherwise make while others serve. */
  let_err (*prewarm)(let_device *d, let_error *e);
  /* Granules [first, first+granules); |shared|: the whole device, no partition. |number| < 64 names the gpu-let
   * within the worker. */
  let_err (*open)(let_device *d, uint32_t number, uint32_t first, uint32_t granules, bool shared, let_gpulet **ret,
                  let_error *e);
  void (*close)(let_gpulet *g);
  void (*target)(const let_gpulet *g, let_engine_target *ret);
  /* On the gpu-let's thread, before anything below: affinity, current context. */
  let_err (*enter)(let_gpulet *g, let_error *e);
  let_err (*copy_in)(let_gpulet *g, void *dst, const void *src, uint64_t bytes, let_error *e);
  let_err (*launch)(let_gpulet *g, let_exec *x, let_error *e);
  let_err (*copy_out)(let_gpulet *g, void *dst, const void *src, uint64_t bytes, let_error *e);
  /* |instance| 0 or 1. */
  let_err (*mark)(let_gpulet *g, int instance, let_error *e);
  /* Blocks until what the last mark of |instance| covers is done; *ret_started and *ret_finished in
   * CLOCK_MONOTONIC ns. Errors: DEADLINE after |timeout| (the watchdog), GPULET, DEVICE. */
  let_err (*wait)(let_gpulet *g, int instance, let_dur timeout, let_time *ret_started, let_time *ret_finished,
                  let_error *e);
  /* Readable once what the last mark of |instance| covers is done, until wait() has returned; -1: there is none (wait
   * then). With it a worker takes in the next batch while one runs. A failed device may never make it readable. */
  int (*done_fd)(const let_gpulet *g, int instance);
  /* From now on, for measurements: wait() does not sleep, and times are the device's own and hold neither copies in nor
   * what it takes to see the end. */
  let_err (*timing_exact)(let_gpulet *g, let_error *e);
  int depth; /* batches a worker may have enqueued on a gpu-let at once: 1 or 2 */
} let_device_i;

struct let_device {
  const let_device_i *i;
};
struct let_gpulet {
  let_device *device;
};

/* Launches an exec of varying shape on |in|, whose batch dimension is |rows|, like any other exec. */
let_err let_device_launch_varying(let_gpulet *g, let_exec *x, const let_exec_tensor *in, uint32_t rows, let_error *e);

/* Host memory that copies use, page-aligned. Zeroed: none. */
typedef struct let_pinned {
  void *p;
  uint64_t bytes;
} let_pinned;
/* Makes room for |bytes|; the old content is lost, so no copy may use it. Errors: NOMEM and those of pin(); *b is empty
 * then. */
LET_CHECKED let_err let_pinned_reserve(let_device *d, let_pinned *b, uint64_t bytes, let_error *e);
void let_pinned_free(let_device *d, let_pinned *b);

/* Opens "cpu:0-1", "cuda:0", "sim:h200#3". |profile_dir|: for sim, where the latencies come from; "" for the
 * built-in default. Errors: INVALID (how to write it), NOT_FOUND (no such device; lists what there is). */
LET_CHECKED let_err let_device_open(const char *name, const char *profile_dir, let_device **ret, let_error *e);

/* Expands `--devices`: "auto", "cpu", "cpu:0-3", "cuda:0,1", "sim:h200x4", or several joined
 * by "+" -> one name per device for let_device_open, with its type where that can be told without opening it. */
typedef struct let_device_name {
  char name[64];
  let_device_type type;
} let_device_name;
LET_CHECKED let_err let_device_list(const char *spec, const char *profile_dir, let_device_name *ret, uint32_t cap,
                                    uint32_t *ret_n, let_error *e);

#endif
