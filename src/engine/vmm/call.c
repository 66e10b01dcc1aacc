/* What a call is allowed to say and hear: limits that hold for both back ends. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"

#include "engine/vmm/private.h"

void call_end(struct call_state *state, enum vmm_end end, const char *reason)
{
    state->outcome->end = end;
    snprintf(state->outcome->reason, sizeof(state->outcome->reason), "%s", reason);
}

bool call_is_cancelled(struct call_state *state)
{
    const atomic_bool *cancelled = state->call->cancelled;
    if (cancelled == NULL || !atomic_load(cancelled)) {
        return false;
    }
    call_end(state, VMM_END_CANCELLED, "cancelled");
    return true;
}

bool call_output(struct call_state *state, const void *bytes, uint64_t length)
{
    if (length > state->limits->output_bytes_max - state->outcome->output_bytes) {
        char text[96];
        snprintf(text, sizeof(text), "the output is larger than %" PRIu64 " bytes",
                 state->limits->output_bytes_max);
        call_end(state, VMM_END_OUTPUT, text);
        return false;
    }
    state->outcome->output_bytes += length;
    const struct vmm_sink *sink = &state->call->sink;
    if (length > 0 && sink->output != NULL && !sink->output(bytes, length, sink->context)) {
        call_end(state, VMM_END_CANCELLED, "cancelled");
        return false;
    }
    return true;
}

void call_log(struct call_state *state, const void *bytes, uint64_t length)
{
    static const char note[] = "\n<4>the log of this call is full; the rest is dropped\n";
    const struct vmm_sink *sink = &state->call->sink;
    if (sink->log == NULL || state->log_full) {
        return;
    }
    uint64_t left = state->limits->log_bytes_max - state->log_bytes;
    uint64_t taken = length < left ? length : left;
    if (taken > 0) {
        sink->log(bytes, taken, sink->context);
        state->log_bytes += taken;
    }
    if (taken < length) {
        state->log_full = true;
        sink->log(note, sizeof(note) - 1, sink->context);
    }
}

void call_waits(struct call_state *state, uint64_t ns)
{
    const struct vmm_sink *sink = &state->call->sink;
    if (sink->waits != NULL && ns >= ABI_SLEEP_FLUSH_NS) {
        sink->waits(sink->context);
    }
}

/* The guest's memory is read once: what is checked is what is used. */
bool call_inline(struct call_state *state, const struct abi_block *block, bool with_output)
{
    uint32_t log_length = ((const volatile struct abi_block *)block)->log_length;
    uint32_t output_length = ((const volatile struct abi_block *)block)->output_length;
    if (log_length > 0 && log_length <= ABI_LOG_BYTES) {
        call_log(state, block->log, log_length);
    }
    if (!with_output || output_length == 0) {
        return true;
    }
    if (output_length > ABI_OUTPUT_BYTES) {
        call_end(state, VMM_END_TRAP, "trap: the call block is damaged");
        return false;
    }
    return call_output(state, block->output, output_length);
}

long call_input(struct call_state *state, void *bytes, uint64_t length)
{
    const struct vmm_call *call = state->call;
    size_t left = call->input_length - state->input_taken;
    if (left > 0) {
        size_t count = left < length ? left : (size_t)length;
        memcpy(bytes, (const uint8_t *)call->input + state->input_taken, count);
        state->input_taken += count;
        return (long)count;
    }
    if (call->read == NULL) {
        return 0;
    }
    long got = call->read(bytes, length, state->deadline_ns, call->read_context);
    if (got < 0) {
        bool late = clock_monotonic_ns() >= state->deadline_ns;
        call_end(state, late ? VMM_END_TIMEOUT : VMM_END_CANCELLED,
                 late ? "timed out" : "cancelled");
    }
    return got;
}

static uint32_t count_strings(const char *text, size_t length)
{
    uint32_t count = 0;
    for (size_t i = 0; i < length; i++) {
        count += text[i] == '\0';
    }
    return count;
}

/* A call's environment, and behind it its arguments. */
struct call_texts {
    const char *text[2];
    size_t length[2];
};

static struct call_texts texts_of(const struct vmm_call *call)
{
    static const char default_arguments[] = "function";
    bool has_arguments = call->arguments_length > 0;
    struct call_texts texts = {
        .text = {call->environment, has_arguments ? call->arguments : default_arguments},
        .length = {call->environment_length,
                   has_arguments ? call->arguments_length : sizeof(default_arguments)}};
    CHECK(texts.length[0] <= VMM_TEXT_MAX);
    CHECK(texts.length[1] <= VMM_TEXT_MAX - texts.length[0]);
    return texts;
}

static void copy_texts(const struct call_texts *texts, size_t from, uint8_t *room, size_t length)
{
    for (int i = 0; i < 2; i++) {
        size_t left = from < texts->length[i] ? texts->length[i] - from : 0;
        size_t count = left < length ? left : length;
        if (count > 0) {
            memcpy(room, texts->text[i] + from, count);
        }
        room += count;
        length -= count;
        from -= from < texts->length[i] ? from : texts->length[i];
    }
}

bool call_text(struct call_state *state, const struct guest_memory *memory,
               const uint64_t arguments[3], uint64_t *ret_result)
{
    const struct call_texts texts = texts_of(state->call);
    struct call_window window;
    bool is_good =
        call_window(state, memory, arguments, texts.length[0] + texts.length[1], &window);
    if (is_good && window.count > 0) {
        copy_texts(&texts, window.from, window.room, window.count);
    }
    *ret_result = window.count;
    return is_good;
}

void block_fill(struct abi_block *block, const struct call_state *state)
{
    const struct vmm_call *call = state->call;
    const struct call_texts texts = texts_of(call);
    size_t text_length = texts.length[0] + texts.length[1];
    if (text_length <= ABI_TEXT_BYTES) {
        copy_texts(&texts, 0, (uint8_t *)block->text, text_length);
    }
    block->environment_length = (uint32_t)texts.length[0];
    block->environment_count = count_strings(texts.text[0], texts.length[0]);
    block->arguments_length = (uint32_t)texts.length[1];
    block->arguments_count = count_strings(texts.text[1], texts.length[1]);

    size_t inline_length =
        call->input_length < ABI_INPUT_BYTES ? call->input_length : ABI_INPUT_BYTES;
    if (inline_length > 0) {
        memcpy(block->input, call->input, inline_length);
    }
    block->input_length = (uint32_t)inline_length;
    block->input_position = 0;
    block->input_continues = call->read != NULL || call->input_length > inline_length;
    block->output_length = 0;
    block->log_length = 0;
    block->folder_count = call->folder_count;
    block->folders_hidden = call->folders_hidden;
    block->streams_piped = call->streams_piped;
    block->begins_late = state->begins_late;
    block->call = 0;
    random_bytes(block->random_seed, sizeof(block->random_seed));
    block->real_ns = clock_real_ns();
    block->monotonic_ns = clock_monotonic_ns();
}

const char *trap_text(uint64_t trap)
{
    static const char *const texts[ABI_TRAP_COUNT] = {
        [ABI_TRAP_OUT_OF_BOUNDS] = "out of bounds memory access",
        [ABI_TRAP_INTEGER_OVERFLOW] = "integer overflow",
        [ABI_TRAP_DIVIDE_BY_ZERO] = "integer divide by zero",
        [ABI_TRAP_INVALID_CONVERSION] = "invalid conversion to integer",
        [ABI_TRAP_UNREACHABLE] = "unreachable",
        [ABI_TRAP_INDIRECT_CALL] = "indirect call type mismatch",
        [ABI_TRAP_UNCAUGHT_EXCEPTION] = "uncaught exception",
        [ABI_TRAP_EXHAUSTION] = "call stack exhausted",
        [ABI_TRAP_ABORT] = "aborted",
        [ABI_TRAP_TABLE_MEMORY] = "too many table elements or function types",
        [ABI_TRAP_MEMORY] = "the initial memory is larger than the limit",
        [ABI_TRAP_TABLE_BOUNDS] = "out of bounds table access",
        [ABI_TRAP_UNDEFINED_ELEMENT] = "undefined element",
        [ABI_TRAP_UNINITIALIZED_ELEMENT] = "uninitialized element",
        [ABI_TRAP_UNLINKABLE] = "incompatible import type",
    };
    const char *text = trap < ABI_TRAP_COUNT ? texts[trap] : NULL;
    return text != NULL ? text : "unknown trap";
}

enum { DIVIDE = 0, INVALID_OPCODE = 6, PAGE_FAULT = 14 };

enum abi_trap trap_of_fault(unsigned vector, uint64_t address)
{
    const uint64_t hole_bytes = MIB(8192);
    if (vector == DIVIDE) {
        return ABI_TRAP_DIVIDE_BY_ZERO;
    }
    if (vector != PAGE_FAULT) {
        return ABI_TRAP_NONE;
    }
    if (address < ABI_STACK_BASE && address >= ABI_STACK_BASE - ABI_WINDOW_BYTES) {
        return ABI_TRAP_EXHAUSTION;
    }
    return address >= ABI_MEMORY_BASE && address - ABI_MEMORY_BASE < hole_bytes
        ? ABI_TRAP_OUT_OF_BOUNDS
        : ABI_TRAP_NONE;
}

const char *vmm_trap_text(uint32_t trap)
{
    return trap_text(trap);
}

void trap_describe_fault(unsigned vector, uint64_t address, uint64_t rip, char *ret_text,
                         size_t size)
{
    enum abi_trap trap = trap_of_fault(vector, address);
    if (trap != ABI_TRAP_NONE) {
        snprintf(ret_text, size, "trap: %s", trap_text(trap));
    } else if (vector == INVALID_OPCODE) {
        snprintf(ret_text, size, "trap: illegal instruction at 0x%" PRIx64, rip);
    } else if (vector == PAGE_FAULT) {
        snprintf(ret_text, size, "trap: illegal access to 0x%" PRIx64 " at 0x%" PRIx64, address,
                 rip);
    } else {
        snprintf(ret_text, size, "trap: exception %u at 0x%" PRIx64, vector, rip);
    }
}
