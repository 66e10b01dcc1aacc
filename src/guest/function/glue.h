/*
 * What the guest runtime wants to know of the one module it is linked with.  engine/wasm writes a
 * glue.c for each module that defines these; runtime.c calls them in this order:
 *
 *     glue_instantiate()  glue_initialize()  <snapshot>  glue_run()
 *
 * How a module becomes an image:
 * - `wasm2c -n fn`, and in the C it makes `&mem->data[` may become `&((u8 *)ABI_MEMORY_BASE)[`:
 *   linear memory is always there, and a constant base is faster.
 * - Module and glue are compiled with -nostdinc, -isystem `gcc -print-file-name=include` (or its
 *   like), -isystem include/ (of this folder) and -isystem <folder with wabt's wasm-rt.h alone>;
 *   -ffreestanding -fpie -ffp-contract=off -fno-math-errno -fno-stack-protector
 *   -fcf-protection=none -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections
 *   -march=x86-64-v2.  tcc: include/ serves it too; it needs no further flags.
 * - `ld -static -nostdlib --gc-sections -z noexecstack -z max-page-size=4096 -T link.ld
 *   guest-runtime.o glue.o module.o`.
 *
 * The import instances that Z_fn_instantiate() wants are never used: pass null pointers, as many as
 * it has parameters after the first.
 */
#ifndef GUEST_FUNCTION_GLUE_H
#define GUEST_FUNCTION_GLUE_H

#include <stdint.h>

/* Enough of a module's instance for wasm2c's functions; memory, tables and globals come to be here,
 * and the start function runs. */
void glue_instantiate(void);

/* `_initialize`, then `wizer.initialize`, each when exported. */
void glue_initialize(void);

/* `handle` (a handler) or `_start` (a command). */
void glue_run(void);

/* 1: handler, 0: command. */
extern const uint32_t glue_is_handler;

#endif
