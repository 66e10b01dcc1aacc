/*
 * The program's own log, on standard error: one line per event.
 *
 *     log_info("gateway: listening on %s", address);
 *
 * On a terminal: short time, level, text.  Otherwise logfmt: time=... level=... msg="...".  Under
 * systemd (JOURNAL_STREAM is set) the line carries its priority prefix, sd-daemon(3).  Control
 * bytes in the text are escaped: a guest cannot forge a line.  Any thread.  Only services and
 * above log; engines return errors.  Never log a secret.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARN,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_COUNT
};

/* Events above this level are dropped.  Default: info. */
void log_set_level(enum log_level level);

/* "error", "warn", "info" or "debug"; false when it is none of them. */
bool log_level_parse(const char *text, enum log_level *ret_level);
const char *log_level_text(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
