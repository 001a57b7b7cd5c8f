/* replay.c: feeds every file of the directories named on the command line to the fuzz target, and every prefix of it:
 * a short input that ends anywhere is where parsers read too far. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX = 1 << 20, PREFIXES = 512 };

/* The input lies in a block of exactly its size, so that the address sanitizer sees the first byte behind it. */
static void feed(const uint8_t *data, size_t n) {
  uint8_t *p = malloc(n ? n : 1);
  if (!p) abort();
  memcpy(p, data, n);
  LLVMFuzzerTestOneInput(p, n);
  free(p);
}

static int replay(const char *dir) {
  static uint8_t data[MAX];
  int count = 0;
  DIR *d = opendir(dir);
  if (!d) return -1;
  for (struct dirent *x; (x = readdir(d));) {
    char path[1024];
    if (x->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
    FILE *f = fopen(path, "rb");
    if (!f) continue;
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    feed(data, n);
    for (size_t i = 0; i < n && i < PREFIXES; i++) feed(data, i);
    count++;
  }
  closedir(d);
  return count;
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    int n = replay(argv[i]);
    if (n <= 0) return fprintf(stderr, "%s: no inputs\n", argv[i]), 1;
    printf("%s: %d inputs\n", argv[i], n);
  }
  return 0;
}
