/* What has gone through the taps of this node's machines, as the kernel has counted it. */
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/network/parts.h"

struct counting {
    struct network_service *service;
    struct net_link *links;
    size_t count;
    network_counted *done;
    void *context;
};

static void look(void *context)
{
    struct counting *counting = context;
    struct error ignored = {0};
    net_links(counting->service->owner, &counting->links, &counting->count, &ignored);
}

static void on_looked(void *context)
{
    struct counting *counting = context;
    struct network_count *list = memory_new(counting->count + 1, sizeof(*list));
    size_t count = 0;
    for (size_t i = 0; i < counting->count; i++) {
        const struct net_link *link = &counting->links[i];
        if (link->kind == NET_TAP) {
            struct network_count *one = &list[count++];
            snprintf(one->tap, sizeof(one->tap), "%s", link->name);
            one->receive_bytes = link->receive_bytes;
            one->receive_packets = link->receive_packets;
            one->send_bytes = link->send_bytes;
            one->send_packets = link->send_packets;
            one->send_dropped = link->send_dropped;
        }
    }
    counting->service->pending--;
    counting->done(list, count, counting->context);
    free(counting->links);
    free(counting);
}

void network_count_links(struct network_service *service, network_counted *done, void *context)
{
    struct counting *counting = NEW(struct counting);
    *counting = (struct counting){.service = service, .done = done, .context = context};
    service->pending++;
    if (service->applied != NULL && service->applied->port_count > 0) {
        loop_work(service->options.loop, look, on_looked, counting);
    } else {
        loop_post(service->options.loop, on_looked, counting);
    }
}

void network_counts_free(const struct network_count *counts)
{
    free((void *)(uintptr_t)counts);
}
