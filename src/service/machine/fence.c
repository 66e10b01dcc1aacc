/*
 * Fencing: machines that start elsewhere when their node is lost (node_loss restart-fresh) must not
 * run here any more by then, whatever became of this daemon.
 *
 * A file beside each VMM says until when it may run (hypervisor_set_lease()); its monitor ends it
 * then.  While this node has a lease of the cluster the daemon writes that lease's end and
 * CLUSTER_FENCE_MS, twice a second; the leader moves nothing before that, and a margin, have gone
 * by.  Without a lease no such machine is started.  Other machines are never started elsewhere, and
 * have no end.
 *
 * A node that is back may find that one of its machines is another node's, or was given up: what
 * runs of it here is ended, and its disk is kept in FOLDER/replaced, because nobody else has what
 * was written to it.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/machine/parts.h"

enum { RENEW_MS = 500 };

struct fence {
    struct machine_service *service;
    struct loop_timer *timer;
    struct cluster_listener *listener;
};

bool fence_is_on(const json_t *config)
{
    return strcmp(json_text(config, "node_loss"), "restart-fresh") == 0;
}

/* ---- Leases ---- */

static uint64_t lease_of(const struct machine *machine)
{
    const struct cluster *cluster = machine->service->options.cluster;
    if (cluster == NULL || (!fence_is_on(machine->config) && !machine->is_fenced_ahead)) {
        return HYPERVISOR_NO_LEASE;
    }
    uint64_t until_ms = cluster_owns_until(cluster);
    return until_ms > HYPERVISOR_NO_LEASE - CLUSTER_FENCE_MS ? HYPERVISOR_NO_LEASE
        : until_ms == 0                                      ? 0
                                                             : until_ms + CLUSTER_FENCE_MS;
}

static void write_lease(struct machine *machine)
{
    struct error err = {0};
    uint64_t until_ms = lease_of(machine);
    if (until_ms == 0 || until_ms == machine->lease_ms) {
        return; /* since this start there was none: what was written before holds */
    }
    if (hypervisor_set_lease(machine->folder, until_ms, &err) < 0) {
        log_warn("machine %s: its lease: %s", machine->key, err.text);
    } else {
        machine->lease_ms = until_ms;
    }
}

static void on_timer(void *context)
{
    struct fence *fence = context;
    loop_timer_start(fence->timer, RENEW_MS);
    LIST_EACH(node, &fence->service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        bool runs = machine->vm != NULL || machine_state_is_alive(machine->state);
        /* A monitor of an older Blixard has none, and must not seem to. */
        if (runs && !machine->is_gone && hypervisor_has_lease(machine->folder)) {
            write_lease(machine);
        }
    }
}

static void on_lease(bool holds, void *context)
{
    const struct fence *fence = context;
    if (holds) {
        LIST_EACH(node, &fence->service->machines)
        {
            struct machine *machine = LIST_ITEM(node, struct machine, link);
            if (machine->is_waiting) {
                machine_step(machine);
            }
        }
    }
}

/* The lease has an index which is applied, so that its row says by now whose it is. */
bool fence_waits(const struct machine *machine, char *ret_reason, size_t size)
{
    const struct machine_service *service = machine->service;
    struct error ignored = {0};
    bool is_ours = false;
    if (!fence_is_on(machine->config) || service->options.cluster == NULL) {
        return false;
    }
    store_query(service->options.store, &ignored, store_take_any, &is_ours,
                "SELECT 1 FROM machine WHERE id = ? AND node = ?", "tt", machine->id,
                service->node_name);
    if (is_ours && cluster_is_owner(service->options.cluster)) {
        return false;
    }
    snprintf(ret_reason, size,
             "it waits for the cluster: this node is cut off, and it may run elsewhere");
    return true;
}

void fence_prepare(struct machine *machine)
{
    machine->lease_ms = 0;
    machine->is_fenced_ahead = false;
    write_lease(machine);
}

/* Before it is proposed: this node may be cut off before it sees that its row says so. */
int fence_check_change(struct machine *machine, const json_t *config, struct error *err)
{
    bool runs = machine_state_is_alive(machine->state);
    if (!runs || !fence_is_on(config)) {
        return 0;
    }
    if (hypervisor_has_lease(machine->folder)) {
        machine->is_fenced_ahead = true;
        write_lease(machine);
        return 0;
    }
    return error_set(
        err, ERROR_CONFLICT,
        "machine %s was started by an older Blixard, which cannot end it when its node "
        "is cut off: restart it first",
        machine->name);
}

/* ---- What is not this node's any more ---- */

struct leaving {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
    bool is_kept;
    struct error error;
};

static bool take_node(sqlite3_stmt *row, void *context)
{
    snprintf(context, 64, "%.63s", store_text(row, 0));
    return false;
}

/* One without a row was given up, unless its folder went before it. */
static bool was_lost(const struct machine_service *service, const char *id)
{
    char node[64] = "-"; /* no name: there is no row */
    struct error ignored = {0};
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, id);
    MEMORY_OWNED char *mark = memory_format("%s/" MIGRATION_MARK, folder);
    return store_query(service->options.store, &ignored, take_node, node,
                       "SELECT node FROM machine WHERE id = ?", "t", id) == 0 &&
        node[0] != '\0' && strcmp(node, service->node_name) != 0 && file_exists(folder) &&
        !file_exists(mark);
}

static void put_away(void *context)
{
    struct leaving *leaving = context;
    const struct machine_service *service = leaving->service;
    struct error *err = &leaving->error;
    MEMORY_OWNED char *folder = memory_format("%s/%s", service->folder, leaving->id);
    MEMORY_OWNED char *kept = memory_format("%s/replaced", service->folder);
    MEMORY_OWNED char *path =
        memory_format("%s/%s-%" PRIu64, kept, leaving->id, clock_real_ms() / 1000);
    hypervisor_end(folder);
    if (file_make_folder(kept, 0700, err) < 0) {
        return;
    }
    leaving->is_kept = rename(folder, path) == 0;
    if (!leaving->is_kept && errno != ENOENT) {
        error_os(err, errno, "moving %s away", folder);
    }
}

static void on_put_away(void *context)
{
    struct leaving *leaving = context;
    leaving->service->pending--;
    if (leaving->error.kind != ERROR_NONE) {
        log_error("machine %s is not this node's any more: %s", leaving->id, leaving->error.text);
    } else if (leaving->is_kept) {
        log_warn("machine %s is not this node's any more: what ran of it here has ended, and its "
                 "disk is kept in %s/replaced",
                 leaving->id, leaving->service->folder);
    }
    free(leaving);
}

static void leave(struct machine_service *service, const char *id)
{
    struct leaving *leaving = NEW(struct leaving);
    leaving->service = service;
    snprintf(leaving->id, sizeof(leaving->id), "%s", id);
    service->pending++;
    loop_work(service->options.loop, put_away, on_put_away, leaving);
}

void fence_leave(struct machine *machine)
{
    if (was_lost(machine->service, machine->id)) {
        leave(machine->service, machine->id);
    }
}

static bool is_id(const char *name)
{
    return strlen(name) == MACHINE_ID_SIZE - 1 &&
        strspn(name, "0123456789abcdef") == MACHINE_ID_SIZE - 1;
}

/* At the start, once the state is known to be as new as any: an old row names an old node. */
static void on_current(const struct error *error, void *context)
{
    struct machine_service *service = context;
    service->pending--;
    DIR *folder = error == NULL && !service->is_over ? opendir(service->folder) : NULL;
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (is_id(entry->d_name) && state_find_id(service, entry->d_name) == NULL &&
            was_lost(service, entry->d_name)) {
            leave(service, entry->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* ---- Life ---- */

int fence_open(struct machine_service *service, struct error *err)
{
    static const struct cluster_events events = {.on_lease = on_lease};
    struct fence *fence = NEW(struct fence);
    (void)err;
    service->fence = fence;
    fence->service = service;
    fence->timer = loop_timer_new(service->options.loop, on_timer, fence);
    if (service->options.cluster != NULL) {
        fence->listener = cluster_listen(service->options.cluster, &events, fence);
        service->pending++;
        store_barrier(service->options.store, on_current, service);
    }
    on_timer(fence);
    return 0;
}

void fence_close(struct machine_service *service)
{
    struct fence *fence = service->fence;
    if (fence->listener != NULL) {
        cluster_unlisten(fence->listener);
    }
    loop_timer_free(fence->timer);
    free(fence);
}
