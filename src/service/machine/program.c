/*
 * What a machine runs instead of an init: of its image, which was an OCI image, and of who made
 * the machine; as Docker merges both.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/machine/parts.h"

enum { WORDS_MAX = 1024, WORD_BYTES_MAX = 64 << 10 };

static const char *const lists[] = {"entrypoint", "command", "environment"};
enum { LISTS = sizeof(lists) / sizeof(lists[0]) };

/* ---- Checking ---- */

static bool is_variable(const char *text)
{
    const char *equals = strchr(text, '=');
    return equals != NULL && equals != text;
}

static int check_list(const json_t *object, const char *key, struct error *err)
{
    const json_t *list = json_object_get(object, key);
    size_t index = 0;
    json_t *value = NULL;
    if (json_array_size(list) > WORDS_MAX) {
        return error_set(err, ERROR_INVALID, "%s has more than %d texts", key, WORDS_MAX);
    }
    json_array_foreach(list, index, value)
    {
        if (!json_is_string(value) || json_string_length(value) > WORD_BYTES_MAX) {
            return error_set(err, ERROR_INVALID, "%s: a text of more than %d bytes", key,
                             WORD_BYTES_MAX);
        }
        if (strcmp(key, "environment") == 0 && !is_variable(json_string_value(value))) {
            return error_set(err, ERROR_INVALID, "environment: \"%.60s\" is not NAME=VALUE",
                             json_string_value(value));
        }
    }
    return 0;
}

int program_check(const json_t *object, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < LISTS; i++) {
        r = check_list(object, lists[i], err);
    }
    return r;
}

/* ---- Merging ---- */

static void extend(json_t *list, const json_t *more)
{
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(more, index, value)
    {
        json_array_append(list, value);
    }
}

static bool has_name_of(const json_t *list, const char *variable)
{
    size_t length = (size_t)(strchr(variable, '=') - variable) + 1;
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(list, index, value)
    {
        if (strncmp(json_string_value(value), variable, length) == 0) {
            return true;
        }
    }
    return false;
}

static json_t *merge_environments(const json_t *of_image, const json_t *own)
{
    json_t *list = json_array();
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(of_image, index, value)
    {
        const char *text = json_string_value(value);
        if (text != NULL && is_variable(text) && !has_name_of(own, text)) {
            json_array_append(list, value);
        }
    }
    extend(list, own);
    return list;
}

static void set_list(json_t *config, const char *key, json_t *owned_list)
{
    if (json_array_size(owned_list) > 0) {
        json_object_set(config, key, owned_list);
    } else {
        json_object_del(config, key);
    }
    json_decref(owned_list);
}

int program_merge(const json_t *image, json_t *config, struct error *err)
{
    const json_t *entrypoint = json_object_get(config, "entrypoint");
    const json_t *command = json_object_get(config, "command");
    const json_t *environment = json_object_get(config, "environment");
    json_t *arguments = json_array();
    bool has_own = json_array_size(entrypoint) > 0;
    extend(arguments, has_own ? entrypoint : json_object_get(image, "entrypoint"));
    if (json_array_size(command) > 0) {
        extend(arguments, command);
    } else if (!has_own) {
        extend(arguments, json_object_get(image, "command"));
    }
    bool has_program = json_array_size(arguments) > 0;
    if (!has_program && json_array_size(environment) > 0) {
        json_decref(arguments);
        return error_set(err, ERROR_INVALID,
                         "environment: the image has an init of its own, and says nothing of a "
                         "program that would get it: give a command");
    }
    json_t *merged = merge_environments(json_object_get(image, "environment"), environment);
    set_list(config, "arguments", arguments);
    set_list(config, "environment", has_program ? merged : json_array());
    if (!has_program) {
        json_decref(merged);
    }
    json_object_del(config, "entrypoint");
    json_object_del(config, "command");
    static const char *const texts[] = {"folder", "user"};
    for (size_t i = 0; has_program && i < 2; i++) {
        json_t *value = json_object_get(image, texts[i]);
        if (json_is_string(value)) {
            json_object_set(config, texts[i], value);
        }
    }
    return 0;
}

/* ---- For the agent ---- */

static const char **texts_of(const json_t *list)
{
    const char **texts = memory_new(json_array_size(list) + 1, sizeof(*texts));
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(list, index, value)
    {
        texts[index] = json_string_value(value);
    }
    return texts;
}

/* "app:app", "1000:app": the agent finds the groups of a user itself, and takes numbers. */
static char *user_of(const json_t *config)
{
    const char *user = json_text(config, "user");
    const char *colon = strchr(user, ':');
    size_t length = colon != NULL ? (size_t)(colon - user) : strlen(user);
    uint64_t number = 0;
    bool is_number = colon != NULL && text_parse_u64(text_of(user, length), &number) &&
        text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &number);
    return is_number ? memory_copy_string(user) : memory_copy_text(user, length);
}

int program_encode(const json_t *config, struct buffer *out, struct error *err)
{
    const json_t *arguments = json_object_get(config, "arguments");
    if (json_array_size(arguments) == 0) {
        return 0;
    }
    const char **words = texts_of(arguments);
    const char **variables = texts_of(json_object_get(config, "environment"));
    const char *folder = json_text(config, "folder");
    MEMORY_OWNED char *user = user_of(config);
    const struct agent_exec exec = {
        .arguments = words,
        .environment = variables[0] != NULL ? variables : NULL,
        .folder = folder[0] != '\0' ? folder : "/",
        .user = user[0] != '\0' ? user : NULL,
    };
    int r = agent_entrypoint_encode(&exec, out, err);
    free(words);
    free(variables);
    return r;
}

void program_note_end(struct machine *machine, const struct agent_event *event)
{
    machine->has_program_ended = true;
    machine->program_status = event->signal != 0 ? 128 + event->signal : event->exit_code;
}

bool program_judge(const struct machine *machine, char *ret_text, size_t size)
{
    if (machine->program_status > 128) {
        snprintf(ret_text, size, "its program was ended by signal %d",
                 machine->program_status - 128);
    } else {
        snprintf(ret_text, size, "its program has ended with exit code %d",
                 machine->program_status);
    }
    return machine->program_status != 0;
}
