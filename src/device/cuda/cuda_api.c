#ifdef LET_HAVE_CUDA
#  include "cuda_api.h"

#  include <dlfcn.h>
#  include <pthread.h>
#  include <stdio.h>
#  include <stdlib.h>
#  include <string.h>

#  include "base/units.h"

#  define STR(x)    #  x
#  define SYMBOL(x) STR(x)

static let_cuda_api api;
static let_err loaded = LET_ERR_UNAVAILABLE; /* until the first try */
static let_error why;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *sym(void *lib, const char *name) { return lib ? dlsym(lib, name) : NULL; }

static void load_nvml(const char *driver) {
  void *lib = driver ? dlopen(driver, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!sym(lib, "nvmlInit_v2")) lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  *(void **)&api.nvml_init = sym(lib, "nvmlInit_v2");
  *(void **)&api.nvml_by_pci = sym(lib, "nvmlDeviceGetHandleByPciBusId_v2");
  *(void **)&api.nvml_utilization = sym(lib, "nvmlDeviceGetUtilizationRates");
  *(void **)&api.nvml_power = sym(lib, "nvmlDeviceGetPowerUsage");
  *(void **)&api.nvml_memory = sym(lib, "nvmlDeviceGetMemoryInfo");
  if (!api.nvml_by_pci || !api.nvml_init || api.nvml_init() != 0) api.nvml_by_pci = NULL;
}

static let_err load(let_error *e) {
  const char *other = getenv("GPULET_CUDA_DRIVER");
  const char *path = other && *other ? other : "libcuda.so.1";
  /* Never closed: the driver keeps threads and atexit handlers of its own. */
  void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib)
    return let_fail(e, LET_ERR_NOT_FOUND, "no CUDA driver: %s; use --devices cpu on a machine without an NVIDIA GPU",
                    dlerror());
  api.green = true;
#  define X(name, older, needs_green)                                                                      \
    {                                                                                                      \
      const char *second = older;                                                                          \
      void *f = sym(lib, SYMBOL(name));                                                                    \
      if (!f && second) f = sym(lib, second);                                                              \
      if (!f && needs_green) api.green = false;                                                            \
      if (!f && !needs_green)                                                                              \
        return let_fail(e, LET_ERR_UNSUPPORTED,                                                            \
                        "the CUDA driver %s is too old: it lacks %s (CUDA 12.5 or later is needed)", path, \
                        SYMBOL(name));                                                                     \
      *(void **)&api.name = f;                                                                             \
    }
  LET_CUDA_MAP(X)
#  undef X
  /* Streams share work queues, 8 by default, and a stream that waits for its batch to end holds up the other streams of
   * its queue: with 7 gpu-lets on an H200 lenet's 0.1 ms took 50 at times, with 32 queues never. */
  (void)setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  CUresult r = api.cuInit(0);
  if (r == CUDA_ERROR_NO_DEVICE) return let_fail(e, LET_ERR_NOT_FOUND, "the CUDA driver finds no GPU on this machine");
  let_err err = let_cuda_check(&api, r, "cuInit", e);
  if (err) return let_fail(e, LET_ERR_NOT_FOUND, "the CUDA driver does not start: %s", e ? e->text : let_err_text(err));
  if (api.cuDriverGetVersion(&api.version)) api.version = 0;
  load_nvml(other);
  return LET_OK;
}

static void load_once(void) { loaded = load(&why); }

let_err let_cuda_api_get(const let_cuda_api **ret, let_error *e) {
  pthread_once(&once, load_once);
  if (loaded) return let_fail(e, loaded, "%s", why.text);
  *ret = &api;
  return LET_OK;
}

let_err let_cuda_class(CUresult r) {
  switch ((int)r) {
  case CUDA_SUCCESS: return LET_OK;
  case CUDA_ERROR_NOT_READY: return LET_ERR_AGAIN;
  case CUDA_ERROR_OUT_OF_MEMORY: return LET_ERR_NOMEM;
  case CUDA_ERROR_INVALID_VALUE:
  case CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
  case CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED: return LET_ERR_INVALID;
  case CUDA_ERROR_NOT_SUPPORTED:
  case CUDA_ERROR_NOT_PERMITTED:
  case CUDA_ERROR_INVALID_RESOURCE_TYPE:
  case CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION:
  case CUDA_ERROR_STUB_LIBRARY:
  case CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER: return LET_ERR_UNSUPPORTED;
  case CUDA_ERROR_INVALID_DEVICE:
  case CUDA_ERROR_NO_DEVICE: return LET_ERR_NOT_FOUND;
  /* What one stream, graph or context got wrong: a new one may do better. */
  case CUDA_ERROR_INVALID_HANDLE:
  case CUDA_ERROR_INVALID_CONTEXT:
  case CUDA_ERROR_INVALID_IMAGE:
  case CUDA_ERROR_NO_BINARY_FOR_GPU:
  case CUDA_ERROR_NOT_FOUND:
  case CUDA_ERROR_ILLEGAL_STATE:
  case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
  case CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE:
  case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
  case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
  case CUDA_ERROR_STREAM_CAPTURE_MERGE:
  case CUDA_ERROR_STREAM_CAPTURE_UNMATCHED:
  case CUDA_ERROR_STREAM_CAPTURE_UNJOINED:
  case CUDA_ERROR_STREAM_CAPTURE_ISOLATION:
  case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
  case CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD:
  case CUDA_ERROR_CAPTURED_EVENT:
  case CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE:
  case CUDA_ERROR_INVALID_CLUSTER_SIZE:
  case CUDA_ERROR_TIMEOUT: return LET_ERR_GPULET;
  default: return LET_ERR_DEVICE; /* 700s, ECC, NVLink, MPS, unknown: the context is gone */
  }
}

let_err let_cuda_check(const let_cuda_api *a, CUresult r, const char *what, let_error *e) {
  let_err class = let_cuda_class(r);
  if (class == LET_OK) return LET_OK;
  const char *name = NULL, *text = NULL;
  if (a->cuGetErrorName(r, &name) || !name) name = "unknown CUDA error";
  if (a->cuGetErrorString(r, &text) || !text) text = "no description";
  const char *call = strstr(what, "->cu"); /* from an expression: only the function's name */
  if (call) what = call + 2;
  (void)let_fail(e, class, "%.*s: %s (%d): %s", (int)strcspn(what, "("), what, name, (int)r, text);
  size_t room, total;
  if (e && class == LET_ERR_NOMEM && !a->cuMemGetInfo(&room, &total)) {
    char x[LET_UNITS_MAX], y[LET_UNITS_MAX];
    size_t n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, ": %s of %s are free", let_print_size(room, x), let_print_size(total, y));
  }
  return class;
}
#else
typedef int let_cuda_api_is_not_built; /* without cuda.h: cuda_none.c answers */
#endif
