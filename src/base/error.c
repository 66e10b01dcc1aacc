#include "base/error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"

struct kind {
    const char *name;
    const char *text;
    int http;
    int grpc;
    int exit;
    bool retry;
};

static const struct kind kinds[ERROR_KIND_COUNT] = {
    [ERROR_NONE] = {"NONE", "success", 200, 0, 0, false},
#define ERROR(name, text, http, grpc, exit, retry) \
    [ERROR_##name] = {#name, text, http, grpc, exit, retry},
#include "errors.def"
#undef ERROR
};

/* Lower-case names, made once from the upper-case ones of the table. */
static char names[ERROR_KIND_COUNT][24];

__attribute__((constructor)) static void make_names(void)
{
    for (int kind = 0; kind < ERROR_KIND_COUNT; kind++) {
        const char *from = kinds[kind].name;
        for (size_t i = 0; from[i] != '\0' && i + 1 < sizeof(names[kind]); i++) {
            char c = from[i];
            names[kind][i] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
    }
}

int error_set(struct error *err, enum error_kind kind, const char *format, ...)
{
    CHECK(err != NULL);
    CHECK(kind > ERROR_NONE && kind < ERROR_KIND_COUNT);

    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof(err->text), format, arguments);
    va_end(arguments);

    err->kind = kind;
    err->os_errno = 0;
    return -(int)kind;
}

static enum error_kind kind_of_errno(int os_errno)
{
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        return ERROR_FULL;
    case EACCES:
    case EPERM:
        return ERROR_DENIED;
    default:
        return ERROR_OS;
    }
}

int error_os(struct error *err, int os_errno, const char *format, ...)
{
    CHECK(err != NULL);
    CHECK(os_errno > 0);

    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof(err->text), format, arguments);
    va_end(arguments);

    size_t used = strlen(err->text);
    /* Of one form in glibc (where it is safe in threads since 2.32) and in musl; strerror_r is not.
     */
    snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(os_errno));
    err->kind = kind_of_errno(os_errno);
    err->os_errno = os_errno;
    return -(int)err->kind;
}

int error_wrap(struct error *err, const char *format, ...)
{
    CHECK(err != NULL);
    CHECK(err->kind != ERROR_NONE);

    char inner[ERROR_TEXT_MAX];
    memcpy(inner, err->text, sizeof(inner));

    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->text, sizeof(err->text), format, arguments);
    va_end(arguments);

    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof(err->text) - used, ": %s", inner);
    return -(int)err->kind;
}

static const struct kind *row(enum error_kind kind)
{
    CHECK(kind < ERROR_KIND_COUNT);
    return &kinds[kind];
}

const char *error_kind_name(enum error_kind kind)
{
    CHECK(kind < ERROR_KIND_COUNT);
    return names[kind];
}

const char *error_kind_text(enum error_kind kind)
{
    return row(kind)->text;
}

int error_kind_http(enum error_kind kind)
{
    return row(kind)->http;
}

int error_kind_grpc(enum error_kind kind)
{
    return row(kind)->grpc;
}

int error_kind_exit(enum error_kind kind)
{
    return row(kind)->exit;
}

bool error_kind_retry(enum error_kind kind)
{
    return row(kind)->retry;
}

enum error_kind error_kind_parse(const char *name)
{
    for (int kind = ERROR_NONE + 1; kind < ERROR_KIND_COUNT; kind++) {
        if (strcmp(names[kind], name) == 0) {
            return (enum error_kind)kind;
        }
    }
    return ERROR_NONE;
}

int error_check_range(const char *name, uint64_t value, uint64_t least, uint64_t most,
                      struct error *err)
{
    if (value >= least && value <= most) {
        return 0;
    }
    if (text_ends_with(name, "_bytes") || text_ends_with(name, "_bytes_max")) {
        char sizes[3][TEXT_SIZE_MAX];
        return error_set(err, ERROR_INVALID, "%s is %s; it must be from %s to %s", name,
                         text_write_size_exactly(value, sizes[0]),
                         text_write_size_exactly(least, sizes[1]),
                         text_write_size_exactly(most, sizes[2]));
    }
    if (text_ends_with(name, "_ms")) {
        char times[3][TEXT_SIZE_MAX];
        return error_set(err, ERROR_INVALID, "%s is %s; it must be from %s to %s", name,
                         text_write_duration_ms(value, times[0]),
                         text_write_duration_ms(least, times[1]),
                         text_write_duration_ms(most, times[2]));
    }
    return error_set(err, ERROR_INVALID,
                     "%s is %" PRIu64 "; it must be from %" PRIu64 " to %" PRIu64, name, value,
                     least, most);
}
