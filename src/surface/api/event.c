/*
 * Streams: changes of the state, and logs.
 *
 * Several changes may come of one command and share its index.  Only the last of them carries the
 * id, so that a reader who lost the connection in the middle gets all of them again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "engine/store/store.h"

#include "service/function/function.h"
#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

#include "surface/api/parts.h"

struct events {
    struct request *request;
    struct stream *stream;
    struct store_watch *watch;
    struct loop_timer *flush;
    uint64_t held_index;
    char *held; /* the last event, not sent yet: it may be the one to carry the id */
};

static void events_flush(struct events *events, bool is_last)
{
    if (events->held != NULL) {
        char id[24];
        snprintf(id, sizeof(id), "%" PRIu64, events->held_index);
        api_stream_send(events->stream, "change", is_last ? id : NULL, events->held);
        free(events->held);
        events->held = NULL;
    }
}

static void on_flush(void *context)
{
    events_flush(context, true);
}

/* What happened until now is not known one by one: look at all of it anew. */
static void send_compacted(struct events *events, uint64_t at)
{
    char index[24];
    char data[64];
    free(events->held);
    events->held = NULL;
    snprintf(index, sizeof(index), "%" PRIu64, at);
    snprintf(data, sizeof(data), "{\"index\":%s}", index);
    api_stream_send(events->stream, "compacted", index, data);
}

static void on_event(const struct store_event *event, void *context)
{
    struct events *events = context;
    if (event->operation == 'R') {
        send_compacted(events, event->index);
        return;
    }
    events_flush(events, events->held_index != event->index);
    struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "index", event->index);
    json_write_field_string(&writer, "table", event->table);
    json_write_field_string(&writer, "change",
                            event->operation == 'I'       ? "insert"
                                : event->operation == 'U' ? "update"
                                                          : "delete");
    json_write_field_string(&writer, "key", event->key);
    json_write_end_object(&writer);
    events->held = buffer_take(&text);
    events->held_index = event->index;
    loop_timer_start(events->flush, 0);
}

static void events_end(void *context)
{
    struct events *events = context;
    store_watch_free(events->watch);
    loop_timer_free(events->flush);
    free(events->held);
    free(events);
}

static int resume_index(struct request *request, uint64_t *ret_index, struct error *err)
{
    uint64_t now = store_index(request->api->options.store);
    struct text last = http_exchange_field(request->exchange, "Last-Event-ID");
    if (last.length > 0) {
        return text_parse_u64(last, ret_index)
            ? 0
            : error_set(err, ERROR_INVALID, "Last-Event-ID is no index");
    }
    *ret_index = api_query_u64(request, "index", now);
    return 0;
}

void api_event_list(struct request *request)
{
    struct error err = {0};
    struct store *store = request->api->options.store;
    uint64_t after = 0;
    if (resume_index(request, &after, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    struct events *events = NEW(struct events);
    events->request = request;
    events->flush = loop_timer_new(request->api->options.loop, on_flush, events);
    events->stream = api_stream_begin(request, events_end, events);
    if (!store_events_since(store, after, on_event, events)) {
        send_compacted(events, store_index(store));
    }
    events->watch = store_watch_new(store, NULL, on_event, events);
}

/* ---- Logs ---- */

enum { TAIL_DEFAULT = 100, TAIL_MAX = 10000 };

static void write_line(const struct telemetry_line *line, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_u64(&writer, "sequence", line->sequence);
    json_write_field_time_ms(&writer, "time", line->time_ms);
    json_write_field_string(&writer, "level", log_level_text(line->level));
    json_write_field_u64(&writer, "version", line->version);
    json_write_field_string(&writer, "request_id", line->request_id);
    if (line->trace[0] != '\0') {
        json_write_field_string(&writer, "trace", line->trace);
    }
    json_write_key(&writer, "text");
    json_write_text(&writer, line->text, line->text_length);
    json_write_end_object(&writer);
}

struct lines {
    struct buffer *out;
    unsigned count;
};

static void add_line(const struct telemetry_line *line, void *context)
{
    struct lines *lines = context;
    if (lines->count++ > 0) {
        buffer_append_byte(lines->out, ',');
    }
    write_line(line, lines->out);
}

struct following {
    struct request *request;
    struct stream *stream;
    struct telemetry_follow *follow;
    uint64_t after;
    char trace[TRACE_ID_SIZE]; /* "": any */
};

static void send_line(const struct telemetry_line *line, void *context)
{
    struct following *following = context;
    BUFFER_OWNED struct buffer text = {0};
    char id[24];
    write_line(line, &text);
    snprintf(id, sizeof(id), "%" PRIu64, line->sequence);
    following->after = line->sequence;
    api_stream_send(following->stream, NULL, id, buffer_string(&text));
}

/* What is there is not asked for: what comes is behind the last of it. */
static void pass_line(const struct telemetry_line *line, void *context)
{
    struct following *following = context;
    following->after = line->sequence;
}

static const char *text_or_null(const char *text)
{
    return text[0] != '\0' ? text : NULL;
}

static void on_more(void *context)
{
    struct following *following = context;
    struct error ignored = {0};
    telemetry_read(following->request->api->options.telemetry, following->request->project,
                   following->request->parameters[0], following->after, TAIL_MAX,
                   text_or_null(following->trace), send_line, following, &ignored);
}

static void following_end(void *context)
{
    struct following *following = context;
    telemetry_follow_free(following->follow);
    free(following);
}

static void follow(struct request *request, uint64_t after, uint64_t tail, const char *trace)
{
    struct telemetry *telemetry = request->api->options.telemetry;
    struct error ignored = {0};
    struct following *following = NEW(struct following);
    bool from_now = tail == 0 && after == 0; /* who comes back says where it was */
    uint64_t most = from_now ? 1 : TAIL_MAX;
    following->request = request;
    following->after = after;
    snprintf(following->trace, sizeof(following->trace), "%s", trace);
    following->stream = api_stream_begin(request, following_end, following);
    following->follow = telemetry_follow_new(telemetry, request->project, request->parameters[0],
                                             request->api->options.loop, on_more, following);
    telemetry_read(telemetry, request->project, request->parameters[0], after,
                   tail > 0 ? tail : most, text_or_null(trace), from_now ? pass_line : send_line,
                   following, &ignored);
}

static int log_range(struct request *request, uint64_t *ret_after, uint64_t *ret_tail,
                     struct error *err)
{
    struct text last = http_exchange_field(request->exchange, "Last-Event-ID");
    *ret_after = api_query_u64(request, "after", 0);
    *ret_tail = api_query_u64(request, "tail", TAIL_DEFAULT);
    if (*ret_tail > TAIL_MAX) {
        return error_set(err, ERROR_INVALID, "?tail is at most %d", TAIL_MAX);
    }
    if (last.length > 0 && !text_parse_u64(last, ret_after)) {
        return error_set(err, ERROR_INVALID, "Last-Event-ID is no sequence number");
    }
    return 0;
}

/* ?trace=ID: lower-case, as it is kept. */
static int log_trace(struct request *request, char ret_trace[TRACE_ID_SIZE], struct error *err)
{
    char text[64];
    struct trace_context context = {0};
    ret_trace[0] = '\0';
    if (!http_query_get(http_exchange_query(request->exchange), "trace", text, sizeof(text))) {
        return 0;
    }
    if (!trace_read_id(text, context.trace)) {
        return error_set(err, ERROR_INVALID, "?trace=%s is no trace id of 32 hex digits", text);
    }
    trace_write_id(&context, ret_trace);
    return 0;
}

void api_log_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    BUFFER_OWNED struct buffer function = {0};
    struct error err = {0};
    uint64_t after = 0;
    uint64_t tail = 0;
    char trace[TRACE_ID_SIZE];
    int r = log_range(request, &after, &tail, &err);
    r = r < 0 ? r : log_trace(request, trace, &err);
    r = r < 0 ? r
              : function_write(request->api->options.functions, request->project,
                               request->parameters[0], &function, &err);
    if (r < 0) {
        api_answer_error(request, &err);
        return;
    }
    if (api_query_flag(request, "follow", false)) {
        follow(request, after, tail, trace);
        return;
    }
    struct lines lines = {.out = &body};
    buffer_append_string(&body, "{\"lines\":[");
    if (tail > 0) {
        r = telemetry_read(request->api->options.telemetry, request->project,
                           request->parameters[0], after, tail, text_or_null(trace), add_line,
                           &lines, &err);
    }
    buffer_append_string(&body, "]}");
    api_answer_written(request, r, &body, &err);
}
