/*
 * Volumes that go to another node with their machine.  See volume.h.
 *
 * What moves are files: all layers that a volume or one of its snapshots names, and those below
 * them.  A layer that another volume names as well stays where that one is, and so would the
 * volume: it is refused.  Until the rows say that they are another node's, the files there are
 * copies that nobody counts on; from then on those here are.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/volume/parts.h"

/* ---- Which files ---- */

struct collecting {
    struct volume_file *files;
    size_t count;
    char (*layers)[VOLUME_ID_SIZE]; /* that are named by what is moved */
    size_t layer_count;
};

static bool take_layer(sqlite3_stmt *row, void *context)
{
    struct collecting *collecting = context;
    if (collecting->layer_count < VOLUME_FILES_MAX) {
        snprintf(collecting->layers[collecting->layer_count++], VOLUME_ID_SIZE, "%s",
                 store_text(row, 0));
    }
    return true;
}

static struct volume_file *find_file(const struct collecting *collecting, const char *id)
{
    for (size_t i = 0; i < collecting->count; i++) {
        if (strcmp(collecting->files[i].id, id) == 0) {
            return &collecting->files[i];
        }
    }
    return NULL;
}

static int add_chain(struct volume_service *service, const char *layer,
                     struct collecting *collecting, struct error *err)
{
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    int r = volume_chain(service, layer, chain, &count, err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (find_file(collecting, chain[i].id) != NULL) {
            continue;
        }
        if (collecting->count == VOLUME_FILES_MAX) {
            return error_set(err, ERROR_LIMIT,
                             "its volumes have more than %d layers together: delete snapshots",
                             VOLUME_FILES_MAX);
        }
        struct volume_file *file = &collecting->files[collecting->count++];
        *file = (struct volume_file){0};
        snprintf(file->id, sizeof(file->id), "%.16s", chain[i].id);
        snprintf(file->format, sizeof(file->format), "%s", volume_format_text(chain[i].format));
    }
    return r;
}

#define OF_MACHINE "SELECT key FROM volume WHERE project = ?1 AND machine = ?2"

static int collect(struct volume_service *service, const char *project, const char *machine,
                   struct collecting *collecting, struct error *err)
{
    int r = store_query(service->options.store, err, take_layer, collecting,
                        "SELECT layer FROM volume WHERE project = ?1 AND machine = ?2 UNION ALL "
                        "SELECT layer FROM volume_snapshot WHERE volume IN (" OF_MACHINE ")",
                        "tt", project, machine);
    for (size_t i = 0; r == 0 && i < collecting->layer_count; i++) {
        r = add_chain(service, collecting->layers[i], collecting, err);
    }
    collecting->layer_count = 0;
    r = r < 0 ? r
              : store_query(service->options.store, err, take_layer, collecting,
                            "SELECT layer FROM volume WHERE project = ?1 AND machine = ?2 AND NOT "
                            "coalesce(read_only, 0)",
                            "tt", project, machine);
    for (size_t i = 0; r == 0 && i < collecting->layer_count; i++) {
        struct volume_file *file = find_file(collecting, collecting->layers[i]);
        if (file != NULL) {
            file->is_written = true;
        }
    }
    return r;
}

int volume_move_files(struct volume_service *service, const char *project, const char *machine,
                      struct volume_file **ret_files, size_t *ret_count, struct error *err)
{
    *ret_files = NULL;
    *ret_count = 0;
    if (!volume_schema_is_there(service)) {
        return 0;
    }
    struct collecting collecting = {.files =
                                        memory_new(VOLUME_FILES_MAX, sizeof(struct volume_file)),
                                    .layers = memory_new(VOLUME_FILES_MAX, VOLUME_ID_SIZE)};
    int r = collect(service, project, machine, &collecting, err);
    free(collecting.layers);
    if (r < 0) {
        free(collecting.files);
        return r;
    }
    *ret_files = collecting.files;
    *ret_count = collecting.count;
    return 0;
}

/* ---- May they? ---- */

struct sharing {
    struct collecting collecting;
    bool is_shared;
};

static bool take_other(sqlite3_stmt *row, void *context)
{
    struct sharing *sharing = context;
    sharing->is_shared =
        sharing->is_shared || find_file(&sharing->collecting, store_text(row, 0)) == NULL;
    return true;
}

static bool take_presence(sqlite3_stmt *row, void *context)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

/* Does somebody else name one of these, or lie over it? */
static int check_sharing(struct volume_service *service, const char *project, const char *machine,
                         struct sharing *sharing, struct error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sharing->collecting.count; i++) {
        const char *id = sharing->collecting.files[i].id;
        r = store_query(service->options.store, err, take_other, sharing,
                        "SELECT key FROM volume_layer WHERE below = ?", "t", id);
        r = r < 0
            ? r
            : store_query(service->options.store, err, take_presence, &sharing->is_shared,
                          "SELECT 1 FROM volume WHERE (layer = ?3 OR next_layer = ?3) AND key NOT "
                          "IN (" OF_MACHINE ") UNION ALL SELECT 1 FROM volume_snapshot WHERE layer "
                          "= ?3 AND volume NOT IN (" OF_MACHINE ")",
                          "ttt", project, machine, id);
    }
    return r;
}

static int check_states(struct volume_service *service, const char *project, const char *machine,
                        struct error *err)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    struct volume *found = NULL;
    size_t count = volume_of_machine(service, project, machine, volumes);
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        r = volume_find_ready(service, project, volumes[i].use.name, &found, err);
    }
    return r;
}

int volume_move_check(struct volume_service *service, const char *project, const char *machine,
                      struct error *err)
{
    struct sharing sharing = {0};
    int r = check_states(service, project, machine, err);
    r = r < 0 ? r
              : volume_move_files(service, project, machine, &sharing.collecting.files,
                                  &sharing.collecting.count, err);
    r = r < 0 ? r : check_sharing(service, project, machine, &sharing, err);
    free(sharing.collecting.files);
    return r < 0 || !sharing.is_shared
        ? r
        : error_set(err, ERROR_UNSUPPORTED,
                    "a volume of machine %s is a clone, or has clones: they share files, which are "
                    "of this node (detach it, or delete the clones)",
                    machine);
}

void volume_move_hold(struct volume_service *service, const char *project, const char *machine,
                      bool is_held)
{
    LIST_EACH(node, &service->volumes)
    {
        struct volume *volume = LIST_ITEM(node, struct volume, link);
        if (strcmp(volume->project, project) == 0 && strcmp(volume->machine, machine) == 0) {
            volume->is_busy = is_held;
            volume_unref(volume);
        }
    }
    if (!is_held) {
        volume_collect(service);
    }
}

/* ---- Files ---- */

char *volume_move_path(const struct volume_service *service, const char *id, const char *format)
{
    enum volume_format known = VOLUME_RAW;
    volume_format_parse(format, &known);
    return volume_path(service->folder, id, known);
}

int volume_move_take(const struct volume_service *service, const char *id, const char *format,
                     const char *from, struct error *err)
{
    MEMORY_OWNED char *to = volume_move_path(service, id, format);
    FD_OWNED int fd = open(from, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    FD_OWNED int folder = open(service->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && folder >= 0 && fchmod(fd, 0600) == 0 && fsync(fd) == 0 &&
            rename(from, to) == 0 && fsync(folder) == 0
        ? 0
        : error_os(err, errno, "moving %s to %s", from, to);
}

void volume_move_remove(const struct volume_service *service, const char *id, const char *format)
{
    MEMORY_OWNED char *path = volume_move_path(service, id, format);
    unlink(path);
}

/* ---- Rows ---- */

void volume_move_add(struct volume_service *service, const char *project, const char *machine,
                     const char *to, const struct volume_file *files, size_t count,
                     struct store_command *command)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t volume_count = volume_of_machine(service, project, machine, volumes);
    for (size_t i = 0; i < volume_count; i++) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "a volume of the machine was changed meanwhile",
            "UPDATE volume SET node = ?1, revision = ?2 WHERE id = ?3 AND node = ?4 AND machine = "
            "?5 AND state = 'ready'",
            "trttt", to, volumes[i].id, service->node_name, machine);
    }
    for (size_t i = 0; i < count; i++) {
        store_command_add_expecting(
            command, ERROR_CONFLICT, "a volume of the machine was changed meanwhile",
            "UPDATE volume_layer SET node = ?1, revision = ?2 WHERE key = ?3 AND node = ?4", "trtt",
            to, files[i].id, service->node_name);
    }
}

/* ---- At the other node, while it runs ---- */

struct volume_visit {
    struct volume *volume;
    struct volume_link layer;
    enum volume_format below_format;
    struct buffer key;
};

void volume_visit_free(struct volume_visit *visit)
{
    if (visit != NULL) {
        volume_free_one(visit->volume);
        buffer_wipe(&visit->key);
        free(visit);
    }
}

int volume_visit_new(struct volume_service *service, const char *project, const char *name,
                     struct volume_visit **ret_visit, struct error *err)
{
    struct volume_link below;
    struct volume *volume = volume_read_one(service, project, name);
    if (volume == NULL || volume->state != VOLUME_READY) {
        volume_free_one(volume);
        return error_set(err, ERROR_NOT_FOUND, "node %s does not know volume %s yet",
                         service->node_name, name);
    }
    struct volume_visit *visit = NEW(struct volume_visit);
    visit->volume = volume;
    int r = volume_find_link(service, volume->layer, &visit->layer, err);
    if (r == 0 && visit->layer.below[0] != '\0') {
        r = volume_find_link(service, visit->layer.below, &below, err);
        visit->below_format = r == 0 ? below.format : VOLUME_RAW;
    }
    r = r < 0 ? r : volume_read_key(volume, &visit->key, err);
    if (r < 0) {
        volume_visit_free(visit);
        return r;
    }
    *ret_visit = visit;
    return 0;
}

int volume_visit_make(struct volume_visit *visit, struct error *err)
{
    const struct volume_service *service = visit->volume->service;
    const struct volume_layer layer = {
        .folder = service->folder,
        .id = visit->layer.id,
        .format = visit->layer.format,
        .size_bytes = visit->volume->size_bytes,
        .below_id = visit->layer.below[0] != '\0' ? visit->layer.below : NULL,
        .below_format = visit->below_format,
        .key = visit->key.used > 0 ? visit->key.data : NULL,
        .key_length = visit->key.used,
    };
    int r = volume_remove(service->folder, visit->layer.id, visit->layer.format, err);
    return r < 0 ? r : volume_make(&layer, err);
}

int volume_visit_open(struct volume_visit *visit, struct volume_open *ret_open, struct error *err)
{
    return volume_open_one(visit->volume, ret_open, err);
}
