/* ring.h: the only bridge between the server and its workers.
 *
 * Two kinds of shared memory, all memfds created by the server and passed over the control socket:
 *   arena    one per server: tensor slots and the table of let_records. Every worker maps it and, on a GPU,
 *            registers it as pinned memory. Only the server allocates in it.
 *   lanes    one per lane set: a pair of single-producer single-consumer rings for each gpu-let,
 *            submissions (server -> gpu-let) and completions (gpu-let -> server).
 *
 * Shared memory holds offsets and sequence numbers only, one writer per word. What a worker wrote is checked
 * before it is believed; a bad value fails that worker, never the server. Messages are in ipc/ipc.h. */
#ifndef LET_RING_RING_H
#define LET_RING_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/time.h"
#include "model/request.h"

/* ---- arena: slots (server side; one thread) ------------------------------------------------------------ */

typedef struct let_ring_arena let_ring_arena;

#define LET_SLOT_NONE UINT64_MAX

/* Creates the shared memory: |records| let_records, then |bytes| of slots (rounded up to a power of two). The
 * pages are not touched: what is never used costs nothing. Errors: NOMEM, IO. */
LET_CHECKED let_err let_ring_arena_new(uint64_t bytes, uint32_t records, const let_mem *mem, let_ring_arena **ret,
                                       let_error *e);
/* Worker side: maps an arena that came as |fd| (fd stays the caller's). Checks its header. */
LET_CHECKED let_err let_ring_arena_map(int fd, let_ring_arena **ret, let_error *e);
void let_ring_arena_free(let_ring_arena *a); /* unmaps; NULL is fine */

int let_ring_arena_fd(const let_ring_arena *a);
void *let_ring_arena_base(const let_ring_arena *a); /* start of the mapping, for pinning */
uint64_t let_ring_arena_size(const let_ring_arena *a);
let_record *let_ring_arena_record(const let_ring_arena *a, uint32_t index); /* index < records */
uint32_t let_ring_arena_records(const let_ring_arena *a);

/* A slot of at least |bytes|, 4096-byte aligned; LET_SLOT_NONE when nothing fits. O(log n), no system call.
 * Freeing merges neighbours (a buddy system), so the arena does not fragment for good. */
uint64_t let_ring_slot_alloc(let_ring_arena *a, uint64_t bytes);
void let_ring_slot_free(let_ring_arena *a, uint64_t slot);            /* LET_SLOT_NONE is fine */
uint64_t let_ring_slot_bytes(const let_ring_arena *a, uint64_t slot); /* its capacity */
static inline void *let_ring_slot_at(const let_ring_arena *a, uint64_t offset);
/* May the worker be trusted with [offset, offset+bytes)? */
bool let_ring_arena_holds(const let_ring_arena *a, uint64_t offset, uint64_t bytes);
uint64_t let_ring_arena_used(const let_ring_arena *a); /* bytes in slots handed out */
bool let_ring_arena_validate(const let_ring_arena *a);

/* ---- lanes --------------------------------------------------------------------------------------------- */

enum { LET_RING_ENTRIES = 64 }; /* batches in flight per gpu-let; the core allows itself far fewer */

/* A batch for one gpu-let. POD. */
typedef struct let_batch_msg {
  uint64_t batch;   /* the server's number for it */
  uint32_t model;   /* index into the lane's models, as `prepare` listed them */
  uint32_t size;    /* the prepared batch size to run: >= rows, the rest is padding */
  uint32_t rows, n; /* rows in all, requests */
  let_time submitted;
  uint32_t record[LET_BATCH_MAX]; /* n of them: indices of let_records */
} let_batch_msg;

/* Its outcome. Per-request results are in the let_records. */
typedef struct let_done_msg {
  uint64_t batch;
  int32_t status; /* let_err. OK: the batch ran, each request's outcome is its record's status (INVALID: the model
                   * refused it, OUTPUT_TOO_LARGE: see out_need). Otherwise the batch as a whole failed, the records say
                   * nothing: INTERNAL, NOMEM, ...; GPULET and DEVICE: the worker exits right after */
  uint32_t rows;
  let_time started, finished; /* CLOCK_MONOTONIC, the worker's reading */
  char text[224]; /* a sentence about the (last) failure, of the batch or of one of its requests; "" when there was none
                   */
} let_done_msg;

typedef struct let_lanes let_lanes;

/* Server: creates the memory for |n| gpu-lets and one eventfd per gpu-let for the way there and one, shared by
 * all, for the way back. Worker: maps what came. Both: free unmaps and closes. */
LET_CHECKED let_err let_lanes_new(uint32_t n, let_lanes **ret, let_error *e);
LET_CHECKED let_err let_lanes_map(int fd, uint32_t n, const int *submit_events, int done_event, let_lanes **ret,
                                  let_error *e);
void let_lanes_free(let_lanes *l);
uint32_t let_lanes_count(const let_lanes *l);
int let_lanes_fd(const let_lanes *l);
int let_lanes_submit_event(const let_lanes *l, uint32_t lane);
int let_lanes_done_event(const let_lanes *l); /* server: poll this for reading */

/* Server. Puts a batch on |lane|; wakes the worker when it sleeps. False: LET_RING_ENTRIES are unanswered already. */
bool let_lane_submit(let_lanes *l, uint32_t lane, const let_batch_msg *m);
/* Server. Takes one outcome from |lane|; false: none. A corrupt ring (indices that cannot be) sets *corrupt. */
bool let_lane_take_done(let_lanes *l, uint32_t lane, let_done_msg *ret, bool *corrupt);
/* Server: call before sleeping on the done event and look at every lane once more afterwards; returns with the
 * event drained and the wake-up armed. */
void let_lanes_arm_done(let_lanes *l);
/* Server: optional, after waking: until the next arm the workers do not write the event. */
void let_lanes_disarm_done(let_lanes *l);

/* Worker, the lane's own thread. Copies the next batch; false: none now. */
bool let_lane_take(let_lanes *l, uint32_t lane, let_batch_msg *ret);
/* Worker. Is there a batch to take? */
bool let_lane_waiting(const let_lanes *l, uint32_t lane);
/* Worker. Sleeps until something may be on the ring or |stop_fd| becomes readable (-1: none), at most
 * |timeout| (LET_NEVER: no limit); first spins for |spin|, which saves two system calls per batch under load. */
void let_lane_wait(let_lanes *l, uint32_t lane, int stop_fd, let_dur spin, let_dur timeout);
/* Worker. Cannot fail: completions never outnumber submissions in flight. Wakes the server when it sleeps. */
void let_lane_done(let_lanes *l, uint32_t lane, const let_done_msg *m);

#include "ring/ring_inline.h"

#endif
