/* profile.h: profile directories on disk <-> let_profile. A directory holds device.yaml, latency.csv and, optional,
 * memory.csv, inputs.csv, interference.csv (measured) and interference.yaml (fitted). doc: design.md section 3.
 *
 * Nothing is defaulted to zero: a hole, a zero, a negative, a NaN, an unknown name is a problem with its file, line
 * and column, and every problem of a directory is reported, not only the first. All memory comes from the arena. */
#ifndef LET_PROFILE_PROFILE_H
#define LET_PROFILE_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/plan.h"
#include "model/profile.h"

enum { LET_PROBLEMS_MAX = 200, LET_NEIGHBOURS_MAX = 16 };

typedef struct let_problem {
  bool warning;          /* the profile is usable: measured noise that the monotone envelope hides */
  uint32_t line, column; /* counted from 1; 0: the file as a whole */
  char file[256];
  char text[256];
} let_problem;

/* Keeps the first LET_PROBLEMS_MAX, counts all. Zero-initialise. */
typedef struct let_problems {
  uint32_t n, n_errors, n_warnings;
  let_problem problem[LET_PROBLEMS_MAX];
} let_problems;

void let_problem_add(let_problems *ps, bool warning, const char *file, uint32_t line, uint32_t column, const char *fmt,
                     ...) __attribute__((format(printf, 6, 7)));
void let_problems_print(const let_problems *ps, let_buf *out); /* "file:line:column: error: text", one a line */
let_err let_problems_fail(const let_problems *ps,
                          let_error *e); /* INVALID: the first error, and how many more; there is one */

/* One measurement of one tenant beside others: interference.csv. */
typedef struct let_sample {
  let_tenant self;
  uint32_t n; /* neighbours */
  let_tenant *other;
  double solo_ms, together_ms;
  uint32_t line;
} let_sample;

typedef struct let_samples {
  uint32_t n;
  let_sample *sample;
} let_samples;

/* The text of one directory's files; p == NULL: the file is absent. |name| is for messages. */
typedef struct let_profile_file {
  const char *name;
  let_str text;
} let_profile_file;

typedef struct let_profile_texts {
  let_profile_file device, latency, memory, inputs, samples, fit;
} let_profile_texts;

/* Parses and checks; |ret_samples| may be NULL. INVALID when |ps| has an error: *e is then the first one and how
 * many more there are. */
LET_CHECKED let_err let_profile_parse(const let_profile_texts *t, let_arena *a, let_profile *ret,
                                      let_samples *ret_samples, let_problems *ps, let_error *e);

/* One file of a directory into the arena; absent and not |required|: text.p == NULL. Errors: NOT_FOUND, IO, TOO_LARGE,
 * NOMEM. */
LET_CHECKED let_err let_profile_read(const char *dir, const char *name, bool required, let_arena *a,
                                     let_profile_file *ret, let_error *e);

/* Reads |dir|. Errors: NOT_FOUND (no directory, no device.yaml or latency.csv), IO, INVALID, NOMEM. */
LET_CHECKED let_err let_profile_load(const char *dir, let_arena *a, let_profile *ret, let_error *e);

/* As load, and tells everything: warnings too, and the measured samples. |ps| and |ret_samples| may be NULL. */
LET_CHECKED let_err let_profile_load_all(const char *dir, let_arena *a, let_profile *ret, let_samples *ret_samples,
                                         let_problems *ps, let_error *e);

/* Every problem of |dir| into |ps|. OK when there is no error (there may be warnings). */
LET_CHECKED let_err let_profile_validate(const char *dir, let_problems *ps, let_error *e);

/* Writes |dir| (made when missing): device.yaml, latency.csv, and memory.csv, inputs.csv, interference.csv (|s| may be
 * NULL: left as it is), interference.yaml when there is something to write. Each file is replaced atomically.
 * |comment| goes into device.yaml's head, one '#' per line; may be NULL. */
LET_CHECKED let_err let_profile_save(const char *dir, const let_profile *p, const let_samples *s, const char *comment,
                                     let_error *e);
LET_CHECKED let_err let_profile_save_fit(const char *dir, const let_profile *p,
                                         let_error *e); /* interference.yaml only */

/* The raw layout of a first measurement: latency.csv (model,batch,sms,ms) and pairs.csv
 * (m1,b1,sm1,solo1,co1,cov1,m2,...; a side counts as measured where its cov is 1). |device| says how SMs become
 * granules; rows that are no whole number of granules are left out, and so are batches with a missing cell. */
LET_CHECKED let_err let_profile_import_raw(const char *dir, const let_device_type *device, let_arena *a,
                                           let_profile *ret, let_samples *ret_samples, let_error *e);

#endif
