/* Networks: life, and the passes that make this node as the state says.  See network.h. */
#include "service/network/network.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/network/parts.h"

enum { RETRY_MS = 5000 };

/* ---- What can be done ---- */

int network_check_schema(const struct network_service *service, struct error *err)
{
    return store_schema_now(service->options.store) >= NETWORK_SCHEMA
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "there can be networks once every node of the cluster has this version of "
                    "Blixard");
}

int network_check_here(struct network_service *service, struct error *err)
{
    const struct net_probe *probe = &service->probe;
    if (!service->is_probed) {
        net_probe(&service->probe);
        service->is_probed = true;
    }
    return probe->can_link && probe->can_tap && probe->can_rules
        ? 0
        : error_set(err, ERROR_UNSUPPORTED, "node %s cannot make networks: %.250s",
                    service->node_name, probe->problem);
}

/* ---- Answers that come later ---- */

struct answer {
    struct network_service *service;
    struct error error;
    network_done *done;
    void *context;
};

static void on_answer(void *argument)
{
    struct answer *answer = argument;
    answer->service->pending--;
    answer->done(&answer->error, 0, answer->context);
    free(answer);
}

void network_answer(struct network_service *service, const struct error *error, network_done *done,
                    void *context)
{
    struct answer *answer = NEW(struct answer);
    *answer = (struct answer){service, *error, done, context};
    service->pending++;
    loop_post(service->options.loop, on_answer, answer);
}

/* ---- Those who wait for a pass ---- */

struct settling {
    struct list_node link;
    char machine[20];
    network_settled *done;
    void *context;
};

static void tell(const struct plan *plan, const struct settling *settling)
{
    const struct error *error = plan->error.kind != ERROR_NONE ? &plan->error : NULL;
    for (size_t i = 0; i < plan->port_count && error == NULL; i++) {
        const struct plan_port *port = &plan->ports[i];
        const struct plan_segment *segment = &plan->segments[port->segment];
        if (strcmp(port->machine, settling->machine) != 0) {
            continue;
        }
        error = port->error.kind != ERROR_NONE  ? &port->error
            : segment->error.kind != ERROR_NONE ? &segment->error
                                                : NULL;
    }
    settling->done(error, settling->context);
}

static void move_all(struct list *from, struct list *to)
{
    while (!list_is_empty(from)) {
        struct list_node *node = from->head.next;
        list_remove(node);
        list_push_back(to, node);
    }
}

static void tell_all(struct list *list, const struct plan *plan)
{
    struct list told;
    list_init(&told);
    move_all(list, &told);
    while (!list_is_empty(&told)) {
        struct settling *settling = LIST_ITEM(told.head.next, struct settling, link);
        list_remove(&settling->link);
        tell(plan, settling);
        free(settling);
    }
}

void network_settle(struct network_service *service, const char *machine_id, network_settled *done,
                    void *context)
{
    struct settling *settling = NEW(struct settling);
    settling->done = done;
    settling->context = context;
    snprintf(settling->machine, sizeof(settling->machine), "%s", machine_id);
    list_push_back(&service->waiting, &settling->link);
    network_reconcile(service);
}

/* ---- Passes ---- */

static void complain(const struct plan *plan)
{
    if (plan->error.kind != ERROR_NONE) {
        log_error("networks: %s", plan->error.text);
    }
    for (size_t i = 0; i < plan->segment_count; i++) {
        if (plan->segments[i].error.kind != ERROR_NONE) {
            log_error("network %s: %s", plan->segments[i].key, plan->segments[i].error.text);
        }
    }
    for (size_t i = 0; i < plan->port_count; i++) {
        if (plan->ports[i].error.kind != ERROR_NONE) {
            log_error("network: %s: %s", plan->ports[i].tap, plan->ports[i].error.text);
        }
    }
}

static bool has_failed(const struct plan *plan)
{
    bool failed = plan->error.kind != ERROR_NONE;
    for (size_t i = 0; i < plan->segment_count; i++) {
        failed = failed || plan->segments[i].error.kind != ERROR_NONE;
    }
    for (size_t i = 0; i < plan->port_count; i++) {
        failed = failed || plan->ports[i].error.kind != ERROR_NONE;
    }
    return failed;
}

static void work(void *context)
{
    struct network_service *service = context;
    plan_apply(service->running);
}

static void on_rules_lost(void *context)
{
    struct network_service *service = context;
    if (!service->is_over && service->applied != NULL && service->applied->segment_count > 0) {
        log_warn("network: the rules of the packet filter were deleted by somebody else; they are "
                 "applied again");
        service->flows_digest = 0; /* what counts went with them */
        network_reconcile(service);
    }
}

/* From the first network on: before, there is nothing to lose. */
static void watch_rules(struct network_service *service, const struct plan *plan)
{
    struct error err;
    if (service->rules_watch == NULL && !service->is_over && plan->segment_count > 0 &&
        net_rules_watch(service->options.loop, service->owner, on_rules_lost, service,
                        &service->rules_watch, &err) < 0) {
        log_warn("network: %s", err.text);
    }
}

static void on_passed(void *context)
{
    struct network_service *service = context;
    struct plan *plan = service->running;
    service->running = NULL;
    service->pending--;
    if (!service->is_over) {
        serve_update(service, plan);
    }
    complain(plan);
    flows_take_plan(service, plan);
    watch_rules(service, plan);
    plan_free(service->applied);
    service->applied = plan;
    tell_all(&service->passing, plan);
    if (!service->is_over && (service->is_dirty || has_failed(plan))) {
        loop_timer_start(service->timer, service->is_dirty ? 0 : RETRY_MS);
    }
}

static void pass(void *context)
{
    struct network_service *service = context;
    struct error err = {0};
    if (service->running != NULL || service->is_over) {
        return; /* on_passed() looks again */
    }
    service->is_dirty = false;
    service->running = plan_new(service, &err);
    service->running->error = err;
    service->running->is_first = service->applied == NULL;
    service->running->counts_flows = service->options.counts_flows;
    service->running->flows_digest = service->flows_digest;
    move_all(&service->waiting, &service->passing);
    service->pending++;
    loop_work(service->options.loop, work, on_passed, service);
}

/* Many changes that come at once are one pass. */
void network_reconcile(struct network_service *service)
{
    service->is_dirty = true;
    if (service->running == NULL && !service->is_over) {
        loop_timer_start(service->timer, 0);
    }
}

struct moving {
    const struct network_service *service;
    bool has_moved;
};

/* A machine that is in a network: is it where it was? */
static bool take_home(sqlite3_stmt *row, void *context)
{
    struct moving *moving = context;
    const struct plan *plan = moving->service->applied;
    const char *machine = (const char *)sqlite3_column_text(row, 0);
    const char *node = (const char *)sqlite3_column_text(row, 1);
    bool is_known = false;
    for (size_t i = 0; plan != NULL && i < plan->home_count; i++) {
        const struct plan_home *home = &plan->homes[i];
        if (strcmp(home->machine, machine) == 0) {
            is_known = true;
            moving->has_moved = moving->has_moved || home->node != hash_stable(node);
        }
    }
    if (!is_known && strcmp(node, moving->service->node_name) == 0) {
        moving->has_moved = true;
    }
    return false;
}

/* Rows of machines change often, and their node hardly ever. */
static bool has_moved(struct network_service *service, const char *key)
{
    struct moving moving = {service, false};
    struct error ignored = {0};
    if (store_schema_now(service->options.store) >= NETWORK_SCHEMA) {
        store_query(service->options.store, &ignored, take_home, &moving,
                    "SELECT id, node FROM machine WHERE key = ? AND EXISTS (SELECT 1 FROM "
                    "network_lease WHERE network_lease.machine = machine.id)",
                    "t", key);
    }
    return moving.has_moved;
}

static void on_changed(const struct store_event *event, void *context)
{
    static const char *const tables[] = {"network", "network_lease", "security_group_rule",
                                         "security_group"};
    struct network_service *service = context;
    bool matters = event->operation == 'R';
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        matters = matters || strcmp(event->table, tables[i]) == 0;
    }
    matters = matters ||
        (event->operation == 'U' && strcmp(event->table, "machine") == 0 &&
         has_moved(service, event->key));
    if (matters && !service->is_over) {
        network_reconcile(service);
    }
}

/* ---- Life ---- */

static void on_view(void *context)
{
    struct network_service *service = context;
    if (!service->is_over && service->applied != NULL && service->applied->segment_count > 0) {
        network_reconcile(service);
    }
}

int network_service_new(const struct network_options *options, struct network_service **ret_service,
                        struct error *err)
{
    static const struct cluster_events events = {.on_view = on_view};
    (void)err;
    struct network_service *service = NEW(struct network_service);
    service->options = *options;
    service->node_name = memory_copy_string(options->node_name);
    snprintf(service->owner, sizeof(service->owner), NET_OWNER "-%08x",
             (unsigned)(hash_stable(options->folder) & UINT32_MAX));
    list_init(&service->waiting);
    list_init(&service->passing);
    list_init(&service->served);
    list_init(&service->expected);
    service->timer = loop_timer_new(options->loop, pass, service);
    service->watch = store_watch_new(options->store, NULL, on_changed, service);
    service->listener = cluster_listen(options->cluster, &events, service);
    network_reconcile(service);
    *ret_service = service;
    return 0;
}

void network_service_free(struct network_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    store_watch_free(service->watch);
    cluster_unlisten(service->listener);
    loop_timer_free(service->timer);
    net_rules_unwatch(service->rules_watch);
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    while (!list_is_empty(&service->waiting)) {
        struct settling *settling = LIST_ITEM(service->waiting.head.next, struct settling, link);
        list_remove(&settling->link);
        free(settling);
    }
    serve_end(service);
    come_forget_all(service);
    map_done(&service->flow_marks);
    buffer_done(&service->flowed);
    plan_free(service->applied);
    free(service->node_name);
    free(service);
}
