/* fuzz: wire base */
#include <stdlib.h>

#include "wire/http1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The chunked decoder's outcome does not depend on how the bytes were cut. */
static let_err decode(const char *p, size_t n, size_t piece, uint64_t *ret_bytes, bool *ret_end) {
  let_http1_chunked c = {0};
  *ret_bytes = 0, *ret_end = false;
  for (size_t at = 0; at < n && !*ret_end;) {
    size_t used, take = n - at < piece ? n - at : piece;
    let_str body;
    let_err r = let_http1_chunked_step(&c, p + at, take, &used, &body, ret_end, NULL);
    if (r) return r;
    LET_ASSERT(used > 0 && used <= take && body.n <= used);
    at += used;
    *ret_bytes += body.n;
  }
  return LET_OK;
}

/* A head parsed at once and byte by byte says the same, and its views lie inside the input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *p = (const char *)data;
  let_http1_head h, g;
  size_t scanned = 0, bytes = 0, bytes2 = 0;
  let_err r = let_http1_parse(p, size, &scanned, &h, &bytes, NULL), s = LET_ERR_AGAIN;
  scanned = 0;
  if (size < 4096) {
    for (size_t k = 1; k <= size && s == LET_ERR_AGAIN; k++) s = let_http1_parse(p, k, &scanned, &g, &bytes2, NULL);
    LET_ASSERT(r == s);
  }
  if (r == LET_OK) {
    LET_ASSERT(bytes <= size && h.path.n);
    LET_ASSERT(let_str_is(h.path, "/") || (h.path.p >= p && h.path.p + h.path.n <= p + size));
    let_str path = h.path, seg, out;
    char text[64];
    while (let_http1_segment(&path, &seg)) (void)let_http1_decode(seg, text, sizeof text, &out);
    p += bytes, size -= bytes;
  }
  uint64_t a, b;
  bool end_a, end_b;
  let_err x = decode(p, size, size, &a, &end_a), y = decode(p, size, 1, &b, &end_b);
  LET_ASSERT(x == y && (x || (a == b && end_a == end_b)));
  return 0;
}
