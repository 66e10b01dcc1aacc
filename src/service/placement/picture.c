/*
 * The picture: machines and reservations of the state in the engine's cluster.
 *
 * Rows are read when they have changed and somebody is about to decide, or waits.  What a machine
 * does (its state, its reason) is no news here: a row whose digest is the same is left alone.
 */
#include <stdio.h>
#include <string.h>

#include "engine/device/device.h"

#include "service/machine/machine.h"
#include "service/placement/parts.h"

#define COLUMNS "key, id, project, name, node, config, desired, pending_ms, pending_reason, "
#define BEFORE  "SELECT " COLUMNS "NULL, NULL FROM machine "
#define CPUS \
    "(SELECT c.cpus FROM machine_cpus c WHERE c.key = machine.id AND c.node = machine.node)"
#define DEVICES                                                                                \
    "(SELECT group_concat(d.address) FROM (SELECT address, machine, node FROM machine_device " \
    "ORDER "                                                                                   \
    "BY address) d WHERE d.machine = machine.id AND d.node = machine.node)"
#define WITH_CPUS    "SELECT " COLUMNS CPUS ", NULL FROM machine "
#define WITH_DEVICES "SELECT " COLUMNS CPUS ", " DEVICES " FROM machine "
#define ROWS(service, where)                                \
    (picture_knows_devices(service)    ? WITH_DEVICES where \
         : picture_knows_cpus(service) ? WITH_CPUS where    \
                                       : BEFORE where)

bool service_is_known(const struct placement_service *service)
{
    enum { SCHEMA_WITH_PLACEMENT = 8 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_PLACEMENT;
}

bool picture_knows_cpus(const struct placement_service *service)
{
    enum { SCHEMA_WITH_CPUS = 9 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_CPUS;
}

bool picture_knows_devices(const struct placement_service *service)
{
    enum { SCHEMA_WITH_DEVICES = 12 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_DEVICES;
}

bool picture_knows_kept_pages(const struct placement_service *service)
{
    enum { SCHEMA_WITH_KEPT_PAGES = 13 };
    return store_schema_now(service->options.store) >= SCHEMA_WITH_KEPT_PAGES;
}

const char *picture_page_column(const struct placement_service *service)
{
    return picture_knows_kept_pages(service) ? "page_bytes" : "0";
}

bool picture_has_node(const struct placement_service *service, const char *name)
{
    return map_get(&service->nodes, name) != NULL;
}

/* FNV-1a: nobody gains by two rows that look alike. */
static uint64_t digest_of(sqlite3_stmt *row)
{
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    for (int i = 1; i < 10; i++) {
        const char *text = store_text(row, i < 8 ? i : i + 1); /* but why it waits */
        do {
            digest = (digest ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
        } while (*text++ != '\0');
    }
    return digest != 0 ? digest : 1;
}

/* ---- Who waits ---- */

static void forget_blocked(struct waiting *waiting)
{
    if (waiting->is_blocked) {
        asked_done(&waiting->asked);
        placement_decision_done(&waiting->blocked);
        waiting->is_blocked = false;
    }
}

void waiting_free(struct placement_service *service, struct waiting *waiting)
{
    forget_blocked(waiting);
    hold_forget(service, waiting);
    map_remove(&service->waiters, waiting->id);
    list_remove(&waiting->link);
    json_decref(waiting->config);
    free(waiting->project);
    free(waiting->name);
    free(waiting->reason);
    free(waiting);
}

void picture_tell(struct placement_service *service, const struct placement_change *change)
{
    if (change->wakes == 0) {
        return;
    }
    LIST_EACH(node, &service->waiting)
    {
        struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        if (!waiting->is_due && waiting->is_blocked &&
            placement_helps(service->cluster, &waiting->asked.request, &waiting->blocked, change)) {
            waiting->is_due = true;
            service_post(service);
        }
    }
}

static void set_waiting(struct placement_service *service, struct known *known, sqlite3_stmt *row,
                        json_t *config)
{
    struct waiting *waiting = known->waiting;
    const json_t *priority = json_object_get(config, "priority");
    if (waiting == NULL) {
        waiting = NEW(struct waiting);
        known->waiting = waiting;
        list_push_back(&service->waiting, &waiting->link);
    }
    forget_blocked(waiting);
    if (waiting->name != NULL) {
        hold_forget(service, waiting);
        map_remove(&service->waiters, waiting->id);
    }
    map_set(&service->waiters, known->id, waiting);
    service->are_holds_stale = true;
    json_decref(waiting->config);
    free(waiting->project);
    free(waiting->name);
    free(waiting->reason);
    waiting->project = memory_copy_string(store_text(row, 2));
    waiting->name = memory_copy_string(store_text(row, 3));
    snprintf(waiting->id, sizeof(waiting->id), "%s", known->id);
    snprintf(waiting->node, sizeof(waiting->node), "%s", store_text(row, 4));
    waiting->config = json_incref(config);
    waiting->is_at_rest = waiting->node[0] == '\0' && strcmp(store_text(row, 6), "running") != 0;
    waiting->reason = memory_copy_string(store_text(row, 8));
    waiting->since_ms = (uint64_t)sqlite3_column_int64(row, 7);
    waiting->priority =
        priority != NULL ? (uint64_t)json_integer_value(priority) : PLACEMENT_PRIORITY_DEFAULT;
    waiting->is_due = true;
    waiting->retry_at_ms = 0;
    service_post(service);
}

static void unset_waiting(struct placement_service *service, struct known *known)
{
    if (known->waiting != NULL) {
        waiting_free(service, known->waiting);
        known->waiting = NULL;
    }
}

/* ---- Machines ---- */

static void take_out(struct placement_service *service, struct known *known)
{
    struct placement_change change = {0};
    struct error ignored = {0};
    if (known->is_placed &&
        placement_cluster_remove(service->cluster, known->id, &change, &ignored) == 0) {
        picture_tell(service, &change);
    }
    service->pins_stale = service->pins_stale || known->is_here;
    known->is_placed = false;
    known->is_here = false;
    known->own_cpus = 0;
}

static void put_in(struct placement_service *service, struct known *known, sqlite3_stmt *row,
                   const json_t *config)
{
    const char *desired = store_text(row, 6);
    const char *node = store_text(row, 4);
    struct asked *asked = NEW(struct asked);
    struct error err = {0};
    const struct asked_of of = {
        .project = store_text(row, 2),
        .name = store_text(row, 3),
        .id = known->id,
        .config = config,
        .is_idle = strcmp(desired, "running") != 0 && strcmp(desired, "paused") != 0,
        .is_only_counted = true,
    };
    int r = asked_init(asked, service, &of, &err);
    if (r == 0) {
        uint16_t cores[PLACEMENT_CORES_MAX];
        struct placement_grant_device devices[DEVICE_LIST_MAX];
        struct placement_allocation allocation = {.request = asked->request, .node = node};
        known->own_cpus = asked->request.demand.dedicated_cores;
        free(known->cpus);
        known->cpus = memory_copy_string(store_text(row, 9));
        cpus_grant(service, node, store_text(row, 9), known->own_cpus, cores, &allocation.grant);
        devices_grant(service, node, store_text(row, 10), devices, &allocation.grant);
        r = placement_cluster_add(service->cluster, &allocation, &err);
        leave_forget(service, known->id);
        asked_done(asked);
    }
    known->is_placed = r == 0;
    known->is_here = r == 0 && strcmp(node, service->node_name) == 0;
    service->pins_stale = service->pins_stale || known->is_here;
    if (r < 0 && picture_has_node(service, node)) {
        log_warn("placement: machine %s is not counted: %s", known->key, err.text);
    }
    free(asked);
}

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct placement_service *service = context;
    const char *key = store_text(row, 0);
    struct known *known = map_get(&service->machines, key);
    uint64_t digest = digest_of(row);
    JSON_OWNED json_t *config = NULL;
    struct error err = {0};
    if (known != NULL && known->digest == digest) {
        if (known->waiting != NULL) { /* whoever owns the queue may have written it */
            free(known->waiting->reason);
            known->waiting->reason = memory_copy_string(store_text(row, 8));
        }
        return true;
    }
    if (json_read(store_text(row, 5), strlen(store_text(row, 5)), &config, &err) < 0) {
        log_error("placement: machine %s: %s", key, err.text);
        return true;
    }
    if (known == NULL) {
        known = NEW(struct known);
        known->key = memory_copy_string(key);
        map_set(&service->machines, key, known);
    }
    take_out(service, known);
    known->digest = digest;
    if (strcmp(store_text(row, 4), service->node_name) != 0) { /* its time begins anew */
        known->leaves_from_ms = 0;
        known->asked_ms = 0;
    }
    snprintf(known->id, sizeof(known->id), "%s", store_text(row, 1));
    if (store_text(row, 4)[0] != '\0') {
        put_in(service, known, row, config);
    }
    if (sqlite3_column_type(row, 7) != SQLITE_NULL) {
        set_waiting(service, known, row, config);
    } else {
        unset_waiting(service, known);
    }
    return true;
}

static void forget(struct placement_service *service, const char *key)
{
    struct known *known = map_remove(&service->machines, key);
    if (known != NULL) {
        take_out(service, known);
        unset_waiting(service, known);
        free(known->key);
        free(known->cpus);
        free(known);
    }
}

struct presence {
    bool is_there;
};

static bool take_presence(sqlite3_stmt *row, void *context)
{
    (void)row;
    ((struct presence *)context)->is_there = true;
    return false;
}

static void load_one(struct placement_service *service, const char *key)
{
    struct presence presence = {false};
    struct error err = {0};
    store_query(service->options.store, &err, take_presence, &presence,
                "SELECT 1 FROM machine WHERE key = ?", "t", key);
    if (!presence.is_there) {
        forget(service, key);
    } else if (store_query(service->options.store, &err, take_row, service,
                           ROWS(service, "WHERE key = ?"), "t", key) < 0) {
        log_error("placement: reading machine %s: %s", key, err.text);
    }
}

struct keys {
    char **items;
    size_t count;
};

static void list_key(const char *key, void *value, void *context)
{
    struct keys *keys = context;
    (void)value;
    keys->items[keys->count++] = memory_copy_string(key);
}

static struct keys keys_of(const struct map *map)
{
    struct keys keys = {memory_new(map->count + 1, sizeof(char *)), 0};
    map_each(map, list_key, &keys);
    return keys;
}

static void keys_free(struct keys *keys)
{
    for (size_t i = 0; i < keys->count; i++) {
        free(keys->items[i]);
    }
    free(keys->items);
}

static void load_all(struct placement_service *service)
{
    struct keys keys = keys_of(&service->machines);
    struct error err = {0};
    for (size_t i = 0; i < keys.count; i++) {
        forget(service, keys.items[i]);
    }
    keys_free(&keys);
    if (store_query(service->options.store, &err, take_row, service,
                    ROWS(service, "ORDER BY created_ms"), "") < 0) {
        log_error("placement: reading machines: %s", err.text);
    }
}

static void load_dirty(struct placement_service *service)
{
    struct keys keys = keys_of(&service->dirty);
    map_done(&service->dirty);
    service->dirty = (struct map){0};
    for (size_t i = 0; i < keys.count; i++) {
        load_one(service, keys.items[i]);
    }
    keys_free(&keys);
}

/* ---- Whom they talk with ---- */

static void load_talking(struct placement_service *service)
{
    struct keys keys = keys_of(&service->talking);
    map_done(&service->talking);
    service->talking = (struct map){0};
    for (size_t i = 0; i < keys.count; i++) {
        struct traffic_peer peers[TRAFFIC_PEERS_MAX];
        struct placement_talk talks[TRAFFIC_PEERS_MAX];
        struct error ignored = {0}; /* of one that is not placed */
        size_t count = traffic_of_machine(service->options.store, keys.items[i], peers);
        asked_talks(peers, count, talks);
        placement_cluster_set_talks(service->cluster, keys.items[i], talks, count, &ignored);
    }
    keys_free(&keys);
}

/* ---- Reservations ---- */

enum { MILLI = 1000 };

static bool take_kept(sqlite3_stmt *row, void *context)
{
    struct placement_service *service = context;
    const char *key = store_text(row, 0);
    MEMORY_OWNED char *id = memory_format("reservation/%s", key);
    struct error err = {0};
    uint64_t expires_ms = (uint64_t)sqlite3_column_int64(row, 5);
    uint64_t memory = (uint64_t)sqlite3_column_int64(row, 3);
    uint64_t page = (uint64_t)sqlite3_column_int64(row, 6);
    const struct placement_allocation allocation = {
        .request = {.id = id,
                    .priority = PLACEMENT_PRIORITY_MAX,
                    .demand =
                        {.amounts = {{
                             [PLACEMENT_CPU_MILLI] = (uint64_t)sqlite3_column_int64(row, 2),
                             [PLACEMENT_MEMORY] = page == 0 ? memory : 0,
                             [PLACEMENT_HUGE_2M] = page == PLACEMENT_PAGE_2M ? memory / page : 0,
                             [PLACEMENT_HUGE_1G] = page == PLACEMENT_PAGE_1G ? memory / page : 0,
                             [PLACEMENT_DISK] = (uint64_t)sqlite3_column_int64(row, 4),
                         }}}},
        .node = store_text(row, 1),
        .expires_ms = expires_ms,
    };
    if (placement_cluster_add(service->cluster, &allocation, &err) == 0) {
        free(map_set(&service->kept, key, memory_copy_string(id)));
    } else if (picture_has_node(service, store_text(row, 1))) {
        log_warn("placement: reservation %s is not counted: %s", key, err.text);
    }
    return true;
}

static void on_expired(const char *id, const struct placement_change *change, void *context)
{
    (void)id;
    picture_tell(context, change);
}

static void load_kept(struct placement_service *service)
{
    struct keys keys = keys_of(&service->kept);
    struct error err = {0};
    placement_cluster_expire(service->cluster, clock_real_ms(), on_expired, service);
    for (size_t i = 0; i < keys.count; i++) {
        struct placement_change change = {0};
        struct error ignored = {0};
        MEMORY_OWNED char *id = map_remove(&service->kept, keys.items[i]);
        if (placement_cluster_remove(service->cluster, id, &change, &ignored) == 0) {
            picture_tell(service, &change);
        }
    }
    keys_free(&keys);
    MEMORY_OWNED char *sql =
        memory_format("SELECT key, node, cpu_millis, memory_bytes, disk_bytes, expires_ms, %s FROM "
                      "placement_reservation WHERE expires_ms > ?",
                      picture_page_column(service));
    if (store_query(service->options.store, &err, take_kept, service, sql, "u", clock_real_ms()) <
        0) {
        log_error("placement: reading reservations: %s", err.text);
    }
}

/* ---- Places that are kept ---- */

char *picture_keep(struct placement_service *service, const char *project, struct asked *asked,
                   const struct placement_decision *decision)
{
    const char *id = asked->request.id;
    char *kept = memory_format("making/%s/%s", project, id);
    struct error ignored = {0};
    asked->request.id = kept;
    int r =
        placement_commit(service->cluster, &asked->request, decision, clock_real_ms(), &ignored);
    asked->request.id = id;
    if (r < 0) {
        free(kept);
        return NULL;
    }
    return kept;
}

void picture_give_back(struct placement_service *service, char *owned_id_or_null)
{
    struct placement_change change = {0};
    struct error ignored = {0};
    if (owned_id_or_null != NULL &&
        placement_cluster_remove(service->cluster, owned_id_or_null, &change, &ignored) == 0) {
        picture_tell(service, &change);
    }
    free(owned_id_or_null);
}

struct finding {
    const char *id;
    struct known *known;
};

static void find_id(const char *key, void *value, void *context)
{
    struct finding *finding = context;
    struct known *known = value;
    (void)key;
    if (strcmp(known->id, finding->id) == 0) {
        finding->known = known;
    }
}

void picture_reload(struct placement_service *service, const char *machine_id)
{
    struct finding finding = {machine_id, NULL};
    map_each(&service->machines, find_id, &finding);
    if (finding.known != NULL) {
        finding.known->digest = 0;
        map_set(&service->dirty, finding.known->key, service);
    }
}

void picture_take_out(struct placement_service *service, const char *key)
{
    struct known *known = map_get(&service->machines, key);
    struct placement_change ignored_change = {0};
    struct error ignored = {0};
    if (known != NULL && known->is_placed) {
        placement_cluster_remove(service->cluster, known->id, &ignored_change, &ignored);
        known->is_placed = false;
        known->digest = 0;
        map_set(&service->dirty, key, service);
    }
}

/* ---- All of it ---- */

void picture_update(struct placement_service *service)
{
    if (!service_is_known(service)) {
        nodes_update(service);
        return;
    }
    if (service->are_nodes_stale || service->is_room_stale) {
        service->are_nodes_stale = false;
        service->are_peaks_stale = true;
        service->are_holds_stale = true;
        nodes_update(service);
        service->is_room_stale = false;
    }
    if (service->are_peaks_stale) {
        service->are_peaks_stale = false;
        nodes_update_peaks(service);
    }
    if (service->is_all_stale) { /* nodes that came may have some of them */
        service->is_all_stale = false;
        service->are_kept_stale = true;
        map_done(&service->dirty);
        service->dirty = (struct map){0};
        load_all(service);
    }
    if (service->are_kept_stale) {
        service->are_kept_stale = false;
        load_kept(service);
    }
    if (service->dirty.count > 0) {
        load_dirty(service);
    }
    if (service->are_waiting_stale) {
        service->are_waiting_stale = false;
        queue_read_again(service);
    }
    if (service->are_holds_stale) {
        service->are_holds_stale = false;
        holds_update(service);
    }
    if (service->talking.count > 0) {
        load_talking(service);
    }
    if (service->drives_away || service->drove_away) {
        evict_look(service);
    }
    if (service->pins_stale) {
        service->pins_stale = false;
        cpus_look(service);
    }
}

static void free_text(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void picture_done(struct placement_service *service)
{
    struct keys keys = keys_of(&service->machines);
    for (size_t i = 0; i < keys.count; i++) {
        forget(service, keys.items[i]);
    }
    keys_free(&keys);
    map_each(&service->nodes, free_text, NULL);
    map_each(&service->kept, free_text, NULL);
    map_done(&service->nodes);
    map_done(&service->machines);
    map_done(&service->kept);
    map_done(&service->dirty);
    map_done(&service->talking);
    map_done(&service->waiters);
    map_each(&service->cpus, free_text, NULL);
    map_done(&service->cpus);
    map_each(&service->devices, free_text, NULL);
    map_done(&service->devices);
    placement_cluster_free(service->cluster);
}
