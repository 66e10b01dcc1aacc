/* Bodies against spec/types.def. */
#include <string.h>

#include "surface/api/parts.h"

enum { FIELDS_MAX = 32 };

/* clang-format off */
#define STRING     {FIELD_STRING, NULL}
#define U64        {FIELD_U64, NULL}
#define BOOL       {FIELD_BOOL, NULL}
#define DOUBLE     {FIELD_DOUBLE, NULL}
#define TIME       {FIELD_TIME, NULL}
#define MAP        {FIELD_MAP, NULL}
#define REF(type)  {FIELD_REF, #type}
#define LIST(type) {FIELD_LIST, #type}
#define ALWAYS     true
#define SOMETIMES  false
/* A type itself is a row without a name. */
#define TYPE(type, text)                         {#type, NULL, {FIELD_REF, NULL}, true, text},
#define FIELD(type, name, kind, presence, text)  {#type, #name, kind, presence, text},
#define END(type)
/* clang-format on */
static const struct field fields[] = {
#include "types.def"
};
#undef STRING
#undef U64
#undef BOOL
#undef DOUBLE
#undef TIME
#undef MAP
#undef REF
#undef LIST
#undef ALWAYS
#undef SOMETIMES
#undef TYPE
#undef FIELD
#undef END

size_t api_field_count(void)
{
    return sizeof(fields) / sizeof(fields[0]);
}

const struct field *api_field_at(size_t index)
{
    return &fields[index];
}

static const char *kind_text(enum field_kind kind)
{
    static const char *const texts[] = {
        [FIELD_STRING] = "a string",    [FIELD_U64] = "a whole number of at least 0",
        [FIELD_BOOL] = "true or false", [FIELD_DOUBLE] = "a number",
        [FIELD_TIME] = "a time",        [FIELD_MAP] = "an object of strings",
        [FIELD_REF] = "an object",      [FIELD_LIST] = "an array",
    };
    return texts[kind];
}

static bool kind_fits(const json_t *value, enum field_kind kind)
{
    switch (kind) {
    case FIELD_STRING:
    case FIELD_TIME:
        return json_is_string(value);
    case FIELD_U64:
        return json_is_integer(value) && json_integer_value(value) >= 0;
    case FIELD_BOOL:
        return json_is_boolean(value);
    case FIELD_DOUBLE:
        return json_is_number(value);
    case FIELD_MAP:
    case FIELD_REF:
        return json_is_object(value);
    case FIELD_LIST:
        return json_is_array(value);
    }
    return false;
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

/* The fields of a type stand together, behind its own row; NULL: there is no such type. */
static const struct field *fields_of(const char *type)
{
    for (size_t i = 0; i < api_field_count(); i++) {
        if (fields[i].name == NULL && strcmp(fields[i].type, type) == 0) {
            return &fields[i] + 1;
        }
    }
    return NULL;
}

/* One of those that begin there, or their end? */
static bool is_field(const struct field *field)
{
    return field != NULL && field < fields + api_field_count() && field->name != NULL;
}

static const struct field *find_field(const struct field *first, const char *name)
{
    for (const struct field *field = first; is_field(field); field++) {
        if (strcmp(field->name, name) == 0) {
            return field;
        }
    }
    return NULL;
}

static int unknown_key(const struct field *first, const char *key, struct error *err)
{
    const char *names[FIELDS_MAX];
    size_t count = 0;
    for (const struct field *field = first; is_field(field) && count < FIELDS_MAX; field++) {
        names[count++] = field->name;
    }
    const char *nearest = text_nearest(key, names, count);
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
    const struct field *first = fields_of(type);
    json_object_foreach((json_t *)(uintptr_t)value, key, member)
    {
        const struct field *field = find_field(first, key);
        if (field == NULL && !is_message) {
            return unknown_key(first, key, err);
        }
        if (field == NULL) {
            continue;
        }
        if (json_is_null(member) && !field->always) {
            continue;
        }
        if (!kind_fits(member, field->is.kind)) {
            return error_set(err, ERROR_INVALID, "$.%s must be %s", key, kind_text(field->is.kind));
        }
        if (field->is.kind == FIELD_MAP && check_map(member, key, err) < 0) {
            return -ERROR_INVALID;
        }
    }
    for (const struct field *field = first; is_field(field); field++) {
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
