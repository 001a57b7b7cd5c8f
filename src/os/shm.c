#include "os/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

let_err let_shm_create(const char *name, uint64_t bytes, int *ret_fd, let_error *e) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return let_fail(e, LET_ERR_IO, "cannot create shared memory '%s': %s", name, strerror(errno));
  if (bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) < 0) {
    int err = bytes > INT64_MAX ? EFBIG : errno;
    close(fd);
    return let_fail(e, err == ENOMEM ? LET_ERR_NOMEM : LET_ERR_IO, "cannot size shared memory '%s' to %llu bytes: %s",
                    name, (unsigned long long)bytes, strerror(err));
  }
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
    int err = errno;
    close(fd);
    return let_fail(e, LET_ERR_IO, "cannot seal shared memory '%s': %s", name, strerror(err));
  }
  *ret_fd = fd;
  return LET_OK;
}

let_err let_shm_map(int fd, void **ret, uint64_t *ret_bytes, let_error *e) {
  struct stat st;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK))
    return let_fail(e, LET_ERR_INVALID, "descriptor %d is not sealed shared memory", fd);
  if (fstat(fd, &st) < 0 || st.st_size <= 0)
    return let_fail(e, LET_ERR_INVALID, "shared memory of descriptor %d is empty", fd);
  void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (p == MAP_FAILED)
    return let_fail(e, errno == ENOMEM ? LET_ERR_NOMEM : LET_ERR_IO, "cannot map %lld bytes of shared memory: %s",
                    (long long)st.st_size, strerror(errno));
  *ret = p, *ret_bytes = (uint64_t)st.st_size;
  return LET_OK;
}

void let_shm_unmap(void *p, uint64_t bytes) {
  if (p) munmap(p, bytes);
}
