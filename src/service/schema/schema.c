/* spec/types.def, opened once. */
#include "service/schema/schema.h"

#include <string.h>

#include "base/text.h"

enum { NAMES_MAX = 128 };

/* clang-format off */
#define STRING     {SCHEMA_STRING, NULL}
#define U64        {SCHEMA_U64, NULL}
#define BOOL       {SCHEMA_BOOL, NULL}
#define DOUBLE     {SCHEMA_DOUBLE, NULL}
#define TIME       {SCHEMA_TIME, NULL}
#define MAP        {SCHEMA_MAP, NULL}
#define REF(type)  {SCHEMA_REF, #type}
#define LIST(type) {SCHEMA_LIST, #type}
#define ALWAYS     true
#define SOMETIMES  false
#define TYPE(type, text)                         {#type, NULL, {SCHEMA_REF, NULL}, true, text},
#define FIELD(type, name, kind, presence, text)  {#type, #name, kind, presence, text},
#define END(type)
/* clang-format on */
static const struct schema_field fields[] = {
#include "types.def"
};

static const size_t field_count = sizeof(fields) / sizeof(fields[0]);

size_t schema_count(void)
{
    return field_count;
}

const struct schema_field *schema_at(size_t index)
{
    return &fields[index];
}

const struct schema_field *schema_next(const struct schema_field *field)
{
    return field + 1 < fields + field_count && field[1].name != NULL ? field + 1 : NULL;
}

const struct schema_field *schema_first(const char *type)
{
    for (size_t i = 0; type != NULL && i < field_count; i++) {
        if (fields[i].name == NULL && strcmp(fields[i].type, type) == 0) {
            return schema_next(&fields[i]);
        }
    }
    return NULL;
}

const struct schema_field *schema_among(const struct schema_field *field, const char *name)
{
    while (field != NULL && strcmp(field->name, name) != 0) {
        field = schema_next(field);
    }
    return field;
}

const struct schema_field *schema_find(const char *type, const char *name)
{
    return schema_among(schema_first(type), name);
}

const char *schema_nearest(const char *type, const char *name)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    for (const struct schema_field *field = schema_first(type); field != NULL && count < NAMES_MAX;
         field = schema_next(field)) {
        names[count++] = field->name;
    }
    return text_nearest(name, names, count);
}

bool schema_fits(const json_t *value, enum schema_kind kind)
{
    switch (kind) {
    case SCHEMA_STRING:
    case SCHEMA_TIME:
        return json_is_string(value);
    case SCHEMA_U64:
        return json_is_integer(value) && json_integer_value(value) >= 0;
    case SCHEMA_BOOL:
        return json_is_boolean(value);
    case SCHEMA_DOUBLE:
        return json_is_number(value);
    case SCHEMA_MAP:
    case SCHEMA_REF:
        return json_is_object(value);
    case SCHEMA_LIST:
        return json_is_array(value);
    }
    return false;
}
