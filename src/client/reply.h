/* reply.h: an HTTP/1.1 answer, byte by byte as it comes: status, length, the beginning of the body. Pure. */
#ifndef LET_CLIENT_REPLY_H
#define LET_CLIENT_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

typedef enum let_reply_state {
  LET_REPLY_STATUS,
  LET_REPLY_HEADER,
  LET_REPLY_BODY,
  LET_REPLY_TO_EOF,
  LET_REPLY_CHUNK_SIZE,
  LET_REPLY_CHUNK,
  LET_REPLY_CHUNK_END,
  LET_REPLY_TRAILER,
  LET_REPLY_DONE,
  LET_REPLY_BROKEN
} let_reply_state;

typedef struct let_reply {
  let_reply_state state;
  int status;
  bool close, chunked, has_length, started; /* close: the connection cannot be used again */
  uint64_t left;
  size_t line_n, body_n;
  char line[512]; /* longer lines lose their end: no header we need is that long */
  char body[256]; /* the beginning */
  let_buf *keep;  /* whole body, when not NULL */
} let_reply;

static inline void let_reply_reset(let_reply *r, let_buf *keep) {
  r->state = LET_REPLY_STATUS, r->status = 0, r->close = r->chunked = r->has_length = r->started = false;
  r->left = 0, r->line_n = r->body_n = 0, r->keep = keep;
}
/* Takes what belongs to this answer; returns how many bytes that was. Look at |state| afterwards. */
size_t let_reply_feed(let_reply *r, const char *p, size_t n);
void let_reply_eof(let_reply *r); /* the peer has closed: DONE or BROKEN */

#endif
