/* codec.h: one field at a time, in both directions. A message's function names its fields in order; the codec encodes
 * or decodes them and checks their ranges either way. After the first error nothing is read, written or allocated. */
#ifndef LET_IPC_CODEC_H
#define LET_IPC_CODEC_H

#include "ipc/ipc.h"

enum { LET__IPC_DEPTH = 3 };

typedef struct let__ipc_codec {
  const char *message; /* its name, for sentences */
  bool encodes;
  let_buf *out; /* encoding; NULL: only the checks, and the bytes are counted in |at| */
  const unsigned char *in;
  size_t n, at; /* of |in| */
  let_arena *arena;
  struct {
    const char *list;
    uint32_t index;
  } path[LET__IPC_DEPTH]; /* the list items that the field is part of */
  uint32_t depth;
  uint32_t models; /* of the message, so far */
  let_err result;
  let_error *e;
} let__ipc_codec;

typedef enum let__ipc_text_kind {
  LET__IPC_EXACT,   /* a name or a path: any bytes but 0 */
  LET__IPC_SENTENCE /* for people: UTF-8 without control characters; made so when it is encoded */
} let__ipc_text_kind;

/* Values that are encoded are not written to. */
void let__ipc_bool(let__ipc_codec *c, const char *name, bool *v);
void let__ipc_u8(let__ipc_codec *c, const char *name, uint8_t *v, uint8_t min, uint8_t max);
void let__ipc_u32(let__ipc_codec *c, const char *name, uint32_t *v, uint32_t min, uint32_t max);
void let__ipc_u64(let__ipc_codec *c, const char *name, uint64_t *v, uint64_t min, uint64_t max);
void let__ipc_i64(let__ipc_codec *c, const char *name, int64_t *v, int64_t min, int64_t max);
void let__ipc_f64(let__ipc_codec *c, const char *name, double *v, double min, double max);
void let__ipc_text(let__ipc_codec *c, const char *name, const char **v, uint32_t cap, let__ipc_text_kind kind);
void let__ipc_chars(let__ipc_codec *c, const char *name, char *v, uint32_t cap); /* exact; v[cap], zero-filled */

/* The count of a list of items of |item| bytes in memory and at least |least| on the wire; decoding allocates *v. */
void let__ipc_list(let__ipc_codec *c, const char *name, uint32_t *n, uint32_t min, uint32_t max, const void **v,
                   size_t item, size_t least);
void let__ipc_enter(let__ipc_codec *c, const char *list, uint32_t index);
void let__ipc_leave(let__ipc_codec *c);
void *let__ipc_alloc(let__ipc_codec *c, size_t n); /* decoding; NULL: out of memory, and that is the result */
bool let__ipc_decodes(const let__ipc_codec *c);

/* INVALID: "malformed PREPARE message: field 'lane[3].first' <what>". */
void let__ipc_refuse(let__ipc_codec *c, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The header and what |fields| of |m| put after it. */
typedef void let__ipc_fields(let__ipc_codec *c, void *m);
let_err let__ipc_check(const char *name, let__ipc_fields *fields, const void *m, let_error *e);
let_err let__ipc_encode(uint16_t type, const char *name, let__ipc_fields *fields, const void *m, let_buf *out,
                        let_error *e);
/* *ret_type; the body is what |c| is left with. */
let_err let__ipc_open(let__ipc_codec *c, let_str bytes, let_arena *a, uint16_t *ret_type, let_error *e);
let_err let__ipc_close(let__ipc_codec *c); /* nothing is left over */

void let__ipc_set(let__ipc_codec *c, let_lane_set_id *v);
void let__ipc_model(let__ipc_codec *c, let_model *m);
enum { LET__IPC_MODEL_LEAST = 70 }; /* bytes of the smallest let_model */

#endif
