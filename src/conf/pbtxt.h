/* pbtxt.h: protobuf text format -> a tree of named fields with their places. Knows no schema: model_config.c has
 * Triton's. Format: protobuf.dev/reference/protobuf/textformat-spec. */
#ifndef LET_CONF_PBTXT_H
#define LET_CONF_PBTXT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum { LET_PB_DEPTH = 64 }; /* messages within messages */

typedef enum let_pb_kind {
  LET_PB_MESSAGE, /* name { ... } */
  LET_PB_STRING,  /* decoded; adjacent pieces joined */
  LET_PB_NUMBER,  /* as written, '-' included: 12, 0x1f, 017, -1.5e3f, -inf */
  LET_PB_WORD     /* an enum value, true, false, inf, nan */
} let_pb_kind;

typedef struct let_pb_field let_pb_field;
struct let_pb_field {
  let_str name;          /* "dims"; "[pkg.ext]" for extensions */
  uint32_t line, column; /* of the name, from 1; within a list [a, b] of the element */
  let_pb_kind kind;
  let_str text;        /* of a string, number or word */
  let_pb_field *child; /* of a message: its first field */
  let_pb_field *next;  /* in file order; a list is as many fields */
};

/* |file| only names the text in errors ("file:line:column: ..."). The tree borrows from |text| and lives in |a|.
 * *ret is NULL for an empty text. Errors: INVALID, NOMEM. */
LET_CHECKED let_err let_pb_parse(let_str text, const char *file, let_arena *a, let_pb_field **ret, let_error *e);

/* Fields called |name| among the siblings from |f| on. */
const let_pb_field *let_pb_find(const let_pb_field *f, const char *name);

/* "file:line:column: name: ..." */
let_err let_pb_fail(const char *file, const let_pb_field *f, let_error *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A field's value, or INVALID naming its place. */
LET_CHECKED let_err let_pb_i64(const let_pb_field *f, const char *file, int64_t min, int64_t max, int64_t *ret,
                               let_error *e);
LET_CHECKED let_err let_pb_f64(const let_pb_field *f, const char *file, double *ret, let_error *e);
LET_CHECKED let_err let_pb_bool(const let_pb_field *f, const char *file, bool *ret, let_error *e);
/* Copies into |out| (terminated); INVALID when it is longer than |cap| - 1 or holds a NUL. */
LET_CHECKED let_err let_pb_string(const let_pb_field *f, const char *file, char *out, size_t cap, let_error *e);

#endif
