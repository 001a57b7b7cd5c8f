#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front_int.h"

enum { ACCEPT_BURST = 16 };

static void on_listener(uv_poll_t *h, int status, int events) {
  listener *l = h->data;
  (void)events;
  l->f->i.turn(l->f->i.ctx);
  if (status < 0) return;
  for (int k = 0; k < ACCEPT_BURST && !l->f->draining; k++) {
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      conn_open(l->f, fd, l->metrics);
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno != EAGAIN) { /* out of descriptors or memory: the sweep tries again; trying here would spin */
      uv_poll_stop(&l->poll);
      l->paused = true;
    }
    return;
  }
}

void front_on_sweep(uv_timer_t *t) {
  let_front *f = t->data;
  for (unsigned k = 0; k < 2; k++) {
    listener *l = &f->listener[k];
    if (l->used && l->paused && uv_poll_start(&l->poll, UV_READABLE, on_listener) == 0) l->paused = false;
  }
  conn_sweep(f, f->i.now(f->i.ctx));
}

static let_err listen_on(let_front *f, listener *l, const char *host, uint16_t port, bool metrics, let_error *e) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage all;
  } a = {0};
  bool v6 = false;
  if (uv_ip4_addr(host, port, &a.v4) != 0) {
    v6 = true;
    if (uv_ip6_addr(host, port, &a.v6) != 0)
      return let_fail(e, LET_ERR_INVALID,
                      "'%s' is not an address to listen on: use 127.0.0.1, 0.0.0.0, :: or another numeric one", host);
  }
  int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  if (fd < 0) return let_fail(e, LET_ERR_IO, "cannot make a socket: %s", strerror(errno));
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  socklen_t len = v6 ? sizeof a.v6 : sizeof a.v4;
  if (bind(fd, &a.any, len) || listen(fd, SOMAXCONN) || getsockname(fd, &a.any, &len)) {
    let_err r = let_fail(e, LET_ERR_IO, "cannot listen on %s port %u: %s%s", host, port, strerror(errno),
                         errno == EADDRINUSE ? " (stop what uses it, or choose another port)" : "");
    close(fd);
    return r;
  }
  *l = (listener){.fd = fd, .port = ntohs(v6 ? a.v6.sin6_port : a.v4.sin_port), .metrics = metrics, .f = f};
  int rc = uv_poll_init(f->loop, &l->poll, fd);
  if (rc == 0) {
    l->used = true;
    l->poll.data = l;
    rc = uv_poll_start(&l->poll, UV_READABLE, on_listener);
  }
  if (rc == 0) return LET_OK;
  if (l->used) uv_close((uv_handle_t *)&l->poll, NULL);
  l->used = false;
  close(fd);
  return let_fail(e, LET_ERR_IO, "cannot listen on %s port %u: %s", host, port, uv_strerror(rc));
}

static void stop_listening(let_front *f) {
  for (unsigned k = 0; k < 2; k++) {
    listener *l = &f->listener[k];
    if (!l->used) continue;
    uv_poll_stop(&l->poll);
    uv_close((uv_handle_t *)&l->poll, NULL);
    close(l->fd);
    l->used = false;
  }
}

/* One timer for all deadlines: a deadline is noticed at most a quarter of the shortest timeout late. */
static uint64_t sweep_interval(const let_front_options *o) {
  let_dur d = o->head_timeout < o->body_timeout ? o->head_timeout : o->body_timeout;
  if (o->idle_timeout < d) d = o->idle_timeout;
  d /= 4;
  return d < 5 * LET_MS ? 5 : d > LET_S ? 1000 : (uint64_t)(d / LET_MS);
}

let_err let_front_new(uv_loop_t *loop, const let_front_options *o, const let_front_i *i, const let_mem *mem,
                      let_front **ret, let_error *e) {
  if (!o->connections) return let_fail(e, LET_ERR_INVALID, "the limit of connections is 0: allow at least one");
  if (o->head_timeout <= 0 || o->body_timeout <= 0 || o->idle_timeout <= 0)
    return let_fail(e, LET_ERR_INVALID, "a timeout of the front is 0 or less");
  let_front *f = let_mem_zalloc(mem, sizeof *f);
  if (!f) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  f->loop = loop;
  f->o = *o;
  f->i = *i;
  f->mem = mem;
  let_err r = listen_on(f, &f->listener[0], o->host, o->port, false, e);
  if (r) { /* its handle never reached the loop, or is closed: no callback refers to f */
    if (f->listener[0].poll.data) uv_run(loop, UV_RUN_NOWAIT);
    let_mem_free(mem, f, sizeof *f);
    return r;
  }
  f->sweep_ms = sweep_interval(o);
  uv_timer_init(loop, &f->sweep);
  f->sweep.data = f;
  uv_timer_start(&f->sweep, front_on_sweep, f->sweep_ms, f->sweep_ms);
  *ret = f;
  return LET_OK;
}

let_err let_front_listen_metrics(let_front *f, const char *host, uint16_t port, let_error *e) {
  if (f->listener[1].used) return let_fail(e, LET_ERR_EXISTS, "the metrics listener exists already");
  return listen_on(f, &f->listener[1], host, port, true, e);
}

uint16_t let_front_port(const let_front *f) { return f->listener[0].port; }
uint16_t let_front_metrics_port(const let_front *f) { return f->listener[1].port; }
void let_front_stats_get(const let_front *f, let_front_stats *ret) { *ret = f->stats; }

void let_front_drain(let_front *f, void (*drained)(void *ctx), void *ctx) {
  f->draining = true;
  f->drained = drained;
  f->drained_ctx = ctx;
  stop_listening(f);
  for (conn *c = f->open, *next; c; c = next) {
    next = c->next;
    conn_drain(c);
  }
  /* Even with nothing open, |drained| comes from the loop, not from inside this call: see conn_sweep. */
  uv_timer_start(&f->sweep, front_on_sweep, 0, f->sweep_ms);
}

void let_front_close(let_front *f) {
  if (!f || f->closing) return;
  f->closing = f->draining = true;
  f->drained = NULL;
  stop_listening(f);
  while (f->open) conn_close(f->open);
  uv_close((uv_handle_t *)&f->sweep, NULL);
}

static void conn_free(conn *c) {
  let_front *f = c->f;
  let_buf_fini(&c->out);
  let_mem_free(f->mem, c, sizeof *c);
}

void let_front_free(let_front *f) {
  if (!f) return;
  LET_ASSERT(f->closing && !f->open); /* let_front_close first */
  for (conn *c; (c = f->free);) {
    f->free = c->next;
    conn_free(c);
  }
  for (conn *c; (c = f->zombie);) {
    f->zombie = c->next;
    conn_free(c);
  }
  let_mem_free(f->mem, f, sizeof *f);
}
