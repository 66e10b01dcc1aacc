/* Calls: from a CGI request to an invocation inside a clone, and back.  See parts.h. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/memory.h"

#include "engine/clone/event.h"
#include "engine/clone/parts.h"

/* ---- The end ---- */

static void call_free(struct runner_call *call)
{
    buffer_wipe(&call->environment);
    buffer_done(&call->input);
    buffer_done(&call->output);
    buffer_done(&call->answer);
    loop_timer_free(call->timer);
    free(call);
}

static void tell_end(void *argument)
{
    struct runner_call *call = argument;
    call->is_held = call->is_paused;
    if (call->is_held) {
        return; /* clone_call_resume() comes, or a cancel */
    }
    if (call->answer.used > 0) {
        call->events.on_output(call->answer.data, call->answer.used, call->context);
    }
    call->result.output_bytes = call->passed_on + call->answer.used;
    call->events.on_end(NULL, &call->result, call->context);
    call_free(call);
}

/*
 * The slot is free for the next call when on_end says so.  A machine that is done with is ended
 * now, and the next one begun, so that it is there when the next call comes.
 */
static void end(struct runner_call *call, enum vmm_end how, const char *reason)
{
    struct slot *slot = call->slot;
    if (call->is_over) {
        return;
    }
    call->is_over = true;
    call->asked = NULL;
    tunnels_end(call);
    call->slot = NULL;
    call->result.end = how;
    call->result.cold = call->was_cold;
    call->result.attach_ns = call->attach_ns;
    call->result.run_ns = call->run_ns > 0 ? clock_monotonic_ns() - call->run_ns : 0;
    snprintf(call->result.reason, sizeof(call->result.reason), "%s", reason);
    loop_timer_stop(call->timer);
    if (slot != NULL) {
        struct template *template = slot->template;
        slot->call = NULL;
        call->result.memory_bytes = template != NULL ? template->memory_bytes : 0;
        if (how != VMM_END_EXIT || !call->keeps_memory || call->is_last) {
            bool goes_on = template != NULL && !template->is_forgotten && !call->is_last;
            slot_end(slot);
            if (goes_on) {
                slot_begin(slot, template);
            }
        }
    }
    loop_post(call->loop, tell_end, call);
}

void call_failed(struct runner_call *call, const char *reason)
{
    end(call, VMM_END_TRAP, reason);
}

static void on_late(void *context)
{
    struct runner_call *call = context;
    end(call, VMM_END_TIMEOUT, "");
}

/* Its calls are cancelled when a slot ends its machine: whoever ends that says why. */
static bool is_told_otherwise(const struct runner_call *call)
{
    return call->is_over || call->slot->machine == NULL;
}

/* ---- The invocation ---- */

static bool is_http(const struct runner_call *call)
{
    return clone_event_is_http((const char *)call->environment.data, call->environment.used);
}

/* ---- Answers that come in pieces ---- */

static void pass_on(struct runner_call *call, const void *bytes, size_t length)
{
    if (length > 0) {
        call->passed_on += length;
        call->events.on_output(bytes, length, call->context);
    }
}

static void on_streamed(const char *content_type, void *context)
{
    struct runner_call *call = context;
    if (call->is_over || call->is_streamed) {
        return;
    }
    call->is_streamed = true;
    if (call->is_paused && call->asked != NULL) {
        agent_call_pause(call->asked);
    }
    call->has_prelude = strcmp(content_type, CLONE_EVENT_PRELUDE_TYPE) == 0;
    if (!call->has_prelude) {
        BUFFER_OWNED struct buffer head = {0};
        clone_event_write_head(content_type, &head);
        pass_on(call, head.data, head.used);
    }
}

static void take_piece(struct runner_call *call, const void *bytes, size_t length)
{
    BUFFER_OWNED struct buffer head = {0};
    struct error err = {0};
    size_t taken = 0;
    if (call->passed_on + call->output.used + length > call->output_max) {
        end(call, VMM_END_OUTPUT, "");
        return;
    }
    if (!call->has_prelude) {
        pass_on(call, bytes, length);
        return;
    }
    buffer_append(&call->output, bytes, length);
    int r = clone_event_take_prelude(is_http(call), call->output.data, call->output.used, &head,
                                     &taken, &err);
    if (r < 0) {
        end(call, VMM_END_TRAP, err.text);
    } else if (r == 0) {
        call->has_prelude = false;
        buffer_append(&head, call->output.data + taken, call->output.used - taken);
        buffer_clear(&call->output);
        pass_on(call, head.data, head.used);
    }
}

static void end_stream(struct runner_call *call, const struct agent_result *result)
{
    char text[120];
    if (result->http_status == 500) {
        clone_event_failure_text(result->failure != NULL ? (const char *)result->failure : "",
                                 result->failure_length, text, sizeof(text));
        end(call, VMM_END_TRAP, text);
    } else if (call->has_prelude) {
        end(call, VMM_END_TRAP, "the streamed answer ended before its first eight zeros");
    } else {
        end(call, VMM_END_EXIT, "");
    }
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    struct runner_call *call = context;
    if (call->is_over) {
        return;
    }
    if (stream == AGENT_STREAM_ERR) {
        size_t taken = length < call->log_left ? length : (size_t)call->log_left;
        if (taken > 0) {
            call->events.on_log(bytes, taken, call->context);
        }
        call->log_left -= taken;
    } else if (call->is_streamed) {
        take_piece(call, bytes, length);
    } else if (call->output.used + length <= call->output_max) {
        buffer_append(&call->output, bytes, length);
    } else {
        end(call, VMM_END_OUTPUT, "");
    }
}

static void on_answered(const struct error *error, const struct agent_result *result, void *context)
{
    struct runner_call *call = context;
    char text[120];
    if (is_told_otherwise(call)) {
        return;
    }
    call->asked = NULL;
    if (error != NULL) {
        end(call, VMM_END_TRAP, error->text);
    } else if (call->is_streamed) {
        end_stream(call, result);
    } else if (result->http_status == 500) {
        clone_event_error_text(call->output.data, call->output.used, text, sizeof(text));
        end(call, VMM_END_TRAP, text);
    } else {
        clone_event_write_answer(is_http(call), call->output.data, call->output.used,
                                 &call->answer);
        end(call, VMM_END_EXIT, "");
    }
}

/* "Root=1-...;Parent=...;Sampled=1" of a W3C traceparent. */
static void trace_of(const char *parent, char ret_trace[128])
{
    ret_trace[0] = '\0';
    if (parent != NULL && strlen(parent) >= 55) {
        snprintf(ret_trace, 128, "Root=1-%.8s-%.24s;Parent=%.16s;Sampled=%d", parent + 3,
                 parent + 11, parent + 36, parent[54] == '1');
    }
}

/* The last of a name: secrets stand behind what is the request's. */
static const char *last_variable(const struct buffer *environment, const char *name)
{
    const char *at = (const char *)environment->data;
    const char *end = at + environment->used;
    const char *found = NULL;
    for (const char *value = clone_event_variable(at, (size_t)(end - at), name); value != NULL;
         value = clone_event_variable(at, (size_t)(end - at), name)) {
        found = value;
        at = value + strlen(value) + 1;
    }
    return found;
}

static void invoke(struct runner_call *call)
{
    static const struct agent_call_events events = {
        .on_output = on_output, .on_streamed = on_streamed, .on_end = on_answered};
    const char *environment = (const char *)call->environment.data;
    size_t length = call->environment.used;
    const struct template *template = call->slot->template;
    BUFFER_OWNED struct buffer event = {0};
    char trace[128];
    uint64_t now = clock_real_ms();
    trace_of(clone_event_variable(environment, length, "TRACEPARENT"), trace);
    const char *id = clone_event_variable(environment, length, "BLIXARD_REQUEST_ID");
    const char *name = json_string_value(json_object_get(template->settings, "function"));
    MEMORY_OWNED char *arn =
        memory_format("arn:aws:lambda:blixard:000000000000:function:%s", name != NULL ? name : "");
    const struct agent_invocation invocation = {.request_id = id != NULL ? id : "none",
                                                .deadline_ms = now + call->timeout_ms,
                                                .trace = trace[0] != '\0' ? trace : NULL,
                                                .arn = arn};
    clone_event_write(environment, length, call->input.data, call->input.used, now, &event);
    if (event.used > CLONE_INPUT_MAX) {
        end(call, VMM_END_TRAP, "the event has more than 6 MiB");
        return;
    }
    tunnels_begin(call);
    call->asked = agent_function_invoke(call->slot->machine->agent, &invocation, &events, call);
    agent_call_write(call->asked, event.data, event.used);
    agent_call_finish_input(call->asked);
}

static void begin_next(struct runner_call *call);

static void on_secret(const struct error *error, const struct agent_result *result, void *context)
{
    struct runner_call *call = context;
    (void)result;
    if (is_told_otherwise(call)) {
        return;
    }
    call->asked = NULL;
    if (error != NULL) {
        end(call, VMM_END_TRAP, error->text);
        return;
    }
    call->secret_at++;
    begin_next(call);
}

/* The secrets one by one, then the invocation. */
static void begin_next(struct runner_call *call)
{
    static const struct agent_call_events events = {.on_end = on_secret};
    const json_t *secrets = json_object_get(call->slot->template->settings, "secrets");
    const char *name = json_string_value(json_array_get(secrets, call->secret_at));
    if (name == NULL) {
        invoke(call);
        return;
    }
    const char *value = last_variable(&call->environment, name);
    MEMORY_OWNED char *path = memory_format(CLONE_SECRETS "/%s", name);
    const struct agent_put put = {.path = path, .mode = 0400, .makes_folders = true};
    call->asked = agent_put(call->slot->machine->agent, &put, &events, call);
    agent_call_write(call->asked, value != NULL ? value : "", value != NULL ? strlen(value) : 0);
    agent_call_finish_input(call->asked);
}

void call_go_on(struct runner_call *call)
{
    if (call->is_over || call->asked != NULL || !call->slot->is_ready || !call->input_is_whole) {
        return;
    }
    if (call->is_too_large) {
        end(call, VMM_END_TRAP, "the request's body has more than 6 MiB");
        return;
    }
    call->run_ns = clock_monotonic_ns();
    call->attach_ns = call->run_ns - call->began_ns;
    loop_timer_start(call->timer, call->timeout_ms);
    begin_next(call);
}

/* ---- The door ---- */

struct runner_call *clone_invoke(struct runner *base, unsigned index,
                                 const struct runner_invocation *invocation,
                                 const struct runner_call_events *events, void *context)
{
    struct clone_runner *runner = (struct clone_runner *)base;
    struct slot *slot = &runner->slots[index];
    struct template *template = template_find(runner, invocation->image_id);
    CHECK(slot->call == NULL && template != NULL && template->is_ready);
    struct runner_call *call = NEW(struct runner_call);
    call->driver = &clone_driver;
    call->slot = slot;
    call->loop = runner->service->options.loop;
    call->events = *events;
    call->context = context;
    list_init(&call->tunnels);
    call->timer = loop_timer_new(runner->service->options.loop, on_late, call);
    call->timeout_ms = invocation->timeout_ms > 0 ? invocation->timeout_ms : template->init_ms;
    call->began_ns = clock_monotonic_ns();
    call->output_max = template->output_max;
    call->log_left = template->log_max;
    call->keeps_memory = invocation->keeps_memory;
    call->is_last = invocation->is_last;
    call->input_is_whole = !invocation->input_continues;
    buffer_append(&call->environment, invocation->environment, invocation->environment_length);
    clone_call_write(call, invocation->input, invocation->input_length);
    slot->call = call;
    if (slot->template != template || slot->machine == NULL) {
        slot_end(slot);
        call->was_cold = true;
        slot_begin(slot, template);
    }
    call_go_on(call);
    return call;
}

bool clone_call_write(struct runner_call *call, const void *bytes, size_t length)
{
    if (call->input.used + length > CLONE_INPUT_MAX) {
        call->is_too_large = true;
    } else {
        buffer_append(&call->input, bytes, length);
    }
    return true;
}

void clone_call_finish_input(struct runner_call *call)
{
    call->input_is_whole = true;
    if (!call->is_over) {
        call_go_on(call);
    }
}

/* What comes as the handler makes it waits in the guest; an answer that is whole, here. */
void clone_call_pause(struct runner_call *call)
{
    call->is_paused = true;
    if (call->is_streamed && call->asked != NULL) {
        agent_call_pause(call->asked);
    }
}

void clone_call_resume(struct runner_call *call)
{
    call->is_paused = false;
    if (call->is_streamed && call->asked != NULL) {
        agent_call_resume(call->asked);
    }
    if (call->is_held) {
        call->is_held = false;
        loop_post(call->loop, tell_end, call);
    }
}

void clone_call_cancel(struct runner_call *call)
{
    clone_call_resume(call);
    end(call, VMM_END_CANCELLED, "");
}
