/*
 * Volumes that go to another node with their machine.  See volume.h.
 *
 * What moves are files: all layers that a volume or one of its snapshots names, and those below
 * them.  A layer that another volume needs as well, a clone or what was cloned, stays where that
 * one is: nobody writes in it any more, so a copy of it goes, which has a name and a row of its own
 * there, and what lies over it names that.  (What is below such a layer is needed by the same
 * others.)  Until the rows say that they are another node's, the files there are copies that nobody
 * counts on; from then on those here are.
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
#include "base/random.h"

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
        snprintf(file->below, sizeof(file->below), "%.16s", chain[i].below);
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

/* ---- Which stay, too ---- */

struct sharing {
    const struct collecting *collecting;
    bool is_shared;
};

static bool take_other(sqlite3_stmt *row, void *context)
{
    struct sharing *sharing = context;
    sharing->is_shared =
        sharing->is_shared || find_file(sharing->collecting, store_text(row, 0)) == NULL;
    return true;
}

/* Does somebody else name it, or lie over it? */
static int is_needed(struct volume_service *service, const char *project, const char *machine,
                     const char *id, struct sharing *sharing, struct error *err)
{
    int r = store_query(service->options.store, err, take_other, sharing,
                        "SELECT key FROM volume_layer WHERE below = ?", "t", id);
    return r < 0
        ? r
        : store_query(service->options.store, err, store_take_any, &sharing->is_shared,
                      "SELECT 1 FROM volume WHERE (layer = ?3 OR next_layer = ?3) AND key NOT "
                      "IN (" OF_MACHINE ") UNION ALL SELECT 1 FROM volume_snapshot WHERE layer "
                      "= ?3 AND volume NOT IN (" OF_MACHINE ")",
                      "ttt", project, machine, id);
}

static void name_copies(const struct collecting *collecting, struct volume_file *file)
{
    while (file != NULL && file->copy[0] == '\0') {
        random_hex(file->copy, VOLUME_ID_SIZE - 1);
        file = find_file(collecting, file->below);
    }
}

int volume_move_divide(struct volume_service *service, const char *project, const char *machine,
                       struct volume_file *files, size_t count, struct error *err)
{
    const struct collecting collecting = {.files = files, .count = count};
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct sharing sharing = {&collecting, false};
        r = is_needed(service, project, machine, files[i].id, &sharing, err);
        if (r == 0 && sharing.is_shared) {
            name_copies(&collecting, &files[i]);
        }
    }
    return r;
}

const char *volume_move_name(const struct volume_file *file)
{
    return file->copy[0] != '\0' ? file->copy : file->id;
}

const char *volume_name_among(const struct volume_file *files, size_t count, const char *id)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(files[i].id, id) == 0) {
            return volume_move_name(&files[i]);
        }
    }
    return id;
}

/* ---- May they? ---- */

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
    struct volume_file *files = NULL;
    size_t count = 0;
    int r = check_states(service, project, machine, err);
    r = r < 0 ? r : volume_move_files(service, project, machine, &files, &count, err);
    free(files);
    return r;
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

static void add_row(const struct volume_service *service, const char *to,
                    const struct volume_file *file, struct store_command *command)
{
    static const char changed[] = "a volume of the machine was changed meanwhile";
    if (file->copy[0] == '\0') {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed,
            "UPDATE volume_layer SET node = ?1, revision = ?2 WHERE key = ?3 AND node = ?4", "trtt",
            to, file->id, service->node_name);
    } else {
        store_command_add_expecting(
            command, ERROR_CONFLICT, changed,
            "INSERT INTO volume_layer (key, node, format, below, created_ms, revision) SELECT ?1, "
            "?2, format, below, created_ms, ?3 FROM volume_layer WHERE key = ?4 AND node = ?5",
            "ttrtt", file->copy, to, file->id, service->node_name);
    }
}

/* What has moved names the copy.  A clone counts as one of its snapshot's while both are on one
 * node. */
static void add_renaming(const char *project, const char *machine, const char *to,
                         const struct volume_file *file, struct store_command *command)
{
    static const char *const changes[] = {
        "UPDATE volume_snapshot SET layer = ?1, revision = ?2 WHERE layer = ?3 AND volume IN "
        "(SELECT key FROM volume WHERE project = ?4 AND machine = ?5)",
        "UPDATE volume SET layer = ?1, revision = ?2 WHERE layer = ?3 AND project = ?4 AND machine "
        "= ?5",
        "UPDATE volume SET origin = ?1, revision = ?2 WHERE origin = ?3 AND project = ?4 AND "
        "machine = ?5",
    };
    store_command_add(command,
                      "UPDATE volume_layer SET below = ?1, revision = ?2 WHERE below = ?3 AND node "
                      "= ?4",
                      "trtt", file->copy, file->id, to);
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        store_command_add(command, changes[i], "trttt", file->copy, file->id, project, machine);
    }
    store_command_add(command,
                      "UPDATE volume SET origin = NULL, revision = ?1 WHERE origin IN (?2, ?3) AND "
                      "NOT EXISTS (SELECT 1 FROM volume_snapshot WHERE layer = volume.origin)",
                      "rtt", file->copy, file->id);
}

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
        add_row(service, to, &files[i], command);
    }
    for (size_t i = 0; i < count; i++) {
        if (files[i].copy[0] != '\0') {
            add_renaming(project, machine, to, &files[i], command);
        }
    }
}

/* ---- At the other node, while it runs ---- */

struct volume_visit {
    struct volume *volume;
    struct volume_link layer;
    enum volume_format below_format;
    struct buffer key;
    const struct volume_file *files;
    size_t file_count;
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
                     const struct volume_file *files, size_t count, struct volume_visit **ret_visit,
                     struct error *err)
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
    visit->files = files;
    visit->file_count = count;
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
    const char *below = volume_name_among(visit->files, visit->file_count, visit->layer.below);
    const struct volume_layer layer = {
        .folder = service->folder,
        .id = visit->layer.id,
        .format = visit->layer.format,
        .size_bytes = visit->volume->size_bytes,
        .below_id = below[0] != '\0' ? below : NULL,
        .below_format = visit->below_format,
        .key = visit->key.used > 0 ? visit->key.data : NULL,
        .key_length = visit->key.used,
    };
    int r = volume_remove(service->folder, visit->layer.id, visit->layer.format, err);
    return r < 0 ? r : volume_make(&layer, err);
}

int volume_visit_open(struct volume_visit *visit, struct volume_open *ret_open, struct error *err)
{
    return volume_open_one(visit->volume, visit->files, visit->file_count, ret_open, err);
}
