/* The guest's file system on the host: its memory, its time, and whether it is whole. */
#ifndef TEST_LIB_GUEST_FILES_H
#define TEST_LIB_GUEST_FILES_H

#include "guest/function/path.h"

/* Begin anew, with at most `bytes` of memory (up to 8 MiB), all of it zero. */
void guest_files_begin(const struct assets_head *assets, uint64_t bytes);

/* Time, which passes by 1 with each look. */
extern uint64_t guest_files_now_ns;

/* NULL, or what is wrong: counts, parents, links, circles. */
const char *guest_files_fault(void);

/* Is `node` the folder `above`, or does it lie in it? */
bool guest_files_is_below(uint32_t node, uint32_t above);

static inline struct path guest_path(uint32_t start, const char *text)
{
    return (struct path){start, text, __builtin_strlen(text)};
}

#endif
