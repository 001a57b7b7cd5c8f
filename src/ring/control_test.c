/* test: os */
#include "ring/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rng.h"

static int open_fds(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

static void test_exchange(void **state) {
  (void)state;
  int s[2], fds[LET_CONTROL_FDS_MAX], send[LET_CONTROL_FDS_MAX], n, before = open_fds();
  let_error e = {0};
  json_t *doc;
  assert_int_equal(let_control_pair(s, &e), LET_OK);
  assert_true(fcntl(s[0], F_GETFD) & FD_CLOEXEC);
  assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_AGAIN);
  for (int i = 0; i < LET_CONTROL_FDS_MAX; i++) send[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (int big = 0; big < 2; big++) {
    json_t *out = json_pack("{ss si}", "op", "x", "big", big);
    char *text = calloc(1, 300000);
    memset(text, 'a', 299999);
    if (big) json_object_set_new(out, "text", json_string(text));
    for (int k = 0; k <= LET_CONTROL_FDS_MAX; k += LET_CONTROL_FDS_MAX / 2) {
      assert_int_equal(let_control_send(s[0], out, send, k, &e), LET_OK);
      assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_OK);
      assert_int_equal(n, k);
      assert_true(json_equal(doc, out));
      for (int i = 0; i < n; i++) {
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        close(fds[i]);
      }
      json_decref(doc);
    }
    assert_int_equal(let_control_send(s[0], out, send, LET_CONTROL_FDS_MAX + 1, &e), LET_ERR_TOO_LARGE);
    json_decref(out);
    free(text);
  }
  for (int i = 0; i < LET_CONTROL_FDS_MAX; i++) close(send[i]);
  /* A peer that does not read: AGAIN, not a block. Then its death: what was sent arrives, then IO, both ways. */
  json_t *small = json_pack("{ss}", "op", "y");
  int sent = 0;
  let_err r;
  while ((r = let_control_send(s[0], small, NULL, 0, &e)) == LET_OK) sent++;
  assert_int_equal(r, LET_ERR_AGAIN);
  close(s[0]);
  for (int i = 0; i < sent; i++) {
    assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_OK);
    json_decref(doc);
  }
  assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_IO);
  assert_int_equal(let_control_send(s[1], small, NULL, 0, &e), LET_ERR_IO);
  json_decref(small);
  close(s[1]);
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
    m.msg_control = control.buf, m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
  }
  assert_int_equal(sendmsg(fd, &m, 0), (ssize_t)n);
}

static void test_malformed(void **state) {
  (void)state;
  int s[2], fds[LET_CONTROL_FDS_MAX], n, before = open_fds();
  let_error e = {0};
  json_t *doc;
  let_rng rng;
  let_rng_seed(&rng, 3);
  assert_int_equal(let_control_pair(s, &e), LET_OK);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC), empty = memfd_create("empty", MFD_CLOEXEC),
      holes = memfd_create("holes", MFD_CLOEXEC), many[253];
  assert_int_equal(ftruncate(holes, (off_t)LET_CONTROL_BYTES_MAX + 1), 0);
  for (int i = 0; i < 253; i++) many[i] = null;
  static char big[100000];
  memset(big, 'J', sizeof big);
  static const char *const texts[] = {"J",   "J{", "J[]", "J1", "Jnull", "J{\"a\":1}x", "J{\"a\":\xff}",
                                      "X{}", "F",  "F{}", "{}"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    for (int k = 0; k < 2; k++) {
      send_raw(s[0], texts[i], strlen(texts[i]), &null, k);
      assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_INVALID);
      assert_true(e.text[0]);
    }
  int files[] = {empty, holes, s[0]};
  for (int i = 0; i < 3; i++) {
    send_raw(s[0], "F", 1, &files[i], 1);
    assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_INVALID);
  }
  send_raw(s[0], big, sizeof big, &null, 1);
  assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_INVALID);
  send_raw(s[0], "J{}", 3, many, 253); /* more than a document may bring */
  assert_int_equal(let_control_recv(s[1], &doc, fds, &n, &e), LET_ERR_INVALID);
  for (int i = 0; i < 3000; i++) { /* a valid document with random damage: refused or read, never more than that */
    char text[] = "J{\"op\":\"prepare\",\"generation\":12,\"lanes\":[{\"gpulet\":1},[1.5e3,true,null,\"\\u0041\"]]}";
    for (uint64_t k = 1 + let_rng_below(&rng, 3); k; k--)
      text[let_rng_below(&rng, sizeof text - 1)] = (char)let_rng_u64(&rng);
    send_raw(s[0], text, sizeof text - 1, NULL, 0);
    let_err r = let_control_recv(s[1], &doc, fds, &n, &e);
    assert_true(r == LET_OK || r == LET_ERR_INVALID);
    if (!r) json_decref(doc);
  }
  close(null), close(empty), close(holes), close(s[0]), close(s[1]);
  assert_int_equal(open_fds(), before);
}

static void test_model(void **state) {
  (void)state;
  let_model m, back;
  let_error e = {0};
  memset(&m, 0, sizeof m);
  strcpy(m.name, "bert"), strcpy(m.backend, "pytorch"), strcpy(m.platform, "pytorch_libtorch"),
      strcpy(m.file, "model.pt");
  strcpy(m.dir, "/models/bert");
  m.version = 3, m.max_batch = 32, m.n_inputs = 2, m.n_outputs = 1, m.slo = 20 * LET_MS, m.max_queue_delay = LET_NEVER;
  m.allow_timeout_override = true, m.precision = LET_PRECISION_BF16, m.n_sizes = 2, m.size[0] = 4, m.size[1] = 8,
  m.null_us = 50;
  for (int i = 0; i < 3; i++) {
    let_tensor_spec *t = i < 2 ? &m.input[i] : &m.output[0];
    snprintf(t->name, sizeof t->name, "tensor \"%d\"", i);
    t->dtype = LET_DTYPE_INT64, t->rank = 2, t->dims[0] = 128, t->dims[1] = -1, t->optional = i == 1;
  }
  json_t *doc = let_control_model_put(&m);
  assert_int_equal(let_control_model_get(doc, &back, &e), LET_OK);
  assert_memory_equal(&m, &back, sizeof m);
  /* Each field is needed, and of the right type. */
  const char *key;
  json_t *value;
  json_object_foreach(doc, key, value) {
    json_t *copy = json_copy(doc);
    json_object_del(copy, key);
    assert_int_equal(let_control_model_get(copy, &back, &e), LET_ERR_INVALID);
    assert_non_null(strstr(e.text, key));
    json_object_set_new(copy, key, json_real(1.5));
    assert_int_equal(let_control_model_get(copy, &back, &e), LET_ERR_INVALID);
    json_decref(copy);
  }
  json_object_set_new(doc, "max_batch", json_integer(LET_BATCH_MAX + 1));
  assert_int_equal(let_control_model_get(doc, &back, &e), LET_ERR_INVALID);
  assert_int_equal(let_control_model_get(NULL, &back, &e), LET_ERR_INVALID);
  json_decref(doc);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exchange),
      cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
