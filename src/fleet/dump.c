/* dump.c: the fleet as JSON, to find out what is wrong. */
#include "fleet_int.h"

static void text(let_buf *b, const char *s) {
  let_buf_str(b, "\"");
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c == '"' || c == '\\') let_buf_fmt(b, "\\%c", c);
    else if (c < 0x20) let_buf_fmt(b, "\\u%04x", c);
    else let_buf_add(b, s, 1);
  }
  let_buf_str(b, "\"");
}

static void key_text(let_buf *b, const char *key, const char *s) {
  let_buf_fmt(b, ", \"%s\": ", key);
  text(b, s);
}

static void key_time(let_buf *b, const char *key, let_time t) {
  if (t == LET_NEVER) let_buf_fmt(b, ", \"%s\": null", key);
  else let_buf_fmt(b, ", \"%s\": %lld", key, (long long)t);
}

static const char *yes(bool b) { return b ? "true" : "false"; }

static void entry(const let_fleet *f, const let_fleet_entry *x, let_buf *b) {
  let_buf_str(b, "{\"model\": ");
  text(b, f->o.model[x->model].name);
  let_buf_fmt(b, ", \"batch\": %u, \"rate\": %.9g, \"memory_bytes\": %llu, \"eager\": %s, \"sizes\": [", x->batch,
              x->rate, (unsigned long long)x->memory_bytes, yes(x->eager));
  for (uint32_t z = 0; z < x->n_sizes; z++)
    let_buf_fmt(b, "%s{\"size\": %u, \"state\": \"%s\", \"predict_ns\": %lld}", z ? ", " : "", x->size[z],
                x->ready[z]    ? "ready"
                : x->failed[z] ? "failed"
                               : "wanted",
                (long long)x->predict[z]);
  let_buf_str(b, "]}");
}

static void group(const let_fleet *f, const let__group *g, let_buf *b) {
  let_buf_fmt(b, "{\"group\": %u, \"state\": \"%s\", \"device\": ", g->id.n, let_fleet_group_state_name(g->state));
  text(b, f->o.device[g->device].name);
  let_buf_fmt(b,
              ", \"worker\": %u, \"generation\": %llu, \"set\": %llu, \"routed\": %s, \"wanted\": %s, \"warming\": %s",
              g->worker.n, (unsigned long long)g->generation.n, (unsigned long long)g->set.n, yes(g->routed),
              yes(g->wanted), yes(g->warming));
  let_buf_str(b, ", \"gpulets\": [");
  for (uint32_t k = 0; k < g->n_gpulets; k++) {
    const let_fleet_gpulet *l = &g->gpulet[k];
    let_buf_fmt(
        b,
        "%s{\"gpulet\": %u, \"first\": %u, \"granules\": %u, \"up\": %s, \"quarantined\": %s, \"declared\": %s, "
        "\"models\": [",
        k ? ", " : "", l->id.n, l->first, l->granules, yes(l->up), yes(l->quarantined), yes(l->declared));
    for (uint32_t j = 0; j < l->n_entries; j++) {
      if (j) let_buf_str(b, ", ");
      entry(f, &l->entry[j], b);
    }
    let_buf_str(b, "]}");
  }
  let_buf_str(b, "]}");
}

static void worker(const let_fleet *f, const let__worker *w, let_buf *b) {
  let_buf_fmt(b, "{\"worker\": %u, \"state\": \"%s\", \"spare\": %s, \"alive\": %s, \"leaving\": %s, \"losses\": %u",
              w->id.n, let_fleet_worker_state_name(w->state), yes(w->spare), yes(w->alive), yes(w->leaving), w->losses);
  key_text(b, "device", f->o.device[w->device].name);
  key_time(b, "at", w->at);
  key_time(b, "heard", w->heard);
  key_text(b, "why", w->why);
  let_buf_str(b, "}");
}

static void spare(const let_fleet *f, uint32_t d, let_buf *b) {
  const let__spare *x = &f->spare[d];
  let_buf_fmt(b, "{\"state\": \"%s\", \"set\": %llu, \"failures\": %u", let_fleet_spare_state_name(x->state),
              (unsigned long long)x->set.n, x->failures);
  key_text(b, "device", f->o.device[d].name);
  key_time(b, "retry_at", x->retry_at);
  let_buf_str(b, "}");
}

void let_fleet_dump(const let_fleet *f, let_buf *b) {
  const char *comma = "";
  let_buf_fmt(b, "{\"generation\": %llu, \"change\": \"%s\", \"serving\": %s, \"draining\": %s, \"stopping\": %s",
              (unsigned long long)f->generation.n, let_fleet_change_state_name(f->change.state), yes(f->serving),
              yes(f->draining), yes(f->stopping));
  let_buf_fmt(b, ", \"helper_away\": %s, \"restarts\": %llu", yes(f->helper_away), (unsigned long long)f->restarts);
  key_time(b, "wake", let_fleet_wake(f));
  let_buf_str(b, ", \"groups\": [");
  for (uint32_t i = 0; i < f->o.groups; i++) {
    if (f->group[i].state == LET_GROUP_NONE) continue;
    let_buf_str(b, comma);
    group(f, &f->group[i], b);
    comma = ", ";
  }
  let_buf_str(b, "], \"workers\": [");
  comma = "";
  for (uint32_t i = 0; i < f->n_workers; i++) {
    if (f->worker[i].state == LET_WORKER_NONE) continue;
    let_buf_str(b, comma);
    worker(f, &f->worker[i], b);
    comma = ", ";
  }
  let_buf_str(b, "], \"spares\": [");
  comma = "";
  for (uint32_t i = 0; i < f->o.n_devices; i++) {
    if (f->spare[i].state == LET_SPARE_NONE) continue;
    let_buf_str(b, comma);
    spare(f, i, b);
    comma = ", ";
  }
  let_buf_str(b, "]}");
}
