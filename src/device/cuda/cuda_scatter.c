/* Small answers leave by a kernel that writes into pinned host memory, not by the copy engine. The engine serves one
 * copy at a time in the order in which they came: 64 bytes behind 38 MB of another gpu-let's outputs took 840 us on an
 * H200, in pieces of 2 MB as well, and a stream that waits for its kernels can hold up another stream's copies. And it
 * is one launch per batch instead of one copy per request. */
#ifdef LET_HAVE_CUDA
#  include <string.h>

#  include "cuda_int.h"

static const char ptx[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry scatter(.param .align 8 .b8 list[1536]) {\n"
    " .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b32 %v<4>; .reg .b64 %d<16>;\n"
    " mov.u32 %r1, %ctaid.x; mul.wide.u32 %d1, %r1, 24; mov.b64 %d2, list; add.s64 %d3, %d2, %d1;\n"
    " ld.param.u64 %d4, [%d3]; ld.param.u64 %d5, [%d3+8]; ld.param.u64 %d6, [%d3+16];\n" /* to, from, bytes */
    " cvta.to.global.u64 %d4, %d4; cvta.to.global.u64 %d5, %d5;\n"
    " mov.u32 %r2, %tid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %ctaid.y; mov.u32 %r5, %nctaid.y;\n"
    " mad.lo.u32 %r6, %r4, %r3, %r2; mul.lo.u32 %r7, %r3, %r5; cvt.u64.u32 %d7, %r6; cvt.u64.u32 %d8, %r7;\n" /* me, all
                                                                                                               */
    " mov.u64 %d15, 0; or.b64 %d9, %d4, %d5; and.b64 %d9, %d9, 15; setp.ne.u64 %p1, %d9, 0; @%p1 bra rest;\n"
    " shr.u64 %d10, %d6, 4; shl.b64 %d15, %d10, 4; mov.u64 %d11, %d7;\n"
    "wide: setp.ge.u64 %p2, %d11, %d10; @%p2 bra rest;\n" /* 16 bytes each */
    " shl.b64 %d12, %d11, 4; add.s64 %d13, %d5, %d12; add.s64 %d14, %d4, %d12;\n"
    " ld.global.v4.u32 {%v0, %v1, %v2, %v3}, [%d13]; st.global.v4.u32 [%d14], {%v0, %v1, %v2, %v3};\n"
    " add.s64 %d11, %d11, %d8; bra wide;\n"
    "rest: add.s64 %d11, %d15, %d7;\n"
    "one: setp.ge.u64 %p2, %d11, %d6; @%p2 bra done;\n"
    " add.s64 %d13, %d5, %d11; add.s64 %d14, %d4, %d11; ld.global.u8 %r8, [%d13]; st.global.u8 [%d14], %r8;\n"
    " add.s64 %d11, %d11, %d8; bra one;\n"
    "done: ret; }\n";
_Static_assert(LET__CUDA_SCATTER_MAX * sizeof(let_cuda_copy) == 1536, "the kernel's parameter");

/* A driver without its compiler for PTX (some containers): everything goes by the copy engine. */
void let_cuda__scatter_load(let_cuda *d) {
  CUmodule m;
  if (d->api->cuModuleLoadData(&m, ptx)) return;
  if (d->api->cuModuleGetFunction(&d->scatter, m, "scatter")) d->scatter = NULL;
}

let_err let_cuda__pin(let_device *base, void *p, uint64_t bytes, let_error *e) {
  let_cuda *d = (let_cuda *)base;
  const let_cuda_api *a = d->api;
  let_err err = let_cuda_check(a, a->cuCtxSetCurrent(d->primary), "cuCtxSetCurrent", e);
  if (!err)
    err = let_cuda_check(a, a->cuMemHostRegister(p, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP),
                         "cuMemHostRegister", e);
  if (err) return err;
  CUdeviceptr seen = 0;
  pthread_mutex_lock(&d->pins);
  /* Only where the device knows the memory by the host's address can a kernel write there. */
  if (d->n_pinned < LET__CUDA_PINNED && !a->cuMemHostGetDevicePointer(&seen, p, 0) && seen == (CUdeviceptr)(uintptr_t)p)
    d->pinned[d->n_pinned++] = (let_cuda_range){(uintptr_t)p, bytes};
  pthread_mutex_unlock(&d->pins);
  return LET_OK;
}

void let_cuda__unpin(let_device *base, void *p) {
  let_cuda *d = (let_cuda *)base;
  pthread_mutex_lock(&d->pins);
  for (uint32_t i = 0; i < d->n_pinned; i++)
    if (d->pinned[i].at == (uintptr_t)p) d->pinned[i--] = d->pinned[--d->n_pinned];
  pthread_mutex_unlock(&d->pins);
  (void)d->api->cuCtxSetCurrent(d->primary);
  (void)d->api->cuMemHostUnregister(p);
}

bool let_cuda__scatters(let_cuda *d, const void *to, uint64_t bytes) {
  bool inside = false;
  if (!d->scatter || bytes > LET__CUDA_SCATTER_BYTES) return false;
  pthread_mutex_lock(&d->pins);
  for (uint32_t i = 0; i < d->n_pinned && !inside; i++) {
    uint64_t at = (uintptr_t)to - d->pinned[i].at;
    inside = at < d->pinned[i].bytes && bytes <= d->pinned[i].bytes - at;
  }
  pthread_mutex_unlock(&d->pins);
  return inside;
}

let_err let_cuda__scatter(let_cuda_gpulet *g, CUstream on, let_error *e) {
  if (!g->n_scatter) return LET_OK;
  uint64_t most = 0;
  for (uint32_t i = 0; i < g->n_scatter; i++) most = g->scatter[i].bytes > most ? g->scatter[i].bytes : most;
  unsigned blocks = (unsigned)(most / (16 << 10)) + 1, n = g->n_scatter;
  g->n_scatter = 0;
  return let_cuda_check(
      g->d->api, g->d->api->cuLaunchKernel(g->d->scatter, n, blocks, 1, 128, 1, 1, 0, on, (void *[]){g->scatter}, NULL),
      "cuLaunchKernel", e);
}
#else
typedef int let_cuda_scatter_is_not_built;
#endif
