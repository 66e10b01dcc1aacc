/* How hard it is tried: limits, preferences of HTTP clients, and the judgement of an attempt. */
#include <stdio.h>
#include <string.h>

#include "service/invocation/parts.h"

enum { BACKOFF_MAX_MS = FUNCTION_BACKOFF_MAX_MS, SHIFT_MAX = 20, ALONE_FACTOR = 3 };

/* ---- In the state ---- */

void policy_write(const struct function_policy *policy, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    function_policy_write(policy, &writer);
}

void policy_read(const char *json, struct function_policy *ret_policy)
{
    JSON_OWNED json_t *object = NULL;
    struct error ignored = {0};
    function_policy_init(ret_policy);
    if (json_read(json, strlen(json), &object, &ignored) == 0) {
        function_policy_take(object, ret_policy);
    }
}

/* ---- Prefer (RFC 7240) ---- */

static int take_preference(struct text name, struct text value, struct function_policy *policy,
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
    bool fits = value.length < sizeof(text);
    bool is_good = true; /* what others are asked for may be as long as it likes */
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        if (text_equal_ignoring_case(name, times[i].name)) {
            is_good = fits && text_parse_duration_ms(text, times[i].ms);
        }
    }
    if (text_equal_ignoring_case(name, "retries")) {
        is_good = text_parse_u64(value, &policy->retries);
    } else if (text_equal_ignoring_case(name, "on-success")) {
        is_good = fits;
        snprintf(policy->on_success, sizeof(policy->on_success), "%s", text);
    } else if (text_equal_ignoring_case(name, "on-failure")) {
        is_good = fits;
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

int invocation_read_preferences(struct text prefer, struct function_policy *policy,
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

/* ---- Room ---- */

bool policy_may_run(unsigned runs_of_project, unsigned runs)
{
    return runs < INVOCATION_RUNS_MAX &&
        runs_of_project < ALONE_FACTOR * (INVOCATION_RUNS_MAX - runs);
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

struct verdict policy_judge(const struct function_policy *policy, const struct error *error,
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
