/* str.h: strings that carry their length, and a growing byte buffer. */
#ifndef LET_BASE_STR_H
#define LET_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

/* A borrowed view; not terminated. */
typedef struct let_str {
  const char *p;
  size_t n;
} let_str;

#define LET_STR(lit)   ((let_str){(lit), sizeof(lit) - 1})
#define LET_STR_FMT    "%.*s"
#define LET_STR_ARG(s) (int)(s).n, (s).p

static inline let_str let_str_c(const char *s) { return (let_str){s, s ? strlen(s) : 0}; }
static inline bool let_str_eq(let_str a, let_str b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }
static inline bool let_str_is(let_str a, const char *b) { return let_str_eq(a, let_str_c(b)); }
bool let_str_ieq(let_str a, const char *b); /* ASCII case folded */

/* A growing buffer; always terminated once written to. A failed grow sets `failed` and drops what does not
 * fit, so a long run of appends needs one check at its end. Reuse with let_buf_clear: capacity is kept. */
typedef struct let_buf {
  char *p;
  size_t n, cap;
  bool failed;
  const let_mem *mem;
} let_buf;

void let_buf_init(let_buf *b, const let_mem *mem);
void let_buf_fini(let_buf *b);
static inline void let_buf_clear(let_buf *b) { b->n = 0, b->failed = false; }
bool let_buf_reserve(let_buf *b, size_t more);
void let_buf_add(let_buf *b, const void *p, size_t n);
void let_buf_str(let_buf *b, const char *s);
void let_buf_fmt(let_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
