/* target.h: the server under load: its address, its models' metadata, and the request that each model gets, built
 * once before the run. Blocking; used before the loop starts. */
#ifndef LET_CLIENT_TARGET_H
#define LET_CLIENT_TARGET_H

#include <netdb.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/time.h"

typedef struct let_target {
  char host[256], port[8];
  struct sockaddr_storage address;
  socklen_t address_len;
} let_target;

/* http://HOST[:PORT][/]. Errors: INVALID, UNAVAILABLE (no such host). */
LET_CHECKED let_err let_target_init(let_target *t, const char *url, let_error *e);

/* "/v2/models/MODEL" and |rest|, the name escaped. */
void let_target_path(const char *model, const char *rest, let_buf *out);

/* GET |path|; the body goes to |body|. Errors: UNAVAILABLE (no connection, no answer in |timeout|), NOT_FOUND (404),
 * IO (another status; the text carries the server's). */
LET_CHECKED let_err let_target_get(const let_target *t, const char *path, let_dur timeout, let_buf *body, let_error *e);

/* The SLO that a model's configuration (|json|, of /v2/models/MODEL/config) gives as parameter slo_ms; 0: none. */
let_dur let_target_slo(let_str json);

/* How many rows and batches of |model| a server has run, from its /v2/models/stats. False: it does not say. */
bool let_target_batches(let_str json, const char *model, uint64_t *ret_rows, uint64_t *ret_batches);

typedef struct let_body_options {
  uint32_t rows, variable_dim;
  const char *data; /* directory with MODEL/INPUT.bin; NULL: random */
} let_body_options;

/* The whole request, head and body, for |model| whose metadata is |json|: binary tensor extension both ways. Errors:
 * INVALID (metadata that makes no sense, a data file of the wrong size), NOT_FOUND, NOMEM. */
LET_CHECKED let_err let_target_request(const let_target *t, const char *model, let_str json, const let_body_options *o,
                                       let_rng *rng, let_buf *out, let_error *e);

#endif
