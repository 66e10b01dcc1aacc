/*
 * Reads that wait: ?consistency=linearizable until everything acknowledged anywhere is visible
 * here, ?index=N until the state has changed after index N ("blocking queries", as Consul calls
 * them).  Then they go on as any other read.
 */
#include <string.h>

#include "base/memory.h"

#include "engine/store/store.h"

#include "surface/api/parts.h"

enum { WAIT_DEFAULT_MS = 60000, WAIT_MAX_MS = 600000 };

struct read {
    struct request *request;
    void (*handle)(struct request *request);
    bool is_linearizable;
    bool has_index;
    uint64_t index;
    uint64_t wait_ms;
    struct store_watch *watch;
    struct loop_timer *timer;
};

static int parse(struct request *request, struct read *read, struct error *err)
{
    struct text query = http_exchange_query(request->exchange);
    char text[64];
    if (http_query_get(query, "consistency", text, sizeof(text))) {
        read->is_linearizable = strcmp(text, "linearizable") == 0;
        if (!read->is_linearizable && strcmp(text, "local") != 0) {
            return error_set(err, ERROR_INVALID, "?consistency is local or linearizable, not %s",
                             text);
        }
    }
    read->has_index = http_query_get(query, "index", text, sizeof(text));
    read->index = api_query_u64(request, "index", 0);
    read->wait_ms = WAIT_DEFAULT_MS;
    if (!http_query_get(query, "wait", text, sizeof(text))) {
        return 0;
    }
    if (!read->has_index) {
        return error_set(err, ERROR_INVALID, "?wait comes with ?index, the one already seen");
    }
    return text_parse_duration_ms(text, &read->wait_ms) && read->wait_ms <= WAIT_MAX_MS
        ? 0
        : error_set(err, ERROR_INVALID, "?wait=%s is no time of at most 10m (for example 30s)",
                    text);
}

static void finish(struct read *read)
{
    struct request *request = read->request;
    void (*handle)(struct request * request) = read->handle;
    store_watch_free(read->watch);
    loop_timer_free(read->timer);
    free(read);
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    request->state = NULL;
    handle(request);
}

static void on_timer(void *context)
{
    finish(context);
}

/* The command is still being told of: answer when it is over. */
static void on_change(const struct store_event *event, void *context)
{
    struct read *read = context;
    if (event->index > read->index) {
        loop_timer_start(read->timer, 0);
    }
}

static void on_close(void *context)
{
    struct read *read = context;
    loop_timer_start(read->timer, 0);
}

static void on_stop(struct request *request)
{
    struct read *read = request->state;
    loop_timer_start(read->timer, 0);
}

static void wait_for_index(struct read *read)
{
    struct request *request = read->request;
    const struct api *api = request->api;
    if (!read->has_index || store_index(api->options.store) > read->index || api->stopping) {
        finish(read);
        return;
    }
    read->timer = loop_timer_new(api->options.loop, on_timer, read);
    read->watch = store_watch_new(api->options.store, NULL, on_change, read);
    request->state = read;
    request->stop = on_stop;
    http_exchange_on(request->exchange, NULL, on_close, read);
    loop_timer_start(read->timer, read->wait_ms);
}

static void on_barrier(const struct error *error, void *context)
{
    struct read *read = context;
    struct request *request = read->request;
    if (error != NULL) {
        free(read);
        api_answer_error(request, error);
        return;
    }
    wait_for_index(read);
}

void api_read_begin(struct request *request, void (*handle)(struct request *request))
{
    struct error err = {0};
    struct read *read = NEW(struct read);
    read->request = request;
    read->handle = handle;
    if (parse(request, read, &err) < 0) {
        free(read);
        api_answer_error(request, &err);
    } else if (read->is_linearizable) {
        store_barrier(request->api->options.store, on_barrier, read);
    } else {
        wait_for_index(read);
    }
}
