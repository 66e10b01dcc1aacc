/* Verbs about windows in which nodes are maintained. */
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"

#include "surface/cli/payload.h"
#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static char *target_of(const struct arguments *arguments)
{
    BUFFER_OWNED struct buffer rest = {0};
    const char *window = arguments->words[1];
    buffer_append_string(&rest, "/windows/");
    http_percent_encode(&rest, text_of(window, strlen(window)));
    return request_target("nodes", arguments->words[0], buffer_string(&rest));
}

static const json_t *find_window(const json_t *node, const char *name)
{
    size_t index = 0;
    json_t *window = NULL;
    json_array_foreach(json_object_get(node, "windows"), index, window)
    {
        if (strcmp(json_text(window, "name"), name) == 0) {
            return window;
        }
    }
    return NULL;
}

int verb_maintenance_set(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag settings[] = {
        {"schedule", "schedule", FLAG_TEXT},
        {"zone", "zone", FLAG_TEXT},
        {"duration", "duration_ms", FLAG_DURATION},
        {"from", "from", FLAG_TEXT},
        {"to", "to", FLAG_TEXT},
        {"deadline", "deadline_ms", FLAG_DURATION},
    };
    MEMORY_OWNED char *target = target_of(arguments);
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *node = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (flag_value(arguments, "force") != NULL) {
        json_object_set_new(body, "force", json_true());
    }
    r = r < 0 ? r : request_send("PUT", target, body, &node, err);
    return r < 0
        ? r
        : print_done(arguments, node, err, "node %s is maintained from %s on", arguments->words[0],
                     json_text(find_window(node, arguments->words[1]), "opens_at"));
}

int verb_maintenance_clear(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = target_of(arguments);
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[1]);
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0 ? r
                 : print_done(arguments, document, err, "node %s has no window %s any more",
                              arguments->words[0], arguments->words[1]);
}

/* A row for each, with the name of its node. */
static void add_windows(const json_t *node, json_t *rows)
{
    size_t index = 0;
    json_t *window = NULL;
    json_array_foreach(json_object_get(node, "windows"), index, window)
    {
        json_t *row = json_copy(window);
        json_object_set(row, "node", json_object_get(node, "name"));
        json_array_append_new(rows, row);
    }
}

int verb_maintenance_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NODE", "node", AS_TEXT},        {"WINDOW", "name", AS_TEXT},
        {"STATE", "state", AS_TEXT},      {"OPENS", "opens_at", AS_TEXT},
        {"CLOSES", "closes_at", AS_TEXT}, {"SCHEDULE", "schedule", AS_TEXT},
        {"ZONE", "zone", AS_TEXT},        {"PROBLEM", "problem", AS_TEXT},
    };
    JSON_OWNED json_t *rows = json_array();
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = arguments->word_count > 0
        ? request_target("nodes", arguments->words[0], "")
        : memory_copy_string("/v1/nodes");
    enum output output = OUTPUT_TABLE;
    size_t index = 0;
    json_t *node = NULL;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0) {
        return r;
    }
    add_windows(document, rows);
    json_array_foreach(json_object_get(document, "nodes"), index, node)
    {
        add_windows(node, rows);
    }
    if (output == OUTPUT_TABLE) {
        print_table(rows, columns, COUNT(columns));
    } else {
        JSON_OWNED json_t *windows = json_pack("{s:O}", "windows", rows);
        print_document(windows, output);
    }
    return 0;
}
