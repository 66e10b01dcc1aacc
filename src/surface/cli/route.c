/* Verbs about routes: which requests at the gateway call which function. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

#include "surface/cli/trigger.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct column facts[] = {
    {"name", "name", AS_TEXT},
    {"function", "function", AS_TEXT},
    {"path", "path", AS_TEXT},
    {"methods", "methods", AS_TEXT},
    {"hosts", "hosts", AS_TEXT},
    {"auth", "auth", AS_TEXT},
    {"cors", "cors.origins", AS_TEXT},
    {"rate limit", "rate_limit.requests_per_second", AS_TEXT},
    {"burst", "rate_limit.burst", AS_TEXT},
    {"body max", "body_bytes_max", AS_TEXT},
    {"cache", "cache", AS_TEXT},
    {"stream", "stream", AS_TEXT},
    {"websocket", "websocket", AS_TEXT},
    {"subprotocols", "subprotocols", AS_TEXT},
    {"filter", "filter", AS_TEXT},
    {"timeout", "timeout_ms", AS_MS},
    {"concurrency", "concurrency_max", AS_TEXT},
    {"paused", "paused", AS_TEXT},
    {"created", "created_at", AS_TEXT},
};

static int show_document(const struct arguments *arguments, const json_t *document,
                         struct error *err)
{
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_facts(document, facts, COUNT(facts));
    } else {
        print_document(document, output);
    }
    return 0;
}

/* "GET,POST" as a list. */
static void add_list(json_t *body, const char *key, const char *text)
{
    json_t *list = json_array();
    while (text != NULL && *text != '\0') {
        size_t length = strcspn(text, ",");
        json_array_append_new(list, json_stringn(text, length));
        text += length;
        text += *text == ',';
    }
    json_object_set_new(body, key, list);
}

/* RATE[:BURST][:client|:route] */
static int add_limit(json_t *body, const char *text, struct error *err)
{
    char by[16] = "client";
    double rate = 0;
    unsigned long long burst = 0;
    char rest = 0;
    int count = sscanf(text, "%lf:%llu:%15[a-z]%c", &rate, &burst, by, &rest);
    if (count < 1 || count > 3 || rate <= 0) {
        return error_set(err, ERROR_INVALID,
                         "--rate-limit %.40s: expected RATE[:BURST[:client|:route]], for "
                         "example 10:20:client",
                         text);
    }
    json_t *limit = json_pack("{s:f, s:s}", "requests_per_second", rate, "by", by);
    if (count > 1) {
        json_object_set_new(limit, "burst", json_integer((json_int_t)burst));
    }
    json_object_set_new(body, "rate_limit", limit);
    return 0;
}

static int read_file(const char *path, json_t **ret_body, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    bool is_stdin = strcmp(path, "-") == 0;
    int r = file_read(is_stdin ? "/dev/stdin" : path, YAML_BYTES_MAX, &text, err);
    r = r < 0 ? r : yaml_read(buffer_string(&text), text.used, ret_body, err);
    if (r == 0 && !json_is_object(*ret_body)) {
        r = error_set(err, ERROR_INVALID, "it must hold \"key: value\" lines");
    }
    return r < 0 ? error_wrap(err, "%s", path) : 0;
}

static int add_authority(json_t *body, const char *path, struct error *err)
{
    enum { BYTES_MAX = 1 << 20 };
    BUFFER_OWNED struct buffer text = {0};
    if (file_read(path, BYTES_MAX, &text, err) < 0) {
        return error_wrap(err, "--client-ca %s", path);
    }
    json_t *value = json_string(buffer_string(&text));
    if (value == NULL) {
        return error_set(err, ERROR_INVALID, "--client-ca %s: this is no text in PEM", path);
    }
    json_object_set_new(body, "client_ca", value);
    return 0;
}

int route_take_flags(const struct arguments *arguments, json_t *body, bool *ret_any,
                     struct error *err)
{
    static const char *const lists[][2] = {
        {"method", "methods"}, {"host", "hosts"}, {"subprotocol", "subprotocols"}};
    const char *auth = flag_value(arguments, "auth");
    if (auth != NULL) {
        json_object_set_new(body, "auth", json_string(auth));
    }
    for (size_t i = 0; i < COUNT(lists); i++) {
        const char *value = flag_value(arguments, lists[i][0]);
        if (value != NULL) {
            add_list(body, lists[i][1], value);
        }
    }
    const char *origins = flag_value(arguments, "cors");
    if (origins != NULL) {
        json_t *cors = json_object();
        add_list(cors, "origins", origins);
        json_object_set_new(body, "cors", cors);
    }
    static const char *const switches[] = {"cache", "stream", "websocket"};
    for (size_t i = 0; i < COUNT(switches); i++) {
        if (flag_value(arguments, switches[i]) != NULL) {
            json_object_set_new(body, switches[i], json_true());
        }
    }
    const char *most = flag_value(arguments, "body-max");
    uint64_t bytes = 0;
    if (most != NULL && (!text_parse_size(most, &bytes) || bytes == 0 || bytes > INT64_MAX)) {
        return error_set(err, ERROR_INVALID, "--body-max %.40s: expected a size, such as 1MiB",
                         most);
    }
    if (most != NULL) {
        json_object_set_new(body, "body_bytes_max", json_integer((json_int_t)bytes));
    }
    const char *authority = flag_value(arguments, "client-ca");
    if (authority != NULL && add_authority(body, authority, err) < 0) {
        return -(int)err->kind;
    }
    const char *limit = flag_value(arguments, "rate-limit");
    int r = limit != NULL ? add_limit(body, limit, err) : 0;
    *ret_any = json_object_size(body) > 0;
    return r;
}

/* What a route has as every trigger has it, then what is a route's own. */
static int fill(const struct arguments *arguments, json_t *body, struct error *err)
{
    static const char *const shared[] = {"function",    "path",    "filter",
                                         "concurrency", "timeout", "paused"};
    bool has_any = false;
    int r = 0;
    for (size_t i = 0; i < COUNT(shared) && r == 0; i++) {
        const char *value = flag_value(arguments, shared[i]);
        r = value != NULL ? trigger_take_flag(body, shared[i], value, err) : 0;
    }
    return r < 0 ? r : route_take_flags(arguments, body, &has_any, err);
}

int verb_route_set(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    const char *file = flag_value(arguments, "file");
    JSON_OWNED json_t *body = NULL;
    JSON_OWNED json_t *document = NULL;
    int r = 0;
    if (file != NULL) {
        r = read_file(file, &body, err);
    } else {
        body = json_object();
    }
    r = r < 0 ? r : fill(arguments, body, err);
    if (r == 0 &&
        (json_object_get(body, "function") == NULL || json_object_get(body, "path") == NULL)) {
        r = error_set(err, ERROR_INVALID, "a route needs --function and --path (or --file)");
    }
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *target = request_target("routes", name, "");
    r = request_send("PUT", target, body, &document, err);
    return r < 0 ? r : show_document(arguments, document, err);
}

int verb_route_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},         {"METHODS", "methods", AS_TEXT},
        {"HOSTS", "hosts", AS_TEXT},       {"PATH", "path", AS_TEXT},
        {"FUNCTION", "function", AS_TEXT}, {"AUTH", "auth", AS_TEXT},
        {"PAUSED", "paused", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/routes", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "routes"), columns, COUNT(columns));
    } else {
        print_document(document, output);
    }
    return 0;
}

int verb_route_get(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("routes", arguments->words[0], "");
    int r = request_json("GET", target, NULL, &document, err);
    return r < 0 ? r : show_document(arguments, document, err);
}

static int set_paused(const struct arguments *arguments, bool is_paused, struct error *err)
{
    const char *name = arguments->words[0];
    JSON_OWNED json_t *body = json_pack("{s:b}", "paused", is_paused);
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("routes", name, "");
    int r = request_send("PATCH", target, body, &document, err);
    return r < 0
        ? r
        : print_done(arguments, document, err,
                     is_paused ? "route %s is paused: it answers 503" : "route %s is served again",
                     name);
}

int verb_route_pause(const struct arguments *arguments, struct error *err)
{
    return set_paused(arguments, true, err);
}

int verb_route_resume(const struct arguments *arguments, struct error *err)
{
    return set_paused(arguments, false, err);
}

int verb_route_delete(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("routes", name, "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", name);
    return print_done(arguments, document, err, "deleted route %s", name);
}
