/* fuzz: wire model base */
#include <stdlib.h>

#include "wire/oip_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One byte: how much of the rest is raw tensors; then the document. What parses lies where it may and can be answered.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const let_model m = {
      .name = "m",
      .version = 1,
      .max_batch = 4,
      .n_inputs = 3,
      .n_outputs = 3,
      .input = {{.name = "A", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {-1}},
                {.name = "B", .dtype = LET_DTYPE_BYTES, .rank = 2, .dims = {2, -1}, .optional = true},
                {.name = "C", .dtype = LET_DTYPE_INT16, .rank = 1, .dims = {2}, .optional = true}},
      .output = {{.name = "A", .dtype = LET_DTYPE_FP32, .rank = 1, .dims = {-1}},
                 {.name = "B", .dtype = LET_DTYPE_BYTES, .rank = 2, .dims = {2, -1}},
                 {.name = "C", .dtype = LET_DTYPE_INT16, .rank = 1, .dims = {2}}},
  };
  if (!size) return 0;
  size_t raw = data[0] < size - 1 ? data[0] : size - 1, json = size - 1 - raw;
  const char *p = (const char *)data + 1;
  uint64_t bytes = let_oip_room(&m, json, raw);
  char *room = malloc(bytes);
  let_oip_body b = {.json = p,
                    .json_bytes = json,
                    .raw = p + json,
                    .raw_bytes = raw,
                    .raw_offset = bytes,
                    .room = room,
                    .room_bytes = bytes};
  let_record rec;
  let_oip_infer x;
  let_error e = {0};
  let_err r = room ? let_oip_infer_parse(&b, &m, &rec, &x, &e) : LET_ERR_NOMEM;
  if (r == LET_OK) {
    LET_ASSERT(rec.rows >= 1 && rec.rows <= 4 && rec.in[0].present);
    let_oip_output o[3] = {0};
    uint64_t sent = 0;
    x.n_out = 0;
    for (uint8_t i = 0; i < 3; i++) {
      const let_tensor *t = &rec.in[i];
      if (!t->present) continue;
      bool in_room = t->offset < bytes;
      LET_ASSERT(t->bytes <= (in_room ? bytes - t->offset : raw) && (in_room || t->offset - bytes <= raw - t->bytes));
      o[i] = (let_oip_output){.t = *t, .data = in_room ? room + t->offset : p + json + (t->offset - bytes)};
      x.out_binary[x.n_out] = false;
      x.out[x.n_out++] = i;
    }
    let_buf out;
    let_buf_init(&out, &let_mem_libc);
    r = let_oip_infer_answer(&m, &x, o, &out, &sent, &e); /* INVALID: raw floats may be NaN */
    LET_ASSERT(r == LET_OK || r == LET_ERR_INVALID);
    let_buf_fini(&out);
  } else if (r != LET_ERR_NOMEM) {
    LET_ASSERT(e.text[0] && (let_err_http(r) == 400 || let_err_http(r) == 413 || let_err_http(r) == 501));
  }
  free(room);
  return 0;
}
