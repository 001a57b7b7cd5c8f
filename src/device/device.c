#include "device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"
#include "device/sim/sim_device.h"

static const char *after(const char *s, const char *prefix) {
  size_t n = strlen(prefix);
  return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

static let_err unknown(const char *name, let_error *e) {
  return let_fail(e, LET_ERR_INVALID,
                  "device '%.100s' is not known: write \"cpu\", \"cpu:0-3\" (cores), \"cuda:0\" or \"sim:h200\"", name);
}

let_err let_device_open(const char *name, const char *profile_dir, let_device **ret, let_error *e) {
  const char *rest;
  if (strcmp(name, "cpu") == 0) return let_cpu_device_open("", ret, e);
  if ((rest = after(name, "cpu:"))) return let_cpu_device_open(rest, ret, e);
  if ((rest = after(name, "sim:"))) return let_sim_device_open(rest, profile_dir, ret, e);
  if ((rest = after(name, "cuda:"))) {
    char *end;
    unsigned long ordinal = strtoul(rest, &end, 10);
    if (*rest >= '0' && *rest <= '9' && !*end && ordinal < 1024) return let_cuda_open((int)ordinal, ret, e);
    return let_fail(e, LET_ERR_INVALID, "device '%.100s': write \"cuda:0\"", name);
  }
  return unknown(name, e);
}

typedef struct varying {
  let_exec x;
  let_exec *inner;
  const let_exec_tensor *in;
} varying;

static let_err run_varying(let_exec *x, void *stream, let_error *e) {
  varying *v = x->impl;
  return v->inner->run_dynamic(v->inner, v->in, stream, e);
}

let_err let_device_launch_varying(let_gpulet *g, let_exec *x, const let_exec_tensor *in, uint32_t rows, let_error *e) {
  varying v = {.x = *x, .inner = x, .in = in};
  v.x.n_graphs = 0;
  v.x.run = run_varying;
  v.x.impl = &v;
  v.x.size = rows;
  return g->device->i->launch(g, &v.x, e);
}

let_err let_pinned_reserve(let_device *d, let_pinned *b, uint64_t bytes, let_error *e) {
  if (bytes <= b->bytes) return LET_OK;
  uint64_t want = b->bytes ? b->bytes : 1 << 16;
  while (want < bytes) want *= 2;
  let_pinned_free(d, b);
  void *p = aligned_alloc(4096, want);
  if (!p) return let_fail(e, LET_ERR_NOMEM, "out of memory for a batch of %llu bytes", (unsigned long long)bytes);
  let_err r = d->i->pin(d, p, want, e);
  if (r) {
    free(p);
    return r;
  }
  *b = (let_pinned){p, want};
  return LET_OK;
}

void let_pinned_free(let_device *d, let_pinned *b) {
  if (b->p) d->i->unpin(d, b->p);
  free(b->p);
  *b = (let_pinned){0};
}

static let_err list_cpu(const char *spec, let_device_name *ret, uint32_t *ret_n, let_error *e) {
  const char *cores = after(spec, "cpu:");
  if (strlen(spec) >= sizeof ret->name) return let_fail(e, LET_ERR_INVALID, "device '%.60s...' is too long", spec);
  memset(ret, 0, sizeof *ret);
  snprintf(ret->name, sizeof ret->name, "%s", spec);
  *ret_n = 1;
  return let_cpu_device_type(cores ? cores : "", &ret->type, e);
}

/* "" or "0,1": all devices of the machine, or those. */
static let_err list_cuda(const char *which, let_device_name *ret, uint32_t cap, uint32_t *ret_n, let_error *e) {
  let_device_name all[64];
  uint32_t n, k = 0;
  let_err r = let_cuda_list(all, 64, &n, e);
  if (r) return r;
  if (!*which) {
    for (; k < n && k < cap; k++) ret[k] = all[k];
    *ret_n = k;
    return LET_OK;
  }
  for (const char *p = which; *p;) {
    char *end;
    unsigned long i = strtoul(p, &end, 10);
    if (*p < '0' || *p > '9' || (*end && *end != ','))
      return let_fail(e, LET_ERR_INVALID, "device 'cuda:%.60s': write \"cuda:0,1\"", which);
    if (i >= n)
      return let_fail(e, LET_ERR_NOT_FOUND, "device 'cuda:%lu' does not exist: this machine has %u CUDA device(s)", i,
                      n);
    if (k == cap) return let_fail(e, LET_ERR_INVALID, "more than %u devices", cap);
    ret[k++] = all[i];
    p = *end ? end + 1 : end;
  }
  *ret_n = k;
  return LET_OK;
}

static let_err list_one(const char *spec, const char *profile_dir, let_device_name *ret, uint32_t cap, uint32_t *ret_n,
                        let_error *e) {
  if (cap == 0) return let_fail(e, LET_ERR_INVALID, "too many devices");
  if (strcmp(spec, "cpu") == 0 || after(spec, "cpu:")) return list_cpu(spec, ret, ret_n, e);
  const char *rest = after(spec, "sim:");
  if (rest) return let_sim_device_list(rest, profile_dir, ret, cap, ret_n, e);
  if (strcmp(spec, "cuda") == 0) return list_cuda("", ret, cap, ret_n, e);
  const char *which = after(spec, "cuda:");
  if (which && *which) return list_cuda(which, ret, cap, ret_n, e);
  if (strcmp(spec, "auto") == 0) {
    if (list_cuda("", ret, cap, ret_n, NULL) == LET_OK && *ret_n > 0) return LET_OK;
    return list_cpu("cpu", ret, ret_n, e);
  }
  return unknown(spec, e);
}

let_err let_device_list(const char *spec, const char *profile_dir, let_device_name *ret, uint32_t cap, uint32_t *ret_n,
                        let_error *e) {
  char part[256];
  uint32_t n = 0;
  for (const char *p = spec;; p++) {
    size_t len = strcspn(p, "+");
    uint32_t got = 0;
    if (len >= sizeof part) return unknown(spec, e);
    memcpy(part, p, len);
    part[len] = 0;
    let_err r = list_one(part, profile_dir, ret + n, cap - n, &got, e);
    if (r) return r;
    n += got;
    p += len;
    if (!*p) break;
  }
  *ret_n = n;
  return LET_OK;
}
