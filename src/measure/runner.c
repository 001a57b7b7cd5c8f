/* Design notes. One thread per lane, as in a worker. The main thread opens and prepares, then steers the lanes:
 * PAUSE, RUN, QUIT, under one lock. |epoch| is odd while batches count: a batch is kept when it began and ended in
 * the same odd epoch, and an epoch is opened only after every lane has finished a batch and closed before any lane is
 * told to pause. So a batch that counts had every neighbour running from its beginning to its end. */
#include "measure/runner.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "os/clock.h"

enum { PAUSE, RUN, QUIT, SAMPLES_MAX = 4096, WARM = 3 };
enum { SOLO, TOGETHER, WAYS };
#define BATCH_TIMEOUT (60 * LET_S)

typedef struct rig_model {
  const let_engine *engine;
  let_engine_model *loaded;
} rig_model;

struct let_runner {
  let_device *device;
  const char *plugin_dir;
  const let_model *models;
  uint32_t n_models;
  rig_model *model;
};

typedef struct field field;
typedef struct lane {
  field *f;
  const let_engine *engine;
  let_gpulet *g;
  let_engine_target target;
  let_exec *x;
  const let_model *m;
  let_pinned host; /* inputs, then room for the outputs */
  pthread_t thread;
  bool threaded;
  int want; /* under the field's lock, as is all below */
  bool idle;
  uint64_t batches;
  let_err err;
  let_error error;
  uint32_t n;
  let_dur sample[SAMPLES_MAX], device[SAMPLES_MAX]; /* of this window */
  uint32_t n_all[WAYS], rounds[WAYS];
  let_dur all[WAYS][SAMPLES_MAX], middle[WAYS][LET_RUNNER_ROUNDS], middle_device[WAYS][LET_RUNNER_ROUNDS];
} lane;

struct field {
  let_device *device;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  _Atomic uint64_t epoch;
  uint32_t n;
  lane lane[LET_RUNNER_LANES_MAX];
};

let_err let_runner_open(const char *device, const char *profile_dir, const char *plugin_dir, const let_model *models,
                        uint32_t n, let_runner **ret, let_error *e) {
  let_runner *r = calloc(1, sizeof *r);
  if (r) r->model = calloc(n ? n : 1, sizeof *r->model);
  if (!r || !r->model) {
    free(r);
    return let_fail(e, LET_ERR_NOMEM, "out of memory");
  }
  r->models = models;
  r->n_models = n;
  r->plugin_dir = plugin_dir;
  let_err err = let_device_open(device, profile_dir, &r->device, e);
  if (err) {
    free(r->model);
    free(r);
    return err;
  }
  *ret = r;
  return LET_OK;
}

void let_runner_close(let_runner *r) {
  if (!r) return;
  for (uint32_t i = 0; i < r->n_models; i++)
    if (r->model[i].loaded) r->model[i].engine->unload(r->model[i].loaded);
  r->device->i->close_device(r->device);
  free(r->model);
  free(r);
}

const let_device_type *let_runner_type(const let_runner *r) { return r->device->i->type(r->device); }

static let_err need(let_runner *r, uint32_t model, int cuda, let_error *e) {
  rig_model *m = &r->model[model];
  if (m->loaded) return LET_OK;
  let_err err = let_engine_open(r->models[model].backend, r->plugin_dir, &m->engine, e);
  return err ? err : m->engine->load(&r->models[model], cuda, &m->loaded, e);
}

/* Values that a model can meet: floats in (-1, 1), integers 0 and 1 (legal as token, mask and index alike). Zeros
 * alone would flatter: they draw less power. */
static void fill(const let_exec_tensor *t, uint64_t bytes, char *to, let_rng *rng) {
  for (uint64_t i = 0; i < bytes;) {
    uint64_t x = let_rng_u64(rng);
    float f = (float)(x >> 40) / (float)(1 << 23) - 1;
    double d = f;
    uint16_t half = (uint16_t)((x & 0x8000) | 0x3800 | (x >> 20 & 0x3ff)),
             bf = (uint16_t)((x & 0x8000) | 0x3f00 | (x >> 20 & 0x7f));
    uint64_t bit = x >> 63;
    uint32_t size = let_dtype_size((let_dtype)t->dtype);
    const void *from = t->dtype == LET_DTYPE_FP32   ? (const void *)&f
                       : t->dtype == LET_DTYPE_FP64 ? (const void *)&d
                       : t->dtype == LET_DTYPE_FP16 ? (const void *)&half
                       : t->dtype == LET_DTYPE_BF16 ? (const void *)&bf
                                                    : (const void *)&bit;
    if (!size) size = 1;
    if (size > bytes - i) size = (uint32_t)(bytes - i);
    memcpy(to + i, from, size);
    i += size;
  }
}

static uint64_t tensor_bytes(const lane *l, const let_exec_tensor *t) {
  return t->row_bytes * (l->m->max_batch ? l->x->size : 1);
}

static let_err batch(lane *l, let_dur *ret, let_dur *ret_device, let_error *e) {
  const let_device_i *d = l->f->device->i;
  let_time begin = let_now(), started, finished;
  char *at = l->host.p;
  let_err err = LET_OK;
  for (unsigned k = 0; !err && k < l->x->n_in; k++) {
    uint64_t n = tensor_bytes(l, &l->x->in[k]);
    err = d->copy_in(l->g, l->x->in[k].data, at, n, e);
    at += (n + 63) & ~(uint64_t)63;
  }
  if (!err) err = d->launch(l->g, l->x, e);
  for (unsigned k = 0; !err && k < l->x->n_out; k++) {
    uint64_t n = tensor_bytes(l, &l->x->out[k]);
    err = d->copy_out(l->g, at, l->x->out[k].data, n, e);
    at += (n + 63) & ~(uint64_t)63;
  }
  if (!err) err = d->mark(l->g, 0, e);
  if (!err) err = d->wait(l->g, 0, BATCH_TIMEOUT, &started, &finished, e);
  if (!err) {
    *ret = finished - begin;
    *ret_device = finished - started;
  }
  return err;
}

static void *work(void *user) {
  lane *l = user;
  field *f = l->f;
  let_error e = {0};
  let_err err = f->device->i->enter(l->g, &e);
  if (!err) err = l->engine->enter(&l->target, &e);
  pthread_mutex_lock(&f->lock);
  while (!err) {
    l->idle = l->want == PAUSE;
    pthread_cond_broadcast(&f->changed);
    if (l->want == QUIT) break;
    if (l->want == PAUSE) {
      pthread_cond_wait(&f->changed, &f->lock);
      continue;
    }
    pthread_mutex_unlock(&f->lock);
    uint64_t epoch = atomic_load(&f->epoch);
    let_dur took = 0, device = 0;
    err = batch(l, &took, &device, &e);
    pthread_mutex_lock(&f->lock);
    l->batches++;
    if (!err && (epoch & 1) && epoch == atomic_load(&f->epoch) && l->n < SAMPLES_MAX) {
      l->device[l->n] = device;
      l->sample[l->n++] = took;
    }
  }
  l->err = err;
  l->error = e;
  l->idle = true;
  pthread_cond_broadcast(&f->changed);
  pthread_mutex_unlock(&f->lock);
  return NULL;
}

/* An eager model has its first outputs after its first run. */
static let_err host_memory(lane *l, let_error *e) {
  uint64_t bytes = 0;
  for (unsigned k = 0; k < l->x->n_in; k++) bytes += (tensor_bytes(l, &l->x->in[k]) + 63) & ~(uint64_t)63;
  for (unsigned k = 0; k < l->x->n_out; k++) bytes += (tensor_bytes(l, &l->x->out[k]) + 63) & ~(uint64_t)63;
  let_err err = let_pinned_reserve(l->f->device, &l->host, bytes, e);
  if (err) return err;
  let_rng rng;
  let_rng_seed(&rng, 1);
  char *at = l->host.p;
  for (unsigned k = 0; k < l->x->n_in; k++) {
    uint64_t n = tensor_bytes(l, &l->x->in[k]);
    fill(&l->x->in[k], n, at, &rng);
    at += (n + 63) & ~(uint64_t)63;
  }
  return LET_OK;
}

static let_err open_lane(let_runner *r, field *f, uint32_t i, const let_runner_lane *want, let_runner_result *ret,
                         let_error *e) {
  lane *l = &f->lane[i];
  const let_device_type *type = let_runner_type(r);
  l->f = f;
  l->m = &r->models[want->model];
  let_err err = r->device->i->open(r->device, i, want->first, want->granules, false, &l->g, e);
  (void)type;
  if (err) return err;
  if ((err = r->device->i->timing_exact(l->g, e)) != LET_OK) return err;
  r->device->i->target(l->g, &l->target);
  if ((err = need(r, want->model, l->target.cuda, e)) != LET_OK) return err;
  l->engine = r->model[want->model].engine;
  if ((err = l->engine->prepare(r->model[want->model].loaded, &l->target, want->batch, 0, &l->x, &ret->note, e)) !=
      LET_OK)
    return err;
  l->x->model = l->m->name; /* simulated devices ask for it */
  if (l->x->dynamic)
    return let_fail(e, LET_ERR_UNSUPPORTED,
                    "model '%s' has dimensions that vary from request to request: its latency has no single value",
                    l->m->name);
  ret->memory_bytes = l->engine->weights_bytes(r->model[want->model].loaded) + l->x->memory_bytes;
  if ((err = host_memory(l, e)) != LET_OK) return err;
  if (pthread_create(&l->thread, NULL, work, l)) return let_fail(e, LET_ERR_NOMEM, "cannot start a thread");
  l->threaded = true;
  return LET_OK;
}

static void close_field(field *f) {
  pthread_mutex_lock(&f->lock);
  for (uint32_t i = 0; i < f->n; i++) f->lane[i].want = QUIT;
  pthread_cond_broadcast(&f->changed);
  pthread_mutex_unlock(&f->lock);
  for (uint32_t i = 0; i < f->n; i++) {
    lane *l = &f->lane[i];
    if (l->threaded) pthread_join(l->thread, NULL);
    if (l->x) l->engine->discard(l->x);
    let_pinned_free(f->device, &l->host);
    if (l->g) f->device->i->close(l->g);
  }
  pthread_cond_destroy(&f->changed);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

static let_err failure(field *f, let_error *e) {
  for (uint32_t i = 0; i < f->n; i++) {
    if (!f->lane[i].err) continue;
    let_fail(e, f->lane[i].err, "model '%s': %s", f->lane[i].m->name, f->lane[i].error.text);
    return f->lane[i].err;
  }
  return LET_OK;
}

static int by_dur(const void *a, const void *b) {
  return (*(const let_dur *)a > *(const let_dur *)b) - (*(const let_dur *)a < *(const let_dur *)b);
}

/* What a window brought: all of its batches, and the one in the middle. */
static void keep(lane *l, int way) {
  if (!l->n) return;
  for (uint32_t i = 0; i < l->n && l->n_all[way] < SAMPLES_MAX; i++) l->all[way][l->n_all[way]++] = l->sample[i];
  qsort(l->sample, l->n, sizeof *l->sample, by_dur);
  qsort(l->device, l->n, sizeof *l->device, by_dur);
  l->middle[way][l->rounds[way]] = l->sample[l->n / 2];
  l->middle_device[way][l->rounds[way]++] = l->device[l->n / 2];
}

/* Lanes whose bit is set run for a window; the others pause. |parts|: of a measurement that takes so many windows. */
static let_err window(field *f, unsigned set, int way, let_dur length, uint32_t parts, let_error *e) {
  pthread_mutex_lock(&f->lock);
  let_time begin = let_now();
  for (uint32_t i = 0; i < f->n; i++) {
    f->lane[i].n = 0;
    f->lane[i].batches = 0;
    f->lane[i].want = set >> i & 1 ? RUN : PAUSE;
  }
  pthread_cond_broadcast(&f->changed);
  for (;;) {
    bool warm = true, failed = false;
    for (uint32_t i = 0; i < f->n; i++) {
      if (set >> i & 1) warm &= f->lane[i].batches >= WARM;
      else warm &= f->lane[i].idle;
      failed |= f->lane[i].err != 0;
    }
    if (warm || failed) break;
    pthread_cond_wait(&f->changed, &f->lock);
  }
  let_dur warming = let_now() - begin; /* at least WARM batches of the slowest lane */
  let_dur span = warming * 8 > length ? warming * 8 : length;
  if (span > 10 * length) span = 10 * length;
  span /= parts;
  if (span < 2 * warming / WARM) span = 2 * warming / WARM; /* one whole batch at least */
  pthread_mutex_unlock(&f->lock);
  atomic_fetch_add(&f->epoch, 1);
  let_sleep_until(let_now() + span);
  atomic_fetch_add(&f->epoch, 1);
  pthread_mutex_lock(&f->lock);
  for (uint32_t i = 0; i < f->n; i++) f->lane[i].want = PAUSE;
  pthread_cond_broadcast(&f->changed);
  for (uint32_t i = 0; i < f->n; i++)
    while (!f->lane[i].idle) pthread_cond_wait(&f->changed, &f->lock);
  let_err err = failure(f, e);
  for (uint32_t i = 0; i < f->n && !err; i++)
    if (set >> i & 1) keep(&f->lane[i], way);
  pthread_mutex_unlock(&f->lock);
  return err;
}

static double middle_ms(let_dur *v, uint32_t n) {
  qsort(v, n, sizeof *v, by_dur);
  return (double)v[n / 2] / 1e6;
}

static let_err times(lane *l, int way, let_runner_times *ret, let_error *e) {
  uint32_t n = l->n_all[way];
  if (!n)
    return let_fail(e, LET_ERR_DEADLINE, "model '%s': no batch of %u fitted into the measuring window", l->m->name,
                    l->x->size);
  qsort(l->all[way], n, sizeof **l->all, by_dur);
  *ret = (let_runner_times){.n = n,
                            .p50_ms = middle_ms(l->middle[way], l->rounds[way]),
                            .p99_ms = (double)l->all[way][(n - 1) * 99 / 100] / 1e6,
                            .device_ms = middle_ms(l->middle_device[way], l->rounds[way])};
  if (ret->p99_ms < ret->p50_ms) ret->p99_ms = ret->p50_ms; /* a round that most batches are not of */
  return LET_OK;
}

let_err let_runner_run(let_runner *r, const let_runner_lane *want, uint32_t n, let_dur length, let_runner_result *ret,
                       let_error *e) {
  LET_ASSERT(n >= 1 && n <= LET_RUNNER_LANES_MAX);
  field *f = calloc(1, sizeof *f);
  if (!f) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  f->device = r->device;
  f->n = n;
  pthread_mutex_init(&f->lock, NULL);
  pthread_cond_init(&f->changed, NULL);
  memset(ret, 0, n * sizeof *ret);
  let_err err = LET_OK;
  for (uint32_t i = 0; !err && i < n; i++) err = open_lane(r, f, i, &want[i], &ret[i], e);
  uint32_t rounds = n > 1 ? LET_RUNNER_ROUNDS : 1;
  for (uint32_t k = 0; !err && k < rounds; k++) {
    for (uint32_t i = 0; !err && i < n; i++) err = window(f, 1u << i, SOLO, length, rounds, e);
    if (!err && n > 1) err = window(f, (1u << n) - 1, TOGETHER, length, rounds, e);
  }
  if (!err && n == 1 && !f->lane[0].n_all[SOLO])
    err = window(f, 1, SOLO, 20 * length, 1, e); /* a very slow batch: all the time it needs */
  for (uint32_t i = 0; !err && i < n; i++) {
    err = times(&f->lane[i], SOLO, &ret[i].solo, e);
    if (!err && n > 1) err = times(&f->lane[i], TOGETHER, &ret[i].together, e);
  }
  close_field(f);
  return err;
}
