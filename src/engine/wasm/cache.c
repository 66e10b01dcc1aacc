/*
 * The build cache: (module, tier) -> image.
 *
 * Of a module with assets there are two entries: its own, that names the module without them as its
 * `code`; and one of that, whose `module` is empty unless somebody has it as a module too.
 *
 * An entry is a small JSON file named by the key, CACHE/KEY.json; the image itself is a blob.  An
 * entry whose blob is gone or damaged is no entry: the blob is removed and made again.  One of
 * another toolchain is used where there is no toolchain, and replaced where there is one.
 */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/wasm/private.h"

enum { ENTRY_MAX = 4096, IMAGE_MAX = 256 << 20 };

void cache_key(const char *module_id, enum wasm_tier tier, char ret_key[HASH_TEXT_SIZE])
{
    struct hash *hash = hash_new();
    hash_add(hash, module_id, strlen(module_id) + 1);
    hash_add(hash, wasm_tier_text(tier), strlen(wasm_tier_text(tier)) + 1);
    hash_finish(hash, ret_key);
}

static bool image_is_whole(struct wasm *wasm, const char *id)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer bytes = {0};
    int r = image_read(wasm->images, id, IMAGE_MAX, &bytes, &err);
    if (r == -ERROR_CORRUPT) {
        struct error ignored = {0};
        image_remove(wasm->images, id, &ignored);
    }
    return r == 0;
}

/* The entry in the file, and the image it names; NULL when it is no entry. */
static json_t *read_entry(const char *path, const char **ret_image)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    json_t *entry = NULL;
    if (file_read(path, ENTRY_MAX, &text, &err) < 0 ||
        json_read(text.data, text.used, &entry, &err) < 0) {
        return NULL;
    }
    *ret_image = json_string_value(json_object_get(entry, "image"));
    if (*ret_image == NULL || strlen(*ret_image) != HASH_TEXT_SIZE - 1) {
        json_decref(entry);
        return NULL;
    }
    return entry;
}

bool cache_take(struct wasm *wasm, const char *key, char ret_image[HASH_TEXT_SIZE])
{
    const char *image = NULL;
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    JSON_OWNED json_t *entry = read_entry(path, &image);
    unlink(path);
    recency_gone(wasm, key);
    if (entry != NULL) {
        memcpy(ret_image, image, HASH_TEXT_SIZE);
    }
    return entry != NULL;
}

static bool is_current(const struct wasm *wasm, const json_t *entry)
{
    const char *toolchain = json_string_value(json_object_get(entry, "toolchain"));
    return wasm->problem.kind != ERROR_NONE ||
        (toolchain != NULL && strcmp(toolchain, wasm->toolchain.fingerprint) == 0);
}

static void take_digest(const json_t *entry, const char *name, char ret_digest[HASH_TEXT_SIZE])
{
    const char *digest = json_string_value(json_object_get(entry, name));
    snprintf(ret_digest, HASH_TEXT_SIZE, "%s", digest != NULL ? digest : "");
}

static void take_image(const json_t *entry, const char *image, struct wasm_image *ret_image)
{
    *ret_image = (struct wasm_image){
        .elf_bytes = (uint64_t)json_integer_value(json_object_get(entry, "elf_bytes")),
        .wall_ms = (uint64_t)json_integer_value(json_object_get(entry, "wall_ms")),
        .max_rss_kib = (uint64_t)json_integer_value(json_object_get(entry, "max_rss_kib")),
    };
    memcpy(ret_image->image_id, image, sizeof(ret_image->image_id));
    take_digest(entry, "toolchain", ret_image->toolchain);
    take_digest(entry, "runtime", ret_image->runtime);
}

bool cache_get(struct wasm *wasm, const char *key, struct wasm_image *ret_image)
{
    const char *image = NULL;
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    JSON_OWNED json_t *entry = read_entry(path, &image);
    if (entry != NULL && !is_current(wasm, entry)) {
        return false; /* cache_put() replaces it */
    }
    if (entry == NULL || !image_is_whole(wasm, image)) {
        unlink(path);
        recency_gone(wasm, key);
        return false;
    }
    take_image(entry, image, ret_image);
    recency_used(wasm, key, ret_image->image_id, ret_image->elf_bytes);
    return true;
}

bool cache_look(const struct wasm *wasm, const char *key, struct wasm_image *ret_image)
{
    const char *image = NULL;
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    JSON_OWNED json_t *entry = read_entry(path, &image);
    if (entry != NULL) {
        take_image(entry, image, ret_image);
    }
    return entry != NULL;
}

/* Has an entry this value in this field?  Read through: it happens once per toolchain, and when a
 * module goes. */
static bool is_named(const struct wasm *wasm, const char *field, const char *value)
{
    DIR *folder = opendir(wasm->cache_folder);
    bool found = false;
    for (struct dirent *item = folder != NULL ? readdir(folder) : NULL; item != NULL && !found;
         item = readdir(folder)) {
        const char *other = NULL;
        MEMORY_OWNED char *path = memory_format("%s/%s", wasm->cache_folder, item->d_name);
        JSON_OWNED json_t *entry = item->d_name[0] != '.' ? read_entry(path, &other) : NULL;
        const char *named = json_string_value(json_object_get(entry, field));
        found = named != NULL && strcmp(named, value) == 0;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return found;
}

bool cache_code_is_used(const struct wasm *wasm, const char *code_id)
{
    return is_named(wasm, "code", code_id);
}

void cache_names(const struct wasm *wasm, const char *key, struct cache_names *ret_names)
{
    const char *image = NULL;
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    JSON_OWNED json_t *entry = read_entry(path, &image);
    take_digest(entry, "module", ret_names->module);
    take_digest(entry, "code", ret_names->code);
}

int cache_put(struct wasm *wasm, const char *key, const struct cache_names *names,
              const struct wasm_image *image, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s.json", wasm->cache_folder, key);
    struct json_writer writer = json_writer_to(&text);
    char old_image[HASH_TEXT_SIZE];
    if (cache_take(wasm, key, old_image) && strcmp(old_image, image->image_id) != 0 &&
        !is_named(wasm, "image", old_image)) {
        struct error ignored = {0}; /* it stays on disk, and harms nobody */
        image_remove(wasm->images, old_image, &ignored);
    }
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "module", names->module);
    json_write_field_string(&writer, "code", names->code);
    json_write_field_string(&writer, "image", image->image_id);
    json_write_field_string(&writer, "toolchain", image->toolchain);
    json_write_field_string(&writer, "runtime", image->runtime);
    json_write_field_u64(&writer, "elf_bytes", image->elf_bytes);
    json_write_field_u64(&writer, "wall_ms", image->wall_ms);
    json_write_field_u64(&writer, "max_rss_kib", image->max_rss_kib);
    json_write_end_object(&writer);
    int r = file_write(path, text.data, text.used, 0600, err);
    if (r == 0) {
        recency_used(wasm, key, image->image_id, image->elf_bytes);
    }
    return r;
}

void wasm_each_module(struct wasm *wasm, void (*visit)(const char *module_id, void *context),
                      void *context)
{
    DIR *folder = opendir(wasm->cache_folder);
    for (struct dirent *item = folder != NULL ? readdir(folder) : NULL; item != NULL;
         item = readdir(folder)) {
        const char *image = NULL;
        MEMORY_OWNED char *path = memory_format("%s/%s", wasm->cache_folder, item->d_name);
        JSON_OWNED json_t *entry = item->d_name[0] != '.' ? read_entry(path, &image) : NULL;
        const char *module = json_string_value(json_object_get(entry, "module"));
        if (module != NULL && image_id_is_good(module)) {
            visit(module, context);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}
