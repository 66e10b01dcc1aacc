/*
 * What a program has open: numbers, each with rights, flags and a position.
 *
 * The first ones lie with other data that every call uses; the rest costs nothing until it is used.
 */
#ifndef GUEST_FUNCTION_DESCRIPTOR_H
#define GUEST_FUNCTION_DESCRIPTOR_H

#include "files.h"

enum { DESCRIPTORS_MAX = 1024 };

/* Streams stand before DESCRIPTOR_NODE. */
enum descriptor_kind {
    DESCRIPTOR_FREE,
    DESCRIPTOR_INPUT,
    DESCRIPTOR_OUTPUT,
    DESCRIPTOR_LOG,
    DESCRIPTOR_NODE,
    DESCRIPTOR_HOST, /* of a folder of the host: `blixard fn run --dir` */
};

struct descriptor {
    uint8_t kind;      /* enum descriptor_kind */
    uint8_t file_kind; /* WASI_KIND_* */
    uint16_t flags;    /* WASI_FLAG_* */
    uint32_t node;     /* HOST: its handle there */
    uint32_t rights;
    uint32_t rights_inheriting;
    uint64_t position;   /* of a file */
    const char *preopen; /* the path it has from the start, or NULL */
};

/* 0 to 2 are the streams, 3 is "/", 4 is "/tmp". */
void descriptors_begin(void);

/* Close "/" or "/tmp" or both (ABI_FOLDER_*), before the program has seen any; what is left begins
 * at 3. */
void descriptors_hide(uint32_t folders);

/* Those of the streams (1 << 0 to 2) that are no terminal do not pass for one. */
void descriptors_pipe(uint32_t streams);

/* NULL: it is not open. */
struct descriptor *descriptor_get(uint32_t number);

/* EBADF, or ENOTCAPABLE when it lacks one of the rights. */
uint32_t descriptor_check(uint32_t number, uint32_t rights, struct descriptor **ret_descriptor);

/* A folder of the host that is open from the start, as `path`: in the place of "/" or "/tmp" where
 * it has that path. */
uint32_t descriptor_add_preopen(uint32_t handle, const char *path);

/* What is given comes first, from 3 on, as programs know it of other runtimes: `/` and `/tmp` are
 * taken away before, and put behind it, unless others have come in their place. */
enum { DESCRIPTORS_OWN = 2 };
void descriptors_set_aside(struct descriptor ret_own[DESCRIPTORS_OWN]);
void descriptors_put_behind(const struct descriptor own[DESCRIPTORS_OWN]);

/* The lowest free number, filled with *from; EMFILE. */
uint32_t descriptor_add(const struct descriptor *from, uint32_t *ret_number);
uint32_t descriptor_close(uint32_t number);
uint32_t descriptor_renumber(uint32_t from, uint32_t to);

/* A preopen's path; "" is none. */
const char *descriptor_preopen(uint32_t number);

#endif
