/* Which machines are one set, by their names. */
#include <string.h>

#include "service/placement/parts.h"

#include "test/lib/test.h"

static bool is_base(const char *name, const char *base)
{
    char out[64];
    asked_base_name(name, out);
    return strcmp(out, base) == 0;
}

/*
 * Goal: db-1 and db-2 are one set, db and web-a are their own.
 * Method: names with a number at the end, without one, and with nothing but a number.
 */
TEST(placement_asked, machines_that_differ_in_the_number_at_the_end_are_one_set)
{
    EXPECT(is_base("db-1", "db"));
    EXPECT(is_base("db-22", "db"));
    EXPECT(is_base("db-a-3", "db-a"));
    EXPECT(is_base("db", "db"));
    EXPECT(is_base("db1", "db1"));
    EXPECT(is_base("web-a", "web-a"));
    EXPECT(is_base("web-", "web-"));
    EXPECT(is_base("-1", "-1"));
}
