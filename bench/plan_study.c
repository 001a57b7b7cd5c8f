/* The gpu-let paper's studies, for every policy: 1,023 cases (five models, each at 0 to 3 steps of rate) and 19,682
 * cases (nine models, 0 to 2 steps), with rates scaled so that the fullest case keeps about eight whole devices busy.
 *   plan_study PROFILE_DIR [--sample N] [--seed S] [--slo paper|rule] [--cases 1023|19682] [--limit-ms MS] [--effort N]
 * [--no-interference] [--open] [--only N,N...]
 * --open names the cases whose plan is above its bound, --only looks at some of them again (with more --effort, say).
 * "claimed" is the policy's own word; "judged" counts a case only when plan/check agrees, interference included.
 * Distances are to the bound that `optimal` certifies for the same case, rounded up, over the cases a policy claims. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "plan/plan.h"
#include "profile/profile.h"

enum { MODELS = 9, INVENTORY = 32, POLICIES_MAX = 16 };
static const struct {
  const char *name;
  double slo_ms;
} paper[MODELS] = {{"lenet", 5},       {"googlenet", 66},    {"resnet50", 108},    {"ssd", 202}, {"vgg16", 142},
                   {"mnasnet1_0", 62}, {"mobilenet_v2", 64}, {"densenet161", 202}, {"bert", 22}};

typedef struct tally {
  uint32_t claimed[4], judged[4]; /* on 1, 2, 4 and 8 devices */
  uint32_t n, n_large;
  uint32_t beats; /* judged good with fewer devices than optimal */
  uint32_t wrong; /* claimed good, the judge disagrees */
  double gpus, far, far_max, far_large;
  double *ms;
  uint32_t n_ms;
} tally;

typedef struct study {
  let_profile profile;
  uint32_t sample, models, steps, effort;
  const char *only; /* "12,7": these cases */
  bool open;        /* names those that are above their bound */
  uint64_t seed;
  bool rule;
  double limit_ms, slo_ms[MODELS], step_rate;
} study;

static double now_ms(void *ctx) {
  (void)ctx;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
static bool expired(void *ctx) { return now_ms(NULL) > *(const double *)ctx; }
static int by_double(const void *a, const void *b) {
  return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static _Noreturn void die(const char *text) {
  fprintf(stderr, "plan_study: %s\n", text);
  exit(2);
}

static double ms_of(const study *s, uint32_t model, uint32_t batch) {
  let_dur d;
  let_error e = {0};
  if (let_profile_latency(&s->profile, model, batch, s->profile.device.granules, LET_PROFILE_P99, &d, &e)) die(e.text);
  return (double)d / 1e6;
}

/* One step of rate for all models alike, as in the paper: the fullest case is eight devices of whole batches. */
static void scale(study *s) {
  double busy = 0;
  for (uint32_t i = 0; i < s->models; i++) {
    uint32_t m = let_profile_find(&s->profile, paper[i].name);
    if (m == UINT32_MAX)
      die("the profile lacks a model of the paper: lenet, googlenet, resnet50, ssd, vgg16, mnasnet1_0, mobilenet_v2, "
          "densenet161 and bert are needed");
    s->slo_ms[i] = s->rule ? 2 * ms_of(s, m, 32) : paper[i].slo_ms;
    double least = INFINITY;
    for (uint32_t b = 1; b <= 32; b++)
      if (2 * ms_of(s, m, b) <= s->slo_ms[i] * (1 + 1e-9)) least = fmin(least, ms_of(s, m, b) / b);
    busy += least / 1e3;
  }
  s->step_rate = 8 / (busy * s->steps);
}

static let_workload workload(const study *s, uint32_t number, let_demand d[MODELS]) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->models; i++, number /= s->steps + 1) {
    uint32_t step = number % (s->steps + 1);
    if (!step) continue;
    d[n] = (let_demand){.rate = step * s->step_rate, .slo = (let_dur)llround(s->slo_ms[i] * 1e6)};
    snprintf(d[n++].name, sizeof d->name, "%s", paper[i].name);
  }
  return (let_workload){n, d};
}

static void add(tally *t, const let_plan *p, bool judged, double bound, uint32_t optimal) {
  if (!p->feasible) return;
  for (uint32_t k = 0; k < 4; k++)
    t->claimed[k] += p->gpus_used <= 1u << k, t->judged[k] += judged && p->gpus_used <= 1u << k;
  double far = p->gpus_used - ceil(bound - 1e-6);
  t->n++, t->gpus += p->gpus_used, t->far += far, t->wrong += !judged;
  if (far > t->far_max) t->far_max = far;
  if (p->gpus_used >= 5) t->n_large++, t->far_large += far / p->gpus_used;
  t->beats += judged && p->gpus_used < optimal;
}

static void one(const study *s, uint32_t number, const let_policy *const *policy, uint32_t n, uint32_t first,
                tally *t) {
  let_demand d[MODELS];
  let_workload w = workload(s, number, d);
  let_plan_pool pool = {&s->profile, INVENTORY, 0};
  double bound = 0;
  uint32_t optimal = UINT32_MAX;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t k = (first + i) % n; /* optimal first: the others are measured against its bound */
    double until = now_ms(NULL) + s->limit_ms;
    let_plan_input in = {.workload = &w,
                         .pool = &pool,
                         .n_pools = 1,
                         .effort = s->effort,
                         .expired = expired,
                         .expired_ctx = &until,
                         .now_ms = now_ms};
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_plan p = {0};
    let_error e = {0};
    double start = now_ms(NULL);
    if (policy[k]->make(&in, &a, &p, &e)) die(e.text);
    t[k].ms[t[k].n_ms++] = now_ms(NULL) - start;
    if (i == 0) bound = p.lower_bound, optimal = p.feasible ? p.gpus_used : UINT32_MAX;
    if (i == 0 && s->open && p.feasible && p.gpus_used > ceil(bound - 1e-6)) {
      printf("case %u: %u devices, bound %.3f:", number, p.gpus_used, bound);
      for (uint32_t m = 0; m < w.n; m++) printf(" %s %.0f/s", d[m].name, d[m].rate);
      printf("\n");
    }
    bool judged = policy[k]->promises && p.feasible && let_plan_check(&p, &in, &e) == LET_OK;
    add(&t[k], &p, judged, bound, optimal);
    if (judged && p.gpus_used < bound - 1e-6) { /* then the certificate is worth nothing */
      fprintf(stderr, "plan_study: case %u: '%s' needs %u devices, the certified bound is %.6g\n", number,
              policy[k]->name, p.gpus_used, bound);
      exit(1);
    }
    let_arena_fini(&a);
  }
}

static void print(const let_policy *const *policy, uint32_t n, tally *t) {
  printf("%-12s %-23s %-23s %6s %7s %5s %9s %6s %6s %10s %8s\n", "", "claimed on", "judged good on", "mean",
         "to the bound", "", "from 5", "judge", "beats", "time", "");
  printf("%-12s %5s %5s %5s %5s  %5s %5s %5s %5s  %6s %7s %5s %9s %6s %6s %10s %8s\n", "policy", "1", "2", "4", "8",
         "1", "2", "4", "8", "GPUs", "mean", "max", "GPUs, %", "says no", "optimal", "p50 ms", "p99");
  for (uint32_t k = 0; k < n; k++) {
    tally *x = &t[k];
    qsort(x->ms, x->n_ms, sizeof *x->ms, by_double);
    double m = x->n ? x->n : 1, l = x->n_large ? x->n_large : 1;
    printf("%-12s %5u %5u %5u %5u  %5u %5u %5u %5u  %6.2f %7.3f %5.0f %9.2f %7u %7u %10.3f %8.3f\n", policy[k]->name,
           x->claimed[0], x->claimed[1], x->claimed[2], x->claimed[3], x->judged[0], x->judged[1], x->judged[2],
           x->judged[3], x->gpus / m, x->far / m, x->far_max, 100 * x->far_large / l, x->wrong, x->beats,
           x->n_ms ? x->ms[x->n_ms / 2] : 0, x->n_ms ? x->ms[(size_t)(x->n_ms * 0.99)] : 0);
  }
  printf("\n");
}

static void run(study *s) {
  uint32_t n, first = 0, total = 1;
  const let_policy *const *policy = let_policies(&n);
  if (n > POLICIES_MAX) die("too many policies for the table");
  while (first < n && strcmp(policy[first]->name, "optimal") != 0) first++;
  if (first == n) die("policy optimal is missing");
  for (uint32_t i = 0; i < s->models; i++) total *= s->steps + 1;
  total--;
  scale(s);
  uint32_t cases = s->sample && s->sample < total ? s->sample : total;
  tally t[POLICIES_MAX] = {0};
  for (uint32_t k = 0; k < n; k++)
    if (!(t[k].ms = calloc(total, sizeof(double)))) die("out of memory");
  uint32_t *order = calloc(total, sizeof *order);
  if (!order) die("out of memory");
  let_rng r;
  let_rng_seed(&r, s->seed);
  for (uint32_t i = 0; i < total; i++) order[i] = i + 1;
  for (uint32_t i = 0; cases < total && i < cases; i++) { /* a seeded subset without repetition */
    uint32_t j = i + (uint32_t)let_rng_below(&r, total - i), x = order[i];
    order[i] = order[j], order[j] = x;
  }
  if (s->only) cases = 0;
  for (const char *at = s->only; at && *at && cases < total; at += strspn(at, ",")) {
    char *end;
    unsigned long c = strtoul(at, &end, 10);
    if (end == at || c < 1 || c > total) die("--only: numbers of cases, as --open prints them");
    order[cases++] = (uint32_t)c, at = end;
  }
  double said = now_ms(NULL);
  for (uint32_t i = 0; i < cases; i++) {
    one(s, order[i], policy, n, first, t);
    if (now_ms(NULL) - said > 5000) fprintf(stderr, "%u of %u cases\n", i + 1, cases), said = now_ms(NULL);
  }
  printf("%u of %u cases: %u models, steps of %.4g requests/s, SLO set '%s', device '%s', interference %s, effort %u, "
         "seed %llu\n",
         cases, total, s->models, s->step_rate, s->rule ? "rule" : "paper", s->profile.device.name,
         s->profile.interference ? "predicted" : "none", s->effort, (unsigned long long)s->seed);
  print(policy, n, t);
  for (uint32_t k = 0; k < n; k++) free(t[k].ms);
  free(order);
}

int main(int argc, char **argv) {
  study s = {.seed = 1, .limit_ms = 1000};
  const char *dir = NULL, *slo = "", *which = "";
  bool alone = false;
  for (int i = 1; i < argc; i++) {
    const char *v = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argv[i], "--no-interference") == 0) alone = true;
    else if (argv[i][0] != '-' && !dir) dir = argv[i];
    else if (v && strcmp(argv[i], "--sample") == 0) s.sample = (uint32_t)strtoul(v, NULL, 10), i++;
    else if (v && strcmp(argv[i], "--seed") == 0) s.seed = strtoull(v, NULL, 10), i++;
    else if (v && strcmp(argv[i], "--limit-ms") == 0) s.limit_ms = strtod(v, NULL), i++;
    else if (strcmp(argv[i], "--open") == 0) s.open = true;
    else if (v && strcmp(argv[i], "--only") == 0) s.only = v, i++;
    else if (v && strcmp(argv[i], "--effort") == 0) s.effort = (uint32_t)strtoul(v, NULL, 10), i++;
    else if (v && strcmp(argv[i], "--slo") == 0) slo = v, i++;
    else if (v && strcmp(argv[i], "--cases") == 0) which = v, i++;
    else
      die("usage: plan_study PROFILE_DIR [--sample N] [--seed S] [--slo paper|rule] [--cases 1023|19682] [--limit-ms "
          "MS] [--effort N] [--no-interference] [--open] [--only N,N...]");
  }
  if (!dir) die("which profile? plan_study PROFILE_DIR");
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  if (let_profile_load(dir, &a, &s.profile, &e)) die(e.text);
  if (alone) s.profile.interference = LET_INTERFERENCE_NONE;
  for (int c = 0; c < 2; c++)
    for (int r = 0; r < 2; r++) {
      if ((*which && strcmp(which, c ? "19682" : "1023") != 0) || (*slo && strcmp(slo, r ? "rule" : "paper") != 0))
        continue;
      s.models = c ? 9 : 5, s.steps = c ? 2 : 3, s.rule = r;
      run(&s);
    }
  let_arena_fini(&a);
  return 0;
}
