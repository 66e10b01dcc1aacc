/* `vm events`: what became of machines. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

static char *target_of(const char *machine_or_null, uint64_t tail, bool follows)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_format(&target, "/v1/machine-events?tail=%llu", (unsigned long long)tail);
    request_add_query(&target, "follow", follows ? "true" : NULL);
    request_add_query(&target, "machine", machine_or_null);
    return buffer_take(&target);
}

static void print_event(const json_t *event, const char *label)
{
    const json_t *data = json_object_get(event, "data");
    const char *reason = json_text(data, "reason");
    (void)label;
    printf("%s  %-17s  %-16s  %s%s%s\n", json_text(event, "time"), json_text(event, "type"),
           json_text(data, "machine"), json_text(data, "node"), reason[0] != '\0' ? "  " : "",
           reason);
}

static void print_json_event(const json_t *event, const char *label)
{
    char *text = json_dumps(event, JSON_COMPACT);
    (void)label;
    puts(text);
    free(text);
}

/* A machine that is gone has events still; of a name without any, NOT_FOUND is the answer. */
static int check_name(const char *name_or_null, const json_t *events, struct error *err)
{
    if (name_or_null == NULL || json_array_size(events) > 0) {
        return 0;
    }
    MEMORY_OWNED char *target = request_target("machines", name_or_null, "");
    return request_json("GET", target, NULL, NULL, err);
}

static int show(const char *target, const char *name_or_null, enum output output, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    size_t index = 0;
    json_t *event = NULL;
    int r = request_json("GET", target, NULL, &document, err);
    r = r < 0 ? r : check_name(name_or_null, json_object_get(document, "events"), err);
    if (r < 0 || output != OUTPUT_TABLE) {
        if (r == 0) {
            print_document(document, output);
        }
        return r;
    }
    json_array_foreach(json_object_get(document, "events"), index, event)
    {
        print_event(event, "");
    }
    return 0;
}

int verb_vm_events(const struct arguments *arguments, struct error *err)
{
    uint64_t count = 100;
    enum output output = OUTPUT_TABLE;
    const char *tail = flag_value(arguments, "tail");
    const char *name = arguments->word_count > 0 ? arguments->words[0] : NULL;
    bool follows = flag_value(arguments, "follow") != NULL;
    if (tail != NULL && !text_parse_u64(text_of(tail, strlen(tail)), &count)) {
        return error_set(err, ERROR_INVALID, "--tail %.40s is not a number", tail);
    }
    int r = output_of(arguments, &output, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *target = target_of(name, count, follows);
    struct event_source source = {target, ""};
    return follows ? request_events_of_all(
                         &source, 1, output == OUTPUT_TABLE ? print_event : print_json_event, err)
                   : show(target, name, output, err);
}
