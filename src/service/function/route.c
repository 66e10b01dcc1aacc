/*
 * The routing table: PROJECT/NAME, PROJECT/NAME:ALIAS and PROJECT/NAME:NUMBER, made anew from the
 * store and from what this node has built whenever one of them changes.
 *
 * Gateway threads look something up without a lock: who reads is counted, and a table that was
 * replaced is freed when nobody has been reading at a moment after that: who begins later sees the
 * new one.
 */
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/function/parts.h"

enum { CANDIDATES_MAX = 256, RETIRE_TRIES = 1000 };

struct route {
    struct route *next_made;
    struct instance_target *target; /* NULL: `problem` says why */
    char *problem;
    bool is_ready; /* the version is: other nodes may be able to run it */
    _Atomic bool was_wanted;
    uint64_t version;
    uint64_t timeout_ms;
    bool is_aliased;
    size_t holder_count;
    uint64_t *holders; /* other nodes' */
    char key[FUNCTION_KEY_SIZE];
};

/* An alias with several versions, in their order. */
struct split {
    struct split *next_made;
    size_t count;
    struct function_part parts[FUNCTION_SPLIT_MAX];
    uint64_t total; /* of the weights */
    bool is_cookie;
    char field[FUNCTION_STICKY_SIZE]; /* or the cookie; "": drawn anew each time */
};

struct route_table {
    struct map routes;
    struct route *made; /* each once; several keys may share one */
    struct map splits;  /* by the same keys */
    struct split *splits_made;
    struct route_table *next_retired;
};

static void table_free(struct route_table *table)
{
    if (table == NULL) {
        return;
    }
    map_done(&table->routes);
    map_done(&table->splits);
    while (table->splits_made != NULL) {
        struct split *split = table->splits_made;
        table->splits_made = split->next_made;
        free(split);
    }
    while (table->made != NULL) {
        struct route *route = table->made;
        table->made = route->next_made;
        if (route->target != NULL) {
            instance_target_unref(route->target);
        }
        free(route->problem);
        free(route->holders);
        free(route);
    }
    free(table);
}

/* ---- Making ---- */

struct making {
    struct function_service *service;
    struct route_table *table;
};

static char *problem_of(const struct version_row *row, const struct local *local)
{
    if (strcmp(row->state, "failed") == 0) {
        return memory_format("version %llu could not be built: %s", (unsigned long long)row->number,
                             row->error != NULL ? row->error : "unknown");
    }
    if (strcmp(row->state, "building") == 0) {
        return memory_format("version %llu is still being built", (unsigned long long)row->number);
    }
    if (local != NULL && local->problem[0] != '\0') {
        return memory_format("version %llu could not be built on this node: %s",
                             (unsigned long long)row->number, local->problem);
    }
    return memory_format("version %llu is being made ready on this node",
                         (unsigned long long)row->number);
}

static uint64_t timeout_of(const struct version_row *row)
{
    struct function_config config;
    struct error ignored = {0};
    if (config_read(row->config, &config, &ignored) < 0) {
        function_config_defaults(&config);
    }
    uint64_t timeout_ms = config.timeout_ms;
    function_config_done(&config);
    return timeout_ms;
}

static struct route *route_new(struct route_table *table)
{
    struct route *route = NEW(struct route);
    route->next_made = table->made;
    table->made = route;
    return route;
}

/* What is built here can be called here by its number: that it is ready may be known to other
 * nodes, which pass their calls on, before it is known here. */
static void add_version(const struct version_row *row, void *context)
{
    struct making *making = context;
    const struct local *local = map_get(&making->service->locals, row->key);
    struct route *route = route_new(making->table);
    if (strcmp(row->state, "failed") != 0 && local != NULL && local->target != NULL) {
        route->target = instance_target_ref(local->target);
        route->timeout_ms = local->target->limits.timeout_ms;
    } else {
        route->problem = problem_of(row, local);
        route->timeout_ms = timeout_of(row);
    }
    route->is_ready = strcmp(row->state, "ready") == 0;
    route->version = row->number;
    snprintf(route->key, sizeof(route->key), "%s", row->key);
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    project_of(row->key, project, name, sizeof(project));
    MEMORY_OWNED char *key =
        memory_format("%s/%s:%llu", project, name, (unsigned long long)row->number);
    map_set(&making->table->routes, key, route);
}

static bool add_alias(sqlite3_stmt *row, void *context)
{
    struct route_table *table = context;
    const char *function = (const char *)sqlite3_column_text(row, 0);
    const char *alias = (const char *)sqlite3_column_text(row, 1);
    MEMORY_OWNED char *version =
        memory_format("%s:%lld", function, (long long)sqlite3_column_int64(row, 2));
    struct route *route = map_get(&table->routes, version);
    if (route != NULL) {
        MEMORY_OWNED char *key = memory_format("%s:%s", function, alias);
        map_set(&table->routes, key, route);
        route->is_aliased = true;
        if (strcmp(alias, "live") == 0) {
            map_set(&table->routes, function, route);
        }
    }
    return true;
}

static struct split *split_of(struct route_table *table, const char *key, const char *sticky)
{
    struct split *split = map_get(&table->splits, key);
    if (split == NULL) {
        split = NEW(struct split);
        split->next_made = table->splits_made;
        table->splits_made = split;
        split->is_cookie = sticky != NULL && text_starts_with(sticky, "cookie:");
        snprintf(split->field, sizeof(split->field), "%s", sticky != NULL ? sticky + 7 : "");
        map_set(&table->splits, key, split);
    }
    return split;
}

/* Of those that have more than one version with a weight. */
static bool add_part(sqlite3_stmt *row, void *context)
{
    struct route_table *table = context;
    const char *function = (const char *)sqlite3_column_text(row, 0);
    const char *alias = (const char *)sqlite3_column_text(row, 1);
    MEMORY_OWNED char *key = memory_format("%s:%s", function, alias);
    struct split *split = split_of(table, key, (const char *)sqlite3_column_text(row, 4));
    if (split->count < FUNCTION_SPLIT_MAX) {
        struct function_part *part = &split->parts[split->count++];
        part->version = (uint64_t)sqlite3_column_int64(row, 2);
        part->weight = (unsigned)sqlite3_column_int64(row, 3);
        split->total += part->weight;
    }
    if (strcmp(alias, "live") == 0 && map_get(&table->splits, function) == NULL) {
        map_set(&table->splits, function, split);
    }
    MEMORY_OWNED char *version =
        memory_format("%s:%lld", function, (long long)sqlite3_column_int64(row, 2));
    struct route *route = map_get(&table->routes, version);
    if (route != NULL) {
        route->is_aliased = true;
    }
    return true;
}

struct adding {
    struct route_table *table;
    uint64_t own;
};

static bool add_holder(sqlite3_stmt *row, void *context)
{
    const struct adding *adding = context;
    char project[FUNCTION_KEY_SIZE];
    char name[FUNCTION_KEY_SIZE];
    const char *version = (const char *)sqlite3_column_text(row, 0);
    uint64_t node = (uint64_t)sqlite3_column_int64(row, 1);
    const char *number = strrchr(version, '/');
    project_of(version, project, name, sizeof(project));
    MEMORY_OWNED char *key =
        memory_format("%s/%s:%s", project, name, number != NULL ? number + 1 : "");
    struct route *route = map_get(&adding->table->routes, key);
    if (route != NULL && route->is_ready && node != adding->own &&
        route->holder_count < FUNCTION_HOLDERS_MAX) {
        route->holders =
            memory_resize(route->holders, (route->holder_count + 1) * sizeof(*route->holders));
        route->holders[route->holder_count++] = node;
    }
    return true;
}

/* One of which nothing is ready, and not what can be called by a version's number alone. */
static struct route *route_of_none(struct route_table *table, const struct route *newest)
{
    struct route *route = route_new(table);
    route->problem = memory_format("version %" PRIu64 " is still being built", newest->version);
    route->version = newest->version;
    route->timeout_ms = newest->timeout_ms;
    memcpy(route->key, newest->key, sizeof(route->key));
    return route;
}

/* A function without `live`: its newest version tells what is the matter. */
static bool add_function(sqlite3_stmt *row, void *context)
{
    struct route_table *table = context;
    const char *function = (const char *)sqlite3_column_text(row, 0);
    MEMORY_OWNED char *version =
        memory_format("%s:%lld", function, (long long)sqlite3_column_int64(row, 1));
    struct route *route = map_get(&table->routes, version);
    if (route != NULL && map_get(&table->routes, function) == NULL) {
        bool is_early = route->target != NULL && !route->is_ready;
        map_set(&table->routes, function, is_early ? route_of_none(table, route) : route);
    }
    return true;
}

/* Instances are kept ready of what an alias points to. */
static void tell_wanted(const struct function_service *service, const struct route_table *table)
{
    for (const struct route *route = table->made; route != NULL; route = route->next_made) {
        if (route->target != NULL && route->target->instances_min > 0) {
            instance_want(service->options.instances, route->target, route->is_aliased);
        }
    }
}

static void free_retired(struct function_service *service)
{
    while (service->retired_routes != NULL) {
        struct route_table *table = service->retired_routes;
        service->retired_routes = table->next_retired;
        table_free(table);
    }
}

/* It was replaced.  A look-up takes less than a microsecond: hardly ever is one under way, and what
 * cannot be freed now is so after the next change. */
static void retire(struct function_service *service, struct route_table *table_or_null)
{
    if (table_or_null != NULL) {
        table_or_null->next_retired = service->retired_routes;
        service->retired_routes = table_or_null;
    }
    for (unsigned i = 0; i < RETIRE_TRIES; i++) {
        if (atomic_load(&service->route_readers) == 0) {
            free_retired(service);
            return;
        }
        sched_yield();
    }
}

void routes_refresh(struct function_service *service)
{
    if (!service->routes_are_stale) {
        return;
    }
    service->routes_are_stale = false;
    struct making making = {service, NEW(struct route_table)};
    struct error err = {0};
    int r = version_each(service, NULL, add_version, &making, &err);
    if (r == 0) {
        r = store_query(service->options.store, &err, add_alias, making.table,
                        "SELECT function, name, version FROM alias", "");
    }
    if (r == 0 && aliases_have_weights(service)) {
        r = store_query(service->options.store, &err, add_part, making.table,
                        "SELECT a.function, a.name, s.version, s.weight, a.sticky FROM alias_split "
                        "s JOIN alias a ON a.key = s.alias WHERE s.weight > 0 AND (SELECT count(*) "
                        "FROM alias_split o WHERE o.alias = s.alias AND o.weight > 0) > 1 ORDER BY "
                        "s.alias, s.version",
                        "");
    }
    if (r == 0) {
        r = store_query(service->options.store, &err, add_function, making.table,
                        "SELECT f.key, max(v.number) FROM function f JOIN version v ON v.function "
                        "= f.key GROUP BY f.key",
                        "");
    }
    struct adding adding = {making.table, service_node(service)};
    if (r == 0) {
        r = store_query(service->options.store, &err, add_holder, &adding,
                        "SELECT version, node FROM holder ORDER BY version, node", "");
    }
    if (r < 0) {
        log_error("function: the routing table stays as it was: %s", err.text);
        table_free(making.table);
        return;
    }
    tell_wanted(service, making.table);
    retire(service, atomic_exchange(&service->routes, making.table));
}

static void refresh_posted(void *argument)
{
    struct function_service *service = argument;
    service->refresh_is_posted = false;
    routes_refresh(service);
}

void routes_mark_stale(struct function_service *service)
{
    service->routes_are_stale = true;
    if (!service->refresh_is_posted && !service->stopping) {
        service->refresh_is_posted = true;
        loop_post(service->options.loop, refresh_posted, service);
    }
}

void routes_done(struct function_service *service)
{
    table_free(atomic_exchange(&service->routes, NULL));
    free_retired(service);
}

/* ---- Finding: any thread ---- */

struct candidates {
    const char *prefix;
    const char *names[CANDIDATES_MAX];
    size_t count;
};

static void add_candidate(const char *key, void *value, void *context)
{
    struct candidates *candidates = context;
    (void)value;
    if (candidates->count < CANDIDATES_MAX && text_starts_with(key, candidates->prefix)) {
        candidates->names[candidates->count++] = key + strlen(candidates->prefix);
    }
}

/* Counted as a reader: the names are the table's own. */
static int route_missing(const struct route_table *table, const char *project, const char *name,
                         struct error *err)
{
    char prefix[FUNCTION_KEY_SIZE];
    snprintf(prefix, sizeof(prefix), "%s/", project);
    struct candidates candidates = {.prefix = prefix};
    if (table != NULL) {
        map_each(&table->routes, add_candidate, &candidates);
    }
    const char *nearest = text_nearest(name, candidates.names, candidates.count);
    return nearest != NULL ? error_set(err, ERROR_NOT_FOUND,
                                       "there is no function %s; did you mean %s?", name, nearest)
                           : error_set(err, ERROR_NOT_FOUND, "there is no function %s", name);
}

/* "NAME[:WHICH]" of a project, as it is in the table; false: too long to be there. */
static bool key_of(const char *project, struct text name, char ret_key[2 * FUNCTION_KEY_SIZE])
{
    size_t length = strlen(project);
    if (name.length > FUNCTION_KEY_SIZE || length + 1 + name.length >= 2 * FUNCTION_KEY_SIZE) {
        return false;
    }
    memcpy(ret_key, project, length); /* each call asks several times: no printf() */
    ret_key[length] = '/';
    memcpy(ret_key + length + 1, name.data, name.length);
    ret_key[length + 1 + name.length] = '\0';
    return memchr(name.data, '\0', name.length) == NULL;
}

static const struct route_table *read_begin(struct function_service *service)
{
    atomic_fetch_add(&service->route_readers, 1);
    return atomic_load(&service->routes);
}

static void read_end(struct function_service *service)
{
    atomic_fetch_sub(&service->route_readers, 1);
}

/* ---- Choosing between versions ---- */

/* FNV-1a, then mixed: its upper bits are the ones that are used. */
static uint64_t hash_of(struct text text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < text.length; i++) {
        hash = (hash ^ (uint8_t)text.data[i]) * UINT64_C(0x100000001b3);
    }
    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

/* Value of one cookie of a Cookie field (RFC 6265, 4.2.1). */
static struct text cookie_of(struct text cookies, const char *name)
{
    size_t length = strlen(name);
    while (cookies.length > 0) {
        const char *semicolon = memchr(cookies.data, ';', cookies.length);
        size_t end = semicolon != NULL ? (size_t)(semicolon - cookies.data) : cookies.length;
        struct text one = text_trim(text_of(cookies.data, end));
        if (one.length > length && memcmp(one.data, name, length) == 0 && one.data[length] == '=') {
            return text_of(one.data + length + 1, one.length - length - 1);
        }
        size_t skip = end + (semicolon != NULL);
        cookies = text_of(cookies.data + skip, cookies.length - skip);
    }
    return text_of(NULL, 0);
}

static uint64_t draw(const struct split *split, const struct function_pick *pick)
{
    struct text value = text_of(NULL, 0);
    if (split->field[0] != '\0' && pick->field != NULL) {
        value = pick->field(pick->context, split->is_cookie ? "Cookie" : split->field);
        value = split->is_cookie ? cookie_of(value, split->field) : value;
    }
    return value.length > 0 ? hash_of(value) : pick->random;
}

/* A place on the line of all weights; who is sticky stays where the weights did not move. */
static uint64_t version_at(const struct split *split, uint64_t number)
{
    uint64_t place = (number >> 32) * split->total >> 32;
    for (size_t i = 0; i < split->count; i++) {
        if (place < split->parts[i].weight) {
            return split->parts[i].version;
        }
        place -= split->parts[i].weight;
    }
    return split->parts[0].version;
}

struct text function_route_pick(struct function_service *service, const char *project,
                                struct text name, const struct function_pick *pick,
                                char ret_name[FUNCTION_PICKED_SIZE])
{
    char key[2 * FUNCTION_KEY_SIZE];
    struct text picked = name;
    const struct route_table *table = read_begin(service);
    if (table != NULL && table->splits_made != NULL && key_of(project, name, key)) {
        const struct split *split = map_get(&table->splits, key);
        if (split != NULL) {
            const char *colon = memchr(name.data, ':', name.length);
            int length = colon != NULL ? (int)(colon - name.data) : (int)name.length;
            int written = snprintf(ret_name, FUNCTION_PICKED_SIZE, "%.*s:%llu", length, name.data,
                                   (unsigned long long)version_at(split, draw(split, pick)));
            picked = text_of(ret_name, (size_t)written);
        }
    }
    read_end(service);
    return picked;
}

/* ---- Finding ---- */

int function_route_find(struct function_service *service, const char *project, struct text name,
                        struct instance_target **ret_target, struct error *err)
{
    char key[2 * FUNCTION_KEY_SIZE];
    if (!key_of(project, name, key)) {
        return error_set(err, ERROR_NOT_FOUND, "there is no function of so long a name");
    }
    int r = 0;
    const struct route_table *table = read_begin(service);
    const struct route *route = table != NULL ? map_get(&table->routes, key) : NULL;
    if (route == NULL) {
        r = route_missing(table, project, key + strlen(project) + 1, err);
    } else if (route->target == NULL) {
        r = error_set(err, ERROR_UNAVAILABLE, "function %s: %s", key + strlen(project) + 1,
                      route->problem);
    } else {
        *ret_target = instance_target_ref(route->target);
    }
    read_end(service);
    return r;
}

struct want {
    struct function_service *service;
    char key[FUNCTION_KEY_SIZE];
};

static void want_posted(void *argument)
{
    struct want *want = argument;
    struct local *local = map_get(&want->service->locals, want->key);
    if (local != NULL && !local->is_wanted) {
        local->is_wanted = true;
        reconcile_soon(want->service);
    }
    free(want);
}

static void copy_holders(const struct route *route, struct function_holders *ret_holders)
{
    ret_holders->version = route->version;
    ret_holders->timeout_ms = route->timeout_ms;
    ret_holders->count = route->holder_count;
    for (size_t i = 0; i < route->holder_count; i++) {
        ret_holders->nodes[i] = route->holders[i];
    }
}

bool function_route_others(struct function_service *service, const char *project, struct text name,
                           struct function_holders *ret_holders)
{
    char key[2 * FUNCTION_KEY_SIZE];
    ret_holders->count = 0;
    if (!key_of(project, name, key)) {
        return false;
    }
    const struct route_table *table = read_begin(service);
    const struct route *route = table != NULL ? map_get(&table->routes, key) : NULL;
    if (route != NULL && route->is_ready) {
        copy_holders(route, ret_holders);
    }
    read_end(service);
    return ret_holders->count > 0;
}

bool function_route_elsewhere(struct function_service *service, const char *project,
                              struct text name, struct function_holders *ret_holders)
{
    char key[2 * FUNCTION_KEY_SIZE];
    struct want *want = NULL;
    ret_holders->count = 0;
    if (!key_of(project, name, key)) {
        return false;
    }
    const struct route_table *table = read_begin(service);
    struct route *route = table != NULL ? map_get(&table->routes, key) : NULL;
    if (route != NULL && route->is_ready) {
        copy_holders(route, ret_holders);
        if (!atomic_exchange(&route->was_wanted, true)) {
            want = NEW(struct want);
            want->service = service;
            memcpy(want->key, route->key, sizeof(want->key));
        }
    }
    read_end(service);
    if (want != NULL) {
        loop_post(service->options.loop, want_posted, want);
    }
    return ret_holders->count > 0;
}
