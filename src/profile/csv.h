/* csv.h: rows of a comma-separated text, with the line and column of every complaint. No quotes (nothing we read needs
 * them), '#' starts a comment line, CRLF and a byte-order mark are accepted, blank lines skipped. */
#ifndef LET_PROFILE_CSV_H
#define LET_PROFILE_CSV_H

#include "profile/profile.h"

enum { LET_CSV_COLUMNS = 16 };

typedef struct let_csv {
  let_profile_file file;
  let_problems *ps;
  size_t at;     /* of the next line */
  uint32_t line; /* of the current row */
  uint32_t n_names;
  const char *name[LET_CSV_COLUMNS];
  uint32_t n_columns;              /* of the file */
  uint32_t place[LET_CSV_COLUMNS]; /* of name i among the file's columns; UINT32_MAX: an optional one that is absent */
  let_str field[LET_CSV_COLUMNS];
  uint32_t column[LET_CSV_COLUMNS]; /* where the field starts, in bytes from 1 */
} let_csv;

/* The first line names the columns, in any order: all of |names| (the first |required| of them at least), and, with
 * |extra|, others that are ignored. False: a problem was added. */
bool let_csv_open(let_csv *c, let_profile_file f, const char *const *names, uint32_t n, uint32_t required, bool extra,
                  let_problems *ps);
/* Without a header: fields in the order of |names|; one trailing comma is accepted. */
void let_csv_open_bare(let_csv *c, let_profile_file f, const char *const *names, uint32_t n, let_problems *ps);
bool let_csv_next(let_csv *c);        /* rows with the wrong number of fields are problems, and skipped */
uint32_t let_csv_lines(let_str text); /* upper bound of rows, for arrays */

let_str let_csv_str(const let_csv *c, uint32_t name);
bool let_csv_name(const let_csv *c, uint32_t name, char out[LET_NAME_MAX]); /* a model's name: not empty, printable */
bool let_csv_u32(const let_csv *c, uint32_t name, uint32_t min, uint32_t max, uint32_t *ret);
bool let_csv_f64(const let_csv *c, uint32_t name, double min, double max, double *ret);
/* Also excludes 0 with a sentence that says so: a zero in a measurement is a hole. */
bool let_csv_positive(const let_csv *c, uint32_t name, double max, double *ret);
void let_csv_problem(const let_csv *c, uint32_t name, bool warning, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
