/* Files that live inside the program: made by tools/embed at build time. */
#ifndef BASE_EMBED_H
#define BASE_EMBED_H

#include <stddef.h>
#include <stdint.h>

struct embed_file {
    const char *name; /* relative path */
    const uint8_t *data;
    size_t length;
};

/* A list made by `tools/embed OUT SYMBOL NAME=PATH...`: SYMBOL and SYMBOL_count. */
#define EMBED_LIST(symbol)                   \
    extern const struct embed_file symbol[]; \
    extern const size_t symbol##_count

#endif
