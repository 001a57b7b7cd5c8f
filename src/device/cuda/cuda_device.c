#include "cuda_device.h"

#include <ctype.h>
#include <string.h>

void let_cuda_type_name(const char *product, char out[64]) {
  static const char *const maker[] = {"nvidia", "geforce", "tesla", "quadro"};
  size_t n = 0;
  while (*product) {
    while (*product && !isalnum((unsigned char)*product)) product++;
    size_t word = 0;
    while (isalnum((unsigned char)product[word])) word++;
    bool skip = false;
    for (size_t i = 0; i < sizeof maker / sizeof *maker; i++)
      skip |= strlen(maker[i]) == word && !strncasecmp(product, maker[i], word);
    if (!skip && word) {
      if (n && n < 63) out[n++] = '-';
      for (size_t i = 0; i < word && n < 63; i++) out[n++] = (char)tolower((unsigned char)product[i]);
    }
    product += word;
  }
  if (!n) memcpy(out, "gpu", n = 3);
  out[n] = 0;
}

#ifndef LET_HAVE_CUDA
let_err let_cuda_open(int ordinal, let_device **ret, let_error *e) {
  (void)ret;
  return let_fail(e, LET_ERR_NOT_FOUND,
                  "device cuda:%d: this gpulet was built without the CUDA headers; build it where cuda.h is installed "
                  "(12.5 or later)",
                  ordinal);
}
let_err let_cuda_list(let_device_name *ret, uint32_t cap, uint32_t *ret_n, let_error *e) {
  (void)ret, (void)cap, (void)ret_n;
  return let_fail(e, LET_ERR_NOT_FOUND, "no CUDA devices: this gpulet was built without the CUDA headers");
}
#else
#  include <stdio.h>
#  include <stdlib.h>
#  include <time.h>

#  include "cuda_int.h"

#  define CHECK(call)                                          \
    do {                                                       \
      let_err err_ = let_cuda_check(d->api, (call), #call, e); \
      if (err_) return err_;                                   \
    } while (0)

/* Splits once; without green contexts, or where a split is refused (MPS clients), the device is one granule. */
static let_err split(let_cuda *d, let_error *e) {
  const let_cuda_api *a = d->api;
  int sms = 0;
  CHECK(a->cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, d->dev));
  if (sms < 1) return let_fail(e, LET_ERR_NOT_FOUND, "cuda:%d reports %d SMs", d->ordinal, sms);
  let_device_type *t = &d->type;
  t->sms = t->granule_sms = t->last_granule_sms = (uint32_t)sms;
  t->granules = 1;
  d->n_resources = 0;
  if (!a->green) return LET_OK;
  const char *env = getenv("GPULET_SM_GROUP");
  long least = env ? strtol(env, NULL, 10) : 8;
  if (least < 1 || least > sms) return let_fail(e, LET_ERR_INVALID, "GPULET_SM_GROUP is '%s': 1 to %d SMs", env, sms);
  CUdevResource whole, rest;
  memset(&rest, 0, sizeof rest);
  unsigned n = LET__CUDA_GROUPS_MAX;
  CUresult r = a->cuDeviceGetDevResource(d->dev, &whole, CU_DEV_RESOURCE_TYPE_SM);
  if (!r) r = a->cuDevSmResourceSplitByCount(d->resource, &n, &whole, &rest, 0, (unsigned)least);
  if (let_cuda_class(r) == LET_ERR_UNSUPPORTED || let_cuda_class(r) == LET_ERR_INVALID) return LET_OK;
  CHECK(r);
  if (n < 1 || n > LET__CUDA_GROUPS_MAX) return LET_OK;
  d->n_resources = n;
  for (unsigned k = 0; k <= n; k++) d->begin[k] = k;
  t->granules = n;
  t->granule_sms = t->last_granule_sms = d->resource[0].sm.smCount;
  if (rest.type == CU_DEV_RESOURCE_TYPE_SM && rest.sm.smCount) {
    /* The descriptor takes groups and remainder of one split together. A remainder as large as a group is a
     * granule of its own; a smaller one makes the last group larger. */
    bool own = rest.sm.smCount >= t->granule_sms;
    d->resource[d->n_resources++] = rest;
    t->last_granule_sms = rest.sm.smCount + (own ? 0 : t->granule_sms);
    t->granules = n + own;
    d->begin[t->granules] = d->n_resources;
  }
  return LET_OK;
}

static let_err describe(let_cuda *d, int ordinal, let_error *e) {
  const let_cuda_api *a = d->api;
  d->ordinal = ordinal;
  int count = 0;
  CHECK(a->cuDeviceGetCount(&count));
  if (ordinal < 0 || ordinal >= count) {
    return let_fail(e, LET_ERR_NOT_FOUND, "no device cuda:%d: this machine has %d GPU%s, numbered from 0", ordinal,
                    count, count == 1 ? "" : "s");
  }
  CHECK(a->cuDeviceGet(&d->dev, ordinal));
  char product[128] = "";
  CHECK(a->cuDeviceGetName(product, sizeof product, d->dev));
  product[sizeof product - 1] = 0;
  let_cuda_type_name(product, d->type.name);
  size_t bytes = 0;
  CHECK(a->cuDeviceTotalMem(&bytes, d->dev));
  d->type.memory_bytes = bytes;
  d->type.cost = 1;
  CUuuid id;
  CHECK(a->cuDeviceGetUuid(&id, d->dev));
  char *at = d->uuid + snprintf(d->uuid, sizeof d->uuid, "GPU-");
  for (int i = 0; i < 16; i++) {
    at += snprintf(at, (size_t)(d->uuid + sizeof d->uuid - at), "%s%02x",
                   i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)id.bytes[i]);
  }
  return split(d, e);
}

static void cuda_close(let_device *base) {
  let_cuda *d = (let_cuda *)base;
  const let_cuda_api *a = d->api;
  (void)a->cuCtxSetCurrent(d->primary);
  /* With a kernel that never ends, destroying its context would wait for it: leave all of it to the process's end. */
  struct timespec nap = {0, 5 * LET_MS};
  for (int tries = 0; !let_cuda__reap(d); tries++) {
    if (tries == 400) return;
    nanosleep(&nap, NULL);
  }
  let_cuda__watch_end(d);
  while (d->contexts) {
    let_cuda_context *x = d->contexts;
    d->contexts = x->next;
    (void)a->cuGreenCtxDestroy(x->green);
    free(x);
  }
  while (d->n_spare) (void)a->cuMemFree(d->spare[--d->n_spare]);
  (void)a->cuCtxSetCurrent(NULL);
  (void)a->cuDevicePrimaryCtxRelease(d->dev);
  pthread_mutex_destroy(&d->lock);
  pthread_mutex_destroy(&d->pins);
  free(d);
}

static const let_device_type *cuda_type(const let_device *base) { return &((const let_cuda *)base)->type; }

static let_err cuda_health(let_device *base, let_device_health *ret, let_error *e) {
  let_cuda *d = (let_cuda *)base;
  const let_cuda_api *a = d->api;
  let_device_health h = {.utilization = -1, .power_w = -1};
  memcpy(h.uuid, d->uuid, sizeof h.uuid);
  let_nvml_utilization u;
  let_nvml_memory m;
  unsigned mw;
  if (d->nvml && a->nvml_utilization && !a->nvml_utilization(d->nvml, &u)) h.utilization = u.gpu / 100.0;
  if (d->nvml && a->nvml_power && !a->nvml_power(d->nvml, &mw)) h.power_w = mw / 1000.0;
  if (d->nvml && a->nvml_memory && !a->nvml_memory(d->nvml, &m)) {
    h.memory_used = m.used;
    h.memory_total = m.total;
  } else {
    size_t room = 0, total = 0;
    CHECK(a->cuCtxSetCurrent(d->primary));
    CHECK(a->cuMemGetInfo(&room, &total));
    h.memory_used = total - room;
    h.memory_total = total;
  }
  *ret = h;
  return LET_OK;
}

static const let_device_i cuda_i = {
    .name = "cuda",
    .close_device = cuda_close,
    .type = cuda_type,
    .health = cuda_health,
    .pin = let_cuda__pin,
    .unpin = let_cuda__unpin,
    .prewarm = let_cuda__prewarm,
    .open = let_cuda__open,
    .close = let_cuda__close,
    .target = let_cuda__target,
    .enter = let_cuda__enter,
    .copy_in = let_cuda__copy_in,
    .launch = let_cuda__launch,
    .copy_out = let_cuda__copy_out,
    .mark = let_cuda__mark,
    .wait = let_cuda__wait,
    .done_fd = let_cuda__done_fd,
    .timing_exact = let_cuda__timing_exact,
    .depth = 2,
};

static let_err retain(let_cuda *d, let_error *e) {
  CHECK(d->api->cuDevicePrimaryCtxRetain(&d->primary, d->dev));
  let_err err = let_cuda_check(d->api, d->api->cuCtxSetCurrent(d->primary), "cuCtxSetCurrent", e);
  if (err) (void)d->api->cuDevicePrimaryCtxRelease(d->dev);
  return err;
}

let_err let_cuda_open(int ordinal, let_device **ret, let_error *e) {
  const let_cuda_api *a;
  let_err err = let_cuda_api_get(&a, e);
  if (err) {
    let_fail_prefix(e, "device cuda:%d", ordinal);
    return err;
  }
  let_cuda *d = calloc(1, sizeof *d);
  if (!d) return let_fail(e, LET_ERR_NOMEM, "out of memory for device cuda:%d", ordinal);
  d->base.i = &cuda_i;
  d->api = a;
  err = describe(d, ordinal, e);
  if (!err) err = retain(d, e);
  if (err) {
    free(d);
    return err;
  }
  pthread_mutex_init(&d->lock, NULL);
  pthread_mutex_init(&d->pins, NULL);
  let_cuda__watch_init(&d->watch);
  let_cuda__scatter_load(d);
  char bus[32];
  if (a->nvml_by_pci && !a->cuDeviceGetPCIBusId(bus, sizeof bus, d->dev) && a->nvml_by_pci(bus, &d->nvml))
    d->nvml = NULL;
  *ret = &d->base;
  return LET_OK;
}

let_err let_cuda_list(let_device_name *ret, uint32_t cap, uint32_t *ret_n, let_error *e) {
  const let_cuda_api *a;
  let_err err = let_cuda_api_get(&a, e);
  if (err) return err;
  let_cuda *d = calloc(1, sizeof *d); /* too large for the stack of a small thread */
  if (!d) return let_fail(e, LET_ERR_NOMEM, "out of memory listing devices");
  d->api = a;
  int count = 0;
  err = let_cuda_check(a, a->cuDeviceGetCount(&count), "cuDeviceGetCount", e);
  uint32_t n = 0;
  for (; !err && n < (uint32_t)count && n < cap; n++) {
    memset(&d->type, 0, sizeof d->type);
    err = describe(d, (int)n, e);
    if (err) break;
    memset(&ret[n], 0, sizeof ret[n]);
    snprintf(ret[n].name, sizeof ret[n].name, "cuda:%u", n);
    ret[n].type = d->type;
  }
  free(d);
  if (!err) *ret_n = n;
  return err;
}
#endif
