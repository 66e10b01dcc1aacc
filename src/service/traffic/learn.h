/*
 * Rates of who exchanges how much with whom, that forget.
 *
 * A rate is an average of bytes a second whose weights fall exponentially; while less than its
 * memory has passed since the beginning, it is the average of what there was.  A subject has at
 * most LEARN_PAIRS_MAX peers: one more takes the place of the least, when it is more than that.
 * Pure; memory is bounded by LEARN_SUBJECTS_MAX.
 */
#ifndef SERVICE_TRAFFIC_LEARN_H
#define SERVICE_TRAFFIC_LEARN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/map.h"

enum {
    LEARN_PAIRS_MAX = 32,
    LEARN_SUBJECTS_MAX = 16384,
    LEARN_KEY_SIZE = 176,
    LEARN_RATE_LEAST = 64, /* bytes a second: less is nothing */
};

struct learn_pair {
    char peer[LEARN_KEY_SIZE];
    double rate;
    uint64_t fresh_bytes; /* since the last step */
};

struct learner { /* zeroed but for memory_ms: nothing was learnt */
    uint64_t memory_ms;
    uint64_t age_ms;
    struct map subjects;
};
void learner_done(struct learner *learner);

void learn_add(struct learner *learner, const char *subject, const char *peer, uint64_t bytes);
/* So much time has passed since the last step. */
void learn_step(struct learner *learner, uint64_t passed_ms);
void learn_forget(struct learner *learner, const char *subject);

struct learnt {
    const char *peer; /* lent until the learner is changed */
    uint64_t bytes_per_second;
};
/* The most first; how many. */
size_t learn_top(const struct learner *learner, const char *subject, struct learnt *ret_top,
                 size_t most);
void learn_each(const struct learner *learner, void (*visit)(const char *subject, void *context),
                void *context);

/*
 * Is that something else than was said?  A peer with a tenth of all is there, or is not any more,
 * or has twice or half as much.
 */
bool learn_is_news(const struct learnt *said, size_t said_count, const struct learnt *now,
                   size_t now_count);

#endif
