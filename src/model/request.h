/* request.h: one inference request, from the last byte read to the response sent, and the batches they form.
 *
 * A request has two halves. The let_record lies in memory shared with the workers: plain data, offsets instead
 * of pointers, so that a worker may die at any instruction and leave nothing dangling. The let_request is the
 * server's own: nothing a worker writes can reach it.
 *
 * Life (let_stage): the front takes a request from the server's pool, fills the record while it parses, and
 * hands it over with its deadline. From then on it completes exactly once, through one function. */
#ifndef LET_MODEL_REQUEST_H
#define LET_MODEL_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/heap.h"
#include "base/time.h"
#include "model/model.h"

/* A tensor inside the arena. POD: lies in shared memory. */
typedef struct let_tensor {
  uint64_t offset; /* of the first byte, from the start of the arena; no alignment is promised for inputs */
  uint64_t bytes;
  int64_t shape[LET_RANK_MAX]; /* batch dimension included */
  uint8_t rank;
  uint8_t dtype;   /* let_dtype */
  uint8_t present; /* inputs: 0 when an optional input was not sent */
  uint8_t pad[5];
} let_tensor;

/* The shared half. Inputs are in the model's order of inputs, outputs in its order of outputs. */
typedef struct let_record {
  uint32_t rows; /* of the batch dimension; 1 for models that do not batch */
  uint8_t n_in, n_out;
  uint8_t pad[2];
  uint64_t out_offset, out_bytes; /* the output slot: the worker writes outputs there, each 64-byte aligned */
  uint64_t out_need;              /* by the worker with OUTPUT_TOO_LARGE: bytes the slot would have needed */
  int32_t status;                 /* by the worker: let_err */
  let_tensor in[LET_TENSORS_MAX];
  let_tensor out[LET_TENSORS_MAX]; /* by the worker: where each output lies inside the output slot */
} let_record;

/* Trace points, stamped into let_request.stamp on the way; 0: did not get there. */
typedef enum let_stage {
  LET_STAGE_FIRST_BYTE, /* of the request head */
  LET_STAGE_RECEIVED,   /* last byte of the body: the SLO's clock starts */
  LET_STAGE_ADMITTED,   /* accepted by the core */
  LET_STAGE_BATCHED,    /* its batch was closed by the core */
  LET_STAGE_SUBMITTED,  /* its batch was put on the ring */
  LET_STAGE_STARTED,    /* the device began its batch */
  LET_STAGE_FINISHED,   /* the device finished its batch */
  LET_STAGE_ANSWERED,   /* last byte of the answer handed to the kernel: the SLO's clock stops */
  LET_STAGE_COUNT
} let_stage;

typedef enum let_request_state {
  LET_REQUEST_IDLE,    /* not in the core */
  LET_REQUEST_QUEUED,  /* waits in its model's queue */
  LET_REQUEST_RUNNING, /* in a batch on a gpu-let */
} let_request_state;

typedef struct let_request let_request;
struct let_request {
  uint64_t id;      /* unique within the server's life */
  uint32_t index;   /* of its record */
  uint32_t model;   /* index into the server's models */
  uint8_t priority; /* 1 = highest; within a level the earliest deadline goes first */
  uint8_t attempts; /* how often it was put into a batch that failed */
  bool cancelled;   /* no client waits for the answer any more */
  let_request_state state;
  let_time arrival;   /* LET_STAGE_RECEIVED */
  let_time deadline;  /* answered at or after this is late */
  let_heap_node node; /* core: in the model's queue */
  let_request *next;  /* belongs to the holder: core, or the server's list of answers */
  let_record *rec;    /* the shared half; rec->rows is copied to |rows| so that no worker can change it */
  uint32_t rows;
  uint64_t in_slot, out_slot; /* server: arena slots to give back */
  uint64_t out_cap;           /* server's own copy of rec->out_bytes */
  let_err status;             /* outcome, once done */
  char why[160];              /* a sentence for the user when status != OK */
  let_time stamp[LET_STAGE_COUNT];
  void *owner; /* front: the call this request belongs to */
};

#endif
