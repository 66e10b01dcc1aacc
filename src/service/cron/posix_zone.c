/* The rule behind the last transition of a TZif file. */
#include <string.h>

#include "service/cron/parts.h"

enum { DAY = 86400, HOURS_MAX = 167 };

static bool parse_digits(const char **at, unsigned most, unsigned *ret_number)
{
    unsigned number = 0;
    const char *first = *at;
    while (**at >= '0' && **at <= '9' && *at - first < 4) {
        number = number * 10 + (unsigned)(**at - '0');
        (*at)++;
    }
    *ret_number = number;
    return *at > first && number <= most;
}

/* [+-]hh[:mm[:ss]] */
static bool parse_time(const char **at, int32_t *ret_seconds)
{
    unsigned parts[3] = {0};
    bool is_negative = **at == '-';
    if (**at == '-' || **at == '+') {
        (*at)++;
    }
    for (int i = 0; i < 3; i++) {
        if (!parse_digits(at, i == 0 ? HOURS_MAX : 59, &parts[i])) {
            return false;
        }
        if (**at != ':' || i == 2) {
            break;
        }
        (*at)++;
    }
    int32_t seconds = (int32_t)(parts[0] * 3600 + parts[1] * 60 + parts[2]);
    *ret_seconds = is_negative ? -seconds : seconds;
    return true;
}

static bool parse_name(const char **at)
{
    const char *first = *at;
    if (**at == '<') {
        size_t length = strcspn(*at, ">");
        *at += length + ((*at)[length] == '>');
        return length > 1 && (*at)[-1] == '>';
    }
    while ((**at >= 'A' && **at <= 'Z') || (**at >= 'a' && **at <= 'z')) {
        (*at)++;
    }
    return *at - first >= 3;
}

static bool parse_rule(const char **at, struct posix_rule *rule)
{
    *rule = (struct posix_rule){.kind = 'D', .time = 2 * 3600};
    if (**at == 'M') {
        (*at)++;
        rule->kind = 'M';
        bool is_good = parse_digits(at, 12, &rule->month) && rule->month > 0 && *(*at)++ == '.' &&
            parse_digits(at, 5, &rule->week) && rule->week > 0 && *(*at)++ == '.' &&
            parse_digits(at, 6, &rule->day);
        if (!is_good) {
            return false;
        }
    } else {
        rule->kind = **at == 'J' ? 'J' : 'D';
        *at += **at == 'J';
        if (!parse_digits(at, 365, &rule->day) || (rule->kind == 'J' && rule->day == 0)) {
            return false;
        }
    }
    if (**at == '/') {
        (*at)++;
        return parse_time(at, &rule->time);
    }
    return true;
}

bool posix_zone_parse(const char *text, struct posix_zone *ret_zone)
{
    struct posix_zone zone = {0};
    int32_t west = 0;
    if (!parse_name(&text) || !parse_time(&text, &west)) {
        return false;
    }
    zone.standard = -west;
    if (*text != '\0') {
        zone.has_saving = true;
        zone.saving = zone.standard + 3600;
        if (!parse_name(&text)) {
            return false;
        }
        if (*text != ',' && *text != '\0') {
            if (!parse_time(&text, &west)) {
                return false;
            }
            zone.saving = -west;
        }
        if (*text++ != ',' || !parse_rule(&text, &zone.start) || *text++ != ',' ||
            !parse_rule(&text, &zone.end)) {
            return false;
        }
    }
    *ret_zone = zone;
    return *text == '\0';
}

/* Local seconds at which a rule falls in a year. */
static int64_t rule_time(const struct posix_rule *rule, int64_t year)
{
    int64_t days = civil_days(year, 1, 1);
    if (rule->kind == 'J') {
        days += rule->day - 1 + (civil_is_leap(year) && rule->day >= 60);
    } else if (rule->kind == 'D') {
        days += rule->day;
    } else {
        days = civil_days(year, rule->month, 1);
        unsigned first = (rule->day + 7 - civil_weekday(days)) % 7 + 1;
        unsigned day = first + 7 * (rule->week - 1);
        day -= day > civil_month_length(year, rule->month) ? 7 : 0;
        days += day - 1;
    }
    return days * DAY + rule->time;
}

/* The moments of a year, in UTC: where saving begins, and where it ends. */
static void changes_of(const struct posix_zone *zone, int64_t year, int64_t ret_times[2])
{
    ret_times[0] = rule_time(&zone->start, year) - zone->standard;
    ret_times[1] = rule_time(&zone->end, year) - zone->saving;
}

/* The last change that is not after `time`, looked for from the year before on. */
int32_t posix_zone_offset(const struct posix_zone *zone, int64_t time)
{
    if (!zone->has_saving) {
        return zone->standard;
    }
    int64_t year = civil_of(time).year;
    int64_t latest = INT64_MIN;
    bool saves = false;
    for (int64_t at = year - 1; at <= year + 1; at++) {
        int64_t times[2];
        changes_of(zone, at, times);
        for (int i = 0; i < 2; i++) {
            if (times[i] <= time && times[i] >= latest) {
                /* Saving all the year: it ends and begins again at one moment. */
                saves = times[i] == latest ? true : i == 0;
                latest = times[i];
            }
        }
    }
    return saves ? zone->saving : zone->standard;
}

bool posix_zone_next_change(const struct posix_zone *zone, int64_t time, int64_t *ret_time)
{
    if (!zone->has_saving) {
        return false;
    }
    int64_t year = civil_of(time).year;
    int64_t found = INT64_MAX;
    for (int64_t at = year - 1; at <= year + 2; at++) {
        int64_t times[2];
        changes_of(zone, at, times);
        for (int i = 0; i < 2; i++) {
            if (times[i] > time && times[i] < found &&
                posix_zone_offset(zone, times[i]) != posix_zone_offset(zone, times[i] - 1)) {
                found = times[i];
            }
        }
    }
    *ret_time = found;
    return found != INT64_MAX;
}
