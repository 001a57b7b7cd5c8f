#include "base/str.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <strings.h>

bool let_str_ieq(let_str a, const char *b) { return strlen(b) == a.n && strncasecmp(a.p, b, a.n) == 0; }

void let_buf_init(let_buf *b, const let_mem *mem) { *b = (let_buf){.mem = mem}; }

void let_buf_fini(let_buf *b) {
  if (b->p) let_mem_free(b->mem, b->p, b->cap);
  *b = (let_buf){.mem = b->mem};
}

bool let_buf_reserve(let_buf *b, size_t more) {
  if (b->cap - b->n > more) return true;
  size_t want = b->cap ? b->cap : 64;
  while (want - b->n <= more) {
    if (want > SIZE_MAX / 2) return b->failed = true, false;
    want *= 2;
  }
  char *p = let_mem_realloc(b->mem, b->p, b->cap, want);
  if (!p) return b->failed = true, false;
  b->p = p;
  b->cap = want;
  return true;
}

void let_buf_add(let_buf *b, const void *p, size_t n) {
  if (!let_buf_reserve(b, n)) return;
  if (n) memcpy(b->p + b->n, p, n);
  b->n += n;
  b->p[b->n] = 0;
}

void let_buf_str(let_buf *b, const char *s) { let_buf_add(b, s, strlen(s)); }

void let_buf_fmt(let_buf *b, const char *fmt, ...) {
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = b->p ? vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap) : vsnprintf(NULL, 0, fmt, ap);
  if (n >= 0) {
    if ((size_t)n >= b->cap - b->n && let_buf_reserve(b, (size_t)n)) vsnprintf(b->p + b->n, b->cap - b->n, fmt, again);
    if ((size_t)n < b->cap - b->n) b->n += (size_t)n;
    else if (b->p) b->p[b->n] = 0;
  }
  va_end(again);
  va_end(ap);
}
