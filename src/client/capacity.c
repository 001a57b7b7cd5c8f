#include "client/capacity.h"

#include <math.h>
#include <stdio.h>

#define X(id, name) name,
static const char *const names[] = {NULL, LET_BOTTLENECKS(X)};
#undef X

const char *let_bottleneck_name(let_bottleneck b) { return b < LET_BOTTLENECK_COUNT ? names[b] : NULL; }

uint32_t let_capacity_threads(double rate, double bytes, uint32_t closed, uint32_t connections, uint32_t cores) {
  double want = closed ? ceil((double)closed / LET_CAPACITY_CLOSED)
                       : ceil(fmax(rate / LET_CAPACITY_RATE, bytes / LET_CAPACITY_BYTES));
  double most = fmin(fmin(floor(cores / 2.0), connections), LET_THREADS_MAX); /* the server may be on this host too */
  want = fmin(want, most);
  return want >= 1 ? (uint32_t)want : 1;
}

static double waited(const let_load_report *r) {
  return r->lateness.count ? (double)r->waited / (double)r->lateness.count : 0;
}

/* "its thread used 0.90 of a core", "the busiest of its 2 threads used ..." */
static void say_busiest(const let_load_report *r, char *out, size_t cap) {
  if (r->threads == 1) snprintf(out, cap, "its thread used %.2f of a core", r->busiest);
  else snprintf(out, cap, "the busiest of its %u threads used %.2f of a core", r->threads, r->busiest);
}

static const char *plural(uint32_t n) { return n == 1 ? "" : "s"; }

/* Twice as many as were allowed, or the power of two that takes all that were under way at once. */
static uint32_t enough_connections(const let_load_report *r) {
  uint32_t n = 1;
  while (n < LET_CONNECTIONS_MAX && (n < r->inflight_max || n < 2 * r->connection_limit)) n *= 2;
  return n;
}

static void advise_connections(const let_load_report *r, let_load_outcome *ret) {
  int n =
      snprintf(ret->advice, sizeof ret->advice,
               "the generator was the bottleneck: %.1f %% of the requests waited because all %u connections were busy "
               "(%llu were under way at once): ",
               100 * waited(r), r->connection_limit, (unsigned long long)r->inflight_max);
  size_t left = sizeof ret->advice - (size_t)n;
  char *end = ret->advice + n;
  uint32_t more = enough_connections(r);
  if (r->connection_limit >= LET_CONNECTIONS_MAX) snprintf(end, left, "use a lower rate, the server does not keep up");
  else if (r->files_limited)
    snprintf(end, left, "allow more open files (ulimit -n %u) and use --connections %u", 2 * more, more);
  else snprintf(end, left, "use --connections %u, or a lower rate if the server does not keep up", more);
}

/* More threads help where cores are free: not where one thread already waits for a core longer than it has one. */
static void advise_threads(const let_load_report *r, const char *what, let_load_outcome *ret) {
  int n = snprintf(ret->advice, sizeof ret->advice, "the generator was the bottleneck: %s", what);
  size_t left = sizeof ret->advice - (size_t)n;
  char *end = ret->advice + n;
  if (r->deprived > r->busiest)
    snprintf(end, left, ", and waited for one %.2f of the time: leave it a core, or use a machine of its own",
             r->deprived);
  else if (r->threads < r->cores && r->threads < r->connection_limit)
    snprintf(end, left, ": use --threads %u", 2 * r->threads < r->cores ? 2 * r->threads : r->cores);
  else
    snprintf(end, left, ", and this machine has %u core%s: use a machine of its own with more, or a lower rate",
             r->cores, plural(r->cores));
}

static void judge_cpu(const let_load_report *r, let_load_outcome *ret) {
  char what[160];
  ret->bottleneck = LET_BOTTLENECK_CPU;
  say_busiest(r, what, sizeof what);
  advise_threads(r, what, ret);
}

static void judge_lateness(const let_load_report *r, let_dur p99, let_dur limit, let_load_outcome *ret) {
  char what[160], busiest[80];
  ret->bottleneck = LET_BOTTLENECK_LATE_SENDS;
  say_busiest(r, busiest, sizeof busiest);
  snprintf(what, sizeof what, "its sends were late by %.2f ms at p99 (allowed: %.2f ms); %s", (double)p99 / 1e6,
           (double)limit / 1e6, busiest);
  advise_threads(r, what, ret);
}

let_load_outcome let_capacity_judge(const let_load_report *r, let_dur slo_min) {
  let_load_outcome ret = {.bottleneck = LET_BOTTLENECK_NONE};
  let_dur p99 = let_hist_quantile(&r->lateness, 0.99), limit = (let_dur)(LET_CAPACITY_LATE_OF_SLO * (double)slo_min);
  if (limit < LET_CAPACITY_LATE) limit = LET_CAPACITY_LATE;
  if (r->busiest > LET_CAPACITY_CPU) {
    judge_cpu(r, &ret);
  } else if (!r->closed && waited(r) > LET_CAPACITY_WAITED) {
    ret.bottleneck = LET_BOTTLENECK_CONNECTIONS;
    advise_connections(r, &ret);
  } else if (r->wanted > LET_CAPACITY_CPU) {
    judge_cpu(r, &ret);
  } else if (!r->closed && p99 > limit) {
    judge_lateness(r, p99, limit, &ret);
  }
  return ret;
}
