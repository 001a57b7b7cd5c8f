/* fuzz: conf model base */
#include "conf/plan_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* A plan that reads is written, read again and written again: both texts are equal. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_error e = {0};
  let_plan p, q;
  let_buf text, again;
  let_buf_init(&text, &let_mem_libc);
  let_buf_init(&again, &let_mem_libc);
  if (let_plan_parse((const char *)data, size, "p.json", &a, &p, &e)) {
    LET_ASSERT(strncmp(e.text, "p.json:", 7) == 0);
  } else {
    let_plan_to_json(&p, &text);
    LET_ASSERT(let_plan_parse(text.p, text.n, "p.json", &a, &q, &e) == LET_OK);
    let_plan_to_json(&q, &again);
    LET_ASSERT(text.n == again.n && memcmp(text.p, again.p, text.n) == 0);
  }
  let_buf_fini(&text);
  let_buf_fini(&again);
  let_arena_fini(&a);
  return 0;
}
