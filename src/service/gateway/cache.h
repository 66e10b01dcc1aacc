/*
 * Answers that are kept and given again (RFC 9111, a shared cache): those of routes that ask for
 * it.
 *
 * Kept are whole answers to GET with 200, 203, 204, 301, 404 or 410, of at most 64 KiB, whose
 * Cache-Control or Expires gives them a life (freshness.h) and which have no Set-Cookie; of a
 * request with credentials only what says that it may be.  What a request asks of caches (no-cache,
 * no-store, max-age, min-fresh, only-if-cached) is heeded, and Vary is honoured.  A request that
 * may change something (not GET, HEAD, OPTIONS) and was answered below 400 makes all old that is
 * kept of its URI.  A new version of the function, or of the route, begins with nothing.  The
 * oldest used goes when there is no room.  Any thread.
 */
#ifndef SERVICE_GATEWAY_CACHE_H
#define SERVICE_GATEWAY_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct call;
struct response_cache;

struct response_cache *cache_new(uint64_t bytes_max);
void cache_free(struct response_cache *cache);

/* Answer this call of a route from what is kept, or refuse it; false: it is to run. */
bool cache_answer(struct response_cache *cache, struct call *call);

/* The answer of a call as it goes out; `call->head` has its fields. */
void cache_keep(struct response_cache *cache, struct call *call, int status, struct text body);

/* A call of a route is answered so: it may have changed what is kept of its URI (RFC 9111, 4.4). */
void cache_forget(struct response_cache *cache, const struct call *call, int status);

struct cache_counters {
    uint64_t hits;
    uint64_t misses;
    uint64_t entries;
    uint64_t bytes;
};
void cache_counters(struct response_cache *cache, struct cache_counters *ret_counters);

#endif
