/* A spec against the type of its kind, with the line of what is wrong. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"

#include "service/manifest/parts.h"

enum { PATH_SIZE = 256 };

/* ---- Places ---- */

unsigned origin_line(const struct origin *origin, const char *path)
{
    char place[PATH_SIZE];
    snprintf(place, sizeof(place), "%s", path);
    const json_t *line = json_object_get(origin->lines, place);
    while (line == NULL && place[0] != '\0') {
        char *dot = strrchr(place, '.');
        char *bracket = strrchr(place, '[');
        char *end = dot > bracket ? dot : bracket;
        *(end != NULL ? end : place) = '\0';
        line = json_object_get(origin->lines, place);
    }
    return (unsigned)json_integer_value(line);
}

int origin_refuse(const struct origin *origin, const char *path, struct error *err,
                  const char *format, ...)
{
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof(text), format, values);
    va_end(values);
    return error_set(err, ERROR_INVALID, "%s:%u: %s", origin->file, origin_line(origin, path),
                     text);
}

/* ---- Values ---- */

static const char *kind_text(enum schema_kind kind)
{
    static const char *const texts[] = {
        [SCHEMA_STRING] = "a text",      [SCHEMA_U64] = "a whole number of at least 0",
        [SCHEMA_BOOL] = "true or false", [SCHEMA_DOUBLE] = "a number",
        [SCHEMA_TIME] = "a time",        [SCHEMA_MAP] = "a mapping of texts",
        [SCHEMA_REF] = "a mapping",      [SCHEMA_LIST] = "a list",
    };
    return texts[kind];
}

/* "512MiB" of what counts bytes, "10MiB/s" of bandwidths, "30s" of what counts milliseconds; NULL:
 * none of them. */
static json_t *number_of(const char *field, const char *text)
{
    uint64_t value = 0;
    bool is_good = text_ends_with(field, "_ms") ? text_parse_duration_ms(text, &value)
        : text_ends_with(field, "_bytes")       ? text_parse_size(text, &value)
        : text_ends_with(field, "bandwidth")    ? text_parse_rate(text, &value)
                                                : false;
    return is_good && value <= INT64_MAX ? json_integer((json_int_t)value) : NULL;
}

/* They may be left out. */
static const char *const suffixes[] = {"_bytes", "_ms"};
enum { SUFFIXES = sizeof(suffixes) / sizeof(suffixes[0]) };

/* `memory: 512MiB` is memory_bytes, `timeout: 30s` is timeout_ms.  False: it is nothing like it. */
static bool take_short(const char *type, json_t *object, const char *key, json_t *value)
{
    for (size_t i = 0; i < SUFFIXES; i++) {
        MEMORY_OWNED char *name = memory_format("%.100s%s", key, suffixes[i]);
        if (schema_find(type, name) == NULL || json_object_get(object, name) != NULL) {
            continue;
        }
        char digits[24];
        const char *text = json_string_value(value);
        if (json_is_integer(value)) {
            snprintf(digits, sizeof(digits), "%lld", (long long)json_integer_value(value));
            text = digits;
        }
        json_t *number = text != NULL ? number_of(name, text) : NULL;
        if (number != NULL) {
            json_object_set_new(object, name, number);
            json_object_del(object, key);
            return true;
        }
    }
    return false;
}

static int refuse_unknown(const char *type, const char *path, const char *key,
                          const struct origin *origin, struct error *err)
{
    const char *nearest = schema_nearest(type, key);
    for (size_t i = 0; nearest == NULL && i < SUFFIXES; i++) {
        MEMORY_OWNED char *name = memory_format("%.100s%s", key, suffixes[i]);
        nearest = schema_nearest(type, name);
    }
    return nearest != NULL
        ? origin_refuse(origin, path, err, "%s is not known; did you mean %s?", path, nearest)
        : origin_refuse(origin, path, err, "%s is not known", path);
}

/* ---- Objects ---- */

struct checking {
    const struct origin *origin;
    struct error *err;
    bool has_node;
};

static int check_object(const struct checking *checking, json_t *object, const char *type,
                        const char *path);

static int check_map(const struct checking *checking, const json_t *map, const char *path)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!json_is_string(value)) {
            MEMORY_OWNED char *place = memory_format("%s.%.80s", path, key);
            return origin_refuse(checking->origin, place, checking->err,
                                 "%s must be a text: put it in quotes", place);
        }
    }
    return 0;
}

/* KEY[=VALUE]:EFFECT, as `node taint` has it; NULL: it is nothing like it. */
static json_t *taint_of(const char *text)
{
    const char *colon = strrchr(text, ':');
    const char *equals = colon != NULL ? memchr(text, '=', (size_t)(colon - text)) : NULL;
    const char *end = equals != NULL ? equals : colon;
    if (end == NULL || end == text) {
        return NULL;
    }
    json_t *taint =
        json_pack("{s:s%, s:s}", "key", text, (size_t)(end - text), "effect", colon + 1);
    if (equals != NULL) {
        json_object_set_new(taint, "value", json_stringn(equals + 1, (size_t)(colon - equals) - 1));
    }
    return taint;
}

/* What is short is put into what it is short for. */
static int expand_taint(const struct checking *checking, json_t *list, size_t index,
                        const char *place)
{
    json_t *item = json_array_get(list, index);
    json_t *taint = json_is_string(item) ? taint_of(json_string_value(item)) : NULL;
    if (taint != NULL) {
        json_array_set_new(list, index, taint);
    }
    return taint != NULL || !json_is_string(item)
        ? 0
        : origin_refuse(checking->origin, place, checking->err,
                        "%s is neither KEY[=VALUE]:EFFECT nor a mapping with key and effect",
                        place);
}

static int check_list(const struct checking *checking, json_t *list, const char *of,
                      const char *path)
{
    size_t index = 0;
    json_t *item = NULL;
    int r = 0;
    json_array_foreach(list, index, item)
    {
        MEMORY_OWNED char *place = memory_format("%s[%zu]", path, index);
        if (strcmp(of, "NodeTaintSpec") == 0) {
            r = expand_taint(checking, list, index, place);
            item = json_array_get(list, index);
        }
        if (r < 0) {
            return r;
        }
        if (strcmp(of, "STRING") != 0) {
            r = check_object(checking, item, of, place);
        } else if (!json_is_string(item)) {
            r = origin_refuse(checking->origin, place, checking->err,
                              "%s must be a text: put it in quotes", place);
        }
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int check_value(const struct checking *checking, json_t *value,
                       const struct schema_field *field, const char *path)
{
    if (!schema_fits(value, field->is.kind)) {
        return origin_refuse(checking->origin, path, checking->err, "%s must be %s", path,
                             kind_text(field->is.kind));
    }
    switch (field->is.kind) {
    case SCHEMA_MAP:
        return check_map(checking, value, path);
    case SCHEMA_LIST:
        return check_list(checking, value, field->is.of, path);
    case SCHEMA_REF: /* one without fields has whatever its service takes */
        return schema_first(field->is.of) != NULL
            ? check_object(checking, value, field->is.of, path)
            : 0;
    case SCHEMA_STRING:
    case SCHEMA_U64:
    case SCHEMA_BOOL:
    case SCHEMA_DOUBLE:
    case SCHEMA_TIME:
        break;
    }
    return 0;
}

static int check_member(const struct checking *checking, json_t *object, const char *type,
                        const char *path, const char *key)
{
    bool is_top = strcmp(path, "spec") == 0;
    json_t *value = json_object_get(object, key);
    MEMORY_OWNED char *place = memory_format("%s.%.80s", path, key);
    const struct schema_field *field = schema_find(type, key);
    if (is_top && strcmp(key, "name") == 0) {
        return origin_refuse(checking->origin, place, checking->err,
                             "the name stands beside spec, not in it");
    }
    if (is_top && checking->has_node && strcmp(key, "node") == 0) {
        return json_is_string(value) ? 0
                                     : origin_refuse(checking->origin, place, checking->err,
                                                     "spec.node must be the name of a node");
    }
    if (field == NULL) {
        return take_short(type, object, key, value)
            ? 0
            : refuse_unknown(type, place, key, checking->origin, checking->err);
    }
    if (json_is_null(value)) {
        json_object_del(object, key);
        return 0;
    }
    json_t *number = field->is.kind == SCHEMA_U64 && json_is_string(value)
        ? number_of(key, json_string_value(value))
        : NULL;
    if (number != NULL) {
        json_object_set_new(object, key, number);
        return 0;
    }
    return check_value(checking, value, field, place);
}

static int check_required(const struct checking *checking, const json_t *object, const char *type,
                          const char *path)
{
    for (const struct schema_field *field = schema_first(type); field != NULL;
         field = schema_next(field)) {
        if (field->always && json_object_get(object, field->name) == NULL) {
            return origin_refuse(checking->origin, path, checking->err, "%s.%s is missing: %s",
                                 path, field->name, field->text);
        }
    }
    return 0;
}

static int check_object(const struct checking *checking, json_t *object, const char *type,
                        const char *path)
{
    if (!json_is_object(object)) {
        return origin_refuse(checking->origin, path, checking->err, "%s must be a mapping", path);
    }
    /* By a copy of it: what is short is put into what it is short for. */
    json_t *keys = json_copy(object);
    const char *key = NULL;
    json_t *value = NULL;
    int r = 0;
    json_object_foreach(keys, key, value)
    {
        r = r < 0 ? r : check_member(checking, object, type, path, key);
    }
    json_decref(keys);
    return r < 0 || strcmp(path, "spec") == 0 ? r : check_required(checking, object, type, path);
}

/* ---- Groups ---- */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Rules are a set: what is not said stands there, and their order is always the same. */
static void order_rules(json_t *spec)
{
    size_t count = json_array_size(json_object_get(spec, "rules"));
    if (count == 0) {
        return;
    }
    char **texts = memory_new(count, sizeof(*texts));
    size_t index = 0;
    json_t *rule = NULL;
    json_array_foreach(json_object_get(spec, "rules"), index, rule)
    {
        json_object_set_new(rule, "direction",
                            json_string(json_object_get(rule, "direction") != NULL
                                            ? json_string_value(json_object_get(rule, "direction"))
                                            : "in"));
        json_object_set_new(rule, "peer",
                            json_string(json_object_get(rule, "peer") != NULL
                                            ? json_string_value(json_object_get(rule, "peer"))
                                            : ""));
        texts[index] = json_dumps(rule, JSON_SORT_KEYS | JSON_COMPACT);
    }
    qsort(texts, count, sizeof(*texts), compare_texts);
    json_t *ordered = json_array();
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(texts[i], texts[i - 1]) != 0) {
            json_array_append_new(ordered, json_loads(texts[i], 0, NULL));
        }
    }
    json_object_set_new(spec, "rules", ordered);
    for (size_t i = 0; i < count; i++) {
        free(texts[i]);
    }
    free(texts);
}

int spec_check(const struct manifest_kind *kind, json_t *spec, const struct origin *origin,
               struct error *err)
{
    const struct checking checking = {origin, err, kind->has_node};
    int r = check_object(&checking, spec, kind->create, "spec");
    if (r == 0 && kind->way == WAY_GROUP) {
        order_rules(spec);
    }
    return r;
}

int spec_check_whole(const struct manifest_kind *kind, const json_t *spec, const char *place,
                     struct error *err)
{
    for (const struct schema_field *field = schema_first(kind->create); field != NULL;
         field = schema_next(field)) {
        if (field->always && strcmp(field->name, "name") != 0 &&
            json_object_get(spec, field->name) == NULL) {
            return error_set(err, ERROR_INVALID,
                             "%s: there is no such %s yet, and to make it "
                             "spec.%s is needed: %s",
                             place, kind->name, field->name, field->text);
        }
    }
    return 0;
}
