/*
 * What came to a route at this node, since it started: it outlives tables and changes of the route.
 * Any thread.
 */
#ifndef SERVICE_ROUTE_METER_H
#define SERVICE_ROUTE_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "service/route/route.h"

struct route_meter;

struct route_meter *meter_new(void);
struct route_meter *meter_ref(struct route_meter *meter);
void meter_unref(struct route_meter *meter);              /* accepts NULL */
bool meter_is_only_ours(const struct route_meter *meter); /* one reference is left */
void meter_read(const struct route_meter *meter, struct route_counts *ret_counts);

void meter_see(struct route_meter *meter, bool is_wanted);
/* False: there are `most` under way (0: any number). */
bool meter_enter(struct route_meter *meter, uint64_t most);
/* `status` of the answer; 0: there was none. */
void meter_leave(struct route_meter *meter, int status, uint64_t now_ms);
/* It is taken, and runs later. */
void meter_accept(struct route_meter *meter, uint64_t now_ms);

#endif
