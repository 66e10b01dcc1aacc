#include "service/cron/cron.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"

#include "test/lib/test.h"

/* "2026-03-29T01:59:00Z" in milliseconds, by libc. */
static uint64_t moment(const char *text)
{
    struct tm tm = {0};
    EXPECT(strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) != NULL);
    return (uint64_t)timegm(&tm) * 1000;
}

static struct cron_zone *zone_of(const char *name)
{
    struct cron_zone *zone = NULL;
    struct error err = {0};
    int r = cron_zone_open(name, &zone, &err);
    if (r < 0) {
        printf("%s\n", err.text);
    }
    EXPECT(r == 0);
    return zone;
}

/* `expected` are the moments that follow `after`, separated by blanks; "-" is none. */
static void follows(const char *schedule, const char *zone_name, const char *after,
                    const char *expected)
{
    struct cron_zone *zone = zone_of(zone_name);
    struct cron *cron = NULL;
    struct error err = {0};
    int r = cron_parse(schedule, zone, &cron, &err);
    if (r < 0) {
        printf("%s\n", err.text);
    }
    EXPECT(r == 0);
    uint64_t at = moment(after);
    while (*expected != '\0') {
        size_t length = strcspn(expected, " ");
        char text[CLOCK_TEXT_SIZE] = "-";
        at = cron_next(cron, at, moment("2026-01-01T00:00:07Z"));
        if (at != 0) {
            clock_format_ms(at, text);
            memcpy(text + 19, "Z", 2);
        }
        if (strlen(text) != length || strncmp(text, expected, length) != 0) {
            printf("%s in %s: %s, not %.*s\n", schedule, zone_name, text, (int)length, expected);
        }
        EXPECT(strlen(text) == length && strncmp(text, expected, length) == 0);
        expected += length + (expected[length] == ' ');
    }
    cron_free(cron);
    cron_zone_free(zone);
}

TEST(cron, fields_name_their_moments)
{
    follows("0 3 * * *", "", "2026-01-31T03:00:00Z", "2026-02-01T03:00:00Z 2026-02-02T03:00:00Z");
    follows("*/20 8-9 * * *", "", "2026-01-31T08:45:00Z",
            "2026-01-31T09:00:00Z 2026-01-31T09:20:00Z 2026-01-31T09:40:00Z 2026-02-01T08:00:00Z");
    follows("30 5,10 * * * *", "", "2026-01-31T23:10:30Z",
            "2026-02-01T00:05:30Z 2026-02-01T00:10:30Z 2026-02-01T01:05:30Z");
    follows("0 0 29 2 *", "", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z");
    follows("0 0 29 2 *", "", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00Z");
    follows("0 12 * JAN-mar MON", "", "2026-03-25T00:00:00Z",
            "2026-03-30T12:00:00Z 2027-01-04T12:00:00Z");
    follows("0 0 * * 7", "", "2026-11-26T00:00:00Z", "2026-11-29T00:00:00Z");
    follows("0 0 * * FRI-SUN", "", "2026-11-26T00:00:00Z",
            "2026-11-27T00:00:00Z 2026-11-28T00:00:00Z 2026-11-29T00:00:00Z 2026-12-04T00:00:00Z");
    follows("5/20 * * * *", "", "2026-01-01T00:00:00Z",
            "2026-01-01T00:05:00Z 2026-01-01T00:25:00Z 2026-01-01T00:45:00Z 2026-01-01T01:05:00Z");
    follows("59 59 23 31 12 ?", "", "2026-12-31T23:59:58Z", "2026-12-31T23:59:59Z");
}

TEST(cron, either_day_is_enough_when_both_are_given)
{
    follows("0 0 13 * 5", "", "2026-11-01T00:00:00Z",
            "2026-11-06T00:00:00Z 2026-11-13T00:00:00Z 2026-11-20T00:00:00Z 2026-11-27T00:00:00Z "
            "2026-12-04T00:00:00Z 2026-12-11T00:00:00Z 2026-12-13T00:00:00Z");
    follows("0 0 */2 * MON", "", "2026-11-01T00:00:00Z",
            "2026-11-09T00:00:00Z 2026-11-23T00:00:00Z");
}

TEST(cron, quartz_signs_for_days)
{
    follows("0 0 L * *", "", "2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z 2026-03-31T00:00:00Z");
    follows("0 0 L-3 * *", "", "2026-02-01T00:00:00Z", "2026-02-25T00:00:00Z 2026-03-28T00:00:00Z");
    follows("0 0 LW * *", "", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z 2026-02-27T00:00:00Z");
    follows("0 0 15W * *", "", "2026-08-01T00:00:00Z",
            "2026-08-14T00:00:00Z 2026-09-15T00:00:00Z 2026-10-15T00:00:00Z 2026-11-16T00:00:00Z");
    follows("0 0 1W * *", "", "2026-07-31T00:00:00Z", "2026-08-03T00:00:00Z");
    follows("0 0 31W * *", "", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z 2026-05-29T00:00:00Z");
    follows("0 0 * * 5#3", "", "2026-11-01T00:00:00Z", "2026-11-20T00:00:00Z 2026-12-18T00:00:00Z");
    follows("0 0 * * FRI#5", "", "2026-11-01T00:00:00Z", "2027-01-29T00:00:00Z");
    follows("0 0 * * 5L", "", "2026-11-01T00:00:00Z", "2026-11-27T00:00:00Z 2026-12-25T00:00:00Z");
}

TEST(cron, names_and_intervals)
{
    follows("@hourly", "", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
    follows("@weekly", "", "2026-11-26T00:00:00Z", "2026-11-29T00:00:00Z");
    follows("@yearly", "Asia/Tokyo", "2026-01-01T00:00:00Z", "2026-12-31T15:00:00Z");
    follows("@every 90s", "", "2026-01-01T00:00:07Z", "2026-01-01T00:01:37Z 2026-01-01T00:03:07Z");
    follows("@every 90s", "", "2026-01-01T00:01:36Z", "2026-01-01T00:01:37Z");
    follows("@at 2026-06-01T09:00:00+02:00", "", "2026-01-01T00:00:00Z", "2026-06-01T07:00:00Z -");
    follows("  @daily", "", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    follows("0 0 31 2 *", "", "2026-01-01T00:00:00Z", "-");
}

/* The second one is skipped: it is the change; the third one comes twice: it is the first. */
TEST(cron, a_moment_without_an_offset_is_of_the_zone)
{
    follows("@at 2026-06-01T09:00:00", "Europe/Berlin", "2026-01-01T00:00:00Z",
            "2026-06-01T07:00:00Z -");
    follows("@at 2026-03-29T02:30:00", "Europe/Berlin", "2026-01-01T00:00:00Z",
            "2026-03-29T01:00:00Z -");
    follows("@at 2026-10-25T02:30:00", "Europe/Berlin", "2026-01-01T00:00:00Z",
            "2026-10-25T00:30:00Z -");
    follows("@at 2026-06-30T23:59:60Z", "Europe/Berlin", "2026-01-01T00:00:00Z",
            "2026-07-01T00:00:00Z -");
}

/* They were made by a clock that was ten years ahead: "since" is 2026-01-01T00:00:07Z. */
TEST(cron, intervals_go_on_where_the_clock_was_ahead)
{
    follows("@every 90s", "", "2016-01-01T00:00:00Z", "2016-01-01T00:00:07Z 2016-01-01T00:01:37Z");
    follows("@every 90s", "", "2025-12-31T23:59:00Z", "2026-01-01T00:01:37Z");
}

/* Europe: on 2026-03-29 02:00 becomes 03:00 (01:00 UTC); on 2026-10-25 03:00 becomes 02:00. */
TEST(cron, a_skipped_hour_runs_once_at_the_change)
{
    follows("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z",
            "2026-03-28T01:30:00Z 2026-03-29T01:00:00Z 2026-03-30T00:30:00Z");
    follows("*/15 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z",
            "2026-03-29T01:00:00Z 2026-03-30T00:00:00Z 2026-03-30T00:15:00Z");
    follows("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z");
}

TEST(cron, an_hour_that_comes_twice_runs_once)
{
    follows("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z",
            "2026-10-25T00:30:00Z 2026-10-26T01:30:00Z");
    follows("*/30 1-3 * * *", "Europe/Berlin", "2026-10-24T23:00:00Z",
            "2026-10-24T23:30:00Z 2026-10-25T00:00:00Z 2026-10-25T00:30:00Z 2026-10-25T02:00:00Z");
    follows("0 30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z",
            "2026-11-01T05:30:00Z 2026-11-02T06:30:00Z");
}

TEST(cron, every_hour_follows_elapsed_time)
{
    follows("30 * * * *", "Europe/Berlin", "2026-10-24T23:31:00Z",
            "2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-25T02:30:00Z");
    follows("30 * * * *", "Europe/Berlin", "2026-03-29T00:29:00Z",
            "2026-03-29T00:30:00Z 2026-03-29T01:30:00Z");
    /* Half an hour: at 02:00 it is 01:30 again. */
    follows("0 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30:00Z",
            "2026-04-04T15:30:00Z 2026-04-04T16:30:00Z 2026-04-04T17:30:00Z");
    follows("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14:00:00Z",
            "2026-04-04T14:45:00Z 2026-04-04T15:15:00Z 2026-04-04T16:15:00Z");
}

/* Samoa had no 30 December 2011: the run of that day is at the change. */
TEST(cron, a_skipped_day_runs_at_the_change)
{
    follows("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z",
            "2011-12-29T22:00:00Z 2011-12-30T10:00:00Z 2011-12-30T22:00:00Z");
}

static void refused(const char *schedule, const char *says)
{
    struct cron_zone *zone = zone_of("UTC");
    struct error err = {0};
    EXPECT(cron_check(schedule, zone, &err) < 0);
    if (strstr(err.text, says) == NULL) {
        printf("%s: %s\n", schedule, err.text);
    }
    EXPECT(strstr(err.text, says) != NULL);
    cron_zone_free(zone);
}

/* Of a release that did not look at steps. */
TEST(cron, a_stored_step_that_leaves_its_field_goes_on)
{
    follows("*/90 * * * *", "UTC", "2026-01-01T00:30:00Z",
            "2026-01-01T01:00:00Z 2026-01-01T02:00:00Z");
}

TEST(cron, what_is_wrong_is_named)
{
    refused("", "5 fields");
    refused("* * * *", "not 4");
    refused("* * * * * * *", "not 7");
    refused("60 * * * *", "minute \"60\": it is 0 to 59");
    refused("* 24 * * *", "hour");
    refused("* * 0 * *", "day \"0\"");
    refused("* * * 13 *", "month");
    refused("* * * * 8", "weekday");
    refused("*/0 * * * *", "step");
    refused("*/90 * * * *", "minute \"*/90\": a step of more than 60");
    refused("*/90 * * * *", "\"@every 90m\"");
    refused("*/61 * * * *", "\"@every 61m\"");
    refused("*/90 * * * * *", "\"@every 90s\"");
    refused("0 5-20/36 * * *", "\"@every 36h\"");
    refused("0 0 */40 * *", "at most 31");
    refused("0 0 * */13 *", "at most 12");
    refused("0 0 * * */8", "at most 7");
    refused("5-1 * * * *", "ends before");
    refused("1, * * * *", "minute");
    refused("x * * * *", "minute \"x\"");
    refused("1x * * * *", "goes on");
    refused("* * L-40 * *", "L-3");
    refused("* * * * 5#6", "5#3");
    refused("* L * * *", "hour");
    refused("rate(5 minutes)", "@every 5m");
    refused("cron(0 3 * * ? *)", "\"0 3 * * *\"");
    refused("CRON_TZ=Europe/Berlin 0 9 * * *", "time zone stands beside it");
    refused("@often", "not known");
    refused("@every 10ms", "@every");
    refused("@every soon", "@every");
    refused("@at tomorrow", "@at");
    refused("@at 2026-02-30T00:00:00Z", "@at");
    refused("* * * Feb MONX", "weekday");
}

TEST(cron, zones_are_names_below_one_folder)
{
    static const char *const bad[] = {"../etc/passwd", "/etc/passwd", "Europe/Nowhere",
                                      "Europe",        "a b",         "tzdata.zi"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct cron_zone *zone = NULL;
        struct error err = {0};
        EXPECT(cron_zone_open(bad[i], &zone, &err) < 0);
        EXPECT(err.text[0] != '\0');
    }
}

/* Its offsets are counted from another beginning than the clock's: 27 seconds away, and wrong. */
TEST(cron, a_zone_that_counts_leap_seconds_is_refused)
{
    enum { HEADER = 44, TYPE = 6 + 4, LEAP = 8 + 4 }; /* RFC 8536, 3.1 and 3.2 */
    uint8_t bytes[2 * (HEADER + TYPE) + LEAP + 2] = {0};
    uint8_t *second = bytes + HEADER + TYPE;
    memcpy(bytes, "TZif2", 5);
    memcpy(second, "TZif2", 5);
    bytes[39] = second[39] = 1; /* type */
    bytes[43] = second[43] = 4; /* characters of names: "UTC" */
    memcpy(bytes + sizeof(bytes) - 2, "\n\n", 2);
    second[31] = 1; /* leap second */
    struct cron_zone *zone = NULL;
    struct error err = {0};
    EXPECT(cron_zone_read(bytes, sizeof(bytes), &zone, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "leap seconds") != NULL);
}

TEST(cron, zones_are_read_where_the_environment_says)
{
    struct cron_zone *zone = NULL;
    struct error err = {0};
    setenv("TZDIR", "/nonexistent", 1);
    EXPECT(cron_zone_open("Europe/Berlin", &zone, &err) < 0);
    EXPECT(strstr(err.text, "/nonexistent") != NULL);
    setenv("TZDIR", "/usr/share/zoneinfo/Europe", 1);
    EXPECT(cron_zone_open("Berlin", &zone, &err) == 0);
    cron_zone_free(zone);
    unsetenv("TZDIR");
    EXPECT(cron_zone_open("Berlin", &zone, &err) < 0);
}

/*
 * Goal: offsets are libc's, before, within and after the table of transitions.
 * Method: moments from 1970 to 2120, spread by a generator, in zones of all kinds.
 */
TEST(cron, offsets_are_those_of_libc)
{
    static const char *const names[] = {
        "Europe/Berlin",  "America/New_York", "America/Sao_Paulo", "Australia/Lord_Howe",
        "Asia/Kathmandu", "Pacific/Apia",     "Africa/Casablanca", "Europe/Dublin",
        "Asia/Tokyo",     "America/Nuuk",     "Asia/Gaza",         "Antarctica/Troll",
        "Africa/Cairo",   "America/Santiago", "Etc/GMT+5",         "Pacific/Chatham",
    };
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct cron_zone *zone = zone_of(names[i]);
        setenv("TZ", names[i], 1);
        tzset();
        for (int n = 0; n < 3000; n++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            time_t at = (time_t)((seed >> 16) % (150ull * 365 * 86400));
            struct tm tm = {0};
            localtime_r(&at, &tm);
            if (cron_zone_offset(zone, at) != tm.tm_gmtoff) {
                printf("%s at %lld: %d, not %ld\n", names[i], (long long)at,
                       cron_zone_offset(zone, at), tm.tm_gmtoff);
            }
            EXPECT(cron_zone_offset(zone, at) == tm.tm_gmtoff);
        }
        cron_zone_free(zone);
    }
    unsetenv("TZ");
    tzset();
}

/* ---- Every minute around a change, as the header says it ---- */

struct fields {
    uint64_t minutes;
    uint32_t hours;
    char text[400];
};

/* Minutes and hours at random, few or many of them. */
static void draw_fields(uint64_t seed, struct fields *fields)
{
    uint64_t mixed = seed * 0x9e3779b97f4a7c15;
    size_t used = 0;
    *fields = (struct fields){.minutes = 1ull << (mixed % 60) | 1ull << (mixed / 60 % 60)};
    fields->hours = (uint32_t)(mixed >> 40 | 1) & 0xffffff;
    fields->hours = seed % 5 == 0 ? 0xffffff
        : seed % 5 == 1           ? 1u << (mixed >> 50) % 24
                                  : fields->hours;
    for (unsigned i = 0; i < 60; i++) {
        if ((fields->minutes >> i & 1) != 0) {
            used += (size_t)snprintf(fields->text + used, sizeof(fields->text) - used, "%s%u",
                                     used > 0 ? "," : "", i);
        }
    }
    const char *between = " ";
    for (unsigned i = 0; i < 24; i++) {
        if ((fields->hours >> i & 1) != 0) {
            used += (size_t)snprintf(fields->text + used, sizeof(fields->text) - used, "%s%u",
                                     between, i);
            between = ",";
        }
    }
    snprintf(fields->text + used, sizeof(fields->text) - used, " * * *");
}

static bool names_wall(const struct fields *fields, int64_t wall)
{
    int64_t minute = (wall / 60) % (24 * 60);
    return (fields->minutes >> (minute % 60) & 1) != 0 && (fields->hours >> (minute / 60) & 1) != 0;
}

static bool runs_at(const struct cron_zone *zone, const struct fields *fields, int64_t at)
{
    int64_t offset = cron_zone_offset(zone, at);
    int64_t before = cron_zone_offset(zone, at - 1);
    int64_t earlier = at + offset - cron_zone_offset(zone, at - 86400);
    bool is_second = earlier < at && earlier + cron_zone_offset(zone, earlier) == at + offset;
    bool follows_time = fields->hours == 0xffffff;
    bool runs = names_wall(fields, at + offset) && (follows_time || !is_second);
    for (int64_t wall = at + before; wall < at + offset && !follows_time; wall += 60) {
        runs = runs || names_wall(fields, wall);
    }
    return runs;
}

TEST(cron, every_minute_around_every_change_is_as_the_header_says)
{
    static const char *const names[] = {
        "Europe/Berlin",    "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll",
        "America/Santiago", "Africa/Cairo",     "Africa/Casablanca",   "Pacific/Chatham",
        "America/Nuuk",     "Europe/Dublin",    "Asia/Gaza",
    };
    uint64_t seed = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct cron_zone *zone = zone_of(names[i]);
        int64_t change = (int64_t)(moment("2026-01-01T00:00:00Z") / 1000);
        for (int n = 0; n < 4; n++) {
            EXPECT(cron_zone_next_change(zone, change, &change));
            for (int many = 0; many < 10; many++) {
                struct fields fields;
                struct cron *cron = NULL;
                struct error err = {0};
                draw_fields(++seed, &fields);
                EXPECT(cron_parse(fields.text, zone, &cron, &err) == 0);
                int64_t at = change - 86400;
                uint64_t next = cron_next(cron, (uint64_t)(at - 1) * 1000, 0) / 1000;
                for (; at < change + 86400; at += 60) {
                    bool runs = runs_at(zone, &fields, at);
                    if (runs != ((uint64_t)at == next)) {
                        printf("%s: \"%s\" at %lld, %lld after the change\n", names[i], fields.text,
                               (long long)at, (long long)(at - change));
                    }
                    EXPECT(runs == ((uint64_t)at == next));
                    next = runs ? cron_next(cron, (uint64_t)at * 1000, 0) / 1000 : next;
                }
                cron_free(cron);
            }
        }
        cron_zone_free(zone);
    }
}

/* ---- Policies, in virtual time ---- */

struct scene {
    struct cron_zone *zone;
    struct cron *cron;
    struct cron_policy policy;
    uint64_t since_ms;
};

static void open_scene(struct scene *scene, const char *schedule, enum cron_misfire misfire)
{
    struct error err = {0};
    *scene =
        (struct scene){.zone = zone_of("UTC"),
                       .policy = {.misfire = misfire, .misfire_max = 3, .misfire_after_ms = 60000},
                       .since_ms = moment("2026-01-01T00:00:00Z")};
    EXPECT(cron_parse(schedule, scene->zone, &scene->cron, &err) == 0);
}

static void close_scene(struct scene *scene)
{
    cron_free(scene->cron);
    cron_zone_free(scene->zone);
}

static struct cron_decision decide(const struct scene *scene, const char *slot, const char *now)
{
    struct cron_decision decision;
    cron_decide(scene->cron, &scene->policy, moment(slot), scene->since_ms, moment(now), &decision);
    return decision;
}

TEST(cron, a_slot_is_taken_when_it_has_come)
{
    struct scene scene;
    open_scene(&scene, "*/5 * * * *", CRON_MISFIRE_ONCE);
    struct cron_decision early = decide(&scene, "2026-01-01T00:05:00Z", "2026-01-01T00:04:59Z");
    EXPECT(early.count == 0 && early.next_ms == moment("2026-01-01T00:05:00Z"));
    struct cron_decision due = decide(&scene, "2026-01-01T00:05:00Z", "2026-01-01T00:05:00Z");
    EXPECT(due.count == 1 && due.slots[0] == moment("2026-01-01T00:05:00Z"));
    EXPECT(due.next_ms == moment("2026-01-01T00:10:00Z") && due.skipped == 0);
    struct cron_decision late = decide(&scene, "2026-01-01T00:05:00Z", "2026-01-01T00:05:59Z");
    EXPECT(late.count == 1 && late.skipped == 0);
    close_scene(&scene);
}

TEST(cron, missed_slots_follow_the_policy)
{
    struct scene scene;
    open_scene(&scene, "*/5 * * * *", CRON_MISFIRE_ONCE);
    const char *slot = "2026-01-01T00:05:00Z";
    const char *now = "2026-01-01T01:02:00Z";
    struct cron_decision once = decide(&scene, slot, now);
    EXPECT(once.count == 1 && once.slots[0] == moment("2026-01-01T01:00:00Z"));
    EXPECT(once.skipped == 11 && once.next_ms == moment("2026-01-01T01:05:00Z"));
    scene.policy.misfire = CRON_MISFIRE_SKIP;
    struct cron_decision skip = decide(&scene, slot, now);
    EXPECT(skip.count == 0 && skip.skipped == 12);
    EXPECT(skip.next_ms == moment("2026-01-01T01:05:00Z"));
    scene.policy.misfire = CRON_MISFIRE_ALL;
    struct cron_decision all = decide(&scene, slot, now);
    EXPECT(all.count == 3 && all.skipped == 9);
    EXPECT(all.slots[0] == moment("2026-01-01T00:50:00Z"));
    close_scene(&scene);
}

/* Half a year of seconds is as quick as an hour of them. */
TEST(cron, a_long_outage_costs_little)
{
    struct scene scene;
    open_scene(&scene, "* * * * * *", CRON_MISFIRE_ALL);
    scene.policy.misfire_max = 100;
    uint64_t before_ms = clock_monotonic_ms();
    struct cron_decision all = decide(&scene, "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z");
    EXPECT(all.count == 64 && all.has_more && all.skipped == 1000);
    EXPECT(all.slots[0] == moment("2026-06-01T00:00:00Z") - 60000 - 100000);
    EXPECT(clock_monotonic_ms() - before_ms < 2000);
    close_scene(&scene);
}

TEST(cron, a_clock_that_was_wrong_does_not_stop_a_schedule)
{
    struct scene scene;
    open_scene(&scene, "*/5 * * * *", CRON_MISFIRE_ONCE);
    struct cron_decision back = decide(&scene, "2036-01-01T00:05:00Z", "2026-01-01T00:01:00Z");
    EXPECT(back.count == 0 && back.next_ms == moment("2026-01-01T00:05:00Z"));
    /* A little back: what has run does not run again. */
    struct cron_decision little = decide(&scene, "2026-01-01T00:10:00Z", "2026-01-01T00:04:00Z");
    EXPECT(little.count == 0 && little.next_ms == moment("2026-01-01T00:10:00Z"));
    close_scene(&scene);
}

TEST(cron, jitter_is_bounded_and_the_same_everywhere)
{
    const struct cron_policy policy = {.jitter_ms = 30000, .key = "default/a"};
    uint64_t slot_ms = moment("2026-01-01T00:05:00Z");
    bool differs = false;
    for (uint64_t i = 0; i < 100; i++) {
        uint64_t start_ms = cron_start_of(&policy, slot_ms + i * 1000);
        EXPECT(start_ms >= slot_ms + i * 1000 && start_ms <= slot_ms + i * 1000 + 30000);
        EXPECT(start_ms == cron_start_of(&policy, slot_ms + i * 1000));
        differs = differs || start_ms - i * 1000 != cron_start_of(&policy, slot_ms);
    }
    EXPECT(differs);
    EXPECT(cron_start_of(&(struct cron_policy){0}, slot_ms) == slot_ms);
}

/* One slot's jitter does not take those behind it along. */
TEST(cron, each_slot_begins_in_its_own_time)
{
    struct scene scene;
    open_scene(&scene, "* * * * *", CRON_MISFIRE_ONCE);
    scene.policy.jitter_ms = 600000;
    scene.policy.misfire_after_ms += scene.policy.jitter_ms;
    scene.policy.key = "default/a";
    uint64_t slot_ms = moment("2026-01-01T00:01:00Z");
    for (int i = 0; i < 200; i++) {
        uint64_t start_ms = cron_start_of(&scene.policy, slot_ms);
        struct cron_decision decision;
        cron_decide(scene.cron, &scene.policy, slot_ms, scene.since_ms, start_ms, &decision);
        EXPECT(decision.count >= 1 && decision.slots[0] == slot_ms && decision.skipped == 0);
        for (size_t n = 0; n < decision.count; n++) {
            EXPECT(cron_start_of(&scene.policy, decision.slots[n]) <= start_ms);
        }
        slot_ms = decision.next_ms;
    }
    close_scene(&scene);
}

static void opens(const char *schedule, const char *since, const char *now, const char *expected)
{
    const uint64_t two_hours_ms = 2 * 3600 * 1000;
    struct cron_zone *zone = zone_of("Europe/Berlin");
    struct cron *cron = NULL;
    struct error err = {0};
    EXPECT(cron_parse(schedule, zone, &cron, &err) == 0);
    uint64_t opens_ms = cron_window(cron, two_hours_ms, moment(since), moment(now));
    EXPECT(opens_ms == (expected != NULL ? moment(expected) : 0));
    cron_free(cron);
    cron_zone_free(zone);
}

TEST(cron, a_window_is_open_from_its_moment_for_its_duration)
{
    const char *nightly = "0 3 * * *"; /* two o'clock UTC in winter, one in summer */
    const char *long_ago = "2025-01-01T00:00:00Z";
    opens(nightly, long_ago, "2026-01-10T01:59:59Z", "2026-01-10T02:00:00Z");
    opens(nightly, long_ago, "2026-01-10T02:00:00Z", "2026-01-10T02:00:00Z");
    opens(nightly, long_ago, "2026-01-10T03:59:59Z", "2026-01-10T02:00:00Z");
    opens(nightly, long_ago, "2026-01-10T04:00:00Z", "2026-01-11T02:00:00Z"); /* it has closed */
    opens(nightly, long_ago, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"); /* clocks change */
    opens("0 0 31 12 *", long_ago, "2026-06-01T00:00:00Z", "2026-12-30T23:00:00Z");
}

TEST(cron, a_window_made_while_it_would_be_open_opens_next_time_unless_it_is_for_once)
{
    opens("0 3 * * *", "2026-01-10T02:30:00Z", "2026-01-10T02:30:01Z", "2026-01-11T02:00:00Z");
    opens("0 3 * * *", "2026-01-10T02:00:00Z", "2026-01-10T02:30:01Z", "2026-01-10T02:00:00Z");
    const char *once = "@at 2026-01-10T02:00:00Z";
    opens(once, "2026-01-10T02:30:00Z", "2026-01-10T02:30:01Z", "2026-01-10T02:00:00Z");
    opens(once, "2026-01-01T00:00:00Z", "2026-01-10T03:59:59Z", "2026-01-10T02:00:00Z");
    opens(once, "2026-01-01T00:00:00Z", "2026-01-10T04:00:00Z", NULL);
}
