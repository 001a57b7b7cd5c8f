/* socket.h: one message per packet of a SOCK_SEQPACKET pair, with descriptors. A message larger than a packet travels
 * in a file in memory, of which the receiver makes one private copy before it looks at it; neither side notices.
 * The death of either side is the socket's end of file. */
#ifndef LET_IPC_SOCKET_H
#define LET_IPC_SOCKET_H

#include "ipc/ipc.h"

LET_CHECKED let_err let_ipc_pair(int ret_fds[2], let_error *e); /* close-on-exec, non-blocking */

/* |fds| are borrowed. Errors: AGAIN when the socket is full, IO when the peer is gone, those of encode. */
LET_CHECKED let_err let_ipc_send_command(int fd, const let_ipc_command *m, const int *fds, uint32_t n_fds,
                                         let_error *e);
LET_CHECKED let_err let_ipc_send_event(int fd, const let_ipc_event *m, let_error *e);

/* Into |a|. Errors: AGAIN when there is none, IO on end of file, INVALID for a malformed packet or the wrong number of
 * descriptors (they are closed), NOMEM. On OK the caller owns the descriptors: let_ipc_command_fds(ret) of them. */
LET_CHECKED let_err let_ipc_recv_command(int fd, let_arena *a, let_ipc_command *ret, int ret_fds[LET_IPC_FDS_MAX],
                                         let_error *e);
LET_CHECKED let_err let_ipc_recv_event(int fd, let_arena *a, let_ipc_event *ret, let_error *e);

#endif
