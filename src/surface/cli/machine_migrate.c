/* Machines that move to another node. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

/* As the API has them. */
static const struct time_flag {
    const char *flag;
    const char *field;
    const char *example;
    uint64_t most_ms;
    const char *most;
} times[] = {
    {"timeout", "timeout_ms", "10m", UINT64_C(7) * 24 * 3600000, "7d"},
    {"downtime", "downtime_ms", "300ms", 60000, "60s"},
};

static int take_time(const struct arguments *arguments, const struct time_flag *time, json_t *body,
                     struct error *err)
{
    const char *text = flag_value(arguments, time->flag);
    uint64_t time_ms = 0;
    if (text == NULL) {
        return 0;
    }
    if (!text_parse_duration_ms(text, &time_ms) || time_ms == 0) {
        return error_set(err, ERROR_INVALID, "--%s is a time such as %s, not \"%.40s\"", time->flag,
                         time->example, text);
    }
    if (time_ms > time->most_ms) {
        return error_set(err, ERROR_INVALID, "--%s is at most %s, not %.40s", time->flag,
                         time->most, text);
    }
    json_object_set_new(body, time->field, json_integer((json_int_t)time_ms));
    return 0;
}

static int make_body(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *to = flag_value(arguments, "to");
    const char *bandwidth = flag_value(arguments, "bandwidth");
    bool is_live = flag_value(arguments, "live") != NULL;
    bool is_cold = flag_value(arguments, "cold") != NULL;
    bool is_snapshot = flag_value(arguments, "snapshot") != NULL;
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        if (take_time(arguments, &times[i], body, err) < 0) {
            return -(int)err->kind;
        }
    }
    if (is_live + is_cold + is_snapshot > 1) {
        return error_set(err, ERROR_INVALID, "--live, --snapshot and --cold exclude each other");
    }
    if (is_cold && (bandwidth != NULL || flag_value(arguments, "downtime") != NULL)) {
        return error_set(err, ERROR_INVALID,
                         "--downtime and --bandwidth are for machines that move while they run");
    }
    if (bandwidth != NULL &&
        (!text_parse_size(bandwidth, &bytes) || bytes == 0 || bytes > INT64_MAX)) {
        return error_set(err, ERROR_INVALID, "--bandwidth is a size such as 50MiB, not \"%.40s\"",
                         bandwidth);
    }
    if (bytes > 0) {
        json_object_set_new(body, "bytes_per_second", json_integer((json_int_t)bytes));
    }
    if (is_snapshot) {
        json_object_set_new(body, "snapshot", json_true());
    }
    if (is_live || is_cold) {
        json_object_set_new(body, "live", json_boolean(is_live));
    }
    if (to != NULL && to[0] == '\0') {
        return error_set(err, ERROR_INVALID, "--to is the name of a node: see `blixard node list`");
    }
    if (to != NULL) {
        json_object_set_new(body, "to", json_string(to));
    }
    return 0;
}

static int move(const struct arguments *arguments, const json_t *body, char **ret_operation,
                json_t **ret_result, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], "/migrate");
    int r = request_send("POST", target, body, &reference, err);
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    if (r == 0 && operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    if (r == 0) {
        *ret_operation = memory_copy_string(operation);
    }
    return r < 0 || flag_value(arguments, "no-wait") != NULL
        ? r
        : operation_wait_for(operation, ret_result, err);
}

/* It is there; whether it runs there is another thing. */
static int check_runs(const json_t *document, struct error *err)
{
    const char *state = json_text(document, "state");
    bool runs_not = strcmp(state, "failed") == 0 || strcmp(state, "backoff") == 0;
    return strcmp(json_text(document, "desired"), "running") != 0 || !runs_not
        ? 0
        : error_set(err, ERROR_UNAVAILABLE, "it is %s there: %.300s", state,
                    json_text(document, "reason"));
}

int verb_vm_migrate(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *ended = NULL;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *operation = NULL;
    MEMORY_OWNED char *one = request_target("machines", machine, "");
    int r = make_body(arguments, body, err);
    r = r < 0 ? r : move(arguments, body, &operation, &ended, err);
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        JSON_OWNED json_t *reference =
            json_pack("{s:s, s:s}", "name", machine, "operation", operation);
        return print_done(arguments, reference, err, "%s", operation);
    }
    r = r < 0 ? r : request_json("GET", one, NULL, &document, err);
    const char *node = json_string_value(json_object_get(document, "node"));
    const json_t *still = json_object_get(json_object_get(ended, "result"), "downtime_ms");
    char downtime[64] = "";
    if (still != NULL) {
        snprintf(downtime, sizeof(downtime), "; it stood still for %lld ms",
                 (long long)json_integer_value(still));
    }
    r = r < 0 ? r
              : print_done(arguments, document, err, "machine %s is on node %s%s", machine,
                           node != NULL ? node : "?", downtime);
    return r < 0 ? r : check_runs(document, err);
}
