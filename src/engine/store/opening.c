/*
 * How a store begins and ends: the folder, libraft, recovery, the schema.
 *
 * A leader serves nothing before a barrier of its own term is applied (dissertation 3.6.2, 6.4).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/private.h"
#include "engine/store/transport.h"

enum { READY_LIMIT_MS = 60000 };

static void on_barrier(struct raft_barrier *barrier, int status)
{
    struct store *store = barrier->data;
    store->barrier_runs = false;
    store->ready = status == 0;
    uv_stop(loop_uv(store->loop));
}

static int folder_error(struct store *store, struct error *err)
{
    return error_set(err, store->failure.kind, "%s: %s; restore a backup", store->folder.path,
                     store->failure.text);
}

/* Why libraft could not start. */
static int log_error_of(struct store *store, int status, struct error *err)
{
    const char *text = raft_errmsg(&store->raft);
    text = text[0] != '\0' ? text : raft_strerror(status);
    if (store->failure.kind != ERROR_NONE) {
        return folder_error(store, err);
    }
    switch (status) {
    case RAFT_NOSPACE:
        return error_set(err, ERROR_FULL, "no space left on the disk of %s: make room",
                         store->folder.path);
    case RAFT_NOMEM:
        return error_set(err, ERROR_LIMIT, "no memory to read the log in %s", store->folder.path);
    default:
        return error_set(err, ERROR_CORRUPT, "the log in %s cannot be read: %s; restore a backup",
                         store->folder.path, text);
    }
}

static int start_raft(struct store *store, struct error *err)
{
    static const char address[] = "local";
    transport_to_nobody(&store->transport);
    int r = raft_uv_init(&store->io, loop_uv(store->loop), store->folder.path, &store->transport);
    if (r != 0) {
        return error_set(err, ERROR_OS, "opening the log in %s: %s", store->folder.path,
                         store->io.errmsg);
    }
    /* Damage is told to people, not repaired behind their back. */
    raft_uv_set_auto_recovery(&store->io, false);
    /* libraft 0.15 never ends when it decompresses a snapshot that was cut; ours has a CRC. */
    raft_uv_set_snapshot_compression(&store->io, false);
    store->fsm = store_fsm;
    store->fsm.data = store;
    r = raft_init(&store->raft, &store->io, &store->fsm, store->folder.node_id, address);
    if (r != 0) {
        return log_error_of(store, r, err);
    }
    store->raft_is_open = true;
    raft_set_snapshot_threshold(&store->raft, STORE_SNAPSHOT_ENTRIES);
    raft_set_snapshot_trailing(&store->raft, STORE_TRAILING_ENTRIES);
    raft_set_pre_vote(&store->raft, true);

    struct raft_configuration configuration;
    raft_configuration_init(&configuration);
    r = raft_configuration_add(&configuration, store->folder.node_id, address, RAFT_VOTER);
    CHECK(r == 0);
    r = raft_bootstrap(&store->raft, &configuration);
    raft_configuration_close(&configuration);
    if (r == 0 || r == RAFT_CANTBOOTSTRAP) {
        r = raft_start(&store->raft);
    }
    return r == 0 ? 0 : log_error_of(store, r, err);
}

static void on_late(void *context)
{
    struct store *store = context;
    uv_stop(loop_uv(store->loop));
}

/* Run the loop until the barrier of this term is applied. */
static int wait_until_ready(struct store *store, struct error *err)
{
    store->barrier.data = store;
    store->barrier_runs = true;
    int r = raft_barrier(&store->raft, &store->barrier, on_barrier);
    if (r != 0) {
        store->barrier_runs = false;
        return error_set(err, ERROR_UNAVAILABLE, "the node did not become leader of itself: %s",
                         raft_strerror(r));
    }
    struct loop_timer *late = loop_timer_new(store->loop, on_late, store);
    loop_timer_start(late, READY_LIMIT_MS);
    loop_run(store->loop);
    loop_timer_free(late);
    if (store->failure.kind != ERROR_NONE) {
        return folder_error(store, err);
    }
    if (!store->ready) {
        return error_set(err, store->barrier_runs ? ERROR_TIMEOUT : ERROR_FULL,
                         "the log in %s cannot be written: %s", store->folder.path,
                         raft_errmsg(&store->raft));
    }
    return 0;
}

/* A log that has less than what was acknowledged has lost something. */
static int check_acknowledged(struct store *store, struct error *err)
{
    uint64_t expected = store->folder.marked;
    uint64_t actual = machine_index(store->machine);
    if (actual < expected) {
        return error_set(err, ERROR_CORRUPT,
                         "the log in %s ends at index %" PRIu64 ", but %" PRIu64
                         " was acknowledged: files are missing or damaged; restore the folder from "
                         "a copy",
                         store->folder.path, actual, expected);
    }
    store->base = actual;
    store->marked = expected;
    return 0;
}

/* ---- The schema ---- */

static bool take_version(sqlite3_stmt *row, void *context)
{
    *(unsigned *)context = (unsigned)sqlite3_column_int64(row, 0);
    return false;
}

static int current_version(struct store *store, unsigned *ret_version, struct error *err)
{
    *ret_version = 1;
    return store_query(store, err, take_version, ret_version,
                       "SELECT value FROM store_meta WHERE key = 'schema'", "");
}

struct step {
    struct store *store;
    struct error error;
    bool is_over;
};

static void on_step(const struct error *error, uint64_t index, void *context)
{
    struct step *step = context;
    (void)index;
    if (error != NULL) {
        step->error = *error;
    }
    step->is_over = true;
    uv_stop(loop_uv(step->store->loop));
}

/* Through the log, like every change: whoever replays it has the same schema at the same index. */
static int upgrade(struct store *store, struct error *err)
{
    unsigned version = 0;
    int r = current_version(store, &version, err);
    if (r == 0 && version > schema_version()) {
        return error_set(
            err, ERROR_UNSUPPORTED,
            "the state in %s was written by a newer Blixard (schema %u, this one knows "
            "%u): start that one",
            store->folder.path, version, schema_version());
    }
    while (r == 0 && version < schema_version()) {
        struct step step = {.store = store};
        store_propose(store, schema_step(++version), on_step, &step);
        while (!step.is_over) {
            loop_run(store->loop);
        }
        if (step.error.kind != ERROR_NONE) {
            *err = step.error;
            r = -(int)err->kind;
        }
    }
    return r;
}

/* ---- Opening and closing ---- */

static void on_closed(struct raft *raft)
{
    struct store *store = raft->data;
    store->closed = true;
    uv_stop(loop_uv(store->loop));
}

static void free_store(struct store *store)
{
    loop_timer_free(store->mark_timer);
    machine_close(store->machine);
    folder_close(&store->folder);
    free(store->events);
    free(store);
}

static void close_raft(struct store *store)
{
    store->closing = true;
    store->raft.data = store;
    if (store->raft_is_open) { /* a raft_init() that failed has freed what it made */
        raft_close(&store->raft, on_closed);
        while (!store->closed) {
            loop_run(store->loop);
        }
    }
    raft_uv_close(&store->io);
}

int store_open(struct loop *loop, const struct store_options *options, struct store **ret_store,
               struct error *err)
{
    struct store *store = NEW(struct store);
    store->loop = loop;
    store->options = *options;
    if (store->options.proposals_max == 0) {
        store->options.proposals_max = STORE_PROPOSALS_MAX;
    }
    if (store->options.snapshot_bytes == 0) {
        store->options.snapshot_bytes = STORE_SNAPSHOT_BYTES;
    }
    store->origin = random_u64();
    store->folder.lock_fd = -1;
    store->folder.mark_fd = -1;
    store->events = memory_new(STORE_EVENTS_KEPT, sizeof(struct kept_event));
    list_init(&store->waiting);
    list_init(&store->in_flight);
    list_init(&store->watches);
    list_init(&store->reads);
    list_init(&store->confirming);
    store->mark_timer = loop_timer_new(loop, store_mark_now, store);

    const struct machine_listener listener = {
        .applied = store_on_applied, .changed = store_on_changed, .context = store};
    MEMORY_OWNED char *schema = schema_first();
    int r = folder_open(options->folder, &store->folder, err);
    if (r == 0) {
        r = machine_open(schema, &listener, &store->machine, err);
    }
    if (r < 0) {
        free_store(store);
        return r;
    }
    r = start_raft(store, err);
    if (r == 0) {
        r = wait_until_ready(store, err);
    }
    if (r == 0) {
        r = check_acknowledged(store, err);
    }
    if (r < 0) {
        close_raft(store);
        free_store(store);
        return r;
    }
    r = upgrade(store, err);
    if (r < 0) {
        store_close(store);
        return r;
    }
    *ret_store = store;
    return 0;
}

/*
 * What is on its way to the disk arrives first.  libraft 0.15 forgets that it leads when it is
 * closed, and then reads through a null pointer when such a write comes back.
 */
static void wait_for_writing(struct store *store)
{
    while (store->in_flight_count > 0 || store->flush_posted || store->mark_runs ||
           store->read_barrier_runs || store->reads_posted) {
        loop_run(store->loop);
    }
}

void store_close(struct store *store)
{
    if (store == NULL) {
        return;
    }
    struct error err = {0};
    error_set(&err, ERROR_UNAVAILABLE, "the node is shutting down");
    store->closing = true;
    store_fail_waiting(store, &err);
    wait_for_writing(store);
    close_raft(store);
    if (store->failure.kind == ERROR_NONE) {
        struct error ignored = {0}; /* the next start then knows a little less */
        folder_mark(&store->folder, machine_index(store->machine), &ignored);
    }
    CHECK(list_is_empty(&store->watches));
    free_store(store);
}
