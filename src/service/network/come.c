/*
 * Machines that come from other nodes while they run: their ports are here before they are, and
 * everybody is told when they have come.
 *
 * The other nodes send what is for such a machine where its row says that it is; so they need no
 * announcement, but those that only one node knows (a host behind a bridge, caches of addresses in
 * guests) do.  Words get lost, and switches learn slowly: it is said some times.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/network/parts.h"

enum { WORDS = 5, WORD_EVERY_MS = 200 };

struct expected {
    struct list_node link;
    char machine[20];
};

static struct expected *find(const struct network_service *service, const char *machine_id)
{
    LIST_EACH(node, (struct list *)(uintptr_t)&service->expected)
    {
        struct expected *expected = LIST_ITEM(node, struct expected, link);
        if (strcmp(expected->machine, machine_id) == 0) {
            return expected;
        }
    }
    return NULL;
}

bool come_is_expected(const struct network_service *service, const char *machine_id)
{
    return find(service, machine_id) != NULL;
}

char *come_list(const struct network_service *service)
{
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_string(&text, " ");
    LIST_EACH(node, (struct list *)(uintptr_t)&service->expected)
    {
        buffer_append_format(&text, "%s ", LIST_ITEM(node, struct expected, link)->machine);
    }
    return memory_copy_string(buffer_string(&text));
}

static void forget(struct expected *expected)
{
    list_remove(&expected->link);
    free(expected);
}

void come_forget_all(struct network_service *service)
{
    while (!list_is_empty(&service->expected)) {
        forget(LIST_FIRST(&service->expected, struct expected, link));
    }
}

static bool has_nics(struct network_service *service, const char *machine_id)
{
    struct network_nic nics[NETWORK_NICS_MAX];
    struct error ignored = {0};
    size_t count = 0;
    return network_nics(service, machine_id, nics, &count, &ignored) == 0 && count > 0;
}

int network_check_machine(struct network_service *service, const char *machine_id,
                          struct error *err)
{
    return has_nics(service, machine_id) ? network_check_here(service, err) : 0;
}

int network_expect(struct network_service *service, const char *machine_id, bool is_expected,
                   struct error *err)
{
    struct expected *expected = find(service, machine_id);
    if (is_expected && expected == NULL && has_nics(service, machine_id)) {
        if (network_check_here(service, err) < 0) {
            return -(int)err->kind;
        }
        expected = NEW(struct expected);
        snprintf(expected->machine, sizeof(expected->machine), "%s", machine_id);
        list_push_back(&service->expected, &expected->link);
        network_reconcile(service);
    } else if (!is_expected && expected != NULL) {
        forget(expected);
        network_reconcile(service);
    }
    return 0;
}

/* ---- Here I am ---- */

struct announcing {
    struct network_service *service;
    struct loop_timer *timer;
    struct network_nic nics[NETWORK_NICS_MAX];
    char bridges[NETWORK_NICS_MAX][NET_NAME_SIZE];
    uint32_t addresses[NETWORK_NICS_MAX];
    size_t count;
    unsigned words;
    struct error error;
};

static void work(void *context)
{
    struct announcing *announcing = context;
    for (size_t i = 0; i < announcing->count; i++) {
        if (announcing->bridges[i][0] != '\0') {
            net_announce(announcing->bridges[i], announcing->nics[i].mac, announcing->addresses[i],
                         &announcing->error);
        }
    }
}

static void on_said(void *context)
{
    struct announcing *announcing = context;
    if (++announcing->words < WORDS && !announcing->service->is_over) {
        loop_timer_start(announcing->timer, WORD_EVERY_MS);
        return;
    }
    if (announcing->error.kind != ERROR_NONE) {
        log_warn("network: %s", announcing->error.text);
    }
    announcing->service->pending--;
    loop_timer_free(announcing->timer);
    free(announcing);
}

static void say(void *context)
{
    struct announcing *announcing = context;
    loop_work(announcing->service->options.loop, work, on_said, announcing);
}

static void find_bridges(struct announcing *announcing)
{
    const struct plan *plan = announcing->service->applied;
    for (size_t i = 0; i < announcing->count; i++) {
        for (size_t k = 0; plan != NULL && k < plan->port_count; k++) {
            const struct plan_port *port = &plan->ports[k];
            if (strcmp(port->tap, announcing->nics[i].tap) == 0) {
                announcing->addresses[i] = port->address;
                memcpy(announcing->bridges[i], plan->segments[port->segment].bridge, NET_NAME_SIZE);
            }
        }
    }
}

void network_announce(struct network_service *service, const char *machine_id)
{
    struct error ignored = {0};
    struct announcing *announcing = NEW(struct announcing);
    announcing->service = service;
    if (network_nics(service, machine_id, announcing->nics, &announcing->count, &ignored) < 0 ||
        announcing->count == 0) {
        free(announcing);
        return;
    }
    find_bridges(announcing);
    announcing->timer = loop_timer_new(service->options.loop, say, announcing);
    service->pending++;
    say(announcing);
}
