/* mps_watch.c: the fleet kills the daemon's clients first: after its end their work on the device is undefined. */
#include "mps_watch.h"

#include <stdlib.h>

#include "obs/log.h"

static void free_handle(uv_handle_t *h) { free(h); }

static void unwatch(mps_watch *m) {
  if (!m->poll) return;
  uv_poll_stop(m->poll);
  uv_close((uv_handle_t *)m->poll, free_handle);
  m->poll = NULL;
}

static void restart(uv_work_t *w) {
  mps_watch *m = w->data;
  m->error = (let_error){0};
  (void)m->helper->restart(m->helper->ctx, &m->error);
}

static void begin_restart(mps_watch *m);
static void on_retry(uv_timer_t *t) { begin_restart(t->data); }

static void restarted(uv_work_t *w, int status) {
  (void)status;
  mps_watch *m = w->data;
  if (!m->retry) return;
  let_error e = m->error;
  if (e.code || serve_mps_watch_open(m, &e)) {
    uint64_t ms = 100u << (m->failures < 6 ? m->failures++ : 6);
    let_log(LET_LOG_ERROR, "serve", "%s was not restarted (next try in %llu ms): %s", m->helper->name,
            (unsigned long long)ms, e.text);
    uv_timer_start(m->retry, on_retry, ms, 0);
    return;
  }
  m->failures = 0;
  let_log(LET_LOG_INFO, "serve", "%s is back", m->helper->name);
  let_fleet_handle(m->fleet, &(let_fleet_event){.kind = LET_FLEET_HELPER_BACK}, m->now());
}

static void begin_restart(mps_watch *m) {
  m->work.data = m;
  if (uv_queue_work(m->loop, &m->work, restart, restarted)) uv_timer_start(m->retry, on_retry, 1000, 0);
}

static void on_end(uv_poll_t *p, int status, int events) {
  (void)status, (void)events;
  mps_watch *m = p->data;
  let_log(LET_LOG_ERROR, "serve", "%s has ended: its workers are killed and started again after its restart",
          m->helper->name);
  unwatch(m);
  let_fleet_event ev = {.kind = LET_FLEET_HELPER_AWAY, .text = m->helper->name};
  let_fleet_handle(m->fleet, &ev, m->now());
  begin_restart(m);
}

let_err serve_mps_watch_open(mps_watch *m, let_error *e) {
  if (!m->helper) return LET_OK;
  if (!m->retry) {
    m->retry = malloc(sizeof *m->retry);
    if (!m->retry) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    uv_timer_init(m->loop, m->retry);
    m->retry->data = m;
  }
  uv_poll_t *p = malloc(sizeof *p);
  int uv = p ? uv_poll_init(m->loop, p, m->helper->fd(m->helper->ctx)) : UV_ENOMEM;
  if (uv) {
    free(p);
    return let_fail(e, LET_ERR_IO, "cannot watch %s: %s", m->helper->name, uv_strerror(uv));
  }
  p->data = m;
  m->poll = p;
  uv_poll_start(p, UV_READABLE, on_end);
  return LET_OK;
}

void serve_mps_watch_close(mps_watch *m) {
  unwatch(m);
  if (m->retry) uv_close((uv_handle_t *)m->retry, free_handle);
  m->retry = NULL; /* a restart under way ends before the loop does */
}
