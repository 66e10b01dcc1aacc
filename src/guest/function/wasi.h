/*
 * What the files of WASI preview 1 (wasi_snapshot_preview1) share.
 *
 * Addresses are the module's and may be wild: memory beyond its end is not mapped, so a wild access
 * is a trap like any other.  Sums of lengths are taken in 64 bits.
 */
#ifndef GUEST_FUNCTION_WASI_H
#define GUEST_FUNCTION_WASI_H

#include <stdbool.h>
#include <string.h>

#include "descriptor.h"
#include "guest.h"
#include "wasi_types.h"

typedef uint32_t u32;
typedef uint64_t u64;
typedef struct wasi_instance *instance;

#define WASI(name) Z_wasi_snapshot_preview1Z_##name

/* As IOV_MAX. */
enum { VECTORS_MAX = 1024 };

/* Addresses are 64 bits wide, so that an index past 4 GiB meets the hole and does not wrap. */
static inline u32 load32(u64 at)
{
    u32 value;
    memcpy(&value, MEMORY + at, sizeof(value));
    return value;
}

static inline u64 load64(u64 at)
{
    u64 value;
    memcpy(&value, MEMORY + at, sizeof(value));
    return value;
}

static inline void store32(u64 at, u32 value)
{
    memcpy(MEMORY + at, &value, sizeof(value));
}

static inline void store64(u64 at, u64 value)
{
    memcpy(MEMORY + at, &value, sizeof(value));
}

/* 64 bytes. */
static inline void store_status(u32 at, const struct file_status *status)
{
    memset(MEMORY + at, 0, 64);
    store64(at, status->device);
    store64((u64)at + 8, status->number);
    MEMORY[(u64)at + 16] = status->kind;
    store64((u64)at + 24, status->links);
    store64((u64)at + 32, status->size);
    store64((u64)at + 40, status->accessed_ns);
    store64((u64)at + 48, status->modified_ns);
    store64((u64)at + 56, status->changed_ns);
}

static inline bool is_stream(const struct descriptor *descriptor)
{
    return descriptor->kind != DESCRIPTOR_NODE;
}

/* As utimensat(2), with the flags of fd_filestat_set_times. */
u32 wasi_set_times(u32 node, u64 accessed_ns, u64 modified_ns, u32 which);

#endif
