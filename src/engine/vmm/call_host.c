/*
 * Questions of a function to who runs it.
 *
 * The guest names the parts of its request and of the room for the reply.  What names them is
 * copied out once, and so is the request, part by part: a process sandbox may write while we read.
 */
#include <string.h>

#include "base/check.h"
#include "base/clock.h"

#include "engine/vmm/private.h"

void call_done(struct call_state *state)
{
    buffer_done(&state->host_sent);
    buffer_done(&state->host_reply);
}

static bool out_of_bounds(struct call_state *state)
{
    call_end(state, VMM_END_TRAP, "trap: out of bounds memory access");
    return false;
}

/* False, with the call ended: a part is not the guest's.  *ret_fits: they are not too many bytes.
 */
static bool gather(struct call_state *state, const struct guest_memory *memory,
                   const struct abi_host *host, bool *ret_fits)
{
    buffer_clear(&state->host_sent);
    *ret_fits = true;
    for (uint64_t i = 0; i < host->send_count; i++) {
        const struct abi_part *part = &host->send[i];
        if (part->length > ABI_HOST_BYTES_MAX - state->host_sent.used) {
            *ret_fits = false;
            return true;
        }
        if (part->length == 0) {
            continue;
        }
        const uint8_t *bytes = memory->translate(memory->shell, part->address, part->length);
        if (bytes == NULL) {
            return out_of_bounds(state);
        }
        buffer_append(&state->host_sent, bytes, (size_t)part->length);
    }
    CHECK(state->host_sent.used <= ABI_HOST_BYTES_MAX);
    return true;
}

static bool scatter(struct call_state *state, const struct guest_memory *memory,
                    const struct abi_host *host)
{
    size_t taken = 0;
    for (uint64_t i = 0; i < host->receive_count; i++) {
        const struct abi_part *part = &host->receive[i];
        size_t left = state->host_reply.used - taken;
        size_t count = part->length < left ? (size_t)part->length : left;
        if (count == 0) {
            continue;
        }
        uint8_t *room = memory->translate(memory->shell, part->address, count);
        if (room == NULL) {
            return out_of_bounds(state);
        }
        memcpy(room, state->host_reply.data + taken, count);
        taken += count;
    }
    return true;
}

static bool ask(struct call_state *state)
{
    const struct vmm_call *call = state->call;
    if (call->host(state->host_sent.data, state->host_sent.used, state->deadline_ns,
                   &state->host_reply, call->host_context) == 0) {
        return true;
    }
    bool is_late = clock_monotonic_ns() >= state->deadline_ns;
    call_end(state, is_late ? VMM_END_TIMEOUT : VMM_END_CANCELLED,
             is_late ? "timed out" : "cancelled");
    return false;
}

bool call_host(struct call_state *state, const struct guest_memory *memory, uint64_t address,
               uint64_t *ret_result)
{
    struct abi_host host;
    bool fits = true;
    buffer_clear(&state->host_reply);
    const uint8_t *named = memory->translate(memory->shell, address, sizeof(host));
    if (named == NULL) {
        return out_of_bounds(state);
    }
    memcpy(&host, named, sizeof(host));
    if (host.send_count > ABI_HOST_SEND_MAX || host.receive_count > ABI_HOST_RECEIVE_MAX) {
        return out_of_bounds(state);
    }
    if (state->is_building) {
        *ret_result = (uint64_t)ABI_HOST_EARLY;
        return true;
    }
    if (state->call->host == NULL) {
        *ret_result = (uint64_t)ABI_HOST_NOBODY;
        return true;
    }
    if (!gather(state, memory, &host, &fits)) {
        return false;
    }
    if (!fits) {
        *ret_result = (uint64_t)ABI_HOST_TOO_LARGE;
        return true;
    }
    if (!ask(state)) {
        return false;
    }
    if (state->host_reply.used > ABI_HOST_BYTES_MAX) {
        buffer_clear(&state->host_reply);
        *ret_result = (uint64_t)ABI_HOST_TOO_LARGE;
        return true;
    }
    *ret_result = state->host_reply.used;
    return scatter(state, memory, &host);
}

bool call_window(struct call_state *state, const struct guest_memory *memory,
                 const uint64_t arguments[3], uint64_t all, struct call_window *ret_window)
{
    uint64_t from = arguments[2];
    uint64_t left = from < all ? all - from : 0;
    uint64_t count = arguments[1] < left ? arguments[1] : left;
    *ret_window = (struct call_window){.from = (size_t)from, .count = (size_t)count};
    if (count == 0) {
        return true;
    }
    ret_window->room = memory->translate(memory->shell, arguments[0], count);
    return ret_window->room != NULL || out_of_bounds(state);
}

bool call_host_more(struct call_state *state, const struct guest_memory *memory,
                    const uint64_t arguments[3], uint64_t *ret_result)
{
    struct call_window window;
    bool is_good = call_window(state, memory, arguments, state->host_reply.used, &window);
    if (is_good && window.count > 0) {
        memcpy(window.room, state->host_reply.data + window.from, window.count);
    }
    *ret_result = window.count;
    return is_good;
}
