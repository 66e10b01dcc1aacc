/*
 * Leases: which machine has which address.
 *
 * The address is chosen by the very statement that writes it: the lowest that is free when the
 * command is applied, so two that are made at once on two nodes get two.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/network/parts.h"

/* ---- What is asked for ---- */

struct found {
    bool is_there;
    struct network_range subnet;
    uint32_t gateway;
};

static bool take_network(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    found->is_there = true;
    found->subnet.address = (uint32_t)sqlite3_column_int64(row, 0);
    found->subnet.prefix = (unsigned)sqlite3_column_int(row, 1);
    found->gateway = (uint32_t)sqlite3_column_int64(row, 2);
    return false;
}

/* " web db ", in which a name can be found with the blanks around it. */
static int join_groups(struct network_service *service, const char *project, const json_t *nic,
                       struct buffer *out, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    const json_t *groups = json_object_get(nic, "groups");
    if (json_array_size(groups) > NETWORK_GROUPS_MAX) {
        return error_set(err, ERROR_INVALID, "a machine is in at most %d security groups",
                         NETWORK_GROUPS_MAX);
    }
    buffer_append_string(out, " ");
    json_array_foreach(groups, index, value)
    {
        bool is_there = false;
        const char *name = json_string_value(value);
        MEMORY_OWNED char *key = memory_format("%s/%.64s", project, name);
        int r = store_query(service->options.store, err, store_take_any, &is_there,
                            "SELECT 1 FROM security_group WHERE key = ?", "t", key);
        if (r == 0 && !is_there) {
            r = error_set(err, ERROR_NOT_FOUND,
                          "there is no security group \"%.64s\" in project %s; make it with: "
                          "blixard security-group create %.64s",
                          name, project, name);
        }
        if (r < 0) {
            return r;
        }
        buffer_append_format(out, "%s ", name);
    }
    if (json_array_size(groups) > 0 && !service->probe.can_filter) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "node %s has no security groups: its kernel lacks br_netfilter",
                         service->node_name);
    }
    return 0;
}

/* Locally administered, and one for each interface. */
static void choose_mac(const char *machine_id, unsigned nic, char ret_mac[NET_MAC_TEXT_SIZE])
{
    snprintf(ret_mac, NET_MAC_TEXT_SIZE, "%02x:%.2s:%.2s:%.2s:%.2s:%.2s", 2 + 4 * nic, machine_id,
             machine_id + 2, machine_id + 4, machine_id + 6, machine_id + 8);
}

void network_choose_mac(const char *given, const char *machine_id, unsigned nic, uint8_t ret_mac[6])
{
    char text[NET_MAC_TEXT_SIZE];
    if (!net_mac_parse(given, ret_mac)) {
        choose_mac(machine_id, nic, text);
        net_mac_parse(text, ret_mac);
    }
}

static int take_mac(struct network_service *service, const char *key, const json_t *nic,
                    char ret_mac[NET_MAC_TEXT_SIZE], struct error *err)
{
    uint8_t mac[NET_MAC_SIZE];
    bool is_taken = false;
    const char *text = json_text(nic, "mac");
    if (!net_mac_parse(text, mac)) {
        return error_set(err, ERROR_INVALID,
                         "mac \"%.40s\" is no MAC address of one interface, as in "
                         "02:00:00:00:00:01",
                         text);
    }
    net_mac_format(mac, ret_mac);
    int r = store_query(service->options.store, err, store_take_any, &is_taken,
                        "SELECT 1 FROM network_lease WHERE network = ? AND mac = ?", "tt", key,
                        ret_mac);
    return r < 0 || !is_taken
        ? r
        : error_set(err, ERROR_CONFLICT, "MAC address %s is another machine's", ret_mac);
}

static int take_address(const struct found *network, const char *name, const char *text,
                        uint32_t *ret_address, struct error *err)
{
    uint32_t address = 0;
    char shown[NET_ADDRESS_TEXT_SIZE];
    if (text[0] == '\0') {
        *ret_address = 0;
        return 0;
    }
    if (!net_address_parse(text, &address)) {
        return error_set(err, ERROR_INVALID, "address \"%.40s\" is no IPv4 address", text);
    }
    net_address_format(network->subnet.address, shown);
    if (address <= network->subnet.address || address >= range_last(&network->subnet)) {
        return error_set(err, ERROR_INVALID, "address %s is none of network %s, which has %s/%u",
                         text, name, shown, network->subnet.prefix);
    }
    if (address == network->gateway) {
        return error_set(err, ERROR_INVALID, "address %s is the gateway of network %s", text, name);
    }
    *ret_address = address;
    return 0;
}

/* ---- Adding ---- */

static void add_given(struct store_command *command, const char *key, const char *name,
                      uint32_t address, const char *machine, unsigned nic, const char *mac,
                      const char *groups)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    MEMORY_OWNED char *taken = memory_format("address %s of network %s is another machine's",
                                             net_address_format(address, text), name);
    store_command_add_expecting(
        command, ERROR_CONFLICT, taken,
        "INSERT INTO network_lease (network, address, machine, nic, mac, groups) SELECT key, ?2, "
        "?3, ?4, ?5, ?6 FROM network WHERE key = ?1 AND ?2 > address AND ?2 < last AND ?2 <> "
        "gateway AND NOT EXISTS (SELECT 1 FROM network_lease WHERE network = ?1 AND address = ?2)",
        "tututt", key, (uint64_t)address, machine, (uint64_t)nic, mac, groups);
}

/* What is free and lowest is the first address, or follows one that is not free. */
static void add_chosen(struct store_command *command, const char *key, const char *name,
                       const char *machine, unsigned nic, const char *mac, const char *groups)
{
    MEMORY_OWNED char *full = memory_format(
        "network %s has no address left: delete machines, or make another network", name);
    store_command_add_expecting(
        command, ERROR_LIMIT, full,
        "INSERT INTO network_lease (network, address, machine, nic, mac, groups) SELECT n.key, "
        "(SELECT min(a) FROM (SELECT n.address + 1 AS a UNION ALL SELECT n.gateway + 1 UNION ALL "
        "SELECT address + 1 FROM network_lease WHERE network = n.key) WHERE a < n.last AND a <> "
        "n.gateway AND a NOT IN (SELECT address FROM network_lease WHERE network = n.key)) AS "
        "chosen, ?2, ?3, ?4, ?5 FROM network n WHERE n.key = ?1 AND chosen IS NOT NULL",
        "ttutt", key, machine, (uint64_t)nic, mac, groups);
}

static int add_one(struct network_service *service, struct store_command *command,
                   const char *project, const char *machine_id, const json_t *nic, unsigned index,
                   struct error *err)
{
    const char *name = json_text(nic, "network");
    struct found network = {0};
    uint32_t address = 0;
    char mac[NET_MAC_TEXT_SIZE];
    BUFFER_OWNED struct buffer groups = {0};
    MEMORY_OWNED char *key = memory_format("%s/%.64s", project, name);
    int r = store_query(service->options.store, err, take_network, &network,
                        "SELECT address, prefix, gateway FROM network WHERE key = ?", "t", key);
    if (r == 0 && !network.is_there) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no network \"%.64s\" in project %s; see `blixard network list`, "
                         "or make it with: blixard network create %.64s",
                         name, project, name);
    }
    choose_mac(machine_id, index, mac);
    r = r < 0 ? r : take_address(&network, name, json_text(nic, "address"), &address, err);
    if (r == 0 && json_text(nic, "mac")[0] != '\0') {
        r = take_mac(service, key, nic, mac, err);
    }
    r = r < 0 ? r : join_groups(service, project, nic, &groups, err);
    if (r < 0) {
        return r;
    }
    if (address != 0) {
        add_given(command, key, name, address, machine_id, index, mac, buffer_string(&groups));
    } else {
        add_chosen(command, key, name, machine_id, index, mac, buffer_string(&groups));
    }
    return 0;
}

int network_add_leases(struct network_service *service, struct store_command *command,
                       const char *project, const char *machine_id, const json_t *nics,
                       struct error *err)
{
    size_t count = json_array_size(nics);
    if (count == 0) {
        return 0;
    }
    if (count > NETWORK_NICS_MAX) {
        return error_set(err, ERROR_INVALID, "a machine is in at most %d networks",
                         NETWORK_NICS_MAX);
    }
    int r = network_check_schema(service, err);
    r = r < 0 ? r : network_check_here(service, err);
    for (size_t i = 0; i < count && r == 0; i++) {
        const json_t *nic = json_array_get(nics, i);
        for (size_t k = 0; k < i; k++) {
            const json_t *other = json_array_get(nics, k);
            if (strcmp(json_text(nic, "network"), json_text(other, "network")) == 0) {
                return error_set(err, ERROR_INVALID, "network %.64s is named twice",
                                 json_text(nic, "network"));
            }
        }
        r = add_one(service, command, project, machine_id, nic, (unsigned)i, err);
    }
    return r;
}

/* ---- Reading ---- */

struct nics {
    const char *machine;
    struct network_nic *list;
    size_t count;
};

static bool take_nic(sqlite3_stmt *row, void *context)
{
    struct nics *nics = context;
    char address[NET_ADDRESS_TEXT_SIZE];
    if (nics->count == NETWORK_NICS_MAX) {
        return false;
    }
    struct network_nic *nic = &nics->list[nics->count++];
    *nic = (struct network_nic){.mtu = (unsigned)sqlite3_column_int(row, 4)};
    plan_tap_name(nics->machine, (unsigned)sqlite3_column_int(row, 0), nic->tap);
    snprintf(nic->network, sizeof(nic->network), "%s", store_text(row, 7));
    net_address_format((uint32_t)sqlite3_column_int64(row, 1), address);
    snprintf(nic->address, sizeof(nic->address), "%s/%d", address, sqlite3_column_int(row, 2));
    net_address_format((uint32_t)sqlite3_column_int64(row, 3), nic->server);
    if (strcmp((const char *)sqlite3_column_text(row, 6), "closed") != 0) {
        memcpy(nic->gateway, nic->server, sizeof(nic->gateway));
    }
    snprintf(nic->mac_text, sizeof(nic->mac_text), "%s", (const char *)sqlite3_column_text(row, 5));
    net_mac_parse(nic->mac_text, nic->mac);
    return true;
}

int network_nics(struct network_service *service, const char *machine_id,
                 struct network_nic ret_nics[NETWORK_NICS_MAX], size_t *ret_count,
                 struct error *err)
{
    struct nics nics = {machine_id, ret_nics, 0};
    *ret_count = 0;
    if (store_schema_now(service->options.store) < NETWORK_SCHEMA) {
        return 0;
    }
    int r = store_query(
        service->options.store, err, take_nic, &nics,
        "SELECT l.nic, l.address, n.prefix, n.gateway, n.mtu, l.mac, n.mode, n.name FROM "
        "network_lease l JOIN network n ON n.key = l.network WHERE l.machine = ? "
        "ORDER BY l.nic",
        "t", machine_id);
    *ret_count = r < 0 ? 0 : nics.count;
    return r;
}
