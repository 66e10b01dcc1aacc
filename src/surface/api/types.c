/* Bodies against spec/types.def. */
#include <string.h>

#include "service/schema/schema.h"

#include "surface/api/parts.h"

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

static int check_map(const json_t *map, const char *name, struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
    {
        if (!json_is_string(value)) {
            return error_set(err, ERROR_INVALID, "$.%s.%.64s must be a string", name, key);
        }
    }
    return 0;
}

static int unknown_key(const char *type, const char *key, struct error *err)
{
    const char *nearest = schema_nearest(type, key);
    return nearest != NULL
        ? error_set(err, ERROR_INVALID, "$.%.64s is not known; did you mean %s?", key, nearest)
        : error_set(err, ERROR_INVALID, "$.%.64s is not known", key);
}

static int check(const json_t *value, const char *type, bool is_message, struct error *err)
{
    if (!json_is_object(value)) {
        return error_set(err, ERROR_INVALID, "$ must be an object (%s)", type);
    }
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)(uintptr_t)value, key, member)
    {
        const struct schema_field *field = schema_find(type, key);
        if (field == NULL && !is_message) {
            return unknown_key(type, key, err);
        }
        if (field == NULL) {
            continue;
        }
        if (json_is_null(member) && !field->always) {
            continue;
        }
        if (!schema_fits(member, field->is.kind)) {
            return error_set(err, ERROR_INVALID, "$.%s must be %s", key, kind_text(field->is.kind));
        }
        if (field->is.kind == SCHEMA_MAP && check_map(member, key, err) < 0) {
            return -ERROR_INVALID;
        }
    }
    for (const struct schema_field *field = schema_first(type); field != NULL;
         field = schema_next(field)) {
        if (field->always && json_object_get(value, field->name) == NULL) {
            return error_set(err, ERROR_INVALID, "$.%s is missing: %s", field->name, field->text);
        }
    }
    return 0;
}

int api_type_check(const json_t *value, const char *type, struct error *err)
{
    return check(value, type, false, err);
}

int api_type_check_message(const json_t *value, const char *type, struct error *err)
{
    return check(value, type, true, err);
}
