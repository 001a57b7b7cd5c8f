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
#include "worker/lane.h"

#define WATCHDOG (5 * LET_S)
enum { GPULETS_MAX = 64, HEALTH_MS = 1000, SEND_MS = 5000 };

/* A model's weights, shared by every gpu-let and generation that serves exactly this configuration. */
struct let__loaded {
  let_model m;
  const let_engine *engine;
  let_engine_model *em;
  uint32_t refs;
  let__loaded *next;
};

typedef struct generation {
  uint64_t number;
  let_lanes *lanes;
  int stop_fd;
  uint32_t n;
  let__lane *lane;
  struct generation *next;
} generation;

typedef struct worker {
  let__worker_view view;
  char plugin_dir[512], device_name[64];
  generation *generations;
  let__loaded *loaded;
  uint64_t numbers; /* bit per gpu-let number in use */
  let_time next_health;
} worker;

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

/* Texts may quote files and libraries; JSON takes UTF-8 only. */
static json_t *text_json(const char *text) {
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
  (void)send_doc(w->control_fd, json_pack("{ss so}", "event", "error", "text", text_json(e->text)));
  _exit(1); /* the other threads still run: no exit handlers */
}

static let_err send_error(worker *w, const let_error *e) {
  return send_doc(w->view.control_fd, json_pack("{ss so}", "event", "error", "text", text_json(e->text)));
}

static bool simulated(const worker *w) { return strcmp(w->view.device->i->name, "sim") == 0; }

/* ---- models ------------------------------------------------------------------------------------------------ */

static let_err model_load(worker *w, const let_model *m, let__loaded **ret, let_error *e) {
  for (let__loaded *l = w->loaded; l; l = l->next)
    if (memcmp(&l->m, m, sizeof *m) == 0) {
      l->refs++;
      *ret = l;
      return LET_OK;
    }
  let__loaded *l = calloc(1, sizeof *l);
  if (!l) return let_fail(e, LET_ERR_NOMEM, "out of memory for model '%s'", m->name);
  memcpy(&l->m, m, sizeof *m); /* padding too: compared byte by byte above */
  l->refs = 1;
  let_err r = LET_OK;
  /* A simulated device has no arithmetic: every model answers as the null engine does. */
  if (simulated(w)) l->engine = let_engine_null();
  else r = let_engine_open(m->backend, w->plugin_dir, &l->engine, e);
  let_engine_target t = {.cuda = -1};
  if (!r && strncmp(w->device_name, "cuda:", 5) == 0) t.cuda = atoi(w->device_name + 5);
  if (!r) r = l->engine->load(&l->m, t.cuda, &l->em, e);
  if (r) {
    free(l);
    return r;
  }
  l->next = w->loaded, w->loaded = l;
  *ret = l;
  return LET_OK;
}

static void model_drop(worker *w, let__loaded *l) {
  if (!l || --l->refs) return;
  for (let__loaded **p = &w->loaded; *p; p = &(*p)->next)
    if (*p == l) {
      *p = l->next;
      break;
    }
  l->engine->unload(l->em);
  free(l);
}

/* ---- generations ------------------------------------------------------------------------------------------- */

/* Drains and frees; a half-built one too. */
static void generation_free(worker *w, generation *g) {
  uint64_t one = 1;
  if (!g) return;
  if (g->stop_fd >= 0) (void)!write(g->stop_fd, &one, sizeof one);
  for (uint32_t i = 0; i < g->n; i++) let__lane_join(&g->lane[i]);
  for (uint32_t i = 0; i < g->n; i++) {
    let__lane *l = &g->lane[i];
    for (uint32_t k = 0; k < l->n_models; k++) {
      let__lane_model *m = &l->model[k];
      for (uint32_t c = 0; c < m->n_cells; c++)
        for (int x = 0; x < 2; x++)
          if (m->cell[c].x[x]) m->engine->discard(m->cell[c].x[x]);
      model_drop(w, m->loaded);
    }
    free(l->model);
    if (l->g) {
      w->view.device->i->shut(l->g);
      w->numbers &= ~(UINT64_C(1) << l->number);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->turn);
  }
  let_lanes_free(g->lanes);
  if (g->stop_fd >= 0) close(g->stop_fd);
  free(g->lane);
  free(g);
}

/* Where a preparation stands, for progress and failure reports. */
typedef struct progress {
  uint64_t generation;
  uint32_t gpulet, done, total;
  char model[LET_NAME_MAX];
} progress;

static let_err prepare_model(worker *w, let__lane *l, let__lane_model *m, const json_t *doc, progress *p, let_error *e) {
  let_model spec;
  let_engine_target t;
  const json_t *sizes = json_object_get(doc, "sizes");
  let_err r = let_control_model_get(json_object_get(doc, "spec"), &spec, e);
  if (r) return r;
  snprintf(p->model, sizeof p->model, "%s", spec.name);
  if (simulated(w)) spec.null_us = 0; /* the profile says how long it takes */
  if (!json_is_array(sizes) || json_array_size(sizes) < 1 || json_array_size(sizes) > LET_SIZES_MAX)
    return let_fail(e, LET_ERR_INVALID, "field 'sizes' is not a list of 1 to %d batch sizes", LET_SIZES_MAX);
  if ((r = model_load(w, &spec, &m->loaded, e))) return r;
  m->m = &m->loaded->m, m->engine = m->loaded->engine;
  w->view.device->i->target(l->g, &t);
  for (size_t i = 0; i < json_array_size(sizes); i++) {
    json_int_t size = json_integer_value(json_array_get(sizes, i));
    if (size < 1 || size > LET_BATCH_MAX || (spec.max_batch == 0 && size != 1))
      return let_fail(e, LET_ERR_INVALID, "batch size %lld is not possible for model '%s'", (long long)size, spec.name);
    let__fault(LET__STAGE_PREPARE);
    let__cell *c = &m->cell[m->n_cells];
    c->size = (uint32_t)size;
    m->n_cells++;
    for (int x = 0; x < 2 && x < w->view.device->i->depth; x++) {
      const char *note = NULL;
      if ((r = m->engine->prepare(m->loaded->em, &t, c->size, x, &c->x[x], &note, e))) return r;
      c->x[x]->model = m->m->name;
      c->dirty[x] = c->size;
      if (note) m->note = note;
      if (c->x[x]->dynamic) break;
    }
    p->done++;
    (void)send_doc(w->view.control_fd, json_pack("{ss sI ss si si}", "event", "progress", "generation", (json_int_t)p->generation, "text",
                                                 p->model, "done", (int)p->done, "total", (int)p->total));
  }
  return LET_OK;
}

static let_err prepare_lane(worker *w, let__lane *l, const json_t *doc, progress *p, let_error *e) {
  const json_t *models = json_object_get(doc, "models"), *first = json_object_get(doc, "first"), *granules = json_object_get(doc, "granules");
  const json_t *gpulet = json_object_get(doc, "gpulet");
  if (!json_is_integer(gpulet) || !json_is_integer(first) || !json_is_integer(granules) || !json_is_array(models) || json_array_size(models) < 1 ||
      json_integer_value(first) < 0 || json_integer_value(granules) < 1 || json_integer_value(first) > UINT32_MAX ||
      json_integer_value(granules) > UINT32_MAX || json_integer_value(gpulet) < 0 || json_integer_value(gpulet) > UINT32_MAX)
    return let_fail(e, LET_ERR_INVALID, "a lane needs 'gpulet', 'first', 'granules' (numbers) and 'models' (a list)");
  p->gpulet = l->gpulet = (uint32_t)json_integer_value(gpulet);
  if (~w->numbers == 0) return let_fail(e, LET_ERR_OVERLOADED, "%d gpu-lets are open on this device, as many as there can be", GPULETS_MAX);
  l->number = (uint32_t)__builtin_ctzll(~w->numbers);
  let_err r = w->view.device->i->open(w->view.device, l->number, (uint32_t)json_integer_value(first), (uint32_t)json_integer_value(granules),
                                      json_is_true(json_object_get(doc, "shared")), &l->g, e);
  if (r) return r;
  w->numbers |= UINT64_C(1) << l->number;
  l->model = calloc(json_array_size(models), sizeof *l->model);
  if (!l->model) return let_fail(e, LET_ERR_NOMEM, "out of memory for %zu models", json_array_size(models));
  for (size_t i = 0; !r && i < json_array_size(models); i++) r = prepare_model(w, l, &l->model[l->n_models++], json_array_get(models, i), p, e);
  return r;
}

static json_t *describe(const generation *g) {
  json_t *lanes = json_array();
  for (uint32_t i = 0; i < g->n; i++) {
    const let__lane *l = &g->lane[i];
    json_t *models = json_array();
    for (uint32_t k = 0; k < l->n_models; k++) {
      const let__lane_model *m = &l->model[k];
      json_t *sizes = json_array();
      uint64_t memory = m->engine->weights_bytes(m->loaded->em), row = 0;
      const let_exec *x = m->cell[0].x[0];
      for (unsigned o = 0; o < x->n_out && !x->dynamic; o++) row += x->out[o].row_bytes;
      for (uint32_t c = 0; c < m->n_cells; c++) {
        const let__cell *cell = &m->cell[c];
        for (int n = 0; n < 2; n++)
          if (cell->x[n]) memory += cell->x[n]->memory_bytes;
        json_array_append_new(sizes, json_pack("{si sf sf}", "size", (int)cell->size, "p50_us", (double)cell->p50 / 1e3, "p99_us", (double)cell->p99 / 1e3));
      }
      json_array_append_new(models, json_pack("{ss sI sI so so}", "name", m->m->name, "memory_bytes", (json_int_t)memory, "output_row_bytes",
                                              (json_int_t)row, "eager", text_json(m->note ? m->note : ""), "sizes", sizes));
    }
    json_array_append_new(lanes, json_pack("{si so}", "gpulet", (int)l->gpulet, "models", models));
  }
  return json_pack("{ss sI so}", "event", "prepared", "generation", (json_int_t)g->number, "lanes", lanes);
}

/* Builds the generation beside those that serve. Takes |fds|. */
static let_err generation_new(worker *w, const json_t *doc, int *fds, int n_fds, progress *p, generation **ret, let_error *e) {
  const json_t *list = json_object_get(doc, "lanes");
  size_t n = json_array_size(list);
  generation *g = n && n <= GPULETS_MAX ? calloc(1, sizeof *g) : NULL;
  let_err r = LET_OK;
  if (g) g->stop_fd = -1, g->number = p->generation;
  if (!json_is_array(list) || n < 1 || n > GPULETS_MAX || (size_t)n_fds != n + 2)
    r = let_fail(e, LET_ERR_INVALID, "'prepare' with %zu lanes and %d descriptors: one per lane and two more are needed", n, n_fds);
  else if (!g || !(g->lane = calloc(n, sizeof *g->lane))) r = let_fail(e, LET_ERR_NOMEM, "out of memory for %zu lanes", n);
  else if (!(r = let_lanes_map(fds[0], (uint32_t)n, fds + 2, fds[1], &g->lanes, e)))
    for (int i = 1; i < n_fds; i++) fds[i] = -1; /* the lanes own them now */
  for (int i = 0; i < n_fds; i++)
    if (fds[i] >= 0) close(fds[i]);
  if (!r && (g->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) r = let_fail(e, LET_ERR_IO, "cannot create an eventfd: %s", strerror(errno));
  for (size_t i = 0; !r && i < n; i++) {
    let__lane *l = &g->lane[g->n];
    *l = (let__lane){.w = &w->view, .lanes = g->lanes, .index = (uint32_t)i, .stop_fd = g->stop_fd, .gentle = w->generations != NULL, .due = LET_NEVER};
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->turn, NULL);
    g->n++;
    r = prepare_lane(w, l, json_array_get(list, i), p, e);
  }
  p->model[0] = r ? p->model[0] : 0;
  /* One after the other: each is measured alone, as far as this generation goes. */
  for (uint32_t i = 0; !r && i < g->n; i++) p->gpulet = g->lane[i].gpulet, r = let__lane_start(&g->lane[i], e);
  if (r) {
    generation_free(w, g);
    return r;
  }
  *ret = g;
  return LET_OK;
}

static let_err on_prepare(worker *w, const json_t *doc, int *fds, int n_fds) {
  progress p = {.generation = (uint64_t)json_integer_value(json_object_get(doc, "generation"))};
  const json_t *list = json_object_get(doc, "lanes"), *lane, *model;
  size_t i, k;
  let_error e = {0};
  generation *g;
  json_array_foreach((json_t *)(uintptr_t)list, i, lane)
    json_array_foreach((json_t *)(uintptr_t)json_object_get(lane, "models"), k, model) p.total += (uint32_t)json_array_size(json_object_get(model, "sizes"));
  let_err r = generation_new(w, doc, fds, n_fds, &p, &g, &e);
  if (r == LET_ERR_DEVICE || r == LET_ERR_GPULET) let__worker_die(&w->view, &e);
  if (r)
    return send_doc(w->view.control_fd, json_pack("{ss sI si so si so}", "event", "failed", "generation", (json_int_t)p.generation, "gpulet",
                                                  (int)p.gpulet, "model", text_json(p.model), "code", (int)r, "text", text_json(e.text)));
  g->next = w->generations, w->generations = g;
  for (i = 0; i < g->n; i++) let__lane_serve(&g->lane[i]);
  return send_doc(w->view.control_fd, describe(g));
}

static let_err on_retire(worker *w, const json_t *doc) {
  uint64_t number = (uint64_t)json_integer_value(json_object_get(doc, "generation"));
  for (generation **p = &w->generations; *p; p = &(*p)->next)
    if ((*p)->number == number) {
      generation *g = *p;
      *p = g->next;
      generation_free(w, g);
      return send_doc(w->view.control_fd, json_pack("{ss sI}", "event", "retired", "generation", (json_int_t)number));
    }
  let_error e;
  (void)let_fail(&e, LET_ERR_NOT_FOUND, "there is no generation %llu to retire", (unsigned long long)number);
  return send_error(w, &e);
}

/* ---- start and health --------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *doc, const char *key) {
  const char *s = json_string_value(json_object_get(doc, key));
  return s ? s : "";
}

static let_err init(worker *w, const json_t *doc, const int *fds, int n_fds, let_error *e) {
  if (strcmp(text_of(doc, "op"), "init") != 0 || n_fds != 1) return let_fail(e, LET_ERR_INVALID, "the first document is not 'init' with one descriptor");
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
  return r;
}

static let_err send_ready(worker *w) {
  const let_device_type *t = w->view.device->i->type(w->view.device);
  return send_doc(w->view.control_fd,
                  json_pack("{ss si ss ss si si si sI}", "event", "ready", "pid", (int)getpid(), "device", w->device_name, "type", t->name, "sms",
                            (int)t->sms, "granules", (int)t->granules, "granule_sms", (int)t->granule_sms, "memory_bytes", (json_int_t)t->memory_bytes));
}

static let_err send_health(worker *w) {
  let_device_health h = {.utilization = -1, .power_w = -1};
  let_error e;
  json_t *lanes = json_array();
  uint64_t memory = 0;
  let_err r = w->view.device->i->health(w->view.device, &h, &e);
  if (r == LET_ERR_DEVICE) let__worker_die(&w->view, &e);
  for (const let__loaded *l = w->loaded; l; l = l->next) memory += l->engine->weights_bytes(l->em);
  for (generation *g = w->generations; g; g = g->next)
    for (uint32_t i = 0; i < g->n; i++) {
      let__lane *l = &g->lane[i];
      for (uint32_t k = 0; k < l->n_models; k++)
        for (uint32_t c = 0; c < l->model[k].n_cells; c++)
          for (int x = 0; x < 2; x++) memory += l->model[k].cell[c].x[x] ? l->model[k].cell[c].x[x]->memory_bytes : 0;
      json_array_append_new(lanes, json_pack("{sI si sI sI}", "generation", (json_int_t)g->number, "gpulet", (int)l->gpulet, "busy_ns",
                                             (json_int_t)atomic_load_explicit(&l->busy_ns, memory_order_relaxed), "batches",
                                             (json_int_t)atomic_load_explicit(&l->batches, memory_order_relaxed)));
    }
  return send_doc(w->view.control_fd, json_pack("{ss so sI s{sf sf sI sI ss}}", "event", "health", "lanes", lanes, "memory_bytes", (json_int_t)memory,
                                                "gpu", "utilization", h.utilization, "power_w", h.power_w, "memory_used", (json_int_t)h.memory_used,
                                                "memory_total", (json_int_t)h.memory_total, "uuid", h.uuid));
}

/* A lane thread that is stuck in a call of the engine or the device cannot report it itself. */
static void look_for_stuck(worker *w) {
  let_time now = let_now();
  for (generation *g = w->generations; g; g = g->next)
    for (uint32_t i = 0; i < g->n; i++)
      if (atomic_load_explicit(&g->lane[i].due, memory_order_relaxed) < now) {
        let_error e;
        (void)let_fail(&e, LET_ERR_GPULET, "gpu-let %u is stuck in a batch far beyond its predicted time", g->lane[i].gpulet);
        let__worker_die(&w->view, &e);
      }
}

/* ---- the conversation --------------------------------------------------------------------------------------- */

/* Waits for a document, sending health events meanwhile once |ready|. IO: the server is gone. */
static let_err next_doc(worker *w, bool ready, json_t **doc, int *fds, int *n_fds, let_error *e) {
  for (;;) {
    let_err r = let_control_recv(w->view.control_fd, doc, fds, n_fds, e);
    if (r == LET_OK || r == LET_ERR_IO) return r;
    if (r != LET_ERR_AGAIN && send_error(w, e)) return LET_ERR_IO;
    struct pollfd f = {.fd = w->view.control_fd, .events = POLLIN};
    let_dur left = w->next_health - let_now();
    (void)poll(&f, 1, !ready ? -1 : left <= 0 ? 0 : (int)(left / LET_MS) + 1);
    if (ready && let_now() >= w->next_health) {
      look_for_stuck(w);
      if (send_health(w)) return LET_ERR_IO;
      w->next_health = let_now() + HEALTH_MS * LET_MS;
    }
  }
}

/* False: stop. */
static bool carry_out(worker *w, const json_t *doc, int *fds, int n_fds) {
  const char *op = text_of(doc, "op");
  if (strcmp(op, "prepare") == 0) return on_prepare(w, doc, fds, n_fds) == LET_OK;
  for (int i = 0; i < n_fds; i++) close(fds[i]);
  if (strcmp(op, "retire") == 0) return on_retire(w, doc) == LET_OK;
  if (strcmp(op, "stop") == 0) return false;
  let_error e;
  (void)let_fail(&e, LET_ERR_UNSUPPORTED, "unknown op '%.60s'", op);
  return send_error(w, &e) == LET_OK;
}

int let_worker_run(int control_fd) {
  worker w = {.view = {.control_fd = control_fd}};
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
  while (w.generations) {
    generation *g = w.generations;
    w.generations = g->next;
    generation_free(&w, g);
  }
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
