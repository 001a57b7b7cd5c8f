/* front_int.h: a connection and what moves it.
 *
 *   HEAD -> BODY -> BUSY (in the server's hands) -> WRITE -> HEAD ...
 *                                                        -> LINGER -> closed
 *
 * A connection works on one request at a time; pipelined ones wait in its buffer, so answers are in order. When it
 * closes while the server has its request, its memory stays until let_front_done or let_front_reply has come. */
#ifndef LET_FRONT_FRONT_INT_H
#define LET_FRONT_FRONT_INT_H

#include <sys/uio.h>

#include "front/front.h"
#include "wire/http1.h"
#include "wire/oip_json.h"

#define FRONT_SLOT_NONE UINT64_MAX

enum {
  FRONT_IN = LET_HTTP1_HEAD_MAX + 4096, /* behind the longest head there is still room to read a chunked body */
  FRONT_TOP = 512,                      /* our own response heads */
  FRONT_CHUNKED_FIRST = 64 * 1024,      /* first slot for a body of unknown length */
  /* At most this is read from or written to one connection before the others have their turn: about 100 us of copying.
   * epoll is level-triggered and puts what is still ready behind the others, so epoll's list is the order of turns; a
   * connection whose socket is full is not in it. */
  FRONT_TURN_BYTES = 256 * 1024
};

typedef enum conn_state { CONN_HEAD, CONN_BODY, CONN_BUSY, CONN_WRITE, CONN_LINGER } conn_state;
typedef enum route {
  ROUTE_SERVER,
  ROUTE_LIVE,
  ROUTE_READY,
  ROUTE_MODEL,
  ROUTE_MODEL_READY,
  ROUTE_INFER,
  ROUTE_INDEX,
  ROUTE_EXTRA
} route;

typedef struct conn conn;
struct conn {
  let_front *f;
  uv_poll_t poll;
  int fd, events;
  conn *prev, *next; /* of the open ones; next alone: of the free ones */
  conn_state state;
  route route;
  uint32_t model;    /* of the request; kept as a guess for the next one */
  bool metrics;      /* came through the metrics listener */
  bool dead, closed; /* close was asked for; its handle is gone */
  bool eof, keep, unread, advancing;
  bool inflight, late; /* the server owes let_front_done, let_front_reply */
  let_time deadline, first_byte, received;

  /* in[at, n) is not yet used up: the head of the request being worked on starts at |at|, what follows it at |after|.
   */
  size_t at, n, after, scanned;
  let_http1_head head;
  let_http1_chunked chunked;
  uint64_t slot, slot_bytes, body_bytes, got; /* slot: FRONT_SLOT_NONE while the body is none or lies in |in| */
  const char *body;

  let_request *r;
  let_oip_infer infer;
  let_buf out;
  struct iovec iov[2 + LET_TENSORS_MAX];
  unsigned iov_at, iov_n;
  char top[FRONT_TOP];
  char in[FRONT_IN];
};

typedef struct listener {
  uv_poll_t poll;
  int fd;
  uint16_t port;
  bool used, metrics, paused;
  let_front *f;
} listener;

struct let_front {
  uv_loop_t *loop;
  let_front_options o;
  let_front_i i;
  const let_mem *mem;
  listener listener[2];
  uv_timer_t sweep;
  bool closing, draining;
  uint64_t sweep_ms;
  conn *open, *free, *zombie; /* zombie: handle gone, but the server still has its request */
  void (*drained)(void *ctx);
  void *drained_ctx;
  let_front_stats stats;
};

/* front.c */
void front_on_sweep(uv_timer_t *t);

/* conn.c */
void conn_open(let_front *f, int fd, bool metrics);
void conn_close(conn *c); /* at once; *c stays valid until the loop comes round */
void conn_advance(conn *c);
void conn_sweep(let_front *f, let_time now);
void conn_drain(conn *c);
void conn_settle(conn *c); /* gives back the memory of one that is closed, when the server does not have it */
void conn_slot_free(conn *c);

void conn_set_events(conn *c, int events);

/* answer.c */
void conn_fail(conn *c, int status, const char *text); /* answers {"error"} */
/* Sends top + c->out + iov[2..): |json| as Inference-Header-Content-Length unless UINT64_MAX; |raw| bytes in iov[2..).
 */
void conn_send(conn *c, int status, const char *type, uint64_t json, uint64_t raw);
void conn_flush(conn *c); /* what one turn may write of it */

/* route.c */
bool route_head(conn *c); /* picks c->route; false: answered already */
void route_body(conn *c); /* the request is here: answers it or hands it to the server */

#endif
