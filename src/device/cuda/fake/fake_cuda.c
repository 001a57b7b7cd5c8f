#include "fake_cuda.h"

#include <cuda.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HANG   ((CUresult)-1)
#define EXPORT __attribute__((visibility("default")))

enum {
  GROUPS = 256,
  FAULTS = 8,
  KIND_CONTEXT = 1,
  KIND_GREEN,
  KIND_DESC,
  KIND_STREAM,
  KIND_EVENT,
  KIND_MEMORY,
  KIND_PIN
};

/* Every live handle; the list is the truth about what may be used. */
typedef struct object {
  struct object *next;
  int kind;
} object;

typedef struct context { /* the primary one, or a green one */
  object o;
  int device;
  uint64_t sm[4];
  long retained;
} context;

typedef struct desc {
  object o;
  uint64_t sm[4];
} desc;

typedef struct event {
  object o;
  uint64_t recorded, completed;
  struct timespec at;
} event;

typedef struct op {
  struct op *next;
  enum { OP_COPY, OP_HOST, OP_RECORD, OP_WAIT, OP_GRAPH, OP_WRITE } kind;
  void *dst;
  const void *src;
  size_t bytes;
  CUhostFn fn;
  void *arg;
  event *event;
  uint64_t ticket;
  let_fake_graph *graph;
} op;

typedef struct stream {
  object o;
  context *context;
  pthread_t thread;
  op *head, **tail;
  bool busy, closing;
} stream;

typedef struct memory {
  object o;
  char *p;
  size_t bytes;
} memory;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static object *objects;
static let_fake_stats stats;
static int gpus, sms, running, split_number;
static size_t total, used;
static bool started, released;
static CUresult sticky;
static struct {
  char function[48];
  long n, seen;
  int code;
} fault[FAULTS];
static int n_faults;
static context *primary[8];
static const char *fault_file;
static _Thread_local context *current;

static bool is_sticky(int code) { return (code >= 700 && code <= 721) || code == 999; }

static void violate(const char *fmt, const char *what) {
  if (!stats.violations++) snprintf(stats.violation, sizeof stats.violation, fmt, what);
}

static void set_faults(const char *s) {
  n_faults = 0;
  while (s && *s && n_faults < FAULTS) {
    if (sscanf(s, "%47[^:]:%ld:%d", fault[n_faults].function, &fault[n_faults].n, &fault[n_faults].code) == 3)
      fault[n_faults++].seen = 0;
    s = strchr(s, ',');
    if (s) s++;
  }
}

static bool is_called(const char *function, const char *name) { /* cuMemAlloc_v2 is called cuMemAlloc */
  size_t n = strlen(name);
  return strncmp(name, function, n) == 0 && (!function[n] || strncmp(function + n, "_v", 2) == 0);
}

/* A fault laid out for one of this process's GPUs: the process that removes the file has it. */
static CUresult from_file(const char *function) {
  if (!fault_file) return CUDA_SUCCESS;
  for (int d = 0; d < gpus; d++) {
    char path[512], text[80] = "", name[48];
    int code = 0;
    snprintf(path, sizeof path, "%s.%d", fault_file, d);
    int fd = primary[d] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) continue;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n < 1 || sscanf(text, "%47[^:]:%d", name, &code) != 2 || !is_called(function, name) || unlink(path)) continue;
    if (is_sticky(code)) sticky = (CUresult)code;
    return (CUresult)code;
  }
  return CUDA_SUCCESS;
}

static CUresult injected(const char *function) {
  CUresult laid_out = from_file(function);
  if (laid_out) return laid_out;
  for (int i = 0; i < n_faults; i++) {
    if (!is_called(function, fault[i].function)) continue;
    fault[i].seen++;
    if (fault[i].n && fault[i].n != fault[i].seen) continue;
    if (is_sticky(fault[i].code)) sticky = (CUresult)fault[i].code;
    return (CUresult)fault[i].code;
  }
  return CUDA_SUCCESS;
}

/* Every entry: takes the lock, applies faults and sticky errors. `needs`: a context must be current. */
static CUresult enter(const char *function, bool needs) {
  pthread_mutex_lock(&lock);
  CUresult r = !started ? CUDA_ERROR_NOT_INITIALIZED : injected(function);
  while (r == HANG && !released) pthread_cond_wait(&changed, &lock);
  if (r == HANG) r = CUDA_SUCCESS;
  if (!r && needs && sticky) r = sticky;
  if (!r && needs && !current) {
    violate("%s without a current context", function);
    r = CUDA_ERROR_INVALID_CONTEXT;
  }
  return r;
}
static CUresult leave(CUresult r) {
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return r;
}
#define ENTER(needs)                   \
  CUresult r = enter(__func__, needs); \
  if (r) return leave(r)

static bool live(const void *p, int kind, const char *what) {
  for (object *o = objects; o; o = o->next)
    if (o == p && o->kind == kind) return true;
  violate("%s on a handle that is not alive", what);
  return false;
}
static void *make(size_t n, int kind) {
  object *o = calloc(1, n);
  if (!o) abort();
  o->kind = kind;
  o->next = objects;
  objects = o;
  stats.live++;
  return o;
}
static void drop(void *p) {
  for (object **at = &objects; *at; at = &(*at)->next) {
    if (*at != p) continue;
    *at = (*at)->next;
    stats.live--;
    free(p);
    return;
  }
}
static bool is_green(const void *p) {
  for (object *o = objects; o; o = o->next)
    if (o == p) return o->kind == KIND_GREEN;
  return false;
}
static bool within(int kind, const char *p, size_t bytes) {
  for (object *o = objects; o; o = o->next) {
    const memory *m = (const memory *)o;
    if (o->kind == kind && p >= m->p && bytes <= m->bytes && (size_t)(p - m->p) <= m->bytes - bytes) return true;
  }
  return false;
}

static bool allocated(const char *p, size_t bytes) { return within(KIND_MEMORY, p, bytes); }
static bool pinned(const char *p, size_t bytes) { return within(KIND_PIN, p, bytes); }

static void execute(stream *s, op *o) { /* called with the lock held; lets go of it while working */
  CUresult r = CUDA_SUCCESS;
  switch (o->kind) {
  case OP_COPY:
    if (running) stats.copies_beside++;
    pthread_mutex_unlock(&lock);
    memcpy(o->dst, o->src, o->bytes);
    pthread_mutex_lock(&lock);
    break;
  case OP_HOST:
    if (sticky) break;
    pthread_mutex_unlock(&lock);
    o->fn(o->arg);
    pthread_mutex_lock(&lock);
    break;
  case OP_RECORD:
    if (o->event->completed < o->ticket) o->event->completed = o->ticket;
    clock_gettime(CLOCK_MONOTONIC, &o->event->at);
    break;
  case OP_WRITE:
    if (!sticky) atomic_store_explicit((_Atomic uint32_t *)o->dst, (uint32_t)o->ticket, memory_order_release);
    break;
  case OP_WAIT:
    while (o->event->completed < o->ticket && !s->closing) pthread_cond_wait(&changed, &lock);
    break;
  case OP_GRAPH:
    r = injected("kernel");
    if ((r && r != HANG) || sticky) break;
    if (++running > stats.running_most) stats.running_most = running;
    pthread_mutex_unlock(&lock);
    struct timespec t = {o->graph->us / 1000000, o->graph->us % 1000000 * 1000L};
    if (o->graph->us) nanosleep(&t, NULL);
    if (o->graph->fn) o->graph->fn(o->graph->arg);
    pthread_mutex_lock(&lock);
    while ((o->graph->kind == LET_FAKE_HANG || r == HANG) && !released) pthread_cond_wait(&changed, &lock);
    running--;
    break;
  }
}

static void *work(void *user) {
  stream *s = user;
  pthread_mutex_lock(&lock);
  while (!s->closing || s->head) {
    op *o = s->head;
    if (!o) {
      pthread_cond_wait(&changed, &lock);
      continue;
    }
    s->head = o->next;
    if (!s->head) s->tail = &s->head;
    s->busy = true;
    execute(s, o);
    s->busy = false;
    free(o);
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static CUresult push(CUstream h, op o) {
  stream *s = (stream *)h;
  if (!live(s, KIND_STREAM, "enqueue")) return CUDA_ERROR_INVALID_HANDLE;
  op *copy = malloc(sizeof *copy);
  if (!copy) abort();
  *copy = o;
  copy->next = NULL;
  *s->tail = copy;
  s->tail = &copy->next;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuInit(unsigned flags) {
  (void)flags;
  pthread_mutex_lock(&lock);
  if (!started) {
    const char *g = getenv("GPULET_FAKE_CUDA_GPUS"), *m = getenv("GPULET_FAKE_CUDA_SMS"),
               *b = getenv("GPULET_FAKE_CUDA_MIB");
    gpus = g ? atoi(g) : 1;
    sms = m ? atoi(m) : 132;
    if (gpus > 8) gpus = 8;
    total = (size_t)(b ? atoi(b) : 1024) << 20;
    set_faults(getenv("GPULET_FAKE_CUDA_FAULT"));
    fault_file = getenv("GPULET_FAKE_CUDA_FAULT_FILE");
    started = true;
  }
  CUresult r = injected(__func__);
  return leave(r ? r : gpus ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE);
}
EXPORT CUresult cuDriverGetVersion(int *ret) {
  *ret = 13000;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorName(CUresult r, const char **ret) {
  *ret = r == CUDA_ERROR_OUT_OF_MEMORY     ? "CUDA_ERROR_OUT_OF_MEMORY"
         : r == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                           : "CUDA_ERROR_FAKE";
  return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult r, const char **ret) {
  (void)r;
  *ret = "from the fake driver";
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int *ret) {
  ENTER(false);
  *ret = gpus;
  return leave(r);
}
EXPORT CUresult cuDeviceGet(CUdevice *ret, int n) {
  ENTER(false);
  if (n < 0 || n >= gpus) return leave(CUDA_ERROR_INVALID_DEVICE);
  *ret = n;
  return leave(r);
}
EXPORT CUresult cuDeviceGetName(char *ret, int n, CUdevice d) {
  ENTER(false);
  (void)d;
  snprintf(ret, (size_t)n, "NVIDIA Fake 132");
  return leave(r);
}
EXPORT CUresult cuDeviceGetUuid(CUuuid *ret, CUdevice d) {
  ENTER(false);
  memset(ret, d + 1, sizeof *ret);
  return leave(r);
}
EXPORT CUresult cuDeviceGetPCIBusId(char *ret, int n, CUdevice d) {
  ENTER(false);
  snprintf(ret, (size_t)n, "0000:0%d:00.0", d);
  return leave(r);
}
EXPORT CUresult cuDeviceGetAttribute(int *ret, CUdevice_attribute a, CUdevice d) {
  ENTER(false);
  (void)d;
  *ret = a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? sms : 0;
  return leave(r);
}
EXPORT CUresult cuDeviceTotalMem(size_t *ret, CUdevice d) {
  ENTER(false);
  (void)d;
  *ret = total;
  return leave(r);
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *ret, CUdevice d) {
  ENTER(false);
  if (!primary[d]) {
    primary[d] = make(sizeof(context), KIND_CONTEXT);
    primary[d]->device = d;
    memset(primary[d]->sm, 0xff, sizeof primary[d]->sm);
  }
  primary[d]->retained++;
  *ret = (CUcontext)primary[d];
  return leave(r);
}
EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice d) {
  ENTER(false);
  if (!primary[d]) {
    violate("%s of a context never retained", __func__);
    return leave(CUDA_ERROR_INVALID_CONTEXT);
  }
  if (!--primary[d]->retained) {
    drop(primary[d]);
    primary[d] = NULL;
  }
  return leave(r);
}
EXPORT CUresult cuCtxSetCurrent(CUcontext c) {
  ENTER(false);
  if (c && !live(c, c == (CUcontext)primary[0] || !is_green(c) ? KIND_CONTEXT : KIND_GREEN, __func__))
    return leave(CUDA_ERROR_INVALID_CONTEXT);
  current = (context *)c;
  return leave(r);
}
EXPORT CUresult cuCtxGetCurrent(CUcontext *ret) {
  ENTER(false);
  *ret = (CUcontext)current;
  return leave(r);
}

EXPORT CUresult cuMemAlloc(CUdeviceptr *ret, size_t n) {
  ENTER(true);
  if (n > total - used) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  memory *m = make(sizeof *m, KIND_MEMORY);
  m->p = calloc(1, n ? n : 1);
  m->bytes = n;
  if (!m->p) abort();
  used += n;
  *ret = (CUdeviceptr)(uintptr_t)m->p;
  return leave(r);
}
EXPORT CUresult cuMemFree(CUdeviceptr p) {
  ENTER(true);
  for (object *o = objects; o; o = o->next) {
    memory *m = (memory *)o;
    if (o->kind != KIND_MEMORY || (uintptr_t)m->p != p) continue;
    used -= m->bytes;
    free(m->p);
    drop(m);
    return leave(r);
  }
  violate("%s of memory that is not allocated", __func__);
  return leave(CUDA_ERROR_INVALID_VALUE);
}
EXPORT CUresult cuMemGetInfo(size_t *room, size_t *all) {
  ENTER(true);
  *room = total - used;
  *all = total;
  return leave(r);
}
EXPORT CUresult cuMemHostRegister(void *p, size_t n, unsigned flags) {
  ENTER(true);
  (void)flags;
  memory *m = make(sizeof *m, KIND_PIN);
  m->p = p;
  m->bytes = n;
  return leave(r);
}
EXPORT CUresult cuMemHostUnregister(void *p) {
  ENTER(true);
  for (object *o = objects; o; o = o->next)
    if (o->kind == KIND_PIN && ((memory *)o)->p == p) {
      drop(o);
      return leave(r);
    }
  return leave(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}
EXPORT CUresult cuMemHostGetDevicePointer(CUdeviceptr *ret, void *p, unsigned flags) {
  ENTER(true);
  (void)flags;
  if (!pinned(p, 1)) return leave(CUDA_ERROR_INVALID_VALUE);
  *ret = (CUdeviceptr)(uintptr_t)p;
  return leave(r);
}
EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t n, CUstream s) {
  ENTER(true);
  if (!allocated((char *)(uintptr_t)dst, n)) {
    violate("%s outside device memory", __func__);
    return leave(CUDA_ERROR_INVALID_VALUE);
  }
  return leave(push(s, (op){.kind = OP_COPY, .dst = (void *)(uintptr_t)dst, .src = src, .bytes = n}));
}
EXPORT CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t n, CUstream s) {
  ENTER(true);
  if (!allocated((char *)(uintptr_t)src, n)) {
    violate("%s outside device memory", __func__);
    return leave(CUDA_ERROR_INVALID_VALUE);
  }
  return leave(push(s, (op){.kind = OP_COPY, .dst = dst, .src = (void *)(uintptr_t)src, .bytes = n}));
}

static stream *new_stream(context *c) {
  stream *s = make(sizeof *s, KIND_STREAM);
  s->context = c;
  s->tail = &s->head;
  if (pthread_create(&s->thread, NULL, work, s)) abort();
  return s;
}
EXPORT CUresult cuStreamCreate(CUstream *ret, unsigned flags) {
  ENTER(true);
  (void)flags;
  *ret = (CUstream)new_stream(current);
  return leave(r);
}
EXPORT CUresult cuStreamDestroy(CUstream h) {
  pthread_mutex_lock(&lock); /* works after a sticky error too, so that the fake itself leaks nothing */
  stream *s = (stream *)h;
  if (!live(s, KIND_STREAM, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  s->closing = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  pthread_join(s->thread, NULL);
  pthread_mutex_lock(&lock);
  drop(s);
  return leave(sticky);
}
EXPORT CUresult cuStreamQuery(CUstream h) {
  ENTER(true);
  stream *s = (stream *)h;
  if (!live(s, KIND_STREAM, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  return leave(s->head || s->busy ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
EXPORT CUresult cuStreamWaitEvent(CUstream s, CUevent h, unsigned flags) {
  ENTER(true);
  (void)flags;
  event *v = (event *)h;
  if (!live(v, KIND_EVENT, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (!v->recorded) violate("%s on an event never recorded", __func__);
  return leave(push(s, (op){.kind = OP_WAIT, .event = v, .ticket = v->recorded}));
}
EXPORT CUresult cuEventCreate(CUevent *ret, unsigned flags) {
  ENTER(true);
  (void)flags;
  *ret = (CUevent)make(sizeof(event), KIND_EVENT);
  return leave(r);
}
EXPORT CUresult cuEventDestroy(CUevent h) {
  pthread_mutex_lock(&lock);
  if (!live(h, KIND_EVENT, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  drop(h);
  return leave(sticky);
}
EXPORT CUresult cuEventRecord(CUevent h, CUstream s) {
  ENTER(true);
  event *v = (event *)h;
  if (!live(v, KIND_EVENT, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  return leave(push(s, (op){.kind = OP_RECORD, .event = v, .ticket = ++v->recorded}));
}
EXPORT CUresult cuEventElapsedTime(float *ret, CUevent from, CUevent to) {
  ENTER(true);
  event *a = (event *)from, *b = (event *)to;
  if (!live(a, KIND_EVENT, __func__) || !live(b, KIND_EVENT, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (a->completed < a->recorded || b->completed < b->recorded) return leave(CUDA_ERROR_NOT_READY);
  if (!a->recorded || !b->recorded) {
    violate("%s on an event never recorded", __func__);
    return leave(CUDA_ERROR_INVALID_HANDLE);
  }
  *ret = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) / 1e6);
  return leave(r);
}
/* The one kernel there is: gpulet's own, which copies as its parameter says, into pinned memory only. */
EXPORT CUresult cuModuleLoadData(CUmodule *ret, const void *image) {
  ENTER(true);
  if (!strstr(image, ".entry scatter")) return leave(CUDA_ERROR_INVALID_IMAGE);
  *ret = (CUmodule)(uintptr_t)1;
  return leave(r);
}
EXPORT CUresult cuModuleGetFunction(CUfunction *ret, CUmodule m, const char *name) {
  ENTER(true);
  if (m != (CUmodule)(uintptr_t)1 || strcmp(name, "scatter") != 0) return leave(CUDA_ERROR_NOT_FOUND);
  *ret = (CUfunction)(uintptr_t)2;
  return leave(r);
}
EXPORT CUresult cuLaunchKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                               unsigned shared, CUstream s, void **params, void **extra) {
  ENTER(true);
  (void)y, (void)z, (void)bx, (void)by, (void)bz, (void)shared, (void)extra;
  if (f != (CUfunction)(uintptr_t)2) {
    violate("%s of an unknown function", __func__);
    return leave(CUDA_ERROR_INVALID_HANDLE);
  }
  for (unsigned i = 0; !r && i < x; i++) {
    uint64_t c[3];
    memcpy(c, (const char *)params[0] + i * sizeof c, sizeof c);
    if (!pinned((char *)(uintptr_t)c[0], c[2])) {
      violate("%s writes outside pinned memory", __func__);
      r = CUDA_ERROR_ILLEGAL_ADDRESS;
    } else if (!allocated((char *)(uintptr_t)c[1], c[2])) {
      violate("%s reads outside device memory", __func__);
      r = CUDA_ERROR_ILLEGAL_ADDRESS;
    } else
      r = push(s, (op){.kind = OP_COPY, .dst = (void *)(uintptr_t)c[0], .src = (void *)(uintptr_t)c[1], .bytes = c[2]});
  }
  return leave(r);
}
EXPORT CUresult cuLaunchHostFunc(CUstream s, CUhostFn fn, void *arg) {
  ENTER(true);
  return leave(push(s, (op){.kind = OP_HOST, .fn = fn, .arg = arg}));
}
EXPORT CUresult cuStreamWriteValue32(CUstream s, CUdeviceptr at, cuuint32_t value, unsigned flags) {
  ENTER(true);
  (void)flags;
  if (at % 4 || !pinned((char *)(uintptr_t)at, 4)) {
    violate("%s outside pinned memory", __func__);
    return leave(CUDA_ERROR_INVALID_VALUE);
  }
  return leave(push(s, (op){.kind = OP_WRITE, .dst = (void *)(uintptr_t)at, .ticket = value}));
}
EXPORT CUresult cuGraphLaunch(CUgraphExec x, CUstream s) {
  ENTER(true);
  let_fake_graph *g = (let_fake_graph *)x;
  if (!g || g->magic != LET_FAKE_GRAPH) {
    violate("%s of something that is no graph", __func__);
    return leave(CUDA_ERROR_INVALID_HANDLE);
  }
  return leave(push(s, (op){.kind = OP_GRAPH, .graph = g}));
}

/* An SM resource keeps its mask and the number of its split in the padding that the real driver uses for the same. */
typedef struct hidden {
  uint64_t sm[4];
  int split, device;
} hidden;
static CUdevResource resource(int from, int n, int split, int device) {
  CUdevResource v;
  memset(&v, 0, sizeof v);
  v.type = CU_DEV_RESOURCE_TYPE_SM;
  v.sm.smCount = (unsigned)n;
  hidden h = {.split = split, .device = device};
  for (int i = from; i < from + n; i++) h.sm[i / 64] |= 1ull << (i % 64);
  memcpy(v._internal_padding, &h, sizeof h);
  return v;
}
EXPORT CUresult cuDeviceGetDevResource(CUdevice d, CUdevResource *ret, CUdevResourceType type) {
  ENTER(false);
  if (type != CU_DEV_RESOURCE_TYPE_SM) return leave(CUDA_ERROR_INVALID_RESOURCE_TYPE);
  *ret = resource(0, sms, 0, d);
  return leave(r);
}
EXPORT CUresult cuDevSmResourceSplitByCount(CUdevResource *result, unsigned *n, const CUdevResource *in,
                                            CUdevResource *rest, unsigned flags, unsigned least) {
  ENTER(false);
  (void)flags;
  hidden h;
  memcpy(&h, in->_internal_padding, sizeof h);
  int group = (int)(least + 7) / 8 * 8, most = sms / group;
  if (most * group == 128 && sms == 132) most = 15; /* as an H200 does: 15 groups of 8 and 12 left */
  if (*n > (unsigned)most) *n = (unsigned)most;
  split_number++;
  for (unsigned i = 0; i < *n; i++) result[i] = resource((int)i * group, group, split_number, h.device);
  int left = sms - (int)*n * group;
  if (rest && left) *rest = resource(sms - left, left, split_number, h.device);
  return leave(r);
}
EXPORT CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *ret, CUdevResource *in, unsigned n) {
  ENTER(false);
  desc *v = make(sizeof *v, KIND_DESC);
  stats.live--; /* the driver offers no way to free one */
  int split = -1;
  for (unsigned i = 0; i < n; i++) {
    hidden h;
    memcpy(&h, in[i]._internal_padding, sizeof h);
    bool twice = false;
    for (int k = 0; k < 4; k++) {
      twice |= (v->sm[k] & h.sm[k]) != 0;
      v->sm[k] |= h.sm[k];
    }
    if (twice || !h.split || (split >= 0 && split != h.split)) {
      violate("%s: groups of two splits, or one group twice", __func__);
      return leave(CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION);
    }
    split = h.split;
  }
  *ret = (CUdevResourceDesc)v;
  return leave(r);
}
EXPORT CUresult cuGreenCtxCreate(CUgreenCtx *ret, CUdevResourceDesc h, CUdevice d, unsigned flags) {
  ENTER(false);
  if (!live(h, KIND_DESC, __func__)) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (flags != CU_GREEN_CTX_DEFAULT_STREAM) return leave(CUDA_ERROR_INVALID_VALUE);
  context *c = make(sizeof *c, KIND_GREEN);
  c->device = d;
  memcpy(c->sm, ((desc *)h)->sm, sizeof c->sm);
  stats.contexts_made++;
  *ret = (CUgreenCtx)c;
  return leave(r);
}
EXPORT CUresult cuGreenCtxDestroy(CUgreenCtx h) {
  pthread_mutex_lock(&lock);
  if (!live(h, KIND_GREEN, __func__)) return leave(CUDA_ERROR_INVALID_CONTEXT);
  for (object *o = objects; o; o = o->next)
    if (o->kind == KIND_STREAM && ((stream *)o)->context == (context *)h) violate("%s before its streams", __func__);
  drop(h);
  return leave(sticky);
}
EXPORT CUresult cuCtxFromGreenCtx(CUcontext *ret, CUgreenCtx h) {
  ENTER(false);
  *ret = (CUcontext)h;
  return leave(r);
}
EXPORT CUresult cuGreenCtxStreamCreate(CUstream *ret, CUgreenCtx h, unsigned flags, int priority) {
  ENTER(false);
  if (!live(h, KIND_GREEN, __func__)) return leave(CUDA_ERROR_INVALID_CONTEXT);
  (void)priority;
  if (flags != CU_STREAM_NON_BLOCKING) return leave(CUDA_ERROR_INVALID_VALUE);
  *ret = (CUstream)new_stream((context *)h);
  return leave(r);
}

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **ret);
EXPORT int nvmlDeviceGetUtilizationRates(void *dev, unsigned ret[2]);
EXPORT int nvmlDeviceGetPowerUsage(void *dev, unsigned *ret);
EXPORT int nvmlDeviceGetMemoryInfo(void *dev, unsigned long long ret[3]);
EXPORT int nvmlInit_v2(void) { return 0; }
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **ret) {
  (void)bus;
  *ret = &stats;
  return 0;
}
EXPORT int nvmlDeviceGetUtilizationRates(void *dev, unsigned ret[2]) {
  (void)dev;
  ret[0] = 37;
  ret[1] = 5;
  return 0;
}
EXPORT int nvmlDeviceGetPowerUsage(void *dev, unsigned *ret) {
  (void)dev;
  *ret = 123500;
  return 0;
}
EXPORT int nvmlDeviceGetMemoryInfo(void *dev, unsigned long long ret[3]) {
  (void)dev;
  ret[0] = total;
  ret[1] = total - used;
  ret[2] = used;
  return 0;
}

EXPORT void let_fake_cuda_fault(const char *faults);
EXPORT void let_fake_cuda_stats(let_fake_stats *ret);
EXPORT void let_fake_cuda_release(void);
EXPORT void let_fake_cuda_fault(const char *faults) {
  pthread_mutex_lock(&lock);
  sticky = CUDA_SUCCESS;
  released = false;
  set_faults(faults);
  long made = stats.live;
  memset(&stats, 0, sizeof stats);
  stats.live = made;
  (void)leave(CUDA_SUCCESS);
}
EXPORT void let_fake_cuda_stats(let_fake_stats *ret) {
  pthread_mutex_lock(&lock);
  *ret = stats;
  (void)leave(CUDA_SUCCESS);
}
EXPORT void let_fake_cuda_release(void) {
  pthread_mutex_lock(&lock);
  released = true;
  (void)leave(CUDA_SUCCESS);
}
