/* The types of the API, spec/types.def, as a table: what bodies, manifests and the OpenAPI
 * document are checked against and made from.  It never changes; any thread. */
#ifndef SERVICE_SCHEMA_SCHEMA_H
#define SERVICE_SCHEMA_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum schema_kind {
    SCHEMA_STRING,
    SCHEMA_U64,
    SCHEMA_BOOL,
    SCHEMA_DOUBLE,
    SCHEMA_TIME, /* a string, RFC 3339 */
    SCHEMA_MAP,  /* an object of strings */
    SCHEMA_REF,  /* an object: `of` names its type */
    SCHEMA_LIST, /* an array of `of`, a type's name or "STRING" */
};

/* A row: a type, or a field of one.  The fields of a type stand together, behind its own row. */
struct schema_field {
    const char *type;
    const char *name; /* NULL: the row of the type itself */
    struct {
        enum schema_kind kind;
        const char *of;
    } is;
    bool always;
    const char *text; /* what it means, for people */
};

/* All rows: `index` is below the count. */
size_t schema_count(void);
const struct schema_field *schema_at(size_t index);

/* The first field of a type (NULL has none), the one behind a field, the one of that name; NULL
 * when there is none. */
const struct schema_field *schema_first(const char *type);
const struct schema_field *schema_next(const struct schema_field *field);
const struct schema_field *schema_find(const char *type, const char *name);

/* The one of that name among `first_or_null` and those behind it; NULL when there is none. */
const struct schema_field *schema_among(const struct schema_field *first_or_null, const char *name);

/* The name of a field of `type` that is most like `name`, for "did you mean"; NULL: none is. */
const char *schema_nearest(const char *type, const char *name);

/* Is a value of that kind?  What is in an object or an array is not looked at. */
bool schema_fits(const json_t *value, enum schema_kind kind);

#endif
