/* Life of the service, what it hears of, who waits, and what is cleared away. */
#include "service/invocation/invocation.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/invocation/parts.h"

enum { SWEEP_MS = 2000 };

static const char ended_text[] = "the invocation has ended already";

struct invocation_wait {
    struct list_node link;
    struct invocation_service *service;
    char id[INVOCATION_ID_SIZE];
    struct loop_timer *timer;
    bool is_over;
    void (*done)(void *context);
    void *context;
};

uint64_t own_node(const struct invocation_service *service)
{
    struct store_status status;
    store_status(service->options.store, &status);
    return status.node_id > 0 ? status.node_id : 1;
}

/* ---- Passes ---- */

static void pass_posted(void *argument)
{
    struct invocation_service *service = argument;
    service->pass_is_posted = false;
    run_pass(service);
    notice_pass(service);
}

void pass_soon(struct invocation_service *service)
{
    if (!service->pass_is_posted && !service->is_stopping) {
        service->pass_is_posted = true;
        loop_post(service->options.loop, pass_posted, service);
    }
}

static void on_notice(const struct store_event *event, void *context)
{
    if (event->operation == 'I' || event->operation == 'R') {
        pass_soon(context);
    }
}

static void on_timer(void *context)
{
    run_pass(context);
}

/* ---- Waiting ---- */

static void finish_wait(struct invocation_wait *wait)
{
    void (*done)(void *context) = wait->done;
    void *context = wait->context;
    list_remove(&wait->link);
    loop_timer_stop(wait->timer);
    done(context);
}

static void on_wait_timer(void *context)
{
    finish_wait(context);
}

static void waits_posted(void *argument)
{
    struct invocation_service *service = argument;
    service->waits_posted = false;
    LIST_EACH(node, &service->waits)
    {
        struct invocation_wait *wait = LIST_ITEM(node, struct invocation_wait, link);
        if (wait->is_over) {
            finish_wait(wait);
        }
    }
}

struct row {
    bool exists;
    bool is_live;
    bool is_pending;
    bool is_running;
    uint64_t owner;
    uint64_t epoch;
};

static bool take_row(sqlite3_stmt *statement, void *context)
{
    const char *state = (const char *)sqlite3_column_text(statement, 0);
    bool is_pending = strcmp(state, "pending") == 0;
    bool is_running = strcmp(state, "running") == 0;
    *(struct row *)context = (struct row){
        .exists = true,
        .is_live = is_pending || is_running,
        .is_pending = is_pending,
        .is_running = is_running,
        .owner = (uint64_t)sqlite3_column_int64(statement, 1),
        .epoch = (uint64_t)sqlite3_column_int64(statement, 2),
    };
    return false;
}

static struct row row_of(struct invocation_service *service, const char *id)
{
    struct error ignored = {0};
    struct row row = {0};
    store_query(service->options.store, &ignored, take_row, &row,
                "SELECT state, owner, epoch FROM invocation WHERE key = ?", "t", id);
    return row;
}

struct invocation_wait *invocation_wait_new(struct invocation_service *service, const char *id,
                                            uint64_t timeout_ms, void (*done)(void *context),
                                            void *context)
{
    struct invocation_wait *wait = NEW(struct invocation_wait);
    wait->service = service;
    snprintf(wait->id, sizeof(wait->id), "%s", id);
    wait->done = done;
    wait->context = context;
    wait->timer = loop_timer_new(service->options.loop, on_wait_timer, wait);
    list_push_back(&service->waits, &wait->link);
    loop_timer_start(wait->timer, row_of(service, id).is_live ? timeout_ms : 0);
    return wait;
}

void invocation_wait_free(struct invocation_wait *wait)
{
    if (wait != NULL) {
        list_remove(&wait->link);
        loop_timer_free(wait->timer);
        free(wait);
    }
}

/* ---- Changes ---- */

static void on_row(struct invocation_service *service, const char *id)
{
    struct row row = row_of(service, id);
    struct run *run = map_get(&service->runs, id);
    if (run != NULL && run->epoch > 0 && (!row.is_running || row.epoch != run->epoch)) {
        run_stop(run); /* cancelled, or given to another node */
    }
    if (row.is_pending) {
        pass_soon(service);
    }
    LIST_EACH(node, &service->waits)
    {
        struct invocation_wait *wait = LIST_ITEM(node, struct invocation_wait, link);
        wait->is_over |= !row.is_live && strcmp(wait->id, id) == 0;
        if (wait->is_over && !service->waits_posted) {
            service->waits_posted = true;
            loop_post(service->options.loop, waits_posted, service);
        }
    }
}

struct names {
    char (*ids)[INVOCATION_ID_SIZE];
    size_t count;
};

static void add_name(struct names *names, const char *id)
{
    names->ids = memory_resize(names->ids, (names->count + 1) * sizeof(*names->ids));
    snprintf(names->ids[names->count++], INVOCATION_ID_SIZE, "%s", id);
}

static void add_run(const char *key, void *value, void *context)
{
    (void)value;
    add_name(context, key);
}

static void on_changed(const struct store_event *event, void *context)
{
    struct invocation_service *service = context;
    if (event->operation != 'R') {
        on_row(service, event->key);
        return;
    }
    struct names names = {0};
    map_each(&service->runs, add_run, &names);
    LIST_EACH(node, &service->waits)
    {
        add_name(&names, LIST_ITEM(node, struct invocation_wait, link)->id);
    }
    for (size_t i = 0; i < names.count; i++) {
        on_row(service, names.ids[i]);
    }
    free(names.ids);
    pass_soon(service);
}

/* ---- What nobody runs any more ---- */

struct lost {
    struct invocation_service *service;
    struct names names;
    uint64_t owners[64];
    size_t owner_count;
};

static bool take_owner(sqlite3_stmt *row, void *context)
{
    struct lost *lost = context;
    lost->owners[lost->owner_count++] = (uint64_t)sqlite3_column_int64(row, 0);
    return lost->owner_count < sizeof(lost->owners) / sizeof(lost->owners[0]);
}

static bool take_own(sqlite3_stmt *row, void *context)
{
    struct lost *lost = context;
    const char *id = (const char *)sqlite3_column_text(row, 0);
    if (map_get(&lost->service->runs, id) == NULL) {
        add_name(&lost->names, id);
    }
    return lost->names.count < INVOCATION_SWEEP;
}

#define GIVE_BACK                                                                               \
    "UPDATE invocation SET state = 'pending', owner = 0, due_ms = ?, updated_ms = ?, revision " \
    "= ? WHERE state = 'running' AND owner = ?"

/* Of an earlier life of this node, or whose end could not be written. */
static void give_back_own(struct invocation_service *service)
{
    struct error ignored = {0};
    struct lost lost = {.service = service};
    uint64_t now_ms = clock_real_ms();
    uint64_t node = own_node(service);
    store_query(service->options.store, &ignored, take_own, &lost,
                "SELECT key FROM invocation WHERE state = 'running' AND owner = ?", "u", node);
    if (lost.names.count > 0) {
        struct store_command *command = store_command_new();
        for (size_t i = 0; i < lost.names.count; i++) {
            store_command_add(command, GIVE_BACK " AND key = ?", "uurut", now_ms, now_ms, node,
                              lost.names.ids[i]);
        }
        store_propose(service->options.store, command, NULL, NULL);
    }
    free(lost.names.ids);
}

/* On the leader: may what node `id` has be given to others?  One that is not among the nodes is
 * gone for good, or has another id by now. */
static bool is_gone(struct invocation_service *service, uint64_t id, uint64_t *ret_reign)
{
    struct error ignored = {0};
    bool is_known = false;
    store_query(service->options.store, &ignored, store_take_any, &is_known,
                "SELECT 1 FROM node WHERE id = ?", "u", id);
    *ret_reign = 0;
    if (!is_known) {
        return true;
    }
    return service->options.cluster != NULL &&
        cluster_may_move(service->options.cluster, id, ret_reign);
}

static void give_back_others(struct invocation_service *service)
{
    struct error ignored = {0};
    struct lost lost = {.service = service};
    struct store_status status;
    store_status(service->options.store, &status);
    if (!status.is_leader) {
        return;
    }
    store_query(service->options.store, &ignored, take_owner, &lost,
                "SELECT DISTINCT owner FROM invocation WHERE state = 'running' AND owner <> ?", "u",
                own_node(service));
    for (size_t i = 0; i < lost.owner_count; i++) {
        uint64_t reign = 0;
        uint64_t now_ms = clock_real_ms();
        if (!is_gone(service, lost.owners[i], &reign)) {
            continue;
        }
        struct store_command *command = store_command_new();
        if (reign != 0) {
            store_command_add_expecting(command, ERROR_CONFLICT, "another node leads by now",
                                        "UPDATE cluster SET reign = reign WHERE reign = ?", "u",
                                        reign);
        }
        store_command_add(command, GIVE_BACK, "uuru", now_ms, now_ms, lost.owners[i]);
        store_propose(service->options.store, command, NULL, NULL);
        log_info("invocations of a node that is lost go on elsewhere");
    }
}

/* ---- Clearing away ---- */

static void clear_old(struct invocation_service *service);

static void on_cleared(const struct error *error, uint64_t index, void *context)
{
    struct invocation_service *service = context;
    (void)index;
    service->is_clearing = false;
    if (error == NULL && !service->is_stopping) {
        clear_old(service); /* otherwise the next sweep goes on */
    }
}

/* As many at a time as do not hold up others' commands, one command after the other. */
static void clear_old(struct invocation_service *service)
{
    struct error ignored = {0};
    bool is_old = false;
    bool is_many = false;
    uint64_t now_ms = clock_real_ms();
    store_query(service->options.store, &ignored, store_take_any, &is_old,
                "SELECT 1 FROM invocation WHERE expires_ms IS NOT NULL AND expires_ms < ? LIMIT 1",
                "u", now_ms);
    store_query(service->options.store, &ignored, store_take_any, &is_many,
                "SELECT 1 FROM invocation WHERE expires_ms IS NOT NULL LIMIT 1 OFFSET ?", "u",
                (uint64_t)INVOCATION_KEPT_MAX);
    if (is_old || is_many) {
        struct store_command *command = store_command_new();
        store_command_add(command,
                          "DELETE FROM invocation WHERE key IN (SELECT key FROM invocation WHERE "
                          "expires_ms IS NOT NULL AND (expires_ms < ? OR ?) ORDER BY expires_ms "
                          "LIMIT ?)",
                          "uuu", now_ms, (uint64_t)is_many, (uint64_t)INVOCATION_SWEEP);
        service->is_clearing = true;
        store_propose(service->options.store, command, on_cleared, service);
    }
}

static void on_sweep(void *context)
{
    struct invocation_service *service = context;
    struct cluster *cluster = service->options.cluster;
    loop_timer_start(service->sweep, SWEEP_MS);
    if (store_schema_now(service->options.store) < 4) {
        return; /* there are none yet */
    }
    give_back_own(service);
    give_back_others(service);
    notice_pass(service);
    bool is_owner = cluster == NULL || cluster_owns(cluster, "invocation/sweep");
    if (is_owner && !service->is_clearing) {
        clear_old(service);
    }
}

static void on_view(void *context)
{
    pass_soon(context);
}

static void on_lease(bool holds, void *context)
{
    if (holds) {
        pass_soon(context);
    }
}

static void on_lost(uint64_t id, void *context)
{
    (void)id;
    give_back_others(context);
}

/* ---- Cancelling, trying again ---- */

struct change {
    struct invocation_service *service;
    struct error error;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void on_change(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    (void)index;
    change->done(error, change->context);
    free(change);
}

static void change_failed(void *argument)
{
    struct change *change = argument;
    on_change(&change->error, 0, change);
}

static bool is_of_project(struct invocation_service *service, const char *project, const char *id)
{
    struct error ignored = {0};
    bool found = false;
    store_query(service->options.store, &ignored, store_take_any, &found,
                "SELECT 1 FROM invocation WHERE key = ? AND project = ?", "tt", id, project);
    return found;
}

/* NULL: it is told that there is no such invocation. */
static struct change *change_new(struct invocation_service *service, const char *project,
                                 const char *id,
                                 void (*done)(const struct error *error, void *context),
                                 void *context)
{
    struct change *change = NEW(struct change);
    change->service = service;
    change->done = done;
    change->context = context;
    if (is_of_project(service, project, id)) {
        return change;
    }
    error_set(&change->error, ERROR_NOT_FOUND,
              "there is no invocation %.80s (results are kept for a time only)", id);
    loop_post(service->options.loop, change_failed, change);
    return NULL;
}

void invocation_cancel(struct invocation_service *service, const char *project, const char *id,
                       void (*done)(const struct error *error, void *context), void *context)
{
    struct change *change = change_new(service, project, id, done, context);
    uint64_t now_ms = clock_real_ms();
    if (change == NULL) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, ended_text,
        "UPDATE invocation SET state = 'cancelled', owner = 0, expires_ms = ?, updated_ms = ?, "
        "revision = ? WHERE key = ? AND state IN ('pending', 'running')",
        "uurt", now_ms + 24 * 3600 * 1000, now_ms, id);
    store_command_add(command,
                      "UPDATE invocation_load SET live = live - 1, bytes = bytes - (SELECT size "
                      "FROM invocation WHERE key = ?) WHERE project = ?",
                      "tt", id, project);
    store_propose(service->options.store, command, on_change, change);
}

struct age {
    uint64_t max_age_ms;
};

static bool take_age(sqlite3_stmt *row, void *context)
{
    struct function_policy policy;
    policy_read((const char *)sqlite3_column_text(row, 0), &policy);
    ((struct age *)context)->max_age_ms = policy.max_age_ms;
    return false;
}

void invocation_redrive(struct invocation_service *service, const char *project, const char *id,
                        void (*done)(const struct error *error, void *context), void *context)
{
    struct change *change = change_new(service, project, id, done, context);
    struct error ignored = {0};
    struct age age = {0};
    uint64_t now_ms = clock_real_ms();
    if (change == NULL) {
        return;
    }
    store_query(service->options.store, &ignored, take_age, &age,
                "SELECT policy FROM invocation WHERE key = ?", "t", id);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "only invocations that have failed or expired can be redriven",
        "UPDATE invocation SET state = 'pending', attempts = 0, due_ms = ?, deadline_ms = ?, error "
        "= NULL, error_code = NULL, status = NULL, fields = NULL, answer = NULL, expires_ms = "
        "NULL, updated_ms = ?, revision = ? WHERE key = ? AND state IN ('failed', 'expired')",
        "uuurt", now_ms, now_ms + age.max_age_ms, now_ms, id);
    store_command_add_expecting(
        command, ERROR_LIMIT,
        "the project has as many invocations waiting as it may; try again when some have ended",
        "UPDATE invocation_load SET live = live + 1, bytes = bytes + (SELECT size FROM invocation "
        "WHERE key = ?) WHERE project = ? AND live < ?",
        "ttu", id, project, (uint64_t)INVOCATION_LIVE_MAX);
    store_propose(service->options.store, command, on_change, change);
}

/* ---- Life ---- */

int invocation_service_new(const struct invocation_options *options,
                           struct invocation_service **ret_service, struct error *err)
{
    static const struct cluster_events events = {
        .on_view = on_view, .on_lease = on_lease, .on_lost = on_lost};
    struct invocation_service *service = NEW(struct invocation_service);
    (void)err;
    service->options = *options;
    list_init(&service->waits);
    service->timer = loop_timer_new(options->loop, on_timer, service);
    service->sweep = loop_timer_new(options->loop, on_sweep, service);
    service->watch = store_watch_new(options->store, "invocation", on_changed, service);
    service->notice_watch =
        store_watch_new(options->store, "invocation_notice", on_notice, service);
    if (options->cluster != NULL) {
        service->listener = cluster_listen(options->cluster, &events, service);
    }
    loop_timer_start(service->sweep, 0); /* what an earlier life has left */
    pass_soon(service);
    *ret_service = service;
    return 0;
}

void invocation_service_free(struct invocation_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_stopping = true;
    store_watch_free(service->watch);
    store_watch_free(service->notice_watch);
    loop_timer_free(service->timer);
    loop_timer_free(service->sweep);
    if (service->listener != NULL) {
        cluster_unlisten(service->listener);
    }
    struct names names = {0};
    map_each(&service->runs, add_run, &names);
    for (size_t i = 0; i < names.count; i++) {
        struct run *run = map_get(&service->runs, names.ids[i]);
        if (run != NULL) {
            run_stop(run);
        }
    }
    free(names.ids);
    store_settle(service->options.store);
    loop_flush(service->options.loop);
    map_done(&service->runs);
    notice_end(service);
    free(service);
}
