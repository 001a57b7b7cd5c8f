/* Planning time and memory of `optimal` by size, and of re-planning after one rate changed, against the targets. "s":
 * the sizes up to 100 models only. Models are made from seeds: 0.2 to 20 ms per row on the whole device of 16 granules,
 * batches to 32, Zipf rates. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "plan/plan.h"
#include "plan/sample_test_rig.h"

static double now_ms(void *ctx) {
  (void)ctx;
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID,
                &t); /* planning is one busy thread: what other programs take does not count */
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static size_t live, peak;
static void *counted(void *ctx, void *p, size_t old, size_t want) {
  (void)ctx;
  void *q = let_mem_libc.resize(NULL, p, old, want);
  if (q || !want) live += want - old;
  if (live > peak) peak = live;
  return q;
}
static const let_mem counting = {counted, NULL};

static int by_double(const void *a, const void *b) {
  return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

typedef struct outcome {
  double ms[64], again[64], elastic[64];
  uint32_t n, gpus, feasible;
  double bound, far, changed;
} outcome;

static void one(outcome *o, uint32_t models, double devices, bool interference, uint64_t seed) {
  let_arena a, b, c;
  let_arena_init(&a, &let_mem_libc), let_arena_init(&b, &counting), let_arena_init(&c, &counting);
  let__sample how = {.models = models,
                     .granules = 16,
                     .max_batch = 32,
                     .least_ms = 0.2,
                     .most_ms = 20,
                     .interference = interference ? 2 : 0};
  let_profile *p = let__sample_profile(&how, "made", &a, seed);
  let_workload w = let__sample_workload(p, devices, 0.9, &a, seed);
  let_plan_pool pool = {.profile = p, .count = (uint32_t)(devices * 4 + 8)};
  let_plan_input in = {.workload = &w, .pool = &pool, .n_pools = 1, .now_ms = now_ms};
  let_plan plan = {0}, next = {0}, other = {0};
  let_error e = {0};
  const let_policy *policy = let_policy_find("optimal");
  if (policy->make(&in, &b, &plan, &e) || !plan.feasible || let_plan_check(&plan, &in, &e)) {
    fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed,
            plan.feasible    ? e.text
            : plan.n_reasons ? plan.reason[0]
                             : e.text);
    exit(1);
  }
  in.running = &plan;
  w.demand[models / 2].rate *= 1.3;
  if (policy->make(&in, &c, &next, &e) || (next.feasible && let_plan_check(&next, &in, &e))) {
    fprintf(stderr, "seed %llu, again: %s\n", (unsigned long long)seed, e.text);
    exit(1);
  }
  if (let_policy_find("elastic")->make(&in, &c, &other, &e)) {
    fprintf(stderr, "seed %llu, elastic: %s\n", (unsigned long long)seed, e.text);
    exit(1);
  }
  o->elastic[o->n] = other.time_ms;
  o->ms[o->n] = plan.time_ms, o->again[o->n++] = next.time_ms;
  o->gpus += plan.gpus_used, o->bound += plan.lower_bound,
      o->far += (plan.gpus_used - plan.lower_bound) / plan.gpus_used;
  let_arena_fini(&a), let_arena_fini(&b), let_arena_fini(&c);
}

/* The slowest seed counts. */
static void judge(const char *what, double got, double target, const char *unit) {
  if (target > 0)
    printf("          %-34s %9.2f %s, target %g %s: %s\n", what, got, unit, target, unit,
           got <= target ? "met" : "NOT MET");
}

typedef struct target {
  double ms, again, elastic; /* 0: there is none */
} target;

static void size(uint32_t models, double devices, uint32_t times, bool interference, target t) {
  outcome o = {0};
  peak = 0;
  for (uint32_t i = 0; i < times; i++) one(&o, models, devices, interference, i + 1);
  qsort(o.ms, o.n, sizeof *o.ms, by_double);
  qsort(o.again, o.n, sizeof *o.again, by_double);
  qsort(o.elastic, o.n, sizeof *o.elastic, by_double);
  printf("%6u models  %-12s gpus %8.1f  bound %8.1f  distance %5.2f %%  plan p50 %9.2f ms p99 %9.2f ms  again p50 "
         "%8.2f ms p99 %8.2f ms  arenas %7.1f MiB\n",
         models, interference ? "interfering" : "quiet", o.gpus / (double)o.n, o.bound / o.n, 100 * o.far / o.n,
         o.ms[o.n / 2], o.ms[o.n - 1], o.again[o.n / 2], o.again[o.n - 1], (double)peak / (1 << 20));
  judge("optimal, slowest", o.ms[o.n - 1], t.ms, "ms");
  judge("after one rate changed, slowest", o.again[o.n - 1], t.again, "ms");
  judge("elastic, slowest", o.elastic[o.n - 1], t.elastic, "ms");
  fflush(stdout);
}

int main(int argc, char **argv) {
  bool large = argc < 2 || argv[1][0] != 's';
  for (int i = 0; i < 2; i++) {
    size(11, 1.5, 40, i, (target){30, 5, 1.5});
    size(11, 8, 40, i, (target){30, 5, 1.5});
    size(100, 70, 10, i, (target){300, 0, 0});
    if (large) size(1000, 13200, 1, i, (target){10000, 0, 0});
  }
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  judge("largest resident set", (double)u.ru_maxrss / 1024, 1024, "MiB");
  return 0;
}
