/* model.h: what a model is: tensors, batching, SLO. Filled from config.pbtxt by conf/, read by both flows. */
#ifndef LET_MODEL_MODEL_H
#define LET_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "base/time.h"

enum {
  LET_RANK_MAX = 8,     /* dimensions of a tensor, batch dimension included */
  LET_TENSORS_MAX = 16, /* inputs, or outputs, of one model */
  LET_NAME_MAX = 128,   /* bytes of a model or tensor name, terminator included */
  LET_BATCH_MAX = 256,  /* rows of one batch, and so requests of one batch */
  LET_SIZES_MAX = 32    /* batch sizes that one model is prepared for */
};

/* name, OIP name, config.pbtxt name, bytes per element (0: variable) */
#define LET_DTYPE_MAP(X)                   \
  X(INVALID, "INVALID", "TYPE_INVALID", 0) \
  X(BOOL, "BOOL", "TYPE_BOOL", 1)          \
  X(UINT8, "UINT8", "TYPE_UINT8", 1)       \
  X(UINT16, "UINT16", "TYPE_UINT16", 2)    \
  X(UINT32, "UINT32", "TYPE_UINT32", 4)    \
  X(UINT64, "UINT64", "TYPE_UINT64", 8)    \
  X(INT8, "INT8", "TYPE_INT8", 1)          \
  X(INT16, "INT16", "TYPE_INT16", 2)       \
  X(INT32, "INT32", "TYPE_INT32", 4)       \
  X(INT64, "INT64", "TYPE_INT64", 8)       \
  X(FP16, "FP16", "TYPE_FP16", 2)          \
  X(FP32, "FP32", "TYPE_FP32", 4)          \
  X(FP64, "FP64", "TYPE_FP64", 8)          \
  X(BYTES, "BYTES", "TYPE_STRING", 0)      \
  X(BF16, "BF16", "TYPE_BF16", 2)

#define X(name, oip, pb, size) LET_DTYPE_##name,
typedef enum let_dtype { LET_DTYPE_MAP(X) LET_DTYPE_COUNT } let_dtype;
#undef X

const char *let_dtype_name(let_dtype t);    /* "FP32" */
const char *let_dtype_pb_name(let_dtype t); /* "TYPE_FP32" */
uint32_t let_dtype_size(let_dtype t);       /* 4; 0 for BYTES and INVALID */
let_dtype let_dtype_of(let_str oip_name);   /* LET_DTYPE_INVALID when unknown */
let_dtype let_dtype_of_pb(let_str pb_name);

/* One input or output as the configuration declares it. |dims| excludes the batch dimension when the model
 * batches (max_batch > 0); -1 is a dimension that varies from request to request. */
typedef struct let_tensor_spec {
  char name[LET_NAME_MAX];
  let_dtype dtype;
  uint8_t rank;
  bool optional;
  int64_t dims[LET_RANK_MAX];
  char label_file[LET_NAME_MAX];
} let_tensor_spec;

typedef enum let_precision { LET_PRECISION_FP32, LET_PRECISION_FP16, LET_PRECISION_BF16 } let_precision;

/* A served model. Plain data: copy and compare freely. */
typedef struct let_model {
  char name[LET_NAME_MAX];
  char platform[LET_NAME_MAX]; /* "pytorch_libtorch", "gpulet_null" */
  char backend[LET_NAME_MAX];  /* "pytorch", "null" */
  char file[LET_NAME_MAX];     /* default_model_filename, "model.pt" */
  char dir[512];               /* <repository>/<model> */
  int64_t version;             /* the one being served: the largest directory number, or version_policy's */
  uint32_t max_batch;          /* rows; 0: the model does not batch and |dims| are whole shapes */
  uint8_t n_inputs, n_outputs;
  let_tensor_spec input[LET_TENSORS_MAX], output[LET_TENSORS_MAX];
  let_dur slo;              /* parameters { key: "slo_ms" }; 0: none was given */
  let_dur max_queue_delay;  /* dynamic_batching { max_queue_delay_microseconds }; LET_NEVER: until slack runs out */
  uint32_t max_queue;       /* requests waiting at most (default_queue_policy.max_queue_size); 0: the server's limit */
  uint8_t priority_levels;  /* dynamic_batching.priority_levels; 0: one level */
  uint8_t default_priority; /* 1 = highest .. priority_levels */
  let_dur default_timeout;  /* default_queue_policy.default_timeout_microseconds; 0: the SLO */
  bool allow_timeout_override; /* default_queue_policy.allow_timeout_override; true unless the policy forbids it */
  uint8_t n_sizes;             /* dynamic_batching.preferred_batch_size, ascending; 0: powers of two */
  uint32_t size[LET_SIZES_MAX];
  let_precision precision;    /* parameters { key: "precision" value "fp16" } */
  bool channels_last;         /* parameters { key: "memory_format" value "channels_last" } */
  uint64_t output_bytes_hint; /* parameters { key: "max_output_bytes" }: per row, for outputs with -1 dims; 0: learnt */
  uint32_t null_us;           /* backend "null": microseconds that one batch takes (parameters "null_us") */
} let_model;

/* Bytes of one row of |t| (batch dimension excluded); 0 when a dimension varies or the type has no fixed size,
 * UINT64_MAX when the product overflows. */
uint64_t let_tensor_row_bytes(const let_tensor_spec *t);

/* The batch sizes |m| is prepared for, ascending, last one == max(max_batch, 1). Returns how many. */
uint32_t let_model_sizes(const let_model *m, uint32_t out[LET_SIZES_MAX]);

#endif
