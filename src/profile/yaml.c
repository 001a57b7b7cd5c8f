#include "profile/yaml.h"

#include <stdio.h>
#include <yaml.h>

#include "base/units.h"

static const let_coef_name linear_names[] = {{"l2_self", LET_COEF_L2_SELF, false},
                                             {"l2_other", LET_COEF_L2_OTHER, false},
                                             {"dram_self", LET_COEF_DRAM_SELF, false},
                                             {"dram_other", LET_COEF_DRAM_OTHER, false},
                                             {"constant", LET_COEF_CONSTANT, false},
                                             {"default_l2_util", LET_COEF_DEFAULT_L2, false},
                                             {"default_dram_util", LET_COEF_DEFAULT_DRAM, false},
                                             {NULL, 0, false}};
static const let_coef_name pressure_names[] = {{"share_self", LET_COEF_SHARE_SELF, false},
                                               {"share_other", LET_COEF_SHARE_OTHER, false},
                                               {"saturation", LET_COEF_SATURATION, false},
                                               {"default_pressure", LET_COEF_DEFAULT_PRESSURE, false},
                                               {"default_sensitivity", LET_COEF_DEFAULT_SENSITIVITY, false},
                                               {"default_delay_ms", LET_COEF_DEFAULT_DELAY, true},
                                               {NULL, 0, false}};
static const let_coef_name no_names[] = {{NULL, 0, false}};
static const char *const kind_names[] = {"none", "linear", "pressure"};

const let_coef_name *let_coef_names(let_interference_kind kind) {
  return kind == LET_INTERFERENCE_LINEAR ? linear_names : kind == LET_INTERFERENCE_PRESSURE ? pressure_names : no_names;
}
const char *let_interference_name(let_interference_kind kind) { return kind_names[kind]; }

typedef struct reader {
  yaml_document_t doc;
  const char *file;
  let_problems *ps;
} reader;

static void problem(reader *r, const yaml_node_t *at, const char *text, let_str what) {
  let_problem_add(r->ps, false, r->file, (uint32_t)at->start_mark.line + 1, (uint32_t)at->start_mark.column + 1,
                  "'" LET_STR_FMT "' %s", (int)(what.n < 60 ? what.n : 60), what.p, text);
}

static let_str scalar(const yaml_node_t *n) {
  return n->type == YAML_SCALAR_NODE ? (let_str){(const char *)n->data.scalar.value, n->data.scalar.length}
                                     : (let_str){"", 0};
}

/* True: r->doc must be deleted. Its root is a mapping. */
static bool open_mapping(reader *r, let_profile_file f, let_problems *ps) {
  yaml_parser_t parser;
  r->file = f.name, r->ps = ps;
  if (!yaml_parser_initialize(&parser)) return let_problem_add(ps, false, f.name, 0, 0, "out of memory"), false;
  yaml_parser_set_input_string(&parser, (const unsigned char *)f.text.p, f.text.n);
  bool ok = yaml_parser_load(&parser, &r->doc);
  if (!ok)
    let_problem_add(ps, false, f.name, (uint32_t)parser.problem_mark.line + 1, (uint32_t)parser.problem_mark.column + 1,
                    "not YAML: %s", parser.problem ? parser.problem : "unreadable");
  yaml_parser_delete(&parser);
  if (!ok) return false;
  yaml_node_t *root = yaml_document_get_root_node(&r->doc);
  if (root && root->type == YAML_MAPPING_NODE) return true;
  let_problem_add(ps, false, f.name, 1, 0, "must be a mapping: one 'key: value' a line");
  yaml_document_delete(&r->doc);
  return false;
}

/* Row |i| of a mapping; false after the last. */
static bool pair(reader *r, const yaml_node_t *map, uint32_t i, yaml_node_t **ret_key, yaml_node_t **ret_value) {
  yaml_node_pair_t *p = map->data.mapping.pairs.start + i;
  if (p >= map->data.mapping.pairs.top) return false;
  *ret_key = yaml_document_get_node(&r->doc, p->key);
  *ret_value = yaml_document_get_node(&r->doc, p->value);
  return true;
}

static bool number(reader *r, const char *key, const yaml_node_t *v, double min, double max, double *ret) {
  let_error e = {0};
  let_str s = scalar(v);
  if (v->type != YAML_SCALAR_NODE) snprintf(e.text, sizeof e.text, "must be a number");
  else if (let_parse_f64((let_str){s.p, s.n < 60 ? s.n : 60}, min, max, ret, &e) == LET_OK) return true;
  let_problem_add(r->ps, false, r->file, (uint32_t)v->start_mark.line + 1, (uint32_t)v->start_mark.column + 1,
                  "%s: %.180s", key, e.text);
  return false;
}

typedef struct device_key {
  const char *name;
  double min, max;
  bool required, whole;
} device_key;
enum { SMS, GRANULES, GRANULE_SMS, LAST_GRANULE_SMS, MEMORY_MIB, COST, BANDWIDTH, DEVICE_KEYS };
static const device_key device_keys[DEVICE_KEYS] = {{"sms", 1, 100000, true, true},
                                                    {"granules", 1, 1024, true, true},
                                                    {"granule_sms", 1, 100000, true, true},
                                                    {"last_granule_sms", 1, 100000, false, true},
                                                    {"memory_mib", 1, 1e9, true, false},
                                                    {"cost", 1e-9, 1e9, false, false},
                                                    {"bandwidth_mib_s", 1e-3, 1e9, false, false}};

static void device_row(reader *r, yaml_node_t *key, yaml_node_t *value, let_device_type *d, double v[DEVICE_KEYS],
                       bool seen[DEVICE_KEYS]) {
  let_str k = scalar(key), s = scalar(value);
  if (let_str_is(k, "type")) {
    if (s.n == 0 || s.n >= sizeof d->name) return problem(r, value, "is no device type: 1 to 63 bytes", s);
    for (size_t i = 0; i < s.n; i++)
      if ((unsigned char)s.p[i] <= ' ' || s.p[i] == ',' || s.p[i] == ':')
        return problem(r, value, "is no device type: no spaces, ',' or ':'", s);
    if (d->name[0]) return problem(r, key, "is there twice", k);
    memcpy(d->name, s.p, s.n);
    return;
  }
  uint32_t i = 0;
  while (i < DEVICE_KEYS && !let_str_is(k, device_keys[i].name)) i++;
  if (i == DEVICE_KEYS)
    return problem(r, key,
                   "is no key of device.yaml: type, sms, granules, granule_sms, last_granule_sms, memory_mib, cost, "
                   "bandwidth_mib_s",
                   k);
  if (seen[i]) return problem(r, key, "is there twice", k);
  seen[i] = true;
  if (!number(r, device_keys[i].name, value, device_keys[i].min, device_keys[i].max, &v[i])) v[i] = 0;
  else if (device_keys[i].whole && v[i] != (double)(uint32_t)v[i]) problem(r, value, "must be a whole number", s);
}

bool let_device_parse(let_profile_file f, let_device_type *ret, let_problems *ps) {
  reader r;
  uint32_t before = ps->n_errors;
  if (!open_mapping(&r, f, ps)) return false;
  let_device_type d = {0};
  double v[DEVICE_KEYS] = {0};
  bool seen[DEVICE_KEYS] = {0};
  yaml_node_t *key, *value, *root = yaml_document_get_root_node(&r.doc);
  for (uint32_t i = 0; pair(&r, root, i, &key, &value); i++) device_row(&r, key, value, &d, v, seen);
  yaml_document_delete(&r.doc);
  if (!d.name[0] && ps->n_errors == before) let_problem_add(ps, false, f.name, 0, 0, "key 'type' is missing");
  for (uint32_t i = 0; i < DEVICE_KEYS; i++)
    if (device_keys[i].required && !seen[i])
      let_problem_add(ps, false, f.name, 0, 0, "key '%s' is missing", device_keys[i].name);
  if (ps->n_errors != before) return false;
  d.sms = (uint32_t)v[SMS], d.granules = (uint32_t)v[GRANULES], d.granule_sms = (uint32_t)v[GRANULE_SMS];
  d.last_granule_sms = seen[LAST_GRANULE_SMS] ? (uint32_t)v[LAST_GRANULE_SMS] : d.granule_sms;
  d.memory_bytes = (uint64_t)(v[MEMORY_MIB] * 0x1p20);
  d.cost = seen[COST] ? v[COST] : 1;
  d.bandwidth = v[BANDWIDTH] * 0x1p20;
  if (let_share_sms(&d, d.granules) != d.sms)
    return let_problem_add(ps, false, f.name, 0, 0, "%u granules of %u SMs, the last of %u, are %u SMs, but sms is %u",
                           d.granules, d.granule_sms, d.last_granule_sms, let_share_sms(&d, d.granules), d.sms),
           false;
  *ret = d;
  return true;
}

static void coefficients(reader *r, const yaml_node_t *map, let_profile *p) {
  yaml_node_t *key, *value;
  const let_coef_name *names = let_coef_names(p->interference);
  bool seen[LET_COEF_COUNT] = {0};
  if (map->type != YAML_MAPPING_NODE) return problem(r, map, "must be a mapping", LET_STR("coefficients"));
  for (uint32_t i = 0; pair(r, map, i, &key, &value); i++) {
    const let_coef_name *c = names;
    while (c->name && !let_str_is(scalar(key), c->name)) c++;
    if (!c->name) problem(r, key, "is no coefficient of this model", scalar(key));
    else if (number(r, c->name, value, -1e6, 1e6, &p->coef[c->index])) seen[c->index] = true;
  }
  for (const let_coef_name *c = names; c->name; c++)
    if (!seen[c->index] && !c->optional) problem(r, map, "is missing from coefficients", let_str_c(c->name));
}

typedef struct pressure_row {
  uint32_t model, batch, line;
  let_pressure p;
} pressure_row;

static bool pressure_one(reader *r, const yaml_node_t *map, const let_profile *p, pressure_row *ret) {
  enum { KEYS = 6 };
  static const char *const keys[KEYS] = {"batch", "l2_util", "dram_util", "pressure", "sensitivity", "delay_ms"};
  double v[KEYS] = {0}, max[KEYS] = {LET_BATCH_MAX, 1, 1, 1e6, 1e6, 1e6};
  bool named = false;
  yaml_node_t *key, *value;
  uint32_t before = r->ps->n_errors;
  if (map->type != YAML_MAPPING_NODE)
    return problem(r, map, "must be a list of mappings {name, batch, ...}", LET_STR("models")), false;
  for (uint32_t i = 0; pair(r, map, i, &key, &value); i++) {
    uint32_t k = 0;
    if (let_str_is(scalar(key), "name")) {
      let_str s = scalar(value);
      char name[LET_NAME_MAX] = "";
      if (s.n < sizeof name) memcpy(name, s.p, s.n);
      ret->model = let_profile_find(p, name);
      named = true;
      if (ret->model == UINT32_MAX) problem(r, value, "is not in latency.csv", s);
      continue;
    }
    while (k < KEYS && !let_str_is(scalar(key), keys[k])) k++;
    if (k == KEYS)
      problem(r, key, "is no key of a model here: name, batch, l2_util, dram_util, pressure, sensitivity, delay_ms",
              scalar(key));
    else (void)number(r, keys[k], value, 0, max[k], &v[k]);
  }
  ret->line = (uint32_t)map->start_mark.line + 1;
  if (r->ps->n_errors != before) return false;
  if (!named || v[0] < 1 || v[0] != (double)(uint32_t)v[0])
    return problem(r, map, "needs a name and a whole batch of at least 1", LET_STR("models")), false;
  ret->batch = (uint32_t)v[0];
  ret->p = (let_pressure){v[1], v[2], v[3], v[4], v[5]};
  return true;
}

static int by_model(const void *x, const void *y) {
  const pressure_row *a = x, *b = y;
  if (a->model != b->model) return a->model < b->model ? -1 : 1;
  return a->batch < b->batch ? -1 : a->batch > b->batch;
}

static let_err pressures(reader *r, const yaml_node_t *list, let_arena *a, let_profile *p) {
  if (list->type != YAML_SEQUENCE_NODE) return problem(r, list, "must be a list", LET_STR("models")), LET_OK;
  size_t cap = (size_t)(list->data.sequence.items.top - list->data.sequence.items.start), n = 0;
  pressure_row *row = let_arena_array(a, cap, sizeof *row);
  if (!row) return LET_ERR_NOMEM;
  for (size_t i = 0; i < cap; i++)
    n += pressure_one(r, yaml_document_get_node(&r->doc, list->data.sequence.items.start[i]), p, &row[n]);
  qsort(row, n, sizeof *row, by_model);
  for (size_t i = 0, j; i < n; i = j) {
    let_profile_model *m = &p->model[row[i].model];
    for (j = i; j < n && row[j].model == row[i].model; j++)
      if (j > i && row[j].batch == row[j - 1].batch)
        let_problem_add(r->ps, false, r->file, row[j].line, 0, "model '%s' at batch %u is there twice", m->name,
                        row[j].batch);
    m->pressure = let_arena_array(a, j - i, sizeof *m->pressure);
    if (!m->pressure) return LET_ERR_NOMEM;
    m->n_pressure = (uint32_t)(j - i);
    for (size_t k = i; k < j; k++) m->pressure[k - i].batch = row[k].batch, m->pressure[k - i].p = row[k].p;
  }
  return LET_OK;
}

let_err let_fit_parse(let_profile_file f, let_arena *a, let_profile *p, let_problems *ps) {
  reader r;
  if (!open_mapping(&r, f, ps)) return LET_OK;
  yaml_node_t *key, *value, *root = yaml_document_get_root_node(&r.doc), *coef = NULL, *models = NULL, *kind = NULL,
                            *error = NULL;
  for (uint32_t i = 0; pair(&r, root, i, &key, &value); i++) {
    let_str k = scalar(key);
    yaml_node_t **at = let_str_is(k, "model")                ? &kind
                       : let_str_is(k, "held_out_error_p95") ? &error
                       : let_str_is(k, "coefficients")       ? &coef
                       : let_str_is(k, "models")             ? &models
                                                             : NULL;
    if (!at || *at)
      problem(&r, key,
              at ? "is there twice" : "is no key of interference.yaml: model, held_out_error_p95, coefficients, models",
              k);
    else *at = value;
  }
  uint32_t which = 0;
  while (which < 3 && kind && !let_str_is(scalar(kind), kind_names[which])) which++;
  let_err err = LET_OK;
  if (!kind || which == 3)
    let_problem_add(ps, false, f.name, kind ? (uint32_t)kind->start_mark.line + 1 : 0, 0,
                    "key 'model' must be one of: none, linear, pressure");
  else {
    p->interference = (let_interference_kind)which;
    if (error) (void)number(&r, "held_out_error_p95", error, 0, 1e6, &p->interference_error_p95);
    if (coef) coefficients(&r, coef, p);
    else if (which) let_problem_add(ps, false, f.name, 0, 0, "key 'coefficients' is missing");
    if (models) err = pressures(&r, models, a, p);
  }
  yaml_document_delete(&r.doc);
  return err;
}
