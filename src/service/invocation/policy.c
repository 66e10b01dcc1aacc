/* How hard it is tried: limits, preferences of HTTP clients, and the judgement of an attempt. */
#include <stdio.h>
#include <string.h>

#include "service/invocation/parts.h"

enum { BACKOFF_MAX_MS = 300000, WEEK_MS = 7 * 24 * 3600 * 1000, SHIFT_MAX = 20 };

void invocation_policy_init(struct invocation_policy *ret_policy)
{
    *ret_policy = (struct invocation_policy){
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

int policy_check(const struct invocation_policy *policy, struct error *err)
{
    int r = error_check_range("retries", policy->retries, 0, 100, err);
    r = r < 0 ? r : error_check_range("backoff (ms)", policy->backoff_ms, 10, BACKOFF_MAX_MS, err);
    r = r < 0 ? r : error_check_range("max-age (ms)", policy->max_age_ms, 1000, WEEK_MS, err);
    r = r < 0 ? r : error_check_range("timeout (ms)", policy->timeout_ms, 0, 900000, err);
    r = r < 0 ? r : error_check_range("keep (ms)", policy->keep_ms, 1000, WEEK_MS, err);
    r = r < 0 ? r : check_destination("on-success", policy->on_success, err);
    return r < 0 ? r : check_destination("on-failure", policy->on_failure, err);
}

/* ---- In the state ---- */

void policy_write(const struct invocation_policy *policy, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "retries", policy->retries);
    json_write_field_u64(&writer, "backoff_ms", policy->backoff_ms);
    json_write_field_u64(&writer, "max_age_ms", policy->max_age_ms);
    json_write_field_u64(&writer, "timeout_ms", policy->timeout_ms);
    json_write_field_u64(&writer, "keep_ms", policy->keep_ms);
    json_write_field_string(&writer, "on_success", policy->on_success);
    json_write_field_string(&writer, "on_failure", policy->on_failure);
    json_write_end_object(&writer);
}

static void take_number(const json_t *object, const char *key, uint64_t *value)
{
    const json_t *member = json_object_get(object, key);
    if (json_is_integer(member)) {
        *value = (uint64_t)json_integer_value(member);
    }
}

static void take_text(const json_t *object, const char *key, char ret_text[INVOCATION_TEXT_SIZE])
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(ret_text, INVOCATION_TEXT_SIZE, "%s", text != NULL ? text : "");
}

void policy_read(const char *json, struct invocation_policy *ret_policy)
{
    JSON_OWNED json_t *object = NULL;
    struct error ignored = {0};
    invocation_policy_init(ret_policy);
    if (json_read(json, strlen(json), &object, &ignored) < 0) {
        return;
    }
    take_number(object, "retries", &ret_policy->retries);
    take_number(object, "backoff_ms", &ret_policy->backoff_ms);
    take_number(object, "max_age_ms", &ret_policy->max_age_ms);
    take_number(object, "timeout_ms", &ret_policy->timeout_ms);
    take_number(object, "keep_ms", &ret_policy->keep_ms);
    take_text(object, "on_success", ret_policy->on_success);
    take_text(object, "on_failure", ret_policy->on_failure);
}

/* ---- Prefer (RFC 7240) ---- */

static int take_preference(struct text name, struct text value, struct invocation_policy *policy,
                           struct error *err)
{
    const struct {
        const char *name;
        uint64_t *ms;
    } times[] = {{"backoff", &policy->backoff_ms},
                 {"max-age", &policy->max_age_ms},
                 {"timeout", &policy->timeout_ms},
                 {"keep", &policy->keep_ms}};
    char text[INVOCATION_TEXT_SIZE];
    snprintf(text, sizeof(text), "%.*s", (int)value.length, value.length > 0 ? value.data : "");
    bool is_good = value.length < sizeof(text);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        if (text_equal_ignoring_case(name, times[i].name)) {
            is_good = is_good && text_parse_duration_ms(text, times[i].ms);
        }
    }
    if (text_equal_ignoring_case(name, "retries")) {
        is_good = text_parse_u64(value, &policy->retries);
    } else if (text_equal_ignoring_case(name, "on-success")) {
        snprintf(policy->on_success, sizeof(policy->on_success), "%s", text);
    } else if (text_equal_ignoring_case(name, "on-failure")) {
        snprintf(policy->on_failure, sizeof(policy->on_failure), "%s", text);
    }
    return is_good ? 0
                   : error_set(err, ERROR_INVALID, "Prefer: %.*s=%.80s cannot be read",
                               (int)(name.length < 40 ? name.length : 40), name.data, text);
}

/* The end of one preference: a comma that is not quoted. */
static size_t preference_length(struct text text)
{
    bool is_quoted = false;
    for (size_t i = 0; i < text.length; i++) {
        if (text.data[i] == '"') {
            is_quoted = !is_quoted;
        } else if (text.data[i] == ',' && !is_quoted) {
            return i;
        }
    }
    return text.length;
}

static struct text unquoted(struct text value)
{
    value = text_trim(value);
    if (value.length >= 2 && value.data[0] == '"' && value.data[value.length - 1] == '"') {
        return text_of(value.data + 1, value.length - 2);
    }
    return value;
}

int invocation_read_preferences(struct text prefer, struct invocation_policy *policy,
                                bool *ret_is_async, struct error *err)
{
    int r = 0;
    *ret_is_async = false;
    while (prefer.length > 0) {
        size_t length = preference_length(prefer);
        struct text one = text_of(prefer.data, length);
        const char *semicolon = memchr(one.data, ';', one.length);
        if (semicolon != NULL) {
            one.length = (size_t)(semicolon - one.data); /* parameters are not for us */
        }
        const char *equals = memchr(one.data, '=', one.length);
        size_t name_length = equals != NULL ? (size_t)(equals - one.data) : one.length;
        struct text name = text_trim(text_of(one.data, name_length));
        struct text value = equals != NULL
            ? unquoted(text_of(equals + 1, one.length - name_length - 1))
            : text_of("", 0);
        *ret_is_async = *ret_is_async || text_equal_ignoring_case(name, "respond-async");
        if (r == 0) {
            r = take_preference(name, value, policy, err);
        }
        size_t skip = length + (length < prefer.length);
        prefer = text_of(prefer.data + skip, prefer.length - skip);
    }
    return r;
}

/* ---- Judging ---- */

/* Between half of and all of the doubled time ("equal jitter"): never at once, never in step. */
static uint64_t backoff_ms(uint64_t base_ms, uint64_t attempts, uint64_t random)
{
    uint64_t shift = attempts > 0 ? attempts - 1 : 0;
    uint64_t whole_ms = base_ms << (shift < SHIFT_MAX ? shift : SHIFT_MAX);
    whole_ms = whole_ms < BACKOFF_MAX_MS ? whole_ms : BACKOFF_MAX_MS;
    return whole_ms / 2 + random % (whole_ms / 2 + 1);
}

static bool may_help(const struct error *error, int status)
{
    if (error != NULL) {
        return error->kind != ERROR_NOT_FOUND && error->kind != ERROR_INVALID &&
            error->kind != ERROR_TOO_LARGE;
    }
    return status >= 500 || status == 429 || status == 408;
}

struct verdict policy_judge(const struct invocation_policy *policy, const struct error *error,
                            int status, bool is_untouched, uint64_t attempts, uint64_t now_ms,
                            uint64_t deadline_ms, uint64_t random)
{
    struct verdict verdict = {.state = "succeeded", .attempts = attempts};
    if (error == NULL && status < 400) {
        return verdict;
    }
    verdict.state = "failed";
    if (!may_help(error, status)) {
        return verdict;
    }
    uint64_t due_ms = now_ms + backoff_ms(policy->backoff_ms, attempts, random);
    if (is_untouched && attempts > 0) {
        verdict.attempts = attempts - 1; /* no function has seen it */
    } else if (attempts > policy->retries) {
        return verdict;
    }
    verdict.state = due_ms < deadline_ms ? "pending" : "expired";
    verdict.due_ms = due_ms;
    return verdict;
}
