/* See demand.h. */
#include "service/instance/demand.h"

#include <string.h>

static void end_interval(struct demand *demand)
{
    demand->peaks[demand->next] = demand->now;
    demand->next = (demand->next + 1) % DEMAND_INTERVALS;
    demand->count += demand->count < DEMAND_INTERVALS;
    demand->now = 0;
}

static void advance(struct demand *demand, uint64_t now_ms)
{
    if (demand->started_ms == 0) {
        demand->started_ms = now_ms;
    }
    if (now_ms - demand->started_ms >= (uint64_t)DEMAND_INTERVAL_MS * DEMAND_INTERVALS) {
        *demand = (struct demand){.started_ms = now_ms}; /* so long ago that nothing is known */
    }
    while (now_ms - demand->started_ms >= DEMAND_INTERVAL_MS) {
        end_interval(demand);
        demand->started_ms += DEMAND_INTERVAL_MS;
    }
}

void demand_note(struct demand *demand, unsigned concurrency, uint64_t now_ms)
{
    uint8_t capped = (uint8_t)(concurrency < DEMAND_MOST ? concurrency : DEMAND_MOST);
    advance(demand, now_ms);
    demand->now = capped > demand->now ? capped : demand->now;
}

unsigned demand_now(struct demand *demand, uint64_t now_ms)
{
    advance(demand, now_ms);
    return demand->now;
}

unsigned demand_target(struct demand *demand, uint64_t now_ms)
{
    unsigned counts[DEMAND_MOST + 1] = {0};
    advance(demand, now_ms);
    for (unsigned i = 0; i < demand->count; i++) {
        counts[demand->peaks[i]]++;
    }
    /* From above: those that a hundredth of the intervals are left out for. */
    unsigned left_out = demand->count / 100;
    unsigned target = DEMAND_MOST;
    while (target > 0 && counts[target] <= left_out) {
        left_out -= counts[target];
        target--;
    }
    return demand->now > target ? demand->now : target;
}
