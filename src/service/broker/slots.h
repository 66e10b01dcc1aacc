/* Messages that were given and not answered, by token: an array of as many as may be. */
#ifndef SERVICE_BROKER_SLOTS_H
#define SERVICE_BROKER_SLOTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"

struct slots {
    void **held; /* NULL: free */
    unsigned size;
    unsigned used;
    unsigned next; /* where the search for a free one begins */
};

static inline void slots_init(struct slots *slots, unsigned size)
{
    *slots = (struct slots){.held = memory_new(size, sizeof(void *)), .size = size};
}

static inline bool slots_are_full(const struct slots *slots)
{
    return slots->used == slots->size;
}

/* There is a free one: no more are given than broker_room() says. */
static inline uint64_t slots_put(struct slots *slots, void *what)
{
    CHECK(!slots_are_full(slots));
    while (slots->held[slots->next] != NULL) {
        slots->next = (slots->next + 1) % slots->size;
    }
    slots->held[slots->next] = what;
    slots->used++;
    return slots->next;
}

static inline void *slots_take(struct slots *slots, uint64_t token)
{
    CHECK(token < slots->size);
    void *what = slots->held[token];
    slots->held[token] = NULL;
    slots->used--;
    return what;
}

static inline void slots_done(struct slots *slots, void (*end)(void *what))
{
    for (unsigned i = 0; i < slots->size; i++) {
        if (slots->held[i] != NULL) {
            end(slots->held[i]);
        }
    }
    free(slots->held);
}

#endif
