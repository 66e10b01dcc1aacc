/* The life of a call: waiting, running, ended.  See project.h. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/instance/project.h"
#include "service/telemetry/telemetry.h"

/* ---- Calls are recycled: the way of a warm call allocates nothing ---- */

static struct instance_call *call_take(struct instance_service *service)
{
    struct instance_call *call = LIST_FIRST(&service->free_calls, struct instance_call, link);
    if (call != NULL) {
        list_remove(&call->link);
        service->free_call_count--;
        return call;
    }
    return NEW(struct instance_call);
}

static void buffer_forget(struct buffer *buffer)
{
    buffer_clear(buffer);
    if (buffer->size > INPUT_KEPT_BYTES_MAX) {
        buffer_done(buffer);
    }
}

static void forget_environment(struct instance_call *call)
{
    if (call->has_secrets) {
        buffer_wipe(&call->environment);
        call->has_secrets = false;
    } else {
        buffer_forget(&call->environment);
    }
}

static void call_free(struct instance_call *call)
{
    forget_environment(call);
    buffer_done(&call->environment);
    buffer_done(&call->input);
    free(call);
}

static void call_give_back(struct instance_service *service, struct instance_call *call)
{
    forget_environment(call);
    buffer_forget(&call->input);
    instance_target_unref(call->target);
    call->target = NULL;
    call->project = NULL;
    if (service->free_call_count >= CALLS_KEPT_MAX) {
        call_free(call);
        return;
    }
    list_push_front(&service->free_calls, &call->link);
    service->free_call_count++;
}

/* ---- Running ---- */

static void on_output(const void *bytes, size_t length, void *context)
{
    struct instance_call *call = context;
    call->events.on_output(bytes, length, call->context);
}

static void on_log(const void *bytes, size_t length, void *context)
{
    const struct instance_call *call = context;
    const struct instance_target *target = call->target;
    telemetry_log(call->project->service->options.telemetry, target->project, target->function,
                  target->version, call->request_id, &call->trace, bytes, length);
}

static void on_writable(void *context)
{
    struct instance_call *call = context;
    call->events.on_writable(call->context);
}

static void *open_session(struct instance_call *call)
{
    const struct instance_host *host = &call->project->service->host;
    const struct instance_caller caller = {
        .target = call->target,
        .request_id = call->request_id,
        .trace = call->trace,
        .depth = call->depth,
        .deadline_ns = call->started_ns + call->timeout_ms * 1000000,
    };
    /* cppcheck-suppress returnDanglingLifetime; what is opened is no part of the caller */
    return host->open(&caller, call, host->context);
}

static void on_host(const void *request, size_t length, void *context)
{
    struct instance_call *call = context;
    const struct instance_host *host = &call->project->service->host;
    if (host->open == NULL) {
        instance_host_answer(call, NULL, 0);
        return;
    }
    if (call->session == NULL) {
        call->session = open_session(call);
    }
    host->ask(call->session, request, length);
}

void instance_host_answer(struct instance_call *call, const void *reply, size_t length)
{
    CHECK(call->runner_call != NULL);
    runner_call_answer(call->runner_call, reply, length);
}

static void close_session(struct instance_call *call)
{
    if (call->session != NULL) {
        call->project->service->host.close(call->session);
        call->session = NULL;
    }
}

static void on_end(const struct error *error, const struct runner_result *run, void *context)
{
    struct instance_call *call = context;
    struct project *project = call->project;
    struct instance_service *service = project->service;
    struct instance_result result = {.queue_ns = call->started_ns - call->arrived_ns};
    if (run != NULL) {
        result.run = *run;
    }
    memcpy(result.instance, call->instance, sizeof(result.instance));

    call->runner_call = NULL;
    close_session(call);
    pool_ended(project->pool, &call->pool, error != NULL, clock_monotonic_ms());
    if (!project->is_ending) {
        project_pump(project); /* the slot goes on while we answer */
    }
    call->events.on_end(error, &result, call->context);
    call_give_back(service, call);
}

static const struct runner_call_events runner_events = {
    .on_output = on_output,
    .on_log = on_log,
    .on_writable = on_writable,
    .on_host = on_host,
    .on_end = on_end,
};

/* What the field said, at most 255; looked for as a whole variable. */
static unsigned read_depth(const char *environment, size_t length)
{
    static const char name[] = INSTANCE_DEPTH_VARIABLE;
    const char *end = environment + length;
    const char *at = environment;
    unsigned depth = 0;
    while (at != NULL && at < end) {
        at = memmem(at, (size_t)(end - at), name, sizeof(name) - 1);
        if (at != NULL && (at == environment || at[-1] == '\0')) {
            at += sizeof(name) - 1;
            while (at < end && *at >= '0' && *at <= '9' && depth < 256) {
                depth = depth * 10 + (unsigned)(*at++ - '0');
            }
            return depth < 256 ? depth : 255;
        }
        at = at != NULL ? at + 1 : NULL;
    }
    return 0;
}

void call_start(struct instance_call *call, struct runner *runner, unsigned slot, bool is_last)
{
    const struct image_facts *facts = call->pool.image->user;
    const struct instance_invocation *lent = call->lent;
    bool is_lent = lent != NULL && !call->has_secrets;
    struct runner_invocation invocation = {
        .image_id = facts->name,
        .environment = is_lent ? lent->environment : (const char *)call->environment.data,
        .environment_length = is_lent ? lent->environment_length : call->environment.used,
        .input = lent != NULL ? lent->input : call->input.data,
        .input_length = lent != NULL ? lent->input_length : call->input.used,
        .input_continues = call->input_continues,
        .timeout_ms = call->timeout_ms,
        .keeps_memory = call->target->is_sticky,
        .is_last = is_last,
    };
    call->started_ns = clock_monotonic_ns();
    call->depth = read_depth(invocation.environment, invocation.environment_length);
    if (call->project->is_linux) {
        snprintf(call->instance, sizeof(call->instance), "linux-%u", slot);
    } else {
        snprintf(call->instance, sizeof(call->instance), "%d-%u", (int)runner_pid(runner), slot);
    }
    call->runner_call = runner_invoke(runner, slot, &invocation, &runner_events, call);
    forget_environment(call);
    buffer_forget(&call->input);
    if (call->is_paused) {
        runner_call_pause(call->runner_call);
    }
    if (call->awaits_writable) {
        call->awaits_writable = false;
        call->events.on_writable(call->context);
    }
}

/* ---- Ends without a run ---- */

static void tell_end(struct instance_call *call)
{
    struct instance_result result = {.queue_ns = clock_monotonic_ns() - call->arrived_ns};
    call->events.on_end(&call->error, &result, call->context);
}

static void end_posted(void *argument)
{
    struct instance_call *call = argument;
    if (call->is_over) {
        call_free(call);
        return;
    }
    struct instance_service *service = call->project->service;
    list_remove(&call->link);
    tell_end(call);
    call_give_back(service, call);
}

void call_fail(struct instance_call *call, const struct error *error)
{
    struct instance_service *service = call->project->service;
    call->error = *error;
    list_push_back(&service->ending_calls, &call->link);
    loop_post(service->loop, end_posted, call);
}

void call_flush(struct instance_service *service)
{
    LIST_EACH(node, &service->ending_calls)
    {
        struct instance_call *call = LIST_ITEM(node, struct instance_call, link);
        list_remove(&call->link);
        tell_end(call);
        instance_target_unref(call->target);
        call->is_over = true; /* the post frees it */
    }
    LIST_EACH(node, &service->free_calls)
    {
        struct instance_call *call = LIST_ITEM(node, struct instance_call, link);
        list_remove(&call->link);
        call_free(call);
    }
}

/* ---- The door ---- */

static void call_fill(struct instance_call *call, struct project *project,
                      const struct instance_invocation *invocation,
                      const struct instance_events *events, void *context)
{
    call->project = project;
    call->target = instance_target_ref(invocation->target);
    call->events = *events;
    call->context = context;
    call->lent = invocation;
    call->input_continues = invocation->input_continues;
    call->is_paused = false;
    call->awaits_writable = false;
    call->timeout_ms =
        invocation->timeout_ms > 0 ? invocation->timeout_ms : invocation->target->limits.timeout_ms;
    call->arrived_ns = clock_monotonic_ns();
    call->instance[0] = '\0';
    call->trace = invocation->trace;
    snprintf(call->request_id, sizeof(call->request_id), "%s", invocation->request_id);
}

/* It must wait: what was lent is copied. */
static void call_keep_lent(struct instance_call *call)
{
    const struct instance_invocation *lent = call->lent;
    if (!call->has_secrets) {
        buffer_append(&call->environment, lent->environment, lent->environment_length);
    }
    buffer_append(&call->input, lent->input, lent->input_length);
}

static bool call_is_ending(const struct instance_call *call)
{
    return list_contains_node(&call->link);
}

struct instance_call *instance_invoke(struct instance_service *service,
                                      const struct instance_invocation *invocation,
                                      const struct instance_events *events, void *context,
                                      struct error *err)
{
    CHECK(loop_is_current(service->loop));
    struct instance_target *target = invocation->target;
    struct project *project =
        project_find(service, target->project, target->linux_settings != NULL);
    struct instance_call *call = call_take(service);
    call_fill(call, project, invocation, events, context);

    if (target->secrets_length > 0 && call_add_secrets(call, err) < 0) {
        telemetry_add(service->options.telemetry, TELEMETRY_CALLS_REFUSED, 1);
        call_give_back(service, call);
        return NULL;
    }
    struct pool_request request;
    project_fill_request(target, &request);
    request.wait_ms_max = call->timeout_ms;
    if (pool_arrive(project->pool, &call->pool, &request, clock_monotonic_ms(), err) < 0) {
        telemetry_add(service->options.telemetry, TELEMETRY_CALLS_REFUSED, 1);
        call_give_back(service, call);
        return NULL;
    }
    project_note_image(call->pool.image, target);
    project_pump(project);
    if (call->runner_call == NULL && !call_is_ending(call)) {
        call_keep_lent(call);
    }
    call->lent = NULL;
    return call;
}

bool instance_call_write(struct instance_call *call, const void *bytes, size_t length)
{
    if (call->runner_call != NULL) {
        return runner_call_write(call->runner_call, bytes, length);
    }
    if (!call_is_ending(call)) {
        buffer_append(&call->input, bytes, length);
        call->awaits_writable = true;
    }
    return false;
}

void instance_call_finish_input(struct instance_call *call)
{
    call->input_continues = false;
    if (call->runner_call != NULL) {
        runner_call_finish_input(call->runner_call);
    }
}

void instance_call_pause(struct instance_call *call)
{
    call->is_paused = true;
    if (call->runner_call != NULL) {
        runner_call_pause(call->runner_call);
    }
}

void instance_call_resume(struct instance_call *call)
{
    call->is_paused = false;
    if (call->runner_call != NULL) {
        runner_call_resume(call->runner_call);
    }
}

void instance_call_cancel(struct instance_call *call)
{
    if (call->runner_call != NULL) {
        runner_call_cancel(call->runner_call);
        return;
    }
    if (call_is_ending(call)) {
        return;
    }
    struct error error;
    error_set(&error, ERROR_CANCELLED, "cancelled while waiting for an instance");
    struct project *project = call->project;
    pool_cancel(project->pool, &call->pool);
    call_fail(call, &error);
    project_pump(project);
}

bool instance_call_place(const struct instance_call *call, uint64_t *ret_queue_ns,
                         char ret_instance[INSTANCE_NAME_SIZE])
{
    if (call->runner_call == NULL) {
        return false;
    }
    *ret_queue_ns = call->started_ns - call->arrived_ns;
    memcpy(ret_instance, call->instance, INSTANCE_NAME_SIZE);
    return true;
}
