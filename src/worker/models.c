#include <stdlib.h>
#include <string.h>

#include "engine/open.h"
#include "worker/worker_int.h"

bool let__simulated(const let__worker *w) { return strcmp(w->view.device->i->name, "sim") == 0; }

static let_err load(let__worker *w, let__loaded *l, let_error *e) {
  let_err r = LET_OK;
  /* A simulated device has no arithmetic: every model answers as the null engine does. */
  if (let__simulated(w)) l->engine = let_engine_null();
  else r = let_engine_open(l->m.backend, w->plugin_dir, &l->engine, e);
  let_engine_target t = {.cuda = -1};
  if (!r && strncmp(w->device_name, "cuda:", 5) == 0) t.cuda = atoi(w->device_name + 5);
  if (!r) r = l->engine->load(&l->m, t.cuda, &l->em, e);
  return r;
}

let_err let__model_load(let__worker *w, const let_model *m, let__loaded **ret, let_error *e) {
  let__loaded *l = w->loaded;
  while (l && memcmp(&l->m, m, sizeof *m) != 0) l = l->next;
  if (!l) {
    if (!(l = calloc(1, sizeof *l))) return let_fail(e, LET_ERR_NOMEM, "out of memory for model '%s'", m->name);
    memcpy(&l->m, m, sizeof *m); /* padding too: compared byte by byte above */
    l->next = w->loaded;
    w->loaded = l;
  }
  let_err r = l->em ? LET_OK : load(w, l, e);
  if (r) return r;
  l->refs++;
  *ret = l;
  return LET_OK;
}

void let__model_drop(let__loaded *l) {
  if (!l || --l->refs) return;
  l->engine->unload(l->em);
  l->em = NULL;
}

static let__cached_latency *find(const let__loaded *l, uint32_t size, uint32_t granules, bool shared) {
  for (uint32_t i = 0; i < l->n_cached && i < LET__LATENCY_CACHE_MAX; i++) {
    const let__cached_latency *k = &l->latency_cache[i];
    if (k->size == size && k->granules == granules && k->shared == shared) return (let__cached_latency *)(uintptr_t)k;
  }
  return NULL;
}

const let__cached_latency *let__model_latency(const let__loaded *l, uint32_t size, uint32_t granules, bool shared) {
  return find(l, size, granules, shared);
}

void let__model_note(let__loaded *l, uint32_t granules, bool shared, const let__batch_variant *v) {
  let__cached_latency *k = find(l, v->size, granules, shared);
  if (k && !k->beside && v->beside) return;
  if (k && k->beside && v->beside && k->p50 <= v->p50) return;
  if (!k) k = &l->latency_cache[l->n_cached++ % LET__LATENCY_CACHE_MAX];
  *k = (let__cached_latency){
      .size = v->size, .granules = granules, .shared = shared, .beside = v->beside, .p50 = v->p50, .p99 = v->p99};
}
