/* engine.h: the plugin interface: what turns a model file into something a device can run. An engine is a shared
 * library that workers dlopen and that exports LET_ENGINE_ENTRY; src/engine/torch is one, src/engine/null is built in.
 *
 * Version rule. LET_ENGINE_ABI is one number, and a plugin works with exactly the one that it was built with. It is
 * raised by the commit that changes anything that a plugin sees: a struct, an order of fields, a rule about who calls
 * what when, here or in the headers that this one includes (let_model, let_error, the numbers of let_err). A worker
 * passes its number to the entry; a plugin of another number returns NULL, and the worker says so and names the file.
 * There is no range of numbers that work together: plugins are built from the tree that the program was built from.
 * src/engine/open.c holds the sizes of these structs, so that a change without a new number does not compile.
 *
 * The split between engine and device: the engine knows models (load, prepare one batch size on one gpu-let,
 * with buffers at fixed addresses); the device knows how to move bytes and to run what was prepared, in order,
 * on a gpu-let. On a GPU an exec carries a captured CUDA graph and the device launches it from C; the engine is
 * not on the hot path. */
#ifndef LET_GPULET_ENGINE_H
#define LET_GPULET_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/time.h"
#include "model/model.h"

enum { LET_ENGINE_ABI = 3 }; /* the version rule is above */

/* Where an engine is to run: filled by the device. */
typedef struct let_engine_target {
  int cuda;      /* CUDA ordinal, or -1: host memory */
  void *context; /* CUDA: the gpu-let's CUcontext (green context converted), else NULL */
  void *stream;  /* CUDA: the gpu-let's CUstream; NULL on CPU */
  int threads;   /* CPU: intra-op threads of this gpu-let */
  /* The gpu-let's number within the worker: graphs of one gpu-let may share memory, outputs too; others not. */
  uint32_t gpulet;
  void *workspace; /* CUDA: device memory for library workspaces, owned by the gpu-let; NULL: none */
  uint64_t workspace_bytes;
} let_engine_target;

/* A tensor of a prepared batch at a fixed address, in device memory on a GPU. */
typedef struct let_exec_tensor {
  void *data;
  uint64_t row_bytes; /* inputs and outputs with a batch dimension: bytes of one row; otherwise of the whole tensor */
  uint8_t dtype, rank;
  int64_t shape[LET_RANK_MAX]; /* batch dimension included, == the prepared size */
} let_exec_tensor;

/* One model prepared for one batch size on one gpu-let. The engine owns it; in[] and out[] are in the order of
 * the model's configuration. An exec is used by one thread at a time. */
typedef struct let_exec let_exec;
struct let_exec {
  uint32_t size; /* rows it runs, padding included */
  uint8_t n_in, n_out;
  let_exec_tensor in[LET_TENSORS_MAX];
  let_exec_tensor out[LET_TENSORS_MAX]; /* with |dynamic| valid only after run() and only for that batch */
  bool dynamic;                         /* shapes vary from request to request: use run_dynamic */
  void **graphs;                        /* CUgraphExec, launched one after another; of the engine's */
  uint32_t n_graphs;                    /* 0: call run() */
  /* Enqueues (GPU) or executes (CPU) the batch found in in[].data. NULL |stream| on CPU. */
  let_err (*run)(let_exec *x, void *stream, let_error *e);
  /* For models whose dims vary (-1), and for inputs of whatever shape: inputs given as tensors of |rows| rows
   * at |in| (host pointers on CPU, device pointers on GPU; shapes include the batch dimension); sets out[]. */
  let_err (*run_dynamic)(let_exec *x, const let_exec_tensor *in, void *stream, let_error *e);
  uint64_t memory_bytes; /* device memory this exec holds beyond the weights */
  void *impl;
  const char *model; /* the model's name; set by the worker after prepare, read by sim */
};

typedef struct let_engine_model let_engine_model; /* loaded weights, shared by all gpu-lets of the worker */

/* An engine. All calls come from the worker's control thread except exec->run. Models are borrowed and must
 * outlive what is made from them. */
typedef struct let_engine {
  int abi; /* LET_ENGINE_ABI */
  const char *name;
  const char *version; /* of the library behind it: "libtorch 2.11.0" */
  /* Loads |m| for |cuda| (ordinal or -1). Errors name the file and what is wrong with it. */
  let_err (*load)(const let_model *m, int cuda, let_engine_model **ret, let_error *e);
  void (*unload)(let_engine_model *em);
  uint64_t (*weights_bytes)(const let_engine_model *em);
  /* Prepares one (size, gpu-let): buffers, warm-up, and on a GPU graph capture. |instance| 0 or 1: two execs of
   * the same cell with separate buffers, so that copies overlap the other's compute. A model that cannot be
   * captured comes back without graphs, runs eagerly, and |ret_note| says why (static or model-owned text). */
  let_err (*prepare)(let_engine_model *em, const let_engine_target *t, uint32_t size, int instance, let_exec **ret,
                     const char **ret_note, let_error *e);
  void (*discard)(let_exec *x);
  /* Called once on a gpu-let's own thread before it runs anything: thread-local settings (threads, streams). */
  let_err (*enter)(const let_engine_target *t, let_error *e);
} let_engine;

/* Every plugin exports this symbol. NULL when |abi| is not its own. */
#define LET_ENGINE_ENTRY "gpulet_engine"
typedef const let_engine *(*let_engine_entry)(int abi);

#endif
