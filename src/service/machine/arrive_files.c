/*
 * The files of a machine that arrives, and what becomes of them when this node ends meanwhile.
 *
 *   FOLDER/arriving/ID            its folder
 *   FOLDER/arriving/ID.snapshots  its snapshots
 *   FOLDER/arriving/ID.moving     {"operation": "...", "is_whole": false, "layers": [{"id",
 *                                 "format"}...]}
 *
 * Layers of its volumes are where layers are (service/volume).  The mark says, from before the
 * first of them is there, what is to go when it does not come.  What is not whole was never
 * announced as such: it goes at the next start.  What is whole (one that runs is called so from the
 * beginning: its switch waits for no disk) may be the only copy there is, whatever the rows say
 * that are read: it goes when the operation that moved it is known here, and known to have ended,
 * and the machine is another node's all the same.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/hypervisor/template.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/arrive.h"
#include "service/machine/content.h"
#include "service/machine/package.h"
#include "service/machine/snapshot.h"

#define MARK ".moving"
enum { MARK_BYTES_MAX = 1 << 20 };

char *arrival_folder(const struct machine_service *service, const char *id)
{
    return memory_format("%s/arriving/%s", service->folder, id);
}

static char *mark_of(const struct machine_service *service, const char *id)
{
    return memory_format("%s/arriving/%s" MARK, service->folder, id);
}

/* ---- What comes ---- */

static bool take_snapshot(sqlite3_stmt *row, void *context)
{
    struct arrival_files *files = context;
    json_object_set_new(files->snapshots, store_text(row, 0), json_string(store_text(row, 1)));
    return true;
}

static bool split_key(const char *key, char ret_project[64], char ret_name[64])
{
    const char *slash = strchr(key, '/');
    return slash != NULL && snprintf(ret_project, 64, "%.*s", (int)(slash - key), key) < 64 &&
        snprintf(ret_name, 64, "%s", slash + 1) < 64;
}

/* What those are called here that stay where they are as well. */
static int take_copies(struct arrival_files *files, const json_t *copies, struct error *err)
{
    for (size_t i = 0; i < files->layer_count; i++) {
        struct volume_file *layer = &files->layers[i];
        const char *copy = json_text(copies, layer->id);
        size_t length = strlen(copy);
        if (length > 0 &&
            (length != VOLUME_ID_SIZE - 1 || strspn(copy, "0123456789abcdef") != length)) {
            return error_set(err, ERROR_INVALID, "a layer is named by 16 hex digits");
        }
        snprintf(layer->copy, sizeof(layer->copy), "%s", copy);
    }
    return 0;
}

int arrival_files_init(struct arrival_files *files, struct machine_service *service,
                       const char *key, const char *id, const json_t *body, struct error *err)
{
    char project[64];
    char name[64];
    char unique[MACHINE_ID_SIZE];
    random_hex(unique, MACHINE_ID_SIZE - 1);
    *files = (struct arrival_files){
        .service = service,
        .unpacked = memory_format("%s/cloning/%s", service->folder, unique),
        .place = arrival_folder(service, id),
        .snapshots = json_object(),
    };
    snprintf(files->id, sizeof(files->id), "%s", id);
    snprintf(files->operation, sizeof(files->operation), "%s", json_text(body, "operation"));
    files->blob = memory_copy_string(
        json_text(body, json_object_get(body, "parcel") != NULL ? "parcel" : "blob"));
    files->blob_bytes = json_u64(body, "blob_bytes");
    files->bytes = json_u64(body, "bytes");
    files->place_snapshots = memory_format("%s.snapshots", files->place);
    if (files->blob[0] != '\0' && !image_id_is_good(files->blob)) {
        return error_set(err, ERROR_INVALID, "an archive is named by 64 hex digits");
    }
    int r = store_query(
        service->options.store, err, take_snapshot, files,
        "SELECT name, id FROM machine_snapshot WHERE machine_id = ? AND state = 'ready'", "t", id);
    if (r < 0 || !split_key(key, project, name)) {
        return r;
    }
    r = volume_move_files(service->options.volumes, project, name, &files->layers,
                          &files->layer_count, err);
    return r < 0 ? r : take_copies(files, json_object_get(body, "copies"), err);
}

int arrival_check_room(const struct arrival_files *files, struct error *err)
{
    uint64_t room_bytes = file_room(files->service->folder);
    return files->blob_bytes <= room_bytes && files->bytes <= room_bytes - files->blob_bytes
        ? 0
        : error_set(err, ERROR_FULL, "it takes %" PRIu64 " MiB there, and %" PRIu64 " MiB are free",
                    (files->bytes + files->blob_bytes) >> 20, room_bytes >> 20);
}

void arrival_files_done(struct arrival_files *files)
{
    free(files->blob);
    free(files->unpacked);
    free(files->place);
    free(files->place_snapshots);
    json_decref(files->snapshots);
    json_decref(files->manifest);
    free(files->layers);
}

/* ---- The mark ---- */

static int write_mark(const struct arrival_files *files, bool is_whole, struct error *err)
{
    json_t *layers = json_array();
    JSON_OWNED json_t *mark = json_pack("{s:s, s:b, s:o}", "operation", files->operation,
                                        "is_whole", is_whole, "layers", layers);
    for (size_t i = 0; i < files->layer_count; i++) {
        json_array_append_new(layers,
                              json_pack("{s:s, s:s}", "id", volume_move_name(&files->layers[i]),
                                        "format", files->layers[i].format));
    }
    MEMORY_OWNED char *path = mark_of(files->service, files->id);
    MEMORY_OWNED char *text = json_dumps(mark, JSON_COMPACT);
    return file_write(path, text, strlen(text), 0600, err);
}

static json_t *read_mark(const struct machine_service *service, const char *id)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    json_t *mark = NULL;
    MEMORY_OWNED char *path = mark_of(service, id);
    if (file_exists(path) && file_read(path, MARK_BYTES_MAX, &text, &ignored) == 0) {
        json_read(text.data, text.used, &mark, &ignored);
    }
    return mark;
}

void arrival_adopt(const struct machine_service *service, const char *id)
{
    MEMORY_OWNED char *path = mark_of(service, id);
    unlink(path);
}

void arrival_remove(const struct machine_service *service, const char *id)
{
    struct error err = {0};
    size_t index = 0;
    json_t *layer = NULL;
    JSON_OWNED json_t *mark = read_mark(service, id);
    MEMORY_OWNED char *place = arrival_folder(service, id);
    MEMORY_OWNED char *snapshots = memory_format("%s.snapshots", place);
    hypervisor_end(place);
    int r = file_remove_tree(place, &err);
    r = r < 0 ? r : file_remove_tree(snapshots, &err);
    json_array_foreach(json_object_get(mark, "layers"), index, layer)
    {
        volume_move_remove(service->options.volumes, json_text(layer, "id"),
                           json_text(layer, "format"));
    }
    if (r < 0) {
        log_warn("what was left of a machine that did not come: %s", err.text);
    } else {
        arrival_adopt(service, id);
    }
}

/* ---- Making it ---- */

int arrival_begin(const struct arrival_files *files, bool is_running, struct error *err)
{
    MEMORY_OWNED char *above = memory_format("%s/arriving", files->service->folder);
    arrival_remove(files->service, files->id);
    int r = file_make_folder(above, 0711, err);
    return r < 0 ? r : write_mark(files, is_running, err);
}

int arrival_unpack(struct arrival_files *files, struct error *err)
{
    struct image_store *images = files->service->options.images;
    FD_OWNED int fd = -1;
    uint64_t size = 0;
    int r = image_open(images, files->blob, &fd, &size, err);
    r = r < 0 ? r
              : package_read(fd, files->unpacked, images, file_room(files->service->folder),
                             &files->manifest, err);
    if (r == 0 && !json_is_true(json_object_get(files->manifest, "is_part"))) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the node that has it sends machines as an older Blixard did: upgrade it");
    }
    return r;
}

static int place_snapshots(const struct arrival_files *files, struct error *err)
{
    size_t index = 0;
    json_t *one = NULL;
    const json_t *list = json_object_get(files->manifest, "snapshots");
    if (json_array_size(list) > 0 && file_make_folder(files->place_snapshots, 0711, err) < 0) {
        return -(int)err->kind;
    }
    json_array_foreach(list, index, one)
    {
        const char *name = json_text(one, "name");
        const char *id = json_text(files->snapshots, name);
        MEMORY_OWNED char *from = memory_format("%s/snapshots/%s", files->unpacked, name);
        MEMORY_OWNED char *to = memory_format("%s/%s", files->place_snapshots, id);
        if (id[0] == '\0') {
            return error_set(err, ERROR_UNAVAILABLE,
                             "snapshot %.64s is not known on this node yet: try again", name);
        }
        if (rename(from, to) < 0) {
            return error_os(err, errno, "moving %s", from);
        }
    }
    return 0;
}

/* Only those that its volumes have, as the rows say. */
static int place_layers(const struct arrival_files *files, struct error *err)
{
    size_t index = 0;
    json_t *one = NULL;
    int r = 0;
    json_array_foreach(json_object_get(files->manifest, "layers"), index, one)
    {
        const struct volume_file *layer = NULL;
        for (size_t i = 0; i < files->layer_count; i++) {
            if (strcmp(volume_move_name(&files->layers[i]), json_text(one, "id")) == 0) {
                layer = &files->layers[i];
            }
        }
        if (layer == NULL) {
            return error_set(err, ERROR_UNAVAILABLE,
                             "layer %.16s of a volume is not known on this node yet: try again",
                             json_text(one, "id"));
        }
        const char *id = volume_move_name(layer);
        MEMORY_OWNED char *from = memory_format("%s/layers/%s", files->unpacked, id);
        r = volume_move_take(files->service->options.volumes, id, layer->format, from, err);
        if (r < 0) {
            return r;
        }
    }
    return r;
}

static bool is_of_vmm(const char *name)
{
    return strcmp(name, "disk.qcow2") == 0 || strcmp(name, "disk.raw") == 0 ||
        strcmp(name, CONTENT_FIRMWARE) == 0 || strcmp(name, SEED_FILE) == 0;
}

static int place_own(const struct arrival_files *files, struct error *err)
{
    size_t index = 0;
    json_t *one = NULL;
    uid_t uid = disk_uid_of(files->id);
    json_array_foreach(json_object_get(files->manifest, "own"), index, one)
    {
        const char *name = json_string_value(one);
        MEMORY_OWNED char *from = memory_format("%s/own/%s", files->unpacked, name);
        MEMORY_OWNED char *to = memory_format("%s/%s", files->place, name);
        bool is_given = geteuid() == 0 && is_of_vmm(name);
        bool is_shared = strcmp(name, "base.raw") == 0 || strcmp(name, CONTENT_BASE) == 0;
        if (rename(from, to) < 0 || chmod(to, is_shared ? 0444 : 0600) < 0 ||
            (is_given && chown(to, uid, uid) < 0)) {
            return error_os(err, errno, "moving %s to %s", from, to);
        }
    }
    return 0;
}

int arrival_place(const struct arrival_files *files, struct error *err)
{
    int r = file_make_folder(files->place, 0711, err);
    r = r < 0 ? r : place_own(files, err);
    r = r < 0 ? r : place_snapshots(files, err);
    return r < 0 ? r : place_layers(files, err);
}

/* For people who look: a VMM is told what lies below a disk, and does not believe its head. */
int arrival_rebase(const struct arrival_files *files, const json_t *config, struct error *err)
{
    const char *blob = json_text(config, "disk");
    MEMORY_OWNED char *between = memory_format("%s/" CONTENT_BASE, files->place);
    if (blob[0] == '\0' || file_exists(between)) {
        return 0;
    }
    MEMORY_OWNED char *disk = memory_format("%s/disk.qcow2", files->place);
    MEMORY_OWNED char *base = image_path(files->service->options.images, blob);
    return template_rebase(disk, base, err);
}

int arrival_seal(const struct arrival_files *files, struct error *err)
{
    FD_OWNED int fd = open(files->place, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    return fd >= 0 && syncfs(fd) == 0 ? write_mark(files, true, err)
                                      : error_os(err, errno, "writing %s", files->place);
}

/* ---- After a start ---- */

struct leftover {
    struct list_node link;
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
};

struct judging {
    const char *node;
    bool is_ours;
    bool has_ended;
};

static bool take_machine(sqlite3_stmt *row, void *context)
{
    struct judging *judging = context;
    judging->is_ours = strcmp(store_text(row, 0), judging->node) == 0;
    return false;
}

static bool take_operation(sqlite3_stmt *row, void *context)
{
    struct judging *judging = context;
    judging->has_ended = strcmp(store_text(row, 0), "running") != 0;
    return false;
}

static struct judging judge(struct machine_service *service, const char *id, const char *operation)
{
    struct judging judging = {.node = service->node_name};
    struct error ignored = {0};
    store_query(service->options.store, &ignored, take_machine, &judging,
                "SELECT node FROM machine WHERE id = ?", "t", id);
    store_query(service->options.store, &ignored, take_operation, &judging,
                "SELECT state FROM operation WHERE key = ?", "t", operation);
    return judging;
}

struct removal {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
};

static void remove_left(void *context)
{
    const struct removal *removal = context;
    arrival_remove(removal->service, removal->id);
}

static void on_removed(void *context)
{
    struct removal *removal = context;
    removal->service->pending--;
    free(removal);
}

static void forget(struct machine_service *service, const char *id)
{
    struct error ignored = {0};
    struct removal *removal = NEW(struct removal);
    removal->service = service;
    snprintf(removal->id, sizeof(removal->id), "%s", id);
    log_info("machine %s: it does not come here; what was here of it is removed", id);
    if (visit_forget(service, id)) {
        free(removal);
        return;
    }
    network_expect(service->options.networks, id, false, &ignored);
    service->pending++;
    loop_work(service->options.loop, remove_left, on_removed, removal);
}

static void drop(struct leftover *leftover)
{
    list_remove(&leftover->link);
    free(leftover);
}

static void on_operation(const struct store_event *event, void *context)
{
    struct machine_service *service = context;
    (void)event;
    LIST_EACH(node, &service->leftovers)
    {
        struct leftover *leftover = LIST_ITEM(node, struct leftover, link);
        struct judging judging = judge(service, leftover->id, leftover->operation);
        if (judging.is_ours) {
            drop(leftover);
        } else if (judging.has_ended && !service->is_over) {
            forget(service, leftover->id);
            drop(leftover);
        }
    }
}

void arrival_watch(struct machine_service *service, const char *id, const char *operation)
{
    struct leftover *leftover = NEW(struct leftover);
    snprintf(leftover->id, sizeof(leftover->id), "%s", id);
    snprintf(leftover->operation, sizeof(leftover->operation), "%s", operation);
    list_push_back(&service->leftovers, &leftover->link);
    if (service->leftover_watch == NULL) {
        service->leftover_watch =
            store_watch_new(service->options.store, "operation", on_operation, service);
    }
}

static void look_at(struct machine_service *service, const char *id)
{
    struct error ignored = {0};
    JSON_OWNED json_t *mark = read_mark(service, id);
    MEMORY_OWNED char *place = arrival_folder(service, id);
    struct judging judging = judge(service, id, json_text(mark, "operation"));
    bool is_whole = json_is_true(json_object_get(mark, "is_whole"));
    if (mark == NULL || judging.is_ours) {
        return;
    }
    if (!is_whole || judging.has_ended) {
        forget(service, id);
        return;
    }
    arrival_watch(service, id, json_text(mark, "operation"));
    if (hypervisor_is_alive(place)) {
        network_expect(service->options.networks, id, true, &ignored);
    }
}

void arrival_sweep(struct machine_service *service)
{
    MEMORY_OWNED char *above = memory_format("%s/arriving", service->folder);
    DIR *folder = opendir(above);
    const struct dirent *entry = NULL;
    list_init(&service->leftovers);
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        char id[MACHINE_ID_SIZE];
        if (strlen(entry->d_name) == MACHINE_ID_SIZE - 1 + strlen(MARK) &&
            strcmp(entry->d_name + MACHINE_ID_SIZE - 1, MARK) == 0) {
            snprintf(id, sizeof(id), "%.16s", entry->d_name);
            look_at(service, id);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

void arrival_sweep_end(struct machine_service *service)
{
    store_watch_free(service->leftover_watch);
    while (!list_is_empty(&service->leftovers)) {
        drop(LIST_FIRST(&service->leftovers, struct leftover, link));
    }
}
