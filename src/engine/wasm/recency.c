/*
 * What the build cache holds, by how long it was not used: from the times of its entries' files,
 * which are touched when an entry is found, so that it outlasts the process.
 *
 * Two entries may name one image (a module with and without assets): it counts once, and goes with
 * the last entry.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/wasm/private.h"

struct held {
    char key[HASH_TEXT_SIZE];
    char image[HASH_TEXT_SIZE];
    uint64_t bytes;
    uint64_t used_ms;
};

/* Under the lock. */
static void forget(struct wasm *wasm, const char *key)
{
    free(map_remove(&wasm->held, key));
}

static void note(struct wasm *wasm, const char *key, const char *image, uint64_t bytes,
                 uint64_t used_ms)
{
    struct held *held = NEW(struct held);
    snprintf(held->key, sizeof(held->key), "%s", key);
    snprintf(held->image, sizeof(held->image), "%s", image);
    held->bytes = bytes;
    held->used_ms = used_ms;
    forget(wasm, key);
    map_set(&wasm->held, key, held);
}

void recency_used(struct wasm *wasm, const char *key, const char *image, uint64_t bytes)
{
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    utimensat(AT_FDCWD, path, NULL, 0); /* if it cannot be, it seems older later */
    pthread_mutex_lock(&wasm->lock);
    note(wasm, key, image, bytes, clock_real_ms());
    pthread_mutex_unlock(&wasm->lock);
}

void recency_gone(struct wasm *wasm, const char *key)
{
    pthread_mutex_lock(&wasm->lock);
    forget(wasm, key);
    pthread_mutex_unlock(&wasm->lock);
}

void recency_open(struct wasm *wasm)
{
    DIR *folder = opendir(wasm->cache_folder);
    for (struct dirent *item = folder != NULL ? readdir(folder) : NULL; item != NULL;
         item = readdir(folder)) {
        struct stat status;
        struct wasm_image image;
        char key[HASH_TEXT_SIZE];
        snprintf(key, sizeof(key), "%.*s", (int)strcspn(item->d_name, "."), item->d_name);
        if (image_id_is_good(key) && fstatat(dirfd(folder), item->d_name, &status, 0) == 0 &&
            cache_look(wasm, key, &image)) {
            note(wasm, key, image.image_id, image.elf_bytes,
                 (uint64_t)status.st_mtim.tv_sec * 1000 +
                     (uint64_t)status.st_mtim.tv_nsec / 1000000);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

static void free_held(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void recency_close(struct wasm *wasm)
{
    map_each(&wasm->held, free_held, NULL);
    map_done(&wasm->held);
}

/* ---- All of it ---- */

struct all {
    struct held **held;
    size_t count;
};

static void collect(const char *key, void *value, void *context)
{
    struct all *all = context;
    (void)key;
    all->held[all->count++] = value;
}

static int by_image(const void *a, const void *b)
{
    return strcmp((*(struct held *const *)a)->image, (*(struct held *const *)b)->image);
}

static int by_use(const void *a, const void *b)
{
    uint64_t left = (*(struct held *const *)a)->used_ms;
    uint64_t right = (*(struct held *const *)b)->used_ms;
    return (left > right) - (left < right);
}

static struct all read_all(const struct wasm *wasm)
{
    struct all all = {.held = memory_new(wasm->held.count + 1, sizeof(struct held *))};
    map_each(&wasm->held, collect, &all);
    return all;
}

static void count_all(const struct wasm *wasm, struct wasm_cache_status *ret_status)
{
    struct all all = read_all(wasm);
    *ret_status = (struct wasm_cache_status){.evictions = wasm->evictions};
    qsort(all.held, all.count, sizeof(void *), by_image);
    for (size_t i = 0; i < all.count; i++) {
        if (i == 0 || strcmp(all.held[i]->image, all.held[i - 1]->image) != 0) {
            ret_status->images++;
            ret_status->bytes += all.held[i]->bytes;
        }
    }
    free(all.held);
}

void wasm_cache_status(struct wasm *wasm, struct wasm_cache_status *ret_status)
{
    pthread_mutex_lock(&wasm->lock);
    count_all(wasm, ret_status);
    pthread_mutex_unlock(&wasm->lock);
}

/* ---- Making room ---- */

static bool is_named_by_another(const struct all *all, size_t index)
{
    for (size_t i = 0; i < all->count; i++) {
        if (i != index && all->held[i] != NULL &&
            strcmp(all->held[i]->image, all->held[index]->image) == 0) {
            return true;
        }
    }
    return false;
}

/* The entry, and the image when it was the last one that names it. */
static void evict(struct wasm *wasm, struct all *all, size_t index, uint64_t *bytes)
{
    struct held *held = all->held[index];
    struct error ignored = {0}; /* what stays on disk harms nobody */
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, held->key);
    unlink(path);
    if (!is_named_by_another(all, index)) {
        image_remove(wasm->images, held->image, &ignored);
        *bytes -= held->bytes;
        wasm->evictions++;
    }
    all->held[index] = NULL;
    forget(wasm, held->key);
}

void wasm_trim(struct wasm *wasm, uint64_t bytes_max,
               bool (*keep)(const char *image_id, void *context), void *context)
{
    struct wasm_cache_status status;
    pthread_mutex_lock(&wasm->lock);
    count_all(wasm, &status);
    struct all all = read_all(wasm);
    qsort(all.held, all.count, sizeof(void *), by_use);
    for (size_t i = 0; i < all.count && status.bytes > bytes_max; i++) {
        struct held *held = all.held[i];
        if (keep(held->image, context)) {
            held->used_ms = clock_real_ms();
        } else if (map_get(&wasm->building, held->key) == NULL) {
            evict(wasm, &all, i, &status.bytes);
        }
    }
    free(all.held);
    pthread_mutex_unlock(&wasm->lock);
}
