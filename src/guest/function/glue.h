/*
 * What the guest runtime wants to know of the one module it is linked with.  engine/wasm writes a
 * glue.c for each module that defines these; runtime.c calls them in this order.
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

/*
 * 1: whatever the module exports is called, as the host wants it (invoke.c); nothing of the above
 * but glue_instantiate().  Other glue leaves these out.
 */
extern const uint32_t glue_is_exports;

/* Call, or read, the export of this number (engine/wasm/exports.h); values are 8 bytes each. */
void glue_call(uint32_t which, const uint64_t *arguments, uint64_t *results);
uint32_t glue_results(uint32_t which);

/* How many modules there are, each of which may have a memory; other glue leaves it out. */
extern const uint32_t glue_modules;

#endif
