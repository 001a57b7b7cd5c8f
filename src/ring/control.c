#include "ring/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* A packet is one byte of kind and, for PLAIN, the document; FILE has it in a memfd, the first descriptor. */
enum { KIND_PLAIN = 'J', KIND_FILE = 'F', PACKET_MAX = 32 << 10, ALL_FDS = LET_CONTROL_FDS_MAX + 1 };

let_err let_control_pair(int ret_fds[2], let_error *e) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
    return let_fail(e, LET_ERR_IO, "cannot create a control socket: %s", strerror(errno));
  ret_fds[0] = fds[0], ret_fds[1] = fds[1];
  return LET_OK;
}

static let_err write_all(int fd, const char *p, size_t n) {
  while (n) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno != EINTR) return LET_ERR_IO;
    if (k > 0) p += k, n -= (size_t)k;
  }
  return LET_OK;
}

static let_err send_packet(int fd, char kind, const char *text, size_t n, const int *fds, int n_fds, let_error *e) {
  union {
    char buf[CMSG_SPACE(sizeof(int) * ALL_FDS)];
    struct cmsghdr align;
  } control;
  struct iovec iov[2] = {{&kind, 1}, {(void *)(uintptr_t)text, n}};
  struct msghdr m = {.msg_iov = iov, .msg_iovlen = n ? 2 : 1};
  if (n_fds) {
    memset(&control, 0, sizeof control);
    m.msg_control = control.buf, m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
  }
  for (;;) {
    if (sendmsg(fd, &m, MSG_NOSIGNAL) >= 0) return LET_OK;
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == ENOBUFS) return let_fail(e, LET_ERR_AGAIN, "the control socket is full");
    return let_fail(e, LET_ERR_IO, "cannot send on the control socket: %s", strerror(errno));
  }
}

let_err let_control_send(int fd, json_t *doc, const int *fds, int n_fds, let_error *e) {
  if (n_fds < 0 || n_fds > LET_CONTROL_FDS_MAX)
    return let_fail(e, LET_ERR_TOO_LARGE, "%d descriptors in one document: at most %d are possible", n_fds,
                    LET_CONTROL_FDS_MAX);
  char *text = json_dumps(doc, JSON_COMPACT);
  if (!text) return let_fail(e, LET_ERR_NOMEM, "out of memory for a control document");
  size_t n = strlen(text);
  let_err r;
  if (n < PACKET_MAX) {
    r = send_packet(fd, KIND_PLAIN, text, n, fds, n_fds, e);
  } else if (n > LET_CONTROL_BYTES_MAX) {
    r = let_fail(e, LET_ERR_TOO_LARGE, "a control document of %zu bytes: at most %d are possible", n,
                 LET_CONTROL_BYTES_MAX);
  } else {
    int all[ALL_FDS], file = memfd_create("gpulet-control", MFD_CLOEXEC);
    if (file < 0 || write_all(file, text, n))
      r = let_fail(e, LET_ERR_IO, "cannot write a control document: %s", strerror(errno));
    else {
      all[0] = file;
      if (n_fds) memcpy(all + 1, fds, sizeof *fds * (size_t)n_fds);
      r = send_packet(fd, KIND_FILE, NULL, 0, all, n_fds + 1, e);
    }
    if (file >= 0) close(file);
  }
  free(text);
  return r;
}

static void close_all(const int *fds, int n) {
  for (int i = 0; i < n; i++) close(fds[i]);
}

/* pread, not mmap: a peer may truncate the file while it is read. */
static let_err load(int file, json_t **ret, let_error *e) {
  struct stat st;
  if (fstat(file, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || st.st_size > LET_CONTROL_BYTES_MAX)
    return let_fail(e, LET_ERR_INVALID, "a control document came in a descriptor that is not a small file");
  size_t n = (size_t)st.st_size, at = 0;
  char *text = malloc(n + 1);
  if (!text) return let_fail(e, LET_ERR_NOMEM, "out of memory for a control document of %zu bytes", n);
  while (at < n) {
    ssize_t k = pread(file, text + at, n - at, (off_t)at);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) break;
    at += (size_t)k;
  }
  json_error_t je;
  json_t *doc = at == n ? json_loadb(text, n, 0, &je) : NULL;
  free(text);
  if (!doc)
    return let_fail(e, LET_ERR_INVALID, "malformed control document: %s", at == n ? je.text : "the file is short");
  *ret = doc;
  return LET_OK;
}

let_err let_control_recv(int fd, json_t **ret_doc, int ret_fds[LET_CONTROL_FDS_MAX], int *ret_n_fds, let_error *e) {
  union {
    char buf[CMSG_SPACE(sizeof(int) * ALL_FDS)];
    struct cmsghdr align;
  } control;
  char packet[PACKET_MAX];
  int fds[ALL_FDS + 1], n_fds = 0; /* + 1: what the alignment of CMSG_SPACE leaves room for */
  struct iovec iov = {packet, sizeof packet};
  struct msghdr m = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
  ssize_t n;
  while ((n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {}
  if (n < 0 && errno == EAGAIN) return LET_ERR_AGAIN;
  if (n < 0) return let_fail(e, LET_ERR_IO, "cannot receive on the control socket: %s", strerror(errno));
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < k; i++) {
      int got;
      memcpy(&got, CMSG_DATA(c) + i * sizeof got, sizeof got);
      if (n_fds < ALL_FDS) fds[n_fds++] = got;
      else close(got);
    }
  }
  json_t *doc = NULL;
  json_error_t je;
  let_err r = LET_OK;
  int skip = 0;
  if (n == 0) r = let_fail(e, LET_ERR_IO, "the peer closed the control socket");
  else if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    r = let_fail(e, LET_ERR_INVALID, "a control packet was too large or its descriptors were lost");
  else if (packet[0] == KIND_FILE && n == 1 && n_fds >= 1) r = load(fds[0], &doc, e), skip = 1;
  else if (packet[0] != KIND_PLAIN || n_fds > LET_CONTROL_FDS_MAX)
    r = let_fail(e, LET_ERR_INVALID, "malformed control packet");
  else if (!(doc = json_loadb(packet + 1, (size_t)n - 1, 0, &je)))
    r = let_fail(e, LET_ERR_INVALID, "malformed control document: %s", je.text);
  if (!r && !json_is_object(doc)) r = let_fail(e, LET_ERR_INVALID, "a control document is not an object");
  if (r) {
    json_decref(doc);
    close_all(fds, n_fds);
    return r;
  }
  close_all(fds, skip);
  memcpy(ret_fds, fds + skip, sizeof *fds * (size_t)(n_fds - skip));
  *ret_n_fds = n_fds - skip, *ret_doc = doc;
  return LET_OK;
}
