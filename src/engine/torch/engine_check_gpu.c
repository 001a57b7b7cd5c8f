/* engine_check_gpu.c: green contexts through the driver, dlopened; without CUDA's headers only the CPU part. */
#include "engine_check.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static bool open_host(let_check_gpu *g, let_engine_target *targets, int n) {
  for (int i = 0; i < n; i++) targets[i] = (let_engine_target){.cuda = -1, .threads = 1, .gpulet = (uint32_t)i};
  snprintf(g->name, sizeof g->name, "CPU");
  return true;
}

static bool run_host(let_exec *x, void *stream, let_error *e) { return x->run(x, stream, e) == LET_OK; }

#ifdef GPULET_TORCH_CUDA
#  include <cuda.h>

#  define CALLS(X)                 \
    X(cuInit)                      \
    X(cuDeviceGet)                 \
    X(cuDeviceGetName)             \
    X(cuDevicePrimaryCtxRetain)    \
    X(cuCtxSetCurrent)             \
    X(cuDeviceGetDevResource)      \
    X(cuDevSmResourceSplitByCount) \
    X(cuDevResourceGenerateDesc)   \
    X(cuGreenCtxCreate)            \
    X(cuCtxFromGreenCtx)           \
    X(cuGreenCtxStreamCreate)      \
    X(cuMemAlloc)                  \
    X(cuMemcpyAsync)               \
    X(cuStreamSynchronize)         \
    X(cuGraphLaunch)

#  define X(name) static __typeof__(&name) p_##name;
CALLS(X)
#  undef X

#  define TRY(call)                                                                               \
    do {                                                                                          \
      CUresult r = p_##call;                                                                      \
      if (r != CUDA_SUCCESS) return fprintf(stderr, "%s: CUDA error %d\n", #call, (int)r), false; \
    } while (0)

#  define STRING(x) #  x
#  define SYMBOL(x) STRING(x) /* cuMemAlloc is a macro for cuMemAlloc_v2: the symbol is what it expands to */

bool let_check_open(let_check_gpu *g, let_engine_target *targets, int n) {
  if (g->ordinal < 0) return open_host(g, targets, n);
  void *lib = dlopen("libcuda.so.1", RTLD_NOW);
  if (!lib) {
    fprintf(stderr, "%s\n", dlerror());
    return false;
  }
#  define X(name)                                                     \
    void *at_##name = dlsym(lib, SYMBOL(name));                       \
    if (!at_##name) return fprintf(stderr, "%s\n", dlerror()), false; \
    memcpy(&p_##name, &at_##name, sizeof at_##name);
  CALLS(X)
#  undef X
  CUdevice device;
  CUcontext primary;
  TRY(cuInit(0));
  TRY(cuDeviceGet(&device, g->ordinal));
  TRY(cuDeviceGetName(g->name, sizeof g->name, device));
  TRY(cuDevicePrimaryCtxRetain(&primary, device));
  TRY(cuCtxSetCurrent(primary));
  CUdevResource all, part[128];
  unsigned parts = (unsigned)n;
  TRY(cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM));
  TRY(cuDevSmResourceSplitByCount(part, &parts, &all, NULL, 0, (unsigned)g->sms));
  for (int i = 0; i < n; i++) {
    CUdevResourceDesc desc;
    CUgreenCtx green;
    CUcontext context;
    CUstream stream;
    CUdeviceptr workspace;
    TRY(cuDevResourceGenerateDesc(&desc, &part[i], 1));
    TRY(cuGreenCtxCreate(&green, desc, device, CU_GREEN_CTX_DEFAULT_STREAM));
    TRY(cuCtxFromGreenCtx(&context, green));
    TRY(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
    TRY(cuMemAlloc(&workspace, 32u << 20));
    targets[i] = (let_engine_target){.cuda = g->ordinal,
                                     .context = context,
                                     .stream = stream,
                                     .gpulet = (uint32_t)i,
                                     .workspace = (void *)(uintptr_t)workspace,
                                     .workspace_bytes = 32u << 20};
  }
  return true;
}

bool let_check_copy(const let_check_gpu *g, void *dst, const void *src, uint64_t bytes, void *stream) {
  if (g->ordinal < 0) {
    memcpy(dst, src, bytes);
    return true;
  }
  TRY(cuMemcpyAsync((CUdeviceptr)(uintptr_t)dst, (CUdeviceptr)(uintptr_t)src, bytes, (CUstream)stream));
  return let_check_wait(g, stream);
}

bool let_check_launch(const let_check_gpu *g, let_exec *x, void *stream, let_error *e) {
  if (g->ordinal < 0 || !x->n_graphs) return run_host(x, stream, e);
  CUresult r = CUDA_SUCCESS;
  for (uint32_t i = 0; r == CUDA_SUCCESS && i < x->n_graphs; i++)
    r = p_cuGraphLaunch((CUgraphExec)x->graphs[i], (CUstream)stream);
  return r == CUDA_SUCCESS || (let_fail(e, LET_ERR_DEVICE, "cuGraphLaunch: CUDA error %d", (int)r), false);
}

/* By stream: synchronising the primary context was seen not to wait for the streams of green contexts. */
bool let_check_wait(const let_check_gpu *g, void *stream) {
  if (g->ordinal >= 0) TRY(cuStreamSynchronize((CUstream)stream));
  return true;
}

#else

bool let_check_open(let_check_gpu *g, let_engine_target *targets, int n) {
  if (g->ordinal >= 0) {
    fprintf(stderr, "engine_check was built without CUDA's headers\n");
    return false;
  }
  return open_host(g, targets, n);
}

bool let_check_copy(const let_check_gpu *g, void *dst, const void *src, uint64_t bytes, void *stream) {
  (void)g, (void)stream;
  memcpy(dst, src, bytes);
  return true;
}

bool let_check_launch(const let_check_gpu *g, let_exec *x, void *stream, let_error *e) {
  (void)g;
  return run_host(x, stream, e);
}

bool let_check_wait(const let_check_gpu *g, void *stream) {
  (void)g, (void)stream; /* on the CPU everything is done when the call returns */
  return true;
}

#endif
