/*
 * What the files of this room share.
 *
 *   traffic.c  life; looks, and what addresses are
 *   learn.c    rates that forget
 *   publish.c  what is news goes to the state
 *   show.c     what the state says; metrics
 *
 * Subjects and peers are texts: "machine ID", "function PROJECT/NAME"; "machine ID", "node NAME".
 */
#ifndef SERVICE_TRAFFIC_PARTS_H
#define SERVICE_TRAFFIC_PARTS_H

#include <sqlite3.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/traffic/learn.h"
#include "service/traffic/traffic.h"

#define KIND_MACHINE  "machine "
#define KIND_FUNCTION "function "
#define KIND_NODE     "node "

/* What was said of a subject last, as the state has it. */
struct said {
    char *peers;   /* JSON */
    uint64_t look; /* at which it was said; 0: before this start */
};

struct traffic_service {
    struct traffic_options options;
    struct fetch_service *fetches;
    struct loop_timer *timer;
    struct learner learner;
    struct map said; /* subject -> struct said */
    bool is_said_loaded;
    uint64_t looks;
    uint64_t looked_ms; /* by the monotonic clock */
    uint64_t written;   /* rows */
    unsigned pending;
    bool is_over;
};

bool traffic_is_known(struct store *store); /* has the state version 10? */

/* publish.c */
void publish_news(struct traffic_service *service);
void publish_done(struct traffic_service *service);

/* show.c: [{"machine": ID, "rate": 123}, ...] */
void peers_write(const struct learnt *list, size_t count, struct buffer *out);
size_t peers_read(const char *text, struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX]);

#endif
