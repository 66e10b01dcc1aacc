/*
 * Room that is kept on a node for machines to come.  A machine that names a reservation takes its
 * place: the reservation ends with that, as it does when it expires.
 */
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"

#include "service/placement/parts.h"

enum { MILLI = 1000 };
#define MIB         (UINT64_C(1) << 20)
#define TTL_DEFAULT 3600000
#define TTL_MAX     UINT64_C(2592000000)
#define TTL_MIN     1000
#define SWEPT_MS    UINT64_C(86400000) /* after its end; by a clock that may be ahead */

struct wanted {
    struct asked asked;
    json_t *config; /* as a machine that wants so much */
    char *id;
    uint64_t ttl_ms;
};

static void wanted_done(struct wanted *wanted)
{
    asked_done(&wanted->asked);
    json_decref(wanted->config);
    free(wanted->id);
}

static uint64_t or_else(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static int check(const struct placement_service *service, const json_t *create, uint64_t ttl_ms,
                 struct error *err)
{
    const char *name = json_text(create, "name");
    const char *node = json_text(create, "node");
    if (!service_is_known(service)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "not all nodes know placement: upgrade them first");
    }
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         name);
    }
    if (node[0] != '\0' && !picture_has_node(service, node)) {
        return error_set(err, ERROR_NOT_FOUND, "there is no node %.80s", node);
    }
    return error_check_range("ttl_ms", ttl_ms, TTL_MIN, TTL_MAX, err);
}

static int take_wanted(struct placement_service *service, const char *project, const json_t *create,
                       struct wanted *wanted, struct error *err)
{
    const char *name = json_text(create, "name");
    const char *node = json_text(create, "node");
    const json_t *constraints = json_object_get(create, "constraints");
    wanted->ttl_ms = or_else(json_u64(create, "ttl_ms"), TTL_DEFAULT);
    wanted->config =
        json_pack("{s:I, s:I, s:I}", "cpus", (json_int_t)or_else(json_u64(create, "cpus"), 1),
                  "memory_bytes", (json_int_t)or_else(json_u64(create, "memory_bytes"), 256 * MIB),
                  "disk_bytes", (json_int_t)json_u64(create, "disk_bytes"));
    if (json_array_size(constraints) > 0) {
        json_object_set_new(wanted->config, "constraints", json_deep_copy(constraints));
    }
    wanted->id = asked_reservation_id(project, name);
    const struct asked_of of = {.project = project,
                                .name = name,
                                .config = wanted->config,
                                .bound = node[0] != '\0' ? node : NULL};
    int r = check(service, create, wanted->ttl_ms, err);
    r = r < 0 ? r : asked_init(&wanted->asked, service, &of, err);
    if (r == 0) {
        wanted->asked.request.id = wanted->id;
        wanted->asked.request.may_displace = false;
        wanted->asked.request.job = NULL;
    }
    return r;
}

static void propose(struct placement_service *service, const char *project, const char *name,
                    const struct wanted *wanted, const char *node, placement_done *done,
                    void *context)
{
    const uint64_t *amounts = wanted->asked.request.demand.amounts.of;
    uint64_t now_ms = clock_real_ms();
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *exists = memory_format("there is a reservation %s already", name);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", project, now_ms);
    store_command_add(command,
                      "DELETE FROM placement_reservation WHERE expires_ms <= iif(key = ?1, ?2, ?3)",
                      "tuu", key, now_ms, now_ms - SWEPT_MS);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO placement_reservation (key, project, name, node, cpu_millis, memory_bytes, "
        "disk_bytes, expires_ms, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
        "?10 WHERE NOT EXISTS (SELECT 1 FROM placement_reservation WHERE key = ?1)",
        "ttttuuuuur", key, project, name, node, amounts[PLACEMENT_CPU_MILLI],
        amounts[PLACEMENT_MEMORY], amounts[PLACEMENT_DISK], now_ms + wanted->ttl_ms, now_ms);
    store_propose(service->options.store, command, done, context);
}

void placement_service_reserve(struct placement_service *service, const char *project,
                               const json_t *create, placement_done *done, void *context)
{
    struct wanted *wanted = NEW(struct wanted);
    struct placement_decision decision = {0};
    struct error err = {0};
    picture_update(service);
    int r = take_wanted(service, project, create, wanted, &err);
    r = r < 0 ? r : measured_decide(service, &wanted->asked, project, &decision, &err);
    if (r == 0 && !decision.is_placed) {
        r = error_set(&err, ERROR_LIMIT, "there is no such room: %s", decision.reason);
    }
    if (r < 0) {
        answer_later(service, &err, done, context);
    } else {
        propose(service, project, json_text(create, "name"), wanted, decision.node_name, done,
                context);
    }
    placement_decision_done(&decision);
    wanted_done(wanted);
    free(wanted);
}

void placement_service_release(struct placement_service *service, const char *project,
                               const char *name, placement_done *done, void *context)
{
    struct error err = {0};
    if (!service_is_known(service)) {
        error_set(&err, ERROR_NOT_FOUND, "there is no reservation %.64s", name);
        answer_later(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    MEMORY_OWNED char *missing = memory_format(
        "there is no reservation %.64s in project %s; see `blixard placement list --reservations`",
        name, project);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, missing,
                                "DELETE FROM placement_reservation WHERE key = ?", "t", key);
    store_propose(service->options.store, command, done, context);
}
