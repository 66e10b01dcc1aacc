/*
 * The files of what runners boot.  Such an image is made by a deploy and has a whole store; nobody
 * but functions starts from it.  So a node removes its files when the last image that has them is
 * deleted.  Those of other images stay: snapshots of machines may want them again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/parts.h"

static const char *const parts[] = {"kernel", "initrd", "root"};

enum { PARTS = sizeof(parts) / sizeof(parts[0]) };

/* When its row is deleted nothing says any more what it had. */
struct guest_image {
    struct list_node link;
    char *key;
    char *blobs[PARTS];
};

static void drop(struct guest_image *image)
{
    list_remove(&image->link);
    for (size_t i = 0; i < PARTS; i++) {
        free(image->blobs[i]);
    }
    free(image->key);
    free(image);
}

static bool take_image(sqlite3_stmt *row, void *context)
{
    struct machine_service *service = context;
    const char *key = (const char *)sqlite3_column_text(row, 0);
    const char *config = (const char *)sqlite3_column_text(row, 1);
    struct error ignored = {0};
    JSON_OWNED json_t *document = NULL;
    if (json_read(config, strlen(config), &document, &ignored) < 0 ||
        !json_is_true(json_object_get(document, "brings_agent"))) {
        return true;
    }
    struct guest_image *image = NEW(struct guest_image);
    image->key = memory_copy_string(key);
    for (size_t i = 0; i < PARTS; i++) {
        image->blobs[i] = memory_copy_string(json_text(document, parts[i]));
    }
    list_push_back(&service->guest_images, &image->link);
    return true;
}

static void load(struct machine_service *service, const char *key_or_empty)
{
    struct error err = {0};
    if (store_query(service->options.store, &err, take_image, service,
                    "SELECT key, config FROM machine_image WHERE ?1 IN ('', key)", "t",
                    key_or_empty) < 0) {
        log_warn("machine: images are not read: %s", err.text);
    }
}

static bool take_any(sqlite3_stmt *row, void *context)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

int image_file_is_used(const struct machine_service *service, const char *blob, bool *ret_is_used,
                       struct error *err)
{
    *ret_is_used = false;
    return store_query(service->options.store, err, take_any, ret_is_used,
                       "SELECT 1 FROM version WHERE module = ?1 OR instr(config, ?1) UNION ALL "
                       "SELECT 1 FROM machine_image WHERE instr(config, ?1) UNION ALL "
                       "SELECT 1 FROM machine WHERE instr(config, ?1) LIMIT 1",
                       "t", blob);
}

static void collect(const struct machine_service *service, const struct guest_image *image)
{
    for (size_t i = 0; i < PARTS; i++) {
        struct error err = {0};
        bool is_used = false;
        if (image->blobs[i][0] == '\0' || !image_exists(service->options.images, image->blobs[i])) {
            continue;
        }
        int r = image_file_is_used(service, image->blobs[i], &is_used, &err);
        r = r < 0 || is_used ? r : image_remove(service->options.images, image->blobs[i], &err);
        if (r < 0) {
            log_warn("machine: %s of image %s stays on the disk: %s", parts[i], image->key,
                     err.text);
        }
    }
}

/* What had another content, or is no more, may leave files behind. */
static void on_image(const struct store_event *event, void *context)
{
    struct machine_service *service = context;
    struct list before;
    list_init(&before);
    LIST_EACH(node, &service->guest_images)
    {
        struct guest_image *image = LIST_ITEM(node, struct guest_image, link);
        if (event->operation == 'R' || strcmp(image->key, event->key) == 0) {
            list_remove(&image->link);
            list_push_back(&before, &image->link);
        }
    }
    if (event->operation != 'D') {
        load(service, event->operation == 'R' ? "" : event->key);
    }
    while (!list_is_empty(&before)) {
        struct guest_image *image = LIST_FIRST(&before, struct guest_image, link);
        collect(service, image);
        drop(image);
    }
}

void image_files_watch(struct machine_service *service)
{
    list_init(&service->guest_images);
    service->image_watch =
        store_watch_new(service->options.store, "machine_image", on_image, service);
    if (store_schema_now(service->options.store) >= 6) {
        load(service, "");
    }
}

void image_files_end(struct machine_service *service)
{
    store_watch_free(service->image_watch);
    while (!list_is_empty(&service->guest_images)) {
        drop(LIST_FIRST(&service->guest_images, struct guest_image, link));
    }
}
