#include "base/yaml.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/error.h"
#include "base/text.h"

enum { KEY_BYTES_MAX = 256 };

struct reading {
    yaml_parser_t parser;
    yaml_event_t event; /* the one being looked at */
    struct error *err;
    json_t *lines; /* of the places of a document, or NULL */
    size_t line_count;
    char path[YAML_PATH_MAX + 1]; /* of the place being read */
    size_t path_length;
};

static int refuse(const struct reading *reading, const char *what)
{
    return error_set(reading->err, ERROR_INVALID, "line %zu: %s",
                     reading->event.start_mark.line + 1, what);
}

/* libyaml's complaint, with its place. */
static int complain(const struct reading *reading)
{
    const yaml_parser_t *parser = &reading->parser;
    return error_set(reading->err, ERROR_INVALID, "line %zu, column %zu: %s",
                     parser->problem_mark.line + 1, parser->problem_mark.column + 1,
                     parser->problem != NULL ? parser->problem : "not valid YAML");
}

static int next(struct reading *reading)
{
    yaml_event_delete(&reading->event);
    return yaml_parser_parse(&reading->parser, &reading->event) == 1 ? 0 : complain(reading);
}

/* The core schema's words (YAML 1.2.2, 10.3.2), as far as JSON has them. */
static json_t *plain_scalar(const char *text, size_t length)
{
    struct text word = text_of(text, length);
    if (length == 0 || text_equal(word, "null") || text_equal(word, "~")) {
        return json_null();
    }
    if (text_equal(word, "true") || text_equal(word, "false")) {
        return json_boolean(text_equal(word, "true"));
    }
    bool negative = text[0] == '-';
    uint64_t number = 0;
    if (text_parse_u64(text_of(text + negative, length - negative), &number) &&
        number <= INT64_MAX) {
        return json_integer(negative ? -(json_int_t)number : (json_int_t)number);
    }
    /* JSON's own numbers and nothing laxer: "1.2.3" and "nan" are texts. */
    json_t *value = json_loadb(text, length, JSON_DECODE_ANY, NULL);
    if (json_is_real(value)) {
        return value;
    }
    json_decref(value);
    return json_stringn(text, length);
}

static int convert(struct reading *reading, unsigned depth, json_t **ret_value);

/* The place of a part is that of the whole and this behind it; the event is what stands there. */
static void note_place(struct reading *reading, const char *part, size_t length)
{
    if (reading->lines == NULL) {
        return;
    }
    if (length > YAML_PATH_MAX - reading->path_length) {
        reading->path_length = YAML_PATH_MAX; /* too deep, like all below it */
        return;
    }
    memcpy(reading->path + reading->path_length, part, length);
    reading->path_length += length;
    reading->path[reading->path_length] = '\0';
    if (reading->line_count < YAML_LINES_MAX) {
        reading->line_count++;
        json_object_set_new(reading->lines, reading->path,
                            json_integer((json_int_t)reading->event.start_mark.line + 1));
    }
}

static void note_item(struct reading *reading, size_t index)
{
    char part[24];
    int length = snprintf(part, sizeof(part), "[%zu]", index);
    note_place(reading, part, (size_t)length);
}

static void note_key(struct reading *reading, const char *key)
{
    char part[KEY_BYTES_MAX + 1];
    int length = snprintf(part, sizeof(part), "%s%s", reading->path_length > 0 ? "." : "", key);
    note_place(reading, part, (size_t)length);
}

static void forget_place(struct reading *reading, size_t length)
{
    reading->path_length = length;
    reading->path[length] = '\0';
}

/* The event is a list's beginning; afterwards it is the list's end. */
static int convert_sequence(struct reading *reading, unsigned depth, json_t *list)
{
    size_t place = reading->path_length;
    int r = next(reading);
    while (r == 0 && reading->event.type != YAML_SEQUENCE_END_EVENT) {
        json_t *value = NULL;
        note_item(reading, json_array_size(list));
        r = convert(reading, depth + 1, &value);
        forget_place(reading, place);
        if (r == 0) {
            json_array_append_new(list, value);
            r = next(reading);
        }
    }
    return r;
}

/* The key the event is, as a text of its own. */
static int take_key(struct reading *reading, const json_t *object, char ret_key[KEY_BYTES_MAX])
{
    const yaml_event_t *event = &reading->event;
    if (event->type == YAML_ALIAS_EVENT) {
        return refuse(reading, "anchors and aliases are not supported");
    }
    if (event->type != YAML_SCALAR_EVENT || event->data.scalar.length >= KEY_BYTES_MAX) {
        return refuse(reading, "a key is not a short text");
    }
    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL) {
        return refuse(reading, "anchors and tags are not supported");
    }
    memcpy(ret_key, event->data.scalar.value, event->data.scalar.length);
    ret_key[event->data.scalar.length] = '\0';
    if (strlen(ret_key) != event->data.scalar.length) {
        return refuse(reading, "a key is not a short text");
    }
    return json_object_get(object, ret_key) == NULL ? 0 : refuse(reading, "a key stands twice");
}

/* As convert_sequence(). */
static int convert_mapping(struct reading *reading, unsigned depth, json_t *object)
{
    char key[KEY_BYTES_MAX];
    size_t place = reading->path_length;
    int r = next(reading);
    while (r == 0 && reading->event.type != YAML_MAPPING_END_EVENT) {
        json_t *value = NULL;
        r = take_key(reading, object, key);
        if (r == 0) {
            note_key(reading, key);
            r = next(reading);
        }
        if (r == 0) {
            r = convert(reading, depth + 1, &value);
        }
        forget_place(reading, place);
        if (r == 0) {
            r = json_object_set_new(object, key, value) == 0
                ? next(reading)
                : refuse(reading, "a key is not UTF-8");
        }
    }
    return r;
}

static int check_properties(const struct reading *reading, const yaml_char_t *anchor,
                            const yaml_char_t *tag)
{
    if (anchor != NULL) {
        return refuse(reading, "anchors and aliases are not supported");
    }
    return tag == NULL ? 0 : refuse(reading, "tags are not supported");
}

static int convert_scalar(struct reading *reading, json_t **ret_value)
{
    const yaml_event_t *event = &reading->event;
    const char *text = (const char *)event->data.scalar.value;
    size_t length = event->data.scalar.length;
    int r = check_properties(reading, event->data.scalar.anchor, event->data.scalar.tag);
    if (r < 0) {
        return r;
    }
    *ret_value = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain_scalar(text, length)
                                                                     : json_stringn(text, length);
    return *ret_value != NULL ? 0 : refuse(reading, "a text is not UTF-8");
}

static int convert_collection(struct reading *reading, unsigned depth, json_t **ret_value)
{
    const yaml_event_t *event = &reading->event;
    bool is_mapping = event->type == YAML_MAPPING_START_EVENT;
    int r = is_mapping
        ? check_properties(reading, event->data.mapping_start.anchor, event->data.mapping_start.tag)
        : check_properties(reading, event->data.sequence_start.anchor,
                           event->data.sequence_start.tag);
    if (r < 0) {
        return r;
    }
    json_t *value = is_mapping ? json_object() : json_array();
    r = is_mapping ? convert_mapping(reading, depth, value)
                   : convert_sequence(reading, depth, value);
    if (r < 0) {
        json_decref(value);
        return r;
    }
    *ret_value = value;
    return 0;
}

/* The value that begins with this event; afterwards the event is its last. */
static int convert(struct reading *reading, unsigned depth, json_t **ret_value)
{
    if (depth > YAML_DEPTH_MAX) {
        return refuse(reading, "nested too deeply");
    }
    switch (reading->event.type) {
    case YAML_SCALAR_EVENT:
        return convert_scalar(reading, ret_value);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return convert_collection(reading, depth, ret_value);
    case YAML_ALIAS_EVENT:
        return refuse(reading, "anchors and aliases are not supported");
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        break;
    }
    return refuse(reading, "not valid YAML");
}

/* One document, or none. */
static int convert_stream(struct reading *reading, json_t **ret_value)
{
    int r = next(reading); /* the stream's beginning */
    if (r == 0) {
        r = next(reading);
    }
    if (r == 0 && reading->event.type == YAML_STREAM_END_EVENT) {
        *ret_value = json_null();
        return 0;
    }
    json_t *value = NULL;
    if (r == 0) {
        r = next(reading);
    }
    if (r == 0) {
        r = convert(reading, 0, &value);
    }
    if (r == 0) {
        r = next(reading); /* the document's end */
    }
    if (r == 0) {
        r = next(reading);
    }
    if (r == 0 && reading->event.type != YAML_STREAM_END_EVENT) {
        r = refuse(reading, "a second document begins; one is read");
    }
    if (r < 0) {
        json_decref(value);
        return r;
    }
    *ret_value = value;
    return 0;
}

static int line_of_bad_byte(const char *text, size_t length)
{
    int line = 1;
    size_t begin = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '\n') {
            if (!text_is_utf8(text + begin, i - begin)) {
                break;
            }
            begin = i + 1;
            line++;
        } else if (text[i] == '\0') {
            break;
        }
    }
    return line;
}

static int begin(struct reading *reading, const char *text, size_t length)
{
    if (length > YAML_BYTES_MAX) {
        return error_set(reading->err, ERROR_TOO_LARGE, "larger than %d bytes", YAML_BYTES_MAX);
    }
    if (!text_is_utf8(text, length) || memchr(text, '\0', length) != NULL) {
        return error_set(reading->err, ERROR_INVALID, "line %d: the text is not UTF-8",
                         line_of_bad_byte(text, length));
    }
    if (yaml_parser_initialize(&reading->parser) != 1) {
        return error_set(reading->err, ERROR_LIMIT, "no memory to read YAML");
    }
    yaml_parser_set_encoding(&reading->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reading->parser, (const yaml_char_t *)text, length);
    return 0;
}

static void end(struct reading *reading)
{
    yaml_event_delete(&reading->event);
    yaml_parser_delete(&reading->parser);
}

int yaml_read(const char *text, size_t length, json_t **ret_value, struct error *err)
{
    struct reading reading = {.err = err};
    int r = begin(&reading, text, length);
    if (r == 0) {
        r = convert_stream(&reading, ret_value);
        end(&reading);
    }
    return r;
}

/* The event is a document's beginning; afterwards it is what comes behind its end. */
static int convert_document(struct reading *reading, json_t *values, json_t *all_lines)
{
    json_t *value = NULL;
    json_t *lines = json_object();
    reading->lines = lines;
    forget_place(reading, 0);
    int r = next(reading);
    if (r == 0) {
        note_place(reading, "", 0);
        r = convert(reading, 0, &value);
    }
    if (r == 0 && !json_is_null(value) && json_array_size(values) == YAML_DOCUMENTS_MAX) {
        r = error_set(reading->err, ERROR_LIMIT, "line %zu: more than %d documents",
                      reading->event.start_mark.line + 1, YAML_DOCUMENTS_MAX);
    }
    if (r == 0 && !json_is_null(value)) {
        json_array_append(values, value);
        json_array_append(all_lines, lines);
    }
    json_decref(value);
    json_decref(lines);
    reading->lines = NULL;
    r = r < 0 ? r : next(reading); /* the document's end */
    return r < 0 ? r : next(reading);
}

int yaml_read_all(const char *text, size_t length, json_t **ret_values, json_t **ret_lines,
                  struct error *err)
{
    struct reading reading = {.err = err};
    int r = begin(&reading, text, length);
    if (r < 0) {
        return r;
    }
    json_t *values = json_array();
    json_t *lines = json_array();
    r = next(&reading); /* the stream's beginning */
    r = r < 0 ? r : next(&reading);
    while (r == 0 && reading.event.type != YAML_STREAM_END_EVENT) {
        r = convert_document(&reading, values, lines);
    }
    end(&reading);
    if (r < 0) {
        json_decref(values);
        json_decref(lines);
        return r;
    }
    *ret_values = values;
    *ret_lines = lines;
    return 0;
}

unsigned yaml_line_of(const char *text, size_t length, const char *key)
{
    size_t wanted = strlen(key);
    unsigned line = 1;
    for (const char *at = text, *end = text + length; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *line_end = stop != NULL ? stop : end;
        while (at < line_end && (*at == ' ' || *at == '\t' || *at == '{' || *at == ',')) {
            at++;
        }
        bool quoted = at < line_end && (*at == '"' || *at == '\'');
        at += quoted;
        if ((size_t)(line_end - at) > wanted && memcmp(at, key, wanted) == 0 &&
            (at[wanted] == ':' || (quoted && (at[wanted] == '"' || at[wanted] == '\'')))) {
            return line;
        }
        at = line_end + 1;
    }
    return 0;
}
