/*
 * The store: the state machine, whoever feeds it, and what is read from it.
 */
#include "engine/store/store.h"

#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

/* ---- Applying ---- */

int store_apply(struct store *store, const uint8_t *bytes, size_t length,
                struct machine_entry *ret_entry)
{
    bool is_applied = false;
    if (machine_apply(store->machine, bytes, length, ret_entry, &is_applied, &store->failure) < 0) {
        return -(int)store->failure.kind;
    }
    store->log_bytes += length;
    store->log_entries++;
    if (ret_entry->count == 0) {
        feed_keep(store, ret_entry, bytes, length);
        store_on_mark(store, ret_entry->sequence);
    } else if (is_applied) {
        feed_keep(store, ret_entry, bytes, length);
        store_mark_soon(store);
        store_on_reached(store);
    }
    return 0;
}

void store_on_restored(struct store *store)
{
    store->restored = machine_index(store->machine);
    store->event_count = 0;
    feeds_forget(store);
    store_give_up_unseen(store);
    store_tell_replaced(store);
    store_on_reached(store);
}

/* ---- Who leads ---- */

uint64_t store_now_ms(const struct store *store)
{
    return loop_now_ms(store->loop);
}

bool store_leads(const struct store *store)
{
    return store->quorum != NULL && store->quorum->is_ready;
}

bool store_is_alone(const struct store *store)
{
    return store->options.network.dial == NULL;
}

void store_set_leader(struct store *store, uint64_t id, uint64_t term)
{
    if (store->leader_id == id && store->leader_term == term) {
        return;
    }
    if (id == 0 && store->leader_id != 0) {
        store->leaderless_since_ms = store_now_ms(store);
    }
    store->leader_id = id;
    store->leader_term = term;
    store->leader_since_ms = store_now_ms(store);
    store->read_asked = 0;
    if (id != 0) {
        store_flush_soon(store);
        store_ask_reads(store);
    }
    store_look_at_handover(store);
    if (store->options.on_leader != NULL && store->is_open) {
        store->options.on_leader(store->options.context);
    }
}

/* ---- Reading ---- */

uint64_t store_index(const struct store *store)
{
    return machine_index(store->machine);
}

bool store_take_u64(sqlite3_stmt *row, void *context)
{
    *(uint64_t *)context = (uint64_t)sqlite3_column_int64(row, 0);
    return false;
}

bool store_take_any(sqlite3_stmt *row, void *context)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

bool store_take_text(sqlite3_stmt *row, void *context)
{
    *(char **)context = memory_copy_string(store_text(row, 0));
    return false;
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

static void take_servers(const struct store *store, struct store_status *ret_status)
{
    const struct raft *raft = &store->quorum->raft;
    for (unsigned i = 0; i < raft->configuration.n && i < STORE_SERVERS_MAX; i++) {
        const struct raft_server *server = &raft->configuration.servers[i];
        struct store_server *ret = &ret_status->servers[ret_status->server_count++];
        struct link *link = link_find((struct store *)(uintptr_t)store, server->id, 0);
        *ret = (struct store_server){
            .id = server->id,
            .votes = server->role == RAFT_VOTER,
            .is_connected =
                server->id == store->folder.node_id || (link != NULL && link->stream != NULL),
        };
        if (raft->state == RAFT_LEADER) {
            ret->match = server->id == store->folder.node_id
                ? raft->last_stored
                : raft->leader_state.progress[i].match_index;
        }
    }
}

void store_status(const struct store *store, struct store_status *ret_status)
{
    struct error err = {0};
    uint64_t bytes = 0;
    struct quorum *quorum = store->quorum;
    store_query((struct store *)(uintptr_t)store, &err, store_take_u64, &bytes,
                "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()", "");
    *ret_status = (struct store_status){
        .ready = store_is_ready(store),
        .role = store->options.role,
        .is_leader = store_leads(store),
        .leader_id = store->leader_id,
        .followed_id = quorum == NULL ? store->follow.current : 0,
        .node_id = store->folder.node_id,
        .term = quorum != NULL ? quorum->raft.current_term : store->leader_term,
        .index = store_index(store),
        .log_index = quorum != NULL ? raft_last_index(&quorum->raft) : 0,
        .log_end = quorum != NULL ? quorum->loaded : 0,
        .database_bytes = bytes,
        .snapshots = store->snapshots,
        .commands = store_index(store),
        .commands_failed = machine_failures(store->machine),
        .marked_index = store->marked,
    };
    if (quorum != NULL && quorum->raft_is_open) {
        take_servers(store, ret_status);
    }
}
