/*
 * Volumes in archives of machines: flattened from the snapshots that were kept for it, and made
 * volumes again, of one raw layer.  See volume.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/quota/quota.h"
#include "service/volume/parts.h"

struct carried {
    unsigned slot;
    uint64_t size_bytes;
    struct volume_link layers[VOLUME_LAYERS_MAX];
    size_t layer_count;
};

struct volume_carry {
    char *folder; /* of volumes */
    struct carried all[HYPERVISOR_VOLUMES_MAX];
    size_t count;
};

/* ---- Out ---- */

int volume_carry_check(struct volume_service *service, const char *project, const char *machine,
                       struct error *err)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, project, machine, volumes);
    for (size_t i = 0; i < count; i++) {
        struct volume *volume = NULL;
        int r = volume_find_ready(service, project, volumes[i].use.name, &volume, err);
        if (r < 0) {
            return r;
        }
        if (volume->secret[0] != '\0') {
            return error_set(err, ERROR_UNSUPPORTED,
                             "volume %s is encrypted, and an archive would hold it in the clear: "
                             "export the machine without its volumes",
                             volume->name);
        }
    }
    return 0;
}

struct kept_layer {
    char id[VOLUME_ID_SIZE];
    uint64_t size_bytes;
};

static bool take_kept(sqlite3_stmt *row, void *context)
{
    struct kept_layer *kept = context;
    snprintf(kept->id, sizeof(kept->id), "%s", store_text(row, 0));
    kept->size_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

/* Of a volume's settings, those that say something about another one with its content. */
static json_t *settings_of(const json_t *config)
{
    json_t *settings = json_object();
    json_object_set(settings, "filesystem", json_object_get(config, "filesystem"));
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        json_object_set(settings, volume_rate_name(i),
                        json_object_get(config, volume_rate_name(i)));
    }
    return settings;
}

static int add_carried(struct volume_service *service, const char *project, json_t *entry,
                       struct volume_carry *carry, struct error *err)
{
    const char *name = json_text(entry, "name");
    const struct volume *volume = volume_find(service, project, name);
    struct carried *carried = &carry->all[carry->count];
    struct kept_layer kept = {0};
    if (volume == NULL || carry->count == HYPERVISOR_VOLUMES_MAX) {
        return error_set(err, ERROR_CONFLICT, "volume %s is not there any more", name);
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", volume->key, json_text(entry, "snapshot"));
    int r = store_query(service->options.store, err, take_kept, &kept,
                        "SELECT layer, size_bytes FROM volume_snapshot WHERE key = ? AND state = "
                        "'ready'",
                        "t", key);
    if (r == 0 && kept.id[0] == '\0') {
        r = error_set(err, ERROR_CONFLICT, "what volume %s held was deleted meanwhile", name);
    }
    r = r < 0 ? r : volume_chain(service, kept.id, carried->layers, &carried->layer_count, err);
    if (r == 0) {
        carried->slot = (unsigned)json_u64(entry, "slot");
        carried->size_bytes = kept.size_bytes;
        carry->count++;
        json_object_set_new(entry, "config", settings_of(volume->config));
    }
    return r;
}

int volume_carry_new(struct volume_service *service, const char *project, json_t *list,
                     struct volume_carry **ret_carry, struct error *err)
{
    struct volume_carry *carry = NEW(struct volume_carry);
    size_t index = 0;
    json_t *entry = NULL;
    int r = 0;
    carry->folder = memory_copy_string(service->folder);
    json_array_foreach(list, index, entry)
    {
        r = r < 0 ? r : add_carried(service, project, entry, carry, err);
    }
    if (r < 0) {
        volume_carry_free(carry);
        return r;
    }
    *ret_carry = carry;
    return 0;
}

void volume_carry_free(struct volume_carry *carry)
{
    if (carry != NULL) {
        free(carry->folder);
        free(carry);
    }
}

/* One raw layer is there as it is; what lies over others is put together. */
static int write_one(const struct volume_carry *carry, const struct carried *carried,
                     const char *to, struct error *err)
{
    const struct volume_link *top = &carried->layers[0];
    struct volume_below below[VOLUME_LAYERS_MAX];
    MEMORY_OWNED char *path = volume_path(carry->folder, top->id, top->format);
    if (top->format == VOLUME_RAW) {
        return link(path, to) == 0 ? 0 : error_os(err, errno, "linking %s to %s", to, path);
    }
    char id[VOLUME_ID_SIZE];
    random_hex(id, sizeof(id) - 1);
    MEMORY_OWNED char *partial = memory_format("%s/%s.raw.partial", carry->folder, id);
    for (size_t i = 1; i < carried->layer_count; i++) {
        below[i - 1] = (struct volume_below){carried->layers[i].id, carried->layers[i].format};
    }
    const struct volume_layer layer = {.folder = carry->folder,
                                       .id = top->id,
                                       .format = top->format,
                                       .size_bytes = carried->size_bytes,
                                       .below_id = carried->layer_count > 1 ? below[0].id : NULL};
    int r = volume_flatten(&layer, below, carried->layer_count - 1, partial, err);
    if (r == 0 && rename(partial, to) < 0) {
        r = error_os(err, errno, "moving %s to %s", partial, to);
    }
    if (r < 0) {
        unlink(partial);
    }
    return r;
}

int volume_carry_write(const struct volume_carry *carry, const char *folder, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < carry->count && r == 0; i++) {
        MEMORY_OWNED char *to = memory_format("%s/volume-%u.raw", folder, carry->all[i].slot);
        r = write_one(carry, &carry->all[i], to, err);
    }
    return r;
}

/* ---- In ---- */

static int take_settings(const json_t *entry, const char *name, uint64_t size_bytes,
                         json_t **ret_config, struct error *err)
{
    const json_t *given = json_object_get(entry, "config");
    JSON_OWNED json_t *create = json_pack("{s:s, s:I, s:s}", "name", name, "size_bytes",
                                          (json_int_t)size_bytes, "format", "raw");
    json_t *filesystem = json_object_get(given, "filesystem");
    if (json_is_string(filesystem)) {
        json_object_set(create, "filesystem", filesystem);
    }
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        json_t *rate = json_object_get(given, volume_rate_name(i));
        if (json_is_integer(rate) && json_integer_value(rate) >= 0) {
            json_object_set(create, volume_rate_name(i), rate);
        }
    }
    return volume_config_complete(create, ret_config, err);
}

static int read_entry(const json_t *entry, const uint64_t sizes[HYPERVISOR_VOLUMES_MAX],
                      bool taken[HYPERVISOR_VOLUMES_MAX], json_t *list, struct error *err)
{
    struct volume_use use = {.is_read_only = json_is_true(json_object_get(entry, "read_only"))};
    const char *name = json_text(entry, "name");
    const char *path = json_text(entry, "path");
    uint64_t slot = json_u64(entry, "slot");
    json_t *config = NULL;
    char id[VOLUME_ID_SIZE];
    char layer[VOLUME_ID_SIZE];
    if (slot >= HYPERVISOR_VOLUMES_MAX || taken[slot] || sizes[slot] == 0 ||
        !json_is_integer(json_object_get(entry, "slot")) || strlen(name) >= sizeof(use.name) ||
        strlen(path) >= sizeof(use.path)) {
        return error_set(err, ERROR_CORRUPT, "a volume of the archive has no file, or no place");
    }
    snprintf(use.name, sizeof(use.name), "%s", name);
    snprintf(use.path, sizeof(use.path), "%s", path);
    if (sizes[slot] < VOLUME_BYTES_MIN || sizes[slot] > VOLUME_BYTES_MAX ||
        sizes[slot] % 512 != 0 || volume_use_check(&use, err) < 0 ||
        take_settings(entry, name, sizes[slot], &config, err) < 0) {
        return error_set(err, ERROR_CORRUPT, "a volume of the archive makes no sense");
    }
    taken[slot] = true;
    random_hex(id, sizeof(id) - 1);
    random_hex(layer, sizeof(layer) - 1);
    json_array_append_new(list,
                          json_pack("{s:s, s:s, s:s, s:I, s:s, s:b, s:I, s:o}", "name", name, "id",
                                    id, "layer", layer, "slot", (json_int_t)slot, "path", path,
                                    "read_only", use.is_read_only, "size_bytes",
                                    (json_int_t)sizes[slot], "config", config));
    return 0;
}

int volume_carried_read(const json_t *list, const uint64_t sizes[HYPERVISOR_VOLUMES_MAX],
                        json_t **ret_list, struct error *err)
{
    bool taken[HYPERVISOR_VOLUMES_MAX] = {false};
    JSON_OWNED json_t *read = json_array();
    size_t index = 0;
    json_t *entry = NULL;
    json_array_foreach(list, index, entry)
    {
        if (read_entry(entry, sizes, taken, read, err) < 0) {
            return -(int)err->kind;
        }
    }
    *ret_list = json_incref(read);
    return 0;
}

static void add_one(struct volume_service *service, const char *project, const char *machine,
                    const json_t *entry, struct store_command *command)
{
    const char *name = json_text(entry, "name");
    const char *layer = json_text(entry, "layer");
    uint64_t now_ms = clock_real_ms();
    JSON_OWNED json_t *config = json_deep_copy(json_object_get(entry, "config"));
    json_object_set_new(config, "name", json_string(name));
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    MEMORY_OWNED char *exists = memory_format(
        "there is a volume %s already: give the machine another name (--name), and its volumes "
        "get that behind theirs",
        name);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO volume (key, project, name, id, node, config, size_bytes, layer, state, "
        "machine, slot, path, read_only, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, "
        "?8, 'ready', ?9, ?10, nullif(?11, ''), ?12, ?13, ?14 WHERE NOT EXISTS (SELECT 1 FROM "
        "volume WHERE key = ?1)",
        "ttttttuttutuur", key, project, name, json_text(entry, "id"), service->node_name, text,
        json_u64(entry, "size_bytes"), layer, machine, json_u64(entry, "slot"),
        json_text(entry, "path"), (uint64_t)json_is_true(json_object_get(entry, "read_only")),
        now_ms);
    store_command_add(command,
                      "INSERT INTO volume_layer (key, node, format, created_ms, revision) VALUES "
                      "(?, ?, 'raw', ?, ?)",
                      "ttur", layer, service->node_name, now_ms);
    quota_add_check(service->options.store, command, project,
                    &(struct quota_ask){.disk_bytes = json_u64(entry, "size_bytes")});
}

static int rename_one(const char *machine, json_t *entry, struct error *err)
{
    MEMORY_OWNED char *name = memory_format("%s-%s", json_text(entry, "name"), machine);
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "volume %s would be called %s, which is too long: give the machine a "
                         "shorter name (--name)",
                         json_text(entry, "name"), name);
    }
    json_object_set_new(entry, "name", json_string(name));
    return 0;
}

int volume_carried_add(struct volume_service *service, const char *project, const char *machine,
                       bool is_renamed, json_t *list, struct store_command *command,
                       struct error *err)
{
    size_t index = 0;
    json_t *entry = NULL;
    int r = 0;
    if (json_array_size(list) > 0 && !volume_schema_is_there(service)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "not all nodes know volumes yet: upgrade them first");
    }
    json_array_foreach(list, index, entry)
    {
        if (is_renamed) {
            r = r < 0 ? r : rename_one(machine, entry, err);
        }
        if (r == 0) {
            add_one(service, project, machine, entry, command);
        }
    }
    return r;
}
