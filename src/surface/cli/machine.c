/* Verbs about machines. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/duplex.h"
#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { DETACH_KEY = 0x1d, HISTORY = 4096, TURN_MS = 60000 }; /* Ctrl-] as of telnet and virsh */
enum { CONSOLE_LOG_MAX = 4 << 20 };                          /* more than a node keeps of one */

static const struct payload_flag settings[] = {
    {"image", "image", FLAG_TEXT},
    {"runner", "runner", FLAG_TEXT},
    {"cpus", "cpus", FLAG_COUNT},
    {"memory", "memory_bytes", FLAG_SIZE},
    {"huge-pages", "huge_pages", FLAG_TEXT},
    {"disk", "disk_bytes", FLAG_SIZE},
    {"strategy", "strategy", FLAG_TEXT},
    {"hostname", "hostname", FLAG_TEXT},
    {"driver", "driver", FLAG_TEXT},
    {"cmdline", "cmdline", FLAG_TEXT},
    {"cpu-limit", "cpu_limit_percent", FLAG_COUNT},
    {"disk-iops", "disk_iops", FLAG_COUNT},
    {"disk-bandwidth", "disk_bandwidth", FLAG_RATE},
    {"disk-read-iops", "disk_read_iops", FLAG_COUNT},
    {"disk-write-iops", "disk_write_iops", FLAG_COUNT},
    {"disk-read-bandwidth", "disk_read_bandwidth", FLAG_RATE},
    {"disk-write-bandwidth", "disk_write_bandwidth", FLAG_RATE},
    {"health", "health", FLAG_TEXT},
    {"health-interval", "health_interval_ms", FLAG_DURATION},
    {"health-timeout", "health_timeout_ms", FLAG_DURATION},
    {"health-retries", "health_retries", FLAG_COUNT},
    {"health-start-period", "health_start_period_ms", FLAG_DURATION},
    {"health-action", "health_action", FLAG_TEXT},
    {"eviction-strategy", "eviction_strategy", FLAG_TEXT},
    {"node-loss", "node_loss", FLAG_TEXT},
    {"rebalance", "rebalance", FLAG_TEXT},
    {"boot-timeout", "boot_timeout_ms", FLAG_DURATION},
    {"machine", "machine_type", FLAG_TEXT},
    {"firmware", "firmware", FLAG_TEXT},
    {"placement-group", "placement_group", FLAG_TEXT},
    {"node-pool", "node_pool", FLAG_TEXT},
    {"reservation", "reservation", FLAG_TEXT},
    {"priority", "priority", FLAG_COUNT},
};

int machine_take_flags(const struct arguments *arguments, json_t *ret_body, struct error *err)
{
    int r = payload_take_flags(arguments, settings, COUNT(settings), ret_body, err);
    if (r == 0) {
        placement_take_rules(arguments, ret_body);
    }
    return r;
}

/* ---- Waiting ---- */

enum wanted { WANTED_THERE, WANTED_AT_REST, WANTED_GONE };

/* It was accepted, and what was asked for is not so yet: no success, and no refusal. */
static int tell_pending(const struct arguments *arguments, json_t *machine, const char *name,
                        struct error *err)
{
    const char *reason = json_string_value(json_object_get(machine, "reason"));
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(machine, output);
    }
    return r < 0 ? r
                 : error_set(err, ERROR_OVERLOADED,
                             "machine %s is pending: %s (blixard placement explain %s)", name,
                             reason != NULL ? reason : "it waits for room", name);
}

/* Until it is so, unless --no-wait; then the machine as it is. */
static int finish(const struct arguments *arguments, const json_t *reference, const char *what,
                  enum wanted wanted, struct error *err)
{
    const char *name = json_string_value(json_object_get(reference, "name"));
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    if (name == NULL || operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    if (flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, (json_t *)(uintptr_t)reference, err, "%s", operation);
    }
    MEMORY_OWNED char *target = request_target("machines", name, "");
    JSON_OWNED json_t *machine = NULL;
    int r = operation_wait_for(operation, NULL, err);
    if (r == 0 && wanted == WANTED_GONE) {
        machine = json_pack("{s:s}", "deleted", name);
    } else if (r == 0) {
        r = request_json("GET", target, NULL, &machine, err);
    }
    const char *state = json_string_value(json_object_get(machine, "state"));
    if (r == 0 && wanted == WANTED_THERE && state != NULL && strcmp(state, "pending") == 0) {
        return tell_pending(arguments, machine, name, err);
    }
    return r < 0 ? r : print_done(arguments, machine, err, "machine %s %s", name, what);
}

/* ---- Making and changing ---- */

/* A flag that may be given several times. */
static void take_list(const struct arguments *arguments, const char *flag, const char *field,
                      json_t *body)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, flag) == 0) {
            json_array_append_new(list, json_string(arguments->flags[i].value));
        }
    }
    if (json_array_size(list) > 0) {
        json_object_set(body, field, list);
    }
    json_decref(list);
}

static void take_command(const struct arguments *arguments, json_t *body)
{
    json_t *list = json_array();
    for (unsigned i = 1; i < arguments->word_count; i++) {
        json_array_append_new(list, json_string(arguments->words[i]));
    }
    if (json_array_size(list) > 0) {
        json_object_set(body, "command", list);
    }
    json_decref(list);
}

/* A file's content, as text. */
static int read_text(const char *path, bool is_line, json_t **ret_text, struct error *err)
{
    enum { FILE_MAX = 1 << 20 };
    BUFFER_WIPED struct buffer content = {0};
    int r = file_read(path, FILE_MAX, &content, err);
    if (r < 0) {
        return r;
    }
    while (is_line && content.used > 0 && content.data[content.used - 1] == '\n') {
        content.used--;
    }
    *ret_text = json_stringn((const char *)content.data, content.used);
    return *ret_text != NULL ? 0 : error_set(err, ERROR_INVALID, "%s is no UTF-8 text", path);
}

/* --ssh-key is the key itself, or a file with one; --user-data a file. */
static int take_seed(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *user_data = flag_value(arguments, "user-data");
    JSON_OWNED json_t *keys = json_array();
    int r = 0;
    for (unsigned i = 0; i < arguments->flag_count && r == 0; i++) {
        const char *value = arguments->flags[i].value;
        json_t *key = NULL;
        if (strcmp(arguments->flags[i].name, "ssh-key") != 0) {
            continue;
        }
        if (strchr(value, ' ') != NULL && !file_exists(value)) {
            key = json_string(value);
        } else {
            r = read_text(value, true, &key, err);
        }
        if (r == 0) {
            json_array_append_new(keys, key);
        }
    }
    if (json_array_size(keys) > 0) {
        json_object_set(body, "ssh_keys", keys);
    }
    if (r == 0 && user_data != NULL) {
        json_t *text = NULL;
        r = read_text(user_data, false, &text, err);
        json_object_set_new(body, "user_data", text);
    }
    return r;
}

/* All of them, then each is waited for. */
static int create_many(const struct arguments *arguments, json_t *machine, const char *what,
                       struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *answer = NULL;
    bool is_quiet = flag_value(arguments, "no-wait") != NULL;
    uint64_t count = 0;
    const char *text = flag_value(arguments, "count");
    if (!text_parse_u64(text_of(text, strlen(text)), &count)) {
        return error_set(err, ERROR_INVALID, "--count %.40s is no number", text);
    }
    json_object_set(body, "machine", machine);
    json_object_set_new(body, "count", json_integer((json_int_t)count));
    json_object_set_new(body, "all_or_nothing",
                        json_boolean(flag_value(arguments, "all-or-nothing") != NULL));
    int r = request_send("POST", "/v1/machine-gangs", body, &answer, err);
    const json_t *list = json_object_get(answer, "machines");
    if (r < 0 || is_quiet) {
        return r < 0
            ? r
            : print_done(arguments, answer, err, "%zu machine%s begun", json_array_size(list),
                         json_array_size(list) == 1 ? " is" : "s are");
    }
    size_t index = 0;
    json_t *reference = NULL;
    json_array_foreach(list, index, reference)
    {
        struct error one = {0};
        if (finish(arguments, reference, what, WANTED_THERE, &one) < 0) {
            if (r < 0) { /* the last one is told by whoever called */
                fprintf(stderr, "blixard: %s\n", text_make_printable(err->text, true));
            }
            *err = one;
            r = -(int)one.kind;
        }
    }
    return r;
}

static int take_machine(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *node = flag_value(arguments, "node");
    int r = machine_take_flags(arguments, body, err);
    if (r == 0 && flag_value(arguments, "image") == NULL &&
        flag_value(arguments, "runner") == NULL && flag_value(arguments, "flake") == NULL) {
        return error_set(err, ERROR_INVALID,
                         "--image is missing: `blixard image list` shows which there are (or "
                         "--runner or --flake, on NixOS)");
    }
    take_list(arguments, "publish", "publish", body);
    take_list(arguments, "env", "environment", body);
    take_list(arguments, "entrypoint", "entrypoint", body);
    take_list(arguments, "after", "after", body);
    take_list(arguments, "share", "shares", body);
    take_list(arguments, "device", "devices", body);
    take_command(arguments, body);
    take_list(arguments, "volume", "volumes", body);
    r = r < 0 ? r : network_take_flags(arguments, body, err);
    r = r < 0 ? r : take_seed(arguments, body, err);
    r = r < 0 ? r : flake_take(arguments, true, body, err);
    if (r == 0 && node != NULL) {
        json_object_set_new(body, "node", json_string(node));
    }
    if (r == 0 && flag_value(arguments, "no-pending") != NULL) {
        json_object_set_new(body, "wait_for_room", json_false());
    } else if (r == 0 && flag_value(arguments, "pending") != NULL) {
        json_object_set_new(body, "wait_for_room", json_true());
    }
    if (r == 0 && flag_value(arguments, "pending") != NULL &&
        flag_value(arguments, "no-pending") != NULL) {
        return error_set(err, ERROR_INVALID, "--pending or --no-pending: not both");
    }
    return r;
}

int verb_vm_create(const struct arguments *arguments, struct error *err)
{
    if (arguments->words_in_front > 1) {
        return error_set(
            err, ERROR_INVALID,
            "unexpected \"%.60s\": one machine at a time (or --count), and the program "
            "that it runs stands behind --",
            arguments->words[1]);
    }
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *reference = NULL;
    const char *strategy = flag_value(arguments, "strategy");
    bool is_halted = strategy != NULL && strcmp(strategy, "Halted") == 0;
    const char *what = is_halted ? "is made" : "is running";
    int r = take_machine(arguments, body, err);
    if (r == 0 && flag_value(arguments, "count") != NULL &&
        flag_value(arguments, "no-pending") != NULL) {
        return error_set(err, ERROR_INVALID,
                         "--no-pending is for one; of several, --all-or-nothing makes all or none");
    }
    if (r == 0 && flag_value(arguments, "count") != NULL) {
        return create_many(arguments, body, what, err);
    }
    if (r == 0 && flag_value(arguments, "all-or-nothing") != NULL) {
        return error_set(err, ERROR_INVALID, "--all-or-nothing is for --count COUNT");
    }
    r = r < 0 ? r : request_send("POST", "/v1/machines", body, &reference, err);
    return r < 0 ? r : finish(arguments, reference, what, WANTED_THERE, err);
}

static int act(const struct arguments *arguments, const char *action, const char *what,
               struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    const char *timeout = flag_value(arguments, "timeout");
    uint64_t timeout_ms = 0;
    if (timeout != NULL && !text_parse_duration_ms(timeout, &timeout_ms)) {
        return error_set(err, ERROR_INVALID, "--timeout %.40s is no time (for example 30s)",
                         timeout);
    }
    MEMORY_OWNED char *rest = timeout != NULL
        ? memory_format("/actions/%s?timeout=%" PRIu64 "ms", action, timeout_ms)
        : memory_format("/actions/%s", action);
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], rest);
    bool stops = strcmp(action, "stop") == 0 || strcmp(action, "kill") == 0;
    int r = request_json("POST", target, NULL, &reference, err);
    return r < 0 ? r
                 : finish(arguments, reference, what, stops ? WANTED_AT_REST : WANTED_THERE, err);
}

int verb_vm_start(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "start", "is running", err);
}

int verb_vm_stop(const struct arguments *arguments, struct error *err)
{
    bool is_forced = flag_value(arguments, "force") != NULL;
    if (is_forced && flag_value(arguments, "timeout") != NULL) {
        return error_set(err, ERROR_INVALID, "--force is at once: --timeout has no effect");
    }
    return act(arguments, is_forced ? "kill" : "stop", "is stopped", err);
}

int verb_vm_restart(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "restart", "is running again", err);
}

int verb_vm_pause(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "pause", "is paused", err);
}

int verb_vm_resume(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "resume", "is running", err);
}

int verb_vm_delete(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    bool is_forced = flag_value(arguments, "force") != NULL;
    MEMORY_OWNED char *target =
        request_target("machines", arguments->words[0], is_forced ? "?force=true" : "");
    int r = request_json("DELETE", target, NULL, &reference, err);
    return r < 0 ? r : finish(arguments, reference, "is deleted", WANTED_GONE, err);
}

/* ---- Looking ---- */

int verb_vm_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},           {"STATE", "state", AS_TEXT},
        {"NODE", "node", AS_TEXT},           {"IMAGE", "image", AS_TEXT},
        {"CPUS", "cpus", AS_TEXT},           {"MEMORY", "memory_bytes", AS_BYTES},
        {"ADDRESSES", "addresses", AS_TEXT}, {"PUBLISHED", "publish", AS_TEXT},
        {"STARTED", "started_at", AS_TEXT},  {"HEALTH", "health_state", AS_TEXT},
        {"OUTDATED", "outdated", AS_TEXT},   {"REASON", "reason", AS_TEXT},
    };
    return print_target(arguments, "/v1/machines", "machines", columns, COUNT(columns), err);
}

static int show_one(const struct arguments *arguments, const struct column *facts, unsigned count,
                    struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], "");
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(document, output);
    } else if (r == 0) {
        print_known_facts(document, facts, count);
        print_accesses(document);
    }
    return r;
}

static const struct column machine_facts[] = {
    {"name", "name", AS_TEXT},
    {"state", "state", AS_TEXT},
    {"reason", "reason", AS_TEXT},
    {"wanted", "desired", AS_TEXT},
    {"health", "health_state", AS_TEXT},
    {"last bad check", "health_reason", AS_TEXT},
    {"shares", "shares", AS_TEXT},
    {"asks for devices", "devices", AS_TEXT},
    {"has devices", "has_devices", AS_TEXT},
    {"missing devices", "missing_devices", AS_TEXT},
    {"checked", "health", AS_TEXT},
    {"after", "after", AS_TEXT},
    {"node", "node", AS_TEXT},
    {"image", "image", AS_TEXT},
    {"runner", "runner", AS_TEXT},
    {"booted runner", "booted_runner", AS_TEXT},
    {"outdated", "outdated", AS_TEXT},
    {"flake", "flake", AS_TEXT},
    {"generation", "runner_generation", AS_TEXT},
    {"cpus", "cpus", AS_TEXT},
    {"cpu limit %", "cpu_limit_percent", AS_TEXT},
    {"memory", "memory_bytes", AS_BYTES},
    {"huge pages", "huge_pages", AS_TEXT},
    {"disk", "disk_bytes", AS_BYTES},
    {"disk iops", "disk_iops", AS_TEXT},
    {"disk reads/s", "disk_read_iops", AS_TEXT},
    {"disk writes/s", "disk_write_iops", AS_TEXT},
    {"disk bytes/s", "disk_bandwidth", AS_BYTES},
    {"disk bytes/s read", "disk_read_bandwidth", AS_BYTES},
    {"disk bytes/s written", "disk_write_bandwidth", AS_BYTES},
    {"published", "publish", AS_TEXT},
    {"at next start", "at_next_start", AS_TEXT},
    {"volumes", "volumes", AS_TEXT},
    {"addresses", "addresses", AS_TEXT},
    {"strategy", "strategy", AS_TEXT},
    {"host name", "hostname", AS_TEXT},
    {"program", "arguments", AS_TEXT},
    {"user", "user", AS_TEXT},
    {"kernel", "kernel", AS_TEXT},
    {"agent", "agent", AS_TEXT},
    {"cpu time", "cpu_ms", AS_TIME},
    {"resident", "resident_bytes", AS_BYTES},
    {"restarts", "restarts", AS_TEXT},
    {"started", "started_at", AS_TEXT},
    {"created", "created_at", AS_TEXT},
    {"origin", "origin", AS_TEXT},
    {"id", "id", AS_TEXT},
    {"pending since", "pending_since", AS_TEXT},
    {"constraints", "constraints", AS_TEXT},
    {"affinities", "affinities", AS_TEXT},
    {"spread over", "spreads", AS_TEXT},
    {"group", "placement_group", AS_TEXT},
    {"tolerates", "tolerations", AS_TEXT},
    {"node pool", "node_pool", AS_TEXT},
    {"reservation", "reservation", AS_TEXT},
    {"priority", "priority", AS_TEXT},
    {"dedicated", "dedicated_cpus", AS_TEXT},
    {"runs on cpus", "runs_on_cpus", AS_TEXT},
    {"vcpus", "vcpus", AS_VCPUS},
    {"other threads", "emulator_cpus", AS_TEXT},
    {"pinned by", "pinned_by", AS_TEXT},
    {"memory of numa", "memory_nodes", AS_TEXT},
    {"guest numa", "guest_numa", AS_NUMA},
    {"numa binding", "memory_binding", AS_TEXT},
    {"machine type", "machine_type", AS_TEXT},
    {"firmware", "firmware", AS_TEXT},
    {"user-data", "user_data_digest", AS_TEXT},
};

int verb_vm_show(const struct arguments *arguments, struct error *err)
{
    return show_one(arguments, machine_facts, COUNT(machine_facts), err);
}

int verb_vm_drivers(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"DRIVER", "name", AS_TEXT},     {"USABLE", "usable", AS_TEXT},
        {"VERSION", "version", AS_TEXT}, {"ACCELERATOR", "accelerator", AS_TEXT},
        {"LIMITS", "limits", AS_TEXT},   {"PROBLEM", "problem", AS_TEXT},
    };
    return print_target(arguments, "/v1/hypervisors", "hypervisors", columns, COUNT(columns), err);
}

/* The machine once the state has changed after *index, or a minute later; *index is moved on. */
static int get_after(const char *name, uint64_t wait_ms, uint64_t *index, json_t **ret_machine,
                     struct error *err)
{
    ANSWER_OWNED struct answer answer = {0};
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *path = request_target("machines", name, "");
    buffer_append_string(&target, path);
    if (*index > 0) {
        buffer_append_format(&target, "?index=%" PRIu64 "&wait=%" PRIu64 "ms", *index, wait_ms);
    }
    int r = request("GET", buffer_string(&target), NULL, NULL, 0, &answer, err);
    *index = answer.index;
    return r < 0 ? r : json_read(answer.body.data, answer.body.used, ret_machine, err);
}

static bool is_health(const char *wanted)
{
    return strstr(wanted, "healthy") != NULL;
}

/* One that is to run is stopped now and then, on its way. */
static bool is_as_wanted(const json_t *machine, const char *wanted)
{
    const char *state =
        json_string_value(json_object_get(machine, is_health(wanted) ? "health_state" : "state"));
    const char *desired = json_string_value(json_object_get(machine, "desired"));
    bool is_on_its_way =
        strcmp(wanted, "stopped") == 0 && (desired == NULL || strcmp(desired, "stopped") != 0);
    return state != NULL && strcmp(state, wanted) == 0 && !is_on_its_way;
}

/* May it come to that by itself?  One that rests where it is to be does not, whatever is waited
 * for. */
static int check_may_come(const json_t *machine, const char *name, const char *wanted,
                          struct error *err)
{
    const char *state = json_text(machine, "state");
    const char *strategy = json_text(machine, "strategy");
    const char *reason = json_text(machine, "reason");
    bool is_as_desired = strcmp(state, json_text(machine, "desired")) == 0;
    bool is_started_again =
        strcmp(strategy, "Always") == 0 || strcmp(strategy, "RerunOnFailure") == 0;
    if (is_health(wanted) && json_object_get(machine, "health") == NULL) {
        return error_set(err, ERROR_INVALID,
                         "machine %s is not checked: vm create --health says what is", name);
    }
    if (strcmp(state, "failed") == 0) {
        return error_set(err, ERROR_UNAVAILABLE, "machine %s has failed: %s", name, reason);
    }
    if (strcmp(state, "stopped") == 0 && is_as_desired) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s is stopped, and stays so until somebody starts it (blixard vm "
                         "start %s): it will not be %s",
                         name, name, wanted);
    }
    if (strcmp(state, "paused") == 0 && is_as_desired) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s is paused, and stays so until somebody resumes it (blixard vm "
                         "resume %s): it will not be %s",
                         name, name, wanted);
    }
    return strcmp(wanted, "backoff") != 0 || is_started_again
        ? 0
        : error_set(err, ERROR_CONFLICT,
                    "machine %s has the strategy %s: it is not started again, and will not be in "
                    "backoff",
                    name, strategy);
}

int verb_vm_wait(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *wanted =
        flag_value(arguments, "for") != NULL ? flag_value(arguments, "for") : "running";
    uint64_t end_ms = 0;
    uint64_t index = 0;
    if (patience_of(arguments, &end_ms, err) < 0) {
        return -(int)err->kind;
    }
    for (;;) {
        JSON_OWNED json_t *machine = NULL;
        int r = get_after(name, patience_turn_ms(end_ms, TURN_MS), &index, &machine, err);
        const char *state = json_string_value(json_object_get(machine, "state"));
        if (r < 0) {
            return r;
        }
        if (is_as_wanted(machine, wanted)) {
            return print_done(arguments, machine, err, "machine %s is %s", name, wanted);
        }
        if (check_may_come(machine, name, wanted, err) < 0) {
            return -(int)err->kind;
        }
        if (clock_monotonic_ms() >= end_ms) {
            return error_set(err, ERROR_TIMEOUT, "machine %s is still %s after %s", name, state,
                             flag_value(arguments, "timeout"));
        }
    }
}

/* ---- Inside ---- */

/* The program's exit status is ours, as of ssh: 128 and the signal that ended it. */
static int take_end(const json_t *end, struct error *err)
{
    const char *text = json_string_value(json_object_get(end, "error"));
    const char *code = json_string_value(json_object_get(end, "code"));
    int signal = (int)json_integer_value(json_object_get(end, "signal"));
    int status = (int)json_integer_value(json_object_get(end, "exit_code"));
    if (end == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "the connection has ended before the program");
    }
    if (text != NULL) {
        enum error_kind kind = code != NULL ? error_kind_parse(code) : ERROR_NONE;
        return error_set(err, kind != ERROR_NONE ? kind : ERROR_UNAVAILABLE, "%s", text);
    }
    if (signal != 0) {
        _exit(128 + signal);
    }
    if (status != 0) {
        _exit(status & 0xff);
    }
    return 0;
}

static json_t *exec_spec(const struct arguments *arguments, bool is_terminal)
{
    unsigned rows = 0;
    unsigned columns = 0;
    json_t *spec = json_pack("{s:[], s:b, s:b}", "arguments", "input", 1, "terminal", is_terminal);
    json_t *words = json_object_get(spec, "arguments");
    json_t *environment = json_array();
    for (unsigned i = 1; i < arguments->word_count; i++) {
        json_array_append_new(words, json_string(arguments->words[i]));
    }
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, "env") == 0) {
            json_array_append_new(environment, json_string(arguments->flags[i].value));
        }
    }
    if (json_array_size(environment) > 0) {
        json_object_set(spec, "environment", environment);
    }
    json_decref(environment);
    if (flag_value(arguments, "user") != NULL) {
        json_object_set_new(spec, "user", json_string(flag_value(arguments, "user")));
    }
    if (flag_value(arguments, "cwd") != NULL) {
        json_object_set_new(spec, "folder", json_string(flag_value(arguments, "cwd")));
    }
    if (is_terminal && duplex_terminal_size(&rows, &columns)) {
        json_object_set_new(spec, "rows", json_integer((json_int_t)rows));
        json_object_set_new(spec, "columns", json_integer((json_int_t)columns));
    }
    return spec;
}

int verb_vm_exec(const struct arguments *arguments, struct error *err)
{
    bool is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) &&
        flag_value(arguments, "no-terminal") == NULL;
    JSON_OWNED json_t *spec = exec_spec(arguments, is_terminal);
    MEMORY_OWNED char *text = json_dumps(spec, JSON_COMPACT);
    if (text == NULL) {
        return error_set(err, ERROR_INVALID, "an argument is no UTF-8");
    }
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *path = request_target("machines", arguments->words[0], "/exec?exec=");
    buffer_append_string(&target, path);
    http_percent_encode(&target, text_of(text, strlen(text)));
    struct duplex duplex = {.path = buffer_string(&target),
                            .takes_input = true,
                            .is_terminal = is_terminal,
                            .detach_key = -1};
    int r = duplex_run(&duplex, err);
    JSON_OWNED json_t *end = duplex.end;
    return r < 0 ? r : take_end(end, err);
}

int verb_vm_console(const struct arguments *arguments, struct error *err)
{
    bool is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    MEMORY_OWNED char *rest = memory_format("/console?history=%d", HISTORY);
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], rest);
    struct duplex duplex = {.path = target,
                            .takes_input = true,
                            .is_terminal = is_terminal,
                            .detach_key = is_terminal ? DETACH_KEY : -1};
    if (is_terminal) {
        fprintf(stderr, "Attached to the console of %s; Ctrl-] detaches.\n", arguments->words[0]);
    }
    int r = duplex_run(&duplex, err);
    json_decref(duplex.end);
    if (r == 0 && is_terminal) {
        fprintf(stderr, "\n%s\n", duplex.was_detached ? "Detached." : "The machine has ended.");
    }
    return r;
}

static bool write_piece(const void *bytes, size_t length, void *context)
{
    (void)context;
    return fwrite(bytes, 1, length, stdout) == length && print_flush() == 0;
}

int verb_vm_logs(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    const char *tail = flag_value(arguments, "tail");
    uint64_t bytes = 64 << 10;
    uint64_t lines = UINT64_MAX;
    if (tail != NULL && text_parse_u64(text_of(tail, strlen(tail)), &lines)) {
        bytes = CONSOLE_LOG_MAX;
    } else if (tail != NULL && !text_parse_size(tail, &bytes)) {
        return error_set(err, ERROR_INVALID,
                         "--tail %.40s is no number of lines, and no size (for example 64KiB)",
                         tail);
    }
    MEMORY_OWNED char *path = request_target("machines", arguments->words[0], "/log");
    buffer_append_format(&target, "%s?tail=%" PRIu64 "%s", path, bytes,
                         flag_value(arguments, "follow") != NULL ? "&follow=true" : "");
    if (lines != UINT64_MAX) {
        buffer_append_format(&target, "&lines=%" PRIu64, lines);
    }
    ANSWER_OWNED struct answer answer = {.on_data = write_piece};
    return request("GET", buffer_string(&target), NULL, NULL, 0, &answer, err);
}
