/*
 * Token buckets, one per client or one for all: `burst` calls at once, `per_second` on the long
 * run. Pure but for a lock; any thread.  At most LIMITER_CLIENTS_MAX clients are known: beyond,
 * those that have used least are forgotten.
 */
#ifndef SERVICE_ROUTE_LIMITER_H
#define SERVICE_ROUTE_LIMITER_H

#include <stdbool.h>
#include <stdint.h>

enum { LIMITER_CLIENTS_MAX = 4096 };

struct route_limiter;

struct route_limiter *limiter_new(double per_second, double burst, bool is_by_client);
struct route_limiter *limiter_ref(struct route_limiter *limiter);
void limiter_unref(struct route_limiter *limiter);
bool limiter_is(const struct route_limiter *limiter, double per_second, double burst,
                bool is_by_client);

/* False: *ret_wait_ms until one more is admitted. */
bool limiter_admit(struct route_limiter *limiter, const char *client, uint64_t now_ms,
                   uint64_t *ret_wait_ms);

#endif
