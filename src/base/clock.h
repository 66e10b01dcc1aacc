/* Time.  Monotonic for measuring and deadlines, real for what people and guests see. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

uint64_t clock_monotonic_ns(void);
uint64_t clock_monotonic_ms(void);

/* As monotonic, but goes on while the machine sleeps: for promises that others rely on. */
uint64_t clock_boot_ms(void);

/* Nanoseconds and milliseconds since 1970-01-01 UTC. */
uint64_t clock_real_ns(void);
uint64_t clock_real_ms(void);

enum { CLOCK_TEXT_SIZE = 32 };

/* RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T23:59:59.123Z. */
void clock_format_ms(uint64_t real_ms, char ret_text[CLOCK_TEXT_SIZE]);

/*
 * RFC 3339: 2027-01-31T09:00:00+01:00, what is below a millisecond cut off, a leap second being the
 * next minute's first; from 1970 on.  `ret_is_local` not NULL: the offset may be missing, and the
 * time is read as if it were UTC's.  False: it is none.
 */
bool clock_read_ms(const char *text, bool *ret_is_local, uint64_t *ret_ms);

/* A date of HTTP, in each of its three forms: seconds since 1970.  False: it is none. */
bool clock_read_http_date(struct text date, uint64_t *ret_s);

#endif
