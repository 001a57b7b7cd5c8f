/* null.c: the engine without a model, for measuring everything else, for tests, and behind the sim device.
 *
 * Answers are a function of the inputs, row by row, so batching and padding cannot change them:
 *   byte i of a row of output j = byte (i mod n) of the same row of the first input, xor j
 * where n is the bytes of that input's row (n == 0 or no input: the byte is i xor j). With one output as large as the
 * input, an identity. A varying dimension (-1) of an output is the first input's dimension at the same place, else 1.
 * A batch takes null_us microseconds, slept: the time of a device, not of a core. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/open.h"

struct let_engine_model {
  const let_model *m;
  bool dynamic;
};

typedef struct null_exec {
  let_exec x;
  const let_model *m;
  void *grown[LET_TENSORS_MAX]; /* outputs of varying shape */
  uint64_t grown_bytes[LET_TENSORS_MAX];
} null_exec;

static bool varies(const let_tensor_spec *t) {
  for (unsigned i = 0; i < t->rank; i++)
    if (t->dims[i] < 0) return true;
  return false;
}

static let_err load(const let_model *m, int cuda, let_engine_model **ret, let_error *e) {
  bool dynamic = false;
  if (cuda >= 0)
    return let_fail(e, LET_ERR_UNSUPPORTED,
                    "model '%s': backend \"null\" has no GPU code: serve it on cpu or sim devices", m->name);
  for (unsigned k = 0; k < (unsigned)m->n_inputs + m->n_outputs; k++) {
    const let_tensor_spec *t = k < m->n_inputs ? &m->input[k] : &m->output[k - m->n_inputs];
    if (let_dtype_size(t->dtype) == 0)
      return let_fail(e, LET_ERR_UNSUPPORTED,
                      "model '%s': tensor '%s' has type %s, whose elements vary in size: not supported here", m->name,
                      t->name, let_dtype_pb_name(t->dtype));
    if (varies(t)) dynamic = true;
    else if (let_tensor_row_bytes(t) > (uint64_t)1 << 40)
      return let_fail(e, LET_ERR_INVALID, "model '%s': tensor '%s' is too large", m->name, t->name);
  }
  let_engine_model *em = malloc(sizeof *em);
  if (!em) return let_fail(e, LET_ERR_NOMEM, "out of memory for model '%s'", m->name);
  *em = (let_engine_model){m, dynamic};
  *ret = em;
  return LET_OK;
}

static void unload(let_engine_model *em) { free(em); }
static uint64_t weights_bytes(const let_engine_model *em) {
  (void)em;
  return 0;
}

static void spend(uint32_t us) {
  struct timespec t;
  if (us == 0) return;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += us / 1000000;
  t.tv_nsec += (long)(us % 1000000) * 1000;
  if (t.tv_nsec >= 1000000000) {
    t.tv_sec++;
    t.tv_nsec -= 1000000000;
  }
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {}
}

static void fill_row(unsigned char *to, uint64_t n, const unsigned char *from, uint64_t from_n, unsigned j) {
  if (from_n == 0) {
    for (uint64_t i = 0; i < n; i++) to[i] = (unsigned char)(i ^ j);
    return;
  }
  for (uint64_t at = 0; at < n; at += from_n) memcpy(to + at, from, n - at < from_n ? n - at : from_n);
  if (j)
    for (uint64_t i = 0; i < n; i++) to[i] ^= (unsigned char)j;
}

static void answer(const let_exec *x, const let_exec_tensor *in, uint32_t rows) {
  for (unsigned j = 0; j < x->n_out; j++) {
    uint64_t out_n = x->out[j].row_bytes, in_n = x->n_in ? in[0].row_bytes : 0;
    if (!out_n) continue;
    for (uint32_t r = 0; r < rows; r++)
      fill_row((unsigned char *)x->out[j].data + r * out_n, out_n,
               in_n ? (const unsigned char *)in[0].data + r * in_n : NULL, in_n, j);
  }
}

static let_err run(let_exec *x, void *stream, let_error *e) {
  (void)stream, (void)e;
  spend(((null_exec *)x->impl)->m->null_us);
  answer(x, x->in, x->size);
  return LET_OK;
}

static let_err run_dynamic(let_exec *x, const let_exec_tensor *in, void *stream, let_error *e) {
  null_exec *n = x->impl;
  const let_model *m = n->m;
  unsigned batch = m->max_batch > 0;
  uint32_t rows = batch && x->n_in ? (uint32_t)in[0].shape[0] : 1;
  (void)stream;
  for (unsigned j = 0; j < x->n_out; j++) {
    let_exec_tensor *o = &x->out[j];
    uint64_t bytes = let_dtype_size(m->output[j].dtype);
    o->dtype = (uint8_t)m->output[j].dtype;
    o->rank = (uint8_t)(m->output[j].rank + batch);
    if (batch) o->shape[0] = rows;
    for (unsigned i = 0; i < m->output[j].rank; i++) {
      int64_t d = m->output[j].dims[i];
      if (d < 0) d = x->n_in && i + batch < in[0].rank ? in[0].shape[i + batch] : 1;
      o->shape[i + batch] = d;
      if (__builtin_mul_overflow(bytes, (uint64_t)d, &bytes)) bytes = UINT64_MAX;
    }
    o->row_bytes = bytes;
    if (__builtin_mul_overflow(bytes, (uint64_t)rows, &bytes) || bytes > (uint64_t)1 << 40)
      return let_fail(e, LET_ERR_INVALID, "output '%s' would be too large", m->output[j].name);
    if (bytes > n->grown_bytes[j]) {
      void *p = realloc(n->grown[j], bytes);
      if (!p) return let_fail(e, LET_ERR_NOMEM, "out of memory for output '%s'", m->output[j].name);
      n->grown[j] = p;
      n->grown_bytes[j] = bytes;
    }
    o->data = n->grown[j];
  }
  spend(m->null_us);
  answer(x, in, rows);
  return LET_OK;
}

static void discard(let_exec *x) {
  null_exec *n = x->impl;
  for (unsigned k = 0; k < LET_TENSORS_MAX; k++) {
    if (!x->dynamic) {
      free(x->in[k].data);
      free(x->out[k].data);
    }
    free(n->grown[k]);
  }
  free(n);
}

static let_err buffer(let_exec_tensor *t, const let_tensor_spec *s, uint32_t size, bool batch, uint64_t *total) {
  t->row_bytes = let_tensor_row_bytes(s);
  t->dtype = (uint8_t)s->dtype;
  t->rank = (uint8_t)(s->rank + batch);
  if (batch) t->shape[0] = size;
  for (unsigned i = 0; i < s->rank; i++) t->shape[i + batch] = s->dims[i];
  *total += t->row_bytes * size;
  t->data = calloc(size, t->row_bytes ? t->row_bytes : 1);
  return t->data ? LET_OK : LET_ERR_NOMEM;
}

static let_err prepare(let_engine_model *em, const let_engine_target *t, uint32_t size, int instance, let_exec **ret,
                       const char **ret_note, let_error *e) {
  const let_model *m = em->m;
  null_exec *n = calloc(1, sizeof *n);
  let_err r = n ? LET_OK : LET_ERR_NOMEM;
  (void)t, (void)instance;
  if (n) {
    n->m = m;
    n->x = (let_exec){.size = size,
                      .n_in = m->n_inputs,
                      .n_out = m->n_outputs,
                      .dynamic = em->dynamic,
                      .run = run,
                      .run_dynamic = run_dynamic,
                      .impl = n};
    unsigned n_in = em->dynamic ? 0 : m->n_inputs, n_out = em->dynamic ? 0 : m->n_outputs;
    for (unsigned k = 0; !r && k < n_in; k++)
      r = buffer(&n->x.in[k], &m->input[k], size, m->max_batch > 0, &n->x.memory_bytes);
    for (unsigned k = 0; !r && k < n_out; k++)
      r = buffer(&n->x.out[k], &m->output[k], size, m->max_batch > 0, &n->x.memory_bytes);
    if (r) discard(&n->x);
  }
  if (r) return let_fail(e, r, "out of memory for model '%s' at batch size %u", m->name, size);
  *ret_note = NULL;
  *ret = &n->x;
  return LET_OK;
}

static let_err enter(const let_engine_target *t, let_error *e) {
  (void)t, (void)e;
  return LET_OK;
}

const let_engine *let_engine_null(void) {
  static const let_engine engine = {
      .abi = LET_ENGINE_ABI,
      .name = "null",
      .version = "null",
      .load = load,
      .unload = unload,
      .weights_bytes = weights_bytes,
      .prepare = prepare,
      .discard = discard,
      .enter = enter,
  };
  return &engine;
}
