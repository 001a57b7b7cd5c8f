#include "client/target.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "client/reply.h"
#include "conf/file.h"
#include "model/model.h"

let_err let_target_init(let_target *t, const char *url, let_error *e) {
  *t = (let_target){.port = "80"};
  if (strncmp(url, "http://", 7)) return let_fail(e, LET_ERR_INVALID, "--url '%s': only http:// is supported", url);
  const char *p = url + 7;
  size_t n = strcspn(p, "/");
  if (p[n] && p[n + 1]) return let_fail(e, LET_ERR_INVALID, "--url '%s': give the server only, without a path", url);
  const char *end = p + n, *host = p, *host_end, *port = NULL;
  if (*p == '[') {
    host = p + 1;
    host_end = memchr(p, ']', n);
    if (!host_end) return let_fail(e, LET_ERR_INVALID, "--url '%s': ']' is missing", url);
    if (host_end + 1 < end && host_end[1] == ':') port = host_end + 2;
  } else {
    host_end = memchr(p, ':', n);
    if (host_end) port = host_end + 1;
    else host_end = end;
  }
  if (host_end == host || (size_t)(host_end - host) >= sizeof t->host ||
      (port && (port == end || end - port >= (long)sizeof t->port)))
    return let_fail(e, LET_ERR_INVALID, "--url '%s': not http://HOST:PORT", url);
  memcpy(t->host, host, (size_t)(host_end - host));
  if (port) memset(t->port, 0, sizeof t->port), memcpy(t->port, port, (size_t)(end - port));
  struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
  int r = getaddrinfo(t->host, t->port, &hint, &found);
  if (r) return let_fail(e, LET_ERR_UNAVAILABLE, "--url '%s': %s", url, gai_strerror(r));
  memcpy(&t->address, found->ai_addr, found->ai_addrlen);
  t->address_len = found->ai_addrlen;
  freeaddrinfo(found);
  return LET_OK;
}

static bool send_all(int fd, const char *p, size_t n) {
  while (n) {
    ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return false;
    p += k, n -= (size_t)k;
  }
  return true;
}

let_err let_target_get(const let_target *t, const char *path, let_dur timeout, let_buf *body, let_error *e) {
  int fd = socket(t->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return let_fail(e, LET_ERR_IO, "socket: %s", strerror(errno));
  struct timeval tv = {.tv_sec = timeout / LET_S, .tv_usec = timeout % LET_S / 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
  let_err err = LET_OK;
  if (connect(fd, (const struct sockaddr *)&t->address, t->address_len))
    err =
        let_fail(e, LET_ERR_UNAVAILABLE, "http://%s:%s: %s: is the server running?", t->host, t->port, strerror(errno));
  let_buf head;
  let_buf_init(&head, &let_mem_libc);
  let_buf_fmt(&head, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", path, t->host, t->port);
  if (!err && (head.failed || !send_all(fd, head.p, head.n)))
    err = let_fail(e, LET_ERR_UNAVAILABLE, "http://%s:%s%s: cannot send: %s", t->host, t->port, path, strerror(errno));
  let_buf_fini(&head);
  let_reply r;
  let_reply_reset(&r, body);
  while (!err && r.state != LET_REPLY_DONE && r.state != LET_REPLY_BROKEN) {
    char in[4096];
    ssize_t n = recv(fd, in, sizeof in, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      err = let_fail(e, LET_ERR_UNAVAILABLE, "http://%s:%s%s: no answer: %s", t->host, t->port, path, strerror(errno));
    else if (n == 0) let_reply_eof(&r);
    else (void)let_reply_feed(&r, in, (size_t)n);
  }
  close(fd);
  if (err) return err;
  if (r.state == LET_REPLY_BROKEN)
    return let_fail(e, LET_ERR_IO, "http://%s:%s%s: not an HTTP answer", t->host, t->port, path);
  if (body->failed) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  if (r.status == 200) return LET_OK;
  let_err code = r.status == 404 ? LET_ERR_NOT_FOUND : LET_ERR_IO;
  if (r.body_n && r.body[0] == '<') /* a page for a browser */
    return let_fail(
        e, code,
        "http://%s:%s%s: status %d: this server does not speak the Open Inference Protocol: is it the right port?",
        t->host, t->port, path, r.status);
  return let_fail(e, code, "http://%s:%s%s: status %d: %.*s", t->host, t->port, path, r.status, (int)r.body_n, r.body);
}

void let_target_path(const char *model, const char *rest, let_buf *out) {
  let_buf_str(out, "/v2/models/");
  for (const unsigned char *p = (const unsigned char *)model; *p; p++) {
    bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-_.~", *p);
    let_buf_fmt(out, plain ? "%c" : "%%%02X", *p);
  }
  let_buf_str(out, rest);
}

let_dur let_target_slo(let_str json) {
  json_t *doc = json_loadb(json.p, json.n, 0, NULL);
  json_t *p = json_object_get(json_object_get(json_object_get(doc, "parameters"), "slo_ms"), "string_value");
  double ms;
  let_error e;
  bool given = json_is_string(p) && let_parse_f64(let_str_c(json_string_value(p)), 0, 3.6e6, &ms, &e) == LET_OK;
  json_decref(doc);
  return given ? (let_dur)(ms * 1e6) : 0;
}

bool let_target_batches(let_str json, const char *model, uint64_t *ret_rows, uint64_t *ret_batches) {
  json_t *doc = json_loadb(json.p, json.n, 0, NULL), *m;
  bool found = false;
  size_t i;
  json_array_foreach(json_object_get(doc, "model_stats"), i, m) {
    const char *name = json_string_value(json_object_get(m, "name"));
    json_t *rows = json_object_get(m, "inference_count"), *batches = json_object_get(m, "execution_count");
    if (!name || strcmp(name, model) != 0 || !json_is_integer(rows) || !json_is_integer(batches)) continue;
    *ret_rows = (uint64_t)json_integer_value(rows), *ret_batches = (uint64_t)json_integer_value(batches);
    found = true;
    break;
  }
  json_decref(doc);
  return found;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

static uint16_t half_of(float f) { /* of [0, 1): normal halves and zero suffice */
  uint32_t u;
  memcpy(&u, &f, 4);
  int exponent = (int)(u >> 23) - 127;
  return exponent < -14 ? 0 : (uint16_t)((uint32_t)(exponent + 15) << 10 | (u >> 13 & 0x3ff));
}

/* Values in [0, 1) for floating point, [0, 100) for integers: fit for images and for token numbers alike. */
static void random_element(let_dtype t, let_rng *rng, let_buf *out) {
  double unit = let_rng_unit(rng);
  float f = (float)unit;
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint64_t whole = (uint64_t)(unit * 100);
  uint16_t h = t == LET_DTYPE_FP16 ? half_of(f) : (uint16_t)(bits >> 16);
  switch (t) {
  case LET_DTYPE_FP64: let_buf_add(out, &unit, 8); break;
  case LET_DTYPE_FP32: let_buf_add(out, &f, 4); break;
  case LET_DTYPE_FP16:
  case LET_DTYPE_BF16: let_buf_add(out, &h, 2); break;
  case LET_DTYPE_BOOL:
    whole &= 1;
    let_buf_add(out, &whole, 1);
    break;
  case LET_DTYPE_BYTES: {
    char text[16];
    uint32_t n = (uint32_t)snprintf(text, sizeof text, "text %llu", (unsigned long long)whole);
    let_buf_add(out, &n, 4), let_buf_add(out, text, n);
    break;
  }
  default: let_buf_add(out, &whole, let_dtype_size(t)); /* little-endian: the low bytes */
  }
}

typedef struct input {
  const char *name;
  let_dtype dtype;
  uint64_t elements;
} input;

static let_err shape_of(json_t *in, const char *model, const let_body_options *o, input *ret, json_t *shape,
                        let_error *e) {
  const char *name = json_string_value(json_object_get(in, "name")),
             *type = json_string_value(json_object_get(in, "datatype"));
  json_t *dims = json_object_get(in, "shape");
  if (!name || !type || !json_is_array(dims))
    return let_fail(e, LET_ERR_INVALID, "model '%s': its metadata has an input without name, datatype or shape", model);
  *ret = (input){.name = name, .dtype = let_dtype_of(let_str_c(type)), .elements = 1};
  if (ret->dtype == LET_DTYPE_INVALID)
    return let_fail(e, LET_ERR_INVALID, "model '%s': input '%s' has the unknown datatype '%s'", model, name, type);
  size_t k;
  json_t *d;
  json_array_foreach(dims, k, d) {
    json_int_t v = json_integer_value(d);
    if (!json_is_integer(d) || v < -1 || v > 1 << 28)
      return let_fail(e, LET_ERR_INVALID, "model '%s': input '%s' has a shape that makes no sense", model, name);
    if (v == -1) v = k == 0 ? o->rows : o->variable_dim;
    ret->elements *= (uint64_t)v;
    if (ret->elements > 1u << 28)
      return let_fail(e, LET_ERR_INVALID, "model '%s': input '%s' is larger than %u elements", model, name, 1u << 28);
    json_array_append_new(shape, json_integer(v));
  }
  return LET_OK;
}

static let_err data_of(const char *model, const input *in, const let_body_options *o, let_rng *rng, let_buf *out,
                       let_error *e) {
  size_t before = out->n;
  if (!o->data) {
    if (in->dtype != LET_DTYPE_BYTES && !let_buf_reserve(out, in->elements * let_dtype_size(in->dtype)))
      return let_fail(e, LET_ERR_NOMEM, "out of memory");
    for (uint64_t i = 0; i < in->elements; i++) random_element(in->dtype, rng, out);
  } else {
    char path[1024];
    if (snprintf(path, sizeof path, "%s/%s/%s.bin", o->data, model, in->name) >= (int)sizeof path)
      return let_fail(e, LET_ERR_INVALID, "--data: path too long for model '%s'", model);
    let_arena a;
    let_arena_init(&a, &let_mem_libc);
    let_str bytes = {0};
    let_err err = let_file_read(path, &a, &bytes, e);
    uint64_t want = in->elements * let_dtype_size(in->dtype);
    if (!err && want && bytes.n != want)
      err = let_fail(e, LET_ERR_INVALID, "%s: %zu bytes, but input '%s' takes %llu", path, bytes.n, in->name,
                     (unsigned long long)want);
    if (!err) let_buf_add(out, bytes.p, bytes.n);
    let_arena_fini(&a);
    if (err) return err;
  }
  return out->failed || out->n < before ? let_fail(e, LET_ERR_NOMEM, "out of memory for a request of model '%s'", model)
                                        : LET_OK;
}

static let_err inputs_of(const char *model, json_t *meta, const let_body_options *o, let_rng *rng, json_t *list,
                         let_buf *tensors, let_error *e) {
  json_t *all = json_object_get(meta, "inputs"), *in;
  if (!json_is_array(all) || json_array_size(all) == 0)
    return let_fail(e, LET_ERR_INVALID, "model '%s': its metadata names no inputs", model);
  size_t i;
  json_array_foreach(all, i, in) {
    input x = {0};
    json_t *shape = json_array();
    let_err err = shape ? shape_of(in, model, o, &x, shape, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
    size_t before = tensors->n;
    if (!err) err = data_of(model, &x, o, rng, tensors, e);
    if (!err && json_array_append_new(list, json_pack("{s:s, s:s, s:O, s:{s:I}}", "name", x.name, "datatype",
                                                      let_dtype_name(x.dtype), "shape", shape, "parameters",
                                                      "binary_data_size", (json_int_t)(tensors->n - before))))
      err = let_fail(e, LET_ERR_NOMEM, "out of memory");
    json_decref(shape);
    if (err) return err;
  }
  return LET_OK;
}

let_err let_target_request(const let_target *t, const char *model, let_str json, const let_body_options *o,
                           let_rng *rng, let_buf *out, let_error *e) {
  json_error_t why;
  json_t *meta = json_loadb(json.p, json.n, 0, &why);
  if (!meta)
    return let_fail(e, LET_ERR_INVALID, "model '%s': its metadata is not JSON: line %d: %s", model, why.line, why.text);
  let_buf tensors;
  let_buf_init(&tensors, &let_mem_libc);
  json_t *list = json_array();
  let_err err = list ? inputs_of(model, meta, o, rng, list, &tensors, e) : let_fail(e, LET_ERR_NOMEM, "out of memory");
  char *text = NULL;
  if (!err) {
    json_t *doc = json_pack("{s:O, s:{s:b}}", "inputs", list, "parameters", "binary_data_output", 1);
    text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
  }
  if (text) {
    size_t n = strlen(text);
    let_buf_str(out, "POST ");
    let_target_path(model, "/infer", out);
    let_buf_fmt(out,
                " HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/octet-stream\r\n"
                "Inference-Header-Content-Length: %zu\r\nContent-Length: %zu\r\n\r\n",
                t->host, t->port, n, n + tensors.n);
    let_buf_add(out, text, n);
    let_buf_add(out, tensors.p, tensors.n);
  }
  if (!err && (!text || out->failed))
    err = let_fail(e, LET_ERR_NOMEM, "out of memory for a request of model '%s'", model);
  free(text);
  let_buf_fini(&tensors);
  json_decref(list), json_decref(meta);
  return err;
}
