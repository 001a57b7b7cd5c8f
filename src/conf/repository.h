/* repository.h: a model repository in Triton's layout: DIR/MODEL/config.pbtxt and DIR/MODEL/VERSION/model.pt. */
#ifndef LET_CONF_REPOSITORY_H
#define LET_CONF_REPOSITORY_H

#include "conf/model_config.h"

/* Every model of |dir|, sorted by name. Files and directories that begin with '.' are skipped; any other directory
 * must hold a model. Errors name file, line and field; NOT_FOUND when there is no repository or no model in it. */
LET_CHECKED let_err let_repository_load(const char *dir, let_arena *a, let_model **ret, uint32_t *ret_n, let_error *e);
LET_CHECKED let_err let_repository_load_notes(const char *dir, let_arena *a, let_model **ret, uint32_t *ret_n,
                                              let_notes *notes, let_error *e);

/* One model's directory. |notes| may be NULL. */
LET_CHECKED let_err let_repository_load_one(const char *model_dir, let_arena *a, let_model *ret, let_notes *notes,
                                            let_error *e);

#endif
