/*
 * How a store begins and ends: the folder, who feeds it, recovery, the schema; how its role
 * changes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/private.h"

enum { READY_LIMIT_MS = 60000, MARK_DELAY_MS = 100 };

/* ---- Waiting ---- */

/* uv_stop() of a loop that does not run would end its next run. */
void store_run(struct store *store)
{
    store->is_awaited = true;
    loop_run(store->loop);
    store->is_awaited = false;
}

void store_stir(struct store *store)
{
    if (store->is_awaited) {
        uv_stop(loop_uv(store->loop));
    }
}

/* ---- What was acknowledged, on disk ---- */

static void on_marked(void *context);

/* On a thread of the pool. */
static void mark(void *context)
{
    struct store *store = context;
    folder_mark(&store->folder, store->mark_index, &store->mark_error);
}

/* Of a log that is younger than the state: only what it has itself. */
static uint64_t index_to_mark(const struct store *store)
{
    return store->quorum != NULL ? store->quorum->logged : store->marked;
}

void store_mark_soon(struct store *store)
{
    if (store->is_open && !store->mark_timer_runs && !store->mark_runs && !store->closing &&
        store->quorum != NULL) {
        store->mark_timer_runs = true;
        loop_timer_start(store->mark_timer, MARK_DELAY_MS);
    }
}

void store_mark_now(void *context)
{
    struct store *store = context;
    store->mark_timer_runs = false;
    if (!store->closing && index_to_mark(store) > store->marked) {
        store->mark_runs = true;
        store->mark_index = index_to_mark(store);
        loop_work(store->loop, mark, on_marked, store);
    }
}

static void on_marked(void *context)
{
    struct store *store = context;
    store->mark_runs = false;
    if (store->mark_error.kind == ERROR_NONE) {
        store->marked = store->mark_index;
    } else if (store_is_alone(store)) {
        store_fail_writes(store, &store->mark_error);
    } else if (store->quorum != NULL && store->quorum->failure == 0) {
        quorum_fail(store->quorum, RAFT_NOSPACE);
    }
    if (store->marked < index_to_mark(store) && store->mark_error.kind == ERROR_NONE) {
        store_mark_soon(store);
    }
    if (store->closing) {
        store_stir(store); /* store_close() waits */
    }
}

/* ---- Being ready ---- */

bool store_is_ready(const struct store *store)
{
    if (store->failure.kind != ERROR_NONE || !store->is_open) {
        return false;
    }
    if (store->follow.is_on) {
        return store->follow.is_current || store->follow.saved > 0;
    }
    return (store->quorum != NULL && (store->quorum->is_ready || store->quorum->is_current)) ||
        (store->folder.marked > 0 && machine_index(store->machine) >= store->folder.marked);
}

static void on_late(void *context)
{
    struct store *store = context;
    store_stir(store);
}

int store_folder_error(const struct store *store, struct error *err)
{
    return error_set(err, store->failure.kind, "%s: %s%s", store->folder.path, store->failure.text,
                     store->failure.kind == ERROR_CORRUPT ? "; restore a backup" : "");
}

/* Alone: run the loop until the mark of this term is applied. */
static int wait_until_leading(struct store *store, struct error *err)
{
    uint64_t limit_ms = store_now_ms(store) + READY_LIMIT_MS;
    struct loop_timer *late = loop_timer_new(store->loop, on_late, store);
    while (!store_leads(store) && store->failure.kind == ERROR_NONE &&
           store->quorum->failure == 0 && store_now_ms(store) < limit_ms) {
        loop_timer_start(late, STORE_TICK_MS);
        store_run(store);
    }
    loop_timer_free(late);
    if (store->failure.kind != ERROR_NONE) {
        return store_folder_error(store, err);
    }
    if (!store_leads(store)) {
        return error_set(err, store->quorum->failure == 0 ? ERROR_TIMEOUT : ERROR_FULL,
                         "the log in %s cannot be written: %s", store->folder.path,
                         store->quorum->failure != 0 ? raft_strerror(store->quorum->failure)
                                                     : raft_errmsg(&store->quorum->raft));
    }
    return 0;
}

/* Of a newer Blixard: a table that it has and we do not know would be lost on us. */
static int check_schema(struct store *store, struct error *err)
{
    unsigned version = store_schema_now(store);
    return version <= schema_version()
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "the state in %s is of a newer Blixard (schema %u, this one knows %u): start "
                    "that one, or a newer one",
                    store->folder.path, version, schema_version());
}

int store_wait(struct store *store, uint64_t timeout_ms, struct error *err)
{
    uint64_t limit_ms = store_now_ms(store) + timeout_ms;
    struct loop_timer *late = loop_timer_new(store->loop, on_late, store);
    while (!store_is_ready(store) && store->failure.kind == ERROR_NONE &&
           store_now_ms(store) < limit_ms && !loop_is_stopping(store->loop)) {
        loop_timer_start(late, STORE_TICK_MS);
        store_run(store);
    }
    loop_timer_free(late);
    if (store->failure.kind != ERROR_NONE) {
        return store_folder_error(store, err);
    }
    if (!store_is_ready(store)) {
        return loop_is_stopping(store->loop)
            ? error_set(err, ERROR_CANCELLED, "the node was stopped while it waited for the state")
            : error_set(err, ERROR_TIMEOUT,
                        "no server has given this node the state within %" PRIu64 " s: is a "
                        "majority of the servers running, and can they be reached from here?",
                        timeout_ms / 1000);
    }
    return check_schema(store, err);
}

struct catch_up {
    struct store *store;
    struct error error;
    bool is_over;
    bool is_left; /* nobody waits for it any more */
};

static void on_caught_up(const struct error *error, void *context)
{
    struct catch_up *catch_up = context;
    if (catch_up->is_left) {
        free(catch_up);
        return;
    }
    catch_up->error = error != NULL ? *error : (struct error){0};
    catch_up->is_over = true;
    store_stir(catch_up->store);
}

/* Until the barrier is through, or nothing speaks for it coming through any more. */
static void wait_for_barrier(struct catch_up *catch_up, uint64_t leaderless_ms)
{
    struct store *store = catch_up->store;
    uint64_t led_ms = store_now_ms(store);
    struct loop_timer *late = loop_timer_new(store->loop, on_late, store);
    while (!catch_up->is_over && store->failure.kind == ERROR_NONE &&
           store_now_ms(store) - led_ms < leaderless_ms && !loop_is_stopping(store->loop)) {
        loop_timer_start(late, STORE_TICK_MS);
        store_run(store);
        led_ms = store->leader_id != 0 ? store_now_ms(store) : led_ms;
    }
    loop_timer_free(late);
}

int store_catch_up(struct store *store, uint64_t leaderless_ms, struct error *err)
{
    struct catch_up *catch_up = NEW(struct catch_up);
    catch_up->store = store;
    store_barrier(store, on_caught_up, catch_up);
    wait_for_barrier(catch_up, leaderless_ms);
    if (!catch_up->is_over) {
        catch_up->is_left = true; /* its end, which comes, frees it */
        if (store->failure.kind != ERROR_NONE) {
            return store_folder_error(store, err);
        }
        return loop_is_stopping(store->loop)
            ? error_set(err, ERROR_CANCELLED, "the node was stopped while it caught up")
            : error_set(err, ERROR_UNAVAILABLE, "nobody leads the servers");
    }
    struct error error = catch_up->error;
    free(catch_up);
    if (error.kind != ERROR_NONE) {
        *err = error;
        return -(int)error.kind;
    }
    return check_schema(store, err);
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
                         "a copy%s",
                         store->folder.path, actual, expected,
                         store_is_alone(store)
                             ? ""
                             : ", or remove this node from the cluster and let it join anew");
    }
    store->marked = expected;
    return 0;
}

static void on_tick(void *context)
{
    struct store *store = context;
    if (store_settles_late(store)) {
        store_stir(store);
    }
    if (store->closing) {
        return;
    }
    loop_timer_start(store->tick_timer, STORE_TICK_MS);
    store_give_up(store, false);
    store_flush(store);
    store_reads_tick(store);
    links_tick(store);
    feeds_tick(store);
    follow_tick(store);
    store_look_at_handover(store);
    if (store->quorum != NULL) {
        quorum_watch(store->quorum);
    }
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

/* Through the log, like every change: whoever replays it has the same schema at the same index. */
static int upgrade(struct store *store, struct error *err)
{
    unsigned version = 0;
    int r = check_schema(store, err);
    r = r < 0 ? r : current_version(store, &version, err);
    while (r == 0 && version < schema_version()) {
        r = store_write(store, schema_step(++version), err);
    }
    return r;
}

unsigned store_schema_version(void)
{
    return schema_version();
}

unsigned store_schema_now(struct store *store)
{
    struct error ignored = {0};
    unsigned version = 1;
    current_version(store, &version, &ignored);
    return version;
}

struct upgrade {
    struct store *store;
    unsigned version;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void on_upgraded(const struct error *error, uint64_t index, void *context)
{
    struct upgrade *upgrade = context;
    (void)index;
    unsigned now = store_schema_now(upgrade->store);
    bool is_over = error != NULL || now >= upgrade->version;
    if (!is_over) {
        store_propose(upgrade->store, schema_step(now + 1), on_upgraded, upgrade);
        return;
    }
    if (upgrade->done != NULL) {
        upgrade->done(error, upgrade->context);
    }
    free(upgrade);
}

void store_upgrade(struct store *store, unsigned version,
                   void (*done)(const struct error *error, void *context), void *context)
{
    CHECK(version <= schema_version() && version > store_schema_now(store));
    struct upgrade *upgrade = NEW(struct upgrade);
    *upgrade = (struct upgrade){store, version, done, context};
    store_propose(store, schema_step(store_schema_now(store) + 1), on_upgraded, upgrade);
}

/* ---- Roles ---- */

struct leaving {
    struct store *store;
    void (*done)(void *context);
    void *context;
};

static void on_left(void *context)
{
    struct leaving *leaving = context;
    struct store *store = leaving->store;
    store->leaving = false;
    if (store->closing) {
        store_stir(store); /* store_close() waits */
    } else {
        follow_begin(store);
        if (leaving->done != NULL) {
            leaving->done(leaving->context);
        }
    }
    free(leaving);
}

void store_leave_quorum(struct store *store, void (*done)(void *context), void *context)
{
    struct leaving *leaving = NEW(struct leaving);
    struct quorum *quorum = store->quorum;
    *leaving = (struct leaving){store, done, context};
    store->quorum = NULL;
    store->leaving = true;
    store_set_leader(store, 0, store->leader_term);
    quorum_close(quorum, on_left, leaving);
}

struct role_change {
    struct store *store;
    enum store_role role;
    uint64_t node_id;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void end_role_change(struct role_change *change, const struct error *error)
{
    if (change->done != NULL) {
        change->done(error, change->context);
    }
    free(change);
}

static void become_worker(void *context)
{
    struct role_change *change = context;
    struct store *store = change->store;
    struct error err = {0};
    bool failed = follow_save(store, &err) < 0 || folder_drop_log(&store->folder, &err) < 0;
    end_role_change(change, failed ? &err : NULL);
}

/* The state stays what it was followed to; the log that the leader sends is skipped up to there. */
static void become_server(void *context)
{
    struct role_change *change = context;
    struct store *store = change->store;
    struct error err = {0};
    int r = folder_renew(&store->folder, change->node_id, &err);
    if (r == 0) {
        follow_end(store);
        store->marked = 0;
        store->options.joins = true;
        r = quorum_open(store, &err);
        if (r < 0) {
            store_leave_quorum(store, NULL, NULL);
        }
    }
    end_role_change(change, r < 0 ? &err : NULL);
}

void store_change_role(struct store *store, enum store_role role, uint64_t node_id,
                       void (*done)(const struct error *error, void *context), void *context)
{
    CHECK(loop_is_mine(store->loop) && !store_is_alone(store));
    struct role_change *change = NEW(struct role_change);
    *change = (struct role_change){store, role, node_id, done, context};
    store->options.role = role;
    if (role == STORE_SERVER && store->quorum == NULL && !store->leaving) {
        loop_post(store->loop, become_server, change);
    } else if (role == STORE_WORKER && store->quorum != NULL) {
        store_leave_quorum(store, become_worker, change);
    } else if (role == STORE_WORKER && !store->leaving) {
        loop_post(store->loop, become_worker, change);
    } else {
        struct error error = {0};
        error_set(&error, ERROR_CONFLICT, "the role of this node is being changed");
        end_role_change(change, &error);
    }
}

/* ---- Opening and closing ---- */

static void free_store(struct store *store)
{
    loop_timer_free(store->mark_timer);
    loop_timer_free(store->tick_timer);
    feeds_forget(store);
    machine_close(store->machine);
    folder_close(&store->folder);
    buffer_done(&store->follow.state);
    free(store->events);
    free(store);
}

static void on_closed(void *context)
{
    struct store *store = context;
    store->leaving = false;
    store_stir(store);
}

static void close_quorum(struct store *store)
{
    store->closing = true;
    if (store->quorum != NULL) {
        struct quorum *quorum = store->quorum;
        store->quorum = NULL;
        store->leaving = true;
        quorum_close(quorum, on_closed, store);
    }
    while (store->leaving) {
        store_run(store);
    }
}

static struct store *store_new(struct loop *loop, const struct store_options *options)
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
    struct list *lists[] = {&store->waiting,    &store->in_flight, &store->watches,   &store->reads,
                            &store->confirming, &store->reached,   &store->questions, &store->links,
                            &store->recent,     &store->handover};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        list_init(lists[i]);
    }
    store->mark_timer = loop_timer_new(loop, store_mark_now, store);
    store->tick_timer = loop_timer_new(loop, on_tick, store);
    return store;
}

static int open_folder(struct store *store, struct error *err)
{
    const struct store_options *options = &store->options;
    const struct machine_listener listener = {
        .applied = store_note_result, .changed = store_on_changed, .context = store};
    MEMORY_OWNED char *schema = schema_initial();
    int r = folder_open(options->folder, options->node_id, options->exists, &store->folder, err);
    if (r == 0) {
        r = machine_open(schema, &listener, &store->machine, err);
    }
    if (r == 0 && options->role == STORE_WORKER) {
        r = folder_drop_log(&store->folder, err);
    }
    return r;
}

/* Alone it leads at once, and brings the schema up to date itself. */
static int begin_server(struct store *store, struct error *err)
{
    int r = store_is_alone(store) ? 0 : follow_load(store, err);
    r = r < 0 ? r : quorum_open(store, err);
    if (r == 0 && quorum_is_only(store->quorum)) {
        r = wait_until_leading(store, err);
    }
    r = r < 0 ? r : check_acknowledged(store, err);
    if (r == 0 && store_is_alone(store)) {
        r = upgrade(store, err);
    }
    return r;
}

static int begin_worker(struct store *store, struct error *err)
{
    int r = follow_load(store, err);
    if (r == 0) {
        follow_begin(store);
    }
    return r;
}

int store_open(struct loop *loop, const struct store_options *options, struct store **ret_store,
               struct error *err)
{
    struct store *store = store_new(loop, options);
    int r = open_folder(store, err);
    if (r < 0) {
        free_store(store);
        return r;
    }
    r = options->role == STORE_WORKER ? begin_worker(store, err) : begin_server(store, err);
    r = r < 0 ? r : check_schema(store, err);
    if (r < 0) {
        close_quorum(store);
        links_close(store, 0);
        free_store(store);
        return r;
    }
    store->is_open = true;
    if (!store_is_alone(store)) {
        loop_timer_start(store->tick_timer, STORE_TICK_MS);
    }
    store_mark_soon(store);
    *ret_store = store;
    return 0;
}

/* Alone, everything that was begun arrives; among many, what a majority must do is not waited for.
 */
static void wait_for_writing(struct store *store)
{
    while ((store_is_alone(store) && store->in_flight_count > 0 &&
            store->write_failure.kind == ERROR_NONE) ||
           store->flush_posted || store->finish_posted || store->mark_runs || store->reads_posted ||
           store->pump_posted || store->late_count > 0 ||
           (store_is_alone(store) && store->read_barrier_runs)) {
        store_run(store);
    }
}

static void drop_entries(struct store *store)
{
    LIST_EACH(node, &store->in_flight)
    {
        store_drop_entry(store, LIST_ITEM(node, struct entry, link));
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
    loop_timer_stop(store->tick_timer);
    store_fail_waiting(store, &err);
    wait_for_writing(store);
    uint64_t logged = store->quorum != NULL ? store->quorum->logged : 0;
    close_quorum(store);
    store_give_up(store, true);
    store_end_reads(store, &err);
    store_end_handover(store, &err);
    links_close(store, 0);
    store_drop_questions(store, NULL);
    wait_for_writing(store);
    drop_entries(store);
    struct error ignored = {0}; /* the next start then knows a little less */
    if (store->failure.kind == ERROR_NONE && logged > 0) {
        folder_mark(&store->folder, logged, &ignored);
    } else if (store->options.role == STORE_WORKER && store->failure.kind == ERROR_NONE) {
        follow_save(store, &ignored);
    }
    CHECK(list_is_empty(&store->watches));
    free_store(store);
}
