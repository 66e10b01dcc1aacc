/*
 * Heap memory for the control plane.
 *
 * Small allocations (a name, a row, a connection) either succeed or end the process: Linux
 * overcommits, so a NULL here means a broken machine, and code that pretends to survive it is
 * never tested.  Sizes a client or guest can choose are bounded by the caller first; where they
 * may be big, use memory_try() and answer LIMIT.
 */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stddef.h>
#include <stdlib.h>

/* Zeroed memory for `count` items of `size_bytes`; never NULL.  The caller ends it with free(). */
void *memory_new(size_t count, size_t size_bytes) __attribute__((malloc, returns_nonnull));

/* As memory_new(1, size_bytes), but NULL when there is none. */
void *memory_try(size_t size_bytes) __attribute__((malloc));

/* As realloc(), never NULL; the new part is not zeroed. */
void *memory_resize(void *memory, size_t size_bytes) __attribute__((returns_nonnull));

/* Copies, never NULL.  memory_copy_text() stops at `length` and adds the NUL. */
char *memory_copy_string(const char *string) __attribute__((malloc, returns_nonnull));
char *memory_copy_text(const char *text, size_t length) __attribute__((malloc, returns_nonnull));

/* printf into new memory, never NULL. */
char *memory_format(const char *format, ...)
    __attribute__((format(printf, 1, 2), malloc, returns_nonnull));

/* free() on scope exit: `MEMORY_OWNED char *name = memory_format(...);` */
#define MEMORY_OWNED __attribute__((cleanup(memory_free_slot)))

static inline void memory_free_slot(void *slot)
{
    free(*(void **)slot);
}

#define NEW(type) ((type *)memory_new(1, sizeof(type)))

#endif
