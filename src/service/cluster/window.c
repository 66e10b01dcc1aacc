/*
 * Windows in which nodes are maintained, as rows: a schedule and a duration (service/cron).  Nobody
 * counts them: which one is open follows from the row and the clock, so that any node can say it,
 * and who takes over from a lost leader knows as much.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"

#include "service/cluster/parts.h"
#include "service/cron/cron.h"

enum {
    SCHEMA_WITH_WINDOWS = 9,
    WINDOWS_MAX = 16, /* of a node */
    TEXT_MAX = 200,
    SECOND_MS = 1000,
    DEADLINE_DEFAULT_MS = 15 * 60 * 1000,
};
#define DURATION_MAX_MS (UINT64_C(31) * 24 * 3600000)
#define DEADLINE_MAX_MS (UINT64_C(7) * 24 * 3600000)

struct window_set {
    char schedule[TEXT_MAX + 8];
    const char *zone;
    uint64_t duration_ms;
    uint64_t deadline_ms;
    bool is_forced;
};

static bool is_known(struct cluster *cluster)
{
    return cluster->store != NULL && store_schema_now(cluster->store) >= SCHEMA_WITH_WINDOWS;
}

/* ---- What is asked for ---- */

/* Milliseconds since 1970; INVALID. */
static int parse_time(const char *field, const char *text, uint64_t *ret_ms, struct error *err)
{
    char schedule[TEXT_MAX + 1];
    struct cron_zone *zone = NULL;
    struct cron *cron = NULL;
    snprintf(schedule, sizeof(schedule), "@at %.80s", text);
    int r = cron_zone_open("", &zone, err);
    r = r < 0 ? r : cron_parse(schedule, zone, &cron, err);
    if (r == 0) {
        *ret_ms = cron_next(cron, 0, 0);
    } else {
        error_wrap(err, "$.%s", field);
    }
    cron_free(cron);
    cron_zone_free(zone);
    return r;
}

static int take_schedule(const json_t *body, struct window_set *set, struct error *err)
{
    const char *schedule = json_text(body, "schedule");
    const char *from = json_text(body, "from");
    const char *to = json_text(body, "to");
    bool is_once = from[0] != '\0' && to[0] != '\0';
    uint64_t from_ms = 0;
    uint64_t to_ms = 0;
    set->duration_ms = json_u64(body, "duration_ms");
    if (schedule[0] != '\0' ? from[0] != '\0' || to[0] != '\0' || set->duration_ms == 0
                            : !is_once || set->duration_ms != 0) {
        return error_set(err, ERROR_INVALID,
                         "a window has a schedule and a duration, or once: from and to");
    }
    if (strlen(schedule) > TEXT_MAX || strlen(from) > TEXT_MAX / 2) {
        return error_set(err, ERROR_TOO_LARGE, "a schedule has at most %d bytes", (int)TEXT_MAX);
    }
    snprintf(set->schedule, sizeof(set->schedule), "%s%s", schedule[0] != '\0' ? "" : "@at ",
             schedule[0] != '\0' ? schedule : from);
    int r = !is_once ? 0 : parse_time("from", from, &from_ms, err);
    r = r < 0 || !is_once ? r : parse_time("to", to, &to_ms, err);
    if (r == 0 && is_once && to_ms <= from_ms) {
        r = error_set(err, ERROR_INVALID, "the window would close before it opens");
    }
    set->duration_ms = is_once ? to_ms - from_ms : set->duration_ms;
    return r;
}

static int take_body(const json_t *body, struct window_set *set, struct error *err)
{
    struct cron_zone *zone = NULL;
    struct cron *cron = NULL;
    uint64_t deadline_ms = json_u64(body, "deadline_ms");
    set->zone = json_text(body, "zone");
    set->is_forced = json_is_true(json_object_get(body, "force"));
    set->deadline_ms = deadline_ms > 0 ? deadline_ms : DEADLINE_DEFAULT_MS;
    int r = take_schedule(body, set, err);
    r = r < 0 ? r
              : error_check_range("duration_ms", set->duration_ms, SECOND_MS, DURATION_MAX_MS, err);
    r = r < 0 ? r
              : error_check_range("deadline_ms", set->deadline_ms, SECOND_MS, DEADLINE_MAX_MS, err);
    if (r == 0 && strlen(set->zone) > TEXT_MAX) {
        r = error_set(err, ERROR_TOO_LARGE, "the name of a zone has at most %d bytes",
                      (int)TEXT_MAX);
    }
    r = r < 0 ? r : cron_zone_open(set->zone, &zone, err);
    r = r < 0 ? r : cron_check(set->schedule, zone, err);
    r = r < 0 ? r : cron_parse(set->schedule, zone, &cron, err);
    if (r == 0 && cron_window(cron, set->duration_ms, clock_real_ms(), clock_real_ms()) == 0) {
        r = error_set(err, ERROR_INVALID, "such a window is over, or never opens");
    }
    cron_free(cron);
    cron_zone_free(zone);
    return r;
}

static int find(struct cluster *cluster, const char *name, const char *window,
                struct member **ret_member, struct error *err)
{
    int r = change_find_node(cluster, name, ret_member, err);
    if (r == 0 && !is_known(cluster)) {
        r = error_set(err, ERROR_UNSUPPORTED, "not all nodes know this yet: upgrade them first");
    }
    return r < 0 || text_is_name(window)
        ? r
        : error_set(err, ERROR_INVALID,
                    "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a letter",
                    window);
}

/* One that opens as before, and is only longer or shorter, is open if it was. */
void cluster_set_window(struct cluster *cluster, const char *name, const char *window,
                        const json_t *body, struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    struct window_set set = {0};
    int r = find(cluster, name, window, &member, &err);
    r = r < 0 ? r : take_body(body, &set, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", name, window);
    MEMORY_OWNED char *many = memory_format("a node has at most %d windows", (int)WINDOWS_MAX);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_LIMIT, many,
        "INSERT INTO node_window (key, node, name, schedule, zone, duration_ms, deadline_ms, "
        "force, since_ms, begun_ms, problem, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
        "0, '', ?10 WHERE (SELECT count(*) FROM node_window WHERE node = ?2 AND key <> ?1) < ?11 "
        "ON CONFLICT (key) DO UPDATE SET schedule = excluded.schedule, zone = excluded.zone, "
        "duration_ms = excluded.duration_ms, deadline_ms = excluded.deadline_ms, force = "
        "excluded.force, since_ms = CASE WHEN schedule = excluded.schedule AND zone = "
        "excluded.zone THEN since_ms ELSE excluded.since_ms END, begun_ms = 0, problem = '', "
        "revision = excluded.revision",
        "tttttuuiuri", key, name, window, set.schedule, set.zone, set.duration_ms, set.deadline_ms,
        (int64_t)set.is_forced, clock_real_ms(), (int64_t)WINDOWS_MAX);
    change_propose(change_of_node(cluster, name, reply), command);
}

void cluster_delete_window(struct cluster *cluster, const char *name, const char *window,
                           struct cluster_reply reply)
{
    struct error err = {0};
    struct member *member = NULL;
    if (find(cluster, name, window, &member, &err) < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", name, window);
    MEMORY_OWNED char *missing = memory_format("node %s has no window %.64s", name, window);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, missing,
                                "DELETE FROM node_window WHERE key = ?", "t", key);
    change_propose(change_of_node(cluster, "", reply), command);
}

/* ---- What there is ---- */

struct reading {
    uint64_t now_ms;
    void (*visit)(const struct cluster_window *window, void *context);
    void *context;
    struct json_writer *writer; /* or NULL: `visit` */
    char zone_name[TEXT_MAX + 1];
    struct cron_zone *zone; /* of that name; most rows have the same */
};

#define COLUMNS                                                                                \
    "SELECT node, name, schedule, zone, duration_ms, deadline_ms, force, since_ms, begun_ms, " \
    "problem FROM node_window "

static uint64_t number(sqlite3_stmt *row, int index)
{
    return (uint64_t)sqlite3_column_int64(row, index);
}

/* A zone that this machine does not have is no zone: the window does not open here. */
static uint64_t find_opening(struct reading *reading, sqlite3_stmt *row)
{
    struct error ignored = {0};
    struct cron *cron = NULL;
    uint64_t opens_ms = 0;
    const char *zone = store_text(row, 3);
    if (reading->zone == NULL || strcmp(reading->zone_name, zone) != 0) {
        cron_zone_free(reading->zone);
        reading->zone = NULL;
        snprintf(reading->zone_name, sizeof(reading->zone_name), "%s", zone);
        if (cron_zone_open(zone, &reading->zone, &ignored) < 0) {
            return 0;
        }
    }
    if (cron_parse(store_text(row, 2), reading->zone, &cron, &ignored) == 0) {
        opens_ms = cron_window(cron, number(row, 4), number(row, 7), reading->now_ms);
    }
    cron_free(cron);
    return opens_ms;
}

static void write_window(const struct reading *reading, sqlite3_stmt *row,
                         const struct cluster_window *window)
{
    struct json_writer *writer = reading->writer;
    const char *state = window->opens_ms == 0  ? "over"
        : reading->now_ms >= window->opens_ms  ? "open"
        : reading->now_ms >= window->drains_ms ? "draining"
                                               : "waiting";
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", window->name);
    json_write_field_string(writer, "schedule", store_text(row, 2));
    json_write_field_string(writer, "zone", store_text(row, 3));
    json_write_field_u64(writer, "duration_ms", number(row, 4));
    json_write_field_u64(writer, "deadline_ms", window->deadline_ms);
    json_write_field_bool(writer, "force", window->is_forced);
    json_write_field_string(writer, "state", state);
    if (window->opens_ms > 0) {
        json_write_field_time_ms(writer, "opens_at", window->opens_ms);
        json_write_field_time_ms(writer, "closes_at", window->closes_ms);
    }
    json_write_field_string(writer, "problem", window->problem);
    json_write_end_object(writer);
}

static bool take_window(sqlite3_stmt *row, void *context)
{
    struct reading *reading = context;
    uint64_t opens_ms = find_opening(reading, row);
    uint64_t deadline_ms = number(row, 5);
    const struct cluster_window window = {
        .node = store_text(row, 0),
        .name = store_text(row, 1),
        .opens_ms = opens_ms,
        .closes_ms = opens_ms + number(row, 4),
        .drains_ms = opens_ms > deadline_ms ? opens_ms - deadline_ms : 0,
        .deadline_ms = deadline_ms,
        .begun_ms = number(row, 8),
        .is_forced = sqlite3_column_int(row, 6) != 0,
        .problem = store_text(row, 9),
    };
    if (reading->writer != NULL) {
        write_window(reading, row, &window);
    } else {
        reading->visit(&window, reading->context);
    }
    return true;
}

int cluster_windows_each(struct cluster *cluster, uint64_t now_ms,
                         void (*visit)(const struct cluster_window *window, void *context),
                         void *context, struct error *err)
{
    struct reading reading = {.now_ms = now_ms, .visit = visit, .context = context};
    int r = is_known(cluster)
        ? store_query(cluster->store, err, take_window, &reading, COLUMNS "ORDER BY zone, key", "")
        : 0;
    cron_zone_free(reading.zone);
    return r;
}

void window_describe(struct cluster *cluster, struct json_writer *writer, const char *node)
{
    struct reading reading = {.now_ms = clock_real_ms(), .writer = writer};
    struct error ignored = {0};
    json_write_key(writer, "windows");
    json_write_begin_array(writer);
    if (is_known(cluster)) {
        store_query(cluster->store, &ignored, take_window, &reading,
                    COLUMNS "WHERE node = ? ORDER BY name", "t", node);
    }
    json_write_end_array(writer);
    cron_zone_free(reading.zone);
}
