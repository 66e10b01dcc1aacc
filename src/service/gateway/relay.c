/* See relay.h. */
#include "service/gateway/relay.h"

#include <string.h>

#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

/* What is posted to either side; the bytes stand behind it. */
struct letter {
    struct relay *relay;
    bool has_place;
    uint64_t queue_ns;
    char instance[INSTANCE_NAME_SIZE];
    size_t length;
    uint8_t bytes[];
};

struct end_letter {
    struct relay *relay;
    bool has_error;
    struct error error;
    struct instance_result result;
};

static struct letter *letter_new(struct relay *relay, const void *bytes, size_t length)
{
    struct letter *letter = memory_new(1, sizeof(*letter) + length);
    letter->relay = relay;
    letter->length = length;
    if (length > 0) {
        memcpy(letter->bytes, bytes, length);
    }
    return letter;
}

/* ---- On the instances' loop: events on their way home ---- */

static void output_at_home(void *argument)
{
    struct letter *letter = argument;
    struct relay *relay = letter->relay;
    relay->has_place = letter->has_place;
    relay->queue_ns = letter->queue_ns;
    memcpy(relay->instance, letter->instance, sizeof(relay->instance));
    relay->events->on_output(letter->bytes, letter->length, relay->context);
    free(letter);
}

static void on_output(const void *bytes, size_t length, void *context)
{
    struct relay *relay = context;
    if (relay->is_local) {
        if (!relay->has_place) {
            relay->has_place = instance_call_place(relay->call, &relay->queue_ns, relay->instance);
        }
        relay->events->on_output(bytes, length, relay->context);
        return;
    }
    struct letter *letter = letter_new(relay, bytes, length);
    letter->has_place = instance_call_place(relay->call, &letter->queue_ns, letter->instance);
    loop_post(relay->home, output_at_home, letter);
}

static void writable_at_home(void *argument)
{
    struct relay *relay = argument;
    relay->events->on_writable(relay->context);
}

static void on_writable(void *context)
{
    struct relay *relay = context;
    if (relay->is_local) {
        relay->events->on_writable(relay->context);
    } else {
        loop_post(relay->home, writable_at_home, relay);
    }
}

static void gone_at_home(void *argument)
{
    struct relay *relay = argument;
    relay->on_gone(relay->context);
}

/* Behind all steps that were taken before the end was known. */
static void farewell_there(void *argument)
{
    struct relay *relay = argument;
    loop_post(relay->home, gone_at_home, relay);
}

static void end_at_home(void *argument)
{
    struct end_letter *letter = argument;
    struct relay *relay = letter->relay;
    relay->events->on_end(letter->has_error ? &letter->error : NULL, &letter->result,
                          relay->context);
    free(letter);
    loop_post(instance_loop(relay->instances), farewell_there, relay);
}

static void post_end(struct relay *relay, const struct error *error,
                     const struct instance_result *result)
{
    struct end_letter *letter = NEW(struct end_letter);
    letter->relay = relay;
    letter->has_error = error != NULL;
    if (error != NULL) {
        letter->error = *error;
    }
    if (result != NULL) {
        letter->result = *result;
    }
    loop_post(relay->home, end_at_home, letter);
}

static void on_end(const struct error *error, const struct instance_result *result, void *context)
{
    struct relay *relay = context;
    relay->call = NULL;
    if (relay->is_local) {
        relay->events->on_end(error, result, relay->context);
        relay->on_gone(relay->context);
    } else {
        post_end(relay, error, result);
    }
}

static const struct instance_events events = {
    .on_output = on_output,
    .on_writable = on_writable,
    .on_end = on_end,
};

/* ---- Steps towards the instances' loop ---- */

static void invoke_there(void *argument)
{
    struct relay *relay = argument;
    struct error err = {0};
    relay->call = instance_invoke(relay->instances, &relay->invocation, &events, relay, &err);
    instance_target_unref(relay->invocation.target);
    if (relay->call == NULL) {
        post_end(relay, &err, NULL);
    }
}

int relay_start(struct relay *relay, const struct instance_invocation *invocation,
                struct error *err)
{
    relay->is_local = loop_is_current(instance_loop(relay->instances));
    relay->has_place = false;
    if (relay->is_local) {
        relay->call = instance_invoke(relay->instances, invocation, &events, relay, err);
        return relay->call != NULL ? 0 : -(int)err->kind;
    }
    relay->invocation = *invocation;
    instance_target_ref(invocation->target);
    loop_post(instance_loop(relay->instances), invoke_there, relay);
    return 0;
}

static void write_there(void *argument)
{
    struct letter *letter = argument;
    struct relay *relay = letter->relay;
    /* One letter at a time is under way: the writer waits for on_writable after each. */
    if (relay->call != NULL && instance_call_write(relay->call, letter->bytes, letter->length)) {
        on_writable(relay);
    }
    free(letter);
}

bool relay_write(struct relay *relay, const void *bytes, size_t length)
{
    if (relay->is_local) {
        return relay->call != NULL && instance_call_write(relay->call, bytes, length);
    }
    loop_post(instance_loop(relay->instances), write_there, letter_new(relay, bytes, length));
    return false;
}

static void finish_there(void *argument)
{
    struct relay *relay = argument;
    if (relay->call != NULL) {
        instance_call_finish_input(relay->call);
    }
}

static void pause_there(void *argument)
{
    struct relay *relay = argument;
    if (relay->call != NULL) {
        instance_call_pause(relay->call);
    }
}

static void resume_there(void *argument)
{
    struct relay *relay = argument;
    if (relay->call != NULL) {
        instance_call_resume(relay->call);
    }
}

static void cancel_there(void *argument)
{
    struct relay *relay = argument;
    if (relay->call != NULL) {
        instance_call_cancel(relay->call);
    }
}

static void step(struct relay *relay, void (*there)(void *argument))
{
    if (relay->is_local) {
        there(relay);
    } else {
        loop_post(instance_loop(relay->instances), there, relay);
    }
}

void relay_finish_input(struct relay *relay)
{
    step(relay, finish_there);
}

void relay_pause(struct relay *relay)
{
    step(relay, pause_there);
}

void relay_resume(struct relay *relay)
{
    step(relay, resume_there);
}

void relay_cancel(struct relay *relay)
{
    step(relay, cancel_there);
}
