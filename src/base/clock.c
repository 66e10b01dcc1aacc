#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/check.h"

static uint64_t read_ns(clockid_t id)
{
    struct timespec time;
    int r = clock_gettime(id, &time);
    CHECK(r == 0);
    return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_monotonic_ms(void)
{
    return clock_monotonic_ns() / 1000000;
}

uint64_t clock_boot_ms(void)
{
    return read_ns(CLOCK_BOOTTIME) / 1000000;
}

uint64_t clock_real_ns(void)
{
    return read_ns(CLOCK_REALTIME);
}

uint64_t clock_real_ms(void)
{
    return clock_real_ns() / 1000000;
}

void clock_format_ms(uint64_t real_ms, char ret_text[CLOCK_TEXT_SIZE])
{
    time_t seconds = (time_t)(real_ms / 1000);
    struct tm parts;
    if (gmtime_r(&seconds, &parts) == NULL) {
        snprintf(ret_text, CLOCK_TEXT_SIZE, "invalid");
        return;
    }
    char text[CLOCK_TEXT_SIZE];
    size_t used = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    CHECK(used > 0);
    snprintf(ret_text, CLOCK_TEXT_SIZE, "%.*s.%03uZ", 20, text, (unsigned)(real_ms % 1000));
}

/* Digits where `form` has a 0, and otherwise what it has. */
static bool has_form(const char *text, const char *form)
{
    for (; *form != '\0'; text++, form++) {
        bool is_digit = *text >= '0' && *text <= '9';
        bool is_it = *form == '0' ? is_digit : *text == *form || (*form == 'T' && *text == 't');
        if (!is_it) {
            return false;
        }
    }
    return true;
}

static int two_digits(const char *text)
{
    return (text[0] - '0') * 10 + text[1] - '0';
}

/* What is behind the seconds. */
static bool read_offset(const char *text, int64_t *ret_seconds)
{
    *ret_seconds = 0;
    if (strcmp(text, "Z") == 0 || strcmp(text, "z") == 0) {
        return true;
    }
    if ((!has_form(text, "+00:00") && !has_form(text, "-00:00")) || text[6] != '\0' ||
        two_digits(text + 1) > 23 || two_digits(text + 4) > 59) {
        return false;
    }
    *ret_seconds = (two_digits(text + 1) * 60 + two_digits(text + 4)) * (text[0] == '-' ? -60 : 60);
    return true;
}

bool clock_read_ms(const char *text, bool *ret_is_local, uint64_t *ret_ms)
{
    if (!has_form(text, "0000-00-00T00:00:00")) {
        return false;
    }
    const int second = two_digits(text + 17);
    struct tm parts = {.tm_year = two_digits(text) * 100 + two_digits(text + 2) - 1900,
                       .tm_mon = two_digits(text + 5) - 1,
                       .tm_mday = two_digits(text + 8),
                       .tm_hour = two_digits(text + 11),
                       .tm_min = two_digits(text + 14),
                       .tm_sec = second < 60 ? second : 59};
    const struct tm said = parts;
    int64_t seconds = timegm(&parts); /* which makes a date of any numbers */
    if (second > 60 || parts.tm_mon != said.tm_mon || parts.tm_mday != said.tm_mday ||
        parts.tm_hour != said.tm_hour || parts.tm_min != said.tm_min) {
        return false;
    }
    const char *at = text + 19;
    uint64_t ms = 0;
    if (*at == '.') {
        uint64_t scale = 100;
        for (at++; *at >= '0' && *at <= '9'; at++, scale /= 10) {
            ms += (uint64_t)(*at - '0') * scale;
        }
    }
    bool is_local = ret_is_local != NULL && *at == '\0';
    int64_t offset = 0;
    if (!is_local && !read_offset(at, &offset)) {
        return false;
    }
    seconds += (second == 60) - offset;
    if (seconds < 0) {
        return false;
    }
    if (ret_is_local != NULL) {
        *ret_is_local = is_local;
    }
    *ret_ms = (uint64_t)seconds * 1000 + ms;
    return true;
}

bool clock_read_http_date(struct text date, uint64_t *ret_s)
{
    static const char *const forms[] = {"%a, %d %b %Y %T GMT", "%A, %d-%b-%y %T GMT",
                                        "%a %b %e %T %Y"};
    char text[64];
    if (date.length == 0 || date.length >= sizeof(text)) {
        return false;
    }
    snprintf(text, sizeof(text), "%.*s", (int)date.length, date.data);
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        struct tm parts = {0};
        const char *end = strptime(text, forms[i], &parts);
        time_t seconds = end != NULL && *end == '\0' ? timegm(&parts) : -1;
        if (seconds >= 0) {
            *ret_s = (uint64_t)seconds;
            return true;
        }
    }
    return false;
}
