/* file.h: a whole file into an arena. */
#ifndef LET_CONF_FILE_H
#define LET_CONF_FILE_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

enum { LET_FILE_MAX = 64 << 20 };

/* Regular files and pipes up to LET_FILE_MAX bytes; terminated. Errors name |path|: NOT_FOUND, IO, TOO_LARGE, NOMEM. */
LET_CHECKED let_err let_file_read(const char *path, let_arena *a, let_str *ret, let_error *e);

#endif
