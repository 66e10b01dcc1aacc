/* The life of the service, and looks at what this node has: see node.h. */
#include "service/node/node.h"

#include <string.h>

#include "engine/device/device.h"

#include "service/node/parts.h"

enum { LOOK_MS = 60000, OFTEN_MS = 2000, SCHEMA = 8 };

bool node_state_is_there(const struct node_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA;
}

static const struct attributes_roots roots = {"/proc", "/sys"};

static void look(void *context)
{
    struct node_service *service = context;
    BUFFER_OWNED struct buffer attributes = {0};
    attributes_write(&service->options, &roots, &service->pages, &attributes);
    cluster_set_attributes(service->options.cluster, buffer_string(&attributes));
    loop_timer_start(service->look, LOOK_MS);
}

static bool are_same(const struct node_pages *a, const struct node_pages *b)
{
    bool same = true;
    for (size_t i = 0; i < PAGES_SIZES; i++) {
        same = same && a->set_aside[i] == b->set_aside[i] && a->taken[i] == b->taken[i];
    }
    return same;
}

/* The kernel does not tell when somebody sets pages aside.  What is only seen once is a VMM that
 * begins or ends. */
static bool have_pages_changed(struct node_service *service)
{
    struct node_pages now = attributes_read_pages(&service->options, roots.sys);
    bool has_settled = are_same(&now, &service->pages_seen);
    bool have = has_settled && !are_same(&now, &service->pages);
    service->pages_seen = now;
    service->pages = have ? now : service->pages;
    return have;
}

static bool has_usb_changed(struct node_service *service)
{
    BUFFER_OWNED struct buffer now = {0};
    attributes_write_usb(&service->options, roots.sys, &now);
    bool has = strcmp(buffer_string(&now), buffer_string(&service->usb)) != 0;
    buffer_done(&service->usb);
    service->usb = now;
    now = (struct buffer){0};
    return has;
}

static void look_often(void *context)
{
    struct node_service *service = context;
    bool have_pages = have_pages_changed(service);
    if (has_usb_changed(service) || have_pages) {
        look(service);
    }
    loop_timer_start(service->look_often, OFTEN_MS);
}

/* ---- Writing ---- */

struct proposal {
    struct node_service *service;
    const char *what;
};

static void on_proposed(const struct error *error, uint64_t index, void *context)
{
    struct proposal *proposal = context;
    (void)index;
    proposal->service->pending--;
    if (error != NULL) {
        log_warn("%s could not be written: %s", proposal->what, error->text);
    }
    if (!proposal->service->is_over) {
        node_step_soon(proposal->service);
    }
    free(proposal);
}

void node_propose(struct node_service *service, struct store_command *owned_command,
                  const char *what)
{
    struct proposal *proposal = NEW(struct proposal);
    *proposal = (struct proposal){service, what};
    service->pending++;
    store_propose(service->options.store, owned_command, on_proposed, proposal);
}

/* ---- Steps ---- */

static void on_step(void *context)
{
    struct node_service *service = context;
    moves_step(service);
    drains_resume(service);
    drains_step(service);
}

void node_step_soon(struct node_service *service)
{
    loop_timer_start(service->step, 0);
}

static void on_change(const struct store_event *event, void *context)
{
    struct node_service *service = context;
    bool is_ours = event->operation == 'R' || strcmp(event->table, "machine_move") == 0 ||
        strcmp(event->table, "node") == 0 || strcmp(event->table, "node_window") == 0 ||
        (service->has_moves && strcmp(event->table, "machine") == 0);
    if (is_ours && !service->is_over) {
        node_step_soon(service);
        windows_look_soon(service);
    }
}

static void on_rebalance(void *context)
{
    struct node_service *service = context;
    rebalance_tick(service);
    loop_timer_start(service->rebalance, service->options.rebalance_every_ms);
}

int node_service_new(const struct node_options *options, struct node_service **ret_service,
                     struct error *err)
{
    if (options->devices != NULL && device_check_offered(options->devices, err) < 0) {
        return -(int)err->kind;
    }
    struct node_service *service = NEW(struct node_service);
    service->options = *options;
    service->node_name = memory_copy_string(options->node_name);
    service->options.node_name = service->node_name;
    list_init(&service->moves);
    list_init(&service->drains);
    service->look = loop_timer_new(options->loop, look, service);
    service->look_often = loop_timer_new(options->loop, look_often, service);
    service->step = loop_timer_new(options->loop, on_step, service);
    service->watch = store_watch_new(options->store, NULL, on_change, service);
    loss_open(service);
    windows_open(service);
    service->rebalance = loop_timer_new(options->loop, on_rebalance, service);
    if (options->rebalance_every_ms > 0) {
        loop_timer_start(service->rebalance, options->rebalance_every_ms);
    }
    service->pages_seen = attributes_read_pages(options, roots.sys);
    service->pages.set_aside[0] = service->pages_seen.set_aside[0];
    service->pages.set_aside[1] = service->pages_seen.set_aside[1];
    attributes_write_usb(options, roots.sys, &service->usb);
    look(service);
    loop_timer_start(service->look_often, OFTEN_MS);
    node_step_soon(service);
    *ret_service = service;
    return 0;
}

void node_service_free(struct node_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    store_watch_free(service->watch);
    loss_close(service);
    windows_close(service);
    store_settle(service->options.store);
    while (service->pending > 0) {
        uv_run(loop_uv(service->options.loop), UV_RUN_ONCE);
    }
    moves_abandon(service);
    drains_abandon(service);
    loop_timer_free(service->rebalance);
    loop_timer_free(service->look);
    loop_timer_free(service->look_often);
    loop_timer_free(service->step);
    buffer_done(&service->usb);
    free(service->node_name);
    free(service);
}
