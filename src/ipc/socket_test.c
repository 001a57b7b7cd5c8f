/* test: base */
#include "ipc/socket.h"

#include "ipc/ipc_test_rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_fds(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static let_arena arena;

static let_err recv_command(int fd, let_ipc_command *ret, int *fds, let_error *e) {
  let_arena_fini(&arena);
  return let_ipc_recv_command(fd, &arena, ret, fds, e);
}

/* A PREPARE of |lanes| lanes with |models| models each. */
static let_ipc_command prepare_for(let_rng *r, let_arena *a, uint32_t lanes, uint32_t models) {
  let_ipc_lane *list = let_arena_array(a, lanes, sizeof *list);
  for (uint32_t i = 0; i < lanes; i++) {
    let_ipc_variant *v = let_arena_array(a, models, sizeof *v);
    for (uint32_t k = 0; k < models; k++) v[k] = variant_of(r, a);
    list[i] = (let_ipc_lane){.granules = 1, .n_models = models, .model = v};
  }
  return (let_ipc_command){.type = LET_IPC_PREPARE, .prepare = {.set = {9}, .n_lanes = lanes, .lane = list}};
}

static void test_exchange(void **state) {
  (void)state;
  int s[2], fds[LET_IPC_FDS_MAX], send[LET_IPC_FDS_MAX], before = open_fds();
  let_error e = {0};
  let_ipc_command got;
  let_ipc_event event;
  let_arena a;
  let_rng r;
  let_rng_seed(&r, seed_of(1));
  let_arena_init(&a, &let_mem_libc);
  let_arena_init(&arena, &let_mem_libc);
  assert_int_equal(let_ipc_pair(s, &e), LET_OK);
  assert_true(fcntl(s[0], F_GETFD) & FD_CLOEXEC);
  assert_int_equal(recv_command(s[1], &got, fds, &e), LET_ERR_AGAIN);
  for (int i = 0; i < LET_IPC_FDS_MAX; i++) send[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  static const uint32_t lanes[] = {1, 3, 64}, models[] = {1, 40, 16}; /* a packet, a file, as much as can be */
  for (int i = 0; i < 3; i++) {
    let_ipc_command m = prepare_for(&r, &a, lanes[i], models[i]);
    let_buf sent, received;
    let_buf_init(&sent, &let_mem_libc);
    let_buf_init(&received, &let_mem_libc);
    assert_int_equal(let_ipc_send_command(s[0], &m, send, 2 + lanes[i], &e), LET_OK);
    assert_int_equal(recv_command(s[1], &got, fds, &e), LET_OK);
    assert_int_equal(let_ipc_command_encode(&m, &sent, &e), LET_OK);
    assert_int_equal(let_ipc_command_encode(&got, &received, &e), LET_OK);
    assert_int_equal(sent.n, received.n);
    assert_memory_equal(sent.p, received.p, sent.n);
    assert_true((i > 0) == (sent.n > 32 << 10));
    for (uint32_t k = 0; k < 2 + lanes[i]; k++) {
      assert_true(fcntl(fds[k], F_GETFD) & FD_CLOEXEC);
      close(fds[k]);
    }
    let_buf_fini(&sent);
    let_buf_fini(&received);
  }
  for (int i = 0; i < LET_IPC_FDS_MAX; i++) close(send[i]);
  for (let_ipc_event_type t = LET_IPC_READY; t < LET_IPC_EVENTS_END; t++) {
    let_ipc_event m = event_of(&r, &a, t);
    assert_int_equal(let_ipc_send_event(s[1], &m, &e), LET_OK);
    assert_int_equal(let_ipc_recv_event(s[0], &arena, &event, &e), LET_OK);
    assert_int_equal(event.type, t);
  }
  /* A peer that does not read: AGAIN, not a block. Then its death: what was sent arrives, then IO, both ways. */
  let_ipc_command stop = {.type = LET_IPC_STOP};
  let_ipc_event retired = {.type = LET_IPC_RETIRED, .retired = {{1}}};
  int sent = 0;
  let_err result;
  while ((result = let_ipc_send_command(s[0], &stop, NULL, 0, &e)) == LET_OK) sent++;
  assert_int_equal(result, LET_ERR_AGAIN);
  close(s[0]);
  for (int i = 0; i < sent; i++) assert_int_equal(recv_command(s[1], &got, fds, &e), LET_OK);
  assert_int_equal(recv_command(s[1], &got, fds, &e), LET_ERR_IO);
  assert_int_equal(let_ipc_send_event(s[1], &retired, &e), LET_ERR_IO);
  close(s[1]);
  let_arena_fini(&a);
  let_arena_fini(&arena);
  assert_int_equal(open_fds(), before);
}

static void send_raw(int fd, const void *p, size_t n, const int *fds, int n_fds) {
  union {
    char buf[CMSG_SPACE(sizeof(int) * 253)];
    struct cmsghdr align;
  } control;
  struct iovec iov = {(void *)(uintptr_t)p, n};
  struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
  memset(&control, 0, sizeof control);
  if (n_fds) {
    m.msg_control = control.buf;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
  }
  assert_int_equal(sendmsg(fd, &m, 0), (ssize_t)n);
}

static void expect_invalid(int fd) {
  int fds[LET_IPC_FDS_MAX];
  let_error e = {0};
  let_ipc_command got;
  assert_int_equal(recv_command(fd, &got, fds, &e), LET_ERR_INVALID);
  assert_true(e.text[0]);
}

static void test_malformed(void **state) {
  (void)state;
  int s[2], fds[LET_IPC_FDS_MAX], before = open_fds();
  let_error e = {0};
  let_ipc_command got;
  let_ipc_event event;
  let_rng rng;
  let_buf b;
  let_rng_seed(&rng, seed_of(3));
  let_arena_init(&arena, &let_mem_libc);
  let_buf_init(&b, &let_mem_libc);
  assert_int_equal(let_ipc_pair(s, &e), LET_OK);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC), holes = memfd_create("holes", MFD_CLOEXEC | MFD_ALLOW_SEALING),
      open_one = memfd_create("not sealed", MFD_CLOEXEC), many[253];
  assert_int_equal(ftruncate(holes, 100000), 0);
  assert_int_equal(ftruncate(open_one, 100000), 0);
  assert_int_equal(fcntl(holes, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  for (int i = 0; i < 253; i++) many[i] = null;

  let_ipc_command stop = {.type = LET_IPC_STOP};
  assert_int_equal(let_ipc_command_encode(&stop, &b, &e), LET_OK);
  for (size_t n = 1; n < b.n; n++)
    for (int k = 0; k < 2; k++) {
      send_raw(s[0], b.p, n, &null, k);
      expect_invalid(s[1]);
    }
  send_raw(s[0], b.p, b.n, &null, 1); /* a descriptor too many */
  expect_invalid(s[1]);
  send_raw(s[0], b.p, b.n, many, 253);
  expect_invalid(s[1]);
  let_ipc_command init = {.type = LET_IPC_INIT, .init = {.device = "cpu", .arena_bytes = 1, .records = 1}};
  let_buf_clear(&b);
  assert_int_equal(let_ipc_command_encode(&init, &b, &e), LET_OK);
  send_raw(s[0], b.p, b.n, NULL, 0); /* its descriptor is missing */
  expect_invalid(s[1]);
  /* A header whose message is to be found in a descriptor: no such file, one of another length, one of
   * zeros, one that could still be written to. */
  unsigned char header[] = "LET1\1\0\2\0\0\0\0\0";
  const uint32_t lengths[] = {100000 - LET_IPC_HEADER, 200000, 100, UINT32_MAX};
  int files[] = {open_one, holes, s[0], null};
  for (size_t i = 0; i < 4; i++)
    for (size_t k = 0; k < 5; k++) {
      for (int j = 0; j < 4; j++) header[8 + j] = (unsigned char)(lengths[i] >> (8 * j));
      send_raw(s[0], header, LET_IPC_HEADER, &files[k % 4], k < 4);
      expect_invalid(s[1]);
    }
  static char big[100000];
  send_raw(s[0], big, sizeof big, &null, 1);
  expect_invalid(s[1]);
  /* Events bring no descriptors. */
  let_ipc_event error = {.type = LET_IPC_ERROR, .error = {"no"}};
  let_buf_clear(&b);
  assert_int_equal(let_ipc_event_encode(&error, &b, &e), LET_OK);
  send_raw(s[1], b.p, b.n, &null, 1);
  assert_int_equal(let_ipc_recv_event(s[0], &arena, &event, &e), LET_ERR_INVALID);
  for (int i = 0; i < 3000; i++) { /* random damage: refused or read, never more than that */
    let_buf_clear(&b);
    assert_int_equal(let_ipc_command_encode(&init, &b, &e), LET_OK);
    for (uint64_t k = 1 + let_rng_below(&rng, 3); k; k--) b.p[let_rng_below(&rng, b.n)] = (char)let_rng_u64(&rng);
    send_raw(s[0], b.p, b.n, &null, 1);
    let_err r = recv_command(s[1], &got, fds, &e);
    assert_true(r == LET_OK || r == LET_ERR_INVALID);
    if (!r) close(fds[0]);
  }
  close(null);
  close(open_one);
  close(holes);
  close(s[0]);
  close(s[1]);
  let_buf_fini(&b);
  let_arena_fini(&arena);
  assert_int_equal(open_fds(), before);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_exchange), cmocka_unit_test(test_malformed)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
