/* sender_int.h: what sender.c (times and the thread) and sender_conn.c (connections) share. */
#ifndef LET_CLIENT_SENDER_INT_H
#define LET_CLIENT_SENDER_INT_H

#include <stdatomic.h>
#include <uv.h>

#include "client/reply.h"
#include "client/sender.h"

typedef struct job {
  let_time intended;
  uint32_t model;
  uint32_t tries;
  bool waited; /* found no free connection */
} job;

typedef enum conn_state { CONN_FREE, CONN_CONNECTING, CONN_IDLE, CONN_BUSY, CONN_CLOSING } conn_state;

typedef struct let_sender sender;
typedef struct conn {
  sender *s;
  uv_tcp_t tcp;
  uv_connect_t connect;
  uv_write_t write;
  bool writing; /* the rest of a request is with the loop */
  bool used;    /* has answered before */
  conn_state state;
  job job;
  let_time since; /* sent, or began to connect */
  let_reply reply;
  struct conn *next;
} conn;

struct let_sender {
  const let_sender_run *run;
  const let_load_options *o;
  uint32_t index;
  let_tally *tally;
  let_sender_figures figures;
  let_arrivals arrivals;
  uv_thread_t thread;
  uv_loop_t loop;
  uv_poll_t timer;
  uv_timer_t tick;
  int timer_fd;
  bool has_loop, started;
  conn *conn, *idle, *spare;
  uint32_t n_conn, n_used;                /* allowed; ever opened: a prefix of |conn| */
  uint32_t closed, n_begun, max_inflight; /* |closed|: loops in the closed loop; those that have begun */
  uint32_t open, connecting, busy;
  job *waiting;
  uint32_t cap, head, n_waiting;
  let_time cpu_since, cpu_until; /* the time that |cpu| was measured for; 0: not yet */
  let_dur cpu, deprived;         /* on a core; ready to run, but waiting for one */
  bool over;
  uint64_t done;
  _Atomic bool quit;
  _Atomic uint64_t seen_done, seen_sent, seen_good, seen_inflight, seen_open;
  char in[64 * 1024];
};

bool let__sender_counted(const let_sender *s, let_time intended);
void let__sender_count(let_sender *s, const job *j, let_load_kind kind, let_time now);
void let__sender_put(let_sender *s, job j); /* at the end of those that wait for a connection */
job let__sender_take(let_sender *s);
void let__sender_example(let_sender *s, const job *j, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void let__sender_dispatch(let_sender *s); /* jobs to idle connections; opens what is missing */
void let__sender_lost(conn *c, int why);  /* an error of libuv; 0: the server closed it */
void let__sender_expire(conn *c);         /* its request took too long */
void let__sender_drop(conn *c);

#endif
