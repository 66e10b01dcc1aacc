/*
 * Changing a network.  What a machine in it would notice only at its next start (its range, its
 * gateway, its packets' size) can be changed while there is none.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/network/parts.h"

struct updating {
    struct network_service *service;
    char *key;
    json_t *update; /* what was given */
    struct network_settings settings;
    struct error error;
    network_done *done;
    void *context;
};

static bool is_given(const json_t *update, const char *field)
{
    return json_object_get(update, field) != NULL;
}

static bool has_new_range(const json_t *update)
{
    return is_given(update, "subnet") || is_given(update, "gateway");
}

/* ---- What it is now ---- */

/* As a NetworkCreate. */
static bool take_network(sqlite3_stmt *row, void *context)
{
    json_t **network = context;
    char subnet[NET_ADDRESS_TEXT_SIZE];
    char gateway[NET_ADDRESS_TEXT_SIZE];
    net_address_format((uint32_t)sqlite3_column_int64(row, 1), subnet);
    net_address_format((uint32_t)sqlite3_column_int64(row, 3), gateway);
    MEMORY_OWNED char *range = memory_format("%s/%d", subnet, sqlite3_column_int(row, 2));
    *network =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:b}", "name", store_text(row, 0), "subnet", range,
                  "gateway", gateway, "mode", store_text(row, 4), "mtu",
                  (json_int_t)sqlite3_column_int64(row, 5), "peering", sqlite3_column_int(row, 6));
    return false;
}

/* The network with the changes: as a whole it has to be one that could be made. */
static int merge(struct network_service *service, const char *key, const json_t *update,
                 struct network_settings *ret_settings, struct error *err)
{
    JSON_OWNED json_t *network = NULL;
    int r = store_query(service->options.store, err, take_network, &network,
                        "SELECT name, address, prefix, gateway, mode, mtu, is_peering FROM network "
                        "WHERE key = ?",
                        "t", key);
    if (r < 0) {
        return r;
    }
    if (network == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "there is no network %.128s", key);
    }
    if (is_given(update, "subnet")) {
        json_object_del(network, "gateway"); /* the first of the new range */
    }
    json_object_update(network, (json_t *)(uintptr_t)update);
    return settings_parse_network(network, ret_settings, err);
}

static int check(struct network_service *service, const char *project, const char *name,
                 const json_t *update, struct error *err)
{
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    bool needs_more = is_given(update, "dns") || is_given(update, "description");
    if (json_object_size(update) == 0) {
        return error_set(err, ERROR_INVALID, "nothing of network %.64s is to be changed", name);
    }
    if (needs_more && store_schema_now(service->options.store) < NETWORK_SETTINGS_SCHEMA) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a network has dns and a description once every node of the cluster has "
                         "this version of Blixard");
    }
    if (!has_new_range(update) && !is_given(update, "mtu")) {
        return 0;
    }
    return network_check_unused(service, key, project, name,
                                "its subnet, gateway and mtu stay until it is empty", err);
}

/* ---- Writing ---- */

static void end(struct updating *updating, const struct error *error, uint64_t index)
{
    updating->service->pending--;
    updating->done(error, index, updating->context);
    json_decref(updating->update);
    free(updating->key);
    free(updating);
}

static void on_updated(const struct error *error, uint64_t index, void *context)
{
    end(context, error, index);
}

static void add_range(const struct updating *updating, struct store_command *command)
{
    const struct network_settings *settings = &updating->settings;
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "these addresses are another network's, or a machine was made in it meanwhile",
        "UPDATE network SET address = ?2, last = ?3, prefix = ?4, gateway = ?5 WHERE key = ?1 AND "
        "NOT EXISTS (SELECT 1 FROM network_lease WHERE network = ?1) AND NOT EXISTS (SELECT 1 FROM "
        "network WHERE key <> ?1 AND address <= ?3 AND last >= ?2)",
        "tuuuu", updating->key, (uint64_t)settings->subnet.address,
        (uint64_t)range_last(&settings->subnet), (uint64_t)settings->subnet.prefix,
        (uint64_t)settings->gateway);
}

/* Only what was given: another may change something else at the same time. */
static void propose(struct updating *updating)
{
    const struct network_settings *settings = &updating->settings;
    const json_t *update = updating->update;
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "the network was deleted meanwhile",
                                "UPDATE network SET revision = ? WHERE key = ?", "rt",
                                updating->key);
    if (has_new_range(update)) {
        add_range(updating, command);
    }
    if (is_given(update, "mtu")) {
        store_command_add_expecting(command, ERROR_CONFLICT,
                                    "a machine was made in the network meanwhile",
                                    "UPDATE network SET mtu = ?2 WHERE key = ?1 AND NOT EXISTS "
                                    "(SELECT 1 FROM network_lease WHERE network = ?1)",
                                    "tu", updating->key, (uint64_t)settings->mtu);
    }
    if (is_given(update, "mode")) {
        store_command_add(command, "UPDATE network SET mode = ? WHERE key = ?", "tt",
                          settings_mode_text(settings->mode), updating->key);
    }
    if (is_given(update, "peering")) {
        store_command_add(command, "UPDATE network SET is_peering = ? WHERE key = ?", "ut",
                          (uint64_t)settings->is_peering, updating->key);
    }
    if (is_given(update, "dns")) {
        store_command_add(command, "UPDATE network SET dns = ? WHERE key = ?", "tt", settings->dns,
                          updating->key);
    }
    if (is_given(update, "description")) {
        store_command_add(command, "UPDATE network SET description = ? WHERE key = ?", "tt",
                          settings->description, updating->key);
    }
    store_propose(updating->service->options.store, command, on_updated, updating);
}

static void look_at_host(void *context)
{
    struct updating *updating = context;
    const struct network_range *subnet = &updating->settings.subnet;
    net_subnet_check(updating->service->owner, subnet->address, subnet->prefix, &updating->error);
}

static void on_looked(void *context)
{
    struct updating *updating = context;
    if (updating->error.kind != ERROR_NONE) {
        end(updating, &updating->error, 0);
    } else {
        propose(updating);
    }
}

void network_update(struct network_service *service, const char *project, const char *name,
                    const json_t *update, network_done *done, void *context)
{
    struct error err = {0};
    struct network_settings settings = {0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = network_check_schema(service, &err);
    r = r < 0 ? r : merge(service, key, update, &settings, &err);
    r = r < 0 ? r : check(service, project, name, update, &err);
    if (r < 0) {
        network_answer(service, &err, done, context);
        return;
    }
    struct updating *updating = NEW(struct updating);
    *updating = (struct updating){.service = service,
                                  .key = memory_copy_string(key),
                                  .update = json_deep_copy(update),
                                  .settings = settings,
                                  .done = done,
                                  .context = context};
    service->pending++;
    if (is_given(update, "subnet")) {
        loop_work(service->options.loop, look_at_host, on_looked, updating);
    } else {
        propose(updating);
    }
}
