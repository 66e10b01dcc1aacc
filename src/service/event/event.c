/* The value itself: attributes and their rules, data. */
#include "service/event/event.h"

#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

void event_done(struct event *event)
{
    json_decref(event->attributes);
    buffer_done(&event->data);
    *event = (struct event){0};
}

static bool is_attribute_name(const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < length; i++) {
        if ((name[i] < 'a' || name[i] > 'z') && (name[i] < '0' || name[i] > '9')) {
            return false;
        }
    }
    /* "Should not exceed 20"; `data` would be the payload. */
    return length > 0 && length <= 64 && strcmp(name, "data") != 0;
}

static bool is_digits(const char *text, size_t from, size_t count)
{
    for (size_t i = from; i < from + count; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
    }
    return true;
}

static int two_digits(const char *text)
{
    return (text[0] - '0') * 10 + (text[1] - '0');
}

/* RFC 3339, 5.6; the calendar's days only roughly. */
static bool is_time(const char *text)
{
    size_t length = strlen(text);
    if (length < 20 || !is_digits(text, 0, 4) || text[4] != '-' || !is_digits(text, 5, 2) ||
        text[7] != '-' || !is_digits(text, 8, 2) || (text[10] != 'T' && text[10] != 't') ||
        !is_digits(text, 11, 2) || text[13] != ':' || !is_digits(text, 14, 2) || text[16] != ':' ||
        !is_digits(text, 17, 2)) {
        return false;
    }
    int month = two_digits(text + 5);
    int day = two_digits(text + 8);
    if (month < 1 || month > 12 || day < 1 || day > 31 || two_digits(text + 11) > 23 ||
        two_digits(text + 14) > 59 || two_digits(text + 17) > 60) {
        return false;
    }
    const char *at = text + 19;
    if (*at == '.') {
        const char *first = ++at;
        while (*at >= '0' && *at <= '9') {
            at++;
        }
        if (at == first) {
            return false;
        }
    }
    if ((*at == 'Z' || *at == 'z') && at[1] == '\0') {
        return true;
    }
    return (*at == '+' || *at == '-') && strlen(at) == 6 && is_digits(at, 1, 2) && at[3] == ':' &&
        is_digits(at, 4, 2) && two_digits(at + 1) <= 23 && two_digits(at + 4) <= 59;
}

static bool is_required(const char *name)
{
    return strcmp(name, "id") == 0 || strcmp(name, "source") == 0 || strcmp(name, "type") == 0 ||
        strcmp(name, "specversion") == 0;
}

static bool is_core(const char *name)
{
    return is_required(name) || strcmp(name, "time") == 0 || strcmp(name, "subject") == 0 ||
        strcmp(name, "dataschema") == 0 || strcmp(name, "datacontenttype") == 0;
}

static int check_text(const char *name, const char *text, size_t length, struct error *err)
{
    if (strlen(text) != length || length > EVENT_ATTRIBUTE_BYTES_MAX ||
        !text_is_utf8(text, length)) {
        return error_set(err, ERROR_INVALID,
                         "attribute \"%s\" is not UTF-8 of at most %d bytes without NUL", name,
                         EVENT_ATTRIBUTE_BYTES_MAX);
    }
    if (length == 0 && is_core(name)) {
        return error_set(err, ERROR_INVALID, "attribute \"%s\" is empty", name);
    }
    if (strcmp(name, "specversion") == 0 && strcmp(text, "1.0") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "specversion \"%.32s\" is not 1.0", text);
    }
    if (strcmp(name, "time") == 0 && !is_time(text)) {
        return error_set(err, ERROR_INVALID, "time \"%.40s\" is not as RFC 3339 has it", text);
    }
    return 0;
}

static int check_value(const char *name, const json_t *value, struct error *err)
{
    if (!is_attribute_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.40s\" is no name of an attribute: a to z and 0 to 9", name);
    }
    if (json_is_string(value)) {
        return check_text(name, json_string_value(value), json_string_length(value), err);
    }
    if (is_core(name) || (!json_is_integer(value) && !json_is_boolean(value))) {
        return error_set(err, ERROR_INVALID, "attribute \"%s\" is to be %s", name,
                         is_core(name) ? "a string" : "a string, an integer or a boolean");
    }
    return 0;
}

int event_put(struct event *event, const char *name, json_t *owned_value, struct error *err)
{
    JSON_OWNED json_t *value = owned_value;
    int r = check_value(name, value, err);
    if (r < 0) {
        return r;
    }
    if (event->attributes == NULL) {
        event->attributes = json_object();
    }
    if (json_object_size(event->attributes) >= EVENT_ATTRIBUTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "an event has at most %d attributes",
                         EVENT_ATTRIBUTES_MAX);
    }
    json_object_set(event->attributes, name, value);
    return 0;
}

int event_check(const struct event *event, struct error *err)
{
    static const char *const required[] = {"specversion", "id", "source", "type"};
    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        if (event_get(event, required[i]) == NULL) {
            return error_set(err, ERROR_INVALID, "the event has no \"%s\"; %s", required[i],
                             "id, source, type and specversion (\"1.0\") are required");
        }
    }
    return 0;
}

static void set_text(struct event *event, const char *name, const char *text)
{
    json_t *value = text != NULL ? json_string(text) : NULL;
    if (value != NULL) {
        json_object_set_new(event->attributes, name, value);
    }
}

void event_init(struct event *event, const char *id, const char *source, const char *type,
                const char *content_type, const void *data, size_t length)
{
    *event = (struct event){.attributes = json_object(), .has_data = data != NULL};
    set_text(event, "specversion", "1.0");
    set_text(event, "id", id);
    set_text(event, "source", source);
    set_text(event, "type", type);
    set_text(event, "datacontenttype", content_type);
    if (length > 0) {
        buffer_append(&event->data, data, length);
    }
}

void event_copy(struct event *event, const struct event *from)
{
    *event = (struct event){.attributes = json_copy(from->attributes), .has_data = from->has_data};
    if (from->data.used > 0) {
        buffer_append(&event->data, from->data.data, from->data.used);
    }
}

int event_set(struct event *event, const char *name, const char *text, struct error *err)
{
    if (text == NULL) {
        json_object_del(event->attributes, name);
        return 0;
    }
    json_t *value = json_string(text);
    if (value == NULL) {
        return error_set(err, ERROR_INVALID, "attribute \"%.40s\" is not UTF-8", name);
    }
    return event_put(event, name, value, err);
}

void event_set_time(struct event *event, uint64_t real_ms)
{
    char text[CLOCK_TEXT_SIZE];
    clock_format_ms(real_ms, text);
    set_text(event, "time", text);
}

const char *event_get(const struct event *event, const char *name)
{
    return json_string_value(json_object_get(event->attributes, name));
}

bool event_type_is_json(const char *content_type)
{
    if (content_type == NULL) {
        return true;
    }
    struct text type = text_of(content_type, strcspn(content_type, ";"));
    type = text_trim(type);
    return (type.length >= 5 && strncasecmp(type.data + type.length - 5, "+json", 5) == 0) ||
        (type.length >= 5 && strncasecmp(type.data + type.length - 5, "/json", 5) == 0);
}

void event_append_value(struct buffer *out, const json_t *value)
{
    if (json_is_string(value)) {
        buffer_append(out, json_string_value(value), json_string_length(value));
        return;
    }
    char *text = value != NULL ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    buffer_append_string(out, text != NULL ? text : "");
    free(text);
}
