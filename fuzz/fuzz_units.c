/* fuzz: base */
#include "base/units.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  let_str s = {(const char *)data, size};
  let_error e = {0};
  let_dur d = 0;
  uint64_t bytes = 0;
  double v = 0;
  int64_t i = 0;
  bool b;
  char out[LET_UNITS_MAX];
  if (!let_parse_dur(s, &d, &e)) LET_ASSERT(d >= 0 && let_print_dur(d, out)[0]);
  if (!let_parse_size(s, &bytes, &e)) LET_ASSERT(let_print_size(bytes, out)[0]);
  if (!let_parse_rate(s, &v, &e)) LET_ASSERT(v >= 0);
  if (!let_parse_i64(s, -5, 99, &i, &e)) LET_ASSERT(i >= -5 && i <= 99);
  if (!let_parse_f64(s, -1, 1, &v, &e)) LET_ASSERT(v >= -1 && v <= 1);
  if (let_parse_bool(s, &b, &e)) LET_ASSERT(e.text[0]);
  return 0;
}
