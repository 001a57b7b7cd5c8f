#include "conf/suggest.h"

#include <stdio.h>

enum { WORD = 48 };

static char fold(char c) { return (char)(c == '-' ? '_' : c >= 'A' && c <= 'Z' ? c + 32 : c); }

/* Edits (insert, delete, replace, swap of neighbours) from |a| to |b|. */
static unsigned edits(let_str a, let_str b) {
  unsigned row[3][WORD + 1];
  unsigned *before = row[0], *last = row[1], *now = row[2];
  for (size_t j = 0; j <= b.n; j++) last[j] = (unsigned)j;
  for (size_t i = 1; i <= a.n; i++) {
    now[0] = (unsigned)i;
    for (size_t j = 1; j <= b.n; j++) {
      bool same = fold(a.p[i - 1]) == fold(b.p[j - 1]);
      unsigned best = last[j - 1] + !same;
      if (last[j] + 1 < best) best = last[j] + 1;
      if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
      bool swap = i > 1 && j > 1 && fold(a.p[i - 1]) == fold(b.p[j - 2]) && fold(a.p[i - 2]) == fold(b.p[j - 1]);
      if (swap && before[j - 2] + 1 < best) best = before[j - 2] + 1;
      now[j] = best;
    }
    unsigned *free = before;
    before = last, last = now, now = free;
  }
  return last[b.n];
}

void let_suggest_offer(let_suggest *s, const char *candidate) {
  let_str c = let_str_c(candidate);
  if (s->word.n == 0 || s->word.n > WORD || c.n > WORD) return;
  unsigned d = edits(s->word, c), limit = (unsigned)(s->word.n < c.n ? s->word.n : c.n) / 3 + 1;
  bool start = s->word.n >= 3 && c.n > s->word.n && memcmp(s->word.p, c.p, s->word.n) == 0;
  if (start && d > 1) d = 1;
  if (d > limit || (s->word.n < 3 && d > 1) || (s->best && d >= s->distance)) return;
  s->best = candidate;
  s->distance = d;
}

const char *let_suggest_text(const let_suggest *s, const char *prefix, char out[LET_SUGGEST_TEXT]) {
  out[0] = 0;
  if (s->best) snprintf(out, LET_SUGGEST_TEXT, " (did you mean %s%s?)", prefix, s->best);
  return out;
}
