/* Routes: rows, and the table that is made of them.  See route.h. */
#include "service/route/route.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/route/limiter.h"
#include "service/route/meter.h"
#include "service/route/parts.h"

/* ---- Life ---- */

static void refresh_posted(void *argument)
{
    struct route_service *service = argument;
    service->is_posted = false;
    if (service->is_over) {
        free(service);
    } else if (service->is_stale) {
        table_refresh(service);
    }
}

static void on_changed(const struct store_event *event, void *context)
{
    (void)event;
    struct route_service *service = context;
    service->is_stale = true;
    if (!service->is_posted) {
        service->is_posted = true;
        loop_post(service->loop, refresh_posted, service);
    }
}

struct route_service *route_service_new(struct loop *loop, struct store *store)
{
    struct route_service *service = NEW(struct route_service);
    service->loop = loop;
    service->store = store;
    pthread_mutex_init(&service->mutex, NULL);
    service->watches[0] = store_watch_new(store, "route", on_changed, service);
    service->watches[1] = store_watch_new(store, "client", on_changed, service);
    table_refresh(service);
    return service;
}

static void end_limiter(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    limiter_unref(value);
}

static void end_meter(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    meter_unref(value);
}

void route_service_free(struct route_service *service)
{
    if (service == NULL) {
        return;
    }
    store_watch_free(service->watches[0]);
    store_watch_free(service->watches[1]);
    table_done(service);
    map_each(&service->limiters, end_limiter, NULL);
    map_done(&service->limiters);
    map_each(&service->meters, end_meter, NULL);
    map_done(&service->meters);
    pthread_mutex_destroy(&service->mutex);
    service->is_over = true;
    if (!service->is_posted) {
        free(service);
    }
}

/* ---- Changing ---- */

struct change {
    struct loop *loop;
    route_done *done;
    void *context;
    struct error error;
};

static void on_refused(void *argument)
{
    struct change *change = argument;
    change->done(&change->error, 0, change->context);
    free(change);
}

static void refuse(struct route_service *service, const struct error *error, route_done *done,
                   void *context)
{
    struct change *change = NEW(struct change);
    *change = (struct change){.done = done, .context = context, .error = *error};
    loop_post(service->loop, on_refused, change);
}

/* NAME of "NAME:ALIAS". */
static int check_function(struct route_service *service, const char *project, const char *function,
                          struct error *err)
{
    bool is_there = false;
    MEMORY_OWNED char *key =
        memory_format("%s/%.*s", project, (int)strcspn(function, ":"), function);
    int r = store_query(service->store, err, store_take_any, &is_there,
                        "SELECT 1 FROM function WHERE key = ?", "t", key);
    return r < 0 || is_there ? r
                             : error_set(err, ERROR_NOT_FOUND, "there is no function %.*s",
                                         (int)strcspn(function, ":"), function);
}

static bool is_there(struct route_service *service, const char *query, const char *key)
{
    bool found = false;
    struct error ignored = {0};
    return store_query(service->store, &ignored, store_take_any, &found, query, "t", key) == 0 &&
        found;
}

bool route_exists(struct route_service *service, const char *project, const char *name)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    return is_there(service, "SELECT 1 FROM route WHERE key = ?", key);
}

/* Routes are triggers: one name is one of them. */
static int check_name(struct route_service *service, const char *project, const char *name,
                      bool replaces, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID, "\"%.64s\" is no name: a-z, 0-9 and '-'", name);
    }
    if (route_exists(service, project, name)) {
        return replaces ? 0
                        : error_set(err, ERROR_EXISTS,
                                    "there is a trigger %s already; change it with blixard trigger "
                                    "update",
                                    name);
    }
    return is_there(service, "SELECT 1 FROM trigger_row WHERE key = ?", key)
        ? error_set(err, ERROR_EXISTS,
                    "there is a trigger %s of another kind; blixard trigger get %s shows it", name,
                    name)
        : 0;
}

/* In the row, and not in its settings; absent: as it is. */
enum { UNPAUSED, PAUSED, AS_IT_IS };

static unsigned take_paused(json_t *settings)
{
    const json_t *paused = json_object_get(settings, "paused");
    unsigned wanted = !json_is_boolean(paused) ? AS_IT_IS
        : json_is_true(paused)                 ? PAUSED
                                               : UNPAUSED;
    json_object_del(settings, "paused");
    return wanted;
}

#define INSERT                                                                           \
    "INSERT INTO route (key, project, name, function, settings, is_paused, created_ms, " \
    "revision) VALUES (?1, ?2, ?3, ?4, ?5, ?8 = 1, ?6, ?7) ON CONFLICT (key)"

/* What is asked of a route that is made now; one that is there may be older than a rule. */
static int check_wanted(const json_t *settings, struct error *err)
{
    if (json_is_true(json_object_get(settings, "websocket")) &&
        json_is_true(json_object_get(settings, "cache"))) {
        return error_set(err, ERROR_INVALID,
                         "a WebSocket has no answers that cache: true could keep");
    }
    return settings_check(settings, err);
}

int route_check(struct route_service *service, const char *project, const char *name,
                const json_t *settings, struct error *err)
{
    int r = check_name(service, project, name, true, err);
    return r < 0 ? r : check_wanted(settings, err);
}

void route_set(struct route_service *service, const char *project, const char *name,
               const json_t *settings, bool replaces, route_done *done, void *context)
{
    struct error err = {0};
    const char *function = json_string_value(json_object_get(settings, "function"));
    int r = check_name(service, project, name, replaces, &err);
    r = r < 0 ? r : check_wanted(settings, &err);
    r = r < 0 ? r : check_function(service, project, function, &err);
    if (r < 0) {
        refuse(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    JSON_OWNED json_t *kept = json_deep_copy(settings);
    uint64_t paused = take_paused(kept);
    char *text = json_dumps(kept, JSON_COMPACT | JSON_SORT_KEYS);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, clock_real_ms());
    store_command_add_expecting(
        command, ERROR_EXISTS, "there is such a trigger already; blixard trigger update",
        replaces ? INSERT
            " DO UPDATE SET function = ?4, settings = ?5, is_paused = CASE ?8 WHEN 2 THEN "
            "is_paused ELSE ?8 END, revision = ?7"
                 : INSERT " DO NOTHING", /* of several at once, the first */
        "ttttturu", key, project, name, function, text, clock_real_ms(), paused);
    free(text);
    store_propose(service->store, command, done, context);
}

static int missing(struct route_service *service, const char *project, const char *name,
                   struct error *err)
{
    return route_exists(service, project, name)
        ? 0
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no route %.64s: see `blixard route list`, or make it with `blixard "
                    "route set %.64s`",
                    name, name);
}

void route_set_paused(struct route_service *service, const char *project, const char *name,
                      bool is_paused, route_done *done, void *context)
{
    struct error err = {0};
    if (missing(service, project, name, &err) < 0) {
        refuse(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the route was deleted meanwhile",
                                "UPDATE route SET is_paused = ?, revision = ? WHERE key = ?", "urt",
                                (uint64_t)is_paused, key);
    store_propose(service->store, command, done, context);
}

void route_delete(struct route_service *service, const char *project, const char *name,
                  route_done *done, void *context)
{
    struct error err = {0};
    if (missing(service, project, name, &err) < 0) {
        refuse(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the route was deleted meanwhile",
                                "DELETE FROM route WHERE key = ?", "t", key);
    store_propose(service->store, command, done, context);
}

/* ---- Looking ---- */

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    const char *settings = (const char *)sqlite3_column_text(row, 2);
    JSON_OWNED json_t *document = NULL;
    struct error err = {0};
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", (const char *)sqlite3_column_text(row, 0));
    json_write_field_string(writer, "project", (const char *)sqlite3_column_text(row, 1));
    if (json_read(settings, strlen(settings), &document, &err) == 0) {
        json_write_members(writer, document);
    }
    json_write_field_bool(writer, "paused", sqlite3_column_int(row, 3) != 0);
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_end_object(writer);
    return true;
}

#define COLUMNS "SELECT name, project, settings, is_paused, created_ms FROM route "

int route_write_list(struct route_service *service, const char *project, struct buffer *out,
                     struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "routes");
    json_write_begin_array(&writer);
    int r = store_query(service->store, err, write_row, &writer,
                        COLUMNS "WHERE project = ? ORDER BY name", "t", project);
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}

int route_write(struct route_service *service, const char *project, const char *name,
                struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = missing(service, project, name, err);
    return r < 0
        ? r
        : store_query(service->store, err, write_row, &writer, COLUMNS "WHERE key = ?", "t", key);
}
