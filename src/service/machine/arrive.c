/*
 * A machine that arrives from another node, which still owns it.
 *
 * Its archive (package.h) is fetched as a blob, unpacked in FOLDER/cloning, verified, and laid out
 * in FOLDER/arriving/ID (snapshots: ID.snapshots).  Nothing runs from there: it is moved to its
 * place when the row says that the machine is this node's (disk.c).  From then on it may be the
 * only copy, and a row that was read may be an old one: so what is in `arriving` is never removed
 * for its age, only when the owner says so or sends it anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/package.h"
#include "service/machine/snapshot.h"
#include "service/peer/peer.h"

struct machine_arrival {
    struct list_node link;
    struct machine_service *service;
    char *key;
    char *blob; /* "": what is here goes */
    char id[MACHINE_ID_SIZE];
    char *node;    /* that has it, as the row says */
    uint64_t from; /* the same, that asks */
    json_t *config;
    json_t *snapshots; /* name: id */
    json_t *manifest;
    char *unpacked;
    char *place;
    char *place_snapshots;
    struct peer_fetch *fetch;
    bool is_cancelled;
    bool is_forgotten; /* which is what was asked for */
    struct error error;
    machine_done *done;
    void *context;
};

char *arrival_folder(const struct machine_service *service, const char *id)
{
    return memory_format("%s/arriving/%s", service->folder, id);
}

/* ---- The end ---- */

static void clean_up(void *context)
{
    struct machine_arrival *arrival = context;
    struct error ignored = {0};
    file_remove_tree(arrival->unpacked, &ignored);
    if (arrival->error.kind != ERROR_NONE) {
        hypervisor_end(arrival->place);
        file_remove_tree(arrival->place, &ignored);
        file_remove_tree(arrival->place_snapshots, &ignored);
    }
    if (arrival->blob[0] != '\0') {
        migration_remove_archive(arrival->service, arrival->blob);
    }
}

static void on_cleaned_up(void *context)
{
    struct machine_arrival *arrival = context;
    const struct error *error =
        arrival->error.kind != ERROR_NONE && !arrival->is_forgotten ? &arrival->error : NULL;
    if (error != NULL) {
        log_warn("machine %s does not come here: %s", arrival->key, error->text);
    }
    list_remove(&arrival->link);
    arrival->service->pending--;
    arrival->done(error, 0, arrival->context);
    json_decref(arrival->config);
    json_decref(arrival->snapshots);
    json_decref(arrival->manifest);
    free(arrival->key);
    free(arrival->blob);
    free(arrival->node);
    free(arrival->unpacked);
    free(arrival->place);
    free(arrival->place_snapshots);
    free(arrival);
}

static void end(struct machine_arrival *arrival)
{
    if (arrival->is_cancelled && arrival->error.kind == ERROR_NONE) {
        error_set(&arrival->error, ERROR_CANCELLED, "the migration was given up");
    }
    loop_work(arrival->service->options.loop, clean_up, on_cleaned_up, arrival);
}

void machine_arrival_cancel(struct machine_arrival *arrival)
{
    bool was_cancelled = arrival->is_cancelled;
    arrival->is_cancelled = true;
    if (arrival->fetch != NULL && !was_cancelled) {
        peer_fetch_free(arrival->fetch);
        arrival->fetch = NULL;
        end(arrival);
    }
}

void arrivals_abandon(struct machine_service *service)
{
    LIST_EACH(node, &service->arrivals)
    {
        machine_arrival_cancel(LIST_ITEM(node, struct machine_arrival, link));
    }
}

/* ---- Unpacking ---- */

static int take_snapshots(struct machine_arrival *arrival, struct error *err)
{
    size_t index = 0;
    json_t *one = NULL;
    const json_t *list = json_object_get(arrival->manifest, "snapshots");
    if (json_array_size(list) > 0 && file_make_folder(arrival->place_snapshots, 0711, err) < 0) {
        return -(int)err->kind;
    }
    json_array_foreach(list, index, one)
    {
        const char *name = json_text(one, "name");
        const char *id = json_text(arrival->snapshots, name);
        MEMORY_OWNED char *from = memory_format("%s/snapshots/%s", arrival->unpacked, name);
        MEMORY_OWNED char *to = memory_format("%s/%s", arrival->place_snapshots, id);
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

/* The node that has it removes its own copy when this one is the machine's. */
static int make_durable(const struct machine_arrival *arrival, struct error *err)
{
    FD_OWNED int fd = open(arrival->place, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    return fd >= 0 && syncfs(fd) == 0 ? 0 : error_os(err, errno, "writing %s", arrival->place);
}

/* A raw disk stays one, where clones have theirs laid over it: nobody shares this one. */
static int lay_out(const struct machine_arrival *arrival, struct error *err)
{
    const struct content_use use = {.uid = disk_uid_of(arrival->id)};
    MEMORY_OWNED char *content = memory_format("%s/content", arrival->unpacked);
    MEMORY_OWNED char *from = memory_format("%s/disk.raw", content);
    MEMORY_OWNED char *to = memory_format("%s/disk.raw", arrival->place);
    if (!file_exists(from)) {
        return content_lay_out(content, arrival->place, &use, err);
    }
    if (file_make_folder(arrival->place, 0711, err) < 0) {
        return -(int)err->kind;
    }
    return rename(from, to) == 0 && chmod(to, 0600) == 0 &&
            (geteuid() != 0 || chown(to, use.uid, use.uid) == 0)
        ? 0
        : error_os(err, errno, "moving %s to %s", from, to);
}

static void unpack(void *context)
{
    struct machine_arrival *arrival = context;
    struct error *err = &arrival->error;
    struct image_store *images = arrival->service->options.images;
    MEMORY_OWNED char *above = memory_format("%s/arriving", arrival->service->folder);
    FD_OWNED int fd = -1;
    uint64_t size = 0;
    hypervisor_end(arrival->place);
    int r = file_remove_tree(arrival->place, err);
    r = r < 0 ? r : file_remove_tree(arrival->place_snapshots, err);
    r = r < 0 ? r : file_make_folder(above, 0711, err);
    r = r < 0 ? r : image_open(images, arrival->blob, &fd, &size, err);
    r = r < 0 ? r : package_read(fd, arrival->unpacked, images, &arrival->manifest, err);
    r = r < 0 ? r : lay_out(arrival, err);
    r = r < 0 ? r : take_snapshots(arrival, err);
    if (r == 0) {
        make_durable(arrival, err);
    }
}

static void on_unpacked(void *context)
{
    end(context);
}

static void on_fetched(const struct error *error, void *context)
{
    struct machine_arrival *arrival = context;
    arrival->fetch = NULL;
    if (error != NULL) {
        arrival->error = *error;
        end(arrival);
        return;
    }
    loop_work(arrival->service->options.loop, unpack, on_unpacked, arrival);
}

/* ---- Is it welcome? ---- */

static bool take_machine(sqlite3_stmt *row, void *context)
{
    struct machine_arrival *arrival = context;
    struct error ignored = {0};
    const char *config = (const char *)sqlite3_column_text(row, 2);
    if (strcmp((const char *)sqlite3_column_text(row, 0), arrival->id) == 0) {
        arrival->node = memory_copy_string((const char *)sqlite3_column_text(row, 1));
        json_read(config, strlen(config), &arrival->config, &ignored);
    }
    return false;
}

static bool take_snapshot(sqlite3_stmt *row, void *context)
{
    const struct machine_arrival *arrival = context;
    json_object_set_new(arrival->snapshots, (const char *)sqlite3_column_text(row, 0),
                        json_string((const char *)sqlite3_column_text(row, 1)));
    return true;
}

static int check(struct machine_arrival *arrival, struct error *err)
{
    struct machine_service *service = arrival->service;
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, arrival->id);
    int r = store_query(service->options.store, err, take_machine, arrival,
                        "SELECT id, node, config FROM machine WHERE key = ?", "t", arrival->key);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_snapshot, arrival,
                            "SELECT name, id FROM machine_snapshot WHERE machine_id = ? AND state "
                            "= 'ready'",
                            "t", arrival->id);
    if (r < 0) {
        return r;
    }
    if (arrival->config == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "node %s does not know the machine yet",
                         service->node_name);
    }
    if (strcmp(arrival->node, service->node_name) == 0) {
        return error_set(err, ERROR_CONFLICT, "the machine is on node %s already",
                         service->node_name);
    }
    LIST_EACH(node, &service->arrivals)
    {
        if (strcmp(LIST_ITEM(node, struct machine_arrival, link)->key, arrival->key) == 0) {
            return error_set(err, ERROR_CONFLICT,
                             "an earlier migration of the machine is still being ended on node %s",
                             service->node_name);
        }
    }
    if (file_exists(folder)) {
        return error_set(err, ERROR_EXISTS,
                         "node %s still has %s of an earlier stay of the machine: remove it there",
                         service->node_name, folder);
    }
    return arrival->blob[0] != '\0' ? request_check_fit(service, arrival->config, err) : 0;
}

static bool is_machine_id(const char *text)
{
    return strlen(text) == MACHINE_ID_SIZE - 1 &&
        strspn(text, "0123456789abcdef") == MACHINE_ID_SIZE - 1;
}

static void begin(void *context)
{
    struct machine_arrival *arrival = context;
    struct machine_service *service = arrival->service;
    if (arrival->error.kind == ERROR_NONE) {
        visit_forget(service, arrival->id);
    }
    if (arrival->error.kind != ERROR_NONE) {
        on_cleaned_up(arrival); /* nothing was touched */
    } else if (arrival->blob[0] == '\0') {
        arrival->is_forgotten = true;
        error_set(&arrival->error, ERROR_CANCELLED, "the node that has it has given up");
        end(arrival);
    } else if (arrival->is_cancelled || service->is_over) {
        end(arrival);
    } else {
        free(migration_mark(service, arrival->blob));
        arrival->fetch = peer_fetch_new(service->options.blobs, arrival->blob, &arrival->from, 1,
                                        on_fetched, arrival);
    }
}

struct machine_arrival *machine_arrive(struct machine_service *service, const char *project,
                                       const char *name, uint64_t from, const json_t *body,
                                       machine_done *done, void *context)
{
    struct machine_arrival *arrival = NEW(struct machine_arrival);
    const char *id = json_text(body, "id");
    char unique[MACHINE_ID_SIZE];
    random_hex(unique, MACHINE_ID_SIZE - 1);
    *arrival = (struct machine_arrival){
        .service = service,
        .key = memory_format("%s/%s", project, name),
        .blob = memory_copy_string(json_text(body, "blob")),
        .from = from,
        .snapshots = json_object(),
        .unpacked = memory_format("%s/cloning/%s", service->folder, unique),
        .done = done,
        .context = context,
    };
    struct error *err = &arrival->error;
    snprintf(arrival->id, sizeof(arrival->id), "%s", is_machine_id(id) ? id : "");
    arrival->place = arrival_folder(service, arrival->id);
    arrival->place_snapshots = memory_format("%s.snapshots", arrival->place);
    if (arrival->id[0] == '\0' || (arrival->blob[0] != '\0' && !image_id_is_good(arrival->blob))) {
        error_set(err, ERROR_INVALID, "an id has 16 hex digits, the name of a blob 64");
    } else if (!snapshot_is_known(service)) {
        error_set(err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    } else {
        check(arrival, err);
    }
    list_push_back(&service->arrivals, &arrival->link);
    service->pending++;
    loop_post(service->options.loop, begin, arrival);
    return arrival;
}
