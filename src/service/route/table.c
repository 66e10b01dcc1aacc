/* The table: all routes, by the first segment of their path; and who has a bearer token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/token.h"
#include "service/route/limiter.h"
#include "service/route/meter.h"
#include "service/route/parts.h"

struct bucket {
    struct http_route **routes; /* in the order they are asked */
    size_t count;
};

struct bearer {
    char name[64];
    uint64_t expires_ms;
};

struct route_table {
    struct map buckets;         /* by first segment; "{" has those that begin with a parameter */
    struct map bearers;         /* by digest */
    struct http_route **asking; /* those of the buckets that want a certificate */
    size_t asking_count;
};

/* ---- Making ---- */

/* "/users/{id}" -> "users", "/{x}" -> "{". */
static void first_segment(struct text path, char ret_segment[PATTERN_BYTES_MAX + 1])
{
    size_t length = 0;
    while (length + 1 < path.length && path.data[length + 1] != '/' && length < PATTERN_BYTES_MAX) {
        ret_segment[length] = path.data[length + 1];
        length++;
    }
    ret_segment[length] = '\0';
    if (ret_segment[0] == '{') {
        ret_segment[1] = '\0';
    }
}

/* Text before parameters, then hosts that are named, wildcards, and any. */
static int host_rank(const struct http_route *route)
{
    return route->hosts[0] == NULL ? 2 : route->hosts[0][0] == '*' ? 1 : 0;
}

static int compare(const void *a, const void *b)
{
    const struct http_route *one = *(struct http_route *const *)a;
    const struct http_route *two = *(struct http_route *const *)b;
    int order = pattern_compare(one->path, two->path);
    order = order != 0 ? order : host_rank(one) - host_rank(two);
    order = order != 0 ? order : (one->methods[0] == NULL) - (two->methods[0] == NULL);
    return order != 0 ? order : strcmp(one->name, two->name);
}

static void add_route(struct route_table *table, struct http_route *owned_route)
{
    char segment[PATTERN_BYTES_MAX + 1];
    first_segment(text_of(owned_route->path, strlen(owned_route->path)), segment);
    struct bucket *bucket = map_get(&table->buckets, segment);
    if (bucket == NULL) {
        bucket = NEW(struct bucket);
        map_set(&table->buckets, segment, bucket);
    }
    bucket->routes =
        memory_resize(bucket->routes, (bucket->count + 1) * sizeof(struct http_route *));
    bucket->routes[bucket->count++] = owned_route;
    qsort(bucket->routes, bucket->count, sizeof(struct http_route *), compare);
    if (owned_route->auth == ROUTE_AUTH_MTLS) {
        table->asking =
            memory_resize(table->asking, (table->asking_count + 1) * sizeof(struct http_route *));
        table->asking[table->asking_count++] = owned_route;
    }
}

struct making {
    struct route_service *service;
    struct route_table *table;
};

static bool take_route(sqlite3_stmt *row, void *context)
{
    struct making *making = context;
    const char *key = (const char *)sqlite3_column_text(row, 0);
    const char *settings = (const char *)sqlite3_column_text(row, 4);
    JSON_OWNED json_t *document = NULL;
    struct error err = {0};
    if (json_read(settings, strlen(settings), &document, &err) < 0 ||
        settings_check(document, &err) < 0) {
        log_error("route %s is left out: %s", key, err.text);
        return true;
    }
    add_route(making->table,
              settings_compile(making->service, key, (const char *)sqlite3_column_text(row, 1),
                               (const char *)sqlite3_column_text(row, 2),
                               (const char *)sqlite3_column_text(row, 3), document,
                               sqlite3_column_int(row, 5) != 0,
                               (uint64_t)sqlite3_column_int64(row, 6)));
    return true;
}

static bool take_bearer(sqlite3_stmt *row, void *context)
{
    struct making *making = context;
    struct bearer *bearer = NEW(struct bearer);
    snprintf(bearer->name, sizeof(bearer->name), "%s", (const char *)sqlite3_column_text(row, 1));
    bearer->expires_ms = (uint64_t)sqlite3_column_int64(row, 2);
    map_set(&making->table->bearers, (const char *)sqlite3_column_text(row, 0), bearer);
    return true;
}

static void free_bucket(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    struct bucket *bucket = value;
    for (size_t i = 0; i < bucket->count; i++) {
        http_route_unref(bucket->routes[i]);
    }
    free(bucket->routes);
    free(bucket);
}

static void free_bearer(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

static void table_free(struct route_table *table)
{
    if (table != NULL) {
        map_each(&table->buckets, free_bucket, NULL);
        map_done(&table->buckets);
        map_each(&table->bearers, free_bearer, NULL);
        map_done(&table->bearers);
        free(table->asking);
        free(table);
    }
}

/* Those of routes that are gone, and have no call any more. */
static void keep_meter(const char *key, void *value, void *context)
{
    if (meter_is_only_ours(value)) {
        meter_unref(value);
    } else {
        map_set(context, key, value);
    }
}

static void drop_meters(struct route_service *service)
{
    struct map kept = {0};
    map_each(&service->meters, keep_meter, &kept);
    map_done(&service->meters);
    service->meters = kept;
}

void table_refresh(struct route_service *service)
{
    struct making making = {service, NEW(struct route_table)};
    struct error err = {0};
    service->is_stale = false;
    int r = store_query(
        service->store, &err, take_route, &making,
        "SELECT key, project, name, function, settings, is_paused, revision FROM route", "");
    r = r < 0 ? r
              : store_query(
                    service->store, &err, take_bearer, &making,
                    "SELECT digest, key, expires_ms FROM client WHERE kind = 'token' AND digest IS "
                    "NOT NULL",
                    "");
    if (r < 0) {
        log_error("routes: the table stays as it was: %s", err.text);
        table_free(making.table);
        return;
    }
    pthread_mutex_lock(&service->mutex);
    struct route_table *old = service->table;
    service->table = making.table;
    pthread_mutex_unlock(&service->mutex);
    table_free(old);
    drop_meters(service);
}

void table_done(struct route_service *service)
{
    table_free(service->table);
    service->table = NULL;
}

/* ---- Finding: any thread ---- */

static bool host_fits(const struct http_route *route, struct text host)
{
    if (route->hosts[0] == NULL) {
        return true;
    }
    host = text_without_port(host);
    for (char **at = route->hosts; *at != NULL; at++) {
        size_t length = strlen(*at);
        if (strncmp(*at, "*.", 2) == 0) {
            /* One label or more before the rest. */
            size_t tail = length - 1;
            if (host.length > tail &&
                strncasecmp(host.data + host.length - tail, *at + 1, tail) == 0) {
                return true;
            }
        } else if (text_equal_ignoring_case(host, *at)) {
            return true;
        }
    }
    return false;
}

/* HEAD goes where GET does. */
static bool method_fits(const struct http_route *route, struct text method)
{
    bool is_head = text_equal_ignoring_case(method, "HEAD");
    for (char **at = route->methods; *at != NULL; at++) {
        if ((strlen(*at) == method.length && memcmp(*at, method.data, method.length) == 0) ||
            (is_head && strcmp(*at, "GET") == 0)) {
            return true;
        }
    }
    return route->methods[0] == NULL;
}

static bool has_method(const char *list, const char *method)
{
    size_t length = strlen(method);
    const char *at = list;
    while (at[0] != '\0' &&
           !(strncmp(at, method, length) == 0 && strchr(",", at[length]) != NULL)) {
        at += strcspn(at, ",");
        at += strspn(at, ", ");
    }
    return at[0] != '\0';
}

static void add_allowed(struct route_match *match, const struct http_route *route)
{
    for (char **at = route->methods; *at != NULL; at++) {
        size_t used = strlen(match->allowed);
        if (used + 2 + strlen(*at) < sizeof(match->allowed) && !has_method(match->allowed, *at)) {
            snprintf(match->allowed + used, sizeof(match->allowed) - used, "%s%s",
                     used > 0 ? ", " : "", *at);
        }
    }
}

static void find_in(const struct route_table *table, const char *segment, struct text host,
                    struct text path, struct text method, struct route_match *match)
{
    const struct bucket *bucket = map_get(&table->buckets, segment);
    struct pattern_match parameters;
    for (size_t i = 0; bucket != NULL && match->route == NULL && i < bucket->count; i++) {
        struct http_route *route = bucket->routes[i];
        if (!host_fits(route, host) || !pattern_matches(route->path, path, &parameters)) {
            continue;
        }
        if (method_fits(route, method)) {
            atomic_fetch_add(&route->references, 1);
            match->route = route;
        } else {
            match->is_other_method = true;
            add_allowed(match, route);
        }
    }
}

void route_find(struct route_service *service, struct text host, struct text path,
                struct text method, struct route_match *ret_match)
{
    char segment[PATTERN_BYTES_MAX + 1];
    *ret_match = (struct route_match){0};
    first_segment(path, segment);
    pthread_mutex_lock(&service->mutex);
    if (service->table != NULL) {
        if (segment[0] != '{') {
            find_in(service->table, segment, host, path, method, ret_match);
        }
        if (ret_match->route == NULL) {
            find_in(service->table, "{", host, path, method, ret_match);
        }
    }
    pthread_mutex_unlock(&service->mutex);
}

bool route_asks_for_certificate(struct route_service *service, struct text host)
{
    bool asks = false;
    pthread_mutex_lock(&service->mutex);
    const struct route_table *table = service->table;
    for (size_t i = 0; table != NULL && i < table->asking_count && !asks; i++) {
        asks = host.length == 0 || host_fits(table->asking[i], host);
    }
    pthread_mutex_unlock(&service->mutex);
    return asks;
}

bool route_find_client(struct route_service *service, const char *token, uint64_t now_ms,
                       char ret_name[64])
{
    struct cluster_token parsed;
    struct error err = {0};
    char digest[65];
    const char *secret = token;
    if (strncmp(token, CLUSTER_TOKEN_PREFIX, strlen(CLUSTER_TOKEN_PREFIX)) == 0) {
        if (cluster_token_read(token, &parsed, &err) < 0) {
            return false;
        }
        secret = parsed.secret;
    }
    cluster_token_digest(secret, digest);
    pthread_mutex_lock(&service->mutex);
    const struct bearer *bearer =
        service->table != NULL ? map_get(&service->table->bearers, digest) : NULL;
    bool is_known = bearer != NULL && bearer->expires_ms > now_ms;
    if (is_known) {
        snprintf(ret_name, 64, "%s", bearer->name);
    }
    pthread_mutex_unlock(&service->mutex);
    return is_known;
}
