/* Limits in the state, what they are compared with, and the check that a command has. */
#include "service/quota/quota.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/quota/parts.h"

enum { QUOTA_SCHEMA = 8, DEVICES_SCHEMA = 13, NO_LIMIT = -1, KEEP = -2 };

/* Beyond it a sum might not fit. */
#define LIMIT_MAX    (UINT64_C(1) << 60)
#define INSTANCE_MAX (UINT64_C(1) << 20)

const char *const quota_names[QUOTA_RESOURCE_COUNT] = {
    [QUOTA_CPUS] = "cpus",
    [QUOTA_MEMORY] = "memory_bytes",
    [QUOTA_DISK] = "disk_bytes",
    [QUOTA_MACHINES] = "machines",
    [QUOTA_FUNCTIONS] = "functions",
    [QUOTA_DEVICES] = "devices",
    [QUOTA_REQUESTS] = "requests_per_second",
    [QUOTA_INSTANCES] = "instances",
};

#define OF_MACHINES(what) \
    "(SELECT coalesce(sum(" what "), 0) FROM machine m WHERE m.project = q.key)"
#define CPUS   "(" OF_MACHINES("cpu_millis") " / 1000 + " OF_MACHINES("cores") ")"
#define MEMORY OF_MACHINES("memory_bytes")
#define DISK                                                                                     \
    "(" OF_MACHINES("disk_bytes") " + (SELECT coalesce(sum(max(size_bytes, coalesce(next_size, " \
                                  "0))), 0) FROM volume v WHERE v.project = q.key))"
#define MACHINES  "(SELECT count(*) FROM machine m WHERE m.project = q.key)"
#define FUNCTIONS "(SELECT count(*) FROM function f WHERE f.project = q.key)"
#define DEVICES   OF_MACHINES("devices")

bool quota_is_kept(struct store *store)
{
    return store_schema_now(store) >= QUOTA_SCHEMA;
}

/* Before all nodes know them, there are none. */
static bool devices_are_kept(struct store *store)
{
    return store_schema_now(store) >= DEVICES_SCHEMA;
}

/* ---- Reading ---- */

struct visiting {
    void (*visit)(const struct quota_row *row, void *context);
    void *context;
};

static bool take_row(sqlite3_stmt *statement, void *context)
{
    const struct visiting *visiting = context;
    struct quota_row row = {0};
    snprintf(row.project, sizeof(row.project), "%s", store_text(statement, 0));
    for (int i = 0; i < QUOTA_RESOURCE_COUNT; i++) {
        row.has[i] = sqlite3_column_type(statement, 1 + i) != SQLITE_NULL;
        row.limits[i] = (uint64_t)sqlite3_column_int64(statement, 1 + i);
    }
    for (int i = 0; i < QUOTA_STORED_COUNT; i++) {
        row.used[i] = (uint64_t)sqlite3_column_int64(statement, 1 + QUOTA_RESOURCE_COUNT + i);
    }
    visiting->visit(&row, visiting->context);
    return true;
}

#define ROWS(limit, used)                                                                        \
    "SELECT key, cpus, memory_bytes, disk_bytes, machines, functions, " limit                    \
    ", requests_per_second, instances, " CPUS ", " MEMORY ", " DISK ", " MACHINES ", " FUNCTIONS \
    ", " used " FROM quota q WHERE ?1 IS NULL OR key = ?1 ORDER BY key"

int quota_rows(struct store *store, const char *project,
               void (*visit)(const struct quota_row *row, void *context), void *context,
               struct error *err)
{
    struct visiting visiting = {visit, context};
    return quota_is_kept(store)
        ? store_query(store, err, take_row, &visiting,
                      devices_are_kept(store) ? ROWS("devices", DEVICES) : ROWS("NULL", "0"), "t",
                      project)
        : 0;
}

/* ---- Admission ---- */

struct explaining {
    const struct quota_ask *ask;
    char *text;
};

static const char *write_amount(int resource, uint64_t amount, char ret_text[TEXT_SIZE_MAX])
{
    if (resource == QUOTA_MEMORY || resource == QUOTA_DISK) {
        return text_write_size(amount, ret_text);
    }
    snprintf(ret_text, TEXT_SIZE_MAX, "%" PRIu64, amount);
    return ret_text;
}

static void explain(const struct quota_row *row, void *context)
{
    struct explaining *explaining = context;
    const struct quota_ask *ask = explaining->ask;
    const uint64_t asked[QUOTA_STORED_COUNT] = {
        [QUOTA_CPUS] = ask->cpus,           [QUOTA_MEMORY] = ask->memory_bytes,
        [QUOTA_DISK] = ask->disk_bytes,     [QUOTA_MACHINES] = ask->machines,
        [QUOTA_FUNCTIONS] = ask->functions, [QUOTA_DEVICES] = ask->devices,
    };
    for (int i = 0; i < QUOTA_STORED_COUNT && explaining->text == NULL; i++) {
        if (row->has[i] && asked[i] > 0 && row->used[i] + asked[i] > row->limits[i]) {
            char amounts[3][TEXT_SIZE_MAX];
            explaining->text = memory_format(
                "project %s: %s: %s used, limit %s, asked %s; an administrator can change it: "
                "blixard quota set %s",
                row->project, quota_names[i], write_amount(i, row->used[i], amounts[0]),
                write_amount(i, row->limits[i], amounts[1]), write_amount(i, asked[i], amounts[2]),
                row->project);
        }
    }
}

/* Of ?2 to ?6, what is asked more of; the sixth is behind. */
#define IS_BEYOND                                                                     \
    "(?2 > 0 AND q.cpus < " CPUS ") OR (?3 > 0 AND q.memory_bytes < " MEMORY          \
    ") OR (?4 > 0 AND q.disk_bytes < " DISK ") OR (?5 > 0 AND q.machines < " MACHINES \
    ") OR (?6 > 0 AND q.functions < " FUNCTIONS ")"
#define KEEPS_WITHIN(beyond)                                                                   \
    "UPDATE quota_guard SET id = id WHERE id = 1 AND NOT EXISTS (SELECT 1 FROM quota q WHERE " \
    "q.key = ?1 AND (" beyond "))"

void quota_add_check(struct store *store, struct store_command *command, const char *project,
                     const struct quota_ask *ask)
{
    struct explaining explaining = {ask, NULL};
    struct error ignored = {0};
    if (!quota_is_kept(store)) {
        return;
    }
    quota_rows(store, project, explain, &explaining, &ignored);
    if (explaining.text == NULL) {
        explaining.text =
            memory_format("project %s: another change took what was left of its quota; blixard "
                          "quota show %s",
                          project, project);
    }
    store_command_add_expecting(command, ERROR_QUOTA_EXCEEDED, explaining.text,
                                KEEPS_WITHIN(IS_BEYOND), "tuuuuu", project, ask->cpus,
                                ask->memory_bytes, ask->disk_bytes, ask->machines, ask->functions);
    if (ask->devices > 0 && devices_are_kept(store)) {
        store_command_add_expecting(command, ERROR_QUOTA_EXCEEDED, explaining.text,
                                    KEEPS_WITHIN("q.devices < " DEVICES), "t", project);
    }
    free(explaining.text);
}

/* ---- The service ---- */

struct quota_service {
    struct quota_options options;
    struct quota_shares *shares;
    struct store_watch *watch;
    struct loop_timer *timer;
    unsigned nodes;
};

static bool take_count(sqlite3_stmt *row, void *context)
{
    *(unsigned *)context = (unsigned)sqlite3_column_int64(row, 0);
    return false;
}

static void put_share(const struct quota_row *row, void *context)
{
    struct quota_service *service = context;
    shares_put(service->shares, row, service->nodes);
}

static void refresh(void *context)
{
    struct quota_service *service = context;
    struct error ignored = {0};
    unsigned nodes = 0;
    store_query(service->options.store, &ignored, take_count, &nodes, "SELECT count(*) FROM node",
                "");
    service->nodes = nodes > 0 ? nodes : 1;
    shares_begin(service->shares);
    quota_rows(service->options.store, NULL, put_share, service, &ignored);
    shares_end(service->shares);
    if (service->options.changed != NULL) {
        service->options.changed(service->options.context);
    }
}

/* The command is still being told of. */
static void on_changed(const struct store_event *event, void *context)
{
    struct quota_service *service = context;
    if (event->operation == 'R' || strcmp(event->table, "quota") == 0 ||
        (strcmp(event->table, "node") == 0 && event->operation != 'U')) {
        loop_timer_start(service->timer, 0);
    }
}

struct quota_service *quota_service_new(const struct quota_options *options)
{
    struct quota_service *service = NEW(struct quota_service);
    service->options = *options;
    service->shares = shares_new();
    service->timer = loop_timer_new(options->loop, refresh, service);
    service->watch = store_watch_new(options->store, NULL, on_changed, service);
    refresh(service);
    return service;
}

void quota_service_free(struct quota_service *service)
{
    if (service == NULL) {
        return;
    }
    store_watch_free(service->watch);
    loop_timer_free(service->timer);
    shares_free(service->shares);
    free(service);
}

int quota_take_request(struct quota_service *service, const char *project, uint64_t now_ms,
                       struct error *err)
{
    return service != NULL ? shares_take(service->shares, project, now_ms, err) : 0;
}

unsigned quota_instances(const struct quota_service *service, const char *project)
{
    return shares_instances(service->shares, project);
}

/* ---- Setting ---- */

struct refusal {
    quota_done *done;
    void *context;
    struct error error;
};

static void refuse(void *argument)
{
    struct refusal *refusal = argument;
    refusal->done(&refusal->error, 0, refusal->context);
    free(refusal);
}

static void refuse_later(struct quota_service *service, const struct error *error, quota_done *done,
                         void *context)
{
    struct refusal *refusal = NEW(struct refusal);
    *refusal = (struct refusal){done, context, *error};
    loop_post(service->options.loop, refuse, refusal);
}

static int check(struct quota_service *service, const char *project, const json_t *body,
                 struct error *err)
{
    if (!quota_is_kept(service->options.store)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a node of the cluster is too old for quotas: update it first");
    }
    if (json_is_integer(json_object_get(body, quota_names[QUOTA_DEVICES])) &&
        !devices_are_kept(service->options.store)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a node of the cluster is too old for quotas of devices: update it first");
    }
    if (!text_is_name(project)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no name of a project", project);
    }
    int r = 0;
    for (int i = 0; i < QUOTA_RESOURCE_COUNT && r == 0; i++) {
        uint64_t most = i == QUOTA_INSTANCES ? INSTANCE_MAX : LIMIT_MAX;
        uint64_t least = i == QUOTA_INSTANCES ? 1 : 0; /* without one nothing runs: no functions */
        if (json_is_integer(json_object_get(body, quota_names[i]))) {
            r = error_check_range(quota_names[i], json_u64(body, quota_names[i]), least, most, err);
        }
    }
    return r;
}

/* For the command: NO_LIMIT, or KEEP of a change that does not speak of it. */
static int64_t value_of(const json_t *body, enum quota_resource resource, bool is_change)
{
    const json_t *limit = json_object_get(body, quota_names[resource]);
    if (limit == NULL && is_change) {
        return KEEP;
    }
    return json_is_integer(limit) ? json_integer_value(limit) : NO_LIMIT;
}

static void propose_limits(struct quota_service *service, const char *project, const json_t *body,
                           bool is_change, quota_done *done, void *context)
{
    struct error err = {0};
    if (check(service, project, body, &err) < 0) {
        refuse_later(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(
        command,
        "INSERT INTO quota (key, cpus, memory_bytes, disk_bytes, machines, functions, "
        "requests_per_second, instances, created_ms, revision) VALUES (?1, "
        "nullif(max(?2, -1), -1), nullif(max(?3, -1), -1), nullif(max(?4, -1), -1), "
        "nullif(max(?5, -1), -1), nullif(max(?6, -1), -1), nullif(max(?7, -1), -1), "
        "nullif(max(?8, -1), -1), ?9, ?10) ON CONFLICT (key) DO UPDATE SET "
        "cpus = iif(?2 = -2, cpus, excluded.cpus), "
        "memory_bytes = iif(?3 = -2, memory_bytes, excluded.memory_bytes), "
        "disk_bytes = iif(?4 = -2, disk_bytes, excluded.disk_bytes), "
        "machines = iif(?5 = -2, machines, excluded.machines), "
        "functions = iif(?6 = -2, functions, excluded.functions), "
        "requests_per_second = iif(?7 = -2, requests_per_second, excluded.requests_per_second), "
        "instances = iif(?8 = -2, instances, excluded.instances), revision = excluded.revision",
        "tiiiiiiiur", project, value_of(body, QUOTA_CPUS, is_change),
        value_of(body, QUOTA_MEMORY, is_change), value_of(body, QUOTA_DISK, is_change),
        value_of(body, QUOTA_MACHINES, is_change), value_of(body, QUOTA_FUNCTIONS, is_change),
        value_of(body, QUOTA_REQUESTS, is_change), value_of(body, QUOTA_INSTANCES, is_change),
        clock_real_ms());
    if (devices_are_kept(service->options.store)) {
        store_command_add(command,
                          "UPDATE quota SET devices = iif(?2 = -2, devices, nullif(?2, -1)) WHERE "
                          "key = ?1",
                          "ti", project, value_of(body, QUOTA_DEVICES, is_change));
    }
    store_propose(service->options.store, command, done, context);
}

void quota_set(struct quota_service *service, const char *project, const json_t *body,
               quota_done *done, void *context)
{
    propose_limits(service, project, body, false, done, context);
}

void quota_update(struct quota_service *service, const char *project, const json_t *body,
                  quota_done *done, void *context)
{
    propose_limits(service, project, body, true, done, context);
}

void quota_delete(struct quota_service *service, const char *project, quota_done *done,
                  void *context)
{
    struct error err = {0};
    if (!quota_is_kept(service->options.store)) {
        error_set(&err, ERROR_NOT_FOUND, "project %.64s has no quota", project);
        refuse_later(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *text = memory_format("project %.64s has no quota", project);
    store_command_add_expecting(command, ERROR_NOT_FOUND, text, "DELETE FROM quota WHERE key = ?",
                                "t", project);
    store_propose(service->options.store, command, done, context);
}

/* ---- Showing ---- */

struct writing {
    struct quota_service *service;
    struct json_writer writer;
    struct buffer *out;
    size_t count;
};

static uint64_t instances_here(const struct quota_service *service, const char *project)
{
    return service->options.count_instances != NULL
        ? service->options.count_instances(project, service->options.context)
        : 0;
}

static void write_row(const struct quota_row *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", row->project);
    for (int i = 0; i < QUOTA_RESOURCE_COUNT; i++) {
        if (row->has[i]) {
            json_write_field_u64(writer, quota_names[i], row->limits[i]);
        }
    }
    if (row->has[QUOTA_INSTANCES]) {
        json_write_field_u64(writer, "instances_here",
                             shares_instances(writing->service->shares, row->project));
    }
    json_write_key(writer, "used");
    json_write_begin_object(writer);
    for (int i = 0; i < QUOTA_STORED_COUNT; i++) {
        json_write_field_u64(writer, quota_names[i], row->used[i]);
    }
    json_write_field_u64(writer, "instances_here", instances_here(writing->service, row->project));
    json_write_field_u64(writer, "requests_refused_here",
                         shares_refused(writing->service->shares, row->project));
    json_write_end_object(writer);
    json_write_end_object(writer);
}

int quota_write(struct quota_service *service, const char *project, struct buffer *out,
                struct error *err)
{
    struct writing writing = {service, json_writer_to(out), out, 0};
    int r = quota_rows(service->options.store, project, write_row, &writing, err);
    return r < 0 || writing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "project %.64s has no quota: `blixard quota set %.64s` gives it one", project,
                    project);
}

int quota_write_list(struct quota_service *service, struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), out, 0};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "quotas");
    json_write_begin_array(&writing.writer);
    int r = quota_rows(service->options.store, NULL, write_row, &writing, err);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

static void write_limits(const struct quota_row *row, void *context)
{
    struct writing *writing = context;
    for (int i = 0; i < QUOTA_RESOURCE_COUNT; i++) {
        if (row->has[i]) {
            buffer_append_format(
                writing->out, "blixard_project_limit{project=\"%s\",resource=\"%s\"} %" PRIu64 "\n",
                row->project, quota_names[i], row->limits[i]);
        }
    }
}

static void write_usage(const struct quota_row *row, void *context)
{
    struct writing *writing = context;
    for (int i = 0; i < QUOTA_STORED_COUNT; i++) {
        buffer_append_format(writing->out,
                             "blixard_project_usage{project=\"%s\",resource=\"%s\"} %" PRIu64 "\n",
                             row->project, quota_names[i], row->used[i]);
    }
    buffer_append_format(
        writing->out,
        "blixard_project_usage{project=\"%s\",resource=\"instances_here\"} %" PRIu64 "\n",
        row->project, instances_here(writing->service, row->project));
}

void quota_write_metrics(struct quota_service *service, struct buffer *out)
{
    struct writing writing = {.service = service, .out = out};
    struct error ignored = {0};
    buffer_append_string(out,
                         "# HELP blixard_project_limit What a project may have at most.\n"
                         "# TYPE blixard_project_limit gauge\n");
    quota_rows(service->options.store, NULL, write_limits, &writing, &ignored);
    buffer_append_string(out,
                         "# HELP blixard_project_usage What a project with a quota has.\n"
                         "# TYPE blixard_project_usage gauge\n");
    quota_rows(service->options.store, NULL, write_usage, &writing, &ignored);
}
