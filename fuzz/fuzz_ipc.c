/* fuzz: ipc model base
 * The first byte says who speaks: a command, or events, each with two bytes of length before it, in a conversation in
 * which two lane sets were asked for. */
#include "ipc/conversation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void command(let_str bytes) {
  let_arena a;
  let_error e = {0};
  let_ipc_command m;
  let_buf again;
  let_arena_init(&a, &let_mem_libc);
  let_buf_init(&again, &let_mem_libc);
  if (let_ipc_command_decode(bytes, &a, &m, &e)) {
    LET_ASSERT(strncmp(e.text, "malformed ", 10) == 0);
  } else { /* there is one way to say it */
    let_err r = let_ipc_command_encode(&m, &again, &e);
    LET_ASSERT(!r && again.n == bytes.n && memcmp(again.p, bytes.p, again.n) == 0);
    LET_ASSERT(let_ipc_command_fds(&m) <= LET_IPC_FDS_MAX);
  }
  let_buf_fini(&again);
  let_arena_fini(&a);
}

static void event(let_str bytes, let_ipc_conversation *c) {
  let_arena a;
  let_error e = {0};
  let_ipc_event m;
  let_buf again;
  let_arena_init(&a, &let_mem_libc);
  let_buf_init(&again, &let_mem_libc);
  if (let_ipc_event_decode(bytes, &a, &m, &e)) {
    LET_ASSERT(strncmp(e.text, "malformed ", 10) == 0);
  } else {
    let_err r = let_ipc_event_encode(&m, &again, &e);
    LET_ASSERT(!r && again.n == bytes.n && memcmp(again.p, bytes.p, again.n) == 0);
    r = let_ipc_conversation_hear(c, &m, &e);
    LET_ASSERT(!r || (r == LET_ERR_INVALID && strncmp(e.text, "unexpected ", 11) == 0));
    LET_ASSERT(let_ipc_conversation_validate(c));
  }
  let_buf_fini(&again);
  let_arena_fini(&a);
}

static let_ipc_conversation *asked(void) {
  static const let_model a = {.name = "a"}, b = {.name = "b"};
  static const let_ipc_variant models[] = {
      {.model = &a, .n_sizes = 3, .size = {4, 1, 8}, .needed = 1, .slo = LET_S},
      {.model = &b, .n_sizes = 1, .size = {2}, .needed = 1},
  };
  static const let_ipc_lane lanes[] = {{.granules = 1, .n_models = 2, .model = models},
                                       {.granules = 1, .n_models = 1, .model = models}};
  const let_ipc_command init = {.type = LET_IPC_INIT, .init = {.device = "d", .arena_bytes = 1 << 20, .records = 1}};
  const let_ipc_event ready = {.type = LET_IPC_READY, .ready = {.pid = 1, .device = "d"}};
  let_ipc_command prepare = {.type = LET_IPC_PREPARE, .prepare = {.set = {1}, .n_lanes = 2, .lane = lanes}};
  const let_ipc_command retire = {.type = LET_IPC_RETIRE, .retire = {{2}}};
  let_ipc_conversation *c = let_ipc_conversation_new(&let_mem_libc);
  let_err r = let_ipc_conversation_send(c, &init, NULL);
  if (!r) r = let_ipc_conversation_hear(c, &ready, NULL);
  if (!r) r = let_ipc_conversation_send(c, &prepare, NULL);
  prepare.prepare.set.n = 2;
  if (!r) r = let_ipc_conversation_send(c, &prepare, NULL);
  if (!r) r = let_ipc_conversation_send(c, &retire, NULL);
  LET_ASSERT(!r);
  return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  if (data[0] == 'C') {
    command((let_str){(const char *)data + 1, size - 1});
    return 0;
  }
  let_ipc_conversation *c = asked();
  for (size_t at = 1; at + 2 <= size;) {
    size_t n = data[at] | (size_t)data[at + 1] << 8;
    at += 2;
    if (n > size - at) n = size - at;
    event((let_str){(const char *)data + at, n}, c);
    at += n;
  }
  let_ipc_conversation_free(c);
  return 0;
}
