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

static int run(const void *o, int n_args, char **args) {
  (void)n_args, (void)args;
  return let_worker_run((int)((const options *)o)->control_fd);
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
