/*
 * The rows of `holder`: which node can run which version.  Each node writes its own: what it says
 * is compared with what it has, and the difference goes into one command; what changes meanwhile,
 * into the next one.  Never more than one is under way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"

#include "service/function/parts.h"

enum { CHANGES_MAX = 256 };

/* ---- This node's ---- */

static void add_row(struct store_command *command, const char *version, uint64_t node,
                    const char *tier)
{
    char key[FUNCTION_KEY_SIZE + 24];
    snprintf(key, sizeof(key), "%s/%" PRIu64, version, node);
    store_command_add(command,
                      "INSERT INTO holder (key, version, node, tier, revision) SELECT ?, key, ?, "
                      "?, ? FROM version WHERE key = ? AND state = 'ready' ON CONFLICT (key) DO "
                      "UPDATE SET tier = excluded.tier, revision = excluded.revision",
                      "tutrt", key, node, tier, version);
}

void holder_add(struct function_service *service, struct store_command *command, const char *key,
                const char *tier)
{
    add_row(command, key, service_node(service), tier);
}

struct difference {
    struct function_service *service;
    struct store_command *command;
    unsigned count;
    uint64_t node;
};

static void clear_held(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    ((struct local *)value)->held[0] = '\0';
}

/* What the state says: true of this node, or to be taken back. */
static bool compare_row(sqlite3_stmt *row, void *context)
{
    struct difference *difference = context;
    const char *key = (const char *)sqlite3_column_text(row, 0);
    const char *version = (const char *)sqlite3_column_text(row, 1);
    uint64_t node = (uint64_t)sqlite3_column_int64(row, 2);
    struct local *local = map_get(&difference->service->locals, version);
    if (local != NULL && local->target != NULL && node == difference->node) {
        snprintf(local->held, sizeof(local->held), "%s", (const char *)sqlite3_column_text(row, 3));
    } else if (difference->count < CHANGES_MAX) {
        store_command_add(difference->command, "DELETE FROM holder WHERE key = ?", "t", key);
        difference->count++;
    }
    return true;
}

static void compare_local(const char *key, void *value, void *context)
{
    struct difference *difference = context;
    const struct local *local = value;
    bool is_first_build = local->build != NULL && !local->build->was_ready;
    if (local->target == NULL || is_first_build || difference->count >= CHANGES_MAX ||
        strcmp(local->held, local->target->tier) == 0) {
        return;
    }
    add_row(difference->command, key, difference->node, local->target->tier);
    difference->count++;
}

static void post_flush(struct function_service *service);

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct function_service *service = context;
    (void)index;
    service->holders_are_written = false;
    if (error != NULL) {
        log_warn("function: which versions can run here could not be written: %s", error->text);
        service->holders_are_stale = true;
        reconcile_later(service);
        return;
    }
    if (service->holders_are_stale) {
        post_flush(service);
    }
}

static void flush(struct function_service *service)
{
    struct difference difference = {
        .service = service, .command = store_command_new(), .node = service_node(service)};
    uint64_t before = service->holder_node != 0 ? service->holder_node : difference.node;
    struct error err = {0};
    map_each(&service->locals, clear_held, NULL);
    int r = store_query(service->options.store, &err, compare_row, &difference,
                        "SELECT key, version, node, tier FROM holder WHERE node = ? OR node = ?",
                        "uu", difference.node, before);
    map_each(&service->locals, compare_local, &difference);
    service->holders_are_stale = difference.count >= CHANGES_MAX;
    service->holder_node = difference.node;
    if (r < 0 || difference.count == 0) {
        store_command_free(difference.command);
        return;
    }
    service->holders_are_written = true;
    store_propose(service->options.store, difference.command, on_written, service);
}

static void flush_posted(void *argument)
{
    struct function_service *service = argument;
    service->holders_are_posted = false;
    if (!service->stopping && !service->holders_are_written) {
        flush(service);
    }
}

static void post_flush(struct function_service *service)
{
    if (!service->holders_are_posted && !service->stopping) {
        service->holders_are_posted = true;
        loop_post(service->options.loop, flush_posted, service);
    }
}

/* Before it is ready a node that is alone says nothing: nobody would ask another. */
void holders_mark_stale(struct function_service *service)
{
    service->holders_are_stale = true;
    if (!service->holders_are_written && (service->is_ready || service_has_others(service))) {
        post_flush(service);
    }
}

/* ---- The others' ---- */

struct listing {
    uint64_t own;
    size_t max;
    size_t count;
    uint64_t nodes[FUNCTION_HOLDERS_MAX];
};

static bool list_node(sqlite3_stmt *row, void *context)
{
    struct listing *listing = context;
    uint64_t node = (uint64_t)sqlite3_column_int64(row, 0);
    if (node != listing->own && listing->count < listing->max) {
        listing->nodes[listing->count++] = node;
    }
    return listing->count < listing->max;
}

size_t holders_of(struct function_service *service, const char *key, bool is_optimized,
                  uint64_t *ret_nodes, size_t nodes_max)
{
    struct error ignored = {0};
    struct listing listing = {.own = service_node(service), .max = nodes_max};
    CHECK(nodes_max <= FUNCTION_HOLDERS_MAX);
    store_query(service->options.store, &ignored, list_node, &listing,
                "SELECT node FROM holder WHERE version = ? AND (tier = 'optimized' OR ?) ORDER BY "
                "tier DESC, node",
                "ti", key, (int64_t)!is_optimized);
    memcpy(ret_nodes, listing.nodes, listing.count * sizeof(listing.nodes[0]));
    return listing.count;
}

struct writing {
    struct function_service *service;
    struct json_writer *writer;
};

static bool write_holder(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = writing->writer;
    const char *name = (const char *)sqlite3_column_text(row, 0);
    bool is_own = (uint64_t)sqlite3_column_int64(row, 1) == service_node(writing->service);
    if (name == NULL && is_own) {
        name = writing->service->options.node_name; /* of a node that is in no cluster */
    }
    if (name != NULL) {
        json_write_begin_object(writer);
        json_write_field_string(writer, "name", name);
        json_write_field_string(writer, "tier", (const char *)sqlite3_column_text(row, 2));
        json_write_end_object(writer);
    }
    return true;
}

void holders_write(struct function_service *service, struct json_writer *writer, const char *key)
{
    struct error ignored = {0};
    struct writing writing = {service, writer};
    json_write_key(writer, "nodes");
    json_write_begin_array(writer);
    store_query(service->options.store, &ignored, write_holder, &writing,
                "SELECT n.key, h.node, h.tier FROM holder h LEFT JOIN node n ON n.id = h.node "
                "WHERE h.version = ? ORDER BY n.key",
                "t", key);
    json_write_end_array(writer);
}
