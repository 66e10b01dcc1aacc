/*
 * Answers that are kept and given again (RFC 9111, a shared cache): those of routes that ask for
 * it.
 *
 * Kept are whole answers to GET with 200, 203, 204, 301, 404 or 410, of at most 64 KiB, whose
 * Cache-Control gives them a life (s-maxage, max-age) and which have no Set-Cookie; of a request
 * with Authorization only what is public.  A request with Cache-Control: no-cache asks the function
 * anew. Vary is honoured.  A new version of the function, or of the route, begins with nothing. The
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

/* Answer this call of a route from what is kept; false: it is to run. */
bool cache_answer(struct response_cache *cache, struct call *call);

/* The answer of a call as it goes out; `call->head` has its fields. */
void cache_keep(struct response_cache *cache, struct call *call, int status, struct text body);

struct cache_counters {
    uint64_t hits;
    uint64_t misses;
    uint64_t entries;
    uint64_t bytes;
};
void cache_counters(struct response_cache *cache, struct cache_counters *ret_counters);

#endif
