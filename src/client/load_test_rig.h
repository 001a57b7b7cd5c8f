/* load_test_rig.h: test rig: a server in another thread that answers, stalls, refuses and hangs up on command. */
#ifndef LET_CLIENT_LOAD_TEST_RIG_H
#define LET_CLIENT_LOAD_TEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <uv.h>

static const char metadata[] = "{\"name\":\"m\",\"versions\":[\"1\"],\"platform\":\"x\",\"inputs\":["
                               "{\"name\":\"image\",\"datatype\":\"FP32\",\"shape\":[-1,4,4]},{\"name\":\"words\","
                               "\"datatype\":\"INT64\",\"shape\":[-1,-1]},"
                               "{\"name\":\"text\",\"datatype\":\"BYTES\",\"shape\":[-1,1]},{\"name\":\"half\","
                               "\"datatype\":\"FP16\",\"shape\":[2]}],"
                               "\"outputs\":[{\"name\":\"o\",\"datatype\":\"FP32\",\"shape\":[-1,1]}]}";

typedef struct peer peer;
typedef struct server {
  uv_thread_t thread;
  uv_loop_t loop;
  uv_tcp_t listener;
  uv_async_t quit;
  uv_timer_t stall;
  uv_sem_t ready;
  int port;
  /* what to do */
  uint64_t stall_at, stall_ms; /* from that request on no answer goes out for that long */
  uint64_t refuse_each, hang_up_each, close_each;
  bool no_plan; /* as any other server */
  uint64_t tell_at;
  _Atomic bool seen; /* that many requests */
  /* what happened */
  uint64_t requests, connections, bad;
  bool stalled;
  peer *waiting;
  peer *all;
} server;

struct peer {
  server *s;
  uv_tcp_t tcp;
  char in[8192];
  size_t n;
  bool closing, queued;
  peer *next_waiting, *next;
};

static void gone(uv_handle_t *h) {
  peer *p = h->data;
  peer **at = &p->s->all;
  while (*at != p) at = &(*at)->next;
  *at = p->next;
  free(p);
}
static void hang_up(peer *p) {
  if (p->closing) return;
  p->closing = true;
  for (peer **at = &p->s->waiting; *at; at = &(*at)->next_waiting)
    if (*at == p) {
      *at = p->next_waiting;
      break;
    }
  uv_close((uv_handle_t *)&p->tcp, gone);
}

static void say(peer *p, const char *text) {
  uv_buf_t b = uv_buf_init((char *)(uintptr_t)text, (unsigned)strlen(text));
  (void)uv_try_write((uv_stream_t *)&p->tcp, &b, 1);
}

static void answer(peer *p) {
  server *s = p->s;
  uint64_t k = s->requests;
  if (s->refuse_each && k % s->refuse_each == 0)
    say(p, "HTTP/1.1 503 Busy\r\nContent-Length: 15\r\n\r\n{\"error\":\"full\"");
  else if (s->close_each && k % s->close_each == 0)
    say(p, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"), hang_up(p);
  else say(p, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
}

static void stall_over(uv_timer_t *t) {
  server *s = t->data;
  s->stalled = false;
  while (s->waiting) {
    peer *p = s->waiting;
    s->waiting = p->next_waiting, p->queued = false;
    answer(p);
  }
}

/* One whole request lies at the front of p->in; returns its length, 0 when more must come. */
static size_t whole(const peer *p) {
  const char *end = memmem(p->in, p->n, "\r\n\r\n", 4), *length;
  if (!end) return 0;
  size_t head = (size_t)(end - p->in) + 4;
  length = memmem(p->in, head, "Content-Length: ", 16);
  /* Inference-Header-Content-Length ends in the same words. */
  if (length && length > p->in && length[-1] == '-')
    length = memmem(length + 16, head - (size_t)(length + 16 - p->in), "Content-Length: ", 16);
  size_t body = length ? strtoul(length + 16, NULL, 10) : 0;
  return p->n >= head + body ? head + body : 0;
}

static void check_infer(server *s, const char *in, size_t n) {
  const char *body = memmem(in, n, "\r\n\r\n", 4), *json_n = memmem(in, n, "Inference-Header-Content-Length: ", 33);
  if (!json_n) {
    s->bad++;
    return;
  }
  size_t k = strtoul(json_n + 33, NULL, 10);
  body += 4;
  json_t *o = json_loadb(body, k, 0, NULL), *x;
  size_t i, sum = 0;
  static const long want[] = {2 * 16 * 4, 2 * 5 * 8, -1, 4};
  json_array_foreach(json_object_get(o, "inputs"), i, x) {
    long bytes = (long)json_integer_value(json_object_get(json_object_get(x, "parameters"), "binary_data_size"));
    if (i > 3 || (want[i] >= 0 && want[i] != bytes)) s->bad++;
    sum += (size_t)bytes;
  }
  if (json_array_size(json_object_get(o, "inputs")) != 4 || (size_t)(in + n - body) != k + sum) s->bad++;
  json_decref(o);
}

static void lend(uv_handle_t *h, size_t want, uv_buf_t *b) {
  (void)want;
  peer *p = h->data;
  *b = uv_buf_init(p->in + p->n, (unsigned)(sizeof p->in - p->n));
}

/* Before the run 5000 requests took 1 s in each stage; each since then took about 1 ms in all but the first. */
static void tell_stages(peer *p) {
  static const char *const stage[] = {"received", "admitted", "batched", "submitted",
                                      "started",  "finished", "answered"};
  server *s = p->s;
  char text[4096], body[2048];
  if (s->no_plan) {
    say(p, "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone");
    return;
  }
  unsigned long long k = s->requests;
  int n = snprintf(body, sizeof body,
                   "{\"models\":[{\"name\":\"other\"},{\"name\":\"m\",\"requests\":%llu,\"refused_door\":%llu,"
                   "\"dropped_queue\":7,\"stages\":{",
                   5000 + k, 100 + k / 10);
  for (int i = 0; i < 7; i++)
    n +=
        snprintf(body + n, sizeof body - (size_t)n,
                 "%s\"%s\":{\"mean_ms\":0,\"p50_ms\":0,\"p99_ms\":0,\"count\":%llu,\"sum_ms\":%llu,\"hist\":[[%d,%llu],"
                 "[1271,5000]]}",
                 i ? "," : "", stage[i], 5000 + k, 5000000 + (i ? k : 0), i ? 634 : 0, k);
  n += snprintf(body + n, sizeof body - (size_t)n, "}}]}");
  snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body);
  say(p, text);
}

static void got(uv_stream_t *t, ssize_t n, const uv_buf_t *b) {
  (void)b;
  peer *p = t->data;
  server *s = p->s;
  if (n < 0) {
    hang_up(p);
    return;
  }
  p->n += (size_t)n;
  for (size_t k; !p->closing && (k = whole(p)) != 0;) {
    bool get_meta = p->n > 15 && memcmp(p->in, "GET /v2/models/", 15) == 0;
    static const char ask_plan[] = "GET /v2/gpulet/plan ";
    if (p->n > sizeof ask_plan && memcmp(p->in, ask_plan, sizeof ask_plan - 1) == 0) {
      char text[1024];
      static const char plan[] = "{\"gpus\":[{\"id\":0,\"type\":\"cpu\",\"granules\":2,\"gpulets\":[{\"granules\":1,"
                                 "\"models\":[{\"name\":\"m\",\"batch\":8}]}]}]}";
      if (s->no_plan) snprintf(text, sizeof text, "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone");
      else snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", sizeof plan - 1, plan);
      say(p, text);
    } else if (p->n > 22 && memcmp(p->in, "GET /v2/gpulet/stages ", 22) == 0) {
      tell_stages(p);
    } else if (get_meta && memcmp(p->in + 15, "stats ", 6) == 0 && !s->no_plan) {
      char text[256], body[128]; /* as if it had run all in batches of two, and had run some before */
      int len = snprintf(body, sizeof body,
                         "{\"model_stats\":[{\"name\":\"m\",\"inference_count\":%llu,\"execution_count\":%llu}]}",
                         (unsigned long long)s->requests + 7000, (unsigned long long)s->requests / 2 + 1000);
      snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len, body);
      say(p, text);
    } else if (get_meta) {
      char text[1024];
      static const char config[] = "{\"name\":\"m\",\"parameters\":{\"slo_ms\":{\"string_value\":\"12.5\"}}}";
      if (memcmp(p->in + 15, "m/config ", 9) == 0)
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", sizeof config - 1, config);
      else if (memcmp(p->in + 15, "m ", 2))
        snprintf(text, sizeof text, "HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone");
      else
        snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", sizeof metadata - 1, metadata);
      say(p, text);
    } else {
      s->requests++;
      if (s->requests == s->tell_at) atomic_store(&s->seen, true);
      if (memcmp(p->in, "POST", 4) == 0) check_infer(s, p->in, k);
      if (s->stall_at && s->requests == s->stall_at)
        s->stalled = true, uv_timer_start(&s->stall, stall_over, s->stall_ms, 0);
      if (s->hang_up_each && s->requests % s->hang_up_each == 0) hang_up(p);
      else if (s->stalled) p->next_waiting = s->waiting, s->waiting = p, p->queued = true;
      else answer(p);
    }
    memmove(p->in, p->in + k, p->n - k);
    p->n -= k;
  }
}

static void accepted(uv_stream_t *l, int status) {
  server *s = l->data;
  peer *p = calloc(1, sizeof *p);
  if (status || !p) abort();
  p->s = s, p->tcp.data = p, p->next = s->all, s->all = p;
  s->connections++;
  uv_tcp_init(&s->loop, &p->tcp);
  uv_accept(l, (uv_stream_t *)&p->tcp);
  uv_read_start((uv_stream_t *)&p->tcp, lend, got);
}

static void quit(uv_async_t *a) {
  server *s = a->data;
  for (peer *p = s->all; p; p = p->next) hang_up(p);
  uv_close((uv_handle_t *)&s->listener, NULL), uv_close((uv_handle_t *)&s->quit, NULL),
      uv_close((uv_handle_t *)&s->stall, NULL);
}

static void serve(void *arg) {
  server *s = arg;
  uv_loop_init(&s->loop);
  uv_tcp_init(&s->loop, &s->listener), uv_async_init(&s->loop, &s->quit, quit), uv_timer_init(&s->loop, &s->stall);
  s->listener.data = s->quit.data = s->stall.data = s;
  struct sockaddr_in a;
  uv_ip4_addr("127.0.0.1", 0, &a);
  uv_tcp_bind(&s->listener, (struct sockaddr *)&a, 0);
  uv_listen((uv_stream_t *)&s->listener, 512, accepted);
  int n = sizeof a;
  uv_tcp_getsockname(&s->listener, (struct sockaddr *)&a, &n);
  s->port = ntohs(a.sin_port);
  uv_sem_post(&s->ready);
  uv_run(&s->loop, UV_RUN_DEFAULT);
  uv_loop_close(&s->loop);
}

static void start(server *s) {
  uv_sem_init(&s->ready, 0);
  assert_int_equal(uv_thread_create(&s->thread, serve, s), 0);
  uv_sem_wait(&s->ready);
}
static void stop(server *s) {
  uv_async_send(&s->quit);
  uv_thread_join(&s->thread);
  uv_sem_destroy(&s->ready);
}

#endif
