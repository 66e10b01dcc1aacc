/*
 * A node's part of what happens at nodes: a token bucket per project for requests, and a number of
 * instances.  The node's part of a rate is the rate divided by the nodes; of instances, rounded up,
 * so that each node can serve.  A lock, as gateways ask from their own threads; while no project
 * has a rate, nobody takes it.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/list.h"
#include "base/map.h"
#include "base/memory.h"

#include "service/quota/parts.h"

struct share {
    struct list_node link;
    char *project;
    bool is_seen;
    uint64_t limit;    /* of the whole cluster */
    double per_second; /* here; below 0: any number */
    double tokens;
    uint64_t filled_ms;
    uint64_t refused;
    unsigned instances;
};

struct quota_shares {
    pthread_mutex_t lock;
    struct map by_project;
    struct list list;
    _Atomic bool has_rates;
};

struct quota_shares *shares_new(void)
{
    struct quota_shares *shares = NEW(struct quota_shares);
    pthread_mutex_init(&shares->lock, NULL);
    list_init(&shares->list);
    return shares;
}

static void forget(struct quota_shares *shares, struct share *share)
{
    map_remove(&shares->by_project, share->project);
    list_remove(&share->link);
    free(share->project);
    free(share);
}

void shares_free(struct quota_shares *shares)
{
    LIST_EACH(node, &shares->list)
    {
        forget(shares, LIST_ITEM(node, struct share, link));
    }
    map_done(&shares->by_project);
    pthread_mutex_destroy(&shares->lock);
    free(shares);
}

void shares_begin(struct quota_shares *shares)
{
    pthread_mutex_lock(&shares->lock);
    LIST_EACH(node, &shares->list)
    {
        LIST_ITEM(node, struct share, link)->is_seen = false;
    }
}

/* At least one request at once, or nothing would ever be let in. */
static double burst_of(const struct share *share)
{
    return share->per_second > 1 ? share->per_second : 1;
}

void shares_put(struct quota_shares *shares, const struct quota_row *row, unsigned nodes)
{
    struct share *share = map_get(&shares->by_project, row->project);
    bool is_new = share == NULL;
    if (is_new) {
        share = NEW(struct share);
        share->project = memory_copy_string(row->project);
        list_push_back(&shares->list, &share->link);
        map_set(&shares->by_project, share->project, share);
    }
    uint64_t instances = row->limits[QUOTA_INSTANCES];
    share->is_seen = true;
    share->limit = row->limits[QUOTA_REQUESTS];
    share->per_second = row->has[QUOTA_REQUESTS] ? (double)share->limit / nodes : -1;
    share->instances = row->has[QUOTA_INSTANCES] ? (unsigned)((instances + nodes - 1) / nodes) : 0;
    if (is_new || share->tokens > burst_of(share)) {
        share->tokens = burst_of(share);
    }
}

void shares_end(struct quota_shares *shares)
{
    bool has_rates = false;
    LIST_EACH(node, &shares->list)
    {
        struct share *share = LIST_ITEM(node, struct share, link);
        if (!share->is_seen) {
            forget(shares, share);
        } else {
            has_rates = has_rates || share->per_second >= 0;
        }
    }
    shares->has_rates = has_rates;
    pthread_mutex_unlock(&shares->lock);
}

static bool take(struct share *share, uint64_t now_ms)
{
    double most = burst_of(share);
    if (now_ms > share->filled_ms) {
        share->tokens += share->per_second * (double)(now_ms - share->filled_ms) / 1000;
        share->filled_ms = now_ms;
    }
    if (share->tokens > most) {
        share->tokens = most;
    }
    if (share->limit == 0 || share->tokens < 1) {
        share->refused++;
        return false;
    }
    share->tokens -= 1;
    return true;
}

int shares_take(struct quota_shares *shares, const char *project, uint64_t now_ms,
                struct error *err)
{
    int r = 0;
    if (!shares->has_rates) {
        return 0;
    }
    pthread_mutex_lock(&shares->lock);
    struct share *share = map_get(&shares->by_project, project);
    if (share != NULL && share->per_second >= 0 && !take(share, now_ms)) {
        r = error_set(err, ERROR_QUOTA_EXCEEDED,
                      "project %s may have %" PRIu64 " requests per second, of which %.3g are this "
                      "node's, and they are used up",
                      project, share->limit, share->per_second);
    }
    pthread_mutex_unlock(&shares->lock);
    return r;
}

/* On the thread that alone changes them. */
unsigned shares_instances(const struct quota_shares *shares, const char *project)
{
    const struct share *share = map_get(&shares->by_project, project);
    return share != NULL ? share->instances : 0;
}

uint64_t shares_refused(struct quota_shares *shares, const char *project)
{
    pthread_mutex_lock(&shares->lock);
    const struct share *share = map_get(&shares->by_project, project);
    uint64_t refused = share != NULL ? share->refused : 0;
    pthread_mutex_unlock(&shares->lock);
    return refused;
}
