/*
 * Errors: one return convention for the whole tree.
 *
 * A function that can fail returns int: 0 on success, a negative `-ERROR_*` on
 * failure, and takes `struct error *err` as its last parameter.  On success it
 * leaves *err alone; on failure it fills *err exactly once, where the failure
 * was first understood.  Callers on the way up may add context with
 * error_wrap(); only the caller that decides what to do about it logs it.
 *
 * The struct is the caller's, of fixed size, and never allocates: reporting
 * that memory ran out must not need memory.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum error_kind {
    ERROR_NONE = 0,
#define ERROR(name, text, http, grpc, exit, retry) ERROR_##name,
#include "errors.def"
#undef ERROR
    ERROR_KIND_COUNT,
};

enum { ERROR_TEXT_MAX = 512 };

struct error {
    enum error_kind kind;
    int os_errno; /* errno at the origin, or 0 */
    char text[ERROR_TEXT_MAX];
};

/* Fill *err and return -kind, so that a failing path is one statement. */
int error_set(struct error *err, enum error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/*
 * As error_set(), keeping os_errno and appending its name.  The kind is OS, except where the
 * errno says something every caller must tell apart: ENOSPC and EDQUOT give FULL, EACCES and
 * EPERM give DENIED.
 */
int error_os(struct error *err, int os_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4), cold));

/* Put "context: " in front of the text; return -kind again.  Requires a set error. */
int error_wrap(struct error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3), cold));

/* The row of spec/errors.def for a kind.  error_kind_name() is lower case with underscores. */
const char *error_kind_name(enum error_kind kind);
const char *error_kind_text(enum error_kind kind);
int error_kind_http(enum error_kind kind);
int error_kind_grpc(enum error_kind kind);
int error_kind_exit(enum error_kind kind);
bool error_kind_retry(enum error_kind kind);

/* The kind called `name`, or ERROR_NONE. */
enum error_kind error_kind_parse(const char *name);

/* INVALID when a number that `name` stands for is not from `least` to `most`; those of a name that
 * ends with _bytes or _ms are told as sizes and times. */
int error_check_range(const char *name, uint64_t value, uint64_t least, uint64_t most,
                      struct error *err);

#endif
