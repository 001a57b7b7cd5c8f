#include "cmd/plan_print.h"

#include <math.h>
#include <stdio.h>

#include "base/units.h"

static double percent(const let_plan_gpu *g, const let_plan_gpulet *l) {
  return g->granules ? 100.0 * l->granules / g->granules : 0;
}

static int name_width(const let_plan *p) {
  size_t w = strlen("model");
  for (uint32_t i = 0; i < p->n_gpus; i++)
    for (uint32_t l = 0; l < p->gpu[i].n_gpulets; l++)
      for (uint32_t k = 0; k < p->gpu[i].gpulet[l].n_entries; k++) {
        size_t n = strlen(p->gpu[i].gpulet[l].entry[k].name);
        if (n > w) w = n;
      }
  return (int)w;
}

static void table(const let_plan *p, let_buf *out) {
  int w = name_width(p);
  let_buf_fmt(out, "%5s  %-10s %8s %6s  %-*s %5s %10s %11s %11s\n", "gpu", "type", "granules", "share", w, "model",
              "batch", "rate/s", "latency", "SLO");
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    const let_plan_gpu *g = &p->gpu[i];
    for (uint32_t l = 0; l < g->n_gpulets; l++)
      for (uint32_t k = 0; k < g->gpulet[l].n_entries; k++) {
        const let_plan_gpulet *t = &g->gpulet[l];
        const let_plan_entry *m = &t->entry[k];
        char a[LET_UNITS_MAX], b[LET_UNITS_MAX], id[16] = "", granules[16] = "", share[16] = "";
        if (l == 0 && k == 0) snprintf(id, sizeof id, "%u", g->id);
        if (k == 0) {
          snprintf(granules, sizeof granules, "%u", t->granules);
          snprintf(share, sizeof share, "%.4g%%", percent(g, t));
        }
        let_buf_fmt(out, "%5s  %-10s %8s %6s  %-*s %5u %10.6g %11s %11s\n", id, id[0] ? g->type : "", granules, share,
                    w, m->name, m->batch, m->rate, let_print_dur(m->latency, a), let_print_dur(m->slo, b));
      }
  }
}

/* One gpu-let's stretch of the bar: its models' names, cut to fit, between bars. */
static void stretch(const let_plan_gpulet *t, uint32_t columns, unsigned colour, let_buf *out) {
  static const unsigned palette[] = {42, 44, 45, 46, 43, 41};
  char text[512];
  size_t n = 0;
  uint32_t n_entries = t ? t->n_entries : 0;
  for (uint32_t k = 0; k < n_entries && n < sizeof text - 1; k++)
    n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", k ? "+" : "", t->entry[k].name);
  if (n >= sizeof text) n = sizeof text - 1;
  if (colour) let_buf_fmt(out, "\033[30;%um", palette[(colour - 1) % 6]);
  for (uint32_t c = 0; c + 1 < columns; c++) {
    char ch = t ? (c < n ? text[c] : ' ') : '.';
    let_buf_add(out, &ch, 1);
  }
  if (colour) let_buf_str(out, "\033[0m");
  if (columns) let_buf_str(out, "|");
}

static void picture_shared(const let_plan_gpu *g, uint32_t bar, bool colour, let_buf *out) {
  for (uint32_t l = 0; l < g->n_gpulets; l++) {
    if (l) let_buf_fmt(out, "%9s|", "");
    stretch(&g->gpulet[l], bar, colour ? l + 1 : 0, out);
    let_buf_str(out, "\n");
  }
}

static void picture(const let_plan_gpu *g, uint32_t width, bool colour, let_buf *out) {
  uint32_t room = width > 20 ? width - 11 : 10, bar = room;
  if (g->granules && g->granules <= room) bar = room / g->granules * g->granules; /* every granule equally wide */
  let_buf_fmt(out, "gpu %4u |", g->id);
  bool shared = false;
  for (uint32_t l = 0; l < g->n_gpulets; l++) shared |= g->gpulet[l].shared;
  if (shared) return picture_shared(g, bar, colour, out);
  for (uint32_t at = 0; at < g->granules;) {
    const let_plan_gpulet *t = NULL;
    uint32_t end = g->granules, number = 0;
    for (uint32_t l = 0; l < g->n_gpulets; l++) {
      const let_plan_gpulet *x = &g->gpulet[l];
      if (x->first == at && x->granules) {
        t = x;
        number = l + 1;
      } else if (x->first > at && x->first < end) end = x->first;
    }
    if (t) end = t->first + t->granules;
    if (end > g->granules) end = g->granules;
    stretch(t, (uint32_t)((uint64_t)end * bar / g->granules - (uint64_t)at * bar / g->granules),
            colour && t ? number : 0, out);
    at = end;
  }
  let_buf_str(out, "\n");
}

void let_plan_print(const let_plan *p, uint32_t width, bool colour, let_buf *out) {
  enum { PICTURES = 64 };
  if (p->n_gpus) {
    table(p, out);
    let_buf_str(out, "\n");
  }
  for (uint32_t i = 0; i < p->n_gpus && i < PICTURES; i++) picture(&p->gpu[i], width, colour, out);
  if (p->n_gpus > PICTURES) let_buf_fmt(out, "and %u more\n", p->n_gpus - PICTURES);
  if (p->n_gpus) let_buf_str(out, "\n");
  let_buf_fmt(out, "%s: %s, %u gpu%s", p->policy, p->feasible ? "feasible" : "not feasible", p->gpus_used,
              p->gpus_used == 1 ? "" : "s");
  if (p->lower_bound > 0) {
    double least = ceil(p->lower_bound - 1e-6), used = p->cost > 0 ? p->cost : p->gpus_used;
    let_buf_fmt(out, " (cost %.4g; no plan costs less than %.4g", used, p->lower_bound);
    if (p->feasible && used <= least + 1e-9) let_buf_str(out, ": this one is optimal");
    else if (p->feasible) let_buf_fmt(out, ": at most %.1f %% above the optimum", 100 * (used / least - 1));
    let_buf_str(out, ")");
  }
  let_buf_fmt(out, ", planned in %.2f ms\n", p->time_ms);
  for (uint32_t i = 0; i < p->n_reasons; i++) let_buf_fmt(out, "- %s\n", p->reason[i]);
}

void let_plan_print_glet(const let_plan *p, let_buf *out) {
  for (uint32_t i = 0; i < p->n_gpus; i++) {
    const let_plan_gpu *g = &p->gpu[i];
    double left = 100;
    for (uint32_t l = 0; l < g->n_gpulets; l++) {
      const let_plan_gpulet *t = &g->gpulet[l];
      uint32_t twin = 0; /* dedup tells gpu-lets of the same size apart */
      let_dur cycle = 0;
      for (uint32_t o = 0; o < l; o++) twin += g->gpulet[o].granules == t->granules;
      for (uint32_t k = 0; k < t->n_entries; k++) cycle += t->entry[k].latency;
      for (uint32_t k = 0; k < t->n_entries; k++)
        let_buf_fmt(out, "%u,%.0f,%u,%s,%u,%.6f\n", g->id, percent(g, t), twin, t->entry[k].name, t->entry[k].batch,
                    (double)cycle / 1e6);
      left -= t->shared ? 0 : percent(g, t);
    }
    if (left >= 0.5) let_buf_fmt(out, "%u,%.0f,0,reserved,32,0.000000\n", g->id, left);
  }
}
