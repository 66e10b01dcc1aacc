/* The tables of spec/: kinds of objects, and the types whose fields they have. */
#include <string.h>

#include "base/text.h"

#include "service/manifest/parts.h"

enum { KINDS_MAX = 64 };

static const struct manifest_kind kinds[] = {
#define QUOTE(type) #type
#define KIND(kind, collection, create, update, reply, way, has_node, read, write, rank) \
    {#kind,     collection, QUOTE(create), QUOTE(update), QUOTE(reply),                 \
     WAY_##way, has_node,   read,          write,         rank},
#include "kinds.def"
#undef KIND
#undef QUOTE
};

size_t kind_count(void)
{
    return sizeof(kinds) / sizeof(kinds[0]);
}

const struct manifest_kind *kind_at(size_t index)
{
    return &kinds[index];
}

const struct manifest_kind *kind_find(const char *name, struct error *err)
{
    const char *names[KINDS_MAX];
    for (size_t i = 0; i < kind_count(); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
        names[i] = kinds[i].name;
    }
    const char *nearest = text_nearest(name, names, kind_count());
    if (nearest != NULL) {
        error_set(err, ERROR_INVALID, "there is no kind \"%.40s\"; did you mean %s?", name,
                  nearest);
    } else {
        error_set(err, ERROR_INVALID, "there is no kind \"%.40s\"", name);
    }
    return NULL;
}

/* ---- Types ---- */

/* clang-format off */
#define STRING     {TYPE_STRING, NULL}
#define U64        {TYPE_U64, NULL}
#define BOOL       {TYPE_BOOL, NULL}
#define DOUBLE     {TYPE_DOUBLE, NULL}
#define TIME       {TYPE_TIME, NULL}
#define MAP        {TYPE_MAP, NULL}
#define REF(type)  {TYPE_REF, #type}
#define LIST(type) {TYPE_LIST, #type}
#define ALWAYS     true
#define SOMETIMES  false
#define TYPE(type, text)                         {#type, NULL, {TYPE_REF, NULL}, true, text},
#define FIELD(type, name, kind, presence, text)  {#type, #name, kind, presence, text},
#define END(type)
/* clang-format on */
static const struct type_field fields[] = {
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

static const size_t field_count = sizeof(fields) / sizeof(fields[0]);

const struct type_field *type_next(const struct type_field *field)
{
    return field + 1 < fields + field_count && field[1].name != NULL ? field + 1 : NULL;
}

const struct type_field *type_first(const char *type)
{
    for (size_t i = 0; type != NULL && i < field_count; i++) {
        if (fields[i].name == NULL && strcmp(fields[i].type, type) == 0) {
            return type_next(&fields[i]);
        }
    }
    return NULL;
}

const struct type_field *type_find(const char *type, const char *name)
{
    const struct type_field *field = type_first(type);
    while (field != NULL && strcmp(field->name, name) != 0) {
        field = type_next(field);
    }
    return field;
}
