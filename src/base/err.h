/* err.h: errors are values with a class.
 *
 * A function that can fail returns a let_err (0 = ok) and, when a person will read the outcome, fills the
 * caller's let_error with one sentence: what was wrong, where (file, line, field), what to do.
 * Outputs (ret_...) are written only on success. Library code never logs. */
#ifndef LET_BASE_ERR_H
#define LET_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

/* name, text, HTTP status, gRPC status, may the same request succeed if sent again */
#define LET_ERR_MAP(X)                                                                          \
  X(OK, "ok", 200, 0, false)                                                                    \
  X(INVALID, "invalid argument", 400, 3, false)                                                 \
  X(NOT_FOUND, "not found", 404, 5, false)                                                      \
  X(METHOD, "method not allowed", 405, 12, false)                                               \
  X(READ_TIMEOUT, "request not received in time", 408, 4, true)                                 \
  X(EXISTS, "already exists", 409, 6, false)                                                    \
  X(TOO_LARGE, "too large", 413, 8, false)                                                      \
  X(HEADER_TOO_LARGE, "header too large", 431, 8, false)                                        \
  X(CANCELLED, "cancelled", 499, 1, false)                                                      \
  X(INTERNAL, "internal error", 500, 13, false)                                                 \
  X(UNSUPPORTED, "not supported", 501, 12, false)                                               \
  X(UNAVAILABLE, "unavailable", 503, 14, true)                                                  \
  X(OVERLOADED, "queue full", 503, 14, true)                                                    \
  X(DEADLINE, "deadline cannot be met", 503, 14, true)                                          \
  X(NOMEM, "out of memory", 503, 8, true)                                                       \
  X(IO, "input/output error", 500, 13, false)                                                   \
  X(AGAIN, "try again later", 503, 14, true) /* control flow, never shown to a user */          \
  X(GPULET, "gpu-let failed", 500, 13, true) /* this gpu-let must be rebuilt */                 \
  X(DEVICE, "device failed", 500, 13, true)  /* every gpu-let of this device must be rebuilt */ \
  X(OUTPUT_TOO_LARGE, "output larger than its slot", 500, 8, true)

#define X(name, text, http, grpc, retry) LET_ERR_##name,
typedef enum let_err { LET_ERR_MAP(X) LET_ERR_COUNT } let_err;
#undef X

#define LET_OK      LET_ERR_OK
#define LET_CHECKED __attribute__((warn_unused_result))

/* One sentence for a person. Zero-initialise; text is always terminated. */
typedef struct let_error {
  let_err code;
  char text[512];
} let_error;

const char *let_err_name(let_err code); /* "NOT_FOUND"; "UNKNOWN" for a number out of range */
const char *let_err_text(let_err code); /* "not found" */
int let_err_http(let_err code);         /* 404 */
int let_err_grpc(let_err code);         /* 5 */
bool let_err_retryable(let_err code);

/* Fills |e| (may be NULL) and returns |code|, so `return let_fail(e, LET_ERR_INVALID, "...")` reads well. */
let_err let_fail(let_error *e, let_err code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already in |e| (a file name, a model name). Returns e->code. */
let_err let_fail_prefix(let_error *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* LET_ASSERT stays on in release builds. It is for bugs of ours; nothing that comes from a socket, a file,
 * a GPU or a peer process may trip it. Prints the evidence, then aborts. */
#define LET_ASSERT(cond)                                                            \
  do {                                                                              \
    if (__builtin_expect(!(cond), 0)) let_assert_failed(#cond, __FILE__, __LINE__); \
  } while (0)
_Noreturn void let_assert_failed(const char *cond, const char *file, int line);

#endif
