/*
 * What becomes of machines, one event for each change, as rows of the state.
 *
 * An event is written by the very command that makes the change, so there is one exactly where the
 * state has changed.  A machine's own node gathers what happens while an earlier write is on its
 * way (struct machine, news); each has a random id, so that a write whose end is not known can be
 * made again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

#include "service/machine/parts.h"

enum {
    EVENT_SCHEMA = 8,
    EVENT_ID_SIZE = 17,
    NEWS_MAX = 64,      /* of a machine, not written yet */
    EVENTS_KEPT = 10000 /* of all machines */
};

struct news {
    struct list_node link;
    char id[EVENT_ID_SIZE];
    char type[32];
    char state[16];
    char reason[MACHINE_REASON_SIZE];
    uint64_t at_ms;
    bool is_sent;
};

/* ---- Writing ---- */

static void add(struct store_command *command, const struct machine_event *event, const char *id,
                uint64_t at_ms)
{
    store_command_add(
        command,
        "INSERT OR IGNORE INTO machine_event (sequence, key, id, project, machine, machine_id, "
        "node, type, state, reason, at_ms) SELECT coalesce(max(sequence), 0) + 1, ?1 || '/' || ?2 "
        "|| '/' || (coalesce(max(sequence), 0) + 1), ?3, ?1, ?2, ?4, ?5, ?6, ?7, ?8, ?9 FROM "
        "machine_event",
        "ttttttttu", event->project, event->machine, id, event->machine_id, event->node,
        event->type, event->state, event->reason, at_ms);
    store_command_add(command,
                      "DELETE FROM machine_event WHERE sequence <= (SELECT max(sequence) FROM "
                      "machine_event) - ?",
                      "u", (uint64_t)EVENTS_KEPT);
}

void events_add(struct machine_service *service, struct store_command *command,
                const struct machine_event *event)
{
    char id[EVENT_ID_SIZE];
    if (store_schema_now(service->options.store) >= EVENT_SCHEMA) {
        random_hex(id, sizeof(id) - 1);
        add(command, event, id, clock_real_ms());
    }
}

void events_add_of(const struct machine *machine, struct store_command *command, const char *type,
                   const char *reason)
{
    bool is_over = strcmp(type, "vm.deleted") == 0;
    const struct machine_event event = {.project = machine->project,
                                        .machine = machine->name,
                                        .machine_id = machine->id,
                                        .node = machine->service->node_name,
                                        .type = type,
                                        .state = is_over ? "" : machine_state_text(machine->state),
                                        .reason = reason};
    events_add(machine->service, command, &event);
}

/* ---- News ---- */

static void end(struct machine *machine, struct news *news)
{
    machine->news_count--;
    list_remove(&news->link);
    free(news);
}

const char *machine_event_type(enum machine_state before, enum machine_state state,
                               bool is_found_again)
{
    bool is_new = before == MACHINE_CREATING || before == MACHINE_PREPARING;
    if (before == state) {
        return NULL; /* only the reason is another */
    }
    switch (state) {
    case MACHINE_CREATING:
        return "vm.creating";
    case MACHINE_PREPARING:
        return "vm.preparing";
    case MACHINE_STOPPED:
        return is_new ? "vm.prepared" : "vm.stopped";
    case MACHINE_STARTING:
        return is_found_again ? "vm.recovering" : "vm.starting";
    case MACHINE_RUNNING:
        return before == MACHINE_PAUSED ? "vm.resumed"
            : is_found_again            ? "vm.recovered"
                                        : "vm.started";
    case MACHINE_PAUSED:
        return "vm.paused";
    case MACHINE_STOPPING:
        return "vm.stopping";
    case MACHINE_BACKOFF:
        return "vm.restarting";
    case MACHINE_FAILED:
        return "vm.failed";
    case MACHINE_DELETING:
        return "vm.deleting";
    case MACHINE_STATES:
        break;
    }
    CHECK(false);
    return NULL;
}

void events_note(struct machine *machine, const char *type, const char *reason)
{
    if (machine->news_count == NEWS_MAX) { /* nothing could be written for long */
        end(machine, LIST_ITEM(machine->news.head.next, struct news, link));
    }
    struct news *news = NEW(struct news);
    machine->news_count++;
    random_hex(news->id, sizeof(news->id) - 1);
    snprintf(news->type, sizeof(news->type), "%s", type);
    snprintf(news->state, sizeof(news->state), "%s", machine_state_text(machine->state));
    snprintf(news->reason, sizeof(news->reason), "%s", reason);
    news->at_ms = clock_real_ms();
    list_push_back(&machine->news, &news->link);
}

void events_note_state(struct machine *machine, enum machine_state before)
{
    if (machine->state == MACHINE_STARTING) {
        machine->is_found_again = machine->was_found;
    }
    const char *type = machine_event_type(before, machine->state, machine->is_found_again);
    if (type != NULL) {
        events_note(machine, type, machine->reason);
    }
}

void events_add_news(struct machine *machine, struct store_command *command)
{
    if (store_schema_now(machine->service->options.store) < EVENT_SCHEMA) {
        events_forget(machine, false);
        return;
    }
    LIST_EACH(node, &machine->news)
    {
        struct news *news = LIST_ITEM(node, struct news, link);
        const struct machine_event event = {.project = machine->project,
                                            .machine = machine->name,
                                            .machine_id = machine->id,
                                            .node = machine->service->node_name,
                                            .type = news->type,
                                            .state = news->state,
                                            .reason = news->reason};
        add(command, &event, news->id, news->at_ms);
        news->is_sent = true;
    }
}

void events_forget(struct machine *machine, bool only_sent)
{
    LIST_EACH(node, &machine->news)
    {
        struct news *news = LIST_ITEM(node, struct news, link);
        if (news->is_sent || !only_sent) {
            end(machine, news);
        }
    }
}

/* ---- Reading: CloudEvents ---- */

struct reading {
    machine_event_taken *take;
    void *context;
};

enum { AT_SEQUENCE, AT_ID, AT_PROJECT, AT_MACHINE, AT_MACHINE_ID, AT_NODE, AT_TYPE, AT_STATE };
enum { AT_REASON = AT_STATE + 1, AT_TIME };

static void write_event(sqlite3_stmt *row, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    MEMORY_OWNED char *source = memory_format(
        "/projects/%s/machines/%s", store_text(row, AT_PROJECT), store_text(row, AT_MACHINE));
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "specversion", "1.0");
    json_write_field_string(&writer, "id", store_text(row, AT_ID));
    json_write_field_string(&writer, "source", source);
    json_write_field_string(&writer, "type", store_text(row, AT_TYPE));
    json_write_field_time_ms(&writer, "time", (uint64_t)sqlite3_column_int64(row, AT_TIME));
    json_write_field_u64(&writer, "sequence", (uint64_t)sqlite3_column_int64(row, AT_SEQUENCE));
    json_write_key(&writer, "data");
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "machine", store_text(row, AT_MACHINE));
    json_write_field_string(&writer, "machine_id", store_text(row, AT_MACHINE_ID));
    json_write_field_string(&writer, "node", store_text(row, AT_NODE));
    json_write_field_string(&writer, "state", store_text(row, AT_STATE));
    json_write_field_string(&writer, "reason", store_text(row, AT_REASON));
    json_write_end_object(&writer);
    json_write_end_object(&writer);
}

static bool take_event(sqlite3_stmt *row, void *context)
{
    const struct reading *reading = context;
    BUFFER_OWNED struct buffer text = {0};
    write_event(row, &text);
    reading->take((uint64_t)sqlite3_column_int64(row, AT_SEQUENCE), store_text(row, AT_TYPE),
                  buffer_string(&text), reading->context);
    return true;
}

int machine_events_read(struct machine_service *service, const struct machine_event_query *query,
                        machine_event_taken *take, void *context, struct error *err)
{
    struct reading reading = {take, context};
    struct store *store = service->options.store;
    return store_schema_now(store) < EVENT_SCHEMA
        ? 0
        : store_query(store, err, take_event, &reading,
                      "SELECT * FROM (SELECT sequence, id, project, machine, machine_id, node, "
                      "type, state, reason, at_ms FROM machine_event WHERE project = ?1 AND (?2 = "
                      "'' OR machine = ?2) AND sequence > ?3 ORDER BY sequence DESC LIMIT ?4) "
                      "ORDER BY sequence",
                      "ttuu", query->project, query->machine, query->after, query->count_max);
}
