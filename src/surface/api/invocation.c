/* Asynchronous invocations: looking, waiting, cancelling, trying again. */
#include "service/invocation/invocation.h"

#include <string.h>

#include "surface/api/parts.h"

enum { WAIT_DEFAULT_MS = 60000, WAIT_MAX_MS = 600000, LIST_DEFAULT = 100, LIST_MAX = 1000 };

static const char *query_text(const struct request *request, const char *name,
                              char ret_text[API_PARAMETER_SIZE])
{
    struct text query = http_exchange_query(request->exchange);
    return http_query_get(query, name, ret_text, API_PARAMETER_SIZE) ? ret_text : NULL;
}

static int check_state(const char *state, struct error *err)
{
    static const char *const states[] = {"pending",   "running", "succeeded", "failed",
                                         "cancelled", "expired", NULL};
    for (size_t i = 0; state != NULL && states[i] != NULL; i++) {
        if (strcmp(state, states[i]) == 0) {
            return 0;
        }
    }
    return state == NULL
        ? 0
        : error_set(err, ERROR_INVALID,
                    "?state=%.40s: a state is pending, running, succeeded, failed, cancelled or "
                    "expired",
                    state);
}

void api_invocation_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    char function[API_PARAMETER_SIZE];
    char state[API_PARAMETER_SIZE];
    struct invocation_filter filter = {
        .function = query_text(request, "function", function),
        .state = query_text(request, "state", state),
    };
    filter.only_dead = api_query_flag(request, "dead", false);
    filter.count_max = api_query_u64(request, "count", LIST_DEFAULT);
    int r = check_state(filter.state, &err);
    r = r < 0 ? r : error_check_range("?count=", filter.count_max, 1, LIST_MAX, &err);
    r = r < 0 ? r
              : invocation_write_list(request->api->options.invocations, request->project, &filter,
                                      &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_invocation_get(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = invocation_write(request->api->options.invocations, request->project,
                             request->parameters[0], &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void on_waited(void *context)
{
    struct request *request = context;
    invocation_wait_free(request->state);
    api_invocation_get(request);
}

static void on_stop(struct request *request)
{
    on_waited(request);
}

void api_invocation_wait(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    uint64_t timeout_ms = WAIT_DEFAULT_MS;
    char text[API_PARAMETER_SIZE];
    const char *timeout = query_text(request, "timeout", text);
    struct invocation_service *invocations = request->api->options.invocations;
    if (timeout != NULL &&
        (!text_parse_duration_ms(timeout, &timeout_ms) || timeout_ms > WAIT_MAX_MS)) {
        error_set(&err, ERROR_INVALID, "?timeout=%s is no time of at most 10m (for example 30s)",
                  timeout);
        api_answer_error(request, &err);
    } else if (invocation_write(invocations, request->project, request->parameters[0], &body,
                                &err) < 0) {
        api_answer_error(request, &err);
    } else {
        request->stop = on_stop;
        request->state = invocation_wait_new(invocations, request->parameters[0], timeout_ms,
                                             on_waited, request);
    }
}

static void on_cancelled(const struct error *error, void *context)
{
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_answer_nothing(context);
    }
}

void api_invocation_cancel(struct request *request)
{
    invocation_cancel(request->api->options.invocations, request->project, request->parameters[0],
                      on_cancelled, request);
}

static void on_redriven(const struct error *error, void *context)
{
    if (error != NULL) {
        api_answer_error(context, error);
    } else {
        api_invocation_get(context);
    }
}

void api_invocation_redrive(struct request *request)
{
    invocation_redrive(request->api->options.invocations, request->project, request->parameters[0],
                       on_redriven, request);
}
