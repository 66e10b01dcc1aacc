/* Verbs about triggers: what calls functions besides people. */
#include "surface/cli/trigger.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { EVENT_FILE_MAX = 2 << 20 };

/* ---- What a trigger is to be: flags, or a file with the same names ---- */

enum kind { IS_TEXT, IS_PROGRAM, IS_COUNT, IS_DURATION, IS_SWITCH };

/* A flag is "batch-size", its key in a file "batch_size". */
static const struct key {
    const char *flag;
    const char *field; /* of a TriggerSpec */
    enum kind kind;
} keys[] = {
    {"kind", "kind", IS_TEXT},
    {"function", "function", IS_TEXT},
    {"filter", "filter", IS_PROGRAM},
    {"transform", "transform", IS_PROGRAM},
    {"path", "path", IS_TEXT},
    {"batch-size", "batch_size", IS_COUNT},
    {"batch-window", "batch_window_ms", IS_DURATION},
    {"concurrency", "concurrency_max", IS_COUNT},
    {"retries", "retries", IS_COUNT},
    {"retry-delay", "retry_delay_ms", IS_DURATION},
    {"retry-delay-max", "retry_delay_max_ms", IS_DURATION},
    {"max-age", "event_age_max_ms", IS_DURATION},
    {"timeout", "timeout_ms", IS_DURATION},
    {"bisect", "bisect", IS_SWITCH},
    {"on-success", "on_success", IS_TEXT},
    {"on-failure", "on_failure", IS_TEXT},
    {"paused", "paused", IS_SWITCH},
};

/* Flags that are settings of schedules. */
static const char *const settings[] = {"schedule", "timezone", "jitter", "misfire", "overlap"};

static json_t *settings_of(json_t *spec)
{
    json_t *object = json_object_get(spec, "settings");
    if (!json_is_object(object)) {
        object = json_object();
        json_object_set_new(spec, "settings", object);
    }
    return object;
}

static int take_value(json_t *spec, const struct key *key, const json_t *value, struct error *err)
{
    MEMORY_OWNED char *number =
        json_is_integer(value) ? memory_format("%lld", (long long)json_integer_value(value)) : NULL;
    const char *text = number != NULL ? number : json_string_value(value);
    uint64_t parsed = 0;
    if (key->kind == IS_PROGRAM && (json_is_object(value) || json_is_array(value))) {
        char *program = json_dumps(value, JSON_COMPACT);
        json_object_set_new(spec, key->field, json_string(program));
        free(program);
        return 0;
    }
    if (key->kind == IS_SWITCH && json_is_boolean(value)) {
        json_object_set_new(spec, key->field, json_boolean(json_is_true(value)));
        return 0;
    }
    if (text == NULL || key->kind == IS_SWITCH) {
        return error_set(err, ERROR_INVALID, "%s must be %s", key->flag,
                         key->kind == IS_SWITCH ? "true or false" : "a text");
    }
    if (key->kind == IS_TEXT || key->kind == IS_PROGRAM) {
        json_object_set_new(spec, key->field, json_string(text));
        return 0;
    }
    bool is_good = key->kind == IS_DURATION ? text_parse_duration_ms(text, &parsed)
                                            : text_parse_u64(text_of(text, strlen(text)), &parsed);
    if (!is_good || parsed > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "%s \"%.40s\" is no %s", key->flag, text,
                         key->kind == IS_DURATION ? "duration, such as 10s" : "number");
    }
    json_object_set_new(spec, key->field, json_integer((json_int_t)parsed));
    return 0;
}

static bool names_key(const char *in_file, const char *flag)
{
    for (; *in_file != '\0' && *flag != '\0'; in_file++, flag++) {
        if (*in_file != *flag && !(*in_file == '_' && *flag == '-')) {
            return false;
        }
    }
    return *in_file == *flag;
}

static int unknown_key(const char *name, struct error *err)
{
    const char *names[COUNT(keys) + 2] = {"settings", "name"};
    for (size_t i = 0; i < COUNT(keys); i++) {
        names[i + 2] = keys[i].flag;
    }
    const char *near = text_nearest(name, names, COUNT(names));
    return near != NULL
        ? error_set(err, ERROR_INVALID, "unknown key \"%.60s\"; did you mean \"%s\"?", name, near)
        : error_set(err, ERROR_INVALID, "unknown key \"%.60s\" of a trigger", name);
}

int trigger_read_document(const json_t *document, json_t *spec, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    if (!json_is_object(document)) {
        return error_set(err, ERROR_INVALID, "a trigger is \"key: value\" lines");
    }
    json_object_foreach((json_t *)(uintptr_t)document, name, value)
    {
        const struct key *key = NULL;
        for (size_t i = 0; i < COUNT(keys) && key == NULL; i++) {
            key = names_key(name, keys[i].flag) ? &keys[i] : NULL;
        }
        int r = 0;
        if (key != NULL) {
            r = take_value(spec, key, value, err);
        } else if (strcmp(name, "name") == 0 || strcmp(name, "settings") == 0) {
            json_object_set(spec, name, value);
        } else {
            r = unknown_key(name, err);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int read_text(const char *path, size_t most, struct buffer *out, struct error *err)
{
    return file_read(strcmp(path, "-") == 0 ? "/dev/stdin" : path, most, out, err);
}

static int take_file(const char *path, json_t *spec, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    int r = read_text(path, YAML_BYTES_MAX, &text, err);
    if (r < 0) {
        return r;
    }
    r = yaml_read(buffer_string(&text), text.used, &document, err);
    r = r < 0 ? r : trigger_read_document(document, spec, err);
    return r < 0 ? error_wrap(err, "%s", path) : 0;
}

/* KEY=VALUE; the value as YAML has it: a number, true, a list, or a text. */
static int take_setting(json_t *spec, const char *text, struct error *err)
{
    const char *equals = strchr(text, '=');
    struct error ignored = {0};
    json_t *value = NULL;
    if (equals == NULL || equals == text) {
        return error_set(err, ERROR_INVALID, "--set %.60s: expected KEY=VALUE", text);
    }
    MEMORY_OWNED char *key = memory_copy_text(text, (size_t)(equals - text));
    if (yaml_read(equals + 1, strlen(equals + 1), &value, &ignored) < 0 || json_is_null(value)) {
        value = json_string(equals + 1);
    }
    json_object_set_new(settings_of(spec), key, value);
    return 0;
}

/* A filter or template may be in a file: @FILE. */
static int take_flag(json_t *spec, const struct key *key, const char *text, struct error *err)
{
    BUFFER_OWNED struct buffer content = {0};
    if (key->kind == IS_PROGRAM && text[0] == '@') {
        int r = read_text(text + 1, YAML_BYTES_MAX, &content, err);
        if (r < 0) {
            return r;
        }
        text = buffer_string(&content);
    }
    JSON_OWNED json_t *value = key->kind == IS_SWITCH ? json_true() : json_string(text);
    int r = take_value(spec, key, value, err);
    return r < 0 ? error_wrap(err, "--%s", key->flag) : 0;
}

int trigger_take_flag(json_t *spec, const char *name, const char *value, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < COUNT(keys) && r == 0; i++) {
        r = strcmp(name, keys[i].flag) == 0 ? take_flag(spec, &keys[i], value, err) : 0;
    }
    return r;
}

/* A kind that is not said is the one that its settings are of. */
static int take_kind(const struct arguments *arguments, json_t *spec, struct error *err)
{
    bool is_route = false;
    JSON_OWNED json_t *route = json_object();
    int r = route_take_flags(arguments, route, &is_route, err);
    if (r == 0 && json_object_get(spec, "kind") == NULL) {
        bool has_schedule = json_object_get(json_object_get(spec, "settings"), "schedule") != NULL;
        if (has_schedule || is_route) {
            json_object_set_new(spec, "kind", json_string(has_schedule ? "cron" : "http"));
        }
    }
    if (r < 0 || !is_route) {
        return r;
    }
    if (strcmp(json_text(spec, "kind"), "http") != 0) {
        return error_set(err, ERROR_INVALID,
                         "a trigger of kind %.40s has no methods, hosts, auth or what else is of "
                         "requests: these are flags of --kind http",
                         json_text(spec, "kind"));
    }
    json_object_update(settings_of(spec), route);
    return 0;
}

static int take_flags(const struct arguments *arguments, json_t *spec, struct error *err)
{
    int r = 0;
    for (unsigned i = 0; i < arguments->flag_count && r == 0; i++) {
        const char *name = arguments->flags[i].name;
        const char *value = arguments->flags[i].value;
        if (strcmp(name, "file") == 0) {
            continue; /* was taken before the flags */
        }
        if (strcmp(name, "set") == 0) {
            r = take_setting(spec, value, err);
        }
        for (size_t j = 0; j < COUNT(settings); j++) {
            if (strcmp(name, settings[j]) == 0) {
                json_object_set_new(settings_of(spec), name, json_string(value));
            }
        }
        r = r < 0 ? r : trigger_take_flag(spec, name, value, err);
    }
    return r < 0 ? r : take_kind(arguments, spec, err);
}

static int read_spec(const struct arguments *arguments, json_t *spec, struct error *err)
{
    const char *file = flag_value(arguments, "file");
    int r = file != NULL ? take_file(file, spec, err) : 0;
    r = r < 0 ? r : take_flags(arguments, spec, err);
    if (r == 0 && arguments->word_count > 0) {
        json_object_set_new(spec, "name", json_string(arguments->words[0]));
    }
    if (r == 0 && json_object_get(spec, "name") == NULL) {
        r = error_set(err, ERROR_INVALID, "give the trigger's name, or a file with name: NAME");
    }
    return r;
}

int verb_trigger_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *spec = json_object();
    JSON_OWNED json_t *document = NULL;
    int r = read_spec(arguments, spec, err);
    r = r < 0 ? r : request_send("POST", "/v1/triggers", spec, &document, err);
    if (r < 0) {
        return r;
    }
    const char *next = json_text(document, "next_at");
    if (next[0] == '\0' && strcmp(json_text(document, "kind"), "http") == 0) {
        return print_done(arguments, document, err, "%s calls %s with requests for %s",
                          json_text(document, "name"), json_text(document, "function"),
                          json_text(document, "path"));
    }
    return print_done(arguments, document, err, "%s calls %s%s%s", json_text(document, "name"),
                      json_text(document, "function"), next[0] != '\0' ? ", next at " : "", next);
}

/* What it is now, then what is given. */
int verb_trigger_update(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *now = NULL;
    JSON_OWNED json_t *spec = json_object();
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("triggers", arguments->words[0], "");
    int r = request_json("GET", target, NULL, &now, err);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < COUNT(keys); i++) {
        json_t *value = json_object_get(now, keys[i].field);
        if (value != NULL && !json_is_null(value)) {
            json_object_set(spec, keys[i].field, value);
        }
    }
    json_object_set(spec, "settings", json_object_get(now, "settings"));
    json_object_set_new(spec, "name", json_string(arguments->words[0]));
    JSON_OWNED json_t *before = json_deep_copy(spec);
    r = read_spec(arguments, spec, err);
    if (r == 0 && json_equal(spec, before)) {
        return error_set(err, ERROR_INVALID,
                         "that is what it is: say what to change, for example --batch-size 10");
    }
    r = r < 0 ? r : request_send("PUT", target, spec, &document, err);
    return r < 0 ? r : print_done(arguments, document, err, "%s is changed", arguments->words[0]);
}

/* ---- Looking ---- */

/* Requests are counted in memory where they come in: nothing of a request waits for the others. */
static void say_who_counts(const json_t *trigger)
{
    if (strcmp(json_text(trigger, "counted_by"), "node") == 0) {
        puts("\nof kind http each node counts what comes to it, since it started: these are the\n"
             "figures of the node that answers; Prometheus has all nodes' (blixard_route_*)");
    }
}

static const json_t *first_http(const json_t *triggers)
{
    size_t index = 0;
    const json_t *trigger = NULL;
    json_array_foreach(triggers, index, trigger)
    {
        if (strcmp(json_text(trigger, "kind"), "http") == 0) {
            return trigger;
        }
    }
    return NULL;
}

int verb_trigger_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"TRIGGER", "name", AS_TEXT},      {"KIND", "kind", AS_TEXT},
        {"FUNCTION", "function", AS_TEXT}, {"STATE", "state", AS_TEXT},
        {"SEEN", "seen", AS_TEXT},         {"DELIVERED", "delivered", AS_TEXT},
        {"FAILED", "failed", AS_TEXT},     {"DEAD", "dead", AS_TEXT},
        {"LAST", "last_at", AS_TEXT},      {"NEXT", "next_at", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/triggers", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        const json_t *triggers = json_object_get(document, "triggers");
        print_table(triggers, columns, COUNT(columns));
        say_who_counts(first_http(triggers));
    } else {
        print_document(document, output);
    }
    return 0;
}

static void print_next_runs(const json_t *document)
{
    size_t index = 0;
    json_t *time = NULL;
    json_array_foreach(json_object_get(document, "next_runs"), index, time)
    {
        MEMORY_OWNED char *text = memory_copy_string(json_string_value(time));
        print_fact(index == 0 ? "next runs" : "", text);
    }
}

static void print_settings(const json_t *document)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(json_object_get(document, "settings"), name, value)
    {
        char *dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        MEMORY_OWNED char *text = memory_format(
            "%s: %s", name, json_is_string(value) ? json_string_value(value) : dumped);
        print_fact("setting", text);
        free(dumped);
    }
}

int verb_trigger_get(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},
        {"kind", "kind", AS_TEXT},
        {"function", "function", AS_TEXT},
        {"state", "state", AS_TEXT},
        {"source", "source", AS_TEXT},
        {"next", "next_at", AS_TEXT},
        {"seen", "seen", AS_TEXT},
        {"matched", "matched", AS_TEXT},
        {"delivered", "delivered", AS_TEXT},
        {"failed", "failed", AS_TEXT},
        {"dead", "dead", AS_TEXT},
        {"skipped", "skipped", AS_TEXT},
        {"counted by", "counted_by", AS_TEXT},
        {"in flight", "in_flight", AS_TEXT},
        {"waiting", "waiting", AS_TEXT},
        {"lag", "lag", AS_TEXT},
        {"last", "last_at", AS_TEXT},
        {"last error", "last_error", AS_TEXT},
        {"filter", "filter", AS_TEXT},
        {"transform", "transform", AS_TEXT},
        {"path", "path", AS_TEXT},
        {"timeout", "timeout_ms", AS_MS},
        {"batch size", "batch_size", AS_TEXT},
        {"batch window", "batch_window_ms", AS_MS},
        {"concurrency", "concurrency_max", AS_TEXT},
        {"retries", "retries", AS_TEXT},
        {"retry delay", "retry_delay_ms", AS_MS},
        {"longest", "retry_delay_max_ms", AS_MS},
        {"on success", "on_success", AS_TEXT},
        {"on failure", "on_failure", AS_TEXT},
        {"created", "created_at", AS_TEXT},
        {"updated", "updated_at", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("triggers", arguments->words[0], "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    print_facts(document, facts, COUNT(facts));
    print_next_runs(document);
    print_settings(document);
    say_who_counts(document);
    json_int_t seen = json_integer_value(json_object_get(document, "seen"));
    if (seen > 0 && json_integer_value(json_object_get(document, "matched")) == 0) {
        printf("\nthe filter has let none of %lld events through; try one: blixard trigger test %s "
               "--event FILE --no-deliver\n",
               (long long)seen, arguments->words[0]);
    }
    return 0;
}

/* ---- Changing ---- */

static int set_paused(const struct arguments *arguments, bool is_paused, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:b}", "paused", is_paused);
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("triggers", arguments->words[0], "");
    int r = request_send("PATCH", target, body, &document, err);
    return r < 0 ? r
                 : print_done(arguments, document, err, "%s is %s", arguments->words[0],
                              is_paused ? "paused" : "running again");
}

int verb_trigger_pause(const struct arguments *arguments, struct error *err)
{
    return set_paused(arguments, true, err);
}

int verb_trigger_resume(const struct arguments *arguments, struct error *err)
{
    return set_paused(arguments, false, err);
}

int verb_trigger_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("triggers", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return r < 0 ? r : print_done(arguments, document, err, "%s is deleted", arguments->words[0]);
}

/* ---- Testing ---- */

static void print_stage(const char *name, const json_t *value)
{
    char *dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    MEMORY_OWNED char *text =
        memory_copy_string(json_is_string(value) ? json_string_value(value) : dumped);
    printf("%-12s %s\n", name, text_make_printable(text, true));
    free(dumped);
}

static void print_test(const json_t *document)
{
    static const char *const stages[][2] = {
        {"event", "event"},        {"transformed", "transformed"}, {"function", "function"},
        {"request", "request_id"}, {"status", "status"},           {"answer", "answer"},
        {"error", "error"},
    };
    bool matches = json_is_true(json_object_get(document, "matches"));
    for (size_t i = 0; i < COUNT(stages); i++) {
        const json_t *value = json_object_get(document, stages[i][1]);
        if (value != NULL) {
            print_stage(stages[i][0], value);
        }
        if (i == 0) {
            printf("%-12s %s\n", "filter", matches ? "lets it through" : "passes it over");
        }
    }
}

static int outcome(const json_t *document, struct error *err)
{
    const char *problem = json_string_value(json_object_get(document, "error"));
    const json_t *delivered = json_object_get(document, "delivered");
    if (json_is_false(delivered) || problem != NULL) {
        return error_set(err, ERROR_TRAP, "the event was not accepted: %s",
                         problem != NULL ? problem : "the function did not answer 2xx");
    }
    return 0;
}

int verb_trigger_test(const struct arguments *arguments, struct error *err)
{
    const char *file = flag_value(arguments, "event");
    BUFFER_OWNED struct buffer event = {0};
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    bool delivers = flag_value(arguments, "no-deliver") == NULL;
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_format(&rest, "/test?deliver=%s", delivers ? "true" : "false");
    request_add_query(&rest, "path", flag_value(arguments, "path"));
    MEMORY_OWNED char *target =
        request_target("triggers", arguments->words[0], buffer_string(&rest));
    int r = output_of(arguments, &output, err);
    if (r == 0 && file == NULL) {
        r = error_set(
            err, ERROR_INVALID,
            "--event FILE is a CloudEvent as JSON, with specversion, id, source and type");
    }
    r = r < 0 ? r : read_text(file, EVENT_FILE_MAX, &event, err);
    r = r < 0 ? r : request_json("POST", target, &event, &document, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_test(document);
    } else {
        print_document(document, output);
    }
    return outcome(document, err);
}

/* ---- Of a project ---- */

/* `rest` is behind the path of each. */
static int send_each(const json_t *triggers, const char *function, const char *method,
                     const char *rest, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)triggers, name, value)
    {
        JSON_OWNED json_t *spec = json_pack("{s:s}", "function", function);
        MEMORY_OWNED char *target = request_target("triggers", name, rest);
        int r = trigger_read_document(value, spec, err);
        json_object_del(spec, "name");
        if (r == 0 && json_object_get(spec, "kind") == NULL) {
            json_object_set_new(spec, "kind", json_string("cron"));
        }
        r = r < 0 ? r : request_send(method, target, spec, NULL, err);
        if (r < 0) {
            return error_wrap(err, "trigger %s", name);
        }
    }
    return 0;
}

int trigger_check_deploy(const json_t *triggers, const char *function, struct error *err)
{
    return send_each(triggers, function, "POST", "/check", err);
}

int trigger_deploy(const json_t *triggers, const char *function, struct error *err)
{
    return send_each(triggers, function, "PUT", "", err);
}
