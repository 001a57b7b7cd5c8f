#include "device/cpu/cpu_device.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "os/clock.h"
#include "os/cpu.h"

typedef struct cpu_device {
  let_device d;
  let_device_type type;
  uint32_t n, core[LET_CPU_MAX];
} cpu_device;

typedef struct cpu_gpulet {
  let_gpulet g;
  uint32_t number, n;
  const uint32_t *core;
  let_time begun;              /* first copy since the last mark */
  let_time since[2], until[2]; /* per instance */
  bool open;                   /* work was enqueued after the last mark */
} cpu_gpulet;

static void close_device(let_device *d) { free(d); }
static const let_device_type *type(const let_device *d) { return &((const cpu_device *)d)->type; }

static let_err health(let_device *d, let_device_health *ret, let_error *e) {
  (void)d, (void)e;
  long page = sysconf(_SC_PAGESIZE), all = sysconf(_SC_PHYS_PAGES), free_pages = sysconf(_SC_AVPHYS_PAGES);
  *ret = (let_device_health){.utilization = -1, .power_w = -1};
  if (page > 0 && all > 0 && free_pages >= 0 && free_pages <= all) {
    ret->memory_total = (uint64_t)all * (uint64_t)page;
    ret->memory_used = (uint64_t)(all - free_pages) * (uint64_t)page;
  }
  return LET_OK;
}

static let_err pin(let_device *d, void *p, uint64_t bytes, let_error *e) {
  (void)d, (void)p, (void)bytes, (void)e;
  return LET_OK;
}
static void unpin(let_device *d, void *p) { (void)d, (void)p; }

static let_err open_gpulet(let_device *d, uint32_t number, uint32_t first, uint32_t granules, bool shared,
                           let_gpulet **ret, let_error *e) {
  cpu_device *c = (cpu_device *)d;
  if (shared) {
    first = 0;
    granules = c->n;
  }
  if (granules < 1 || first >= c->n || granules > c->n - first)
    return let_fail(e, LET_ERR_INVALID, "cores %u to %u of a device that has %u", first, first + granules, c->n);
  cpu_gpulet *g = calloc(1, sizeof *g);
  if (!g) return let_fail(e, LET_ERR_NOMEM, "out of memory for a gpu-let");
  g->g.device = d;
  g->number = number;
  g->n = granules;
  g->core = c->core + first;
  *ret = &g->g;
  return LET_OK;
}

static void close_gpulet(let_gpulet *g) { free(g); }

static void target(const let_gpulet *g, let_engine_target *ret) {
  const cpu_gpulet *c = (const cpu_gpulet *)g;
  *ret = (let_engine_target){.cuda = -1, .threads = (int)c->n, .gpulet = c->number};
}

static let_err enter(let_gpulet *g, let_error *e) {
  cpu_gpulet *c = (cpu_gpulet *)g;
  return let_cpu_pin(c->core, c->n, e);
}

static void begin(cpu_gpulet *c) {
  if (c->open) return;
  c->open = true;
  c->begun = let_now();
}

static let_err copy(let_gpulet *g, void *dst, const void *src, uint64_t bytes, let_error *e) {
  (void)e;
  begin((cpu_gpulet *)g);
  if (bytes) memcpy(dst, src, bytes);
  return LET_OK;
}

static let_err launch(let_gpulet *g, let_exec *x, let_error *e) {
  begin((cpu_gpulet *)g);
  return x->run(x, NULL, e);
}

static let_err mark(let_gpulet *g, int instance, let_error *e) {
  cpu_gpulet *c = (cpu_gpulet *)g;
  (void)e;
  begin(c);
  c->since[instance] = c->begun;
  c->until[instance] = let_now();
  c->open = false;
  return LET_OK;
}

static let_err wait_mark(let_gpulet *g, int instance, let_dur timeout, let_time *ret_started, let_time *ret_finished,
                         let_error *e) {
  const cpu_gpulet *c = (const cpu_gpulet *)g;
  (void)timeout, (void)e; /* the work was done when it was enqueued */
  *ret_started = c->since[instance];
  *ret_finished = c->until[instance];
  return LET_OK;
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
static int done_fd(const let_gpulet *g, int instance) {
  (void)g, (void)instance;
  return -1;
}

static const let_device_i cpu_i = {
    .name = "cpu",
    .close_device = close_device,
    .type = type,
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
    .depth = 1,
};

/* "0-1,4" -> cores, each allowed and named once. */
static let_err parse(const char *s, cpu_device *c, let_error *e) {
  uint32_t allowed[LET_CPU_MAX], n_allowed = let_cpu_allowed(allowed);
  bool may[LET_CPU_MAX] = {false}, seen[LET_CPU_MAX] = {false};
  for (uint32_t i = 0; i < n_allowed; i++) may[allowed[i]] = true;
  if (!*s) {
    c->n = n_allowed;
    memcpy(c->core, allowed, n_allowed * sizeof *allowed);
  }
  for (const char *p = s; *p;) {
    char *end;
    unsigned long a = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : (end = (char *)(uintptr_t)p, LET_CPU_MAX), b = a;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9') b = strtoul(end + 1, &end, 10);
    if (a > b || b >= LET_CPU_MAX || (*end && *end != ',') || (*end == ',' && !end[1]))
      return let_fail(e, LET_ERR_INVALID, "device 'cpu:%s': write cores as in \"cpu:0-1\" or \"cpu:0,2\"", s);
    for (unsigned long k = a; k <= b; k++) {
      if (!may[k])
        return let_fail(e, LET_ERR_NOT_FOUND,
                        "device 'cpu:%s': core %lu is not one this process may use (%u of them, from %u to %u)", s, k,
                        n_allowed, allowed[0], allowed[n_allowed - 1]);
      if (seen[k]) return let_fail(e, LET_ERR_INVALID, "device 'cpu:%s': core %lu is named twice", s, k);
      seen[k] = true;
      c->core[c->n++] = (uint32_t)k;
    }
    p = *end ? end + 1 : end;
  }
  long page = sysconf(_SC_PAGESIZE), all = sysconf(_SC_PHYS_PAGES);
  c->type = (let_device_type){.name = "cpu",
                              .sms = c->n,
                              .granules = c->n,
                              .granule_sms = 1,
                              .last_granule_sms = 1,
                              .cost = 1,
                              .memory_bytes = page > 0 && all > 0 ? (uint64_t)all * (uint64_t)page : 0};
  return LET_OK;
}

let_err let_cpu_device_open(const char *cores, let_device **ret, let_error *e) {
  cpu_device *c = calloc(1, sizeof *c);
  if (!c) return let_fail(e, LET_ERR_NOMEM, "out of memory for a device");
  c->d.i = &cpu_i;
  let_err r = parse(cores, c, e);
  if (r) free(c);
  else *ret = &c->d;
  return r;
}

let_err let_cpu_device_type(const char *cores, let_device_type *ret, let_error *e) {
  let_device *d;
  let_err r = let_cpu_device_open(cores, &d, e);
  if (r) return r;
  *ret = *type(d);
  close_device(d);
  return LET_OK;
}
