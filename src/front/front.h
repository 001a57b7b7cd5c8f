/* front.h: connections <-> requests. HTTP/1.1 with the Open Inference Protocol's REST routes on libuv. Bodies are
 * read from the socket straight into arena slots and outputs are written to it straight from theirs. The front
 * knows nothing of plans, queues or workers; the server behind let_front_i does.
 *
 * One thread: everything here runs on the loop's. No allocation per request once connections and buffers are warm. */
#ifndef LET_FRONT_FRONT_H
#define LET_FRONT_FRONT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/model.h"
#include "model/request.h"

typedef struct let_front let_front;

/* The server behind the front. |ctx| is passed to each.
 *
 * Order of calls. Both sides call each other, so a rule says what each may call from where:
 *  - From turn(), and from any callback of its own on the loop, the server may call let_front_done and let_front_reply
 *    for any request. They may read and work on further requests that the connection sent behind that one, so infer(),
 *    cancel(), control() and turn() may be called before they return.
 *  - From infer(), cancel() and control() it may only call let_front_done, for the very request of that infer().
 *  - turn() inside of turn() must not answer: the inner one takes note or decides, the outer one answers. */
typedef struct let_front_i {
  void *ctx;
  bool (*ready)(void *ctx);      /* every model can be served */
  uint32_t (*models)(void *ctx); /* how many */
  const let_model *(*model)(void *ctx, uint32_t index);
  bool (*model_ready)(void *ctx, uint32_t index);
  let_time (*now)(void *ctx); /* the loop's clock, fresh */

  /* Arena slots; LET_SLOT_NONE (UINT64_MAX) when full. at(): address of an arena offset. */
  uint64_t (*slot_alloc)(void *ctx, uint64_t bytes);
  void (*slot_free)(void *ctx, uint64_t slot);
  uint64_t (*slot_bytes)(void *ctx, uint64_t slot);
  void *(*at)(void *ctx, uint64_t offset);

  /* A request from the pool with its record zeroed; NULL when too many are in flight. release() gives it and its
   * slots back; legal only while it is not in the server's hands. One that infer() had comes back when its answer has
   * been handed to the kernel (stamp[LET_STAGE_ANSWERED] says when) or cannot be any more (the stamp is 0). */
  let_request *(*request_take)(void *ctx);
  void (*request_release)(void *ctx, let_request *r);

  /* Takes over |r|: model, rows, rec->in, in_slot, priority, stamps set; |timeout| in ns, 0: the model's SLO. The
   * server calls let_front_done(r) exactly once, maybe before this returns, for no other request before this returns.
   */
  void (*infer)(void *ctx, let_request *r, let_dur timeout);
  void (*cancel)(void *ctx, let_request *r); /* the client went away: let_front_done still comes */

  /* Before each event of a socket, and between requests that came in one piece: the server's chance to do what is
   * urgent although the loop has more events to hand out. See "Order of calls" above. */
  void (*turn)(void *ctx);

  /* Everything that is not OIP (/metrics, /v2/gpulet/..., /debug/...): fills |out| and returns the HTTP status;
   * 0: no such path. May answer later: return -1 and call let_front_reply(|call|, ...) once. */
  int (*control)(void *ctx, let_str method, let_str path, let_str body, let_buf *out, const char **ret_type,
                 void *call);
} let_front_i;

typedef struct let_front_options {
  const char *host;                         /* "127.0.0.1", "0.0.0.0", "::" */
  uint16_t port;                            /* 0: any free one, see let_front_port */
  uint32_t connections;                     /* at most; further ones get 503 and are closed */
  uint64_t body_max;                        /* 64 MiB as in Triton */
  let_dur head_timeout;                     /* a whole request head must arrive within this (slow loris) */
  let_dur body_timeout;                     /* between two pieces of a body */
  let_dur idle_timeout;                     /* between two requests on a keep-alive connection */
  const char *server_name, *server_version; /* for GET v2 */
} let_front_options;

LET_CHECKED let_err let_front_new(uv_loop_t *loop, const let_front_options *o, const let_front_i *i, const let_mem *mem,
                                  let_front **ret, let_error *e);
/* A second listener that only knows control() and health: the metrics port. */
LET_CHECKED let_err let_front_listen_metrics(let_front *f, const char *host, uint16_t port, let_error *e);
uint16_t let_front_port(const let_front *f);
uint16_t let_front_metrics_port(const let_front *f);

/* The outcome of a request is in r (status, why, rec->out): sends the answer, then releases the request. */
void let_front_done(let_front *f, let_request *r);
/* The late answer to control(). |body| is copied. */
void let_front_reply(let_front *f, void *call, int status, const char *type, let_str body);

/* Stops accepting, answers what is in flight, closes connections as they fall idle; |drained| when none is left. */
void let_front_drain(let_front *f, void (*drained)(void *ctx), void *ctx);
void let_front_close(let_front *f); /* at once; then run the loop until it has nothing left, then free */
void let_front_free(let_front *f);

typedef struct let_front_stats {
  uint64_t accepted, refused, open, requests, bad_requests, timeouts, bytes_in, bytes_out;
} let_front_stats;
void let_front_stats_get(const let_front *f, let_front_stats *ret);

#endif
