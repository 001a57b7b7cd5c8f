/* route.c: which of the protocol's routes a request takes, and its answer. */
#include <stdio.h>

#include "front_int.h"

/* ---- where to ------------------------------------------------------------------------------------------- */

static bool model_named(conn *c, let_str name, uint32_t *ret) {
  const let_front_i *i = &c->f->i;
  uint32_t n = i->models(i->ctx);
  if (c->model < n && let_str_is(name, i->model(i->ctx, c->model)->name)) {
    *ret = c->model;
    return true; /* a client mostly stays with its model */
  }
  for (uint32_t k = 0; k < n; k++)
    if (let_str_is(name, i->model(i->ctx, k)->name)) {
      *ret = k;
      return true;
    }
  return false;
}

static void unknown_model(conn *c, let_str name) {
  const let_front_i *i = &c->f->i;
  char text[512];
  size_t at = (size_t)snprintf(
      text, sizeof text, "model '%.*s' is not served here; served are:", name.n > 100 ? 100 : (int)name.n, name.p);
  uint32_t n = i->models(i->ctx), k = 0;
  for (; k < n && at < 400; k++) {
    int w = snprintf(text + at, sizeof text - at, "%s %s", k ? "," : "", i->model(i->ctx, k)->name);
    at += w > 0 ? (size_t)w : 0;
  }
  if (at >= sizeof text) at = sizeof text - 1;
  if (k < n) snprintf(text + at, sizeof text - at, " and %u more (POST /v2/repository/index lists them)", n - k);
  if (!n) snprintf(text + at, sizeof text - at, " none");
  conn_fail(c, 404, text);
}

static void unknown_path(conn *c) {
  char text[512];
  snprintf(text, sizeof text,
           "there is no %.*s %.*s; there are GET /v2, /v2/health/live, /v2/health/ready, "
           "/v2/models/MODEL[/versions/VERSION][/ready|/config|/stats], "
           "POST /v2/models/MODEL[/versions/VERSION]/infer, POST /v2/repository/index, GET /v2/models/stats, GET and "
           "PUT /v2/gpulet/plan, GET /v2/gpulet/stages, POST /v2/gpulet/forget, GET /metrics",
           c->head.method_name.n > 16 ? 16 : (int)c->head.method_name.n, c->head.method_name.p,
           c->head.path.n > 100 ? 100 : (int)c->head.path.n, c->head.path.p);
  conn_fail(c, 404, text);
}

static bool wants(conn *c, route to, bool post) {
  bool get = c->head.method == LET_HTTP1_GET || c->head.method == LET_HTTP1_HEAD;
  c->route = to;
  if (post ? c->head.method == LET_HTTP1_POST : get) return true;
  conn_fail(c, 405, post ? "this path takes POST" : "this path takes GET");
  return false;
}

/* /v2/models/MODEL[/versions/VERSION][/ready|/infer]; |rest| starts behind "models". */
static bool model_route(conn *c, let_str rest) {
  const let_front_i *i = &c->f->i;
  char name_text[LET_NAME_MAX];
  let_str s, name = {0}, version = {0}, what = {0};
  c->route = ROUTE_EXTRA;
  if (!let_http1_segment(&rest, &s)) return true;
  uint32_t model;
  bool known = let_http1_decode(s, name_text, sizeof name_text, &name) && model_named(c, name, &model);
  bool more = let_http1_segment(&rest, &what);
  if (more && let_str_is(what, "versions")) {
    if (!let_http1_segment(&rest, &version)) return true;
    more = let_http1_segment(&rest, &what);
  }
  let_str end = rest;
  bool last = !let_http1_segment(&end, &s) || (!s.n && !end.n);
  bool infer = more && last && let_str_is(what, "infer"), ready = more && last && let_str_is(what, "ready");
  bool meta = !more || (!what.n && last);
  if (!infer && !ready && !meta) return true; /* config, stats: the server's */
  if (!known) {
    if (meta && !version.p) return true; /* /v2/models/stats is no model */
    unknown_model(c, name.p ? name : LET_STR("?"));
    return false;
  }
  c->model = model;
  const let_model *m = i->model(i->ctx, model);
  if (version.p) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)m->version);
    if (!let_str_is(version, text)) {
      char say[256];
      snprintf(say, sizeof say, "model '%s' has no version '%.*s' here: version %s is served", m->name,
               version.n > 32 ? 32 : (int)version.n, version.p, text);
      conn_fail(c, 404, say);
      return false;
    }
  }
  return wants(c, infer ? ROUTE_INFER : ready ? ROUTE_MODEL_READY : ROUTE_MODEL, infer);
}

static bool path_route(conn *c) {
  let_str path = c->head.path, s, t;
  c->route = ROUTE_EXTRA;
  if (!let_http1_segment(&path, &s) || !let_str_is(s, "v2")) return true;
  if (!let_http1_segment(&path, &s) || (!s.n && !path.n)) return c->metrics ? true : wants(c, ROUTE_SERVER, false);
  if (let_str_is(s, "health") && let_http1_segment(&path, &t) && !path.n) {
    if (let_str_is(t, "live")) return wants(c, ROUTE_LIVE, false);
    if (let_str_is(t, "ready")) return wants(c, ROUTE_READY, false);
  }
  if (c->metrics) return true;
  if (let_str_is(s, "models")) return model_route(c, path);
  if (let_str_is(s, "repository") && let_http1_segment(&path, &t) && let_str_is(t, "index") && !path.n)
    return wants(c, ROUTE_INDEX, true);
  return true;
}

bool route_head(conn *c) {
  let_str enc = c->head.content_encoding;
  if (!path_route(c)) return false;
  if (enc.n && !let_str_ieq(enc, "identity")) {
    conn_fail(c, 501, "compressed bodies are not supported: send it without Content-Encoding");
    return false;
  }
  return true;
}

/* ---- inference ------------------------------------------------------------------------------------------ */

static void infer_refused(conn *c, let_err r, const char *text) {
  conn_slot_free(c);
  c->f->i.request_release(c->f->i.ctx, c->r);
  c->r = NULL;
  conn_fail(c, let_err_http(r), text);
}

/* JSON tensors are decoded into a slot of their own; the body's is not needed any more then. */
static let_err infer_json(conn *c, let_oip_body *b, const let_model *m, let_error *e) {
  const let_front_i *i = &c->f->i;
  uint64_t want = let_oip_room(m, b->json_bytes, b->raw_bytes);
  uint64_t slot = want == UINT64_MAX ? FRONT_SLOT_NONE : i->slot_alloc(i->ctx, want);
  if (slot == FRONT_SLOT_NONE)
    return let_fail(e, LET_ERR_NOMEM,
                    "the arena is full: send fewer requests at once, or start the server with a larger --arena-size");
  c->r->in_slot = slot;
  b->room = i->at(i->ctx, slot);
  b->room_bytes = i->slot_bytes(i->ctx, slot);
  b->room_offset = slot;
  let_err r = let_oip_infer_parse(b, m, c->r->rec, &c->infer, e);
  if (!r) conn_slot_free(c);
  return r;
}

static let_err infer_parse(conn *c, const let_model *m, let_error *e) {
  const let_http1_head *h = &c->head;
  let_request *r = c->r;
  uint64_t json = h->has_header_length ? h->header_length : c->body_bytes;
  if (json > c->body_bytes)
    return let_fail(e, LET_ERR_INVALID, "Inference-Header-Content-Length is %llu but the body has %llu bytes",
                    (unsigned long long)json, (unsigned long long)c->body_bytes);
  let_oip_body b = {.json = c->body,
                    .json_bytes = json,
                    .raw = c->body + json,
                    .raw_bytes = c->body_bytes - json,
                    .raw_offset = c->slot + json};
  let_err why;
  if (!h->has_header_length) return infer_json(c, &b, m, e);
  why = json ? let_oip_infer_parse(&b, m, r->rec, &c->infer, e) : let_oip_infer_raw(&b, m, r->rec, &c->infer, e);
  if (why == LET_ERR_AGAIN) return infer_json(c, &b, m, e);
  if (why) return why;
  r->in_slot = c->slot; /* the tensors stay where the socket put them */
  c->slot = FRONT_SLOT_NONE;
  return LET_OK;
}

static void infer(conn *c) {
  const let_front_i *i = &c->f->i;
  const let_model *m = i->model(i->ctx, c->model);
  let_error e = {0};
  let_request *r = c->r = i->request_take(i->ctx);
  if (!r) {
    conn_slot_free(c);
    conn_fail(c, let_err_http(LET_ERR_OVERLOADED), "too many requests are in flight: send fewer at once");
    return;
  }
  r->owner = c;
  let_err why = infer_parse(c, m, &e);
  if (why) {
    infer_refused(c, why, e.text);
    return;
  }
  r->model = c->model;
  r->rows = r->rec->rows;
  r->priority = m->priority_levels && c->infer.priority ? (uint8_t)c->infer.priority
                : m->default_priority                   ? m->default_priority
                                                        : 1;
  r->stamp[LET_STAGE_FIRST_BYTE] = c->first_byte;
  r->stamp[LET_STAGE_RECEIVED] = r->arrival = c->received;
  c->inflight = true;
  i->infer(i->ctx, r, (let_dur)c->infer.timeout_us * LET_US);
}

/* The outputs are snapshots: a worker can still write to the record, and what is checked must be what is used. */
static void infer_answer(conn *c) {
  const let_front_i *i = &c->f->i;
  let_request *r = c->r;
  const let_model *m = i->model(i->ctx, r->model);
  let_oip_output o[LET_TENSORS_MAX];
  let_error e = {0};
  uint64_t raw = 0;
  for (unsigned k = 0; k < m->n_outputs; k++) {
    memcpy(&o[k].t, &r->rec->out[k], sizeof o[k].t);
    const let_tensor *t = &o[k].t;
    if (t->offset < r->out_slot || t->bytes > r->out_cap || t->offset - r->out_slot > r->out_cap - t->bytes) {
      r->status = LET_ERR_INTERNAL;
      conn_fail(c, 500, "the worker returned an output outside its slot");
      return;
    }
    o[k].data = i->at(i->ctx, t->offset);
  }
  let_buf_clear(&c->out);
  let_err why = let_oip_infer_answer(m, &c->infer, o, &c->out, &raw, &e);
  if (why) {
    r->status = why;
    conn_fail(c, let_err_http(why), e.text);
    return;
  }
  bool binary = false;
  c->iov_n = 2;
  for (unsigned k = 0; k < c->infer.n_out; k++) {
    if (!c->infer.out_binary[k]) continue;
    const let_oip_output *x = &o[c->infer.out[k]];
    binary = true;
    c->iov[c->iov_n++] = (struct iovec){(char *)(uintptr_t)x->data, x->t.bytes};
  }
  conn_send(c, 200, binary ? "application/octet-stream" : "application/json", binary ? c->out.n : UINT64_MAX, raw);
}

void let_front_done(let_front *f, let_request *r) {
  conn *c = r->owner;
  LET_ASSERT(c && c->inflight && c->r == r && c->f == f);
  c->inflight = false;
  if (c->dead) {
    c->r = NULL;
    f->i.request_release(f->i.ctx, r);
    conn_settle(c);
    return;
  }
  bool outer = !c->advancing; /* not from inside i->infer */
  c->advancing = true;
  if (r->status == LET_OK) infer_answer(c);
  else conn_fail(c, let_err_http(r->status), r->why[0] ? r->why : let_err_text(r->status));
  if (!outer) return;
  c->advancing = false;
  if (!c->dead) conn_advance(c);
}

/* ---- the rest ------------------------------------------------------------------------------------------- */

static void control(conn *c) {
  const let_front_i *i = &c->f->i;
  bool head = c->head.method == LET_HTTP1_HEAD;
  const char *type = "application/json";
  let_buf_clear(&c->out);
  c->late = true;
  int status = i->control(i->ctx, head ? LET_STR("GET") : c->head.method_name, c->head.path,
                          (let_str){c->body, c->body_bytes}, &c->out, &type, c);
  conn_slot_free(c);
  if (status < 0) return;
  c->late = false;
  if (status) {
    if (c->out.failed) conn_fail(c, let_err_http(LET_ERR_NOMEM), "out of memory for the answer");
    else conn_send(c, status, type, UINT64_MAX, 0);
    return;
  }
  unknown_path(c);
}

void let_front_reply(let_front *f, void *call, int status, const char *type, let_str body) {
  conn *c = call;
  LET_ASSERT(c && c->late && c->f == f);
  c->late = false;
  if (c->dead) {
    conn_settle(c);
    return;
  }
  bool outer = !c->advancing;
  c->advancing = true;
  let_buf_clear(&c->out);
  let_buf_add(&c->out, body.p, body.n);
  if (c->out.failed) conn_fail(c, let_err_http(LET_ERR_NOMEM), "out of memory for the answer");
  else conn_send(c, status, type, UINT64_MAX, 0);
  if (!outer) return;
  c->advancing = false;
  if (!c->dead) conn_advance(c);
}

static void index_answer(conn *c) {
  const let_front_i *i = &c->f->i;
  uint32_t n = i->models(i->ctx);
  let_buf_str(&c->out, "[");
  for (uint32_t k = 0; k < n; k++) {
    if (k) let_buf_str(&c->out, ",");
    let_oip_index_entry(&c->out, i->model(i->ctx, k), i->model_ready(i->ctx, k));
  }
  let_buf_str(&c->out, "]");
}

void route_body(conn *c) {
  const let_front_i *i = &c->f->i;
  if (c->route == ROUTE_INFER) {
    infer(c);
    return;
  }
  if (c->route == ROUTE_EXTRA) {
    control(c);
    return;
  }
  conn_slot_free(c);
  let_buf_clear(&c->out);
  int status = 200;
  const char *type = "application/json";
  switch (c->route) {
  case ROUTE_SERVER: let_oip_server(&c->out, c->f->o.server_name, c->f->o.server_version); break;
  case ROUTE_MODEL: let_oip_model(&c->out, i->model(i->ctx, c->model)); break;
  case ROUTE_INDEX: index_answer(c); break;
  /* Health has no body, as in Triton: its clients look at the status only. */
  case ROUTE_READY: type = NULL, status = i->ready(i->ctx) ? 200 : 503; break;
  case ROUTE_MODEL_READY: type = NULL, status = i->model_ready(i->ctx, c->model) ? 200 : 503; break;
  default: type = NULL; break;
  }
  if (c->out.failed) conn_fail(c, let_err_http(LET_ERR_NOMEM), "out of memory for the answer");
  else conn_send(c, status, type, UINT64_MAX, 0);
}
