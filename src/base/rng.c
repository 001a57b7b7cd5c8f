#include "base/rng.h"

#include <math.h>

static uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

/* splitmix64 spreads a small seed over the state, as the authors advise. */
void let_rng_seed(let_rng *r, uint64_t seed) {
  for (int i = 0; i < 4; i++) {
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    r->s[i] = z ^ (z >> 31);
  }
}

uint64_t let_rng_u64(let_rng *r) {
  uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3];
  s[2] ^= t, s[3] = rotl(s[3], 45);
  return out;
}

double let_rng_unit(let_rng *r) { return (double)(let_rng_u64(r) >> 11) * 0x1p-53; }

uint64_t let_rng_below(let_rng *r, uint64_t n) { return (uint64_t)(((unsigned __int128)let_rng_u64(r) * n) >> 64); }

double let_rng_exponential(let_rng *r, double mean) { return -mean * log1p(-let_rng_unit(r)); }
