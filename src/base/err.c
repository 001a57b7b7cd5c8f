#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
  const char *name, *text;
  int http, grpc;
  bool retry;
} row;

#define X(name, text, http, grpc, retry) {#name, text, http, grpc, retry},
static const row rows[] = {LET_ERR_MAP(X)};
#undef X

static const row *find(let_err code) {
  static const row unknown = {"UNKNOWN", "unknown error", 500, 2, false};
  return (unsigned)code < LET_ERR_COUNT ? &rows[code] : &unknown;
}

const char *let_err_name(let_err code) { return find(code)->name; }
const char *let_err_text(let_err code) { return find(code)->text; }
int let_err_http(let_err code) { return find(code)->http; }
int let_err_grpc(let_err code) { return find(code)->grpc; }
bool let_err_retryable(let_err code) { return find(code)->retry; }

let_err let_fail(let_error *e, let_err code, const char *fmt, ...) {
  if (e) {
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
  }
  return code;
}

let_err let_fail_prefix(let_error *e, const char *fmt, ...) {
  if (!e) return LET_ERR_INTERNAL;
  char old[sizeof e->text];
  memcpy(old, e->text, sizeof old);
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
  va_end(ap);
  if (n < 0) n = 0;
  /* Truncation is fine here, so the copy is by length: a sentence that no longer fits loses its end. */
  size_t at = (size_t)n < sizeof e->text - 3 ? (size_t)n : sizeof e->text - 3, room = sizeof e->text - at - 3,
         len = strlen(old);
  if (len > room) len = room;
  memcpy(e->text + at, ": ", 2);
  memcpy(e->text + at + 2, old, len);
  e->text[at + 2 + len] = 0;
  return e->code;
}

_Noreturn void let_assert_failed(const char *cond, const char *file, int line) {
  fprintf(stderr, "gpulet: bug: %s:%d: assertion failed: %s\n", file, line, cond);
  fflush(stderr);
  abort();
}
