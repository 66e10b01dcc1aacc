/* Bodies against spec/types.def, down to the last list. */
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#include "service/schema/schema.h"

#include "surface/api/parts.h"

enum { PLACE_MAX = 160 };

/* Where a value stands: $.rules[3].peer */
struct place {
    const struct place *up; /* NULL: the body */
    const char *key;        /* NULL: an element of a list */
    size_t index;
};

struct checking {
    bool is_message; /* of a node of another release: it may know more keys */
    struct error *err;
};

static int check_object(const struct checking *checking, const json_t *object, const char *type,
                        const struct place *place);

static const char *kind_text(enum schema_kind kind)
{
    static const char *const texts[] = {
        [SCHEMA_STRING] = "a string",    [SCHEMA_U64] = "a whole number of at least 0",
        [SCHEMA_BOOL] = "true or false", [SCHEMA_DOUBLE] = "a number",
        [SCHEMA_TIME] = "a time",        [SCHEMA_MAP] = "an object of strings",
        [SCHEMA_REF] = "an object",      [SCHEMA_LIST] = "an array",
    };
    return texts[kind];
}

/* Types do not contain themselves: as deep as the table is. */
static size_t place_text(const struct place *place, char text[PLACE_MAX])
{
    if (place == NULL) {
        return (size_t)snprintf(text, PLACE_MAX, "$");
    }
    size_t used = place_text(place->up, text);
    int more = used >= PLACE_MAX ? 0
        : place->key != NULL     ? snprintf(text + used, PLACE_MAX - used, ".%.64s", place->key)
                                 : snprintf(text + used, PLACE_MAX - used, "[%zu]", place->index);
    return used + (size_t)more;
}

static int refuse(const struct checking *checking, const struct place *place, const char *what)
{
    char text[PLACE_MAX];
    place_text(place, text);
    return error_set(checking->err, ERROR_INVALID, "%s must be %s", text, what);
}

static int refuse_unknown(const struct checking *checking, const char *type,
                          const struct place *place)
{
    char text[PLACE_MAX];
    const char *nearest = schema_nearest(type, place->key);
    place_text(place, text);
    return nearest != NULL ? error_set(checking->err, ERROR_INVALID,
                                       "%s is not known; did you mean %s?", text, nearest)
                           : error_set(checking->err, ERROR_INVALID, "%s is not known", text);
}

static int check_map(const struct checking *checking, const json_t *map, const struct place *place)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!json_is_string(value)) {
            return refuse(checking, &(struct place){.up = place, .key = key}, "a string");
        }
    }
    return 0;
}

static int check_list(const struct checking *checking, const json_t *list, const char *type,
                      const struct place *place)
{
    bool is_of_strings = strcmp(type, "STRING") == 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const struct place inside = {.up = place, .index = i};
        const json_t *value = json_array_get(list, i);
        if (is_of_strings && !json_is_string(value)) {
            return refuse(checking, &inside, "a string");
        }
        if (!is_of_strings && check_object(checking, value, type, &inside) < 0) {
            return -ERROR_INVALID;
        }
    }
    return 0;
}

static int check_value(const struct checking *checking, const json_t *value,
                       const struct schema_field *field, const struct place *place)
{
    if (!schema_fits(value, field->is.kind)) {
        return refuse(checking, place, kind_text(field->is.kind));
    }
    switch (field->is.kind) {
    case SCHEMA_MAP:
        return check_map(checking, value, place);
    case SCHEMA_LIST:
        return check_list(checking, value, field->is.of, place);
    case SCHEMA_REF:
        return check_object(checking, value, field->is.of, place);
    case SCHEMA_STRING:
    case SCHEMA_U64:
    case SCHEMA_BOOL:
    case SCHEMA_DOUBLE:
    case SCHEMA_TIME:
        break;
    }
    return 0;
}

static int check_object(const struct checking *checking, const json_t *object, const char *type,
                        const struct place *place)
{
    const struct schema_field *first = schema_first(type);
    const char *key;
    json_t *member;
    if (!json_is_object(object)) {
        return place == NULL
            ? error_set(checking->err, ERROR_INVALID, "$ must be an object (%s)", type)
            : refuse(checking, place, "an object");
    }
    if (first == NULL && place != NULL) {
        return 0; /* one without fields has whatever its service takes */
    }
    json_object_foreach((json_t *)(uintptr_t)object, key, member)
    {
        const struct place inside = {.up = place, .key = key};
        const struct schema_field *field = schema_among(first, key);
        if (field == NULL && !checking->is_message) {
            return refuse_unknown(checking, type, &inside);
        }
        bool is_absent = field == NULL || (json_is_null(member) && !field->always);
        if (!is_absent && check_value(checking, member, field, &inside) < 0) {
            return -ERROR_INVALID;
        }
    }
    for (const struct schema_field *field = first; field != NULL; field = schema_next(field)) {
        if (field->always && json_object_get(object, field->name) == NULL) {
            char text[PLACE_MAX];
            place_text(&(struct place){.up = place, .key = field->name}, text);
            return error_set(checking->err, ERROR_INVALID, "%s is missing: %s", text, field->text);
        }
    }
    return 0;
}

int api_type_check(const json_t *value, const char *type, struct error *err)
{
    const struct checking checking = {.err = err};
    return check_object(&checking, value, type, NULL);
}

int api_type_check_message(const json_t *value, const char *type, struct error *err)
{
    const struct checking checking = {.is_message = true, .err = err};
    return check_object(&checking, value, type, NULL);
}
