/* Rates that forget: see learn.h. */
#include "service/traffic/learn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

struct subject {
    size_t count;
    struct learn_pair pairs[LEARN_PAIRS_MAX];
};

static void free_subject(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void learner_done(struct learner *learner)
{
    map_each(&learner->subjects, free_subject, NULL);
    map_done(&learner->subjects);
}

/* A peer that has sent nothing lately counts by what it used to. */
static double weight_of(const struct learn_pair *pair)
{
    return pair->rate + (double)pair->fresh_bytes;
}

void learn_add(struct learner *learner, const char *subject, const char *peer, uint64_t bytes)
{
    struct subject *known = map_get(&learner->subjects, subject);
    if (known == NULL) {
        if (learner->subjects.count >= LEARN_SUBJECTS_MAX) {
            return;
        }
        known = NEW(struct subject);
        map_set(&learner->subjects, subject, known);
    }
    struct learn_pair *least = &known->pairs[0];
    for (size_t i = 0; i < known->count; i++) {
        struct learn_pair *pair = &known->pairs[i];
        if (strcmp(pair->peer, peer) == 0) {
            pair->fresh_bytes += bytes;
            return;
        }
        least = weight_of(pair) < weight_of(least) ? pair : least;
    }
    if (known->count < LEARN_PAIRS_MAX) {
        least = &known->pairs[known->count++];
    } else if (weight_of(least) >= (double)bytes) {
        return;
    }
    *least = (struct learn_pair){.fresh_bytes = bytes};
    snprintf(least->peer, sizeof(least->peer), "%s", peer);
}

/* ---- Time ---- */

struct stepping {
    double kept; /* share of the old that is left */
    double seconds;
    const char *empty[64]; /* subjects of which nothing is left: some each time */
    size_t empty_count;
};

static void step_one(const char *key, void *value, void *context)
{
    struct stepping *stepping = context;
    struct subject *subject = value;
    size_t left = 0;
    for (size_t i = 0; i < subject->count; i++) {
        struct learn_pair pair = subject->pairs[i];
        double now = (double)pair.fresh_bytes / stepping->seconds;
        pair.rate = pair.rate * stepping->kept + now * (1 - stepping->kept);
        pair.fresh_bytes = 0;
        if (pair.rate >= 1) { /* bytes a second */
            subject->pairs[left++] = pair;
        }
    }
    subject->count = left;
    if (left == 0 && stepping->empty_count < 64) {
        stepping->empty[stepping->empty_count++] = key;
    }
}

void learn_step(struct learner *learner, uint64_t passed_ms)
{
    if (passed_ms == 0) {
        return;
    }
    struct stepping stepping = {.kept = exp(-(double)passed_ms / (double)learner->memory_ms),
                                .seconds = (double)passed_ms / 1000};
    learner->age_ms += passed_ms;
    map_each(&learner->subjects, step_one, &stepping);
    for (size_t i = 0; i < stepping.empty_count; i++) {
        MEMORY_OWNED char *key = memory_copy_string(stepping.empty[i]);
        learn_forget(learner, key);
    }
}

void learn_forget(struct learner *learner, const char *subject)
{
    free(map_remove(&learner->subjects, subject));
}

/* ---- What was learnt ---- */

static int by_rate(const void *a, const void *b)
{
    const struct learnt *x = a;
    const struct learnt *y = b;
    if (x->bytes_per_second != y->bytes_per_second) {
        return x->bytes_per_second > y->bytes_per_second ? -1 : 1;
    }
    return strcmp(x->peer, y->peer);
}

size_t learn_top(const struct learner *learner, const char *subject, struct learnt *ret_top,
                 size_t most)
{
    const struct subject *known = map_get(&learner->subjects, subject);
    struct learnt all[LEARN_PAIRS_MAX];
    size_t count = 0;
    /* Of what there was before the beginning the average knows nothing, and takes it for zero. */
    double seen = 1 - exp(-(double)learner->age_ms / (double)learner->memory_ms);
    for (size_t i = 0; known != NULL && seen > 0 && i < known->count; i++) {
        double rate = known->pairs[i].rate / seen;
        if (rate >= LEARN_RATE_LEAST) {
            all[count++] = (struct learnt){known->pairs[i].peer, (uint64_t)rate};
        }
    }
    if (count == 0) {
        return 0;
    }
    qsort(all, count, sizeof(all[0]), by_rate);
    count = count < most ? count : most;
    memcpy(ret_top, all, count * sizeof(all[0]));
    return count;
}

struct visiting {
    void (*visit)(const char *subject, void *context);
    void *context;
};

static void visit_one(const char *key, void *value, void *context)
{
    const struct visiting *visiting = context;
    (void)value;
    visiting->visit(key, visiting->context);
}

void learn_each(const struct learner *learner, void (*visit)(const char *subject, void *context),
                void *context)
{
    struct visiting visiting = {visit, context};
    map_each(&learner->subjects, visit_one, &visiting);
}

/* ---- News ---- */

static uint64_t sum_of(const struct learnt *list, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        sum += list[i].bytes_per_second;
    }
    return sum;
}

static uint64_t rate_with(const struct learnt *list, size_t count, const char *peer)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(list[i].peer, peer) == 0) {
            return list[i].bytes_per_second;
        }
    }
    return 0;
}

/* Of those of `list` that matter: has one changed? */
static bool differs(const struct learnt *list, size_t count, const struct learnt *other,
                    size_t other_count)
{
    enum { MATTERS = 10 };
    uint64_t all = sum_of(list, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t rate = list[i].bytes_per_second;
        uint64_t before = rate_with(other, other_count, list[i].peer);
        bool matters = rate * MATTERS >= all;
        if (matters && (rate >= 2 * before || before >= 2 * rate)) {
            return true;
        }
    }
    return false;
}

bool learn_is_news(const struct learnt *said, size_t said_count, const struct learnt *now,
                   size_t now_count)
{
    return differs(said, said_count, now, now_count) || differs(now, now_count, said, said_count);
}
