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
#define RESET(kind, field, value)
#include "kinds.def"
#undef RESET
#undef KIND
#undef QUOTE
};

static const struct {
    const char *kind;
    const char *field;
    const char *value;
} resets[] = {
#define KIND(kind, collection, create, update, reply, way, has_node, read, write, rank)
#define RESET(kind, field, value) {#kind, #field, value},
#include "kinds.def"
#undef RESET
#undef KIND
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

json_t *kind_reset(const struct manifest_kind *kind, const char *path)
{
    size_t length = strcspn(path, ".");
    for (size_t i = 0; i < sizeof(resets) / sizeof(resets[0]); i++) {
        if (strcmp(resets[i].kind, kind->name) == 0 && strlen(resets[i].field) == length &&
            strncmp(resets[i].field, path, length) == 0) {
            return json_loads(resets[i].value, JSON_DECODE_ANY, NULL);
        }
    }
    return NULL;
}
