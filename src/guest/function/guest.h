/* What the runtime's own files share. */
#ifndef GUEST_FUNCTION_GUEST_H
#define GUEST_FUNCTION_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/vmm/abi.h"

/* Variables of pages each, behind all others (link.ld): what every call uses lies on few pages. */
#define LARGE __attribute__((section(".bss..large")))

#define BLOCK ((volatile struct abi_block *)ABI_DATA_BASE)
#define MEMORY \
    ((uint8_t *)ABI_MEMORY_BASE) /* wasm addresses are 32 bits: a wild one hits the hole */

static inline uint64_t host_call(enum abi_call call, uint64_t a, uint64_t b, uint64_t c)
{
    BLOCK->call = call;
    BLOCK->arguments[0] = a;
    BLOCK->arguments[1] = b;
    BLOCK->arguments[2] = c;
    if (__builtin_expect(BLOCK->gate != 0, 0)) {
        ((void (*)(void))BLOCK->gate)();
    } else {
        __asm__ volatile("outb %%al, %0" : : "N"(ABI_PORT_CALL) : "memory");
    }
    return BLOCK->result;
}

/*
 * Before the host is asked about memory that a module named: what is not there traps here, as any
 * other access does, so that an instance of which anything may be called lives on.  The host, who
 * looks again, could only end it.
 */
static inline void guest_touch(const void *bytes, uint64_t length)
{
    if (length > 0) {
        (void)*((const volatile uint8_t *)bytes + (length - 1));
    }
}

__attribute__((noreturn)) void guest_trap(enum abi_trap trap);
__attribute__((noreturn)) void guest_exit(uint32_t status);

/* io.c: standard streams.  Addresses of the guest, any length. */
void io_write_output(const uint8_t *bytes, size_t length);
void io_write_log(const uint8_t *bytes, size_t length);
size_t io_read(uint8_t *bytes, size_t length);
uint64_t io_clock_ns(uint32_t real_or_monotonic);
void io_flush_output(void);
void io_begin(void);

/* wasm_runtime.c: once the module is instantiated, no more types are registered. */
void types_forget(void);

/* wasi_files.c: the file system and what is open, before anything of the module runs. */
void wasi_begin(void);

/* host_files.c: folders of the host, when a call begins. */
void wasi_begin_call(bool begins_late);

/* invoke.c: go on as after a trap of the CPU; only while the exports of a module are called. */
__attribute__((noreturn)) void invoke_trapped(enum abi_trap trap);
__attribute__((noreturn)) void invoke_main(void);

/* random.c: an own generator, seeded per call. */
void random_fill(uint8_t *bytes, size_t length);
void random_begin(void);

#endif
