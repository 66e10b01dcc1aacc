/*
 * What this node has of versions: targets that can be called, and the images they run, of which two
 * versions of one module share one.  The image cache keeps what is in use.
 */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/function/parts.h"
#include "service/telemetry/telemetry.h"

struct local *local_of(struct function_service *service, const char *key)
{
    struct local *local = map_get(&service->locals, key);
    if (local == NULL) {
        local = NEW(struct local);
        map_set(&service->locals, key, local);
    }
    return local;
}

/* What is looked for among the targets that can be called, or will be soon. */
struct looking {
    bool (*fits)(const struct instance_target *target, const void *what);
    const void *what;
    bool found;
};

static void look_at(struct looking *looking, const struct instance_target *target)
{
    looking->found = looking->found || (target != NULL && looking->fits(target, looking->what));
}

static void look_at_local(const char *key, void *value, void *context)
{
    (void)key;
    look_at(context, ((const struct local *)value)->target);
}

static bool any_target(struct function_service *service,
                       bool (*fits)(const struct instance_target *target, const void *what),
                       const void *what)
{
    struct looking looking = {.fits = fits, .what = what};
    map_each(&service->locals, look_at_local, &looking);
    LIST_EACH(node, &service->builds_known)
    {
        look_at(&looking, LIST_ITEM(node, struct build, known)->target);
    }
    return looking.found;
}

static bool has_image(const struct instance_target *target, const void *image_id)
{
    return strcmp(target->image_id, image_id) == 0;
}

bool image_is_used(const char *image_id, void *service)
{
    return any_target(service, has_image, image_id);
}

/* A builder may have found an image of which the loop has not heard yet. */
static bool is_being_built(const struct function_service *service)
{
    LIST_EACH(node, &service->builds_known)
    {
        if (LIST_ITEM(node, struct build, known)->target == NULL) {
            return true;
        }
    }
    return false;
}

void images_trim(struct function_service *service)
{
    struct wasm_cache_status status;
    uint64_t bytes_max = service->options.image_cache_bytes_max;
    uint64_t evicted = 0;
    wasm_cache_status(service->options.wasm, &status);
    if (bytes_max > 0 && status.bytes > bytes_max && !is_being_built(service)) {
        evicted = status.evictions;
        wasm_trim(service->options.wasm, bytes_max, image_is_used, service);
        wasm_cache_status(service->options.wasm, &status);
        evicted = status.evictions - evicted;
    }
    if (evicted > 0) {
        log_info("function: %" PRIu64 " images went from the cache, which has %" PRIu64
                 " bytes of %" PRIu64,
                 evicted, status.bytes, bytes_max);
    }
    telemetry_set(service->options.telemetry, TELEMETRY_IMAGE_CACHE_BYTES, status.bytes);
    telemetry_set(service->options.telemetry, TELEMETRY_IMAGE_CACHE_IMAGES, status.images);
    telemetry_set(service->options.telemetry, TELEMETRY_IMAGE_CACHE_EVICTIONS, status.evictions);
}

void function_write_image_cache(struct function_service *service, struct json_writer *writer)
{
    struct wasm_cache_status status;
    wasm_cache_status(service->options.wasm, &status);
    json_write_begin_object(writer);
    json_write_field_u64(writer, "bytes", status.bytes);
    json_write_field_u64(writer, "bytes_max", service->options.image_cache_bytes_max);
    json_write_field_u64(writer, "images", status.images);
    json_write_field_u64(writer, "evictions", status.evictions);
    json_write_end_object(writer);
}

static bool shares_instances(const struct instance_target *target, const void *other)
{
    return instance_targets_share(target, other);
}

void target_forget(struct function_service *service, struct instance_target *target)
{
    if (!service->stopping && !any_target(service, shares_instances, target)) {
        instance_forget(service->options.instances, target);
    }
    instance_target_unref(target);
}

void local_retire(struct function_service *service, struct local *local)
{
    struct instance_target *target = local->target;
    local->target = NULL;
    if (target != NULL) {
        target_forget(service, target);
        holders_mark_stale(service);
    }
}

/* `local` is in the map no more. */
void local_free(struct function_service *service, struct local *local)
{
    if (local->build != NULL) {
        local->build->cancelled = true;
        obtain_cancel(local->build);
    }
    local_retire(service, local);
    free(local);
}
