/* fuzz: conf model base */
#include "conf/workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_workload w;
  let_err r = let_workload_parse((let_str){(const char *)data, size}, "w.yaml", &a, &w, &e);
  if (!r)
    for (uint32_t i = 0; i < w.n; i++) LET_ASSERT(w.demand[i].name[0] && w.demand[i].rate >= 0 && w.demand[i].slo >= 0);
  LET_ASSERT(!r || strncmp(e.text, "w.yaml:", 7) == 0);
  let_arena_fini(&a);
  return 0;
}
