#include "profile/csv.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/units.h"

void let_problem_add(let_problems *ps, bool warning, const char *file, uint32_t line, uint32_t column, const char *fmt,
                     ...) {
  if (warning) ps->n_warnings++;
  else ps->n_errors++;
  uint32_t at = ps->n;
  if (at == LET_PROBLEMS_MAX) {
    if (warning || ps->n_errors != 1) return; /* the first error is kept even behind a flood of warnings */
    at--;
  } else ps->n++;
  let_problem *p = &ps->problem[at];
  *p = (let_problem){.warning = warning, .line = line, .column = column};
  snprintf(p->file, sizeof p->file, "%s", file);
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(p->text, sizeof p->text, fmt, ap);
  va_end(ap);
}

void let_problems_print(const let_problems *ps, let_buf *out) {
  for (uint32_t i = 0; i < ps->n; i++) {
    const let_problem *p = &ps->problem[i];
    let_buf_str(out, p->file);
    if (p->line) let_buf_fmt(out, ":%u", p->line);
    if (p->line && p->column) let_buf_fmt(out, ":%u", p->column);
    let_buf_fmt(out, ": %s: %s\n", p->warning ? "warning" : "error", p->text);
  }
  uint32_t rest = ps->n_errors + ps->n_warnings - ps->n;
  if (rest) let_buf_fmt(out, "and %u more\n", rest);
}

let_err let_problems_fail(const let_problems *ps, let_error *e) {
  LET_ASSERT(ps->n_errors && ps->n);
  uint32_t i = 0;
  while (i + 1 < ps->n && ps->problem[i].warning) i++;
  const let_problem *q = &ps->problem[i];
  char where[48] = "", rest[32] = "";
  if (q->line) snprintf(where, sizeof where, q->column ? ":%u:%u" : ":%u", q->line, q->column);
  if (ps->n_errors > 1) snprintf(rest, sizeof rest, " (and %u more)", ps->n_errors - 1);
  return let_fail(e, LET_ERR_INVALID, "%s%s: %s%s", q->file, where, q->text, rest);
}

/* The next line that is neither blank nor a comment, without its end. */
static bool line_next(let_csv *c, let_str *ret) {
  while (c->at < c->file.text.n) {
    const char *p = c->file.text.p + c->at, *end = memchr(p, '\n', c->file.text.n - c->at);
    size_t n = end ? (size_t)(end - p) : c->file.text.n - c->at;
    c->at += n + (end != NULL);
    c->line++;
    if (n && p[n - 1] == '\r') n--;
    size_t blank = 0;
    while (blank < n && (p[blank] == ' ' || p[blank] == '\t')) blank++;
    if (blank == n || p[blank] == '#') continue;
    *ret = (let_str){p, n};
    return true;
  }
  return false;
}

/* How many fields the line has; the first |cap| are stored, trimmed. */
static uint32_t split(let_str s, let_str *field, uint32_t *column, uint32_t cap) {
  uint32_t n = 0;
  size_t from = 0;
  for (size_t i = 0; i <= s.n; i++) {
    if (i < s.n && s.p[i] != ',') continue;
    if (n < cap) {
      size_t a = from, z = i;
      while (a < z && (s.p[a] == ' ' || s.p[a] == '\t')) a++;
      while (z > a && (s.p[z - 1] == ' ' || s.p[z - 1] == '\t')) z--;
      field[n] = (let_str){s.p + a, z - a};
      column[n] = (uint32_t)a + 1;
    }
    n++, from = i + 1;
  }
  return n;
}

static void start(let_csv *c, let_profile_file f, const char *const *names, uint32_t n, let_problems *ps) {
  LET_ASSERT(n <= LET_CSV_COLUMNS);
  *c = (let_csv){.file = f, .ps = ps, .n_names = n};
  memcpy(c->name, names, n * sizeof *names);
  if (f.text.n >= 3 && memcmp(f.text.p, "\xef\xbb\xbf", 3) == 0) c->at = 3;
}

static void expected(const let_csv *c, char *out, size_t size) {
  size_t at = 0;
  out[0] = 0;
  for (uint32_t i = 0; i < c->n_names && at < size; i++)
    at += (size_t)snprintf(out + at, size - at, "%s%s", i ? "," : "", c->name[i]);
}

bool let_csv_open(let_csv *c, let_profile_file f, const char *const *names, uint32_t n, uint32_t required, bool extra,
                  let_problems *ps) {
  start(c, f, names, n, ps);
  char want[160];
  expected(c, want, sizeof want);
  let_str s;
  if (!line_next(c, &s))
    return let_problem_add(ps, false, f.name, 0, 0, "the file is empty: its first line must be %s", want), false;
  uint32_t k = split(s, c->field, c->column, LET_CSV_COLUMNS);
  c->n_columns = k;
  for (uint32_t i = 0; i < n; i++) c->place[i] = UINT32_MAX;
  bool ok = k <= LET_CSV_COLUMNS;
  if (!ok) let_problem_add(ps, false, f.name, c->line, 0, "%u columns, at most %d are read", k, LET_CSV_COLUMNS);
  for (uint32_t j = 0; ok && j < k; j++) {
    uint32_t i = 0;
    while (i < n && !let_str_is(c->field[j], names[i])) i++;
    if (i < n && c->place[i] == UINT32_MAX) c->place[i] = j;
    else if (i < n || !extra) {
      let_problem_add(
          ps, false, f.name, c->line, c->column[j], "column '" LET_STR_FMT "' is %s: the first line must be %s",
          (int)(c->field[j].n < 40 ? c->field[j].n : 40), c->field[j].p, i < n ? "there twice" : "not known", want);
      ok = false;
    }
  }
  for (uint32_t i = 0; ok && i < required; i++)
    if (c->place[i] == UINT32_MAX) {
      let_problem_add(ps, false, f.name, c->line, 0, "column '%s' is missing: the first line must be %s", names[i],
                      want);
      ok = false;
    }
  return ok;
}

void let_csv_open_bare(let_csv *c, let_profile_file f, const char *const *names, uint32_t n, let_problems *ps) {
  start(c, f, names, n, ps);
  c->n_columns = n;
  for (uint32_t i = 0; i < n; i++) c->place[i] = i;
}

bool let_csv_next(let_csv *c) {
  let_str s;
  while (line_next(c, &s)) {
    let_str field[LET_CSV_COLUMNS + 1];
    uint32_t column[LET_CSV_COLUMNS + 1], k = split(s, field, column, LET_CSV_COLUMNS + 1);
    if (k == c->n_columns + 1 && k <= LET_CSV_COLUMNS + 1 && field[k - 1].n == 0) k--; /* "1,2," */
    if (k == c->n_columns) {
      memcpy(c->field, field, k * sizeof *field);
      memcpy(c->column, column, k * sizeof *column);
      return true;
    }
    let_problem_add(c->ps, false, c->file.name, c->line, 0, "%u fields, expected %u", k, c->n_columns);
  }
  return false;
}

uint32_t let_csv_lines(let_str text) {
  uint32_t n = 1;
  for (size_t i = 0; i < text.n; i++) n += text.p[i] == '\n';
  return n;
}

static bool present(const let_csv *c, uint32_t name) { return name < c->n_names && c->place[name] != UINT32_MAX; }

let_str let_csv_str(const let_csv *c, uint32_t name) {
  return present(c, name) ? c->field[c->place[name]] : (let_str){"", 0};
}

void let_csv_problem(const let_csv *c, uint32_t name, bool warning, const char *fmt, ...) {
  char text[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  let_problem_add(c->ps, warning, c->file.name, c->line, present(c, name) ? c->column[c->place[name]] : 0, "%s", text);
}

bool let_csv_name(const let_csv *c, uint32_t name, char out[LET_NAME_MAX]) {
  let_str s = let_csv_str(c, name);
  if (s.n == 0) return let_csv_problem(c, name, false, "%s is empty", c->name[name]), false;
  if (s.n >= LET_NAME_MAX)
    return let_csv_problem(c, name, false, "%s is %zu bytes long, at most %d", c->name[name], s.n, LET_NAME_MAX - 1),
           false;
  for (size_t i = 0; i < s.n; i++)
    if ((unsigned char)s.p[i] < ' ' || s.p[i] == '+' || s.p[i] == '"')
      return let_csv_problem(c, name, false,
                             "%s has a character that no name may have (quotes, '+', control characters)",
                             c->name[name]),
             false;
  memset(out, 0, LET_NAME_MAX);
  memcpy(out, s.p, s.n);
  return true;
}

static let_str brief(let_str s) { return (let_str){s.p, s.n < 60 ? s.n : 60}; }

bool let_csv_u32(const let_csv *c, uint32_t name, uint32_t min, uint32_t max, uint32_t *ret) {
  int64_t v;
  let_error e = {0};
  if (let_parse_i64(brief(let_csv_str(c, name)), min, max, &v, &e))
    return let_csv_problem(c, name, false, "%s: %.180s", c->name[name], e.text), false;
  *ret = (uint32_t)v;
  return true;
}

bool let_csv_f64(const let_csv *c, uint32_t name, double min, double max, double *ret) {
  let_error e = {0};
  if (let_parse_f64(brief(let_csv_str(c, name)), min, max, ret, &e))
    return let_csv_problem(c, name, false, "%s: %.180s", c->name[name], e.text), false;
  return true;
}

bool let_csv_positive(const let_csv *c, uint32_t name, double max, double *ret) {
  double v;
  if (!let_csv_f64(c, name, -1e300, max, &v)) return false;
  if (v > 0) return *ret = v, true;
  return let_csv_problem(c, name, false, "%s is %g: must be more than 0", c->name[name], v), false;
}
