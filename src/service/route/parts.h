/* Inside service/route. */
#ifndef SERVICE_ROUTE_PARTS_H
#define SERVICE_ROUTE_PARTS_H

#include <pthread.h>

#include "base/map.h"

#include "service/route/route.h"

enum { ROUTE_KEY_SIZE = 160 };

struct route_table;

struct route_service {
    struct loop *loop;
    struct store *store;
    struct store_watch *watches[2]; /* of routes, and of clients */
    bool is_stale;
    bool is_posted;
    bool is_over;
    struct map limiters; /* by key: they outlive a table */
    struct map meters;   /* the same */
    pthread_mutex_t mutex;
    struct route_table *table; /* under the mutex */
};

/* table.c */
void table_refresh(struct route_service *service);
void table_done(struct route_service *service);

/* settings.c: what a RouteSet says, and whether it makes sense. */
int settings_check(const json_t *settings, struct error *err);
struct http_route *settings_compile(struct route_service *service, const char *key,
                                    const char *project, const char *name, const char *function,
                                    const json_t *settings, bool is_paused, uint64_t revision);

#endif
