/* mps_watch.c: watches the process that some workers cannot do without (the MPS daemon) and brings it back. Its clients go
 * first: what they do on the device after its end is undefined, and they must not run without it either. */
#include <stdio.h>
#include <stdlib.h>

#include "obs/log.h"
#include "serve_int.h"

static void free_handle(uv_handle_t *h) { free(h); }

static void unwatch(server *s) {
  if (!s->helper.poll) return;
  uv_poll_stop(s->helper.poll);
  uv_close((uv_handle_t *)s->helper.poll, free_handle);
  s->helper.poll = NULL;
}

static void restart(uv_work_t *w) {
  server *s = w->data;
  s->helper.error = (let_error){0};
  (void)s->o->helper->restart(s->o->helper->ctx, &s->helper.error);
}

static void begin_restart(server *s);
static void on_retry(uv_timer_t *t) { begin_restart(t->data); }

static void restarted(uv_work_t *w, int status) {
  (void)status;
  server *s = w->data;
  s->helper.busy = false;
  if (s->stopping || !s->helper.retry) return;
  let_error e = s->helper.error;
  if (e.code || serve_helper_open(s, &e)) {
    uint64_t ms = 100u << (s->helper.failures < 6 ? s->helper.failures++ : 6);
    let_log(LET_LOG_ERROR, "serve", "%s does not come back (next try in %llu ms): %s", s->o->helper->name,
            (unsigned long long)ms, e.text);
    uv_timer_start(s->helper.retry, on_retry, ms, 0);
    return;
  }
  s->helper.failures = 0;
  let_log(LET_LOG_INFO, "serve", "%s is back", s->o->helper->name);
  serve_tell(s, (let_fleet_event){.kind = LET_FLEET_HELPER_BACK});
}

static void begin_restart(server *s) {
  s->helper.work.data = s;
  s->helper.busy = uv_queue_work(&s->loop, &s->helper.work, restart, restarted) == 0;
  if (!s->helper.busy) uv_timer_start(s->helper.retry, on_retry, 1000, 0);
}

static void on_end(uv_poll_t *p, int status, int events) {
  (void)status, (void)events;
  server *s = p->data;
  let_log(LET_LOG_ERROR, "serve", "%s has ended: its workers are replaced", s->o->helper->name);
  unwatch(s);
  serve_tell(s, (let_fleet_event){.kind = LET_FLEET_HELPER_AWAY, .text = s->o->helper->name});
  begin_restart(s);
}

let_err serve_helper_open(server *s, let_error *e) {
  if (!s->o->helper) return LET_OK;
  if (!s->helper.retry) {
    if (!(s->helper.retry = malloc(sizeof *s->helper.retry))) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    uv_timer_init(&s->loop, s->helper.retry);
    s->helper.retry->data = s;
  }
  uv_poll_t *p = malloc(sizeof *p);
  int uv = p ? uv_poll_init(&s->loop, p, s->o->helper->fd(s->o->helper->ctx)) : UV_ENOMEM;
  if (uv) return free(p), let_fail(e, LET_ERR_IO, "cannot watch %s: %s", s->o->helper->name, uv_strerror(uv));
  p->data = s;
  s->helper.poll = p;
  uv_poll_start(p, UV_READABLE, on_end);
  return LET_OK;
}

void serve_helper_close(server *s) {
  unwatch(s);
  if (s->helper.retry) uv_close((uv_handle_t *)s->helper.retry, free_handle);
  s->helper.retry = NULL; /* a restart under way ends before the loop does */
}
