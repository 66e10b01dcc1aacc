/* Volumes that machines have: given, taken, opened for their VMMs. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/asking.h"
#include "service/volume/parts.h"

/* ---- Giving and taking ---- */

struct listing {
    struct volume_attachment *attachments;
    size_t count;
};

static bool take_attachment(sqlite3_stmt *row, void *context)
{
    struct listing *listing = context;
    struct volume_attachment *attachment = &listing->attachments[listing->count];
    const char *path = (const char *)sqlite3_column_text(row, 2);
    *attachment = (struct volume_attachment){0};
    snprintf(attachment->id, sizeof(attachment->id), "%s",
             (const char *)sqlite3_column_text(row, 0));
    snprintf(attachment->use.name, sizeof(attachment->use.name), "%s",
             (const char *)sqlite3_column_text(row, 1));
    snprintf(attachment->use.path, sizeof(attachment->use.path), "%s", path != NULL ? path : "");
    attachment->use.is_read_only = sqlite3_column_int(row, 3) != 0;
    attachment->slot = (unsigned)sqlite3_column_int(row, 4);
    return ++listing->count < HYPERVISOR_VOLUMES_MAX;
}

size_t volume_of_machine(struct volume_service *service, const char *project, const char *machine,
                         struct volume_attachment *ret_attachments)
{
    struct listing listing = {ret_attachments, 0};
    struct error err = {0};
    if (volume_schema_is_there(service)) {
        store_query(service->options.store, &err, take_attachment, &listing,
                    "SELECT id, name, path, read_only, slot FROM volume WHERE project = ? AND "
                    "machine = ? ORDER BY slot",
                    "tt", project, machine);
    }
    return listing.count;
}

static int check_attachment(struct volume_service *service, const char *project,
                            const char *machine, const struct volume_use *use,
                            struct volume **ret_volume, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    int r = volume_check_schema(service, err);
    r = r < 0 ? r : volume_use_check(use, err);
    r = r < 0 ? r : volume_node(service, project, use->name, &node, err);
    if (r < 0) {
        return r;
    }
    struct volume *volume = volume_find(service, project, use->name);
    if (volume == NULL) {
        return error_set(
            err, ERROR_CONFLICT,
            "volume %s is on node %s, and machine %s on %s: a volume stays where it is. "
            "Move the machine there (`blixard vm migrate %s --to %s`), or make one "
            "there (--node %s)",
            use->name, node, machine, service->node_name, machine, node, node);
    }
    if (volume->machine[0] != '\0') {
        return error_set(err, ERROR_CONFLICT, "machine %s has volume %s%s", volume->machine,
                         use->name,
                         strcmp(volume->machine, machine) == 0 ? " already" : ": detach it first");
    }
    if (volume->state == VOLUME_FAILED) {
        return error_set(err, ERROR_CONFLICT,
                         "volume %s could not be made: see `blixard volume show %s`", use->name,
                         use->name);
    }
    if (use->path[0] != '\0' && !volume_config_has_file_system(volume->config)) {
        return error_set(err, ERROR_INVALID,
                         "volume %s has no file system that could be mounted at %s: give no path",
                         use->name, use->path);
    }
    *ret_volume = volume;
    return 0;
}

/* The first slot that is free, and a path that is not another volume's. */
static int find_slot(struct volume_service *service, const char *project, const char *machine,
                     const struct volume_use *use, unsigned *slot, struct error *err)
{
    struct volume_attachment others[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service, project, machine, others);
    for (size_t i = 0; i < count; i++) {
        if (others[i].slot == *slot) {
            (*slot)++;
        }
        if (use->path[0] != '\0' && strcmp(others[i].use.path, use->path) == 0) {
            return error_set(err, ERROR_CONFLICT, "volume %s is mounted at %s already",
                             others[i].use.name, use->path);
        }
    }
    return *slot < HYPERVISOR_VOLUMES_MAX
        ? 0
        : error_set(err, ERROR_LIMIT, "a machine has at most %d volumes", HYPERVISOR_VOLUMES_MAX);
}

int volume_add_attachment(struct volume_service *service, const char *project, const char *machine,
                          const struct volume_use *use, unsigned *slot_at_least,
                          struct store_command *command, struct error *err)
{
    struct volume *volume = NULL;
    int r = check_attachment(service, project, machine, use, &volume, err);
    r = r < 0 ? r : find_slot(service, project, machine, use, slot_at_least, err);
    if (r < 0) {
        return r;
    }
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the volume was attached or deleted at the same moment",
        "UPDATE volume SET machine = ?1, slot = ?2, path = nullif(?3, ''), read_only = ?4, "
        "revision = ?5 WHERE key = ?6 AND id = ?7 AND machine IS NULL AND state <> 'failed' AND "
        "NOT EXISTS (SELECT 1 FROM volume WHERE project = ?8 AND machine = ?1 AND slot = ?2)",
        "tutirttt", machine, (uint64_t)*slot_at_least, use->path, (int64_t)use->is_read_only,
        volume->key, volume->id, project);
    (*slot_at_least)++;
    return 0;
}

void volume_add_detachment(struct volume_service *service, const char *project, const char *machine,
                           const char *name_or_null, struct store_command *command)
{
    if (!volume_schema_is_there(service)) {
        return;
    }
    store_command_add(command,
                      "UPDATE volume SET machine = NULL, slot = NULL, path = NULL, read_only = "
                      "NULL, revision = ? WHERE project = ? AND machine = ? AND (name = ? OR ? = "
                      "'')",
                      "rtttt", project, machine, name_or_null != NULL ? name_or_null : "",
                      name_or_null != NULL ? name_or_null : "");
}

/* ---- Opening ---- */

void volume_close(struct volume_open *open)
{
    for (size_t i = 0; i < open->volume.layer_count; i++) {
        fd_close_slot(&open->layers[i].fd);
        fd_close_slot(&open->layers[i].read_fd);
    }
    explicit_bzero(open->key, sizeof(open->key));
    open->volume.layer_count = 0;
}

static int open_layer(const struct volume_service *service, const struct volume_link *link,
                      bool is_written, struct hypervisor_layer *layer, struct error *err)
{
    MEMORY_OWNED char *path = volume_path(service->folder, link->id, link->format);
    layer->format = volume_format_text(link->format);
    layer->fd = is_written ? open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
    layer->read_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (layer->read_fd >= 0 && (layer->fd >= 0 || !is_written)) {
        return 0;
    }
    return errno == ENOENT
        ? error_set(err, ERROR_CORRUPT, "%s is missing: it holds what was in the volume", path)
        : error_os(err, errno, "opening %s", path);
}

static int take_key(struct volume *volume, struct volume_open *open, struct error *err)
{
    BUFFER_OWNED struct buffer key = {0};
    int r = volume_read_key(volume, &key, err);
    if (r == 0 && key.used > 0) {
        memcpy(open->key, key.data, key.used);
        open->volume.key = open->key;
        open->volume.key_length = key.used;
    }
    buffer_wipe(&key);
    return r;
}

static bool take_use(sqlite3_stmt *row, void *context)
{
    struct volume_open *open = context;
    open->volume.slot = (unsigned)sqlite3_column_int(row, 0);
    open->is_read_only = sqlite3_column_int(row, 1) != 0;
    return false;
}

int volume_open_one(struct volume *volume, const struct volume_file *files, size_t file_count,
                    struct volume_open *ret_open, struct error *err)
{
    struct volume_service *service = volume->service;
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    *ret_open = (struct volume_open){0};
    int r = store_query(service->options.store, err, take_use, ret_open,
                        "SELECT slot, read_only FROM volume WHERE key = ?", "t", volume->key);
    r = r < 0 ? r : volume_chain(service, volume->layer, chain, &count, err);
    r = r < 0 ? r : take_key(volume, ret_open, err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct hypervisor_layer *layer = &ret_open->layers[i];
        snprintf(ret_open->ids[i], VOLUME_ID_SIZE, "%.16s",
                 volume_name_among(files, file_count, chain[i].id));
        memcpy(chain[i].id, ret_open->ids[i], VOLUME_ID_SIZE);
        *layer = (struct hypervisor_layer){.id = ret_open->ids[i],
                                           .fd = -1,
                                           .read_fd = -1,
                                           .is_encrypted = volume->secret[0] != '\0'};
        ret_open->volume.layer_count = i + 1;
        r = open_layer(service, &chain[i], i == 0 && !ret_open->is_read_only, layer, err);
    }
    snprintf(ret_open->id, sizeof(ret_open->id), "%s", volume->id);
    ret_open->volume.id = ret_open->id;
    ret_open->volume.layers = ret_open->layers;
    ret_open->volume.rates = volume_rates_of(volume->config, "");
    if (r < 0) {
        volume_close(ret_open);
    }
    return r;
}

int volume_open(struct volume_service *service, const char *project, const char *name,
                struct volume_open *ret_open, struct error *err)
{
    struct volume *volume = volume_find(service, project, name);
    if (volume == NULL || volume->state == VOLUME_FAILED || volume->state == VOLUME_CREATING) {
        *ret_open = (struct volume_open){0};
        return error_set(err, ERROR_CONFLICT, "volume %s is %s", name,
                         volume == NULL ? "not here" : volume_state_text(volume->state));
    }
    return volume_open_one(volume, NULL, 0, ret_open, err);
}

size_t volume_layers(struct volume_service *service, const char *project, const char *name,
                     char ret_ids[HYPERVISOR_LAYERS_MAX][VOLUME_ID_SIZE])
{
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    struct error err = {0};
    const struct volume *volume = volume_find(service, project, name);
    if (volume == NULL || volume_chain(service, volume->layer, chain, &count, &err) < 0) {
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        snprintf(ret_ids[i], VOLUME_ID_SIZE, "%.16s", chain[i].id);
    }
    return count;
}
