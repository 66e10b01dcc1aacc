#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

enum { LINE_MAX_BYTES = 2048 };

static const char *const level_names[LOG_LEVEL_COUNT] = {"error", "warn", "info", "debug"};
static const int level_priorities[LOG_LEVEL_COUNT] = {3, 4, 6, 7};

static _Atomic enum log_level threshold = LOG_LEVEL_INFO;

enum style { STYLE_LOGFMT, STYLE_TERMINAL, STYLE_JOURNAL };

static enum style find_style(void)
{
    if (getenv("JOURNAL_STREAM") != NULL) {
        return STYLE_JOURNAL;
    }
    return isatty(STDERR_FILENO) ? STYLE_TERMINAL : STYLE_LOGFMT;
}

void log_set_level(enum log_level level)
{
    CHECK(level < LOG_LEVEL_COUNT);
    atomic_store(&threshold, level);
}

bool log_level_parse(const char *text, enum log_level *ret_level)
{
    for (int level = 0; level < LOG_LEVEL_COUNT; level++) {
        if (strcmp(level_names[level], text) == 0) {
            *ret_level = (enum log_level)level;
            return true;
        }
    }
    return false;
}

const char *log_level_text(enum log_level level)
{
    CHECK(level < LOG_LEVEL_COUNT);
    return level_names[level];
}

/* Copy `from`, writing control bytes as \xNN and, when quoted, escaping quotes and backslashes. */
static void escape(char *to, size_t size, const char *from, bool quoted)
{
    size_t used = 0;
    for (; *from != '\0' && used + 5 < size; from++) {
        unsigned char byte = (unsigned char)*from;
        if (byte < 0x20 || byte == 0x7f) {
            used += (size_t)snprintf(to + used, size - used, "\\x%02x", byte);
            continue;
        }
        if (quoted && (byte == '"' || byte == '\\')) {
            to[used++] = '\\';
        }
        to[used++] = (char)byte;
    }
    to[used] = '\0';
}

void log_write(enum log_level level, const char *format, ...)
{
    CHECK(level < LOG_LEVEL_COUNT);
    if (level > atomic_load_explicit(&threshold, memory_order_relaxed)) {
        return;
    }

    char text[LINE_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);

    enum style style = find_style();
    char clean[2 * LINE_MAX_BYTES];
    escape(clean, sizeof(clean), text, style == STYLE_LOGFMT);

    char now[CLOCK_TEXT_SIZE];
    clock_format_ms(clock_real_ms(), now);

    char line[sizeof(clean) + 128];
    int length = 0;
    switch (style) {
    case STYLE_LOGFMT:
        length = snprintf(line, sizeof(line), "time=%s level=%s msg=\"%s\"\n", now,
                          level_names[level], clean);
        break;
    case STYLE_TERMINAL:
        length =
            snprintf(line, sizeof(line), "%.8s %-5s %s\n", now + 11, level_names[level], clean);
        break;
    case STYLE_JOURNAL:
        length = snprintf(line, sizeof(line), "<%d>%s\n", level_priorities[level], clean);
        break;
    }
    /* One write, so that lines of several threads do not mix.  There is nowhere to report a
     * failure to. */
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
}
