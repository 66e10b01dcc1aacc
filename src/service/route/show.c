/* Routes as triggers of kind http, and for Prometheus. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/route/meter.h"
#include "service/route/parts.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* What triggers of all kinds have; the rest of a RouteSet is what the kind wants to know. */
static const char *const members[] = {"function",        "path",  "filter", "timeout_ms",
                                      "concurrency_max", "paused"};

bool route_is_trigger_member(const char *key)
{
    for (size_t i = 0; i < COUNT(members); i++) {
        if (strcmp(key, members[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void write_settings(struct json_writer *writer, const char *text)
{
    JSON_OWNED json_t *document = NULL;
    JSON_OWNED json_t *settings = json_object();
    struct error ignored = {0};
    const char *key = NULL;
    json_t *value = NULL;
    json_t *outer = json_object();
    if (json_read(text, strlen(text), &document, &ignored) < 0) {
        json_decref(outer);
        return;
    }
    json_object_foreach(document, key, value)
    {
        if (!json_is_null(value)) {
            json_object_set(route_is_trigger_member(key) ? outer : settings, key, value);
        }
    }
    json_object_set(outer, "settings", settings);
    json_write_members(writer, outer);
    json_decref(outer);
}

static void write_counts(struct json_writer *writer, const struct route_counts *counts)
{
    json_write_field_string(writer, "counted_by", "node");
    json_write_field_u64(writer, "in_flight", counts->flying);
    json_write_field_u64(writer, "seen", counts->seen);
    json_write_field_u64(writer, "matched", counts->matched);
    json_write_field_u64(writer, "delivered", counts->delivered);
    json_write_field_u64(writer, "failed", counts->failed);
    json_write_field_u64(writer, "dead", 0);
    json_write_field_u64(writer, "skipped", counts->seen - counts->matched);
    if (counts->last_ms > 0) {
        json_write_field_time_ms(writer, "last_at", counts->last_ms);
    }
}

struct showing {
    struct route_service *service;
    struct json_writer *writer;
    unsigned count;
};

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct showing *showing = context;
    struct json_writer *writer = showing->writer;
    bool is_paused = sqlite3_column_int(row, 4) != 0;
    uint64_t created_ms = (uint64_t)sqlite3_column_int64(row, 5);
    struct route_counts counts = {0};
    const struct route_meter *meter =
        map_get(&showing->service->meters, (const char *)sqlite3_column_text(row, 0));
    if (meter != NULL) {
        meter_read(meter, &counts);
    }
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", (const char *)sqlite3_column_text(row, 2));
    json_write_field_string(writer, "project", (const char *)sqlite3_column_text(row, 1));
    json_write_field_string(writer, "kind", "http");
    json_write_field_bool(writer, "paused", is_paused);
    json_write_field_string(writer, "state", is_paused ? "paused" : "running");
    write_counts(writer, &counts);
    json_write_field_time_ms(writer, "created_at", created_ms);
    write_settings(writer, (const char *)sqlite3_column_text(row, 3));
    json_write_end_object(writer);
    showing->count++;
    return true;
}

#define COLUMNS "SELECT key, project, name, settings, is_paused, created_ms FROM route "

int route_write_trigger(struct route_service *service, const char *project, const char *name,
                        struct json_writer *writer, struct error *err)
{
    struct showing showing = {.service = service, .writer = writer};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r =
        store_query(service->store, err, write_row, &showing, COLUMNS "WHERE key = ?", "t", key);
    return r < 0 || showing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no trigger %.63s; blixard trigger list shows which there are", name);
}

int route_write_triggers(struct route_service *service, const char *project,
                         struct json_writer *writer, struct error *err)
{
    struct showing showing = {.service = service, .writer = writer};
    return store_query(service->store, err, write_row, &showing,
                       COLUMNS "WHERE project = ? ORDER BY name", "t", project);
}

/* ---- Prometheus ---- */

static const struct {
    const char *name;
    const char *type;
    const char *help;
    size_t offset;
} measures[] = {
    {"blixard_route_requests_total", "counter", "Requests that a route has let in.",
     offsetof(struct route_counts, seen)},
    {"blixard_route_matched_total", "counter", "Those of them that its filter wanted.",
     offsetof(struct route_counts, matched)},
    {"blixard_route_failures_total", "counter",
     "Calls of a route answered with 5xx, or not at all.", offsetof(struct route_counts, failed)},
    {"blixard_route_in_flight", "gauge", "Calls of a route that are under way.",
     offsetof(struct route_counts, flying)},
};

struct measuring {
    struct buffer *out;
    unsigned what;
};

static void measure(const char *key, void *value, void *context)
{
    const struct measuring *measuring = context;
    const char *slash = strchr(key, '/');
    struct route_counts counts;
    uint64_t amount = 0;
    meter_read(value, &counts);
    memcpy(&amount, (const char *)&counts + measures[measuring->what].offset, sizeof(amount));
    buffer_append_format(measuring->out, "%s{project=\"%.*s\",route=\"%s\"} %llu\n",
                         measures[measuring->what].name, (int)(slash - key), key, slash + 1,
                         (unsigned long long)amount);
}

void route_write_metrics(struct route_service *service, bool is_open, struct buffer *out)
{
    for (unsigned i = 0; i < COUNT(measures); i++) {
        struct measuring measuring = {out, i};
        const char *name = measures[i].name;
        int family =
            (int)(strlen(name) -
                  (is_open && strcmp(measures[i].type, "counter") == 0 ? strlen("_total") : 0));
        buffer_append_format(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", family, name,
                             measures[i].help, family, name, measures[i].type);
        map_each(&service->meters, measure, &measuring);
    }
}
