#include "conf/repository.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/units.h"
#include "conf/file.h"

enum { MODELS = 4096 };

static bool is_dir(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static let_err cannot_open(const char *dir, let_error *e) {
  return let_fail(e, errno == ENOENT || errno == ENOTDIR ? LET_ERR_NOT_FOUND : LET_ERR_IO,
                  "%s: cannot open the directory: %s", dir, strerror(errno));
}

/* The largest version directory that |c| allows; 0: none. A version is a number without leading zeros. */
static let_err find_version(const char *dir, const let_model_config *c, int64_t *ret, let_error *e) {
  DIR *d = opendir(dir);
  if (!d) return cannot_open(dir, e);
  *ret = 0;
  for (struct dirent *x; (x = readdir(d));) {
    int64_t v = 0;
    char path[768];
    if (x->d_name[0] < '1' || x->d_name[0] > '9' || let_parse_i64(let_str_c(x->d_name), 1, INT64_MAX, &v, NULL))
      continue;
    bool allowed = c->n_versions == 0;
    for (uint32_t i = 0; i < c->n_versions; i++) allowed |= c->versions[i] == v;
    int n = snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
    if (allowed && v > *ret && n > 0 && (size_t)n < sizeof path && is_dir(path)) *ret = v;
  }
  closedir(d);
  return LET_OK;
}

static let_err find_model_file(const let_model *m, let_error *e) {
  char path[1024];
  struct stat s;
  snprintf(path, sizeof path, "%s/%lld/%s", m->dir, (long long)m->version, m->file);
  if (stat(path, &s))
    return let_fail(e, LET_ERR_NOT_FOUND, "%s: %s: the model's file is missing", path, strerror(errno));
  if (!S_ISREG(s.st_mode)) return let_fail(e, LET_ERR_INVALID, "%s: is not a file", path);
  if (s.st_size == 0) return let_fail(e, LET_ERR_INVALID, "%s: is empty", path);
  return LET_OK;
}

let_err let_repository_load_one(const char *model_dir, let_arena *a, let_model *ret, let_notes *notes, let_error *e) {
  char dir[sizeof ret->dir], file[sizeof ret->dir + 32];
  size_t n = strlen(model_dir);
  while (n > 1 && model_dir[n - 1] == '/') n--;
  if (n >= sizeof dir)
    return let_fail(e, LET_ERR_INVALID, "%.64s...: the path is longer than %zu bytes", model_dir, sizeof dir - 1);
  memcpy(dir, model_dir, n);
  dir[n] = 0;
  if (!is_dir(dir)) return let_fail(e, LET_ERR_NOT_FOUND, "%s: no such model directory", dir);
  /* "." and "a/.." name a directory without saying its name. */
  const char *name = strrchr(dir, '/') ? strrchr(dir, '/') + 1 : dir;
  char *real = NULL;
  if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
    real = realpath(dir, NULL);
    if (!real) return let_fail(e, LET_ERR_IO, "%s: %s", dir, strerror(errno));
    name = strrchr(real, '/') + 1;
  }
  snprintf(file, sizeof file, "%s/config.pbtxt", dir);
  let_str text;
  let_model_config *c = let_arena_alloc(a, sizeof *c);
  let_err r = c ? let_file_read(file, a, &text, e) : let_fail(e, LET_ERR_NOMEM, "%s: out of memory", file);
  if (!r) r = let_model_config_parse(text, file, name, a, c, notes, e);
  free(real);
  if (r) return r;
  let_model *m = &c->model;
  memcpy(m->dir, dir, n + 1);
  bool null = strcmp(m->backend, "null") == 0;
  if ((r = find_version(dir, c, &m->version, e))) return r;
  if (m->version == 0 && c->n_versions && !null)
    return let_fail(e, LET_ERR_NOT_FOUND, "%s:%u: version_policy: none of the versions has a directory in %s", file,
                    c->versions_line, dir);
  if (m->version == 0 && !null)
    return let_fail(e, LET_ERR_NOT_FOUND, "%s: no version directory: put the model at %s/1/%s", dir, dir, m->file);
  if (m->version == 0) m->version = c->n_versions ? c->versions[0] : 1; /* a null model has no file */
  if (!null && (r = find_model_file(m, e))) return r;
  *ret = *m;
  return LET_OK;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Names of the model directories, sorted, so that the order is the same on every file system. */
static let_err list(const char *dir, let_arena *a, char ***ret, uint32_t *ret_n, let_error *e) {
  char **names = let_arena_array(a, MODELS, sizeof *names), path[1024];
  if (!names) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", dir);
  DIR *d = opendir(dir);
  if (!d) return cannot_open(dir, e);
  let_err r = LET_OK;
  uint32_t n = 0;
  for (struct dirent *x; !r && (x = readdir(d));) {
    int k = snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
    if (x->d_name[0] == '.' || k < 0 || (size_t)k >= sizeof path || !is_dir(path)) continue;
    if (n == MODELS) r = let_fail(e, LET_ERR_TOO_LARGE, "%s: more than %d models", dir, MODELS);
    else if (!(names[n++] = let_arena_strdup(a, path, (size_t)k)))
      r = let_fail(e, LET_ERR_NOMEM, "%s: out of memory", dir);
  }
  closedir(d);
  if (r) return r;
  qsort(names, n, sizeof *names, by_name);
  *ret = names;
  *ret_n = n;
  return LET_OK;
}

let_err let_repository_load_notes(const char *dir, let_arena *a, let_model **ret, uint32_t *ret_n, let_notes *notes,
                                  let_error *e) {
  char **names = NULL, trimmed[1024];
  uint32_t n = 0;
  size_t len = strlen(dir);
  while (len > 1 && dir[len - 1] == '/') len--;
  if (len >= sizeof trimmed) return let_fail(e, LET_ERR_INVALID, "%.64s...: the path is too long", dir);
  memcpy(trimmed, dir, len);
  trimmed[len] = 0;
  let_err r = list(trimmed, a, &names, &n, e);
  if (r) return r;
  if (n == 0)
    return let_fail(e, LET_ERR_NOT_FOUND, "%s: holds no model: expected %s/MODEL/config.pbtxt", trimmed, trimmed);
  let_model *m = let_arena_array(a, n, sizeof *m);
  if (!m) return let_fail(e, LET_ERR_NOMEM, "%s: out of memory", trimmed);
  for (uint32_t i = 0; i < n && !r; i++) r = let_repository_load_one(names[i], a, &m[i], notes, e);
  if (r) return r;
  *ret = m;
  *ret_n = n;
  return LET_OK;
}

let_err let_repository_load(const char *dir, let_arena *a, let_model **ret, uint32_t *ret_n, let_error *e) {
  return let_repository_load_notes(dir, a, ret, ret_n, NULL, e);
}
