#include "base/clock.h"

#include "test/lib/test.h"

static uint64_t read_ms(const char *text)
{
    uint64_t ms = 0;
    return clock_read_ms(text, NULL, &ms) ? ms : UINT64_MAX;
}

TEST(clock, times_are_read_as_rfc_3339_has_them)
{
    EXPECT(read_ms("1970-01-01T00:00:00Z") == 0);
    EXPECT(read_ms("2026-01-31T12:00:00Z") == 1769860800000);
    EXPECT(read_ms("2026-01-31t12:00:00z") == 1769860800000);
    EXPECT(read_ms("2026-01-31T13:00:00+01:00") == 1769860800000);
    EXPECT(read_ms("2026-01-31T06:30:00-05:30") == 1769860800000);
    EXPECT(read_ms("2026-01-31T12:00:00.0019Z") == 1769860800001);
    EXPECT(read_ms("2016-12-31T23:59:60Z") == read_ms("2017-01-01T00:00:00Z"));
    EXPECT(read_ms("2024-02-29T00:00:00Z") + 86400000 == read_ms("2024-03-01T00:00:00Z"));
}

TEST(clock, what_is_no_time_is_refused)
{
    static const char *const bad[] = {
        "",
        "soon",
        "2026-01-31",
        "2026-01-31T12:00Z",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T00:60:00Z",
        "2026-01-31T00:00:61Z",
        "2026-+1-31T00:00:00Z",
        "2026-01-31T00:00:00+24:00",
        "2026-01-31T00:00:00+1:00",
        "2026-01-31T00:00:00Z ",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(read_ms(bad[i]) == UINT64_MAX);
    }
}

TEST(clock, a_time_without_offset_is_local_where_that_is_allowed)
{
    uint64_t ms = 0;
    bool is_local = false;
    EXPECT(clock_read_ms("2026-01-31T12:00:00", &is_local, &ms) && is_local);
    EXPECT(ms == 1769860800000);
    EXPECT(clock_read_ms("2026-01-31T12:00:00Z", &is_local, &ms) && !is_local);
}
