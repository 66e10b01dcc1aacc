/* Settings of the kind `cron`. */
#include "service/trigger/schedule.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"

#include "engine/store/store.h"

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
    schedule_done(&schedule);
    return r;
}

int schedule_plan(const json_t *settings, const char *key, uint64_t now_ms,
                  struct store_command *command, void *context, struct error *err)
{
    (void)context;
    struct schedule schedule = {0};
    int r = schedule_read(settings, &schedule, err);
    uint64_t slot_ms = r == 0 ? cron_next(schedule.cron, now_ms, now_ms) : 0;
    schedule_done(&schedule);
    if (r == 0 && slot_ms == 0) {
        r = error_set(err, ERROR_INVALID, "the schedule \"%.80s\" names no time after now",
                      schedule_setting(settings, "schedule", ""));
    }
    if (r == 0) {
        store_command_add(command,
                          "INSERT INTO cron_next (trigger, slot_ms, since_ms) VALUES (?, ?, ?) ON "
                          "CONFLICT (trigger) DO UPDATE SET slot_ms = excluded.slot_ms, since_ms = "
                          "excluded.since_ms",
                          "tuu", key, slot_ms, now_ms);
    }
    return r;
}
