/* SSH keys of a machine whose image is ours: its agent adds them to those that root has.  Whole
 * disks get theirs from cloud-init. */
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/machine/parts.h"

enum { BYTES_MAX = 256 << 10 };

static const char place[] = "/root/.ssh/authorized_keys";

/* One reading, then one writing. */
struct adding {
    struct machine *machine;
    struct buffer text;
    bool is_too_large;
};

static void free_adding(struct adding *adding)
{
    buffer_done(&adding->text);
    free(adding);
}

static void on_written(const struct error *error, const struct agent_result *result, void *context)
{
    struct adding *adding = context;
    (void)result;
    if (error != NULL && error->kind != ERROR_CANCELLED) {
        log_warn("machine %s: its SSH keys: %s", adding->machine->key, error->text);
    }
    free_adding(adding);
}

static void write_keys(struct adding *adding)
{
    static const struct agent_put put = {.path = place, .mode = 0600, .makes_folders = true};
    static const struct agent_call_events events = {.on_end = on_written};
    struct agent_call *call = agent_put(adding->machine->agent, &put, &events, adding);
    agent_call_write(call, adding->text.data, adding->text.used);
    agent_call_finish_input(call);
}

bool keys_merge(const json_t *keys, struct buffer *text)
{
    size_t index = 0;
    json_t *value = NULL;
    bool is_changed = false;
    if (text->used > 0 && text->data[text->used - 1] != '\n') {
        buffer_append_byte(text, '\n');
    }
    json_array_foreach(keys, index, value)
    {
        const char *key = json_string_value(value);
        if (key != NULL && strstr(buffer_string(text), key) == NULL) {
            buffer_append_string(text, key);
            buffer_append_byte(text, '\n');
            is_changed = true;
        }
    }
    return is_changed;
}

static void on_read(const struct error *error, const struct agent_result *result, void *context)
{
    struct adding *adding = context;
    bool is_known = error == NULL || error->kind == ERROR_NOT_FOUND;
    (void)result;
    if (is_known && !adding->is_too_large && adding->machine->agent != NULL &&
        keys_merge(json_object_get(adding->machine->config, "ssh_keys"), &adding->text)) {
        write_keys(adding);
        return;
    }
    if (adding->is_too_large || (!is_known && error->kind != ERROR_CANCELLED)) {
        log_warn("machine %s: its SSH keys: %s", adding->machine->key,
                 adding->is_too_large ? "the file is too large" : error->text);
    }
    free_adding(adding);
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    struct adding *adding = context;
    (void)stream;
    if (length > BYTES_MAX - adding->text.used) {
        adding->is_too_large = true;
    } else {
        buffer_append(&adding->text, bytes, length);
    }
}

void keys_add(struct machine *machine)
{
    static const struct agent_call_events events = {.on_output = on_output, .on_end = on_read};
    if (json_text(machine->config, "disk")[0] != '\0' ||
        json_array_size(json_object_get(machine->config, "ssh_keys")) == 0) {
        return;
    }
    struct adding *adding = NEW(struct adding);
    adding->machine = machine;
    agent_get(machine->agent, place, &events, adding);
}
