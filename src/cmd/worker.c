#include "cmd/cmd.h"
#include "worker/worker.h"

typedef struct options {
  int64_t control_fd;
} options;

static const let_option table[] = {
    {.name = "control-fd",
     .type = LET_OPTION_I64,
     .offset = offsetof(options, control_fd),
     .value = "FD",
     .required = true,
     .min = 3,
     .max = 1 << 20,
     .help = "Descriptor of the control socket, inherited from the server."},
};

static let_err run(const void *o, char **args, let_arena *arena, int *ret_code, let_error *e) {
  (void)args, (void)arena, (void)e;
  *ret_code = let_worker_run((int)((const options *)o)->control_fd);
  return LET_OK;
}

const let_command let_command_worker = {
    .name = "worker",
    .summary = "own gpu-lets and run batches on them; started by `gpulet serve`, never by hand",
    .arguments = "",
    .text = "Serves over an inherited control socket until the server closes it.\n",
    LET_COMMAND_OPTIONS(table, options),
    .hidden = true,
    .run = run,
};
