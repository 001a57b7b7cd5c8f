/* model_config.h: Triton's config.pbtxt -> let_model. Every field of Triton's ModelConfig is known: what gpulet uses
 * is taken over, what cannot change an answer is accepted and noted, what would change answers is refused. */
#ifndef LET_CONF_MODEL_CONFIG_H
#define LET_CONF_MODEL_CONFIG_H

#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"

/* Sentences about fields that were accepted but have no effect: "path:line: optimization is ignored". */
typedef struct let_note {
  const char *text;
  struct let_note *next;
} let_note;
typedef struct let_notes {
  let_note *first, **tail;
  uint32_t n;
} let_notes;

enum { LET_VERSIONS_MAX = 32 };
typedef struct let_model_config {
  let_model model;     /* |dir| empty, |version| 0 */
  uint32_t n_versions; /* version_policy { specific }; 0: the latest */
  int64_t versions[LET_VERSIONS_MAX];
  uint32_t versions_line;
} let_model_config;

/* |dir_name|: the directory's name; the model's when the text has none, and an error when it has another. |file|
 * names the text in errors. |notes| may be NULL; zero-initialise it. Errors: INVALID, UNSUPPORTED "file:line:column:
 * field: ...". */
LET_CHECKED let_err let_model_config_parse(let_str text, const char *file, const char *dir_name, let_arena *a,
                                           let_model_config *ret, let_notes *notes, let_error *e);

void let_note_add(let_notes *notes, let_arena *a, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
