/* Counters of a route: see meter.h. */
#include "service/route/meter.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/memory.h"

struct route_meter {
    _Atomic unsigned references;
    _Atomic uint64_t seen, matched, delivered, failed, flying, last_ms;
};

struct route_meter *meter_new(void)
{
    struct route_meter *meter = NEW(struct route_meter);
    meter->references = 1;
    return meter;
}

struct route_meter *meter_ref(struct route_meter *meter)
{
    atomic_fetch_add(&meter->references, 1);
    return meter;
}

void meter_unref(struct route_meter *meter)
{
    if (meter != NULL && atomic_fetch_sub(&meter->references, 1) == 1) {
        free(meter);
    }
}

bool meter_is_only_ours(const struct route_meter *meter)
{
    return atomic_load(&meter->references) == 1;
}

void meter_read(const struct route_meter *meter, struct route_counts *ret_counts)
{
    *ret_counts = (struct route_counts){
        .seen = atomic_load(&meter->seen),
        .matched = atomic_load(&meter->matched),
        .delivered = atomic_load(&meter->delivered),
        .failed = atomic_load(&meter->failed),
        .flying = atomic_load(&meter->flying),
        .last_ms = atomic_load(&meter->last_ms),
    };
}

void meter_see(struct route_meter *meter, bool is_wanted)
{
    atomic_fetch_add(&meter->seen, 1);
    if (is_wanted) {
        atomic_fetch_add(&meter->matched, 1);
    }
}

bool meter_enter(struct route_meter *meter, uint64_t most)
{
    uint64_t flying = atomic_fetch_add(&meter->flying, 1);
    if (most > 0 && flying >= most) {
        atomic_fetch_sub(&meter->flying, 1);
        return false;
    }
    return true;
}

void meter_leave(struct route_meter *meter, int status, uint64_t now_ms)
{
    uint64_t flying = atomic_fetch_sub(&meter->flying, 1);
    CHECK(flying > 0);
    if (status > 0 && status < 500) {
        meter_accept(meter, now_ms);
        return;
    }
    atomic_store(&meter->last_ms, now_ms);
    atomic_fetch_add(&meter->failed, 1);
}

void meter_accept(struct route_meter *meter, uint64_t now_ms)
{
    atomic_store(&meter->last_ms, now_ms);
    atomic_fetch_add(&meter->delivered, 1);
}
