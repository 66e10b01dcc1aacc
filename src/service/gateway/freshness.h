/*
 * What fields of requests and answers say about keeping (RFC 9111), and whether a client has
 * already what is kept (RFC 9110, 13).  Pure.  Lists are given whole: several fields of one name
 * joined by commas.
 */
#ifndef SERVICE_GATEWAY_FRESHNESS_H
#define SERVICE_GATEWAY_FRESHNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"

/* What a request asks of a cache. */
struct freshness_wish {
    bool is_anew;           /* no-cache, or no-store: ask the function */
    bool is_not_kept;       /* no-store: nor keep what it answers */
    bool is_only_if_cached; /* and nobody else */
    uint64_t age_max_s;     /* UINT64_MAX: any */
    uint64_t left_min_s;    /* it must be fresh for so long */
};
void freshness_read_wish(struct text cache_control, struct text pragma,
                         struct freshness_wish *ret_wish);

/* What an answer says. */
struct freshness_answer {
    struct text cache_control;
    struct text expires;
    struct text date;
    struct text age;
    bool is_private; /* the request had credentials (RFC 9111, 3.5) */
};

/* Seconds that it is fresh for, and how old it is already; false: it is not to be kept. */
bool freshness_life(const struct freshness_answer *answer, uint64_t now_s, uint64_t *ret_life_s,
                    uint64_t *ret_age_s);

/* If-None-Match, compared weakly: is `tag` in the list, or is it "*"? */
bool freshness_lists_tag(struct text list, struct text tag);

#endif
