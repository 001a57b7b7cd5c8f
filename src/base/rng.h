/* rng.h: randomness is an argument: a small, fast, seeded generator (xoshiro256**, Blackman and Vigna 2018). */
#ifndef LET_BASE_RNG_H
#define LET_BASE_RNG_H

#include <stdint.h>

typedef struct let_rng {
  uint64_t s[4];
} let_rng;

void let_rng_seed(let_rng *r, uint64_t seed);
uint64_t let_rng_u64(let_rng *r);
double let_rng_unit(let_rng *r);                     /* in [0, 1) */
uint64_t let_rng_below(let_rng *r, uint64_t n);      /* in [0, n), n >= 1, no modulo bias worth naming */
double let_rng_exponential(let_rng *r, double mean); /* gaps of a Poisson process of rate 1/mean */

#endif
