/* worker.c: the control thread: the conversation of ring/control.h. */
#include "worker/worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "os/clock.h"
#include "ring/control.h"
#include "worker/worker_int.h"

#define WATCHDOG (5 * LET_S)
enum { HEALTH_MS = 1000, SEND_MS = 5000 };

/* ---- sending --------------------------------------------------------------------------------------------- */

/* Takes |doc|. Waits for room for a while; a server that does not read for seconds is as good as gone. */
static let_err send_doc(int fd, json_t *doc) {
  let_err r = doc ? LET_ERR_AGAIN : LET_ERR_NOMEM;
  let_time end = let_now() + SEND_MS * LET_MS;
  while (r == LET_ERR_AGAIN && (r = let_control_send(fd, doc, NULL, 0, NULL)) == LET_ERR_AGAIN) {
    struct pollfd f = {.fd = fd, .events = POLLOUT};
    if (let_now() > end) break;
    (void)poll(&f, 1, 100);
  }
  json_decref(doc);
  return r;
}

json_t *let__text_json(const char *text) {
  char plain[sizeof(let_error)];
  json_t *s = json_string(text);
  if (s) return s;
  size_t n = 0;
  for (; text[n] && n < sizeof plain - 1; n++) plain[n] = (unsigned char)text[n] < 0x80 ? text[n] : '?';
  plain[n] = 0;
  return json_string(plain);
}

void let__worker_die(const let__worker_view *w, const let_error *e) {
  fprintf(stderr, "gpulet worker: %s: %s\n", let_err_text(e->code), e->text);
  (void)send_doc(w->control_fd, json_pack("{ss so}", "event", "error", "text", let__text_json(e->text)));
  _exit(1); /* the other threads still run: no exit handlers */
}

let_err let__send(let__worker *w, json_t *doc) { return send_doc(w->view.control_fd, doc); }

static let_err send_error(let__worker *w, const let_error *e) {
  return let__send(w, json_pack("{ss so}", "event", "error", "text", let__text_json(e->text)));
}

/* ---- start and health --------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *doc, const char *key) {
  const char *s = json_string_value(json_object_get(doc, key));
  return s ? s : "";
}

static let_err init(let__worker *w, const json_t *doc, const int *fds, int n_fds, let_error *e) {
  if (strcmp(text_of(doc, "op"), "init") != 0 || n_fds != 1)
    return let_fail(e, LET_ERR_INVALID, "the first document is not 'init' with one descriptor");
  if (!*text_of(doc, "device")) return let_fail(e, LET_ERR_INVALID, "'init' names no device");
  snprintf(w->device_name, sizeof w->device_name, "%s", text_of(doc, "device"));
  snprintf(w->plugin_dir, sizeof w->plugin_dir, "%s", text_of(doc, "plugin_dir"));
  json_int_t spin = json_integer_value(json_object_get(doc, "spin_us"));
  w->view.spin = spin > 0 && spin < 1000000 ? spin * LET_US : 0;
  let_err r = let_ring_arena_map(fds[0], &w->view.arena, e);
  if (!r) r = let_device_open(w->device_name, text_of(doc, "profile"), &w->view.device, e);
  if (r) return r;
  if (!(w->view.zeros = aligned_alloc(4096, LET__ZEROS))) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  memset(w->view.zeros, 0, LET__ZEROS);
  const let_device_i *d = w->view.device->i;
  r = d->pin(w->view.device, let_ring_arena_base(w->view.arena), let_ring_arena_size(w->view.arena), e);
  if (!r) r = d->pin(w->view.device, w->view.zeros, LET__ZEROS, e);
  if (!r) r = d->stock(w->view.device, e);
  return r;
}

static let_err send_ready(let__worker *w) {
  const let_device_type *t = w->view.device->i->type(w->view.device);
  return send_doc(w->view.control_fd,
                  json_pack("{ss si ss ss si si si sI}", "event", "ready", "pid", (int)getpid(), "device",
                            w->device_name, "type", t->name, "sms", (int)t->sms, "granules", (int)t->granules,
                            "granule_sms", (int)t->granule_sms, "memory_bytes", (json_int_t)t->memory_bytes));
}

static let_err send_health(let__worker *w) {
  let_device_health h = {.utilization = -1, .power_w = -1};
  let_error e;
  json_t *lanes = json_array();
  uint64_t memory = 0;
  let_err r = w->view.device->i->health(w->view.device, &h, &e);
  if (r == LET_ERR_DEVICE) let__worker_die(&w->view, &e);
  for (const let__loaded *l = w->loaded; l; l = l->next) memory += l->em ? l->engine->weights_bytes(l->em) : 0;
  for (const let__generation *g = w->generations; g; g = g->next)
    for (uint32_t i = 0; i < g->n; i++) {
      const let__lane *l = &g->lane[i];
      for (uint32_t k = 0; k < l->n_models; k++)
        for (uint32_t c = 0; c < let__cells(&l->model[k]); c++)
          for (int x = 0; x < 2; x++) memory += l->model[k].cell[c].x[x] ? l->model[k].cell[c].x[x]->memory_bytes : 0;
      json_array_append_new(lanes,
                            json_pack("{sI si sI sI}", "generation", (json_int_t)g->number, "gpulet", (int)l->gpulet,
                                      "busy_ns", (json_int_t)atomic_load_explicit(&l->busy_ns, memory_order_relaxed),
                                      "batches", (json_int_t)atomic_load_explicit(&l->batches, memory_order_relaxed)));
    }
  return send_doc(w->view.control_fd, json_pack("{ss so sI s{sf sf sI sI ss}}", "event", "health", "lanes", lanes,
                                                "memory_bytes", (json_int_t)memory, "gpu", "utilization", h.utilization,
                                                "power_w", h.power_w, "memory_used", (json_int_t)h.memory_used,
                                                "memory_total", (json_int_t)h.memory_total, "uuid", h.uuid));
}

/* A lane thread that is stuck in a call of the engine or the device cannot report it itself. */
static void look_for_stuck(let__worker *w) {
  let_time now = let_now();
  for (let__generation *g = w->generations; g; g = g->next)
    for (uint32_t i = 0; i < g->n; i++)
      if (atomic_load_explicit(&g->lane[i].due, memory_order_relaxed) < now) {
        let_error e;
        (void)let_fail(&e, LET_ERR_GPULET, "gpu-let %u is stuck in a batch far beyond its predicted time",
                       g->lane[i].gpulet);
        let__worker_die(&w->view, &e);
      }
}

/* ---- the conversation --------------------------------------------------------------------------------------- */

/* Waits for a document; once |ready|, does what there is to do and says how it is meanwhile. IO: the server is gone. */
static let_err next_doc(let__worker *w, bool ready, json_t **doc, int *fds, int *n_fds, let_error *e) {
  for (;;) {
    let_err r = let_control_recv(w->view.control_fd, doc, fds, n_fds, e);
    if (r == LET_OK || r == LET_ERR_IO) return r;
    if (r != LET_ERR_AGAIN && send_error(w, e)) return LET_ERR_IO;
    struct pollfd f = {.fd = w->view.control_fd, .events = POLLIN};
    let_time now = let_now(), due = let__work_due(w), at = w->next_health < due ? w->next_health : due;
    (void)poll(&f, 1, !ready ? -1 : at <= now ? 0 : (int)((at - now) / LET_MS) + 1);
    if (!ready || f.revents) continue; /* documents first */
    if (let_now() >= w->next_health) {
      look_for_stuck(w);
      if (send_health(w)) return LET_ERR_IO;
      w->next_health = let_now() + HEALTH_MS * LET_MS;
    }
    if (let__work_due(w) <= let_now() && let__work_step(w)) return LET_ERR_IO;
  }
}

/* False: stop. */
static bool carry_out(let__worker *w, const json_t *doc, int *fds, int n_fds) {
  const char *op = text_of(doc, "op");
  if (strcmp(op, "prepare") == 0) return let__on_prepare(w, doc, fds, n_fds) == LET_OK;
  for (int i = 0; i < n_fds; i++) close(fds[i]);
  if (strcmp(op, "retire") == 0) return let__on_retire(w, doc) == LET_OK;
  if (strcmp(op, "stop") == 0) return false;
  let_error e;
  (void)let_fail(&e, LET_ERR_UNSUPPORTED, "unknown op '%.60s'", op);
  return send_error(w, &e) == LET_OK;
}

static void close_all(let__worker *w) {
  for (let__generation *g; (g = w->generations);) w->generations = g->next, let__generation_free(w, g);
  for (let__generation *g; (g = w->retired);) w->retired = g->next, let__generation_free(w, g);
  for (let__loaded *l; (l = w->loaded);) w->loaded = l->next, free(l);
  let__hand_stop(&w->prober);
}

int let_worker_run(int control_fd) {
  let__worker w = {.view = {.control_fd = control_fd}, .prober_due = LET_NEVER};
  int fds[LET_CONTROL_FDS_MAX], n_fds, code = 0;
  json_t *doc;
  let_error e = {0};
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* a gpu-let that hangs must not outlive its server and keep the device's memory */
  signal(SIGPIPE, SIG_IGN);
  signal(SIGINT, SIG_IGN); /* the server decides when to stop */
  let__fault_init();
  const char *watchdog = getenv("GPULET_WATCHDOG_MS");
  w.view.watchdog = watchdog && atol(watchdog) > 0 ? atol(watchdog) * LET_MS : WATCHDOG;
  if (next_doc(&w, false, &doc, fds, &n_fds, &e) != LET_OK) {
    fprintf(stderr, "gpulet worker: %s: workers are started by `gpulet serve`\n", e.text);
    code = 1;
  } else {
    let_err r = init(&w, doc, fds, n_fds, &e);
    json_decref(doc);
    for (int i = 0; i < n_fds; i++) close(fds[i]);
    let__fault(LET__STAGE_INIT);
    if (r) {
      (void)send_error(&w, &e);
      fprintf(stderr, "gpulet worker: %s\n", e.text);
      code = 1;
    } else if (send_ready(&w) == LET_OK) {
      bool go = true;
      while (go && next_doc(&w, true, &doc, fds, &n_fds, &e) == LET_OK) {
        go = carry_out(&w, doc, fds, n_fds);
        json_decref(doc);
      }
    }
  }
  close_all(&w);
  if (w.view.device) {
    if (w.view.zeros) w.view.device->i->unpin(w.view.device, w.view.zeros);
    w.view.device->i->unpin(w.view.device, let_ring_arena_base(w.view.arena));
    w.view.device->i->close(w.view.device);
  }
  free(w.view.zeros);
  let_ring_arena_free(w.view.arena);
  close(control_fd);
  return code;
}
