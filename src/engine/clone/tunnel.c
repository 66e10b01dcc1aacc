/*
 * Connections of a handler to what is outside, while its call runs.  See parts.h and clone.h.
 *
 * One waits for the handler to connect; when it has, the next one waits, up to TUNNELS_MAX.  A
 * tunnel is gone when its call to the agent is.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

#include "engine/clone/event.h"
#include "engine/clone/parts.h"

enum { TUNNELS_MAX = 32 };

struct clone_tunnel {
    struct list_node link;    /* in its call's */
    struct runner_call *call; /* NULL: it is being ended */
    const struct clone_tunnel_driver *driver;
    struct agent_call *asked;
    void *connection; /* the driver's; NULL: none (any more) */
    bool is_taken;    /* the handler has connected... */
    char target[300]; /* ...to that */
    bool has_ended;   /* the other end: the handler gets no more */
};

static void wait_for_one(struct runner_call *call);

static void close_connection(struct clone_tunnel *tunnel)
{
    if (tunnel->connection != NULL) {
        tunnel->driver->close(tunnel->connection);
        tunnel->connection = NULL;
    }
}

/* The handler sees its connection end at once. */
static void break_off(struct clone_tunnel *tunnel)
{
    close_connection(tunnel);
    agent_call_cancel(tunnel->asked);
}

/* Why it did not get through is the handler's to know: it sees a closed connection, no more. */
static void say(const struct clone_tunnel *tunnel, const struct error *error)
{
    struct runner_call *call = tunnel->call;
    char line[700];
    int length = snprintf(line, sizeof(line), "blixard: connecting to %s: %.300s\n", tunnel->target,
                          error->text);
    size_t taken = (size_t)length < call->log_left ? (size_t)length : (size_t)call->log_left;
    if (taken > 0) {
        call->log_left -= taken;
        call->events.on_log(line, taken, call->context);
    }
}

static void open_connection(struct clone_tunnel *tunnel)
{
    struct runner_call *call = tunnel->call;
    const json_t *settings = call->slot->template->settings;
    const json_t *outside = json_object_get(settings, "outside");
    const char *version = json_string_value(json_object_get(settings, "version"));
    const char *function = json_string_value(json_object_get(settings, "function"));
    const char *project = json_string_value(json_object_get(outside, "project"));
    BUFFER_OWNED struct buffer allow = {0};
    struct error err = {0};
    const json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(outside, "allow"), i, entry)
    {
        buffer_append(&allow, json_string_value(entry), json_string_length(entry) + 1);
    }
    uint64_t gone_ms = (clock_monotonic_ns() - call->run_ns) / 1000000;
    const struct clone_outside asked = {
        .project = project != NULL ? project : "",
        .function = function != NULL ? function : "",
        .version = version != NULL ? strtoull(version, NULL, 10) : 0,
        .allow = (const char *)allow.data,
        .allow_length = allow.used,
        .trace = clone_event_variable((const char *)call->environment.data, call->environment.used,
                                      "TRACEPARENT"),
        .timeout_ms = gone_ms < call->timeout_ms ? call->timeout_ms - gone_ms : 1,
    };
    tunnel->connection =
        tunnel->driver->open(&asked, tunnel->target, tunnel, tunnel->driver->context, &err);
    if (tunnel->connection == NULL) {
        say(tunnel, &err);
        agent_call_cancel(tunnel->asked);
    }
}

/* ---- What the agent says ---- */

static void on_tunnel(const char *target, void *context)
{
    struct clone_tunnel *tunnel = context;
    if (tunnel->call != NULL && !tunnel->is_taken) {
        tunnel->is_taken = true;
        snprintf(tunnel->target, sizeof(tunnel->target), "%s", target);
        open_connection(tunnel);
        wait_for_one(tunnel->call);
    }
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    struct clone_tunnel *tunnel = context;
    if (stream == AGENT_STREAM_OUT && tunnel->connection != NULL &&
        !tunnel->driver->write(tunnel->connection, bytes, length)) {
        agent_call_pause(tunnel->asked);
    }
}

static void on_output_end(enum agent_stream stream, void *context)
{
    struct clone_tunnel *tunnel = context;
    if (stream == AGENT_STREAM_OUT && tunnel->connection != NULL) {
        tunnel->driver->finish(tunnel->connection);
    }
}

static void on_writable(void *context)
{
    struct clone_tunnel *tunnel = context;
    if (tunnel->connection != NULL) {
        tunnel->driver->resume(tunnel->connection);
    }
}

static void on_end(const struct error *error, const struct agent_result *result, void *context)
{
    struct clone_tunnel *tunnel = context;
    struct runner_call *call = tunnel->call;
    (void)error;
    (void)result;
    close_connection(tunnel);
    list_remove(&tunnel->link);
    bool was_taken = tunnel->is_taken;
    free(tunnel);
    if (call != NULL && was_taken) { /* there may be room for one now */
        wait_for_one(call);
    }
}

static void wait_for_one(struct runner_call *call)
{
    static const struct agent_call_events events = {.on_tunnel = on_tunnel,
                                                    .on_output = on_output,
                                                    .on_output_end = on_output_end,
                                                    .on_writable = on_writable,
                                                    .on_end = on_end};
    size_t count = 0;
    LIST_EACH(node, &call->tunnels)
    {
        count++;
        if (!LIST_ITEM(node, struct clone_tunnel, link)->is_taken) {
            return;
        }
    }
    if (count == TUNNELS_MAX || call->slot == NULL || call->slot->machine == NULL ||
        call->slot->machine->agent == NULL) {
        return;
    }
    struct clone_tunnel *tunnel = NEW(struct clone_tunnel);
    tunnel->call = call;
    tunnel->driver = call->slot->runner->service->options.tunnels;
    list_push_back(&call->tunnels, &tunnel->link);
    tunnel->asked = agent_function_tunnel(call->slot->machine->agent, &events, tunnel);
}

/* ---- What the driver says ---- */

bool clone_tunnel_write(struct clone_tunnel *tunnel, const void *bytes, size_t length)
{
    return agent_call_write(tunnel->asked, bytes, length);
}

void clone_tunnel_drained(struct clone_tunnel *tunnel)
{
    agent_call_resume(tunnel->asked);
}

void clone_tunnel_end(struct clone_tunnel *tunnel, const struct error *error)
{
    if (tunnel->has_ended) {
        return;
    }
    tunnel->has_ended = true;
    if (error != NULL) {
        if (tunnel->call != NULL) {
            say(tunnel, error);
        }
        break_off(tunnel);
    } else {
        close_connection(tunnel);
        agent_call_finish_input(tunnel->asked);
        agent_call_resume(tunnel->asked); /* what it still sends is nobody's */
    }
}

/* ---- The call ---- */

void tunnels_begin(struct runner_call *call)
{
    const struct slot *slot = call->slot;
    if (slot->runner->service->options.tunnels != NULL &&
        json_object_get(slot->template->settings, "outside") != NULL) {
        wait_for_one(call);
    }
}

void tunnels_end(struct runner_call *call)
{
    LIST_EACH(node, &call->tunnels)
    {
        struct clone_tunnel *tunnel = LIST_ITEM(node, struct clone_tunnel, link);
        tunnel->call = NULL;
        list_remove(node); /* it is gone when the agent says so, or is closed */
        break_off(tunnel);
    }
}
