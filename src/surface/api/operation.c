/* Operations, and waiting for them. */
#include "service/operation/operation.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#include "engine/store/store.h"

#include "surface/api/parts.h"

enum { WAIT_DEFAULT_MS = 60000, WAIT_MAX_MS = 600000 };

void api_operation_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = operation_write_list(request->api->options.operations, &body, &err);
    api_answer_written(request, r, &body, &err);
}

/* ---- One that another node has begun may not be here yet ---- */

struct late {
    struct request *request;
    void (*handle)(struct request *request);
};

static void on_current(const struct error *error, void *context)
{
    struct late late = *(struct late *)context;
    free(context);
    (void)error; /* nobody leads: what is here is all that can be told */
    late.handle(late.request);
}

/* `handle` now, or once everything that was acknowledged before is here. */
static void when_known(struct request *request, void (*handle)(struct request *request))
{
    struct error ignored = {0};
    uint64_t node = 0;
    if (operation_node(request->api->options.operations, request->parameters[0], &node, &ignored) ==
        0) {
        handle(request);
        return;
    }
    struct late *late = NEW(struct late);
    *late = (struct late){request, handle};
    store_barrier(request->api->options.store, on_current, late);
}

/* ---- Looking, waiting, breaking off ---- */

static void answer(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = operation_write(request->api->options.operations, request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_operation_get(struct request *request)
{
    when_known(request, answer);
}

static void on_waited(void *context)
{
    struct request *request = context;
    operation_wait_free(request->state);
    answer(request);
}

static void on_stop(struct request *request)
{
    on_waited(request);
}

static void wait_for(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    uint64_t timeout_ms = WAIT_DEFAULT_MS;
    char text[32];
    if (http_query_get(http_exchange_query(request->exchange), "timeout", text, sizeof(text)) &&
        (!text_parse_duration_ms(text, &timeout_ms) || timeout_ms > WAIT_MAX_MS)) {
        error_set(&err, ERROR_INVALID, "?timeout=%s is no time of at most 10m (for example 30s)",
                  text);
        api_answer_error(request, &err);
        return;
    }
    if (operation_write(request->api->options.operations, request->parameters[0], &body, &err) <
        0) {
        api_answer_error(request, &err);
        return;
    }
    request->stop = on_stop;
    request->state = operation_wait_new(request->api->options.operations, request->parameters[0],
                                        timeout_ms, on_waited, request);
}

void api_operation_wait(struct request *request)
{
    when_known(request, wait_for);
}

/* Whoever carries it out can break it off. */
static void cancel(struct request *request)
{
    struct error err = {0};
    struct store_status status;
    uint64_t node = 0;
    const struct api_options *options = &request->api->options;
    store_status(options->store, &status);
    if (operation_node(options->operations, request->parameters[0], &node, &err) < 0) {
        api_answer_error(request, &err);
    } else if (node != 0 && node != status.node_id && !api_is_passed_on(request)) {
        api_pass_on(request, node);
    } else if (operation_cancel(options->operations, request->parameters[0], &err) < 0) {
        api_answer_error(request, &err);
    } else {
        api_answer_nothing(request);
    }
}

void api_operation_cancel(struct request *request)
{
    when_known(request, cancel);
}
