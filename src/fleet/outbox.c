/* outbox.c: decided actions that were not handed out yet. */
#include "fleet_int.h"

#include <string.h>

/* The ring cannot overflow: a lane set is named here at most once for each kind, and none is opened before all that was
 * put here was handed out. */
void let__later(let_fleet *f, let_fleet_action_kind kind, let_worker_id w, let_group_id g, let_lane_set_id set) {
  LET_ASSERT(f->todo_n < f->todo_cap);
  f->todo[(f->todo_first + f->todo_n++) % f->todo_cap] = (let__todo){kind, w, g, set};
}

let_fleet_report *let__report(let_fleet *f, let_fleet_report_kind kind) {
  if (f->report_n == LET__REPORTS) {
    f->report_first = (f->report_first + 1) % LET__REPORTS;
    f->report_n--;
  }
  let_fleet_report *r = &f->report[(f->report_first + f->report_n++) % LET__REPORTS];
  memset(r, 0, sizeof *r);
  r->kind = kind;
  return r;
}

let_fleet_action let__action(let_fleet_action_kind kind) {
  return (let_fleet_action){
      .kind = kind, .worker = {LET_ID_NONE}, .group = {LET_ID_NONE}, .gpulet = {LET_ID_NONE}, .text = ""};
}
