/*
 * How many instances an image will want at once, learnt from how many it wanted.  Pure; time is an
 * argument that never goes back.
 *
 * For each interval the highest concurrency is kept (calls running and waiting); of the last hour
 * of them the 99th percentile is what is kept warm.  Peaks, not averages: a burst of a second each
 * minute wants its instances as much as a load that lasts.  A percentile, not the highest: what
 * happened once in an hour is not paid for all hour.  Intervals in which nothing was asked count
 * too, so that what was is forgotten.
 */
#ifndef SERVICE_INSTANCE_DEMAND_H
#define SERVICE_INSTANCE_DEMAND_H

#include <stdint.h>

enum { DEMAND_INTERVAL_MS = 10000, DEMAND_INTERVALS = 360, DEMAND_MOST = 255 };

/* A zeroed struct knows nothing. */
struct demand {
    uint64_t started_ms; /* of the interval that is under way */
    unsigned count;      /* intervals known */
    unsigned next;       /* where the next one goes */
    uint8_t now;         /* the peak of the one under way */
    uint8_t peaks[DEMAND_INTERVALS];
};

/* So many are wanted at this moment. */
void demand_note(struct demand *demand, unsigned concurrency, uint64_t now_ms);

/* The peak of the interval that is under way. */
unsigned demand_now(struct demand *demand, uint64_t now_ms);

/* How many to keep warm. */
unsigned demand_target(struct demand *demand, uint64_t now_ms);

#endif
