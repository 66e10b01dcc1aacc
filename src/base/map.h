/*
 * Hash map from strings to pointers.  Keys are copied; values are the caller's.
 * Keys may be chosen by clients: the hash is seeded per process (SipHash-2-4), so that nobody
 * outside can aim for one bucket.  Not thread-safe.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stddef.h>

struct map_entry;

struct map {
    struct map_entry **buckets;
    size_t bucket_count;
    size_t count;
};

/* A zeroed struct is an empty map.  End it with map_done(); the values are not touched. */
void map_done(struct map *map);

/* The value, or NULL.  The second form takes a key that has no NUL behind it. */
void *map_get(const struct map *map, const char *key);
void *map_get_text(const struct map *map, const char *key, size_t key_length);

/* Set, and return the value that was there before, or NULL.  `value` is not NULL. */
void *map_set(struct map *map, const char *key, void *value);

/* Remove, and return the value that was there, or NULL. */
void *map_remove(struct map *map, const char *key);

/* Walk in no particular order; the map may not be changed meanwhile. */
void map_each(const struct map *map, void (*visit)(const char *key, void *value, void *context),
              void *context);

#endif
