/* Settings of the kind `cron`. */
#include "service/trigger/schedule.h"

#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/trigger/driver.h"

const char *schedule_setting(const json_t *settings, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(settings, key));
    return text != NULL ? text : otherwise;
}

static int choose(const json_t *settings, const char *key, const char *const *choices, size_t count,
                  unsigned *ret_choice, struct error *err)
{
    const char *text = schedule_setting(settings, key, choices[0]);
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(text, choices[i]) == 0) {
            *ret_choice = i;
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID, "$.settings.%s \"%.40s\" is none of %s, %s, %s", key, text,
                     choices[0], choices[1], choices[2]);
}

static int read_duration(const json_t *settings, const char *key, uint64_t most_ms,
                         uint64_t *ret_ms, struct error *err)
{
    const json_t *value = json_object_get(settings, key);
    bool is_good = value == NULL || json_is_null(value);
    if (json_is_string(value)) {
        is_good = text_parse_duration_ms(json_string_value(value), ret_ms);
    } else if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *ret_ms = (uint64_t)json_integer_value(value) * 1000;
        is_good = true;
    }
    return is_good && *ret_ms <= most_ms
        ? 0
        : error_set(err, ERROR_INVALID, "$.settings.%s is a duration of at most %" PRIu64 " s", key,
                    most_ms / 1000);
}

static int check_keys(const json_t *settings, struct error *err)
{
    static const char *const keys[] = {"schedule",    "timezone",      "jitter",  "misfire",
                                       "misfire_max", "misfire_after", "overlap", "data"};
    const char *key = NULL;
    json_t *value = NULL;
    size_t count = sizeof(keys) / sizeof(keys[0]);
    json_object_foreach((json_t *)(uintptr_t)settings, key, value)
    {
        bool is_known = false;
        for (size_t i = 0; i < count; i++) {
            is_known = is_known || strcmp(key, keys[i]) == 0;
        }
        if (!is_known) {
            const char *near = text_nearest(key, keys, count);
            return error_set(err, ERROR_INVALID, "$.settings.%.40s is not known%s%s", key,
                             near != NULL ? "; did you mean " : "", near != NULL ? near : "");
        }
    }
    return 0;
}

static int read(const json_t *settings, struct schedule *schedule, struct error *err)
{
    static const char *const misfires[] = {"once", "skip", "all"};
    static const char *const overlaps[] = {"allow", "forbid", "replace"};
    unsigned misfire = 0;
    unsigned overlap = 0;
    const char *text = schedule_setting(settings, "schedule", NULL);
    const json_t *most = json_object_get(settings, "misfire_max");
    schedule->policy = (struct cron_policy){.misfire_max = 100, .misfire_after_ms = 60000};
    int r = check_keys(settings, err);
    if (r == 0 && text == NULL) {
        r = error_set(err, ERROR_INVALID,
                      "$.settings.schedule is missing: \"0 3 * * *\", \"@every 90s\", ...");
    }
    r = r < 0 ? r : choose(settings, "misfire", misfires, 3, &misfire, err);
    r = r < 0 ? r : choose(settings, "overlap", overlaps, 3, &overlap, err);
    r = r < 0
        ? r
        : read_duration(settings, "jitter", 24ull * 3600000, &schedule->policy.jitter_ms, err);
    r = r < 0 ? r
              : read_duration(settings, "misfire_after", 24ull * 3600000,
                              &schedule->policy.misfire_after_ms, err);
    if (r == 0 && most != NULL) {
        json_int_t number = json_is_integer(most) ? json_integer_value(most) : 0;
        if (number < 1 || number > 1000) {
            return error_set(err, ERROR_INVALID, "$.settings.misfire_max is 1 to 1000");
        }
        schedule->policy.misfire_max = (uint64_t)number;
    }
    schedule->policy.misfire = (enum cron_misfire)misfire;
    schedule->overlap = (enum overlap)overlap;
    schedule->policy.misfire_after_ms += schedule->policy.jitter_ms;
    r = r < 0 ? r
              : cron_zone_open(schedule_setting(settings, "timezone", "UTC"), &schedule->zone, err);
    return r < 0 ? r : cron_parse(text, schedule->zone, &schedule->cron, err);
}

int schedule_read(const json_t *settings, struct schedule *ret_schedule, struct error *err)
{
    struct schedule schedule = {0};
    int r = read(settings, &schedule, err);
    if (r < 0) {
        schedule_done(&schedule);
        return r;
    }
    *ret_schedule = schedule;
    return 0;
}

void schedule_done(struct schedule *schedule)
{
    cron_free(schedule->cron);
    cron_zone_free(schedule->zone);
    *schedule = (struct schedule){0};
}

int schedule_check(const json_t *settings, struct error *err)
{
    struct schedule schedule = {0};
    int r = schedule_read(settings, &schedule, err);
    r = r < 0 ? r : cron_check(schedule_setting(settings, "schedule", ""), schedule.zone, err);
    schedule_done(&schedule);
    return r;
}

/* Whoever deploys every day would otherwise begin "@every 24h" anew each time, and could deploy
 * nothing any more once an "@at" is over. */
static bool goes_on(const struct trigger_plan *plan)
{
    static const char *const keys[] = {"schedule", "timezone"};
    bool is_same = plan->before != NULL;
    for (size_t i = 0; i < 2 && is_same; i++) {
        is_same = strcmp(schedule_setting(plan->before, keys[i], "UTC"),
                         schedule_setting(plan->settings, keys[i], "UTC")) == 0;
    }
    return is_same;
}

int schedule_plan(const struct trigger_plan *plan, struct store_command *command, void *context,
                  struct error *err)
{
    (void)context;
    struct schedule schedule = {0};
    if (goes_on(plan)) {
        return 0;
    }
    int r = schedule_read(plan->settings, &schedule, err);
    uint64_t slot_ms = r == 0 ? cron_next(schedule.cron, plan->now_ms, plan->now_ms) : 0;
    schedule_done(&schedule);
    if (r == 0 && slot_ms == 0) {
        r = error_set(err, ERROR_INVALID, "the schedule \"%.80s\" names no time after now",
                      schedule_setting(plan->settings, "schedule", ""));
    }
    if (r == 0) {
        store_command_add(command,
                          "INSERT INTO cron_next (trigger, slot_ms, since_ms) VALUES (?, ?, ?) ON "
                          "CONFLICT (trigger) DO UPDATE SET slot_ms = excluded.slot_ms, since_ms = "
                          "excluded.since_ms",
                          "tuu", plan->key, slot_ms, plan->now_ms);
    }
    return r;
}

/* As the clocks of the zone show it. */
static void write_time(const struct cron_zone *zone, uint64_t ms, struct json_writer *writer)
{
    int32_t offset = cron_zone_offset(zone, (int64_t)(ms / 1000));
    int32_t minutes = (offset < 0 ? -offset : offset) / 60;
    char text[CLOCK_TEXT_SIZE];
    clock_format_ms((uint64_t)((int64_t)ms + (int64_t)offset * 1000), text);
    MEMORY_OWNED char *local = memory_format("%.19s%c%02d:%02d", text, offset < 0 ? '-' : '+',
                                             (int)(minutes / 60), (int)(minutes % 60));
    json_write_string(writer, local);
}

void schedule_write_next(const json_t *settings, uint64_t slot_ms, uint64_t since_ms,
                         struct json_writer *writer)
{
    struct schedule schedule = {0};
    struct error ignored = {0};
    json_write_begin_array(writer);
    if (schedule_read(settings, &schedule, &ignored) == 0) {
        for (int i = 0; i < SCHEDULE_SHOWN && slot_ms != 0; i++) {
            write_time(schedule.zone, slot_ms, writer);
            slot_ms = cron_next(schedule.cron, slot_ms, since_ms);
        }
    }
    schedule_done(&schedule);
    json_write_end_array(writer);
}
