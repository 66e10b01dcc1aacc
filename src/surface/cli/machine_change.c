/* Machines that become others: their size, their name, their settings. */
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* "--publish none", "--health none". */
static const char nothing[] = "none";

/* What it said: in words, "cpus, memory". */
static void describe_waiting(const json_t *waiting, struct buffer *out)
{
    static const char *const words[][2] = {{"memory_bytes", "memory"},
                                           {"huge_pages", "huge pages"},
                                           {"cpu_limit_percent", "cpu limit"},
                                           {"publish", "ports"},
                                           {"disk_iops", "disk iops"},
                                           {"disk_bandwidth", "disk bandwidth"},
                                           {"disk_read_iops", "disk reads"},
                                           {"disk_write_iops", "disk writes"},
                                           {"disk_read_bandwidth", "disk bandwidth of reads"},
                                           {"disk_write_bandwidth", "disk bandwidth of writes"}};
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(waiting, index, value)
    {
        const char *word = json_string_value(value);
        for (size_t i = 0; i < COUNT(words) && word != NULL; i++) {
            word = strcmp(word, words[i][0]) == 0 ? words[i][1] : word;
        }
        buffer_append_format(out, "%s%s", index > 0 ? ", " : "", word != NULL ? word : "?");
    }
}

static int restart(const char *name, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("machines", name, "/actions/restart");
    int r = request_json("POST", target, NULL, &reference, err);
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    if (r == 0 && operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    return r < 0 ? r : operation_wait_for(operation, NULL, err);
}

static int update(const struct arguments *arguments, const json_t *body, const char *what,
                  struct error *err)
{
    JSON_OWNED json_t *change = NULL;
    JSON_OWNED json_t *machine = NULL;
    BUFFER_OWNED struct buffer words = {0};
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], "");
    int r = request_send("PATCH", target, body, &change, err);
    const char *name = json_string_value(json_object_get(change, "name"));
    const char *operation = json_string_value(json_object_get(change, "operation"));
    const json_t *waiting = json_object_get(change, "at_next_start");
    if (r == 0 && (name == NULL || operation == NULL)) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    r = r < 0 ? r : operation_wait_for(operation, NULL, err);
    bool waits = json_array_size(waiting) > 0;
    if (r == 0 && waits && flag_value(arguments, "restart") != NULL) {
        r = restart(name, err);
        waits = false;
    }
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *one = request_target("machines", name, "");
    r = request_json("GET", one, NULL, &machine, err);
    describe_waiting(waiting, &words);
    return r < 0 ? r
        : waits  ? print_done(arguments, machine, err,
                              "machine %s %s; takes effect at the next start: %s (--restart does it "
                               "now)",
                              name, what, buffer_string(&words))
                 : print_done(arguments, machine, err, "machine %s %s", name, what);
}

int verb_vm_resize(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    int r = machine_take_flags(arguments, body, err);
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(err, ERROR_INVALID,
                         "say what it is to have: --cpus 2, --memory 1GiB, --disk 20GiB");
    }
    return r < 0 ? r : update(arguments, body, "is resized", err);
}

static void take_publish(const struct arguments *arguments, json_t *body)
{
    json_t *list = json_array();
    bool is_said = false;
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        bool is_it = strcmp(arguments->flags[i].name, "publish") == 0;
        is_said = is_said || is_it;
        if (is_it && strcmp(arguments->flags[i].value, nothing) != 0) {
            json_array_append_new(list, json_string(arguments->flags[i].value));
        }
    }
    if (is_said) {
        json_object_set(body, "publish", list);
    }
    json_decref(list);
}

int verb_vm_set(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    int r = machine_take_flags(arguments, body, err);
    const char *health = json_string_value(json_object_get(body, "health"));
    take_publish(arguments, body);
    if (health != NULL && strcmp(health, nothing) == 0) {
        json_object_set_new(body, "health", json_string(""));
    }
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(
            err, ERROR_INVALID,
            "say what is to change: --strategy Always, --publish 8080:80, --constraint zone=a");
    }
    return r < 0 ? r : update(arguments, body, "is changed", err);
}

/* What was built is at the machine's node before that is to run it. */
static int fetch_there(const char *name, const char *path, const char *flake, struct error *err)
{
    JSON_OWNED json_t *machine = NULL;
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *body = json_pack("{s:s}", "path", path);
    BUFFER_OWNED struct buffer target = {0};
    MEMORY_OWNED char *one = request_target("machines", name, "");
    if (flake == NULL) {
        return 0;
    }
    int r = request_json("GET", one, NULL, &machine, err);
    const char *node = json_text(machine, "node");
    if (r < 0 || node[0] == '\0') {
        return r;
    }
    buffer_append_string(&target, "/v1/store/copies");
    request_add_query(&target, "node", node);
    r = request_send("POST", buffer_string(&target), body, &reference, err);
    const char *operation = json_text(reference, "operation");
    return r < 0 ? r : operation_wait_for(operation, NULL, err);
}

int verb_vm_update(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    const char *runner = flag_value(arguments, "runner");
    const char *flake = flag_value(arguments, "flake");
    if (runner == NULL && flake == NULL) {
        return error_set(err, ERROR_INVALID,
                         "say what it is to run: --runner PATH or --flake REFERENCE#NAME");
    }
    if (runner != NULL) {
        json_object_set_new(body, "runner", json_string(runner));
        json_object_set_new(body, "flake", json_string("")); /* it was built of something else */
    }
    int r = flake_take(arguments, false, body, err);
    r = r < 0 ? r : fetch_there(arguments->words[0], json_text(body, "runner"), flake, err);
    return r < 0 ? r : update(arguments, body, "has its runner", err);
}

int verb_vm_rollback(const struct arguments *arguments, struct error *err)
{
    uint64_t number = 0;
    const char *text = flag_value(arguments, "generation");
    if (text != NULL && (!text_parse_u64(text_of(text, strlen(text)), &number) || number == 0)) {
        return error_set(err, ERROR_INVALID, "--generation %.40s is no number of one", text);
    }
    JSON_OWNED json_t *body = json_pack("{s:I}", "runner_generation", (json_int_t)number);
    return update(arguments, body, "has an earlier runner", err);
}

int verb_vm_rename(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[1]);
    JSON_OWNED json_t *change = NULL;
    JSON_OWNED json_t *machine = NULL;
    MEMORY_OWNED char *target = request_target("machines", arguments->words[0], "");
    MEMORY_OWNED char *one = request_target("machines", arguments->words[1], "");
    int r = request_send("PATCH", target, body, &change, err);
    r = r < 0 ? r : request_json("GET", one, NULL, &machine, err);
    return r < 0 ? r
                 : print_done(arguments, machine, err, "machine %s is called %s now",
                              arguments->words[0], arguments->words[1]);
}
