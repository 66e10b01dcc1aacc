/* How hard asynchronous calls are tried: ranges, JSON, and what a version's settings say. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/function/parts.h"

enum { WEEK_MS = 7 * 24 * 3600 * 1000 };

void function_policy_init(struct function_policy *ret_policy)
{
    *ret_policy = (struct function_policy){
        .retries = 2,
        .backoff_ms = 1000,
        .max_age_ms = 6 * 3600 * 1000,
        .keep_ms = 24 * 3600 * 1000,
    };
}

static int check_destination(const char *name, const char *text, struct error *err)
{
    static const char *const schemes[] = {"function:", "queue:", "stream:"};
    char plain[64];
    if (text[0] == '\0') {
        return 0;
    }
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        size_t length = strlen(schemes[i]);
        if (strncmp(text, schemes[i], length) == 0) {
            snprintf(plain, sizeof(plain), "%.*s", (int)strcspn(text + length, ":"), text + length);
            return text_is_name(plain)
                ? 0
                : error_set(err, ERROR_INVALID, "%s: \"%.80s\" is no name", name, text + length);
        }
    }
    return error_set(err, ERROR_INVALID,
                     "%s is \"%.80s\"; it must be function:NAME, queue:NAME or stream:NAME", name,
                     text);
}

int function_policy_check(const struct function_policy *policy, struct error *err)
{
    int r = error_check_range("retries", policy->retries, 0, 100, err);
    r = r < 0
        ? r
        : error_check_range("backoff (ms)", policy->backoff_ms, 10, FUNCTION_BACKOFF_MAX_MS, err);
    r = r < 0 ? r : error_check_range("max-age (ms)", policy->max_age_ms, 1000, WEEK_MS, err);
    r = r < 0 ? r : error_check_range("timeout (ms)", policy->timeout_ms, 0, 900000, err);
    r = r < 0 ? r : error_check_range("keep (ms)", policy->keep_ms, 1000, WEEK_MS, err);
    r = r < 0 ? r : check_destination("on-success", policy->on_success, err);
    return r < 0 ? r : check_destination("on-failure", policy->on_failure, err);
}

void function_policy_write(const struct function_policy *policy, struct json_writer *writer)
{
    json_write_begin_object(writer);
    json_write_field_u64(writer, "retries", policy->retries);
    json_write_field_u64(writer, "backoff_ms", policy->backoff_ms);
    json_write_field_u64(writer, "max_age_ms", policy->max_age_ms);
    json_write_field_u64(writer, "timeout_ms", policy->timeout_ms);
    json_write_field_u64(writer, "keep_ms", policy->keep_ms);
    json_write_field_string(writer, "on_success", policy->on_success);
    json_write_field_string(writer, "on_failure", policy->on_failure);
    json_write_end_object(writer);
}

static void take_number(const json_t *object, const char *key, uint64_t *value)
{
    const json_t *member = json_object_get(object, key);
    if (json_is_integer(member)) {
        *value = (uint64_t)json_integer_value(member);
    }
}

/* One that does not fit is none: it is cut, and then refused or not found. */
static void take_text(const json_t *object, const char *key,
                      char ret_text[FUNCTION_DESTINATION_SIZE])
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text != NULL) {
        snprintf(ret_text, FUNCTION_DESTINATION_SIZE, "%s", text);
    }
}

void function_policy_take(const json_t *object, struct function_policy *policy)
{
    take_number(object, "retries", &policy->retries);
    take_number(object, "backoff_ms", &policy->backoff_ms);
    take_number(object, "max_age_ms", &policy->max_age_ms);
    take_number(object, "timeout_ms", &policy->timeout_ms);
    take_number(object, "keep_ms", &policy->keep_ms);
    take_text(object, "on_success", policy->on_success);
    take_text(object, "on_failure", policy->on_failure);
}

/* ---- Of a version ---- */

static bool take_settings(sqlite3_stmt *row, void *context)
{
    struct error ignored = {0};
    struct function_config config = {0};
    if (config_read((const char *)sqlite3_column_text(row, 0), &config, &ignored) == 0) {
        *(struct function_policy *)context = config.async;
    }
    function_config_done(&config);
    return false;
}

void function_read_policy(struct function_service *service, const char *project, const char *name,
                          struct function_policy *ret_policy)
{
    struct error ignored = {0};
    uint64_t number = 0;
    const char *colon = strchr(name, ':');
    const char *which = colon != NULL ? colon + 1 : "live";
    int length = colon != NULL ? (int)(colon - name) : (int)strlen(name);
    function_policy_init(ret_policy);
    MEMORY_OWNED char *key = memory_format("%s/%.*s/%s", project, length, name, which);
    store_query(service->options.store, &ignored, take_settings, ret_policy,
                text_parse_u64(text_of(which, strlen(which)), &number)
                    ? "SELECT config FROM version WHERE key = ?"
                    : "SELECT v.config FROM alias a JOIN version v ON v.function = a.function AND "
                      "v.number = a.version WHERE a.key = ?",
                "t", key);
}
