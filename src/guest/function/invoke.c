/*
 * A module of which anything may be called, its instantiation too: it asks the host what to do
 * next, again and again.  After a trap the instance lives on: the host (or the runtime, for
 * traps that it finds itself) lets the guest go on here, on an empty stack.
 */
#include <string.h>

#include "engine/vmm/hostcall.h"

#include "glue.h"
#include "guest.h"

enum { VALUES_MAX = 1000 };

/* Glue for commands and handlers does not define them.  Who reads them is in another file, or the
 * compiler would take them for what they are here. */
__attribute__((weak)) const uint32_t glue_is_exports = 0;
__attribute__((weak)) const uint32_t glue_modules = 1;

__attribute__((weak)) void glue_call(uint32_t which, const uint64_t *arguments, uint64_t *results)
{
    (void)which;
    (void)arguments;
    (void)results;
}

__attribute__((weak)) uint32_t glue_results(uint32_t which)
{
    (void)which;
    return 0;
}

struct question {
    uint32_t operation;
    uint32_t count;
    uint32_t length;
} __attribute__((packed));

static struct {
    struct hostcall_ended ended;
    uint64_t results[VALUES_MAX];
} last LARGE;

static struct {
    struct hostcall_reply head;
    uint64_t which;
    uint64_t arguments[VALUES_MAX];
} next LARGE;

static void ask(uint32_t result_count)
{
    struct question question = {
        .operation = HOSTCALL_NEXT,
        .count = 1,
        .length = (uint32_t)(sizeof(last.ended) + result_count * sizeof(uint64_t))};
    struct abi_host host = {
        .send_count = 2,
        .receive_count = 1,
        .send = {{(uint64_t)&question, sizeof(question)}, {(uint64_t)&last, question.length}},
        .receive = {{(uint64_t)&next, sizeof(next)}}};
    int64_t length = (int64_t)host_call(ABI_CALL_HOST, (uint64_t)&host, 0, 0);
    if (length < (int64_t)sizeof(next.head) || next.head.number != HOSTCALL_NEXT_CALL) {
        guest_exit(0);
    }
}

static __attribute__((noreturn)) void serve(uint32_t result_count)
{
    for (;;) {
        ask(result_count);
        memset(last.results, 0, sizeof(last.results));
        last.ended = (struct hostcall_ended){HOSTCALL_TRAPPED, 0};
        glue_call((uint32_t)next.which, next.arguments, last.results);
        last.ended.how = HOSTCALL_RETURNED;
        result_count = glue_results((uint32_t)next.which);
    }
}

__attribute__((noreturn, used)) void invoke_recovered(enum abi_trap trap);

void invoke_recovered(enum abi_trap trap)
{
    last.ended.trap = trap;
    serve(0);
}

__attribute__((visibility("hidden"))) void invoke_recover(void);
__asm__(".text\n"
        ".hidden invoke_recover\n"
        "invoke_recover:\n"
        "    cld\n"
        "    xor %ebp, %ebp\n"
        "    and $-16, %rsp\n"
        "    call invoke_recovered\n"
        "    ud2\n");

void invoke_trapped(enum abi_trap trap)
{
    __asm__ volatile("mov %0, %%rsp\n"
                     "jmp *%1"
                     :
                     : "r"(BLOCK->recovery_stack), "r"(BLOCK->recovery), "D"((uint64_t)trap)
                     : "memory");
    __builtin_unreachable();
}

void invoke_main(void)
{
    BLOCK->recovery_stack = ABI_STACK_BASE + ABI_STACK_BYTES - 256;
    BLOCK->recovery = (uint64_t)invoke_recover;
    last.ended.how = HOSTCALL_BEGUN;
    serve(0);
}
