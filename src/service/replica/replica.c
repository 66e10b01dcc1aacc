/*
 * Looking at which blobs are wanted, had, and to be had here.
 *
 * A look reads the state and compares: what this node says of itself and what is on its disk goes
 * into one command, and the first blob that it is to have and has not is fetched.  Looks follow a
 * change by a moment, so that many changes are one look, and come by themselves now and then: a
 * blob may be put on this node's disk, or be damaged there, without a row that changes.
 */
#include "service/replica/replica.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"
#include "service/replica/choose.h"

enum {
    SOON_MS = 500,
    LOOK_MS = 30000,
    CANNOT_MS = 600000, /* who could not take a blob is asked again after that */
    NODES_MAX = 1024,   /* that are looked at: the nearest */
    ROWS_MAX = 256,     /* of a command */
    EXPECT_MS = 3600000,
};

struct replica_service {
    struct replica_options options;
    bool (*needs)(const char *blob, void *context); /* or NULL */
    void *needs_context;
    struct map unwanted; /* blobs of this node to struct unwanted */
    struct loop_timer *timer;
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct peer_fetch *fetch;
    char *fetched;   /* its blob */
    uint64_t due_ms; /* when the next look comes, by the monotonic clock; 0: none is due */
    uint64_t view;   /* digest of the picture that was looked at last */
    unsigned pending;
    bool is_writing;
    bool is_over;
};

/* When nothing was seen to want it first, or until when somebody is expected to. */
struct unwanted {
    uint64_t since_ms; /* by the boot clock */
    bool is_expected;  /* it was uploaded here: its file is this node's to remove */
};

/* A blob that is wanted, or that a node has said something of. */
struct wanted {
    uint64_t bytes_max;
    bool is_wanted;
    struct holder *holders;
    size_t count;
};

struct holder {
    char *node;
    bool has;
    bool cannot;
};

struct look {
    struct replica_service *service;
    struct cluster_view *view;
    struct map wanted;
    uint64_t now_ms;
    struct store_command *command;
    size_t rows;
    const char *next; /* blob that is to be fetched; NULL: none */
    uint64_t next_bytes_max;
};

/* ---- What there is ---- */

static struct wanted *wanted_of(struct look *look, const char *blob)
{
    struct wanted *wanted = map_get(&look->wanted, blob);
    if (wanted == NULL) {
        wanted = NEW(struct wanted);
        map_set(&look->wanted, blob, wanted);
    }
    return wanted;
}

static void free_wanted(const char *blob, void *value, void *context)
{
    struct wanted *wanted = value;
    (void)blob;
    (void)context;
    for (size_t i = 0; i < wanted->count; i++) {
        free(wanted->holders[i].node);
    }
    free(wanted->holders);
    free(wanted);
}

/* A row: the parts, then how large all of them are. */
static bool take_wanted(sqlite3_stmt *row, void *context)
{
    uint64_t bytes_max = (uint64_t)sqlite3_column_int64(row, REPLICA_PARTS);
    for (int i = 0; i < REPLICA_PARTS; i++) {
        const char *blob = store_text(row, i);
        if (image_id_is_good(blob)) {
            struct wanted *wanted = wanted_of(context, blob);
            wanted->is_wanted = true;
            wanted->bytes_max = bytes_max > wanted->bytes_max ? bytes_max : wanted->bytes_max;
        }
    }
    return true;
}

/* What a node without a disk for it has said counts for some time, by whatever clock. */
static bool is_recent(const struct look *look, uint64_t at_ms)
{
    return at_ms <= look->now_ms + CANNOT_MS && look->now_ms < at_ms + CANNOT_MS;
}

static bool take_holder(sqlite3_stmt *row, void *context)
{
    struct look *look = context;
    struct wanted *wanted = wanted_of(look, store_text(row, 0));
    bool has = store_text(row, 2)[0] == '\0';
    wanted->holders = memory_resize(wanted->holders, (wanted->count + 1) * sizeof(struct holder));
    wanted->holders[wanted->count++] = (struct holder){
        .node = memory_copy_string(store_text(row, 1)),
        .has = has,
        .cannot = !has && is_recent(look, (uint64_t)sqlite3_column_int64(row, 3)),
    };
    return true;
}

#define PARTS \
    "config ->> '$.kernel', config ->> '$.initrd', config ->> '$.root', config ->> '$.disk', "

static int read_state(struct look *look, struct error *err)
{
    struct store *store = look->service->options.store;
    int r = store_query(store, err, take_wanted, look,
                        "SELECT " PARTS "config ->> '$.size_bytes' FROM machine_image", "");
    r = r < 0 ? r
              : store_query(store, err, take_wanted, look,
                            "SELECT " PARTS "config ->> '$.image_bytes' FROM machine WHERE config "
                            "->> '$.node_loss' = 'restart-fresh'",
                            "");
    return r < 0 ? r
                 : store_query(store, err, take_holder, look,
                               "SELECT blob, node, problem, at_ms FROM blob_replica", "");
}

/* ---- What is to be said, and had ---- */

static void say(struct look *look, const char *blob, bool is_here, const char *problem)
{
    const char *node = look->service->options.node_name;
    MEMORY_OWNED char *key = memory_format("%s %s", blob, node);
    if (look->rows == ROWS_MAX) {
        return; /* the next look has the rest */
    }
    look->rows++;
    if (is_here || problem[0] != '\0') {
        store_command_add(look->command,
                          "INSERT OR REPLACE INTO blob_replica (key, blob, node, problem, at_ms, "
                          "revision) VALUES (?, ?, ?, ?, ?, ?)",
                          "ttttur", key, blob, node, problem, look->now_ms);
    } else {
        store_command_add(look->command, "DELETE FROM blob_replica WHERE key = ?", "t", key);
    }
}

static const struct holder *holder_of(const struct wanted *wanted, const char *node)
{
    for (size_t i = 0; i < wanted->count; i++) {
        if (strcmp(wanted->holders[i].node, node) == 0) {
            return &wanted->holders[i];
        }
    }
    return NULL;
}

/* Is this node to have it, and is there somebody to have it of? */
static bool is_to_have(const struct look *look, const char *blob, const struct wanted *wanted)
{
    const struct cluster_view *view = look->view;
    size_t count = view->count < NODES_MAX ? view->count : NODES_MAX;
    struct choose_node *nodes = memory_new(count + 1, sizeof(struct choose_node));
    bool has_source = false;
    bool is_chosen = false;
    for (size_t i = 0; i < count; i++) {
        const struct cluster_node *node = &view->nodes[i];
        const struct holder *holder = holder_of(wanted, node->name);
        bool answers = node->is_self || node->health == CLUSTER_HEALTHY;
        nodes[i] = (struct choose_node){
            .name = node->name,
            .domain = node->zone[0] != '\0' ? node->zone : node->failure_domain,
            .has = holder != NULL && holder->has && !node->is_self,
            .may = answers && node->duty == CLUSTER_ACTIVE,
            .cannot = holder != NULL && holder->cannot,
        };
        has_source = has_source || (nodes[i].has && answers);
    }
    choose(nodes, count, blob, look->service->options.copies);
    for (size_t i = 0; i < count; i++) {
        is_chosen = is_chosen || (view->nodes[i].is_self && nodes[i].is_chosen);
    }
    free(nodes);
    return has_source && is_chosen;
}

static struct unwanted *unwanted_of(struct replica_service *service, const char *blob)
{
    struct unwanted *unwanted = map_get(&service->unwanted, blob);
    if (unwanted == NULL) {
        unwanted = NEW(struct unwanted);
        unwanted->since_ms = clock_boot_ms();
        map_set(&service->unwanted, blob, unwanted);
    }
    return unwanted;
}

void replica_expect(struct replica_service *service, const char *blob)
{
    struct unwanted *unwanted = unwanted_of(service, blob);
    unwanted->since_ms = clock_boot_ms() + EXPECT_MS;
    unwanted->is_expected = true;
}

static void look_at_expected(const char *blob, void *value, void *context)
{
    const struct unwanted *unwanted = value;
    if (unwanted->is_expected) {
        wanted_of(context, blob);
    }
}

/* Has nobody wanted it for long? */
static bool is_old(struct replica_service *service, const struct unwanted *unwanted)
{
    uint64_t now_ms = clock_boot_ms();
    return now_ms >= unwanted->since_ms &&
        now_ms - unwanted->since_ms >= service->options.unused_ms;
}

/* What it says stays true until the blob is gone. */
static void look_at_unwanted(struct look *look, const char *blob, const struct holder *own)
{
    struct replica_service *service = look->service;
    struct error err = {0};
    const struct unwanted *unwanted = unwanted_of(service, blob);
    bool is_ours = (own != NULL && own->has) || unwanted->is_expected;
    if (is_ours && image_exists(service->options.images, blob)) {
        if (service->needs == NULL || !is_old(service, unwanted) ||
            service->needs(blob, service->needs_context)) {
            return;
        }
        if (image_remove(service->options.images, blob, &err) < 0) {
            log_warn("replica: blob %.16s..., which nobody needs, stays: %s", blob, err.text);
            return;
        }
        log_info("replica: blob %.16s... was removed: nobody needs it any more", blob);
    }
    if (own != NULL) {
        say(look, blob, false, "");
    }
    free(map_remove(&service->unwanted, blob));
}

static void look_at(const char *blob, void *value, void *context)
{
    struct look *look = context;
    const struct wanted *wanted = value;
    const struct holder *own = holder_of(wanted, look->service->options.node_name);
    if (!wanted->is_wanted) {
        look_at_unwanted(look, blob, own);
        return;
    }
    bool is_here = image_exists(look->service->options.images, blob);
    free(map_remove(&look->service->unwanted, blob));
    if (is_here != (own != NULL && own->has)) {
        say(look, blob, is_here, "");
    }
    if (!is_here && look->next == NULL && is_to_have(look, blob, wanted)) {
        look->next = blob;
        look->next_bytes_max = wanted->bytes_max;
    }
}

#define GONE "FROM blob_replica WHERE node != ? AND node NOT IN (SELECT key FROM node)"

/* Of nodes that are in the cluster no more, or were in the one that a backup is of; the node that
 * leads says so. */
static void forget_gone(struct look *look)
{
    const struct cluster_view *view = look->view;
    const char *own = look->service->options.node_name;
    struct error ignored = {0};
    uint64_t gone = 0;
    bool leads = view->tls == NULL || (view->count > 0 && view->nodes[0].is_leader);
    if (leads &&
        store_query(look->service->options.store, &ignored, store_take_u64, &gone,
                    "SELECT count(*) " GONE, "t", own) == 0 &&
        gone > 0) {
        store_command_add(look->command, "DELETE " GONE, "t", own);
        look->rows++;
    }
}

/* A look that is due sooner stays due. */
static void later(struct replica_service *service, uint64_t ms)
{
    uint64_t at_ms = clock_monotonic_ms() + ms;
    if (!service->is_over && (service->due_ms == 0 || at_ms < service->due_ms)) {
        service->due_ms = at_ms;
        loop_timer_start(service->timer, ms);
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct replica_service *service = context;
    (void)index;
    service->pending--;
    service->is_writing = false;
    if (error == NULL) {
        later(service, SOON_MS); /* what a command had no room for */
    }
}

static void write_rows(struct look *look)
{
    struct replica_service *service = look->service;
    if (look->rows == 0) {
        store_command_free(look->command);
        return;
    }
    service->is_writing = true;
    service->pending++;
    store_propose(service->options.store, look->command, on_written, service);
}

static void on_fetched(const struct error *error, void *context)
{
    struct replica_service *service = context;
    MEMORY_OWNED char *blob = service->fetched;
    bool is_ours = error != NULL && error->kind != ERROR_UNAVAILABLE &&
        error->kind != ERROR_NOT_FOUND && error->kind != ERROR_CANCELLED;
    service->fetch = NULL;
    service->fetched = NULL;
    if (error == NULL) {
        log_info("replica: blob %.16s... is here now", blob);
        later(service, 0);
        return;
    }
    log_warn("replica: blob %.16s... is not copied to this node: %s", blob, error->text);
    if (!is_ours || service->is_writing) { /* of another node, or it is seen once more */
        later(service, LOOK_MS);
        return;
    }
    struct look look = {
        .service = service, .now_ms = clock_real_ms(), .command = store_command_new()};
    say(&look, blob, false, error->text);
    write_rows(&look);
}

static void look_around(void *context)
{
    struct replica_service *service = context;
    struct error err = {0};
    service->due_ms = 0;
    if (store_schema_now(service->options.store) < REPLICA_SCHEMA || service->is_writing) {
        later(service, LOOK_MS);
        return;
    }
    struct look look = {.service = service,
                        .view = cluster_view_ref(service->options.cluster),
                        .now_ms = clock_real_ms(),
                        .command = store_command_new()};
    if (read_state(&look, &err) < 0) {
        log_warn("replica: the state cannot be read: %s", err.text);
    } else {
        map_each(&service->unwanted, look_at_expected, &look);
        map_each(&look.wanted, look_at, &look);
        forget_gone(&look);
    }
    if (look.next != NULL && service->fetch == NULL) {
        const struct peer_wanted wanted = {.id = look.next, .bytes_max = look.next_bytes_max};
        service->fetched = memory_copy_string(look.next);
        service->fetch = peer_fetch_new(service->options.blobs, &wanted, on_fetched, service);
    }
    write_rows(&look);
    map_each(&look.wanted, free_wanted, NULL);
    map_done(&look.wanted);
    cluster_view_unref(look.view);
    later(service, LOOK_MS);
}

/* ---- Life ---- */

static void on_changed(const struct store_event *event, void *context)
{
    bool is_wanted = strcmp(event->table, "machine_image") == 0 ||
        (strcmp(event->table, "machine") == 0 && event->operation != 'U');
    if (is_wanted || event->operation == 'R' || strcmp(event->table, "blob_replica") == 0) {
        later(context, SOON_MS);
    }
}

/* Who is there and takes work; distances change all the time. */
static void on_view(void *context)
{
    struct replica_service *service = context;
    struct cluster_view *view = cluster_view_ref(service->options.cluster);
    uint64_t digest = view->count;
    for (size_t i = 0; i < view->count; i++) { /* in whatever order they are */
        const struct cluster_node *node = &view->nodes[i];
        uint64_t state =
            ((uint64_t)node->health * CLUSTER_DUTY_COUNT + node->duty) * 2 + node->is_leader;
        digest += (node->id + 1) * (state + 1);
    }
    cluster_view_unref(view);
    if (digest != service->view) {
        service->view = digest;
        later(service, SOON_MS);
    }
}

struct replica_service *replica_service_new(const struct replica_options *options)
{
    static const struct cluster_events events = {.on_view = on_view};
    struct replica_service *service = NEW(struct replica_service);
    service->options = *options;
    service->timer = loop_timer_new(options->loop, look_around, service);
    service->watch = store_watch_new(options->store, NULL, on_changed, service);
    service->listener = cluster_listen(options->cluster, &events, service);
    later(service, SOON_MS);
    return service;
}

void replica_set_needs(struct replica_service *service,
                       bool (*needs)(const char *blob, void *context), void *context)
{
    service->needs = needs;
    service->needs_context = context;
}

static void free_unwanted(const char *blob, void *value, void *context)
{
    (void)blob;
    (void)context;
    free(value);
}

void replica_service_free(struct replica_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    cluster_unlisten(service->listener);
    store_watch_free(service->watch);
    loop_timer_free(service->timer);
    peer_fetch_free(service->fetch);
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    map_each(&service->unwanted, free_unwanted, NULL);
    map_done(&service->unwanted);
    free(service->fetched);
    free(service);
}
