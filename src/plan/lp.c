#include "plan/lp.h"

#include <coin/Clp_C_Interface.h>
#include <stddef.h>

#include "base/err.h"

/* LAPACK's error handler, for a call with an illegal argument, which CLP never makes. The archive's own is the one
 * object that needs the Fortran run-time library. */
void xerbla_(const char *name, const int *info, unsigned long len);
void xerbla_(const char *name, const int *info, unsigned long len) {
  (void)name, (void)len;
  LET_ASSERT(*info == 0);
}

/* CLP keeps the model; a let__lp is its pointer. */
let__lp *let__lp_new(uint32_t rows, const double *row_lo, const double *row_hi) {
  Clp_Simplex *m = Clp_newModel();
  if (!m) return NULL;
  int none = 0;
  Clp_setLogLevel(m, 0);
  Clp_loadProblem(m, 0, (int)rows, &none, NULL, NULL, NULL, NULL, NULL, row_lo, row_hi);
  return (let__lp *)m;
}

void let__lp_free(let__lp *lp) {
  if (lp) Clp_deleteModel((Clp_Simplex *)lp);
}

void let__lp_add(let__lp *lp, uint32_t n_cols, const double *cost, const int *start, const int *row,
                 const double *value) {
  Clp_addColumns((Clp_Simplex *)lp, (int)n_cols, NULL, NULL, cost, start, row, value);
}

bool let__lp_solve(let__lp *lp) {
  Clp_Simplex *m = (Clp_Simplex *)lp;
  (void)Clp_primal(m, 0);
  return Clp_status(m) == 0;
}

const double *let__lp_dual(const let__lp *lp) { return Clp_dualRowSolution((Clp_Simplex *)(uintptr_t)lp); }
const double *let__lp_primal(const let__lp *lp) { return Clp_primalColumnSolution((Clp_Simplex *)(uintptr_t)lp); }
