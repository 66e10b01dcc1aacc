/* Inside service/cron: the calendar, rules of zones, fields of schedules. */
#ifndef SERVICE_CRON_PARTS_H
#define SERVICE_CRON_PARTS_H

#include "service/cron/cron.h"

/* ---- civil.c: the Gregorian calendar, seconds since 1970 without leap seconds ---- */

struct civil {
    int64_t year;
    unsigned month; /* 1 to 12 */
    unsigned day;   /* 1 to 31 */
    unsigned hour, minute, second;
    unsigned weekday; /* 0: Sunday; not read by civil_seconds() */
};

struct civil civil_of(int64_t seconds);
int64_t civil_seconds(const struct civil *civil);
int64_t civil_days(int64_t year, unsigned month, unsigned day);
unsigned civil_month_length(int64_t year, unsigned month);
bool civil_is_leap(int64_t year);
unsigned civil_weekday(int64_t days);

/* ---- posix_zone.c: "CET-1CEST,M3.5.0,M10.5.0/3" (POSIX.1, 8.3, with RFC 8536's hours) ---- */

struct posix_rule {
    char kind; /* 'M', 'J' (1 to 365, never February 29) or 'D' (0 to 365) */
    unsigned month, week, day;
    int32_t time; /* seconds of the day; may be negative or beyond a day */
};

struct posix_zone {
    int32_t standard; /* seconds east */
    int32_t saving;
    bool has_saving;
    struct posix_rule start, end; /* of saving */
};

bool posix_zone_parse(const char *text, struct posix_zone *ret_zone);
int32_t posix_zone_offset(const struct posix_zone *zone, int64_t time);
bool posix_zone_next_change(const struct posix_zone *zone, int64_t time, int64_t *ret_time);

/* ---- parse.c, cron.c ---- */

/* The first moment that has this wall-clock time; in a gap, the change. */
int64_t cron_moment_of(const struct cron_zone *zone, int64_t wall);

struct cron {
    const struct cron_zone *zone;
    uint64_t every_ms; /* @every; or */
    uint64_t at_ms;    /* @at; or */
    uint64_t seconds;  /* bits */
    uint64_t minutes;
    uint32_t hours;
    uint32_t days;         /* 1 to 31 */
    uint32_t nearest_days; /* nW */
    uint32_t before_last;  /* L-n: bit n */
    bool last_weekday;     /* LW */
    uint16_t months;       /* 1 to 12 */
    uint8_t weekdays;      /* 0 to 6 */
    uint8_t last_weekdays; /* nL */
    uint8_t nth[7];        /* n#k: bit k of weekday n */
    bool any_day;          /* DAY begins with * */
    bool any_weekday;
    bool is_new; /* it is being written, not read: see cron_check() */
};

#endif
