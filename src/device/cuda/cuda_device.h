/* cuda_device.h: NVIDIA GPUs through the driver API, dlopened: a program without a GPU still starts.
 *
 * One device = the primary context, retained. Its SMs are split ONCE into groups of at least 8; what is left over
 * joins the last granule's side of the device as one more, larger granule (H200: 15 of 8 and one of 12). A gpu-let
 * is a green context over the union of neighbouring groups; contexts are kept after a gpu-let closes (the context
 * cache) and shared by gpu-lets of one range; `prewarm` makes all of them at a worker's start, so that a plan creates
 * none.
 * A shared gpu-let is plain streams of the primary context.
 *
 * Environment: GPULET_CUDA_DRIVER names another library instead of libcuda.so.1 (tests use the fake driver);
 * GPULET_SM_GROUP is the least number of SMs of a granule (8). */
#ifndef LET_DEVICE_CUDA_DEVICE_H
#define LET_DEVICE_CUDA_DEVICE_H

#include "device/device.h"

/* Errors: NOT_FOUND (no driver, no such GPU, or built without the CUDA headers), UNSUPPORTED (driver too old). */
LET_CHECKED let_err let_cuda_open(int ordinal, let_device **ret, let_error *e);

/* Every GPU of this machine with its type; creates no context. Errors: NOT_FOUND without a driver. */
LET_CHECKED let_err let_cuda_list(let_device_name *ret, uint32_t cap, uint32_t *ret_n, let_error *e);

/* "NVIDIA H200" -> "h200", "NVIDIA GeForce RTX 2080 Ti" -> "rtx-2080-ti". */
void let_cuda_type_name(const char *product, char out[64]);

#endif
