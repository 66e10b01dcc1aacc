/* Networks, security groups and a machine's addresses as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/network/parts.h"

struct writing {
    struct network_service *service;
    struct json_writer writer;
    size_t count;
};

static const char *text_at(sqlite3_stmt *row, int column)
{
    return (const char *)sqlite3_column_text(row, column);
}

static void write_address(struct json_writer *writer, const char *key, sqlite3_stmt *row,
                          int column)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    json_write_field_string(writer, key,
                            net_address_format((uint32_t)sqlite3_column_int64(row, column), text));
}

/* ---- Networks ---- */

#define NETWORK(more, rest)                                                                      \
    "SELECT n.name, n.project, n.address, n.prefix, n.gateway, n.mode, n.mtu, n.is_peering, "    \
    "n.created_ms, n.vni, (SELECT count(*) FROM network_lease l WHERE l.network = n.key), " more \
    " FROM network n " rest
#define NETWORK_BY(rest)                                                 \
    (store_schema_now(service->options.store) >= NETWORK_SETTINGS_SCHEMA \
         ? NETWORK("n.description, n.dns", rest)                         \
         : NETWORK("'', ''", rest))

/* "9.9.9.9 2620:fe::fe" and " web db " as a list. */
static void write_words(struct json_writer *writer, const char *key, const char *words)
{
    json_write_key(writer, key);
    json_write_begin_array(writer);
    for (const char *at = words + strspn(words, " "); *at != '\0';) {
        size_t length = strcspn(at, " ");
        json_write_text(writer, at, length);
        at += length;
        at += strspn(at, " ");
    }
    json_write_end_array(writer);
}

static void write_network(struct json_writer *writer, sqlite3_stmt *row)
{
    char address[NET_ADDRESS_TEXT_SIZE];
    unsigned prefix = (unsigned)sqlite3_column_int(row, 3);
    uint64_t used = (uint64_t)sqlite3_column_int64(row, 10);
    net_address_format((uint32_t)sqlite3_column_int64(row, 2), address);
    MEMORY_OWNED char *subnet = memory_format("%s/%u", address, prefix);
    json_write_field_string(writer, "name", text_at(row, 0));
    json_write_field_string(writer, "project", text_at(row, 1));
    json_write_field_string(writer, "subnet", subnet);
    write_address(writer, "gateway", row, 4);
    json_write_field_string(writer, "mode", text_at(row, 5));
    json_write_field_u64(writer, "mtu", (uint64_t)sqlite3_column_int64(row, 6));
    json_write_field_bool(writer, "peering", sqlite3_column_int(row, 7) != 0);
    json_write_field_u64(writer, "vni", (uint64_t)sqlite3_column_int64(row, 9));
    json_write_field_u64(writer, "addresses_used", used);
    /* All but those of the subnet, of the gateway and of broadcast. */
    json_write_field_u64(writer, "addresses_free", (UINT64_C(1) << (32 - prefix)) - 3 - used);
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 8));
    json_write_field_string(writer, "description", text_at(row, 11));
    write_words(writer, "dns", text_at(row, 12));
}

static bool take_network(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    writing->count++;
    json_write_begin_object(&writing->writer);
    write_network(&writing->writer, row);
    json_write_end_object(&writing->writer);
    return true;
}

static bool take_open_network(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    writing->count++;
    json_write_begin_object(&writing->writer);
    write_network(&writing->writer, row);
    return false;
}

static bool take_lease(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "machine", text_at(row, 0));
    json_write_field_string(writer, "node", text_at(row, 1));
    write_address(writer, "address", row, 2);
    json_write_field_string(writer, "mac", text_at(row, 3));
    write_words(writer, "groups", text_at(row, 4));
    json_write_end_object(writer);
    return true;
}

int network_write(struct network_service *service, const char *project, const char *name,
                  struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = network_check_schema(service, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_open_network, &writing,
                            NETWORK_BY("WHERE n.key = ?"), "t", key);
    if (r == 0 && writing.count == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no network %.64s in project %s; see `blixard network list`",
                         name, project);
    }
    if (r < 0) {
        return r;
    }
    json_write_key(&writing.writer, "leases");
    json_write_begin_array(&writing.writer);
    r = store_query(service->options.store, err, take_lease, &writing.writer,
                    "SELECT m.name, m.node, l.address, l.mac, l.groups FROM network_lease l JOIN "
                    "machine m ON m.id = l.machine WHERE l.network = ? ORDER BY l.address",
                    "t", key);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

static int write_list(struct network_service *service, const char *what, const char *sql,
                      bool (*take)(sqlite3_stmt *row, void *context), const char *project,
                      struct buffer *out, struct error *err)
{
    struct writing writing = {service, json_writer_to(out), 0};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, what);
    json_write_begin_array(&writing.writer);
    int r = store_schema_now(service->options.store) < NETWORK_SCHEMA
        ? 0
        : store_query(service->options.store, err, take, &writing, sql, "t", project);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

int network_write_list(struct network_service *service, const char *project, struct buffer *out,
                       struct error *err)
{
    return write_list(service, "networks", NETWORK_BY("WHERE n.project = ? ORDER BY n.name"),
                      take_network, project, out, err);
}

/* ---- Security groups ---- */

#define GROUP                                                                                 \
    "SELECT g.name, g.project, g.created_ms, (SELECT count(*) FROM security_group_rule r "    \
    "WHERE r.grp = g.key), (SELECT count(DISTINCT m.id) FROM network_lease l JOIN machine m " \
    "ON m.id = l.machine WHERE m.project = g.project AND instr(l.groups, ' ' || g.name || ' " \
    "') > 0) FROM security_group g "

static void write_group(struct json_writer *writer, sqlite3_stmt *row)
{
    json_write_field_string(writer, "name", text_at(row, 0));
    json_write_field_string(writer, "project", text_at(row, 1));
    json_write_field_u64(writer, "rule_count", (uint64_t)sqlite3_column_int64(row, 3));
    json_write_field_u64(writer, "machine_count", (uint64_t)sqlite3_column_int64(row, 4));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 2));
}

static bool take_group(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    json_write_begin_object(&writing->writer);
    write_group(&writing->writer, row);
    json_write_end_object(&writing->writer);
    return true;
}

static bool take_open_group(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    writing->count++;
    json_write_begin_object(&writing->writer);
    write_group(&writing->writer, row);
    return false;
}

static bool take_rule(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "direction", text_at(row, 0));
    json_write_field_string(writer, "allow", text_at(row, 1));
    json_write_field_string(writer, "peer", text_at(row, 2));
    json_write_end_object(writer);
    return true;
}

static bool take_string(sqlite3_stmt *row, void *context)
{
    json_write_string(context, text_at(row, 0));
    return true;
}

int network_group_write(struct network_service *service, const char *project, const char *name,
                        struct buffer *out, struct error *err)
{
    struct store *store = service->options.store;
    struct writing writing = {service, json_writer_to(out), 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *pattern = memory_format(" %s ", name);
    int r = network_check_schema(service, err);
    r = r < 0
        ? r
        : store_query(store, err, take_open_group, &writing, GROUP "WHERE g.key = ?", "t", key);
    if (r == 0 && writing.count == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no security group %.64s in project %s; see `blixard "
                         "security-group list`",
                         name, project);
    }
    if (r < 0) {
        return r;
    }
    json_write_key(&writing.writer, "rules");
    json_write_begin_array(&writing.writer);
    r = store_query(store, err, take_rule, &writing.writer,
                    "SELECT direction, allow, peer FROM security_group_rule WHERE grp = ? ORDER BY "
                    "direction, allow, peer",
                    "t", key);
    json_write_end_array(&writing.writer);
    json_write_key(&writing.writer, "machines");
    json_write_begin_array(&writing.writer);
    r = r < 0 ? r
              : store_query(store, err, take_string, &writing.writer,
                            "SELECT DISTINCT m.name FROM network_lease l JOIN machine m ON m.id = "
                            "l.machine WHERE m.project = ? AND instr(l.groups, ?) > 0 ORDER BY "
                            "m.name",
                            "tt", project, pattern);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

int network_group_write_list(struct network_service *service, const char *project,
                             struct buffer *out, struct error *err)
{
    return write_list(service, "security_groups", GROUP "WHERE g.project = ? ORDER BY g.name",
                      take_group, project, out, err);
}

/* ---- Of a machine ---- */

static bool take_address(sqlite3_stmt *row, void *context)
{
    char text[NET_ADDRESS_TEXT_SIZE];
    json_write_string(context, net_address_format((uint32_t)sqlite3_column_int64(row, 0), text));
    return true;
}

static bool take_interface(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "network", text_at(row, 0));
    write_address(writer, "address", row, 1);
    json_write_field_string(writer, "mac", text_at(row, 2));
    write_words(writer, "groups", text_at(row, 3));
    json_write_end_object(writer);
    return true;
}

void network_write_machine(struct network_service *service, const char *machine_id,
                           struct json_writer *writer)
{
    struct error ignored = {0};
    struct store *store = service->options.store;
    if (store_schema_now(store) < NETWORK_SCHEMA) {
        return;
    }
    json_write_key(writer, "addresses");
    json_write_begin_array(writer);
    store_query(store, &ignored, take_address, writer,
                "SELECT address FROM network_lease WHERE machine = ? ORDER BY nic", "t",
                machine_id);
    json_write_end_array(writer);
    json_write_key(writer, "interfaces");
    json_write_begin_array(writer);
    store_query(store, &ignored, take_interface, writer,
                "SELECT n.name, l.address, l.mac, l.groups FROM network_lease l JOIN network n ON "
                "n.key = l.network WHERE l.machine = ? ORDER BY l.nic",
                "t", machine_id);
    json_write_end_array(writer);
}
