#include "device/sim/sim_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/rng.h"
#include "os/clock.h"
#include "profile/profile.h"

enum { GPULETS_MAX = 64, COUNT_MAX = 1024 };

static const let_device_type h200 = {.name = "h200",
                                     .sms = 132,
                                     .granules = 16,
                                     .granule_sms = 8,
                                     .last_granule_sms = 12,
                                     .memory_bytes = (uint64_t)143000 << 20,
                                     .cost = 1};

/* What a gpu-let runs, or ran last. */
typedef struct running {
  let_tenant tenant;
  let_time finish;
  bool shared;
} running;

typedef struct sim_device {
  let_device d;
  char name[64], dir[256];
  let_arena arena;
  let_profile p;
  uint64_t seed;
  pthread_mutex_t lock; /* of what follows */
  running run[GPULETS_MAX];
  double work, last_work; /* granule-nanoseconds */
  let_time last_health;
} sim_device;

typedef struct sim_gpulet {
  let_gpulet g;
  uint32_t number, granules;
  bool shared, open; /* open: something was enqueued after the last mark */
  let_rng rng;
  let_time free_at, begun;
  let_time since[2], until[2];
  int timer[2]; /* readable once until[] has passed */
} sim_gpulet;

/* ---- the device's type and its profile ---------------------------------------------------------------------- */

/* "h200#3" -> "h200", 3. */
static let_err split(const char *name, char type[64], uint32_t *ret_index, let_error *e) {
  const char *hash = strchr(name, '#');
  size_t n = hash ? (size_t)(hash - name) : strlen(name);
  char *end = NULL;
  unsigned long index = hash ? strtoul(hash + 1, &end, 10) : 0;
  if (n < 1 || n >= 48 || (hash && (hash[1] < '0' || hash[1] > '9' || *end || index >= COUNT_MAX)))
    return let_fail(
        e, LET_ERR_INVALID,
        "device 'sim:%.60s': write \"sim:h200\", \"sim:h200x4\" (four of them) or \"sim:h200#3\" (the fourth)", name);
  memcpy(type, name, n);
  type[n] = 0;
  *ret_index = (uint32_t)index;
  return LET_OK;
}

static let_err load_one(const char *dir, let_arena *a, let_profile *ret, let_error *e) {
  let_profile_file device;
  memset(ret, 0, sizeof *ret);
  let_err r = let_profile_read(dir, "device.yaml", false, a, &device, e);
  return r ? r : device.text.p ? let_profile_load(dir, a, ret, e) : let_profile_import_raw(dir, &h200, a, ret, NULL, e);
}

/* |dirs|: "DIR[,DIR...]": the first that is of |type|. */
static let_err load(const char *type, const char *dirs, let_arena *a, let_profile *ret, let_error *e) {
  memset(ret, 0, sizeof *ret);
  ret->device = h200;
  for (const char *p = dirs ? dirs : ""; *p;) {
    size_t n = strcspn(p, ",");
    char *dir = let_arena_strdup(a, p, n);
    if (!dir) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    let_err r = load_one(dir, a, ret, e);
    if (r) return r;
    if (strcmp(ret->device.name, type) == 0) return LET_OK;
    p += n + (p[n] == ',');
  }
  if (strcmp(ret->device.name, type) != 0)
    return let_fail(e, LET_ERR_NOT_FOUND, "device 'sim:%s': %s%s '%s': write \"sim:%s\" or name another profile", type,
                    dirs && *dirs ? dirs : "without a profile only",
                    dirs && *dirs ? " is the profile of a" : " there is", ret->device.name, ret->device.name);
  return LET_OK;
}

static void close_device(let_device *d) {
  sim_device *s = (sim_device *)d;
  pthread_mutex_destroy(&s->lock);
  let_arena_fini(&s->arena);
  free(s);
}

static const let_device_type *type_of(const let_device *d) { return &((const sim_device *)d)->p.device; }

static let_err health(let_device *d, let_device_health *ret, let_error *e) {
  sim_device *s = (sim_device *)d;
  let_time now = let_now();
  (void)e;
  *ret = (let_device_health){.utilization = -1, .power_w = -1, .memory_total = s->p.device.memory_bytes};
  snprintf(ret->uuid, sizeof ret->uuid, "%s", s->name);
  pthread_mutex_lock(&s->lock);
  if (s->last_health && now > s->last_health) {
    double all = (double)(now - s->last_health) * s->p.device.granules;
    ret->utilization = s->work - s->last_work < all ? (s->work - s->last_work) / all : 1;
  }
  s->last_health = now;
  s->last_work = s->work;
  pthread_mutex_unlock(&s->lock);
  return LET_OK;
}

static let_err pin(let_device *d, void *p, uint64_t bytes, let_error *e) {
  (void)d, (void)p, (void)bytes, (void)e;
  return LET_OK;
}
static void unpin(let_device *d, void *p) { (void)d, (void)p; }

/* ---- gpu-lets ------------------------------------------------------------------------------------------------ */

static void close_gpulet(let_gpulet *g) {
  sim_device *s = (sim_device *)g->device;
  pthread_mutex_lock(&s->lock);
  s->run[((sim_gpulet *)g)->number].finish = 0;
  pthread_mutex_unlock(&s->lock);
  for (int i = 0; i < 2; i++)
    if (((sim_gpulet *)g)->timer[i] >= 0) close(((sim_gpulet *)g)->timer[i]);
  free(g);
}

static let_err open_gpulet(let_device *d, uint32_t number, uint32_t first, uint32_t granules, bool shared,
                           let_gpulet **ret, let_error *e) {
  sim_device *s = (sim_device *)d;
  uint32_t all = s->p.device.granules;
  if (shared) {
    first = 0;
    granules = all;
  }
  if (number >= GPULETS_MAX || granules < 1 || first >= all || granules > all - first)
    return let_fail(e, LET_ERR_INVALID, "granules %u to %u of a device that has %u", first, first + granules, all);
  sim_gpulet *g = calloc(1, sizeof *g);
  if (!g) return let_fail(e, LET_ERR_NOMEM, "out of memory for a gpu-let");
  g->g.device = d;
  g->number = number;
  g->granules = granules;
  g->shared = shared;
  let_rng_seed(&g->rng, s->seed + first * 64 + granules);
  for (int i = 0; i < 2; i++) g->timer[i] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (g->timer[0] < 0 || g->timer[1] < 0) {
    close_gpulet(&g->g);
    return let_fail(e, LET_ERR_IO, "cannot make a timer: %s", strerror(errno));
  }
  *ret = &g->g;
  return LET_OK;
}

static void target(const let_gpulet *g, let_engine_target *ret) {
  *ret = (let_engine_target){.cuda = -1, .threads = 1, .gpulet = ((const sim_gpulet *)g)->number};
}

static let_err enter(let_gpulet *g, let_error *e) {
  (void)g, (void)e;
  prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL); /* wake at the finish, not 50 us after */
  return LET_OK;
}

static void begin(sim_gpulet *g) {
  if (!g->open) {
    g->open = true;
    g->begun = LET_NEVER;
  }
}

static let_err copy(let_gpulet *g, void *dst, const void *src, uint64_t bytes, let_error *e) {
  (void)e;
  begin((sim_gpulet *)g);
  if (bytes) memcpy(dst, src, bytes);
  return LET_OK;
}

/* Under the lock: how many times longer a batch takes that starts on |g| at |start|. */
static double slowdown(const sim_device *s, const sim_gpulet *g, const let_tenant *self, let_time start) {
  let_tenant others[GPULETS_MAX];
  uint32_t n = 0, sharers = 0;
  for (uint32_t i = 0; i < GPULETS_MAX; i++) {
    const running *r = &s->run[i];
    if (i == g->number || r->finish <= start) continue;
    if (g->shared && r->shared) sharers++;
    else others[n++] = r->tenant;
  }
  double x = n ? let_profile_slowdown(&s->p, self, others, n) : 1;
  return (x > 1 ? x : 1) * (1 + sharers);
}

static let_err launch(let_gpulet *base, let_exec *x, let_error *e) {
  sim_gpulet *g = (sim_gpulet *)base;
  sim_device *s = (sim_device *)base->device;
  let_dur p50, p99;
  uint32_t model = x->model ? let_profile_find(&s->p, x->model) : UINT32_MAX;
  if (model == UINT32_MAX)
    return let_fail(e, LET_ERR_NOT_FOUND,
                    "model '%s' is not in the profile %s of device %s: measure it with `gpulet profile`",
                    x->model ? x->model : "?", s->dir[0] ? s->dir : "(none was given)", s->name);
  let_err r = let_profile_latency(&s->p, model, x->size, g->granules, LET_PROFILE_P50, &p50, e);
  if (!r) r = let_profile_latency(&s->p, model, x->size, g->granules, LET_PROFILE_P99, &p99, e);
  if (!r) r = x->run(x, NULL, e);
  if (r) return r;
  double took = (double)(let_rng_below(&g->rng, 50) ? p50 : p99) * (0.995 + 0.01 * let_rng_unit(&g->rng));
  let_time now = let_now(), start = now > g->free_at ? now : g->free_at;
  let_tenant self = {.model = model, .batch = x->size, .granules = g->granules, .busy = 1};
  pthread_mutex_lock(&s->lock);
  took *= slowdown(s, g, &self, start);
  g->free_at = start + (let_dur)took;
  s->run[g->number] = (running){self, g->free_at, g->shared};
  s->work += took * g->granules;
  pthread_mutex_unlock(&s->lock);
  begin(g);
  if (g->begun > start) g->begun = start;
  return LET_OK;
}

static let_err mark(let_gpulet *base, int instance, let_error *e) {
  sim_gpulet *g = (sim_gpulet *)base;
  let_time now = let_now();
  g->until[instance] = now > g->free_at ? now : g->free_at;
  g->since[instance] = g->open && g->begun != LET_NEVER ? g->begun : now;
  g->open = false;
  struct itimerspec t = {.it_value = {g->until[instance] / LET_S, g->until[instance] % LET_S}};
  return timerfd_settime(g->timer[instance], TFD_TIMER_ABSTIME, &t, NULL)
             ? let_fail(e, LET_ERR_GPULET, "a timer of the simulated device: %s", strerror(errno))
             : LET_OK;
}

static let_err prewarm(let_device *d, let_error *e) {
  (void)d, (void)e;
  return LET_OK;
}

/* It always is. */
static let_err timing_exact(let_gpulet *g, let_error *e) {
  (void)g, (void)e;
  return LET_OK;
}
static int done_fd(const let_gpulet *g, int instance) { return ((const sim_gpulet *)g)->timer[instance]; }

static let_err wait_mark(let_gpulet *base, int instance, let_dur timeout, let_time *ret_started, let_time *ret_finished,
                         let_error *e) {
  sim_gpulet *g = (sim_gpulet *)base;
  let_time now = let_now(), until = g->until[instance];
  if (until - now > timeout) {
    let_sleep_until(now + timeout);
    return let_fail(e, LET_ERR_DEADLINE, "not finished within %.1f s", (double)timeout / (double)LET_S);
  }
  let_sleep_until(until);
  *ret_started = g->since[instance];
  *ret_finished = until;
  return LET_OK;
}

static const let_device_i sim_i = {
    .name = "sim",
    .close_device = close_device,
    .type = type_of,
    .health = health,
    .pin = pin,
    .unpin = unpin,
    .open = open_gpulet,
    .close = close_gpulet,
    .target = target,
    .enter = enter,
    .copy_in = copy,
    .launch = launch,
    .copy_out = copy,
    .mark = mark,
    .wait = wait_mark,
    .done_fd = done_fd,
    .timing_exact = timing_exact,
    .prewarm = prewarm,
    .depth = 2,
};

let_err let_sim_device_open(const char *name, const char *profile_dir, let_device **ret, let_error *e) {
  char type[64];
  uint32_t index;
  let_err r = split(name, type, &index, e);
  if (r) return r;
  sim_device *s = calloc(1, sizeof *s);
  if (!s) return let_fail(e, LET_ERR_NOMEM, "out of memory for a device");
  s->d.i = &sim_i;
  pthread_mutex_init(&s->lock, NULL);
  let_arena_init(&s->arena, &let_mem_libc);
  snprintf(s->name, sizeof s->name, "sim:%.48s#%u", type, index);
  snprintf(s->dir, sizeof s->dir, "%.255s", profile_dir ? profile_dir : "");
  s->seed = UINT64_C(14695981039346656037); /* FNV-1a of the name */
  for (const char *p = s->name; *p; p++) s->seed = (s->seed ^ (unsigned char)*p) * UINT64_C(1099511628211);
  if ((r = load(type, profile_dir, &s->arena, &s->p, e))) {
    close_device(&s->d);
    return r;
  }
  *ret = &s->d;
  return LET_OK;
}

let_err let_sim_device_list(const char *spec, const char *profile_dir, let_device_name *ret, uint32_t cap,
                            uint32_t *ret_n, let_error *e) {
  char name[64], type[64];
  uint32_t first, count = 1;
  let_profile p;
  let_arena a;
  snprintf(name, sizeof name, "%.60s", spec);
  char *x = strrchr(name, 'x'), *end = NULL;
  bool one = strchr(name, '#') != NULL;
  /* "h200x4", but a type may itself end in x and a large number: "rtx4090". */
  if (!one && x && x > name && x[1] >= '1' && x[1] <= '9') {
    unsigned long n = strtoul(x + 1, &end, 10);
    if (!*end && n <= COUNT_MAX) {
      *x = 0;
      count = (uint32_t)n;
    }
  }
  let_err r = split(name, type, &first, e);
  if (r) return r;
  if (count > cap) return let_fail(e, LET_ERR_INVALID, "device 'sim:%.60s': more than %u devices", spec, cap);
  let_arena_init(&a, &let_mem_libc);
  r = load(type, profile_dir, &a, &p, e);
  for (uint32_t i = 0; !r && i < count; i++) {
    memset(&ret[i], 0, sizeof ret[i]);
    snprintf(ret[i].name, sizeof ret[i].name, "sim:%.48s#%u", type, first + i);
    ret[i].type = p.device;
  }
  let_arena_fini(&a);
  if (!r) *ret_n = count;
  return r;
}
