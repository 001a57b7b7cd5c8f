#include "conf/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads until the end, growing: a pipe has no size to ask for. */
static let_err slurp(int fd, size_t hint, const char *path, let_arena *a, let_str *ret, let_error *e) {
  size_t cap = hint + 1, n = 0;
  char *p = let_arena_alloc(a, cap + 1);
  if (!p) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", path);
  for (;;) {
    if (n > LET_FILE_MAX) return let_fail(e, LET_ERR_TOO_LARGE, "%s: larger than %d MiB", path, LET_FILE_MAX >> 20);
    if (n == cap) {
      char *q = let_arena_alloc(a, cap * 2 + 1);
      if (!q) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", path);
      memcpy(q, p, n);
      p = q;
      cap *= 2;
    }
    ssize_t got = read(fd, p + n, cap - n);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return let_fail(e, LET_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    if (got == 0) break;
    n += (size_t)got;
  }
  p[n] = 0;
  *ret = (let_str){p, n};
  return LET_OK;
}

let_err let_file_read(const char *path, let_arena *a, let_str *ret, let_error *e) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return let_fail(e, errno == ENOENT || errno == ENOTDIR ? LET_ERR_NOT_FOUND : LET_ERR_IO, "%s: %s", path,
                    strerror(errno));
  struct stat s;
  let_err r;
  if (fstat(fd, &s)) r = let_fail(e, LET_ERR_IO, "%s: %s", path, strerror(errno));
  else if (S_ISDIR(s.st_mode)) r = let_fail(e, LET_ERR_INVALID, "%s: is a directory, not a file", path);
  else if (s.st_size > LET_FILE_MAX)
    r = let_fail(e, LET_ERR_TOO_LARGE, "%s: larger than %d MiB", path, LET_FILE_MAX >> 20);
  else r = slurp(fd, s.st_size > 0 ? (size_t)s.st_size : 4095, path, a, ret, e);
  close(fd);
  return r;
}
