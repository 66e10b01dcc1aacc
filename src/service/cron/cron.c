/* The next moment. */
#include "base/check.h"

#include "service/cron/parts.h"

enum { YEARS_MAX = 100, NONE = -1 };

bool cron_is_once(const struct cron *cron)
{
    return cron->at_ms > 0;
}

/* ---- Wall-clock times that fit, without a zone ---- */

static unsigned nearest_weekday(int64_t year, unsigned month, unsigned day)
{
    unsigned length = civil_month_length(year, month);
    day = day > length ? length : day;
    unsigned weekday = civil_weekday(civil_days(year, month, day));
    if (weekday == 6) {
        return day > 1 ? day - 1 : day + 2;
    }
    if (weekday == 0) {
        return day < length ? day + 1 : day - 2;
    }
    return day;
}

static bool day_fits(const struct cron *cron, int64_t year, unsigned month, unsigned day)
{
    unsigned length = civil_month_length(year, month);
    bool fits = (cron->days >> day & 1) != 0 || (cron->before_last >> (length - day) & 1) != 0 ||
        (cron->last_weekday && day == nearest_weekday(year, month, length));
    for (unsigned wanted = 1; !fits && wanted <= 31 && cron->nearest_days >> wanted != 0;
         wanted++) {
        fits = (cron->nearest_days >> wanted & 1) != 0 && wanted <= length &&
            day == nearest_weekday(year, month, wanted);
    }
    return fits;
}

static bool weekday_fits(const struct cron *cron, int64_t year, unsigned month, unsigned day)
{
    unsigned weekday = civil_weekday(civil_days(year, month, day));
    bool is_last = day + 7 > civil_month_length(year, month);
    return (cron->weekdays >> weekday & 1) != 0 ||
        (is_last && (cron->last_weekdays >> weekday & 1) != 0) ||
        (cron->nth[weekday] >> ((day - 1) / 7 + 1) & 1) != 0;
}

static bool date_fits(const struct cron *cron, const struct civil *at)
{
    bool day = day_fits(cron, at->year, at->month, at->day);
    bool weekday = weekday_fits(cron, at->year, at->month, at->day);
    return cron->any_day || cron->any_weekday ? day && weekday : day || weekday;
}

/* The lowest bit that is at least `from`, or NONE. */
static int bit_from(uint64_t bits, unsigned from)
{
    uint64_t left = from < 64 ? bits >> from << from : 0;
    return left != 0 ? __builtin_ctzll(left) : NONE;
}

static void next_day(struct civil *at)
{
    at->hour = at->minute = at->second = 0;
    if (++at->day > civil_month_length(at->year, at->month)) {
        at->day = 1;
        if (++at->month > 12) {
            at->month = 1;
            at->year++;
        }
    }
}

/* The first time of this day that is not before `at`; false: there is none. */
static bool time_fits(const struct cron *cron, struct civil *at)
{
    int second = bit_from(cron->seconds, at->second);
    int minute = bit_from(cron->minutes, at->minute + (second == NONE));
    int hour = bit_from(cron->hours, at->hour + (minute == NONE));
    if (hour == NONE) {
        return false;
    }
    bool is_later_hour = (unsigned)hour > at->hour;
    if (is_later_hour || minute == NONE) {
        minute = bit_from(cron->minutes, 0);
    }
    if (is_later_hour || (unsigned)minute > at->minute || second == NONE) {
        second = bit_from(cron->seconds, 0);
    }
    at->hour = (unsigned)hour;
    at->minute = (unsigned)minute;
    at->second = (unsigned)second;
    return true;
}

/* The first wall-clock time that fits and is not before `from`; false: none in a lifetime. */
static bool next_wall(const struct cron *cron, int64_t from, int64_t *ret_wall)
{
    struct civil at = civil_of(from);
    int64_t end = at.year + YEARS_MAX;
    while (at.year <= end) {
        if ((cron->months >> at.month & 1) == 0) {
            at.day = civil_month_length(at.year, at.month);
            next_day(&at);
        } else if (!date_fits(cron, &at) || !time_fits(cron, &at)) {
            next_day(&at);
        } else {
            *ret_wall = civil_seconds(&at);
            return true;
        }
    }
    return false;
}

/* ---- And with one ---- */

int64_t cron_moment_of(const struct cron_zone *zone, int64_t wall)
{
    /* Offsets are less than 26 h: what is in force before and after all candidates. */
    int64_t at = wall - 26 * 3600 - 1;
    for (;;) {
        int32_t offset = cron_zone_offset(zone, at);
        int64_t moment = wall - offset;
        int64_t change = 0;
        bool changes = cron_zone_next_change(zone, at, &change);
        if (!changes || moment < change) {
            return moment < at ? at : moment; /* before: it was skipped */
        }
        at = change;
    }
}

/* Every hour is named: each moment whose wall clock fits. */
static int64_t next_elapsed(const struct cron *cron, int64_t after)
{
    int64_t at = after + 1;
    int64_t end = after + (int64_t)YEARS_MAX * 366 * 86400;
    while (at < end) {
        int32_t offset = cron_zone_offset(cron->zone, at);
        int64_t wall = 0;
        int64_t change = 0;
        bool changes = cron_zone_next_change(cron->zone, at, &change);
        if (!next_wall(cron, at + offset, &wall)) {
            return NONE;
        }
        if (!changes || wall - offset < change) {
            return wall - offset;
        }
        at = change;
    }
    return NONE;
}

static int64_t next_fixed(const struct cron *cron, int64_t after)
{
    int64_t from = after + cron_zone_offset(cron->zone, after) + 1;
    int64_t wall = 0;
    /* What is not after `from` is not after `after`, either; what follows may be, where the clock
     * was set back. */
    while (next_wall(cron, from, &wall)) {
        int64_t moment = cron_moment_of(cron->zone, wall);
        if (moment > after) {
            return moment;
        }
        from = wall + 1;
    }
    return NONE;
}

uint64_t cron_next(const struct cron *cron, uint64_t after_ms, uint64_t since_ms)
{
    enum { HOURS = (1 << 24) - 1 };
    if (cron->every_ms > 0) {
        uint64_t every_ms = cron->every_ms;
        uint64_t ahead_ms = since_ms > after_ms ? since_ms - after_ms : 0;
        uint64_t passed_ms = after_ms > since_ms ? after_ms - since_ms : 0;
        return ahead_ms > every_ms ? since_ms - (ahead_ms - 1) / every_ms * every_ms
                                   : since_ms + (passed_ms / every_ms + 1) * every_ms;
    }
    if (cron->at_ms > 0) {
        return cron->at_ms > after_ms ? cron->at_ms : 0;
    }
    CHECK(after_ms < UINT64_MAX / 2);
    int64_t after = (int64_t)(after_ms / 1000);
    int64_t next = cron->hours == HOURS ? next_elapsed(cron, after) : next_fixed(cron, after);
    return next == NONE ? 0 : (uint64_t)next * 1000;
}

uint64_t cron_window(const struct cron *cron, uint64_t duration_ms, uint64_t since_ms,
                     uint64_t now_ms)
{
    uint64_t after_ms = now_ms > duration_ms ? now_ms - duration_ms : 0;
    if (!cron_is_once(cron) && after_ms < since_ms) {
        after_ms = since_ms - 1;
    }
    return cron_next(cron, after_ms, since_ms);
}
