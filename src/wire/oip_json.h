/* oip_json.h: the Open Inference Protocol's JSON: inference requests in, answers and metadata out. Pure: bytes in,
 * tensors out; no I/O, any thread. Decoding allocates nothing; encoding grows only the let_buf it is given.
 *
 * Tensors travel as JSON numbers or, with the binary tensor extension, as raw bytes after the JSON. */
#ifndef LET_WIRE_OIP_JSON_H
#define LET_WIRE_OIP_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "model/model.h"
#include "model/request.h"

enum { LET_OIP_ID_MAX = 256 }; /* bytes of a request's id, as it stands in the JSON */

/* What a request asks for besides its tensors. */
typedef struct let_oip_infer {
  char id[LET_OIP_ID_MAX]; /* JSON-escaped as it came; has_id tells "" from absent */
  uint16_t id_n;
  bool has_id;
  uint64_t timeout_us; /* 0: not given */
  uint64_t priority;   /* 0: the model's default */
  uint8_t n_out;       /* outputs in the order asked for; all of the model's when none was named */
  uint8_t out[LET_TENSORS_MAX];
  bool out_binary[LET_TENSORS_MAX];
} let_oip_infer;

/* Where the request lies and where its JSON tensors may go. Offsets are arena offsets, as in let_tensor. */
typedef struct let_oip_body {
  const char *json; /* the JSON document */
  uint64_t json_bytes;
  const char *raw; /* the raw tensors behind it, in the order of the inputs that have a binary_data_size */
  uint64_t raw_bytes, raw_offset;
  char *room; /* for decoded tensors; NULL: none */
  uint64_t room_bytes, room_offset;
} let_oip_body;

/* How much room any request of |m| with these sizes can need. UINT64_MAX when the sizes overflow. */
uint64_t let_oip_room(const let_model *m, uint64_t json_bytes, uint64_t raw_bytes);

/* Decodes and checks a request against its model: fills rec->in[], n_in and rows, and *ret. When every tensor is raw,
 * they stay where they are; when one of them is JSON, all end up in |room|, and AGAIN says that there was none.
 * INVALID, TOO_LARGE, UNSUPPORTED: |e| names the tensor and says what to change; |rec| holds nothing of use. */
LET_CHECKED let_err let_oip_infer_parse(const let_oip_body *b, const let_model *m, let_record *rec, let_oip_infer *ret,
                                        let_error *e);

/* The raw binary request (Inference-Header-Content-Length: 0): the whole body is the model's one input. */
LET_CHECKED let_err let_oip_infer_raw(const let_oip_body *b, const let_model *m, let_record *rec, let_oip_infer *ret,
                                      let_error *e);

/* One output as the worker left it: the caller's own copy of its let_tensor, and its bytes. */
typedef struct let_oip_output {
  let_tensor t;
  const char *data;
} let_oip_output;

/* Appends the answer's JSON to |out|. |o| has one entry per output of the model. Outputs asked for in binary are to be
 * sent behind it, in the order of i->out: *ret_raw is how many bytes they have together. INVALID: an output has no
 * JSON form (NaN, infinity, not UTF-8); INTERNAL: the worker's shape and bytes contradict each other; NOMEM. */
LET_CHECKED let_err let_oip_infer_answer(const let_model *m, const let_oip_infer *i, const let_oip_output *o,
                                         let_buf *out, uint64_t *ret_raw, let_error *e);

void let_oip_error(let_buf *out, const char *text); /* {"error": ...} */
void let_oip_server(let_buf *out, const char *name, const char *version);
void let_oip_model(let_buf *out, const let_model *m); /* with the batch dimension, as -1, when the model batches */
void let_oip_index_entry(let_buf *out, const let_model *m, bool ready);

/* Appends |s| as a JSON string, quotes included. Bytes that are not UTF-8 become U+FFFD. */
void let_oip_string(let_buf *out, let_str s);

#endif
