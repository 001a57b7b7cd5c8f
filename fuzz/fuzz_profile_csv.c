/* fuzz: profile */
#include "profile/profile.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input is up to six files, cut at bytes of 0xff: device.yaml, latency.csv, memory.csv, inputs.csv,
 * interference.csv, interference.yaml. With one piece it is a latency.csv on a sound device. What parses must answer
 * every lookup. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char device[] =
      "type: t\nsms: 132\ngranules: 16\ngranule_sms: 8\nlast_granule_sms: 12\nmemory_mib: 1000\n";
  static const char *const name[] = {"device.yaml", "latency.csv",      "memory.csv",
                                     "inputs.csv",  "interference.csv", "interference.yaml"};
  let_str piece[6] = {{NULL, 0}};
  int n = 0;
  for (size_t i = 0, from = 0; i <= size && n < 6; i++)
    if (i == size || data[i] == 0xff) piece[n++] = (let_str){(const char *)data + from, i - from}, from = i + 1;
  if (n == 1) piece[1] = piece[0], piece[0] = (let_str){device, sizeof device - 1};
  for (int k = 0; k < 6; k++)
    if (piece[k].n == 0) piece[k].p = k < 2 ? "" : NULL;
  let_profile_texts t = {{name[0], piece[0]}, {name[1], piece[1]}, {name[2], piece[2]},
                         {name[3], piece[3]}, {name[4], piece[4]}, {name[5], piece[5]}};
  let_arena a;
  let_arena_init(&a, &let_mem_libc);
  let_profile p;
  let_samples s;
  let_error e = {0};
  let_problems *ps = calloc(1, sizeof *ps);
  if (ps && let_profile_parse(&t, &a, &p, &s, ps, &e) == LET_OK)
    for (uint32_t m = 0; m < p.n_models && m < 8; m++)
      for (uint32_t b = 1; b <= LET_BATCH_MAX; b += 17) {
        let_dur d;
        if (let_profile_latency(&p, m, b, 1 + b % p.device.granules, LET_PROFILE_EXTRAPOLATE, &d, &e) == LET_OK &&
            d < 0)
          abort();
        let_tenant self = {m, b, 1, 1}, other = {p.n_models - 1, b, 1, 1};
        if (!(let_profile_slowdown(&p, &self, &other, 1) >= 1)) abort();
        (void)let_profile_memory(&p, m, b);
      }
  free(ps);
  let_arena_fini(&a);
  return 0;
}
