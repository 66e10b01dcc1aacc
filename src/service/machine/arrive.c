/*
 * A machine that arrives from another node, which still owns it.
 *
 * Its archive (package.h) is fetched as a blob, unpacked in FOLDER/cloning, verified, and laid out
 * in FOLDER/arriving/ID (arrive_files.c).  Nothing runs from there: it is moved to its place when
 * the row says that the machine is this node's (disk.c).  From then on it may be the only copy, and
 * a row that was read may be an old one: so what is in `arriving` is never removed for its age.
 */
#include "service/machine/arrive.h"

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

#include "service/machine/package.h"
#include "service/machine/snapshot.h"
#include "service/peer/peer.h"
#include "service/replica/replica.h"

struct machine_arrival {
    struct list_node link;
    struct machine_service *service;
    char *key;
    char id[MACHINE_ID_SIZE];
    char *node;    /* that has it, as the row says */
    uint64_t from; /* the same, that asks */
    json_t *config;
    struct arrival_files files; /* without a blob: what is here goes */
    size_t fetched;             /* of its image's blobs; then the archive */
    struct peer_fetch *fetch;
    bool is_cancelled;
    bool is_forgotten; /* which is what was asked for */
    bool is_question;  /* would it be welcome? */
    char *vmm;         /* that goes on with it; "": none */
    struct error error;
    machine_done *done;
    void *context;
};

/* ---- The end ---- */

static void clean_up(void *context)
{
    struct machine_arrival *arrival = context;
    struct error ignored = {0};
    file_remove_tree(arrival->files.unpacked, &ignored);
    if (arrival->error.kind != ERROR_NONE) {
        arrival_remove(arrival->service, arrival->id);
    }
    if (arrival->files.blob[0] != '\0') {
        migration_remove_archive(arrival->service, arrival->files.blob);
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
    if (arrival->error.kind == ERROR_NONE && !arrival->is_question) {
        arrival_watch(arrival->service, arrival->id, arrival->files.operation);
    }
    list_remove(&arrival->link);
    arrival->service->pending--;
    arrival->done(error, 0, arrival->context);
    json_decref(arrival->config);
    arrival_files_done(&arrival->files);
    free(arrival->key);
    free(arrival->node);
    free(arrival->vmm);
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

static void unpack(void *context)
{
    struct machine_arrival *arrival = context;
    struct error *err = &arrival->error;
    int r = arrival_begin(&arrival->files, false, err);
    r = r < 0 ? r : arrival_unpack(&arrival->files, err);
    r = r < 0 ? r : arrival_place(&arrival->files, err);
    r = r < 0 ? r : arrival_rebase(&arrival->files, arrival->config, err);
    if (r == 0) { /* the node that has it removes its own copy when this one is the machine's */
        arrival_seal(&arrival->files, err);
    }
}

static void on_unpacked(void *context)
{
    end(context);
}

static void fetch_next(struct machine_arrival *arrival);

static void on_fetched(const struct error *error, void *context)
{
    struct machine_arrival *arrival = context;
    arrival->fetch = NULL;
    if (error != NULL) {
        arrival->error = *error;
        end(arrival);
        return;
    }
    arrival->fetched++;
    fetch_next(arrival);
}

/* Of its image what is not here yet; then the archive. */
static void fetch_next(struct machine_arrival *arrival)
{
    const struct machine_options *options = &arrival->service->options;
    for (; arrival->fetched <= REPLICA_PARTS; arrival->fetched++) {
        const char *blob = arrival->fetched < REPLICA_PARTS
            ? json_text(arrival->config, replica_parts[arrival->fetched])
            : arrival->files.blob;
        if (blob[0] != '\0' && !image_exists(options->images, blob)) {
            bool is_image = arrival->fetched < REPLICA_PARTS;
            const struct peer_wanted wanted = {.id = blob,
                                               .bytes_max = is_image
                                                   ? json_u64(arrival->config, "image_bytes")
                                                   : arrival->files.blob_bytes,
                                               .first = &arrival->from,
                                               .first_count = 1};
            arrival->fetch = peer_fetch_new(options->blobs, &wanted, on_fetched, arrival);
            return;
        }
    }
    loop_work(options->loop, unpack, on_unpacked, arrival);
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

static int check(struct machine_arrival *arrival, struct error *err)
{
    struct machine_service *service = arrival->service;
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, arrival->id);
    int r = store_query(service->options.store, err, take_machine, arrival,
                        "SELECT id, node, config FROM machine WHERE key = ?", "t", arrival->key);
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
    MEMORY_OWNED char *leaving = memory_format("%s/" MIGRATION_MARK, folder);
    if (file_exists(leaving)) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "node %s is still removing what it had of the machine: try again",
                         service->node_name);
    }
    if (file_exists(folder)) {
        return error_set(err, ERROR_EXISTS,
                         "node %s still has %s of an earlier stay of the machine: remove it there",
                         service->node_name, folder);
    }
    if (arrival->files.blob[0] == '\0' && !arrival->is_question) {
        return 0;
    }
    r = arrival->vmm[0] != '\0' ? arrival_check_vmm(service, arrival->config, arrival->vmm, err)
                                : 0;
    r = r < 0 ? r : request_check_fit(service, arrival->config, err);
    r = r < 0 ? r : limits_check_pages(service, arrival->config, err);
    r = r < 0 ? r : network_check_machine(service->options.networks, arrival->id, err);
    r = r < 0 ? r : arrival_check_room(&arrival->files, err);
    return r < 0 ? r : shares_check_here(service, arrival->config, err);
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
    if (arrival->error.kind == ERROR_NONE && !arrival->is_question) {
        visit_forget(service, arrival->id);
    }
    if (arrival->error.kind != ERROR_NONE || arrival->is_question) {
        on_cleaned_up(arrival); /* nothing was touched */
    } else if (arrival->files.blob[0] == '\0') {
        arrival->is_forgotten = true;
        error_set(&arrival->error, ERROR_CANCELLED, "the node that has it has given up");
        end(arrival);
    } else if (arrival->is_cancelled || service->is_over) {
        end(arrival);
    } else {
        free(migration_mark(service, arrival->files.blob));
        fetch_next(arrival);
    }
}

struct machine_arrival *machine_arrive(struct machine_service *service, const char *project,
                                       const char *name, uint64_t from, const json_t *body,
                                       machine_done *done, void *context)
{
    struct machine_arrival *arrival = NEW(struct machine_arrival);
    const char *id = json_text(body, "id");
    *arrival = (struct machine_arrival){
        .service = service,
        .key = memory_format("%s/%s", project, name),
        .from = from,
        .is_question = json_is_true(json_object_get(body, "is_question")),
        .vmm = memory_copy_string(json_text(body, "vmm")),
        .done = done,
        .context = context,
    };
    struct error *err = &arrival->error;
    snprintf(arrival->id, sizeof(arrival->id), "%s", is_machine_id(id) ? id : "");
    int r = arrival_files_init(&arrival->files, service, arrival->key, arrival->id, body, err);
    if (arrival->id[0] == '\0') {
        error_set(err, ERROR_INVALID, "an id has 16 hex digits");
    } else if (r == 0 && !snapshot_is_known(service)) {
        error_set(err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    } else if (r == 0) {
        check(arrival, err);
    }
    list_push_back(&service->arrivals, &arrival->link);
    service->pending++;
    loop_post(service->options.loop, begin, arrival);
    return arrival;
}
