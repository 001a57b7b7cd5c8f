/* log.h: lines on stderr for people and for log collectors: "2026-01-31T12:00:00.123Z info serve: text". Only
 * programs log (serve, worker, cmd); library code returns errors. Thread-safe: one write(2) per line. */
#ifndef LET_OBS_LOG_H
#define LET_OBS_LOG_H

typedef enum let_log_level { LET_LOG_ERROR, LET_LOG_WARN, LET_LOG_INFO, LET_LOG_DEBUG } let_log_level;

void let_log_set(let_log_level level);
void let_log(let_log_level level, const char *part, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
