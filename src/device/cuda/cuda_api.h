/* cuda_api.h: the one table of driver and NVML functions this directory uses; filled by dlopen, once per process.
 * The header's own macros turn each name into its versioned symbol (cuMemAlloc -> cuMemAlloc_v2), so the table
 * always agrees with the signatures it was compiled against. */
#ifndef LET_DEVICE_CUDA_API_H
#define LET_DEVICE_CUDA_API_H

#include <cuda.h>
#include <stdint.h>

#include "base/err.h"

/* name, what an older driver calls it (NULL: no other name), needed for green contexts only */
#define LET_CUDA_MAP(X)                          \
  X(cuInit, NULL, 0)                             \
  X(cuDriverGetVersion, NULL, 0)                 \
  X(cuGetErrorName, NULL, 0)                     \
  X(cuGetErrorString, NULL, 0)                   \
  X(cuDeviceGetCount, NULL, 0)                   \
  X(cuDeviceGet, NULL, 0)                        \
  X(cuDeviceGetName, NULL, 0)                    \
  X(cuDeviceGetUuid, "cuDeviceGetUuid", 0)       \
  X(cuDeviceGetPCIBusId, NULL, 0)                \
  X(cuDeviceGetAttribute, NULL, 0)               \
  X(cuDeviceTotalMem, NULL, 0)                   \
  X(cuDevicePrimaryCtxRetain, NULL, 0)           \
  X(cuDevicePrimaryCtxRelease, NULL, 0)          \
  X(cuCtxSetCurrent, NULL, 0)                    \
  X(cuCtxGetCurrent, NULL, 0)                    \
  X(cuMemAlloc, NULL, 0)                         \
  X(cuMemFree, NULL, 0)                          \
  X(cuMemGetInfo, NULL, 0)                       \
  X(cuMemHostRegister, NULL, 0)                  \
  X(cuMemHostUnregister, NULL, 0)                \
  X(cuMemcpyHtoDAsync, NULL, 0)                  \
  X(cuMemcpyDtoHAsync, NULL, 0)                  \
  X(cuStreamCreate, NULL, 0)                     \
  X(cuStreamDestroy, NULL, 0)                    \
  X(cuStreamQuery, NULL, 0)                      \
  X(cuStreamWaitEvent, NULL, 0)                  \
  X(cuEventCreate, NULL, 0)                      \
  X(cuEventDestroy, NULL, 0)                     \
  X(cuEventRecord, NULL, 0)                      \
  X(cuLaunchHostFunc, NULL, 0)                   \
  X(cuStreamWriteValue32, NULL, 0)               \
  X(cuEventElapsedTime, "cuEventElapsedTime", 0) \
  X(cuGraphLaunch, NULL, 0)                      \
  X(cuModuleLoadData, NULL, 0)                   \
  X(cuModuleGetFunction, NULL, 0)                \
  X(cuLaunchKernel, NULL, 0)                     \
  X(cuMemHostGetDevicePointer, NULL, 0)          \
  X(cuDeviceGetDevResource, NULL, 1)             \
  X(cuDevSmResourceSplitByCount, NULL, 1)        \
  X(cuDevResourceGenerateDesc, NULL, 1)          \
  X(cuGreenCtxCreate, NULL, 1)                   \
  X(cuGreenCtxDestroy, NULL, 1)                  \
  X(cuCtxFromGreenCtx, NULL, 1)                  \
  X(cuGreenCtxStreamCreate, NULL, 1)

/* NVML's stable C interface, declared here because the toolkit headers need not include it. */
typedef struct let_nvml_utilization {
  unsigned gpu, memory; /* percent */
} let_nvml_utilization;
typedef struct let_nvml_memory {
  unsigned long long total, free, used;
} let_nvml_memory;

typedef struct let_cuda_api {
#define X(name, older, green) __typeof__(&name) name;
  LET_CUDA_MAP(X)
#undef X
  bool green;  /* every function of green contexts is there */
  int version; /* of the driver, 13000 */
  /* NVML; each NULL when the library is missing */
  int (*nvml_init)(void);
  int (*nvml_by_pci)(const char *bus_id, void **ret);
  int (*nvml_utilization)(void *dev, let_nvml_utilization *ret);
  int (*nvml_power)(void *dev, unsigned *ret_mw);
  int (*nvml_memory)(void *dev, let_nvml_memory *ret);
} let_cuda_api;

/* Loads the driver and calls cuInit; later calls return the same table. Errors: NOT_FOUND, UNSUPPORTED. */
LET_CHECKED let_err let_cuda_api_get(const let_cuda_api **ret, let_error *e);

/* The class of a driver error: INVALID, NOMEM, UNSUPPORTED (this batch); GPULET (rebuild the gpu-let); DEVICE
 * (sticky: every later call on this device fails the same way). OK for CUDA_SUCCESS, AGAIN for NOT_READY. */
let_err let_cuda_class(CUresult r);

/* Fills |e| with "what: CUDA_ERROR_NAME: text" and returns the class; OK and |e| untouched on success. */
let_err let_cuda_check(const let_cuda_api *a, CUresult r, const char *what, let_error *e);

#endif
