/* main.c: gpulet. */
#include "cmd/main.h"

int main(int argc, char **argv) { return let_cmd_main(argc, argv); }
