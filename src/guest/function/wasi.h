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
    return descriptor->kind < DESCRIPTOR_NODE;
}

static inline bool is_host(const struct descriptor *descriptor)
{
    return descriptor->kind == DESCRIPTOR_HOST;
}

/* ---- host_files.c: the same, of folders of the host ---- */

/* What is asked (engine/vmm/hostfiles.h), and where the answer's bytes go. */
struct host_question {
    u32 operation;
    u64 numbers[5];
    const void *texts[2];
    u32 lengths[2];
    void *room;
    u32 size;
};

/* An error of WASI; *ret_number (may be NULL) is what came with it. */
u32 host_ask(const struct host_question *question, u64 *ret_number);

u32 host_read(const struct descriptor *descriptor, u64 offset, void *bytes, u32 length,
              u32 *ret_count);
u32 host_write(const struct descriptor *descriptor, u64 offset, u32 flags, const void *bytes,
               u32 length, u32 *ret_count);
u32 host_size(const struct descriptor *descriptor, u64 *ret_size);

/* Of a file. */
u32 wasi_file_size(const struct descriptor *descriptor, u64 *ret_size);

/* As utimensat(2), with the flags of fd_filestat_set_times. */
bool wasi_times_are_good(u32 which);
u32 wasi_set_times(u32 node, u64 accessed_ns, u64 modified_ns, u32 which);

#endif
