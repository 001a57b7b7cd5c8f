#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "profile/yaml.h"

/* Shortest of %.9g: saving and loading again gives the same number to well below any measurement. */
static void number(let_buf *b, double v) { let_buf_fmt(b, "%.9g", v); }

static let_err write_file(const char *dir, const char *name, const let_buf *b, let_error *e) {
  char path[4096], tmp[4096 + 8];
  int len = snprintf(path, sizeof path, "%s/%s", dir, name);
  if (len < 0 || (size_t)len >= sizeof path) return let_fail(e, LET_ERR_INVALID, "the path of %s is too long", name);
  if (b->failed) return let_fail(e, LET_ERR_NOMEM, "out of memory while writing %s", path);
  snprintf(tmp, sizeof tmp, "%s.new", path);
  FILE *f = fopen(tmp, "wb");
  if (!f) return let_fail(e, LET_ERR_IO, "%s: %s", tmp, strerror(errno));
  bool ok = fwrite(b->p, 1, b->n, f) == b->n && fflush(f) == 0;
  ok &= fclose(f) == 0;
  if (ok && rename(tmp, path) == 0) return LET_OK;
  let_err r = let_fail(e, LET_ERR_IO, "%s: %s", path, strerror(errno));
  unlink(tmp);
  return r;
}

static void device_text(let_buf *b, const let_device_type *d, const char *comment) {
  for (const char *s = comment; s && *s;) {
    size_t n = strcspn(s, "\n");
    let_buf_fmt(b, "# %.*s\n", (int)n, s);
    s += n + (s[n] == '\n');
  }
  let_buf_fmt(b, "type: %s\nsms: %u\ngranules: %u\ngranule_sms: %u\n", d->name, d->sms, d->granules, d->granule_sms);
  if (d->last_granule_sms && d->last_granule_sms != d->granule_sms)
    let_buf_fmt(b, "last_granule_sms: %u\n", d->last_granule_sms);
  let_buf_str(b, "memory_mib: ");
  number(b, (double)d->memory_bytes / 0x1p20);
  let_buf_str(b, "\n");
  if (d->cost != 1 && d->cost > 0) let_buf_str(b, "cost: "), number(b, d->cost), let_buf_str(b, "\n");
  if (d->bandwidth > 0) let_buf_str(b, "bandwidth_mib_s: "), number(b, d->bandwidth / 0x1p20), let_buf_str(b, "\n");
}

static void latency_text(let_buf *b, const let_profile *p) {
  let_buf_str(b, "model,batch,granules,p50_ms,p99_ms\n");
  for (uint32_t m = 0; m < p->n_models; m++)
    for (uint32_t i = 0; i < p->model[m].n_cells; i++) {
      const let_cell *c = &p->model[m].cell[i];
      let_buf_fmt(b, "%s,%u,%u,%.6g,%.6g\n", p->model[m].name, c->batch, c->granules, c->p50_ms, c->p99_ms);
    }
}

static bool memory_text(let_buf *b, const let_profile *p) {
  bool any = false;
  let_buf_str(b, "model,batch,mib\n");
  for (uint32_t m = 0; m < p->n_models; m++)
    for (uint32_t i = 0; i < p->model[m].n_memory; i++, any = true) {
      let_buf_fmt(b, "%s,%u,", p->model[m].name, p->model[m].memory[i].batch);
      number(b, (double)p->model[m].memory[i].bytes / 0x1p20);
      let_buf_str(b, "\n");
    }
  return any;
}

static bool inputs_text(let_buf *b, const let_profile *p) {
  bool any = false;
  let_buf_str(b, "model,input_bytes\n");
  for (uint32_t m = 0; m < p->n_models; m++)
    if (p->model[m].input_bytes)
      let_buf_fmt(b, "%s,%llu\n", p->model[m].name, (unsigned long long)p->model[m].input_bytes), any = true;
  return any;
}

static bool samples_text(let_buf *b, const let_profile *p, const let_samples *s) {
  let_buf_str(b, "model,batch,granules,neighbours,solo_ms,together_ms\n");
  for (uint32_t i = 0; s && i < s->n; i++) {
    const let_sample *x = &s->sample[i];
    let_buf_fmt(b, "%s,%u,%u,", p->model[x->self.model].name, x->self.batch, x->self.granules);
    for (uint32_t k = 0; k < x->n; k++)
      let_buf_fmt(b, "%s%s:%u:%u", k ? "+" : "", p->model[x->other[k].model].name, x->other[k].batch,
                  x->other[k].granules);
    let_buf_fmt(b, ",%.6g,%.6g\n", x->solo_ms, x->together_ms);
  }
  return s && s->n;
}

static void fit_text(let_buf *b, const let_profile *p) {
  bool fitted = p->interference_error_p95 > 0; /* an imported model tells no error of its own */
  if (fitted)
    let_buf_str(b, "# Fitted to interference.csv; the error is the held-out one, relative, of 95 % of the cases.\n");
  let_buf_fmt(b, "model: %s\n", let_interference_name(p->interference));
  if (fitted) let_buf_str(b, "held_out_error_p95: "), number(b, p->interference_error_p95), let_buf_str(b, "\n");
  let_buf_str(b, "coefficients:\n");
  for (const let_coef_name *c = let_coef_names(p->interference); c->name; c++)
    let_buf_fmt(b, "  %s: ", c->name), number(b, p->coef[c->index]), let_buf_str(b, "\n");
  bool any = false;
  for (uint32_t m = 0; m < p->n_models; m++)
    for (uint32_t i = 0; i < p->model[m].n_pressure; i++) {
      const let_pressure *x = &p->model[m].pressure[i].p;
      if (!any) let_buf_str(b, "models:\n"), any = true;
      let_buf_fmt(b, "  - {name: \"%s\", batch: %u, ", p->model[m].name, p->model[m].pressure[i].batch);
      if (p->interference == LET_INTERFERENCE_LINEAR || x->l2_util > 0 || x->dram_util > 0)
        let_buf_fmt(b, "l2_util: %.6g, dram_util: %.6g, ", x->l2_util, x->dram_util);
      let_buf_fmt(b, "pressure: %.6g, sensitivity: %.6g", x->pressure, x->sensitivity);
      if (x->delay_ms > 0) let_buf_fmt(b, ", delay_ms: %.6g", x->delay_ms);
      let_buf_str(b, "}\n");
    }
}

let_err let_profile_save_fit(const char *dir, const let_profile *p, let_error *e) {
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  fit_text(&b, p);
  let_err r = write_file(dir, "interference.yaml", &b, e);
  let_buf_fini(&b);
  return r;
}

let_err let_profile_save(const char *dir, const let_profile *p, const let_samples *s, const char *comment,
                         let_error *e) {
  char path[4096];
  if (strlen(dir) >= sizeof path) return let_fail(e, LET_ERR_INVALID, "the path of the profile is too long");
  memcpy(path, dir, strlen(dir) + 1);
  for (char *at = strchr(path + (path[0] == '/'), '/'); at;
       at = strchr(at + 1, '/')) { /* parents; the last mkdir tells what is wrong */
    *at = 0;
    (void)mkdir(path, 0777);
    *at = '/';
  }
  if (mkdir(dir, 0777) != 0 && errno != EEXIST) return let_fail(e, LET_ERR_IO, "%s: %s", dir, strerror(errno));
  let_buf b;
  let_buf_init(&b, &let_mem_libc);
  device_text(&b, &p->device, comment);
  let_err r = write_file(dir, "device.yaml", &b, e);
  let_buf_clear(&b);
  latency_text(&b, p);
  if (!r) r = write_file(dir, "latency.csv", &b, e);
  let_buf_clear(&b);
  if (memory_text(&b, p) && !r) r = write_file(dir, "memory.csv", &b, e);
  let_buf_clear(&b);
  if (inputs_text(&b, p) && !r) r = write_file(dir, "inputs.csv", &b, e);
  let_buf_clear(&b);
  if (samples_text(&b, p, s) && !r) r = write_file(dir, "interference.csv", &b, e);
  let_buf_fini(&b);
  if (!r && p->interference != LET_INTERFERENCE_NONE) r = let_profile_save_fit(dir, p, e);
  return r;
}
