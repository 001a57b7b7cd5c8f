/* main.h: the program's entry, apart from main() so that a test can call it. */
#ifndef LET_CMD_MAIN_H
#define LET_CMD_MAIN_H

#include "cmd/cmd.h"

int let_cmd_main(int argc, char **argv); /* -> exit code */

/* What `gpulet CMD --help` and `gpulet help` print. */
void let_cmd_help(const let_command *c, let_buf *out);
void let_cmd_overview(let_buf *out);

#endif
