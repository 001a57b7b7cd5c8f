#include "base/units.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct unit {
  const char *name;
  double factor;
} unit;

/* Splits "12.5 ms" into 12.5 and "ms". False when there is no number or it does not fit the scratch. */
static bool split(let_str s, double *ret_number, let_str *ret_unit) {
  char tmp[64];
  while (s.n && (*s.p == ' ' || *s.p == '\t')) s.p++, s.n--;
  while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
  if (s.n == 0 || s.n >= sizeof tmp) return false;
  if (!((*s.p >= '0' && *s.p <= '9') || *s.p == '.' || *s.p == '-' || *s.p == '+')) return false; /* no "inf", "nan" */
  memcpy(tmp, s.p, s.n);
  tmp[s.n] = 0;
  if (tmp[0] == '0' && (tmp[1] == 'x' || tmp[1] == 'X')) return false;
  char *end;
  double v = strtod(tmp, &end);
  if (end == tmp || !isfinite(v)) return false;
  while (*end == ' ') end++;
  *ret_number = v;
  *ret_unit = (let_str){s.p + (end - tmp), s.n - (size_t)(end - tmp)};
  return true;
}

static let_err with_unit(let_str s, const unit *units, const char *what, const char *example, double *ret,
                         let_error *e) {
  double v;
  let_str u;
  if (!split(s, &v, &u))
    return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is not a %s (write %s)", LET_STR_ARG(s), what, example);
  if (v < 0) return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "': a %s cannot be negative", LET_STR_ARG(s), what);
  if (u.n == 0 && v == 0) return *ret = 0, LET_OK;
  for (const unit *k = units; k->name; k++)
    if (let_str_is(u, k->name)) return *ret = v * k->factor, LET_OK;
  if (u.n == 0)
    return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' has no unit (write %s)", LET_STR_ARG(s), example);
  return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' has an unknown unit '" LET_STR_FMT "' (write %s)",
                  LET_STR_ARG(s), LET_STR_ARG(u), example);
}

let_err let_parse_dur(let_str s, let_dur *ret, let_error *e) {
  static const unit units[] = {{"ns", 1},   {"us", 1e3},   {"µs", 1e3},   {"ms", 1e6}, {"s", 1e9},
                               {"m", 6e10}, {"min", 6e10}, {"h", 3.6e12}, {NULL, 0}};
  double v;
  let_err r = with_unit(s, units, "duration", "20ms, 1.5s, 10m", &v, e);
  if (r) return r;
  if (v >= 9e18) return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is longer than 290 years", LET_STR_ARG(s));
  *ret = (let_dur)llround(v);
  return LET_OK;
}

let_err let_parse_size(let_str s, uint64_t *ret, let_error *e) {
  static const unit units[] = {{"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
                               {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {NULL, 0}};
  double v;
  let_err r = with_unit(s, units, "size", "64MiB, 1GiB", &v, e);
  if (r) return r;
  if (v >= 9e18) return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is too large", LET_STR_ARG(s));
  *ret = (uint64_t)v;
  return LET_OK;
}

let_err let_parse_rate(let_str s, double *ret, let_error *e) {
  static const unit units[] = {{"/s", 1}, {"/m", 1.0 / 60}, {"/min", 1.0 / 60}, {"/h", 1.0 / 3600}, {NULL, 0}};
  return with_unit(s, units, "rate", "1200/s, 90/m", ret, e);
}

let_err let_parse_i64(let_str s, int64_t min, int64_t max, int64_t *ret, let_error *e) {
  char tmp[32];
  char *end = tmp;
  int64_t v = 0;
  if (s.n > 0 && s.n < sizeof tmp && s.p[0] != ' ') {
    memcpy(tmp, s.p, s.n);
    tmp[s.n] = 0;
    errno = 0;
    v = strtoll(tmp, &end, 10);
  }
  if (end == tmp || *end || errno == ERANGE)
    return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is not a whole number", LET_STR_ARG(s));
  if (v < min || v > max)
    return let_fail(e, LET_ERR_INVALID, "%lld is out of range (%lld to %lld)", (long long)v, (long long)min,
                    (long long)max);
  *ret = v;
  return LET_OK;
}

let_err let_parse_f64(let_str s, double min, double max, double *ret, let_error *e) {
  double v;
  let_str u;
  if (!split(s, &v, &u) || u.n)
    return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is not a number", LET_STR_ARG(s));
  if (v < min || v > max) return let_fail(e, LET_ERR_INVALID, "%g is out of range (%g to %g)", v, min, max);
  *ret = v;
  return LET_OK;
}

let_err let_parse_bool(let_str s, bool *ret, let_error *e) {
  static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
  for (int i = 0; i < 4; i++) {
    if (let_str_ieq(s, yes[i])) return *ret = true, LET_OK;
    if (let_str_ieq(s, no[i])) return *ret = false, LET_OK;
  }
  return let_fail(e, LET_ERR_INVALID, "'" LET_STR_FMT "' is neither true nor false", LET_STR_ARG(s));
}

const char *let_print_dur(let_dur d, char out[LET_UNITS_MAX]) {
  double v = (double)d;
  double a = fabs(v);
  if (a < 1e3) snprintf(out, LET_UNITS_MAX, "%.0f ns", v);
  else if (a < 1e6) snprintf(out, LET_UNITS_MAX, "%.3g us", v / 1e3);
  else if (a < 1e9) snprintf(out, LET_UNITS_MAX, a < 1e8 ? "%.2f ms" : "%.0f ms", v / 1e6);
  else snprintf(out, LET_UNITS_MAX, "%.2f s", v / 1e9);
  return out;
}

const char *let_print_size(uint64_t bytes, char out[LET_UNITS_MAX]) {
  static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = (double)bytes;
  int i = 0;
  while (v >= 1024 && i < 4) v /= 1024, i++;
  snprintf(out, LET_UNITS_MAX, i ? "%.1f %s" : "%.0f %s", v, names[i]);
  return out;
}
