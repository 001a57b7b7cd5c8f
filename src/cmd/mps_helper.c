#include "cmd/mps_helper.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fd(void *ctx) { return let_mps_fd(((let_mps_helper *)ctx)->mps); }

static let_err restart(void *ctx, let_error *e) {
  let_mps_helper *h = ctx;
  let_mps_stop(h->mps, 0);
  h->mps = NULL;
  return let_mps_start(h->dir, &h->mps, e);
}

let_err let_mps_helper_start(let_mps_helper *h, let_error *e) {
  *h = (let_mps_helper){.serve = {.name = "the MPS daemon", .fd = fd, .restart = restart, .ctx = h}};
  const char *tmp = getenv("TMPDIR");
  snprintf(h->dir, sizeof h->dir, "%.60s/gpulet-mps-XXXXXX",
           tmp && *tmp && strlen(tmp) <= 60 ? tmp : "/tmp"); /* sockets allow little */
  if (!mkdtemp(h->dir)) {
    let_err r = let_fail(e, LET_ERR_IO, "cannot make a directory %s for MPS: %s", h->dir, strerror(errno));
    h->dir[0] = 0;
    return r;
  }
  let_err r = let_mps_start(h->dir, &h->mps, e);
  if (r) let_mps_helper_stop(h);
  return r;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)st, (void)type, (void)at;
  remove(path);
  return 0;
}

void let_mps_helper_stop(let_mps_helper *h) {
  let_mps_stop(h->mps, 5 * LET_S);
  h->mps = NULL;
  if (h->dir[0]) (void)nftw(h->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
  h->dir[0] = 0;
}

int let_mps_helper_environment(void *ctx, double percent, const char **ret, int cap) {
  let_mps_helper *h = ctx;
  double whole = ceil(percent - 1e-9);
  let_mps_env(h->mps, whole < 1 ? 1 : whole > 100 ? 100 : (uint32_t)whole, h->env);
  int n = 0;
  for (; n < LET_MPS_ENV && n < cap; n++) ret[n] = h->env[n];
  return n;
}
