/*
 * The contract between the host and the code inside a function VM.
 *
 * The guest has no kernel: one address space, constant for all functions, code at CPL3.
 *
 *     0x10_0000_0000  text and constants      read, execute
 *     0x10_0400_0000  call block, then data   read, write
 *     0x10_0800_0000  stack                   read, write; nothing below it
 *     0x10_0C00_0000  system pages            descriptor tables, trap stubs: the host's
 *     0x10_1000_0000  files' memory           as large as it was asked for: /tmp
 *     0x20_0000_0000  linear memory           as large as it is now; then nothing up to +8 GiB
 *
 * To call the host the guest fills the call block's first words and executes `out %al, $0xE0`, or,
 * when `gate` is set (process sandbox), calls it.  A trap arrives as `out %al, $0xE1` with the
 * vector in %al.  Everything the guest writes is input to the host.
 */
#ifndef ENGINE_VMM_ABI_H
#define ENGINE_VMM_ABI_H

#define ABI_TEXT_BASE   0x1000000000
#define ABI_DATA_BASE   0x1004000000
#define ABI_STACK_BASE  0x1008000000
#define ABI_SYSTEM_BASE 0x100C000000
#define ABI_FILES_BASE  0x1010000000
#define ABI_MEMORY_BASE 0x2000000000

#define ABI_WINDOW_BYTES 0x4000000    /* of text, and of call block + data */
#define ABI_STACK_BYTES  0x100000     /* 1 MiB */
#define ABI_FILES_BYTES  0x20000000   /* 512 MiB: the most there can be */
#define ABI_IMAGE_DATA   0x1004020000 /* the image's own data begins behind the call block */

#define ABI_PORT_CALL 0xE0
#define ABI_PORT_TRAP 0xE1

/* Type of the program header that says where in the text an image's files begin. */
#define ABI_FILES_HEADER 0x62786166

#ifndef __ASSEMBLER__
#include <stdint.h>

/* Bumped whenever the meaning of anything here changes: images of another version are built anew.
 */
enum { ABI_VERSION = 3 };

enum abi_call {
    ABI_CALL_NONE,
    ABI_CALL_READY, /* initialised: take the snapshot; returns when a call begins */
    ABI_CALL_EXIT,  /* arguments: exit status */
    ABI_CALL_TRAP,  /* arguments: enum abi_trap */
    ABI_CALL_WRITE, /* arguments: 1 output or 2 log, address, length; result: length, or -1 */
    ABI_CALL_READ,  /* arguments: address, length; result: bytes read, 0 at the end */
    ABI_CALL_CLOCK, /* arguments: 0 real, 1 monotonic; result: nanoseconds */
    ABI_CALL_GROW,  /* arguments: wanted pages of 64 KiB; result: 0, or 1 when refused */
    ABI_CALL_SLEEP, /* arguments: nanoseconds */
    ABI_CALL_NULL,  /* nothing: what a round trip costs */
    ABI_CALL_FILES, /* arguments: wanted bytes of files' memory; result: 0, or 1 when refused */
    ABI_CALL_HOST,  /* arguments: address of a struct abi_host; result: bytes of the reply, all of
                       it, or ABI_HOST_* (negative) */
    ABI_CALL_HOST_MORE, /* of the last reply; arguments: address, length, where in the reply;
                           result: bytes copied */
    ABI_CALL_TEXT, /* environment and arguments that are longer than the block's text; arguments:
                      address, length, where in them; result: bytes copied */
    ABI_CALL_COUNT,
};

/* Why the runtime gave up; the first ones are wasm2c's wasm_rt_trap_t. */
enum abi_trap {
    ABI_TRAP_NONE,
    ABI_TRAP_OUT_OF_BOUNDS,
    ABI_TRAP_INTEGER_OVERFLOW,
    ABI_TRAP_DIVIDE_BY_ZERO,
    ABI_TRAP_INVALID_CONVERSION,
    ABI_TRAP_UNREACHABLE,
    ABI_TRAP_INDIRECT_CALL,
    ABI_TRAP_UNCAUGHT_EXCEPTION,
    ABI_TRAP_EXHAUSTION,
    ABI_TRAP_ABORT,                 /* the program called abort */
    ABI_TRAP_TABLE_MEMORY,          /* tables do not fit */
    ABI_TRAP_MEMORY,                /* initial memory beyond the limit */
    ABI_TRAP_TABLE_BOUNDS,          /* of a table; the same of memory is OUT_OF_BOUNDS */
    ABI_TRAP_UNDEFINED_ELEMENT,     /* a call through a table: beyond it, */
    ABI_TRAP_UNINITIALIZED_ELEMENT, /* or to nothing; with another type it is INDIRECT_CALL */
    ABI_TRAP_UNLINKABLE,            /* what it imports is smaller than it wants */
    ABI_TRAP_COUNT,
};

/* What the CPU lets the guest use, so that the runtime can wipe it. */
enum {
    ABI_CPU_AVX = 1,
    ABI_CPU_AVX512 = 2,
};

/* Folders of the guest's own. */
enum { ABI_FOLDER_ROOT = 1, ABI_FOLDER_TMP = 2 };

enum {
    ABI_INPUT_BYTES = 16384,
    ABI_OUTPUT_BYTES = 12288,
    ABI_LOG_BYTES = 4096,
    ABI_TEXT_BYTES = 69632,       /* environment and arguments: 64 KiB + 4 KiB */
    ABI_SLEEP_FLUSH_NS = 1000000, /* before a sleep of so long, what was written goes out */
};

/*
 * A question to who runs the function (hostcall.h has the language).  The parts to send are one
 * request, one behind the other; the reply fills the parts to receive in their order, as far as
 * they reach, and is kept until the next question: ABI_CALL_HOST_MORE reads the rest.
 */
enum {
    ABI_HOST_SEND_MAX = 17,
    ABI_HOST_RECEIVE_MAX = 2,
    ABI_HOST_BYTES_MAX = 1 << 20, /* of a request, and of a reply */

    ABI_HOST_NOBODY = -1,    /* nobody answers where this function runs */
    ABI_HOST_EARLY = -2,     /* initialisation: the answer would be in every call's snapshot */
    ABI_HOST_TOO_LARGE = -3, /* a request or a reply of more than ABI_HOST_BYTES_MAX */
};

struct abi_part {
    uint64_t address;
    uint64_t length;
};

struct abi_host {
    uint64_t send_count;
    uint64_t receive_count;
    struct abi_part send[ABI_HOST_SEND_MAX];
    struct abi_part receive[ABI_HOST_RECEIVE_MAX];
};

/* At ABI_DATA_BASE.  Written by the host before each call; by the guest during it. */
struct abi_block {
    /* A call to the host. */
    uint64_t call;
    uint64_t arguments[3];
    uint64_t result;
    uint64_t gate; /* process sandbox: the function to call instead of `out` */

    /* Where the guest goes on after one of the CPU's traps, and its stack then; %edi is an enum
     * abi_trap.  Written by the guest; 0: such a trap ends the call. */
    uint64_t recovery;
    uint64_t recovery_stack;

    /* This call's facts. */
    uint32_t cpu;        /* ABI_CPU_* */
    uint32_t is_handler; /* the runtime says so before READY */
    uint64_t real_ns;    /* clocks when the call began */
    uint64_t monotonic_ns;
    uint64_t tsc_khz;     /* 0: ask the host for the time */
    uint64_t deadline_ns; /* monotonic */
    uint8_t random_seed[32];

    uint32_t environment_length; /* strings with their NULs, at text[0], if all fits there */
    uint32_t environment_count;
    uint32_t arguments_length; /* behind the environment */
    uint32_t arguments_count;
    uint32_t input_length; /* inline */
    uint32_t input_position;
    uint32_t input_continues; /* more by ABI_CALL_READ */
    uint32_t output_length;
    uint32_t log_length;
    uint32_t folder_count; /* of the host: to be asked for (hostfiles.h) */
    uint32_t
        folders_hidden;     /* ABI_FOLDER_*: those of the guest's own that this call does not get */
    uint32_t streams_piped; /* 1 << 0 to 2: a program is not to take it for a terminal */
    uint32_t begins_late;   /* instantiate in the call itself, not before the snapshot */

    /* Each area begins on a page of its own: what a call does not use is not touched. */
    char input[ABI_INPUT_BYTES] __attribute__((aligned(4096)));
    char output[ABI_OUTPUT_BYTES];
    char log[ABI_LOG_BYTES];
    char text[ABI_TEXT_BYTES];
};

_Static_assert(sizeof(struct abi_block) <= ABI_IMAGE_DATA - ABI_DATA_BASE, "block too large");
#endif

#endif
