/*
 * The store: libraft and the state machine on one loop.
 *
 * All proposals that wait become one entry, and at most ENTRIES_IN_FLIGHT entries are under way:
 * that is what makes many writers cheap.  Results travel by (origin, sequence) inside the entry and
 * not by the order of libraft's callbacks, which differs between its versions.
 */
#include "engine/store/store.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

enum {
    ENTRIES_IN_FLIGHT = 4,
    ENTRY_BYTES = 256 << 10,
    COMMAND_BYTES_MAX = 1 << 20,
    MARK_DELAY_MS = 100,
};

/* ---- Proposing ---- */

static void finish(struct proposal *proposal, const struct error *error)
{
    if (proposal->done != NULL) {
        proposal->done(error, proposal->index, proposal->context);
    }
    store_command_free(proposal->command);
    free(proposal);
}

void store_fail_waiting(struct store *store, const struct error *error)
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

void store_mark_now(void *context)
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
    store_fail_waiting(store, error);
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
        !store->flush_posted && !store->reads_posted && !store->read_barrier_runs;
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
    const struct store_command *commands[STORE_PROPOSALS_MAX];
    size_t size = 0;
    entry->store = store;
    entry->sequence = ++store->sequence;
    entry->proposals = memory_new(store->waiting_count, sizeof(struct proposal *));
    LIST_EACH(node, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(node, struct proposal, link);
        size += proposal->command->bytes.used;
        if (entry->count > 0 && (size > ENTRY_BYTES || entry->count == STORE_PROPOSALS_MAX)) {
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
            store_fail_waiting(store, &error);
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

void store_settle(struct store *store)
{
    CHECK(loop_is_mine(store->loop) && !store->settling);
    store->settling = true;
    while (!is_settled(store)) {
        loop_run(store->loop);
    }
    store->settling = false;
}

/* ---- Linearizable reads ---- */

struct read {
    struct list_node link;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void confirm_reads(void *argument);

static void end_reads(struct list *reads, const struct error *error)
{
    LIST_EACH(node, reads)
    {
        struct read *read = LIST_ITEM(node, struct read, link);
        list_remove(node);
        read->done(error, read->context);
        free(read);
    }
}

static void on_read_barrier(struct raft_barrier *barrier, int status)
{
    struct store *store = barrier->data;
    struct error error = {0};
    store->read_barrier_runs = false;
    if (status != 0) {
        translate(status, &error);
    }
    end_reads(&store->confirming, status != 0 ? &error : NULL);
    if (store->closing) {
        uv_stop(loop_uv(store->loop)); /* store_close() waits */
    }
    if (!list_is_empty(&store->reads) && !store->reads_posted) {
        confirm_reads(store);
    }
    look_whether_settled(store);
}

/* One barrier for all that came before it. */
static void confirm_reads(void *argument)
{
    struct store *store = argument;
    store->reads_posted = false;
    if (store->read_barrier_runs) {
        return; /* its end begins the next */
    }
    LIST_EACH(node, &store->reads)
    {
        list_remove(node);
        list_push_back(&store->confirming, node);
    }
    store->read_barrier.data = store;
    store->read_barrier_runs = true;
    int r = store->closing ? RAFT_SHUTDOWN
                           : raft_barrier(&store->raft, &store->read_barrier, on_read_barrier);
    if (r != 0) {
        on_read_barrier(&store->read_barrier, r);
    }
}

void store_barrier(struct store *store, void (*done)(const struct error *error, void *context),
                   void *context)
{
    CHECK(loop_is_mine(store->loop));
    struct read *read = NEW(struct read);
    read->done = done;
    read->context = context;
    list_push_back(&store->reads, &read->link);
    if (!store->reads_posted) {
        store->reads_posted = true;
        loop_post(store->loop, confirm_reads, store);
    }
}

/* ---- Reading ---- */

uint64_t store_index(const struct store *store)
{
    return machine_index(store->machine);
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
