/*
 * The contract between the function VM (engine/vmm) and the code inside it (guest/function).
 *
 * Addresses.  Every function sees the same windows; only how much of each exists depends on the
 * image and its size class.  What is not listed is not mapped, below each window too:
 *
 *     ABI_TEXT_BASE    code and constants          read, execute
 *     ABI_DATA_BASE    struct abi_call, then data  read, write
 *     ABI_STACK_BASE   the native stack            read, write; ABI_STACK_SIZE bytes; a hole below
 *     ABI_TRAP_BASE    the host's own pages        descriptor tables, trap stubs, resume stub
 *     ABI_MEMORY_BASE  the module's linear memory  read, write, up to its current size; nothing
 *                                                  else lies above it
 *
 * Calling the host.  The guest fills `number` and `arguments` of the call block and writes any
 * byte to port ABI_PORT_CALL; when `gate` is not 0 (no VM: the process sandbox) it calls the
 * function at that address instead.  The answer is in `result`.  All other registers and memory
 * stay as they are.  The host trusts nothing in the block.
 *
 * A life.  The host starts the guest at its ELF entry with an empty stack.  The guest initialises
 * itself and calls ABI_READY: that moment, memory and registers, is the snapshot.  Each call of the
 * function continues from there with a call block filled anew, and ends with ABI_EXIT or ABI_TRAP.
 * The x87 and vector registers have their power-on values when the guest continues.
 */
#ifndef ENGINE_VMM_ABI_H
#define ENGINE_VMM_ABI_H

#include <stdint.h>

#define ABI_TEXT_BASE   0x1000000000ull
#define ABI_DATA_BASE   0x1004000000ull
#define ABI_STACK_BASE  0x1008000000ull
#define ABI_TRAP_BASE   0x100C000000ull
#define ABI_MEMORY_BASE 0x2000000000ull

#define ABI_TEXT_MAX   0x4000000ull /* bytes: 64 MiB */
#define ABI_DATA_MAX   0x4000000ull /* call block included */
#define ABI_STACK_SIZE 0x100000ull  /* 1 MiB */

/* Linear memory never exceeds this: wasm2c keeps sizes in 32 bits. */
#define ABI_MEMORY_PAGES_MAX 65535u
#define ABI_MEMORY_PAGE      65536ull

#define ABI_PORT_CALL 0xE0 /* out: look at the call block */
#define ABI_PORT_TRAP 0xE1 /* out %al: the CPU raised exception %al (the host's stubs do this) */

enum abi_number {
    ABI_NONE,
    ABI_READY, /* (1: a handler, 0: a command) the snapshot moment; only while initialising */
    ABI_EXIT,  /* (code) the call is over */
    ABI_TRAP,  /* (enum abi_trap) the code failed */
    ABI_WRITE, /* (address, length) standard output; result: 0, or -1 when refused */
    ABI_LOG,   /* (address, length) standard error; result: 0 */
    ABI_READ,  /* (address, length) standard input; result: bytes, 0 at its end, -1 on bad range */
    ABI_GROW,  /* (pages) linear memory now has this many; result: 0, or -1 when refused */
    ABI_CLOCK, /* (enum abi_clock) result: nanoseconds */
    ABI_SLEEP, /* (nanoseconds) result: 0 */
    /* (address, length) copy the strings that did not fit into the block; result: 0 or -1 */
    ABI_ARGUMENTS,
    ABI_ENVIRONMENT,
    ABI_NUMBER_COUNT,
};

enum abi_clock { ABI_CLOCK_REAL, ABI_CLOCK_MONOTONIC };

/* The first ones are wasm_rt_trap_t of the wasm2c runtime (wasm-rt.h). */
enum abi_trap {
    ABI_TRAP_NONE,
    ABI_TRAP_OUT_OF_BOUNDS,
    ABI_TRAP_INTEGER_OVERFLOW,
    ABI_TRAP_DIVIDE_BY_ZERO,
    ABI_TRAP_INVALID_CONVERSION,
    ABI_TRAP_UNREACHABLE,
    ABI_TRAP_CALL_INDIRECT,
    ABI_TRAP_UNCAUGHT_EXCEPTION,
    ABI_TRAP_STACK_EXHAUSTED,
    ABI_TRAP_TABLE_LIMIT,  /* more tables, elements or types than the runtime keeps */
    ABI_TRAP_MEMORY_LIMIT, /* the module's initial memory is more than its limit */
    ABI_TRAP_ABORT,
    ABI_TRAP_COUNT,
};

enum {
    ABI_STRINGS_MAX = 3072,
    ABI_INPUT_MAX = 4608,
    ABI_OUTPUT_MAX = 6144,
    ABI_LOG_MAX = 2048,
    ABI_SEED_SIZE = 32,
};

/*
 * The call block, at ABI_DATA_BASE.  A small request needs one exit only, the last: input comes and
 * output goes in the block.  The host collects `output` and `log` when the call ends, however it
 * ends.
 */
struct abi_call {
    uint64_t number; /* enum abi_number */
    uint64_t arguments[4];
    uint64_t result;
    uint64_t gate;

    /* What the call is given. */
    uint32_t argument_count;
    uint32_t argument_bytes;
    uint32_t environment_count;
    uint32_t environment_bytes;
    /* 1: `strings` holds arguments, then environment, each string with its NUL.  0: ask. */
    uint32_t strings_are_inline;
    uint32_t input_length; /* bytes in `input` */
    uint32_t input_taken;  /* the guest's: how far it has read */
    uint32_t input_more;   /* 1: after these, ABI_READ may give more */
    uint64_t real_ns;      /* the clocks when the call began */
    uint64_t monotonic_ns;
    /* Nanoseconds per tick of the time stamp counter, times 2^32; 0: use ABI_CLOCK. */
    uint64_t tick_ns_fixed;
    uint64_t timeout_ms; /* from the beginning of the call */
    uint64_t memory_max; /* bytes linear memory may grow to */
    uint8_t seed[ABI_SEED_SIZE];

    /* What it gives. */
    uint32_t output_length;
    uint32_t log_length;

    uint8_t unused[512 - 168];
    char strings[ABI_STRINGS_MAX];
    uint8_t input[ABI_INPUT_MAX];
    uint8_t output[ABI_OUTPUT_MAX];
    uint8_t log[ABI_LOG_MAX];
};

#define ABI_CALL_SIZE 16384ull
_Static_assert(sizeof(struct abi_call) == ABI_CALL_SIZE, "the call block is four pages");

#endif
