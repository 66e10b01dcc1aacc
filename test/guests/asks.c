/*
 * Not wasm: machine code that asks the host, well and badly.  The first byte of its input says how.
 */
#include <string.h>

#include "guest/function/glue.h"
#include "guest/function/guest.h"

const uint32_t glue_is_handler = 0;

static int64_t early;
static uint8_t answer[64];
static uint8_t question[] = "ping"; /* in writable memory: text is nobody's to send */

static int64_t ask(const struct abi_host *host)
{
    return (int64_t)host_call(ABI_CALL_HOST, (uint64_t)host, 0, 0);
}

/* "ping" in two parts; the answer in two, of which the second is too short. */
static int64_t ask_well(void)
{
    struct abi_host host = {.send_count = 2, .receive_count = 2};
    host.send[0] = (struct abi_part){(uint64_t)question, 2};
    host.send[1] = (struct abi_part){(uint64_t)question + 2, 2};
    host.receive[0] = (struct abi_part){(uint64_t)answer, 2};
    host.receive[1] = (struct abi_part){(uint64_t)answer + 2, 3};
    return ask(&host);
}

void glue_instantiate(void)
{
    host_call(ABI_CALL_GROW, 1, 0, 0);
}

void glue_initialize(void)
{
    early = ask_well();
}

static void say_number(int64_t value)
{
    uint8_t digit = (uint8_t)('0' + (value < 0 ? -value : value));
    const uint8_t minus = '-';
    if (value < 0) {
        io_write_output(&minus, 1);
    }
    io_write_output(&digit, 1);
}

static void ask_badly(char how)
{
    struct abi_host host = {.send_count = 1, .receive_count = 1};
    host.send[0] = (struct abi_part){(uint64_t)question, 2};
    host.receive[0] = (struct abi_part){(uint64_t)answer, 2};
    switch (how) {
    case 'a': /* a question nowhere */
        host_call(ABI_CALL_HOST, 0x1234, 0, 0);
        return;
    case 'b': /* at the last byte of memory */
        host_call(ABI_CALL_HOST, ABI_MEMORY_BASE + 65535, 0, 0);
        return;
    case 'c': /* more parts than there can be */
        host.send_count = UINT64_MAX;
        break;
    case 'd':
        host.receive_count = ABI_HOST_RECEIVE_MAX + 1;
        break;
    case 'e': /* parts that are not ours */
        host.send[0] = (struct abi_part){ABI_SYSTEM_BASE, 16};
        break;
    case 'f':
        host.send[0] = (struct abi_part){ABI_MEMORY_BASE + 65530, 7};
        break;
    case 'g':
        host.receive[0] = (struct abi_part){ABI_TEXT_BASE, UINT64_MAX};
        break;
    case 'h':
        host.send[0] = (struct abi_part){UINT64_MAX, 2};
        break;
    default: /* more of the answer, to nowhere */
        ask_well();
        host_call(ABI_CALL_HOST_MORE, 16, 2, 0);
        return;
    }
    ask(&host);
}

void glue_run(void)
{
    char how = (char)BLOCK->input[0];
    struct abi_host large = {.send_count = 2, .receive_count = 0};
    if (how == 'E') {
        say_number(early);
    } else if (how == 'L') {
        large.send[0] = (struct abi_part){ABI_DATA_BASE, 1};
        large.send[1] = (struct abi_part){ABI_DATA_BASE, UINT64_MAX};
        say_number(ask(&large));
    } else if (how == 'W') {
        say_number(ask_well());
        io_write_output(answer, 5);
        say_number((int64_t)host_call(ABI_CALL_HOST_MORE, (uint64_t)answer, 64, 5));
        io_write_output(answer, 2);
        say_number((int64_t)host_call(ABI_CALL_HOST_MORE, (uint64_t)answer, 64, UINT64_MAX));
    } else if (how == 'R') {
        for (;;) {
            ask_well();
        }
    } else {
        ask_badly(how);
    }
}
