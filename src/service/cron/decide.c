/* What to do about slots that have come. */
#include <string.h>

#include "base/check.h"

#include "service/cron/parts.h"

enum { COUNTED_MAX = 1000, BACK_MS = 3600 * 1000, KEPT_MAX = 1000 };

/*
 * The slot that begins the last `count` of those before `limit_ms`, none before `first`.  Windows
 * that double look for it, so that a year of seconds costs as little as an hour of them.
 */
static uint64_t begin_of_last(const struct cron *cron, uint64_t first, uint64_t since_ms,
                              uint64_t limit_ms, uint64_t count)
{
    uint64_t kept[KEPT_MAX];
    CHECK(count > 0 && count <= KEPT_MAX);
    for (uint64_t window_ms = 1000;; window_ms *= 2) {
        bool is_all = window_ms >= limit_ms - first;
        uint64_t slot = is_all ? first : cron_next(cron, limit_ms - window_ms, since_ms);
        uint64_t found = 0;
        while (slot != 0 && slot < limit_ms) {
            kept[found++ % count] = slot;
            slot = cron_next(cron, slot, since_ms);
        }
        if (found >= count) {
            return kept[found % count];
        }
        if (is_all) {
            return first;
        }
    }
}

static uint64_t count_between(const struct cron *cron, uint64_t from, uint64_t to,
                              uint64_t since_ms)
{
    uint64_t count = 0;
    while (from != 0 && from < to && count < COUNTED_MAX) {
        count++;
        from = cron_next(cron, from, since_ms);
    }
    return count;
}

static uint64_t first_to_take(const struct cron *cron, const struct cron_policy *policy,
                              uint64_t slot_ms, uint64_t since_ms, uint64_t limit_ms)
{
    uint64_t most = policy->misfire_max < KEPT_MAX ? policy->misfire_max : KEPT_MAX;
    switch (policy->misfire) {
    case CRON_MISFIRE_ONCE:
        return begin_of_last(cron, slot_ms, since_ms, limit_ms, 1);
    case CRON_MISFIRE_SKIP:
        return cron_next(cron, limit_ms - 1, since_ms);
    case CRON_MISFIRE_ALL:
        return begin_of_last(cron, slot_ms, since_ms, limit_ms, most > 0 ? most : 1);
    }
    return slot_ms;
}

void cron_decide(const struct cron *cron, const struct cron_policy *policy, uint64_t slot_ms,
                 uint64_t since_ms, uint64_t now_ms, struct cron_decision *ret_decision)
{
    struct cron_decision *decision = ret_decision;
    *decision = (struct cron_decision){.next_ms = slot_ms};
    if (slot_ms > now_ms) {
        uint64_t anew = cron_next(cron, now_ms, since_ms);
        if (anew != 0 && anew + BACK_MS < slot_ms) {
            decision->next_ms = anew;
        }
        return;
    }
    if (slot_ms == 0) {
        return;
    }
    uint64_t limit_ms = now_ms > policy->misfire_after_ms ? now_ms - policy->misfire_after_ms : 0;
    uint64_t slot = slot_ms;
    if (slot < limit_ms) {
        slot = first_to_take(cron, policy, slot_ms, since_ms, limit_ms);
        decision->skipped = count_between(cron, slot_ms, slot != 0 ? slot : limit_ms, since_ms);
    }
    size_t most = sizeof(decision->slots) / sizeof(decision->slots[0]);
    while (slot != 0 && cron_start_of(policy, slot) <= now_ms && decision->count < most) {
        decision->slots[decision->count++] = slot;
        slot = cron_next(cron, slot, since_ms);
    }
    decision->next_ms = slot;
    decision->has_more = slot != 0 && cron_start_of(policy, slot) <= now_ms;
}

/* FNV-1a and a finish (MurmurHash3's), as random() would differ between nodes. */
uint64_t cron_start_of(const struct cron_policy *policy, uint64_t slot_ms)
{
    uint64_t hash = 14695981039346656037ull ^ slot_ms;
    for (const char *key = policy->key; key != NULL && *key != '\0'; key++) {
        hash = (hash ^ (unsigned char)*key) * 1099511628211ull;
    }
    hash ^= hash >> 33;
    hash *= 0xff51afd7ed558ccdull;
    hash ^= hash >> 33;
    return slot_ms + (policy->jitter_ms > 0 ? hash % (policy->jitter_ms + 1) : 0);
}
