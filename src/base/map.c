#include "base/map.h"

#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/random.h"

struct map_entry {
    struct map_entry *next;
    void *value;
    uint64_t hash;
    size_t key_length;
    char key[];
};

static uint64_t seed[2];

__attribute__((constructor)) static void draw_seed(void)
{
    random_bytes(seed, sizeof(seed));
}

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

/* SipHash-2-4: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012. */
static uint64_t hash_key(const char *key, size_t length)
{
    uint64_t v[4] = {
        seed[0] ^ UINT64_C(0x736f6d6570736575),
        seed[1] ^ UINT64_C(0x646f72616e646f6d),
        seed[0] ^ UINT64_C(0x6c7967656e657261),
        seed[1] ^ UINT64_C(0x7465646279746573),
    };
    size_t at = 0;
    for (; length - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, key + at, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)length << 56;
    memcpy(&last, key + at, length - at);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static struct map_entry **find(const struct map *map, const char *key, size_t length, uint64_t hash)
{
    struct map_entry **slot = &map->buckets[hash & (map->bucket_count - 1)];
    while (*slot != NULL) {
        const struct map_entry *entry = *slot;
        if (entry->hash == hash && entry->key_length == length &&
            memcmp(entry->key, key, length) == 0) {
            return slot;
        }
        slot = &(*slot)->next;
    }
    return slot;
}

static void grow(struct map *map)
{
    size_t count = map->bucket_count > 0 ? map->bucket_count * 2 : 16;
    struct map_entry **buckets = memory_new(count, sizeof(struct map_entry *));
    for (size_t i = 0; i < map->bucket_count; i++) {
        struct map_entry *next = NULL;
        for (struct map_entry *entry = map->buckets[i]; entry != NULL; entry = next) {
            next = entry->next;
            entry->next = buckets[entry->hash & (count - 1)];
            buckets[entry->hash & (count - 1)] = entry;
        }
    }
    free(map->buckets);
    map->buckets = buckets;
    map->bucket_count = count;
}

void map_done(struct map *map)
{
    for (size_t i = 0; i < map->bucket_count; i++) {
        struct map_entry *next = NULL;
        for (struct map_entry *entry = map->buckets[i]; entry != NULL; entry = next) {
            next = entry->next;
            free(entry);
        }
    }
    free(map->buckets);
    *map = (struct map){0};
}

void *map_get(const struct map *map, const char *key)
{
    return map_get_text(map, key, strlen(key));
}

void *map_get_text(const struct map *map, const char *key, size_t key_length)
{
    if (map->count == 0) {
        return NULL;
    }
    struct map_entry *entry = *find(map, key, key_length, hash_key(key, key_length));
    return entry != NULL ? entry->value : NULL;
}

void *map_set(struct map *map, const char *key, void *value)
{
    CHECK(value != NULL);

    if (map->count >= map->bucket_count) {
        grow(map);
    }
    size_t length = strlen(key);
    uint64_t hash = hash_key(key, length);
    struct map_entry **slot = find(map, key, length, hash);
    if (*slot != NULL) {
        void *before = (*slot)->value;
        (*slot)->value = value;
        return before;
    }
    struct map_entry *entry = memory_new(1, sizeof(*entry) + length + 1);
    entry->value = value;
    entry->hash = hash;
    entry->key_length = length;
    memcpy(entry->key, key, length + 1);
    *slot = entry;
    map->count++;
    return NULL;
}

void *map_remove(struct map *map, const char *key)
{
    if (map->count == 0) {
        return NULL;
    }
    size_t length = strlen(key);
    struct map_entry **slot = find(map, key, length, hash_key(key, length));
    if (*slot == NULL) {
        return NULL;
    }
    struct map_entry *entry = *slot;
    void *value = entry->value;
    *slot = entry->next;
    free(entry);
    map->count--;
    return value;
}

void map_each(const struct map *map, void (*visit)(const char *key, void *value, void *context),
              void *context)
{
    for (size_t i = 0; i < map->bucket_count; i++) {
        for (struct map_entry *entry = map->buckets[i]; entry != NULL; entry = entry->next) {
            visit(entry->key, entry->value, context);
        }
    }
}
