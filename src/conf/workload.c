#include "conf/workload.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/units.h"
#include "conf/file.h"
#include "conf/suggest.h"
#include "conf/yaml.h"

bool let_workload_is_csv(const char *path) {
  size_t n = strlen(path);
  return n > 4 && let_str_ieq((let_str){path + n - 4, 4}, ".csv");
}

typedef struct context {
  yaml_document_t *doc;
  const char *name;
  let_error *e;
} context;

static let_err unknown(const context *c, const yaml_node_t *key, const char *const *known) {
  let_suggest s = {.word = let_yaml_scalar(key)};
  for (; *known; known++) let_suggest_offer(&s, *known);
  char hint[LET_SUGGEST_TEXT];
  return let_yaml_fail(c->name, key, c->e, "unknown key '" LET_STR_FMT "'%s", LET_STR_ARG(let_yaml_scalar(key)),
                       let_suggest_text(&s, "", hint));
}

static let_err model_name(const context *c, const yaml_node_t *v, let_demand *d) {
  let_str s = let_yaml_scalar(v);
  if (s.n == 0) return let_yaml_fail(c->name, v, c->e, "name: is empty");
  if (s.n >= sizeof d->name)
    return let_yaml_fail(c->name, v, c->e, "name: is longer than %zu bytes", sizeof d->name - 1);
  if (memchr(s.p, 0, s.n)) return let_yaml_fail(c->name, v, c->e, "name: contains a NUL byte");
  memcpy(d->name, s.p, s.n);
  d->name[s.n] = 0;
  return LET_OK;
}

static let_err field(const context *c, const yaml_node_t *key, const yaml_node_t *v, let_demand *d, bool *has_rate) {
  static const char *const known[] = {"name", "rate", "slo", NULL};
  let_str k = let_yaml_scalar(key);
  int at = 0;
  while (known[at] && !let_str_is(k, known[at])) at++;
  if (!known[at]) return unknown(c, key, known);
  if (v->type != YAML_SCALAR_NODE) return let_yaml_fail(c->name, v, c->e, "%s: must be one value", known[at]);
  if (at == 0) return model_name(c, v, d);
  let_error why = {0};
  let_err r =
      at == 1 ? let_parse_rate(let_yaml_scalar(v), &d->rate, &why) : let_parse_dur(let_yaml_scalar(v), &d->slo, &why);
  if (r) return let_yaml_fail(c->name, v, c->e, "%s: %s", known[at], why.text);
  if (at == 1 && d->rate > 1e9) return let_yaml_fail(c->name, v, c->e, "rate: more than 1e9/s");
  if (at == 2 && d->slo <= 0) return let_yaml_fail(c->name, v, c->e, "slo: must be more than 0");
  if (at == 1) *has_rate = true;
  return LET_OK;
}

static let_err one(const context *c, const yaml_node_t *n, let_demand *d) {
  bool has_rate = false;
  if (n->type != YAML_MAPPING_NODE)
    return let_yaml_fail(c->name, n, c->e, "models: each is written {name: resnet50, rate: 1200/s, slo: 20ms}");
  let_err r = let_yaml_keys(c->doc, n, c->name, c->e);
  for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; !r && p < n->data.mapping.pairs.top; p++)
    r = field(c, yaml_document_get_node(c->doc, p->key), yaml_document_get_node(c->doc, p->value), d, &has_rate);
  if (r) return r;
  if (!d->name[0]) return let_yaml_fail(c->name, n, c->e, "name: is missing");
  if (!has_rate) return let_yaml_fail(c->name, n, c->e, "rate: is missing for '%s' (write rate: 1200/s)", d->name);
  return LET_OK;
}

typedef struct named {
  const let_demand *d;
  const yaml_node_t *node;
} named;

static int by_name(const void *a, const void *b) {
  const named *x = a, *y = b;
  int order = strcmp(x->d->name, y->d->name);
  return order ? order : (x->d > y->d) - (x->d < y->d);
}

static let_err distinct(const context *c, const yaml_node_t *list, const let_demand *d, uint32_t n, let_arena *a) {
  named *v = let_arena_array(a, n, sizeof *v);
  if (!v) return let_fail(c->e, LET_ERR_NOMEM, "%s: out of memory", c->name);
  for (uint32_t i = 0; i < n; i++)
    v[i] = (named){&d[i], yaml_document_get_node(c->doc, list->data.sequence.items.start[i])};
  qsort(v, n, sizeof *v, by_name);
  for (uint32_t i = 1; i < n; i++)
    if (strcmp(v[i - 1].d->name, v[i].d->name) == 0)
      return let_yaml_fail(c->name, v[i].node, c->e, "name: '%s' is given twice (first on line %lu)", v[i].d->name,
                           let_yaml_line(v[i - 1].node));
  return LET_OK;
}

static let_err models(const context *c, const yaml_node_t *list, let_arena *a, let_workload *ret) {
  if (list->type != YAML_SEQUENCE_NODE) return let_yaml_fail(c->name, list, c->e, "models: must be a list");
  size_t n = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start);
  if (n == 0) return let_yaml_fail(c->name, list, c->e, "models: is empty");
  if (n > LET_WORKLOAD_MAX) return let_yaml_fail(c->name, list, c->e, "models: more than %d", LET_WORKLOAD_MAX);
  let_demand *d = let_arena_array(a, n, sizeof *d);
  if (!d) return let_fail(c->e, LET_ERR_NOMEM, "%s: out of memory", c->name);
  let_err r = LET_OK;
  for (size_t i = 0; i < n && !r; i++)
    r = one(c, yaml_document_get_node(c->doc, list->data.sequence.items.start[i]), &d[i]);
  if (!r) r = distinct(c, list, d, (uint32_t)n, a);
  if (!r) *ret = (let_workload){(uint32_t)n, d};
  return r;
}

static let_err document(const context *c, let_arena *a, let_workload *ret) {
  static const char *const known[] = {"models", NULL};
  const yaml_node_t *root = yaml_document_get_root_node(c->doc), *list = NULL;
  if (root->type != YAML_MAPPING_NODE) return let_yaml_fail(c->name, root, c->e, "a workload begins with 'models:'");
  let_err r = let_yaml_keys(c->doc, root, c->name, c->e);
  if (r) return r;
  for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
    const yaml_node_t *key = yaml_document_get_node(c->doc, p->key);
    if (!let_str_is(let_yaml_scalar(key), "models")) return unknown(c, key, known);
    list = yaml_document_get_node(c->doc, p->value);
  }
  return list ? models(c, list, a, ret) : let_yaml_fail(c->name, root, c->e, "models: is missing");
}

let_err let_workload_parse(let_str text, const char *name, let_arena *a, let_workload *ret, let_error *e) {
  let_error local = {0};
  yaml_document_t doc;
  context c = {&doc, name, e ? e : &local};
  let_err r = let_yaml_parse(text, name, &doc, c.e);
  if (r) return r;
  r = document(&c, a, ret);
  yaml_document_delete(&doc);
  return r;
}

let_err let_workload_load(const char *path, let_arena *a, let_workload *ret, let_error *e) {
  if (let_workload_is_csv(path))
    return let_fail(e, LET_ERR_INVALID,
                    "%s: a task file of the prototype; only `gpulet plan` reads those, a workload is YAML", path);
  let_str text;
  let_err r = let_file_read(path, a, &text, e);
  return r ? r : let_workload_parse(text, path, a, ret, e);
}
