/* yaml.h: libyaml's document tree with this project's errors. Within conf/ and profile/. */
#ifndef LET_CONF_YAML_H
#define LET_CONF_YAML_H

#include <yaml.h>

#include "base/err.h"
#include "base/str.h"

/* Parses one document. On success the caller yaml_document_delete()s it. Errors: INVALID "name:line:column: ...";
 * an empty text and a second document are errors too. */
LET_CHECKED let_err let_yaml_parse(let_str text, const char *name, yaml_document_t *ret, let_error *e);

static inline let_str let_yaml_scalar(const yaml_node_t *n) {
  return (let_str){(const char *)n->data.scalar.value, n->data.scalar.length};
}
static inline unsigned long let_yaml_line(const yaml_node_t *n) { return n->start_mark.line + 1; }
static inline unsigned long let_yaml_column(const yaml_node_t *n) { return n->start_mark.column + 1; }

/* "name:line:column: " before a sentence about |n|. */
let_err let_yaml_fail(const char *name, const yaml_node_t *n, let_error *e, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* INVALID naming both lines when a key of mapping |n| is not a scalar or comes twice. */
LET_CHECKED let_err let_yaml_keys(yaml_document_t *d, const yaml_node_t *n, const char *name, let_error *e);

#endif
