/* Files and trees of machines, as they come. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "engine/agent/agent.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

struct copying {
    struct request *request;
    struct agent_call *call;
    bool has_begun;
    bool body_is_over; /* or there is none */
    bool is_answering; /* which ends a body that has not come whole, at once */
};

static void release(struct copying *copying)
{
    if (copying->call == NULL && copying->body_is_over && !copying->is_answering) {
        free(copying);
    }
}

static void on_close(void *context)
{
    struct copying *copying = context;
    if (copying->call != NULL) {
        agent_call_cancel(copying->call);
    }
}

static void on_stop(struct request *request)
{
    on_close(request->state);
}

static struct copying *begin(struct request *request, struct agent **ret_agent,
                             char ret_path[API_PARAMETER_SIZE + 1])
{
    struct error err = {0};
    if (machine_agent(request->api->options.machines, request->project, request->parameters[0],
                      ret_agent, &err) < 0) {
        api_answer_error(request, &err);
        return NULL;
    }
    const char *path = request->parameters[1];
    snprintf(ret_path, API_PARAMETER_SIZE + 1, "%s%s", path[0] == '/' ? "" : "/", path);
    struct copying *copying = NEW(struct copying);
    copying->request = request;
    request->state = copying;
    request->stop = on_stop;
    return copying;
}

/* ---- Reading ---- */

static void begin_answer(struct copying *copying, uint64_t length)
{
    struct request *request = copying->request;
    if (copying->has_begun) {
        return;
    }
    copying->has_begun = true;
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type",
                            api_query_flag(request, "tar", false) ? "application/x-tar"
                                                                  : "application/octet-stream");
    http_exchange_begin(request->exchange, request->status, length);
}

static void on_stat(const struct agent_stat *stat, void *context)
{
    struct copying *copying = context;
    char mode[16];
    snprintf(mode, sizeof(mode), "%04o", stat->mode & 07777U);
    http_exchange_add_field(copying->request->exchange, "X-Blixard-Mode", mode);
    begin_answer(copying, UINT64_MAX);
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    struct copying *copying = context;
    (void)stream;
    begin_answer(copying, UINT64_MAX);
    if (!http_exchange_write(copying->request->exchange, bytes, length)) {
        agent_call_pause(copying->call);
    }
}

static void on_drain(void *context)
{
    struct copying *copying = context;
    if (copying->call != NULL) {
        agent_call_resume(copying->call);
    }
}

/* One that breaks off in the middle is seen to: the answer is never complete then. */
static void on_read(const struct error *error, const struct agent_result *result, void *context)
{
    struct copying *copying = context;
    struct request *request = copying->request;
    (void)result;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    copying->call = NULL;
    if (error != NULL && !copying->has_begun) {
        api_answer_error(request, error);
    } else if (error != NULL) {
        http_exchange_abort(request->exchange);
        api_request_end(request);
    } else {
        begin_answer(copying, 0);
        http_exchange_end(request->exchange);
        api_request_end(request);
    }
    release(copying);
}

static void begin_get(struct request *request)
{
    static const struct agent_call_events events = {
        .on_stat = on_stat, .on_output = on_output, .on_end = on_read};
    char path[API_PARAMETER_SIZE + 1];
    struct agent *agent = NULL;
    struct copying *copying = begin(request, &agent, path);
    if (copying == NULL) {
        return;
    }
    copying->body_is_over = true;
    http_exchange_on(request->exchange, on_drain, on_close, copying);
    copying->call = api_query_flag(request, "tar", false)
        ? agent_pack(agent, path, &events, copying)
        : agent_get(agent, path, &events, copying);
}

void api_machine_file_get(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_machine_with_agent(request, begin_get);
    }
}

/* ---- Writing ---- */

static void on_written(const struct error *error, const struct agent_result *result, void *context)
{
    struct copying *copying = context;
    struct request *request = copying->request;
    (void)result;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    copying->call = NULL;
    copying->is_answering = true;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_nothing(request);
    }
    copying->is_answering = false;
    release(copying);
}

static void on_writable(void *context)
{
    struct copying *copying = context;
    http_exchange_resume(copying->request->exchange);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct copying *copying = context;
    if (copying->call != NULL && !agent_call_write(copying->call, bytes, length)) {
        http_exchange_pause(copying->request->exchange);
    }
}

static void on_body_end(const struct error *error, void *context)
{
    struct copying *copying = context;
    copying->body_is_over = true;
    if (copying->call != NULL && error != NULL) {
        agent_call_cancel(copying->call);
    } else if (copying->call != NULL) {
        agent_call_finish_input(copying->call);
    }
    release(copying);
}

static int read_mode(const struct request *request, uint32_t *ret_mode, struct error *err)
{
    char text[64] = "";
    char *end = text;
    *ret_mode = 0644;
    if (!http_query_get(http_exchange_query(request->exchange), "mode", text, sizeof(text))) {
        return 0;
    }
    unsigned long mode = strtoul(text, &end, 8);
    if (end == text || *end != '\0' || mode > 07777) {
        return error_set(err, ERROR_INVALID, "?mode is octal, as in 0644");
    }
    *ret_mode = (uint32_t)mode;
    return 0;
}

static void begin_put(struct request *request)
{
    static const struct agent_call_events events = {.on_writable = on_writable,
                                                    .on_end = on_written};
    char path[API_PARAMETER_SIZE + 1];
    uint32_t mode = 0;
    struct error err = {0};
    struct agent *agent = NULL;
    if (read_mode(request, &mode, &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    struct copying *copying = begin(request, &agent, path);
    if (copying == NULL) {
        return;
    }
    const struct agent_put put = {.path = path, .mode = mode};
    copying->call = api_query_flag(request, "tar", false)
        ? agent_unpack(agent, path, false, 0, 0, &events, copying)
        : agent_put(agent, &put, &events, copying);
    http_exchange_on(request->exchange, NULL, on_close, copying);
    http_exchange_set_body_max(request->exchange, UINT64_MAX);
    http_exchange_read(request->exchange, on_data, on_body_end, copying);
}

void api_machine_file_put(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_machine_with_agent(request, begin_put);
    }
}
