/* What a device's content really does: interference of what runs together, SLOs, memory, bandwidth. */
#include <math.h>

#include "plan/optimal.h"

static let_tenant tenant(const let__kind *k, const let__item *x) {
  return (let_tenant){.model = k->at[x->model], .batch = x->batch, .granules = x->granules, .busy = 1};
}

/* As let__plan_latency judges it: of each other gpu-let the entry that alone slows |self| most. */
static double slowdown(const let__kind *k, const let__item *item, uint32_t n, uint32_t self) {
  if (k->alone) return 1;
  let_tenant me = tenant(k, &item[self]), other[LET__ITEMS];
  uint32_t n_other = 0;
  for (uint32_t i = 0; i < n;) {
    uint32_t end = i + 1, at = i;
    while (end < n && item[end].slot == item[i].slot) end++;
    if (item[i].slot != item[self].slot) {
      double worst = -1;
      for (uint32_t j = i; end - i > 1 && j < end; j++) {
        let_tenant t = tenant(k, &item[j]);
        double s = let_profile_slowdown(k->profile, &me, &t, 1);
        if (s > worst) worst = s, at = j;
      }
      other[n_other++] = tenant(k, &item[at]);
    }
    i = end;
  }
  return n_other ? let_profile_slowdown(k->profile, &me, other, n_other) : 1;
}

bool let__evaluate(const let__problem *p, uint32_t kind, let__item *item, uint32_t n, uint32_t *ret_bad) {
  const let__kind *k = &p->kind[kind];
  uint64_t memory = 0;
  uint32_t biggest = 0;
  uint64_t most = 0;
  bool holds = true;
  for (uint32_t i = 0; i < n; i++) {
    item[i].lat = let__plan_slow(let__lat(k, item[i].model, item[i].batch, item[i].granules), slowdown(k, item, n, i));
    uint64_t bytes = let_profile_memory(k->profile, k->at[item[i].model], item[i].batch);
    memory += bytes;
    if (bytes > most) most = bytes, biggest = i;
  }
  for (uint32_t i = 0; i < n;) {
    let_dur cycle = 0;
    uint32_t end = i, longest = i;
    bool fits = true;
    for (; end < n && item[end].slot == item[i].slot; end++) {
      cycle += item[end].lat;
      if (item[end].lat > item[longest].lat) longest = end;
    }
    for (uint32_t j = i; j < end; j++) {
      if (cycle + item[j].lat > p->model[item[j].model].slo) fits = false;
      item[j].cap = (double)item[j].batch / (double)cycle * 1e9;
    }
    if (!fits && holds) holds = false, *ret_bad = longest;
    i = end;
  }
  if (holds && k->profile->device.memory_bytes && memory > k->profile->device.memory_bytes)
    holds = false, *ret_bad = biggest;
  return holds;
}

uint32_t let__mend(const let__problem *p, uint32_t kind, let__item *item, uint32_t n) {
  const let__kind *k = &p->kind[kind];
  uint32_t bad = 0;
  while (n && !let__evaluate(p, kind, item, n, &bad)) {
    if (item[bad].batch > 1 && item[bad].lat < LET_NEVER / 4) {
      item[bad].batch -= 1 + item[bad].batch / 32;
      continue;
    }
    for (uint32_t i = bad; i + 1 < n; i++) item[i] = item[i + 1];
    n--;
  }
  uint16_t slot = 0, last = n ? item[0].slot : 0;
  for (uint32_t i = 0; i < n; i++) { /* a gpu-let may have lost all its models */
    if (item[i].slot != last) slot++, last = item[i].slot;
    item[i].slot = slot;
  }
  double wire = k->profile->device.bandwidth, bytes = 0;
  for (uint32_t i = 0; i < n; i++) bytes += item[i].cap * (double)k->profile->model[k->at[item[i].model]].input_bytes;
  if (wire > 0 && bytes > wire)
    for (uint32_t i = 0; i < n; i++) item[i].cap *= wire / bytes;
  return n;
}
