/* Days and dates, by Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms". */
#include "service/cron/parts.h"

enum { DAY = 86400 };

int64_t civil_days(int64_t year, unsigned month, unsigned day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400;
    int64_t of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

unsigned civil_weekday(int64_t days)
{
    return (unsigned)(((days + 4) % 7 + 7) % 7);
}

bool civil_is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

unsigned civil_month_length(int64_t year, unsigned month)
{
    static const unsigned char lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return lengths[month - 1] + (month == 2 && civil_is_leap(year));
}

struct civil civil_of(int64_t seconds)
{
    int64_t days = seconds / DAY - (seconds % DAY < 0);
    unsigned rest = (unsigned)(seconds - days * DAY);
    int64_t shifted = days + 719468;
    int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t of_era = shifted - era * 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted_month = (5 * of_year + 2) / 153;
    unsigned month = (unsigned)(shifted_month + (shifted_month < 10 ? 3 : -9));
    return (struct civil){
        .year = year_of_era + era * 400 + (month <= 2),
        .month = month,
        .day = (unsigned)(of_year - (153 * shifted_month + 2) / 5 + 1),
        .hour = rest / 3600,
        .minute = rest / 60 % 60,
        .second = rest % 60,
        .weekday = civil_weekday(days),
    };
}

int64_t civil_seconds(const struct civil *civil)
{
    return civil_days(civil->year, civil->month, civil->day) * DAY + (int64_t)civil->hour * 3600 +
        (int64_t)civil->minute * 60 + civil->second;
}
