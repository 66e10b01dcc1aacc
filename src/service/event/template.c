/*
 * Templates: JSON with references, or text with them.
 *
 * A path: "$" and then steps .name, ['name'] or [N]; inside {{ }} a path may begin with the '.' as
 * well.
 */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/event/parts.h"

enum { DEPTH_MAX = 32, STEP_MAX = 128 };

struct event_template {
    json_t *value; /* or */
    char *text;
};

/* ---- Paths ---- */

static struct text take_until(const char **at, const char *end, const char *stops)
{
    const char *first = *at;
    while (*at < end && strchr(stops, **at) == NULL) {
        (*at)++;
    }
    return text_of(first, (size_t)(*at - first));
}

/* The next step; false: it is none. */
static bool take_step(const char **at, const char *end, struct text *ret_name, bool *ret_is_index)
{
    *ret_is_index = false;
    if (**at == '.') {
        (*at)++;
        *ret_name = take_until(at, end, ".[ \t{}");
        return ret_name->length > 0 && ret_name->length < STEP_MAX;
    }
    if (**at != '[') {
        return false;
    }
    (*at)++;
    if (*at < end && (**at == '\'' || **at == '"')) {
        char quote[2] = {**at, '\0'};
        (*at)++;
        *ret_name = take_until(at, end, quote);
        *at += *at < end;
    } else {
        uint64_t index = 0;
        *ret_name = take_until(at, end, "]");
        *ret_is_index = true;
        if (!text_parse_u64(*ret_name, &index)) {
            return false;
        }
    }
    bool is_closed = *at < end && **at == ']';
    *at += is_closed;
    return is_closed && ret_name->length > 0 && ret_name->length < STEP_MAX;
}

/* Is `path` a path; and with a document, what is there (NULL: nothing)? */
static bool follow(struct text path, const json_t *document, const json_t **ret_value)
{
    const char *at = path.data;
    const char *end = at + path.length;
    const json_t *value = document;
    if (at < end && *at == '$') {
        at++;
    } else if (at == end || *at != '.') {
        return false;
    }
    bool is_all = path.length == 1 && path.data[0] == '.';
    while (at < end && !is_all) {
        struct text name = {0};
        bool is_index = false;
        if (!take_step(&at, end, &name, &is_index)) {
            return false;
        }
        char key[STEP_MAX];
        memcpy(key, name.data, name.length);
        key[name.length] = '\0';
        uint64_t index = 0;
        if (is_index) {
            text_parse_u64(name, &index);
        }
        value = is_index ? json_array_get(value, index) : json_object_get(value, key);
    }
    *ret_value = value;
    return true;
}

/* ---- Texts ---- */

static int too_large(struct error *err)
{
    return error_set(err, ERROR_TOO_LARGE, "transform: the result has more than %d bytes",
                     EVENT_BYTES_MAX);
}

/* Copies `text` with each {{ PATH }} replaced; `document` NULL: only checks. */
static int expand(const char *text, const json_t *document, size_t most, struct buffer *out,
                  struct error *err)
{
    for (const char *at = text;;) {
        const char *open = strstr(at, "{{");
        if (open == NULL) {
            buffer_append_string(out, at);
            return 0;
        }
        const char *close = strstr(open, "}}");
        const json_t *value = NULL;
        if (close == NULL) {
            return error_set(err, ERROR_INVALID, "transform: \"%.40s\" has no \"}}\"", open);
        }
        struct text path = text_trim(text_of(open + 2, (size_t)(close - open) - 2));
        if (!follow(path, document, &value)) {
            return error_set(err, ERROR_INVALID,
                             "transform: \"%.*s\" is no path as .data.name or $.data['name'][0]",
                             (int)(path.length < 60 ? path.length : 60), path.data);
        }
        buffer_append(out, at, (size_t)(open - at));
        event_append_value(out, value);
        if (out->used > most) {
            return too_large(err);
        }
        at = close + 2;
    }
}

/* A string that is one reference as a whole. */
static bool whole_reference(const char *text, struct text *ret_path)
{
    size_t length = strlen(text);
    if (text[0] == '$' && (text[1] == '\0' || text[1] == '.' || text[1] == '[')) {
        *ret_path = text_of(text, length);
        return true;
    }
    if (length >= 4 && text_starts_with(text, "{{") && strstr(text, "}}") == text + length - 2) {
        *ret_path = text_trim(text_of(text + 2, length - 4));
        return true;
    }
    return false;
}

/* `left`: bytes that all texts together may still have. */
static int fill_text(const char *text, const json_t *document, size_t *left, json_t **ret_value,
                     struct error *err)
{
    struct text path = {0};
    const json_t *value = NULL;
    if (whole_reference(text, &path)) {
        if (!follow(path, document, &value)) {
            return error_set(err, ERROR_INVALID,
                             "transform: \"%.60s\" is no path as $.data.name or $.data['name'][0]",
                             text);
        }
        *ret_value = value != NULL ? json_incref((json_t *)(uintptr_t)value) : json_null();
        return 0;
    }
    BUFFER_OWNED struct buffer out = {0};
    int r = expand(text_starts_with(text, "$$") ? text + 1 : text, document, *left, &out, err);
    *left -= out.used < *left ? out.used : *left;
    json_t *filled = r == 0 ? json_stringn(buffer_string(&out), out.used) : NULL;
    *ret_value = filled != NULL ? filled : json_string("");
    return r;
}

static int fill(const json_t *template, const json_t *document, unsigned depth, size_t *left,
                json_t **ret_value, struct error *err)
{
    const char *key = NULL;
    size_t index = 0;
    json_t *part = NULL;
    if (depth > DEPTH_MAX) {
        return error_set(err, ERROR_INVALID, "transform: deeper than %d", DEPTH_MAX);
    }
    if (json_is_string(template)) {
        return fill_text(json_string_value(template), document, left, ret_value, err);
    }
    if (!json_is_array(template) && !json_is_object(template)) {
        *ret_value = json_incref((json_t *)(uintptr_t) template);
        return 0;
    }
    JSON_OWNED json_t *filled = json_is_array(template) ? json_array() : json_object();
    json_object_foreach((json_t *)(uintptr_t) template, key, part)
    {
        json_t *value = NULL;
        int r = fill(part, document, depth + 1, left, &value, err);
        json_object_set_new(filled, key, value);
        if (r < 0) {
            return r;
        }
    }
    json_array_foreach(template, index, part)
    {
        json_t *value = NULL;
        int r = fill(part, document, depth + 1, left, &value, err);
        json_array_append_new(filled, value);
        if (r < 0) {
            return r;
        }
    }
    *ret_value = json_incref(filled);
    return 0;
}

int event_template_parse(const char *text, struct event_template **ret_template, struct error *err)
{
    struct event_template *template = NEW(struct event_template);
    size_t length = strlen(text);
    const char *first = text + strspn(text, " \t\r\n");
    JSON_OWNED json_t *tried = NULL;
    BUFFER_OWNED struct buffer ignored = {0};
    size_t left = EVENT_BYTES_MAX;
    int r = 0;
    bool is_json =
        *first == '[' || (*first == '{' && first[1] != '{') || *first == '"' || *first == '$';
    if (length > EVENT_TEMPLATE_BYTES_MAX) {
        r = error_set(err, ERROR_TOO_LARGE, "a transform is at most %d bytes",
                      EVENT_TEMPLATE_BYTES_MAX);
    } else if (*first == '$') {
        template->value = json_string(first);
        r = fill(template->value, NULL, 0, &left, &tried, err);
    } else if (is_json) {
        json_error_t problem;
        template->value = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
        r = template->value == NULL
            ? error_set(err, ERROR_INVALID, "transform, line %d, column %d: %s", problem.line,
                        problem.column, problem.text)
            : fill(template->value, NULL, 0, &left, &tried, err);
    } else {
        template->text = memory_copy_text(text, length);
        r = expand(text, NULL, left, &ignored, err);
    }
    if (r < 0) {
        event_template_free(template);
        return r;
    }
    *ret_template = template;
    return 0;
}

void event_template_free(struct event_template *template)
{
    if (template != NULL) {
        json_decref(template->value);
        free(template->text);
        free(template);
    }
}

/* As a value may be named often, what comes of it may be far more than what it was made of. */
static int take_json(const char *bytes, size_t length, void *context)
{
    struct buffer *out = context;
    if (length > EVENT_BYTES_MAX - out->used) {
        return -1;
    }
    buffer_append(out, bytes, length);
    return 0;
}

int event_template_apply(const struct event_template *template, const json_t *document,
                         struct event *event, struct error *err)
{
    BUFFER_OWNED struct buffer out = {0};
    JSON_OWNED json_t *value = NULL;
    size_t left = EVENT_BYTES_MAX;
    int r = template->text != NULL ? expand(template->text, document, left, &out, err)
                                   : fill(template->value, document, 0, &left, &value, err);
    bool is_whole = value == NULL ||
        (r == 0 && json_dump_callback(value, take_json, &out, JSON_COMPACT | JSON_ENCODE_ANY) == 0);
    if (r == 0 && (!is_whole || out.used > EVENT_BYTES_MAX)) {
        r = too_large(err);
    }
    if (r < 0) {
        return r;
    }
    struct buffer old = event->data;
    event->data = out;
    out = old;
    event->has_data = true;
    json_object_set_new(
        event->attributes, "datacontenttype",
        json_string(template->text != NULL ? "text/plain; charset=utf-8" : "application/json"));
    return 0;
}
