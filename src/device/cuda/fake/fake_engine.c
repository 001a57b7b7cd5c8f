/* fake_engine.c: stands in for the PyTorch plugin on the fake driver: models that answer as the null engine does, but
 * with weights and buffers in (fake) device memory and one graph per batch size, so that serve, worker and device take
 * exactly the road that they take on a GPU. Put beside nothing else as libgpulet_torch.so and named with --plugin-dir.
 *
 * A batch takes the model's null_us. out[j] of a row = the bytes of the row of the first input, repeated, xor j.
 *
 * As with the real one, graphs of one gpu-let share memory for what lies between input and output (a batch that ran
 * beside another of the same gpu-let answers wrongly), a graph's answer may lie where those captured before it have
 * that (they spoil it), and the first graph of a size runs once when it is prepared. */
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gpulet/engine.h"
#include "fake_cuda.h"

enum { WEIGHTS = 1 << 20, GPULETS = 64 };

struct let_engine_model {
  const let_model *m;
  CUdeviceptr weights;
  bool captured[LET_BATCH_MAX + 1]; /* by size */
};

typedef struct fake_exec {
  let_exec x;
  let_fake_graph graph;
  void *only;
  uint32_t us, gpulet;
  struct fake_exec *next; /* captured before, on the same gpu-let */
} fake_exec;

static _Atomic uint64_t between[GPULETS], runs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static fake_exec *graphs[GPULETS]; /* the latest first */

static void spoil(const fake_exec *f) {
  pthread_mutex_lock(&lock);
  for (const fake_exec *k = graphs[f->gpulet]; k && k != f; k = k->next)
    for (unsigned j = 0; j < k->x.n_out; j++) memset(k->x.out[j].data, 0x5a, k->x.out[j].row_bytes * k->x.size);
  pthread_mutex_unlock(&lock);
}

static let_err allocate(CUdeviceptr *ret, uint64_t bytes, const let_model *m, let_error *e) {
  size_t room = 0, total = 0;
  CUresult r = cuMemAlloc(ret, bytes);
  if (!r) return LET_OK;
  *ret = 0;
  (void)cuMemGetInfo(&room, &total);
  if (r == CUDA_ERROR_OUT_OF_MEMORY)
    return let_fail(e, LET_ERR_NOMEM, "model '%s' needs %llu MiB, %zu of %zu MiB are free", m->name,
                    (unsigned long long)(bytes >> 20), room >> 20, total >> 20);
  const char *name = "";
  (void)cuGetErrorName(r, &name);
  return let_fail(e, LET_ERR_DEVICE, "model '%s': %s (%d)", m->name, name, (int)r);
}

static let_err load(const let_model *m, int cuda, let_engine_model **ret, let_error *e) {
  if (cuda < 0) return let_fail(e, LET_ERR_UNSUPPORTED, "the fake engine runs on the fake CUDA driver only");
  let_engine_model *em = calloc(1, sizeof *em);
  if (!em) return let_fail(e, LET_ERR_NOMEM, "out of memory for model '%s'", m->name);
  em->m = m;
  let_err r = allocate(&em->weights, WEIGHTS, m, e);
  if (r) {
    free(em);
    return r;
  }
  *ret = em;
  return LET_OK;
}

static void unload(let_engine_model *em) {
  (void)cuMemFree(em->weights);
  free(em);
}

static uint64_t weights_bytes(const let_engine_model *em) {
  (void)em;
  return WEIGHTS;
}

static void answer(void *arg) { /* the kernel */
  const fake_exec *f = arg;
  const let_exec *x = &f->x;
  uint64_t mine = atomic_fetch_add(&runs, 1) + 1;
  atomic_store(&between[f->gpulet], mine);
  spoil(f);
  struct timespec t = {f->us / 1000000, f->us % 1000000 * 1000L};
  nanosleep(&t, NULL);
  for (unsigned j = 0; j < x->n_out; j++) {
    uint64_t n = x->out[j].row_bytes, from = x->in[0].row_bytes;
    for (uint64_t i = 0; i < n * x->size; i++)
      ((unsigned char *)x->out[j].data)[i] =
          ((const unsigned char *)x->in[0].data)[i / n * from + i % n % from] ^ (unsigned char)j;
    if (atomic_load(&between[f->gpulet]) != mine) memset(x->out[j].data, 0xa5, n * x->size);
  }
}

static void discard(let_exec *x) {
  fake_exec *f = x->impl;
  pthread_mutex_lock(&lock);
  for (fake_exec **at = &graphs[f->gpulet]; *at; at = &(*at)->next)
    if (*at == f) {
      *at = f->next;
      break;
    }
  pthread_mutex_unlock(&lock);
  for (unsigned k = 0; k < x->n_in; k++)
    if (x->in[k].data) (void)cuMemFree((CUdeviceptr)(uintptr_t)x->in[k].data);
  for (unsigned k = 0; k < x->n_out; k++)
    if (x->out[k].data) (void)cuMemFree((CUdeviceptr)(uintptr_t)x->out[k].data);
  free(x->impl);
}

static let_err buffer(let_exec *x, let_exec_tensor *t, const let_tensor_spec *s, const let_model *m, let_error *e) {
  bool batch = m->max_batch > 0;
  CUdeviceptr p;
  t->row_bytes = let_tensor_row_bytes(s);
  if (!t->row_bytes)
    return let_fail(e, LET_ERR_UNSUPPORTED, "model '%s': tensor '%s' varies in size", m->name, s->name);
  t->dtype = (uint8_t)s->dtype;
  t->rank = (uint8_t)(s->rank + batch);
  if (batch) t->shape[0] = x->size;
  for (unsigned i = 0; i < s->rank; i++) t->shape[i + batch] = s->dims[i];
  let_err r = allocate(&p, t->row_bytes * x->size, m, e);
  if (r) return r;
  t->data = (void *)(uintptr_t)p;
  x->memory_bytes += t->row_bytes * x->size;
  return LET_OK;
}

static let_err prepare(let_engine_model *em, const let_engine_target *t, uint32_t size, int instance, let_exec **ret,
                       const char **ret_note, let_error *e) {
  (void)instance;
  const let_model *m = em->m;
  fake_exec *f = calloc(1, sizeof *f);
  if (!f) return let_fail(e, LET_ERR_NOMEM, "out of memory for model '%s'", m->name);
  f->graph = (let_fake_graph){.magic = LET_FAKE_GRAPH, .kind = LET_FAKE_RUN, .fn = answer, .arg = f};
  f->only = &f->graph;
  f->us = m->null_us;
  f->gpulet = t->gpulet % GPULETS;
  f->x = (let_exec){
      .size = size, .n_in = m->n_inputs, .n_out = m->n_outputs, .graphs = &f->only, .n_graphs = 1, .impl = f};
  let_err r = m->n_inputs ? LET_OK : let_fail(e, LET_ERR_UNSUPPORTED, "model '%s' has no inputs", m->name);
  for (unsigned k = 0; !r && k < m->n_inputs; k++) r = buffer(&f->x, &f->x.in[k], &m->input[k], m, e);
  for (unsigned k = 0; !r && k < m->n_outputs; k++) r = buffer(&f->x, &f->x.out[k], &m->output[k], m, e);
  if (r) {
    discard(&f->x);
    return r;
  }
  pthread_mutex_lock(&lock);
  f->next = graphs[f->gpulet];
  graphs[f->gpulet] = f;
  pthread_mutex_unlock(&lock);
  if (!em->captured[size]) answer(f);
  em->captured[size] = true;
  *ret_note = NULL;
  *ret = &f->x;
  return LET_OK;
}

static let_err enter(const let_engine_target *t, let_error *e) {
  (void)t, (void)e;
  return LET_OK;
}

__attribute__((visibility("default"))) const let_engine *gpulet_engine(int abi);
const let_engine *gpulet_engine(int abi) {
  static const let_engine engine = {.abi = LET_ENGINE_ABI,
                                    .name = "fake",
                                    .version = "fake",
                                    .load = load,
                                    .unload = unload,
                                    .weights_bytes = weights_bytes,
                                    .prepare = prepare,
                                    .discard = discard,
                                    .enter = enter};
  return abi == LET_ENGINE_ABI ? &engine : NULL;
}
