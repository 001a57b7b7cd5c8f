/* bring_up.c: the steps of a lane set: open, load, prepare and measure; the same for further sizes beside the lane that
 * serves; and its frees, one by one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "os/clock.h"
#include "worker/worker_int.h"

/* ---- what the server asks for -------------------------------------------------------------------------------- */

static let_err take_lane(const let_ipc_lane *from, let__lane *l, let_error *e) {
  l->gpulet = from->gpulet;
  l->first = from->first;
  l->granules = from->granules;
  l->shared = from->shared;
  l->cost = from->cost;
  l->model = calloc(from->n_models, sizeof *l->model);
  if (!l->model) return let_fail(e, LET_ERR_NOMEM, "out of memory for %u models", from->n_models);
  l->n_models = from->n_models;
  for (uint32_t i = 0; i < from->n_models; i++) {
    const let_ipc_variant *v = &from->model[i];
    let__lane_model *m = &l->model[i];
    m->n_sizes = v->n_sizes;
    memcpy(m->size, v->size, sizeof m->size);
    m->needed = v->needed;
    m->slo = v->slo;
    m->planned = v->planned;
  }
  return LET_OK;
}

/* Cheap lanes come first: most of them serve again long before the dearest is ready. Lanes of unknown cost come before
 * them; equal ones keep their order. */
static void sort(let__lane_set *set) {
  for (uint32_t i = 0; i < set->n; i++) {
    uint32_t k = i;
    for (; k > 0 && set->lane[set->order[k - 1]].cost > set->lane[i].cost; k--) set->order[k] = set->order[k - 1];
    set->order[k] = i;
  }
}

let_err let__lane_set_new(let__worker *w, let_arena *a, const let_ipc_prepare *asked, int *fds, let__lane_set **ret,
                          let_error *e) {
  uint32_t n = asked->n_lanes, n_fds = 2 + n;
  let__lane_set *set = calloc(1, sizeof *set);
  let_err r = LET_OK;
  if (set) {
    set->stop_fd = -1;
    set->id = asked->set;
  }
  if (!set || !(set->lane = calloc(n, sizeof *set->lane)))
    r = let_fail(e, LET_ERR_NOMEM, "out of memory for %u lanes", n);
  else if (!(r = let_lanes_map(fds[0], n, fds + 2, fds[1], &set->lanes, e)))
    for (uint32_t i = 1; i < n_fds; i++) fds[i] = -1; /* the lanes own them now */
  for (uint32_t i = 0; i < n_fds; i++)
    if (fds[i] >= 0) close(fds[i]);
  if (!r && (set->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
    r = let_fail(e, LET_ERR_IO, "cannot create an eventfd: %s", strerror(errno));
  for (uint32_t i = 0; !r && i < n; i++) {
    let__lane *l = &set->lane[set->n++];
    *l = (let__lane){.w = &w->view, .lanes = set->lanes, .index = i, .stop_fd = set->stop_fd, .due = LET_NEVER};
    r = take_lane(&asked->lane[i], l, e);
    for (uint32_t k = 0; !r && k < l->n_models; k++) set->total += l->model[k].needed;
  }
  let_ipc_prepare *kept = r ? NULL : let_arena_alloc(a, sizeof *kept);
  if (!r && !kept) r = let_fail(e, LET_ERR_NOMEM, "out of memory for %u lanes", n);
  if (r) {
    if (set) let__lane_set_free(w, set);
    return r;
  }
  *kept = *asked;
  set->asked = kept;
  set->arena = *a;
  *a = (let_arena){.mem = a->mem};
  set->beside = asked->beside;
  sort(set);
  *ret = set;
  return LET_OK;
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

static uint64_t batches_run(const let__worker *w) {
  uint64_t n = 0;
  for (const let__lane_set *set = w->lane_sets; set; set = set->next)
    for (uint32_t i = 0; i < set->n; i++) n += atomic_load_explicit(&set->lane[i].batches, memory_order_relaxed);
  return n;
}

bool let__busy(let__worker *w) {
  uint64_t n = batches_run(w);
  let_time now = let_now();
  if (n != w->batches) w->quiet_at = now + LET_S;
  w->batches = n;
  return now < w->quiet_at;
}

static let_err open_gpulet(let__worker *w, const let__lane *l, let_gpulet **ret, uint32_t *ret_number, let_error *e) {
  if (~w->numbers == 0)
    return let_fail(e, LET_ERR_OVERLOADED, "%d gpu-lets are open on this device, as many as there can be",
                    LET__GPULETS_MAX);
  uint32_t n = (uint32_t)__builtin_ctzll(~w->numbers);
  let_err r = w->view.device->i->open(w->view.device, n, l->first, l->granules, l->shared, ret, e);
  if (r) return r;
  w->numbers |= UINT64_C(1) << n;
  *ret_number = n;
  return LET_OK;
}

static let_err load_model(let__worker *w, let__lane_set *set, const let__lane *l, let__lane_model *m, let_error *e) {
  let_model spec = *set->asked->lane[l->index].model[m - l->model].model;
  let_err r;
  memcpy(set->model, spec.name, sizeof set->model);
  if (let__simulated(w)) spec.null_us = 0; /* the profile says how long it takes */
  for (uint32_t i = 0; i < m->n_sizes; i++)
    if (spec.max_batch == 0 && m->size[i] != 1)
      return let_fail(e, LET_ERR_INVALID, "batch size %u is not possible for model '%s'", m->size[i], spec.name);
  if ((r = let__model_load(w, &spec, &m->loaded, e))) return r;
  m->m = &m->loaded->m;
  m->engine = m->loaded->engine;
  return LET_OK;
}

/* Which exec the variant under way lacks; 2: none. */
static int lacks(const let__worker *w, const let__batch_variant *v) {
  if (!v->x[0]) return 0;
  return !v->x[1] && w->view.device->i->depth > 1 && !v->x[0]->dynamic ? 1 : 2;
}

static let_err prepare(let__lane_model *m, let_gpulet *on, let__batch_variant *v, int instance, let_error *e) {
  let_engine_target t;
  const char *note = NULL;
  on->device->i->target(on, &t);
  if (instance == 0 && !m->measured) let__fault(LET__STAGE_PREPARE);
  v->size = m->size[m->next];
  let_err r = m->engine->prepare(m->loaded->em, &t, v->size, instance, &v->x[instance], &note, e);
  if (r) return r;
  v->x[instance]->model = m->m->name;
  v->dirty[instance] = v->size;
  if (note) m->note = note;
  return LET_OK;
}

typedef struct measuring {
  const let__worker_view *w;
  let_gpulet *g;
  const let_engine *engine;
  _Atomic let_time *due;
  let__batch_variant *variant;
  let__effort effort;
  let_err result;
  let_error error;
} measuring;

static void measure(void *arg) {
  measuring *x = arg;
  let_engine_target t;
  x->g->device->i->target(x->g, &t);
  x->result = x->g->device->i->enter(x->g, &x->error);
  if (!x->result) x->result = x->engine->enter(&t, &x->error);
  if (!x->result) x->result = let__measure(x->w, x->g, x->due, x->variant, x->effort, &x->error);
}

/* How long a run may take, from the sizes that are known: in proportion, and twice that. */
static let_dur expected(const let__lane_model *m, uint32_t size) {
  let_dur most = 0;
  for (uint32_t i = 0; i < let__variants(m); i++) {
    const let__batch_variant *v = &m->variant[i];
    let_dur t = 2 * v->p99 * (size > v->size ? (size + v->size - 1) / v->size : 1);
    if (t > most) most = t;
  }
  return most;
}

/* Measures the variant on |on|, in |thread|; what was measured in this process before is not measured again. Nor is
 * a latency that the plan has, while others serve: a GPU lends SMs to one gpu-let's kernel at a time, so a large batch
 * that is run to measure it holds up the small batches of the gpu-lets that serve on the same SMs. */
static let_err measure_with(let__worker *w, let__job_thread *thread, const let__lane *l, let__lane_model *m,
                            let_gpulet *on, _Atomic let_time *due, bool beside, let__batch_variant *v, let_error *e) {
  let_err r = let__job_thread_start(thread, e);
  if (r) return r;
  const let__cached_latency *cached = let__model_latency(m->loaded, v->size, l->granules, l->shared);
  bool again = cached && (!cached->beside || beside);
  v->p99 = expected(m, v->size);
  if (again) {
    v->p50 = cached->p50;
    v->p99 = cached->p99;
    v->beside = cached->beside;
  } else if (beside && m->planned && w->view.device->i->depth > 1) {
    v->beside = true;
    v->p99 = 0;
    return LET_OK;
  }
  measuring x = {.w = &w->view,
                 .g = on,
                 .engine = m->engine,
                 .due = due,
                 .variant = v,
                 .effort = again    ? LET__ONCE
                           : beside ? LET__BESIDE
                                    : LET__ALONE};
  uint64_t before = batches_run(w);
  let__job_thread_run(thread, measure, &x);
  let__job_thread_wait(thread);
  if (x.result) {
    if (e) *e = x.error;
    let_fail_prefix(e, "model '%s' at batch size %u", m->m->name, v->size);
    return x.result;
  }
  if (x.effort == LET__ALONE && batches_run(w) != before) {
    v->beside = true;
    v->p99 = v->p50; /* it was not alone after all */
  }
  if (!again && v->p50 > 0) let__model_note(m->loaded, l->granules, l->shared, v);
  return LET_OK;
}

static void publish(let__lane_model *m) {
  m->next++;
  atomic_store_explicit(&m->n_variants, let__variants(m) + 1, memory_order_release);
}

/* A single request padded to the planned batch misses the SLO (the plan promises none): the lane needs one more size
 * before it serves. */
static bool too_slow(const let__lane_model *m, const let__batch_variant *v) {
  return m->slo > 0 && !v->x[0]->dynamic && m->next == m->needed && m->needed == 1 && m->n_sizes > 1 &&
         m->size[1] < v->size && 2 * v->p50 > m->slo;
}

let_err let__bring_up(let__worker *w, let__lane_set *set, let__lane **ret_lane, let_error *e) {
  let__lane *l = &set->lane[set->order[set->up]];
  let__lane_model *m = l->model;
  let_err r;
  while (m < l->model + l->n_models && m->next >= m->needed) m++;
  *ret_lane = l;
  set->model[0] = 0;
  if (!l->g) {
    if ((r = open_gpulet(w, l, &l->g, &l->number, e))) return r;
  } else if (m == l->model + l->n_models) {
    set->up++;
    let__lane_serve(l);
    return LET_OK;
  } else if (!m->loaded) {
    set->began = let_now();
    if ((r = load_model(w, set, l, m, e))) return r;
  } else {
    let__batch_variant *v = &m->variant[let__variants(m)];
    int instance = lacks(w, v);
    if (instance < 2) {
      memcpy(set->model, m->m->name, sizeof set->model);
      if ((r = prepare(m, l->g, v, instance, e))) return r;
    } else {
      if ((r = measure_with(w, &l->thread, l, m, l->g, &l->due, set->beside || let__busy(w), v, e))) return r;
      publish(m);
      memcpy(set->model, m->m->name, sizeof set->model);
      set->done++;
      if (too_slow(m, v)) {
        m->needed++;
        set->total++;
      }
      m->took = let_now() - set->began;
    }
  }
  *ret_lane = NULL;
  return LET_OK;
}

/* ---- adding sizes --------------------------------------------------------------------------------------------- */

/* Every model gets its next size before any gets the one after. */
static let__lane_model *next_size(const let__lane_set *set, let__lane **ret_lane) {
  let__lane_model *best = NULL;
  for (uint32_t i = 0; i < set->up; i++) {
    let__lane *l = &set->lane[set->order[i]];
    for (uint32_t k = 0; k < l->n_models; k++) {
      let__lane_model *m = &l->model[k];
      if (m->next < m->n_sizes && (!best || m->next < best->next)) {
        best = m;
        *ret_lane = l;
      }
    }
  }
  return best;
}

bool let__warming(const let__lane_set *set) {
  let__lane *l;
  return set->up == set->n && next_size(set, &l);
}

static void discard(const let__lane_model *m, let__batch_variant *v) {
  for (int x = 0; x < 2; x++)
    if (v->x[x]) m->engine->discard(v->x[x]);
  memset(v, 0, sizeof *v);
}

static bool scarce(let_err r) { return r == LET_ERR_NOMEM || r == LET_ERR_OVERLOADED; }

static void free_scratch_graph(let__lane *l) {
  if (l->scratch_graph) l->scratch_engine->discard(l->scratch_graph);
  l->scratch_graph = NULL;
}

static let_err prepare_more(let__lane *l, let__lane_model *m, let_gpulet *on, let__batch_variant *v, int instance,
                            let_error *e) {
  let_err r = prepare(m, on, v, instance, e);
  if (!scarce(r) || !l->scratch_graph) return r;
  free_scratch_graph(l);
  return prepare(m, on, v, instance, e);
}

/* Keeps what the scratch gpu-let measured; its graph never serves. */
static void measured(let__lane *l, let__lane_model *m, let__batch_variant *v) {
  m->measured = true;
  if (!v->x[0]->n_graphs) return;
  free_scratch_graph(l);
  l->scratch_graph = v->x[0];
  l->scratch_engine = m->engine;
  v->x[0] = NULL;
}

static bool lane_warming(const let__lane *l) {
  for (uint32_t k = 0; k < l->n_models; k++)
    if (l->model[k].next < l->model[k].n_sizes) return true;
  return false;
}

static let_err add_size(let__worker *w, const let__lane_set *set, let__lane *l, let__lane_model *m,
                        let__batch_variant *v, uint32_t *ret_size, let_error *e) {
  if (!l->scratch_gpulet) return open_gpulet(w, l, &l->scratch_gpulet, &l->scratch_number, e);
  if (!m->measured && !v->x[0]) return prepare_more(l, m, l->scratch_gpulet, v, 0, e);
  if (!m->measured) {
    let_err r = measure_with(w, &w->prober, l, m, l->scratch_gpulet, &w->prober_due, set->beside || let__busy(w), v, e);
    if (!r) measured(l, m, v);
    return r;
  }
  int instance = lacks(w, v);
  if (instance < 2) return prepare_more(l, m, v->x[0] && !v->x[0]->n_graphs ? l->scratch_gpulet : l->g, v, instance, e);
  *ret_size = v->size;
  m->measured = false;
  publish(m);
  if (!lane_warming(l)) free_scratch_graph(l);
  return LET_OK;
}

let_err let__add_size(let__worker *w, let__lane_set *set, let__lane **ret_lane, uint32_t *ret_model, uint32_t *ret_size,
                      let_error *e) {
  let__lane *l = NULL;
  let__lane_model *m = next_size(set, &l);
  let__batch_variant *v = &m->variant[let__variants(m)];
  *ret_lane = l;
  *ret_model = (uint32_t)(m - l->model);
  *ret_size = 0;
  let_err r = add_size(w, set, l, m, v, ret_size, e);
  if (r == LET_ERR_GPULET || r == LET_ERR_DEVICE)
    return r; /* the launched work may still run: nothing of it is freed */
  if (!r) return LET_OK;
  discard(m, v);
  m->measured = false;
  /* Another lane set is about to be retired: its memory will do. */
  if (scarce(r) && w->lane_sets->next) return LET_ERR_AGAIN;
  *ret_size = m->size[m->next++];
  if (!lane_warming(l)) free_scratch_graph(l);
  return r;
}

/* ---- the end -------------------------------------------------------------------------------------------------- */

void let__lane_set_halt(let__lane_set *set) {
  uint64_t one = 1;
  if (!set) return;
  if (set->stop_fd >= 0) (void)!write(set->stop_fd, &one, sizeof one);
  for (uint32_t i = 0; i < set->n; i++) let__lane_join(&set->lane[i]);
  let_lanes_free(set->lanes);
  if (set->stop_fd >= 0) close(set->stop_fd);
  let_arena_fini(&set->arena);
  set->lanes = NULL;
  set->stop_fd = -1;
  set->asked = NULL;
}

static bool free_exec(let__lane_model *m) {
  for (uint32_t v = LET_SIZES_MAX; v-- > 0;)
    for (int x = 2; x-- > 0;)
      if (m->variant[v].x[x]) {
        m->engine->discard(m->variant[v].x[x]);
        m->variant[v].x[x] = NULL;
        return true;
      }
  return false;
}

static void close_gpulet(let__worker *w, let_gpulet **g, uint32_t number) {
  w->view.device->i->close(*g);
  w->numbers &= ~(UINT64_C(1) << number);
  *g = NULL;
}

static bool free_of_lane(let__worker *w, let__lane *l) {
  if (l->scratch_graph) {
    free_scratch_graph(l);
    return true;
  }
  for (uint32_t k = 0; k < l->n_models; k++)
    if (free_exec(&l->model[k])) return true;
  for (uint32_t k = 0; k < l->n_models; k++)
    if (l->model[k].loaded) {
      let__model_drop(l->model[k].loaded);
      l->model[k].loaded = NULL;
      return true;
    }
  if (l->scratch_gpulet) {
    close_gpulet(w, &l->scratch_gpulet, l->scratch_number);
    return true;
  }
  if (l->g) {
    close_gpulet(w, &l->g, l->number);
    return true;
  }
  return false;
}

bool let__lane_set_free_step(let__worker *w, let__lane_set *set) {
  for (uint32_t i = 0; i < set->n; i++)
    if (free_of_lane(w, &set->lane[i])) return true;
  for (uint32_t i = 0; i < set->n; i++) free(set->lane[i].model);
  free(set->lane);
  free(set);
  return false;
}

void let__lane_set_free(let__worker *w, let__lane_set *set) {
  let__lane_set_halt(set);
  while (set && let__lane_set_free_step(w, set)) {}
}
