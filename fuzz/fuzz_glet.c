/* fuzz: profile */
#include "profile/glet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One piece is a task file; more, cut at bytes of 0xff: device-config.json, sched-config.json, mem-config.json,
 * latency.csv, UTIL.CSV, INT_MODEL_CONSTANT.CSV. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  let_profile_file f[6] = {{"device-config.json"}, {"sched-config.json"}, {"mem-config.json"},
                           {"latency.csv"},        {"UTIL.CSV"},          {"INT_MODEL_CONSTANT.CSV"}};
  int n = 0;
  for (size_t i = 0, from = 0; i <= size && n < 6; i++)
    if (i == size || data[i] == 0xff) f[n++].text = (let_str){(const char *)data + from, i - from}, from = i + 1;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  if (n == 1) {
    let_workload w;
    (void)(let_glet_tasks((let_profile_file){"tasks.csv", f[0].text}, &a, &w, &e) == LET_OK);
  } else {
    let_glet_device d;
    let_profile p;
    let_glet_texts t = {f[0], f[1], f[2], f[3], f[4], f[5]};
    if (let_glet_devices(f[0], f[1], NULL, &d, &e) == LET_OK && t.latency.text.p)
      (void)(let_glet_parse(&t, &d, &a, &p, &e) == LET_OK);
  }
  let_arena_fini(&a);
  return 0;
}
