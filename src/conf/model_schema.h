/* model_schema.h: the names and types of Triton's ModelConfig, so that a misspelt field cannot pass. */
#ifndef LET_CONF_MODEL_SCHEMA_H
#define LET_CONF_MODEL_SCHEMA_H

#include "conf/pbtxt.h"

typedef enum let_schema_kind {
  LET_SCHEMA_STRING,
  LET_SCHEMA_INT,
  LET_SCHEMA_UINT,
  LET_SCHEMA_FLOAT,
  LET_SCHEMA_BOOL,
  LET_SCHEMA_ENUM,
  LET_SCHEMA_MESSAGE
} let_schema_kind;

/* What gpulet does with a field that is present. */
typedef enum let_schema_use {
  LET_SCHEMA_USED,    /* read by model_config.c, or part of something that is */
  LET_SCHEMA_IGNORED, /* cannot change an answer: noted */
  LET_SCHEMA_REFUSED  /* would change answers, and is not supported */
} let_schema_use;

typedef struct let_schema_field let_schema_field;
struct let_schema_field {
  const char *name;
  let_schema_kind kind;
  bool repeated;
  const void
      *type; /* MESSAGE: const let_schema_field *, ends with name == NULL; ENUM: const char *const *, ends with NULL */
  let_schema_use use;
};

extern const let_schema_field let_schema_model[];

/* Checks names, types, repetition and enum values of everything below |f|. Errors: INVALID naming the place. */
LET_CHECKED let_err let_schema_check(const let_pb_field *f, const let_schema_field *schema, const char *message,
                                     const char *file, let_error *e);

#endif
