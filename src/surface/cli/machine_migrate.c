/* Machines that move to another node. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

static int take_time(const struct arguments *arguments, const char *flag, const char *field,
                     const char *example, json_t *body, struct error *err)
{
    const char *text = flag_value(arguments, flag);
    uint64_t time_ms = 0;
    if (text != NULL && (!text_parse_duration_ms(text, &time_ms) || time_ms == 0)) {
        return error_set(err, ERROR_INVALID, "--%s is a time such as %s, not \"%.40s\"", flag,
                         example, text);
    }
    if (text != NULL) {
        json_object_set_new(body, field, json_integer((json_int_t)time_ms));
    }
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
    int r = take_time(arguments, "timeout", "timeout_ms", "10m", body, err);
    r = r < 0 ? r : take_time(arguments, "downtime", "downtime_ms", "300ms", body, err);
    if (r < 0) {
        return r;
    }
    if (is_live + is_cold + is_snapshot > 1) {
        return error_set(err, ERROR_INVALID, "--live, --snapshot and --cold exclude each other");
    }
    if (is_cold && (bandwidth != NULL || flag_value(arguments, "downtime") != NULL)) {
        return error_set(err, ERROR_INVALID,
                         "--downtime and --bandwidth are for machines that move while they run");
    }
    if (is_cold && flag_value(arguments, "no-wait") != NULL) {
        return error_set(err, ERROR_INVALID, "--cold is several steps, and waits for each");
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
    if (to != NULL) {
        json_object_set_new(body, "to", json_string(to));
    }
    return 0;
}

static int act(const char *machine, const char *what, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("machines", machine, what);
    int r = request_json("POST", target, NULL, &reference, err);
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    return r < 0            ? r
        : operation != NULL ? operation_wait_for(operation, NULL, err)
                            : error_set(err, ERROR_PROTOCOL, "the answer names no operation");
}

static int look(const char *machine, json_t **ret_document, struct error *err)
{
    MEMORY_OWNED char *one = request_target("machines", machine, "");
    return request_json("GET", one, NULL, ret_document, err);
}

/* True: it ran, and is stopped now. */
static int stop_if_it_runs(const char *machine, bool *ret_ran, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    int r = look(machine, &document, err);
    const char *desired = json_string_value(json_object_get(document, "desired"));
    *ret_ran = r == 0 && desired != NULL && strcmp(desired, "running") == 0;
    return r < 0 || !*ret_ran ? r : act(machine, "/actions/stop", err);
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

int verb_vm_migrate(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    bool is_cold = flag_value(arguments, "cold") != NULL;
    bool ran = false;
    struct error ignored = {0};
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *ended = NULL;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *operation = NULL;
    int r = make_body(arguments, body, err);
    r = r < 0 || !is_cold ? r : stop_if_it_runs(machine, &ran, err);
    r = r < 0 ? r : move(arguments, body, &operation, &ended, err);
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        JSON_OWNED json_t *reference =
            json_pack("{s:s, s:s}", "name", machine, "operation", operation);
        return print_done(arguments, reference, err, "%s", operation);
    }
    if (ran) { /* wherever it is now */
        int started = act(machine, "/actions/start", r < 0 ? &ignored : err);
        r = r < 0 ? r : started;
    }
    r = r < 0 ? r : look(machine, &document, err);
    const char *node = json_string_value(json_object_get(document, "node"));
    const json_t *still = json_object_get(json_object_get(ended, "result"), "downtime_ms");
    char downtime[64] = "";
    if (still != NULL) {
        snprintf(downtime, sizeof(downtime), "; it stood still for %lld ms",
                 (long long)json_integer_value(still));
    }
    return r < 0 ? r
                 : print_done(arguments, document, err, "machine %s is on node %s%s", machine,
                              node != NULL ? node : "?", downtime);
}
