/*
 * Standard streams and clocks.  Small amounts travel in the call block, so that most calls leave
 * the guest once; what does not fit goes to the host at once.
 */
#include <string.h>

#include "guest.h"

enum { READ_BYTES_MAX = 1 << 20 }; /* most that the host gives at once */

static uint64_t tsc_begin;

static uint64_t read_tsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

void io_begin(void)
{
    tsc_begin = read_tsc();
}

void io_flush_output(void)
{
    if (BLOCK->output_length > 0) {
        host_call(ABI_CALL_WRITE, 1, (uint64_t)BLOCK->output, BLOCK->output_length);
        BLOCK->output_length = 0;
    }
}

static void flush_log(void)
{
    if (BLOCK->log_length > 0) {
        host_call(ABI_CALL_WRITE, 2, (uint64_t)BLOCK->log, BLOCK->log_length);
        BLOCK->log_length = 0;
    }
}

void io_write_output(const uint8_t *bytes, size_t length)
{
    if (length > ABI_OUTPUT_BYTES - BLOCK->output_length) {
        io_flush_output();
    }
    if (length > ABI_OUTPUT_BYTES) {
        guest_touch(bytes, length);
        host_call(ABI_CALL_WRITE, 1, (uint64_t)bytes, length);
        return;
    }
    memcpy((char *)BLOCK->output + BLOCK->output_length, bytes, length);
    BLOCK->output_length += (uint32_t)length;
}

void io_write_log(const uint8_t *bytes, size_t length)
{
    if (length > ABI_LOG_BYTES - BLOCK->log_length) {
        flush_log();
    }
    if (length > ABI_LOG_BYTES) {
        guest_touch(bytes, length);
        host_call(ABI_CALL_WRITE, 2, (uint64_t)bytes, length);
        return;
    }
    memcpy((char *)BLOCK->log + BLOCK->log_length, bytes, length);
    BLOCK->log_length += (uint32_t)length;
}

size_t io_read(uint8_t *bytes, size_t length)
{
    size_t left = BLOCK->input_length - BLOCK->input_position;
    if (length == 0) {
        return 0;
    }
    if (left > 0) {
        size_t count = left < length ? left : length;
        memcpy(bytes, (const char *)BLOCK->input + BLOCK->input_position, count);
        BLOCK->input_position += (uint32_t)count;
        return count;
    }
    if (!BLOCK->input_continues) {
        return 0;
    }
    /* What was written so far may be what the sender waits for. */
    io_flush_output();
    guest_touch(bytes, length < READ_BYTES_MAX ? length : READ_BYTES_MAX);
    return (size_t)host_call(ABI_CALL_READ, (uint64_t)bytes, length, 0);
}

uint64_t io_clock_ns(uint32_t real_or_monotonic)
{
    uint64_t khz = BLOCK->tsc_khz;
    if (khz == 0) {
        return host_call(ABI_CALL_CLOCK, real_or_monotonic, 0, 0);
    }
    /* Without a 128-bit division, which would need a library. */
    uint64_t since = read_tsc() - tsc_begin;
    uint64_t ns = since / khz * 1000000 + since % khz * 1000000 / khz;
    return (real_or_monotonic == 0 ? BLOCK->real_ns : BLOCK->monotonic_ns) + ns;
}
