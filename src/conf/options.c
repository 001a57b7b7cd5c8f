#include "conf/options.h"

#include <stdint.h>
#include <stdio.h>

#include "base/units.h"
#include "conf/file.h"
#include "conf/suggest.h"
#include "conf/yaml.h"

enum { OPTIONS = 128, COLUMNS = 80, NAMES = 28 };

/* What the command line gave, so that a configuration file read after it can step back. A process has one
 * command line, so one such record is enough. */
static struct {
  const let_option *table;
  bool set[OPTIONS];
} given;

static bool limited(const let_option *o) { return o->min != 0 || o->max != 0; }

static let_err choose(const let_option *o, let_str v, const char **ret, let_error *e) {
  char list[160] = "";
  size_t at = 0;
  let_suggest s = {.word = v};
  for (const char *const *c = o->choices; *c; c++) {
    if (let_str_is(v, *c)) return *ret = *c, LET_OK;
    let_suggest_offer(&s, *c);
    int k = snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", *c);
    at = k > 0 && at + (size_t)k < sizeof list ? at + (size_t)k : at;
  }
  char hint[LET_SUGGEST_TEXT];
  return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is not one of %s%s", LET_STR_ARG(v), list,
                  let_suggest_text(&s, "", hint));
}

static let_err in_range(const let_option *o, double v, let_str text, let_error *e) {
  if (!limited(o) || (v >= o->min && v <= o->max)) return LET_OK;
  return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is out of range", LET_STR_ARG(text));
}

/* Stores |v| into the field; |v.p| is terminated and lives as long as the options. */
static let_err store(const let_option *o, let_str v, void *out, let_error *e) {
  void *field = (char *)out + o->offset;
  let_err r = LET_OK;
  switch (o->type) {
  case LET_OPTION_STR: *(const char **)field = v.p; return LET_OK;
  case LET_OPTION_BOOL: return let_parse_bool(v, field, e);
  case LET_OPTION_I64:
    return let_parse_i64(v, limited(o) ? (int64_t)o->min : INT64_MIN, limited(o) ? (int64_t)o->max : INT64_MAX, field,
                         e);
  case LET_OPTION_F64: return let_parse_f64(v, limited(o) ? o->min : -1e300, limited(o) ? o->max : 1e300, field, e);
  case LET_OPTION_CHOICE: return choose(o, v, field, e);
  case LET_OPTION_DUR: {
    let_dur d = 0;
    r = let_parse_dur(v, &d, e);
    if (!r) r = in_range(o, (double)d, v, e);
    if (!r) *(let_dur *)field = d;
    return r;
  }
  case LET_OPTION_SIZE: {
    uint64_t b = 0;
    r = let_parse_size(v, &b, e);
    if (!r) r = in_range(o, (double)b, v, e);
    if (!r) *(uint64_t *)field = b;
    return r;
  }
  }
  return let_fail(e, LET_ERR_INTERNAL, "option --%s has no type", o->name);
}

static void set_defaults(const let_option *t, size_t n, void *out) {
  LET_ASSERT(n <= OPTIONS);
  for (size_t i = 0; i < n; i++) {
    let_error e = {0};
    if (t[i].def) LET_ASSERT(store(&t[i], let_str_c(t[i].def), out, &e) == LET_OK);
    given.set[i] = false;
  }
  given.table = t;
}

static const let_option *find(const let_option *t, size_t n, let_str name) {
  for (size_t i = 0; i < n; i++)
    if (let_str_is(name, t[i].name)) return &t[i];
  return NULL;
}

static const char *nearest(const let_option *t, size_t n, let_str name, const char *prefix,
                           char out[LET_SUGGEST_TEXT]) {
  let_suggest s = {.word = name};
  for (size_t i = 0; i < n; i++) let_suggest_offer(&s, t[i].name);
  return let_suggest_text(&s, prefix, out);
}

static let_err required(const let_option *t, size_t n, const char *where, let_error *e) {
  for (size_t i = 0; i < n; i++)
    if (t[i].required && !given.set[i])
      return let_fail(e, LET_ERR_INVALID, "--%s %s is required%s: %s", t[i].name, t[i].value ? t[i].value : "", where,
                      t[i].help);
  return LET_OK;
}

/* One "--..." word; *at is its index in argv and is moved past its value. */
static let_err one(const let_option *t, size_t n, int argc, char **argv, int *at, void *out, let_error *e) {
  let_str word = let_str_c(argv[*at] + 2), name = word, value = {0};
  char *eq = strchr(argv[*at], '=');
  if (eq) name.n = (size_t)(eq - name.p), value = let_str_c(eq + 1);
  const let_option *o = find(t, n, name);
  if (!o && !eq && name.n > 3 && memcmp(name.p, "no-", 3) == 0) {
    o = find(t, n, (let_str){name.p + 3, name.n - 3});
    if (o && o->type != LET_OPTION_BOOL) o = NULL;
    if (o) value = LET_STR("false");
  } else if (o && o->type == LET_OPTION_BOOL && !eq) {
    value = LET_STR("true");
  }
  if (!o) {
    char hint[LET_SUGGEST_TEXT];
    return let_fail(e, LET_ERR_INVALID, "unknown option '--" LET_STR_FMT "'%s", LET_STR_ARG(name),
                    nearest(t, n, name, "--", hint));
  }
  if (!value.p) {
    if (*at + 1 >= argc)
      return let_fail(e, LET_ERR_INVALID, "--%s needs a value: --%s %s", o->name, o->name,
                      o->value ? o->value : "VALUE");
    value = let_str_c(argv[++*at]);
  }
  if (store(o, value, out, e)) return let_fail_prefix(e, "--%s", o->name);
  given.set[o - t] = true;
  return LET_OK;
}

let_err let_options_parse(const let_option *t, size_t n, int argc, char **argv, void *out, char **args, int max_args,
                          int *ret_n_args, bool *ret_help, let_error *e) {
  let_error local = {0};
  if (!e) e = &local;
  set_defaults(t, n, out);
  *ret_help = false;
  *ret_n_args = 0;
  bool options = true;
  for (int i = 0; i < argc; i++) {
    const char *a = argv[i];
    if (options && strcmp(a, "--") == 0) {
      options = false;
    } else if (options && (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)) {
      *ret_help = true;
      return LET_OK;
    } else if (options && a[0] == '-' && a[1] == '-') {
      let_err r = one(t, n, argc, argv, &i, out, e);
      if (r) return r;
    } else if (options && a[0] == '-' && a[1]) {
      char hint[LET_SUGGEST_TEXT];
      return let_fail(e, LET_ERR_INVALID, "unknown option '%s'%s; options begin with two dashes", a,
                      nearest(t, n, let_str_c(a + 1), "--", hint));
    } else if (*ret_n_args >= max_args) {
      return let_fail(e, LET_ERR_INVALID, "unexpected argument '%s'", a);
    } else {
      args[(*ret_n_args)++] = argv[i];
    }
  }
  const let_option *config = find(t, n, LET_STR("config"));
  if (config && given.set[config - t]) return LET_OK; /* let_options_from_yaml checks */
  return required(t, n, "", e);
}

/* ---- YAML */

static let_err from_pair(const char *path, const let_option *t, size_t n, const yaml_node_t *key,
                         const yaml_node_t *val, void *out, let_arena *a, let_error *e) {
  let_str name = let_yaml_scalar(key);
  const let_option *o = find(t, n, name);
  char hint[LET_SUGGEST_TEXT];
  if (!o || strcmp(o->name, "config") == 0)
    return let_yaml_fail(path, key, e, "unknown key '" LET_STR_FMT "'%s", LET_STR_ARG(name),
                         nearest(t, n, name, "", hint));
  if (val->type != YAML_SCALAR_NODE)
    return let_yaml_fail(path, val, e, "%s: must be one value, not a list or a mapping", o->name);
  let_str v = let_yaml_scalar(val);
  if (memchr(v.p, 0, v.n)) return let_yaml_fail(path, val, e, "%s: contains a NUL byte", o->name);
  char *copy = let_arena_strdup(a, v.p, v.n);
  if (!copy) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", path);
  if (given.table == t && given.set[o - t]) out = NULL;
  char scratch[8 * sizeof(void *)] = {0};
  let_option aside = *o;
  aside.offset = 0;
  let_err r = out ? store(o, (let_str){copy, v.n}, out, e)
                  : store(&aside, (let_str){copy, v.n}, scratch, e); /* checked even when not used */
  if (r) return let_fail_prefix(e, "%s:%lu:%lu: %s", path, let_yaml_line(val), let_yaml_column(val), o->name);
  given.set[o - t] = true;
  return LET_OK;
}

let_err let_options_from_yaml(const char *path, const let_option *t, size_t n, void *out, let_arena *a, let_error *e) {
  let_error local = {0};
  if (!e) e = &local;
  if (given.table != t) {
    given.table = t;
    memset(given.set, 0, sizeof given.set);
  }
  let_str text;
  yaml_document_t doc;
  let_err r = let_file_read(path, a, &text, e);
  if (!r) r = let_yaml_parse(text, path, &doc, e);
  if (r) return r;
  const yaml_node_t *root = yaml_document_get_root_node(&doc);
  if (root->type != YAML_MAPPING_NODE)
    r = let_yaml_fail(path, root, e, "options are written 'name: value', one per line");
  else r = let_yaml_keys(&doc, root, path, e);
  for (const yaml_node_pair_t *p = root->data.mapping.pairs.start; !r && p < root->data.mapping.pairs.top; p++)
    r = from_pair(path, t, n, yaml_document_get_node(&doc, p->key), yaml_document_get_node(&doc, p->value), out, a, e);
  yaml_document_delete(&doc);
  return r ? r : required(t, n, ", here or in the --config file", e);
}

/* ---- help */

static void left(const let_option *o, let_buf *b) {
  let_buf_fmt(b, "  --%s", o->name);
  if (o->type != LET_OPTION_BOOL) let_buf_fmt(b, " %s", o->value ? o->value : "VALUE");
}

static void indent(let_buf *b, size_t from, size_t to) {
  for (; from < to; from++) let_buf_add(b, " ", 1);
}

/* Words of |text| from column |at|, wrapped behind column |margin|. Returns the column it ends at. */
static size_t wrap(let_buf *b, const char *text, size_t at, size_t margin) {
  while (*text) {
    size_t n = strcspn(text, " ");
    if (at > margin && at + 1 + n > COLUMNS) {
      let_buf_str(b, "\n");
      indent(b, 0, margin);
      at = margin;
    } else if (at > margin) {
      let_buf_str(b, " ");
      at++;
    }
    let_buf_add(b, text, n);
    at += n;
    text += n + (text[n] == ' ');
  }
  return at;
}

void let_options_help(const let_option *t, size_t n, let_buf *b) {
  size_t margin = 0;
  for (size_t i = 0; i < n; i++) {
    size_t from = b->n;
    left(&t[i], b);
    size_t w = b->n - from + 2;
    b->n = from;
    if (w > margin && w <= NAMES) margin = w;
  }
  if (margin < 8) margin = 8;
  for (size_t i = 0; i < n; i++) {
    size_t from = b->n;
    left(&t[i], b);
    size_t at = b->n - from;
    if (at + 2 > margin) {
      let_buf_str(b, "\n");
      at = 0;
    }
    indent(b, at, margin);
    at = wrap(b, t[i].help, margin, margin);
    char extra[96] = "";
    if (t[i].required) snprintf(extra, sizeof extra, "(required)");
    else if (t[i].def && t[i].def[0] && t[i].type != LET_OPTION_BOOL) snprintf(extra, sizeof extra, "[%s]", t[i].def);
    wrap(b, extra, at, margin);
    let_buf_str(b, "\n");
  }
}

/* |text| as it may stand in a table's cell. */
static void cell(let_buf *b, const char *text) {
  for (; *text; text++)
    if (*text == '|') let_buf_str(b, "\\|");
    else let_buf_add(b, text, 1);
}

void let_options_markdown(const let_option *t, size_t n, let_buf *b) {
  let_buf_str(b, "| option | default | |\n|---|---|---|\n");
  for (size_t i = 0; i < n; i++) {
    let_buf_fmt(b, "| `--%s", t[i].name);
    if (t[i].type != LET_OPTION_BOOL) let_buf_str(b, " "), cell(b, t[i].value ? t[i].value : "VALUE");
    let_buf_str(b, "` | ");
    if (t[i].required) let_buf_str(b, "required");
    else if (t[i].def && t[i].def[0] && t[i].type != LET_OPTION_BOOL)
      let_buf_str(b, "`"), cell(b, t[i].def), let_buf_str(b, "`");
    let_buf_str(b, " | ");
    cell(b, t[i].help);
    for (size_t k = 0; t[i].choices && t[i].choices[k]; k++)
      let_buf_fmt(b, "%s`%s`", k ? ", " : " (one of ", t[i].choices[k]);
    let_buf_str(b, t[i].choices ? ") |\n" : " |\n");
  }
}
