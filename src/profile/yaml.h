/* yaml.h: the two small YAML files of a profile directory. Internal to profile/. */
#ifndef LET_PROFILE_YAML_H
#define LET_PROFILE_YAML_H

#include "profile/profile.h"

bool let_device_parse(let_profile_file f, let_device_type *ret, let_problems *ps);
/* Fills the interference fields of |p| and its models' pressure rows; models are already there. */
let_err let_fit_parse(let_profile_file f, let_arena *a, let_profile *p, let_problems *ps);

/* The coefficients of |kind|, in the order they are printed, name NULL at the end. */
typedef struct let_coef_name {
  const char *name;
  uint32_t index;
  bool optional; /* 0 where it is absent */
} let_coef_name;
const let_coef_name *let_coef_names(let_interference_kind kind);
const char *let_interference_name(let_interference_kind kind);

#endif
