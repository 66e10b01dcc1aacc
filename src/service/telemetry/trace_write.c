/* Kept traces as JSON, of the types TraceSummary and Span.  See trace.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

enum { COUNT_DEFAULT = 100, NS_PER_US = 1000, NS_PER_MS = 1000000 };

static const char *kind_text(unsigned kind)
{
    static const char *const texts[] = {"internal", "server", "client", "producer", "consumer"};
    return kind >= 1 && kind <= 5 ? texts[kind - 1] : "internal";
}

static const struct trace_record *record_at(const struct trace_entry *entry, size_t at)
{
    return (const struct trace_record *)(const void *)(entry->records.data + at);
}

/* ---- Summaries ---- */

struct summary {
    const struct trace_record *root;     /* the one that began first */
    const struct trace_record *function; /* the first of a function */
    uint64_t end_ns;
    unsigned errors;
};

static bool record_is_of(const struct trace_record *record, const struct trace_filter *filter)
{
    return (filter->project == NULL ||
            text_equal(trace_item_text(record, "blixard.project"), filter->project)) &&
        (filter->function == NULL ||
         text_equal(trace_item_text(record, "faas.name"), filter->function));
}

static bool sum_up(const struct trace_entry *entry, const struct trace_filter *filter,
                   struct summary *ret_summary)
{
    struct summary summary = {0};
    bool is_of = filter->project == NULL && filter->function == NULL;
    for (size_t at = 0; at < entry->records.used; at += record_at(entry, at)->size) {
        const struct trace_record *record = record_at(entry, at);
        uint64_t end_ns = record->start_ns + record->duration_ns;
        if (summary.root == NULL || record->start_ns < summary.root->start_ns) {
            summary.root = record;
        }
        if (trace_item_text(record, "faas.name").length > 0 &&
            (summary.function == NULL || record->start_ns < summary.function->start_ns)) {
            summary.function = record;
        }
        summary.end_ns = end_ns > summary.end_ns ? end_ns : summary.end_ns;
        summary.errors += record->is_error;
        is_of = is_of || record_is_of(record, filter);
    }
    *ret_summary = summary;
    return is_of && summary.root != NULL && (!filter->errors_only || summary.errors > 0) &&
        summary.end_ns - summary.root->start_ns >= filter->slower_than_ns &&
        summary.root->start_ns / NS_PER_MS >= filter->since_ms;
}

static void write_summary(const struct tracer *tracer, const struct trace_entry *entry,
                          const struct summary *summary, struct json_writer *writer)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "id", entry->id);
    json_write_field_string(writer, "name", summary->root->name);
    if (summary->function != NULL) {
        struct text project = trace_item_text(summary->function, "blixard.project");
        struct text function = trace_item_text(summary->function, "faas.name");
        json_write_key(writer, "project");
        json_write_text(writer, project.data, project.length);
        json_write_key(writer, "function");
        json_write_text(writer, function.data, function.length);
    }
    json_write_field_time_ms(writer, "start_at", summary->root->start_ns / NS_PER_MS);
    json_write_field_u64(writer, "start_us", summary->root->start_ns / NS_PER_US);
    json_write_field_u64(writer, "duration_us",
                         (summary->end_ns - summary->root->start_ns) / NS_PER_US);
    json_write_field_u64(writer, "spans", entry->span_count);
    json_write_field_u64(writer, "errors", summary->errors);
    json_write_field_string(writer, "node", tracer->node);
    json_write_end_object(writer);
}

void trace_write_list(struct telemetry *telemetry, const struct trace_filter *filter,
                      struct buffer *out)
{
    struct tracer *tracer = telemetry->tracer;
    struct json_writer writer = json_writer_to(out);
    size_t left = filter->count_max > 0 ? filter->count_max : COUNT_DEFAULT;
    json_write_begin_array(&writer);
    pthread_mutex_lock(&tracer->lock);
    trace_collect(tracer);
    for (struct list_node *node = tracer->kept.head.previous;
         node != &tracer->kept.head && left > 0; node = node->previous) {
        const struct trace_entry *entry = LIST_ITEM(node, struct trace_entry, link);
        struct summary summary;
        if (sum_up(entry, filter, &summary)) {
            write_summary(tracer, entry, &summary, &writer);
            left--;
        }
    }
    pthread_mutex_unlock(&tracer->lock);
    json_write_end_array(&writer);
}

/* ---- Spans ---- */

static void write_id(struct json_writer *writer, const char *key, const uint8_t id[8])
{
    static const uint8_t none[8];
    if (memcmp(id, none, sizeof(none)) != 0) {
        char text[TRACE_SPAN_ID_SIZE];
        uint64_t value = 0;
        for (int i = 0; i < 8; i++) {
            value = value << 8 | id[i];
        }
        snprintf(text, sizeof(text), "%016" PRIx64, value);
        json_write_field_string(writer, key, text);
    }
}

static void write_attribute(const struct trace_item *item, struct json_writer *writer)
{
    char key[256];
    char number[24];
    snprintf(key, sizeof(key), "%.*s", (int)item->key.length, item->key.data);
    if (item->type == TRACE_ITEM_TEXT) {
        json_write_key(writer, key);
        json_write_text(writer, item->value.data, item->value.length);
    } else if (item->type == TRACE_ITEM_NUMBER) {
        snprintf(number, sizeof(number), "%" PRId64, trace_item_number(item));
        json_write_field_string(writer, key, number);
    } else if (item->type == TRACE_ITEM_FLAG) {
        json_write_field_string(writer, key, trace_item_number(item) != 0 ? "true" : "false");
    }
}

static void write_attributes(const struct trace_record *record, struct json_writer *writer)
{
    size_t offset = 0;
    struct trace_item item;
    json_write_key(writer, "attributes");
    json_write_begin_object(writer);
    while (trace_next_item(record, &offset, &item)) {
        write_attribute(&item, writer);
    }
    json_write_end_object(writer);
}

static void write_events(const struct trace_record *record, struct json_writer *writer)
{
    size_t offset = 0;
    struct trace_item item;
    json_write_key(writer, "events");
    json_write_begin_array(writer);
    while (trace_next_item(record, &offset, &item)) {
        if (item.type == TRACE_ITEM_EVENT) {
            json_write_begin_object(writer);
            json_write_key(writer, "name");
            json_write_text(writer, item.key.data, item.key.length);
            json_write_field_u64(writer, "after_us",
                                 (uint64_t)trace_item_number(&item) / NS_PER_US);
            json_write_end_object(writer);
        }
    }
    json_write_end_array(writer);
}

static void write_error(const struct trace_record *record, struct json_writer *writer)
{
    size_t offset = 0;
    struct trace_item item;
    while (record->is_error && trace_next_item(record, &offset, &item)) {
        if (item.type == TRACE_ITEM_ERROR) {
            json_write_key(writer, "error");
            json_write_text(writer, item.value.data, item.value.length);
            return;
        }
    }
}

static void write_span(const struct tracer *tracer, const struct trace_record *record,
                       struct json_writer *writer)
{
    char id[TRACE_ID_SIZE];
    trace_write_id(&record->context, id);
    json_write_begin_object(writer);
    json_write_field_string(writer, "trace", id);
    write_id(writer, "id", record->context.span);
    write_id(writer, "parent", record->parent);
    json_write_field_string(writer, "name", record->name);
    json_write_field_string(writer, "kind", kind_text(record->kind));
    json_write_field_string(writer, "node", tracer->node);
    json_write_field_time_ms(writer, "start_at", record->start_ns / NS_PER_MS);
    json_write_field_u64(writer, "start_us", record->start_ns / NS_PER_US);
    json_write_field_u64(writer, "duration_ns", record->duration_ns);
    json_write_field_string(writer, "status", record->is_error ? "error" : "ok");
    write_error(record, writer);
    write_attributes(record, writer);
    write_events(record, writer);
    if (record->dropped > 0) {
        json_write_field_u64(writer, "dropped", record->dropped);
    }
    json_write_end_object(writer);
}

bool trace_write_spans(struct telemetry *telemetry, const char *project, const uint8_t trace[16],
                       struct buffer *out)
{
    struct tracer *tracer = telemetry->tracer;
    struct json_writer writer = json_writer_to(out);
    struct trace_context context = {0};
    char id[TRACE_ID_SIZE];
    memcpy(context.trace, trace, sizeof(context.trace));
    trace_write_id(&context, id);
    json_write_begin_array(&writer);
    pthread_mutex_lock(&tracer->lock);
    trace_collect(tracer);
    const struct trace_entry *entry = map_get(&tracer->entries, id);
    struct summary summary;
    bool is_known = entry != NULL && entry->is_kept &&
        sum_up(entry, &(struct trace_filter){.project = project}, &summary);
    for (size_t at = 0; is_known && at < entry->records.used; at += record_at(entry, at)->size) {
        write_span(tracer, record_at(entry, at), &writer);
    }
    pthread_mutex_unlock(&tracer->lock);
    json_write_end_array(&writer);
    return is_known;
}
