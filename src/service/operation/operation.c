#include "service/operation/operation.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

enum {
    KEEP_MS = 24 * 60 * 60 * 1000,
    KEEP_COUNT = 1000,
    PROGRESS_EVERY_MS = 500,
    AGAIN_MS = 1000, /* an end that could not be written is written again */
};

/* What this node knows of an operation that runs here; the store has the rest. */
struct running {
    char id[OPERATION_ID_SIZE];
    uint64_t node; /* this one's id when it began: a node that becomes a server has another */
    unsigned percent;
    char text[128];
    uint64_t written_ms;
    void (*cancel)(void *context);
    void *cancel_context;
};

struct operation_wait {
    struct list_node link;
    struct operation_service *service;
    char id[OPERATION_ID_SIZE];
    struct loop_timer *timer;
    bool is_over; /* the operation: `done` is about to be called */
    void (*done)(void *context);
    void *context;
};

/* How one has ended, until that is written. */
struct ending {
    struct list_node link; /* in `endings` while it is not being written */
    struct operation_service *service;
    char id[OPERATION_ID_SIZE];
    enum operation_state state;
    struct error error;
    char *result; /* or NULL */
};

struct operation_service {
    struct loop *loop;
    struct store *store;
    struct store_watch *watch;
    struct map running; /* id -> struct running */
    struct list waits;
    struct list endings;
    struct loop_timer *again;
    bool finish_is_posted;
    bool is_over;
};

const char *operation_state_text(enum operation_state state)
{
    static const char *const texts[] = {"pending", "running", "succeeded", "failed", "cancelled"};
    CHECK(state <= OPERATION_CANCELLED);
    return texts[state];
}

/* ---- Looking ---- */

#define SELECT                                                                                     \
    "SELECT o.key, kind, resource, state, progress, text, error, error_code, result, created_ms, " \
    "updated_ms, n.key FROM operation o LEFT JOIN node n ON n.id = o.node "

struct writing {
    struct operation_service *service;
    struct json_writer writer;
    unsigned count;
};

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    const char *id = column(row, 0);
    const struct running *running = map_get(&writing->service->running, id);
    json_write_begin_object(writer);
    json_write_field_string(writer, "id", id);
    json_write_field_string(writer, "kind", column(row, 1));
    json_write_field_string(writer, "resource", column(row, 2));
    json_write_field_string(writer, "state", column(row, 3));
    if (column(row, 11) != NULL) {
        json_write_field_string(writer, "node", column(row, 11));
    }
    json_write_field_u64(writer, "progress",
                         running != NULL ? running->percent
                                         : (uint64_t)sqlite3_column_int64(row, 4));
    json_write_field_string(writer, "text", running != NULL ? running->text : column(row, 5));
    json_write_field_string(writer, "error", column(row, 6));
    json_write_field_string(writer, "error_code", column(row, 7));
    json_write_key(writer, "result");
    const char *result = column(row, 8);
    if (result != NULL) {
        json_write_raw(writer, result, strlen(result));
    } else {
        json_write_null(writer);
    }
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 9));
    json_write_field_time_ms(writer, "updated_at", (uint64_t)sqlite3_column_int64(row, 10));
    json_write_end_object(writer);
    writing->count++;
    return true;
}

int operation_write(struct operation_service *service, const char *id, struct buffer *out,
                    struct error *err)
{
    struct writing writing = {.service = service, .writer = json_writer_to(out)};
    int r =
        store_query(service->store, err, write_row, &writing, SELECT "WHERE o.key = ?", "t", id);
    if (r == 0 && writing.count == 0) {
        return error_set(err, ERROR_NOT_FOUND, "there is no operation %s", id);
    }
    return r;
}

int operation_write_list(struct operation_service *service, struct buffer *out, struct error *err)
{
    struct writing writing = {.service = service, .writer = json_writer_to(out)};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "operations");
    json_write_begin_array(&writing.writer);
    int r = store_query(service->store, err, write_row, &writing,
                        SELECT "ORDER BY created_ms DESC, o.key LIMIT 1000", "");
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

struct state {
    bool exists;
    bool is_running;
    uint64_t node;
};

static bool take_state(sqlite3_stmt *row, void *context)
{
    *(struct state *)context = (struct state){
        .exists = true,
        .is_running = strcmp(column(row, 0), "running") == 0,
        .node = (uint64_t)sqlite3_column_int64(row, 1),
    };
    return false;
}

static struct state state_of(struct operation_service *service, const char *id)
{
    struct error err = {0};
    struct state state = {0};
    store_query(service->store, &err, take_state, &state,
                "SELECT state, node FROM operation WHERE key = ?", "t", id);
    return state;
}

static bool is_running(struct operation_service *service, const char *id)
{
    return state_of(service, id).is_running;
}

int operation_node(struct operation_service *service, const char *id, uint64_t *ret_node,
                   struct error *err)
{
    struct state state = state_of(service, id);
    if (!state.exists) {
        return error_set(err, ERROR_NOT_FOUND, "there is no operation %.80s", id);
    }
    *ret_node = state.node;
    return 0;
}

/* ---- Waiting ---- */

static void finish_wait(struct operation_wait *wait)
{
    void (*done)(void *context) = wait->done;
    void *context = wait->context;
    list_remove(&wait->link);
    loop_timer_stop(wait->timer);
    done(context);
}

static void finish_posted(void *argument)
{
    struct operation_service *service = argument;
    service->finish_is_posted = false;
    LIST_EACH(node, &service->waits)
    {
        struct operation_wait *wait = LIST_ITEM(node, struct operation_wait, link);
        if (wait->is_over) {
            finish_wait(wait);
        }
    }
}

/* What this node knew of an operation that is over, or another's by now. */
static void forget_running(struct operation_service *service, const char *id, bool is_lost)
{
    struct running *running = map_remove(&service->running, id);
    if (running != NULL && is_lost && running->cancel != NULL) {
        running->cancel(running->cancel_context);
    }
    free(running);
}

/* Who waits is told behind all that others posted when they heard of the same command: a client
 * that is told "it is ready" finds it so. */
static void on_changed(const struct store_event *event, void *context)
{
    struct operation_service *service = context;
    struct state state = state_of(service, event->key);
    const struct running *running = map_get(&service->running, event->key);
    if (state.is_running) {
        if (running != NULL && running->node != state.node) {
            forget_running(service, event->key, true);
        }
        return;
    }
    forget_running(service, event->key, false);
    LIST_EACH(node, &service->waits)
    {
        struct operation_wait *wait = LIST_ITEM(node, struct operation_wait, link);
        wait->is_over |= strcmp(wait->id, event->key) == 0;
        if (wait->is_over && !service->finish_is_posted) {
            service->finish_is_posted = true;
            loop_post(service->loop, finish_posted, service);
        }
    }
}

static void on_timer(void *context)
{
    finish_wait(context);
}

struct operation_wait *operation_wait_new(struct operation_service *service, const char *id,
                                          uint64_t timeout_ms, void (*done)(void *context),
                                          void *context)
{
    struct operation_wait *wait = NEW(struct operation_wait);
    wait->service = service;
    snprintf(wait->id, sizeof(wait->id), "%s", id);
    wait->done = done;
    wait->context = context;
    wait->timer = loop_timer_new(service->loop, on_timer, wait);
    list_push_back(&service->waits, &wait->link);
    loop_timer_start(wait->timer, is_running(service, id) ? timeout_ms : 0);
    return wait;
}

void operation_wait_free(struct operation_wait *wait)
{
    if (wait != NULL) {
        list_remove(&wait->link);
        loop_timer_free(wait->timer);
        free(wait);
    }
}

/* ---- Changing ---- */

/* Old ones go when new ones come. */
static void add_retention(struct store_command *command, uint64_t now_ms)
{
    store_command_add(command, "DELETE FROM operation WHERE state <> 'running' AND updated_ms < ?",
                      "u", now_ms > KEEP_MS ? now_ms - KEEP_MS : 0);
    store_command_add(
        command,
        "DELETE FROM operation WHERE state <> 'running' AND key NOT IN (SELECT key FROM "
        "operation ORDER BY created_ms DESC, key LIMIT ?)",
        "i", (int64_t)KEEP_COUNT);
}

static uint64_t own_id(const struct operation_service *service)
{
    struct store_status status;
    store_status(service->store, &status);
    return status.node_id;
}

static struct running *running_new(struct operation_service *service, const char *id)
{
    struct running *running = NEW(struct running);
    snprintf(running->id, sizeof(running->id), "%s", id);
    running->node = own_id(service);
    free(map_set(&service->running, running->id, running));
    return running;
}

void operation_add(struct operation_service *service, struct store_command *command,
                   const struct operation_start *start, char ret_id[OPERATION_ID_SIZE])
{
    uint64_t now_ms = clock_real_ms();
    random_hex(ret_id, OPERATION_ID_SIZE - 1);
    const struct running *running = running_new(service, ret_id);
    add_retention(command, now_ms);
    store_command_add(
        command,
        "INSERT INTO operation (key, kind, project, resource, state, progress, created_ms, "
        "updated_ms, request, request_digest, node) VALUES (?, ?, ?, ?, 'running', 0, ?, ?, ?, ?, "
        "?)",
        "ttttuuttu", running->id, start->kind, start->project, start->resource, now_ms, now_ms,
        start->request, start->request_digest, running->node);
}

void operation_adopt(struct operation_service *service, struct store_command *command,
                     const char *id, uint64_t from)
{
    const struct running *running = running_new(service, id);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the operation is over, or another node goes on with it",
        "UPDATE operation SET node = ?, progress = 0, text = ?, updated_ms = ? WHERE key = ? AND "
        "state = 'running' AND node = ?",
        "ututu", running->node, "another node goes on with it", clock_real_ms(), id, from);
}

void operation_drop(struct operation_service *service, const char *id)
{
    free(map_remove(&service->running, id));
}

bool operation_tell(struct operation_service *service, const char *id, const struct error *error,
                    operation_begun *begun, void *context)
{
    if (error != NULL) {
        operation_drop(service, id);
    }
    begun(error, error == NULL ? id : NULL, context);
    return error == NULL;
}

struct finding {
    char id[OPERATION_ID_SIZE];
    char resource[OPERATION_RESOURCE_SIZE];
    char digest[HASH_TEXT_SIZE];
};

static bool take_found(sqlite3_stmt *row, void *context)
{
    struct finding *finding = context;
    snprintf(finding->id, sizeof(finding->id), "%s", column(row, 0));
    snprintf(finding->resource, sizeof(finding->resource), "%s", column(row, 1));
    snprintf(finding->digest, sizeof(finding->digest), "%s", column(row, 2));
    return false;
}

int operation_find(struct operation_service *service, const struct operation_start *start,
                   char ret_id[OPERATION_ID_SIZE], char ret_resource[OPERATION_RESOURCE_SIZE],
                   struct error *err)
{
    struct finding finding = {0};
    int r = store_query(service->store, err, take_found, &finding,
                        "SELECT key, resource, request_digest FROM operation WHERE project = ? AND "
                        "request = ?",
                        "tt", start->project, start->request);
    if (r == 0 && finding.id[0] != '\0' && strcmp(finding.digest, start->request_digest) != 0) {
        return error_set(err, ERROR_INVALID,
                         "the idempotency key %s was used for another request: take a new one",
                         start->request);
    }
    memcpy(ret_id, finding.id, sizeof(finding.id));
    memcpy(ret_resource, finding.resource, sizeof(finding.resource));
    return r;
}

void operation_progress(struct operation_service *service, const char *id, unsigned percent,
                        const char *text)
{
    struct running *running = map_get(&service->running, id);
    uint64_t now_ms = clock_real_ms();
    if (running == NULL) {
        return;
    }
    running->percent = percent;
    snprintf(running->text, sizeof(running->text), "%s", text);
    if (now_ms - running->written_ms < PROGRESS_EVERY_MS) {
        return;
    }
    running->written_ms = now_ms;
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        "UPDATE operation SET progress = ?, text = ?, updated_ms = ? WHERE key = ? AND "
        "state = 'running' AND node = ?",
        "itutu", (int64_t)percent, text, now_ms, id, running->node);
    store_propose(service->store, command, NULL, NULL);
}

/* The node that it is of, as far as this one knows: its own, or the one it is now. */
static uint64_t node_of(struct operation_service *service, const char *id)
{
    const struct running *running = map_get(&service->running, id);
    return running != NULL ? running->node : own_id(service);
}

static void free_ending(struct ending *ending)
{
    list_remove(&ending->link);
    free(ending->result);
    free(ending);
}

static void on_ended(const struct error *error, uint64_t index, void *context)
{
    struct ending *ending = context;
    struct operation_service *service = ending->service;
    (void)index;
    if (error == NULL || service->is_over) {
        free_ending(ending);
        return;
    }
    log_error("operation %s: its end could not be written, and is again: %s", ending->id,
              error->text);
    if (error->kind == ERROR_TOO_LARGE) { /* it never can be */
        ending->state = OPERATION_FAILED;
        ending->error = *error;
        free(ending->result);
        ending->result = NULL;
    }
    list_push_back(&service->endings, &ending->link);
    loop_timer_start(service->again, AGAIN_MS);
}

static void write_end(struct ending *ending)
{
    struct operation_service *service = ending->service;
    struct store_command *command = store_command_new();
    bool is_good = ending->error.kind == ERROR_NONE;
    store_command_add(
        command,
        "UPDATE operation SET state = ?, progress = ?, text = NULL, error = ?, error_code "
        "= ?, result = ?, updated_ms = ? WHERE key = ? AND state = 'running' AND node = ?",
        "titttutu", operation_state_text(ending->state),
        (int64_t)(ending->state == OPERATION_SUCCEEDED ? 100 : 0),
        is_good ? NULL : ending->error.text, is_good ? NULL : error_kind_name(ending->error.kind),
        ending->result, clock_real_ms(), ending->id, node_of(service, ending->id));
    store_propose(service->store, command, on_ended, ending);
}

/* Nobody else does, and somebody may wait for it. */
static void write_again(void *context)
{
    struct operation_service *service = context;
    LIST_EACH(node, &service->endings)
    {
        struct ending *ending = LIST_ITEM(node, struct ending, link);
        list_remove(&ending->link);
        write_end(ending);
    }
}

static void end(struct operation_service *service, const char *id, enum operation_state state,
                const struct error *error_or_null, const char *result)
{
    struct ending *ending = NEW(struct ending);
    *ending = (struct ending){.service = service, .state = state};
    snprintf(ending->id, sizeof(ending->id), "%s", id);
    ending->error = error_or_null != NULL ? *error_or_null : (struct error){0};
    ending->result = result != NULL ? memory_copy_string(result) : NULL;
    write_end(ending);
}

void operation_add_success(struct operation_service *service, struct store_command *command,
                           const char *id, const char *result_json)
{
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the operation was ended, or another node goes on with it",
        "UPDATE operation SET state = 'succeeded', progress = 100, text = NULL, result = ?, "
        "updated_ms = ? WHERE key = ? AND state = 'running' AND node = ?",
        "tutu", result_json, clock_real_ms(), id, node_of(service, id));
}

void operation_succeed(struct operation_service *service, const char *id, const char *result_json)
{
    end(service, id, OPERATION_SUCCEEDED, NULL, result_json);
}

void operation_fail(struct operation_service *service, const char *id, const struct error *error)
{
    end(service, id, error->kind == ERROR_CANCELLED ? OPERATION_CANCELLED : OPERATION_FAILED, error,
        NULL);
}

int operation_cancel(struct operation_service *service, const char *id, struct error *err)
{
    BUFFER_OWNED struct buffer unused = {0};
    int r = operation_write(service, id, &unused, err);
    if (r < 0) {
        return r;
    }
    const struct running *running = map_get(&service->running, id);
    if (!is_running(service, id)) {
        return error_set(err, ERROR_CONFLICT, "operation %s is over", id);
    }
    if (running == NULL) {
        return error_set(err, ERROR_CONFLICT, "operation %s is carried out by another node", id);
    }
    if (running->cancel == NULL) {
        return error_set(err, ERROR_CONFLICT, "operation %s cannot be cancelled", id);
    }
    running->cancel(running->cancel_context);
    return 0;
}

void operation_on_cancel(struct operation_service *service, const char *id,
                         void (*cancel)(void *context), void *context)
{
    struct running *running = map_get(&service->running, id);
    if (running != NULL) {
        running->cancel = cancel;
        running->cancel_context = context;
    }
}

/* ---- Life ---- */

void operation_fail_all_of(struct operation_service *service, uint64_t node, const char *reason,
                           const char *kind)
{
    bool found = false;
    struct error err = {0};
    const char *but = kind != NULL ? kind : "";
    store_query(service->store, &err, store_take_any, &found,
                "SELECT 1 FROM operation WHERE state = 'running' AND node = ? AND kind <> ?", "ut",
                node, but);
    if (!found) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE operation SET state = 'failed', error = ?, error_code = "
                      "'unavailable', updated_ms = ? WHERE state = 'running' AND node = ? AND kind "
                      "<> ?",
                      "tuut", reason, clock_real_ms(), node, but);
    store_propose(service->store, command, NULL, NULL);
}

/* What ran here when this node ended will not go on by itself; before there were many nodes, rows
 * did not say whose they are. */
static void fail_interrupted(struct operation_service *service)
{
    bool found = false;
    struct error err = {0};
    uint64_t own = own_id(service);
    store_query(service->store, &err, store_take_any, &found,
                "SELECT 1 FROM operation WHERE state = 'running' AND (node = ? OR node IS NULL)",
                "u", own);
    if (!found) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        "UPDATE operation SET state = 'failed', error = 'interrupted by a restart of the "
        "node', error_code = 'unavailable', updated_ms = ? WHERE state = 'running' AND (node = ? "
        "OR node IS NULL)",
        "uu", clock_real_ms(), own);
    store_propose(service->store, command, NULL, NULL);
}

int operation_service_new(struct loop *loop, struct store *store,
                          struct operation_service **ret_service, struct error *err)
{
    (void)err;
    struct operation_service *service = NEW(struct operation_service);
    service->loop = loop;
    service->store = store;
    list_init(&service->waits);
    list_init(&service->endings);
    service->again = loop_timer_new(loop, write_again, service);
    service->watch = store_watch_new(store, "operation", on_changed, service);
    fail_interrupted(service);
    *ret_service = service;
    return 0;
}

static void free_running(const char *id, void *value, void *context)
{
    (void)id;
    (void)context;
    free(value);
}

static void stop_loop(void *loop)
{
    loop_stop(loop);
}

void operation_service_free(struct operation_service *service)
{
    if (service == NULL) {
        return;
    }
    CHECK(list_is_empty(&service->waits));
    service->is_over = true;
    store_settle(service->store);
    store_watch_free(service->watch);
    while (service->finish_is_posted) {
        loop_post(service->loop, stop_loop, service->loop); /* behind it */
        loop_run(service->loop);
    }
    map_each(&service->running, free_running, NULL);
    map_done(&service->running);
    while (!list_is_empty(&service->endings)) {
        free_ending(LIST_FIRST(&service->endings, struct ending, link));
    }
    loop_timer_free(service->again);
    free(service);
}
