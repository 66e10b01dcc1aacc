/* What became of machines, as a list and as a stream. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

enum { TAIL_DEFAULT = 100, TAIL_MAX = 10000 };

/* A stream: it reads on, from where it is, whenever there is more. */
struct following {
    struct request *request;
    struct stream *stream;
    struct store_watch *watch;
    struct loop_timer *timer;
    struct machine_event_query query;
    char machine[64];
};

/* ---- A list ---- */

struct listing {
    struct buffer *out;
    bool has_some;
};

static void add_event(uint64_t sequence, const char *type, const char *event, void *context)
{
    struct listing *listing = context;
    (void)sequence;
    (void)type;
    buffer_append_string(listing->out, listing->has_some ? "," : "");
    buffer_append_string(listing->out, event);
    listing->has_some = true;
}

static void answer_list(struct request *request, const struct machine_event_query *query)
{
    BUFFER_OWNED struct buffer body = {0};
    struct listing listing = {&body, false};
    struct error err = {0};
    buffer_append_string(&body, "{\"events\":[");
    int r = machine_events_read(request->api->options.machines, query, add_event, &listing, &err);
    buffer_append_string(&body, "]}");
    api_answer_written(request, r, &body, &err);
}

/* ---- A stream ---- */

static void send_event(uint64_t sequence, const char *type, const char *event, void *context)
{
    struct following *following = context;
    char id[24];
    snprintf(id, sizeof(id), "%" PRIu64, sequence);
    following->query.after = sequence;
    api_stream_send(following->stream, type, id, event);
}

static void send_more(void *context)
{
    struct following *following = context;
    struct error ignored = {0};
    machine_events_read(following->request->api->options.machines, &following->query, send_event,
                        following, &ignored);
    following->query.count_max = TAIL_MAX;
}

/* Of several that come with one command only one look is taken. */
static void on_changed(const struct store_event *event, void *context)
{
    struct following *following = context;
    if (event->operation != 'D') {
        loop_timer_start(following->timer, 0);
    }
}

static void on_end(void *context)
{
    struct following *following = context;
    store_watch_free(following->watch);
    loop_timer_free(following->timer);
    free(following);
}

static void follow(struct request *request, const struct machine_event_query *query)
{
    struct following *following = NEW(struct following);
    following->request = request;
    following->query = *query;
    snprintf(following->machine, sizeof(following->machine), "%s", query->machine);
    following->query.machine = following->machine;
    following->timer = loop_timer_new(request->api->options.loop, send_more, following);
    following->stream = api_stream_begin(request, on_end, following);
    following->watch =
        store_watch_new(request->api->options.store, "machine_event", on_changed, following);
    loop_timer_start(following->timer, 0);
}

void api_machine_event_list(struct request *request)
{
    char machine[64] = "";
    struct error err = {0};
    struct machine_event_query query = {.project = request->project, .machine = machine};
    struct text last = http_exchange_field(request->exchange, "Last-Event-ID");
    int r = 0;
    query.after = api_query_u64(request, "after", 0);
    query.count_max = api_query_u64(request, "tail", TAIL_DEFAULT);
    if (last.length > 0 && !text_parse_u64(last, &query.after)) {
        r = error_set(&err, ERROR_INVALID, "Last-Event-ID is no sequence number");
    }
    r = r < 0 ? r : error_check_range("tail", query.count_max, 0, TAIL_MAX, &err);
    if (r < 0) {
        api_answer_error(request, &err);
        return;
    }
    http_query_get(http_exchange_query(request->exchange), "machine", machine, sizeof(machine));
    if (api_query_flag(request, "follow", false)) {
        follow(request, &query);
    } else {
        answer_list(request, &query);
    }
}
