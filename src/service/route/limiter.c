/* Token buckets: see limiter.h. */
#include "service/route/limiter.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/map.h"
#include "base/memory.h"

struct bucket {
    double tokens;
    uint64_t at_ms;
};

struct route_limiter {
    _Atomic unsigned references;
    double per_second;
    double burst;
    bool is_by_client;
    pthread_mutex_t mutex;
    struct bucket all;
    struct map clients;
    unsigned client_count;
};

struct route_limiter *limiter_new(double per_second, double burst, bool is_by_client)
{
    struct route_limiter *limiter = NEW(struct route_limiter);
    limiter->references = 1;
    limiter->per_second = per_second;
    limiter->burst = burst;
    limiter->is_by_client = is_by_client;
    limiter->all.tokens = burst;
    pthread_mutex_init(&limiter->mutex, NULL);
    return limiter;
}

struct route_limiter *limiter_ref(struct route_limiter *limiter)
{
    atomic_fetch_add(&limiter->references, 1);
    return limiter;
}

static void free_bucket(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

static void forget_all(struct route_limiter *limiter)
{
    map_each(&limiter->clients, free_bucket, NULL);
    map_done(&limiter->clients);
    limiter->clients = (struct map){0};
    limiter->client_count = 0;
}

void limiter_unref(struct route_limiter *limiter)
{
    if (limiter != NULL && atomic_fetch_sub(&limiter->references, 1) == 1) {
        forget_all(limiter);
        pthread_mutex_destroy(&limiter->mutex);
        free(limiter);
    }
}

bool limiter_is(const struct route_limiter *limiter, double per_second, double burst,
                bool is_by_client)
{
    return limiter->per_second == per_second && limiter->burst == burst &&
        limiter->is_by_client == is_by_client;
}

/* Who read the clock first may be here last: a moment that was refilled is not refilled again. */
static void refill(const struct route_limiter *limiter, struct bucket *bucket, uint64_t now_ms)
{
    if (now_ms > bucket->at_ms) {
        double more = (double)(now_ms - bucket->at_ms) * limiter->per_second / 1000;
        bucket->tokens = fmin(limiter->burst, bucket->tokens + more);
        bucket->at_ms = now_ms;
    }
}

/* Those that are full again are as good as never seen. */
struct keeping {
    struct route_limiter *limiter;
    struct map kept;
    unsigned count;
    uint64_t now_ms;
};

static void keep(const char *key, void *value, void *context)
{
    struct keeping *keeping = context;
    struct bucket *bucket = value;
    refill(keeping->limiter, bucket, keeping->now_ms);
    if (bucket->tokens >= keeping->limiter->burst || keeping->count >= LIMITER_CLIENTS_MAX / 2) {
        free(bucket);
    } else {
        map_set(&keeping->kept, key, bucket);
        keeping->count++;
    }
}

static struct bucket *bucket_of(struct route_limiter *limiter, const char *client, uint64_t now_ms)
{
    if (!limiter->is_by_client) {
        return &limiter->all;
    }
    struct bucket *bucket = map_get(&limiter->clients, client);
    if (bucket == NULL) {
        if (limiter->client_count >= LIMITER_CLIENTS_MAX) {
            struct keeping keeping = {.limiter = limiter, .now_ms = now_ms};
            map_each(&limiter->clients, keep, &keeping);
            map_done(&limiter->clients);
            limiter->clients = keeping.kept;
            limiter->client_count = keeping.count;
        }
        bucket = NEW(struct bucket);
        *bucket = (struct bucket){.tokens = limiter->burst, .at_ms = now_ms};
        map_set(&limiter->clients, client, bucket);
        limiter->client_count++;
    }
    return bucket;
}

bool limiter_admit(struct route_limiter *limiter, const char *client, uint64_t now_ms,
                   uint64_t *ret_wait_ms)
{
    pthread_mutex_lock(&limiter->mutex);
    struct bucket *bucket = bucket_of(limiter, client, now_ms);
    refill(limiter, bucket, now_ms);
    bool is_admitted = bucket->tokens >= 1;
    if (is_admitted) {
        bucket->tokens -= 1;
    } else {
        *ret_wait_ms = (uint64_t)ceil((1 - bucket->tokens) / limiter->per_second * 1000);
    }
    pthread_mutex_unlock(&limiter->mutex);
    return is_admitted;
}
