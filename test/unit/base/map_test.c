#include "base/map.h"

#include "test/lib/test.h"

/*
 * Goal: the map finds what was put and not what was removed, also while it grows.
 * Method: a thousand keys, each with itself as value, half of them removed again.
 */
TEST(map, finds_what_was_put_and_not_what_was_removed)
{
    struct map map = {0};
    static int values[1000];
    char key[16];

    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        EXPECT(map_set(&map, key, &values[i]) == NULL);
    }
    EXPECT(map_set(&map, "key-7", &values[8]) == &values[7]);
    EXPECT(map_set(&map, "key-7", &values[7]) == &values[8]);
    for (int i = 0; i < 1000; i += 2) {
        snprintf(key, sizeof(key), "key-%d", i);
        EXPECT(map_remove(&map, key) == &values[i]);
    }
    EXPECT(map.count == 500);
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "key-%d", i);
        EXPECT(map_get(&map, key) == (i % 2 ? &values[i] : NULL));
    }
    EXPECT(map_get_text(&map, "key-11x", 6) == &values[11]);
    map_done(&map);
}
