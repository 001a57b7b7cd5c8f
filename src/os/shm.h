/* shm.h: anonymous shared memory (memfd) that no peer can shrink: reading it never ends in SIGBUS. */
#ifndef LET_OS_SHM_H
#define LET_OS_SHM_H

#include <stdint.h>

#include "base/err.h"

/* Creates |bytes| of zeroed memory, sealed against any change of size; close-on-exec. Pages exist once touched. */
LET_CHECKED let_err let_shm_create(const char *name, uint64_t bytes, int *ret_fd, let_error *e);

/* Maps all of |fd| for reading and writing. INVALID when it is not sealed memory (a peer could truncate it). */
LET_CHECKED let_err let_shm_map(int fd, void **ret, uint64_t *ret_bytes, let_error *e);
void let_shm_unmap(void *p, uint64_t bytes); /* NULL is fine */

#endif
