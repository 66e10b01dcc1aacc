/* Values: sealed, kept, opened; and those that wait for the key.  See secret.h. */
#include "service/secret/secret.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"
#include "service/secret/private.h"

bool secret_schema_is_there(const struct secret_service *service)
{
    return store_schema_now(service->store) >= SECRET_SCHEMA;
}

static int check_schema(const struct secret_service *service, struct error *err)
{
    return secret_schema_is_there(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "there can be secrets once every node of the cluster has this version of "
                    "Blixard");
}

static int check_name(const char *name, struct error *err)
{
    return text_is_name(name) ? 0
                              : error_set(err, ERROR_INVALID,
                                          "\"%.80s\" is no name of a secret: 1 to 63 of a-z, 0-9 "
                                          "and '-', beginning with a letter, not ending in '-'",
                                          name);
}

static int no_such(const char *project, const char *name, struct error *err)
{
    return error_set(err, ERROR_NOT_FOUND,
                     "there is no secret %s in project %s; make it with: blixard secret set %s",
                     name, project, name);
}

static void format_row(char row[SECRET_ROW_SIZE], const char *project, const char *name)
{
    snprintf(row, SECRET_ROW_SIZE, "%s/%s", project, name);
}

/* What a value is: one cannot be put in the place of another. */
static void format_context(char context[SECRET_ROW_SIZE + 16], const char *project,
                           const char *name)
{
    snprintf(context, SECRET_ROW_SIZE + 16, "secret %s/%s", project, name);
}

/* ---- Changes on their way ---- */

struct change {
    struct list_node link; /* in waiting; of one that has a value */
    struct secret_service *service;
    char project[64];
    char name[64];
    struct buffer value;
    uint64_t give_up_ms; /* monotonic */
    struct error error;  /* of one that was refused at once */
    bool is_deletion;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
};

static struct change *
change_new(struct secret_service *service, const char *project, const char *name,
           void (*done)(const struct error *error, uint64_t index, void *context), void *context)
{
    struct change *change = NEW(struct change);
    change->service = service;
    change->done = done;
    change->context = context;
    snprintf(change->project, sizeof(change->project), "%s", project);
    snprintf(change->name, sizeof(change->name), "%.63s", name);
    service->at_work++;
    return change;
}

static void change_end(struct change *change, const struct error *error, uint64_t index)
{
    change->service->at_work--;
    change->done(error, index, change->context);
    buffer_wipe(&change->value);
    free(change);
}

static void tell_refusal(void *context)
{
    struct change *change = context;
    change_end(change, &change->error, 0);
}

static void refuse(struct change *change, const struct error *error)
{
    change->error = *error;
    loop_post(change->service->loop, tell_refusal, change);
}

static void on_changed(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    if (error == NULL) {
        log_info("secrets: %s/%s was %s at index %" PRIu64, change->project, change->name,
                 change->is_deletion ? "deleted" : "set", index);
    }
    change_end(change, error, index);
}

/* ---- Setting ---- */

static void propose_value(struct change *change)
{
    struct secret_service *service = change->service;
    char row[SECRET_ROW_SIZE];
    char context[SECRET_ROW_SIZE + 16];
    BUFFER_OWNED struct buffer sealed = {0};
    uint64_t now_ms = clock_real_ms();
    format_row(row, change->project, change->name);
    format_context(context, change->project, change->name);
    seal_close(service->key, context, change->value.data, change->value.used, &sealed);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_LIMIT, "the project has as many secrets as it may have: delete some",
        "INSERT INTO secret (key, project, name, sealed, size, version, created_ms, updated_ms, "
        "revision) SELECT ?1, ?2, ?3, ?4, ?5, 1, ?6, ?6, ?7 WHERE EXISTS (SELECT 1 FROM secret "
        "WHERE key = ?1) OR (SELECT count(*) FROM secret WHERE project = ?2) < ?8 ON CONFLICT "
        "(key) "
        "DO UPDATE SET sealed = excluded.sealed, size = excluded.size, version = secret.version + "
        "1, updated_ms = excluded.updated_ms, revision = excluded.revision",
        "tttbuuru", row, change->project, change->name, sealed.data, sealed.used,
        (uint64_t)change->value.used, now_ms, (uint64_t)SECRET_PROJECT_MAX);
    buffer_wipe(&change->value);
    store_propose(service->store, command, on_changed, change);
}

/* True: it is on its way, or was answered. */
static bool settle(struct change *change)
{
    struct secret_service *service = change->service;
    struct error err = {0};
    bool can_wait = clock_monotonic_ms() < change->give_up_ms && !service->is_over;
    if (service->state == KEY_UNMADE && can_wait) {
        key_make(service);
    }
    int r = key_check(service, &err);
    if (r == 0 && key_is_safe(service, &err)) {
        list_remove(&change->link);
        propose_value(change);
        return true;
    }
    if (can_wait && err.kind == ERROR_UNAVAILABLE) {
        return false;
    }
    list_remove(&change->link);
    refuse(change, &err);
    return true;
}

enum { WAITING_LOOK_MS = 250 };

void secret_go_on(struct secret_service *service)
{
    LIST_EACH(node, &service->waiting)
    {
        settle(LIST_ITEM(node, struct change, link));
    }
    if (!list_is_empty(&service->waiting)) {
        key_later(service, WAITING_LOOK_MS);
    }
}

void secret_set(struct secret_service *service, const char *project, const char *name,
                const void *value, size_t length,
                void (*done)(const struct error *error, uint64_t index, void *context),
                void *context)
{
    struct error err = {0};
    struct change *change = change_new(service, project, name, done, context);
    int r = check_name(name, &err);
    if (r == 0 && length == 0) {
        r = error_set(&err, ERROR_INVALID, "the value is empty; a secret has at least one byte");
    }
    if (r == 0 && length > SECRET_VALUE_MAX) {
        r = error_set(&err, ERROR_TOO_LARGE, "the value has %zu bytes; a secret has at most %d",
                      length, SECRET_VALUE_MAX);
    }
    r = r < 0 ? r : check_schema(service, &err);
    r = r < 0 ? r : secret_check_no_key(service, project, name, &err);
    if (r < 0) {
        refuse(change, &err);
        return;
    }
    buffer_append(&change->value, value, length);
    change->give_up_ms = clock_monotonic_ms() + SECRET_WAIT_MS;
    list_push_back(&service->waiting, &change->link);
    if (!settle(change)) {
        key_later(service, 0);
    }
}

/* ---- Deleting ---- */

struct row {
    const char *project;
    struct json_writer *writer;
    uint64_t revision;
    bool stays_open; /* more fields follow */
};

static bool take_revision(sqlite3_stmt *stmt, void *context)
{
    struct row *row = context;
    row->revision = (uint64_t)sqlite3_column_int64(stmt, 0);
    return false;
}

static int look(struct secret_service *service, const char *project, const char *name,
                uint64_t *ret_revision, struct error *err)
{
    char key[SECRET_ROW_SIZE];
    struct row row = {0};
    int r = check_name(name, err);
    if (r < 0) {
        return r;
    }
    format_row(key, project, name);
    r = secret_schema_is_there(service)
        ? store_query(service->store, err, take_revision, &row,
                      "SELECT revision FROM secret WHERE key = ?", "t", key)
        : 0;
    if (r == 0 && row.revision == 0) {
        r = no_such(project, name, err);
    }
    *ret_revision = row.revision;
    return r;
}

/* Only if no version and no trigger of the project has come or changed since they were looked at.
 */
#define UNUSED                                                                                   \
    "DELETE FROM secret WHERE key = ?1 AND revision = ?2 AND NOT EXISTS (SELECT 1 FROM version " \
    "WHERE key > ?3 AND key < ?4 AND revision > ?5) AND NOT EXISTS (SELECT 1 FROM trigger_row "  \
    "WHERE key > ?3 AND key < ?4 AND revision > ?6)"
#define NO_KEY                                                                           \
    " AND NOT EXISTS (SELECT 1 FROM volume WHERE project = secret.project AND secret = " \
    "secret.name)"

static struct store_command *make_deletion(bool can_be_key, const char *project, const char *name,
                                           uint64_t revision, const struct secret_uses *uses)
{
    char key[SECRET_ROW_SIZE];
    MEMORY_OWNED char *from = memory_format("%s/", project);
    MEMORY_OWNED char *to = memory_format("%s0", project);
    struct store_command *command = store_command_new();
    format_row(key, project, name);
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "something of the project was changed at the same moment: try it again",
        can_be_key ? UNUSED NO_KEY : UNUSED, "tuttuu", key, revision, from, to,
        uses->newest_version, uses->newest_trigger);
    return command;
}

void secret_delete(struct secret_service *service, const char *project, const char *name,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context)
{
    struct error err = {0};
    struct secret_uses uses = {0};
    uint64_t revision = 0;
    struct change *change = change_new(service, project, name, done, context);
    change->is_deletion = true;
    int r = look(service, project, name, &revision, &err);
    r = r < 0 ? r : secret_find_uses(service, project, name, &uses, &err);
    if (r == 0 && json_array_size(uses.names) > 0) {
        r = secret_refuse_used(&uses, name, &err);
    }
    if (r < 0) {
        refuse(change, &err);
    } else {
        store_propose(service->store,
                      make_deletion(secret_can_be_key(service), project, name, revision, &uses),
                      on_changed, change);
    }
    secret_uses_done(&uses);
}

/* ---- Looking ---- */

#define COLUMNS "name, version, size, created_ms, updated_ms, revision"

static bool write_row(sqlite3_stmt *stmt, void *context)
{
    struct row *row = context;
    struct json_writer *writer = row->writer;
    row->revision = (uint64_t)sqlite3_column_int64(stmt, 5);
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", (const char *)sqlite3_column_text(stmt, 0));
    json_write_field_string(writer, "project", row->project);
    json_write_field_u64(writer, "version", (uint64_t)sqlite3_column_int64(stmt, 1));
    json_write_field_u64(writer, "size_bytes", (uint64_t)sqlite3_column_int64(stmt, 2));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(stmt, 3));
    json_write_field_time_ms(writer, "updated_at", (uint64_t)sqlite3_column_int64(stmt, 4));
    json_write_field_u64(writer, "revision", row->revision);
    if (!row->stays_open) {
        json_write_end_object(writer);
    }
    return true;
}

int secret_write_list(struct secret_service *service, const char *project, struct buffer *out,
                      struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    struct row row = {.project = project, .writer = &writer};
    json_write_begin_object(&writer);
    json_write_key(&writer, "secrets");
    json_write_begin_array(&writer);
    int r = secret_schema_is_there(service)
        ? store_query(service->store, err, write_row, &row,
                      "SELECT " COLUMNS " FROM secret WHERE project = ? ORDER BY name", "t",
                      project)
        : 0;
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}

static void write_uses(struct json_writer *writer, const json_t *names)
{
    json_write_key(writer, "used_by");
    json_write_begin_array(writer);
    for (size_t i = 0; i < json_array_size(names); i++) {
        json_write_string(writer, json_string_value(json_array_get(names, i)));
    }
    json_write_end_array(writer);
}

int secret_write(struct secret_service *service, const char *project, const char *name,
                 struct buffer *out, struct error *err)
{
    char key[SECRET_ROW_SIZE];
    struct json_writer writer = json_writer_to(out);
    struct row row = {.project = project, .writer = &writer, .stays_open = true};
    struct secret_uses uses = {0};
    uint64_t revision = 0;
    int r = look(service, project, name, &revision, err);
    r = r < 0 ? r : secret_find_uses(service, project, name, &uses, err);
    if (r == 0) {
        format_row(key, project, name);
        r = store_query(service->store, err, write_row, &row,
                        "SELECT " COLUMNS " FROM secret WHERE key = ?", "t", key);
    }
    if (r == 0) {
        write_uses(&writer, uses.names);
        json_write_end_object(&writer);
    }
    secret_uses_done(&uses);
    return r;
}

/* ---- Using ---- */

static bool take_sealed(sqlite3_stmt *row, void *context)
{
    buffer_append(context, sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0));
    return false;
}

int secret_read(struct secret_service *service, const char *project, const char *name,
                struct buffer *ret_value, struct error *err)
{
    char key[SECRET_ROW_SIZE];
    char context[SECRET_ROW_SIZE + 16];
    BUFFER_OWNED struct buffer sealed = {0};
    CHECK(ret_value->used == 0);
    int r = check_name(name, err);
    if (r < 0) {
        return r;
    }
    format_row(key, project, name);
    format_context(context, project, name);
    r = secret_schema_is_there(service)
        ? store_query(service->store, err, take_sealed, &sealed,
                      "SELECT sealed FROM secret WHERE key = ?", "t", key)
        : 0;
    if (r == 0 && sealed.used == 0) {
        r = no_such(project, name, err);
    }
    r = r < 0 ? r : key_check(service, err);
    return r < 0 ? r : seal_open(service->key, context, sealed.data, sealed.used, ret_value, err);
}

int secret_give_key(struct secret_service *service, uint8_t ret_key[SECRET_KEY_BYTES],
                    struct error *err)
{
    _Static_assert((int)SECRET_KEY_BYTES == (int)SEAL_KEY_SIZE, "the door says it by itself");
    int r = key_check(service, err);
    if (r < 0) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "this node does not have the key of the secrets itself");
    }
    memcpy(ret_key, service->key, SEAL_KEY_SIZE);
    return 0;
}

/* ---- Life ---- */

void key_later(struct secret_service *service, uint64_t after_ms)
{
    uint64_t due_ms = loop_now_ms(service->loop) + after_ms;
    if (!service->is_over && (service->due_ms == 0 || due_ms < service->due_ms)) {
        service->due_ms = due_ms;
        loop_timer_start(service->timer, after_ms);
    }
}

static void on_timer(void *context)
{
    struct secret_service *service = context;
    service->due_ms = 0;
    key_look(service);
    if (service->state == KEY_ABSENT) {
        obtain_step(service);
    }
    secret_go_on(service);
}

/* The command is still being told of. */
static void on_row(const struct store_event *event, void *context)
{
    (void)event;
    key_later(context, 0);
}

static void on_view(void *context)
{
    key_later(context, 0);
}

struct secret_service *secret_service_new(const struct secret_options *options)
{
    static const struct cluster_events events = {.on_view = on_view};
    struct secret_service *service = NEW(struct secret_service);
    service->loop = options->loop;
    service->store = options->store;
    service->cluster = options->cluster;
    service->peers = options->peers;
    service->path = memory_format("%s/secrets.key", options->folder);
    service->candidate = memory_format("%s/secrets.key.new", options->folder);
    list_init(&service->waiting);
    service->timer = loop_timer_new(options->loop, on_timer, service);
    service->key_watch = store_watch_new(options->store, "secret_key", on_row, service);
    service->holder_watch = store_watch_new(options->store, "secret_holder", on_row, service);
    if (options->cluster != NULL) {
        service->listener = cluster_listen(options->cluster, &events, service);
    }
    key_look(service);
    return service;
}

void secret_service_free(struct secret_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    if (service->listener != NULL) {
        cluster_unlisten(service->listener);
    }
    store_watch_free(service->key_watch);
    store_watch_free(service->holder_watch);
    secret_go_on(service); /* nobody waits any more */
    obtain_stop(service);
    store_settle(service->store);
    while (service->at_work > 0) {
        loop_flush(service->loop);
    }
    loop_timer_free(service->timer);
    explicit_bzero(service->key, sizeof(service->key));
    free(service->path);
    free(service->candidate);
    free(service);
}
