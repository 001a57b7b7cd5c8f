#include "conf/yaml.h"

#include <stdarg.h>
#include <stdio.h>

static let_err parser_failed(const yaml_parser_t *p, const char *name, let_error *e) {
  if (p->error == YAML_MEMORY_ERROR) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", name);
  const char *what = p->problem ? p->problem : "not YAML";
  if (p->error == YAML_READER_ERROR)
    return let_fail(e, LET_ERR_INVALID, "%s:%lu:1: byte %zu: %s", name, (unsigned long)p->mark.line + 1,
                    p->problem_offset, what);
  return let_fail(e, LET_ERR_INVALID, "%s:%lu:%lu: %s%s%s", name, (unsigned long)p->problem_mark.line + 1,
                  (unsigned long)p->problem_mark.column + 1, p->context ? p->context : "", p->context ? ": " : "",
                  what);
}

let_err let_yaml_parse(let_str text, const char *name, yaml_document_t *ret, let_error *e) {
  yaml_parser_t parser;
  if (!yaml_parser_initialize(&parser)) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", name);
  yaml_parser_set_input_string(&parser, (const unsigned char *)text.p, text.n);
  yaml_document_t doc, next;
  let_err r = LET_OK;
  if (!yaml_parser_load(&parser, &doc)) {
    r = parser_failed(&parser, name, e);
  } else if (!yaml_document_get_root_node(&doc)) {
    r = let_fail(e, LET_ERR_INVALID, "%s:1:1: the file is empty", name);
    yaml_document_delete(&doc);
  } else if (!yaml_parser_load(&parser, &next)) {
    r = parser_failed(&parser, name, e);
    yaml_document_delete(&doc);
  } else {
    yaml_node_t *more = yaml_document_get_root_node(&next);
    if (more) r = let_yaml_fail(name, more, e, "a second YAML document; only one is expected");
    yaml_document_delete(&next);
    if (r) yaml_document_delete(&doc);
    else *ret = doc;
  }
  yaml_parser_delete(&parser);
  return r;
}

let_err let_yaml_fail(const char *name, const yaml_node_t *n, let_error *e, const char *fmt, ...) {
  char text[sizeof e->text];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  return let_fail(e, LET_ERR_INVALID, "%s:%lu:%lu: %s", name, let_yaml_line(n), let_yaml_column(n), text);
}

let_err let_yaml_keys(yaml_document_t *d, const yaml_node_t *n, const char *name, let_error *e) {
  const yaml_node_pair_t *first = n->data.mapping.pairs.start, *end = n->data.mapping.pairs.top;
  for (const yaml_node_pair_t *p = first; p < end; p++) {
    const yaml_node_t *key = yaml_document_get_node(d, p->key);
    if (key->type != YAML_SCALAR_NODE) return let_yaml_fail(name, key, e, "a key must be a word");
    for (const yaml_node_pair_t *q = first; q < p; q++) {
      const yaml_node_t *o = yaml_document_get_node(d, q->key);
      if (let_str_eq(let_yaml_scalar(key), let_yaml_scalar(o)))
        return let_yaml_fail(name, key, e, "'" LET_STR_FMT "' is given twice (first on line %lu)",
                             LET_STR_ARG(let_yaml_scalar(key)), let_yaml_line(o));
    }
  }
  return LET_OK;
}
