/* units.h: the one parser of durations, sizes and rates, and their printers. A number without a unit is an
 * error except 0: the unit is what tells 20 ms from 20 s. */
#ifndef LET_BASE_UNITS_H
#define LET_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "base/time.h"

LET_CHECKED let_err let_parse_dur(let_str s, let_dur *ret, let_error *e); /* ns us µs ms s m min h; "1.5ms" */
LET_CHECKED let_err let_parse_size(let_str s, uint64_t *ret,
                                   let_error *e); /* B KiB MiB GiB TiB, KB MB GB (powers of 1000) */
LET_CHECKED let_err let_parse_rate(let_str s, double *ret,
                                   let_error *e); /* "1200/s", "0.5/s", "90/m", "10/h" -> per second */
LET_CHECKED let_err let_parse_i64(let_str s, int64_t min, int64_t max, int64_t *ret, let_error *e);
LET_CHECKED let_err let_parse_f64(let_str s, double min, double max, double *ret, let_error *e); /* finite */
LET_CHECKED let_err let_parse_bool(let_str s, bool *ret, let_error *e); /* true false yes no on off 1 0 */

#define LET_UNITS_MAX 32
const char *let_print_dur(let_dur d, char out[LET_UNITS_MAX]);       /* "1.50 ms" */
const char *let_print_size(uint64_t bytes, char out[LET_UNITS_MAX]); /* "12.0 MiB" */

#endif
