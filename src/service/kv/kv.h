/*
 * Keys and values: a store per project, replicated, for functions and for people.
 *
 * A value that was acknowledged is committed by Raft and survives any node.  Each write gives the
 * key a new revision (the index of its command, so it only ever grows), and a write or a removal
 * may be made on condition of a revision, or of absence: compare-and-set.
 *
 * A key may have a time to live.  Once that is over, by the clock of the node that is asked, the
 * key is not there: not for reads, lists, nor conditions.  The leader removes such rows for good,
 * each second and KV_SWEEP by one command; a write that the project's quota has no room for removes
 * as many of the project's itself.
 *
 * Keys are 1 to KV_KEY_MAX bytes of UTF-8 without control characters; values are any bytes.  A list
 * is in the order of the keys' bytes.
 *
 * Reads are of this node's replica.  A read that must see what any node has acknowledged before it
 * begins waits for store_barrier(): kv_get() does when asked, and the API's ?consistency=.
 *
 * Main loop thread.  Every `done` is called once, later, never from within the call; its contexts
 * must live until then.  Times are milliseconds since 1970.
 */
#ifndef SERVICE_KV_KV_H
#define SERVICE_KV_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct kv_service;
struct loop;
struct store;

enum {
    KV_KEY_MAX = 512,         /* bytes */
    KV_VALUE_MAX = 256 << 10, /* bytes */
    KV_LIST_MAX = 1000,       /* keys of one list */
    KV_SWEEP = 1000,          /* expired rows removed by one command */
};
#define KV_TTL_MAX_MS (UINT64_C(3650) * 24 * 60 * 60 * 1000)

/* ---- Life ---- */

struct kv_options {
    struct loop *loop;
    struct store *store;
    uint64_t (*now_ms)(void);   /* NULL: clock_real_ms() */
    uint64_t project_bytes_max; /* of keys and values; 0: 256 MiB (the state is in memory) */
    uint64_t project_keys_max;  /* 0: one million */
};

struct kv_service *kv_service_new(const struct kv_options *options);
/* Waits for what was asked (it runs the loop); the store is still open. */
void kv_service_free(struct kv_service *service);

/* ---- Reading ---- */

struct kv_entry { /* lent for the call */
    const char *key;
    const void *value; /* NULL in a list without values */
    size_t length;     /* of the value, in a list too */
    uint64_t revision;
    uint64_t updated_ms;
    uint64_t expires_ms; /* 0: never */
};

/* Of this node's replica, now: `visit` within the call.  NOT_FOUND, INVALID (key). */
int kv_read(struct kv_service *service, const char *project, const char *key,
            void (*visit)(const struct kv_entry *entry, void *context), void *context,
            struct error *err);

/* The same for whoever waits: `entry` is NULL with an error.  `linearizable`: as of any node;
 * NOT_LEADER, UNAVAILABLE then, too. */
void kv_get(struct kv_service *service, const char *project, const char *key, bool linearizable,
            void (*done)(const struct error *error, const struct kv_entry *entry, void *context),
            void *context);

/*
 * Keys that begin with `prefix` ("": all) and come after `after` ("": from the first), at most
 * `max` (1 to KV_LIST_MAX); *ret_more when there are others behind them: go on with the last key as
 * `after`.  INVALID.
 */
struct kv_listing {
    const char *prefix;
    const char *after;
    size_t max;
    bool with_values;
};
int kv_list(struct kv_service *service, const char *project, const struct kv_listing *listing,
            void (*visit)(const struct kv_entry *entry, void *context), void *context,
            bool *ret_more, struct error *err);

struct kv_usage {
    uint64_t keys, keys_max;
    uint64_t bytes, bytes_max;
};
int kv_read_usage(struct kv_service *service, const char *project, struct kv_usage *ret_usage,
                  struct error *err);

/* ---- Writing ---- */

enum kv_condition {
    KV_ALWAYS,
    KV_IF_ABSENT,   /* no such key */
    KV_IF_REVISION, /* it is there and at `revision` */
};

struct kv_write {
    const char *key;
    const void *value; /* copied */
    size_t length;
    uint64_t ttl_ms; /* 0: it does not expire; at most KV_TTL_MAX_MS */
    enum kv_condition condition;
    uint64_t revision;
};

/*
 * `done` with the new revision, or INVALID (key, time), TOO_LARGE (value), CONFLICT (the condition
 * does not hold: nothing was changed), LIMIT (the project's quota), and what store_propose() says.
 */
void kv_set(struct kv_service *service, const char *project, const struct kv_write *write,
            void (*done)(const struct error *error, uint64_t revision, void *context),
            void *context);

/* NOT_FOUND; CONFLICT when `revision` (0: any) is another. */
void kv_delete(struct kv_service *service, const char *project, const char *key, uint64_t revision,
               void (*done)(const struct error *error, uint64_t index, void *context),
               void *context);

#endif
