/* lp.h: the one linear-programming seam: minimise cost x, row_lo <= A x <= row_hi, x >= 0. Behind it: COIN-OR CLP.
 * Columns may be added between solves; the next solve starts from the last basis. */
#ifndef LET_PLAN_LP_H
#define LET_PLAN_LP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct let__lp let__lp;

#define LET__LP_INF 1e30

let__lp *let__lp_new(uint32_t rows, const double *row_lo, const double *row_hi); /* NULL: out of memory */
void let__lp_free(let__lp *lp);                                                  /* NULL is fine */
/* |n_cols| columns, their entries one after the other: column c has entries start[c] .. start[c + 1] - 1. */
void let__lp_add(let__lp *lp, uint32_t n_cols, const double *cost, const int *start, const int *row,
                 const double *value);
bool let__lp_solve(let__lp *lp);                 /* true: optimal */
const double *let__lp_dual(const let__lp *lp);   /* per row, valid until the next call on |lp| */
const double *let__lp_primal(const let__lp *lp); /* per column */

#endif
