#include "measure/journal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t find(const let_journal *j, const char *name) {
  uint32_t m = 0;
  while (m < j->n_models && strcmp(j->models[m].name, name)) m++;
  return m;
}

/* kind,index,n then per lane: model,batch,first,granules,n,p50,p99,device,memory,n,p50,p99,device */
static bool parse(const let_journal *j, char *line, let_journal_entry *x) {
  memset(x, 0, sizeof *x);
  char kind[16];
  int used;
  if (sscanf(line, "%15[^,],%u,%u%n", kind, &x->index, &x->n, &used) != 3 || x->n < 1 || x->n > LET_RUNNER_LANES_MAX)
    return false;
  if (!strcmp(kind, "cell")) x->kind = LET_JOURNAL_CELL;
  else if (!strcmp(kind, "group")) x->kind = LET_JOURNAL_GROUP;
  else if (!strcmp(kind, "failed")) x->kind = LET_JOURNAL_FAILED;
  else return false;
  line += used;
  for (uint32_t i = 0; i < x->n; i++) {
    char name[LET_NAME_MAX];
    let_runner_lane *l = &x->lane[i];
    let_runner_result *r = &x->result[i];
    unsigned long long memory;
    if (sscanf(line, ",%127[^,],%u,%u,%u,%u,%lf,%lf,%lf,%llu,%u,%lf,%lf,%lf%n", name, &l->batch, &l->first,
               &l->granules, &r->solo.n, &r->solo.p50_ms, &r->solo.p99_ms, &r->solo.device_ms, &memory, &r->together.n,
               &r->together.p50_ms, &r->together.p99_ms, &r->together.device_ms, &used) != 13)
      return false;
    l->model = find(j, name);
    if (l->model == j->n_models) return false;
    if (x->kind != LET_JOURNAL_FAILED && !(r->solo.p50_ms > 0 && r->solo.p99_ms >= r->solo.p50_ms)) return false;
    if (x->kind == LET_JOURNAL_GROUP && !(r->together.p50_ms > 0)) return false;
    r->memory_bytes = memory;
    line += used;
  }
  if (*line == ',') snprintf(x->text, sizeof x->text, "%.255s", line + 1);
  return *line == 0 || *line == ',';
}

let_err let_journal_open(let_journal *j, const char *dir, const char *head, bool resume, const let_model *models,
                         uint32_t n_models, void (*take)(void *ctx, const let_journal_entry *x), void *ctx,
                         let_error *e) {
  *j = (let_journal){.models = models, .n_models = n_models};
  if (mkdir(dir, 0777) && errno != EEXIST) return let_fail(e, LET_ERR_IO, "%s: %s", dir, strerror(errno));
  if (snprintf(j->path, sizeof j->path, "%s/journal.csv", dir) >= (int)sizeof j->path)
    return let_fail(e, LET_ERR_INVALID, "the path %.200s... is too long", dir);
  FILE *f = resume ? fopen(j->path, "r+") : NULL;
  char line[4096];
  bool same =
      f && fgets(line, sizeof line, f) && strlen(line) == strlen(head) + 1 && !strncmp(line, head, strlen(head));
  long whole = same ? ftell(f) : 0;
  while (same && fgets(line, sizeof line, f)) {
    size_t n = strlen(line);
    if (!n || line[n - 1] != '\n') break;
    line[n - 1] = 0;
    let_journal_entry x;
    if (parse(j, line, &x)) take(ctx, &x);
    whole = ftell(f);
  }
  if (same && (fseek(f, whole, SEEK_SET) || ftruncate(fileno(f), whole))) same = false;
  if (!same) {
    if (f) fclose(f);
    f = fopen(j->path, "w");
    if (f) fprintf(f, "%s\n", head);
  }
  if (!f) return let_fail(e, LET_ERR_IO, "%s: %s", j->path, strerror(errno));
  j->file = f;
  return LET_OK;
}

let_err let_journal_add(let_journal *j, const let_journal_entry *x, let_error *e) {
  static const char *const kind[] = {"cell", "group", "failed"};
  fprintf(j->file, "%s,%u,%u", kind[x->kind], x->index, x->n);
  for (uint32_t i = 0; i < x->n; i++) {
    const let_runner_lane *l = &x->lane[i];
    const let_runner_result *r = &x->result[i];
    fprintf(j->file, ",%s,%u,%u,%u,%u,%.6g,%.6g,%.6g,%llu,%u,%.6g,%.6g,%.6g", j->models[l->model].name, l->batch,
            l->first, l->granules, r->solo.n, r->solo.p50_ms, r->solo.p99_ms, r->solo.device_ms,
            (unsigned long long)r->memory_bytes, r->together.n, r->together.p50_ms, r->together.p99_ms,
            r->together.device_ms);
  }
  if (x->text[0]) {
    fputc(',', j->file);
    for (const char *c = x->text; *c; c++) fputc(*c == '\n' ? ' ' : *c, j->file);
  }
  fputc('\n', j->file);
  return fflush(j->file) || ferror(j->file) ? let_fail(e, LET_ERR_IO, "%s: %s", j->path, strerror(errno)) : LET_OK;
}

void let_journal_close(let_journal *j) {
  if (j->file) fclose(j->file);
  j->file = NULL;
}
