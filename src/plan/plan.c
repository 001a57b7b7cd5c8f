#include "plan/plan.h"

#include <string.h>

#include "plan/policy.h"

static const let_policy *const policies[] = {
    &let__policy_optimal,  &let__policy_elastic_int, &let__policy_elastic, &let__policy_selftune,
    &let__policy_temporal, &let__policy_static,      &let__policy_shared,
};

const let_policy *const *let_policies(uint32_t *ret_n) {
  *ret_n = sizeof policies / sizeof *policies;
  return policies;
}

const let_policy *let_policy_find(const char *name) {
  for (uint32_t i = 0; i < sizeof policies / sizeof *policies; i++)
    if (strcmp(policies[i]->name, name) == 0) return policies[i];
  return NULL;
}
