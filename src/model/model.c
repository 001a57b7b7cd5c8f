#include "model/model.h"

typedef struct row {
  const char *oip, *pb;
  uint32_t size;
} row;

#define X(name, oip, pb, size) {oip, pb, size},
static const row rows[] = {LET_DTYPE_MAP(X)};
#undef X

static const row *find(let_dtype t) { return &rows[(unsigned)t < LET_DTYPE_COUNT ? (unsigned)t : 0]; }

const char *let_dtype_name(let_dtype t) { return find(t)->oip; }
const char *let_dtype_pb_name(let_dtype t) { return find(t)->pb; }
uint32_t let_dtype_size(let_dtype t) { return find(t)->size; }

let_dtype let_dtype_of(let_str s) {
  for (unsigned i = 1; i < LET_DTYPE_COUNT; i++)
    if (let_str_is(s, rows[i].oip)) return (let_dtype)i;
  return LET_DTYPE_INVALID;
}

let_dtype let_dtype_of_pb(let_str s) {
  for (unsigned i = 1; i < LET_DTYPE_COUNT; i++)
    if (let_str_is(s, rows[i].pb)) return (let_dtype)i;
  return LET_DTYPE_INVALID;
}

uint64_t let_tensor_row_bytes(const let_tensor_spec *t) {
  uint64_t n = let_dtype_size(t->dtype);
  if (n == 0) return 0;
  for (unsigned i = 0; i < t->rank; i++) {
    if (t->dims[i] < 0) return 0;
    if (__builtin_mul_overflow(n, (uint64_t)t->dims[i], &n)) return UINT64_MAX;
  }
  return n;
}

uint32_t let_model_sizes(const let_model *m, uint32_t out[LET_SIZES_MAX]) {
  uint32_t max = m->max_batch ? m->max_batch : 1, n = 0;
  if (m->n_sizes)
    for (uint32_t i = 0; i < m->n_sizes && n + 1 < LET_SIZES_MAX; i++) {
      if (m->size[i] >= 1 && m->size[i] < max && (n == 0 || m->size[i] > out[n - 1])) out[n++] = m->size[i];
    }
  else
    for (uint32_t b = 1; b < max && n + 1 < LET_SIZES_MAX; b *= 2) out[n++] = b;
  out[n++] = max;
  return n;
}
