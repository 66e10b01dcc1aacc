/*
 * Room that is kept on a node for machines to come.  A machine that names a reservation takes its
 * place: the reservation ends with that, as it does when it expires.
 */
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"

#include "service/machine/machine.h"
#include "service/placement/parts.h"

enum { CPUS_MAX = 4096 };
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

static uint64_t said(const json_t *create, const char *key, uint64_t otherwise)
{
    return json_is_integer(json_object_get(create, key)) ? json_u64(create, key) : otherwise;
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
    if (json_text(create, "huge_pages")[0] != '\0' && !picture_knows_kept_pages(service)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "huge_pages: not all nodes can keep them: upgrade them first");
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
    int r = error_check_range("cpus", json_u64(create, "cpus"), 0, CPUS_MAX, err);
    return r < 0 ? r : error_check_range("ttl_ms", ttl_ms, TTL_MIN, TTL_MAX, err);
}

static int take_wanted(struct placement_service *service, const char *project, const json_t *create,
                       struct wanted *wanted, struct error *err)
{
    const char *name = json_text(create, "name");
    const char *node = json_text(create, "node");
    const json_t *constraints = json_object_get(create, "constraints");
    wanted->ttl_ms = said(create, "ttl_ms", TTL_DEFAULT);
    wanted->config = json_pack("{s:I, s:I, s:I}", "cpus", (json_int_t)said(create, "cpus", 1),
                               "memory_bytes", (json_int_t)said(create, "memory_bytes", 256 * MIB),
                               "disk_bytes", (json_int_t)json_u64(create, "disk_bytes"));
    if (json_text(create, "huge_pages")[0] != '\0') {
        json_object_set_new(wanted->config, "huge_pages",
                            json_string(json_text(create, "huge_pages")));
    }
    if (json_array_size(constraints) > 0) {
        json_object_set_new(wanted->config, "constraints", json_deep_copy(constraints));
    }
    wanted->id = asked_reservation_id(project, name);
    const struct asked_of of = {.project = project,
                                .name = name,
                                .config = wanted->config,
                                .bound = node[0] != '\0' ? node : NULL};
    int r = check(service, create, wanted->ttl_ms, err);
    r = r < 0 ? r : machine_config_check_pages(wanted->config, err);
    r = r < 0 ? r : asked_init(&wanted->asked, service, &of, err);
    if (r == 0) {
        wanted->asked.request.id = wanted->id;
        wanted->asked.request.may_displace = false;
        wanted->asked.request.job = NULL;
    }
    return r;
}

/* ---- Kept where there is room; decided again where others came first ---- */

struct reserving {
    struct placement_service *service;
    char *project;
    json_t *create;
    unsigned tries;
    placement_done *done;
    void *context;
};

static void reserve(struct reserving *reserving);

static void finish(struct reserving *reserving, const struct error *error, uint64_t index)
{
    reserving->done(error, index, reserving->context);
    json_decref(reserving->create);
    free(reserving->project);
    free(reserving);
}

static void on_reserved(const struct error *error, uint64_t index, void *context)
{
    struct reserving *reserving = context;
    struct placement_service *service = reserving->service;
    bool is_beaten = error != NULL && error->kind == ERROR_CONFLICT;
    service->pending--;
    service->conflicts += is_beaten;
    if (is_beaten && reserving->tries < PLACEMENT_TRIES_MAX && !service->is_over) {
        service->retries++;
        reserve(reserving);
    } else {
        finish(reserving, error, index);
    }
}

static void on_refused(const struct error *error, uint64_t index, void *context)
{
    finish(context, error, index);
}

static void propose(struct reserving *reserving, const struct wanted *wanted, const char *node)
{
    struct placement_service *service = reserving->service;
    const char *name = json_text(reserving->create, "name");
    const uint64_t *amounts = wanted->asked.request.demand.amounts.of;
    uint64_t now_ms = clock_real_ms();
    MEMORY_OWNED char *key = memory_format("%s/%s", reserving->project, name);
    MEMORY_OWNED char *exists = memory_format("there is a reservation %s already", name);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", reserving->project, now_ms);
    store_command_add(command,
                      "DELETE FROM placement_reservation WHERE expires_ms <= iif(key = ?1, ?2, ?3)",
                      "tuu", key, now_ms, now_ms - SWEPT_MS);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO placement_reservation (key, project, name, node, cpu_millis, memory_bytes, "
        "disk_bytes, expires_ms, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, "
        "?10 WHERE NOT EXISTS (SELECT 1 FROM placement_reservation WHERE key = ?1)",
        "ttttuuuuur", key, reserving->project, name, node, amounts[PLACEMENT_CPU_MILLI],
        json_u64(wanted->config, "memory_bytes"), amounts[PLACEMENT_DISK], now_ms + wanted->ttl_ms,
        now_ms);
    if (picture_knows_kept_pages(service)) {
        store_command_add(command, "UPDATE placement_reservation SET page_bytes = ? WHERE key = ?",
                          "ut", machine_config_page_bytes(wanted->config), key);
    }
    machine_add_reservation_check(service->options.machines, command, key);
    service->pending++;
    store_propose(service->options.store, command, on_reserved, reserving);
}

static void reserve(struct reserving *reserving)
{
    struct placement_service *service = reserving->service;
    struct wanted *wanted = NEW(struct wanted);
    struct placement_decision decision = {0};
    struct error err = {0};
    reserving->tries++;
    picture_update(service);
    int r = take_wanted(service, reserving->project, reserving->create, wanted, &err);
    r = r < 0 ? r : measured_decide(service, &wanted->asked, reserving->project, &decision, &err);
    if (r == 0 && !decision.is_placed) {
        r = error_set(&err, ERROR_LIMIT, "there is no such room: %s", decision.reason);
    }
    if (r < 0) {
        answer_later(service, &err, on_refused, reserving);
    } else {
        propose(reserving, wanted, decision.node_name);
    }
    placement_decision_done(&decision);
    wanted_done(wanted);
    free(wanted);
}

void placement_service_reserve(struct placement_service *service, const char *project,
                               const json_t *create, placement_done *done, void *context)
{
    struct reserving *reserving = NEW(struct reserving);
    *reserving = (struct reserving){.service = service,
                                    .project = memory_copy_string(project),
                                    .create = json_deep_copy(create),
                                    .done = done,
                                    .context = context};
    reserve(reserving);
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
