/* turn.c: when the core decides, and when answers are written.
 *
 * The loop hands out up to 1,024 events in a round, and a gpu-let that falls idle meanwhile must not wait for all of
 * them. So a decision is due after TURN_EVENTS events or TURN_TIME, inside the round: it looks at every lane, steps
 * the core and submits. Answers are written after it, and between them the same holds.
 *
 * decide() never calls the front, so it may run anywhere. Answers may: they are written only from the outermost turn
 * (front.h, "Order of calls"), in the order in which the requests ended. */
#include <sys/timerfd.h>

#include "serve_int.h"

/* A decision costs 1 to 3 us, an event 5 to 20 us, and up to 100 us where 256 KiB are copied: decisions stay below a
 * tenth of the loop's time, and the wait for one below a tenth of a batch of 2 ms, the shortest SLO that is planned
 * for. */
enum { TURN_EVENTS = 8 };
#define TURN_TIME (200 * LET_US)

/* Of the stretch without a decision. It began when the loop woke up; libuv knows that to the millisecond. */
static let_time stretch_began(const server *s, let_time now) {
  if (s->turn.since) return s->turn.since;
  let_time woke = ((let_time)uv_now(&s->loop) + 1) * LET_MS;
  return woke < now ? woke : now;
}

static void decide(server *s, let_time now) {
  static let_action a; /* 2 KiB, not for the stack of a callback chain */
  let_hist_add(&s->turn.gap, now - stretch_began(s, now));
  s->turn.stale = false;
  serve_take_done(s);
  serve_perform(s); /* nothing goes to a worker that has just been found broken */
  now = serve_now();
  while (let_core_step(s->core, now, &a)) {
    if (a.kind == LET_ACTION_SUBMIT) serve_submit(s, &a, now);
    else serve_refuse(s, a.request[0], a.why, NULL);
  }
  s->turn.events = 0;
  s->turn.since = serve_now();
}

/* One event, or one answer. */
static bool decide_when_due(server *s) {
  let_time now = serve_now();
  s->turn.since = stretch_began(s, now);
  bool due = s->turn.events >= TURN_EVENTS || now - s->turn.since >= TURN_TIME;
  if (due) decide(s, now);
  s->turn.events++;
  return due;
}

static void write_answers(server *s) {
  s->turn.answering = true;
  while (s->first_ended) {
    let_request *r = s->first_ended;
    s->first_ended = r->next;
    if (!r->next) s->last_ended = NULL;
    r->next = NULL;
    let_front_done(s->front, r);
    (void)decide_when_due(s);
  }
  s->turn.answering = false;
}

void serve_turn(void *ctx) {
  server *s = ctx;
  if (decide_when_due(s) && !s->turn.answering) write_answers(s);
}

/* What is written makes clients' next requests visible, and those want a decision before the loop sleeps. */
void serve_pump(server *s) {
  LET_ASSERT(!s->turn.answering);
  do {
    decide(s, serve_now());
    write_answers(s);
  } while (s->turn.stale);
}

static void arm_timer(server *s) {
  let_time at = let_core_wake(s->core), t = let_fleet_wake(s->fleet);
  if (t < at) at = t;
  if (s->draining && !s->stopping && s->exit_by < at) at = s->exit_by;
  if (at == s->timer_at) return;
  s->timer_at = at;
  struct itimerspec spec = {0};
  if (at != LET_NEVER) {
    if (at < 1) at = 1; /* 0 would disarm */
    spec.it_value.tv_sec = at / LET_S;
    spec.it_value.tv_nsec = at % LET_S;
  }
  timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

void serve_lanes_done(void *ctx, lane_set *x) {
  server *s = ctx;
  serve_take_done_of(s, x);
  serve_pump(s);
}

void serve_before_sleep(uv_prepare_t *prepare) {
  server *s = prepare->data;
  while (serve_arm_lanes(s)) serve_pump(s);
  arm_timer(s);
  s->turn.since = 0;
}
