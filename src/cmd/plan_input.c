#include "cmd/plan_input.h"

#include <stdio.h>
#include <string.h>

#include "conf/suggest.h"
#include "os/clock.h"
#include "profile/profile.h"

double let_cmd_now_ms(void *ctx) {
  (void)ctx;
  return (double)let_now() / 1e6;
}

bool let_cmd_expired(void *until_ms) { return let_cmd_now_ms(NULL) > *(const double *)until_ms; }

bool let_cmd_next_item(let_str *s, let_str *ret) {
  if (s->n == 0) return false;
  const char *comma = memchr(s->p, ',', s->n);
  size_t n = comma ? (size_t)(comma - s->p) : s->n, skip = n + (comma != NULL);
  *ret = (let_str){s->p, n};
  s->p += skip;
  s->n -= skip;
  return true;
}

let_err let_cmd_profiles(const char *list, let_arena *a, let_plan_pool pool[LET_POOLS_MAX], uint32_t *ret_n,
                         let_error *e) {
  let_str rest = let_str_c(list), item;
  uint32_t n = 0;
  let_problems *ps = let_arena_alloc(a, sizeof *ps);
  if (!ps) return let_fail(e, LET_ERR_NOMEM, "out of memory");
  while (let_cmd_next_item(&rest, &item)) {
    char *dir = let_arena_strdup(a, item.p, item.n);
    let_profile *p = let_arena_alloc(a, sizeof *p);
    if (!dir || !p) return let_fail(e, LET_ERR_NOMEM, "out of memory");
    if (n == LET_POOLS_MAX) return let_fail(e, LET_ERR_INVALID, "--profile: at most %d directories", LET_POOLS_MAX);
    let_err r = let_profile_load_all(dir, a, p, NULL, ps, e);
    if (r && ps->n) { /* every problem, then the summary as the error */
      let_buf b;
      let_buf_init(&b, &let_mem_libc);
      let_problems_print(ps, &b);
      if (!b.failed && b.n) fputs(b.p, stderr);
      let_buf_fini(&b);
    }
    if (r) return r;
    for (uint32_t i = 0; i < n; i++)
      if (strcmp(pool[i].profile->device.name, p->device.name) == 0)
        return let_fail(e, LET_ERR_INVALID, "--profile: device type '%s' is there twice", p->device.name);
    pool[n++] = (let_plan_pool){.profile = p};
  }
  *ret_n = n;
  return n ? LET_OK : let_fail(e, LET_ERR_INVALID, "--profile is empty");
}

let_err let_cmd_policy(const char *name, const let_policy **ret, let_error *e) {
  *ret = let_policy_find(name);
  if (*ret) return LET_OK;
  uint32_t n;
  let_suggest s = {.word = let_str_c(name)};
  char text[LET_SUGGEST_TEXT], names[200] = "";
  const let_policy *const *all = let_policies(&n);
  for (uint32_t i = 0; i < n; i++) {
    let_suggest_offer(&s, all[i]->name);
    size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", all[i]->name);
  }
  return let_fail(e, LET_ERR_INVALID, "--policy: there is no '%s'%s; there are %s", name,
                  let_suggest_text(&s, "", text), names);
}
