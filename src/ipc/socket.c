#include "ipc/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A larger message leaves its header in the packet and itself in a file, the first descriptor. */
enum { PACKET_MAX = 32 << 10, ALL_FDS = LET_IPC_FDS_MAX + 1, SCM_FDS_MAX = 253 };
/* With these it is a file in memory, which is never waited for, and stays as it is. */
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

let_err let_ipc_pair(int ret_fds[2], let_error *e) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
    return let_fail(e, LET_ERR_IO, "cannot create a control socket: %s", strerror(errno));
  ret_fds[0] = fds[0];
  ret_fds[1] = fds[1];
  return LET_OK;
}

/* ---- sending ----------------------------------------------------------------------------------------------------- */

static let_err write_all(int fd, const char *p, size_t n) {
  while (n) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno != EINTR) return LET_ERR_IO;
    if (k > 0) {
      p += k;
      n -= (size_t)k;
    }
  }
  return LET_OK;
}

static let_err send_packet(int fd, const void *p, size_t n, const int *fds, uint32_t n_fds, let_error *e) {
  union {
    char buf[CMSG_SPACE(sizeof(int) * ALL_FDS)];
    struct cmsghdr align;
  } control;
  struct iovec iov = {(void *)(uintptr_t)p, n};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  if (n_fds) {
    memset(&control, 0, sizeof control);
    m.msg_control = control.buf;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
  }
  for (;;) {
    if (sendmsg(fd, &m, MSG_NOSIGNAL) >= 0) return LET_OK;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == ENOBUFS) return let_fail(e, LET_ERR_AGAIN, "the control socket is full");
    return let_fail(e, LET_ERR_IO, "cannot send on the control socket: %s", strerror(errno));
  }
}

static let_err send_file(int fd, const let_buf *b, const int *fds, uint32_t n_fds, let_error *e) {
  int all[ALL_FDS], file = memfd_create("gpulet-control", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  let_err r = file < 0 ? LET_ERR_IO : write_all(file, b->p, b->n);
  if (!r && fcntl(file, F_ADD_SEALS, SEALS) < 0) r = LET_ERR_IO;
  if (r) {
    r = let_fail(e, LET_ERR_IO, "cannot write a control message: %s", strerror(errno));
  } else {
    all[0] = file;
    if (n_fds) memcpy(all + 1, fds, sizeof *fds * n_fds);
    r = send_packet(fd, b->p, LET_IPC_HEADER, all, n_fds + 1, e);
  }
  if (file >= 0) close(file);
  return r;
}

static let_err send_bytes(int fd, const let_buf *b, const int *fds, uint32_t n_fds, let_error *e) {
  return b->n <= PACKET_MAX ? send_packet(fd, b->p, b->n, fds, n_fds, e) : send_file(fd, b, fds, n_fds, e);
}

let_err let_ipc_send_command(int fd, const let_ipc_command *m, const int *fds, uint32_t n_fds, let_error *e) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_err r = let_ipc_command_encode(m, &b, e);
  LET_ASSERT(r || n_fds == let_ipc_command_fds(m));
  if (!r) r = send_bytes(fd, &b, fds, n_fds, e);
  let_buf_fini(&b);
  return r;
}

let_err let_ipc_send_event(int fd, const let_ipc_event *m, let_error *e) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  let_err r = let_ipc_event_encode(m, &b, e);
  if (!r) r = send_bytes(fd, &b, NULL, 0, e);
  let_buf_fini(&b);
  return r;
}

/* ---- receiving --------------------------------------------------------------------------------------------------- */

typedef struct packet {
  unsigned char bytes[PACKET_MAX];
  size_t n;
  int fds[SCM_FDS_MAX + 1]; /* as many as the kernel lets through */
  uint32_t n_fds;
} packet;

static void close_all(const int *fds, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) close(fds[i]);
}

static void take_fds(struct msghdr *m, packet *p) {
  p->n_fds = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < k; i++) {
      int got;
      memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
      if (p->n_fds < SCM_FDS_MAX) p->fds[p->n_fds++] = got;
      else close(got);
    }
  }
}

static let_err recv_packet(int fd, packet *p, let_error *e) {
  union {
    char buf[CMSG_SPACE(sizeof(int) * SCM_FDS_MAX)];
    struct cmsghdr align;
  } control;
  struct iovec iov = {p->bytes, sizeof p->bytes};
  struct msghdr m = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
  ssize_t n;
  do n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return LET_ERR_AGAIN;
  if (n < 0) return let_fail(e, LET_ERR_IO, "cannot receive on the control socket: %s", strerror(errno));
  take_fds(&m, p);
  p->n = (size_t)n;
  let_err r = LET_OK;
  if (n == 0) r = let_fail(e, LET_ERR_IO, "the peer closed the control socket");
  else if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    r = let_fail(e, LET_ERR_INVALID, "malformed packet: it is too large, or its descriptors were lost");
  if (r) close_all(p->fds, p->n_fds);
  return r;
}

/* Into private memory, once. */
static let_err copy_file(int file, uint32_t length, let_arena *a, let_str *ret, let_error *e) {
  struct stat st;
  size_t at = 0;
  int seals = fcntl(file, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS || fstat(file, &st) < 0 || st.st_size != (off_t)length)
    return let_fail(e, LET_ERR_INVALID, "malformed message: it came in a descriptor that is no sealed file of %u bytes",
                    length);
  char *p = let_arena_alloc(a, length);
  if (!p) return let_fail(e, LET_ERR_NOMEM, "out of memory for a message of %u bytes", length);
  while (at < length) {
    ssize_t k = pread(file, p + at, length - at, (off_t)at);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return let_fail(e, LET_ERR_INVALID, "malformed message: its file is short");
    at += (size_t)k;
  }
  *ret = (let_str){p, length};
  return LET_OK;
}

/* The whole message in private memory. *ret_skip: descriptors that carried it. */
static let_err whole(const packet *p, let_arena *a, let_str *ret, uint32_t *ret_skip, let_error *e) {
  uint32_t length;
  *ret = (let_str){(const char *)p->bytes, p->n};
  *ret_skip = 0;
  if (p->n != LET_IPC_HEADER || let_ipc_length(p->bytes, &length, e) || length == LET_IPC_HEADER)
    return LET_OK; /* decode judges it */
  if (length <= PACKET_MAX || p->n_fds < 1)
    return let_fail(e, LET_ERR_INVALID, "malformed message: its header says %u bytes, %zu came", length, p->n);
  *ret_skip = 1;
  return copy_file(p->fds[0], length, a, ret, e);
}

let_err let_ipc_recv_command(int fd, let_arena *a, let_ipc_command *ret, int ret_fds[LET_IPC_FDS_MAX], let_error *e) {
  packet p;
  let_str bytes;
  uint32_t skip = 0;
  let_err r = recv_packet(fd, &p, e);
  if (r) return r;
  let_ipc_command m;
  r = whole(&p, a, &bytes, &skip, e);
  if (!r) r = let_ipc_command_decode(bytes, a, &m, e);
  if (!r && p.n_fds - skip != let_ipc_command_fds(&m))
    r = let_fail(e, LET_ERR_INVALID, "malformed %s message: %u descriptors came with it, %u are needed",
                 let_ipc_command_name(m.type), p.n_fds - skip, let_ipc_command_fds(&m));
  if (r) {
    close_all(p.fds, p.n_fds);
    return r;
  }
  close_all(p.fds, skip);
  memcpy(ret_fds, p.fds + skip, sizeof *ret_fds * (p.n_fds - skip));
  *ret = m;
  return LET_OK;
}

let_err let_ipc_recv_event(int fd, let_arena *a, let_ipc_event *ret, let_error *e) {
  packet p;
  let_str bytes;
  uint32_t skip = 0;
  let_err r = recv_packet(fd, &p, e);
  if (r) return r;
  r = whole(&p, a, &bytes, &skip, e);
  if (!r && p.n_fds != skip)
    r = let_fail(e, LET_ERR_INVALID, "malformed message: %u descriptors came with an event", p.n_fds);
  if (!r) r = let_ipc_event_decode(bytes, a, ret, e);
  close_all(p.fds, p.n_fds);
  return r;
}
