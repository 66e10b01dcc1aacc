/*
 * The store: libraft and the state machine on one loop.
 *
 * All proposals that wait become one entry, and at most ENTRIES_IN_FLIGHT entries are under way:
 * that is what makes many writers cheap.  Results travel by (origin, sequence) inside the entry and
 * not by the order of libraft's callbacks, which differs between its versions.  A leader serves
 * nothing before a barrier of its own term is applied (dissertation 3.6.2 and 6.4).
 */
#include "engine/store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <raft.h>
#include <raft/uv.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/embed.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/command.h"
#include "engine/store/folder.h"
#include "engine/store/machine.h"
#include "engine/store/transport.h"

enum {
    PROPOSALS_MAX = 4096,
    ENTRIES_IN_FLIGHT = 4,
    ENTRY_BYTES = 256 << 10,
    COMMAND_BYTES_MAX = 1 << 20,
    EVENTS_KEPT = 8192,
    SNAPSHOT_ENTRIES = 4096,
    SNAPSHOT_BYTES = 8 << 20,
    TRAILING_ENTRIES = 1024,
    MARK_DELAY_MS = 100,
    READY_LIMIT_MS = 60000,
};

EMBED_LIST(store_schema);

struct proposal {
    struct list_node link;
    struct store_command *command;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
    struct error error; /* kind NONE until refused */
    uint64_t index;     /* 0 until applied */
};

struct entry {
    struct raft_apply request;
    struct list_node link;
    struct store *store;
    uint64_t sequence;
    struct proposal **proposals;
    unsigned count;
};

struct kept_event {
    struct store_event event;
    char table[64];
    char key[256];
};

struct store_watch {
    struct list_node link;
    char table[64]; /* "": all */
    void (*changed)(const struct store_event *event, void *context);
    void *context;
};

struct store {
    struct loop *loop;
    struct store_options options;
    struct folder folder;
    struct raft raft;
    struct raft_io io;
    struct raft_fsm fsm;
    struct raft_uv_transport transport;
    struct machine *machine;
    struct raft_barrier barrier;
    bool barrier_runs;
    bool ready;
    bool closed;
    bool closing;
    bool flush_posted;
    bool raft_is_open;
    struct error failure;       /* of the state machine: it cannot go on */
    struct error write_failure; /* of the disk: no write is taken any more */

    struct list waiting; /* proposals */
    unsigned waiting_count;
    unsigned late_count; /* refused, to be told in a later turn */
    bool settling;
    struct list in_flight; /* entries */
    unsigned in_flight_count;
    uint64_t origin;
    uint64_t sequence;
    uint64_t base; /* commands in the log, applied or not */

    struct loop_timer *mark_timer;
    uint64_t marked;
    uint64_t mark_index; /* being written */
    struct error mark_error;
    bool mark_timer_runs;
    bool mark_runs;

    uint64_t log_bytes; /* applied since the last snapshot */
    uint64_t log_entries;

    struct list watches;
    struct kept_event *events; /* a ring */
    uint64_t event_count;      /* ever kept */
    uint64_t restored;         /* index of the snapshot: no event before it */
    uint64_t snapshots;
};

/* ---- The state machine's side ---- */

static int on_apply(struct raft_fsm *fsm, const struct raft_buffer *bytes, void **result)
{
    struct store *store = fsm->data;
    *result = NULL;
    if (machine_apply(store->machine, bytes->base, bytes->len, &store->failure) < 0) {
        return RAFT_CORRUPT;
    }
    store->log_bytes += bytes->len;
    store->log_entries++;
    if (store->log_bytes >= store->options.snapshot_bytes) {
        /* libraft counts entries only: let it take one now, and keep about as many bytes. */
        raft_set_snapshot_threshold(&store->raft, 1);
        raft_set_snapshot_trailing(&store->raft,
                                   store->log_entries < TRAILING_ENTRIES
                                       ? (unsigned)store->log_entries
                                       : TRAILING_ENTRIES);
    }
    return 0;
}

static int on_snapshot(struct raft_fsm *fsm, struct raft_buffer *ret_buffers[], unsigned *ret_count)
{
    struct store *store = fsm->data;
    struct error err = {0};
    BUFFER_OWNED struct buffer bytes = {0};
    if (machine_snapshot(store->machine, &bytes, &err) < 0) {
        return RAFT_NOMEM;
    }
    /* libraft frees what it gets with raft_free(). */
    struct raft_buffer *buffers = raft_malloc(sizeof(*buffers));
    void *base = raft_malloc(bytes.used);
    if (buffers == NULL || base == NULL) {
        raft_free(buffers);
        raft_free(base);
        return RAFT_NOMEM;
    }
    memcpy(base, bytes.data, bytes.used);
    buffers[0] = (struct raft_buffer){.base = base, .len = bytes.used};
    *ret_buffers = buffers;
    *ret_count = 1;
    store->snapshots++;
    store->log_bytes = 0;
    store->log_entries = 0;
    raft_set_snapshot_threshold(&store->raft, SNAPSHOT_ENTRIES);
    return 0;
}

static int on_restore(struct raft_fsm *fsm, struct raft_buffer *bytes)
{
    struct store *store = fsm->data;
    if (machine_restore(store->machine, bytes->base, bytes->len, &store->failure) < 0) {
        return RAFT_CORRUPT;
    }
    raft_free(bytes->base);
    store->restored = machine_index(store->machine);
    store->event_count = 0;
    return 0;
}

static void on_applied(const struct machine_result *result, void *context)
{
    struct store *store = context;
    if (result->origin != store->origin) {
        return;
    }
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (entry->sequence == result->sequence && result->position < entry->count) {
            struct proposal *proposal = entry->proposals[result->position];
            proposal->index = result->index;
            if (result->error != NULL) {
                proposal->error = *result->error;
            }
            return;
        }
    }
}

static void keep_event(struct store *store, const struct store_event *event)
{
    struct kept_event *kept = &store->events[store->event_count++ % EVENTS_KEPT];
    kept->event = *event;
    snprintf(kept->table, sizeof(kept->table), "%s", event->table);
    snprintf(kept->key, sizeof(kept->key), "%s", event->key);
    kept->event.table = kept->table;
    kept->event.key = kept->key;
}

static void on_changed(const struct store_event *event, void *context)
{
    struct store *store = context;
    keep_event(store, event);
    LIST_EACH(node, &store->watches)
    {
        struct store_watch *watch = LIST_ITEM(node, struct store_watch, link);
        if (watch->table[0] == '\0' || strcmp(watch->table, event->table) == 0) {
            watch->changed(event, watch->context);
        }
    }
}

/* ---- Proposing ---- */

static void finish(struct proposal *proposal, const struct error *error)
{
    if (proposal->done != NULL) {
        proposal->done(error, proposal->index, proposal->context);
    }
    store_command_free(proposal->command);
    free(proposal);
}

static void fail_waiting(struct store *store, const struct error *error)
{
    LIST_EACH(node, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(node, struct proposal, link);
        list_remove(node);
        store->waiting_count--;
        finish(proposal, error);
    }
}

static int translate(int status, struct error *err)
{
    switch (status) {
    case RAFT_NOSPACE:
        return error_set(err, ERROR_FULL, "no space left on the disk of the data folder");
    case RAFT_NOTLEADER:
        return error_set(err, ERROR_NOT_LEADER, "this node cannot write now");
    default:
        /* Submitted, and then something failed: it may come to be or not. */
        return error_set(err, ERROR_UNKNOWN_OUTCOME, "the write may or may not have happened: %s",
                         raft_strerror(status));
    }
}

static void on_marked(void *context);

/* On a thread of the pool. */
static void mark(void *context)
{
    struct store *store = context;
    folder_mark(&store->folder, store->mark_index, &store->mark_error);
}

static void mark_soon(struct store *store)
{
    if (!store->mark_timer_runs && !store->mark_runs && !store->closing) {
        store->mark_timer_runs = true;
        loop_timer_start(store->mark_timer, MARK_DELAY_MS);
    }
}

static void on_mark_time(void *context)
{
    struct store *store = context;
    store->mark_timer_runs = false;
    if (!store->closing) {
        store->mark_runs = true;
        store->mark_index = machine_index(store->machine);
        loop_work(store->loop, mark, on_marked, store);
    }
}

/* The log may have lost or kept what was asked: only a new start can tell. */
static void fail_writes(struct store *store, const struct error *error)
{
    if (store->write_failure.kind != ERROR_NONE || store->closing) {
        return;
    }
    store->write_failure = *error;
    fail_waiting(store, error);
    if (store->options.on_failed != NULL) {
        store->options.on_failed(error, store->options.context);
    }
}

static void on_marked(void *context)
{
    struct store *store = context;
    store->mark_runs = false;
    if (store->mark_error.kind != ERROR_NONE) {
        fail_writes(store, &store->mark_error);
    } else {
        store->marked = store->mark_index;
    }
    if (store->marked < machine_index(store->machine) && store->mark_error.kind == ERROR_NONE) {
        mark_soon(store);
    }
    if (store->closing) {
        uv_stop(loop_uv(store->loop)); /* store_close() waits */
    }
}

static void flush(struct store *store);

static bool is_settled(const struct store *store)
{
    return store->waiting_count == 0 && store->in_flight_count == 0 && store->late_count == 0 &&
        !store->flush_posted;
}

static void look_whether_settled(struct store *store)
{
    if (store->settling && is_settled(store)) {
        uv_stop(loop_uv(store->loop)); /* store_settle() waits */
    }
}

static void on_entry(struct raft_apply *request, int status, void *result)
{
    struct entry *entry = (struct entry *)request;
    struct store *store = entry->store;
    struct error error = {0};
    (void)result;
    if (status != 0) {
        translate(status, &error);
    }
    list_remove(&entry->link);
    store->in_flight_count--;
    for (unsigned i = 0; i < entry->count; i++) {
        struct proposal *proposal = entry->proposals[i];
        const struct error *why = status != 0 ? &error : NULL;
        if (status == 0 && proposal->error.kind != ERROR_NONE) {
            why = &proposal->error;
        }
        finish(proposal, why);
    }
    free(entry->proposals);
    free(entry);
    if (status != 0) {
        fail_writes(store, &error);
    } else {
        mark_soon(store);
    }
    if (store->closing) {
        uv_stop(loop_uv(store->loop)); /* store_close() waits */
        return;
    }
    flush(store);
    look_whether_settled(store);
}

/* As many of the waiting proposals as one entry takes. */
static struct entry *collect(struct store *store, struct buffer *bytes)
{
    struct entry *entry = NEW(struct entry);
    const struct store_command *commands[PROPOSALS_MAX];
    size_t size = 0;
    entry->store = store;
    entry->sequence = ++store->sequence;
    entry->proposals = memory_new(store->waiting_count, sizeof(struct proposal *));
    LIST_EACH(node, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(node, struct proposal, link);
        size += proposal->command->bytes.used;
        if (entry->count > 0 && (size > ENTRY_BYTES || entry->count == PROPOSALS_MAX)) {
            break;
        }
        list_remove(node);
        store->waiting_count--;
        commands[entry->count] = proposal->command;
        entry->proposals[entry->count++] = proposal;
    }
    const struct machine_origin origin = {
        .origin = store->origin, .sequence = entry->sequence, .base = store->base};
    machine_encode_entry(&origin, commands, entry->count, bytes);
    store->base += entry->count;
    return entry;
}

static int submit(struct store *store, struct entry *entry, const struct buffer *bytes)
{
    struct raft_buffer buffer = {.base = raft_malloc(bytes->used), .len = bytes->used};
    if (buffer.base == NULL) {
        return RAFT_NOMEM;
    }
    memcpy(buffer.base, bytes->data, bytes->used);
    int r = raft_apply(&store->raft, &entry->request, &buffer, 1, on_entry);
    if (r == RAFT_NOTLEADER) {
        raft_free(buffer.base); /* other failures may have freed it: better a leak than twice */
    }
    return r;
}

static void flush(struct store *store)
{
    while (!list_is_empty(&store->waiting) && store->in_flight_count < ENTRIES_IN_FLIGHT) {
        struct error error = {0};
        if (!store->ready || raft_state(&store->raft) != RAFT_LEADER) {
            error_set(&error, ERROR_NOT_LEADER, "this node cannot write now");
            fail_waiting(store, &error);
            return;
        }
        BUFFER_OWNED struct buffer bytes = {0};
        struct entry *entry = collect(store, &bytes);
        list_push_back(&store->in_flight, &entry->link);
        store->in_flight_count++;
        int r = submit(store, entry, &bytes);
        if (r != 0) {
            on_entry(&entry->request, r, NULL);
            return;
        }
    }
}

static void flush_posted(void *argument)
{
    struct store *store = argument;
    store->flush_posted = false;
    if (store->closing) {
        uv_stop(loop_uv(store->loop)); /* store_close() waits */
        return;
    }
    flush(store);
    look_whether_settled(store);
}

struct late {
    struct store *store;
    struct proposal *proposal;
    struct error error;
};

static void finish_late(void *argument)
{
    struct late *late = argument;
    late->store->late_count--;
    finish(late->proposal, &late->error);
    look_whether_settled(late->store);
    free(late);
}

/* Never from inside store_propose(): callers rely on it. */
static void refuse(struct store *store, struct proposal *proposal, enum error_kind kind,
                   const char *text)
{
    struct late *late = NEW(struct late);
    late->store = store;
    late->proposal = proposal;
    store->late_count++;
    error_set(&late->error, kind, "%s", text);
    loop_post(store->loop, finish_late, late);
}

void store_propose(struct store *store, struct store_command *owned_command,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context)
{
    CHECK(loop_is_mine(store->loop));
    CHECK(owned_command->statements > 0);

    struct proposal *proposal = NEW(struct proposal);
    proposal->command = owned_command;
    proposal->done = done;
    proposal->context = context;
    if (store->closing) {
        refuse(store, proposal, ERROR_UNAVAILABLE, "the node is shutting down");
    } else if (store->write_failure.kind != ERROR_NONE) {
        refuse(store, proposal, store->write_failure.kind, store->write_failure.text);
    } else if (owned_command->bytes.used > COMMAND_BYTES_MAX) {
        refuse(store, proposal, ERROR_TOO_LARGE, "the change is larger than 1 MiB");
    } else if (store->waiting_count >= store->options.proposals_max) {
        refuse(store, proposal, ERROR_OVERLOADED, "too many changes are waiting");
    } else {
        list_push_back(&store->waiting, &proposal->link);
        store->waiting_count++;
        if (!store->flush_posted) {
            /* At the end of this turn of the loop: what comes until then shares the entry. */
            store->flush_posted = true;
            loop_post(store->loop, flush_posted, store);
        }
    }
}

/* ---- Opening ---- */

static void on_barrier(struct raft_barrier *barrier, int status)
{
    struct store *store = barrier->data;
    store->barrier_runs = false;
    store->ready = status == 0;
    uv_stop(loop_uv(store->loop));
}

static int folder_error(struct store *store, struct error *err)
{
    return error_set(err, store->failure.kind, "%s: %s; restore the folder from a copy",
                     store->folder.path, store->failure.text);
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
        return error_set(err, ERROR_CORRUPT,
                         "the log in %s cannot be read: %s; restore the folder from a copy",
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
    store->fsm = (struct raft_fsm){.version = 1,
                                   .data = store,
                                   .apply = on_apply,
                                   .snapshot = on_snapshot,
                                   .restore = on_restore};
    r = raft_init(&store->raft, &store->io, &store->fsm, store->folder.node_id, address);
    if (r != 0) {
        return log_error_of(store, r, err);
    }
    store->raft_is_open = true;
    raft_set_snapshot_threshold(&store->raft, SNAPSHOT_ENTRIES);
    raft_set_snapshot_trailing(&store->raft, TRAILING_ENTRIES);
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
        store->options.proposals_max = PROPOSALS_MAX;
    }
    if (store->options.snapshot_bytes == 0) {
        store->options.snapshot_bytes = SNAPSHOT_BYTES;
    }
    store->origin = random_u64();
    store->folder.lock_fd = -1;
    store->folder.mark_fd = -1;
    store->events = memory_new(EVENTS_KEPT, sizeof(struct kept_event));
    list_init(&store->waiting);
    list_init(&store->in_flight);
    list_init(&store->watches);

    const struct machine_listener listener = {
        .applied = on_applied, .changed = on_changed, .context = store};
    MEMORY_OWNED char *schema =
        memory_copy_text((const char *)store_schema[0].data, store_schema[0].length);
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
    store->mark_timer = loop_timer_new(loop, on_mark_time, store);
    *ret_store = store;
    return 0;
}

/*
 * What is on its way to the disk arrives first.  libraft 0.15 forgets that it leads when it is
 * closed, and then reads through a null pointer when such a write comes back.
 */
static void wait_for_writing(struct store *store)
{
    while (store->in_flight_count > 0 || store->flush_posted || store->mark_runs) {
        loop_run(store->loop);
    }
}

void store_settle(struct store *store)
{
    CHECK(loop_is_mine(store->loop) && !store->settling);
    store->settling = true;
    while (!is_settled(store)) {
        loop_run(store->loop);
    }
    store->settling = false;
}

void store_close(struct store *store)
{
    if (store == NULL) {
        return;
    }
    struct error err = {0};
    error_set(&err, ERROR_UNAVAILABLE, "the node is shutting down");
    store->closing = true;
    fail_waiting(store, &err);
    wait_for_writing(store);
    close_raft(store);
    if (store->failure.kind == ERROR_NONE) {
        struct error ignored = {0}; /* the next start then knows a little less */
        folder_mark(&store->folder, machine_index(store->machine), &ignored);
    }
    CHECK(list_is_empty(&store->watches));
    free_store(store);
}

/* ---- Reading ---- */

uint64_t store_index(const struct store *store)
{
    return machine_index(store->machine);
}

sqlite3 *store_database(struct store *store)
{
    return machine_database(store->machine);
}

int store_query(struct store *store, struct error *err,
                bool (*row)(sqlite3_stmt *row, void *context), void *context, const char *sql,
                const char *types, ...)
{
    sqlite3_stmt *statement = machine_statement(store->machine, sql, strlen(sql), err);
    if (statement == NULL) {
        return -(int)err->kind;
    }
    CHECK(sqlite3_stmt_readonly(statement));
    va_list arguments;
    va_start(arguments, types);
    int r = command_bind(statement, types, arguments);
    va_end(arguments);
    CHECK(r == SQLITE_OK);
    bool go_on = true;
    while (go_on && (r = sqlite3_step(statement)) == SQLITE_ROW) {
        go_on = row(statement, context);
    }
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    if (go_on && r != SQLITE_DONE) {
        return error_set(err, ERROR_CORRUPT, "the state database: %s", sqlite3_errstr(r));
    }
    return 0;
}

/* ---- Changes ---- */

struct store_watch *store_watch_new(struct store *store, const char *table_or_null,
                                    void (*changed)(const struct store_event *event, void *context),
                                    void *context)
{
    struct store_watch *watch = NEW(struct store_watch);
    snprintf(watch->table, sizeof(watch->table), "%s", table_or_null != NULL ? table_or_null : "");
    watch->changed = changed;
    watch->context = context;
    list_push_back(&store->watches, &watch->link);
    return watch;
}

void store_watch_free(struct store_watch *watch)
{
    if (watch != NULL) {
        list_remove(&watch->link);
        free(watch);
    }
}

bool store_events_since(struct store *store, uint64_t after,
                        void (*visit)(const struct store_event *event, void *context),
                        void *context)
{
    uint64_t first = store->event_count > EVENTS_KEPT ? store->event_count - EVENTS_KEPT : 0;
    /* The oldest kept command may have lost its first rows to the ring. */
    uint64_t whole_after =
        first > 0 ? store->events[first % EVENTS_KEPT].event.index : store->restored;
    if (after < whole_after) {
        return false;
    }
    for (uint64_t i = first; i < store->event_count; i++) {
        const struct store_event *event = &store->events[i % EVENTS_KEPT].event;
        if (event->index > after) {
            visit(event, context);
        }
    }
    return true;
}

/* ---- Facts ---- */

static bool take_integer(sqlite3_stmt *row, void *context)
{
    *(uint64_t *)context = (uint64_t)sqlite3_column_int64(row, 0);
    return false;
}

void store_status(const struct store *store, struct store_status *ret_status)
{
    struct error err = {0};
    uint64_t bytes = 0;
    store_query((struct store *)(uintptr_t)store, &err, take_integer, &bytes,
                "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", "");
    *ret_status = (struct store_status){
        .ready = store->ready,
        .node_id = store->folder.node_id,
        .term = store->raft.current_term,
        .index = store_index(store),
        .log_index = raft_last_index((struct raft *)(uintptr_t)&store->raft),
        .database_bytes = bytes,
        .snapshots = store->snapshots,
        .commands = store_index(store),
        .commands_failed = machine_failures(store->machine),
        .marked_index = store->marked,
    };
}
