/*
 * How much functions exchange with which addresses, for who asks from time to time.  See fetch.h.
 *
 * Counted by function and address; a function has so many of them between two questions, so that
 * one that fetches from everywhere costs no more and crowds nobody out.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"

#include "service/fetch/private.h"

struct reached {
    size_t count;
    struct fetch_reached list[FETCH_REACHED_MAX];
};

void reached_count(struct fetch *fetch, size_t bytes)
{
    fetch->uncounted_bytes += bytes;
}

/* The function's, of its version's "PROJECT/FUNCTION/NUMBER". */
static struct reached *find(struct fetch_service *service, const char *version)
{
    const char *slash = strrchr(version, '/');
    MEMORY_OWNED char *key =
        memory_copy_text(version, slash != NULL ? (size_t)(slash - version) : strlen(version));
    struct reached *reached = map_get(&service->reached, key);
    if (reached == NULL && service->reached.count < FETCH_REACHED_FUNCTIONS_MAX) {
        reached = NEW(struct reached);
        map_set(&service->reached, key, reached);
    }
    return reached;
}

static void settle(struct fetch *fetch)
{
    uint64_t bytes = fetch->uncounted_bytes;
    fetch->uncounted_bytes = 0;
    struct reached *reached = fetch->address != 0 && bytes > 0 && fetch->client != NULL
        ? find(fetch->service, fetch->client->key)
        : NULL;
    if (reached == NULL) {
        return;
    }
    for (size_t i = 0; i < reached->count; i++) {
        struct fetch_reached *one = &reached->list[i];
        if (one->address == fetch->address && one->port == fetch->address_port) {
            one->bytes += bytes;
            return;
        }
    }
    if (reached->count < FETCH_REACHED_MAX) {
        reached->list[reached->count++] = (struct fetch_reached){
            .address = fetch->address, .port = fetch->address_port, .bytes = bytes};
    }
}

void reached_end(struct fetch *fetch)
{
    settle(fetch);
    fetch->address = 0;
}

void reached_begin(struct fetch *fetch, const struct fetch_address *address, uint16_t port)
{
    const uint8_t *bytes = address->bytes + 12;
    reached_end(fetch);
    fetch->address_port = port;
    if (fetch_address_is_v4(address)) {
        fetch->address = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 |
            (uint32_t)bytes[2] << 8 | bytes[3];
    }
}

/* ---- Who asks ---- */

struct visiting {
    void (*visit)(const char *function, const struct fetch_reached *reached, void *context);
    void *context;
};

static void visit_one(const char *key, void *value, void *context)
{
    struct visiting *visiting = context;
    struct reached *reached = value;
    for (size_t i = 0; visiting->visit != NULL && i < reached->count; i++) {
        visiting->visit(key, &reached->list[i], visiting->context);
    }
    free(reached);
}

void fetch_take_reached(struct fetch_service *service,
                        void (*visit)(const char *function, const struct fetch_reached *reached,
                                      void *context),
                        void *context)
{
    struct visiting visiting = {visit, context};
    LIST_EACH(node, &service->fetches)
    {
        settle(LIST_ITEM(node, struct fetch, link)); /* tunnels last long */
    }
    struct map taken = service->reached;
    service->reached = (struct map){0};
    map_each(&taken, visit_one, &visiting);
    map_done(&taken);
}
