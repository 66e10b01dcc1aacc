/*
 * Paths of routes: "/users/{id}", "/files/{path...}".
 *
 * A pattern is segments: plain text, {NAME} for one segment that is not empty, and, as the last
 * one, {NAME...} for all that is left.  Paths are compared as they were sent, percent-encoding and
 * all; what a parameter is given is decoded.  Pure.
 */
#ifndef SERVICE_ROUTE_PATTERN_H
#define SERVICE_ROUTE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"

struct error;

enum { PATTERN_PARAMETERS_MAX = 8, PATTERN_BYTES_MAX = 256 };

struct pattern_parameter {
    struct text name;
    struct text value; /* as sent */
};

struct pattern_match {
    size_t count;
    struct pattern_parameter parameters[PATTERN_PARAMETERS_MAX];
};

/* INVALID says what is wrong with it. */
int pattern_check(const char *pattern, struct error *err);

/* A pattern that was checked. */
bool pattern_matches(const char *pattern, struct text path, struct pattern_match *ret_match);

/* Which of two patterns is asked first: below 0 when `a` is; text before {NAME} before {NAME...}.
 */
int pattern_compare(const char *a, const char *b);

#endif
