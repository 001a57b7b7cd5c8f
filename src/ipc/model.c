/* model.c: a let_model, field by field. */
#include "ipc/codec.h"

static void tensors(let__ipc_codec *c, const char *name, let_tensor_spec *list, uint8_t *n) {
  let__ipc_u8(c, name, n, 0, LET_TENSORS_MAX);
  for (uint8_t i = 0; !c->result && i < *n; i++) {
    let_tensor_spec *t = &list[i];
    uint8_t dtype = (uint8_t)t->dtype;
    let__ipc_enter(c, name, i);
    let__ipc_chars(c, "name", t->name, sizeof t->name);
    let__ipc_u8(c, "dtype", &dtype, 0, LET_DTYPE_COUNT - 1);
    let__ipc_bool(c, "optional", &t->optional);
    let__ipc_chars(c, "label_file", t->label_file, sizeof t->label_file);
    let__ipc_u8(c, "rank", &t->rank, 0, LET_RANK_MAX);
    for (uint8_t k = 0; !c->result && k < t->rank; k++) let__ipc_i64(c, "dims", &t->dims[k], -1, INT64_MAX);
    if (let__ipc_decodes(c)) t->dtype = (let_dtype)dtype;
    let__ipc_leave(c);
  }
}

void let__ipc_model(let__ipc_codec *c, let_model *m) {
  uint8_t precision = (uint8_t)m->precision;
  let__ipc_chars(c, "name", m->name, sizeof m->name);
  let__ipc_chars(c, "platform", m->platform, sizeof m->platform);
  let__ipc_chars(c, "backend", m->backend, sizeof m->backend);
  let__ipc_chars(c, "file", m->file, sizeof m->file);
  let__ipc_chars(c, "dir", m->dir, sizeof m->dir);
  let__ipc_i64(c, "version", &m->version, INT64_MIN, INT64_MAX);
  let__ipc_u32(c, "max_batch", &m->max_batch, 0, LET_BATCH_MAX);
  tensors(c, "input", m->input, &m->n_inputs);
  tensors(c, "output", m->output, &m->n_outputs);
  let__ipc_i64(c, "slo", &m->slo, 0, INT64_MAX);
  let__ipc_i64(c, "max_queue_delay", &m->max_queue_delay, 0, INT64_MAX);
  let__ipc_u32(c, "max_queue", &m->max_queue, 0, UINT32_MAX);
  let__ipc_u8(c, "priority_levels", &m->priority_levels, 0, UINT8_MAX);
  let__ipc_u8(c, "default_priority", &m->default_priority, 0, UINT8_MAX);
  let__ipc_i64(c, "default_timeout", &m->default_timeout, 0, INT64_MAX);
  let__ipc_bool(c, "allow_timeout_override", &m->allow_timeout_override);
  let__ipc_u8(c, "n_sizes", &m->n_sizes, 0, LET_SIZES_MAX);
  for (uint8_t i = 0; !c->result && i < m->n_sizes; i++) let__ipc_u32(c, "size", &m->size[i], 1, LET_BATCH_MAX);
  let__ipc_u8(c, "precision", &precision, 0, LET_PRECISION_BF16);
  let__ipc_bool(c, "channels_last", &m->channels_last);
  let__ipc_u64(c, "output_bytes_hint", &m->output_bytes_hint, 0, INT64_MAX);
  let__ipc_u32(c, "null_us", &m->null_us, 0, UINT32_MAX);
  if (let__ipc_decodes(c)) m->precision = (let_precision)precision;
}
