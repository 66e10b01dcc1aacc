/*
 * Machines that are placed: their rows, and the check that the log makes once more.
 *
 * Whoever decides where a machine is to be does so from the state as it knows it.  Others may have
 * placed something there at the same moment, so that the command which says where it is fails when
 * there is no room any more (optimistic concurrency): one decides again then.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"

enum { SCHEMA_WITH_PLACEMENT = 8, SCHEMA_WITH_PAGES = 12, SCHEMA_WITH_COUNT = 13, MILLI = 1000 };

bool draft_is_known(const struct machine_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_PLACEMENT;
}

static bool knows_pages(const struct machine_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_PAGES;
}

static bool knows_counts(const struct machine_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_COUNT;
}

int draft_check_pages(const struct machine_service *service, const json_t *config,
                      struct error *err)
{
    return machine_config_page_bytes(config) == 0 || knows_pages(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "huge_pages: not all nodes know them: upgrade them first");
}

static void add_event(struct machine_service *service, struct store_command *command,
                      const char *project, const char *name, const char *id, const char *node,
                      const char *type, const char *state, const char *reason)
{
    const struct machine_event event = {.project = project,
                                        .machine = name,
                                        .machine_id = id,
                                        .node = node,
                                        .type = type,
                                        .state = state,
                                        .reason = reason};
    events_add(service, command, &event);
}

void draft_add_row(struct machine_service *service, struct store_command *command,
                   const char *project, const char *id, const json_t *config, const char *node)
{
    const char *name = json_text(config, "name");
    bool is_halted = strcmp(json_text(config, "strategy"), "Halted") == 0;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    MEMORY_OWNED char *exists = memory_format("there is a machine %s already", name);
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, clock_real_ms());
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO machine (key, project, name, id, node, config, desired, state, restarts, "
        "created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, 'creating', 0, ?8, ?9 "
        "WHERE NOT EXISTS (SELECT 1 FROM machine WHERE key = ?1)",
        "tttttttur", key, project, name, id, node, text, is_halted ? "stopped" : "running",
        clock_real_ms());
    add_event(service, command, project, name, id, node, "vm.created",
              machine_state_text(MACHINE_CREATING), "");
}

/* Commands do not read JSON: what a machine takes stands beside its settings. */
void draft_add_claim(const struct machine_service *service, struct store_command *command,
                     const char *id, const json_t *config)
{
    uint64_t cpus = json_u64(config, "cpus");
    bool is_dedicated = json_is_true(json_object_get(config, "dedicated_cpus"));
    if (draft_is_known(service)) {
        store_command_add(command,
                          "UPDATE machine SET cpu_millis = ?, cores = ?, memory_bytes = ?, "
                          "disk_bytes = ? WHERE id = ?",
                          "uuuut", is_dedicated ? 0 : cpus * MILLI, is_dedicated ? cpus : 0,
                          json_u64(config, "memory_bytes"), json_u64(config, "disk_bytes"), id);
    }
    if (knows_pages(service)) {
        store_command_add(command, "UPDATE machine SET page_bytes = ? WHERE id = ?", "ut",
                          machine_config_page_bytes(config), id);
    }
    if (knows_counts(service)) {
        store_command_add(command, "UPDATE machine SET devices = ? WHERE id = ?", "ut",
                          devices_count(config), id);
    }
}

/*
 * What is wanted of a node's machines and kept on it, against what it may give: as the engine
 * counts (stopped machines have their disks alone; cores of one's own are not overcommitted).  A
 * node that has not said what it has is believed to have enough.
 */
#define WANTED(what) "(SELECT coalesce(sum(" what "), 0) FROM machine m WHERE m.node = n.key)"
#define RUNNING(what, which)                                                                   \
    "(SELECT coalesce(sum(" what "), 0) FROM machine m WHERE m.node = n.key AND m.desired IN " \
    "('running', 'paused')" which ")"
#define OF_PAGES(size) " AND page_bytes = " size
#define KEPT(what, which)                                                                         \
    "(SELECT coalesce(sum(r." what "), 0) FROM placement_reservation r WHERE r.node = n.key AND " \
    "r.expires_ms > ?2" which ")"

#define CPU "m.cpu_millis + m.cores * 10 * n.cpu_percent"
#define LACKS_MEMORY(which, kept) \
    "n.memory_bytes < " RUNNING("m.memory_bytes", which) " + " KEPT("memory_bytes", kept)
#define LACKS_PAGES(column, size) "n." column " < " RUNNING("m.memory_bytes", OF_PAGES(size))
#define LACKS_KEPT_PAGES(column, size) \
    LACKS_PAGES(column, size) " + " KEPT("memory_bytes", OF_PAGES(size))
#define LACKS_DISK "n.disk_bytes < " WANTED("m.disk_bytes") " + " KEPT("disk_bytes", "")
#define LACKS_CPU  "n.cpu_millis < " RUNNING(CPU, "") " + " KEPT("cpu_millis", "")

/* What is of huge pages is no other memory. */
#define LACKS_BEFORE LACKS_MEMORY("", "") /* of nodes that do not all know huge pages */
#define LACKS_UNKEPT                                                \
    LACKS_MEMORY(OF_PAGES("0"), "") /* nor that they can be kept */ \
    " OR " LACKS_PAGES("huge_2m_bytes", "2097152") " OR " LACKS_PAGES("huge_1g_bytes", "1073741824")
#define LACKS_NOW                                                                                \
    LACKS_MEMORY(OF_PAGES("0"), OF_PAGES("0"))                                                   \
    " OR " LACKS_KEPT_PAGES("huge_2m_bytes", "2097152") " OR " LACKS_KEPT_PAGES("huge_1g_bytes", \
                                                                                "1073741824")

/* Of the row's node; ?1 is the row's key or id, ?2 the time. */
#define HAS_ROOM(table, lacks)                                                                 \
    "NOT EXISTS (SELECT 1 FROM node WHERE key = " table ".node AND duty <> 'active') AND NOT " \
    "EXISTS (SELECT 1 FROM placement_room n WHERE n.key = " table ".node AND (" lacks          \
    " OR " LACKS_DISK " OR " LACKS_CPU "))"
#define CHECK_ROOM(table, column, lacks) \
    "UPDATE " table " SET revision = revision WHERE " column " = ?1 AND " HAS_ROOM(table, lacks)

/* By what all nodes know. */
#define CHECKS(table, column)                                                             \
    {                                                                                     \
        CHECK_ROOM(table, column, LACKS_BEFORE), CHECK_ROOM(table, column, LACKS_UNKEPT), \
            CHECK_ROOM(table, column, LACKS_NOW)                                          \
    }
static const char *const machine_checks[] = CHECKS("machine", "id");
static const char *const reservation_checks[] = CHECKS("placement_reservation", "key");

static const char NO_ROOM[] = "the node takes nothing new, or has no room for it any more";

void draft_add_check(const struct machine_service *service, struct store_command *command,
                     const char *project, const char *id, const json_t *config)
{
    const char *reservation = json_text(config, "reservation");
    if (!draft_is_known(service)) {
        return;
    }
    if (reservation[0] != '\0') { /* it takes its place */
        MEMORY_OWNED char *key = memory_format("%s/%s", project, reservation);
        store_command_add(command, "DELETE FROM placement_reservation WHERE key = ?", "t", key);
    }
    store_command_add_expecting(command, ERROR_CONFLICT, NO_ROOM,
                                machine_checks[knows_pages(service) + knows_counts(service)], "tu",
                                id, clock_real_ms());
}

void machine_add_reservation_check(const struct machine_service *service,
                                   struct store_command *command, const char *key)
{
    store_command_add_expecting(command, ERROR_CONFLICT, NO_ROOM,
                                reservation_checks[knows_pages(service) + knows_counts(service)],
                                "tu", key, clock_real_ms());
}

/* ---- Of who displaces ---- */

static bool take_key(sqlite3_stmt *row, void *context)
{
    snprintf(context, MACHINE_REASON_SIZE / 2, "%.150s", store_text(row, 0));
    return false;
}

/* The room is there by the rows at once, and by the memory of this node when they have ended. */
bool draft_waits(const struct machine *machine, char *ret_reason, size_t size)
{
    struct machine_service *service = machine->service;
    char other[MACHINE_REASON_SIZE / 2] = "";
    struct error ignored = {0};
    if (!draft_is_known(service)) {
        return false;
    }
    MEMORY_OWNED char *why = memory_format("displaced by machine %s:", machine->name);
    store_query(service->options.store, &ignored, take_key, other,
                "SELECT key FROM machine WHERE node = ?1 AND desired = 'stopped' AND pending_ms IS "
                "NOT NULL AND state NOT IN ('creating', 'pending', 'stopped', 'failed') AND "
                "instr(pending_reason, ?2) = 1 LIMIT 1",
                "tt", service->node_name, why);
    if (other[0] == '\0') {
        return false;
    }
    snprintf(ret_reason, size, "it starts when %s, which makes room for it, has ended", other);
    return true;
}

/* ---- Of who decides: see machine.h ---- */

int machine_complete(const json_t *create, json_t **ret_config, struct error *err)
{
    return settings_complete(create, ret_config, err);
}

int machine_draft(struct machine_service *service, const char *project, const json_t *create,
                  struct machine_draft *ret_draft, struct error *err)
{
    JSON_OWNED json_t *config = NULL;
    const char *bound = json_object_get(create, "user_data") != NULL ? "user data"
        : json_array_size(json_object_get(create, "shares")) > 0     ? "shared folders"
                                                                     : NULL;
    if (bound != NULL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a machine with %s does not wait for room, is not one of many and "
                         "displaces none: those are its node's alone",
                         bound);
    }
    int r = settings_complete(create, &config, err);
    r = r < 0 ? r : draft_check_pages(service, config, err);
    r = r < 0 ? r : devices_check_known(service, config, err);
    r = r < 0 ? r : request_take_image(service, project, config, err);
    r = r < 0 ? r : after_check(service, project, config, err);
    r = r < 0 ? r : request_check_free(service, project, json_text(config, "name"), err);
    if (r == 0) {
        *ret_draft = (struct machine_draft){.config = json_incref(config)};
        random_hex(ret_draft->id, sizeof(ret_draft->id) - 1);
    }
    return r;
}

void machine_draft_done(struct machine_draft *draft)
{
    json_decref(draft->config);
    draft->config = NULL;
}

int machine_draft_add(struct machine_service *service, const char *project,
                      const struct machine_draft *draft, const char *node_or_null,
                      const char *reason, struct store_command *command, struct error *err)
{
    bool has_node = node_or_null != NULL;
    int r = machine_volumes_add(service, project, json_text(draft->config, "name"),
                                json_text(draft->config, "driver"),
                                json_object_get(draft->config, "volumes"), command, err);
    if (r < 0) {
        return r;
    }
    json_object_del(draft->config, "volumes"); /* rows of their own say so from now on */
    draft_add_row(service, command, project, draft->id, draft->config,
                  has_node ? node_or_null : "");
    draft_add_claim(service, command, draft->id, draft->config);
    settings_add_quota(service, command, project, NULL, draft->config);
    if (has_node) {
        draft_add_check(service, command, project, draft->id, draft->config);
        machine_add_devices(service, command, draft->id, draft->config, node_or_null);
    } else {
        store_command_add(command,
                          "UPDATE machine SET state = 'pending', pending_ms = ?, pending_reason = "
                          "? WHERE id = ?",
                          "utt", clock_real_ms(), reason, draft->id);
        add_event(service, command, project, json_text(draft->config, "name"), draft->id, "",
                  "vm.pending", "pending", reason);
    }
    return network_add_leases(service->options.networks, command, project, draft->id,
                              json_object_get(draft->config, "networks"), err);
}

void machine_add_assignment(struct machine_service *service, struct store_command *command,
                            const char *project, const char *id, const json_t *config,
                            const char *node)
{
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine is placed, or gone, by now",
        "UPDATE machine SET state = 'creating', node = ?1, pending_ms = NULL, pending_reason = "
        "NULL, revision = ?2 WHERE id = ?3 AND node = '' AND pending_ms IS NOT NULL AND desired "
        "<> 'deleted'",
        "trt", node, id);
    add_event(service, command, project, json_text(config, "name"), id, node, "vm.placed",
              machine_state_text(MACHINE_CREATING), "");
    draft_add_check(service, command, project, id, config);
    machine_add_devices(service, command, id, config, node);
}

void machine_add_return(struct machine_service *service, struct store_command *command,
                        const char *project, const char *id, const json_t *config, const char *node)
{
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine is elsewhere, or gone, by now",
        "UPDATE machine SET desired = 'running', pending_ms = NULL, pending_reason = NULL, "
        "revision = ?1 WHERE id = ?2 AND node = ?3 AND pending_ms IS NOT NULL AND desired = "
        "'stopped'",
        "rtt", id, node);
    draft_add_check(service, command, project, id, config);
    machine_add_devices(service, command, id, config, node);
}

void machine_add_displacement(struct machine_service *service, struct store_command *command,
                              const struct machine_displaced *displaced)
{
    store_command_add(command,
                      "UPDATE machine SET desired = 'stopped', pending_ms = ?1, pending_reason = "
                      "?2, revision = ?3 WHERE id = ?4 AND node = ?5 AND desired IN ('running', "
                      "'paused')",
                      "utrtt", clock_real_ms(), displaced->reason, displaced->id, displaced->node);
    add_event(service, command, displaced->project, displaced->name, displaced->id, displaced->node,
              "vm.displaced", "pending", displaced->reason);
    if (devices_are_known(service)) {
        store_command_add(command,
                          "DELETE FROM machine_device WHERE machine = ?1 AND EXISTS (SELECT 1 FROM "
                          "machine WHERE id = ?1 AND node = ?2 AND desired = 'stopped')",
                          "tt", displaced->id, displaced->node);
    }
}
