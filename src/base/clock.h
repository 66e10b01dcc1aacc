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

/* A date of HTTP, in each of its three forms: seconds since 1970.  False: it is none. */
bool clock_read_http_date(struct text date, uint64_t *ret_s);

#endif
