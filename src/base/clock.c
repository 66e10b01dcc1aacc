#include "base/clock.h"

#include <stdio.h>
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
