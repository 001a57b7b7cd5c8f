/* suggest.h: the nearest known word, for "did you mean". */
#ifndef LET_CONF_SUGGEST_H
#define LET_CONF_SUGGEST_H

#include "base/str.h"

/* Zero-initialise but for |word|, offer every candidate, then read |best|: NULL when nothing is near. */
typedef struct let_suggest {
  let_str word;
  const char *best;
  unsigned distance;
} let_suggest;

void let_suggest_offer(let_suggest *s, const char *candidate);

enum { LET_SUGGEST_TEXT = 112 };
/* " (did you mean " prefix best "?)", or "" when nothing is near. */
const char *let_suggest_text(const let_suggest *s, const char *prefix, char out[LET_SUGGEST_TEXT]);

#endif
