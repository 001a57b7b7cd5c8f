/* fuzz: conf model base */
#include "conf/model_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static let_model_config c;
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_notes notes = {0};
  let_err r = let_model_config_parse((let_str){(const char *)data, size}, "config.pbtxt", "m", &a, &c, &notes, &e);
  LET_ASSERT(r || (c.model.n_inputs && c.model.n_outputs && c.model.max_batch <= LET_BATCH_MAX && c.model.slo >= 0));
  LET_ASSERT(!r || strncmp(e.text, "config.pbtxt", 12) == 0); /* every error says where */
  let_arena_fini(&a);
  return 0;
}
