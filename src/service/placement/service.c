/* Placement: life, and what changes in the state. */
#include <stdio.h>
#include <string.h>

#include "service/cluster/cluster.h"
#include "service/placement/parts.h"

static void run_posted(void *argument)
{
    struct placement_service *service = argument;
    service->is_posted = false;
    service->pending--;
    if (!service->is_over) {
        queue_run(service);
    }
}

void service_post(struct placement_service *service)
{
    if (!service->is_posted && !service->is_over) {
        service->is_posted = true;
        service->pending++;
        loop_post(service->options.loop, run_posted, service);
    }
}

struct writing {
    struct placement_service *service;
    bool *is_stale;
};

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct writing *writing = context;
    struct placement_service *service = writing->service;
    (void)index;
    service->pending--;
    if (error != NULL && !service->is_over) {
        log_info("placement: not written yet: %s", error->text);
        *writing->is_stale = true;
        loop_timer_start(service->look, PLACEMENT_RETRY_MS);
    }
    free(writing);
}

void service_write(struct placement_service *service, struct store_command *owned_command,
                   bool *is_stale)
{
    struct writing *writing = NEW(struct writing);
    writing->service = service;
    writing->is_stale = is_stale;
    service->pending++;
    store_propose(service->options.store, owned_command, on_written, writing);
}

static void on_timer(void *context)
{
    struct placement_service *service = context;
    service->are_kept_stale = true;
    queue_wake_late(service, clock_boot_ms(), clock_real_ms());
    service_post(service);
}

static void on_leaves(void *context)
{
    service_post(context);
}

/* ---- What changes ---- */

static void on_machine(struct placement_service *service, const char *key)
{
    map_set(&service->dirty, key, service);
    making_look(service, key);
    service_post(service);
}

static void on_changed(const struct store_event *event, void *context)
{
    struct placement_service *service = context;
    if (service->is_over) {
        return;
    }
    if (event->operation == 'R') {
        service->is_all_stale = true;
        service->are_nodes_stale = true;
        making_look(service, NULL);
        service_post(service);
    } else if (strcmp(event->table, "machine") == 0) {
        on_machine(service, event->key);
    } else if (strcmp(event->table, "node") == 0) {
        service->are_nodes_stale = true;
        service_post(service);
    } else if (strcmp(event->table, "machine_cpus") == 0) {
        picture_reload(service, event->key);
        service_post(service);
    } else if (strcmp(event->table, "machine_device") == 0) {
        queue_wake_all(service);
    } else if (strcmp(event->table, "machine_traffic") == 0) {
        map_set(&service->talking, event->key, service);
    } else if (strcmp(event->table, "node_peak") == 0) {
        service->are_peaks_stale = true;
        service_post(service);
    } else if (strcmp(event->table, "placement_reservation") == 0) {
        service->are_kept_stale = true;
        service_post(service);
    } else if (strcmp(event->table, "placement_hold") == 0) {
        service->are_holds_stale = true;
        service_post(service);
    } else if (strcmp(event->table, "placement_group") == 0 ||
               strcmp(event->table, "placement_strategy") == 0) {
        queue_wake_all(service);
    }
}

static void on_view(void *context)
{
    struct placement_service *service = context;
    service->are_nodes_stale = true;
    service_post(service);
}

/* The queue may be this node's now. */
static void on_lease(bool holds, void *context)
{
    if (holds) {
        queue_wake_all(context);
    }
}

/* ---- Life ---- */

int placement_service_new(const struct placement_service_options *options,
                          struct placement_service **ret_service, struct error *err)
{
    static const struct cluster_events events = {.on_view = on_view, .on_lease = on_lease};
    struct placement_service *service = NEW(struct placement_service);
    (void)err;
    service->options = *options;
    service->node_name = memory_copy_string(options->node_name);
    service->cluster = placement_cluster_new();
    list_init(&service->waiting);
    list_init(&service->making);
    list_init(&service->moving);
    service->drove_away = true;
    service->is_all_stale = true;
    service->are_nodes_stale = true;
    service->timer = loop_timer_new(options->loop, on_timer, service);
    service->look = loop_timer_new(options->loop, on_view, service);
    service->leaves = loop_timer_new(options->loop, on_leaves, service);
    service->watch = store_watch_new(options->store, NULL, on_changed, service);
    service->listener = cluster_listen(options->cluster, &events, service);
    service_post(service);
    *ret_service = service;
    return 0;
}

void placement_service_free(struct placement_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    cluster_unlisten(service->listener);
    store_watch_free(service->watch);
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    making_abandon(service);
    queue_abandon(service);
    loop_timer_free(service->timer);
    loop_timer_free(service->look);
    loop_timer_free(service->leaves);
    picture_done(service);
    free(service->node_name);
    free(service->room);
    free(service);
}

/* ---- Answers that come later ---- */

struct answer {
    struct placement_service *service;
    struct error error;
    placement_done *done;
    placement_begun *begun;
    void *context;
};

static void on_answer(void *argument)
{
    struct answer *answer = argument;
    answer->service->pending--;
    if (answer->begun != NULL) {
        answer->begun(&answer->error, NULL, answer->context);
    } else {
        answer->done(&answer->error, 0, answer->context);
    }
    free(answer);
}

static void post_answer(struct placement_service *service, const struct error *error,
                        placement_done *done, placement_begun *begun, void *context)
{
    struct answer *answer = NEW(struct answer);
    *answer = (struct answer){service, *error, done, begun, context};
    service->pending++;
    loop_post(service->options.loop, on_answer, answer);
}

void answer_later(struct placement_service *service, const struct error *error,
                  placement_done *done, void *context)
{
    post_answer(service, error, done, NULL, context);
}

void answer_begun_later(struct placement_service *service, const struct error *error,
                        placement_begun *done, void *context)
{
    post_answer(service, error, NULL, done, context);
}
