/*
 * Names to addresses, by the system's resolver, which blocks: a thread for each name that is asked
 * for, not one of the loop's pool, where it would keep files and hashes waiting.
 *
 * A thread cannot be stopped.  One that nobody waits for any more still counts for its client, so
 * that names whose servers do not answer cost their function and no other.
 */
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "service/fetch/private.h"

enum { STACK_BYTES = 1 << 20 }; /* modules of nsswitch are generous */

struct lookup {
    struct list_node link; /* in the service's */
    struct client *client;
    struct loop *loop;
    char host[FETCH_NAME_SIZE];
    void (*done)(int status, const struct fetch_address *addresses, size_t count, void *context);
    void *context;
    bool is_abandoned;

    pthread_mutex_t lock; /* guards: who ends it */
    bool is_posted;
    bool is_left;

    int status;
    size_t count;
    struct fetch_address addresses[ADDRESSES_MAX];
};

static void lookup_free(struct lookup *lookup)
{
    pthread_mutex_destroy(&lookup->lock);
    free(lookup);
}

/* The loop. */
static void on_found(void *argument)
{
    struct lookup *lookup = argument;
    struct client *client = lookup->client;
    pthread_mutex_lock(&lookup->lock); /* what the thread wrote is seen */
    pthread_mutex_unlock(&lookup->lock);
    list_remove(&lookup->link);
    client->lookups--;
    if (!lookup->is_abandoned) {
        lookup->done(lookup->status, lookup->addresses, lookup->count, lookup->context);
    }
    lookup_free(lookup);
    client_unuse(client);
}

static void take_list(struct lookup *lookup, const struct addrinfo *list)
{
    for (; list != NULL && lookup->count < ADDRESSES_MAX; list = list->ai_next) {
        uint16_t port = 0;
        lookup->count += fetch_address_of(list->ai_addr, &lookup->addresses[lookup->count], &port);
    }
}

static void *resolve(void *argument)
{
    struct lookup *lookup = argument;
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *list = NULL;
    lookup->status = getaddrinfo(lookup->host, NULL, &hints, &list);
    if (lookup->status == 0) {
        take_list(lookup, list);
        freeaddrinfo(list);
    }
    pthread_mutex_lock(&lookup->lock);
    bool is_left = lookup->is_left;
    if (!is_left) {
        lookup->is_posted = true;
        loop_post(lookup->loop, on_found, lookup);
    }
    pthread_mutex_unlock(&lookup->lock);
    if (is_left) {
        lookup_free(lookup);
    }
    return NULL;
}

struct lookup *resolve_begin(struct client *client, const char *host,
                             void (*done)(int status, const struct fetch_address *addresses,
                                          size_t count, void *context),
                             void *context)
{
    struct lookup *lookup = NEW(struct lookup);
    pthread_t thread;
    pthread_attr_t attributes;
    lookup->client = client;
    lookup->loop = client->service->loop;
    lookup->done = done;
    lookup->context = context;
    snprintf(lookup->host, sizeof(lookup->host), "%s", host);
    pthread_mutex_init(&lookup->lock, NULL);
    client->users++;
    client->lookups++;
    list_push_back(&client->service->lookups, &lookup->link);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (pthread_create(&thread, &attributes, resolve, lookup) != 0) {
        lookup->status = EAI_AGAIN;
        lookup->is_posted = true;
        loop_post(lookup->loop, on_found, lookup);
    }
    pthread_attr_destroy(&attributes);
    return lookup;
}

void resolve_abandon(struct lookup *lookup)
{
    lookup->is_abandoned = true;
}

void resolve_leave_all(struct fetch_service *service)
{
    LIST_EACH(node, &service->lookups)
    {
        struct lookup *lookup = LIST_ITEM(node, struct lookup, link);
        struct client *client = lookup->client;
        CHECK(lookup->is_abandoned);
        pthread_mutex_lock(&lookup->lock);
        bool is_posted = lookup->is_posted;
        if (!is_posted) {
            list_remove(&lookup->link);
            client->lookups--;
            lookup->is_left = true; /* the thread frees it, perhaps at once */
        }
        pthread_mutex_unlock(&lookup->lock);
        if (!is_posted) {
            client_unuse(client);
        }
    }
}
