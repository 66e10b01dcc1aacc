#include "base/yaml.h"

#include <libfyaml.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"

static int convert(struct fy_node *node, unsigned depth, json_t **ret_value, struct error *err);

/* The line of the first scalar in or below a node, from 1; 0 when there is none. */
static int line_of(struct fy_node *node, unsigned depth)
{
    void *iterator = NULL;
    struct fy_token *token = NULL;
    if (node == NULL || depth > YAML_DEPTH_MAX) {
        return 0;
    }
    if (fy_node_is_scalar(node)) {
        token = fy_node_get_scalar_token(node);
        const struct fy_mark *mark = token != NULL ? fy_token_start_mark(token) : NULL;
        return mark != NULL ? mark->line + 1 : 0;
    }
    if (fy_node_is_mapping(node)) {
        struct fy_node_pair *pair = fy_node_mapping_iterate(node, &iterator);
        return pair != NULL ? line_of(fy_node_pair_key(pair), depth + 1) : 0;
    }
    return line_of(fy_node_sequence_iterate(node, &iterator), depth + 1);
}

static int refuse(struct fy_node *node, const char *what, struct error *err)
{
    return error_set(err, ERROR_INVALID, "line %d: %s", line_of(node, 0), what);
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

static int convert_scalar(struct fy_node *node, json_t **ret_value, struct error *err)
{
    size_t length = 0;
    const char *text = fy_node_get_scalar(node, &length);
    bool is_plain = fy_node_get_style(node) == FYNS_PLAIN;
    json_t *value = text == NULL ? json_null()
        : is_plain               ? plain_scalar(text, length)
                                 : json_stringn(text, length);
    if (value == NULL) {
        return refuse(node, "a text is not UTF-8", err);
    }
    *ret_value = value;
    return 0;
}

static int convert_sequence(struct fy_node *node, unsigned depth, json_t *list, struct error *err)
{
    void *iterator = NULL;
    for (struct fy_node *item = fy_node_sequence_iterate(node, &iterator); item != NULL;
         item = fy_node_sequence_iterate(node, &iterator)) {
        json_t *value = NULL;
        int r = convert(item, depth + 1, &value, err);
        if (r < 0) {
            return r;
        }
        json_array_append_new(list, value);
    }
    return 0;
}

static int convert_pair(struct fy_node_pair *pair, unsigned depth, json_t *object,
                        struct error *err)
{
    struct fy_node *key = fy_node_pair_key(pair);
    size_t length = 0;
    const char *name =
        key != NULL && fy_node_is_scalar(key) ? fy_node_get_scalar(key, &length) : NULL;
    char text[256];
    if (name == NULL || length >= sizeof(text)) {
        return refuse(key != NULL ? key : fy_node_pair_value(pair), "a key is not a short text",
                      err);
    }
    memcpy(text, name, length);
    text[length] = '\0';
    if (json_object_get(object, text) != NULL) {
        return refuse(key, "a key stands twice", err);
    }
    json_t *value = NULL;
    int r = fy_node_pair_value(pair) != NULL
        ? convert(fy_node_pair_value(pair), depth + 1, &value, err)
        : 0;
    if (r < 0) {
        return r;
    }
    if (json_object_set_new(object, text, value != NULL ? value : json_null()) < 0) {
        return refuse(key, "a key is not UTF-8", err);
    }
    return 0;
}

static int convert_mapping(struct fy_node *node, unsigned depth, json_t *object, struct error *err)
{
    void *iterator = NULL;
    for (struct fy_node_pair *pair = fy_node_mapping_iterate(node, &iterator); pair != NULL;
         pair = fy_node_mapping_iterate(node, &iterator)) {
        int r = convert_pair(pair, depth, object, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int convert(struct fy_node *node, unsigned depth, json_t **ret_value, struct error *err)
{
    size_t length = 0;
    if (depth > YAML_DEPTH_MAX) {
        return refuse(node, "nested too deeply", err);
    }
    if (fy_node_is_alias(node) || fy_node_get_anchor(node) != NULL) {
        return refuse(node, "anchors and aliases are not supported", err);
    }
    if (fy_node_get_tag(node, &length) != NULL) {
        return refuse(node, "tags are not supported", err);
    }
    if (fy_node_is_scalar(node)) {
        return convert_scalar(node, ret_value, err);
    }
    bool is_mapping = fy_node_is_mapping(node);
    json_t *value = is_mapping ? json_object() : json_array();
    int r = is_mapping ? convert_mapping(node, depth, value, err)
                       : convert_sequence(node, depth, value, err);
    if (r < 0) {
        json_decref(value);
        return r;
    }
    *ret_value = value;
    return 0;
}

/* libfyaml's first complaint, with its place. */
static int complain(struct fy_diag *diag, struct error *err)
{
    void *iterator = NULL;
    const struct fy_diag_error *first = fy_diag_errors_iterate(diag, &iterator);
    if (first == NULL) {
        return error_set(err, ERROR_INVALID, "not valid YAML");
    }
    return error_set(err, ERROR_INVALID, "line %d, column %d: %s", first->line, first->column,
                     first->msg);
}

/* Nothing but blanks and comments: libfyaml makes no document of it. */
static bool holds_nothing(const char *text, size_t length)
{
    bool in_comment = false;
    for (size_t i = 0; i < length; i++) {
        in_comment = text[i] != '\n' && (in_comment || text[i] == '#');
        if (!in_comment && strchr(" \t\r\n", text[i]) == NULL) {
            return false;
        }
        if (text[i] == '\0') {
            return false;
        }
    }
    return true;
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

int yaml_read(const char *text, size_t length, json_t **ret_value, struct error *err)
{
    /* libfyaml 0.7 goes round for ever in a directive that is no UTF-8. */
    if (!text_is_utf8(text, length) || memchr(text, '\0', length) != NULL) {
        return error_set(err, ERROR_INVALID, "line %d: the text is not UTF-8",
                         line_of_bad_byte(text, length));
    }
    if (length > YAML_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "larger than %d bytes", YAML_BYTES_MAX);
    }
    if (holds_nothing(text, length)) {
        *ret_value = json_null();
        return 0;
    }
    struct fy_diag_cfg diag_options;
    fy_diag_cfg_default(&diag_options);
    diag_options.fp = NULL;
    struct fy_diag *diag = fy_diag_create(&diag_options);
    if (diag == NULL) {
        return error_set(err, ERROR_LIMIT, "no memory to read YAML");
    }
    fy_diag_set_collect_errors(diag, true);
    const struct fy_parse_cfg options = {.flags = FYPCF_QUIET, .diag = diag};
    struct fy_document *document = fy_document_build_from_string(&options, text, length);
    int r = 0;
    if (document == NULL) {
        r = complain(diag, err);
    } else if (fy_document_root(document) == NULL) {
        *ret_value = json_null();
    } else {
        r = convert(fy_document_root(document), 0, ret_value, err);
    }
    fy_document_destroy(document);
    fy_diag_destroy(diag);
    return r;
}

unsigned yaml_line_of(const char *text, size_t length, const char *key)
{
    size_t wanted = strlen(key);
    unsigned line = 1;
    for (const char *at = text, *end = text + length; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *line_end = stop != NULL ? stop : end;
        at += strspn(at, " \t{,");
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
