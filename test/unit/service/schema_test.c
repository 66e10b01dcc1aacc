/* The table of the API's types. */
#include "service/schema/schema.h"

#include <string.h>

#include "test/lib/test.h"

TEST(schema, fields_of_a_type_stand_together)
{
    for (size_t i = 0; i < schema_count(); i++) {
        const struct schema_field *row = schema_at(i);
        if (row->name != NULL) {
            EXPECT(schema_find(row->type, row->name) == row);
        }
    }
    EXPECT(schema_first(NULL) == NULL);
    EXPECT(schema_first("NoSuchType") == NULL);
    EXPECT(schema_find("Deploy", "no_such_field") == NULL);
}

TEST(schema, what_a_field_refers_to_is_a_type)
{
    for (size_t i = 0; i < schema_count(); i++) {
        const struct schema_field *row = schema_at(i);
        if (row->is.of != NULL && strcmp(row->is.of, "STRING") != 0) {
            bool is_there = false;
            for (size_t j = 0; j < schema_count() && !is_there; j++) {
                is_there =
                    schema_at(j)->name == NULL && strcmp(schema_at(j)->type, row->is.of) == 0;
            }
            EXPECT(is_there);
        }
    }
}

TEST(schema, values_fit_their_kind)
{
    json_t *negative = json_integer(-1);
    json_t *text = json_string("1");
    json_t *real = json_real(0.5);
    EXPECT(!schema_fits(negative, SCHEMA_U64));
    EXPECT(schema_fits(negative, SCHEMA_DOUBLE));
    EXPECT(!schema_fits(text, SCHEMA_U64));
    EXPECT(schema_fits(text, SCHEMA_TIME));
    EXPECT(!schema_fits(real, SCHEMA_U64));
    EXPECT(!schema_fits(NULL, SCHEMA_MAP));
    json_decref(negative);
    json_decref(text);
    json_decref(real);
}
