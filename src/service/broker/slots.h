/* Messages that were given and not answered, by token: an array of as many as may be. */
#ifndef SERVICE_BROKER_SLOTS_H
#define SERVICE_BROKER_SLOTS_H

#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"

struct slots {
    void **held; /* NULL: free */
    unsigned size;
    unsigned next; /* where the search for a free one begins */
};

static inline void slots_init(struct slots *slots, unsigned size)
{
    *slots = (struct slots){.held = memory_new(size, sizeof(void *)), .size = size};
}

/* There is a free one: no more are given than broker_room() says. */
static inline uint64_t slots_put(struct slots *slots, void *what)
{
    unsigned tries = 0;
    while (slots->held[slots->next] != NULL) {
        slots->next = (slots->next + 1) % slots->size;
        CHECK(++tries < slots->size);
    }
    slots->held[slots->next] = what;
    return slots->next;
}

static inline void *slots_take(struct slots *slots, uint64_t token)
{
    CHECK(token < slots->size);
    void *what = slots->held[token];
    slots->held[token] = NULL;
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
