/* process.h: child processes: exactly the descriptors they are given, gone when the parent is gone. */
#ifndef LET_OS_PROCESS_H
#define LET_OS_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/time.h"

typedef struct let_process {
  pid_t pid; /* 0: none, or already reaped */
  int pidfd; /* readable once the process has ended; -1 where the kernel has none */
} let_process;

/* Descriptor |from| of the parent is |to| in the child; 0, 1, 2 are inherited unless named. */
typedef struct let_process_fd {
  int from, to;
} let_process_fd;

enum { LET_PROCESS_FDS_MAX = 16 };

/* Starts |path| with |argv| (argv[0] included, NULL at the end) and this process's environment. All descriptors
 * but the |n| mapped ones and 0..2 are closed in it; it gets SIGKILL when the calling *thread* ends, so call it
 * from a thread that lives as long as the process. The child is in its own process group (^C at the terminal
 * reaches the parent only). Errors: NOT_FOUND, IO; a program that cannot be executed is reported here. */
LET_CHECKED let_err let_process_spawn(const char *path, const char *const argv[], const let_process_fd *fds, uint32_t n,
                                      let_process *ret, let_error *e);

/* Has it ended? Reaps it then: fills *ret_status (as wait() does), closes the pidfd, pid becomes 0. */
bool let_process_poll(let_process *p, int *ret_status);
/* Waits at most |timeout| for that (LET_NEVER: no limit). */
bool let_process_wait(let_process *p, let_dur timeout, int *ret_status);
void let_process_kill(let_process *p, int signal); /* nothing when it has been reaped */

enum { LET_PROCESS_TEXT_MAX = 64 };
const char *let_process_text(int status, char out[LET_PROCESS_TEXT_MAX]); /* "exited with 1", "killed by SIGKILL" */

#endif
