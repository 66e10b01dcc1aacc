/*
 * Running a call on KVM: enter the guest, serve its calls to the host, understand its end.
 *
 * The virtual CPU stands still while we look at guest memory, so what we check is what we use.
 * Every number the guest wrote is checked all the same.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"

#include "engine/vmm/microvm.h"

/* Host address of `length` bytes at a guest address, or NULL when any byte is not the guest's. */
static uint8_t *translate(const struct microvm_shell *shell, uint64_t address, uint64_t length)
{
    const struct {
        enum window window;
        uint64_t bytes;
    } ranges[] = {
        {WINDOW_MEMORY, shell->memory_now},
        {WINDOW_DATA, shell->base.class.bytes[WINDOW_DATA]},
        {WINDOW_STACK, ABI_STACK_BYTES},
        {WINDOW_FILES, shell->files_accessible},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        uint64_t base = window_base[ranges[i].window];
        if (address >= base && address - base <= ranges[i].bytes &&
            length <= ranges[i].bytes - (address - base)) {
            return microvm_window(shell, ranges[i].window) + (address - base);
        }
    }
    return NULL;
}

static uint64_t grow(struct microvm_shell *shell, const struct call_state *state, uint64_t pages)
{
    const uint64_t refused = 1;
    uint64_t wanted = pages * UINT64_C(65536);
    if (pages > 65536 || wanted > state->limits->memory_bytes || wanted < shell->memory_now ||
        wanted > shell->base.class.bytes[WINDOW_MEMORY]) {
        return refused;
    }
    uint64_t before = shell->memory_accessible;
    if (wanted > before) {
        if (microvm_set_memory(shell, wanted) < 0) {
            return refused;
        }
        /* In one go what would be a fault per page, as far as it is likely to be used. */
        uint64_t likely = wanted - before < MIB(1) ? wanted - before : MIB(1);
        madvise(microvm_window(shell, WINDOW_MEMORY) + before, likely, MADV_POPULATE_WRITE);
    }
    shell->memory_now = wanted;
    return 0;
}

static uint64_t grow_files(struct microvm_shell *shell, const struct call_state *state,
                           uint64_t bytes)
{
    uint64_t most = state->limits->files_bytes;
    bool is_granted = bytes <= most && microvm_set_files(shell, bytes, most) == 0;
    return is_granted ? 0 : 1;
}

/* Until it is due, or the call is; the watchdog's signal wakes it. */
static void sleep_for(struct call_state *state, uint64_t ns)
{
    uint64_t now_ns = clock_monotonic_ns();
    uint64_t left_ns = state->deadline_ns > now_ns ? state->deadline_ns - now_ns : 0;
    uint64_t until_ns = now_ns + (ns < left_ns ? ns : left_ns);
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                             .tv_nsec = (long)(until_ns % 1000000000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

enum verdict { GO_ON, OVER, READY };

static enum verdict serve_write(struct microvm_shell *shell, struct call_state *state,
                                struct abi_block *block)
{
    uint64_t length = block->arguments[2];
    const uint8_t *bytes = translate(shell, block->arguments[1], length);
    if (bytes == NULL || (block->arguments[0] != 1 && block->arguments[0] != 2)) {
        call_end(state, VMM_END_TRAP, "trap: out of bounds memory access");
        return OVER;
    }
    block->result = length;
    if (block->arguments[0] == 2) {
        call_log(state, bytes, length);
        return GO_ON;
    }
    return call_output(state, bytes, length) ? GO_ON : OVER;
}

static enum verdict serve_read(struct microvm_shell *shell, struct call_state *state,
                               struct abi_block *block)
{
    /* A module may offer a buffer longer than its memory: what fits is read. */
    uint64_t address = block->arguments[0];
    uint64_t length = block->arguments[1];
    if (length > MIB(1)) {
        length = MIB(1);
    }
    uint8_t *bytes = translate(shell, address, length);
    if (bytes == NULL) {
        call_end(state, VMM_END_TRAP, "trap: out of bounds memory access");
        return OVER;
    }
    long got = call_input(state, bytes, length);
    if (got < 0) {
        return OVER;
    }
    block->result = (uint64_t)got;
    return GO_ON;
}

static uint8_t *translate_for_host(const void *shell, uint64_t address, uint64_t length)
{
    return translate(shell, address, length);
}

static enum verdict serve_host(struct microvm_shell *shell, struct call_state *state,
                               struct abi_block *block)
{
    const struct guest_memory memory = {.translate = translate_for_host, .shell = shell};
    uint64_t result = 0;
    bool goes_on = block->call == ABI_CALL_HOST
        ? call_host(state, &memory, block->arguments[0], &result)
        : block->call == ABI_CALL_TEXT ? call_text(state, &memory, block->arguments, &result)
                                       : call_host_more(state, &memory, block->arguments, &result);
    block->result = result;
    return goes_on ? GO_ON : OVER;
}

/* What the guest left in the call block when it ended, however it ended. */
static bool take_inline(struct microvm_shell *shell, struct call_state *state, bool with_output)
{
    const struct abi_block *block = (const struct abi_block *)microvm_window(shell, WINDOW_DATA);
    return call_inline(state, block, with_output);
}

static enum verdict serve_exit(struct microvm_shell *shell, struct call_state *state,
                               struct abi_block *block)
{
    state->outcome->exit_code = (uint32_t)block->arguments[0];
    if (take_inline(shell, state, true)) {
        call_end(state, VMM_END_EXIT, "");
    }
    return OVER;
}

static enum verdict serve(struct microvm_shell *shell, struct call_state *state)
{
    struct abi_block *block = (struct abi_block *)microvm_window(shell, WINDOW_DATA);
    char text[96];
    switch (block->call) {
    case ABI_CALL_READY:
        if (!shell->building) {
            break;
        }
        take_inline(shell, state, false);
        return READY;
    case ABI_CALL_EXIT:
        return serve_exit(shell, state, block);
    case ABI_CALL_TRAP:
        take_inline(shell, state, true);
        snprintf(text, sizeof(text), "trap: %s", trap_text(block->arguments[0]));
        call_end(state, VMM_END_TRAP, text);
        return OVER;
    case ABI_CALL_WRITE:
        return serve_write(shell, state, block);
    case ABI_CALL_READ:
        return serve_read(shell, state, block);
    case ABI_CALL_CLOCK:
        block->result = block->arguments[0] == 0 ? clock_real_ns() : clock_monotonic_ns();
        return GO_ON;
    case ABI_CALL_GROW:
        block->result = grow(shell, state, block->arguments[0]);
        return GO_ON;
    case ABI_CALL_SLEEP:
        call_waits(state, block->arguments[0]);
        sleep_for(state, block->arguments[0]);
        block->result = 0;
        return GO_ON;
    case ABI_CALL_FILES:
        block->result = grow_files(shell, state, block->arguments[0]);
        return GO_ON;
    case ABI_CALL_NULL:
        block->result = 0;
        return GO_ON;
    case ABI_CALL_HOST:
    case ABI_CALL_HOST_MORE:
    case ABI_CALL_TEXT:
        return serve_host(shell, state, block);
    default:
        break;
    }
    call_end(state, VMM_END_TRAP, "trap: illegal call to the host");
    return OVER;
}

static void load_registers(struct microvm_shell *shell, const struct registers *registers)
{
    struct kvm_sync_regs *sync = &shell->run->s.regs;
    memcpy(&sync->regs, registers, sizeof(sync->regs));
    sync->sregs = shell->host->sregs;
    memset(&sync->events, 0, sizeof(sync->events));
    shell->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
}

/* A guest that wants to go on after a trap does: where it said, which may be anywhere of its own.
 */
static bool recovers(struct microvm_shell *shell, enum abi_trap trap)
{
    const struct abi_block *block = (const struct abi_block *)microvm_window(shell, WINDOW_DATA);
    if (block->recovery == 0 || trap == ABI_TRAP_NONE || shell->building) {
        return false;
    }
    const struct registers registers = {
        .rdi = trap, .rsp = block->recovery_stack, .rip = block->recovery, .rflags = 2};
    load_registers(shell, &registers);
    return true;
}

static enum verdict out_of_bounds(struct microvm_shell *shell, struct call_state *state)
{
    if (recovers(shell, ABI_TRAP_OUT_OF_BOUNDS)) {
        return GO_ON;
    }
    take_inline(shell, state, true);
    call_end(state, VMM_END_TRAP, "trap: out of bounds memory access");
    return OVER;
}

static enum verdict fault(struct microvm_shell *shell, struct call_state *state, unsigned vector)
{
    struct kvm_sregs sregs = {0};
    ioctl(shell->vcpu_fd, KVM_GET_SREGS, &sregs);
    if (recovers(shell, trap_of_fault(vector, sregs.cr2))) {
        return GO_ON;
    }
    /* The CPU pushed SS, RSP, RFLAGS, CS and RIP onto the trap stack. */
    uint64_t rip = 0;
    memcpy(&rip, shell->arena + MICROVM_TRAP_STACK + PAGE_BYTES - 40, sizeof(rip));
    take_inline(shell, state, true);
    char text[160];
    trap_describe_fault(vector, sregs.cr2, rip, text, sizeof(text));
    call_end(state, VMM_END_TRAP, text);
    return OVER;
}

/*
 * Some exits leave an instruction half done, which KVM goes on with at the next KVM_RUN: then it
 * would write registers of the call after this one.  Let it end now, with nothing left to repeat
 * (rcx is 0).
 */
static void settle(struct microvm_shell *shell, struct call_state *state)
{
    enum { ATTEMPTS = 8 };
    for (int i = 0; i < ATTEMPTS; i++) {
        shell->run->s.regs.regs = (struct kvm_regs){.rip = ABI_TEXT_BASE, .rflags = 2};
        shell->run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
        shell->run->immediate_exit = 1;
        int r = ioctl(shell->vcpu_fd, KVM_RUN, 0);
        shell->run->immediate_exit = 0;
        if (r < 0 && errno == EINTR) {
            return;
        }
    }
    call_end(state, VMM_END_BROKEN, "a virtual CPU does not come to rest");
}

static enum verdict on_io(struct microvm_shell *shell, struct call_state *state)
{
    const struct kvm_run *run = shell->run;
    bool plain = run->io.direction == KVM_EXIT_IO_OUT && run->io.size == 1 && run->io.count == 1;
    if (plain && run->io.port == ABI_PORT_CALL) {
        return serve(shell, state);
    }
    if (plain && run->io.port == ABI_PORT_TRAP) {
        return fault(shell, state, *((const uint8_t *)run + run->io.data_offset));
    }
    take_inline(shell, state, true);
    call_end(state, VMM_END_TRAP, "trap: illegal use of an I/O port");
    settle(shell, state);
    return OVER;
}

/* KVM_RUN came back without an exit from the guest. */
static enum verdict on_error(struct microvm_shell *shell, struct call_state *state, int cause)
{
    if (cause == EFAULT) {
        return out_of_bounds(shell, state);
    }
    if (cause != EINTR && cause != EAGAIN) {
        char text[96];
        snprintf(text, sizeof(text), "KVM_RUN failed: %s", strerrordesc_np(cause));
        call_end(state, VMM_END_BROKEN, text);
        return OVER;
    }
    shell->run->immediate_exit = 0;
    return GO_ON;
}

/* Is the call late or unwanted?  Asked at every exit, so that no loop of host calls escapes. */
static bool must_stop(struct microvm_shell *shell, struct call_state *state)
{
    if (atomic_load_explicit(&shell->timer.interrupted, memory_order_relaxed)) {
        call_end(state, VMM_END_CANCELLED, "cancelled");
        return true;
    }
    if (clock_monotonic_ns() >= state->deadline_ns) {
        take_inline(shell, state, false);
        char text[64];
        snprintf(text, sizeof(text), "timed out after %" PRIu64 " ms",
                 state->call->timeout_ms > 0 ? state->call->timeout_ms : state->limits->timeout_ms);
        call_end(state, VMM_END_TIMEOUT, text);
        return true;
    }
    return false;
}

static enum verdict step(struct microvm_shell *shell, struct call_state *state)
{
    if (ioctl(shell->vcpu_fd, KVM_RUN, 0) < 0) {
        return on_error(shell, state, errno);
    }
    state->outcome->exits++;
    switch (shell->run->exit_reason) {
    case KVM_EXIT_IO:
        return on_io(shell, state);
    case KVM_EXIT_INTR:
        return GO_ON;
    case KVM_EXIT_MMIO:
        settle(shell, state);
        return state->outcome->end == VMM_END_BROKEN ? OVER : out_of_bounds(shell, state);
    case KVM_EXIT_SHUTDOWN:
    case KVM_EXIT_HLT:
    case KVM_EXIT_INTERNAL_ERROR:
        call_end(state, VMM_END_TRAP, "trap: illegal instruction");
        return OVER;
    default: {
        char text[64];
        snprintf(text, sizeof(text), "unexpected KVM exit %u", shell->run->exit_reason);
        call_end(state, VMM_END_BROKEN, text);
        return OVER;
    }
    }
}

static void fill_block(struct microvm_shell *shell, const struct call_state *state)
{
    struct abi_block *block = (struct abi_block *)microvm_window(shell, WINDOW_DATA);
    block_fill(block, state);
    block->cpu = shell->host->cpu;
    block->tsc_khz = shell->host->tsc_khz;
    block->deadline_ns = state->deadline_ns;
}

enum microvm_end microvm_enter(struct microvm_shell *shell, const struct registers *registers,
                               struct call_state *state)
{
    CHECK(shell->timer.deadline_ns == 0);

    uint64_t begin_ns = clock_monotonic_ns();
    uint64_t limit_ms = state->limits->timeout_ms;
    if (state->call->timeout_ms > 0 && state->call->timeout_ms < limit_ms) {
        limit_ms = state->call->timeout_ms;
    }
    state->deadline_ns = begin_ns + limit_ms * 1000000;
    size_t inline_input =
        state->call->input_length < ABI_INPUT_BYTES ? state->call->input_length : ABI_INPUT_BYTES;
    state->input_taken = inline_input;
    fill_block(shell, state);
    load_registers(shell, registers);
    shell->run->immediate_exit = 0;
    watchdog_begin(shell->host->watchdog, &shell->timer, state->deadline_ns,
                   &shell->run->immediate_exit);

    enum verdict verdict = call_is_cancelled(state) ? OVER : GO_ON;
    while (verdict == GO_ON) {
        verdict = step(shell, state);
        if (verdict == GO_ON && must_stop(shell, state)) {
            verdict = OVER;
        }
    }
    watchdog_end(&shell->timer);
    state->outcome->run_ns = clock_monotonic_ns() - begin_ns;
    state->outcome->memory_bytes = shell->memory_now;
    return verdict == READY ? MICROVM_READY : MICROVM_OVER;
}
