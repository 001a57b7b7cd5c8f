/* http1.h: HTTP/1.1 request heads and chunked bodies. Pure: works on the caller's buffer, no allocation, no I/O,
 * any thread. Strict where leniency lets two parsers disagree about where a request ends: a bare LF, a folded line,
 * a second or contradicting length are refused. */
#ifndef LET_WIRE_HTTP1_H
#define LET_WIRE_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

enum {
  LET_HTTP1_HEAD_MAX = 16 * 1024, /* bytes of a request head; longer: HEADER_TOO_LARGE */
  LET_HTTP1_FIELDS_MAX = 100,     /* header lines */
  LET_HTTP1_LINE_MAX = 256,       /* of a chunk's size line, extensions included */
};

typedef enum let_http1_method { LET_HTTP1_GET, LET_HTTP1_HEAD, LET_HTTP1_POST, LET_HTTP1_OTHER } let_http1_method;

/* Every let_str is a view into the caller's buffer; n == 0 when the field was absent. */
typedef struct let_http1_head {
  let_http1_method method;
  let_str method_name;
  let_str path;  /* raw, starts with '/' (or is a constant "/"); decode segment by segment with let_http1_decode */
  let_str query; /* without the '?' */
  uint8_t minor; /* HTTP/1.minor */
  bool keep_alive, chunked, expect_continue;
  bool has_length, has_header_length;
  uint64_t length;        /* Content-Length */
  uint64_t header_length; /* Inference-Header-Content-Length */
  let_str content_type, content_encoding, accept_encoding, host;
} let_http1_head;

/* Looks for a whole head in buf[0..n). |*scanned| starts at 0 for each head and remembers how far earlier calls
 * looked, so a head that comes byte by byte is still read once. AGAIN: more bytes are needed. OK: *ret is filled and
 * *ret_bytes is the head's size. INVALID, HEADER_TOO_LARGE, UNSUPPORTED: answer, then close: where the next request
 * starts is unknown. */
LET_CHECKED let_err let_http1_parse(const char *buf, size_t n, size_t *scanned, let_http1_head *ret, size_t *ret_bytes,
                                    let_error *e);

/* Splits the first segment off |*path| ("/a/b" -> "a", rest "/b"); false when nothing is left. */
bool let_http1_segment(let_str *path, let_str *ret);

/* Undoes percent-encoding into |out|. False: a broken escape, a NUL, or longer than |cap|. */
bool let_http1_decode(let_str s, char *out, size_t cap, let_str *ret);

/* Chunked bodies. Zero-initialise. */
typedef struct let_http1_chunked {
  uint64_t left; /* of the chunk being read */
  uint32_t line; /* bytes of the line, or of all trailers, so far */
  uint8_t state, digits;
} let_http1_chunked;

/* Takes one step on in[0..n): consumes *ret_used bytes (0 only when n == 0), of which *ret_data (maybe empty) is body.
 * *ret_end: the last byte of the body and its trailers has been consumed. INVALID: not a chunked body. */
LET_CHECKED let_err let_http1_chunked_step(let_http1_chunked *c, const char *in, size_t n, size_t *ret_used,
                                           let_str *ret_data, bool *ret_end, let_error *e);

#endif
