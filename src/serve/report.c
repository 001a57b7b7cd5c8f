/* report.c: the fleet's reports as log lines. */
#include "obs/log.h"
#include "serve_int.h"

static const char *s_of(uint32_t n) { return n == 1 ? "" : "s"; }

static void exited(const let_fleet_report *r) {
  let_log_level level = r->expected ? LET_LOG_DEBUG : LET_LOG_ERROR;
  if (r->pid) let_log(level, "serve", "worker %u (pid %d): %s", r->worker.n, r->pid, r->text);
  else let_log(level, "serve", "%s", r->text);
}

void serve_report(const server *s, const let_fleet_report *r) {
  const char *device = r->device < s->n_devices ? s->device[r->device].name : "";
  const char *model = r->model < s->n_models ? s->model[r->model].name : "";
  switch (r->kind) {
  case LET_FLEET_REPORT_EXITED: exited(r); break;
  case LET_FLEET_REPORT_LATE:
    let_log(LET_LOG_ERROR, "serve", "worker %u for %s: %s (--prepare-timeout)", r->worker.n, device, r->text);
    break;
  case LET_FLEET_REPORT_FAILED:
    let_log(LET_LOG_ERROR, "serve", "worker %u cannot prepare its gpu-lets: %s", r->worker.n, r->text);
    break;
  case LET_FLEET_REPORT_SIZE_FAILED:
    let_log(LET_LOG_WARN, "serve", "model '%s' on gpu-let %u serves without batch size %u: %s", model, r->gpulet.n,
            r->number, r->text);
    break;
  case LET_FLEET_REPORT_SIZES_READY:
    let_log(LET_LOG_INFO, "serve", "%s: %u of %u batch sizes are ready", device, r->number, r->of);
    break;
  case LET_FLEET_REPORT_GPULET_BACK:
    let_log(LET_LOG_INFO, "serve", "gpu-let %u of %s is back", r->gpulet.n, device);
    break;
  case LET_FLEET_REPORT_GROUP_BACK:
    let_log(LET_LOG_INFO, "serve", "%u gpu-let%s of %s back", r->number, s_of(r->number), device);
    break;
  case LET_FLEET_REPORT_ROUTES_STAY:
    let_log(LET_LOG_ERROR, "serve", "new routes were refused, the old ones stay: %s", r->text);
    break;
  case LET_FLEET_REPORT_PLAN_BEGINS:
    let_log(LET_LOG_INFO, "serve", "plan generation %llu: %u group%s to prepare, %u kept",
            (unsigned long long)r->generation.n, r->number, s_of(r->number), r->of);
    break;
  case LET_FLEET_REPORT_SPARE_READY:
    let_log(LET_LOG_INFO, "serve", "the spare worker for %s (pid %d) is prepared", device,
            serve_process_pid(&s->processes, r->worker));
    break;
  case LET_FLEET_REPORT_SPARE_REFUSED:
    let_log(LET_LOG_WARN, "serve", "the spare worker for %s cannot prepare the plan: %s", device, r->text);
    break;
  case LET_FLEET_REPORT_SPARE_MISSING:
    let_log(LET_LOG_WARN, "serve", "no spare worker for %s: %s", device, r->text);
    break;
  case LET_FLEET_REPORT_SPARE_TAKES:
    let_log(LET_LOG_INFO, "serve", "the spare worker (pid %d) takes over %s",
            serve_process_pid(&s->processes, r->worker), device);
    break;
  }
}
