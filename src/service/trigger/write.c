/* Triggers as JSON, and for Prometheus. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/trigger/parts.h"
#include "service/trigger/schedule.h"

struct writing {
    struct trigger_service *service;
    struct json_writer *writer;
    bool is_one; /* which is looked at closely */
    unsigned count;
};

static uint64_t number(sqlite3_stmt *row, int index)
{
    return (uint64_t)sqlite3_column_int64(row, index);
}

static const char *column(sqlite3_stmt *row, int index)
{
    return (const char *)sqlite3_column_text(row, index);
}

/* How it stands at this node, which may not be the one that runs it. */
static void write_here(struct json_writer *writer, const struct trigger_source *source,
                       bool is_paused)
{
    const char *state = is_paused ? "paused" : "elsewhere";
    if (source != NULL) {
        state = source->is_running && source->problem[0] == '\0' ? "running" : "failing";
    }
    json_write_field_string(writer, "state", state);
    if (source == NULL) {
        return;
    }
    uint64_t lag = 0;
    const char *text = source->problem[0] != '\0' ? source->problem : NULL;
    if (text == NULL && source->is_running && source->driver->describe != NULL) {
        text = source->driver->describe(source->driver_state);
    }
    json_write_field_string(writer, "source", text);
    json_write_field_u64(writer, "in_flight", source->flying);
    json_write_field_u64(writer, "waiting", source->pending_count);
    if (source->is_running && source->driver->lag != NULL &&
        source->driver->lag(source->driver_state, &lag)) {
        json_write_field_u64(writer, "lag", lag);
    }
}

static void write_counts(struct json_writer *writer, sqlite3_stmt *row,
                         const struct trigger_counts *more)
{
    json_write_field_string(writer, "counted_by", "cluster");
    json_write_field_u64(writer, "seen", number(row, 7) + more->seen);
    json_write_field_u64(writer, "matched", number(row, 8) + more->matched);
    json_write_field_u64(writer, "delivered", number(row, 9) + more->delivered);
    json_write_field_u64(writer, "failed", number(row, 10) + more->failed);
    json_write_field_u64(writer, "dead", number(row, 11) + more->dead);
    json_write_field_u64(writer, "skipped", number(row, 12));
    json_write_field_time_ms(writer, "last_at",
                             more->last_ms > 0 ? more->last_ms : number(row, 13));
}

static void write_spec(struct json_writer *writer, const char *config)
{
    json_t *document = NULL;
    struct error ignored = {0};
    const char *key = NULL;
    json_t *value = NULL;
    if (json_read(config, strlen(config), &document, &ignored) < 0) {
        return;
    }
    trigger_config_complete(document);
    json_object_foreach(document, key, value)
    {
        char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        json_write_key(writer, key);
        json_write_raw(writer, text != NULL ? text : "null", text != NULL ? strlen(text) : 4);
        free(text);
    }
    json_decref(document);
}

static void write_next(struct json_writer *writer, sqlite3_stmt *row)
{
    JSON_OWNED json_t *config = NULL;
    struct error ignored = {0};
    if (json_read(column(row, 4), strlen(column(row, 4)), &config, &ignored) == 0) {
        json_write_key(writer, "next_runs");
        schedule_write_next(json_object_get(config, "settings"), number(row, 15), number(row, 16),
                            writer);
    }
}

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = writing->writer;
    static const struct trigger_counts none;
    const struct trigger_source *source = map_get(&writing->service->sources, column(row, 0));
    const struct trigger_counts *more = source != NULL ? &source->counts : &none;
    bool is_paused = number(row, 3) != 0;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", column(row, 2));
    json_write_field_string(writer, "project", column(row, 1));
    json_write_field_bool(writer, "paused", is_paused);
    write_here(writer, source, is_paused);
    write_counts(writer, row, more);
    json_write_field_string(writer, "last_error",
                            source != NULL && source->last_error[0] != '\0' ? source->last_error
                                                                            : column(row, 14));
    if (sqlite3_column_type(row, 15) != SQLITE_NULL && !is_paused) {
        json_write_field_time_ms(writer, "next_at", number(row, 15));
        if (writing->is_one) {
            write_next(writer, row);
        }
    }
    json_write_field_time_ms(writer, "created_at", number(row, 5));
    json_write_field_time_ms(writer, "updated_at", number(row, 6));
    write_spec(writer, column(row, 4));
    json_write_end_object(writer);
    writing->count++;
    return true;
}

#define SELECT                                                                                     \
    "SELECT r.key, project, name, paused, config, created_ms, updated_ms, seen, matched, "         \
    "delivered, failed, dead, skipped, last_ms, last_error, slot_ms, since_ms FROM trigger_row r " \
    "LEFT JOIN "                                                                                   \
    "trigger_count c ON c.trigger = r.key LEFT JOIN cron_next n ON n.trigger = r.key "

int trigger_write(struct trigger_service *service, const char *project, const char *name,
                  struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    struct writing writing = {.service = service, .writer = &writer, .is_one = true};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, write_row, &writing, SELECT "WHERE r.key = ?",
                        "t", key);
    return r < 0 || writing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no trigger %.63s; blixard trigger list shows which there are", name);
}

int trigger_write_all(struct trigger_service *service, const char *project,
                      struct json_writer *writer, struct error *err)
{
    struct writing writing = {.service = service, .writer = writer};
    return store_query(service->options.store, err, write_row, &writing,
                       SELECT "WHERE project = ? ORDER BY name", "t", project);
}

/* ---- Prometheus: of those that run here ---- */

struct measuring {
    struct buffer *out;
    unsigned what;
};

static const struct {
    const char *name;
    const char *type;
    const char *help;
} measures[] = {
    {"blixard_trigger_in_flight", "gauge", "Events being delivered."},
    {"blixard_trigger_waiting", "gauge", "Events taken that wait for a delivery."},
    {"blixard_trigger_lag", "gauge", "Events that wait at the source."},
};

static void measure(const char *key, void *value, void *context)
{
    const struct trigger_source *source = value;
    struct measuring *measuring = context;
    uint64_t amount = measuring->what == 0 ? source->flying : source->pending_count;
    (void)key;
    if (measuring->what == 2 &&
        (!source->is_running || source->driver->lag == NULL ||
         !source->driver->lag(source->driver_state, &amount))) {
        return;
    }
    buffer_append_format(measuring->out, "%s{project=\"%s\",trigger=\"%s\",kind=\"%s\"} %llu\n",
                         measures[measuring->what].name, source->project, source->name,
                         source->config.kind, (unsigned long long)amount);
}

void trigger_write_metrics(struct trigger_service *service, struct buffer *out)
{
    for (unsigned i = 0; i < sizeof(measures) / sizeof(measures[0]); i++) {
        struct measuring measuring = {out, i};
        buffer_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", measures[i].name,
                             measures[i].help, measures[i].name, measures[i].type);
        map_each(&service->sources, measure, &measuring);
    }
}
